"""Figures of a quantity over another, with bands: pass@k over k, accuracy over shots, bounds over steps and draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_eval.chart import MARKERS, MUTED, Chart, at_values, linear, series
from ltm_eval.drawing import page_svg
from ltm_eval.plots import DASHED, DOTTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.answering import Line
    from ltm_eval.bound_curves import StepCurve
    from ltm_eval.page import TaskSection


def line_figures(task: TaskSection, *, index: int) -> dict[str, str]:
    """Name to SVG text of every such figure of a task."""
    found = {}
    if task.attempts:
        found[f"attempts-{index}"] = bands(task.attempts, name=f"attempts-{index}", x="attempts k", y="pass@k, percent")
    if task.shots:
        found[f"shots-{index}"] = bands(task.shots, name=f"shots-{index}", x="demonstrations", y="percent correct")
    k, lines = task.shots_pass
    if lines:
        name = f"shots-pass-{index}"
        found[name] = bands(lines, name=name, x="demonstrations", y=f"pass@{k}, percent")
    if task.steps:
        found[f"steps-{index}"] = against_steps(task.steps, name=f"steps-{index}")
    if task.draws:
        name = f"draws-{index}"
        found[name] = bands(task.draws, name=name, x="noise draws", y="perplexity per token", scale=1.0, doubling=True)
    return found


def bands(  # noqa: PLR0913 - what is drawn, and what the axes say
    lines: Sequence[Line], *, name: str, x: str, y: str, scale: float = 100.0, doubling: bool = False
) -> str:
    """Lines with 95 % bands, a marker at every point; SVG text.

    Args:
        scale: of the figures; shares are drawn in percent.
        doubling: whether the horizontal axis is logarithmic to base 2.
    """
    points = [point for line in lines for point in line.points]
    ends = [scale * end for point in points for end in (point.low, point.high)]
    ends += [scale * value for line in lines for _, value in line.dots]
    chart = Chart(
        at_values([point.x for point in points], label=x, doubling=doubling),
        linear(ends, label=y, zero=scale == 100.0),
    )
    for line in lines:
        xs = [point.x for point in line.points]
        low, mid, high = ([scale * getattr(p, end) for p in line.points] for end in ("low", "value", "high"))
        colour = MUTED if line.dashed else series(line.series - 1)
        chart.band(xs, low, high, colour)
        chart.dots([(at, scale * value) for at, value in line.dots], MUTED, shape="diamond")
        chart.line(
            xs,
            mid,
            colour,
            dashes=DASHED if line.dashed else (),
            marker=MARKERS[(line.series - 1) % len(MARKERS)],
            label=line.label if len(lines) > 1 else "",
        )
    return page_svg(chart, name=name)


def against_steps(curves: Sequence[StepCurve], *, name: str) -> str:
    """Nats per token over fast steps, and the bound over fresh draws as a dotted line; SVG text."""
    nats = [value for curve in curves for value in (*curve.nats_per_token, curve.settled) if value is not None]
    steps = max(len(curve.nats_per_token) for curve in curves) - 1
    chart = Chart(linear([0, steps], label="fast step", whole=True), linear(nats, label="nats per token"))
    for curve in curves:
        colour = series(curve.series - 1)
        label = curve.label if len(curves) > 1 else ""
        chart.line(range(len(curve.nats_per_token)), curve.nats_per_token, colour, width=1.8, label=label)
        if curve.settled is not None:
            chart.level(curve.settled, colour, dashes=DOTTED)
    return page_svg(chart, name=name)
