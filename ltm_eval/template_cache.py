"""Compiled templates on disk, as Python keeps its own modules: compiling all of them costs a fifth of a second.

They lie below the user's cache folder, one file each, under a name that follows from the template, the versions and the
modules whose filters are built in. A file is used only if it belongs to this user and nobody else may write it, since
it holds code; where the folder cannot be used, templates are compiled anew.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from jinja2 import BytecodeCache

import ltm_eval
from ltm_eval.paths import cache_dir

if TYPE_CHECKING:
    from jinja2.bccache import Bucket

BUILT_IN = ("layout.py", "wording.py")
"""Modules of which compiled templates may hold results: filters are applied to constants at once."""


class TemplateCache(BytecodeCache):
    """What Jinja asks for compiled templates."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use `folder`; by default one below the user's cache."""
        package = Path(__file__).parent
        told = sha256(f"{jinja2.__version__} {ltm_eval.__version__}".encode())
        for name in BUILT_IN:
            told.update((package / name).read_bytes())
        try:
            self.folder = folder or cache_dir() / "templates"
        except RuntimeError:  # a process without a home
            self.folder = Path(os.devnull)
        self._built = told.hexdigest()

    def _file(self, bucket: Bucket) -> Path:
        name = f"{bucket.key} {bucket.checksum} {self._built}"
        return self.folder / f"{sha256(name.encode()).hexdigest()[:32]}.bin"

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fill the bucket, if its file is there and ours alone."""
        with suppress(OSError, ValueError, EOFError, TypeError), self._file(bucket).open("rb") as file:
            if _ours_alone(os.fstat(file.fileno())):
                bucket.load_bytecode(file)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what was compiled, if the folder allows it."""
        file = self._file(bucket)
        partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                partial.touch(mode=0o600)
                partial.write_bytes(bucket.bytecode_to_string())
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)


def _ours_alone(status: os.stat_result) -> bool:
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not writable and (not hasattr(os, "getuid") or status.st_uid == os.getuid())
