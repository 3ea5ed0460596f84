"""Formats that a command writes, and where: `--format html,md` and `-o` as a file, a folder or a stem."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_eval.errors import UsageError, nearest
from ltm_eval.strict_files import write_text_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SUFFIXES = {"html": ".html", "md": ".md", "csv": ".csv", "latex": ".tex", "json": ".json"}
FORMATS = tuple(SUFFIXES)
_OF_SUFFIX = {suffix: name for name, suffix in SUFFIXES.items()}


def formats_of(text: str | None) -> tuple[str, ...]:
    """The formats that `text` lists, each once; nothing for nothing.

    Raises:
        UsageError: a name is unknown.
    """
    names = tuple(dict.fromkeys(part.strip().lower() for part in (text or "").split(",") if part.strip()))
    for name in names:
        if name not in SUFFIXES:
            known = ", ".join(FORMATS)
            raise UsageError(f"--format must list some of {known}, got {name!r}.{nearest(name, FORMATS)}")
    if text is not None and not names:
        raise UsageError(f"--format must list some of {', '.join(FORMATS)}, got nothing")
    return names


def suffix_format(output: str | None) -> tuple[str, ...]:
    """The format that the suffix of a file tells."""
    name = _OF_SUFFIX.get(Path(output).suffix.lower()) if output else None
    return (name,) if name else ()


def targets(formats: Sequence[str], output: str | None, *, stem: Path) -> dict[str, Path]:
    """Where each format goes.

    Args:
        formats: some of `FORMATS`.
        output: a file for one format; for several a folder, or a path whose suffix is replaced; None for `stem`.
        stem: folder and name without suffix, for what `output` does not tell.
    """
    if output is None:
        return {name: stem.with_name(stem.name + SUFFIXES[name]) for name in formats}
    path = Path(output)
    if path.is_dir() or output.endswith(("/", os.sep)):
        return {name: path / (stem.name + SUFFIXES[name]) for name in formats}
    if len(formats) == 1:
        return {formats[0]: path}
    base = path.with_suffix("") if path.suffix.lower() in _OF_SUFFIX else path
    return {name: base.with_name(base.name + SUFFIXES[name]) for name in formats}


def write_all(renderers: Mapping[str, Callable[[], str]], places: Mapping[str, Path]) -> None:
    """Write every format to its place: each complete or not at all.

    Raises:
        MachineError: a file cannot be written.
    """
    for name, path in places.items():
        write_text_atomic(path, renderers[name]())
