"""The figures of a page: what a score, a fit or a set of documents looks like as a chart."""

from __future__ import annotations

import math
import re
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any, Protocol, cast
from xml.etree import ElementTree

from ltm_eval.system.files import atomic, reports_dir
from ltm_eval.system.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ltm_eval.results.views import (
        Bar,
        ComputeCurve,
        ComputePoint,
        Curve,
        CurveOverSteps,
        Divergence,
        Estimate,
        Line,
        Measure,
        PerplexitySection,
        ReportData,
        Spread,
        Stack,
        StepCurve,
        TaskSection,
    )


# A chart: two axes, lines, bands, bars and dots, laid out by the width of letters, for any renderer of matplotlib.
#
# matplotlib's own axes cost about 65 ms of processor each, most of it to lay text out that the page's font draws anyway
# (`benchmarks/RESULTS.md`). Here a chart knows its ticks before it is drawn, so margins follow from the widths of their
# labels, and every mark is one call of a renderer. All lengths are points, 72 to an inch, from the lower left corner.

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


# Charts as SVG text for inline use in a page, and as files for papers, by matplotlib's renderers.
#
# matplotlib writes colours into `style` attributes, which a strict content security policy blocks, and knows one theme.
# So a chart for the page is drawn with stand-in colours that are exchanged for the page's CSS variables, and styles
# become presentation attributes. Text stays text and takes the page's font. Same input, same bytes.

_NAMES = (INK, MUTED, RULE, *(f"series-{index}" for index in range(1, SERIES + 1)))
_STAND_INS = {f"#0101{index:02x}": f"var(--{name})" for index, name in enumerate(_NAMES, 1)}
"""Occur in no colour map and are exchanged after drawing."""
_ATTRIBUTES = re.compile(r"fill(-opacity)?|stroke(-[a-z]+)?|opacity")
_RC: dict[Any, Any] = {"svg.fonttype": "path", "pdf.fonttype": 42, "text.parse_math": False, "svg.hashsalt": "ltm"}


@dataclass(frozen=True)
class Drawn:
    """A chart that was drawn, to be drawn again for another target."""

    name: str
    """Its name within the page."""
    chart: Chart
    """What it shows."""


_KEPT: ContextVar[list[Drawn] | None] = ContextVar("kept", default=None)


@contextmanager
def kept() -> Iterator[list[Drawn]]:
    """Collect every chart that is drawn for a page within the block."""
    found: list[Drawn] = []
    token = _KEPT.set(found)
    try:
        yield found
    finally:
        _KEPT.reset(token)


class RendererPen:
    """Draws with a renderer of matplotlib."""

    def __init__(
        self,
        renderer: Any,
        colours: Mapping[str, tuple[float, float, float]],
        write: Callable[..., None],
        *,
        scale: float = 1.0,
    ) -> None:
        """Keep what is drawn with.

        Args:
            renderer: a `matplotlib.backend_bases.RendererBase`.
            colours: name to red, green and blue, 0 to 1.
            write: draws text; takes x, y, words, colour, anchor, angle.
            scale: dots a point.
        """
        from matplotlib.path import Path
        from matplotlib.transforms import Affine2D, IdentityTransform

        self._renderer, self._colours, self._write, self._scale = renderer, colours, write, scale
        self._path, self._as_is = Path, IdentityTransform()
        self._affine = Affine2D

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
        if not points:
            return
        scaled = [(x * self._scale, y * self._scale) for x, y in points]
        context = self._context(stroke, width if stroke else 0.0, dashes)
        face = (*self._colours[fill], alpha) if fill else None
        made = self._path([*scaled, scaled[0]] if fill else scaled, closed=bool(fill))
        self._renderer.draw_path(context, made, self._as_is, face)
        context.restore()

    def marks(self, points: Sequence[tuple[float, float]], *, shape: str, fill: str) -> None:
        """The same mark at every point."""
        if not points:
            return
        outline = [(x * self._scale, y * self._scale) for x, y in outline_of(shape)]
        scaled = [(x * self._scale, y * self._scale) for x, y in points]
        context = self._context("", 0.0, ())
        mark = self._path([*outline, outline[0]], closed=True)
        face = (*self._colours[fill], 1.0)
        self._renderer.draw_markers(context, mark, self._as_is, self._path(scaled), self._affine(), face)
        context.restore()

    def text(self, x: float, y: float, words: str, *, colour: str, anchor: str = "start", angle: float = 0.0) -> None:
        """Words at a point."""
        self._write(x * self._scale, y * self._scale, words, colour=colour, anchor=anchor, angle=angle)

    def _context(self, stroke: str, width: float, dashes: tuple[float, ...]) -> Any:
        context = self._renderer.new_gc()
        if stroke:
            context.set_foreground((*self._colours[stroke], 1.0), isRGBA=True)
        context.set_linewidth(width * self._scale)
        context.set_dashes(0, [one * self._scale for one in dashes] or None)
        return context


