"""Few-shot prompts: which demonstrations a document gets, and a finished prompt taken apart again.

lm-eval draws demonstrations from one generator for all documents in turn, so that a document's prompt depends on rank,
order and limit. Here the draw is keyed by the few-shot seed and the document itself. A draw of 4 begins a draw of 8.
A document with a field `episode` is shown rows of its own episode only.

Condition `other` (z fitted on another question's demonstrations) needs demonstrations that are not the document's own.
They are a second draw keyed by the same seed and document, which leaves out what the first one drew, or comes from
another episode. So they depend on nothing that stands beside the document: not on rank, order, limit or batch. The
prompt that holds them travels with the request as `other_prompt`; the request's own prompt stays as it is, so that the
samples of all conditions pair by prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Literal, get_args

from ltm_eval.results.answers import DELIMITER
from ltm_eval.system.errors import UsageError, check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


Condition = Literal["prompt", "demos", "demos+prompt", "shuffled", "other", "prior"]
CONDITIONS: tuple[str, ...] = get_args(Condition)
OTHER = "other"  # z is fitted on another question's few-shot examples
ALL_CONDITIONS = "all"
# Of `--condition all`: what is compared with first, then its controls.
CONDITION_ORDER = ("demos", "shuffled", "other", "prior", "prompt", "demos+prompt")


def conditions_of(text: str) -> tuple[str, ...]:
    """Return the conditions that `demos`, `demos,other` or `all` names, each once.

    Raises:
        UsageError: a name is not known.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if ALL_CONDITIONS in names:
        return CONDITION_ORDER
    for name in names or (text,):
        check_choice("condition", name, (*CONDITIONS, ALL_CONDITIONS))
    return names


QUESTION_LEADS = ("Question:", "Q:")  # how a question begins in lm-eval's question-answering prompts
LEAD_LIMIT = 32  # characters


@dataclass(frozen=True)
class Prompt:
    """A prompt taken apart; `"".join(demonstrations) + question` is the prompt."""

    # Each with the delimiter that follows it; a description before the first one counts as one.
    demonstrations: tuple[str, ...]
    question: str


def split_prompt(context: str) -> Prompt:
    """Take a few-shot prompt apart, exactly.

    A piece begins after a blank line at the prompt's lead. The lead is `Question:` or `Q:` where the last piece, else
    any piece, begins so (a question may hold blank lines itself); otherwise it is what the last piece begins with, up
    to and including a colon within its first 32 characters and first line. Without any lead every blank line ends a
    piece. White space at the end of the prompt begins no piece: it belongs to the question.
    """
    told = context.rstrip()
    lead = _lead(told.split(DELIMITER))
    boundary = re.compile(f"(?<=\n\n)(?={re.escape(lead)})" if lead else "\n\n")
    cuts = [0, *(found.end() for found in boundary.finditer(told)), len(context)]
    pieces = [context[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
    return Prompt(tuple(pieces[:-1]), pieces[-1])


def _lead(pieces: Sequence[str]) -> str:
    """The text that begins a piece, or nothing."""
    for piece in (pieces[-1], *pieces):
        for known in QUESTION_LEADS:
            if piece.lstrip("\n").startswith(known):
                return known
    before, colon, _ = pieces[-1][:LEAD_LIMIT].partition(":")
    return before + colon if colon and before.strip() and "\n" not in before else ""


def draw(
    pool_size: int, n: int, *, seed: int | None, document: Mapping[str, Any], purpose: str = ""
) -> tuple[int, ...]:
    """`n` different positions below `pool_size`, in the order of the prompt, fixed by seed and document alone.

    Args:
        purpose: draws for different purposes are independent.

    Raises:
        UsageError: `n` is negative or above `pool_size`.
    """
    if not 0 <= n <= pool_size:
        raise UsageError(
            f"num_fewshot must lie between 0 and the {pool_size} training examples that may be shown, got {n}; "
            "lower it or give more training examples"
        )
    key = hashlib.sha256(f"{seed}\n{_canonical(document)}{purpose}".encode()).digest()
    generator = Random(int.from_bytes(key, "big"))
    # A shuffle that stops after n. Of Python's generators only random() is promised to stay the same between versions.
    moved: dict[int, int] = {}
    drawn = []
    for i in range(n):
        j = i + int(generator.random() * (pool_size - i))
        drawn.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return tuple(drawn)


def _canonical(document: Mapping[str, Any]) -> str:
    """JSON that does not depend on the order of the fields."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
