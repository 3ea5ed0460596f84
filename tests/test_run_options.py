"""Every option of the evaluating commands stands once and reaches the run."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
import typer

from ltm_eval import grid, probing
from ltm_eval import run as runner
from ltm_eval.cli import app, main
from ltm_eval.config import GridConfig, RunConfig
from ltm_eval.errors import UsageError
from ltm_eval.run import Outcome
from ltm_eval.run_options import RUN, SWEEP, run_config

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.probe_results import ProbeJob

COMMON = [
    *("--data", "sample", "--metadata", '{"protocol": "documents"}', "--preset", "published", "--fit", '{"lr": 0.2}'),
    *("--tokenizer", "gpt2", "--revision", "abc", "--dtype", "float32", "--compile", "--device", "cpu", "-o", "there"),
    "--quiet",
]
SHARED = [
    *("--task", "gsm8k, ptb", "--limit", "3", "--gen_kwargs", "max_gen_toks=5", "--n", "4", "--k", "1,2"),
    *("--fit_window", "each", "--rethink", "2", "--rows", "bound", "--causal_chunk", "32", "--causal_t_fast", "2"),
    *("--batch_size", "7", "--max_failed", "2%", "--token_nll", "3", "--fresh", "--condition", "demos", "--shots", "2"),
]


def parameters(command: str) -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return {parameter.name: parameter for parameter in group.commands[command].params}


def test_options_are_fields_of_a_run() -> None:
    known = {one.name for one in fields(RunConfig)}
    assert RUN.keys() - known == {"log_samples"}
    assert known - RUN.keys() == {"command"}
    assert RUN.keys() - SWEEP.keys() == {"baselines", "report"}
    for command, names in (("run", RUN), ("sweep", SWEEP)):
        assert parameters(command).keys() - {"help"} == names.keys()


def test_the_three_commands_tell_the_same_of_an_option() -> None:
    """Help, range and environment variable, but for what takes several values in a sweep."""
    run, own = parameters("run"), {"limit", "model", "t_fast", "seed"}
    for command in ("sweep", "probe"):
        for name, parameter in parameters(command).items():
            if name in run and name not in own:
                told = [(one.help, one.metavar, one.envvar, one.opts, one.default) for one in (run[name], parameter)]
                assert told[0] == told[1], (command, name)


def test_every_option_reaches_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def caught(config: RunConfig) -> Outcome:
        seen["run"] = config
        return Outcome((), None)

    def swept(config: GridConfig) -> Any:
        seen["sweep"] = config
        raise UsageError("seen")

    def probed(job: ProbeJob) -> Any:
        seen["probe"] = job
        raise UsageError("seen")

    monkeypatch.setattr(runner, "run", caught)
    monkeypatch.setattr(grid, "run", swept)
    monkeypatch.setattr(probing, "probe", probed)
    many = ["--baseline", "gpt2-demo", "--no_report"]
    assert main(["run", *COMMON, *SHARED, *many, "--model", "demo", "--t_fast", "5", "--seed", "6"]) == 0
    config = seen["run"]
    whole = RunConfig()
    left = {one.name for one in fields(RunConfig) if getattr(config, one.name) == getattr(whole, one.name)}
    assert left == {"documents"}  # which --limit excludes
    assert (config.tasks, config.num_fewshot, config.batch_size) == (("gsm8k", "ptb"), 2, 7)
    assert main(["sweep", *COMMON, *SHARED, "--model", "demo,other", "--t_fast", "5,auto", "--seed", "6,7"]) == 2
    grid_config = seen["sweep"]
    assert (grid_config.models, grid_config.t_fast, grid_config.seeds) == (("demo", "other"), (5, "auto"), (6, 7))
    base = {one.name: getattr(grid_config.base, one.name) for one in fields(RunConfig)}
    apart = {name for name, value in base.items() if value != getattr(config, name)}
    assert apart == {"model", "t_fast", "seed", "baselines", "command"}
    assert main(["probe", *COMMON, "--model", "demo", "--t_fast", "5", "--seed", "6", "--task", "ptb"]) == 2
    job = seen["probe"]
    told = {name: getattr(job, name) for name in ("data", "metadata", "tokenizer", "revision", "compile", "device")}
    assert told == {name: getattr(config, name) for name in told}
    assert (job.probe.fit, job.probe.fitting.lr, job.probe.t_fast, job.probe.seed) == ('{"lr": 0.2}', 0.2, 5, 6)


def test_k_alone_sets_n_and_documents_are_kept() -> None:
    given = {"model": None, "k": (1, 8), "n": 1, "documents": (3, 4), "condition": "all", "num_fewshot": (0, 8)}
    config = run_config(given)
    assert (config.n, config.k, config.documents, config.num_fewshot) == (8, (1, 8), (3, 4), 0)
    assert run_config({"n": 3, "k": (1,)}).n == 3
    with pytest.raises(UsageError, match="tokenizer is empty"):
        run_config({"tokenizer": " "})


def test_a_sweep_is_run_with_changes_to_the_preset(tmp_path: Path) -> None:
    from tests.tiny import tiny_folder

    folder = tiny_folder(tmp_path / "tiny")
    argv = ["sweep", "--model", str(folder), "--data", "sample", "--task", "gsm8k", "--limit", "1", "--shots", "1"]
    argv += ["--t_fast", "1", "--gen_kwargs", "max_gen_toks=2", "--quiet", "-o", str(tmp_path / "out")]
    assert main([*argv, "--fit", '{"lr": 0.2}']) == 0
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert '"lr": 0.2' in results.read_text("utf-8")
    assert main([*argv, "--fit", '{"lr": "x"}']) == 2
