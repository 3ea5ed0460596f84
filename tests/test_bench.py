from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_eval.cli import main
from ltm_eval.inference import bench
from ltm_eval.inference.bench import SIZES, Bench, BenchConfig, necessary_flops
from tests.tiny import TINY

if TYPE_CHECKING:
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
        ("ours", "float32"),
        ("naive", "bfloat16"),
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


# The interface of the released code, over our own decoder.
MODEL = """
from dataclasses import dataclass
from typing import Optional
import torch
from torch.nn import functional as F
from liger_module import LigerRMSNorm
from ltm_eval.model.config import ModelConfig
from ltm_eval.model.decoder import LatentThoughtModel as Decoder

@dataclass
class LTMConfig:
    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: Optional[int] = None
    vocab_size: int = 32000
    hidden_dim: Optional[int] = None
    multiple_of: int = 256
    norm_eps: float = 1e-5
    max_seq_len: int = 1024
    window_size: int = 256
    use_liger: bool = True
    max_z_len: int = 32
    use_z_pos_emb: bool = True

class RMSNorm(torch.nn.Module):
    pass

class LatentThoughtModel(torch.nn.Module):
    def __init__(self, params):
        super().__init__()
        assert not params.use_liger and LigerRMSNorm is RMSNorm
        sizes = {name: value for name, value in vars(params).items() if name != "use_liger"}
        self.decoder = Decoder(ModelConfig(**sizes))

    def load_state_dict(self, state):
        tied = state.pop("output.weight")
        assert torch.equal(tied, state["tok_embeddings.weight"])
        self.decoder.load_state_dict(state)

    def elbo(self, tokens, mu, log_var, eps, targets, h=None, eval_mode=False):
        z = (mu + eps * torch.exp(0.5 * log_var)).view(len(tokens), *self.decoder.config.latent_shape)
        logits = self.decoder(tokens, z)
        nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return nll + 0.5 * mu.square().sum(), None, None, None, None
"""
OPTIMIZER = """
import torch
STEPS = []

class PosteriorOptimizer:
    def __init__(self, model, inference_method="adam", **kwargs):
        self.model, self.kwargs = model, kwargs
        print("Optimizer kwargs", kwargs)

    def step(self, data, ctx, scaler=None, steps=None, seed=None, lr=None):
        tokens, targets, _ = data
        mu = torch.zeros(len(tokens), self.kwargs["max_z_len"], self.kwargs["z_dim"], requires_grad=True)
        log_var = torch.zeros_like(mu) - 5.0
        for step in range(steps):
            with ctx:
                loss = self.model.elbo(tokens, mu, log_var, torch.randn_like(mu), targets, eval_mode=True)[0]
            loss.backward()
            STEPS.append(tokens.shape)
        with ctx:
            self.model.elbo(tokens, mu, log_var, torch.randn_like(mu), targets, eval_mode=True)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the released code's interface."""
    (tmp_path / "model.py").write_text(MODEL, "utf-8")
    (tmp_path / "optimizer.py").write_text(OPTIMIZER, "utf-8")
    return tmp_path


def test_released_code_takes_single_steps_on_the_same_documents(small: ModelConfig, checkout: Path) -> None:
    rows = Bench(BenchConfig(tokens=48, batch=3, rounds=2, released=str(checkout), dtype="float32")).table()
    assert [(row.way, row.dtype) for row in rows] == [(way, "float32") for way in ("naive", "released", "ours")]
    assert all(row.released_ratio == pytest.approx(rows[1].seconds / row.seconds) for row in rows)
    taken = sys.modules["released_optimizer"].STEPS
    assert taken == [(3, 48)] * 4  # one to see that it runs, one untimed, two timed
    assert "liger_module" not in sys.modules


def test_the_command_prints_the_released_row(
    small: ModelConfig, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"bench --tokens 32 --batch 2 --rounds 1 --device cpu --released {checkout}"
    assert main(command.split()) == 0
    out = capsys.readouterr().out
    assert "Optimizer kwargs" not in out and "than released" in out
    assert re.search(r"\| released \| bfloat16 \| [0-9.]+ \| [0-9.]+ \| 1.00 \|", out)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.py", None, "no model.py"),
        ("optimizer.py", None, "no optimizer.py"),
        ("model.py", "import a_package_that_nobody_has", "ModuleNotFoundError"),
        ("optimizer.py", "class PosteriorOptimizer: pass", "TypeError"),
        ("model.py", "raise SystemExit(0)", "SystemExit"),
    ],
)
def test_what_is_no_checkout_is_named(
    file: str,
    content: str | None,
    words: str,
    small: ModelConfig,
    checkout: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is None:
        (checkout / file).unlink()
    else:
        (checkout / file).write_text(content, "utf-8")
    assert main(["bench", "--tokens", "16", "--rounds", "1", "--device", "cpu", "--released", str(checkout)]) == 3
    told = capsys.readouterr().err
    assert words in told and "checkout of github mingluzhao/Latent-Thought-LM" in told


@pytest.mark.skipif(
    "LTM_EVAL_TEST_RELEASED_DIR" not in os.environ, reason="LTM_EVAL_TEST_RELEASED_DIR names no checkout"
)
def test_the_released_code_itself(small: ModelConfig, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.environ["LTM_EVAL_TEST_RELEASED_DIR"]
    assert main(["bench", "--tokens", "64", "--rounds", "1", "--device", "cpu", "--released", folder]) == 0
    assert "| released | float32 |" in capsys.readouterr().out


def test_a_busy_machine_is_said(
    small: ModelConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "--tokens", "16", "--rounds", "1", "--device", "cpu", "--dtype", "float32"]
    for used, said in ((1.5, True), (0.02, False), (None, False)):
        monkeypatch.setattr(bench.Load, "others", lambda _, used=used: used)
        assert main(command) == 0
        assert ("busy machine: other processes used 1.5 of" in capsys.readouterr().out) == said


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the load is read from /proc")
def test_load_is_that_of_other_processes() -> None:
    spin = "import time; end = time.monotonic() + 3\nwhile time.monotonic() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", spin])
    load = bench.Load()
    other.wait()
    assert (load.others() or 0) > 0.2


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--size", "XL", "size must be"),
        ("--tokens", "4000", "1 to"),
        ("--dtype", "float16", "float32, bfloat16 or both"),
        ("--batch", "0", "at least 1"),
    ],
)
def test_wrong_options_are_named(option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", option, value]) == 2
    assert words in capsys.readouterr().err
