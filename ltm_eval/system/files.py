"""Files written complete or not at all, as strict JSON or text.

A value JSON cannot hold is replaced, and the key `replaced` of the same object says where (JSON Pointer, RFC 6901) and
what stood there."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import signal
import socket
import time
import zipfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.system.errors import CheckpointError, InputError, MachineError, RefusedError
from ltm_eval.system.records import REPLACED, mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


# Every option of the program, each default stated here and nowhere else.

DEMO_MODEL = "demo"
DEMO_BASELINE = "gpt2-demo"


# Where the package's own files lie, in a checkout and in an installed wheel.

PACKAGE = Path(__file__).resolve().parents[1]


def _beside(name: str) -> Path:
    """The folder `name`: packed inside the package in a wheel, beside it in a checkout."""
    packed = PACKAGE / name
    return packed if any(packed.glob("*/*.*[al2]")) else PACKAGE.parent / name


def tasks_dir() -> Path:
    """lm-eval task definitions (YAML)."""
    return _beside("tasks")


def reports_dir() -> Path:
    """Jinja templates, style sheet, script and published reference rows."""
    return _beside("reports")


def assets_dir() -> Path:
    """Bundled checkpoints (`ltm-demo`) and sample data (`sample/`)."""
    return PACKAGE / "assets"


def demo_model_dir() -> Path:
    """The bundled LTM, its encoding beside it."""
    return assets_dir() / "ltm-demo"


def sample_data_dir() -> Path:
    """Bundled sample data, laid out like a `--data` folder: one folder per set (`gsm8k/test.jsonl`)."""
    return assets_dir() / "sample"


def short_name(name: str) -> str:
    """The end of a name, at most 100 bytes."""
    return name.encode()[-100:].decode("utf-8", "ignore")


def unused_date(folder: Path) -> str:
    """Now, as lm-eval writes it into names of files; a name of its own where a clock that was set back says one again.

    Args:
        folder: of the results.
    """
    now = datetime.now()
    while True:
        date = now.isoformat().replace(":", "-")
        if not any(folder.glob(f"*_{date}.json*")):
            return date
        now += timedelta(microseconds=1)


@cache
def source_sha256() -> str:
    """Names the package's code, task definitions included, whatever its version says; read once a process."""
    files = {f"ltm_eval/{path.relative_to(PACKAGE).as_posix()}": path for path in PACKAGE.rglob("*.py")}
    files |= {f"tasks/{path.relative_to(tasks_dir()).as_posix()}": path for path in tasks_dir().rglob("*yaml")}
    found = sha256()
    for name, path in sorted(files.items()):
        found.update(name.encode() + b"\0" + sha256(path.read_bytes()).digest())
    return found.hexdigest()


