"""Training templates about things that are counted, given, shared, packed and compared."""

from __future__ import annotations

from problems.drafts import (
    BAKED,
    BIRDS,
    CHILD,
    COLLECTED,
    COLOURED,
    CONTAINERS,
    DAY,
    EGG,
    FISH,
    FRIEND,
    FRUIT,
    PART,
    PERSON,
    PLANTS,
    ROOMS,
    SEAT,
    TIMES,
    Draft,
)


def containers(d: Draft) -> str:
    a, b, held = d.number(2, 9), d.number(2, 9), d.pick(CONTAINERS)
    d.step(f"{d.who} has {{}}.", a, "*", b, d.thing)
    return (
        f"{d.who} has {held.of(a)} with {d.thing.of(b)} in each {held.one}. How many {d.thing.many} does {d.who} have?"
    )


def gift(d: Draft) -> str:
    a = d.number(5, 40)
    b = d.number(1, a - 1)
    d.step(f"{d.who} has {{}} left.", a, "-", b, d.thing)
    return (
        f"{d.who} has {d.thing.of(a)} and gives {b} of them to {d.other}. "
        f"How many {d.thing.many} does {d.who} have left?"
    )


def morning(d: Draft) -> str:
    a, b = d.number(2, 30), d.number(2, 30)
    d.step(f"{d.who} finds {{}}.", a, "+", b, d.thing)
    return (
        f"{d.who} finds {d.thing.of(a)} in the morning and {d.thing.of(b)} in the afternoon. "
        f"How many {d.thing.many} does {d.who} find in all?"
    )


def sharing(d: Draft) -> str:
    friends, each = d.number(2, 9), d.number(2, 9)
    d.step("Each friend gets {}.", friends * each, "/", friends, d.thing)
    return (
        f"{d.who} shares {d.thing.of(friends * each)} equally among {FRIEND.of(friends)}. "
        f"How many {d.thing.many} does each friend get?"
    )


def lost(d: Draft) -> str:
    a, b, held = d.number(2, 9), d.number(3, 9), d.pick(CONTAINERS)
    lost = d.number(2, a * b - 1)
    total = d.step(f"{d.who} starts with {{}}.", a, "*", b, d.thing)
    d.step(f"{d.who} has {{}} left.", total, "-", lost, d.thing)
    return (
        f"{d.who} fills {held.of(a)} with {d.thing.of(b)} each and then loses {d.thing.of(lost)}. "
        f"How many {d.thing.many} are left?"
    )


def times_as_many(d: Draft) -> str:
    a, k = d.number(2, 12), d.number(2, 5)
    more = d.step(f"{d.other} has {{}}.", a, "*", k, d.thing)
    d.step("Together they have {}.", a, "+", more, d.thing)
    return (
        f"{d.who} has {d.thing.of(a)}. {d.other} has {TIMES[k]} as many {d.thing.many} as {d.who}. "
        f"How many {d.thing.many} do they have together?"
    )


def fewer(d: Draft) -> str:
    a = d.number(8, 30)
    less = d.number(2, a - 3)
    b = d.step(f"{d.other} has {{}}.", a, "-", less, d.thing)
    d.step("Together they have {}.", a, "+", b, d.thing)
    return (
        f"{d.who} has {d.thing.of(a)}. {d.other} has {less} fewer {d.thing.many} than {d.who}. "
        f"How many {d.thing.many} do they have together?"
    )


def seats(d: Draft) -> str:
    rows, width, room = d.number(4, 12), d.number(4, 12), d.word(ROOMS)
    taken = d.number(5, rows * width - 2)
    seats = d.step(f"The {room} has {{}}.", rows, "*", width, SEAT)
    d.step("The number of empty seats is {}.", seats, "-", taken)
    return f"A {room} has {rows} rows of {width} seats. {taken} seats are taken. How many seats are empty?"


