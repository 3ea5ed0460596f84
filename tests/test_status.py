"""`status` and `rescore` on runs of a tiny model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ltm_eval.cli import main
from ltm_eval.harness.evaluation import folder_name
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.rescore import Changes, rescore
from ltm_eval.harness.run import run
from ltm_eval.results.files import find_runs, read_answers, read_latents, read_samples, read_tokens
from ltm_eval.runs.journal import Journal, files_of
from ltm_eval.runs.session import Manifest
from ltm_eval.runs.status import status, text
from ltm_eval.system.errors import DataError, IncompleteError, UsageError
from ltm_eval.system.files import holding, write_json_atomic
from tests.test_latent_page import probe_of
from tests.tiny import tiny_folder, tiny_gpt2

TASK = "ltm_gsm8k"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """A finished run with samples and a baseline: its options and output folder."""
    folder = tmp_path_factory.mktemp("status")
    config = RunConfig(
        model=str(tiny_folder(folder / "tiny")),
        tasks=("gsm8k",),
        baselines=(str(tiny_gpt2(folder / "gpt2")),),
        data="sample",
        num_fewshot=1,
        limit=4,
        n=3,
        k=(1,),
        t_fast=1,
        gen_kwargs="max_gen_toks=6",
        output_path=str(folder / "out"),
        report=False,
        quiet=True,
    )
    run(config)
    return config, folder / "out"


def figures(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())["results"][TASK]
    return values


def test_a_finished_run_is_complete(done: tuple[RunConfig, Path]) -> None:
    _, output = done
    found = status(output)
    assert found.holder is None and [model.status for model in found.models] == ["complete"] * 2
    for model in found.models:
        (line,) = model.lines
        assert (line.task, line.done, line.total, line.seconds_left) == (TASK, 16, 16, None)
        assert status(model.folder).models[0].lines[0].done == 16
    said = text(found)
    assert said[0] == "nobody is at work here" and any("ltm_gsm8k: 16/16 (100 %)" in line for line in said)


def test_a_run_at_work_tells_what_is_left(
    done: tuple[RunConfig, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run leaves its folder in the middle: plan and some answers, the folder held."""
    _, output = done
    manifest = Manifest.read(status(output).models[0].folder)
    assert manifest is not None
    folder = tmp_path / "m"
    folder.mkdir()
    manifest.write(folder)
    own = Journal(folder, manifest.settings)
    own.head["run"] = {**manifest.__dict__, "date_id": "an earlier start of the same command"}
    own.plan({"task": "t", "kind": "generate_until", "total": 10, "left": 8})
    for number in range(3):
        own.append(own.key(number), "t", {"value": number, "records": []})
    with holding(tmp_path) as holder:
        (model,) = status(tmp_path).models
        assert model.status == "begun" and (model.lines[0].done, model.lines[0].total) == (5, 10)
        lines = text(status(tmp_path), now=model.lines[0].written + 75)
        assert lines[0] == f"at work: {holder.words}" and lines[1] == "m: begun"
        assert re.fullmatch(r"  t: 5/10 \(50 %\), \S+ a second, .+ left, last written 1 min 15 s ago", lines[2])
        assert main(["status", str(tmp_path), "--json"]) == 0
        read = json.loads(capsys.readouterr().out)
        assert read["holder"]["pid"] == holder.pid and read["models"][0]["tasks"][0]["done"] == 5
    assert status(tmp_path).models[0].status == "incomplete"
    (folder / "run.json").unlink()
    assert main(["status", str(folder), "--rebuild"]) == 0
    assert Manifest.read(folder) == replace(manifest, date_id=own.head["run"]["date_id"])


def test_status_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 3
    assert "no run here" in capsys.readouterr().err


def test_rescoring_is_scoring(done: tuple[RunConfig, Path]) -> None:
    """Nothing changed: the same figures; other k and a further extraction: those of a run that asks for them."""
    config, output = done
    before = {run.path: run for run in find_runs([output])}
    again = rescore(output, Changes())
    for old, new in zip(sorted(before), sorted(again), strict=True):
        assert old.parent == new.parent and figures(old) == figures(new)
        assert read_samples(before[old], TASK) == read_samples(find_runs([new])[0], TASK)
        for read in (read_latents, read_answers, read_tokens):
            assert read(before[old], TASK) == read(find_runs([new])[0], TASK)
        assert len(read_tokens(before[old], TASK)) >= 2
    (other, _) = sorted(
        rescore(output, Changes(k=(2, 3), filters=(("digit", r"(\d)"),))), key=lambda path: "gpt2" in str(path)
    )
    asked = run(replace(config, k=(2, 3), baselines=(), output_path=str(output.parent / "asked"))).results[0]
    assert figures(asked).items() <= figures(other).items()
    assert {"pass@2,digit", "exact_match,digit"} <= figures(other).keys() - figures(asked).keys()
    assert all(path.exists() for path in before)
    newest = {found.path for found in find_runs([output])}
    assert other in newest and not newest & before.keys()


