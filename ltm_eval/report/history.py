"""Many checkpoints of a training run: every figure against the training step, and the best checkpoint of each.

The step is what the results file tells of the checkpoint, else a number after `ckpt`, `checkpoint`, `step` or `iter` in
the model's name, revision or folder. Figures share a curve only if all else that their signature declares is equal.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltm_eval.report.findings import run_banners
from ltm_eval.report.plots import inline_svg, training_curves
from ltm_eval.report.tables import (
    Cell,
    Column,
    Document,
    Drawing,
    Part,
    Table,
    interval_text,
    metric_text,
    value_text,
)
from ltm_eval.results.columns import differing, word_of
from ltm_eval.results.figures import EVALUATED, by_own_tokens, task_tables
from ltm_eval.results.scores import entry_of
from ltm_eval.results.views import CurveOverSteps
from ltm_eval.system.errors import ResultsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ltm_eval.results.figures import Figure
    from ltm_eval.results.files import Run
    from ltm_eval.results.views import Banner


_STEP = re.compile(r"(?<![a-z])(?:ckpt|checkpoint|global_step|step|iter)s?[-_=]?(\d{1,12})(?!\d)", re.IGNORECASE)
FREE = ("v", "lm_eval", "dtype")
"""Parts of a signature that may change along a curve."""
NO_BEST = ("as_released", "nll_given_z", "kl", "reference")
"""Rows that are no measure of quality, or no bound."""
UNTOLD = "–"
CAVEAT = (
    "The best checkpoint is chosen on the very documents its figure is reported for, so that figure is too good: the "
    "best of several equally good checkpoints is always better than their average. Choose on validation data, and "
    "report the chosen one on other documents."
)


@dataclass(frozen=True)
class Point:
    """One figure at one step."""

    step: int
    run: Run
    figure: Figure


@dataclass(frozen=True)
class TrainingCurve:
    """One figure of one training run over its steps."""

    label: str
    points: tuple[Point, ...]

    @property
    def head(self) -> Figure:
        """Task, metric and direction, which all points share."""
        return self.points[0].figure

    @property
    def best(self) -> Point | None:
        """The best point, the earliest of equals; None where no direction is better."""
        head = self.head
        known = [point for point in self.points if point.figure.value is not None]
        if head.higher_is_better is None or head.metric.startswith(NO_BEST) or not known:
            return None
        sign = -1 if head.higher_is_better else 1
        return min(known, key=lambda point: (sign * (point.figure.value or 0.0), point.step))


def step_of(run: Run) -> int | None:
    """The training step of the checkpoint that a run evaluated; None where nothing tells it."""
    arguments = run.config.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {"": str(arguments or "")}
    checkpoint = run.config.get("checkpoint")
    told = [checkpoint.get("step") if isinstance(checkpoint, dict) else None, run.config.get("iter_num")]
    for value in told:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    names = (
        arguments.get("revision"),
        arguments.get("pretrained"),
        run.model_name,
        arguments.get(""),
        run.path.parent.name,
    )
    for name in names:
        found = _STEP.findall(str(name)) if name else []
        if found:
            return int(found[-1])
    return None


def name_of(run: Run) -> str:
    """The model's name without its step, so that checkpoints of one training run share it."""
    name = re.sub(r"\.(pt|pth|safetensors)$", "", run.model_name)
    return _STEP.sub("", name).strip(" -_/=,") or "checkpoints"


def curves_of(runs: Sequence[Run]) -> tuple[list[TrainingCurve], list[Run]]:
    """The curves of all tasks and figures, and the runs whose step nothing tells.

    Raises:
        ResultsError: no run has a step.
    """
    stepped = [(step, run) for run in runs if (step := step_of(run)) is not None]
    if not stepped:
        named = ", ".join(dict.fromkeys(run.model_name for run in runs))[:100]
        raise ResultsError(
            f"no run tells its training step ({named}); name checkpoints as ckpt_<step>.pt or step<step>"
        )
    figures_of = _named([run for _, run in stepped])
    groups: dict[tuple[Any, ...], dict[int, Point]] = {}
    for step, run in sorted(stepped, key=lambda one: (one[0], one[1].date_id)):
        for figure in figures_of[run.path]:
            key = (figure.task, figure.metric, figure.filter, name_of(run), _settings(figure))
            groups.setdefault(key, {})[step] = Point(step, run, figure)  # the newest of one step
    tasks = list(dict.fromkeys(task for _, run in stepped for task in run.tasks))
    labels = _labels(groups)
    found = [TrainingCurve(labels[key], tuple(points.values())) for key, points in groups.items()]
    return sorted(found, key=lambda curve: tasks.index(curve.head.task)), [run for run in runs if step_of(run) is None]


