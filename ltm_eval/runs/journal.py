"""Finished answers on disk, so that a run which was cut off goes on where it stopped.

    <folder>/journal/<uuid>.jsonl    append-only: crc32 (8 hex digits), space, ASCII JSON, LF

Every start of every process writes a file of its own, made with its first line, and no file is changed by another. A
line is a head (settings of what follows), a plan (a call of the model that begins) or an answer. An answer's key is the
sha256 of the settings and the request's content, so that any process may read every file and none takes an answer of
another checkpoint or other settings. A line that a failed or interrupted write left half-written is skipped, as is one
whose checksum is wrong; what it held is done again. Nothing here is ever unpickled.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from ltm_eval.system.errors import MachineError, RefusedError, ResultsError
from ltm_eval.system.files import cause, check_regular, refuse_links, remedy
from ltm_eval.system.records import OpenRecord, Whole

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
FOLDER = "journal"
SYNC_SECONDS = 0.1  # answers that end sooner after a flush may wait for the next one, or the batch's end
_CRC = 9
_KEY = slice(_CRC + 8, _CRC + 8 + 64)
_KEYED = b'{"key":"'
_TASK = b'","task":"'
_NON_FINITE = "non-finite"


def canonical(content: Any) -> str:
    """Return `content` as strict ASCII JSON; floats keep every bit, non-finite ones are spelt out."""
    try:
        return json.dumps(content, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_spelt(content), separators=(",", ":"), allow_nan=False)


def _spelt(content: Any) -> Any:
    if isinstance(content, float) and not math.isfinite(content):
        return {_NON_FINITE: repr(float(content))}
    if isinstance(content, dict):
        return {name: _spelt(value) for name, value in content.items()}
    return [_spelt(value) for value in content] if isinstance(content, (list, tuple)) else content


def _read_back(found: dict[str, Any]) -> Any:
    return float(found[_NON_FINITE]) if found.keys() == {_NON_FINITE} else found


def digest(content: Any) -> str:
    """Return the sha256 (hex) of `content` with its keys in order."""
    ordered = json.dumps(_spelt(content), sort_keys=True, separators=(",", ":"), default=str)
    return sha256(ordered.encode()).hexdigest()


def encode(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of the journal."""
    text = canonical(row).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def is_whole(line: bytes) -> bool:
    """Return whether a line (without its end) is as it was written."""
    try:
        return line[8:9] == b" " and int(line[:8], 16) == zlib.crc32(line[_CRC:])
    except ValueError:
        return False


def decode(line: bytes) -> dict[str, Any]:
    """Return the row of a line.

    Raises:
        ValueError: it is not as it was written, or no object.
    """
    if not is_whole(line):
        raise ValueError("checksum")
    text = line[_CRC:].decode("ascii")
    row = json.loads(text, object_hook=_read_back if _NON_FINITE in text else None)
    if not isinstance(row, dict):
        raise ValueError("not an object")
    return row


class Place(NamedTuple):
    """Where an answer stands."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Head(OpenRecord):
    """First line of a file: what its answers are of."""

    launch: str  # start of the command that wrote it
    settings: Mapping[str, Any]
    run: Mapping[str, Any] | None = None  # the manifest of a run (`session.Manifest`)
    file: str = ""  # name of the file, when it was read


@dataclass(frozen=True)
class Plan(OpenRecord):
    """A call of the model that begins: what is asked for of one task."""

    launch: str
    time: float  # Unix time
    task: str
    kind: str  # the model's method
    total: Whole  # answers asked for
    left: Whole  # of these, still to be made
    file: str = ""


@dataclass
class Contents:
    """What all files of a journal hold."""

    answers: dict[str, Place] = field(default_factory=dict)  # by key; read when asked for
    heads: list[Head] = field(default_factory=list)  # of the files
    plans: list[Plan] = field(default_factory=list)  # calls of the model that were begun
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # answers by file name and task
    damaged: int = 0  # whole lines that are not as they were written

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the answer of a key, as it was appended; None if there is none.

        Raises:
            MachineError: it cannot be read any more.
        """
        place = self.answers.get(key)
        return None if place is None else _row_at(place)


def files_of(folder: Path) -> list[Path]:
    """Return the journal's files in a run's folder, in a fixed order."""
    return sorted((folder / FOLDER).glob("*.jsonl"))


def read(folder: Path) -> Contents:
    """Read every file of the journal in a run's folder; nothing is changed.

    Raises:
        MachineError: a file cannot be read.
        RefusedError: two lines give one request different answers.
    """
    found = Contents()
    for path in files_of(folder):
        try:
            check_regular(path, kind=ResultsError)
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise MachineError(f"cannot read {path}: {error.strerror or error}") from error
        offset = 0
        for line in content.split(b"\n")[:-1]:  # what follows the last line's end is half a line, or nothing
            if line:
                _take(line, Place(path, offset, len(line)), found)
            offset += len(line) + 1
    return found


