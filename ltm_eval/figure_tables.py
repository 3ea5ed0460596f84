"""Figures in words for tables: values with their sign and unit, intervals, and one head for what may share a column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_eval.figures import EVALUATED
from ltm_eval.wording import number, percent

if TYPE_CHECKING:
    from ltm_eval.figures import FlatFigure

UNTOLD = "–"


def value_text(figure: FlatFigure) -> str:
    """The figure with its unit, and "≤" before a bound."""
    if figure.value is None:
        return UNTOLD
    sign = "≤ " if figure.bound else ""
    return f"{sign}{percent(figure.value)} %" if figure.share else f"{sign}{number(figure.value)}"


def interval_text(figure: FlatFigure) -> str:
    """Both ends of the 95 % interval, in the figure's unit."""
    if figure.low is None or figure.high is None:
        return UNTOLD
    shown = percent if figure.share else number
    return f"{shown(figure.low)} to {shown(figure.high)}"


def metric_text(figure: FlatFigure) -> str:
    """Metric, filter and direction."""
    name = figure.metric if figure.filter == "none" else f"{figure.metric}, {figure.filter}"
    return f"{name} {arrow(figure)}".strip()


def arrow(figure: FlatFigure) -> str:
    """↑ where higher is better, ↓ where lower is."""
    return {True: "↑", False: "↓", None: ""}[figure.higher_is_better]


def record_of(figure: FlatFigure) -> dict[str, Any]:
    """The figure with numbers in full, the same keys for every figure; `relation` is ≤ for a bound, else empty."""
    difference = figure.difference
    return {
        "task": figure.task,
        "metric": figure.metric,
        "filter": figure.filter,
        "model": figure.model,
        "status": figure.status,
        "relation": "≤" if figure.bound else "",
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "interval": figure.interval,
        "share": figure.share,
        "higher_is_better": figure.higher_is_better,
        "documents": figure.n,
        "shots": figure.n_shot,
        "first_minus_this": difference.estimate if difference else None,
        "first_minus_this_low": difference.low if difference and difference.known else None,
        "first_minus_this_high": difference.high if difference and difference.known else None,
        "p": difference.p_value if difference else None,
        "p_holm": difference.p_holm if difference else None,
        "paired_documents": difference.n if difference else None,
        "first_is": difference.verdict if difference else "",
        "note": figure.note,
        "signature": figure.signature,
        "source": figure.source,
    }


def status_note(figure: FlatFigure) -> str:
    """What stands beside a figure that no run of ours gave, and its own note."""
    told = [figure.status] if figure.status != EVALUATED else []
    return "; ".join(dict.fromkeys([*told, *([figure.note] if figure.note else [])]))
