"""Archives that `torch.save` writes, looked at before torch reads them.

torch stores every entry as it is and with a checksum, which its reader does not look at. So nothing may be compressed
(a small file could fill the memory), entries together are no larger than the file, and the checksums must hold.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from ltm_eval.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

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
