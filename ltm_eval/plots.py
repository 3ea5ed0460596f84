"""The figures of a page: what a score, a fit or a set of documents looks like as a chart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ltm_eval.chart import INK, MUTED, RULE, Axis, Chart, linear, named, series
from ltm_eval.drawing import page_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

DASHED = (4.0, 2.5)
DOTTED = (1.5, 2.0)
_BINS = 40


@dataclass(frozen=True)
class Bar:
    """One bar with its interval."""

    group: str
    """What is compared within: the filter."""
    label: str
    """What the bar stands for: the model."""
    series: int
    """Colour, from 1; 0 where no model ran."""
    value: float
    """Height, 0 to 1."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""


@dataclass(frozen=True)
class Curve:
    """Median and 10-90 % band over fast steps."""

    label: str
    """What the curve stands for: the model."""
    median: tuple[float, ...]
    """Median per step."""
    low: tuple[float, ...]
    """10 % quantile per step."""
    high: tuple[float, ...]
    """90 % quantile per step."""
    worst: tuple[float, ...] = ()
    """The request that gained least, per step."""


@dataclass(frozen=True)
class Stack:
    """A bar made of parts."""

    label: str
    """What the bar stands for: the model."""
    parts: tuple[tuple[str, float], ...]
    """Name and size of each part, from the axis outwards."""


@dataclass(frozen=True)
class Spread:
    """How the documents of one model are distributed."""

    label: str
    """What the curve stands for: the model."""
    series: int
    """Colour, from 1."""
    values: tuple[float, ...]
    """One a document."""


@dataclass(frozen=True)
class Divergence:
    """MAUVE's curve between two collections of texts."""

    label: str
    """What the curve stands for: the model, or human texts."""
    series: int
    """Colour, from 1; 0 is human texts against human texts."""
    points: tuple[tuple[float, float], ...]
    """exp(-c KL(generated | mixture)) and exp(-c KL(human | mixture)), both 0 to 1."""


@dataclass(frozen=True)
class StepCurve:
    """A figure over training steps."""

    label: str
    """What the curve stands for: the training run."""
    points: tuple[tuple[float, float, float | None, float | None], ...]
    """Step, value, and both ends of the 95 % interval or None."""


def accuracy_bars(bars: Sequence[Bar], *, name: str) -> str:
    """Horizontal bars in percent, grouped; SVG text.

    Args:
        bars: in drawing order.
        name: prefix of every id in the figure, so that several fit in one page.
    """
    groups = list(dict.fromkeys(bar.group for bar in bars))
    heads, rows, y = [], [], 0.0
    for group in groups:
        heads.append((y, group))
        own = [bar for bar in bars if bar.group == group]
        rows += [(y + place, bar) for place, bar in enumerate(own, 1)]
        y += len(own) + 1.4
    most = min(100.0, max(5.0, *(105 * bar.high for bar in bars)))
    x = linear([0.0, most], label="percent correct, 95 % interval", zero=True)
    chart = Chart(
        replace(x, high=most),
        named([bar.label for _, bar in rows], [place for place, _ in rows], low=-0.7, high=y - 0.6),
        height=19.0 * (y + 0.1),
    )
    for place, group in heads:
        chart.words(0.0, place, group)
    for place, bar in rows:
        colour, alpha = (series(bar.series - 1), 1.0) if bar.series else (MUTED, 0.5)
        chart.box((0.0, 100 * bar.value), (place - 0.36, place + 0.36), colour, alpha=alpha)
        low, high = min(bar.low, bar.value), max(bar.high, bar.value)
        chart.whisker((100 * low, 100 * high), (place, place), INK)
    return page_svg(chart, name=name)


def fit_trajectory(curves: Sequence[Curve], *, name: str) -> str:
    """Objective over fast steps relative to the first step, in nats per request: median and 10-90 % band; SVG text."""
    ends = [value for curve in curves for line in (curve.low, curve.high, curve.worst) for value in line]
    chart = Chart(
        linear([0, max(len(curve.median) for curve in curves) - 1], label="fast step", whole=True),
        linear([0.0, *ends], label="change of the objective, nats"),
    )
    chart.level(0.0, RULE)
    for index, curve in enumerate(curves):
        steps, colour = range(len(curve.median)), series(index)
        chart.band(steps, curve.low, curve.high, colour)
        chart.line(steps, curve.median, colour, width=1.8, label=curve.label if len(curves) > 1 else "")
        if curve.worst:
            chart.line(range(len(curve.worst)), curve.worst, colour, width=1.0, dashes=DASHED)
    return page_svg(chart, name=name)


