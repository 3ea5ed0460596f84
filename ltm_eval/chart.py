"""A chart: two axes, lines, bands, bars and dots, laid out by the width of letters, for any renderer of matplotlib.

matplotlib's own axes cost about 65 ms of processor each, most of it to lay text out that the page's font draws anyway
(`benchmarks/RESULTS.md`). Here a chart knows its ticks before it is drawn, so margins follow from the widths of their
labels, and every mark is one call of a renderer. All lengths are points, 72 to an inch, from the lower left corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ltm_eval.wording import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDTH = 403.0
"""Of every chart: 5.6 inches."""
FONT = 9.0
INK, MUTED, RULE = "ink", "muted", "rule"
SERIES = 6
"""Colours of models: series-1 to series-6, then again from the first."""
LABEL_LIMIT = 36
MARKERS = ("circle", "square", "triangle", "diamond", "wedge", "pentagon")
_NARROW, _WIDE = frozenset("iljtfrI.,:;|'!()[] -"), frozenset("mwMW@%—")
_ROW = 14.0
_SWATCH = 18.0


class Pen(Protocol):
    """What draws: a renderer, with colours by their names."""

    def path(  # noqa: PLR0913 - what a path looks like
        self,
        points: Sequence[tuple[float, float]],
        *,
        stroke: str = "",
        width: float = 1.0,
        dashes: tuple[float, ...] = (),
        fill: str = "",
        alpha: float = 1.0,
    ) -> None:
        """A line through points, closed where it is filled."""

    def marks(self, points: Sequence[tuple[float, float]], *, shape: str, fill: str) -> None:
        """The same mark at every point."""

    def text(self, x: float, y: float, words: str, *, colour: str, anchor: str = "start", angle: float = 0.0) -> None:
        """Words whose baseline begins, has its middle or ends at a point."""


def series(index: int) -> str:
    """Name of the colour of the model at `index`, from 0."""
    return f"series-{index % SERIES + 1}"


def shortened(text: str) -> str:
    """A label in a figure, with what cannot be seen shown: its beginning and end, because names of runs often differ in
    their last letters only. The tables beside figures hold it whole.
    """
    text, half = visible(text), LABEL_LIMIT // 2
    return text if len(text) <= LABEL_LIMIT else f"{text[:half]}…{text[1 - half :]}"


def text_width(text: str) -> float:
    """Estimate, in points at the charts' size of letters, on the wide side for common fonts."""
    return FONT * math.fsum(
        1.0 if ord(c) > 0x2E7F else 0.36 if c in _NARROW else 0.92 if c in _WIDE else 0.72 if c.isupper() else 0.6
        for c in text
    )


@dataclass(frozen=True)
class Axis:
    """One direction of a chart."""

    low: float
    """Value at the left or lower end."""
    high: float
    """Value at the other end; below `low` where values run downwards."""
    ticks: tuple[tuple[float, str], ...]
    """Values with their labels."""
    label: str = ""
    """What is measured, with its unit."""
    grid: bool = True
    """Whether a line is drawn at every tick."""
    names: bool = False
    """Whether labels are names of rows."""
    doubling: bool = False
    """Whether equal lengths are equal ratios."""

    def share(self, value: float) -> float:
        """Place of a value between both ends, 0 to 1; what lies beyond is moved to the end."""
        low, high, at = self.low, self.high, value
        if self.doubling:
            low, high, at = math.log2(low), math.log2(high), math.log2(max(value, self.low))
        return min(max((at - low) / (high - low), 0.0), 1.0)


def linear(values: Iterable[float], *, label: str, zero: bool = False, whole: bool = False, top: float = 0.0) -> Axis:
    """An axis that holds the finite ones of `values`, with some room.

    Args:
        zero: begin at 0.
        whole: label whole numbers only.
        top: reach at least so far.
    """
    found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = (0.0 if zero else min(found)), max(*found, top) if top else max(found)
    if high - low < 1e-9 * max(1.0, abs(high)):
        pad = max(abs(high) * 0.05, 0.05 if not whole else 1.0)
        low, high = (low if zero else low - pad), high + pad
    elif not whole:
        room = 0.05 * (high - low)
        low, high = (low if zero else low - room), high + room
    return Axis(low, high, nice_ticks(low, high, whole=whole), label)


def nice_ticks(low: float, high: float, *, whole: bool = False, most: int = 6) -> tuple[tuple[float, str], ...]:
    """At most `most` round values between two ends, with labels of equally many decimals."""
    step = _round_up((high - low) / (most - 1))
    if whole:
        step = max(1.0, math.ceil(step))
    decimals = next(n for n in range(16) if n == 15 or math.isclose(step, round(step, n), rel_tol=1e-6))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple((n * step, _digits(n * step, decimals)) for n in range(first, last + 1))


