"""Signals that ask a run to end: the first ends it in order, a second at once; finished answers are on disk either way.

SIGINT ends with exit code 130; SIGTERM, SIGHUP, and SIGUSR1, which batch systems send ahead of a time limit, with 143.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

GRACE_SECONDS = 8.0
"""After that the process ends, wherever it is."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
INTERRUPTED, TERMINATED = 130, 143


class Stopped(KeyboardInterrupt):
    """A signal asked the run to end; no `except Exception` swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def code_of(stop: BaseException) -> int:
    """Exit code of a run that was stopped."""
    return TERMINATED if isinstance(stop, Stopped) and stop.signum != signal.SIGINT else INTERRUPTED


def told(stop: BaseException) -> str:
    """What the user reads of it."""
    if not isinstance(stop, Stopped):
        return "interrupted"
    return f"stopped by {stop}; finished answers are kept, the same command resumes"


class _Process:
    """Whether this process ends with the command."""

    ends = False


def ends_with_command() -> None:
    """Say that nothing follows the command in this process; once stopped, every further signal ends it at once."""
    _Process.ends = True


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` where the main thread is when a signal comes.

    Handlers are put back at the end, unless the process is about to end: its last lines are no place for a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[threading.Timer] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, at_once)
        late = threading.Timer(GRACE_SECONDS, os._exit, [code_of(Stopped(signum))])
        late.daemon = True
        late.start()
        timers.append(late)
        raise Stopped(signum)

    def at_once(signum: int, frame: FrameType | None) -> None:
        os._exit(code_of(Stopped(signum)))

    before = {one: signal.signal(one, stop) for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for late in timers:
            late.cancel()
        if not (timers and _Process.ends):
            for one, handler in before.items():
                signal.signal(one, handler)
