"""The report's tables in other forms: HTML, Markdown, CSV, LaTeX and JSON, and its figures as files.

Figures that are not comparable (other shots, documents, task version, few-shot seed or preparation of the text) never
share a row of the summary or a table of a task; the table says which setting it holds for.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from ltm_eval import report
from ltm_eval.comparable import apart_of, groups_of
from ltm_eval.document import RENDERERS, Cell, Column, Document, Part, Table
from ltm_eval.drawing import kept
from ltm_eval.figure_tables import interval_text, metric_text, record_of, status_note, value_text
from ltm_eval.figures import EVALUATED, PUBLISHED, REFERENCE, FlatFigure, flat_figures
from ltm_eval.outputs import write_all
from ltm_eval.plot_files import write_figures
from ltm_eval.summary_text import summary_table
from ltm_eval.wording import VERDICTS, p_both, signed, signed_bits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ltm_eval.page import Published, ReportData, TaskSection

UNTOLD = "–"
TASK_CAPTION = (
    "≤ marks upper bounds; shares and their differences in percent. p is not corrected; Holm’s correction is over the "
    "first figure of every task and model."
)


def export(data: ReportData, places: Mapping[str, Path], *, plots_dir: Path | None) -> list[Path]:
    """Write the report in every format to its place, and its figures to `plots_dir`; return what was written.

    Raises:
        MachineError: a file cannot be written.
    """
    page = ""
    figures: list[Path] = []
    if plots_dir is not None:
        with kept() as drawn:
            page = report.render(data)
        figures = write_figures(drawn, plots_dir, tasks=[task.name for task in data.tasks])
    if "html" in places:
        report.write(page or report.render(data), places["html"])
    tables = {name: path for name, path in places.items() if name != "html"}
    if tables:
        made = document(data)
        write_all({name: partial(RENDERERS[name], made) for name in tables}, tables)
    return [*places.values(), *figures]


def document(data: ReportData) -> Document:
    """The report's summary and the tables of its tasks."""
    figures = [one for task in data.tasks for one in _task_figures(task)]
    others = ", ".join(model.label for model in data.models[1:])
    return Document(
        kind="report",
        title=data.title,
        lead=f"Differences are {data.subject} minus the model of the row, paired by document." if others else "",
        banners=data.banners,
        parts=(
            Part(title="Summary", tables=(summary_table(data.summary),)),
            *(_task_part(task, figures) for task in data.tasks),
        ),
        records=tuple(record_of(one) for one in figures),
        data={
            "title": data.title,
            "subject": data.subject,
            "banners": [asdict(banner) for banner in data.banners],
            "verdicts": [asdict(verdict) for verdict in data.verdicts],
            "models": [asdict(model) for model in data.models],
            "tasks": [{"name": task.name, "versions": task.versions} for task in data.tasks],
            "figures": [record_of(one) for one in figures],
        },
    )


def _task_figures(task: TaskSection) -> list[FlatFigure]:
    own = flat_figures(task.name, task.tables, perplexity=task.perplexity, generation=task.generation)
    return own + [_published(task.name, one) for one in task.published]


def _published(name: str, one: Published) -> FlatFigure:
    return FlatFigure(
        task=name,
        metric=one.metric,
        filter="none",
        model=f"{one.model} {one.params}".strip(),
        status=PUBLISHED,
        bound=one.bound,
        value=one.value,
        low=None,
        high=None,
        interval="",
        share=False,
        higher_is_better=None,
        n=None,
        n_shot=one.shots,
        note="; ".join(filter(None, (one.dataset, one.protocol, one.evidence))),
        signature="",
        source=one.source,
        difference=None,
    )


# Tables


def _task_part(task: TaskSection, figures: Sequence[FlatFigure]) -> Part:
    own = [one for one in figures if one.task == task.name and one.status != PUBLISHED]
    groups = groups_of([one for one in own if one.status == EVALUATED])
    reference = [one for one in own if one.status == REFERENCE]
    tables = []
    for index, group in enumerate(groups):
        apart = apart_of(groups, group)
        members = group.figures + (reference if index == 0 else [])
        tables.append(_task_table(members, title=f"only {apart}" if apart else ""))
    published = [one for one in figures if one.task == task.name and one.status == PUBLISHED]
    tables += [_published_table(published)] if published else []
    return Part(title=f"{task.name}, version {task.versions}", tables=tuple(tables))


def _task_table(figures: Sequence[FlatFigure], *, title: str) -> Table:
    heads = (
        "figure",
        "model",
        "value",
        "95 % interval",
        "n",
        "shots",
        "first - this",
        "95 % interval",
        "p",
        "first model is",
    )
    rows = []
    for one in figures:
        found = one.difference
        shown = _delta if one.share else signed_bits if "bits" in one.metric else signed
        against = ("", "", "", "")
        if found is not None:
            p = p_both(found.p_value, found.p_holm)
            interval = f"{shown(found.low)} to {shown(found.high)}" if found.known else UNTOLD
            against = (shown(found.estimate), interval, p, VERDICTS[found.verdict])
        numbers = tuple(UNTOLD if count is None else f"{count:,}" for count in (one.n, one.n_shot))
        texts = (value_text(one), interval_text(one), *numbers, *against)
        rows.append((Cell(metric_text(one)), Cell(one.model, note=status_note(one)), *(Cell(text) for text in texts)))
    columns = tuple(Column(head, numeric=index in range(2, 9)) for index, head in enumerate(heads))
    return Table(title, columns, tuple(rows), TASK_CAPTION)


def _delta(value: float) -> str:
    return signed(100 * value)


def _published_table(figures: Sequence[FlatFigure]) -> Table:
    columns = (
        Column("model"),
        Column("metric"),
        Column("value", numeric=True),
        Column("shots", numeric=True),
        Column("set, protocol"),
        Column("source"),
    )
    rows = tuple(
        (
            Cell(one.model, note=PUBLISHED),
            Cell(one.metric),
            Cell(value_text(one)),
            Cell(UNTOLD if one.n_shot is None else str(one.n_shot)),
            Cell(one.note),
            Cell(one.source),
        )
        for one in figures
    )
    return Table("Published, not re-run", columns, rows)
