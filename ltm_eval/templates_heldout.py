"""Held-out templates: situations that no training template tells."""

from __future__ import annotations

from ltm_eval.drafts import BOOK, CAN, LITRE, METRE, MINUTE, PIECE, TICKET, TIMES, Draft, Noun, Template


def _pipes(d: Draft) -> str:
    a, b, minutes = d.number(2, 8), d.number(2, 8), d.number(3, 12)
    rate = d.step("Each minute {} flow in.", a, "+", b, LITRE)
    d.step("It takes {}.", rate * minutes, "/", rate, MINUTE)
    return (
        f"A tank holds {rate * minutes} litres. One pipe lets in {a} litres a minute and another lets in {b} litres a "
        "minute. How many minutes does it take to fill the empty tank?"
    )


def _concert(d: Draft) -> str:
    friday, price = d.number(8, 25), d.number(2, 9)
    fewer = d.number(2, friday - 3)
    saturday = d.step("On Saturday the club sells {}.", friday, "-", fewer, TICKET)
    both = d.step("On both days it sells {}.", friday, "+", saturday, TICKET)
    d.step("It takes in ${}.", both, "*", price)
    return (
        f"A club sells {friday} concert tickets on Friday and {fewer} fewer on Saturday. Each ticket costs ${price}. "
        "How many dollars does the club take in on both days?"
    )


def _library(d: Draft) -> str:
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


def _taxi(d: Draft) -> str:
    start, rate, far, tip = d.number(2, 6), d.number(2, 4), d.number(3, 12), d.number(1, 5)
    ride = d.step("The distance costs ${}.", rate, "*", far)
    fare = d.step("The fare is ${}.", ride, "+", start)
    d.step(f"{d.who} pays ${{}}.", fare, "+", tip)
    return (
        f"A taxi costs ${start} and another ${rate} for each kilometre. {d.who} rides {far} kilometres and gives a tip "
        f"of ${tip}. How many dollars does {d.who} pay?"
    )


def _wool(d: Draft) -> str:
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


def _rope(d: Draft) -> str:
    length, pieces = d.number(2, 6), d.number(4, 12)
    used = d.number(1, pieces - 1)
    cut = d.step(f"{d.who} gets {{}}.", length * pieces, "/", length, PIECE)
    d.step(f"{d.who} has {{}} left.", cut, "-", used, PIECE)
    return (
        f"{d.who} cuts a rope of {METRE.of(length * pieces)} into pieces of {METRE.of(length)} and uses {used} of the "
        f"pieces. How many pieces does {d.who} have left?"
    )


def _jigsaw(d: Draft) -> str:
    first, k, left = d.number(5, 20), d.number(2, 3), d.number(5, 40)
    second = d.step(f"In the second hour {d.who} places {{}}.", first, "*", k, PIECE)
    placed = d.step(f"{d.who} has placed {{}}.", first, "+", second, PIECE)
    d.step("The number of pieces left is {}.", placed + left, "-", placed)
    return (
        f"A jigsaw has {placed + left} pieces. {d.who} places {first} pieces in the first hour and {TIMES[k]} as many "
        "in the second hour. How many pieces are left?"
    )


def _recycling(d: Draft) -> str:
    cans, dollars = d.number(2, 8), d.number(4, 12)
    first = d.number(2, cans * dollars - 2)
    both = d.step("They collect {}.", first, "+", cans * dollars - first, CAN)
    d.step("They get ${}.", both, "/", cans)
    return (
        f"A shop pays $1 for every {cans} empty cans. {d.who} collects {CAN.of(first)} and {d.other} collects "
        f"{CAN.of(cans * dollars - first)}. How many dollars do they get for all their cans?"
    )


HELDOUT_TEMPLATES: tuple[Template, ...] = (_pipes, _concert, _library, _taxi, _wool, _rope, _jigsaw, _recycling)
"""Each returns the question."""
