"""Word problems in the form of GSM8K, written for this project: sample data, and text to train the bundled demo model.

A template tells an everyday situation and works it out in one to four steps, all results whole and not negative.
Names, things and numbers come from a seeded generator. Templates of the split `test` never occur in `train`. The form
of answers (annotations `<<a op b=c>>`, a final `#### n`) is that of arXiv:2110.14168; no wording is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from ltm_eval.errors import UsageError

SAMPLE_SEED = 20_241
"""Seed of the bundled sample data."""
SAMPLE_ROWS = {"train": 120, "test": 40}
"""Generated rows of each split's templates in the bundled sample data."""
SEEN_ROWS = 30
"""Rows of the bundled `test.jsonl` that come from training templates, with numbers and names of seed `SAMPLE_SEED + 1`.

The file takes turns: a problem written by hand, one of a template the demo model was trained on, one of a held-out
template.
"""


@dataclass(frozen=True)
class Problem:
    """One problem."""

    question: str
    """The situation and what is asked."""
    answer: str
    """One sentence a step, each with its annotated calculation, then `#### n`."""


class Noun(NamedTuple):
    """A thing that can be counted."""

    one: str
    many: str

    def of(self, n: int) -> str:
        """`1 apple`, `2 apples`."""
        return f"{n} {self.form(n)}"

    def form(self, n: int) -> str:
        """`apple` for 1, `apples` for any other number."""
        return self.one if n == 1 else self.many


def _plain(*words: str) -> tuple[Noun, ...]:
    return tuple(Noun(word, word + "s") for word in words)