def cache_dir() -> Path:
    """What can be made again and is slow to make: LTM_EVAL_CACHE_DIR, else `ltm_eval` in the user's cache folder."""
    named = os.environ.get("LTM_EVAL_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named).expanduser() if named else Path(home) / "ltm_eval"


# Named places where tests make the machine fail: `LTM_EVAL_FAILPOINT=name:n:action`, several joined by commas.
#
# The n-th time (from 1) the named place is passed, the action happens, once; `*` counts every place together. Without
# the variable a place costs one look into the environment. Nothing but tests sets it.

VARIABLE = "LTM_EVAL_FAILPOINT"
ERRORS = {
    "enospc": errno.ENOSPC,
    "edquot": errno.EDQUOT,
    "eio": errno.EIO,
    "eacces": errno.EACCES,
    "emfile": errno.EMFILE,
}
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
LEFT_TO_THE_PLACE = ("short", "nan")
SLEEP_SECONDS = 3600.0


@dataclass
class _Armed:
    """One place that will fail."""

    name: str
    """Of the place, or `*`."""
    left: int
    """Passes until it fails."""
    action: str


class _State:
    """What the variable said when it was last read."""

    text = ""
    armed: tuple[_Armed, ...] = ()


def hit(name: str) -> str | None:
    """Pass the place `name`, right before a file operation.

    Returns:
        `short` or `nan` where the place itself must write too little or answer NaN; else None.

    Raises:
        OSError: the armed action is one of `enospc`, `eio`, `eacces`.
        ValueError: the variable is malformed.
    """
    return _pass(name, _armed())


def moment(name: str) -> None:
    """Pass the place `name`, where no operation could fail but the process may be killed, stopped or held up."""
    _pass(name, tuple(armed for armed in _armed() if armed.action in (*SIGNALS, "sleep")))


def _pass(name: str, every: tuple[_Armed, ...]) -> str | None:
    passed = [armed for armed in every if armed.name in (name, "*")]
    for armed in passed:
        armed.left -= 1
    due = next((armed for armed in passed if armed.left == 0), None)
    return None if due is None else _fail(due.action, name)


def _armed() -> tuple[_Armed, ...]:
    """What the variable arms; it is read again when it changes."""
    text = os.environ.get(VARIABLE, "")
    if text != _State.text:
        _State.armed, _State.text = _parsed(text), text
    return _State.armed


def _parsed(text: str) -> tuple[_Armed, ...]:
    armed = []
    for part in filter(None, text.split(",")):
        name, _, rest = part.partition(":")
        number, _, action = rest.partition(":")
        if not number.isdecimal() or action not in (*ERRORS, *SIGNALS, *LEFT_TO_THE_PLACE, "sleep"):
            raise ValueError(f"{VARIABLE} must be name:n:action, got {part!r}")
        armed.append(_Armed(name, int(number), action))
    return tuple(armed)


def _fail(action: str, name: str) -> str | None:
    if action in ERRORS:
        raise OSError(ERRORS[action], os.strerror(ERRORS[action]), f"failpoint {name}")
    if action in SIGNALS:
        os.kill(os.getpid(), SIGNALS[action])
    if action == "sleep":
        time.sleep(SLEEP_SECONDS)
    return action if action in LEFT_TO_THE_PLACE else None


# Why a file could not be made or written, and what to do about it; the system's own words miss some of both.

SPACE = "free some space"
OTHER = "look at disk and permissions"


def cause(error: OSError, path: Path) -> str:
    """The reason in words: full of names is not full of bytes."""
    if error.errno == errno.ENOSPC and _out_of_names(path):
        return "no more files fit there"
    return str(error.strerror or error)


def remedy(error: OSError, path: Path) -> str:
    """What makes the same command work again."""
    if error.errno == errno.ENOSPC:
        return "remove some files" if _out_of_names(path) else SPACE
    return {
        errno.EDQUOT: "remove something of yours, or ask for a larger quota",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENFILE: "other programs hold too many files open; wait for them",
    }.get(error.errno or 0, OTHER)


def _out_of_names(path: Path) -> bool:
    """Whether the file system has no inode left; some do not count them."""
    try:
        place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        found = os.statvfs(place)
    except (OSError, StopIteration):
        return False
    return found.f_files > 0 and found.f_favail == 0


def digest(text: str) -> str:
    """SHA-256 (hex) of `text`, as lm-eval hashes documents and prompts; lone surrogates are hashed as they are."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def strict_json(obj: Any) -> str:
    """`obj` as strict, indented JSON text; what JSON cannot hold is replaced as in every file."""
    return _strict(obj, indent=2) + "\n"


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """Write `obj` as strict, indented JSON: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    write_text_atomic(path, strict_json(obj))


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    _write_atomic(Path(path), [text])


def write_jsonl_atomic(path: str | Path, rows: Iterable[Any]) -> None:
    """Write one strict JSON line per row (a mapping or a record with `to_json`): complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    _write_atomic(Path(path), (_strict(row, indent=None) + "\n" for row in rows))


def _write_atomic(path: Path, chunks: Iterable[str]) -> None:
    partial = path.with_name(f".{digest(path.name)[:8]}.{os.getpid()}.tmp")
    try:
        hit("results.open")
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            hit("results.write")
            file.writelines(chunks)
            file.flush()
            hit("results.sync")
            os.fsync(file.fileno())
        hit("results.replace")
        partial.replace(path)
        moment("results.replaced")
    except OSError as error:
        told = f"{cause(error, path)}; {remedy(error, path)} or choose another --output_path"
        raise MachineError(f"cannot write {path}: {told}") from error
    finally:
        _discard(partial)


def _discard(partial: Path) -> None:
    """Remove what an interrupted write left; after a good one there is nothing, and a lost disk cannot be helped."""
    try:
        partial.unlink(missing_ok=True)
    except OSError:
        return


def _strict(obj: Any, *, indent: int | None) -> str:
    replaced: dict[str, str] = {}
    plain = _plain(obj, at="", replaced=replaced)
    if replaced and isinstance(plain, dict):
        plain[REPLACED] = {**mapping(plain.get(REPLACED)), **replaced}
    text = json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
    # Readers that split at Unicode line ends would tear a JSONL line; these characters occur inside strings only.
    return text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(obj: Any, *, at: str, replaced: dict[str, str]) -> Any:
    """`obj` in JSON's own types.

    Non-finite numbers become null, lone surrogates U+FFFD, both noted in `replaced`; what JSON does not know
    becomes text.
    """
    if hasattr(obj, "to_json"):
        obj = obj.to_json()
    elif is_dataclass(obj) and not isinstance(obj, type):
        obj = asdict(obj)
    elif hasattr(obj, "tolist"):  # numpy and torch, without importing them
        obj = obj.tolist()
    elif isinstance(obj, (set, frozenset)):
        obj = sorted(obj, key=str)
    if isinstance(obj, dict):
        return _plain_mapping(obj, at=at, replaced=replaced)
    if isinstance(obj, (list, tuple)):
        return [_plain(value, at=f"{at}/{index}", replaced=replaced) for index, value in enumerate(obj)]
    if isinstance(obj, float):
        return _plain_float(obj, at=at, replaced=replaced)
    if obj is None or isinstance(obj, (bool, int)):
        return obj
    return _plain_text(str(obj), at=at, replaced=replaced)


def _plain_mapping(obj: Mapping[Any, Any], *, at: str, replaced: dict[str, str]) -> dict[str, Any]:
    plain = {}
    for key, value in obj.items():
        name = _plain_text(str(key), at=at, replaced=replaced)
        step = name.replace("~", "~0").replace("/", "~1")
        plain[name] = _plain(value, at=f"{at}/{step}", replaced=replaced)
    return plain


def _plain_float(value: float, *, at: str, replaced: dict[str, str]) -> float | None:
    if math.isfinite(value):
        return float(value)
    replaced[at] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return None


def _plain_text(value: str, *, at: str, replaced: dict[str, str]) -> str:
    clean = re.sub("[\ud800-\udfff]", "\ufffd", value)
    if clean != value:
        replaced[at] = "lone surrogate"
    return clean


# Archives that `torch.save` writes, looked at before torch reads them.
#
# torch stores every entry as it is and with a checksum, which its reader does not look at. So nothing may be compressed
# (a small file could fill the memory), entries together are no larger than the file, and the checksums must hold.

ENTRY_LIMIT = 50_000
"""Entries of an archive; a checkpoint has one per tensor."""
PICKLE = "data.pkl"
_ENTRY_MARK = b"PK\x01\x02"
_CHUNK = 2**20


def check_archive(path: Path) -> None:
    """Raise CheckpointError unless `path` is an archive as torch.save writes it; nothing of it is inflated or built."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a file that torch.save wrote ({size:,} bytes); copy it again if it was cut off"
        )
    if _marks(path) > ENTRY_LIMIT:
        raise CheckpointError(f"{path}: more than {ENTRY_LIMIT:,} entries; not a checkpoint, not loaded")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive.infolist(), size, path)
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # zipfile answers damaged archives with many exception types
        raise CheckpointError(f"{path}: the archive is damaged ({type(error).__name__}); copy it again") from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: the checksum of entry {damaged[:80]!r} is wrong; copy the file again, or re-save it with "
            "checksums (torch's default)"
        )


