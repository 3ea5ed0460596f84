"""One progress bar on a terminal, plain lines elsewhere: documents, tokens per second, time left."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# Whether this process gets on with its work: what it does for a job marks every step, and a watch looks at the marks.
#
# A GPU kernel that never returns holds the main thread in a call of the driver. Python's other threads live on, so the
# process still answers the others, and nothing but the missing steps tells that it is stuck.
#
#     begin()                         # answers are being made; at rest otherwise, however long that takes
#     for step in range(t_fast):
#         mark()
#     rest()
#
# Where no GPU is in use, processor time counts as a step too: a product may be long on a slow machine, but it computes.

PATIENCE = 5.0
"""How many times longer a step may take in which something is compiled."""


class _State:
    """Of this process: its main thread alone is at work."""

    steps = 0
    at_work = False
    patience = 1.0
    begun = 0.0
    seconds = 0.0


def mark() -> None:
    """A step is done or has been handed to the GPU."""
    _State.steps += 1


def begin() -> None:
    """Steps are expected from here on."""
    mark()
    _State.at_work, _State.begun = True, time.monotonic()


def rest() -> None:
    """No steps are expected: this process waits for others, or does what has no steps."""
    if _State.at_work:
        _State.seconds += time.monotonic() - _State.begun
    _State.at_work = False


def working_seconds() -> float:
    """Time this process was at work so far, over all stretches that have ended."""
    return _State.seconds


@contextmanager
def patient() -> Iterator[None]:
    """A step may take `PATIENCE` times longer until the block ends."""
    _State.patience = PATIENCE
    try:
        yield
    finally:
        _State.patience = 1.0
        mark()


LINE_SECONDS = 10.0


class Progress(Protocol):
    """Where a long method reports what it has finished."""

    def advance(self, documents: int, tokens: int) -> None:
        """So many more documents and tokens are done."""

    def close(self) -> None:
        """No more will come."""


def silent(total: int, label: str) -> Progress:
    """Reports nothing."""
    return _Silent()


def tqdm_bar(total: int, label: str) -> Progress:
    """What users of lm-eval's command are used to."""
    return _Tqdm(total, label)


def for_terminal() -> Callable[[int, str], Progress]:
    """A rich bar where stderr is a terminal, else a plain line every few seconds."""
    return _Bar if sys.stderr.isatty() else _Lines


class _Silent:
    def advance(self, documents: int, tokens: int) -> None:
        return

    def close(self) -> None:
        return


class _Tqdm:
    def __init__(self, total: int, label: str) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(total=total, desc=label)

    def advance(self, documents: int, tokens: int) -> None:
        self._bar.update(documents)

    def close(self) -> None:
        self._bar.close()


def _speed(tokens: int, seconds: float) -> str:
    """Empty where no tokens were counted, as a baseline's are not."""
    return f"{tokens / max(1e-9, seconds):,.0f} tokens/s" if tokens else ""


class _Bar:
    def __init__(self, total: int, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self._bar = RichProgress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task(label, total=total, speed="")
        self._begun, self._tokens = time.monotonic(), 0
        self._bar.start()

    def advance(self, documents: int, tokens: int) -> None:
        self._tokens += tokens
        self._bar.update(self._task, advance=documents, speed=_speed(self._tokens, time.monotonic() - self._begun))

    def close(self) -> None:
        self._bar.stop()


class _Lines:
    def __init__(self, total: int, label: str) -> None:
        self._total, self._label = total, label
        self._begun = self._said = time.monotonic()
        self._documents = self._tokens = 0

    def advance(self, documents: int, tokens: int) -> None:
        self._documents += documents
        self._tokens += tokens
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS or self._documents == self._total:
            self._said = now
            self._say(now - self._begun)

    def _say(self, spent: float) -> None:
        left = spent / max(1, self._documents) * (self._total - self._documents)
        done = f"{self._documents}/{self._total} documents"
        parts = filter(None, (done, _speed(self._tokens, spent), f"{left:.0f} s left"))
        print(f"{self._label}: {', '.join(parts)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        return