def _round_up(step: float) -> float:
    """The next of 1, 2, 2.5, 5 and 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(unit * power for unit in (1, 2, 2.5, 5, 10) if unit * power >= step * (1 - 1e-9))


def _digits(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")  # + 0.0: no minus before a zero


def at_values(values: Iterable[float], *, label: str, doubling: bool = False) -> Axis:
    """An axis with a tick at every one of few values; of many, at those whose labels do not touch."""
    ticks = sorted(set(values))
    low, high = (ticks[0], ticks[-1]) if ticks[0] < ticks[-1] else (ticks[0] / 2, 2 * ticks[0] + 1)
    bare = Axis(low, high, (), label, doubling=doubling)
    kept: list[float] = []
    for tick in ticks:
        wide = text_width(f"{tick:g}") + 4
        if not kept or (bare.share(tick) - bare.share(kept[-1])) * (WIDTH - 80) >= wide:
            kept.append(tick)
    return Axis(low, high, tuple((tick, f"{tick:,g}") for tick in kept), label, doubling=doubling)


def named(names: Sequence[str], places: Sequence[float], *, low: float, high: float) -> Axis:
    """Rows from top to bottom, each with its name."""
    shown = tuple((place, shortened(name)) for place, name in zip(places, names, strict=True))
    return Axis(high, low, shown, grid=False, names=True)


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    label: str
    """What the mark stands for."""
    colour: str
    """Its colour."""
    dashes: tuple[float, ...] | None = ()
    """Of a line; None for a square."""
    marker: str = ""
    """On the line."""


@dataclass
class Chart:
    """What is to be drawn."""

    x: Axis
    """Horizontally."""
    y: Axis
    """Vertically."""
    height: float = 132.0
    """Of the part between the axes."""
    square: bool = False
    """Whether that part is as wide as high."""
    _under: list[Callable[[Pen, _Box], None]] = field(default_factory=list)
    _marks: list[Callable[[Pen, _Box], None]] = field(default_factory=list)
    _legend: list[Entry] = field(default_factory=list)

    # Marks

    def line(  # noqa: PLR0913 - what a line looks like
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        colour: str,
        *,
        width: float = 1.6,
        dashes: tuple[float, ...] = (),
        marker: str = "",
        label: str = "",
    ) -> None:
        """A line through points, with a mark at each if one is named, and in the legend if it has a label."""
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        self._marks.append(lambda pen, box: pen.path(box.all(points), stroke=colour, width=width, dashes=dashes))
        if marker:
            self._marks.append(lambda pen, box: pen.marks(box.all(points), shape=marker, fill=colour))
        if label:
            self._legend.append(Entry(label, colour, dashes, marker))

    def dots(self, points: Sequence[tuple[float, float]], colour: str, *, shape: str = "circle") -> None:
        """A mark at every point."""
        self._marks.append(lambda pen, box: pen.marks(box.all(points), shape=shape, fill=colour))

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> None:
        """What lies between two lines, faintly."""
        points = [*zip(xs, low, strict=True), *reversed(list(zip(xs, high, strict=True)))]
        if all(math.isfinite(value) for point in points for value in point):
            self._under.append(lambda pen, box: pen.path(box.all(points), fill=colour, alpha=0.17))

    def box(self, x: tuple[float, float], y: tuple[float, float], colour: str, *, alpha: float = 1.0) -> None:
        """A filled rectangle."""
        corners = [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]
        self._marks.append(lambda pen, box: pen.path(box.all(corners), fill=colour, alpha=alpha))

    def whisker(self, x: tuple[float, float], y: tuple[float, float], colour: str) -> None:
        """A straight interval, along either axis, with a short bar at both ends."""
        (dx, dy) = (0.0, 2.5) if y[0] == y[1] else (2.5, 0.0)

        def draw(pen: Pen, box: _Box) -> None:
            ends = [box.at(x[0], y[0]), box.at(x[1], y[1])]
            pen.path(ends, stroke=colour)
            for end in ends:
                pen.path([(end[0] - dx, end[1] - dy), (end[0] + dx, end[1] + dy)], stroke=colour)

        self._marks.append(draw)

    def level(self, value: float, colour: str, *, dashes: tuple[float, ...] = (), label: str = "") -> None:
        """A horizontal line across the whole chart."""
        self.line([self.x.low, self.x.high], [value, value], colour, width=1.0, dashes=dashes, label=label)

    def words(self, x: float, y: float, text: str, *, colour: str = INK, right: float = 0.0) -> None:
        """Text that begins `right` points beside a place, centred on it vertically."""

        def draw(pen: Pen, box: _Box) -> None:
            place = box.at(x, y)
            pen.text(place[0] + right, place[1] - 0.35 * FONT, shortened(text), colour=colour)

        self._marks.append(draw)

    def entry(self, label: str, colour: str) -> None:
        """A square in the legend."""
        self._legend.append(Entry(label, colour, dashes=None))

    # Layout

    def size(self) -> tuple[float, float]:
        """Width and height of the whole chart."""
        return WIDTH, self._layout().top + 6.0 + (_ROW * len(self._rows()) + 4.0 if self._rows() else 0.0)

    def draw(self, pen: Pen) -> None:
        """Draw everything: what lies below, the grid, the marks, the axes, the words."""
        box = self._layout()
        for one in self._under:
            one(pen, box)
        self._grid(pen, box)
        for one in self._marks:
            one(pen, box)
        self._axes(pen, box)
        self._labels(pen, box)
        self._draw_legend(pen, box)

    def _layout(self) -> _Box:
        widest = max((text_width(label) for _, label in self.y.ticks), default=0.0)
        left = widest + 10.0 if self.y.names else max(widest + 8.0, 36.0) + (13.0 if self.y.label else 0.0)
        bottom = 16.0 + (13.0 if self.x.label else 0.0)
        last = text_width(self.x.ticks[-1][1]) / 2 if self.x.ticks and not self.square else 0.0
        right = left + self.height if self.square else WIDTH - max(8.0, last)
        return _Box(self.x, self.y, left, right, bottom, bottom + self.height)

    def _grid(self, pen: Pen, box: _Box) -> None:
        for value, _ in self.x.ticks if self.x.grid else ():
            place = box.at(value, self.y.low)[0]
            pen.path([(place, box.bottom), (place, box.top)], stroke=RULE, width=0.6)
        for value, _ in self.y.ticks if self.y.grid else ():
            place = box.at(self.x.low, value)[1]
            pen.path([(box.left, place), (box.right, place)], stroke=RULE, width=0.6)

    def _axes(self, pen: Pen, box: _Box) -> None:
        pen.path([(box.left, box.bottom), (box.right, box.bottom)], stroke=MUTED, width=0.8)
        if not self.y.names:
            pen.path([(box.left, box.bottom), (box.left, box.top)], stroke=MUTED, width=0.8)

    def _labels(self, pen: Pen, box: _Box) -> None:
        for value, label in self.x.ticks:
            pen.text(box.at(value, self.y.low)[0], box.bottom - 12.0, label, colour=MUTED, anchor="middle")
        for value, label in self.y.ticks:
            place = box.at(self.x.low, value)[1] - 0.35 * FONT
            pen.text(box.left - 5.0, place, label, colour=INK if self.y.names else MUTED, anchor="end")
        if self.x.label:
            middle = (box.left + box.right) / 2
            pen.text(middle, 3.5, shortened(self.x.label), colour=MUTED, anchor="middle")
        if self.y.label:
            middle = (box.bottom + box.top) / 2
            pen.text(FONT, middle, shortened(self.y.label), colour=MUTED, anchor="middle", angle=90.0)

    def _rows(self) -> list[list[Entry]]:
        """The legend's entries in lines that are no wider than the chart."""
        rows: list[list[Entry]] = []
        used = WIDTH
        for one in self._legend:
            wide = _entry_width(one)
            if used + wide > WIDTH - 12.0:
                rows.append([])
                used = 0.0
            rows[-1].append(one)
            used += wide
        return rows

    def _draw_legend(self, pen: Pen, box: _Box) -> None:
        rows = self._rows()
        widest = max((math.fsum(map(_entry_width, row)) for row in rows), default=0.0)
        left = box.left if box.left + widest <= WIDTH else max(2.0, WIDTH - widest)
        for place, row in enumerate(rows):
            x, y = left, box.top + 6.0 + _ROW * (len(rows) - 1 - place) + 3.0
            for one in row:
                _swatch(pen, one, x, y + 0.35 * FONT)
                pen.text(x + _SWATCH + 4.0, y, shortened(one.label), colour=INK)
                x += _entry_width(one)


def _entry_width(one: Entry) -> float:
    return _SWATCH + 18.0 + text_width(shortened(one.label))


def _swatch(pen: Pen, one: Entry, x: float, y: float) -> None:
    if one.dashes is None:
        corners = [(x + 9, y - 4), (x + 17, y - 4), (x + 17, y + 4), (x + 9, y + 4)]
        pen.path(corners, fill=one.colour)
        return
    pen.path([(x, y), (x + _SWATCH, y)], stroke=one.colour, width=1.6, dashes=one.dashes)
    if one.marker:
        pen.marks([(x + _SWATCH / 2, y)], shape=one.marker, fill=one.colour)


@dataclass(frozen=True)
class _Box:
    """The part between the axes."""

    x: Axis
    y: Axis
    left: float
    right: float
    bottom: float
    top: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of two values."""
        return (
            self.left + self.x.share(x) * (self.right - self.left),
            self.bottom + self.y.share(y) * (self.top - self.bottom),
        )

    def all(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [self.at(x, y) for x, y in points]