def baking(d: Draft) -> str:
    baked, held = d.pick(BAKED), d.pick(CONTAINERS)
    size, trays = d.number(2, 6), d.number(2, 6)
    per_tray = size * d.number(1, 3)
    total = d.step(f"{d.who} bakes {{}}.", trays, "*", per_tray, baked)
    d.step(f"{d.who} needs {{}}.", total, "/", size, held)
    return (
        f"{d.who} bakes {trays} trays of {baked.of(per_tray)} and packs {size} {baked.many} in each {held.one}. "
        f"How many {held.many} does {d.who} need?"
    )


def bus(d: Draft) -> str:
    a, on = d.number(5, 25), d.number(2, 12)
    off = d.number(2, a)
    full = d.step("After some get on there are {} on the bus.", a, "+", on, PERSON)
    d.step("The number of people left is {}.", full, "-", off)
    return (
        f"There are {a} people on a bus. At the next stop {on} people get on and {off} people get off. "
        "How many people are on the bus now?"
    )


def watering(d: Draft) -> str:
    plant, rows, each, cups = d.pick(PLANTS), d.number(2, 6), d.number(3, 8), d.number(2, 4)
    lost = d.number(2, rows * each - 2)
    grown = d.step(f"{d.who} plants {{}}.", rows, "*", each, plant)
    alive = d.step("{} still grow.", grown, "-", lost)
    d.step(f"{d.who} needs {{}} cups of water.", alive, "*", cups)
    return (
        f"{d.who} plants {rows} rows of {plant.of(each)}. {lost} of them wither. "
        f"Each of the others gets {cups} cups of water. How many cups of water does {d.who} need?"
    )


def tanks(d: Draft) -> str:
    a, b, c, e = d.number(2, 6), d.number(3, 9), d.number(2, 6), d.number(3, 9)
    big = d.step("The big tanks hold {}.", a, "*", b, FISH)
    small = d.step("The small tanks hold {}.", c, "*", e, FISH)
    d.step("In all there are {}.", big, "+", small, FISH)
    return (
        f"A shop has {a} big tanks with {b} fish each and {c} small tanks with {e} fish each. "
        "How many fish does the shop have?"
    )


def half(d: Draft) -> str:
    half, more = d.number(2, 20), d.number(2, 15)
    kept = d.step(f"{d.who} keeps {{}}.", 2 * half, "/", 2, d.thing)
    d.step(f"{d.who} then has {{}}.", kept, "+", more, d.thing)
    return (
        f"{d.who} has {d.thing.of(2 * half)}, gives half of them to {d.other} and then buys {more} more. "
        f"How many {d.thing.many} does {d.who} have now?"
    )


def hens(d: Draft) -> str:
    hens, each, days = d.number(3, 9), d.number(1, 2), d.number(2, 9)
    daily = d.step("The hens lay {} a day.", hens, "*", each, EGG)
    d.step("In that time they lay {}.", daily, "*", days, EGG)
    return (
        f"A farm has {hens} hens. Each hen lays {EGG.of(each)} a day. How many eggs do the hens lay in {DAY.of(days)}?"
    )


def chain(d: Draft) -> str:
    k, friends, each, thing = d.number(2, 4), d.number(2, 5), d.number(2, 6), d.pick(COLOURED)
    red = friends * each // (k + 1) + d.number(2, 5)
    blue = d.step("{} are blue.", red, "*", k)
    total = d.step(f"{d.who} has {{}} in all.", red, "+", blue, thing)
    used = total - friends * each
    rest = d.step("{} are not used.", total, "-", used)
    d.step("Each friend gets {}.", rest, "/", friends, thing)
    return (
        f"{d.who} has {red} red {thing.many} and {TIMES[k]} as many blue ones. {d.who} uses {used} of them for a game "
        f"and shares the rest equally among {FRIEND.of(friends)}. How many {thing.many} does each friend get?"
    )


def more_than(d: Draft) -> str:
    a, more = d.number(3, 40), d.number(2, 20)
    b = d.step(f"{d.other} has {{}}.", a, "+", more, d.thing)
    d.step("Together they have {}.", a, "+", b, d.thing)
    told = d.word(
        (
            f"{d.who} has {d.thing.of(a)}. {d.other} has {more} more {d.thing.many} than {d.who}.",
            f"{d.other} has {more} more {d.thing.many} than {d.who}, who has {a}.",
        )
    )
    asked = d.word(("do they have together", "do the two of them have in all"))
    return f"{told} How many {d.thing.many} {asked}?"


