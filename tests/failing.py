"""Make the machine fail at a chosen moment; nothing of this is in the package.

    arm("journal.written:5:int", monkeypatch.setattr)      # in this process
    python -m tests.failing SPEC run --model …             # the command, armed

A spec is `name:n:action`, several joined by commas: the n-th time (from 1) that the place is passed the action happens,
once. A place is an operation on a file of `system.files` or `runs.journal`, a function of PLACES, or `file.NAME`, at
which a file whose name begins so is written but not named yet; `*` counts every operation that can fail. Actions are
an error of the system, a signal, `sleep`, or `short`, a write of half the bytes.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import os
import signal
import stat
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ERRORS = {name: getattr(errno, name.upper()) for name in ("enospc", "edquot", "eio", "eacces", "emfile")}
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
SLEEP_SECONDS = 3600.0
OPERATIONS = (  # that can fail; before each of them
    *("lock.open", "results.open", "results.write", "results.sync", "results.replace"),
    *("journal.read", "journal.create", "journal.write", "journal.sync"),
)
PLACES = {  # functions, before or after which a process may be killed, stopped or held up
    "resume.begin": ("ltm_eval.runs.session", "unused_date", "before"),
    "manifest.write": ("ltm_eval.runs.session", "Manifest.write", "before"),
    "results.written": ("ltm_eval.runs.session", "Session.write", "after"),
    "lm.fit": ("ltm_eval.harness.answering", "fit_documents", "before"),
    "run.task": ("ltm_eval.harness.evaluation", "evaluate_task", "after"),
    "baselines.chunk": ("ltm_eval.harness.baseline", "seed_generators", "before"),
}


@dataclass
class Armed:
    """A place that will fail."""

    name: str
    left: int  # passes until it does
    action: str | Callable[[], None]

    def is_due(self, name: str) -> bool:
        if self.name == name or (self.name == "*" and name in OPERATIONS):
            self.left -= 1
            return self.left == 0
        return False

    def act(self) -> str:
        """Do what is due; `short` is left to the place."""
        if callable(self.action):
            self.action()
        elif self.action in ERRORS:
            raise OSError(ERRORS[self.action], os.strerror(ERRORS[self.action]), self.name)
        elif self.action in SIGNALS:
            os.kill(os.getpid(), SIGNALS[self.action])
        elif self.action == "sleep":
            time.sleep(SLEEP_SECONDS)
        return str(self.action)


class Failing:
    """What is armed; every place asks it."""

    def __init__(self, armed: list[Armed]) -> None:
        self.armed = armed

    def passes(self, name: str) -> str:
        """Pass a place; returns the action that was due, if it is not over with."""
        return "".join([one.act() for one in self.armed if one.is_due(name)])

    def around(self, honest: Callable[..., Any], *, before: str = "", after: str = "") -> Callable[..., Any]:
        def function(*given: Any, **named: Any) -> Any:
            self.passes(before)
            found = honest(*given, **named)
            self.passes(after)
            return found

        return function


class File:
    """An open file whose writes can fail."""

    def __init__(self, failing: Failing, honest: Any) -> None:
        self._failing, self._honest = failing, honest

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "writelines"):
            self._failing.passes("results.write")
        return getattr(self._honest, name)

    def __enter__(self) -> File:
        self._honest.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._honest.__exit__(*raised)


class OsOfResults:
    """`os` as `system.files` sees it."""

    def __init__(self, failing: Failing) -> None:
        self.fsync = failing.around(os.fsync, before="results.sync")
        self._replace = failing.around(os.replace, before="results.replace", after="results.replaced")
        self._failing = failing
        self.unlink = failing.around(os.unlink, before="results.unlink")

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, partial: Any, path: Any) -> None:
        self._failing.passes(f"file.{os.path.basename(path).partition('_')[0]}")
        self._replace(partial, path)


class OsOfJournal:
    """`os` as `runs.journal` sees it."""

    def __init__(self, failing: Failing) -> None:
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            self._failing.passes("journal.create")
        return os.open(path, flags, *mode)

    def write(self, handle: int, data: bytes) -> int:
        short = self._failing.passes("journal.write") == "short"
        written = os.write(handle, data[: len(data) // 2] if short else data)
        self._failing.passes("journal.written")
        return written

    def fsync(self, handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            os.fsync(handle)
            return
        self._failing.passes("journal.sync")
        os.fsync(handle)
        self._failing.passes("journal.synced")


def parsed(spec: str) -> list[Armed]:
    found = []
    for part in spec.split(","):
        name, number, action = part.split(":")
        assert action in (*ERRORS, *SIGNALS, "sleep", "short"), action
        found.append(Armed(name, int(number), action))
    return found


def arm(spec: str | Armed, put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Arm this process.

    Args:
        spec: what fails, or one place with what to call there.
        put: `monkeypatch.setattr` in a test, which disarms at its end.
    """
    import filelock

    from ltm_eval.runs import journal
    from ltm_eval.system import files

    armed = parsed(spec) if isinstance(spec, str) else [spec]
    failing = Failing(armed)

    def open_result(path: Any, mode: str = "r", **more: Any) -> Any:
        if "x" not in mode:
            return builtins.open(path, mode, **more)
        failing.passes("results.open")
        return File(failing, builtins.open(path, mode, **more))

    modules: tuple[Any, Any] = (files, journal)
    for module in modules:
        module.__dict__.setdefault("open", builtins.open)
    put(files, "os", OsOfResults(failing))
    put(files, "open", open_result)
    put(journal, "os", OsOfJournal(failing))
    put(journal, "open", failing.around(builtins.open, before="journal.read"))
    put(filelock.FileLock, "acquire", failing.around(filelock.FileLock.acquire, before="lock.open"))
    for name in {one.name for one in armed} & PLACES.keys():
        path, attribute, when = PLACES[name]
        owner: Any = importlib.import_module(path)
        *outer, last = attribute.split(".")
        for part in outer:
            owner = getattr(owner, part)
        put(owner, last, failing.around(getattr(owner, last), **{when: name}))


if __name__ == "__main__":
    from ltm_eval.cli import main

    arm(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    sys.exit(main())
