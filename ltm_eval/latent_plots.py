"""Figures of latents: progressive reconstruction, and quality against test-time compute. Drawn as `plots` draws."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ltm_eval.plots import _INK, _MUTED, _RULE, _series, _short, _svg
from ltm_eval.wording import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from matplotlib.axes import Axes

    from ltm_eval.latent_page import ComputeCurve, ComputePoint, Estimate, Measure
    from ltm_eval.page import ReportData

_AXES = {"percent": "percent of tokens", "nats": "nats per token", "tokens": "tokens"}
DRAWN = ("top1", "saved", "greedy", "prefix")
"""Measures with a figure; NLL itself, whose texts differ more than its layers, stands in the table alone."""
_LEAST_TOP = {"percent": 5.0, "nats": 0.05, "tokens": 1.0}
"""The axis reaches at least so far, so that nothing is not drawn large."""
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--")


def latent_figures(data: ReportData) -> Iterator[tuple[str, str]]:
    """Names and SVG text of all figures of a page that are drawn here."""
    for index, task in enumerate(data.tasks, 1):
        curves = [replace(curve, model=visible(curve.model)) for curve in task.inference.compute]
        shares = [curve for curve in curves if curve.share]
        for kind, own in (("share", _alike(shares)), ("bound", [one for one in curves if not one.share])):
            if own:
                yield f"steps-{kind}-{index}", against_steps(own, name=f"steps-{kind}-{index}")
            if own and all(point.flops is not None for curve in own for point in curve.points):
                yield f"flops-{kind}-{index}", against_flops(own, name=f"flops-{kind}-{index}")
    for index, view in enumerate(data.probes, 1):
        for measure in (one for one in view.measures if one.key in DRAWN):
            name = f"probe-{index}-{measure.key}"
            yield name, reconstruction(measure, name=name)


def _alike(curves: Sequence[ComputeCurve]) -> list[ComputeCurve]:
    """Those of the first one's metric: a figure shows one quantity, the tables all."""
    return [curve for curve in curves if curve.metric == curves[0].metric]


def reconstruction(measure: Measure, *, name: str) -> str:
    """A measure against the number of active layers, upward and downward, with its no-z line; SVG text."""
    from matplotlib.ticker import MaxNLocator

    scale = 100.0 if measure.unit == "percent" else 1.0

    def draw(axes: Axes) -> None:
        for index, ladder in enumerate(measure.ladders):
            xs = list(range(len(ladder.points)))
            means, low, high = _scaled(ladder.points, scale)
            colour = _series(index)
            axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)
            label = {"upward": "layers 1 to l", "downward": "the last l layers"}.get(ladder.name, ladder.name)
            axes.plot(
                xs,
                means,
                _DASHES[index % 2],
                color=colour,
                linewidth=1.8,
                marker=_MARKERS[index],
                markersize=4,
                label=label,
            )
        axes.axhline(scale * measure.no_z.mean, color=_MUTED, linewidth=1.0, linestyle=":", label="no z")
        axes.set_xlabel("active layers l")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(_AXES[measure.unit])
        tops = [value for ladder in measure.ladders for value in _scaled(ladder.points, scale)[2]]
        axes.set_ylim(None if measure.unit == "nats" else 0, max(1.05 * max(tops), _LEAST_TOP[measure.unit]))
        axes.grid(color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, labelcolor=_INK, borderaxespad=0)

    return _svg(draw, size=(6.4, 2.6), name=name)


def _scaled(points: Sequence[Estimate], scale: float) -> tuple[list[float], list[float], list[float]]:
    means = [scale * point.mean for point in points]
    low = [scale * (point.mean if point.low is None else point.low) for point in points]
    high = [scale * (point.mean if point.high is None else point.high) for point in points]
    return means, low, high


def against_steps(curves: Sequence[ComputeCurve], *, name: str) -> str:
    """Figures of one kind against fast steps, a curve per model; SVG text."""
    return _against(curves, lambda point: point.t_fast, words="fast steps", name=name)


def against_flops(curves: Sequence[ComputeCurve], *, name: str) -> str:
    """The same against FLOPs per token, in billions; every point must tell them."""
    return _against(curves, lambda point: (point.flops or 0.0) / 1e9, words="GFLOPs per token", name=name)


def _against(curves: Sequence[ComputeCurve], place: Callable[[ComputePoint], float], *, words: str, name: str) -> str:
    scale = 100.0 if curves[0].share else 1.0

    def draw(axes: Axes) -> None:
        for index, curve in enumerate(curves):
            xs = [place(point) for point in curve.points]
            ys = [scale * point.value for point in curve.points]
            low = [scale * max(point.value - _or(point.low, point.value), 0.0) for point in curve.points]
            high = [scale * max(_or(point.high, point.value) - point.value, 0.0) for point in curve.points]
            axes.errorbar(
                xs,
                ys,
                yerr=[low, high],
                color=_series(index),
                ecolor=_series(index),
                elinewidth=1,
                capsize=2.5,
                linewidth=1.6,
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=4,
                label=_short(curve.model),
            )
        axes.set_xlabel(words)
        axes.set_xlim(left=0)
        axes.set_ylabel("percent correct" if curves[0].share else "perplexity per token, ≤")
        axes.grid(color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        if len(curves) > 1:
            axes.legend(frameon=False, loc="best", labelcolor=_INK)

    return _svg(draw, size=(6.4, 2.6), name=name)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