def outline_of(shape: str) -> list[tuple[float, float]]:
    """Corners of a mark of about 4.5 points, around its middle."""
    sides, turn, radius = {
        "circle": (24, 0.0, 2.2),
        "square": (4, 0.125, 2.8),
        "triangle": (3, 0.25, 2.9),
        "diamond": (4, 0.0, 2.9),
        "wedge": (3, 0.75, 2.9),
        "pentagon": (5, 0.25, 2.6),
    }[shape]
    angles = [2 * math.pi * (turn + side / sides) for side in range(sides)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


# For the page


def page_svg(chart: Chart, *, name: str) -> str:
    """The chart as SVG text whose colours and font are the page's.

    Args:
        chart: what is drawn.
        name: prefix of every id in it, so that several fit in one page.
    """
    from matplotlib.backends.backend_svg import RendererSVG

    if (collected := _KEPT.get()) is not None:
        collected.append(Drawn(name, chart))
    width, height = chart.size()
    buffer = StringIO()
    with _salted(name):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        renderer: Any = cast("Any", RendererSVG)(width, height, buffer, metadata=nothing)

        def write(x: float, y: float, words: str, *, colour: str, anchor: str, angle: float) -> None:
            place = {"x": f"{x:.2f}", "y": f"{height - y:.2f}"}
            turned = {"transform": f"rotate({-angle:g} {x:.2f} {height - y:.2f})"} if angle else {}
            drawn = {"text-anchor": anchor, "font-size": f"{FONT:g}", "fill": f"var(--{colour})"}
            renderer.writer.element("text", words, attrib={**place, **turned, **drawn})

        chart.draw(RendererPen(renderer, _stand_in_colours(), write))
        renderer.finalize()
    return _for_page(buffer.getvalue(), name=name)


@contextmanager
def _salted(name: str) -> Iterator[None]:
    """Ids that follow from the drawing; `rc_context` would copy every option for it, a millisecond a figure."""
    import matplotlib as mpl

    before = mpl.rcParams["svg.hashsalt"]
    mpl.rcParams["svg.hashsalt"] = name
    try:
        yield
    finally:
        mpl.rcParams["svg.hashsalt"] = before


def _stand_in_colours() -> dict[str, tuple[float, float, float]]:
    return {variable[6:-1]: _rgb(stand_in) for stand_in, variable in _STAND_INS.items()}


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def _for_page(svg: str, *, name: str) -> str:
    """matplotlib's SVG without prolog, metadata, style sheet, style attributes and fixed colours."""
    root = ElementTree.fromstring(svg)  # noqa: S314 - written by matplotlib a moment ago
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in {"metadata", "style"}:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        attributes.update(_presentation(attributes.pop("style", "")))
        element.attrib.clear()
        element.attrib.update({key: _adapted(key, value, name=name) for key, value in attributes.items()})
        element.tail = "\n"
    root.attrib.pop("version", None)
    # What the removed style sheet said, and the size as a ratio: the page decides the width.
    root.attrib.update({"stroke-linejoin": "round", "stroke-linecap": "butt"})
    # The table beside a figure holds the same numbers for readers of speech.
    root.attrib.update({"aria-hidden": "true", "focusable": "false"})
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    return ElementTree.tostring(root, encoding="unicode")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _presentation(style: str) -> dict[str, str]:
    """A style attribute as presentation attributes."""
    pairs = ((part.strip() for part in declaration.partition(":")[::2]) for declaration in style.split(";"))
    return {key: value for key, value in pairs if _ATTRIBUTES.fullmatch(key) and value}


def _adapted(key: str, value: str, *, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return _STAND_INS.get(value.lower(), value) if key in {"fill", "stroke"} else value


# For papers

_NO_DATES: dict[str, dict[str, Any]] = {
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    "png": {"Software": None},
}
FILE_FORMATS = tuple(_NO_DATES)


def as_file(drawn: Drawn, format_: str, *, colours: Mapping[str, str]) -> bytes:
    """The figure as a file of its own: PNG at 300 dots an inch, SVG with text as outlines, PDF with TrueType.

    Args:
        drawn: what to draw.
        format_: png, svg or pdf.
        colours: of `ink`, `muted`, `rule`, `paper` and `series-1` to `series-6`, as #rrggbb.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    width, height = drawn.chart.size()
    with mpl.rc_context({**_RC, "svg.hashsalt": drawn.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure: Figure = Figure(figsize=(width / 72, height / 72), facecolor=colours["paper"])
        figure.add_artist(_artist(drawn.chart, colours))
        buffer = BytesIO()
        figure.savefig(buffer, format=format_, dpi=300, metadata=_NO_DATES[format_])
    return buffer.getvalue()


def _artist(chart: Chart, colours: Mapping[str, str]) -> Any:
    """The chart as something that a figure draws."""
    from matplotlib.artist import Artist
    from matplotlib.text import Text

    rgb = {name: _rgb(colours[name]) for name in _NAMES}

    class Drawing(Artist):
        def draw(self, renderer: Any) -> None:
            figure: Any = self.get_figure(root=True)

            def write(x: float, y: float, words: str, *, colour: str, anchor: str, angle: float) -> None:
                aligned = {"start": "left", "middle": "center", "end": "right"}[anchor]
                look: dict[str, Any] = {"fontsize": FONT, "color": colours[colour], "ha": aligned, "va": "baseline"}
                text = Text(x, y, words, rotation=angle, rotation_mode="anchor", parse_math=False, **look)
                text.set_figure(figure)
                text.draw(renderer)

            chart.draw(RendererPen(renderer, rgb, write, scale=figure.dpi / 72))

    return Drawing()


DASHED = (4.0, 2.5)
DOTTED = (1.5, 2.0)
_BINS = 40


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


def step_curves(curves: Sequence[CurveOverSteps], *, name: str, axis: str) -> str:
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


# Figures of latents: progressive reconstruction, and quality against test-time compute. Drawn as `plots` draws.

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


# Figures of a quantity over another, with bands: pass@k over k, accuracy over shots, bounds over steps and draws.


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
        found[f"steps-{index}"] = against_steps_line_plots(task.steps, name=f"steps-{index}")
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


def against_steps_line_plots(curves: Sequence[StepCurve], *, name: str) -> str:
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


# All figures of a page, by name.


def page_figures(data: ReportData) -> dict[str, str]:
    """Name, which ends in the task's number, to SVG text."""
    found = dict(latent_figures(data))
    for index, task in enumerate(data.tasks, 1):
        found |= _task_figures(task, index=index)
        found |= line_figures(task, index=index)
        if task.perplexity is not None:
            found |= _perplexity_figures(task.perplexity, index=index)
    return found


def _task_figures(task: TaskSection, *, index: int) -> dict[str, str]:
    found = {}
    if task.bars:
        found[f"bars-{index}"] = accuracy_bars(task.bars, name=f"bars-{index}")
    curves = [one.curve for one in task.latents if one.curve is not None]
    if curves:
        found[f"fit-{index}"] = fit_trajectory(curves, name=f"fit-{index}")
    if task.generation is not None and task.generation.curves:
        name = f"divergence-{index}"
        found[name] = divergence_curves(task.generation.curves, name=name)
    return found


def _perplexity_figures(section: PerplexitySection, *, index: int) -> dict[str, str]:
    found = {}
    spreads = [spread for spread in section.spreads if len(spread.values) > 1]
    if section.stacks:
        found[f"parts-{index}"] = stacked_bars(section.stacks, name=f"parts-{index}")
    if spreads:
        found[f"spread-{index}"] = histogram(spreads, name=f"spread-{index}")
    return found


# Figures of a page as files for papers: PNG, SVG and PDF, the same bytes for the same figure.

NAMES = {"bars": "scores", "fit": "fast-steps", "parts": "nats-per-token", "spread": "documents"}
"""Of a figure's name in the page, words for its file; other names stay."""
NAME_LIMIT = 60


def write_figures(figures: Sequence[Drawn], folder: Path, *, tasks: Sequence[str]) -> list[Path]:
    """Write every figure in every form to `folder`, named after its task: `ltm_gsm8k-scores.pdf`.

    Args:
        figures: as `plots.kept` collected them; a name that ends in a number says which task it belongs to.
        folder: made if need be.
        tasks: names of the tasks, in the page's order.

    Raises:
        MachineError: a file cannot be written.
    """
    colours, written, taken = light_colours(), [], set()
    for figure in figures:
        stem = _file_stem(figure.name, tasks)
        while stem in taken:
            stem += "-"
        taken.add(stem)
        for format_ in FILE_FORMATS:
            path = folder / f"{stem}.{format_}"
            _write(path, as_file(figure, format_, colours=colours))
            written.append(path)
    return written


def _file_stem(name: str, tasks: Sequence[str]) -> str:
    """A task's name is not trusted as a path: letters, digits, dots, hyphens and underscores stay."""
    kind, _, number = name.rpartition("-")
    if not number.isdigit() or not 1 <= int(number) <= len(tasks):
        return _plain(name)
    return f"{_plain(tasks[int(number) - 1])}-{_plain(NAMES.get(kind, kind))}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._-")[:NAME_LIMIT] or "figure"


def light_colours() -> dict[str, str]:
    """The page's colours on white paper, as its style sheet says them."""
    style = (reports_dir() / "report.css").read_text(encoding="utf-8")
    first = style[style.index(":root {") : style.index("}")]
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-fA-F]{6})", first))


def _write(path: Path, data: bytes) -> None:
    with atomic(path, binary=True, other="--plots_dir") as file:
        file.write(data)
