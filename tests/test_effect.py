"""Comparison of conditions, against differences counted by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_eval.results.effect import effect, reference_of, text_table
from ltm_eval.results.files import Run, read_run
from ltm_eval.results.statistics import paired_means
from tests.fake_runs import TASK, write_run

if TYPE_CHECKING:
    from pathlib import Path

KEYS = [("demos", 8), ("demos", 4), ("other", 8), ("other", 4), ("other", 2), ("prior", 0)]


@pytest.mark.parametrize(
    ("own", "against"),
    [
        (("demos", 8), None),
        (("demos", 4), ("demos", 8)),
        (("other", 8), ("demos", 8)),
        (("other", 4), ("demos", 4)),
        (("other", 2), ("demos", 8)),
        (("prior", 0), ("demos", 8)),
    ],
)
def test_what_a_cell_is_compared_with(own: tuple[str, int], against: tuple[str, int] | None) -> None:
    place = reference_of(KEYS, own, "demos")
    assert (None if place is None else KEYS[place]) == against
    assert reference_of([("other", 2)], ("other", 2), "demos") is None


def cell(folder: Path, condition: str, shots: int, *, right: set[int]) -> tuple[str, Run]:
    path = write_run(folder / condition, model="ltm", kind="ltm", right=lambda i: i in right, n=20, shots=shots)
    return (condition, read_run(path))


def test_cells_are_paired_by_document(tmp_path: Path) -> None:
    own, other = {*range(12)}, {0, 1, 15}
    cells = [cell(tmp_path, "demos", 2, right=own), cell(tmp_path, "other", 2, right=other)]
    block = effect(cells, reference="demos")
    (strict, _flexible) = block["tasks"][TASK]
    reference, against = strict["cells"]
    assert reference["difference"] is None and reference["value"] == 0.6
    assert (against["condition"], against["shots"], against["value"]) == ("other", 2, 0.15)
    truth = paired_means([float(i in other) for i in range(20)], [float(i in own) for i in range(20)])
    found = against["difference"]
    assert found["estimate"] == pytest.approx(-0.45) == truth.estimate
    assert (
        found["p_value"] == truth.p_value == pytest.approx(2 * (1 + 11) / 2**11)
    )  # McNemar: 1 of 11 pairs that differ
    assert found["interval"] == {"low": truth.interval.low, "high": truth.interval.high}
    assert (found["discordant"], found["against"], found["against_shots"]) == (11, "demos", 2)


def test_the_table_as_text(tmp_path: Path) -> None:
    cells = [cell(tmp_path, "demos", 2, right={*range(12)}), cell(tmp_path, "other", 2, right={0})]
    lines = text_table(effect(cells, reference="demos")).splitlines()
    assert lines[0] == f"Effect of the demonstrations: {TASK}, exact_match, strict-match"
    assert lines[2].split()[:4] == ["demos", "2", "60.0", "%"]
    assert "demos, 2" in lines[3] and "-55.0" in lines[3]
