"""The catalogue of faults (tests/faults.yaml) as a table: exit code, one line, nothing half-written, never silent."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ltm_eval.cli import main
from ltm_eval.harness.ltm import LTM
from ltm_eval.model.checkpoint import load
from ltm_eval.runs.session import Manifest
from ltm_eval.system.errors import CheckpointError, LtmEvalError, UsageError
from tests import fake_runs
from tests.failing import Armed, arm
from tests.fault_makers import HELD, KEPT, MAKERS, NOTE, Place, malicious, rows, write_rows
from tests.faults_page import page
from tests.tiny import tiny_folder, tiny_gpt2

pytestmark = pytest.mark.faults

HERE = Path(__file__).parent
CATALOGUE: list[dict[str, Any]] = yaml.safe_load((HERE / "faults.yaml").read_text("utf-8"))
ROWS = range(1, 136)
COMMANDS = {
    "run": "run --model {model} --task gsm8k --shots 1 --data {data} --limit 2 --t_fast 1 --gen_kwargs max_gen_toks=4 "
    "-o {out} --quiet --no_report",
    "convert": "convert {model} {out}",
    "report": "report {results} -o {tmp}/page.html",
}
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Case:
    """One fault as it is made and what must be seen then."""

    id: int
    make: dict[str, dict[str, Any]]
    args: list[str]
    code: int
    line: str
    warns: str
    process: bool


def case_of(fault: dict[str, Any], told: dict[str, Any]) -> Case:
    unknown = set(told) - {"make", "args", "more", "code", "line", "warns", "process"}
    assert not unknown, f"fault {fault['id']}: {unknown}"
    args = told["args"]
    base = COMMANDS[args].split() if isinstance(args, str) else args
    return Case(
        fault["id"],
        told.get("make", {}),
        [*base, *told.get("more", [])],
        told.get("code", 0),
        told.get("line", ""),
        told.get("warns", ""),
        told.get("process", False),
    )


CASES = [case_of(fault, told) for fault in CATALOGUE for told in fault.get("cases", [])]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint `tiny` and a data folder `data` that work."""
    folder = tmp_path_factory.mktemp("good")
    tiny_folder(folder / "tiny")
    for split in ("train", "test"):
        write_rows(folder / "data" / "gsm8k" / f"{split}.jsonl", rows(split))
    return folder


@pytest.fixture
def place(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path, tmp_path / "model", tmp_path / "data", monkeypatch)
    shutil.copytree(good / "tiny", made.model)
    shutil.copytree(good / "data", made.data)
    monkeypatch.chdir(tmp_path)
    return made


def arguments(case: Case, place: Place) -> list[str]:
    """The command with the places in it."""
    names: dict[str, object] = {"model": place.model, "data": place.data, "out": place.tmp / "out", "tmp": place.tmp}
    names |= {"wide": place.tmp / ("w" * 300), "long": place.tmp / "/".join(["d" * 200] * 19), **place.names}
    found = case.args
    for name, value in names.items():
        found = [word.replace(f"{{{name}}}", str(value)) for word in found]
    return found


