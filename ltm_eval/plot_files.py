"""Figures of a page as files for papers: PNG, SVG and PDF, the same bytes for the same figure."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from ltm_eval.drawing import FILE_FORMATS, Drawn, as_file
from ltm_eval.errors import MachineError
from ltm_eval.paths import reports_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = {"bars": "scores", "fit": "fast-steps", "parts": "nats-per-token", "spread": "documents"}
"""Of a figure's name in the page, words for its file; other names stay."""
NAME_LIMIT = 60


def write_figures(figures: Sequence[Drawn], folder: Path, *, tasks: Sequence[str]) -> list[Path]:
    """Write every figure in every form to `folder`, named after its task: `ltm_gsm8k-scores.pdf`.

    Args:
        figures: as `plots.kept` collected them; a name that ends in a number says which task it belongs to.
        folder: made if need be.
        tasks: names of the tasks, in the page's order.

    Raises:
        MachineError: a file cannot be written.
    """
    colours, written, taken = light_colours(), [], set()
    for figure in figures:
        stem = _file_stem(figure.name, tasks)
        while stem in taken:
            stem += "-"
        taken.add(stem)
        for format_ in FILE_FORMATS:
            path = folder / f"{stem}.{format_}"
            _write(path, as_file(figure, format_, colours=colours))
            written.append(path)
    return written


def _file_stem(name: str, tasks: Sequence[str]) -> str:
    """A task's name is not trusted as a path: letters, digits, dots, hyphens and underscores stay."""
    kind, _, number = name.rpartition("-")
    if not number.isdigit() or not 1 <= int(number) <= len(tasks):
        return _plain(name)
    return f"{_plain(tasks[int(number) - 1])}-{_plain(NAMES.get(kind, kind))}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._-")[:NAME_LIMIT] or "figure"


def light_colours() -> dict[str, str]:
    """The page's colours on white paper, as its style sheet says them."""
    style = (reports_dir() / "report.css").read_text(encoding="utf-8")
    first = style[style.index(":root {") : style.index("}")]
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-fA-F]{6})", first))


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise MachineError(f"cannot write {path}: {error.strerror or error}; choose another --plots_dir") from error
