"""What a full disk, a full table of files and too many open files lead to, on real ones where the system lets us."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.cli import main
from ltm_eval.harness import run as footprint
from ltm_eval.harness.loading import tasks_of
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import settle
from ltm_eval.system import files as disk
from tests.tiny import tiny_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.faults

SHORT = ["--shots", "1", "--limit", "4", "--t_fast", "1", "--gen_kwargs", "max_gen_toks=4", "--quiet", "--no_report"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("disk") / "tiny")


def command(model: Path, output: Path, *more: str) -> list[str]:
    return ["run", "--model", str(model), "--data", "sample", "--task", "gsm8k", *SHORT, "-o", str(output), *more]


def test_what_to_do_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {number: disk.remedy(OSError(number, ""), tmp_path) for number in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE)}
    assert list(told.values()) == [
        "free some space",
        "remove something of yours, or ask for a larger quota",
        "raise the limit of open files (ulimit -n)",
    ]
    assert disk.cause(OSError(errno.ENOSPC, "No space"), tmp_path / "not" / "there") == "No space"
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_files=9, f_favail=0))
    assert "no more files fit" in disk.cause(OSError(errno.ENOSPC, "No space"), tmp_path)
    assert disk.remedy(OSError(errno.ENOSPC, ""), tmp_path) == "remove some files"
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_files=0, f_favail=0))
    assert disk.cause(OSError(errno.ENOSPC, "No space"), tmp_path) == "No space"  # a system that does not count them


def test_a_file_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def statvfs(place: object) -> Any:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert disk.cause(OSError(errno.ENOSPC, "No space"), tmp_path) == "No space"
    assert disk.remedy(OSError(errno.EIO, "Input/output error"), tmp_path) == "look at disk and permissions"
    assert disk.cause(OSError("odd"), tmp_path) == "odd"


@pytest.fixture
def few_names(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a hundred files and folders."""
    place = tmp_path / "few"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "nr_inodes=100,size=128m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_without_room_for_another_file(model: Path, few_names: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At every file that a run makes; once some are removed the same command goes on."""
    failed = []
    for spare in range(16):
        fillers = [few_names / f"filler{i}" for i in range(os.statvfs(few_names).f_favail - spare)]
        for filler in fillers:
            filler.touch()
        code = main(command(model, few_names / "out"))
        err = capfd.readouterr().err
        if code == 0:
            break
        errors = [line for line in err.splitlines() if "error[" in line]
        assert code == 4 and len(errors) == 1 and "Traceback" not in err, err
        assert "no more files fit there" in errors[0] and "remove some" in errors[0]
        failed.append(errors[0])
        for filler in fillers:
            filler.unlink()
    assert code == 0 and len(failed) > 3
    (path,) = few_names.glob("out/*/results_*.json")
    assert json.loads(path.read_text())["ltm_eval"]["status"] == "complete"


def test_too_many_open_files(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With no more, one more, two more … open files than there are: code 4 and one line, until it is enough."""
    assert main(command(model, tmp_path / "whole")) == 0  # whatever is imported late is imported now
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    codes = []
    for spare in range(12):
        capfd.readouterr()
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
        try:
            codes.append(main(command(model, tmp_path / "out")))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        err = capfd.readouterr().err
        if codes[-1] == 0:
            break
        errors = [line for line in err.splitlines() if "error[" in line]
        assert codes[-1] == 4 and len(errors) == 1 and "Traceback" not in err, (spare, err)
        assert "ulimit -n" in errors[0], errors[0]
    assert codes[0] == 4 and codes[-1] == 0


# What a run will need -------------------------------------------------------------------------------------------------


def settled(model: Path, output: Path, **more: Any) -> RunConfig:
    return settle(
        RunConfig(model=str(model), data="sample", output_path=str(output), quiet=True, report=False, **more)
    )[0]


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("gsm8k", {"num_fewshot": 2, "gen_kwargs": "max_gen_toks=32"}),
        ("rules", {"n": 6, "gen_kwargs": "max_gen_toks=32"}),
        ("wikitext", {"rows": "bound"}),
        ("lambada", {}),
    ],
)
def test_the_estimate_is_near_what_a_run_leaves(model: Path, tmp_path: Path, task: str, more: dict[str, Any]) -> None:
    from ltm_eval.harness.run import run

    config = settled(model, tmp_path / "out", tasks=(task,), limit=8, t_fast=1, **more)
    (path,) = run(config).results
    lines = sum(file.stat().st_size for file in path.parent.rglob("*.jsonl"))
    estimated = sum(footprint.estimated_bytes(one, config) for one in tasks_of(config))
    assert 0.7 * lines < estimated < 3 * lines
    held = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert estimated + footprint.FIXED_BYTES > held


def test_a_run_that_may_not_fit_is_told_so_and_begins(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=60 * 10**6))
    assert main(command(model, tmp_path / "out")) == 0
    assert "may need" not in capfd.readouterr().err
    monkeypatch.setattr(footprint, "FIXED_BYTES", 10**9)
    assert main(command(model, tmp_path / "out")) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "may need" in line]
    assert "the run may need 1.0 GB, 60 MB are free" in line and "the same command goes on" in line
    (tmp_path / "out" / "earlier").touch()
    os.truncate(tmp_path / "out" / "earlier", 10**9)  # what an earlier start left is not needed again
    assert main(command(model, tmp_path / "out")) == 0
    assert "may need" not in capfd.readouterr().err
