"""Sweeps over everything: cells, their state on disk, one after another and on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ltm_eval.cli import main
from ltm_eval.harness import sweep as cells_module
from ltm_eval.harness import sweep as grid
from ltm_eval.harness.options import GridConfig, RunConfig
from ltm_eval.harness.sweep import AXES, Cell, Done, cells_of, finished, run_cell
from ltm_eval.system.errors import IncompleteError, UsageError
from ltm_eval.system.files import holder_of, holding
from ltm_eval.system.machine import program
from tests.gang import launcher

OPTIONS = ("--task", "gsm8k", "--data", "sample", "--limit", "2", "--gen_kwargs", "max_gen_toks=6", "--quiet")


def config(folder: Path, output: Path, **changes: Any) -> GridConfig:
    base = RunConfig(
        tasks=("gsm8k",), data="sample", limit=2, gen_kwargs="max_gen_toks=6", output_path=str(output), quiet=True
    )
    axes: dict[str, Any] = {"t_fast": (0, 1), "shots": (1,), "conditions": ("demos",), "seeds": (1,)}
    return GridConfig(base, **{"models": (str(folder),), **axes, **changes})


def answers(done: Done, output: Path) -> list[str]:
    """The samples file of a cell, as text."""
    (results,) = output.glob(f"cells/*/**/{Path(str(done.results)).name}")
    rows = next(results.parent.glob("samples_*.jsonl")).read_text("utf-8").splitlines()
    return sorted(rows)


def test_cells_are_every_combination_once(folder: Path) -> None:
    found = cells_of(config(folder, Path("out"), seeds=(1, 2), shots=(0, 1), conditions=("demos", "other", "prior")))
    assert len(found) == 2 * 2 * (3 + 1) == len({cell.folder for cell in found})
    assert {cell.folder.parent for cell in found} == {Path("out/cells")}
    first = found[0].axes
    assert tuple(first) == AXES and (first["shots"], first["condition"], first["t_fast"]) == (1, "demos", 0)
    strange = replace(found[0].config, model="../a,b\n" + "x" * 300)
    assert Path(cells_module._name(Cell(strange).axes)).name == cells_module._name(Cell(strange).axes)
    with pytest.raises(UsageError, match="no baselines"):
        replace(config(folder, Path("out")), base=RunConfig(baselines=("gpt2",)))


def test_a_finished_cell_is_not_run_again_unless_something_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = grid.run_grid(config(folder, tmp_path))
    assert [one.state for one in first.done] == ["complete"] * 2 and not any(one.kept for one in first.done)
    grid.check(first)
    summary = json.loads(first.summary.read_text())
    assert summary["of"] == 2 and [row["axes"]["t_fast"] for row in summary["cells"]] == [0, 1]
    assert "exact_match" in grid.table_grid(first)
    ran: list[Path] = []
    original = cells_module.runner.run
    monkeypatch.setattr(cells_module.runner, "run", lambda own: ran.append(own.output_path) or original(own))
    again = grid.run_grid(config(folder, tmp_path, t_fast=(0, 1, 2)))
    assert [one.kept for one in again.done] == [True, True, False] and len(ran) == 1
    assert again.done[:2] == first.done
    (cell, *_) = cells_of(config(folder, tmp_path, seeds=(1,)))
    assert finished(cell) is None  # gsm8k and ltm_gsm8k are spelt apart before the driver settles names
    settled = replace(cell, config=replace(cell.config, tasks=("ltm_gsm8k",)))
    assert settled.fingerprint != Cell(replace(settled.config, limit=3)).fingerprint


def test_one_cell_that_fails_does_not_stop_the_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"<!DOCTYPE html>")
    argv = ["sweep", "--model", f"{broken},{folder}", *OPTIONS, "--t_fast", "0", "--shots", "1"]
    argv += ["--output_path", str(tmp_path / "out")]
    assert main(argv) == 5
    said = capsys.readouterr()
    assert "exact_match" in said.out and "error[3]" in said.out and "sweep.json" in said.out
    assert "1 of 2 cells failed" in said.err.splitlines()[-1] and said.err.count("error[") == 1
    with pytest.raises(IncompleteError):
        grid.check(grid.Swept((Done({}, "", "failed", 0.0, line="ltm-eval: error[3]: x"),), tmp_path))


def test_a_second_attempt_waits_for_the_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell, _) = cells_of(config(folder, tmp_path))
    done = Done(cell.axes, cell.fingerprint, "complete", 1.0, results="results.json", program=program())
    cell.folder.mkdir(parents=True)
    held = holding(cell.folder)
    held.__enter__()

    def the_first_ends() -> None:
        (cell.folder / "results.json").write_text("{}")
        (cell.folder / "cell.json").write_text(json.dumps({**done.__dict__, "scores": []}))
        held.__exit__(None, None, None)

    monkeypatch.setattr(cells_module, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(cells_module.runner, "run", lambda own: refused(own.output_path))
    first = threading.Timer(1.0, the_first_ends)
    first.start()
    found = run_cell(cell)
    first.join()
    assert (found.state, found.kept, found.results) == ("complete", True, "results.json")


def test_processes_of_a_launcher_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in launcher(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    assert main(["sweep", "--model", str(folder), *OPTIONS, "--output_path", str(tmp_path)]) == 2
    assert "a sweep places whole cells" in capsys.readouterr().err


def refused(folder: str) -> Any:
    with holding(Path(folder)):
        raise AssertionError("the folder is held")


def test_the_live_table_shows_what_fits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    cells = cells_of(config(folder, Path("out"), seeds=tuple(range(30))))
    monkeypatch.setenv("LINES", "16")
    show = grid.Show(cells, quiet=True)
    for index in range(20):
        score = {"metric": "exact_match", "filter": "strict-match", "value": index / 100, "stderr": 0.25}
        show.ended(index, Done(cells[index].axes, "", "complete", 1.0, scores=(score,)))
    show.ended(20, Done(cells[20].axes, "", "failed", 1.0, line="ltm-eval: error[3]: [bold]x"))
    console = Console(width=200)
    with console.capture() as capture:
        console.print(show._table())
    shown = capture.get()
    assert "21 of 60 cells" in shown and "exact_match 0.19 ± 0.25" in shown and "error[3]: [bold]x" in shown
    assert "exact_match 0.05" not in shown and shown.count("│\n") == 10


def test_without_ray_one_line_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    argv = ["sweep", "--model", str(folder), *OPTIONS, "--output_path", str(tmp_path), "--ray_address", "local"]
    assert main(argv) == 4
    assert capsys.readouterr().err == "ltm-eval: error[4]: --ray_address needs Ray: pip install 'ltm-eval[ray]'\n"


@pytest.mark.parametrize(("address", "given"), [("local", False), ("10.0.0.1:6379", None)])
def test_a_cluster_that_is_started_has_no_dashboard(
    monkeypatch: pytest.MonkeyPatch, address: str, given: bool | None
) -> None:
    """One that runs already is its owner's."""
    asked: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **options: asked.update(options)))
    grid._started(address)
    assert asked.get("include_dashboard") is given and asked.get("address") == (None if given is False else address)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_killed_worker_of_ray_is_replaced(folder: Path, tmp_path: Path) -> None:
    ordinary = grid.run_grid(config(folder, tmp_path / "sequence", t_fast=(1, 2)))
    output = tmp_path / "ray"
    argv = ["sweep", "--model", str(folder), *OPTIONS, "--shots", "1", "--condition", "demos", "--t_fast", "1,2"]
    argv += ["--seed", "1", "--output_path", str(output), "--ray_address", "local"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ltm_eval", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    killed = None
    end = time.monotonic() + 240
    while killed is None and process.poll() is None and time.monotonic() < end:
        holders = [holder_of(one) for one in output.glob("cells/*")]
        killed = next((one.pid for one in holders if one is not None), None)
        time.sleep(0.02)
    if killed is not None:
        os.kill(killed, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, killed is None) == (0, False), (out, err)
    rows = json.loads((output / "sweep.json").read_text())["cells"]
    assert [row["state"] for row in rows] == ["complete"] * 2
    for row, one in zip(rows, ordinary.done, strict=True):
        assert row["scores"] == [dict(score) for score in one.scores]
        assert answers(Done(**{**row, "scores": ()}), output) == answers(one, tmp_path / "sequence")


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.skipif("LTM_EVAL_TEST_NODES" not in os.environ, reason="LTM_EVAL_TEST_NODES is not set: takes a minute")
def test_a_node_of_a_cluster_is_lost(folder: Path, tmp_path: Path) -> None:
    """A cluster of two machines, as Ray counts them, loses one with the cell that runs there: another takes it over."""
    from ray.cluster_utils import Cluster

    output = tmp_path / "ray"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        lost = cluster.add_node(num_cpus=1)
        argv = ["sweep", "--model", str(folder), *OPTIONS, "--shots", "1", "--condition", "demos", "--t_fast", "1,2"]
        argv += ["--seed", "1", "--output_path", str(output), "--ray_address", cluster.address]
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen([sys.executable, "-m", "ltm_eval", *argv], stdout=said, stderr=said)
            working = None
            end = time.monotonic() + 240
            while working is None and process.poll() is None and time.monotonic() < end:
                holders = [holder_of(one) for one in output.glob("cells/*")]
                working = next((one for one in holders if one is not None), None)
                time.sleep(0.02)
            cluster.remove_node(lost, allow_graceful=False)
            cluster.add_node(num_cpus=1)
            code = process.wait(300)
    finally:
        cluster.shutdown()
    assert (code, working is None) == (0, False), (tmp_path / "said").read_text()
    rows = json.loads((output / "sweep.json").read_text())["cells"]
    assert [row["state"] for row in rows] == ["complete"] * 2
    ordinary = grid.run_grid(config(folder, tmp_path / "sequence", t_fast=(1, 2)))
    for row, one in zip(rows, ordinary.done, strict=True):
        assert row["scores"] == [dict(score) for score in one.scores]
        assert answers(Done(**{**row, "scores": ()}), output) == answers(one, tmp_path / "sequence")
