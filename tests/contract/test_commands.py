"""`status`, `rescore`, `probe`, `sweep`, `convert`, `audit`, `doctor`, `bench`, `train`, and what a run prints."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.contract.commands import TASKS, Commands, json_of, lines_of, only
from tests.contract.reference import check


def table_of(text: str) -> list[list[str]]:
    """Cells of a table of bars."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_status(cli: Commands, pair: Path) -> None:
    content = json.loads(cli.done("status", pair, "--json").out)
    free = r"/models/\d+/(folder|tasks/\d+/(per_second|written))"
    check("status", content, free=free)
    assert [Path(one["folder"]).name for one in content["models"]] == ["demo", "gpt2-demo"]
    text = cli.done("status", pair).out
    for task in TASKS:
        assert re.search(rf"{task}.*2 of 2|2/2.*{task}|{task}.*2/2", text), text


def test_what_a_run_prints(cli: Commands, tmp_path: Path) -> None:
    """lm-eval's table, and where results are; with all rows of a perplexity."""
    command = "run --task wikitext --limit 1 --t_fast 2 --rows all --causal_chunk 64 --no-report -o"
    ended = cli.done(*command.split(), tmp_path)
    results = json_of(only(tmp_path, "demo/results_*.json"))["results"]["ltm_wikitext"]
    check("all_rows", results)
    shown = {line[4]: float(line[6]) for line in table_of(ended.out) if len(line) > 8 and re.match(r"[\d.]+$", line[6])}
    assert {"ppl_per_token_bound", "ppl_per_token_causal", "ppl_per_token_prior", "kl_per_token"} <= shown.keys()
    for name, value in shown.items():
        assert abs(results[f"{name},none"] - value) < 6e-5
    assert ended.out.splitlines()[-1] == f"results: {only(tmp_path, 'demo/results_*.json')}"
    assert "documents" in ended.err  # progress


def test_rescore(cli: Commands, pair: Path, tmp_path: Path) -> None:
    """Metrics anew from the answers on disk: the same, and those asked for beside them."""
    shutil.copytree(pair / "demo", tmp_path / "demo")
    before = only(tmp_path, "demo/results_*.json")
    first = json_of(before)["results"]
    cli.done("rescore", tmp_path, "--filter", r"last=(-?\d+)")
    (after,) = set(tmp_path.glob("demo/results_*.json")) - {before}
    results = json_of(after)
    for task in TASKS:
        assert {name: results["results"][task].get(name) for name in first[task]} == first[task]
    assert "exact_match,last" in results["results"]["ltm_rules"]
    assert json_of(before)["results"] == first
    assert cli.run("rescore", tmp_path, "--k", "3").code == 2


def test_probe(cli: Commands, tmp_path: Path) -> None:
    words = "probe --limit 1 --t_fast 2 --max_tokens 24 --prompt_tokens 8 --explore 1 -q -o"
    ended = cli.done(*words.split(), tmp_path)
    content = json_of(only(tmp_path, "demo/probe_*.json"))
    left_out = r"/(command|seconds|provenance|warnings)(/.*)?|/settings/source/sets/.*/source"
    check("probe", content, left_out=left_out)
    assert (tmp_path / "report.html").is_file()
    lines = [line.split() for line in ended.out.splitlines()]
    assert [line[0] for line in lines[1:6]] == ["0", "1", "2", "3", "no"]
    (text,) = content["texts"]
    for line, kept in zip(lines[2:5], ("1", "1-2", "1-3"), strict=True):
        assert abs(float(line[5]) - text["cells"][kept]["nll_nats"] / text["tokens"]) < 1e-3


def test_sweep(cli: Commands, tmp_path: Path) -> None:
    """Cells, their scores and folders; the same command keeps what is there."""
    command = "sweep --task rules --limit 1 --t_fast 0,1 --shots 1 --gen_kwargs max_gen_toks=8 -q -o"
    words = [*command.split(), tmp_path]
    ended = cli.done(*words)
    assert "Grid" in (tmp_path / "report.html").read_text("utf-8")
    content = json_of(tmp_path / "sweep.json")
    check("sweep", content, free=r"/cells/\d+/(seconds|results|fingerprint)", left_out=r"/notes|/cells/\d+/program")
    rows = [line.split() for line in ended.out.splitlines() if line.startswith("demo")]
    names = ("model", "task", "condition", "shots", "t_fast", "seed")
    axes = [[str(cell["axes"][name]) for name in names] for cell in content["cells"]]
    assert [row[:6] for row in rows] == axes
    made = [json_of(path) for path in tmp_path.glob("cells/*/demo/results_*.json")]
    settings = sorted((one["n-shot"]["ltm_rules"], one["ltm_eval"]["settings"]["t_fast"]) for one in made)
    assert settings == [(1, 0), (1, 1)]
    again = cli.done(*words)
    assert [cell["kept"] for cell in json_of(tmp_path / "sweep.json")["cells"]] == [True] * 2 and again.out
    assert len(list(tmp_path.glob("cells/*/demo/results_*.json"))) == 2
    folder = only(tmp_path, "cells/*1-t_fast*")
    before = set(folder.glob("demo/results_*.json"))
    cli.done("rescore", folder, "--group", "episode")
    (after,) = set(folder.glob("demo/results_*.json")) - before
    assert "machine-000" in str(json_of(after)["ltm_eval"])


