"""How far the work is: one progress line or bar for people, and a mark at every step for the watch of a job.

A GPU kernel that never returns holds the main thread in a call of the driver. Python's other threads live on, so the
process still answers the others, and nothing but the missing steps tells that it is stuck.

    begin()                         # answers are being made; at rest otherwise, however long that takes
    for step in range(t_fast):
        mark()
    rest()

Where no GPU is in use, processor time counts as a step too: a product may be long on a slow machine, but it computes.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINE_SECONDS = 10.0
PATIENCE = 5.0  # how many times longer a step may take in which something is compiled


class State:
    """What this process is at; its main thread alone works."""

    steps = 0
    at_work = False
    patience = 1.0
    begun = 0.0
    seconds = 0.0


def mark() -> None:
    """Say that a step is done or has been handed to the GPU."""
    State.steps += 1


def begin() -> None:
    """Expect steps from here on."""
    mark()
    State.at_work, State.begun = True, time.monotonic()


def rest() -> None:
    """Expect no steps: this process waits for others, or does what has no steps."""
    if State.at_work:
        State.seconds += time.monotonic() - State.begun
    State.at_work = False


def working_seconds() -> float:
    """Return how long this process was at work so far, over all stretches that have ended."""
    return State.seconds


@contextmanager
def patient() -> Iterator[None]:
    """Let a step take `PATIENCE` times longer until the block ends."""
    State.patience = PATIENCE
    try:
        yield
    finally:
        State.patience = 1.0
        mark()


class Progress:
    """Tell how far a long method is: a plain line every few seconds.

    Args:
        total: documents.
        label: what is done with them.
        quiet: say nothing.
    """

    def __init__(self, total: int, label: str, *, quiet: bool = False) -> None:
        self._total, self._label, self._quiet = total, label, quiet
        self._begun = self._said = time.monotonic()
        self._documents = self._tokens = 0

    def advance(self, documents: int, tokens: int) -> None:
        """Count so many more documents and tokens; 0 tokens where they are not counted."""
        self._documents += documents
        self._tokens += tokens
        now = time.monotonic()
        if not self._quiet and (now - self._said >= LINE_SECONDS or self._documents == self._total):
            self._said = now
            left = (now - self._begun) / max(1, self._documents) * (self._total - self._documents)
            done = f"{self._documents}/{self._total} documents"
            parts = filter(None, (done, self._speed, f"{left:.0f} s left"))
            print(f"{self._label}: {', '.join(parts)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Say that no more will come."""

    @property
    def _speed(self) -> str:
        seconds = max(1e-9, time.monotonic() - self._begun)
        return f"{self._tokens / seconds:,.0f} tokens/s" if self._tokens else ""


class Bar(Progress):
    """The same as a bar of tqdm's, as users of lm-eval's command know it."""

    def __init__(self, total: int, label: str) -> None:
        from tqdm import tqdm

        super().__init__(total, label, quiet=True)
        self._bar: Any = tqdm(total=total, desc=label)

    def advance(self, documents: int, tokens: int) -> None:
        super().advance(documents, tokens)
        self._bar.set_postfix_str(self._speed, refresh=False)
        self._bar.update(documents)

    def close(self) -> None:
        self._bar.close()


def silent(total: int, label: str) -> Progress:
    """Report nothing."""
    return Progress(total, label, quiet=True)


def for_terminal() -> Callable[[int, str], Progress]:
    """Return a bar if stderr is a terminal, else a plain line every few seconds."""
    return Bar if sys.stderr.isatty() else Progress
