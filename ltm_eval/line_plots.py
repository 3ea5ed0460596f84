"""Figures of a quantity over another, with bands: pass@k over k, accuracy over shots, bounds over steps and draws."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ltm_eval.plots import _INK, _MUTED, _RULE, _series, _short, _svg
from ltm_eval.wording import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from ltm_eval.answering import Line
    from ltm_eval.bound_curves import StepCurve
    from ltm_eval.page import TaskSection

_MARKERS = "os^Dvp"


def line_figures(task: TaskSection, *, index: int) -> dict[str, str]:
    """Name to SVG text of every such figure of a task."""
    found = {}
    if task.attempts:
        shown = _visible(task.attempts)
        found[f"attempts-{index}"] = bands(shown, name=f"attempts-{index}", x="attempts k", y="pass@k, percent")
    if task.shots:
        shown = _visible(task.shots)
        found[f"shots-{index}"] = bands(shown, name=f"shots-{index}", x="demonstrations", y="percent correct")
    if task.steps:
        curves = [replace(curve, label=visible(curve.label)) for curve in task.steps]
        found[f"steps-{index}"] = against_steps(curves, name=f"steps-{index}")
    if task.draws:
        shown = _visible(task.draws)
        name = f"draws-{index}"
        found[name] = bands(shown, name=name, x="noise draws", y="perplexity per token", scale=1.0, doubling=True)
    return found


def _visible(lines: Sequence[Line]) -> list[Line]:
    return [replace(line, label=visible(line.label)) for line in lines]


def bands(  # noqa: PLR0913 - what is drawn, and what the axes say
    lines: Sequence[Line], *, name: str, x: str, y: str, scale: float = 100.0, doubling: bool = False
) -> str:
    """Lines with 95 % bands, a marker at every point; SVG text.

    Args:
        scale: of the figures; shares are drawn in percent.
        doubling: whether the horizontal axis is logarithmic to base 2.
    """

    def draw(axes: Axes) -> None:
        ticks = sorted({point.x for line in lines for point in line.points})
        for line in lines:
            xs = [point.x for point in line.points]
            low, mid, high = ([scale * getattr(p, end) for p in line.points] for end in ("low", "value", "high"))
            colour = _MUTED if line.dashed else _series(line.series - 1)
            axes.fill_between(xs, low, high, color=colour, alpha=0.08 if line.dashed else 0.16, linewidth=0)
            axes.plot(
                xs,
                mid,
                color=colour,
                linestyle="--" if line.dashed else "-",
                marker=_MARKERS[(line.series - 1) % len(_MARKERS)],
                markersize=4,
                linewidth=1.6,
                label=_short(line.label),
            )
        if doubling:
            axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        if scale == 100.0:
            axes.set_ylim(bottom=0)
        _finish(axes, x=x, y=y, legend=len(lines) > 1)

    return _svg(draw, size=(6.4, 2.6), name=name)


def against_steps(curves: Sequence[StepCurve], *, name: str) -> str:
    """Nats per token over fast steps, and the bound over fresh draws as a dotted line; SVG text."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        for curve in curves:
            colour = _series(curve.series - 1)
            steps = range(len(curve.nats_per_token))
            axes.plot(steps, curve.nats_per_token, color=colour, linewidth=1.8, label=_short(curve.label))
            if curve.settled is not None:
                axes.axhline(curve.settled, color=colour, linewidth=1.0, linestyle=":")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(axes, x="fast step", y="nats per token", legend=len(curves) > 1)

    return _svg(draw, size=(6.4, 2.4), name=name)


def _finish(axes: Axes, *, x: str, y: str, legend: bool) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=_RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(frameon=False, loc="best", labelcolor=_INK)
