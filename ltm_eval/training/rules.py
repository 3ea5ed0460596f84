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
from typing import TYPE_CHECKING, Any

from ltm_eval.results.answers import DELIMITER, worked
from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


SAMPLE_SEED = 30_311
"""Seed of the bundled episodes; training uses others."""
SAMPLE_EPISODES, SAMPLE_DEMONSTRATIONS = 120, 16
"""Bundled episodes, and demonstrations of each to draw from."""

COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey")
ITEMS = ("kite", "coat", "drum", "lamp", "scarf", "ball", "map", "bell", "cap", "flute", "basket", "ring")
GOODS = ("pears", "cups", "pens", "rolls", "plates", "tiles", "bulbs", "hooks", "stamps", "kites", "lids", "nails")


@dataclass(frozen=True)
class Family:
    """Rules of one kind."""

    low: int
    """Least hidden number."""
    high: int
    """Greatest hidden number."""
    ask: Callable[[Random, int], tuple[str, int]]
    """Draws a question of the rule with this hidden number; returns it and its answer."""


@dataclass(frozen=True)
class Example:
    """One question of an episode."""

    question: str
    answer: int

    @property
    def text(self) -> str:
        """As it stands in lm-eval's GSM8K prompt, blank line included."""
        return worked(self.question, f"#### {self.answer}") + DELIMITER

    def row(self, episode: str) -> dict[str, Any]:
        """As it stands in the bundled files."""
        return {"question": self.question, "answer": f"#### {self.answer}", "episode": episode}


@dataclass(frozen=True)
class Episode:
    """Questions under one hidden number."""

    family: str
    """Name in `FAMILIES`."""
    hidden: int
    """What every answer depends on and no question states."""
    examples: tuple[Example, ...]


def _machine(random: Random, hidden: int) -> tuple[str, int]:
    given = random.randint(1, 20)
    return f"The machine turns {given} into?", given + hidden


def _price(random: Random, hidden: int) -> tuple[str, int]:
    count = random.randint(2, 9)
    return f"The price of {count} {random.choice(GOODS)}?", count * hidden


def _locker(random: Random, hidden: int) -> tuple[str, int]:
    return f"The locker of the {random.choice(COLOURS)} {random.choice(ITEMS)}?", hidden


FAMILIES = {"machine": Family(1, 9, _machine), "price": Family(2, 9, _price), "locker": Family(0, 9, _locker)}
"""A machine that adds the hidden number, goods that all cost it, a locker that has it."""


def episode(random: Random, examples: int) -> Episode:
    """An episode of a random family whose questions all differ.

    Raises:
        UsageError: a family cannot ask that many different questions.
    """
    name = random.choice(sorted(FAMILIES))
    family = FAMILIES[name]
    hidden = random.randint(family.low, family.high)
    found: dict[Example, None] = {}
    for _ in range(1_000 + 100 * examples):
        if len(found) == examples:
            return Episode(name, hidden, tuple(found))
        found.setdefault(Example(*family.ask(random, hidden)))
    raise UsageError(f"an episode of rule {name!r} has fewer than {examples} different questions; ask for fewer")


def sample_rows() -> dict[str, list[dict[str, Any]]]:
    """The bundled files: `test`, one question an episode, and `train`, the demonstrations to draw from."""
    random = Random(SAMPLE_SEED)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for number in range(SAMPLE_EPISODES):
        drawn = episode(random, SAMPLE_DEMONSTRATIONS + 1)
        name = f"{drawn.family}-{number:03d}"
        rows["test"].append(drawn.examples[0].row(name))
        rows["train"] += [example.row(name) for example in drawn.examples[1:]]
    return rows