def times_fewer(d: Draft) -> str:
    k, less = d.number(2, 5), d.number(2, 15)
    b = d.step(f"{d.other} has {{}}.", k * less, "/", k, d.thing)
    d.step(f"{d.who} has {{}} more.", k * less, "-", b)
    told = d.word(
        (
            f"{d.who} has {d.thing.of(k * less)}, {TIMES[k]} as many as {d.other}.",
            f"{d.who} collects {d.thing.of(k * less)}. That is {TIMES[k]} as many as {d.other} has.",
        )
    )
    return f"{told} How many more {d.thing.many} does {d.who} have than {d.other}?"


def part_given(d: Draft) -> str:
    k, unit = d.number(2, 5), d.number(2, 12)
    given = d.step(f"{d.who} gives away {{}}.", k * unit, "/", k, d.thing)
    d.step(f"{d.who} has {{}} left.", k * unit, "-", given, d.thing)
    told = d.word(
        (
            f"{d.who} has {d.thing.of(k * unit)} and gives {PART[k]} of them to {d.other}.",
            f"{d.who} gives {d.other} {PART[k]} of a collection of {d.thing.of(k * unit)}.",
            f"Out of {d.thing.of(k * unit)}, {d.who} sends {PART[k]} to {d.other} and keeps the rest.",
        )
    )
    return f"{told} How many {d.thing.many} does {d.who} have left?"


def percent_red(d: Draft) -> str:
    thing = d.pick(COLOURED)
    percent, n = d.percent_of_whole(80)
    red = d.percent("{} are red.", n, percent)
    d.step("{} are not red.", n, "-", red)
    return d.word(
        (
            f"{d.who} has {n} {thing.many}, and {percent}% of them are red. How many {thing.many} are not red?",
            f"{percent}% of the {n} {thing.many} in a bowl are red. How many of the {thing.many} have another colour?",
        )
    )


def three_days(d: Draft) -> str:
    a, k = d.number(4, 15), d.number(2, 3)
    fewer = d.number(1, a - 2)
    tuesday = d.step(f"On Tuesday {d.who} finds {{}}.", a, "*", k, d.thing)
    wednesday = d.step(f"On Wednesday {d.who} finds {{}}.", a, "-", fewer, d.thing)
    d.total(f"In all {d.who} finds {{}}.", a, tuesday, wednesday, noun=d.thing)
    asked = d.word(("in all", "on the three days", "altogether"))
    return (
        f"{d.who} finds {d.thing.of(a)} on Monday, {TIMES[k]} as many on Tuesday and {fewer} fewer on Wednesday than "
        f"on Monday. How many {d.thing.many} does {d.who} find {asked}?"
    )


def left_over(d: Draft) -> str:
    friends, each, left = d.number(2, 8), d.number(2, 9), d.number(1, 20)
    given = d.step("The friends get {}.", friends, "*", each, d.thing)
    d.step("{} are left over.", given + left, "-", given)
    return d.word(
        (
            f"{d.who} has {d.thing.of(given + left)} and gives {d.thing.of(each)} to each of {FRIEND.of(friends)}. "
            f"How many {d.thing.many} are left over?",
            f"Each of {FRIEND.of(friends)} gets {d.thing.of(each)} out of a bag of {given + left}. "
            f"How many {d.thing.many} stay in the bag?",
        )
    )


def swap(d: Draft) -> str:
    a, out, back = d.number(12, 50), d.number(2, 11), d.number(2, 15)
    left = d.step(f"Without those {d.who} has {{}}.", a, "-", out, d.thing)
    d.step(f"With the new ones {d.who} has {{}}.", left, "+", back, d.thing)
    told = d.word(
        (
            f"{d.who} has {d.thing.of(a)}, gives {out} of them to {d.other} and gets {back} others in return.",
            f"{d.who} swaps {out} of {a} {d.thing.many} for {back} that belong to {d.other}.",
        )
    )
    return f"{told} How many {d.thing.many} does {d.who} have after that?"


