"""Who holds an output folder, on file systems with and without the kernel's locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ltm_eval.cli import main
from ltm_eval.system.errors import MachineError, RefusedError
from ltm_eval.system.files import HOLDER, NAME, Holder, holder_of, holding
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


def test_a_final_folder_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "x").write_text("mine")
    recipe = read_recipe(Path(__file__).parents[1] / "demo" / "ltm-demo.yaml")
    with pytest.raises(RefusedError, match="final there is of no training run"):
        train(recipe, tmp_path, data=tmp_path)
    assert (tmp_path / "final" / "x").read_text() == "mine"


def test_compare_spares_what_it_read(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, model=name, right=bool, n=3) for name in "ab"]
    journal = tmp_path / "a" / "journal" / "x.jsonl"
    journal.parent.mkdir()
    journal.write_text("00000000 {}\n")
    for victim in (*paths, *paths[0].parent.glob("samples_*"), journal):
        before = victim.read_bytes()
        assert main(["compare", *map(str, paths), "-o", str(victim)]) == 6
        assert victim.read_bytes() == before
