"""Answers of two versions of the program never stand in one result: not after a kill, nor over a finished run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ltm_eval.cli import main
from ltm_eval.harness import rescore
from ltm_eval.harness import sweep as grid
from ltm_eval.harness import sweep as sweeping
from ltm_eval.harness.evaluation import folder_name
from ltm_eval.harness.options import GridConfig, RunConfig, SweepConfig
from ltm_eval.harness.run import run
from ltm_eval.runs import journal
from ltm_eval.runs.session import MANIFEST, status_of
from ltm_eval.runs.status import status
from ltm_eval.system import files as paths
from ltm_eval.system import machine as provenance
from ltm_eval.system.errors import RefusedError
from ltm_eval.system.files import PACKAGE, source_sha256
from tests.failing import arm
from tests.tiny import run_config, tiny_gpt2

LIMIT = 3
OTHER = {
    "source": ("ltm_eval.system.files.source_sha256", lambda: "f" * 64, f"source_sha256 {'{}'} → {'f' * 12}…"),
    "torch": ("ltm_eval.system.machine.version", lambda name: f"0.0.1-{name}", "lm-eval 0.4.13 → 0.0.1-lm-eval"),
}
"""Another program: what is replaced, by what, and what a refusal names."""


def config(folder: Path, output: Path, **changes: Any) -> RunConfig:
    return run_config(folder, output, **{"tasks": ("gsm8k",), "limit": LIMIT, **changes})


def killed(config: RunConfig, monkeypatch: pytest.MonkeyPatch, point: str = "journal.written:4:int") -> None:
    """A run that ends early; the head and the plan are lines of the journal too."""
    with monkeypatch.context() as patch:
        arm(point, patch.setattr)
        with pytest.raises(KeyboardInterrupt):
            run(config)


def upgraded(monkeypatch: pytest.MonkeyPatch, what: str = "source") -> str:
    """From here on this is another program; what its refusal names."""
    name, made, words = OTHER[what]
    monkeypatch.setattr(name, made)
    return words


@pytest.mark.parametrize("what", OTHER)
def test_an_unfinished_run_of_another_program_is_refused(
    what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = config(folder, tmp_path)
    killed(own, monkeypatch)
    place = tmp_path / folder_name(str(folder))
    before = len(journal.read(place).answers)
    assert 0 < before < LIMIT
    ours = source_sha256()
    with monkeypatch.context() as patch:
        words = upgraded(patch, what).format(f"{ours[:12]}…")
        with pytest.raises(RefusedError, match="give it up with --fresh") as refused:
            run(own)
        assert f"({before} answers) of another program" in str(refused.value) and words in str(refused.value)
        assert len(journal.read(place).answers) == before
        assert status(tmp_path).models[0].status == "incomplete"
        run(replace(own, fresh=True))
        said = capsys.readouterr().err
        assert "resuming" not in said and f"{before} earlier answers" in said and "not used: versions." in said
        assert len(journal.read(place).answers) == before + LIMIT
    run(own)  # the first program again: its own answers are there still
    assert f"resuming: {before} of {LIMIT} answers found" in capsys.readouterr().err


def test_a_finished_run_gives_another_program_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config(folder, tmp_path))
    upgraded(monkeypatch)
    run(config(folder, tmp_path, limit=LIMIT + 1))
    said = capsys.readouterr().err
    assert "resuming" not in said and f"{LIMIT} earlier answers" in said
    contents = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("results_*.json"))]
    assert len(contents) == 2 and len({one["config"]["versions"]["source_sha256"] for one in contents}) == 2


def test_a_baseline_of_another_program_is_refused_before_any_model_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint's run is finished, the baseline's is not."""
    gpt2 = tiny_gpt2(tmp_path / "gpt2")
    both = config(folder, tmp_path / "out", baselines=(str(gpt2),))
    run(config(folder, tmp_path / "out"))
    killed(both, monkeypatch, "journal.written:4:int")
    upgraded(monkeypatch)
    with pytest.raises(RefusedError, match="of another program"):
        run(both)
    place = tmp_path / "out" / folder_name(str(folder))
    assert len(list(place.glob("results_*.json"))) == 1 and len(journal.read(place).answers) == LIMIT


