"""Files of the program: where its own lie, whole writes, strict JSON, steady reads, and who holds an output folder.

JSON is strict: a value that it cannot hold is replaced, and the key `replaced` of the same object says where (JSON
Pointer, RFC 6901) and what stood there. All writes of results pass through `atomic`, and those of answers through
`runs.journal`, so that tests can make any operation fail (`tests/failing.py`).
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import socket
import stat
import time
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

from ltm_eval.system.errors import CheckpointError, InputError, LtmEvalError, MachineError, RefusedError, UsageError
from ltm_eval.system.records import REPLACED, OpenRecord, mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from filelock import BaseFileLock

DEMO_MODEL = "demo"
DEMO_BASELINE = "gpt2-demo"
PACKAGE = Path(__file__).resolve().parents[1]

# The package's own folders, in a checkout and in an installed wheel ---------------------------------------------------


def _beside(name: str) -> Path:
    """Return the folder `name`: packed inside the package in a wheel, beside it in a checkout."""
    packed = PACKAGE / name
    return packed if any(packed.glob("*/*.*[al2]")) else PACKAGE.parent / name


def tasks_dir() -> Path:
    """Return the folder of lm-eval task definitions (YAML)."""
    return _beside("tasks")


def reports_dir() -> Path:
    """Return the folder of Jinja templates, style sheet, script and published reference rows."""
    return _beside("reports")


def recipes() -> dict[str, Path]:
    """Return the recipes that the bundled models were trained by, by name (`ltm-demo`, `gpt2-demo`)."""
    packed = PACKAGE / "demo"
    folder = packed if packed.is_dir() else PACKAGE.parent / "demo"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def assets_dir() -> Path:
    """Return the folder of bundled checkpoints (`ltm-demo`) and sample data (`sample/`)."""
    return PACKAGE / "assets"


def demo_model_dir() -> Path:
    """Return the folder of the bundled LTM, with its encoding."""
    return assets_dir() / "ltm-demo"


def sample_data_dir() -> Path:
    """Return the bundled sample data, laid out like a `--data` folder: one folder per set (`gsm8k/test.jsonl`)."""
    return assets_dir() / "sample"


def cache_dir() -> Path:
    """Return where to keep what is slow to make again: LTM_EVAL_CACHE_DIR, else `ltm_eval` in the user's cache.

    A user without a home (a container's arbitrary number) gets a folder that cannot be made, as any without room.
    """
    named = os.environ.get("LTM_EVAL_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not named and home.startswith("~"):
        return Path(os.devnull) / "ltm_eval"
    return Path(os.path.expanduser(named)) if named else Path(home) / "ltm_eval"


@cache
def source_sha256() -> str:
    """Return a digest of the package's code and task definitions, whatever its version is; read once a process."""
    files = {f"ltm_eval/{path.relative_to(PACKAGE).as_posix()}": path for path in PACKAGE.rglob("*.py")}
    files |= {f"tasks/{path.relative_to(tasks_dir()).as_posix()}": path for path in tasks_dir().rglob("*yaml")}
    found = sha256()
    for name, path in sorted(files.items()):
        found.update(name.encode() + b"\0" + sha256(path.read_bytes()).digest())
    return found.hexdigest()


# Names and digests ----------------------------------------------------------------------------------------------------


def digest(text: str) -> str:
    """Return the SHA-256 (hex) of `text`, as lm-eval hashes documents and prompts; lone surrogates stay as they are."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def short_name(name: str) -> str:
    """Return a name of at most 100 bytes: a longer one's end, with a digest of the whole before it."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= 100:
        return name
    return f"{sha256(encoded).hexdigest()[:12]}_{encoded[-87:].decode('utf-8', 'ignore')}"


_DATED = re.compile(r"_(\d{4}-\d\d-\d\d)T(\d\d-\d\d-\d\d(?:\.\d{6})?)\.jsonl?")


def unused_date(folder: Path) -> str:
    """Return the time as lm-eval writes it into file names, later than that of every file in `folder`.

    So the last results are the newest by name also where the clock was set back.
    """
    now = datetime.now()
    dated = {found.groups() for path in folder.glob("*.json*") if (found := _DATED.search(path.name))}
    with suppress(ValueError, OverflowError):  # digits that are no date, or the last of all dates
        day, clock = max(dated, default=("", ""))
        now = max(now, now.fromisoformat(f"{day}T{clock.replace('-', ':')}") + timedelta(microseconds=1))
    return now.isoformat().replace(":", "-")


# Why a file could not be written, and what to do; the system's own words miss some of both ----------------------------


def cause(error: OSError, path: Path) -> str:
    """Return the reason in words: full of names is not full of bytes."""
    if error.errno == errno.ENOSPC and _out_of_names(path):
        return "no more files fit there"
    return str(error.strerror or error)


def remedy(error: OSError, path: Path) -> str:
    """Return what makes the same command work again."""
    if error.errno == errno.ENOSPC:
        return "remove some files" if _out_of_names(path) else "free some space"
    return {
        errno.EDQUOT: "remove something of yours, or ask for a larger quota",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENFILE: "other programs hold too many files open; wait for them",
    }.get(error.errno or 0, "look at disk and permissions")


def _out_of_names(path: Path) -> bool:
    """Return whether the file system has no inode left; some do not count them."""
    try:
        place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        found = os.statvfs(place)
    except (OSError, StopIteration):
        return False
    return found.f_files > 0 and found.f_favail == 0


# Whole writes ---------------------------------------------------------------------------------------------------------

_OURS = ".ltm_eval-"  # begins every temporary name; process and a random number follow, so that none is a user's
_LEFTOVER = re.compile(r"\.ltm_eval-(\d+)-[0-9a-f]{32}\.(?:tmp|part)")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left half-written in `folder` itself; names of running processes stay."""
    with suppress(OSError):
        for path in [*folder.iterdir()]:
            found = _LEFTOVER.fullmatch(path.name)
            if found and (int(found[1]) == os.getpid() or not _start_of(int(found[1]))):
                with suppress(OSError):
                    shutil.rmtree(path) if path.suffix == ".part" else os.unlink(path)


def refuse_links(*paths: Path) -> None:
    """Raise RefusedError if one of these is a symbolic link: what is written there would land elsewhere."""
    for path in paths:
        if path.is_symlink():
            raise RefusedError(f"{path}: a symbolic link, which no output follows; remove it or name another folder")


@contextmanager
def atomic(path: str | Path, *, binary: bool = False, other: str = "--output_path") -> Iterator[IO[Any]]:
    """Write a file complete or not at all: yield an open file that takes the name `path` when the block ends.

    Args:
        path: of the file; its folder is made.
        binary: bytes instead of UTF-8 text.
        other: what the error advises to choose anew.

    Raises:
        MachineError: the file cannot be written; nothing is left of it.
    """
    path = Path(path)
    partial = path.with_name(f"{_OURS}{os.getpid()}-{uuid4().hex}.tmp")
    try:
        os.makedirs(path.parent, exist_ok=True)
        text = {} if binary else {"encoding": "utf-8", "newline": "\n"}
        with open(partial, "xb" if binary else "x", **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(partial, path)
        except FileExistsError:  # a network file system that renames over nothing; what is there goes first
            os.unlink(path)
            os.replace(partial, path)
    except OSError as error:
        raise _unwritten(path, error, other) from error
    finally:
        with suppress(OSError):  # after a good write there is nothing, and a lost disk cannot be helped
            os.unlink(partial)


@contextmanager
def atomic_folder(target: Path, *, other: str = "place") -> Iterator[Path]:
    """Write a folder complete or not at all: yield one that takes the name `target` when the block ends.

    Args:
        target: absent, or an empty folder.
        other: what the error advises to choose anew.

    Raises:
        MachineError: it cannot be written; nothing is left of it.
    """
    partial = target.with_name(f"{_OURS}{os.getpid()}-{uuid4().hex}.part")
    try:
        os.makedirs(partial)
        yield partial
        for file in partial.iterdir():
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise _unwritten(target, error, other) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unwritten(path: Path, error: OSError, other: str) -> LtmEvalError:
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(f"cannot write {path}: too long for this file system; choose a shorter {other}")
    if error.errno == errno.ENOTEMPTY:  # of a folder, when another command was first
        return RefusedError(f"{path}: already exists; choose another {other}, nothing was written")
    return MachineError(f"cannot write {path}: {cause(error, path)}; {remedy(error, path)} or choose another {other}")


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    with atomic(path) as file:
        file.write(text)


_MARKS = {  # by their beginning, how what this program renders for a reader looks
    b"<!DOCTYPE html>": re.compile(
        rb'\s*<!DOCTYPE html>\s*<html lang="en">\s*<head>\s*<meta charset="utf-8">\s*'
        rb'<meta http-equiv="Content-Security-Policy" content="default-src [^>]*>\s*<meta name="viewport"'
    ),
    b"{": re.compile(rb'\{\s*"schema": "ltm_eval/'),
    b"# ": re.compile(
        rb"# [^\n]*\n\n(Paired by document: every difference |[\d,]+ checkpoints, training steps |[\d,]+ runs, "
        rb"|(?s:(.*?\n)?## Summary\n\n\| Task \| Metric \|))"
    ),
}
_HEAD_BYTES = 2**16


def check_target(path: Path, content: bytes) -> None:
    """Refuse to replace a file that is no earlier output of the same kind, such as one that was read, or a link.

    Args:
        path: where `content` is to be written.
        content: the new output, or its beginning.

    Raises:
        RefusedError: something else is there.
    """
    refuse_links(path)
    if not path.exists() or path.is_dir():  # a folder is refused by the system
        return
    if not path.is_file():
        raise RefusedError(f"{path}: exists and is no regular file; name another place")
    try:
        with open(path, "rb") as file:
            there = file.read(_HEAD_BYTES)
    except OSError as error:
        raise RefusedError(f"{path}: exists and cannot be read ({error.strerror}); name another place") from error
    mark = next((mark for start, mark in _MARKS.items() if content.lstrip().startswith(start)), None)
    # Of CSV the first two columns, of LaTeX and plots the first line
    alike = (
        mark.match(there) if mark else there.split(b"\n")[0].split(b",")[:2] == content.split(b"\n")[0].split(b",")[:2]
    )
    if there and not alike:
        raise RefusedError(f"{path}: exists and is not what this command writes; name another file, or remove it")


def write_output(path: Path, text: str) -> None:
    """Write what a reader asked for: complete or not at all, and over nothing but its own earlier output.

    Raises:
        RefusedError: see `check_target`.
        MachineError: the file cannot be written.
    """
    check_target(path, text.encode("utf-8", "replace"))
    write_text_atomic(path, text)


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """Write `obj` as strict, indented JSON: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    write_text_atomic(path, strict_json(obj))


def write_jsonl_atomic(path: str | Path, rows: Iterable[Any]) -> None:
    """Write one strict JSON line per row (a mapping or a record with `to_json`): complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    with atomic(path) as file:
        file.writelines(_strict(row, indent=None) + "\n" for row in rows)


# Strict JSON ----------------------------------------------------------------------------------------------------------


def strict_json(obj: Any) -> str:
    """Return `obj` as strict, indented JSON text; what JSON cannot hold is replaced as in every file."""
    return _strict(obj, indent=2) + "\n"


def _strict(obj: Any, *, indent: int | None) -> str:
    replaced: dict[str, str] = {}
    plain = _plain(obj, at="", replaced=replaced)
    if replaced and isinstance(plain, dict):
        plain[REPLACED] = {**mapping(plain.get(REPLACED)), **replaced}
    text = json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
    # Readers that split at Unicode line ends would tear a JSONL line; these characters occur inside strings only.
    return text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(obj: Any, *, at: str, replaced: dict[str, str]) -> Any:
    """Return `obj` in JSON's own types.

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


# Reads ----------------------------------------------------------------------------------------------------------------

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def check_regular(path: Path, *, kind: type[InputError] = InputError) -> None:
    """Raise `kind` for a pipe, device or socket, which may never end; of a folder, for one among its files.

    What is absent or not to be read is left to the reader and its own words.
    """
    with suppress(OSError, ValueError):
        for file in path.iterdir() if path.is_dir() else [path]:
            if what := _KINDS.get(stat.S_IFMT(file.stat().st_mode)):
                raise kind(f"{file}: {what}, not a regular file; give a file")


def read_regular(path: Path, *, kind: type[InputError] = InputError) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it cannot be read.
        InputError: see `check_regular`; or it is larger than this machine's memory.
    """
    check_regular(path, kind=kind)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > memory:
            raise kind(f"{path}: {size:,} bytes, more than this machine's memory ({memory:,}); give a smaller file")
        return file.read()


@contextmanager
def steady(paths: Iterable[Path]) -> Iterator[None]:
    """Read files in the block, and be sure afterwards that each stayed the same.

    Half an old and half a new file is nobody's checkpoint or data set. What is read goes into memory and is never
    mapped, so that a file which another program cuts off ends in an error too, and not in a signal.

    Args:
        paths: files; of a folder, those in it.

    Raises:
        RefusedError: one was written, replaced or removed meanwhile, whatever the block raised of it.
    """
    before = [(path, _version(path)) for path in paths]
    failure: Exception | None = None
    try:
        yield
    except (InputError, OSError) as error:
        failure = error
    for path, version in before:
        if _version(path) != version:
            raise RefusedError(
                f"{path}: changed while it was read; run again once nothing writes there any more"
            ) from failure
    if failure is not None:
        raise failure


def _version(path: Path) -> object:
    """Return what the system says of a file: another file, or other content, has another version."""
    try:
        if path.is_dir():
            return [(file.name, _version(file)) for file in sorted(path.iterdir()) if not file.is_dir()]
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


ENTRY_LIMIT = 50_000  # of an archive; a checkpoint has one per tensor
PICKLE = "data.pkl"


def check_archive(path: Path) -> None:
    """Raise CheckpointError unless `path` is an archive as `torch.save` writes it; nothing of it is inflated or built.

    torch stores every entry as it is (a compressed one could fill the memory), and with a checksum that its reader does
    not look at.
    """
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a file that torch.save wrote ({size:,} bytes); copy it again if it was cut off"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            inflated = sum(entry.file_size for entry in entries)
            names = [entry.filename for entry in entries]
            if len(entries) > ENTRY_LIMIT:
                raise CheckpointError(f"{path}: more than {ENTRY_LIMIT:,} entries; not a checkpoint, not loaded")
            if inflated > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                told = f"would inflate from {size:,} to {inflated:,} bytes; torch.save never compresses, not loaded"
                raise CheckpointError(f"{path}: {told}")
            if len(set(names)) != len(names) or sum(name.rpartition("/")[2] == PICKLE for name in names) != 1:
                raise CheckpointError(f"{path}: expected one {PICKLE} and every entry once; not loaded")
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


# One command at a time in an output folder ----------------------------------------------------------------------------

NAME = ".ltm_eval.lock"
HOLDER = ".ltm_eval.holder"  # who holds the lock, for the message of a second command and for `status`
LOCK_SECONDS, POLL_SECONDS = 0.25, 0.05  # `status` may hold the lock for a moment, so it is tried again
NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Holder(OpenRecord):
    """Who works in a folder."""

    host: str
    pid: int
    since: float  # Unix time
    started: str  # start of the process in clock ticks, which tells a pid that was given anew; or empty

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
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), time.time(), _start_of(os.getpid()))


def _start_of(pid: int) -> str:
    """Return the clock tick after boot at which a process started; empty if there is none or it is not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


@contextmanager
def holding(folder: Path) -> Iterator[Holder]:
    """Hold `folder` until the block ends, or the process does; what killed writers left half-written is removed.

    Raises:
        RefusedError: another command works there, or the lock is a symbolic link.
        MachineError: the lock file cannot be written.
    """
    from filelock import Timeout

    try:
        lock = _locked(folder, LOCK_SECONDS)
    except Timeout as error:
        named = _named(folder)
        raise RefusedError(
            f"{folder} is in use by {named.words if named else 'another process'}; wait for it or name another "
            f"--output_path{_hint(Path(error.lock_file))}"
        ) from None
    except OSError as error:
        raise _unwritten(folder / NAME, error, "--output_path") from error
    mine = Holder.here()
    try:
        write_json_atomic(folder / HOLDER, mine)
        remove_leftovers(folder)
        yield mine
    finally:
        with suppress(OSError):
            os.unlink(folder / HOLDER)
        lock.release()


def _hint(lock_file: Path) -> str:
    """Return what to do about a lock that outlives its process."""
    return "" if lock_file.name == NAME else f"; if it is gone, remove {lock_file}"


def _locked(folder: Path, seconds: float) -> BaseFileLock:
    """Return a lock that is held: the kernel's, or, on a file system without such locks, a file that others respect.

    Raises:
        Timeout: another process has it.
        OSError: the lock file cannot be written.
    """
    from filelock import FileLock, SoftFileLock

    refuse_links(folder / NAME, folder / f"{NAME}.soft", folder / HOLDER)
    lock: BaseFileLock = FileLock(folder / NAME, thread_local=False)
    try:
        lock.acquire(timeout=seconds, poll_interval=POLL_SECONDS)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        lock = SoftFileLock(folder / f"{NAME}.soft", thread_local=False)
        lock.acquire(timeout=seconds, poll_interval=POLL_SECONDS)
    return lock


def holder_of(folder: Path) -> Holder | None:
    """Return who works in `folder` now; None if nobody does."""
    from filelock import Timeout

    named = _named(folder)
    if named is None:
        return None
    try:
        _locked(folder, 0).release()
    except Timeout:
        return named
    except OSError:  # a folder that this process may not write in
        return None if named.is_gone else named
    return None


def _named(folder: Path) -> Holder | None:
    try:
        return Holder.from_json(json.loads(read_regular(folder / HOLDER)), where=str(folder / HOLDER))
    except (OSError, ValueError, InputError):
        return None
