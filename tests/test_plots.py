"""Figures: no style a strict policy would block, theme colours only, text that stays text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from ltm_eval.report.plots import accuracy_bars, divergence_curves, fit_trajectory, histogram, stacked_bars
from ltm_eval.results.views import Bar, Curve, Divergence, Spread, Stack
from ltm_eval.system.text import visible

CURVE = Curve(label="ltm", median=(0.0, -5.0, -8.0), low=(0.0, -7.0, -9.0), high=(0.0, -3.0, -4.0))


def bars(label: str = "gpt2") -> list[Bar]:
    return [
        Bar(group=g, label=m, series=s, value=0.25, low=0.2, high=0.3)
        for g in ("strict", "flexible")
        for s, m in enumerate(("ltm", label), 1)
    ]


def figures(label: str = "gpt2") -> list[str]:
    other = Curve(label=label, median=CURVE.median, low=CURVE.low, high=CURVE.high)
    stacks = [
        Stack(label="ltm", parts=(("NLL", 3.0), ("KL", 1.0))),
        Stack(label=label, parts=(("exact", 2.0),)),
    ]
    spreads = [
        Spread(label="ltm", series=1, values=(1.0, 1.5, 1.75)),
        Spread(label=label, series=2, values=(1.25, 2.0)),
    ]
    points = ((1.0, 0.0), (0.75, 0.75), (0.0, 1.0))
    human = Divergence(label="human", series=0, points=points)
    divergences = [Divergence(label="ltm", series=1, points=points), Divergence(label=label, series=2, points=points)]
    return [
        accuracy_bars(bars(label), name="f"),
        fit_trajectory([CURVE, other], name="f"),
        stacked_bars(stacks, name="f"),
        histogram(spreads, name="f"),
        divergence_curves([human, *divergences], name="f"),
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_nothing_needs_more_than_the_pages_policy() -> None:
    for svg in figures():
        root = ElementTree.fromstring(svg)
        assert not {"style", "metadata", "script"} & {element.tag for element in root.iter()}
        names = {name for element in root.iter() for name in element.attrib}
        assert "style" not in names
        assert not any(name.startswith("on") for name in names)
        assert not re.search(r"https?:|<\?xml|<!DOCTYPE", svg)


def test_colours_come_from_the_page() -> None:
    for svg in figures():
        paints = {element.get(key) for element in ElementTree.fromstring(svg).iter() for key in ("fill", "stroke")}
        assert paints - {None, "none"} <= {
            *("var(--ink)", "var(--muted)", "var(--rule)", "var(--paper)"),
            *(f"var(--series-{index})" for index in range(1, 7)),
        }
        assert {"var(--series-1)", "var(--series-2)"} <= paints


def test_same_input_same_bytes() -> None:
    assert figures() == figures()


def test_ids_and_their_references_carry_the_figures_name() -> None:
    root = ElementTree.fromstring(accuracy_bars(bars(), name="one"))
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    used = {element.get("href", "#one-")[1:] for element in root.iter("use")}
    used |= {element.attrib["clip-path"][5:-1] for element in root.iter() if "clip-path" in element.attrib}
    assert all(name and name.startswith("one-") for name in ids)
    assert used <= ids


@pytest.mark.parametrize("label", ["$x_1^2$ & <b>", "漢字 العربية", "a\x00b\ud800c\x1b", "%s {0} \\frac"])
def test_labels_are_text_whatever_they_hold(label: str) -> None:
    shown = visible(label)
    for svg in figures(label):
        assert shown in texts(svg)


def test_long_labels_keep_their_beginning_and_end() -> None:
    assert "m" * 18 + "…" + "n" * 17 in texts(accuracy_bars(bars("m" * 150 + "n" * 150), name="f"))


def test_bars_end_where_their_values_are() -> None:
    shown = [
        Bar(group="g", label="a", series=1, value=0.1, low=0.1, high=0.1),
        Bar(group="g", label="b", series=2, value=0.4, low=0.4, high=0.4),
    ]
    widths = {}
    for element in ElementTree.fromstring(accuracy_bars(shown, name="f")).iter("path"):
        if (element.get("fill") or "").startswith("var(--series"):
            xs = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", element.attrib["d"])]
            widths[element.get("fill")] = max(xs) - min(xs)
    assert widths["var(--series-2)"] == pytest.approx(4 * widths["var(--series-1)"], rel=1e-4)


def widths(svg: str) -> dict[str, float]:
    """Extent in x of what is filled, by colour."""
    found: dict[str, float] = {}
    for element in ElementTree.fromstring(svg).iter("path"):
        fill = element.get("fill") or ""
        if fill.startswith("var(--series"):
            xs = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", element.attrib["d"])]
            found[fill] = max(found.get(fill, 0.0), max(xs) - min(xs))  # a square in the legend is shorter
    return found


def test_stacked_parts_are_as_long_as_their_values_and_begin_where_the_last_ended() -> None:
    svg = stacked_bars([Stack(label="ltm", parts=(("NLL", 3.0), ("KL", 1.0)))], name="f")
    found = widths(svg)
    assert found["var(--series-1)"] == pytest.approx(3 * found["var(--series-2)"], rel=1e-4)
    assert "4.000" in texts(svg)
    assert {"NLL", "KL"} <= set(texts(svg))


def test_equal_documents_make_a_histogram_too() -> None:
    svg = histogram([Spread(label="ltm", series=1, values=(1.5, 1.5, 1.5))], name="f")
    assert "bits per byte of a document" in texts(svg)