def test_conditions_of_another_program_are_refused_before_any_model_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first condition is finished, the second is not."""
    sweep = SweepConfig(config(folder, tmp_path), ("demos", "prior"))
    with monkeypatch.context() as patch:
        arm(f"journal.written:{LIMIT + 2 + 4}:int", patch.setattr)
        with pytest.raises(KeyboardInterrupt):
            sweeping.run(sweep)
    place = tmp_path / folder_name(str(folder))
    first = next(place.glob("results_*.json"))
    assert status_of(first) == "complete" and 0 < len(journal.read(place / "prior").answers) < LIMIT
    upgraded(monkeypatch)
    with pytest.raises(RefusedError, match="of another program"):
        sweeping.run(sweep)
    assert len(journal.read(place).answers) == LIMIT


def test_cells_of_two_programs_do_not_make_one_sweep(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def swept(t_fast: tuple[int, ...], *, fresh: bool = False) -> grid.Swept:
        base = config(folder, tmp_path, tasks=("gsm8k",), fresh=fresh)
        return grid.run_grid(GridConfig(base, (str(folder),), t_fast, (1,), ("demos",), (1234,)))

    swept((0, 1))
    upgraded(monkeypatch)
    with pytest.raises(RefusedError, match=r"unfinished sweep of another program \(2 cells are done\)"):
        swept((0, 1, 2))
    again = swept((0, 1))  # all of it was done: it begins anew, and says so
    assert not any(one.kept for one in again.done) and "2 cells of another program" in capsys.readouterr().err
    assert all(one.kept for one in swept((0, 1)).done)
    monkeypatch.setattr("ltm_eval.system.files.source_sha256", lambda: "e" * 64)
    assert [one.state for one in swept((0, 1, 2), fresh=True).done] == ["complete"] * 3


def test_an_unfinished_run_from_before_programs_were_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As 0.1.0 wrote it: `status` and `rescore` read it, a resume is refused in one line."""
    old = {"ltm_eval": "0.1.0", "torch": provenance.version("torch")}
    with monkeypatch.context() as patch:
        patch.setattr("ltm_eval.harness.ltm.program", lambda: old)
        patch.setattr("ltm_eval.runs.session.described", lambda: "0.1.0")
        run(config(folder, tmp_path / "whole"))
        killed(config(folder, tmp_path / "part"), patch)
    (made,) = rescore.rescore(tmp_path / "whole", rescore.Changes(filters=(("last", r"(\d+)"),)))
    assert status_of(made) == "complete"
    assert main(["status", str(tmp_path / "part")]) == 0 and "ltm_gsm8k: " in capsys.readouterr().out
    with pytest.raises(RefusedError) as refused:
        run(config(folder, tmp_path / "part"))
    assert "of another program: source_sha256 none → " in str(refused.value)
    assert "Finish it with ltm_eval 0.1.0," in str(refused.value)
    manifest = json.loads(next((tmp_path / "part").rglob(MANIFEST)).read_text())
    assert manifest["settings"]["versions"] == old


def test_the_digest_names_every_source_and_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in sub-packages, and the YAML that others include, whose name has no suffix."""
    package, tasks = tmp_path / "ltm_eval", tmp_path / "tasks"
    for path in (package / "a.py", package / "room" / "a.py", tasks / "set" / "set.yaml", tasks / "set" / "_set_yaml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    monkeypatch.setattr(paths, "PACKAGE", package)
    digests = [source_sha256.__wrapped__()]
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        path.write_text("x = 2\n")
        digests.append(source_sha256.__wrapped__())
    (package / "room" / "a.py").rename(package / "room" / "b.py")
    digests.append(source_sha256.__wrapped__())
    assert len(set(digests)) == len(digests) == 6
    (package / "notes.txt").write_text("no source")
    assert source_sha256.__wrapped__() == digests[-1]


@pytest.mark.slow
def test_a_command_after_a_change_of_its_source(folder: Path, tmp_path: Path) -> None:
    """The whole way: killed after 2 answers, one line of the fast loop changed, the same command."""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE, copy / "ltm_eval", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    for name in ("tasks", "reports"):
        os.symlink(PACKAGE.parent / name, copy / name)
    os.symlink(PACKAGE / "assets", copy / "ltm_eval" / "assets")
    argv = ["run", "--model", str(folder), "--task", "gsm8k", "--data", "sample", "--limit", str(LIMIT), "--no_report"]
    argv += ["--shots", "1", "--t_fast", "1", "--gen_kwargs", "max_gen_toks=4", "-o", str(tmp_path / "out"), "--quiet"]

    def command(*program: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{copy}:{PACKAGE.parent}", "PYTHONDONTWRITEBYTECODE": "1"}
        started = [sys.executable, "-m", *(program or ["ltm_eval"]), *argv]
        return subprocess.run(started, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert command("tests.failing", "journal.written:4:kill").returncode < 0
    source = copy / "ltm_eval" / "inference" / "posterior.py"
    text = source.read_text()
    source.write_text(f"{text}\nCHANGED = True\n")
    ended = command()
    assert ended.returncode == 6 and "(2 answers) of another program: source_sha256 " in ended.stderr, ended.stderr
    source.write_text(text)
    ended = command()
    assert ended.returncode == 0 and f"resuming: 2 of {LIMIT} answers found" in ended.stderr
