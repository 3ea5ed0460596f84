"""Exit codes: of each class what a command alone can do; tests/faults.yaml is the catalogue. 1, a bug, has no case."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.contract.commands import ROOT, Commands, answers_of, json_of, only, until

RUN = (
    "run --model {model} --task gsm8k --shots 1 --data sample --limit 2 --t_fast 1 --gen_kwargs max_gen_toks=3 "
    "-q --no_report -o {out}"
)
PLAIN = ROOT / "tests/data/report/plain/gpt2"


def answered(folder: Path, *, right: int, of: int = 12, prompts: str = "0") -> Path:
    """Made-up results of lm-eval, of a model that has answered so many questions."""
    folder.mkdir()
    results = json_of(only(PLAIN, "results_*.json"))
    results["results"] = {"sums": {"alias": "sums", "exact_match,none": right / of, "exact_match_stderr,none": "N/A"}}
    for part in ("configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        results[part] = {"sums": results[part]["sums"]}
    results["n-samples"]["sums"] = {"original": of, "effective": of}
    (folder / "results_2026-01-02T03-04-05.000006.json").write_text(json.dumps(results), "utf-8")
    sample = {"doc": {"q": "?"}, "target": "1", "arguments": {}, "filter": "none", "metrics": ["exact_match"]}
    samples = [
        {
            **sample,
            "doc_id": index,
            "resps": [[f"{int(index < right)}"]],
            "filtered_resps": [f"{int(index < right)}"],
            "doc_hash": f"{index:064x}",
            "prompt_hash": f"{index:063x}{prompts}",
            "target_hash": "0" * 64,
            "exact_match": float(index < right),
        }
        for index in range(of)
    ]
    text = "".join(json.dumps(one) + "\n" for one in samples)
    (folder / "samples_sums_2026-01-02T03-04-05.000006.jsonl").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, cli: Commands) -> Path:
    """Things that are wrong, and the bundled model as a folder."""
    tmp = tmp_path_factory.mktemp("wrong")
    cli.done("convert", "demo", tmp / "model")
    (tmp / "file").write_text("text")
    (tmp / "empty").mkdir()
    answered(tmp / "other", right=2), answered(tmp / "same", right=2)
    for name in ("cut", "nan", "json"):
        shutil.copytree(tmp / "model", tmp / name)
    os.truncate(tmp / "cut/model.safetensors", 100_000)
    weights = bytearray((tmp / "nan/model.safetensors").read_bytes())
    weights[-4:] = b"\xff\xff\xff\x7f"
    (tmp / "nan/model.safetensors").write_bytes(weights)
    (tmp / "json/config.json").write_text("{")
    (tmp / "pickle.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    (tmp / "results_x.json").write_text("{")
    (tmp / "recipe.yaml").write_text("steps: many\n")
    rows = tmp / "data/gsm8k"
    rows.mkdir(parents=True)
    (rows / "train.jsonl").write_text("{}\n")
    (rows / "test.jsonl").write_text("{}\n")
    return tmp


CASES = {
    "option": ("run --shot 3", 2, "--shots"),
    "command": ("rnu", 2, "'run'"),
    "task": ("run --task gsm9k", 2, "gsm8k"),
    "range": ("run --t_fast -1", 2, "t_fast.*-1"),
    "number": ("run --limit nan", 2, "limit.*nan"),
    "seed": ("run --seed 4294967296", 2, "seed"),
    "shots": ("run --shots 33", 2, "shots.*32"),
    "condition": ("run --condition demo", 2, "demos"),
    "preset": ("run --preset bond", 2, "bound"),
    "rows": ("run --task wikitext --rows boun", 2, "boun"),
    "dtype": ("run --dtype float64", 2, "float32"),
    "device name": ("run --device tpu", 2, "tpu"),
    "decoding": ("run --gen_kwargs max_gen_tok=3", 2, "max_gen_toks"),
    "fit": ('run --fit {{"l":1}}', 2, "lr"),
    "metadata": ("run --metadata [", 2, "metadata"),
    "contradiction": ("run --n 2 --k 5", 2, "5"),
    "exclusion": ("run --limit 2 --documents 1", 2, "documents"),
    "max_failed": ("run --max_failed many", 2, "max_failed.*many"),
    "output is a file": ("run -o {tmp}/file", 2, "file"),
    "report format": ("report {plain} --format pdf", 2, "html"),
    "compare one": ("compare {plain}", 2, "2 runs"),
    "compare nothing": ("compare", 2, "RUN_A"),
    "compare metric": ("compare {tmp}/same {tmp}/other --metric nothing", 2, "nothing"),
    "history nothing": ("history", 2, "DIR"),
    "status": ("status", 2, "RUN"),
    "probe direction": ("probe --direction left", 2, "up"),
    "probe limit": ("probe --limit 0", 2, "limit"),
    "bench": ("bench --size XL", 2, "XL"),
    "audit": ("audit --preset none", 2, "none"),
    "train": ("train --output {tmp}/t", 2, "config"),
    "sweep": ("sweep --t_fast 1,x", 2, "t_fast.*x"),
    "convert": ("convert {tmp}/model", 2, "DIR"),
    "no model": (RUN.replace("{model}", "{tmp}/absent"), 3, "absent"),
    "no model to load": (RUN.replace("{model}", "{tmp}/empty"), 3, "empty"),
    "cut weights": (RUN.replace("{model}", "{tmp}/cut"), 3, "model.safetensors"),
    "weights that are no numbers": (RUN.replace("{model}", "{tmp}/nan"), 3, "nan|finite"),
    "config": ("convert {tmp}/json {tmp}/new", 3, "config.json"),
    "pickle": ("convert {tmp}/pickle.pt {tmp}/new", 3, "pickle.pt"),
    "no data": ("run --data {tmp}/nowhere", 3, "nowhere"),
    "data": ("run --data {tmp}/data --task gsm8k", 3, "jsonl"),
    "results": ("report {tmp}/results_x.json", 3, "results_x.json"),
    "no results": ("report {tmp}/empty", 3, "empty"),
    "history of nothing": ("history {tmp}/empty", 3, "empty"),
    "recipe": ("train --config {tmp}/recipe.yaml --output {tmp}/t", 3, "recipe.yaml|steps|sources"),
    "status of nothing": ("status {tmp}/empty", 3, "empty"),
    "rescore of nothing": ("rescore {tmp}/empty", 3, "empty"),
    "device": ("run --device cuda:97", 4, "cuda:97"),
    "place": ("run -o {tmp}/file/below", 4, "file"),
    "report place": ("report {plain} -o {tmp}/file/page.html", 4, "file"),
}


@pytest.mark.parametrize("name", CASES)
def test_code(cli: Commands, folders: Path, tmp_path: Path, name: str) -> None:
    told, code, words = CASES[name]
    places = {"tmp": folders, "model": folders / "model", "plain": PLAIN, "out": tmp_path / "out"}
    ended = cli.run(*(word.format(**places) for word in told.split()), cwd=tmp_path)
    assert ended.code == code, ended.err
    assert ended.error.startswith(f"ltm-eval: error[{code}]: ") and re.search(words, ended.error), ended.error
    assert len(ended.error) <= 300 and "Traceback" not in ended.err and "bug" not in ended.error
    assert not list(tmp_path.rglob("results_*"))


def test_more_failed_documents_than_allowed_are_5(cli: Commands, folders: Path, tmp_path: Path) -> None:
    """A learning rate at which no fit converges: every document fails; figures of none are no figures."""
    command = RUN.format(model=folders / "model", out=tmp_path / "out").split() + [
        "--fit",
        '{"lr":1e30,"lr_final":1e30}',
    ]
    ended = cli.run(*command)
    assert ended.code == 5 and re.search("2 of 2 documents failed", ended.error), ended.err
    assert cli.run(*command, "--max_failed", "2", "--fresh").code in (0, 5)
    failed = json_of(only(tmp_path / "out", "*/results_*.json"))["ltm_eval"]["failed"]["ltm_gsm8k"]
    assert [one["doc_id"] for one in failed["failures"]] == [0, 1]


def test_runs_with_other_prompts_are_6_unless_allowed(cli: Commands, tmp_path: Path) -> None:
    for name, prompts in (("a", "0"), ("b", "1")):
        answered(tmp_path / name, right=6, prompts=prompts)
    ended = cli.run("compare", "a", "b", cwd=tmp_path)
    assert ended.code == 6 and "prompt" in ended.error
    cli.done("compare", "a", "b", "--allow_mismatch", "-o", "both.json", cwd=tmp_path)
    assert [one["task"] for one in json_of(tmp_path / "both.json")["mismatches"]] == ["sums"]


def test_worse_is_7_where_asked_for(cli: Commands, tmp_path: Path) -> None:
    """0 of 12 right against 12 of 12: exact McNemar, p = 2 / 2^12."""
    answered(tmp_path / "a", right=0), answered(tmp_path / "b", right=12)
    cli.done("compare", "b", "a", "--fail_if_worse", cwd=tmp_path)
    cli.done("compare", "a", "b", "-o", "found.json", cwd=tmp_path)
    ended = cli.run("compare", "a", "b", "--fail_if_worse", cwd=tmp_path)
    assert ended.code == 7 and "sums" in ended.err
    (found,) = json_of(tmp_path / "found.json")["comparisons"]
    assert (found["verdict"], found["difference"], found["p"]) == ("worse", -1.0, pytest.approx(2 / 2**12))
    assert [found[f"right_{one}"] for one in ("both", "first", "second", "neither")] == [0, 0, 12, 0]


def begun(cli: Commands, folders: Path, out: Path, answers: int, number: int) -> tuple[int, str]:
    """A run that gets a signal once so many answers are on disk: exit code, what it said."""
    command = RUN.format(model=folders / "model", out=out).replace("--limit 2", "--limit 30 --batch_size 1")
    started = cli.start(*command.replace("--t_fast 1", "--t_fast 40").split())
    until(lambda: sum(len(answers_of(folder)) for folder in out.glob("*/")) >= answers)
    started.kill(number)
    ended = started.wait()
    return ended.code, ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_is_130_or_143_and_unfinished(
    cli: Commands, folders: Path, tmp_path: Path, number: int, code: int
) -> None:
    """What is there is kept: `status` counts it, other settings are refused (6), no figures are made of it (5)."""
    out = tmp_path / "out"
    found, said = begun(cli, folders, out, 2, number)
    assert found == code and said.count("ltm-eval: ") >= 1 and "Traceback" not in said, said
    (task,) = json.loads(cli.done("status", out, "--json").out)["models"][0]["tasks"]
    assert 2 <= task["done"] < task["total"] == 30
    other = cli.run(*RUN.format(model=folders / "model", out=out).split())
    assert other.code == 6 and "t_fast 40 → 1" in other.error
    assert cli.run("rescore", out).code in (3, 5)


def test_a_folder_at_work_is_6(cli: Commands, folders: Path, tmp_path: Path) -> None:
    command = RUN.format(model=folders / "model", out=tmp_path / "out").replace("--limit 2", "--limit 30").split()
    started = cli.start(*command)
    until(lambda: list(tmp_path.glob("out/*/journal/*.jsonl")))
    started.kill(signal.SIGSTOP)  # at work for as long as it takes to look
    second = cli.run(*command)
    holder = json.loads(cli.done("status", tmp_path / "out", "--json").out)["holder"]
    started.kill(signal.SIGKILL)
    assert started.wait().code == -signal.SIGKILL
    assert second.code == 6 and str(started.pid) in second.error
    assert str(started.pid) in json.dumps(holder)


def test_a_failed_cell_of_a_sweep_is_5(cli: Commands, folders: Path, tmp_path: Path) -> None:
    """The others go on, and the table says which failed."""
    command = (
        RUN.format(model=folders / "model", out=tmp_path / "out").replace("run ", "sweep ").replace("--no_report", "")
    )
    words = command.replace("--t_fast 1", "--t_fast 0,1").split()
    ended = cli.run(*words, "--fit", '{"lr":1e30,"lr_final":1e30}')
    assert ended.code == 5, ended.err
    cells = json_of(tmp_path / "out/sweep.json")["cells"]
    assert [(cell["axes"]["t_fast"], cell["state"]) for cell in cells][0] == (0, "complete")
    assert cells[1]["axes"]["t_fast"] == 1 and cells[1]["state"] != "complete" and cells[1]["line"]
