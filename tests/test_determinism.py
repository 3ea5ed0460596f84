"""Numbers depend on documents, settings and seed, and on nothing else: of D1 to D20 what no other test shows."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import run
from ltm_eval.inference import windows
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Window
from ltm_eval.system import files as paths
from tests.fault_makers import QUESTION, bomb, write_rows
from tests.fault_makers import Place as FaultPlace
from tests.tiny import tiny_folder, tiny_model

pytestmark = pytest.mark.faults

TASK, PPL = "ltm_gsm8k", "ltm_ptb"
HERE = Path(__file__).parent


def problem(n: int) -> dict[str, str]:
    return {"question": QUESTION.format(n=n), "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"}


@dataclass(frozen=True)
class Place:
    """A checkpoint, data, and where results go."""

    model: Path
    data: Path
    tmp: Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    data = tmp_path / "data"
    write_rows(data / "gsm8k" / "train.jsonl", [problem(n) for n in range(2, 8)])
    write_rows(data / "gsm8k" / "test.jsonl", [problem(n) for n in range(20, 26)])
    (data / "ptb").mkdir()
    (data / "ptb" / "ptb.valid.txt").write_text("one two three\nfour five six\nseven eight\n")
    return Place(tiny_folder(tmp_path / "tiny"), data, tmp_path)


def config(place: Place, name: str, **changes: Any) -> RunConfig:
    texts = {"protocol": "documents", "block_tokenizer": str(place.model / "tokenizer.tiktoken")}
    base = RunConfig(
        model=str(place.model),
        data=str(place.data),
        metadata=json.dumps(texts) if "ptb" in changes.get("tasks", ()) else None,
        num_fewshot=2,
        t_fast=2,
        rows="bound",
        gen_kwargs="max_gen_toks=6",
        output_path=str(place.tmp / name),
        report=False,
        quiet=True,
    )
    return replace(base, **changes)


def found(results: Path, task: str = TASK) -> tuple[list[str], list[dict[str, Any]], dict[str, Any]]:
    """Lines of the samples file, latents without times and places, beside them what tokens cost, figures."""
    date = results.stem.removeprefix("results_")
    samples = (results.parent / f"samples_{task}_{date}.jsonl").read_text("utf-8").splitlines()
    rows = (results.parent / f"latents_{task}_{date}.jsonl").read_text("utf-8").splitlines()
    latents = [{**json.loads(row), "fit_seconds": 0, "decode_seconds": 0} for row in rows]
    latents += [json.loads(row) for row in (results.parent / f"tokens_{task}_{date}.jsonl").read_text().splitlines()]
    order = sorted(latents, key=lambda row: (row["doc_id"], row["idx"], row["repeat"], "piece_nats" in row))
    return samples, order, json.loads(results.read_text("utf-8"))["results"][task]


def test_order_of_documents_and_copies_of_them(place: Place) -> None:
    """D2, D16: documents the other way round, one of them twice: every answer as before, copies alike."""
    whole = found(run(config(place, "a")).results[0])
    rows = [problem(n) for n in range(20, 26)]
    write_rows(place.data / "gsm8k" / "test.jsonl", [*reversed(rows), rows[2]])
    turned = found(run(config(place, "b")).results[0])

    def by_content(samples: list[str]) -> dict[tuple[str, str], set[str]]:
        answers: dict[tuple[str, str], set[str]] = {}
        for row in map(json.loads, samples):
            key = (row["doc_hash"], row["filter"])
            answers.setdefault(key, set()).add(json.dumps({**row, "doc_id": 0}, sort_keys=True))
        return answers

    assert by_content(whole[0]) == by_content(turned[0])
    assert all(len(answers) == 1 for answers in by_content(turned[0]).values())
    assert len(turned[0]) == len(whole[0]) + 2


def test_tasks_beside_one_another(place: Place) -> None:
    """D10: alone, and before or after another task."""
    alone = found(run(config(place, "a")).results[0])
    for name, tasks in (("b", ("gsm8k", "ptb")), ("c", ("ptb", "gsm8k"))):
        (results,) = run(config(place, name, tasks=tasks)).results
        assert found(results) == alone
        assert found(results, PPL)[2]["ppl_per_token_bound,none"] > 1


def test_one_document_alone(place: Place) -> None:
    """D3: the record of a document is that of the whole run when it is the only one."""
    whole = found(run(config(place, "a")).results[0])
    write_rows(place.data / "gsm8k" / "test.jsonl", [problem(20)])
    alone = found(run(config(place, "b")).results[0])
    assert alone[0] == [line for line in whole[0] if json.loads(line)["doc_id"] == 0]
    assert alone[1] == [row for row in whole[1] if row["doc_id"] == 0]


def test_another_process_machine_setting_and_place(place: Place) -> None:
    """D6, D17: hash seed, threads, time zone, locale, current folder, path of the checkpoint, another day."""
    here = found(run(config(place, "a")).results[0])
    moved = place.tmp / "elsewhere" / "other name"
    shutil.copytree(place.model, moved)
    there = replace(config(place, "b"), model=str(moved), output_path=str(place.tmp / "b"))
    code = (
        "import json, sys, time; from ltm_eval.harness.options import RunConfig; "
        "from ltm_eval.harness.run import run; "
        "time.time = lambda: 4e9; told = json.loads(sys.argv[1]); "
        "told |= {key: tuple(value) for key, value in told.items() if isinstance(value, list)}; "
        "print(run(RunConfig(**told)).results[0])"
    )
    told = json.dumps({name: getattr(there, name) for name in there.__dataclass_fields__})
    odd = {"PYTHONHASHSEED": "4", "OMP_NUM_THREADS": "2", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "HOME": str(place.tmp)}
    done = subprocess.run(
        [sys.executable, "-c", code, told],
        env={**os.environ, **odd, "PYTHONPATH": str(HERE.parent)},
        cwd=place.tmp,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    samples, latents, figures = found(Path(done.stdout.strip().splitlines()[-1]))
    assert (samples, figures) == (here[0], here[2])
    assert latents == here[1]


def test_figures_are_those_of_the_records(place: Place) -> None:
    """D15, D13: metrics made again from the samples; floats come back; another seed gives other numbers."""
    (results,) = run(config(place, "a", tasks=("gsm8k", "ptb"))).results
    for task, metric in ((TASK, "exact_match"), (PPL, "bits_per_byte_bound")):
        samples, latents, figures = found(results, task)
        rows = [json.loads(line) for line in samples]
        assert [json.loads(json.dumps(row)) for row in latents] == latents
        for filter_ in {row["filter"] for row in rows}:
            values = [row[metric] for row in rows if row["filter"] == filter_]
            if metric == "exact_match":
                assert figures[f"{metric},{filter_}"] == sum(values) / len(values)
            else:
                from ltm_eval.results.statistics import bits

                assert figures[f"{metric},{filter_}"] == bits([(nats, size) for nats, size in values])
    other = found(run(config(place, "b", tasks=("gsm8k", "ptb"), seed=5)).results[0], PPL)
    assert other[2]["ppl_per_token_bound,none"] != found(results, PPL)[2]["ppl_per_token_bound,none"]


def test_padding_costs_no_more_than_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """D8: padded to its bucket and not at all: at most 0.01 nats and 1e-5 of the objective apart."""
    model, fit = tiny_model(), fit_config("bound", t_fast=8)
    tokens = tuple(int(i) for i in torch.randint(0, 128, (41,), generator=torch.Generator().manual_seed(3)))
    document = Document((Window(tokens[:-1], tokens[1:]),))
    padded = fit_documents(model, [document], fit, seed=1)
    monkeypatch.setattr(windows, "padded_length", lambda tokens: tokens)
    bare = fit_documents(model, [document], fit, seed=1)
    gap = (padded.trace.objective_nats - bare.trace.objective_nats).abs().max()
    assert float(gap) <= 0.01
    assert float(gap / bare.trace.objective_nats.abs().max()) <= 1e-5


BOMBS = ("deflate", "size lie", "stride", "shared", "many entries")
CHILD = r"""
import json, re, sys
from ltm_eval.model.checkpoint import read
from ltm_eval.system.errors import CheckpointError
kilobytes = lambda: int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])
before, peaks = kilobytes(), {}
for path in sys.argv[1:]:
    try:
        read(path)
        raise SystemExit(f"{path} was read")
    except CheckpointError:
        peaks[path] = (kilobytes() - before) * 1024
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_hostile_files_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G9: at most twice the file and 500 MB, for every bomb and for a config of 10^7 width."""
    paths = []
    for how in BOMBS:
        folder = tmp_path / how.replace(" ", "-")
        folder.mkdir()
        made = FaultPlace(folder, folder, folder, monkeypatch)
        bomb(made, how=how)
        paths.append(made.names["model"])
    wide = tiny_folder(tmp_path / "wide")
    told = json.loads((wide / "config.json").read_text())
    told["model"]["dim"] = 10**7
    (wide / "config.json").write_text(json.dumps(told))
    command = [sys.executable, "-c", CHILD, *paths, str(wide)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for path, peak in json.loads(done.stdout).items():
        size = os.path.getsize(path)
        assert peak <= 2 * size + 500e6, (path, peak)
        print(f"{Path(path).parent.name}: file {size:,} bytes, peak {peak:,} bytes above the imports")


def test_a_clock_that_is_set_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a run and between two that say the same microsecond: nothing is overwritten, no figure changes."""
    truth = found(run(config(place, "a")).results[0])
    hours = itertools.count()
    monkeypatch.setattr("time.time", lambda: 2e9 - 3600.0 * next(hours))
    monkeypatch.setattr(paths, "datetime", SimpleNamespace(now=lambda: datetime(2033, 5, 18, 3, 33, 20, 1)))
    first = run(config(place, "b", tasks=("gsm8k", "ptb"))).results[0]
    assert found(first) == truth
    kept = first.read_bytes()
    second = run(config(place, "b", seed=5)).results[0]
    assert first.read_bytes() == kept and first.name == "results_2033-05-18T03-33-20.000001.json"
    assert second.parent == first.parent and second.name == "results_2033-05-18T03-33-20.000002.json"
    assert next(hours) > 4
    for path in (first, second):
        content = json.loads(path.read_text("utf-8"))
        assert content["ltm_eval"]["status"] == "complete"
        assert float(content["total_evaluation_time_seconds"]) >= 0
        assert all(cost["seconds"] >= 0 for cost in content["ltm_eval"]["cost"].values())
    assert all(row["fit_seconds"] >= 0 and row["decode_seconds"] >= 0 for row in sidecar(first))


def sidecar(results: Path) -> list[dict[str, Any]]:
    date = results.stem.removeprefix("results_")
    lines = (results.parent / f"latents_{TASK}_{date}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]