def album(d: Draft) -> str:
    pages, each, thing = d.number(4, 12), d.number(3, 9), d.pick(COLLECTED)
    owned = d.number(5, pages * each - 2)
    room = d.step("The album has room for {}.", pages, "*", each, thing)
    d.step("{} are missing.", room, "-", owned)
    asked = d.word((f"How many {thing.many} are missing?", f"How many more {thing.many} fit in?"))
    return (
        f"An album has {pages} pages with room for {each} {thing.many} on each page. "
        f"{d.who} has filled in {owned} {thing.many}. {asked}"
    )


def teams(d: Draft) -> str:
    size, teams = d.number(3, 6), d.number(3, 8)
    girls = d.number(size, size * teams - 3)
    children = d.step("There are {}.", girls, "+", size * teams - girls, CHILD)
    d.step("They make {} teams.", children, "/", size)
    told = d.word((f"{girls} girls and {size * teams - girls} boys", f"{size * teams - girls} boys and {girls} girls"))
    return f"{told} come to play. They form teams of {size} children. How many teams are there?"


def picking(d: Draft) -> str:
    fruit, baskets, each, k = d.pick(FRUIT), d.number(2, 6), d.number(5, 12), d.number(2, 3)
    first = d.step(f"{d.who} picks {{}}.", baskets, "*", each, fruit)
    second = d.step(f"{d.other} picks {{}}.", first, "*", k, fruit)
    d.step("Together they pick {}.", first, "+", second, fruit)
    return (
        f"{d.who} fills {baskets} baskets with {each} {fruit.many} each. {d.other} picks {TIMES[k]} as many "
        f"{fruit.many}. How many {fruit.many} do they pick {d.word(('together', 'in all', 'between them'))}?"
    )


def eaten_daily(d: Draft) -> str:
    fruit, each, days, more = d.pick(FRUIT), d.number(2, 5), d.number(3, 7), d.number(3, 20)
    left = d.number(1, 25)
    eaten = d.step(f"{d.who} eats {{}}.", each, "*", days, fruit)
    rest = d.step("{} are left.", eaten + left, "-", eaten)
    d.step(f"{d.who} then has {{}}.", rest, "+", more, fruit)
    return (
        f"{d.who} has {eaten + left} {fruit.many} and eats {each} of them each day for {days} days. "
        f"Then {d.other} brings {more} more. How many {fruit.many} does {d.who} have "
        f"{d.word(('now', 'then', 'in the end'))}?"
    )


def truck(d: Draft) -> str:
    a, b, c, e = d.number(2, 9), d.number(3, 9), d.number(2, 9), d.number(3, 9)
    off = d.number(2, a * b + c * e - 2)
    fruit = d.pick(FRUIT)
    big = d.step("The big crates hold {}.", a, "*", b, fruit)
    small = d.step("The small crates hold {}.", c, "*", e, fruit)
    full = d.step("The truck carries {}.", big, "+", small, fruit)
    d.step("After the market {} are left.", full, "-", off)
    return (
        f"A truck carries {a} big crates of {b} {fruit.many} and {c} small crates of {e} {fruit.many}. "
        f"{off} {fruit.many} are {d.word(('sold', 'unloaded'))} at the market. How many are left on the truck?"
    )


def equal_parts(d: Draft) -> str:
    each = d.number(3, 20)
    a = d.number(1, each - 1)
    both = d.step("Together they have {}.", a, "+", 2 * each - a, d.thing)
    d.step("Each of them gets {}.", both, "/", 2, d.thing)
    asked = d.word((f"How many {d.thing.many} does each of them get?", f"How many {d.thing.many} is that for each?"))
    return (
        f"{d.who} has {d.thing.of(a)} and {d.other} has {d.thing.of(2 * each - a)}. "
        f"They put them together and share them equally. {asked}"
    )


