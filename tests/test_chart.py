"""Charts: ticks, places, margins, and that what is drawn stays within its canvas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm_eval.report.plots import (
    LABEL_LIMIT,
    WIDTH,
    Axis,
    Chart,
    at_values,
    linear,
    named,
    nice_ticks,
    series,
    shortened,
    text_width,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Point = tuple[float, float]


class Paper:
    """Writes down what is drawn."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.lines: list[list[Point]] = []
        self.words: dict[str, tuple[float, float, str]] = {}

    def path(  # noqa: PLR0913 - as a pen has it
        self,
        points: Sequence[Point],
        *,
        stroke: str = "",
        width: float = 1.0,
        dashes: tuple[float, ...] = (),
        fill: str = "",
        alpha: float = 1.0,
    ) -> None:
        assert (stroke or fill) and width > 0 and len(dashes) != 1 and 0 < alpha <= 1
        self.points += points
        self.lines.append(list(points))

    def marks(self, points: Sequence[Point], *, shape: str, fill: str) -> None:
        assert shape and fill
        self.points += points

    def text(self, x: float, y: float, words: str, *, colour: str, anchor: str = "start", angle: float = 0.0) -> None:
        assert colour and angle in (0, 90)
        self.points.append((x, y))
        self.words[words] = (x, y, anchor)


def drawn(chart: Chart) -> Paper:
    paper = Paper()
    chart.draw(paper)
    return paper


@pytest.mark.parametrize(
    ("low", "high", "whole", "labels"),
    [
        (0.0, 100.0, False, ["0", "20", "40", "60", "80", "100"]),
        (0.0, 16.0, True, ["0", "5", "10", "15"]),
        (0.0, 3.0, True, ["0", "1", "2", "3"]),
        (-0.012, 0.021, False, ["−0.01", "0.00", "0.01", "0.02"]),
        (6.1, 6.2, False, ["6.10", "6.12", "6.14", "6.16", "6.18", "6.20"]),
        (0.0, 12_500.0, False, ["0", "2,500", "5,000", "7,500", "10,000", "12,500"]),
    ],
)
def test_ticks_are_round_and_labelled_alike(low: float, high: float, whole: bool, labels: list[str]) -> None:
    assert [label for _, label in nice_ticks(low, high, whole=whole)] == labels


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_there_are_some_ticks_and_all_lie_between_the_ends(low: float, length: float) -> None:
    high = low + length
    if not high - low > 1e-6 * abs(low):
        return
    values = [value for value, _ in nice_ticks(low, high)]
    assert 1 <= len(values) <= 6
    room = 1e-6 * (high - low)
    assert all(low - room <= value <= high + room for value in values)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=5))
def test_an_axis_of_whatever_numbers_has_two_ends(values: list[float]) -> None:
    axis = linear([value / 1e10 for value in values], label="")
    assert math.isfinite(axis.low) and math.isfinite(axis.high) and axis.low < axis.high


def test_what_lies_beyond_an_end_is_drawn_there() -> None:
    axis = Axis(10.0, 20.0, ())
    assert [axis.share(value) for value in (5, 10, 15, 20, 99)] == [0, 0, 0.5, 1, 1]
    assert [Axis(1.0, 64.0, (), doubling=True).share(value) for value in (1, 8, 64)] == [0, 0.5, 1]


def test_ticks_of_few_values_stand_at_them_and_do_not_touch() -> None:
    assert [label for _, label in at_values([1, 2, 4, 8], label="").ticks] == ["1", "2", "4", "8"]
    close = [label for _, label in at_values([0, 1, 200], label="").ticks]
    assert close == ["0", "200"]
    assert at_values([3, 3], label="").low < 3 < at_values([3, 3], label="").high


def test_names_of_runs_that_differ_at_their_end_stay_apart() -> None:
    first, second = "checkpoints/" + "x" * 80 + "/60000", "checkpoints/" + "x" * 80 + "/70000"
    assert shortened(first) != shortened(second)
    assert max(len(shortened(first)), len(shortened(second))) == LABEL_LIMIT
    assert shortened("m" * LABEL_LIMIT) == "m" * LABEL_LIMIT
    assert text_width("mm") > text_width("ii") and text_width("漢") > text_width("a")


@pytest.mark.parametrize("label", ["a", "m" * 300, "漢" * 40])
def test_nothing_is_drawn_off_the_canvas(label: str) -> None:
    """Lines, marks, and texts by their estimated width."""
    chart = Chart(linear([0, 64], label="fast step", whole=True), linear([-1e6, 1e6], label="nats"))
    for index in range(7):
        chart.line([0, 32, 64, 900], [0, 5e5, -5e7, math.nan], series(index), marker="circle", label=f"{index}{label}")
    rows = Chart(linear([0, 5], label="percent"), named([label] * 3, range(3), low=-0.5, high=2.5))
    rows.box((0.0, 5.0), (0.7, 1.3), series(0))
    rows.whisker((-9.0, 99.0), (1.0, 1.0), "ink")
    for one in (chart, rows):
        paper, (width, height) = drawn(one), one.size()
        assert width == WIDTH
        assert all(0 <= x <= width and 0 <= y <= height for x, y in paper.points)
        for words, (x, _, anchor) in paper.words.items():
            wide = text_width(words)
            left = {"start": x, "middle": x - wide / 2, "end": x - wide}[anchor]
            assert words == "nats" or left >= -1, words


def test_a_legend_of_many_takes_as_many_lines_as_it_needs() -> None:
    few, many = (Chart(linear([0, 1], label=""), linear([0, 1], label="")) for _ in range(2))
    few.entry("one", series(0))
    for index in range(9):
        many.entry(f"a model of some name, {index}", series(index))
    assert many.size()[1] > few.size()[1] + 20
    rights = [x + text_width(words) for words, (x, _, anchor) in drawn(many).words.items() if anchor == "start"]
    assert max(rights) <= WIDTH


def test_a_line_goes_where_its_values_are() -> None:
    chart = Chart(Axis(0.0, 10.0, ()), Axis(0.0, 1.0, ()), height=100.0)
    chart.line([0, 5, 10], [0.0, 0.25, 1.0], series(0))
    (line,) = (points for points in drawn(chart).lines if len(points) == 3)
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert (y1 - y0, y2 - y0) == (pytest.approx(25.0), pytest.approx(100.0))