def _take(line: bytes, place: Place, found: Contents) -> None:
    """Add a whole line to what a journal holds; of equal answers the first is kept.

    Raises:
        RefusedError: answers to one request are not equal.
    """
    if not is_whole(line):
        found.damaged += 1
    elif line.startswith(_KEYED, _CRC):
        first = found.answers.setdefault(line[_KEY].decode("ascii", "replace"), place)
        if first is not place and _timeless(_row_at(first)) != _timeless(_row_at(place)):
            raise RefusedError(
                f"{place.path}: its answer to a request of task {_row_at(place).get('task')} contradicts the one in "
                f"{first.path.name}; move the folder {place.path.parent} away to make all answers again"
            )
        task = line[_KEY.stop :].removeprefix(_TASK).partition(b'"')[0]
        found.counts[place.path.name, task.decode("ascii", "replace")] += 1
    else:
        try:
            row = {**decode(line), "file": place.path.name}
            if "plan" in row:
                found.plans.append(Plan.from_json(row, where=str(place.path)))
            else:
                found.heads.append(Head.from_json(row, where=str(place.path)))
        except (ValueError, ResultsError):
            found.damaged += 1


def _timeless(value: Any) -> Any:
    """Return a row without its wall times."""
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if not name.endswith("_seconds")}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def _row_at(place: Place) -> dict[str, Any]:
    try:
        handle = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return decode(os.pread(handle, place.length, place.offset))
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        raise MachineError(f"{place.path}: changed or vanished while it was read ({error}); run again") from error


class Writer:
    """Append to a file of its own, which is made with the first line."""

    def __init__(self, folder: Path, head: Mapping[str, Any]) -> None:
        """Write nothing yet.

        Args:
            folder: of the run; files go to its `journal`.
            head: first line of the file.
        """
        self.path = folder / FOLDER / f"{uuid4().hex}.jsonl"
        self.seconds = 0.0  # spent on writing
        self._head = head
        self._handle: int | None = None
        self._failed = False
        self._is_synced = True
        self._synced_at = -math.inf

    def append(self, row: Mapping[str, Any], *, sync: bool = False) -> None:
        """Append a row; it outlasts this process at once, and a power cut with the next flush.

        Args:
            row: what `encode` takes.
            sync: whether a batch has ended, so that everything must reach the disk now.

        Raises:
            MachineError: it could not be written. Nothing more is appended: the file may end with half a line.
        """
        begun = time.perf_counter()
        if self._failed:
            raise self._lost(OSError(0, "an earlier write failed"), "take more")
        if self._handle is None:
            self._create()
            self._write(encode(self._head))
        self._write(encode(row))
        if sync or time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self.sync()
        self.seconds += time.perf_counter() - begun

    def sync(self) -> None:
        """Bring what was appended to the disk.

        Raises:
            MachineError: the disk failed. It is not tried again: a second flush may succeed although data were lost.
        """
        if self._handle is None or self._is_synced:
            return
        try:
            if self._failed:
                raise OSError(0, "an earlier write failed")
            os.fsync(self._handle)
            if not self.path.exists():
                raise OSError(errno.ENOENT, "deleted or moved during the run")
        except OSError as error:
            raise self._lost(error, "reach the disk") from error
        self._is_synced, self._synced_at = True, time.monotonic()

    def close(self) -> None:
        """Flush and let go of the file.

        Raises:
            MachineError: the flush failed.
        """
        handle = self._handle
        if handle is None:
            return
        try:
            if not self._failed:
                self.sync()
        finally:
            self._handle = None
            os.close(handle)

    def _create(self) -> None:
        try:
            refuse_links(self.path.parent)
            os.makedirs(self.path.parent, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._handle = os.open(self.path, flags, 0o644)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # so that the file's name outlasts a power cut
            except OSError:
                pass  # some network file systems refuse it for folders
            finally:
                os.close(folder)
        except OSError as error:
            raise self._lost(error, "be made") from error

    def _write(self, line: bytes) -> None:
        """Write all of a line."""
        assert self._handle is not None
        self._is_synced = False
        try:
            rest = line
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            raise self._lost(error, f"take {len(line)} bytes more") from error

    def _lost(self, error: OSError, wanted: str) -> MachineError:
        """Return the error of a file that takes nothing more."""
        self._failed = True
        first = "" if error.errno == errno.ENOENT else f"{remedy(error, self.path)} and "
        reason = cause(error, self.path)
        return MachineError(f"{self.path}: could not {wanted} ({reason}); {first}run the same command again")


class Journal:
    """The answers of one model under one set of settings: what is there, and what is added."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Read what is there.

        Args:
            folder: of the run.
            settings: everything that changes an answer and is not part of a request.

        Raises:
            MachineError: a file cannot be read.
            RefusedError: two lines contradict each other.
        """
        self.folder = folder
        self.settings = digest(settings)
        self.launch = uuid4().hex  # shared by the processes of one start of the command
        self.contents = read(folder)
        # First line of this process's file; more may be added before anything is appended
        self.head: dict[str, Any] = {"journal": FORMAT, "launch": self.launch, "settings": dict(settings)}
        self.writer = Writer(folder, self.head)

    def key(self, content: Any) -> str:
        """Return the name of a request under these settings."""
        return digest([self.settings, content])

    def append(self, key: str, task: str, row: Mapping[str, Any], *, sync: bool = False) -> None:
        """Append an answer; key and task stand first, where a reader finds them without parsing the line.

        Raises:
            MachineError: it could not be written.
        """
        self.writer.append({"key": key, "task": task, **row}, sync=sync)

    def plan(self, row: Mapping[str, Any]) -> None:
        """Append what a call of the model is about to do, for `status`."""
        self.writer.append({"plan": FORMAT, "launch": self.launch, "time": time.time(), **row}, sync=True)

    def sync(self) -> None:
        """Flush what was appended to the disk."""
        self.writer.sync()

    def close(self) -> None:
        """Flush, and write no more."""
        self.writer.close()
