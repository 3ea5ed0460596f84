"""Charts as SVG text for inline use in a page, and as files for papers, by matplotlib's renderers.

matplotlib writes colours into `style` attributes, which a strict content security policy blocks, and knows one theme.
So a chart for the page is drawn with stand-in colours that are exchanged for the page's CSS variables, and styles
become presentation attributes. Text stays text and takes the page's font. Same input, same bytes.
"""

from __future__ import annotations

import math
import re
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any, cast
from xml.etree import ElementTree

from ltm_eval.chart import FONT, INK, MUTED, RULE, SERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.figure import Figure

    from ltm_eval.chart import Chart

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
