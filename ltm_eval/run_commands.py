"""Commands about runs on disk: `status` and `rescore`. Registered with the others in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm_eval.calls import examples
from ltm_eval.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN = 60
"""Characters of a group's value on the terminal."""


def status(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, as its --output_path.")],
    json_: Annotated[bool, typer.Option("--json", help="For other programs.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write the lost or damaged run.json of a model's folder anew.")
    ] = False,
) -> int:
    """Show how far a run is, from another terminal: answers by model and task, rate, time left, who is at work."""
    from ltm_eval import status as looking
    from ltm_eval.resume import rebuild as write_manifest

    if rebuild:
        print(f"manifest: {write_manifest(Path(folder)).resolve()}")
        return 0
    found = looking.status(Path(folder))
    print(looking.to_json(found) if json_ else "\n".join(looking.text(found)))
    return 0


def rescore(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or one of its results files.")],
    k: Annotated[str | None, typer.Option("--k", metavar="K,...", help="Other k of pass@k, up to the run's n.")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="NAME=REGEX", help="A further extraction; the last match is the answer."),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="FIELD", help="Shares with intervals by a field of the documents.")
    ] = None,
) -> int:
    """Make the metrics of a finished run anew from its answers, without the model; the run's own files stay."""
    from ltm_eval.rescore import Changes
    from ltm_eval.rescore import rescore as make
    from ltm_eval.results import read_run
    from ltm_eval.results_table import results_table

    changes = Changes(_whole_numbers(k), tuple(map(_named, filters or [])), group)
    for path in make(Path(folder), changes):
        print(results_table(path))
        for line in group_lines(read_run(path).extra.groups or {}):
            print(line)
        print(f"results: {path}")
    return 0


def _whole_numbers(text: str | None) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UsageError(f"k must be whole numbers of at least 1, got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def _named(text: str) -> tuple[str, str]:
    import re

    name, equals, pattern = text.partition("=")
    if not equals or not name.strip() or "," in name:
        raise UsageError(rf"filter must be NAME=REGEX, such as last-number=(-?\d+), got {text!r}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"filter {name}: {pattern!r} is no regular expression ({error})") from None
    return name.strip(), pattern


def group_lines(groups: Mapping[str, Any]) -> list[str]:
    """Shares by group, a line each; values come from data and are made harmless and short."""
    from ltm_eval.escapes import terminal
    from ltm_eval.repeats import interval_words

    return [
        f"{task}: {terminal(_short(value))}: {terminal(figure.replace(',', ', '))} {interval_words(found)}"
        for task, values in groups.items()
        for value, figures in values.items()
        for figure, found in figures.items()
    ]


def _short(value: str) -> str:
    """A value that names a group, in a line of figures; the results file has all of it."""
    return value if len(value) <= SHOWN else f"{value[: SHOWN - 1]}…"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("ltm-eval status results/"))(status)
    app.command(
        epilog=examples("ltm-eval rescore results/ --k 1,3", r"ltm-eval rescore results/ --filter 'last=(-?\d+)'")
    )(rescore)
