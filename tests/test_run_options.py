"""Every option of the evaluating commands stands once and reaches the run."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
import typer

from ltm_eval.cli import RUN, SWEEP, app, main, run_config
from ltm_eval.harness import run as runner
from ltm_eval.harness import sweep as grid
from ltm_eval.harness.evaluation import asked_of
from ltm_eval.harness.ltm import LTM
from ltm_eval.harness.options import ANSWERS, NOTHING, QUESTIONS, VERDICT, GridConfig, ModelArguments, RunConfig
from ltm_eval.harness.run import Outcome, ltm_subject
from ltm_eval.harness.sweep import Cell
from ltm_eval.inference.options import FIT_EXAMPLE, PRESETS, FitConfig, fit_changes, fit_config
from ltm_eval.probe import job as probing
from ltm_eval.system.errors import UsageError
from ltm_eval.system.options import option_of
from tests.tiny import tiny_folder, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.probe.files import ProbeJob

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
    assert known - RUN.keys() == {"command"} and RUN.keys() <= known
    assert RUN.keys() - SWEEP.keys() == {"baselines", "report"}
    for command, names in (("run", RUN), ("sweep", SWEEP)):
        assert parameters(command).keys() - {"help", "help_all", "log_samples"} == names.keys()


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
    monkeypatch.setattr(grid, "run_grid", swept)
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


def test_k_alone_sets_n_and_documents_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"model": None, "k": (1, 8), "n": 1, "documents": (3, 4), "condition": ("demos",), "num_fewshot": (0, 8)}
    config = run_config(given)
    assert (config.n, config.k, config.documents, config.num_fewshot) == (8, (1, 8), (3, 4), 0)
    assert run_config({"n": 3, "k": (1,)}).n == 3
    assert main(["run", "--tokenizer", " "]) == 2
    assert "tokenizer is empty" in capsys.readouterr().err


# Changes to a preset --------------------------------------------------------------------------------------------------


def test_changes_reach_the_fit(folder: Path) -> None:
    changed = LTM(str(folder), device="cpu", fit=FIT_EXAMPLE).fit_config
    assert (changed.noise, changed.draws, changed.lr) == ("antithetic", 2, PRESETS["bound"].lr)
    assert LTM(str(folder), device="cpu", fit={"log_var_start": -2, "lr": 0.3}).fit_config.log_var_start == -2
    assert fit_config("bound", **fit_changes('{"lr": 0.3}')).lr_final == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "JSON object"),
        ("noise=fresh", "JSON object"),
        ('{"nois": "fresh"}', "Did you mean 'noise'"),
        ('{"noise": "pink"}', "noise must be"),
        ('{"noise": "antithetic"}', "pairs"),
        ('{"draws": 1.5}', "whole number"),
        ('{"draws": true}', "whole number"),
        ('{"lr": "fast"}', "number"),
        ('{"lr": -1}', "positive"),
        ('{"log_var_start": NaN}', "number"),
        ('{"t_fast": 4}', "option of fit"),
        ('{"log_var_start": Infinity}', "finite number"),
        ('{"log_var_start": -1e999}', "finite number"),
        ('{"lr": %s}' % ("9" * 400), "finite number"),
        ('{"lr": 0.1, "lr": 0.2}', "names 'lr' twice"),
        ('{"lr": 0.1, "lr": 0.1}', "names 'lr' twice"),
        ("[" * 100_000, "JSON object"),
    ],
)
def test_changes_that_no_fit_can_use_are_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RunConfig(fit=text)


def test_a_rate_is_named_in_one_place() -> None:
    with pytest.raises(UsageError, match="lr is named twice"):
        LTM("demo", device="cpu", lr=0.1, fit={"lr": 0.2})


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_changes_to_the_preset_are_made_and_told(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [command, "--model", str(folder), "--data", "sample", "--task", "rules", "--limit", "1", "--shots", "1"]
    argv += ["--t_fast", "1", "--gen_kwargs", "max_gen_toks=2", "--quiet", "-o", str(tmp_path / "out")]
    assert main([*argv, "--fit", FIT_EXAMPLE]) == 0
    (file,) = (tmp_path / "out").rglob("results_*.json")
    told = json.loads(file.read_text("utf-8"))
    assert (told["config"]["fit"]["noise"], told["config"]["fit"]["draws"]) == ("antithetic", 2)
    assert any("changed" in line and "antithetic" in line for line in told["ltm_eval"]["warnings"])
    assert main([*argv, "--fit", "{"]) == 2
    assert capsys.readouterr().err.count("error[2]") == 1


# What an option changes -----------------------------------------------------------------------------------------------

OTHERS: dict[str, Any] = {
    "model": "another",
    "tasks": ("ptb",),
    "num_fewshot": 3,
    "baselines": ("gpt2",),
    "data": "hub",
    "metadata": '{"protocol": "documents"}',
    "limit": 7,
    "documents": (1, 2),
    "output_path": "elsewhere",
    "batch_size": 3,
    "device": None,
    "dtype": "bfloat16",
    "compile": True,
    "fit": '{"draws": 2}',
    "condition": "demos",
    "preset": "published",
    "t_fast": 5,
    "rows": "bound",
    "causal_chunk": 8,
    "causal_t_fast": 1,
    "fit_window": 16,
    "n": 4,
    "k": (2,),
    "rethink": 2,
    "seed": 7,
    "tokenizer": None,
    "revision": None,
    "gen_kwargs": "max_gen_toks=3",
    "token_nll": 0,
    "max_failed": "3",
    "report": False,
    "quiet": True,
    "fresh": True,
    "command": ("x",),
}
"""Another value of every option; None where it takes a GPU, the hub or a checkpoint that pins no tokenizer."""


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("marks") / "another", tiny_model(seed=1))


def kept_under(config: RunConfig) -> dict[str, Any]:
    return LTM(**ltm_subject(config).arguments).settings


@pytest.mark.parametrize("name", [option.name for option in fields(RunConfig)])
def test_every_option_says_what_it_changes(
    name: str, folder: Path, another: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else decides whether a run goes on and an answer is used again."""
    changes, recorded = option_of(RunConfig, name).changes, option_of(RunConfig, name).recorded
    assert changes and set(changes) <= {ANSWERS, QUESTIONS, VERDICT, NOTHING}, "mark the field of RunConfig"
    assert len(changes) == 1 or NOTHING not in changes
    assert bool(recorded) == (ANSWERS in changes)
    monkeypatch.setattr("ltm_eval.harness.ltm.compile_layers", lambda model: None)  # its import warns
    base = RunConfig(model=str(folder), t_fast=2, rows="all")  # so that options of the causal row act
    assert set(recorded) <= kept_under(base).keys()
    value = OTHERS[name]
    if value is None:
        return
    value = str(another) if name == "model" else value
    other = replace(base, **{name: value})
    assert (kept_under(other) != kept_under(base)) == (ANSWERS in changes)
    assert (asked_of(other) != asked_of(base)) == (QUESTIONS in changes)
    assert (Cell(other).fingerprint != Cell(base).fingerprint) == (NOTHING not in changes)


def test_what_the_model_takes_beyond_a_run_changes_no_answer_unseen(folder: Path) -> None:
    """The arguments of `--model_args`: options of a run, or named here."""
    beyond = {option.name for option in fields(ModelArguments)} - {option.name for option in fields(RunConfig)}
    assert beyond == {"lr", "max_batch_size"}
    base, own = RunConfig(model=str(folder)), str(folder)
    assert LTM(own, lr=0.2).settings != kept_under(base)
    assert LTM(own, max_batch_size=2).settings == kept_under(base)


@pytest.mark.parametrize("name", [option.name for option in fields(FitConfig)])
def test_answers_are_kept_under_every_option_of_the_fit(name: str, folder: Path) -> None:
    lm = LTM(str(folder))
    before = lm.settings
    value = getattr(lm.fit_config, name)
    others = {"noise": "antithetic", "adaptive": True, "draws": 4, "preset": "other", "optimizer": "natural"}
    changed = {"draws": 2, name: others.get(name, value + 1 if isinstance(value, int) else 0.5)}
    lm.fit_config = replace(lm.fit_config, **changed)
    assert lm.settings["fit"][name] == changed[name] != before["fit"][name]
