"""Figures as SVG text for inline use in a page (matplotlib, drawn without its global figure state).

matplotlib writes colours into `style` attributes, which a strict content security policy blocks, and knows one theme.
So every figure is drawn with stand-in colours that are exchanged for the page's CSS variables, and styles become
presentation attributes. Text stays text (svg.fonttype none) and takes the page's font. Same input, same bytes.
"""

from __future__ import annotations

import re
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 6
"""Colours a page must define: --series-1 … --series-6, beside --ink, --muted, --rule and --paper."""
# Stand-ins occur in no colour map and are exchanged after drawing.
_STAND_INS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--rule)",
    "#040404": "var(--paper)",
    **{f"#05050{index}": f"var(--series-{index})" for index in range(1, SERIES + 1)},
}
_INK, _MUTED, _RULE, _PAPER = list(_STAND_INS)[:4]
_ATTRIBUTES = re.compile(r"fill(-opacity)?|stroke(-[a-z]+)?|opacity|font-size|text-anchor|clip-path")
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 9.0,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_LABEL_LIMIT = 36
_BINS = 40


@dataclass(frozen=True)
class Drawn:
    """A figure that was drawn, to be drawn again for another target."""

    name: str
    """Its name within the page."""
    size: tuple[float, float]
    """Width and height in inches."""
    draw: Callable[[Any], None]
    """Draws on an axes."""


_KEPT: ContextVar[list[Drawn] | None] = ContextVar("kept", default=None)


@contextmanager
def kept() -> Iterator[list[Drawn]]:
    """Collect every figure that is drawn within the block."""
    found: list[Drawn] = []
    token = _KEPT.set(found)
    try:
        yield found
    finally:
        _KEPT.reset(token)


@dataclass(frozen=True)
class Bar:
    """One bar with its interval."""

    group: str
    """What is compared within: the filter."""
    label: str
    """What the bar stands for: the model."""
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
    """Horizontal bars in percent, grouped, one colour per label; SVG text.

    Args:
        bars: in drawing order; a label keeps its colour over all groups.
        name: prefix of every id in the figure, so that several fit in one page.
    """
    labels = list(dict.fromkeys(bar.label for bar in bars))
    groups = list(dict.fromkeys(bar.group for bar in bars))

    def draw(axes: Axes) -> None:
        positions, y = [], 0.0
        for group in groups:
            axes.text(0.0, y, _short(group), va="center", color=_INK, fontsize=9)
            for bar in (bar for bar in bars if bar.group == group):
                y += 1.0
                positions.append((y, bar))
            y += 1.4
        for position, bar in positions:
            low, high = max(bar.value - bar.low, 0.0), max(bar.high - bar.value, 0.0)
            axes.barh(position, 100 * bar.value, height=0.72, color=_series(labels.index(bar.label)))
            error = [[100 * low], [100 * high]]
            axes.errorbar(
                100 * bar.value, position, xerr=error, fmt="none", color=_INK, ecolor=_INK, elinewidth=1, capsize=2.5
            )
        axes.set_yticks([position for position, _ in positions], [_short(bar.label) for _, bar in positions])
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.set_xlim(0, min(100.0, max(5.0, *(105 * bar.high for bar in bars))))
        axes.set_ylim(y - 0.6, -0.7)
        axes.set_xlabel("percent correct, 95 % interval")
        axes.grid(axis="x", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)

    return _svg(draw, size=(6.4, 0.75 + 0.27 * (len(bars) + 1.4 * len(groups))), name=name)


