"""Held-out templates: situations that no training template tells."""

from __future__ import annotations

from problems.drafts import (
    BOOK,
    CAN,
    CENTIMETRE,
    HOUR,
    KILOGRAM,
    KILOMETRE,
    LITRE,
    METRE,
    MINUTE,
    PERSON,
    PIECE,
    POINT,
    TICKET,
    TIMES,
    Draft,
    Noun,
)


def pipes(d: Draft) -> str:
    a, b, minutes = d.number(2, 8), d.number(2, 8), d.number(3, 12)
    rate = d.step("Each minute {} flow in.", a, "+", b, LITRE)
    d.step("It takes {}.", rate * minutes, "/", rate, MINUTE)
    return (
        f"A tank holds {rate * minutes} litres. One pipe lets in {a} litres a minute and another lets in {b} litres a "
        "minute. How many minutes does it take to fill the empty tank?"
    )


def concert(d: Draft) -> str:
    friday, price = d.number(8, 25), d.number(2, 9)
    fewer = d.number(2, friday - 3)
    saturday = d.step("On Saturday the club sells {}.", friday, "-", fewer, TICKET)
    both = d.step("On both days it sells {}.", friday, "+", saturday, TICKET)
    d.step("It takes in ${}.", both, "*", price)
    return (
        f"A club sells {friday} concert tickets on Friday and {fewer} fewer on Saturday. Each ticket costs ${price}. "
        "How many dollars does the club take in on both days?"
    )


def library(d: Draft) -> str:
    shelves, each = d.number(3, 9), d.number(5, 12)
    lent = d.number(3, shelves * each - 2)
    back = d.number(1, lent - 1)
    books = d.step("At first there are {}.", shelves, "*", each, BOOK)
    fewer = d.step("After the lending there are {}.", books, "-", lent)
    d.step("In the end there are {}.", fewer, "+", back)
    return (
        f"A school library has {shelves} shelves with {each} books each. It lends {lent} books and gets {back} of them "
        "back. How many books are in the library then?"
    )


def taxi(d: Draft) -> str:
    start, rate, far, tip = d.number(2, 6), d.number(2, 4), d.number(3, 12), d.number(1, 5)
    ride = d.step("The distance costs ${}.", rate, "*", far)
    fare = d.step("The fare is ${}.", ride, "+", start)
    d.step(f"{d.who} pays ${{}}.", fare, "+", tip)
    return (
        f"A taxi costs ${start} and another ${rate} for each kilometre. {d.who} rides {far} kilometres and gives a tip "
        f"of ${tip}. How many dollars does {d.who} pay?"
    )


def wool(d: Draft) -> str:
    scarf, hat, scarves, hats = d.number(3, 6), d.number(1, 2), d.number(2, 5), d.number(2, 5)
    owned = d.number(2, scarf * scarves)
    x = d.step("The scarves take {} balls.", scarf, "*", scarves)
    y = d.step("The hats take {} balls.", hat, "*", hats)
    both = d.step("Both take {}.", x, "+", y)
    d.step(f"{d.who} has to buy {{}}.", both, "-", owned)
    wool = Noun("ball of wool", "balls of wool")
    return (
        f"A scarf takes {wool.of(scarf)} and a hat takes {wool.of(hat)}. {d.who} wants to knit {scarves} scarves and "
        f"{hats} hats and has {wool.of(owned)}. How many more balls of wool does {d.who} have to buy?"
    )


def rope(d: Draft) -> str:
    length, pieces = d.number(2, 6), d.number(4, 12)
    used = d.number(1, pieces - 1)
    cut = d.step(f"{d.who} gets {{}}.", length * pieces, "/", length, PIECE)
    d.step(f"{d.who} has {{}} left.", cut, "-", used, PIECE)
    return (
        f"{d.who} cuts a rope of {METRE.of(length * pieces)} into pieces of {METRE.of(length)} and uses {used} of the "
        f"pieces. How many pieces does {d.who} have left?"
    )


def jigsaw(d: Draft) -> str:
    first, k, left = d.number(5, 20), d.number(2, 3), d.number(5, 40)
    second = d.step(f"In the second hour {d.who} places {{}}.", first, "*", k, PIECE)
    placed = d.step(f"{d.who} has placed {{}}.", first, "+", second, PIECE)
    d.step("The number of pieces left is {}.", placed + left, "-", placed)
    return (
        f"A jigsaw has {placed + left} pieces. {d.who} places {first} pieces in the first hour and {TIMES[k]} as many "
        "in the second hour. How many pieces are left?"
    )


def recycling(d: Draft) -> str:
    cans, dollars = d.number(2, 8), d.number(4, 12)
    first = d.number(2, cans * dollars - 2)
    both = d.step("They collect {}.", first, "+", cans * dollars - first, CAN)
    d.step("They get ${}.", both, "/", cans)
    return (
        f"A shop pays $1 for every {cans} empty cans. {d.who} collects {CAN.of(first)} and {d.other} collects "
        f"{CAN.of(cans * dollars - first)}. How many dollars do they get for all their cans?"
    )


