"""Results of every release open in this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_eval.report.page import build, render
from ltm_eval.results.files import find_runs, read_latents, read_samples

GOLDEN = sorted((Path(__file__).parent / "data").glob("results_*"))


@pytest.mark.faults
@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_results_of_a_release_are_read(folder: Path) -> None:
    runs = find_runs([folder])
    (run,) = runs
    (task,) = run.tasks
    assert [score.value for score in run.tasks[task].scores if score.metric == "exact_match"] == [0.0, 0.0]
    assert {sample.doc_id for sample in read_samples(run, task)} == {0, 1}
    assert [record.t_fast for record in read_latents(run, task)] == [2, 2]
    assert task in render(build(runs))


def test_there_is_one_of_this_release() -> None:
    import ltm_eval

    assert f"results_{ltm_eval.__version__}" in [folder.name for folder in GOLDEN]
