"""Few-shot prompts: which demonstrations a document gets, and a finished prompt taken apart again.

lm-eval draws demonstrations from one generator for all documents in turn, so that a document's prompt depends on rank,
order and limit. Here the draw is keyed by the few-shot seed and the document itself. A draw of 4 begins a draw of 8.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import LtmEvalError, UsageError, leave

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lm_eval.api.task import ConfigurableTask

    KeyedTask: type[ConfigurableTask]

DELIMITER = "\n\n"
"""Stands after each demonstration: lm-eval's `fewshot_delimiter`."""
QUESTION_LEADS = ("Question:", "Q:")
"""How a question begins in lm-eval's question-answering prompts, GSM8K's among them."""
LEAD_LIMIT = 32


@dataclass(frozen=True)
class Prompt:
    """A prompt taken apart; `"".join(demonstrations) + question` is the prompt."""

    demonstrations: tuple[str, ...]
    """Each with the delimiter that follows it; a description before the first one counts as one."""
    question: str
    """What is to be answered."""


def split_prompt(context: str) -> Prompt:
    """Take a few-shot prompt apart, exactly.

    A piece begins after a blank line at the prompt's lead. The lead is `Question:` or `Q:` where the last piece, else
    any piece, begins so (a question may hold blank lines itself); otherwise it is what the last piece begins with, up
    to and including a colon within its first 32 characters and first line. Without any lead every blank line ends a
    piece.
    """
    lead = _lead(context.split(DELIMITER))
    boundary = re.compile(f"(?<=\n\n)(?={re.escape(lead)})" if lead else "\n\n")
    cuts = [0, *(found.end() for found in boundary.finditer(context)), len(context)]
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


def draw(pool_size: int, n: int, *, seed: int | None, document: Mapping[str, Any]) -> tuple[int, ...]:
    """`n` different positions below `pool_size`, in the order of the prompt, fixed by seed and document alone.

    Raises:
        UsageError: `n` is negative or above `pool_size`.
    """
    if not 0 <= n <= pool_size:
        raise UsageError(
            f"num_fewshot must lie between 0 and the {pool_size} training examples that may be shown, got {n}; "
            "lower it or give more training examples"
        )
    key = hashlib.sha256(f"{seed}\n{_canonical(document)}".encode()).digest()
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


def __getattr__(name: str) -> Any:
    """`KeyedTask`, made when first asked for: splitting a prompt must not cost the import of lm-eval."""
    if name != "KeyedTask":
        raise AttributeError(f"module 'ltm_eval.fewshot' has no attribute {name!r}")
    return _keyed_task()


@cache
def _keyed_task() -> type[ConfigurableTask]:
    """The task class, on lm-eval's."""
    from lm_eval.api.samplers import ContextSampler
    from lm_eval.api.task import ConfigurableTask

    class KeyedSampler(ContextSampler):  # type: ignore[misc]
        """Draws by seed and document; a row equal to the document is never drawn."""

        def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
            super().__init__(rows)
            self.seed: int | None = None
            self.document: Mapping[str, Any] = {}
            self._places: dict[str, list[int]] = {}
            for place, row in enumerate(rows):
                self._places.setdefault(_canonical(row), []).append(place)

        def set_rnd(self, rnd: int | None) -> KeyedSampler:
            """The few-shot seed; None is a seed like any other, so that all processes agree."""
            self.seed = rnd
            return self

        def sample(self, n: int, *_: Any, **__: Any) -> list[Mapping[str, Any]]:
            """`n` rows for `self.document`."""
            same = self._places.get(_canonical(self.document), [])
            drawn = draw(len(self.df) - len(same), n, seed=self.seed, document=self.document)
            return [self.df[_skipping(i, same)] for i in drawn]

    class KeyedTask(ConfigurableTask):  # type: ignore[misc]
        """A YAML task whose prompts do not depend on rank, order, limit or batch, and never show a test document.

        An error of this package ends lm-eval's own command with one line and its exit code; elsewhere it is raised.
        """

        __qualname__ = "KeyedTask"

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config={key: value for key, value in config.items() if key != "class"})
            self.sampler = KeyedSampler(list(self.fewshot_docs() or []))

        def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            """As lm-eval's, less its warning about custom data sets; `dataset_kwargs` win over metadata."""
            load = self.config.custom_dataset
            try:
                if callable(load):
                    self.dataset = load(**{**(self.config.metadata or {}), **(dataset_kwargs or {})})
                else:
                    super().download(dataset_kwargs, **kwargs)
            except LtmEvalError as error:
                leave(error)

        def fewshot_docs(self) -> Any:
            """Rows that may be shown: the few-shot split or samples, else the training split; never the test split."""
            split, samples = self.fewshot_cfg.split, self.fewshot_cfg.samples
            if split is None and samples is None:
                split = self.config.training_split
            hidden = split == self.config.test_split if split is not None else samples is None
            return None if hidden else super().fewshot_docs()

        def build_all_requests(self, **kwargs: Any) -> None:
            """As lm-eval's, after a look at the number of shots: its progress bar would share the line of an error."""
            try:
                draw(len(self.sampler.df), self.config.num_fewshot or 0, seed=None, document={})
            except LtmEvalError as error:
                leave(error)
            super().build_all_requests(**kwargs)

        def fewshot_context(self, doc: Mapping[str, Any], num_fewshot: int, **kwargs: Any) -> Any:
            """The prompt of `doc`."""
            self.sampler.document = doc
            try:
                if num_fewshot < 0:
                    draw(len(self.sampler.df), num_fewshot, seed=None, document=doc)
                return super().fewshot_context(doc, num_fewshot, **kwargs)
            except LtmEvalError as error:
                leave(error)

    KeyedTask.__module__ = __name__
    return KeyedTask


def _skipping(place: int, left_out: Sequence[int]) -> int:
    """The position in the whole pool of position `place` in the pool less `left_out` (ascending)."""
    for gap in left_out:
        place += gap <= place
    return place