def press(d: Draft) -> str:
    percent, n = d.percent_of_whole(20, highest=30)
    minutes = d.number(2, 10)
    made = d.step("The press prints {} posters.", n, "*", minutes)
    bad = d.percent("{} of them are spoilt.", made, percent)
    d.step("{} are good.", made, "-", bad)
    return (
        f"A press prints {n} posters a minute, and {percent}% of them are spoilt. "
        f"How many good posters come out in {minutes} minutes?"
    )


def stairs(d: Draft) -> str:
    floors, steps, trips = d.number(2, 6), d.number(8, 20), d.number(2, 4)
    once = d.step("There are {} stairs from the street to the flat.", floors, "*", steps)
    both = d.step("Up and down that makes {}.", once, "*", 2)
    d.step(f"{d.who} climbs {{}} stairs.", both, "*", trips)
    return (
        f"{d.who} carries bags to a flat {floors} floors above the street. Each floor has {steps} stairs. "
        f"{d.who} goes up and down {trips} times. How many stairs is that?"
    )


def fence(d: Draft) -> str:
    long, wide, price = d.number(6, 20), d.number(2, 5), d.number(2, 9)
    half = d.step("Two neighbouring sides measure {}.", long, "+", wide, METRE)
    around = d.step("Around the yard it is {}.", half, "*", 2, METRE)
    d.step("The fence costs ${}.", around, "*", price)
    return (
        f"A yard is {long} metres long and {wide} metres wide. A fence costs ${price} a metre. "
        "How many dollars does a fence around the whole yard cost?"
    )


def tiles(d: Draft) -> str:
    long, wide, size = d.number(3, 12), d.number(2, 5), d.number(2, 6)
    tiles = d.step("The floor takes {} tiles.", long * size, "*", wide)
    d.step("That is {} boxes.", tiles, "/", size)
    return (
        f"A bathroom floor takes {wide} rows of {long * size} tiles. Tiles come in boxes of {size}. "
        "How many boxes must be opened?"
    )


def ferry(d: Draft) -> str:
    cars, trips, minutes = d.number(4, 12), d.number(2, 9), 5 * d.number(2, 6)
    crossings = d.step("The ferry crosses {} times.", cars * trips, "/", cars)
    d.step("That takes {}.", crossings, "*", minutes, MINUTE)
    return (
        f"{cars * trips} cars wait for a ferry that carries {cars} at a time. Bringing one load over and coming back "
        f"takes {minutes} minutes. After how many minutes is the ferry back from its last crossing?"
    )


def lemonade(d: Draft) -> str:
    k, size, bottles = d.number(2, 4), d.number(2, 3), d.number(2, 6)
    syrup = size * bottles
    water = d.step("It takes {} of water.", syrup, "*", k, LITRE)
    mixed = d.step("That makes {} of lemonade.", syrup, "+", water, LITRE)
    d.step("They fill {} bottles.", mixed, "/", size)
    return (
        f"Lemonade is mixed from {syrup} litres of syrup and {TIMES[k]} as much water. "
        f"How many bottles of {size} litres does it fill?"
    )


def snow(d: Draft) -> str:
    before, rate, hours = d.number(2, 30), d.number(2, 6), d.number(2, 8)
    melted = d.number(1, before + rate * hours - 1)
    fallen = d.step("{} of snow fall.", rate, "*", hours, CENTIMETRE)
    deep = d.step("Then the snow is {} deep.", before, "+", fallen, CENTIMETRE)
    d.step("After the thaw it is {} deep.", deep, "-", melted, CENTIMETRE)
    return (
        f"The snow lies {before} centimetres deep. For {hours} hours {rate} centimetres fall each hour, and then "
        f"{CENTIMETRE.of(melted)} melt. How many centimetres deep is the snow now?"
    )


def lift(d: Draft) -> str:
    start, up = d.number(2, 12), d.number(2, 12)
    down = d.number(1, start + up - 1)
    top = d.step("The lift reaches floor {}.", start, "+", up)
    d.step("It stops at floor {}.", top, "-", down)
    return (
        f"A lift starts at floor {start}, rises by {up} floors and sinks by {down}. What is the number of the floor "
        "at which it stops?"
    )


def honey(d: Draft) -> str:
    hives, each, jars, price = d.number(2, 8), d.number(3, 12), d.number(2, 4), d.number(2, 9)
    honey = d.step("The hives give {} of honey.", hives, "*", each, KILOGRAM)
    filled = d.step("They fill {} jars.", honey, "*", jars)
    d.step("The honey brings ${}.", filled, "*", price)
    return (
        f"A beekeeper takes {each} kilograms of honey from each of {hives} hives. A kilogram fills {jars} jars, and a "
        f"jar is sold for ${price}. How many dollars does all the honey bring?"
    )


