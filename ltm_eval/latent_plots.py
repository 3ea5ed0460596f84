"""Figures of latents: progressive reconstruction, and quality against test-time compute. Drawn as `plots` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_eval.chart import MARKERS, MUTED, Chart, linear, series
from ltm_eval.drawing import page_svg
from ltm_eval.plots import DASHED, DOTTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ltm_eval.latent_page import ComputeCurve, ComputePoint, Estimate, Measure
    from ltm_eval.page import ReportData

_AXES = {"percent": "percent of tokens", "nats": "nats per token", "tokens": "tokens"}
DRAWN = ("top1", "saved", "greedy", "prefix")
"""Measures with a figure; NLL itself, whose texts differ more than its layers, stands in the table alone."""
_LEAST_TOP = {"percent": 5.0, "nats": 0.05, "tokens": 1.0}
"""The axis reaches at least so far, so that nothing is not drawn large."""


def latent_figures(data: ReportData) -> Iterator[tuple[str, str]]:
    """Names and SVG text of all figures of a page that are drawn here."""
    for index, task in enumerate(data.tasks, 1):
        curves = task.inference.compute
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
    scale = 100.0 if measure.unit == "percent" else 1.0
    ladders = [(ladder.name, *_scaled(ladder.points, scale)) for ladder in measure.ladders]
    ends = [value for _, _, low, high in ladders for value in (*low, *high)]
    no_z = scale * measure.no_z.mean
    layers = max(len(ladder.points) for ladder in measure.ladders) - 1
    chart = Chart(
        linear([0, layers], label="active layers l", whole=True),
        linear([*ends, no_z], label=_AXES[measure.unit], zero=measure.unit != "nats", top=_LEAST_TOP[measure.unit]),
    )
    for index, (kind, means, low, high) in enumerate(ladders):
        label = {"upward": "layers 1 to l", "downward": "the last l layers"}.get(kind, kind)
        chart.band(range(len(means)), low, high, series(index))
        dashes = DASHED if index % 2 else ()
        chart.line(range(len(means)), means, series(index), dashes=dashes, marker=MARKERS[index], label=label)
    chart.level(no_z, MUTED, dashes=DOTTED, label="no z")
    return page_svg(chart, name=name)


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
    points = [point for curve in curves for point in curve.points]
    ends = [scale * _or(end, point.value) for point in points for end in (point.low, point.value, point.high)]
    chart = Chart(
        linear([0.0, *map(place, points)], label=words, zero=True),
        linear(ends, label="percent correct" if curves[0].share else "perplexity per token, ≤"),
    )
    for index, curve in enumerate(curves):
        for point in curve.points:
            low, high = (scale * _or(end, point.value) for end in (point.low, point.high))
            chart.whisker((place(point), place(point)), (low, high), series(index))
        chart.line(
            [place(point) for point in curve.points],
            [scale * point.value for point in curve.points],
            series(index),
            marker=MARKERS[index % len(MARKERS)],
            label=curve.model if len(curves) > 1 else "",
        )
    return page_svg(chart, name=name)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
