"""In-context rule episodes: questions that only the demonstrations of the same episode can answer.

An episode hides one number: what a machine adds, what a thing costs, which locker is asked for. Every question of the
episode follows it and none states it, so a model that has not taken it in from the demonstrations can only guess (1 in
9, 1 in 8, 1 in 10). In training each demonstration stands in a window of its own, where self-attention sees no other:
what is carried from one to the next, z carries. The wording is this project's own; answers have the form of GSM8K
(arXiv:2110.14168), `#### n`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


SAMPLE_SEED = 30_311  # of the bundled episodes; training uses others
SAMPLE_EPISODES, SAMPLE_DEMONSTRATIONS = 120, 16  # bundled episodes, and demonstrations of each to draw from

COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey")
ITEMS = ("kite", "coat", "drum", "lamp", "scarf", "ball", "map", "bell", "cap", "flute", "basket", "ring")
GOODS = ("pears", "cups", "pens", "rolls", "plates", "tiles", "bulbs", "hooks", "stamps", "kites", "lids", "nails")


@dataclass(frozen=True)
class Family:
    """Rules of one kind: their hidden numbers lie between `low` and `high`, both included."""

    low: int
    high: int
    ask: Callable[[Random, int], tuple[str, int]]  # draws a question under a hidden number; returns it and its answer


@dataclass(frozen=True)
class Episode:
    """Questions with answers under one hidden number, which every answer depends on and no question states."""

    family: str
    hidden: int
    examples: tuple[tuple[str, int], ...]

    def rows(self) -> list[dict[str, str]]:
        """Return the examples as rows of GSM8K."""
        return [{"question": question, "answer": f"#### {answer}"} for question, answer in self.examples]


def _machine(random: Random, hidden: int) -> tuple[str, int]:
    given = random.randint(1, 20)
    return f"The machine turns {given} into?", given + hidden


def _price(random: Random, hidden: int) -> tuple[str, int]:
    count = random.randint(2, 9)
    return f"The price of {count} {random.choice(GOODS)}?", count * hidden


def _locker(random: Random, hidden: int) -> tuple[str, int]:
    return f"The locker of the {random.choice(COLOURS)} {random.choice(ITEMS)}?", hidden


# A machine that adds the hidden number, goods that all cost it, a locker that has it.
FAMILIES = {"machine": Family(1, 9, _machine), "price": Family(2, 9, _price), "locker": Family(0, 9, _locker)}


def episode(random: Random, examples: int) -> Episode:
    """Return an episode of a random family whose questions all differ.

    Raises:
        ValueError: a family cannot ask that many different questions.
    """
    name = random.choice(sorted(FAMILIES))
    family = FAMILIES[name]
    hidden = random.randint(family.low, family.high)
    found: dict[tuple[str, int], None] = {}
    for _ in range(1_000 + 100 * examples):
        if len(found) == examples:
            return Episode(name, hidden, tuple(found))
        found.setdefault(family.ask(random, hidden))
    raise ValueError(f"an episode of rule {name!r} has fewer than {examples} different questions; ask for fewer")


def sample_rows() -> dict[str, list[dict[str, str]]]:
    """Return the bundled files: `test`, one question an episode, and `train`, the demonstrations to draw from."""
    random = Random(SAMPLE_SEED)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for number in range(SAMPLE_EPISODES):
        drawn = episode(random, SAMPLE_DEMONSTRATIONS + 1)
        asked, *shown = [{**row, "episode": f"{drawn.family}-{number:03d}"} for row in drawn.rows()]
        rows["test"].append(asked)
        rows["train"] += shown
    return rows
