"""Progress: a line or bar for people, and a mark at every step for the watchdog of a job.

A GPU kernel that never returns blocks the main thread in the driver. Other threads of the process keep running and
answer other ranks, so only missing steps show that it is stuck.

    begin()                         # expect steps from here on
    for step in range(t_fast):
        mark()
    rest()

Without a GPU, CPU time counts as a step too, since a matrix product may take long on a slow machine.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ltm_eval.system.text import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINE_SECONDS = 10.0
PATIENCE = 5.0  # factor by which a step may take longer while something is compiled


class State:
    """State of this process, whose main thread does all work."""

    steps = 0
    at_work = False
    patience = 1.0
    begun = 0.0
    seconds = 0.0


def mark() -> None:
    """Mark that a step is done or queued on the GPU."""
    State.steps += 1


def begin() -> None:
    """Expect steps from here on."""
    mark()
    State.at_work, State.begun = True, time.monotonic()


def rest() -> None:
    """Expect no steps: the process waits for others, or does work without steps."""
    if State.at_work:
        State.seconds += time.monotonic() - State.begun
    State.at_work = False


def working_seconds() -> float:
    """Return the seconds of work so far, over all finished stretches."""
    return State.seconds


@contextmanager
def patient() -> Iterator[None]:
    """Allow steps `PATIENCE` times as long within the block."""
    State.patience = PATIENCE
    try:
        yield
    finally:
        State.patience = 1.0
        mark()


class Progress:
    """Report progress by a plain line every few seconds.

    Args:
        total: number of documents.
        label: name of the work.
        left: seconds until all work of the command is done, after so many documents; None tells of this work alone.
        quiet: print nothing.
    """

    def __init__(
        self, total: int, label: str, left: Callable[[int], float] | None = None, *, quiet: bool = False
    ) -> None:
        self._total, self._label, self._left, self._quiet = total, label, left, quiet
        self._begun = self._said = time.monotonic()
        self._documents = self._tokens = 0

    def advance(self, documents: int, tokens: int) -> None:
        """Count further documents and tokens; 0 if tokens are not counted."""
        self._documents += documents
        self._tokens += tokens
        now = time.monotonic()
        if not self._quiet and (now - self._said >= LINE_SECONDS or self._documents == self._total):
            self._said = now
            parts = filter(None, (f"{self._documents}/{self._total} documents", self._speed, self._until))
            print(f"{self._label}: {', '.join(parts)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the report."""

    @property
    def _speed(self) -> str:
        seconds = max(1e-9, time.monotonic() - self._begun)
        return f"{self._tokens / seconds:,.0f} tokens/s" if self._tokens else ""

    @property
    def _until(self) -> str:
        if self._left is not None:
            return f"all done in about {duration(self._left(self._documents))}"
        each = (time.monotonic() - self._begun) / max(1, self._documents)
        return f"{each * (self._total - self._documents):.0f} s left"


class Bar(Progress):
    """Progress as a tqdm bar, as in lm-eval's command."""

    def __init__(self, total: int, label: str, left: Callable[[int], float] | None = None) -> None:
        from tqdm.auto import tqdm

        super().__init__(total, label, left, quiet=True)
        self._bar: Any = tqdm(total=total, desc=label)

    def advance(self, documents: int, tokens: int) -> None:
        super().advance(documents, tokens)
        told = (
            (self._speed, self._until) if self._left is not None else (self._speed,)
        )  # tqdm tells of this work itself
        self._bar.set_postfix_str(", ".join(filter(None, told)), refresh=False)
        self._bar.update(documents)

    def close(self) -> None:
        self._bar.close()


def silent(total: int, label: str) -> Progress:
    """Report nothing."""
    return Progress(total, label, quiet=True)


def for_terminal() -> type[Progress]:
    """Return a bar if stderr is a terminal, else a plain line every few seconds."""
    return Bar if sys.stderr.isatty() else Progress


def for_notebook() -> Callable[[int, str], Progress]:
    """Return a bar in a notebook, and nothing where Python runs without one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return Bar if hasattr(shell, "kernel") else silent
