"""One command at a time in an output folder: an advisory lock that dies with the process that holds it.

The file also names its holder, so that a second command and `status` can say who it is. Where the file system knows no
`flock`, the named holder is believed as long as it lives, or as long as it is on another machine.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_eval import failpoints
from ltm_eval.disk import cause, remedy
from ltm_eval.errors import MachineError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = ".ltm_eval.lock"
TRIES, TRY_SECONDS = 5, 0.05
NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Holder:
    """Who works in a folder."""

    host: str
    pid: int
    since: float
    """Unix time."""
    started: str
    """Start time of the process as the kernel counts it; tells a pid that was given anew. Empty where unknown."""

    @property
    def words(self) -> str:
        """As one phrase: `host:pid since …`."""
        return f"{self.host}:{self.pid} since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}"

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that runs no more."""
        return self.host == socket.gethostname() and _start_of(self.pid) != self.started

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), time.time(), _start_of(os.getpid()))


@contextmanager
def holding(folder: Path) -> Iterator[Holder]:
    """Hold `folder` until the block ends, or the process does; leftovers of killed writers are removed.

    Raises:
        RefusedError: another command works there.
        MachineError: the lock file cannot be written.
    """
    try:
        failpoints.hit("lock.open")
        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        told = f"{cause(error, folder)}; {remedy(error, folder)} or choose another --output_path"
        raise MachineError(f"cannot write {folder / NAME}: {told}") from error
    try:
        _take(handle, folder)
        mine = _sign(handle, folder)
        _remove_leftovers(folder)
        try:
            yield mine
        finally:
            _clear(handle)
    finally:
        os.close(handle)


def holder_of(folder: Path) -> Holder | None:
    """Who works in `folder` now; None for nobody."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        named = _read(handle)
        return named if error.errno not in NO_FLOCK or (named and not named.is_gone) else None
    else:
        return None
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    """Raise RefusedError unless the lock is ours now; `status` may hold it for a moment, so it is tried again."""
    for last in (*[False] * TRIES, True):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            unknown = error.errno in NO_FLOCK
            named = _read(handle)
            if unknown and (named is None or named.is_gone):
                return
            if last or unknown:
                hint = f"; if it is gone, remove {folder / NAME}" if unknown else ""
                who = named.words if named else "another process"
                raise RefusedError(
                    f"{folder} is in use by {who}; wait for it or name another --output_path{hint}"
                ) from None
        time.sleep(TRY_SECONDS)


def _sign(handle: int, folder: Path) -> Holder:
    mine = Holder.here()
    try:
        failpoints.hit("lock.write")
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(mine)).encode(), 0)
    except OSError as error:
        raise MachineError(f"cannot write {folder / NAME}: {cause(error, folder)}; {remedy(error, folder)}") from error
    return mine


def _clear(handle: int) -> None:
    """Nobody holds it any more; the file stays, since removing it could let two others hold two files."""
    try:
        os.ftruncate(handle, 0)
    except OSError:
        return


def _read(handle: int) -> Holder | None:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        return Holder(str(found["host"]), int(found["pid"]), float(found["since"]), str(found["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _start_of(pid: int) -> str:
    """Clock ticks after boot at which a process started; empty where there is none or the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _remove_leftovers(folder: Path) -> None:
    """Half-written files of killed runs: nobody else may write here now."""
    for root, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                try:
                    failpoints.hit("lock.leftover")
                    os.unlink(os.path.join(root, name))
                except OSError:
                    continue
