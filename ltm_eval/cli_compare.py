"""The commands that read results only: `compare`, `history`, `index`, and the report's formats and figure files."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm_eval.calls import examples
from ltm_eval.errors import printable
from ltm_eval.outputs import FORMATS, formats_of, suffix_format, targets, write_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.document import Document
    from ltm_eval.page import ReportData

WORSE = 7
"""Exit code of `compare --fail_if_worse`."""

Formats = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="NAME[,...]", help=f"Some of {', '.join(FORMATS)}; -o names a folder or stem for several."
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "--output_path", "-o", metavar="FILE|DIR", help="Where it goes; its suffix tells the format."
    ),
]

PlotsDir = Annotated[
    str | None,
    typer.Option("--plots_dir", metavar="DIR", help="Write every figure there as PNG, SVG and PDF."),
]


def report_places(format_: str | None, output: str | None, *, beside: Path) -> dict[str, Path]:
    """Where the report goes in each format; `beside` is the page's place where nothing else was said."""
    formats = formats_of(format_) or suffix_format(output) or ("html",)
    if output is None:
        return targets(formats, None, stem=beside.with_suffix(""))
    return targets(formats, output, stem=Path("report"))


def write_report(data: ReportData, places: dict[str, Path], *, plots_dir: str | None) -> list[Path]:
    """Write the report in every format, and its figures; return what was written."""
    from ltm_eval.export import export

    return export(data, places, plots_dir=None if plots_dir is None else Path(plots_dir))


def compare(  # noqa: PLR0913 - the signature is the declaration of the options
    *,
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN_A RUN_B...", help="Results files, or folders that hold some.")
    ],
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", "--task", "-t", metavar="NAME[,...]", help="Only these tasks.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME[:NAME]", help="Only these figures; NAME_OF_A:NAME_OF_B for two names."),
    ] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow_mismatch", help="Compare runs with other prompts or settings all the same.")
    ] = False,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail_if_worse", help=f"Exit code {WORSE} where A is worse on a task; for CI.")
    ] = False,
    format_: Formats = None,
    output: Output = None,
) -> int:
    """Set the first run against the others, paired by document: differences with intervals, tests, and what follows.

    Runs with other prompts, targets, shots, seeds, limits or preparation are refused (exit code 6).
    """
    from ltm_eval.compare import compare as compared
    from ltm_eval.compare_page import document
    from ltm_eval.results import find_runs

    formats_of(format_)  # a wrong name is told before anything is read
    found = compared(
        _first_ltm_first(find_runs, runs), allow_mismatch=allow_mismatch, tasks=_listed(tasks), metrics=_listed(metric)
    )
    _say(document(found), format_, output, stem=Path("compare"))
    if fail_if_worse and found.worse:
        named = ", ".join(f"{row.task} against {row.other}" for row in found.worse)
        print(f"ltm-eval: worse: {printable(named)[:250]}", file=sys.stderr)
        return WORSE
    return 0


def _first_ltm_first(find: Any, paths: Sequence[str]) -> list[Any]:
    """The runs of every path, in the order of the paths; of one path's, an LTM before its baselines."""
    found: dict[Path, Any] = {}
    for path in paths:
        for run in sorted(find([path]), key=lambda run: run.model_kind != "ltm"):
            found.setdefault(run.path.resolve(), run)
    return list(found.values())


def _listed(values: list[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def _say(document: Document, format_: str | None, output: str | None, *, stem: Path) -> None:
    """Print the document, or write it in the formats asked for and say where."""
    from ltm_eval.document import RENDERERS, as_terminal

    formats = formats_of(format_) or suffix_format(output)
    if not formats and output is not None:
        formats = ("html",)
    if not formats:
        print(as_terminal(document), end="")
    elif formats != ("html",) and len(formats) == 1 and output is None:
        print(RENDERERS[formats[0]](document), end="")
    else:
        places = targets(formats, output, stem=stem)
        write_all({name: partial(RENDERERS[name], document) for name in formats}, places)
        for path in places.values():
            print(f"{document.kind}: {path.resolve()}")


def history(
    sources: Annotated[
        list[str], typer.Argument(metavar="DIR...", help="Results of many checkpoints: files or folders.")
    ],
    *,
    format_: Formats = None,
    output: Output = None,
) -> int:
    """Set every figure against the training step, over the checkpoints of a training run; nothing is evaluated."""
    from ltm_eval.history import document
    from ltm_eval.results import find_runs

    formats_of(format_)
    _say(document(find_runs(sources, newest_only=False)), format_, output, stem=Path("history"))
    return 0


def index(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder of results.")],
    *,
    format_: Formats = None,
    output: Output = None,
) -> int:
    """List every run below a folder on one page, with its main figures and links; nothing is evaluated."""
    from ltm_eval.results_index import document
    from ltm_eval.results_index import index as indexed

    stem = Path(folder) / "index"
    formats = formats_of(format_) or suffix_format(output) or ("html",)
    place = targets(formats, output, stem=stem)[formats[0]]
    _say(document(indexed(Path(folder)), base=place.parent), ",".join(formats), output, stem=stem)
    return 0


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        epilog=examples(
            "ltm-eval compare results/ltm results/gpt2-large",
            "ltm-eval compare new/ old/ --task gsm8k --fail_if_worse",
            "ltm-eval compare a/ b/ --format html,latex,csv -o paper/gsm8k",
        )
    )(compare)
    app.command(epilog=examples("ltm-eval history results/", "ltm-eval history runs/*/results -o history.html"))(
        history
    )
    app.command(epilog=examples("ltm-eval index results/", "ltm-eval index results/ --format csv"))(index)
