"""Who holds an output folder, on file systems with and without the kernel's locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from ltm_eval.cli import main
from ltm_eval.system.errors import MachineError, RefusedError
from ltm_eval.system.files import HOLDER, NAME, Holder, atomic_folder, holder_of, holding
from ltm_eval.training.recipe import read_recipe
from ltm_eval.training.train import train
from tests.fake_runs import write_run

pytestmark = pytest.mark.faults


def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("kernel", [True, False])
def test_a_second_command_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    if not kernel:
        no_flock(monkeypatch)
    assert holder_of(tmp_path) is None
    for _ in range(2):
        with holding(tmp_path) as holder:
            assert holder_of(tmp_path) == holder and holder.pid == os.getpid()
            with pytest.raises(RefusedError, match=f"in use by {holder.words}; wait.*--output_path") as refused:
                holding(tmp_path).__enter__()
            assert ("remove" in str(refused.value)) != kernel
        assert holder_of(tmp_path) is None


@pytest.mark.parametrize("kernel", [True, False])
def test_a_lock_dies_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    code = f"""
import errno, fcntl, os
from pathlib import Path
from ltm_eval.system.files import holding

def flock(handle, operation):
    raise OSError(errno.ENOLCK, "No locks available")

if not {kernel}:
    fcntl.flock = flock
with holding(Path({str(tmp_path)!r})):
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / HOLDER).exists()
    if not kernel:
        no_flock(monkeypatch)
    assert holder_of(tmp_path) is None
    with holding(tmp_path):
        pass


def test_a_folder_that_is_not_ours_to_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` of another user believes what the holder's file says, unless that process is gone."""

    def denied(*given: object, **named: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    here = Holder.here()
    monkeypatch.setattr("filelock.FileLock.acquire", denied)
    for holder, found in ((here, here), (replace(here, started="0"), None), (replace(here, host="else"), True)):
        (tmp_path / HOLDER).write_text(json.dumps(asdict(holder)))
        assert holder_of(tmp_path) == (holder if found else None)
    with pytest.raises(MachineError, match=rf"cannot write .*{NAME}: Permission denied; look at disk"):
        holding(tmp_path).__enter__()


def test_nothing_of_the_user_is_removed(tmp_path: Path) -> None:
    """Only names that this program makes, of processes that are gone, and not below the folder."""
    dead, random = 2**22 + 1, "0" * 32  # beyond any process
    mine = [".notes.tmp", ".x.1.tmp", f".ltm_eval-{os.getppid()}-{random}.tmp", f"ltm_eval-{dead}-{random}.tmp"]
    mine += [f"below/.ltm_eval-{dead}-{random}.tmp", f".ltm_eval-{dead}-{random}.tmp~"]
    (tmp_path / "below").mkdir()
    for name in (*mine, f".ltm_eval-{dead}-{random}.tmp"):
        (tmp_path / name).write_text("mine")
    with holding(tmp_path):
        assert not (tmp_path / f".ltm_eval-{dead}-{random}.tmp").exists()
    assert [(tmp_path / name).read_text() for name in mine] == ["mine"] * len(mine)


def test_earlier_output_is_replaced(tmp_path: Path) -> None:
    runs = tmp_path / "results"
    write_run(runs, model="m", right=bool, n=3)
    for output in ("a.html", "a.csv", "a.md", "a.tex", "a.json"):
        for command in (["report", str(runs)], ["index", str(runs)]):
            place = tmp_path / command[0] / output
            for _ in range(2):
                assert main([*command, "-o", str(place)]) == 0
    other = write_run(tmp_path / "other", model="o", right=bool, n=3)
    for _ in range(2):
        assert main(["compare", str(runs), str(other), "-o", str(tmp_path / "compared.md")]) == 0
    (tmp_path / "note.md").write_text("# Results in all\n\nof my week\n\n## Summary\n\nmine\n")
    assert main(["report", str(runs), "-o", str(tmp_path / "note.md")]) == 6


def test_a_final_folder_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "x").write_text("mine")
    recipe = read_recipe(Path(__file__).parents[1] / "demo" / "ltm-demo.yaml")
    with pytest.raises(RefusedError, match="final there is of no training run"):
        train(recipe, tmp_path, data=tmp_path)
    assert (tmp_path / "final" / "x").read_text() == "mine"


def test_a_folder_that_another_was_first_to_make(tmp_path: Path) -> None:
    """Two commands convert to one place in the same second."""
    with (
        pytest.raises(RefusedError, match="new: already exists; choose another place"),
        atomic_folder(tmp_path / "new"),
    ):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "x").write_text("the other's")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "x"]


RECIPE = {
    "model": {"dim": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "multiple_of": 8, "max_seq_len": 64}
    | {"window_size": 16, "max_z_len": 2},
    "sources": [
        {"name": "prose", "kind": "text", "weight": 1, "length": 32, "batch": 2, "validation": 2, "files": ["*.txt"]}
    ],
    "ranks": 262,
    "steps": 2,
    "t_fast": 1,
    "warm_up": 1,
    "save_every": 2,
    "validate_every": 0,
    "validation_t_fast": 1,
}


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    """A command that trains for two steps into `run`."""
    (tmp_path / "prose.txt").write_text("Ada sees the cup. Bo has the key. " * 60, "utf-8")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), "utf-8")
    return f"train --config {tmp_path}/recipe.yaml --data {tmp_path} -o {tmp_path}/run --device cpu".split()


def test_two_trainings_in_one_folder(tmp_path: Path, training: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    with holding(tmp_path / "run"):
        assert main(training) == 6
    assert "run is in use by" in capsys.readouterr().err
    assert not list((tmp_path / "run").iterdir())[1:]


def test_training_files_that_a_kill_tore(tmp_path: Path, training: list[str]) -> None:
    """Killed as `data.json` or the log's first line was written, or after steps that no state holds."""
    assert main(training) == 0
    run = tmp_path / "run"
    rows = (run / "log.csv").read_text().splitlines()
    for log in (rows[0][:9], "\n".join([*rows, ""]), "\n".join([*rows, rows[-1][:4]])):
        (run / "state.pt").unlink()
        shutil.rmtree(run / "final")
        (run / "data" / "data.json").unlink()
        (run / f".ltm_eval-{2**22 + 1}-{'0' * 32}.part").mkdir()
        (run / "log.csv").write_text(log)
        assert main(training) == 0
        found = (run / "log.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in found] == ["step", "1", "2"]
        assert not list(run.glob(".ltm_eval-*"))


def test_compare_spares_what_it_read(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, model=name, right=bool, n=3) for name in "ab"]
    journal = tmp_path / "a" / "journal" / "x.jsonl"
    journal.parent.mkdir()
    journal.write_text("00000000 {}\n")
    for victim in (*paths, *paths[0].parent.glob("samples_*"), journal):
        before = victim.read_bytes()
        assert main(["compare", *map(str, paths), "-o", str(victim)]) == 6
        assert victim.read_bytes() == before