def fit_trajectory(curves: Sequence[Curve], *, name: str) -> str:
    """Objective over fast steps relative to the first step, in nats per request: median and 10-90 % band; SVG text."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        for index, curve in enumerate(curves):
            steps = range(len(curve.median))
            axes.fill_between(steps, curve.low, curve.high, color=_series(index), alpha=0.18, linewidth=0)
            axes.plot(steps, curve.median, color=_series(index), linewidth=1.8, label=_short(curve.label))
            if curve.worst:
                axes.plot(steps, curve.worst, color=_series(index), linewidth=1.0, linestyle="--")
        axes.axhline(0.0, color=_RULE, linewidth=0.8)
        axes.set_xlabel("fast step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("change of the objective, nats")
        axes.grid(color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        if len(curves) > 1:
            axes.legend(frameon=False, loc="upper right", labelcolor=_INK)

    return _svg(draw, size=(6.4, 2.8), name=name)


def stacked_bars(stacks: Sequence[Stack], *, name: str) -> str:
    """Horizontal bars in nats per token, made of parts, one colour per part, their sum at the end; SVG text."""
    parts = list(dict.fromkeys(part for stack in stacks for part, _ in stack.parts))

    def draw(axes: Axes) -> None:
        longest = max(sum(size for _, size in stack.parts) for stack in stacks)
        for position, stack in enumerate(stacks):
            left = 0.0
            for part, size in stack.parts:
                axes.barh(position, size, left=left, height=0.62, color=_series(parts.index(part)))
                left += size
            axes.text(left + 0.01 * longest, position, f"{left:.3f}", va="center", color=_INK, fontsize=9)
        for index, part in enumerate(parts):  # a square of no size carries the name into the legend
            axes.scatter([], [], marker="s", s=36, color=_series(index), label=_short(part))
        axes.set_yticks(range(len(stacks)), [_short(stack.label) for stack in stacks])
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.set_xlim(0, 1.12 * longest if longest > 0 else 1.0)
        axes.set_ylim(len(stacks) - 0.5, -0.5)
        axes.set_xlabel("nats per token")
        axes.grid(axis="x", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.legend(
            frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(parts), labelcolor=_INK, borderaxespad=0
        )

    return _svg(draw, size=(6.4, 1.15 + 0.32 * len(stacks)), name=name)


def histogram(spreads: Sequence[Spread], *, name: str) -> str:
    """Documents by bits per byte, one outline per model over common bins; SVG text."""
    from matplotlib.ticker import MaxNLocator

    values = [value for spread in spreads for value in spread.values]
    low, high = min(values), max(values)
    bins = min(_BINS, max(4, round(2 * max(len(spread.values) for spread in spreads) ** 0.5)))
    width = (high - low) / bins or 0.1
    edges = [low + width * index for index in range(bins + 1)]

    def draw(axes: Axes) -> None:
        for spread in spreads:
            counts = [0] * bins
            for value in spread.values:
                counts[min(int((value - low) / width), bins - 1)] += 1
            colour = _series(spread.series - 1)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.18)
            axes.stairs(counts, edges, color=colour, linewidth=1.6, label=_short(spread.label))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("bits per byte of a document")
        axes.set_ylabel("documents")
        axes.grid(axis="y", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        if len(spreads) > 1:
            axes.legend(frameon=False, loc="best", labelcolor=_INK)

    return _svg(draw, size=(6.4, 2.3), name=name)


def divergence_curves(curves: Sequence[Divergence], *, name: str) -> str:
    """Divergence curves in the unit square, human texts dashed; MAUVE is the area below; SVG text."""

    def draw(axes: Axes) -> None:
        for curve in curves:
            xs, ys = zip(*curve.points, strict=True)
            colour, dashes = (_series(curve.series - 1), "-") if curve.series else (_MUTED, "--")
            axes.plot(xs, ys, color=colour, linestyle=dashes, linewidth=1.8, label=_short(curve.label))
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_aspect("equal")
        axes.set_xlabel("what it writes is like human text")
        axes.set_ylabel("human text is like what it writes")
        axes.grid(color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5), labelcolor=_INK, borderaxespad=0)

    return _svg(draw, size=(6.4, 3.4), name=name)


def step_curves(curves: Sequence[StepCurve], *, name: str, axis: str) -> str:
    """A figure over training steps with its 95 % intervals, one colour per run; SVG text.

    Args:
        curves: points in order of their steps.
        name: prefix of every id in the figure.
        axis: what the figure is, with its unit.
    """
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        for index, curve in enumerate(curves):
            steps, values = [point[0] for point in curve.points], [point[1] for point in curve.points]
            for step, _, low, high in curve.points:
                if low is not None and high is not None:
                    axes.plot([step, step], [low, high], color=_series(index), linewidth=1.2, alpha=0.6)
            axes.plot(steps, values, color=_series(index), linewidth=1.8, marker="o", ms=4, label=_short(curve.label))
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set_ylabel(axis)
        axes.grid(color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        if len(curves) > 1:
            axes.legend(frameon=False, loc="best", labelcolor=_INK)

    return _svg(draw, size=(6.4, 2.8), name=name)


def _series(index: int) -> str:
    return f"#05050{index % SERIES + 1}"


def _short(text: str) -> str:
    """`text` cut to a label; what XML 1.0 cannot hold is shown as a replacement character."""
    text = re.sub("[^\t\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    return text if len(text) <= _LABEL_LIMIT else text[: _LABEL_LIMIT - 1] + "…"


def _svg(draw: Any, *, size: tuple[float, float], name: str) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    if (collected := _KEPT.get()) is not None:
        collected.append(Drawn(name, size, draw))
    with mpl.rc_context({**_RC, "svg.hashsalt": name}), warnings.catch_warnings():
        # The page's font draws the text; whether matplotlib's own font holds every glyph is of no account.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure: Figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _for_page(buffer.getvalue(), name=name)


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

    wanted = {**_RC, "svg.fonttype": "path", "svg.hashsalt": drawn.name, "pdf.fonttype": 42}
    with mpl.rc_context(wanted), warnings.catch_warnings(), _painted(colours):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure: Figure = Figure(figsize=drawn.size, layout="constrained", facecolor=colours["paper"])
        drawn.draw(figure.add_subplot())
        buffer = BytesIO()
        figure.savefig(buffer, format=format_, dpi=300, metadata=_NO_DATES[format_])
    return buffer.getvalue()


@contextmanager
def _painted(colours: Mapping[str, str]) -> Iterator[None]:
    """The stand-in colours as names of real ones, which matplotlib looks up before it reads a colour as numbers."""
    from matplotlib.colors import get_named_colors_mapping

    named = get_named_colors_mapping()
    stands = {
        stand_in: colours[variable.removeprefix("var(--").rstrip(")")] for stand_in, variable in _STAND_INS.items()
    }
    try:
        for (
            stand_in,
            colour,
        ) in stands.items():  # one by one: `update` would leave matplotlib's cache of colours as it is
            named[stand_in] = colour
        yield
    finally:
        for stand_in in stands:
            del named[stand_in]


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
    """A style attribute as presentation attributes; font families are left to the page."""
    found = {}
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            key, value = "font-size", size.group(1) if size else ""
        if _ATTRIBUTES.fullmatch(key) and value:
            found[key] = value.removesuffix("px")
    return found


def _adapted(key: str, value: str, *, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-")
    return _STAND_INS.get(value.lower(), value) if key in {"fill", "stroke"} else value