def test_rescoring_without_the_model(done: tuple[RunConfig, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was asked for")

    monkeypatch.setattr("ltm_eval.model.checkpoint.load_with_tokenizer", absent)
    monkeypatch.setattr("ltm_eval.harness.run.construct", absent)
    assert len(rescore(done[1], Changes())) == 2


def test_shares_by_group(done: tuple[RunConfig, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, output = done
    (path, *_) = rescore(output, Changes(group="answer"))
    groups = json.loads(path.read_text())["ltm_eval"]["groups"][TASK]
    assert len(groups) == 4 and all(value["exact_match,strict-match"]["n"] == 1 for value in groups.values())
    assert main(["rescore", str(path), "--group", "answer"]) == 0
    values = [value for value in groups if len(value) > 80 and "\n" in value]
    said = [line for line in capsys.readouterr().out.splitlines() if line.endswith("Wilson, n 1)")]
    exact = [line for line in said if ": exact_match, strict-match 0.00 % (95 % 0.00 to" in line]
    assert values and len(exact) == len(groups) and max(map(len, said)) < 200
    with pytest.raises(UsageError, match="no field 'colour'; they have"):
        rescore(output, Changes(group="colour"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--k", "9"], "n = 3"),
        (["--k", "x"], "whole number"),
        (["--filter", "x"], "NAME=REGEX"),
        (["--filter", "x=("], "no regular expression"),
    ],
)
def test_wrong_changes_are_named(
    done: tuple[RunConfig, Path], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["rescore", str(done[1]), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_missing_answers_and_other_data_are_told(done: tuple[RunConfig, Path], tmp_path: Path) -> None:
    config, _ = done
    own = replace(config, baselines=(), n=1, k=(), limit=2, output_path=str(tmp_path))
    run(own)
    (path,) = files_of(tmp_path / folder_name(str(config.model)))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(IncompleteError, match="1 of 2 answers"):
        rescore(tmp_path, Changes())
    path.write_bytes(b"".join(lines))
    (found,) = find_runs([tmp_path])
    content = json.loads(found.path.read_text())
    content["task_hashes"][TASK] = "0"
    found.path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="not those of the run"):
        rescore(tmp_path, Changes())


def test_perplexity_is_rescored_with_its_parts(done: tuple[RunConfig, Path], tmp_path: Path) -> None:
    config, _ = done
    own = replace(config, baselines=(), tasks=("ag_news",), n=1, k=(), gen_kwargs=None, limit=2, rows="bound")
    own = replace(own, output_path=str(tmp_path))
    (path,) = run(own).results
    (again,) = rescore(tmp_path, Changes())
    old, new = (json.loads(file.read_text())["results"]["ltm_ag_news"] for file in (path, again))
    assert old == new and "kl_per_token,none" in old


@pytest.mark.parametrize("command", ["status", "report", "history", "index", "compare"])
def test_commands_that_read_load_nothing_heavy(done: tuple[RunConfig, Path], command: str, tmp_path: Path) -> None:
    """`status` is asked again and again while a run needs the machine; pages are made where no model is installed."""
    write_json_atomic(tmp_path / "probe_2026-01-02T03-04-05.000006.json", probe_of())
    given = {"report": [done[1], tmp_path], "compare": sorted(done[1].glob("*/"))[:2]}.get(command, [done[1]])
    more = [] if command == "status" else ["--format", "html", "-o", tmp_path / "page.html"]
    words = [command, *map(str, [*given, *more])]
    code = f"import sys; from ltm_eval.cli import main; code = main({words!r}); print(code, *sys.modules)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    ended, *names = asked.stdout.splitlines()[-1].split()
    assert ended == "0", asked.stderr
    heavy = {"torch", "lm_eval", "datasets", "transformers"} | ({"numpy"} if command == "status" else set())
    assert len(names) > 50 and not heavy & set(names)
