"""Several conditions and numbers of demonstrations in one command."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.cli import main
from ltm_eval.harness.options import RunConfig, SweepConfig
from ltm_eval.harness.run import Combination
from ltm_eval.harness.run import run as run_one
from ltm_eval.harness.sweep import combinations, run
from ltm_eval.results.files import find_runs, read_latents, read_samples
from ltm_eval.system.errors import UsageError
from ltm_eval.tasks.prompts import CONDITION_ORDER, conditions_of
from tests.tiny import run_config

if TYPE_CHECKING:
    from pathlib import Path

TASK = "ltm_gsm8k"


def base(folder: Path, output: Path, **changes: Any) -> RunConfig:
    return run_config(folder, output, **{"num_fewshot": None, "t_fast": 2, "gen_kwargs": "max_gen_toks=8", **changes})


def names(config: SweepConfig) -> list[tuple[str, int | None]]:
    return [(one.condition, one.shots) for one in combinations(config)]


def test_combinations() -> None:
    assert conditions_of("all") == CONDITION_ORDER and set(CONDITION_ORDER) >= {"demos", "shuffled", "other", "prior"}
    assert conditions_of("demos, other,demos") == ("demos", "other")
    with pytest.raises(UsageError, match="'demos'"):
        conditions_of("demo")
    found = names(SweepConfig(RunConfig(), ("prompt", "other", "demos", "shuffled"), (0, 1, 4)))
    assert found[:2] == [("demos", 4), ("demos", 1)] and len(found) == len(set(found)) == 2 + 3 + 2 + 2
    assert [one for one in found if one[1] == 0] == [("prompt", 0), ("prior", 0)]
    assert ("shuffled", 1) not in found and ("shuffled", 4) in found
    assert names(SweepConfig(RunConfig(), ("prior", "prompt"))) == [("prior", None), ("prompt", None)]
    assert Combination("demos", 2).folder == "demos_2-shot"
    with pytest.raises(UsageError, match="shots"):
        SweepConfig(RunConfig(), ("demos",), (0, 99))


def test_every_combination_is_what_it_would_be_alone(folder: Path, tmp_path: Path) -> None:
    sweep = SweepConfig(base(folder, tmp_path / "sweep"), ("demos", "shuffled", "other", "prior"), (0, 2))
    (path,) = run(sweep).results
    block = json.loads(path.read_text())["ltm_eval"]["effect"]
    (table, _) = block["tasks"][TASK]
    cells = [("demos", 2), ("shuffled", 2), ("other", 2), ("prior", 2), ("prior", 0)]
    assert [(cell["condition"], cell["shots"]) for cell in table["cells"]] == cells
    assert all(cell["difference"]["against"] == "demos" for cell in table["cells"][1:])
    assert len({cell["n"] for cell in table["cells"]}) == 1
    for condition, shots in cells[1:]:
        alone = base(folder, tmp_path / f"{condition}{shots}", condition=condition, num_fewshot=shots)
        (single,) = find_runs([run_one(alone).results[0]])
        (cell,) = find_runs([next((path.parent / f"{condition}_{shots}-shot").glob("results_*.json"))])
        for found in (single, cell):
            assert {record.condition for record in read_latents(found, TASK)} == {condition}
        assert [s.responses for s in read_samples(cell, TASK)] == [s.responses for s in read_samples(single, TASK)]


def test_reports_take_the_first_combination_and_show_the_table(folder: Path, tmp_path: Path) -> None:
    sweep = SweepConfig(base(folder, tmp_path, report=True), ("other", "demos"), (2,))
    outcome = run(sweep)
    (found,) = find_runs([tmp_path])
    assert found.path == outcome.results[0] and found.config["model_args"]["condition"] == "demos"
    assert outcome.report is not None
    page = outcome.report.read_text()
    assert page.count("Effect of the demonstrations</h3>") == 1 and "demos, 2 shots" in page
    (cell,) = find_runs([tmp_path / found.path.parent.name / "other_2-shot"])
    assert cell.extra.sweep_cell == "other_2-shot"


def test_the_command_prints_the_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--model", str(folder), "--data", "sample", "--limit", "2", "--t_fast", "1", "--no_report"]
    arguments += ["--condition", "demos,prior", "--shots", "0,1", "--gen_kwargs", "max_gen_toks=4", "--quiet"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Effect of the demonstrations: {TASK}, exact_match, strict-match")
    assert [line.split()[:2] for line in out.splitlines()[2:5]] == [["demos", "1"], ["prior", "1"], ["prior", "0"]]


def test_tasks_without_demonstrations_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = SimpleNamespace(OUTPUT_TYPE="loglikelihood_rolling", task_name="ltm_ptb")
    monkeypatch.setattr("ltm_eval.harness.run.tasks_of", lambda config: [texts])
    with pytest.raises(UsageError, match="task ltm_ptb asks for no answers"):
        run(SweepConfig(base(folder, tmp_path), ("demos", "prior")))
