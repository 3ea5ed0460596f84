"""Whether this process gets on with its work: what it does for a job marks every step, and a watch looks at the marks.

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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STALL_SECONDS = 110.0
"""A process at work that takes no step for so long is stuck: with the looks and the grace that follow the job ends
within two minutes."""
PATIENCE = 5.0
"""How many times longer a step may take in which something is compiled."""
COMPUTING = 0.02
"""Share of one processor that tells a process which computes from one whose watchers alone are awake."""


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


class Watch:
    """Looks at the steps, from a thread of its own."""

    def __init__(self, seconds: float = STALL_SECONDS) -> None:
        """Begin to count.

        Args:
            seconds: without a step, after which a process at work is stuck.
        """
        self.seconds = seconds
        self._seen = -1
        self._since = self._computed = 0.0

    def is_stuck(self) -> bool:
        """Whether the process is at work and has taken no step for too long; to be asked every few seconds."""
        now, computed = time.monotonic(), time.process_time()
        moved = not _State.at_work or _State.steps != self._seen
        if moved:
            self._seen, self._since, self._computed = _State.steps, now, computed
            return False
        if now - self._since <= self.seconds * _State.patience:
            return False
        if not _on_gpu() and computed - self._computed > COMPUTING * (now - self._since):
            self._since, self._computed = now, computed
            return False
        return True


def _on_gpu() -> bool:
    """Whether this process uses a GPU, for which it may wait with a busy processor."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
