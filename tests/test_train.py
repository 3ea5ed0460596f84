"""Training: gradients against autograd, the same bits after SIGKILL, the same run on several processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from make_training_data import episode_line
from problems import generate, jsonl
from torch.nn import functional as F

import ltm_eval
from ltm_eval.cli import main
from ltm_eval.model.elbo import IGNORED
from ltm_eval.system.errors import CheckpointError, RefusedError
from ltm_eval.system.machine import COMPUTE_FILE
from ltm_eval.training.learners import LatentLearner, _Noise, joined_rows, training_flops
from ltm_eval.training.packing import prepare
from ltm_eval.training.recipe import Recipe, read_recipe
from ltm_eval.training.train import CHECKPOINTS, FINAL, LOG_FILE, STATE_FILE, slow_rate, train
from tests.gang import Gang

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECIPE = """
model: {dim: 16, n_layers: 2, n_heads: 2, n_kv_heads: 2, multiple_of: 8, max_seq_len: 64, window_size: 16, max_z_len: 2}
ranks: 270
steps: 12
coded_steps: 5
t_fast: 2
warm_up: 2
save_every: 1
validate_every: 0
validation_t_fast: 2
sources:
  - {name: rules, kind: rules, weight: 2, length: 48, batch: 3, rows: 3, files: [rules.jsonl], validation: 3}
  - {name: problems, kind: problems, weight: 1, length: 64, batch: 2, files: [problems.jsonl], validation: 2}
"""
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 160}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sources' files."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "rules.jsonl").write_text("".join(episode_line(2_026, number, 3) for number in range(24)), "utf-8")
    (folder / "problems.jsonl").write_text(jsonl(generate(30, seed=2_026, split="train")), "utf-8")
    return folder


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE, "utf-8")
    return path


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return read_recipe(recipe_file)


@pytest.fixture(scope="module")
def whole(data: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(recipe, folder, data=data, device="cpu")
    return folder


def arguments(recipe: Path, data: Path, output: Path) -> list[str]:
    return f"train --config {recipe} --data {data} --output {output} --device cpu".split()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / STATE_FILE, weights_only=True)["model"]
    return state


def assert_same_weights(one: Path, other: Path) -> None:
    for name, weight in weights(one).items():
        assert torch.equal(weight, weights(other)[name]), name


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_gradient_is_that_of_the_mean_over_scored_tokens(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Against plain autograd on float64 logits, z from the same stream (arXiv:2502.01567 algorithm 1, slow step)."""
    tokenizer, packed = prepare(recipe, data=data, folder=tmp_path)
    coded = replace(recipe, coded_steps=10**6, code_norm_start=0.0, code_norm=0.0, code_noise_start=1.0)
    learner = LatentLearner(coded, tokenizer, torch.device("cpu"))
    batch = packed["rules"].documents(np.arange(3))
    learner.backward(batch, 0, ["0/0", "0/1", "0/2"], batch.scored)
    found = {name: weight.grad.clone() for name, weight in learner.module.named_parameters() if weight.grad is not None}

    from ltm_eval.inference.windows import generator, standard_normal

    z = torch.stack(
        [standard_normal(generator(coded.seed, "train", f"0/0/{i}".encode()), (2, 1, 16)) for i in range(3)]
    )
    model = learner.model
    model.zero_grad()
    model.requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for document in range(3):
        for row in range(3):
            logits = model(batch.tokens[document, row : row + 1], z[document : document + 1])[0].double()
            total = total + F.cross_entropy(logits, batch.targets[document, row], ignore_index=IGNORED, reduction="sum")
    (total / batch.scored).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert (found[name] - weight.grad).norm() <= 1e-5 * weight.grad.norm() + 1e-9, name


def test_fast_steps_lower_the_objective_of_a_trained_decoder(whole: Path, recipe: Recipe) -> None:
    """The run itself fits: its KL is positive once z is no longer given."""
    logged = rows_of(whole / LOG_FILE)
    assert [int(row["step"]) for row in logged] == list(range(1, 13))
    given, fitted = logged[: recipe.coded_steps], logged[recipe.coded_steps :]
    assert all(float(row["kl_nats_per_token"]) == 0 for row in given)
    assert all(float(row["kl_nats_per_token"]) > 0 for row in fitted)