def at_first(d: Draft) -> str:
    given, lost, left = d.number(2, 20), d.number(2, 12), d.number(2, 30)
    gone = d.step("{} are gone.", given, "+", lost)
    d.step(f"At first {d.who} had {{}}.", left, "+", gone, d.thing)
    told = d.word(
        (
            f"{d.who} gives {d.thing.of(given)} to {d.other}, loses {lost} and has {left} left.",
            f"{d.who} has {d.thing.of(left)} left after losing {lost} and giving {given} to {d.other}.",
        )
    )
    return f"{told} How many {d.thing.many} did {d.who} have at first?"


def parts_of_total(d: Draft) -> str:
    k, a = d.number(2, 4), d.number(2, 12)
    parts = d.step("Together that is {} parts.", k, "+", 1)
    one = d.step(f"{d.who} has {{}}.", a * parts, "/", parts, d.thing)
    d.step(f"{d.other} has {{}}.", one, "*", k, d.thing)
    return (
        f"{d.who} and {d.other} have {d.thing.of(a * parts)} together. {d.other} has {TIMES[k]} as many as {d.who}. "
        f"How many {d.thing.many} does {d.other} have?"
    )


def legs(d: Draft) -> str:
    tables, stools = d.number(2, 12), d.number(3, 15)
    x = d.step("The tables have {} legs.", tables, "*", 4)
    y = d.step("The stools have {} legs.", stools, "*", 3)
    d.step("In all there are {} legs.", x, "+", y)
    return (
        f"A room has {tables} tables with 4 legs each and {stools} stools with 3 legs each. "
        f"How many legs {d.word(('are there in all', 'do they have together'))}?"
    )


def packs(d: Draft) -> str:
    size, packs, left = d.number(4, 10), d.number(3, 8), d.number(1, 3)
    used = d.number(2, packs * size - left - 1)
    total = d.step(f"{d.who} gets {{}}.", packs, "*", size, d.thing)
    rest = d.step(f"After the fair {d.who} has {{}}.", total, "-", used, d.thing)
    d.step(f"With the old ones {d.who} has {{}}.", rest, "+", left, d.thing)
    return (
        f"{d.who} has {d.thing.of(left)} and gets {packs} packs of {size} more. At a fair {d.who} gives away {used} "
        f"of the new ones. How many {d.thing.many} does {d.who} have {d.word(('now', 'after the fair'))}?"
    )


def three_people(d: Draft) -> str:
    a, k = d.number(5, 15), d.number(2, 4)
    fewer = d.number(2, a * k - 2)
    b = d.step(f"{d.other} has {{}}.", a, "*", k, d.thing)
    c = d.step(f"{d.third} has {{}}.", b, "-", fewer, d.thing)
    asked = d.word(("third", "total", "total"))
    if asked == "total":
        d.total("In all they have {}.", a, b, c, noun=d.thing)
    return (
        f"{d.who} has {d.thing.of(a)}, {d.other} has {TIMES[k]} as many as {d.who}, and {d.third} has {fewer} fewer "
        f"than {d.other}. How many {d.thing.many} "
        + ("do the three have together?" if asked == "total" else f"does {d.third} have?")
    )


def birds(d: Draft) -> str:
    trees, each, come = d.number(2, 8), d.number(3, 9), d.number(2, 15)
    away = d.number(2, trees * each - 1)
    bird = d.pick(BIRDS)
    first = d.step("At first there are {}.", trees, "*", each, bird)
    stay = d.step("{} of them stay.", first, "-", away)
    d.step("In the end there are {}.", stay, "+", come, bird)
    return (
        f"{each} {bird.many} sit in each of {trees} trees. {away} of them fly away and {come} others "
        f"{d.word(('arrive', 'come', 'land'))}. How many {bird.many} are in the trees now?"
    )


def tower(d: Draft) -> str:
    length, towers, left = d.number(4, 12), d.number(2, 6), d.number(1, 20)
    used = d.step("The towers take {} blocks.", length, "*", towers)
    d.step("{} blocks are not used.", used + left, "-", used)
    return (
        f"{d.who} has {used + left} blocks and builds {towers} towers of {length} blocks each. "
        f"How many blocks are {d.word(('not used', 'left'))}?"
    )
