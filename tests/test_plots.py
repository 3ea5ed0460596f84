"""Plots: lines and bars at their values, no style a strict policy would block, theme colours only, inert labels."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from hostile import HOSTILE
from matplotlib.image import imread

from ltm_eval.report.plots import (
    LABEL_LIMIT,
    accuracy_bars,
    bands,
    bound_over_steps,
    compute_curves,
    divergence_curves,
    fit_trajectory,
    histogram,
    inline_svg,
    light_colours,
    reconstruction,
    shortened,
    stacked_bars,
    training_curves,
    write_plots,
)
from ltm_eval.results.views import (
    ComputeCurve,
    Curve,
    Divergence,
    DocumentBits,
    Estimate,
    Ladder,
    Line,
    LinePoint,
    Measure,
    StepCurve,
)
from ltm_eval.results.views import Figure as Number
from ltm_eval.system.errors import MachineError
from ltm_eval.system.text import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


def bars(label: str = "gpt2") -> list[Number]:
    return [
        Number("t", g, m, 0.25 * s, 0.2 * s, 0.3 * s, series=s)
        for g in ("strict", "flexible")
        for s, m in enumerate(("ltm", label), 1)
    ]


def stacks(label: str = "gpt2") -> dict[str, dict[str, float]]:
    return {"ltm": {"NLL": 3.0, "KL": 1.0}, label: {"exact": 2.0}}


def documents(label: str, series: int, *bits: float) -> DocumentBits:
    return DocumentBits(label, series, {(str(index), 0): value for index, value in enumerate(bits)}, bound=False)


def lines(label: str = "gpt2") -> list[Line]:
    points = tuple(LinePoint(x=x, value=0.1 * x, low=0.08 * x, high=0.15 * x) for x in (1, 2, 4))
    floor = Line("floor", 1, points[:1], dashed=True)
    return [Line("ltm", 1, points, dots=((1, 0.12), (1, 0.07))), Line(label, 2, points), floor]


def measure() -> Measure:
    estimates = tuple(Estimate(mean=0.1 * at, low=0.1 * at - 0.05, high=0.1 * at + 0.05) for at in range(3))
    ladders = tuple(Ladder(name, ("none", "1", "1-2"), estimates) for name in ("upward", "downward"))
    return Measure("top1", "Top 1", "percent", "tokens", ladders, Estimate(0.05, None, None))


@cache
def plots() -> dict[str, Figure]:
    """One of every kind."""
    curve = Curve(label="ltm", median=(0.0, -5.0, -8.0), low=(0.0, -7.0, -9.0), high=(0.0, -3.0, -4.0))
    corners = ((1.0, 0.0), (0.75, 0.75), (0.0, 1.0))
    computed = tuple((t, 1e9 * t, Number("t", "acc", f"{t}", 0.1 * t, 0.05 * t, share=True)) for t in (2.0, 4.0))
    training = [("ltm", [(1000, Number("t", "m", "a", 5.0, 4.5, 5.5)), (60000, Number("t", "m", "a", 4.0))])]
    return {
        "accuracy_bars": accuracy_bars(bars()),
        "stacked_bars": stacked_bars(stacks()),
        "histogram": histogram([documents("ltm", 1, 1.0, 1.5, 1.75), documents("gpt2", 2, 1.25, 2.0)]),
        "divergence_curves": divergence_curves([Divergence("human", 0, corners), Divergence("ltm", 1, corners)]),
        "fit_trajectory": fit_trajectory([curve, replace(curve, label="other", worst=(0.0, 1.0, -2.0))]),
        "bound_over_steps": bound_over_steps([StepCurve("ltm", 1, (5.0, 4.0, 3.5), 3.75, True, 4)]),
        "training_curves": training_curves(training, axis="bits per byte ↓"),
        "bands": bands(lines(), x="attempts k", y="pass@k, percent"),
        "compute_curves": compute_curves([ComputeCurve("ltm", "acc", computed)], flops=True),
        "reconstruction": reconstruction(measure()),
    }


KINDS = tuple(plots())


@cache
def tags(kind: str) -> set[str]:
    return {element.tag for element in ElementTree.fromstring(inline_svg(plots()[kind], name="f")).iter()}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


# At their values


def test_bars_end_at_their_values_and_carry_their_intervals() -> None:
    (axes,) = accuracy_bars(bars()).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([25, 50, 25, 50])
    whiskers = [line.get_xdata() for line in axes.lines]
    assert [list(ends) for ends in whiskers] == [pytest.approx(ends) for ends in 2 * [[20, 30], [40, 60]]]
    assert [label.get_text() for label in axes.get_yticklabels()] == 2 * ["ltm", "gpt2"]
    assert [text.get_text() for text in axes.texts] == ["strict", "flexible"]
    assert axes.get_xlim() == (0, pytest.approx(63))


def test_stacked_parts_begin_where_the_last_ended() -> None:
    plot = stacked_bars(stacks())
    (axes,) = plot.axes
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, 3), (3, 1), (0, 2)]
    assert [text.get_text() for text in axes.texts] == ["4.000", "2.000"]
    assert [text.get_text() for text in plot.legends[0].get_texts()] == ["NLL", "KL", "exact"]


def test_a_histogram_counts_every_document_once() -> None:
    (axes,) = plots()["histogram"].axes
    counts = [outline.get_data() for outline in axes.patches if not outline.get_fill()]
    assert [(sum(one.values), one.edges[0], one.edges[-1]) for one in counts] == [(3, 1.0, 2.0), (2, 1.0, 2.0)]
    (axes,) = histogram([documents("ltm", 1, 1.5, 1.5, 1.5)]).axes
    assert sum(axes.patches[0].get_data().values) == 3


def test_bands_in_percent_with_ticks_at_the_values() -> None:
    plot = bands(lines(), x="attempts k", y="pass@k, percent")
    (axes,) = plot.axes
    first = next(line for line in axes.lines if len(line.get_xdata()) == 3)
    assert list(first.get_xdata()) == [1, 2, 4]
    assert list(first.get_ydata()) == pytest.approx([10, 20, 40])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4"]
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 60
    assert [text.get_text() for text in plot.legends[0].get_texts()] == ["ltm", "gpt2", "floor"]
    assert [list(dots.get_ydata()) for dots in axes.lines[:1]] == [pytest.approx([12, 7])]


def test_ticks_whose_labels_would_touch_are_round_numbers_instead() -> None:
    points = tuple(LinePoint(x, 0.5, 0.4, 0.6) for x in (0, 1, 200))
    (axes,) = bands([Line("ltm", 1, points)], x="demonstrations", y="percent").axes
    shown = [tick for tick in axes.get_xticks() if 0 <= tick <= 200]
    assert shown[0] == 0 and 1 not in shown and len(shown) > 2
    points = tuple(LinePoint(x, 50.0, 40.0, 60.0) for x in (1, 2, 4, 64))
    (axes,) = bands([Line("ltm", 1, points)], x="noise draws", y="perplexity", scale=1, doubling=True).axes
    assert list(axes.get_xticks()) == [1, 2, 4, 64] and axes.get_xscale() == "log"
    bands([Line("ltm", 1, points[:1])], x="noise draws", y="perplexity", scale=1, doubling=True)


def test_curves_over_steps_and_compute() -> None:
    found = plots()
    (axes,) = found["fit_trajectory"].axes
    assert [list(line.get_ydata()) for line in axes.lines[1:]] == [[0, -5, -8], [], [0, -5, -8], [0, 1, -2]]
    (axes,) = found["bound_over_steps"].axes
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[5, 4, 3.5], [3.75, 3.75]]
    (axes,) = found["compute_curves"].axes
    assert (axes.get_xlabel(), axes.get_xlim()[0]) == ("GFLOPs per token", 0)
    curve = next(line for line in axes.lines if list(line.get_xdata()) == [2, 4])
    assert list(curve.get_ydata()) == pytest.approx([20, 40])
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[10, 20], [20, 40]]  # no upper end: the value
    (axes,) = found["training_curves"].axes
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[4.5, 5.5], [5, 4]]
    assert {"15,000", "60,000"} <= set(texts(inline_svg(found["training_curves"], name="f")))


def test_reconstruction_upward_downward_and_without_z() -> None:
    plot = reconstruction(measure())
    assert [list(line.get_ydata()) for line in plot.axes[0].lines] == [
        pytest.approx([0, 10, 20]),
        pytest.approx([0, 10, 20]),
        pytest.approx([5, 5]),
    ]
    words = ["layers 1 to l", "the last l layers", "no z"]
    assert [text.get_text() for text in plot.legends[0].get_texts()] == words


def test_values_without_end_are_left_out() -> None:
    points = tuple(LinePoint(x, value, value, value) for x, value in ((1, 5.0), (2, math.inf), (4, 3.0)))
    (axes,) = bands([Line("ltm", 1, points)], x="noise draws", y="perplexity", scale=1).axes
    assert all(map(math.isfinite, axes.get_ylim()))


# In a page


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_needs_more_than_the_pages_policy(kind: str) -> None:
    svg = inline_svg(plots()[kind], name="f")
    root = ElementTree.fromstring(svg)
    assert {element.tag for element in root.iter()} <= {"svg", "defs", "g", "path", "use", "text", "clipPath", "rect"}
    names = {name for element in root.iter() for name in element.attrib}
    assert "style" not in names
    assert not any(name.startswith("on") for name in names)
    assert not re.search(r"https?:|<\?xml|<!DOCTYPE|font-family", svg)
    assert all(element.get("href", "#").startswith("#") for element in root.iter())
    assert root.get("aria-hidden") == "true"


@pytest.mark.parametrize("kind", KINDS)
def test_colours_come_from_the_page(kind: str) -> None:
    elements = list(ElementTree.fromstring(inline_svg(plots()[kind], name="f")).iter())
    paints = {element.get(key) for element in elements for key in ("fill", "stroke")} - {None, "none"}
    assert paints <= {f"var(--{name})" for name in light_colours()}
    assert "var(--series-1)" in paints
    assert all(element.get("fill") for element in elements if element.tag == "text")


def test_ids_and_their_references_carry_the_plots_name() -> None:
    for svg in (inline_svg(plot, name="one") for plot in plots().values()):
        root = ElementTree.fromstring(svg)
        ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        used = {element.attrib["href"][1:] for element in root.iter("use")}
        used |= {element.attrib["clip-path"][5:-1] for element in root.iter() if "clip-path" in element.attrib}
        assert all(one.startswith("one-") for one in ids) and len(set(ids)) == len(ids)
        assert used <= set(ids)


@pytest.mark.parametrize("label", [*HOSTILE.values(), "$x_1^2$ & <b>", "漢字 العربية", "_ hidden", "%s {0} \\frac", ""])
def test_labels_are_text_whatever_they_hold(label: str) -> None:
    drawn = (accuracy_bars(bars(label)), stacked_bars(stacks(label)), bands(lines(label), x=label, y="percent"))
    for plot, plain in zip(drawn, ("accuracy_bars", "stacked_bars", "bands"), strict=True):
        svg = inline_svg(plot, name="f")
        assert {element.tag for element in ElementTree.fromstring(svg).iter()} == tags(plain)
        assert not label or shortened(label) in texts(svg), plain


def test_names_of_runs_that_differ_at_their_end_stay_apart() -> None:
    first, second = "checkpoints/" + "x" * 80 + "/60000", "checkpoints/" + "x" * 80 + "/70000"
    assert shortened(first) != shortened(second)
    assert max(len(shortened(first)), len(shortened(second))) == LABEL_LIMIT
    assert shortened("m" * LABEL_LIMIT) == "m" * LABEL_LIMIT
    assert shortened("漢" * 40) == "漢" * 9 + "…" + "漢" * 8
    assert shortened("a\nb\tc") == one_line("a\nb\tc") == "a b c"


def test_long_names_leave_room_for_the_bars() -> None:
    labels = ("m" * 300, "漢" * 40, "W" * 36)
    plot = accuracy_bars([Number("t", "g", label, 0.5, 0.4, 0.6, series=at) for at, label in enumerate(labels, 1)])
    inline_svg(plot, name="f")  # lays it out
    assert plot.axes[0].get_position().width > 0.1
    assert plot.axes[0].get_position().x1 > 0.95


@pytest.mark.parametrize("label", ["m" * 300, "漢" * 40])
def test_a_legend_of_many_long_labels_stays_on_the_canvas(label: str) -> None:
    """A legend takes as many lines as it needs, and the plot grows by them."""
    few, many = (
        fit_trajectory(
            [Curve(label=f"{at} {label}", median=(0.0, -1.0), low=(0.0, -2.0), high=(0.0, 0.0)) for at in range(count)]
        )
        for count in (2, 7)
    )
    assert many.get_figheight() > few.get_figheight() + 0.5
    svg = ElementTree.fromstring(inline_svg(many, name="f"))
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    assert 400 < width < 406
    for element in svg.iter("text"):
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        assert 0 <= x <= width and 0 <= y <= height


# Files


def test_files_are_the_same_bytes_with_and_without_a_page(tmp_path: Path) -> None:
    found = {"bars-1": accuracy_bars(bars()), "spread-1": plots()["histogram"]}
    first = write_plots(found, tmp_path / "a", tasks=["gsm8k"])
    for name, plot in found.items():
        inline_svg(plot, name=name)
    second = write_plots(found, tmp_path / "b", tasks=["gsm8k"])
    third = write_plots({"bars-1": accuracy_bars(bars())}, tmp_path / "c", tasks=["gsm8k"])
    assert [path.name for path in first[:4]] == [
        *(f"gsm8k-scores.{form}" for form in ("png", "svg", "pdf")),
        "gsm8k-documents.png",
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert [path.read_bytes() for path in first[:3]] == [path.read_bytes() for path in third]
    svg = (tmp_path / "a" / "gsm8k-scores.svg").read_text("utf-8")
    assert light_colours()["series-1"] in svg and "var(" not in svg and "<text" not in svg


def test_lines_in_a_png_are_as_wide_as_on_paper(tmp_path: Path) -> None:
    """1.6 points at 300 dots an inch are 6.7 dots."""
    curve = ("ltm", [(0, Number("t", "m", "a", 1.0)), (1, Number("t", "m", "a", 1.0))])
    png, *_ = write_plots({"h-1": training_curves([curve], axis="bits")}, tmp_path, tasks=["t"])
    pixels = imread(BytesIO(png.read_bytes()))[:, :, :3]
    blue = [int(light_colours()["series-1"][at : at + 2], 16) / 255 for at in (1, 3, 5)]
    column = pixels[:, pixels.shape[1] // 2]
    wide = sum(1 for pixel in column if max(abs(a - b) for a, b in zip(pixel, blue, strict=True)) < 0.2)
    assert pixels.shape[1] == pytest.approx(403 / 72 * 300, abs=2)
    assert 6 <= wide <= 9  # this line is 1.8 points wide


def test_a_task_name_is_no_path(tmp_path: Path) -> None:
    plot = accuracy_bars(bars())
    files = write_plots({"bars-1": plot, "fit-1": plot, "probe-1-top1": plot}, tmp_path, tasks=["../../\x00<b>"])
    assert {file.parent for file in files} == {tmp_path}
    assert [file.name for file in files[::3]] == ["b-scores.png", "b-fast-steps.png", "probe-1-top1.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="--plots_dir"):
        write_plots({"bars-1": plot}, tmp_path / "file" / "x", tasks=["t"])


def test_a_users_matplotlibrc_changes_nothing() -> None:
    before = inline_svg(accuracy_bars(bars()), name="f")
    with mpl.rc_context({"font.size": 20, "axes.grid": False, "svg.fonttype": "path", "figure.dpi": 33}):
        assert inline_svg(accuracy_bars(bars()), name="f") == before
        assert mpl.rcParams["font.size"] == 20


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys; from ltm_eval.report.plots import *; from ltm_eval.results.views import Curve;"
        "inline_svg(fit_trajectory([Curve('a', (0, -1), (0, -2), (0, 0))]), name='f');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
