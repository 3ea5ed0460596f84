"""Parts of word-problem templates: problems, nouns with their plurals, names, and a draft that works steps out.

The form of answers (annotations `<<a op b=c>>`, a final `#### n`) is that of arXiv:2110.14168; no wording is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True)
class Problem:
    """A situation with a question, and its answer: a sentence a step with its annotated calculation, then `#### n`."""

    question: str
    answer: str


class Noun(NamedTuple):
    """A thing that can be counted, in singular and plural."""

    one: str
    many: str

    def of(self, n: int) -> str:
        """Return `1 apple`, `2 apples`."""
        return f"{n} {self.form(n)}"

    def form(self, n: int) -> str:
        """Return `apple` for 1, `apples` for any other number."""
        return self.one if n == 1 else self.many


def _plain(*words: str) -> tuple[Noun, ...]:
    return tuple(Noun(word, word + "s") for word in words)


NAMES = (
    *("Ada", "Ben", "Clara", "Daan", "Elif", "Finn", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Leo", "Mei", "Nadia"),
    *("Omar", "Priya", "Quinn", "Rosa", "Samir", "Tara", "Uma", "Viktor", "Wanda", "Yusuf"),
    *("Amir", "Bella", "Carlos", "Dora", "Emre", "Felix", "Gina", "Hana", "Ivan", "Jun", "Lara", "Malik", "Nils"),
    "Zoe",
)
THINGS = _plain(
    "apple", "button", "card", "marble", "sticker", "stamp", "shell", "pencil", "coin", "nut", "bead", "plum"
)
COLOURED = _plain("bead", "marble", "button", "sticker", "card")
SHOP = _plain("pen", "cup", "ruler", "notebook", "kite", "lamp", "plate", "ball")
BAKED = _plain("cookie", "muffin", "roll", "tart", "waffle", "bun")
PLANTS = _plain("tulip", "bean plant", "carrot", "onion", "sunflower")
FRUIT = _plain("pear", "lemon", "melon", "fig", "orange")
COLLECTED = _plain("sticker", "stamp", "card", "photo")
BIRDS = _plain("sparrow", "crow", "pigeon", "robin")
ANIMALS = _plain("horse", "goat", "donkey", "cow")
DEAR = _plain("bicycle", "jacket", "guitar", "tablet", "chair", "camera", "tent", "scooter")
CONTAINERS = (Noun("box", "boxes"), *_plain("bag", "jar", "basket", "tin"))
ROOMS = ("hall", "theatre", "cinema", "tent")
SKILLS = ("the piano", "the drums", "chess", "French", "dancing")
TIMES = {2: "twice", 3: "3 times", 4: "4 times", 5: "5 times"}
PART = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
# Percentages, each with the number whose multiples it divides into whole parts.
PERCENTS = {10: 10, 20: 5, 25: 4, 30: 10, 40: 5, 50: 2, 60: 5, 75: 4, 80: 5}

DAY, WEEK, HOUR, MINUTE = _plain("day", "week", "hour", "minute")
PAGE, POINT, YEAR, KILOMETRE, LITRE, METRE, CENTIMETRE, KILOGRAM = _plain(
    "page", "point", "year", "kilometre", "litre", "metre", "centimetre", "kilogram"
)
SEAT, EGG, TICKET, BOOK, PIECE, CAN = _plain("seat", "egg", "ticket", "book", "piece", "can")
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
        self.who, self.other, self.third = random.sample(NAMES, 3)
        self.thing = self.pick(THINGS)
        self.result = 0
        self._lines: list[str] = []

    def number(self, low: int, high: int) -> int:
        """Draw a number from `low` to `high`, both included."""
        return self._random.randint(low, high)

    def pick(self, nouns: Sequence[Noun]) -> Noun:
        """Draw one of the nouns."""
        return self._random.choice(nouns)

    def word(self, words: Sequence[str]) -> str:
        """Draw one of the words."""
        return self._random.choice(words)

    def percent_of_whole(self, most: int, highest: int = 80) -> tuple[int, int]:
        """Draw a percentage up to `highest` and a number, up to `most` if possible, of which it is a whole part."""
        percent = self._random.choice([percent for percent in PERCENTS if percent <= highest])
        unit = PERCENTS[percent]
        return percent, unit * self.number(2, max(3, most // unit))

    def step(self, sentence: str, a: int, op: str, b: int, noun: Noun | None = None) -> int:
        """Add a sentence whose `{}` becomes the annotated result, with its noun if one is given; return the result."""
        assert op != "/" or a % b == 0, f"{a} / {b} is not whole"
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]
        return self._note(sentence, f"{a}{op}{b}", result, noun)

    def percent(self, sentence: str, a: int, percent: int, noun: Noun | None = None) -> int:
        """Like `step`, for `percent` per cent of `a`."""
        assert a * percent % 100 == 0, f"{percent}% of {a} is not whole"
        return self._note(sentence, f"{a}*{percent}/100", a * percent // 100, noun)

    def total(self, sentence: str, *terms: int, noun: Noun | None = None) -> int:
        """Like `step`, for the sum of several numbers."""
        return self._note(sentence, "+".join(map(str, terms)), sum(terms), noun)

    def _note(self, sentence: str, expression: str, result: int, noun: Noun | None) -> int:
        assert result >= 0, f"{expression} is negative"
        self.result = result
        shown = f"<<{expression}={result}>>{result}"
        self._lines.append(sentence.format(f"{shown} {noun.form(result)}" if noun else shown))
        return result

    @property
    def answer(self) -> str:
        """Steps and final number."""
        return "\n".join([*self._lines, f"#### {self.result}"])


Template = Callable[[Draft], str]  # records its steps in the draft and returns the question
