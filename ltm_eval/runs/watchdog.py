"""Notice a lost process of a job: one that fell silent, and one that lives but takes no more steps.

torch's collectives end by themselves only after their time limit, which must be long if ranks finish far apart, and its
monitored barrier names a missing rank only where all should already have arrived. So every process says every few
seconds in the job's store that it is there, and listens to the others, in threads of their own. If a rank is stopped,
or its interpreter hangs, it falls silent; then every other rank ends with exit code 5, and the first to notice says
which one it was. Clocks of machines are never compared: the listener counts the silence. A rank that is heard but takes
no more steps (`system.progress`), as in a GPU kernel that never returns, gives itself up.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from ltm_eval.system.errors import IncompleteError, error_line
from ltm_eval.system.progress import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch._C._distributed_c10d import Store


R = TypeVar("R")

SILENCE_SECONDS = 40.0  # a rank that has said nothing for so long is lost
# A process at work without a step for so long is stuck; with PERIOD and GRACE the job then ends within two minutes
STALL_SECONDS = 110.0
PERIOD_SECONDS = 2.0
GRACE_SECONDS = 3.0  # between the verdict and the end of this process, so that work that looks at it can end by itself
COMPUTING = 0.02  # share of one processor above which a process computes, and is not merely watched
LEFT, FAILED, TOLD = "left", "failed", "told"


class Watch:
    """Count the steps of this process, from a thread of its own."""

    def __init__(self, seconds: float = STALL_SECONDS) -> None:
        """Begin to count.

        Args:
            seconds: time without a step after which a process at work is stuck.
        """
        self.seconds = seconds
        self._seen = -1
        self._since = self._computed = 0.0

    def restart(self) -> None:
        """Count anew: the process was stopped, and could take no step."""
        self._seen = -1

    def is_stuck(self) -> bool:
        """Return whether the process is at work and took no step for too long; call it every few seconds."""
        now, computed = time.monotonic(), time.process_time()
        if not State.at_work or State.steps != self._seen:
            self._seen, self._since, self._computed = State.steps, now, computed
            return False
        if now - self._since <= self.seconds * State.patience:
            return False
        torch = sys.modules.get("torch")
        on_gpu = torch is not None and torch.cuda.is_initialized()  # for which it may wait with a busy processor
        if not on_gpu and computed - self._computed > COMPUTING * (now - self._since):
            self._since, self._computed = now, computed
            return False
        return True


def beat_key(rank: int) -> str:
    """Return the key of a rank's beats in the store."""
    return f"beat/{rank}"


class Heartbeat:
    """The threads of one process."""

    def __init__(
        self,
        store: Store,
        rank: int,
        names: Sequence[str],
        *,
        stands_in: Callable[[], bool],
        silence: float = SILENCE_SECONDS,
        stall: float = STALL_SECONDS,
    ) -> None:
        """Prepare to watch; the first beat of every process is in the store.

        Args:
            store: a connection that nothing else uses, since a call on it may block.
            rank: of this process.
            names: host and process id of each rank, by which a user finds it.
            stands_in: whether this rank prints the error; asked if the store is gone and cannot tell which was first.
            silence: seconds after which a rank counts as lost.
            stall: seconds without a step after which this rank counts as stuck.
        """
        self._store, self._rank, self._names, self._silence = store, rank, names, silence
        self.stands_in = stands_in
        self._watch = Watch(stall)
        self._keys = [beat_key(other) for other in range(len(names))]
        self._stop, self._judged = threading.Event(), threading.Event()
        self._heard = [(b"", time.monotonic())] * len(names)
        self._answered = time.monotonic()
        self._failed = self._broken = False
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._beat, self._judge)]
        # who is lost; empty if another rank has reported an error of its own, None while all is well
        self.verdict: str | None = None

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Stop watching; the others no longer expect this rank."""
        self._stop.set()
        for thread in self._threads:
            thread.join(GRACE_SECONDS)
        if not self._broken:
            _tried(lambda: self._store.set(self._keys[self._rank], LEFT))

    def others_left(self, seconds: float) -> bool:
        """Wait until all others have left."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if all(beat == LEFT.encode() for beat in self._store.multi_get(self._keys)):
                    return True
            except RuntimeError:
                return False
            time.sleep(0.05)
        return False

    def wait_for_verdict(self) -> str | None:
        """Return the verdict once it is known, after a connection to a rank broke."""
        self._judged.wait(self._silence + 2 * PERIOD_SECONDS)
        return self.verdict

    def _beat(self) -> None:
        """Send this rank's beats and read those of others. A call may never return, so `_judge` has its own thread."""
        beats = 0
        while not self._stop.wait(self._period):
            beats += 1
            try:
                self._store.set(self._keys[self._rank], str(beats))
                failed = self._store.check([FAILED])
                found = self._store.multi_get(self._keys)
            except RuntimeError:
                self._broken = True
                return
            now = time.monotonic()
            pairs = zip(self._heard, found, strict=True)
            self._heard = [old if old[0] == beat else (beat, now) for old, beat in pairs]
            self._failed, self._answered = failed, now

    @property
    def _period(self) -> float:
        return min(PERIOD_SECONDS, self._silence / 5, self._watch.seconds / 5)

    def _judge(self) -> None:
        """Count silence, and end this process once a rank is lost."""
        looked = woken = time.monotonic()
        while not self._stop.wait(self._period):
            now = time.monotonic()
            if now - looked > self._silence / 2:  # stopped itself (SIGSTOP, Ctrl-Z), maybe with all others
                woken = now
                self._watch.restart()
            looked = now
            if self._failed:
                if self._rank == 0:  # the store ends with this process, maybe before the others have looked
                    self.stands_in()
                self._end("", tell=False)
                return
            if self._broken or now - max(self._answered, woken) > self._silence:
                self._end(f"{self._names[0]}, which keeps the job's store, no longer answers", tell=self.stands_in())
                return
            silent = [
                rank
                for rank, (beat, since) in enumerate(self._heard)
                if beat != LEFT.encode() and self._answered - max(since, woken) > self._silence
            ]
            if self._watch.is_stuck():
                own = f"rank {self._rank} ({self._names[self._rank]})"
                self._end(f"{own} is stuck: no step for {self._watch.seconds:.0f} s", tell=self._first_to_tell())
                return
            if silent:
                lost = ", ".join(f"rank {rank} ({self._names[rank]})" for rank in silent)
                self._end(f"{lost} has not answered for {self._silence:.0f} s", tell=self._first_to_tell())
                return

    def _end(self, verdict: str, *, tell: bool) -> None:
        """Let the main thread end by itself, then end the process: it may hang in a call that nothing interrupts."""
        self.verdict = verdict
        if tell:
            line = error_line(IncompleteError(f"{verdict}; nothing finished is lost, the same command resumes"))
            print(line, file=sys.stderr, flush=True)
        self._judged.set()
        if not self._stop.wait(GRACE_SECONDS):
            os._exit(IncompleteError.exit_code)

    def _first_to_tell(self) -> bool:
        """Return whether this rank is the first to report; if the store does not answer, whether it stands in."""
        first = _tried(lambda: self._store.add(TOLD, 1) == 1)
        _tried(lambda: self._store.set(FAILED, str(self._rank)))
        return self.stands_in() if first is None else first


def _tried(call: Callable[[], R]) -> R | None:
    """Return the result of a call on the store; None if it fails or does not return."""
    found: list[R] = []

    def work() -> None:
        with suppress(RuntimeError):
            found.append(call())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(GRACE_SECONDS)
    return found[0] if found else None
