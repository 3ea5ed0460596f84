"""Changes to a fit preset: from the command, from model_args, refused in one line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ltm_eval.cli import main
from ltm_eval.harness.ltm import LTM
from ltm_eval.harness.options import RunConfig
from ltm_eval.inference.options import FIT_EXAMPLE, PRESETS, fit_changes, fit_config
from ltm_eval.system.errors import UsageError
from tests.tiny import tiny_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_changes_reach_the_fit(tmp_path: Path) -> None:
    folder = str(tiny_folder(tmp_path / "model"))
    changed = LTM(folder, device="cpu", fit=FIT_EXAMPLE).fit_config
    assert (changed.noise, changed.draws, changed.lr) == ("antithetic", 2, PRESETS["bound"].lr)
    assert LTM(folder, device="cpu", fit={"log_var_start": -2, "lr": 0.3}).fit_config.log_var_start == -2
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
def test_what_cannot_be_used_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RunConfig(fit=text)


def test_a_rate_is_named_in_one_place() -> None:
    with pytest.raises(UsageError, match="lr is named twice"):
        LTM("demo", device="cpu", lr=0.1, fit={"lr": 0.2})


def test_the_command_says_what_was_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tiny_folder(tmp_path / "model"))
    argv = ["run", "--model", folder, "--data", "sample", "--task", "rules", "--limit", "2", "--shots", "1"]
    argv += [
        "--t_fast",
        "1",
        "--gen_kwargs",
        "max_gen_toks=2",
        "--fit",
        FIT_EXAMPLE,
        "--output_path",
        str(tmp_path / "out"),
    ]
    assert main(argv) == 0
    (file,) = (tmp_path / "out").rglob("results_*.json")
    told = json.loads(file.read_text("utf-8"))
    assert told["config"]["fit"]["noise"] == "antithetic"
    assert any("changed" in line and "antithetic" in line for line in told["ltm_eval"]["warnings"])
    assert main([*argv[:-4], "--fit", "{", "--output_path", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.count("error[2]") == 1
