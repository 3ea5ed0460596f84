"""The benchmark that tunes the preset `bound`: what it measures, what it writes."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_eval.inference.bounds import fresh_draws
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.model.checkpoint import load_with_tokenizer
from ltm_eval.system.errors import UsageError
from tests.tiny import tiny_folder

if TYPE_CHECKING:
    from types import ModuleType

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "bound_preset.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bound_preset", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bound_preset"] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, content in {
        "ptb/ptb.valid.txt": "".join(f" a sentence of number {i} \n" for i in range(30)),
        "lambada/lambada_test.jsonl": "".join(json.dumps({"text": f"passage {i} ends here"}) + "\n" for i in range(30)),
    }.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def test_table_and_figure_of_two_sets(
    benchmark: ModuleType,
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = (("fresh", 1), ("antithetic", 2))
    settings = tuple(benchmark.Setting(0.0, 0.1, "cosine", noise, draws) for noise, draws in kinds)
    monkeypatch.setitem(benchmark.GRIDS, "small", lambda: benchmark.Grid(settings, (2, 4)))
    output = tmp_path / "out"
    command = f"--models {checkpoint} --sets ptb,lambada --data {data} --texts 3 --tokens 20 --output {output}"
    benchmark.main(command.split())
    rows = list(csv.DictReader((output / "bound_preset.csv").read_text(encoding="utf-8").splitlines()))
    # per set: fresh after 2 and 4 steps; pairs after 1, 2 and 4, so that 2 and 4 evaluations are there
    assert [(row["noise"], row["t_fast"], row["evaluations"]) for row in rows if row["texts"] == "ptb"] == [
        ("fresh", "2", "2"),
        ("fresh", "4", "4"),
        ("antithetic", "1", "2"),
        ("antithetic", "2", "4"),
        ("antithetic", "4", "8"),
    ]
    assert len(rows) == 10
    assert (output / "bound_preset.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "### tiny, lambada: bound, nats per token" in printed
    assert "mean regret over 2 cases at equal evaluations" in printed

    model, tokenizer = load_with_tokenizer(str(checkpoint))
    options = benchmark.options_of(command.split())
    documents = benchmark.set_documents("ptb", tokenizer, options)
    assert [len(document.windows[0].targets) for document in documents] == [20, 20, 20]
    assert tokenizer.decode(documents[1].windows[0].targets).lstrip().startswith("a sentence of")
    config = fit_config("bound", t_fast=2, noise="antithetic", draws=2)
    posterior = fit_documents(model, documents, config, seed=benchmark.SEED)
    bound = sum(one.bound.nats for one in fresh_draws(model, documents, posterior, seed=benchmark.SEED)) / 60
    assert float(rows[3]["bound_nats_per_token"]) == pytest.approx(float(bound), rel=1e-4)


def test_regret_is_the_distance_from_the_best_at_the_same_count(benchmark: ModuleType) -> None:
    one, pair = (benchmark.Setting(0.0, 0.1, "cosine", *kind) for kind in (("fresh", 1), ("fresh", 2)))

    def measurement(setting: object, t_fast: int, draws: int, nats: float, case: str = "a") -> object:
        return benchmark.Measurement(case, "x", *setting, t_fast, t_fast * draws, nats, 0.0, 0.0)  # type: ignore[misc]

    found = [measurement(one, 4, 1, 3.0), measurement(pair, 4, 2, 2.5), measurement(pair, 2, 2, 3.25)]
    found += [measurement(one, 4, 1, 1.0, "b"), measurement(pair, 4, 2, 1.5, "b"), measurement(pair, 2, 2, 1.75, "b")]
    assert benchmark.regrets(found, [4], by="t_fast") == {one: [0.25], pair: [0.25]}
    assert benchmark.regrets(found, [4], by="evaluations") == {one: [0.0], pair: [0.5]}
    assert benchmark.regrets(found, [4, 16], by="evaluations") == {}


def test_grids_hold_the_preset_and_every_kind_of_noise(benchmark: ModuleType) -> None:
    preset = fit_config("bound", t_fast=8)
    for make in benchmark.GRIDS.values():
        grid = make()
        assert preset in [setting.config(8) for setting in grid.settings]
        assert {(s.noise, s.draws) for s in grid.settings} >= {("fresh", 1), ("fresh", 2), ("antithetic", 2)}
        assert len(set(grid.settings)) == len(grid.settings)


def test_what_cannot_be_measured_is_named(benchmark: ModuleType, checkpoint: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="no texts of its own"):
        benchmark.main(["--models", str(checkpoint)])
    with pytest.raises(UsageError, match="ptb has no 9000 tokens at its place 1"):
        benchmark.main(["--models", str(checkpoint), "--sets", "ptb", "--data", str(data), "--tokens", "9000"])