NAMES = (
    *("Ada", "Ben", "Clara", "Daan", "Elif", "Finn", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Leo", "Mei", "Nadia"),
    *("Omar", "Priya", "Quinn", "Rosa", "Samir", "Tara", "Uma", "Viktor", "Wanda", "Yusuf"),
)
THINGS = _plain(
    "apple", "button", "card", "marble", "sticker", "stamp", "shell", "pencil", "coin", "nut", "bead", "plum"
)
COLOURED = _plain("bead", "marble", "button", "sticker", "card")
SHOP = _plain("pen", "cup", "ruler", "notebook", "kite", "lamp", "plate", "ball")
BAKED = _plain("cookie", "muffin", "roll", "tart", "waffle", "bun")
PLANTS = _plain("tulip", "bean plant", "carrot", "onion", "sunflower")
CONTAINERS = (Noun("box", "boxes"), *_plain("bag", "jar", "basket", "tin"))
ROOMS = ("hall", "theatre", "cinema", "tent")
SKILLS = ("the piano", "the drums", "chess", "French", "dancing")
TIMES = {2: "twice", 3: "3 times", 4: "4 times", 5: "5 times"}

DAY, WEEK, HOUR, MINUTE = _plain("day", "week", "hour", "minute")
DOLLAR, PAGE, POINT, YEAR, KILOMETRE, LITRE, METRE = _plain(
    "dollar", "page", "point", "year", "kilometre", "litre", "metre"
)
SEAT, EGG, HEN, TICKET, BOOK, PIECE, CAN = _plain("seat", "egg", "hen", "ticket", "book", "piece", "can")
FISH, PERSON, CHILD, FRIEND = (
    Noun("fish", "fish"),
    Noun("person", "people"),
    Noun("child", "children"),
    Noun("friend", "friends"),
)


class Draft:
    """A problem being made: the source of names and numbers, and the steps so far."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.who, self.other = random.sample(NAMES, 2)
        self.thing = self.pick(THINGS)
        self.result = 0
        self._lines: list[str] = []

    def number(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""
        return self._random.randint(low, high)

    def pick(self, nouns: Sequence[Noun]) -> Noun:
        """One of the nouns."""
        return self._random.choice(nouns)

    def word(self, words: Sequence[str]) -> str:
        """One of the words."""
        return self._random.choice(words)

    def step(self, sentence: str, a: int, op: str, b: int, noun: Noun | None = None) -> int:
        """Add a sentence whose `{}` becomes the annotated result, with its noun if one is given; return the result."""
        assert op != "/" or a % b == 0, f"{a} / {b} is not whole"
        self.result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]
        assert self.result >= 0, f"{a} - {b} is negative"
        shown = f"<<{a}{op}{b}={self.result}>>{self.result}"
        self._lines.append(sentence.format(f"{shown} {noun.form(self.result)}" if noun else shown))
        return self.result

    @property
    def answer(self) -> str:
        """The steps and the final number."""
        return "\n".join([*self._lines, f"#### {self.result}"])


Template = Callable[[Draft], str]
"""Records its steps in the draft and returns the question."""


def generate(n: int, *, seed: int, split: str) -> list[Problem]:
    """`n` different problems; templates take turns, in an order that the seed shuffles anew each round.

    Raises:
        UsageError: `split` is neither `train` nor `test`, `n` is negative or more than the templates can tell apart.
    """
    if split not in TEMPLATES:
        raise UsageError(f"split must be one of {', '.join(TEMPLATES)}, got {split!r}")
    if n < 0:
        raise UsageError(f"the number of problems must not be negative, got {n}")
    random = Random(f"{split}-{seed}")
    found: dict[Problem, None] = {}
    stale = 0
    while len(found) < n:
        before = len(found)
        for template in random.sample(TEMPLATES[split], len(TEMPLATES[split])):
            draft = Draft(random)
            found.setdefault(Problem(template(draft), draft.answer))
        stale = stale + 1 if len(found) == before else 0
        if stale > 1_000:
            raise UsageError(f"split {split} tells about {before} different problems apart, got {n}; ask for fewer")
    return list(found)[:n]


# Training templates ---------------------------------------------------------------------------------------------------


def _containers(d: Draft) -> str:
    a, b, held = d.number(2, 9), d.number(2, 9), d.pick(CONTAINERS)
    d.step(f"{d.who} has {{}}.", a, "*", b, d.thing)
    return (
        f"{d.who} has {held.of(a)} with {d.thing.of(b)} in each {held.one}. How many {d.thing.many} does {d.who} have?"
    )


def _gift(d: Draft) -> str:
    a = d.number(5, 40)
    b = d.number(1, a - 1)
    d.step(f"{d.who} has {{}} left.", a, "-", b, d.thing)
    return (
        f"{d.who} has {d.thing.of(a)} and gives {b} of them to {d.other}. "
        f"How many {d.thing.many} does {d.who} have left?"
    )


def _morning(d: Draft) -> str:
    a, b = d.number(2, 30), d.number(2, 30)
    d.step(f"{d.who} finds {{}}.", a, "+", b, d.thing)
    return (
        f"{d.who} finds {d.thing.of(a)} in the morning and {d.thing.of(b)} in the afternoon. "
        f"How many {d.thing.many} does {d.who} find in all?"
    )


def _sharing(d: Draft) -> str:
    friends, each = d.number(2, 9), d.number(2, 9)
    d.step("Each friend gets {}.", friends * each, "/", friends, d.thing)
    return (
        f"{d.who} shares {d.thing.of(friends * each)} equally among {FRIEND.of(friends)}. "
        f"How many {d.thing.many} does each friend get?"
    )


def _lost(d: Draft) -> str:
    a, b, held = d.number(2, 9), d.number(3, 9), d.pick(CONTAINERS)
    lost = d.number(2, a * b - 1)
    total = d.step(f"{d.who} starts with {{}}.", a, "*", b, d.thing)
    d.step(f"{d.who} has {{}} left.", total, "-", lost, d.thing)
    return (
        f"{d.who} fills {held.of(a)} with {d.thing.of(b)} each and then loses {d.thing.of(lost)}. "
        f"How many {d.thing.many} are left?"
    )


def _two_prices(d: Draft) -> str:
    first, second = d.pick(SHOP[:4]), d.pick(SHOP[4:])
    p, q, a, b = d.number(2, 5), d.number(6, 12), d.number(2, 5), d.number(2, 5)
    x = d.step(f"The {first.many} cost ${{}}.", a, "*", p)
    y = d.step(f"The {second.many} cost ${{}}.", b, "*", q)
    d.step(f"{d.who} spends ${{}}.", x, "+", y)
    return (
        f"A {first.one} costs ${p} and a {second.one} costs ${q}. {d.who} buys {first.of(a)} and {second.of(b)}. "
        f"How many dollars does {d.who} spend?"
    )


def _change(d: Draft) -> str:
    item, n, price, rest = d.pick(SHOP), d.number(2, 6), d.number(2, 9), d.number(1, 20)
    cost = d.step(f"The {item.many} cost ${{}}.", n, "*", price)
    d.step(f"{d.who} has ${{}} left.", cost + rest, "-", cost)
    return (
        f"{d.who} has ${cost + rest} and buys {item.of(n)} for ${price} each. How many dollars does {d.who} have left?"
    )


def _saving(d: Draft) -> str:
    weeks, rate = d.number(3, 10), d.number(2, 9)
    spent = d.number(1, weeks * rate)
    saved = d.step(f"{d.who} saves ${{}}.", weeks, "*", rate)
    d.step(f"{d.who} has ${{}} left.", saved, "-", spent)
    return (
        f"{d.who} saves ${rate} a week for {WEEK.of(weeks)} and then spends ${spent}. "
        f"How many dollars does {d.who} have left?"
    )


def _times_as_many(d: Draft) -> str:
    a, k = d.number(2, 12), d.number(2, 5)
    more = d.step(f"{d.other} has {{}}.", a, "*", k, d.thing)
    d.step("Together they have {}.", a, "+", more, d.thing)
    return (
        f"{d.who} has {d.thing.of(a)}. {d.other} has {TIMES[k]} as many {d.thing.many} as {d.who}. "
        f"How many {d.thing.many} do they have together?"
    )


def _fewer(d: Draft) -> str:
    a = d.number(8, 30)
    less = d.number(2, a - 3)
    b = d.step(f"{d.other} has {{}}.", a, "-", less, d.thing)
    d.step("Together they have {}.", a, "+", b, d.thing)
    return (
        f"{d.who} has {d.thing.of(a)}. {d.other} has {less} fewer {d.thing.many} than {d.who}. "
        f"How many {d.thing.many} do they have together?"
    )


def _pages(d: Draft) -> str:
    a, days, left = d.number(5, 15), d.number(2, 8), d.number(5, 40)
    read = d.step(f"{d.who} reads {{}}.", a, "*", days, PAGE)
    d.step(f"{d.who} still has to read {{}}.", read + left, "-", read, PAGE)
    return (
        f"A book has {read + left} pages. {d.who} reads {a} pages a day for {DAY.of(days)}. "
        "How many pages are still to be read?"
    )


def _seats(d: Draft) -> str:
    rows, width, room = d.number(4, 12), d.number(4, 12), d.word(ROOMS)
    taken = d.number(5, rows * width - 2)
    seats = d.step(f"The {room} has {{}}.", rows, "*", width, SEAT)
    d.step("The number of empty seats is {}.", seats, "-", taken)
    return f"A {room} has {rows} rows of {width} seats. {taken} seats are taken. How many seats are empty?"


def _baking(d: Draft) -> str:
    baked, held = d.pick(BAKED), d.pick(CONTAINERS)
    size, trays = d.number(2, 6), d.number(2, 6)
    per_tray = size * d.number(1, 3)
    total = d.step(f"{d.who} bakes {{}}.", trays, "*", per_tray, baked)
    d.step(f"{d.who} needs {{}}.", total, "/", size, held)
    return (
        f"{d.who} bakes {trays} trays of {baked.of(per_tray)} and packs {size} {baked.many} in each {held.one}. "
        f"How many {held.many} does {d.who} need?"
    )


def _bus(d: Draft) -> str:
    a, on = d.number(5, 25), d.number(2, 12)
    off = d.number(2, a)
    full = d.step("After some get on there are {} on the bus.", a, "+", on, PERSON)
    d.step("The number of people left is {}.", full, "-", off)
    return (
        f"There are {a} people on a bus. At the next stop {on} people get on and {off} people get off. "
        "How many people are on the bus now?"
    )


def _wages(d: Draft) -> str:
    pay, a, b = d.number(6, 15), d.number(2, 8), d.number(2, 8)
    hours = d.step(f"{d.who} works {{}}.", a, "+", b, HOUR)
    d.step(f"{d.who} earns ${{}}.", hours, "*", pay)
    return (
        f"{d.who} earns ${pay} an hour. {d.who} works {HOUR.of(a)} on Monday and {HOUR.of(b)} on Tuesday. "
        f"How many dollars does {d.who} earn on both days?"
    )


def _watering(d: Draft) -> str:
    plant, rows, each, cups = d.pick(PLANTS), d.number(2, 6), d.number(3, 8), d.number(2, 4)
    lost = d.number(2, rows * each - 2)
    grown = d.step(f"{d.who} plants {{}}.", rows, "*", each, plant)
    alive = d.step("{} still grow.", grown, "-", lost)
    d.step(f"{d.who} needs {{}} cups of water.", alive, "*", cups)
    return (
        f"{d.who} plants {rows} rows of {plant.of(each)}. {lost} of them wither. "
        f"Each of the others gets {cups} cups of water. How many cups of water does {d.who} need?"
    )


def _tanks(d: Draft) -> str:
    a, b, c, e = d.number(2, 6), d.number(3, 9), d.number(2, 6), d.number(3, 9)
    big = d.step("The big tanks hold {}.", a, "*", b, FISH)
    small = d.step("The small tanks hold {}.", c, "*", e, FISH)
    d.step("In all there are {}.", big, "+", small, FISH)
    return (
        f"A shop has {a} big tanks with {b} fish each and {c} small tanks with {e} fish each. "
        "How many fish does the shop have?"
    )


def _half(d: Draft) -> str:
    half, more = d.number(2, 20), d.number(2, 15)
    kept = d.step(f"{d.who} keeps {{}}.", 2 * half, "/", 2, d.thing)
    d.step(f"{d.who} then has {{}}.", kept, "+", more, d.thing)
    return (
        f"{d.who} has {d.thing.of(2 * half)}, gives half of them to {d.other} and then buys {more} more. "
        f"How many {d.thing.many} does {d.who} have now?"
    )


def _practice(d: Draft) -> str:
    a, days, b, skill = d.number(5, 20), d.number(2, 6), d.number(10, 40), d.word(SKILLS)
    weekdays = d.step(f"On the weekdays {d.who} spends {{}}.", a, "*", days, MINUTE)
    d.step(f"In all {d.who} spends {{}}.", weekdays, "+", b, MINUTE)
    return (
        f"{d.who} practises {skill} for {a} minutes on each of {days} weekdays and for {b} minutes on Sunday. "
        f"For how many minutes does {d.who} practise in all?"
    )


def _family(d: Draft) -> str:
    full, reduced, adults, children = d.number(8, 15), d.number(3, 7), d.number(2, 4), d.number(2, 5)
    x = d.step("The adults pay ${}.", adults, "*", full)
    y = d.step("The children pay ${}.", children, "*", reduced)
    d.step("The family pays ${}.", x, "+", y)
    return (
        f"At the zoo an adult pays ${full} and a child pays ${reduced}. A family of {adults} adults and "
        f"{CHILD.of(children)} goes to the zoo. How many dollars does the family pay?"
    )


def _hens(d: Draft) -> str:
    hens, each, days = d.number(3, 9), d.number(1, 2), d.number(2, 9)
    daily = d.step("The hens lay {} a day.", hens, "*", each, EGG)
    d.step("In that time they lay {}.", daily, "*", days, EGG)
    return (
        f"A farm has {hens} hens. Each hen lays {EGG.of(each)} a day. How many eggs do the hens lay in {DAY.of(days)}?"
    )


def _bill(d: Draft) -> str:
    friends, each = d.number(2, 6), d.number(5, 12)
    drinks = d.number(3, friends * each // 2)
    food = friends * each - drinks
    bill = d.step("The bill is ${}.", food, "+", drinks)
    d.step("Each friend pays ${}.", bill, "/", friends)
    return (
        f"{FRIEND.of(friends)} share a bill equally. The food costs ${food} and the drinks cost ${drinks}. "
        "How many dollars does each friend pay?"
    )


def _to_school(d: Draft) -> str:
    far, days = d.number(2, 9), d.number(2, 9)
    daily = d.step(f"{d.who} rides {{}} a day.", far, "*", 2, KILOMETRE)
    d.step(f"In that time {d.who} rides {{}}.", daily, "*", days, KILOMETRE)
    return (
        f"The school is {far} kilometres from home. {d.who} rides a bicycle there and back once a day. "
        f"How many kilometres does {d.who} ride in {DAY.of(days)}?"
    )


def _ages(d: Draft) -> str:
    age, older, years = d.number(4, 20), d.number(2, 12), d.number(2, 10)
    now = d.step(f"{d.other} is {{}} old now.", age, "+", older, YEAR)
    d.step(f"{d.other} will be {{}} old.", now, "+", years, YEAR)
    return (
        f"{d.who} is {age} years old. {d.other} is {older} years older than {d.who}. "
        f"How old will {d.other} be in {YEAR.of(years)}?"
    )


def _rounds(d: Draft) -> str:
    a, more = d.number(5, 30), d.number(2, 15)
    second = d.step(f"In the second round {d.who} scores {{}}.", a, "+", more, POINT)
    d.step(f"In both rounds {d.who} scores {{}}.", a, "+", second, POINT)
    return (
        f"In a game {d.who} scores {a} points in the first round and {more} points more in the second round. "
        f"How many points does {d.who} score in both rounds?"
    )


def _chain(d: Draft) -> str:
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


# Held-out templates ---------------------------------------------------------------------------------------------------


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


TEMPLATES: dict[str, tuple[Template, ...]] = {
    "train": (
        *(_containers, _gift, _morning, _sharing, _lost, _two_prices, _change, _saving, _times_as_many, _fewer, _pages),
        *(_seats, _baking, _bus, _wages, _watering, _tanks, _half, _practice, _family, _hens, _bill, _to_school, _ages),
        *(_rounds, _chain),
    ),
    "test": (_pipes, _concert, _library, _taxi, _wool, _rope, _jigsaw, _recycling),
}
"""Which templates a split is made from."""
