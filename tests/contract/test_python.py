"""The doors beside the command: Python's names, lm-eval's registry, environment variables, task definitions."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import ltm_eval
from tests.contract.commands import TASKS, json_of, lines_of, only
from tests.contract.reference import check

if TYPE_CHECKING:
    from tests.contract.commands import Commands

HERE = Path(__file__)


def test_no_file_of_this_folder_knows_a_module_of_the_package() -> None:
    """`import ltm_eval` here, for its public names, is the one exception."""
    names = []
    for path in HERE.parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            names += [(path.name, name) for name in found if name.split(".")[0] in ("ltm_eval", "tests")]
    ours = {name for name in names if not name[1].startswith("tests.contract.")}
    assert ours == {(HERE.name, "ltm_eval")}


def test_public_names() -> None:
    assert {"__version__", "evaluate", "fit", "load"} <= set(ltm_eval.__all__)
    for name in ltm_eval.__all__:
        assert getattr(ltm_eval, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        ltm_eval.nothing  # noqa: B018


def test_entry_points(root: Path) -> None:
    """As pyproject.toml declares them; the class that lm-eval gets is one of its models."""
    from lm_eval.api.model import LM

    toml = (root / "pyproject.toml").read_text("utf-8")
    (model,) = re.findall(r'entry-points\."lm_eval\.models"\]\nltm = "([\w.:]+)"', toml)
    (script,) = re.findall(r'\nltm-eval = "([\w.:]+)"', toml)
    module, _, name = model.partition(":")
    assert issubclass(getattr(importlib.import_module(module), name), LM)
    module, _, name = script.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert "ltm" in importlib.metadata.entry_points(group="lm_eval.models").names
    assert "ltm-eval" in importlib.metadata.entry_points(group="console_scripts").names


def test_load_fit_evaluate(pair: Path) -> None:
    """The live model has the command's figures, bit for bit."""
    import torch

    model = ltm_eval.load("demo")
    tokens = torch.arange(40, 72)[None]  # (B, T)
    posterior = ltm_eval.fit(model, tokens[:, :-1], tokens[:, 1:], preset="bound", t_fast=2, seed=3)
    assert posterior.mu.shape == posterior.log_var.shape == (1, 3, 1, 128)
    with torch.no_grad():
        assert model(tokens, posterior.mu).shape == (1, 32, 4001)
    check("posterior", {"mu": posterior.mu.flatten()[:8].tolist(), "log_var": posterior.log_var.sum().item()})
    options: dict[str, Any] = {"limit": 2, "t_fast": 2, "rows": "bound", "condition": "demos", "fit_window": "each"}
    results = ltm_eval.evaluate("demo", tasks=["wikitext"], shots=2, data="sample", **options)
    expected = json_of(only(pair / "demo", "results_*.json"))["results"]["ltm_wikitext"]
    found = results["results"]["ltm_wikitext"]
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == value, name
    assert len(results["samples"]["ltm_wikitext"]) == 2


def test_errors_are_typed() -> None:
    with pytest.raises(Exception, match="absent") as caught:
        ltm_eval.load("absent.pt")
    assert "LtmEvalError" in [one.__name__ for one in type(caught.value).__mro__]


def test_lm_eval_knows_the_model_and_the_tasks(cli: Commands, pair: Path, tmp_path: Path) -> None:
    """`lm_eval --model ltm …`, lm-eval's own command, gives the figures of `run`."""
    command = "--model ltm --num_fewshot 2 --limit 2 --seed 1234 --log_samples --batch_size 3 --tasks"
    words = [*command.split(), ",".join(TASKS)]
    words += ["--model_args", "pretrained=demo,t_fast=2,rows=bound,condition=demos,fit_window=each"]
    words += ["--metadata", '{"data":"sample"}', "--gen_kwargs", "max_gen_toks=40", "--output_path"]
    cli.done(*words, tmp_path, module="lm_eval")
    found = json_of(only(tmp_path, "*/results_*.json"))
    expected = json_of(only(pair / "demo", "results_*.json"))
    for task in TASKS:
        assert found["results"][task] == expected["results"][task]
        ours, theirs = (lines_of(only(place, f"**/samples_{task}_*")) for place in (tmp_path, pair / "demo"))
        names = ("doc_id", "prompt_hash", "resps", "filtered_resps", "filter", "arguments")
        assert [[one[name] for name in names] for one in ours] == [[one[name] for name in names] for one in theirs]


def test_lm_evals_command_names_a_wrong_argument_in_one_line(cli: Commands) -> None:
    ended = cli.run("--model ltm --model_args pretrained=demo,t_fsat=2 --tasks ltm_rules", module="lm_eval")
    assert ended.code == 2 and "Traceback" not in ended.err
    assert "error[2]" in ended.err and "'t_fast'" in ended.err


def test_options_by_environment(cli: Commands, root: Path, tmp_path: Path) -> None:
    """LTM_EVAL_<OPTION>, LTM_EVAL_DATA_DIR; the command line wins."""
    env = {"LTM_EVAL_TASK": "rules", "LTM_EVAL_LIMIT": "1", "LTM_EVAL_T_FAST": "1", "LTM_EVAL_SEED": "7"}
    env |= {"LTM_EVAL_NUM_FEWSHOT": "1", "LTM_EVAL_GEN_KWARGS": "max_gen_toks=2", "LTM_EVAL_OUTPUT_PATH": str(tmp_path)}
    cli.done("run", "--seed", "8", "-q", "--no_report", env=env)
    results = json_of(only(tmp_path, "demo/results_*.json"))
    settings = results["ltm_eval"]["settings"]
    expected = {"limit": 1, "t_fast": 1, "seed": 8, "num_fewshot": 1, "output_path": str(tmp_path)}
    assert {name: settings[name] for name in expected} == expected and list(results["results"]) == ["ltm_rules"]
    ended = cli.run("run", "--model", "demo", env={"LTM_EVAL_DATA_DIR": str(tmp_path / "nowhere")})
    assert ended.code == 3 and "nowhere" in ended.error
    ended = cli.run("run", env={"LTM_EVAL_T_FAST": "-1"})
    assert ended.code == 2 and "t_fast" in ended.error
    assert "Traceback" in cli.run("run", "--task", "gsm9k", env={"LTM_EVAL_DEBUG": "1"}).err


class Anything(yaml.SafeLoader):
    """Reads YAML of lm-eval's, its `!function` as a word: where a function lies is the package's own affair."""


Anything.add_constructor("!function", lambda loader, node: "a function")


def definition_in(path: Path) -> dict[str, Any]:
    """Return a task's definition as lm-eval reads it: what it includes, then its own."""
    own = yaml.load(path.read_text("utf-8"), Anything)  # noqa: S506 - a SafeLoader
    return {**(definition_in(path.parent / own["include"]) if "include" in own else {}), **own}


def test_task_definitions(cli: Commands) -> None:
    folder = Path(cli.done("ls", "--path").out.strip())
    definitions = {}
    for path in sorted(folder.rglob("*.yaml")):
        definition = definition_in(path)
        name = definition.get("task")
        if isinstance(name, str):
            words = {key: value for key, value in definition.items() if value != "a function"}
            definitions[name] = words
    check("tasks", definitions)
    listed = cli.done("ls").out
    for name in definitions:
        assert re.search(rf"^  {name} ", listed, re.MULTILINE), name
    for name in ("prompt", "demos", "demos+prompt", "shuffled", "other", "prior", "released", "published", "bound"):
        assert re.search(rf"^  {re.escape(name)} ", listed, re.MULTILINE), name
