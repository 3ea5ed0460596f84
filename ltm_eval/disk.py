"""Why a file could not be made or written, and what to do about it; the system's own words miss some of both."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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