def test_training_learns(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    train(
        replace(recipe, steps=60, coded_steps=50, lr=2e-2, lr_final=1e-2, save_every=60),
        tmp_path,
        data=data,
        device="cpu",
    )
    losses = [float(row["nll_nats_per_token"]) for row in rows_of(tmp_path / LOG_FILE) if row["source"] == "rules"]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


def test_what_a_run_leaves(whole: Path, recipe: Recipe) -> None:
    model = ltm_eval.load(whole / FINAL)
    assert model.info.step == recipe.steps
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights(whole)[name].half().float()), name
    validated = rows_of(whole / "validation.csv")
    assert {(row["source"], row["row"]) for row in validated} == {
        (source, row) for source in ("rules", "problems") for row in ("bound_2", "kl", "prior")
    }
    assert (whole / "loss.png").stat().st_size > 1_000
    assert not list(whole.glob("*.part"))


def checkpoint_folders(run: Path) -> list[Path]:
    return sorted((run / CHECKPOINTS).iterdir(), key=lambda one: int(one.name.removeprefix("step")))


def test_intermediate_checkpoints_are_models_that_say_what_they_cost(whole: Path, recipe: Recipe) -> None:
    assert recipe.checkpoints == 3 and recipe.checkpoint_steps == {3, 6, 9}
    logged = {int(row["step"]): row for row in rows_of(whole / LOG_FILE)}
    folders = [*checkpoint_folders(whole), whole / FINAL]
    assert [folder.name for folder in folders] == ["step3", "step6", "step9", FINAL]
    digests = set()
    for folder in folders:
        info = ltm_eval.load(folder).info
        assert info.step is not None and info.training is not None and info.training["step"] == info.step
        row = logged[info.step]
        assert info.training["tokens"] == int(row["tokens"]) and f"{info.training['flops']:.6g}" == row["flops"]
        assert "arXiv:2502.01567" in info.training["formula"]
        digests.add(info.weights_sha256)
    assert len(digests) == 4


