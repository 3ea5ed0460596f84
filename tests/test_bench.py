from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ltm_eval.cli import main
from ltm_eval.inference.bench import SIZES, Bench, BenchConfig, necessary_flops
from tests.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.model.config import ModelConfig


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A size that is timed in no time."""
    sizes = replace(TINY, vocab_size=512, max_z_len=4)
    monkeypatch.setitem(SIZES, "S", sizes)
    return sizes


def test_necessary_arithmetic_of_the_published_size() -> None:
    """LTM-S, 1,024 tokens: 4 FLOPs for each of 38.37 M parameters, less norms, latents' keys and values and layer 0's
    self-attention: 38.37 M - 1.57 M (keys and values of 3 layers) - 1.05 M - 0.01 M = 35.74 M.
    """
    assert necessary_flops(SIZES["S"], 1024) == pytest.approx(4 * 1024 * 35.74e6, rel=1e-3)


def test_table_has_every_way_and_ratios_of_its_own_times(small: ModelConfig) -> None:
    rows = Bench(BenchConfig(tokens=64, rounds=1, cpu_time=True)).table()
    assert [(row.way, row.dtype) for row in rows] == [
        ("naive", "float32"),
        ("naive", "bfloat16"),
        ("ours", "float32"),
        ("ours", "bfloat16"),
    ]
    plain = {row.dtype: row.seconds for row in rows if row.way == "naive"}
    assert all(row.ratio == pytest.approx(plain[row.dtype] / row.seconds) and row.ceiling_share > 0 for row in rows)


MEASURE = """
from dataclasses import replace
from ltm_eval.inference.bench import SIZES, BenchConfig, peak_bytes
SIZES["S"] = replace(SIZES["demo"], n_layers=2, max_z_len=8)
print(peak_bytes(BenchConfig(tokens=512, rounds=1), (2, 12)))
"""


def test_memory_of_a_fit_does_not_grow_with_its_steps(root: Path) -> None:
    """Sizes at which a leak of one step's activations (4 MB) would show; in a process whose heap has no holes yet."""
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=root, capture_output=True, text=True, check=True)
    peaks = json.loads(done.stdout.replace("None", "null"))
    if peaks is None:
        pytest.skip("this system does not tell a process's peak")
    assert peaks[0] > 0 and peaks[1] < peaks[0] + 8e6


def test_growth_is_measured_and_drawn(
    small: ModelConfig, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(root / "benchmarks" / "growth.py"))
    script["main"](["--tokens", "64", "--rounds", "1", "--cpu_time", "--device", "cpu", "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert "matrix products | attention | rest" in out
    assert re.findall(r"^\| (\w+) \| [0-9, ]+ \|", out, re.MULTILINE) == [
        "t_fast",
        "length",
        "layers",
        "batch",
        "vocabulary",
    ]
    assert "exponent" in (tmp_path / "growth.svg").read_text()
    assert script["Curve"]("length", (10, 20, 40), (3.0, 12.0, 48.0)).exponent == pytest.approx(2)
    assert main(["bench", "--growth", str(tmp_path)]) == 2
    assert "benchmarks/growth.py" in capsys.readouterr().err


def test_the_command_prints_ceilings_and_table(small: ModelConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--tokens", "48", "--rounds", "1", "--device", "cpu", "--memory"]) == 0
    out = capsys.readouterr().out
    assert "ceiling, GFLOP/s" in out and "times faster than naive" in out and "peak memory" in out
    assert re.search(r"\| ours \| bfloat16 \| [0-9.]+ \| [0-9.]+ \| [0-9]+ % \|", out)


@pytest.mark.parametrize(("option", "value", "words"), [("--size", "XL", "size must be"), ("--tokens", "4000", "1 to")])
def test_wrong_options_are_named(option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", option, value]) == 2
    assert words in capsys.readouterr().err