def stacked_bars(stacks: Sequence[Stack], *, name: str) -> str:
    """Horizontal bars in nats per token, made of parts, one colour per part, their sum at the end; SVG text."""
    parts = list(dict.fromkeys(part for stack in stacks for part, _ in stack.parts))
    longest = max(sum(size for _, size in stack.parts) for stack in stacks)
    end = 1.12 * longest if longest > 0 else 1.0
    rows = named([stack.label for stack in stacks], range(len(stacks)), low=-0.5, high=len(stacks) - 0.5)
    chart = Chart(
        replace(linear([0.0, end], label="nats per token", zero=True), high=end), rows, height=23.0 * len(stacks)
    )
    for position, stack in enumerate(stacks):
        left = 0.0
        for part, size in stack.parts:
            chart.box((left, left + size), (position - 0.31, position + 0.31), series(parts.index(part)))
            left += size
        chart.words(left, position, f"{left:.3f}", right=4.0)
    for index, part in enumerate(parts):
        chart.entry(part, series(index))
    return page_svg(chart, name=name)


def histogram(spreads: Sequence[Spread], *, name: str) -> str:
    """Documents by bits per byte, one outline per model over common bins; SVG text."""
    values = [value for spread in spreads for value in spread.values]
    low, high = min(values), max(values)
    bins = min(_BINS, max(4, round(2 * max(len(spread.values) for spread in spreads) ** 0.5)))
    width = (high - low) / bins or 0.1
    edges = [low + width * index for index in range(bins + 1)]
    counted = []
    for spread in spreads:
        counts = [0] * bins
        for value in spread.values:
            counts[min(int((value - low) / width), bins - 1)] += 1
        counted.append(counts)
    chart = Chart(
        linear(edges, label="bits per byte of a document"),
        linear([0, *(1.05 * max(counts) for counts in counted)], label="documents", whole=True),
        height=115.0,
    )
    for spread, counts in zip(spreads, counted, strict=True):
        xs = [edge for edge in edges for _ in range(2)]
        ys = [0.0, *(float(count) for count in counts for _ in range(2)), 0.0]
        colour = series(spread.series - 1)
        chart.band(xs, [0.0] * len(xs), ys, colour)
        chart.line(xs, ys, colour, label=spread.label if len(spreads) > 1 else "")
    return page_svg(chart, name=name)


def divergence_curves(curves: Sequence[Divergence], *, name: str) -> str:
    """Divergence curves in the unit square, human texts dashed; MAUVE is the area below; SVG text."""
    ticks = tuple((tenth / 5, f"{tenth / 5:.1f}") for tenth in range(6))
    chart = Chart(
        Axis(0.0, 1.02, ticks, "what it writes is like human text"),
        Axis(0.0, 1.02, ticks, "human text is like what it writes"),
        height=190.0,
        square=True,
    )
    for curve in curves:
        xs, ys = zip(*curve.points, strict=True)
        colour, dashes = (series(curve.series - 1), ()) if curve.series else (MUTED, DASHED)
        chart.line(xs, ys, colour, width=1.8, dashes=dashes, label=curve.label)
    return page_svg(chart, name=name)


def step_curves(curves: Sequence[StepCurve], *, name: str, axis: str) -> str:
    """A figure over training steps with its 95 % intervals, one colour per run; SVG text.

    Args:
        curves: points in order of their steps.
        name: prefix of every id in the figure.
        axis: what the figure is, with its unit.
    """
    points = [point for curve in curves for point in curve.points]
    values = [value for point in points for value in point[1:] if value is not None]
    chart = Chart(linear([point[0] for point in points], label="training step", whole=True), linear(values, label=axis))
    for index, curve in enumerate(curves):
        for step, _, low, high in curve.points:
            if low is not None and high is not None:
                chart.whisker((step, step), (low, high), series(index))
        steps, mids = [point[0] for point in curve.points], [point[1] for point in curve.points]
        label = curve.label if len(curves) > 1 else ""
        chart.line(steps, mids, series(index), width=1.8, marker="circle", label=label)
    return page_svg(chart, name=name)