def test_checkpoints_are_evaluated_and_drawn_against_tokens(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of a run, its checkpoints evaluated, and the figures of `history` read back."""
    expected = {}
    for folder in (checkpoint_folders(whole)[0], whole / FINAL):
        told = json.loads((folder / COMPUTE_FILE).read_text("utf-8"))
        expected[told["tokens"]] = told
        asked = f"run --model {folder} --task lambada --data sample --limit 2 --t_fast 1 --rows bound --no-report"
        protocol = ["--metadata", '{"protocol": "documents"}']
        assert main([*asked.split(), *protocol, "--device", "cpu", "-o", str(tmp_path / "results")]) == 0
    capsys.readouterr()
    for x in ("step", "tokens", "flops"):
        assert main(["history", str(tmp_path / "results"), "--x", x, "--format", "json"]) == 0
        points = json.loads(capsys.readouterr().out)["points"]
        bits = [point for point in points if point["metric"] == "bound, bits per byte"]
        assert [point[x] for point in bits] == [told[x] for told in expected.values()]
        assert len({point["training_run"] for point in bits}) == 1
    assert main(["history", str(tmp_path / "results"), "--x", "flops", "-o", str(tmp_path / "f.html")]) == 0
    page = (tmp_path / "f.html").read_text("utf-8")
    assert "training FLOPs" in page and "<svg" in page and "12 A for a token of a slow step" in page
    capsys.readouterr()
    assert main(["history", str(tmp_path / "results"), "--x", "steps"]) == 2
    assert "--x must be one of step, tokens, flops, t_fast, n_z, parameters" in capsys.readouterr().err


def test_a_run_killed_between_checkpoint_and_state_goes_on(
    data: Path, recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    """The checkpoint of a step stands before its state; the resumed run writes the same one again."""
    seldom = replace(recipe, save_every=100)

    class Cut(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:

        def fail(*_: object) -> None:
            raise Cut

        patch.setattr("ltm_eval.training.train.Trainer._validate", fail)
        with pytest.raises(Cut):
            train(replace(seldom, validate_every=5), tmp_path, data=data, device="cpu")
    assert [one.name for one in checkpoint_folders(tmp_path)] == ["step3"] and not (tmp_path / STATE_FILE).exists()
    train(seldom, tmp_path, data=data, device="cpu")
    assert_same_weights(whole, tmp_path)
    for here, there in zip(checkpoint_folders(tmp_path), checkpoint_folders(whole), strict=True):
        assert (here / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
        assert (here / COMPUTE_FILE).read_bytes() == (there / COMPUTE_FILE).read_bytes()


def test_the_number_of_checkpoints_may_change(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    assert replace(recipe, checkpoints=0).digest == recipe.digest
    train(replace(recipe, steps=2, checkpoints=0), tmp_path, data=data, device="cpu")
    assert not (tmp_path / CHECKPOINTS).exists()
    assert replace(recipe, steps=2, checkpoints=50).checkpoint_steps == {1}


def test_the_same_recipe_gives_the_same_bits(data: Path, whole: Path, recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, data=data, device="cpu")
    assert_same_weights(whole, tmp_path)


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    with Gang() as gang:
        yield gang


@pytest.mark.parametrize("place", ["results.write:3500", "results.replace:5", "results.replaced:8"])
def test_a_killed_run_resumes_to_the_same_bits(
    gang: Gang, data: Path, whole: Path, recipe_file: Path, tmp_path: Path, place: str
) -> None:
    """SIGKILL while the sixth state is written, and before and after one takes its name; then the same command."""
    command = arguments(recipe_file, data, tmp_path)
    killed = gang.start(1, "tests.gang:command", command, fails=f"{place}:kill")
    assert killed.wait() == [-signal.SIGKILL], killed.err(0)
    assert 0 < torch.load(tmp_path / STATE_FILE, weights_only=True)["step"] < 12
    train(read_recipe(recipe_file), tmp_path, data=data, device="cpu")
    assert_same_weights(whole, tmp_path)
    assert [row["step"] for row in rows_of(tmp_path / LOG_FILE)] == [str(step) for step in range(1, 13)]
    timed = {"seconds"}
    plain = [
        [{k: v for k, v in row.items() if k not in timed} for row in rows_of(f / LOG_FILE)] for f in (whole, tmp_path)
    ]
    assert plain[0] == plain[1]


@pytest.mark.slow
def test_two_processes_train_as_one(data: Path, whole: Path, recipe_file: Path, tmp_path: Path) -> None:
    """Gradients are summed over processes; only the order of the sums differs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ltm_eval"]
    command += arguments(recipe_file, data, tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    for name, weight in weights(whole).items():
        assert (weight - weights(tmp_path)[name]).norm() <= 2e-3 * weight.norm(), name
    logged, alone = rows_of(tmp_path / LOG_FILE), rows_of(whole / LOG_FILE)
    assert [row["tokens"] for row in logged] == [row["tokens"] for row in alone]
    for here, there in zip(logged, alone, strict=True):
        assert float(here["nll_nats_per_token"]) == pytest.approx(float(there["nll_nats_per_token"]), rel=1e-3)


def test_gpt2_trains_on_the_same_batches(data: Path, recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    baseline = replace(recipe, architecture="gpt2", model=GPT2)
    done = train(baseline, tmp_path, data=data, device="cpu")
    assert done.tokens == int(rows_of(whole / LOG_FILE)[-1]["tokens"])
    assert json.loads((done.final / COMPUTE_FILE).read_text("utf-8"))["flops"] == done.flops
    model = transformers.AutoModelForCausalLM.from_pretrained(done.final)
    tokenizer = transformers.AutoTokenizer.from_pretrained(done.final)
    assert model.dtype == torch.float32
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights(tmp_path)[name].half().float()), name
    ids = tokenizer("Question: The price of 3 cups?", return_tensors="pt").input_ids
    assert int(ids.max()) < model.config.vocab_size == tokenizer.eos_token_id + 1


def test_rows_of_an_episode_are_read_one_after_the_other() -> None:
    tokens = torch.tensor([[[9, 1, 2, 0], [9, 3, 4, 5]], [[9, 6, 0, 0], [9, 7, 8, 0]]])
    targets = torch.tensor([[[1, 2, -1, -1], [3, 4, 5, -1]], [[6, -1, -1, -1], [7, 8, -1, -1]]])
    joined, wanted = joined_rows(tokens, targets)
    assert joined.tolist() == [[9, 1, 2, 3, 4], [9, 6, 7, 0, 0]]
    assert wanted.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, -1, -1]]