def called(case: Case, args: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and what was written to stderr, in this process or one of its own."""
    if not case.process:
        code = main(args)
        return code, capfd.readouterr().err
    command = [sys.executable, "-m", "ltm_eval", *args]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=300)
    return done.returncode, done.stderr.decode("utf-8", "strict")


def check_written(case: Case, place: Place, kept: list[Path]) -> None:
    """Nothing half-written, and no results where the run did not come so far."""
    left = [path for path in place.tmp.rglob("*") if path.name.endswith((".tmp", ".part")) or "probe" in path.name]
    assert [path for path in left if path not in kept] == []
    assert not list(place.tmp.glob("crash-*"))
    results = [path for path in place.tmp.glob("out/**/results_*.json") if path.is_file()]
    assert not results or case.code in (0, 5)
    for path in results:
        json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.id}-{number}" for number, case in enumerate(CASES)])
@pytest.mark.filterwarnings("ignore:Multiple max token")
def test_fault(case: Case, place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    for name, options in case.make.items():
        MAKERS[name](place, **(options or {}))
    code, err = called(case, arguments(case, place), capfd)
    while HELD:
        HELD.pop().close()
    kept = [KEPT.pop() for _ in [*KEPT]]
    assert code == case.code, err
    assert all(path.read_text() in ("mine", NOTE) for path in kept)
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("ltm-eval: error[")]
    notes = [line for line in lines if line not in errors]
    assert all(line.startswith("ltm-eval: ") for line in lines), err
    assert all(len(line) <= 300 for line in errors)
    assert not CONTROL.search(err.replace("\n", "")), err
    assert "Traceback" not in err
    assert len(errors) == (1 if code else 0)
    if code:
        assert errors[0].startswith(f"ltm-eval: error[{code}]: ")
        assert case.line, f"fault {case.id}: a case that fails must say which line it expects"
        assert re.search(case.line, errors[0]), errors[0]
    if case.warns:
        assert re.search(case.warns, "\n".join(notes)) or re.search(case.warns, stored_warnings(place)), err
    check_written(case, place, kept)
    if "secret" in place.names or case.id == 11:
        check_secret(place, err)


def stored_warnings(place: Place) -> str:
    """What the results file says above its figures."""
    return "\n".join(
        warning
        for path in place.tmp.glob("**/results_*.json")
        for warning in json.loads(path.read_text("utf-8"))["ltm_eval"]["warnings"]
    )


def check_secret(place: Place, err: str) -> None:
    secret = re.sub(r"^://|@host$", "", place.names["secret"])
    texts = [path.read_text("utf-8", "replace") for path in (place.tmp / "out").rglob("*") if path.is_file()]
    assert texts
    assert not [text for text in (err, *texts) if secret in text]


def test_little_free_space_is_said_before_anything_is_loaded(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=3 * 2**20))
    monkeypatch.setattr("ltm_eval.harness.run.construct", lambda *args: pytest.fail("loaded"))
    case = Case(75, {}, COMMANDS["run"].split(), 4, "", "", process=False)
    assert main(arguments(case, place)) == 4
    (line,) = [one for one in capfd.readouterr().err.splitlines() if "error[" in one]
    assert "only 3 MiB are free, at least 50 are needed" in line


@pytest.mark.parametrize("when", ["lm.fit", "journal.written", "run.task"])
@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced"])
def test_a_folder_that_is_not_there_any_more(
    how: str, when: str, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    output, away = place.tmp / "out", place.tmp / "away"

    def gone() -> None:
        output.rename(away)
        if how == "deleted":
            shutil.rmtree(away)
        if how == "replaced":
            output.mkdir()

    arm(Armed(when, 1, gone), monkeypatch.setattr)
    case = Case(85, {}, COMMANDS["run"].split(), 4, "", "", process=False)
    assert main(arguments(case, place)) == 4
    err = capfd.readouterr().err
    assert err.count("error[4]") == 1 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert str(output) in last or "could not reach the disk (deleted or moved" in last
    assert not [path for path in output.rglob("*") if path.is_file() and path.parent.name != "journal"]
    if how != "deleted":
        shutil.rmtree(output, ignore_errors=True)
        away.rename(output)
        assert main(arguments(case, place)) == 0


CHANGES: dict[str, tuple[str, str]] = {
    "weights grow": ("ltm_eval.model.checkpoint.checked", "model/model.safetensors"),
    "a released file is cut": ("ltm_eval.model.checkpoint.check_archive", "ckpt_7.pt"),
    "a released file is replaced": ("ltm_eval.model.checkpoint.weights_sha256", "ckpt_7.pt"),
    "questions are replaced": ("ltm_eval.data.sources.file_sha256", "data/gsm8k/test.jsonl"),
    "a text vanishes": ("ltm_eval.data.sources.file_sha256", "data/ptb/ptb.valid.txt"),
}
"""By name: what is called in the middle of the reading, and the file that another program changes then."""


@pytest.mark.parametrize("how", CHANGES)
def test_a_file_that_changes_while_it_is_read(
    how: str, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    called, name = CHANGES[how]
    victim = place.tmp / name
    if name.endswith(".pt"):
        assert main(["convert", str(place.model), str(victim)]) == 0
    if "ptb" in name:
        victim.parent.mkdir()
        victim.write_text(" the cat sat on the mat \n" * 9)
    module, _, function = called.rpartition(".")
    honest = getattr(importlib.import_module(module), function)

    def meanwhile(*given: Any, **named: Any) -> Any:
        found = honest(*given, **named)
        if victim.exists() and (function != "file_sha256" or given == (victim,)):
            change(how, victim)
        return found

    monkeypatch.setattr(called, meanwhile)
    more = ["--task", "ptb"] if "ptb" in name else []
    args = arguments(Case(31, {}, [*COMMANDS["run"].split(), *more], 6, "", "", process=False), place)
    args = [str(victim) if word == str(place.model) and name.endswith(".pt") else word for word in args]
    assert main([*args, "--tokenizer", str(place.model)]) == 6
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error[" in line]
    assert f"{victim}: changed while it was read" in line
    assert not list((place.tmp / "out").rglob("results_*"))


def change(how: str, victim: Path) -> None:
    content = victim.read_bytes()
    if "vanishes" in how:
        victim.unlink()
    elif "cut" in how:
        os.truncate(victim, len(content) // 2)
    elif "replaced" in how:
        other = victim.with_name("other")
        other.write_bytes(content)
        other.replace(victim)
    else:
        victim.write_bytes(content + b"\0")


def test_many_runs_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LTM_EVAL_TEST_RUNS runs, thousands by hand: every reader comes through, and none takes more than 0.1 s a run."""
    number = int(os.environ.get("LTM_EVAL_TEST_RUNS", "60"))
    for index in range(number):
        monkeypatch.setattr(fake_runs, "DATE", f"2026-01-02T03-{index // 60 % 60:02d}-{index % 60:02d}.{index:06d}")
        path = fake_runs.write_run(tmp_path / f"set{index // 20}", model=f"step{index % 20 + 1}", right=bool, n=3)
        manifest = Manifest(path.stem.removeprefix("results_"), {}, {}, {}, "0")
        manifest.write(path.parent)
    for command in ("status", "index", "history", "report"):
        begun = time.monotonic()
        assert main([command, str(tmp_path)]) == 0
        assert time.monotonic() - begun < 60 + number / 10, command


# The catalogue itself -------------------------------------------------------------------------------------------------


def test_every_fault_of_the_catalogue_has_an_entry() -> None:
    assert [fault["id"] for fault in CATALOGUE] == list(ROWS)
    assert not [fault["id"] for fault in CATALOGUE if not fault.get("cases") and not fault.get("where")]
    assert {name for case in CASES for name in case.make} <= set(MAKERS)
    assert set(MAKERS) - {"nothing"} == {name for case in CASES for name in case.make}


PLACES = sorted({where for fault in CATALOGUE for where in fault.get("where", [])})


@pytest.mark.parametrize("where", PLACES)
def test_tests_that_the_catalogue_points_at_exist(where: str) -> None:
    pattern, _, name = where.partition("::")
    files = sorted(HERE.parent.glob(pattern))
    assert files, where
    assert not name or any(f"def {name}(" in file.read_text("utf-8") for file in files), where


def test_the_page_is_written_from_the_catalogue() -> None:
    shown = (HERE.parent / "docs" / "FAULTS.md").read_text("utf-8")
    assert shown == page(CATALOGUE), "run python -m tests.faults_page"


# Faults that take more than a command ---------------------------------------------------------------------------------


def test_no_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executed = tmp_path / "executed"
    files = malicious(tmp_path, executed)
    assert len(files) >= 30
    for name, path in files.items():
        with pytest.raises(CheckpointError) as caught:
            load(path)
        text = str(caught.value)
        assert not executed.exists(), name
        assert "weights_only" not in text and "unsafe" not in text, text
    assert not executed.exists()


HOST_VALUES: dict[str, tuple[object, ...]] = {
    "pretrained": (float("inf"), 12), "revision": (12, float("inf")), "tokenizer": (5.0,), "rows": (3,), "dtype": (16,),
    "condition": (1,), "preset": (2,), "t_fast": ("abc", 1e300, float("nan")), "lr": (float("inf"), 10**400),
    "seed": ("x",), "batch_size": (0.5,), "fit_window": (-1,), "causal_chunk": (float("nan"),),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, one) for name, own in HOST_VALUES.items() for one in own])