def _check_entries(entries: list[zipfile.ZipInfo], size: int, path: Path) -> None:
    inflated = sum(entry.file_size for entry in entries)
    if inflated > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{path}: would inflate from {size:,} to {inflated:,} bytes; torch.save never compresses, not loaded"
        )
    names = [entry.filename for entry in entries]
    pickles = [name for name in names if name.rpartition("/")[2] == PICKLE]
    if len(set(names)) != len(names) or len(pickles) != 1:
        raise CheckpointError(
            f"{path}: expected one {PICKLE} and every entry once, found {len(pickles)} and "
            f"{len(names) - len(set(names))} repeated; not loaded"
        )


def _marks(path: Path) -> int:
    """Entries that a reader could find, wherever it looks for the directory."""
    found, tail = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found += (tail + chunk).count(_ENTRY_MARK)
            tail = chunk[-len(_ENTRY_MARK) + 1 :]
    return found


# Files that must not change while they are read: half an old and half a new one is nobody's checkpoint or data set.
#
# Everything is read into memory, never mapped, so that a file which another program cuts off ends in an error too, and
# not in a signal that kills the process.


@contextmanager
def steady(paths: Iterable[Path]) -> Iterator[None]:
    """Read files in the block, and be sure afterwards that each stayed the same.

    Args:
        paths: files; of a folder, those in it.

    Raises:
        RefusedError: one was written, replaced or removed meanwhile, whatever the block raised of it.
    """
    before = [(path, _marks_steady(path)) for path in paths]
    try:
        yield
    except (InputError, OSError) as error:
        _refuse_changed(before, error)
        raise
    _refuse_changed(before, None)


def _refuse_changed(before: list[tuple[Path, object]], cause: Exception | None) -> None:
    for path, marks in before:
        if _marks_steady(path) != marks:
            raise RefusedError(
                f"{path}: changed while it was read; run again once nothing writes there any more"
            ) from cause


def _marks_steady(path: Path) -> object:
    """What the system tells of a file: another one, or other content, has other marks."""
    try:
        if path.is_dir():
            return [(file.name, _marks_steady(file)) for file in sorted(path.iterdir()) if not file.is_dir()]
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


# One command at a time in an output folder: an advisory lock that dies with the process that holds it.
#
# The file also names its holder, so that a second command and `status` can say who it is. Where the file system knows
# no `flock`, the named holder is believed as long as it lives, or as long as it is on another machine.

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
        hit("lock.open")
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
        hit("lock.write")
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
                    hit("lock.leftover")
                    os.unlink(os.path.join(root, name))
                except OSError:
                    continue