def quiz(d: Draft) -> str:
    right, gain, wrong, loss = d.number(6, 15), d.number(3, 5), d.number(1, 6), d.number(1, 2)
    good = d.step("The right answers bring {}.", right, "*", gain, POINT)
    bad = d.step("The wrong ones take away {}.", wrong, "*", loss, POINT)
    d.step("The team ends with {}.", good, "-", bad, POINT)
    return (
        f"In a quiz a right answer brings {gain} points and a wrong one takes away {POINT.of(loss)}. A team answers "
        f"{right} questions right and {wrong} wrong. How many points does the team end with?"
    )


def flight(d: Draft) -> str:
    percent, seats = d.percent_of_whole(200)
    more = d.number(1, seats * (100 - percent) // 100)
    booked = d.percent("{} seats are booked.", seats, percent)
    free = d.step("{} are free.", seats, "-", booked)
    d.step("In the end {} stay free.", free, "-", more)
    return (
        f"An airline has booked {percent}% of the {seats} seats of a flight. On the last day it books {more} more. "
        "How many seats stay free?"
    )


def mean(d: Draft) -> str:
    mean, a, b = d.number(10, 30), d.number(1, 9), d.number(1, 9)
    low, high, last = mean - a, mean + b, mean + a - b
    total = d.total("The three temperatures add up to {}.", low, high, last)
    d.step("Their mean is {} degrees.", total, "/", 3)
    return (
        f"At noon it was {low} degrees on Monday, {high} on Tuesday and {last} on Wednesday. "
        "What is the mean of the three temperatures in degrees?"
    )


def arcade(d: Draft) -> str:
    dollars, tokens, game = d.number(2, 9), d.number(2, 6), d.number(2, 6)
    got = d.step(f"{d.who} gets {{}} tokens.", dollars * game, "*", tokens)
    d.step(f"{d.who} can play {{}} games.", got, "/", game)
    return (
        f"An arcade gives {tokens} tokens for a dollar, and a game takes {game} tokens. "
        f"How many games can {d.who} play for ${dollars * game}?"
    )


def catching_up(d: Draft) -> str:
    slow, faster, hours = d.number(3, 20), d.number(2, 9), d.number(2, 8)
    gain = d.step(f"{d.other} gains {{}} an hour.", slow + faster, "-", slow, KILOMETRE)
    d.step(f"{d.other} needs {{}}.", gain * hours, "/", gain, HOUR)
    return (
        f"{d.who} is {faster * hours} kilometres ahead and goes on at {slow} kilometres an hour. {d.other} follows at "
        f"{slow + faster}. After how many hours has {d.other} caught up?"
    )


def parcel(d: Draft) -> str:
    n, each, empty = d.number(3, 12), d.number(2, 9), d.number(1, 5)
    things = d.step("The atlases alone weigh {}.", n * each + empty, "-", empty, KILOGRAM)
    d.step("One atlas weighs {}.", things, "/", n, KILOGRAM)
    return (
        f"A crate with {n} equally heavy atlases weighs {n * each + empty} kilograms. The empty crate weighs "
        f"{KILOGRAM.of(empty)}. How many kilograms does one atlas weigh?"
    )


def sponsors(d: Draft) -> str:
    first, second, far = d.number(2, 6), d.number(1, 5), d.number(4, 15)
    given = d.number(2, (first + second) * far - 1)
    rate = d.step("Each kilometre brings ${}.", first, "+", second)
    total = d.step("The whole swim brings ${}.", rate, "*", far)
    d.step("${} go to the hospital.", total, "-", given)
    return (
        f"For each kilometre that {d.who} swims, an aunt gives ${first} and an uncle ${second}. {d.who} swims {far} "
        f"kilometres this summer and keeps ${given} for new goggles. The rest is for a hospital. "
        "How many dollars does the hospital get?"
    )


def excursion(d: Draft) -> str:
    vans, each, fuel, entry, given = d.number(2, 5), d.number(4, 8), d.number(10, 30), d.number(3, 9), d.number(5, 20)
    people = d.step("{} go along.", vans, "*", each, PERSON)
    vans_cost = d.step("The vans cost ${}.", vans, "*", fuel)
    entries = d.step("The tickets cost ${}.", people, "*", entry)
    both = d.step("Both cost ${}.", vans_cost, "+", entries)
    d.step("The club pays ${}.", both, "-", given)
    return (
        f"A chess club goes to a castle in {vans} vans with {each} people in each. A van costs ${fuel}, a ticket for "
        f"the castle ${entry}. The town gives ${given} towards it. How many dollars does the club pay itself?"
    )
