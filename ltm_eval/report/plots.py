"""Plots of a page, also as files for papers, drawn by matplotlib in the style of `reports/plots.mplstyle`.

Every plot is a `matplotlib.figure.Figure`; pyplot's global state is never touched. A page takes it as inline SVG: its
content security policy forbids `style` attributes, and it has two themes, so styles become presentation attributes and
the style's colours become the variables that `report.css` gives the same colours. Same data, same bytes.
"""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
from contextlib import contextmanager
from io import BytesIO, StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ltm_eval.system.files import atomic, check_target, reports_dir
from ltm_eval.system.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ltm_eval.results.views import (
        ComputeCurve,
        Curve,
        Divergence,
        DocumentBits,
        Line,
        Measure,
        StepCurve,
    )
    from ltm_eval.results.views import Figure as Number

WIDTH = 403  # points, of every plot
LABEL_LIMIT = 36
MARKERS = ("o", "s", "^", "D", "v", "p")
BAND = 0.17  # opacity
_UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
}


def shortened(text: str) -> str:
    """Return the beginning and end of a label: names of runs often differ in their last letters only.

    The tables beside a plot hold it whole.
    """
    text = one_line(text)
    limit = LABEL_LIMIT if _wide(text) < LABEL_LIMIT // 4 else LABEL_LIMIT // 2
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[1 - limit // 2 :]}"


def _wide(text: str) -> int:
    """Count the letters that are as wide as high, such as Chinese ones, which our font lacks and cannot measure."""
    return sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


@contextmanager
def _style(**changes: Any) -> Iterator[None]:
    """Draw in our style alone, whatever a `matplotlibrc` says; letters that no font has are not worth a warning."""
    from matplotlib import style

    with warnings.catch_warnings(), style.context([reports_dir() / "plots.mplstyle", changes], after_reset=True):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def _colour(name: str) -> Any:
    """Return the style's colour for `ink`, `muted` or `rule`."""
    import matplotlib as mpl

    style: Mapping[Any, Any] = mpl.rcParams
    return style[{"ink": "text.color", "muted": "axes.edgecolor", "rule": "grid.color"}[name]]


def _axes(x: str, y: str = "", *, height: float = 132) -> Axes:
    """Return the axes of a new plot.

    Args:
        x: label of the horizontal axis.
        y: label of the vertical axis.
        height: of the part between the axes, in points.
    """
    from matplotlib.figure import Figure

    axes = Figure(figsize=(WIDTH / 72, (height + 38) / 72), layout="constrained").add_subplot()
    axes.set(xlabel=shortened(x), ylabel=shortened(y))
    return axes


def _row_axes(x: str, rows: Sequence[tuple[float, str]], *, height: float) -> Axes:
    """Return axes with a named row at each of some heights, from top to bottom."""
    axes = _axes(x, height=height)
    labels = [shortened(label) for _, label in rows]
    axes.set_yticks([place for place, _ in rows], labels, color=_colour("ink"))
    axes.grid(visible=False, axis="y")
    axes.spines.left.set_visible(False)
    axes.invert_yaxis()
    longest = max(len(label) for label in labels)
    missing = 9 / WIDTH * max(0.6 * (len(label) - longest) + 0.4 * _wide(label) for label in labels)
    layout: Any = axes.figure.get_layout_engine()
    layout.set(rect=(max(0, missing), 0, 1 - max(0, missing), 1))  # room for letters taken for narrower ones
    return axes


def _finished(axes: Axes, legend: Sequence[tuple[Artist, str]] = ()) -> Figure:
    """Return the plot of `axes`, with a legend above them in as few lines as fit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = axes.figure
    assert isinstance(figure, Figure)
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    labels = [shortened(label) for _, label in legend]
    for columns in range(1 if any(map(_wide, labels)) else len(labels), 0, -1):
        # A label that begins with an underscore would be left out, so each is set afterwards.
        made = figure.legend(
            [handle for handle, _ in legend], ["–"] * len(labels), loc="outside upper left", ncols=columns
        )
        for text, label in zip(made.get_texts(), labels, strict=True):
            text.set_text(label)
        extent = made.get_window_extent(renderer)
        if columns == 1 or extent.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi + 0.05)
            break
        made.remove()
    return figure


def _intervals(axes: Axes, ends: Iterable[tuple[float, float, float]], colour: Any, *, across: bool = False) -> None:
    """Draw intervals with a short bar at both ends: (position, low, high), vertical unless `across`."""
    for at, low, high in ends:
        points = ((low, high), (at, at)) if across else ((at, at), (low, high))
        axes.plot(*points, color=colour, linewidth=1, marker="|" if across else "_", markersize=5, markeredgewidth=1)


def _whole_numbers(axes: Axes) -> None:
    """Label whole numbers only, with their thousands apart."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _from_zero(axes: Axes, least: float) -> None:
    """Begin the vertical axis at 0 and reach at least `least`, so that next to nothing is not drawn large."""
    axes.set_ylim(0, max(axes.get_ylim()[1], least))


# Scores and documents


@_style()
def accuracy_bars(figures: Sequence[Number]) -> Figure:
    """Plot shares as horizontal bars in percent with their 95 % intervals, grouped by metric, in their order."""
    heads, rows, ends, y = [], [], [], 0.0
    for metric in dict.fromkeys((one.metric, one.filter) for one in figures):
        own = [one for one in figures if (one.metric, one.filter) == metric]
        heads.append((y, ", ".join(name for name in metric if name != "none")))
        rows += [(y + place, one) for place, one in enumerate(own, 1)]
        y += len(own) + 1.4
    names = [(place, one.model if one.series else "content-free") for place, one in rows]
    axes = _row_axes("percent correct, 95 % interval", names, height=19 * (y + 0.1))
    for place, head in heads:
        axes.text(0, place, shortened(head), va="center")
    for place, one in rows:
        value = one.value or 0.0
        low, high = _ends(one.low, one.high, value)
        colour = f"C{one.series - 1}" if one.series else _colour("muted")
        axes.barh(place, 100 * value, height=0.72, color=colour, alpha=1 if one.series else 0.5)
        _intervals(axes, [(place, 100 * min(low, value), 100 * max(high, value))], _colour("ink"), across=True)
        ends.append(105 * high)
    axes.set(xlim=(0, min(100.5, max(5.0, *ends))), ylim=(y - 0.6, -0.7))
    return _finished(axes)


@_style()
def stacked_bars(stacks: Mapping[str, Mapping[str, float]]) -> Figure:
    """Plot horizontal bars in nats per token, made of parts, one colour per part, with their sum at the end."""
    parts = list(dict.fromkeys(part for stack in stacks.values() for part in stack))
    axes = _row_axes("nats per token", list(enumerate(stacks)), height=23 * len(stacks))
    legend: dict[str, Artist] = {}  # a part to one of its bars
    sums = []
    for row, stack in enumerate(stacks.values()):
        left = 0.0
        for part, size in stack.items():
            legend[part] = axes.barh(row, size, left=left, height=0.62, color=f"C{parts.index(part)}").patches[0]
            left += size
        axes.annotate(f"{left:.3f}", (left, row), (4, 0), textcoords="offset points", va="center")
        sums.append(left)
    axes.set(xlim=(0, 1.12 * max(sums) or 1.0), ylim=(len(stacks) - 0.5, -0.5))
    return _finished(axes, [(legend[part], part) for part in parts])


@_style()
def histogram(models: Sequence[DocumentBits]) -> Figure:
    """Plot documents by bits per byte, one outline per model over common bins."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    values = [value for model in models for value in model.bits.values()]
    bins = min(40, max(4, round(2 * max(len(model.bits) for model in models) ** 0.5)))
    edges = np.histogram_bin_edges(values, bins)
    axes = _axes("bits per byte of a document", "documents", height=115)
    legend: list[tuple[Artist, str]] = []
    for model in models:
        counts, colour = np.histogram(list(model.bits.values()), edges)[0], f"C{model.series - 1}"
        axes.stairs(counts, edges, color=colour, fill=True, alpha=BAND, linewidth=0)
        legend.append((axes.stairs(counts, edges, color=colour, linewidth=1.6), model.label))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return _finished(axes, legend if len(legend) > 1 else ())


@_style()
def divergence_curves(curves: Sequence[Divergence]) -> Figure:
    """Plot divergence curves in the unit square, human texts dashed; MAUVE is the area below."""
    axes = _axes("what it writes is like human text", "human text is like what it writes", height=190)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), box_aspect=1, anchor="W")
    legend: list[tuple[Artist, str]] = []
    for curve in curves:
        look = {"color": f"C{curve.series - 1}"} if curve.series else {"color": _colour("muted"), "linestyle": "--"}
        legend += [(line, curve.label) for line in axes.plot(*zip(*curve.points, strict=True), linewidth=1.8, **look)]
    return _finished(axes, legend)


# Over steps


@_style()
def fit_trajectory(curves: Sequence[Curve]) -> Figure:
    """Plot the change of the objective since the first fast step, in nats per request: median and 10-90 % band."""
    axes = _axes("fast step", "change of the objective, nats")
    axes.margins(x=0)
    _whole_numbers(axes)
    axes.axhline(0, color=_colour("rule"), linewidth=1)
    legend: list[tuple[Artist, str]] = []
    for index, curve in enumerate(curves):
        steps, colour = range(len(curve.median)), f"C{index}"
        axes.fill_between(steps, curve.low, curve.high, color=colour, alpha=BAND, linewidth=0)
        legend += [(line, curve.label) for line in axes.plot(steps, curve.median, color=colour, linewidth=1.8)]
        axes.plot(range(len(curve.worst)), curve.worst, color=colour, linewidth=1, linestyle="--")
    return _finished(axes, legend if len(legend) > 1 else ())


@_style()
def bound_over_steps(curves: Sequence[StepCurve]) -> Figure:
    """Plot nats per token over fast steps, and the bound over fresh draws as a dotted line."""
    axes = _axes("fast step", "nats per token")
    axes.margins(x=0)
    _whole_numbers(axes)
    legend: list[tuple[Artist, str]] = []
    for curve in curves:
        colour = f"C{curve.series - 1}"
        legend += [(line, curve.label) for line in axes.plot(curve.nats_per_token, color=colour, linewidth=1.8)]
        if curve.settled is not None:
            axes.axhline(curve.settled, color=colour, linewidth=1, linestyle=":")
    return _finished(axes, legend if len(legend) > 1 else ())


LOGARITHMIC = 1_000  # largest place on an axis of `training_curves` that stays linear


@_style()
def training_curves(
    curves: Sequence[tuple[str, Sequence[tuple[float, Number]]]], *, axis: str, x: str = "training step"
) -> Figure:
    """Plot figures over training steps with their 95 % intervals, one colour per run; shares in percent.

    Args:
        curves: name, and steps in order with their figures.
        axis: what the figure is, with its unit.
        x: what stands in place of steps; logarithmic if some are above `LOGARITHMIC` and ten times others.
    """
    axes = _axes(x, axis)
    places = [place for _, points in curves for place, _ in points]
    if max(places) > LOGARITHMIC and max(places) >= 10 * min(places) > 0 and x != "training step":
        axes.set_xscale("log")
    else:
        _whole_numbers(axes)
    legend: list[tuple[Artist, str]] = []
    for index, (label, points) in enumerate(curves):
        found = [(step, one) for step, one in points if one.value is not None and math.isfinite(one.value)]
        ends, xs, ys = [], [], []
        for step, one in found:
            scale = 100 if one.share else 1
            xs.append(step)
            ys.append(scale * (one.value or 0.0))
            if one.low is not None and one.high is not None and math.isfinite(one.low) and math.isfinite(one.high):
                ends.append((step, scale * one.low, scale * one.high))
        _intervals(axes, ends, f"C{index}")
        legend += [(line, label) for line in axes.plot(xs, ys, color=f"C{index}", marker="o", linewidth=1.8)]
    return _finished(axes, legend if len(legend) > 1 else ())


# Over shots, attempts, draws and compute


@_style()
def bands(lines: Sequence[Line], *, x: str, y: str, scale: float = 100, doubling: bool = False) -> Figure:
    """Plot lines with 95 % bands and a marker at every point.

    Args:
        lines: from the first colour on, or dashed.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        scale: of the figures; shares are drawn in percent.
        doubling: whether the horizontal axis is logarithmic to base 2.
    """
    axes = _axes(x, y)
    legend: list[tuple[Artist, str]] = []
    for line in lines:
        xs = [point.x for point in line.points]
        low, mid, high = ([scale * getattr(p, end) for p in line.points] for end in ("low", "value", "high"))
        colour = _colour("muted") if line.dashed else f"C{line.series - 1}"
        axes.fill_between(xs, low, high, color=colour, alpha=BAND, linewidth=0)
        axes.plot([at for at, _ in line.dots], [scale * value for _, value in line.dots], "D", color=_colour("muted"))
        marker = MARKERS[(line.series - 1) % len(MARKERS)]
        style = "--" if line.dashed else "-"
        legend += [(one, line.label) for one in axes.plot(xs, mid, color=colour, marker=marker, linestyle=style)]
    if doubling:
        axes.set_xscale("log", base=2)
    _ticks_at(axes, sorted({point.x for line in lines for point in line.points}))
    if scale == 100:
        _from_zero(axes, 5)
    return _finished(axes, legend if len(legend) > 1 else ())


def _ticks_at(axes: Axes, values: Sequence[float]) -> None:
    """Label the values themselves, unless their labels would touch: then round whole numbers."""
    low, high = axes.get_xlim()
    places = axes.transData.transform([(value, 1) for value in values])[:, 0]
    if axes.get_xscale() == "linear":
        _whole_numbers(axes)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    if low < high and all(b - a > 0.05 * axes.bbox.width for a, b in pairwise(places)):
        axes.set_xticks(values)


@_style()
def compute_curves(curves: Sequence[ComputeCurve], *, flops: bool) -> Figure:
    """Plot figures of one kind with their 95 % intervals, a curve per model.

    Args:
        curves: all shares, or all bounds.
        flops: plot against GFLOPs per token, which every point must have, instead of fast steps.
    """

    share = curves[0].points[0][2].share
    scale = 100.0 if share else 1.0
    words = "percent correct" if share else "perplexity per token, ≤"
    axes = _axes("GFLOPs per token" if flops else "fast steps", words)
    if not flops:
        _whole_numbers(axes)
    legend: list[tuple[Artist, str]] = []
    for index, curve in enumerate(curves):
        look: dict[str, Any] = {"color": f"C{index}", "marker": MARKERS[index % len(MARKERS)]}
        xs = [(operations or 0.0) / 1e9 if flops else steps for steps, operations, _ in curve.points]
        ys = [scale * (one.value or 0.0) for _, _, one in curve.points]
        ends = [_ends(one.low, one.high, one.value or 0.0) for _, _, one in curve.points]
        _intervals(axes, [(x, scale * low, scale * high) for x, (low, high) in zip(xs, ends, strict=True)], f"C{index}")
        legend += [(line, curve.model) for line in axes.plot(xs, ys, **look)]
    axes.set_xlim(left=0)
    return _finished(axes, legend if len(legend) > 1 else ())


@_style()
def reconstruction(measure: Measure) -> Figure:
    """Plot a probe's measure against the number of active layers, upward and downward, with its value without z."""
    scale = 100.0 if measure.unit == "percent" else 1.0
    words = {"percent": "percent of tokens", "nats": "nats per token", "tokens": "tokens"}
    axes = _axes("active layers l", words[measure.unit])
    _whole_numbers(axes)
    legend: list[tuple[Artist, str]] = []
    for index, ladder in enumerate(measure.ladders):
        layers, colour = range(len(ladder.points)), f"C{index}"
        ends = [_ends(point.low, point.high, point.mean) for point in ladder.points]
        low, high = ([scale * end for end in side] for side in zip(*ends, strict=True))
        axes.fill_between(layers, low, high, color=colour, alpha=BAND, linewidth=0)
        label = {"upward": "layers 1 to l", "downward": "the last l layers"}.get(ladder.name, ladder.name)
        look: dict[str, Any] = {"color": colour, "marker": MARKERS[index], "linestyle": "--" if index % 2 else "-"}
        legend += [(line, label) for line in axes.plot(layers, [scale * one.mean for one in ladder.points], **look)]
    no_z = axes.axhline(scale * measure.no_z.mean, color=_colour("muted"), linewidth=1, linestyle=":")
    if measure.unit != "nats":
        _from_zero(axes, 5.0 if measure.unit == "percent" else 1.0)
    return _finished(axes, [*legend, (no_z, "no z")])


def _ends(low: float | None, high: float | None, value: float) -> tuple[float, float]:
    return (value if low is None else low, value if high is None else high)


# In a page


def inline_svg(plot: Figure, *, name: str) -> str:
    """Return the plot as SVG text in the page's colours and font, with `name` before every id."""
    buffer = StringIO()
    with _style():
        plot.savefig(buffer, format="svg", metadata=_UNDATED["svg"])
    variables = {colour: f"var(--{variable})" for variable, colour in light_colours().items() if variable in _PAINTS}
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - written by matplotlib a moment ago
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in {"metadata", "style"}:
                parent.remove(child)
    for element in root.iter():
        element.tag, element.tail = _local(element.tag), "\n"
        found = {_local(key): value for key, value in element.attrib.items()}
        styles = (part.partition(":") for part in found.pop("style", "").split(";"))
        found |= {key.strip(): value.strip() for key, _, value in styles if _KEPT.fullmatch(key.strip())}
        element.attrib.clear()
        for key, value in found.items():
            if key == "id" and element.tag != "g":  # what others refer to
                element.set(key, f"{name}-{value}")
            elif key in {"href", "clip-path"}:
                element.set(key, value.replace("#", f"#{name}-"))
            elif key != "id":
                element.set(key, variables.get(value, value))
    # What matplotlib's style sheet said. The page decides on width and font, and the table beside the plot tells
    # readers of speech the same numbers.
    root.attrib = {"viewBox": root.attrib["viewBox"], "stroke-linejoin": "round", "font-size": "9"}
    root.attrib |= {"aria-hidden": "true", "focusable": "false"}
    return ElementTree.tostring(root, encoding="unicode")


_PAINTS = ("ink", "muted", "rule", "paper", *(f"series-{index}" for index in range(1, 7)))
_KEPT = re.compile(r"fill(-opacity)?|stroke(-[a-z]+)?|opacity|text-anchor")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def light_colours() -> dict[str, str]:
    """Return the page's colours on white paper by their names in its style sheet."""
    style = (reports_dir() / "report.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-fA-F]{6})", style[: style.index("}")]))