def test_the_rate_warms_up_and_falls(recipe: Recipe) -> None:
    longer = replace(recipe, steps=100, warm_up=10, lr=1.0, lr_final=0.1)
    rates = [slow_rate(longer, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(rates[9], rel=1e-2)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False)) and rates[-1] == pytest.approx(
        0.1, abs=1e-3
    )


def test_operations_of_a_batch() -> None:
    """By hand: P 10, A 3, 7 tokens: (60 + 36) 7; two fast steps on 5 tokens: 2 (40 + 24) 5."""
    assert training_flops(10, attention=3, tokens=7, fast_steps=2, fitted_tokens=5) == 96 * 7 + 2 * 64 * 5


def test_another_recipe_is_refused(data: Path, whole: Path, recipe: Recipe) -> None:
    before = (whole / STATE_FILE).read_bytes()
    with pytest.raises(RefusedError, match="another recipe"):
        train(replace(recipe, lr=0.5), whole, data=data, device="cpu")
    assert (whole / STATE_FILE).read_bytes() == before


def test_a_damaged_state_is_named(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match="delete it to start over"):
        train(recipe, tmp_path, data=data, device="cpu")


@pytest.mark.parametrize("preset", ["released", "published"])
@pytest.mark.parametrize("latents", ["fresh", "fit", "mean"])
def test_every_kind_of_fast_loop_and_slow_step_runs(
    data: Path, recipe: Recipe, tmp_path: Path, preset: str, latents: str
) -> None:
    changed = replace(recipe, steps=2, coded_steps=0, preset=preset, slow_latents=latents)
    train(changed, tmp_path, data=data, device="cpu")
    assert len(rows_of(tmp_path / LOG_FILE)) == 2


def test_a_compiler_that_fails_changes_nothing(
    data: Path,
    recipe: Recipe,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = []

    def compile_nothing(function: object) -> object:
        def fail(*arguments: object) -> None:
            tried.append(arguments)
            raise RuntimeError("no compiler")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    train(replace(recipe, compile=True), tmp_path, data=data, device="cpu")
    assert len(tried) == 1 and "torch.compile failed (RuntimeError)" in caplog.text
    assert_same_weights(whole, tmp_path)


def test_released_slow_steps_take_the_noise_of_the_fit(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """z = mu + e sigma with the fit's own e: the slow step's nll is then the fit's last one."""
    tokenizer, packed = prepare(recipe, data=data, folder=tmp_path)
    changed = replace(recipe, coded_steps=0, preset="released", slow_latents="fit", t_fast=3)
    learner = LatentLearner(changed, tokenizer, torch.device("cpu"))
    batch = packed["problems"].documents(np.arange(2))
    noise = _Noise(changed.seed, [b"0/0/0", b"0/0/1"], learner.config, torch.device("cpu"))
    fitted = learner._fit(batch, 0, noise)
    nll, _ = learner.backward(batch, 0, ["0/0", "0/1"], batch.scored)
    assert nll == pytest.approx(float(fitted.trace.nll_nats[-1].sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--config", "absent.yaml", "--output", "x"], 3, "absent.yaml: cannot be read"),
        (["--output", "x"], 2, "--config"),
        (["--config", "absent.yaml", "--output", "x", "--steps", "0"], 2, "steps"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words]) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and error.count("\n") == 1


def test_the_command_ends_in_the_model(
    data: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(recipe_file, data, tmp_path), "--steps", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"model: {(tmp_path / FINAL).resolve()}"