def test_values_that_a_host_cast_are_refused(name: str, value: object, good: Path) -> None:
    arguments = {"pretrained": str(good / "tiny"), name: value}
    with pytest.raises(UsageError, match=name):
        LTM(**arguments)


def test_an_empty_stop_string_is_refused() -> None:
    from ltm_eval.tasks.arguments import generation_config

    with pytest.raises(UsageError, match="empty"):
        generation_config({"until": ["x", ""]})


def test_code_of_a_baseline_is_not_run(
    place: Place, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_gpt2(tmp_path_factory.mktemp("gpt2"))
    told = json.loads((folder / "config.json").read_text())
    told["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(told | {"model_type": "evil"}))
    (folder / "evil.py").write_text(f"open({str(place.tmp / 'executed')!r}, 'w')\n")
    case = Case(32, {}, [*COMMANDS["run"].split(), "--baseline", str(folder)], 3, "", "", process=False)
    assert main(arguments(case, place)) == 3
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("ltm-eval: error[3]: baseline") and len(line) <= 300
    assert not (place.tmp / "executed").exists()


def test_a_run_into_a_closed_pipe_on_a_dumb_terminal(place: Place) -> None:
    args = arguments(Case(10, {}, COMMANDS["run"].split(), 0, "", "", process=True), place)
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "TERM": "dumb", "LC_ALL": "C", "PYTHONUTF8": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ltm_eval", *args],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
            env=environment,
            timeout=300,
        )
    finally:
        os.close(writer)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    assert list((place.tmp / "out").rglob("results_*.json"))


def test_errors_of_the_library_are_typed(place: Place) -> None:
    """From Python no error ends the process: it is one class that a caller can expect."""
    import ltm_eval

    with pytest.raises(LtmEvalError):
        ltm_eval.load(place.tmp / "absent.pt")
