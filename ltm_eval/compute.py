"""Test-time compute: one model's figures against its fast steps, where the runs of a page differ in them."""

from __future__ import annotations

import json
from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ltm_eval.flops import flops_of
from ltm_eval.latent_page import ComputeCurve, ComputePoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.latent_record import LatentRecord
    from ltm_eval.page import PerplexitySection, ScoreTable
    from ltm_eval.result_records import Run
    from ltm_eval.scores import Entry

BOUND_ROW = "bound"


def compute_curves(
    name: str,
    entries: Sequence[Entry],
    records: Mapping[str, Sequence[LatentRecord]],
    *,
    tables: Sequence[ScoreTable],
    perplexity: PerplexitySection | None,
) -> tuple[ComputeCurve, ...]:
    """Curves of every share of documents and of the bound, for each model that ran with different numbers of steps.

    Args:
        records: the sidecars, by label.
        tables: of the task, a row per entry.
        perplexity: of the task.
    """
    steps = {entry.label: _steps(entry.run, records.get(entry.label, ())) for entry in entries}
    families: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if steps[entry.label] is not None:
            families[_family(entry.run, name)].append(entry)
    curves = []
    for family in families.values():
        if len({steps[entry.label] for entry in family}) > 1:
            curves += _curves(family, steps, tables=tables, perplexity=perplexity)
    return tuple(curves)


def _steps(run: Run, records: Sequence[LatentRecord]) -> float | None:
    """Mean fast steps of a run: of its records, else of its settings; None where it is no LTM's."""
    if records:
        return round(fmean(record.t_fast for record in records), 2)
    fit = run.config.get("fit")
    value = fit.get("t_fast") if isinstance(fit, dict) else None
    return float(value) if isinstance(value, int) else None


def _family(run: Run, name: str) -> str:
    """Equal where runs are the same but for their fast steps."""
    fit = run.config.get("fit")
    told: dict[str, Any] = {
        "model": run.config.get("model_sha") or run.model_name,
        "tokenizer": run.config.get("tokenizer"),
        "condition": run.config.get("condition"),
        "fit_window": run.config.get("fit_window"),
        "preset": fit.get("preset") if isinstance(fit, dict) else None,
        "shots": run.tasks[name].n_shot,
    }
    return json.dumps(told, sort_keys=True, default=str)


def _curves(
    family: Sequence[Entry],
    steps: Mapping[str, float | None],
    *,
    tables: Sequence[ScoreTable],
    perplexity: PerplexitySection | None,
) -> list[ComputeCurve]:
    found = []
    ends: tuple[float, float] | tuple[None, None]
    for table in tables if any(table.share for table in tables) else ():
        values = {}
        for row in table.rows:
            if row.value is not None:
                ends = row.interval or (None, None)
                values[row.label] = (row.value, *ends)
        if table.share:
            title = table.metric if table.filter == "none" else f"{table.metric}, {table.filter}"
            found.append(_curve(family, steps, values, title=title, higher=table.higher_is_better, table=table))
    lines = [row for row in perplexity.rows if row.name == BOUND_ROW] if perplexity is not None else []
    for one in lines:
        figures = {line.label: line.per_token for line in one.lines if line.bound}
        values = {label: (own.value, own.low, own.high) for label, own in figures.items() if own is not None}
        found.append(_curve(family, steps, values, title="perplexity per token, bound", higher=False, table=None))
    return [curve for curve in found if len({point.t_fast for point in curve.points}) > 1]


def _curve(  # noqa: PLR0913 - a family, its steps and figures, and what these are
    family: Sequence[Entry],
    steps: Mapping[str, float | None],
    values: Mapping[str, tuple[float, float | None, float | None]],
    *,
    title: str,
    higher: bool | None,
    table: ScoreTable | None,
) -> ComputeCurve:
    points = []
    for entry in family:
        t_fast = steps[entry.label]
        if t_fast is not None and entry.label in values:
            flops = flops_of(entry.run.config, t_fast=t_fast)
            points.append(ComputePoint(entry.label, t_fast, flops, *values[entry.label]))
    lead = family[0].run
    condition = lead.config.get("condition")
    return ComputeCurve(
        model=f"{lead.model_name}, {condition}" if condition else lead.model_name,
        metric=title,
        share=table is not None,
        bound=table is None or table.bound,
        higher_is_better=higher,
        points=tuple(sorted(points, key=lambda point: (point.t_fast, point.label))),
    )