def _figures(run: Run) -> Iterator[Figure]:
    """The figures that the page shows, with the same intervals."""
    for task in run.tasks:
        figures = task_tables(task, [entry_of(run.model_name, 1, run, task=task)]).figures
        yield from (one for one in figures if one.status == EVALUATED and one.value is not None)


def _named(runs: Sequence[Run]) -> dict[Path, list[Figure]]:
    """The figures by results file; those per token name their tokens where the training runs have different ones."""
    found: dict[str, list[tuple[Run, Figure]]] = {}
    for run in {run.path: run for run in runs}.values():
        for figure in _figures(run):
            digest = figure.tokens.digest if figure.tokens is not None else ""
            own = replace(figure, model=f"{name_of(run)} {digest[:8]}".strip())
            found.setdefault(figure.task, []).append((run, own))
    named: dict[Path, list[Figure]] = {run.path: [] for run in runs}
    for pairs in found.values():
        for (run, _), figure in zip(pairs, by_own_tokens([own for _, own in pairs]), strict=True):
            named[run.path].append(figure)
    return named


def _settings(figure: Figure) -> tuple[str, ...]:
    parts = tuple(part for part in figure.signature.split("|")[1:] if part.partition(":")[0] not in FREE)
    tokens = (f"tokens:{figure.tokens.digest[:8]}",) if figure.tokens is not None and figure.tokens.digest else ()
    return (*parts, *tokens, f"documents:{figure.n}")


def _labels(groups: Mapping[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], str]:
    """Return the name of each training run, and of several curves of one figure the settings in which they differ."""
    labels: dict[tuple[Any, ...], str] = {}
    for key in groups:
        told = {other: dict(_named_part(part) for part in other[4]) for other in groups if other[:4] == key[:4]}
        names = differing(list(told.values()))
        if "documents" in names and "limit" in names:
            names.remove("limit")
        label = " · ".join((key[3], *(word_of(name, told[key][name]) for name in names if name in told[key])))
        taken = [labels[other] for other in told if other in labels]
        labels[key] = label if label not in taken else f"{label} #{len(taken) + 1}"
    return labels


def _named_part(part: str) -> tuple[str, str]:
    name, _, value = part.partition(":")
    return name, value


# Document


def document(runs: Sequence[Run]) -> Document:
    """The history of `runs`.

    Raises:
        ResultsError: no runs, or none that tells its step or holds a figure.
    """
    curves, without = curves_of(runs)
    if not curves:
        raise ResultsError("no run holds a figure to plot: answers of --predict_only have no score; run without it")
    stepped = [(run.model_name, run) for run in runs if run not in without]
    names = list(dict.fromkeys(name_of(run) for _, run in stepped))
    steps = sorted({point.step for curve in curves for point in curve.points})
    tasks = list(dict.fromkeys(curve.head.task for curve in curves))
    parts = [_best_part(curves)]
    parts += [
        _task_part(task, [c for c in curves if c.head.task == task], index) for index, task in enumerate(tasks, 1)
    ]
    parts += [_left_out(without)] if without else []
    records = tuple(_record(curve, point) for curve in curves for point in curve.points)
    return Document(
        kind="history",
        title=f"History of {', '.join(names)}",
        lead=f"{len(steps):,} checkpoints, training steps {steps[0]:,} to {steps[-1]:,}. ≤ marks upper bounds.",
        banners=tuple(_unique_banners(stepped)),
        parts=tuple(parts),
        records=records,
        data={
            "points": list(records),
            "best": [_best_record(curve, best) for curve in curves if (best := curve.best) is not None],
            "caveat": CAVEAT,
            "without_step": [run.path.as_posix() for run in without],
        },
    )


def _unique_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    """Warnings of all checkpoints, those of one name once."""
    unique: dict[tuple[str, Any], tuple[str, Run]] = {}
    for label, run in named:
        unique.setdefault((label, run.extra.audit), (label, run))
    return run_banners(list(unique.values()))


def _best_part(curves: Sequence[TrainingCurve]) -> Part:
    heads = (
        "task",
        "figure",
        "training run",
        "best step",
        "value",
        "95 % interval",
        "last step",
        "value",
        "checkpoints",
    )
    rows = []
    for curve in curves:
        best, last = curve.best, curve.points[-1]
        if best is None or len(curve.points) < 2 or not _is_plotted(curve):
            continue
        note = "" if best is last else "inside the best's interval" if _inside(last.figure, best.figure) else ""
        rows.append(
            (
                Cell(curve.head.task),
                Cell(metric_text(curve.head)),
                Cell(curve.label),
                Cell(f"{best.step:,}"),
                Cell(value_text(best.figure), kind="better"),
                Cell(interval_text(best.figure)),
                Cell(f"{last.step:,}"),
                Cell(value_text(last.figure), note=note),
                Cell(f"{len(curve.points):,}"),
            )
        )
    columns = tuple(Column(head, numeric=index > 2) for index, head in enumerate(heads))
    sentences = (CAVEAT,) if rows else ("One checkpoint only, or no figure with a direction: nothing to choose from.",)
    return Part("Best checkpoint", sentences, (Table("", columns, tuple(rows)),) if rows else ())