# As files for papers

FILE_NAMES = {"bars": "scores", "fit": "fast-steps", "parts": "nats-per-token", "spread": "documents"}  # others stay


def write_plots(plots: Mapping[str, Figure], folder: Path, *, tasks: Sequence[str]) -> list[Path]:
    """Write every plot as PNG, SVG and PDF to `folder`, named after its task: `ltm_gsm8k-scores.pdf`.

    Args:
        plots: by name; a name that ends in a number says which task it belongs to.
        folder: made if need be.
        tasks: names of the tasks, in the page's order.

    Raises:
        MachineError: a file cannot be written.
    """
    written: list[Path] = []
    taken = set()
    for name, plot in plots.items():
        stem = _file_stem(name, tasks)
        while stem in taken:
            stem += "-"
        taken.add(stem)
        for form, metadata in _UNDATED.items():
            buffer = BytesIO()
            with _style(**{"svg.fonttype": "path"}):  # the same letters wherever it is shown
                plot.savefig(buffer, format=form, metadata=metadata)
            written.append(folder / f"{stem}.{form}")
            _write(written[-1], buffer.getvalue())
    return written


def _file_stem(name: str, tasks: Sequence[str]) -> str:
    """Return a name of letters, digits, dots, hyphens and underscores: a task's name is not trusted as a path."""

    def plain(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._-")[:60] or "plot"

    kind, _, number = name.rpartition("-")
    if not number.isdigit() or not 1 <= int(number) <= len(tasks):
        return plain(name)
    return f"{plain(tasks[int(number) - 1])}-{plain(FILE_NAMES.get(kind, kind))}"


def _write(path: Path, data: bytes) -> None:
    check_target(path, data)
    with atomic(path, binary=True, other="--plots_dir") as file:
        file.write(data)