def test_convert(cli: Commands, root: Path, tmp_path: Path) -> None:
    """A folder, the released form of it, and back: the same weights, tokenizer and sizes."""
    cli.done("convert", "demo", tmp_path / "folder")
    cli.done("convert", tmp_path / "folder", tmp_path / "ckpt_4400.pt")
    cli.done(
        "convert", tmp_path / "ckpt_4400.pt", tmp_path / "back", "--tokenizer", tmp_path / "folder/tokenizer.tiktoken"
    )
    config = json_of(tmp_path / "folder/config.json")
    check("convert", config)
    assert json_of(tmp_path / "back/config.json") == config
    for name in ("model.safetensors", "tokenizer.tiktoken"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "folder" / name).read_bytes(), name


def test_audit(cli: Commands, tmp_path: Path) -> None:
    """Deficit on random tokens: what is no bound reports nats that none can reach; this program's bound passes."""
    ended = cli.done("audit", "--blocks", "1", "--json", tmp_path / "audit.json")
    content = {one["preset"]: one for one in json_of(tmp_path / "audit.json")}
    check("audit", content)
    assert content["released"]["caught"] and content["published"]["caught"] and not content["bound"]["caught"]
    assert content["released"]["deficit_nats_per_block"] > 0 > content["bound"]["deficit_nats_per_block"]
    assert [line.split()[0] for line in ended.out.splitlines() if line[:1].isalpha()][: len(content)] == list(content)


def test_doctor(cli: Commands) -> None:
    lines = [line.split(maxsplit=1) for line in cli.done("doctor").out.splitlines()]
    told = {line[0]: line[1] for line in lines}
    assert {"ltm-eval", "python", "torch", "lm-eval", "plug", "extras", "tasks", "data", "tokenizer"} <= told.keys()
    assert "works" in told["plug"] and "cpu" in told["torch"] and "gsm8k" in told["tasks"]


def test_bench(cli: Commands) -> None:
    ended = cli.done("bench", "--size", "demo", "--rounds", "1", "--tokens", "16")
    table = table_of(ended.out)
    steps = {(line[0], line[1]): float(line[2]) for line in table if line[0] in ("naive", "ours") and "%" in line[-1]}
    assert {("naive", "float32"), ("ours", "float32"), ("ours", "bfloat16")} <= steps.keys()
    assert all(0 < seconds < 60 for seconds in steps.values())


def test_train(cli: Commands, tmp_path: Path) -> None:
    """Two slow steps, which the same command does not make again; what is trained is a checkpoint that runs."""
    (tmp_path / "data").mkdir()
    words = [
        f"{name} {verb} the {thing}." for name in ("Ada", "Bo") for verb in ("sees", "has") for thing in ("cup", "key")
    ]
    (tmp_path / "data/prose.txt").write_text(" ".join(words) * 40, "utf-8")
    source = {
        "name": "prose",
        "kind": "text",
        "weight": 1,
        "length": 32,
        "batch": 2,
        "validation": 2,
        "files": ["*.txt"],
    }
    sizes = {"dim": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "multiple_of": 8, "max_seq_len": 64}
    recipe = {"model": sizes | {"window_size": 16, "max_z_len": 2}, "ranks": 268, "steps": 9, "t_fast": 1}
    recipe |= {"warm_up": 1, "save_every": 1, "validate_every": 0, "validation_t_fast": 1, "sources": [source]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    command = ["train", "--config", tmp_path / "recipe.yaml", "--data", tmp_path / "data", "-o", tmp_path / "run"]
    for _ in range(2):
        cli.done(*command, "--device", "cpu", "--steps", "2")
    with (tmp_path / "run/log.csv").open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    assert [int(row["step"]) for row in log] == [1, 2]
    check(
        "train",
        [{name: as_number(value) for name, value in row.items()} for row in log],
        free=r"/\d+/(seconds|flops|gradient_norm|kl_nats_per_token)",
    )
    folder = next(path.parent for path in sorted((tmp_path / "run").rglob("config.json")))
    assert json_of(folder / "config.json")["step"] == 2
    words = f"run --model {folder} --task rules --limit 1 --shots 1 --t_fast 1 --data sample -q --no_report -o".split()
    cli.done(*words, tmp_path / "out")
    assert lines_of(only(tmp_path, "out/*/latents_*"))[0]["t_fast"] == 1


def as_number(text: str) -> Any:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", text) else text