def _inside(figure: Figure, interval: Figure) -> bool:
    value, low, high = figure.value, interval.low, interval.high
    return value is not None and low is not None and high is not None and low <= value <= high


def _is_plotted(curve: TrainingCurve) -> bool:
    row, _, unit = curve.head.metric.rpartition(", ")
    return not row or unit == "bits per byte"


def _task_part(task: str, curves: Sequence[TrainingCurve], index: int) -> Part:
    drawings = []
    drawn = [curve for curve in curves if _is_plotted(curve)]
    for number, name in enumerate(dict.fromkeys(metric_text(curve.head) for curve in drawn), 1):
        same = [curve for curve in drawn if metric_text(curve.head) == name]
        percent = ", percent" if same[0].head.share else ""
        plot = training_curves([_step_curve(curve) for curve in same], axis=_axis(name) + percent)
        svg = inline_svg(plot, name=f"h{number}-{index}")
        drawings.append(Drawing(svg, f"{task}: {name} against the training step, with 95 % intervals."))
    return Part(task, (), tuple(_step_tables(curves)), tuple(drawings))


def _axis(name: str) -> str:
    return name if len(name) <= 42 else f"{name[:41]}…"


def _step_curve(curve: TrainingCurve) -> CurveOverSteps:
    scale = 100 if curve.head.share else 1
    points = []
    for point in curve.points:
        value, low, high = point.figure.value, point.figure.low, point.figure.high
        if value is not None and math.isfinite(value):
            ends = tuple(None if end is None or not math.isfinite(end) else scale * end for end in (low, high))
            points.append((float(point.step), scale * value, ends[0], ends[1]))
    return CurveOverSteps(label=curve.label, points=tuple(points))


def _step_tables(curves: Sequence[TrainingCurve]) -> Iterator[Table]:
    """One table per training run and settings: a row per step, a column per figure."""
    for label in dict.fromkeys(curve.label for curve in curves):
        own = [curve for curve in curves if curve.label == label]
        steps = sorted({point.step for curve in own for point in curve.points})
        by_step = [{point.step: point.figure for point in curve.points} for curve in own]
        bests = [curve.best for curve in own]
        rows = []
        for step in steps:
            cells = [
                _cell(at.get(step), best=best is not None and best.step == step)
                for at, best in zip(by_step, bests, strict=True)
            ]
            rows.append((Cell(f"{step:,}"), *cells))
        columns = (Column("step", numeric=True), *(Column(metric_text(curve.head), numeric=True) for curve in own))
        counts = sorted({point.figure.n for curve in own for point in curve.points if point.figure.n is not None})
        documents = f" {', '.join(f'{count:,}' for count in counts)} documents." if counts else ""
        yield Table(
            label, columns, tuple(rows), f"In small type 95 % intervals; the best of a column is bold.{documents}"
        )


def _cell(figure: Figure | None, *, best: bool) -> Cell:
    if figure is None:
        return Cell(UNTOLD)
    interval = interval_text(figure)
    return Cell(value_text(figure), note="" if interval == UNTOLD else interval, kind="better" if best else "")


def _left_out(runs: Sequence[Run]) -> Part:
    rows = tuple((Cell(run.model_name), Cell(run.path.as_posix())) for run in runs)
    table = Table("", (Column("model"), Column("results")), rows)
    return Part("Left out: no training step", ("Nothing in these results tells a step.",), (table,))


def _record(curve: TrainingCurve, point: Point) -> dict[str, Any]:
    figure = replace(point.figure, model=curve.label)
    head = {
        "training_run": curve.label,
        "step": point.step,
        "date": point.run.date_id,
        "path": point.run.path.as_posix(),
    }
    return {**head, **{key: value for key, value in figure.record().items() if key not in DROPPED}}


DROPPED = (
    "model",
    "status",
    "source",
    "first_minus_this",
    "first_minus_this_low",
    "first_minus_this_high",
    "p",
    "p_holm",
    "paired_documents",
    "first_is",
)
"""Of a figure's record, what means nothing here."""


def _best_record(curve: TrainingCurve, best: Point) -> dict[str, Any]:
    return {
        "task": curve.head.task,
        "metric": curve.head.metric,
        "filter": curve.head.filter,
        "training_run": curve.label,
        "step": best.step,
        "value": best.figure.value,
        "checkpoints": len(curve.points),
    }
