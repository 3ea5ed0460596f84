"""Files that must not change while they are read: half an old and half a new one is nobody's checkpoint or data set.

Everything is read into memory, never mapped, so that a file which another program cuts off ends in an error too, and
not in a signal that kills the process.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ltm_eval.errors import InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@contextmanager
def steady(paths: Iterable[Path]) -> Iterator[None]:
    """Read files in the block, and be sure afterwards that each stayed the same.

    Args:
        paths: files; of a folder, those in it.

    Raises:
        RefusedError: one was written, replaced or removed meanwhile, whatever the block raised of it.
    """
    before = [(path, _marks(path)) for path in paths]
    try:
        yield
    except (InputError, OSError) as error:
        _refuse_changed(before, error)
        raise
    _refuse_changed(before, None)


def _refuse_changed(before: list[tuple[Path, object]], cause: Exception | None) -> None:
    for path, marks in before:
        if _marks(path) != marks:
            raise RefusedError(
                f"{path}: changed while it was read; run again once nothing writes there any more"
            ) from cause


def _marks(path: Path) -> object:
    """What the system tells of a file: another one, or other content, has other marks."""
    try:
        if path.is_dir():
            return [(file.name, _marks(file)) for file in sorted(path.iterdir()) if not file.is_dir()]
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
