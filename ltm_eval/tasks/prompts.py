"""Few-shot prompts: the conditions, which examples a document gets, and splitting a finished prompt.

Needs the standard library only, so that the report can split prompts without importing lm-eval.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Literal, get_args

from ltm_eval.results.answers import DELIMITER
from ltm_eval.system.errors import UsageError, check_choice, spelt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


Condition = Literal["prompt", "demos", "demos+prompt", "shuffled", "other", "prior"]
CONDITIONS: tuple[str, ...] = get_args(Condition)
OTHER = "other"  # z is fitted on another question's few-shot examples
ALL_CONDITIONS = "all"
# Order of `--condition all`: the reference, its controls, the rest.
CONDITION_ORDER = ("demos", "shuffled", "other", "prior", "prompt", "demos+prompt")


def conditions_of(text: str) -> tuple[str, ...]:
    """Parse `demos`, `demos,other` or `all`; drop duplicates.

    Raises:
        UsageError: a name is unknown.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if ALL_CONDITIONS in names:
        return CONDITION_ORDER
    for name in names or (text,):
        check_choice(spelt("condition"), name, (*CONDITIONS, ALL_CONDITIONS))
    return names


QUESTION_LEADS = ("Question:", "Q:")  # how a question begins in lm-eval's question-answering prompts
LEAD_LIMIT = 32  # characters


@dataclass(frozen=True)
class Prompt:
    """A split prompt; `"".join(demonstrations) + question` restores it."""

    # Each ends in its delimiter; a description before the first is an element of its own.
    demonstrations: tuple[str, ...]
    question: str


def split_prompt(context: str) -> Prompt:
    """Split a few-shot prompt losslessly.

    A piece begins where the prompt's lead follows a blank line. The lead is `Question:` or `Q:` if the last piece, or
    else any piece, begins with it (a question may contain blank lines); otherwise it is the beginning of the last piece
    up to a colon within its first line and 32 characters. Without a lead every blank line ends a piece. Trailing white
    space belongs to the question.
    """
    stripped = context.rstrip()
    lead = _lead(stripped.split(DELIMITER))
    boundary = re.compile(f"(?<=\n\n)(?={re.escape(lead)})" if lead else "\n\n")
    cuts = [0, *(found.end() for found in boundary.finditer(stripped)), len(context)]
    pieces = [context[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
    return Prompt(tuple(pieces[:-1]), pieces[-1])


def _lead(pieces: Sequence[str]) -> str:
    """Return the lead of a prompt's pieces; empty if there is none."""
    for piece in (pieces[-1], *pieces):
        for known in QUESTION_LEADS:
            if piece.lstrip("\n").startswith(known):
                return known
    before, colon, _ = pieces[-1][:LEAD_LIMIT].partition(":")
    return before + colon if colon and before.strip() and "\n" not in before else ""


def draw(
    pool_size: int, n: int, *, seed: int | None, document: Mapping[str, Any], purpose: str = ""
) -> tuple[int, ...]:
    """Return `n` distinct indices below `pool_size`, in prompt order, fixed by seed and document alone.

    Args:
        purpose: key of an independent draw.

    Raises:
        UsageError: `n` is negative or above `pool_size`.
    """
    if not 0 <= n <= pool_size:
        raise UsageError(
            f"{spelt('shots')} must be between 0 and the {pool_size} available training examples, got {n}; "
            "lower it or provide more training examples"
        )
    key = hashlib.sha256(f"{seed}\n{_canonical(document)}{purpose}".encode()).digest()
    generator = Random(int.from_bytes(key, "big"))
    # A partial shuffle; only random() is guaranteed to stay the same across versions of Python.
    moved: dict[int, int] = {}
    drawn = []
    for i in range(n):
        j = i + int(generator.random() * (pool_size - i))
        drawn.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return tuple(drawn)


def _canonical(document: Mapping[str, Any]) -> str:
    """Return JSON that does not depend on the order of fields."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
