"""Runs that are killed, stopped and starved at many points, and what the same command makes of what they left."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.harness.evaluation import folder_name
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import run
from ltm_eval.results.files import find_runs
from ltm_eval.runs import journal
from ltm_eval.runs.session import MANIFEST, rebuild, status_of
from ltm_eval.system.errors import RefusedError, ResultsError
from ltm_eval.system.files import HOLDER, holder_of, holding, sample_data_dir
from tests.failing import arm
from tests.forks import ROOT, Ended, Forks, forks
from tests.tiny import tiny_folder, tiny_gpt2, tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.faults
TASK = "ltm_gsm8k"
DOCUMENTS = 12
KILLS = int(os.environ.get("LTM_EVAL_TEST_KILLS", "20"))
IN_A_ROW = 5
STOPS = int(os.environ.get("LTM_EVAL_TEST_STOPS", "4"))
EVERY = int(os.environ.get("LTM_EVAL_TEST_IO_STEP", "5"))
"""An error meets every so manieth file operation; with 5 there is one of the five errors for each."""


ERRORS = {"enospc": "free some space", "eio": "", "eacces": "", "edquot": "remove something", "emfile": "ulimit -n"}
"""With what to do about them."""


@dataclass(frozen=True)
class Place:
    """A checkpoint and the process that evaluates it."""

    server: Forks
    checkpoint: Path
    truth: dict[str, Any]
    """Of a run that was not interrupted."""
    seconds: float
    """That it took."""


def options(checkpoint: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(checkpoint),
        "data": "sample",
        "num_fewshot": 1,
        "limit": DOCUMENTS,
        "t_fast": 1,
        "output_path": str(output),
        "batch_size": 4,
        "gen_kwargs": "max_gen_toks=4",
        "report": False,
        "quiet": True,
        **changes,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("resume")
    checkpoint = tiny_folder(folder / "tiny")
    with forks(options(checkpoint, folder / "warm")) as server:
        ended = server.run(options(checkpoint, folder / "whole"))
        assert ended.code == 0, ended.stderr
        yield Place(server, checkpoint, outcome(folder / "whole", checkpoint), ended.seconds)


def model_folder(output: Path, checkpoint: Path) -> Path:
    return output / folder_name(str(checkpoint))


def outcome(output: Path, checkpoint: Path) -> dict[str, Any]:
    """Figures, samples and sidecar of the one complete run in a folder, times left out."""
    folder = model_folder(output, checkpoint)
    (path,) = folder.glob("results_*.json")
    content = json.loads(path.read_text())
    assert content["ltm_eval"]["status"] == "complete"
    assert sorted(file.name.partition("_")[0] for file in folder.glob("*_*.json*")) == [
        *("latents", "results", "samples", "tokens")
    ]
    samples = [json.loads(line) for line in next(folder.glob("samples_*.jsonl")).read_text().splitlines()]
    latents = [json.loads(line) for line in next(folder.glob("latents_*.jsonl")).read_text().splitlines()]
    return {
        "results": content["results"],
        "hashes": content["task_hashes"],
        "samples": sorted(samples, key=lambda row: (row["filter"], row["doc_id"])),
        "tokens": [json.loads(line) for line in next(folder.glob("tokens_*.jsonl")).read_text().splitlines()],
        "latents": [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in latents],
    }


def answers(output: Path, checkpoint: Path) -> dict[str, bytes]:
    """The whole answers on disk, each there once."""
    found: dict[str, bytes] = {}
    for path in journal.files_of(model_folder(output, checkpoint)):
        for line in path.read_bytes().split(b"\n")[:-1]:
            if journal.is_whole(line) and (key := journal.decode(line).get("key")):
                assert key not in found, "an answer was made twice"
                found[key] = line
    return found


def check_finished(place: Place, output: Path, *, before: dict[str, bytes]) -> None:
    """The same command ends as if nothing had happened, and keeps what was there."""
    ended = place.server.run(options(place.checkpoint, output))
    assert (ended.code, ended.signal) == (0, None), ended.stderr
    told = [line for line in ended.lines if "resuming" in line]
    expected = f"resuming: {len(before)} of {DOCUMENTS} answers found"
    assert [expected in line for line in told] == ([True] if before else []), ended.stderr
    after = answers(output, place.checkpoint)
    assert before.items() <= after.items() and len(after) == DOCUMENTS
    assert outcome(output, place.checkpoint) == place.truth
    assert not list(output.rglob("*.tmp"))


@pytest.mark.parametrize("chain", range(max(1, KILLS // IN_A_ROW)))
def test_killed_at_random_moments(place: Place, tmp_path: Path, chain: int) -> None:
    """SIGKILL five times in a row: nothing that was finished is lost, doubled or made again."""
    draw, pace = random.Random(chain), 1.0
    while (before := killed_in_a_row(place, tmp_path / f"{pace:.3f}", draw, pace)) is None:
        pace *= 0.7
    check_finished(place, tmp_path / f"{pace:.3f}", before=before)


def killed_in_a_row(place: Place, output: Path, draw: random.Random, pace: float) -> dict[str, bytes] | None:
    """The answers that five killed starts leave; None where one of them came to its end before it was killed."""
    before: dict[str, bytes] = {}
    for _ in range(IN_A_ROW):
        left = (DOCUMENTS - len(before)) / DOCUMENTS
        moment = pace * draw.uniform(0, place.seconds * (0.3 + 0.7 * left))
        ended = place.server.run(options(place.checkpoint, output), signals=[(moment, signal.SIGKILL)])
        if ended.signal != signal.SIGKILL:
            assert ended.code == 0, ended.stderr
            return None
        after = answers(output, place.checkpoint)
        assert before.items() <= after.items()
        before = after
    return before


KILLED_AT = {
    "lock.open": 1,
    "results.open": 1,
    "resume.begin": 1,
    "manifest.write": 1,
    "results.write": 4,
    "results.sync": 4,
    "results.replace": 3,
    "results.replaced": 4,
    "results.written": 1,
    "journal.create": 1,
    "journal.write": 9,
    "journal.written": 11,
    "journal.sync": 2,
    "journal.synced": 2,
    "lm.fit": 2,
    "run.task": 1,
}
"""Places that every run passes, and at which pass it is killed; the first whole write is the holder of the lock."""


@pytest.mark.parametrize("name", KILLED_AT)
def test_killed_at_a_place(place: Place, tmp_path: Path, name: str) -> None:
    ended = place.server.run(options(place.checkpoint, tmp_path), fails=f"{name}:{KILLED_AT[name]}:kill")
    assert ended.signal == signal.SIGKILL, f"{name} was not passed: {ended.stderr}"
    check_finished(place, tmp_path, before=answers(tmp_path, place.checkpoint))


@pytest.mark.parametrize("name", [".ltm", "run.json", "samples", "latents", "tokens", "results"])
def test_killed_as_a_file_is_written(place: Place, tmp_path: Path, name: str) -> None:
    """Its content is on the disk, its name is not; `.ltm` is the lock's holder."""
    ended = place.server.run(options(place.checkpoint, tmp_path), fails=f"file.{name}:1:kill")
    assert ended.signal == signal.SIGKILL, ended.stderr
    check_finished(place, tmp_path, before=answers(tmp_path, place.checkpoint))


def test_killed_in_the_middle_of_a_line(place: Place, tmp_path: Path) -> None:
    ended = place.server.run(options(place.checkpoint, tmp_path), fails="journal.write:5:short,journal.write:6:kill")
    assert ended.signal == signal.SIGKILL, ended.stderr
    check_finished(place, tmp_path, before=answers(tmp_path, place.checkpoint))


@pytest.mark.parametrize("torn", [False, True])
def test_damaged_lines_are_skipped_and_made_again(place: Place, tmp_path: Path, torn: bool) -> None:
    """The file stays as it is; a start that is killed while it reads may be repeated."""
    (path,) = journal.files_of(model_folder(stopped(place, tmp_path), place.checkpoint))
    lines = path.read_bytes().split(b"\n")
    if not torn:
        lines[3] = lines[3].replace(b"value", b"valve")
    path.write_bytes(b"\n".join(lines) + b"01234567 {")
    found = path.read_bytes()
    killed = place.server.run(options(place.checkpoint, tmp_path), fails="journal.read:1:kill")
    assert killed.signal == signal.SIGKILL
    left = answers(tmp_path, place.checkpoint)
    assert len(left) == 6 + torn
    check_finished(place, tmp_path, before=left)
    assert path.read_bytes() == found
    ended = place.server.run(options(place.checkpoint, tmp_path))
    assert ended.code == 0 and ("1 damaged lines of the journal were skipped" in ended.stderr) != torn


def stopped(place: Place, output: Path) -> Path:
    """The folder of a run that was killed after 7 answers."""
    failing = "journal.written:9:kill"  # head, plan, answers
    assert place.server.run(options(place.checkpoint, output), fails=failing).signal == signal.SIGKILL
    assert len(answers(output, place.checkpoint)) == 7
    return output


def stopped_at(place: Place, output: Path, share: float, *numbers: int) -> tuple[Path, Ended]:
    """A run that gets signals a share of the time a run takes after its journal is there, sooner where it ended before.

    Returns the folder, and how the run ended.
    """
    for attempt in range(9):
        moment = share * place.seconds * 0.7**attempt
        folder = output / str(attempt)
        signals = [(moment + 0.001 * late, number) for late, number in enumerate(numbers)]
        ended = place.server.run(options(place.checkpoint, folder), signals=signals, once="*.jsonl")
        if ended.code != 0:
            break
        (path,) = model_folder(folder, place.checkpoint).glob("results_*.json")
        assert status_of(path) == "complete"
    return folder, ended


@pytest.mark.parametrize("number", range(STOPS))
def test_stopped_by_a_signal(place: Place, tmp_path: Path, number: int) -> None:
    """SIGINT, SIGTERM and the like: one line, the right code, soon."""
    which = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)[number % 4]
    output, ended = stopped_at(place, tmp_path, random.Random(number).uniform(0.3, 0.9), which)
    assert ended.code == (130 if which == signal.SIGINT else 143), ended.stderr
    assert ended.after_signal < 30 and "Traceback" not in ended.stderr
    assert ended.lines[-1].endswith("finished answers are kept, the same command resumes")
    for path in model_folder(output, place.checkpoint).glob("results_*.json"):
        assert status_of(path) in ("incomplete", "complete")
    check_finished(place, output, before=answers(output, place.checkpoint))


def test_a_second_signal_ends_at_once(place: Place, tmp_path: Path) -> None:
    output, ended = stopped_at(place, tmp_path, 0.5, signal.SIGTERM, signal.SIGTERM)
    assert ended.code == 143 and "Traceback" not in ended.stderr
    check_finished(place, output, before=answers(output, place.checkpoint))


@pytest.mark.parametrize("ends", [True, False])
def test_a_signal_after_the_run_was_left(ends: bool) -> None:
    """While the command says its last line a further signal ends it without a word; a library's caller gets his own."""
    code = f"""
import os, signal
from ltm_eval.system.errors import Stopped, ends_with_command, stopping
if {ends}:
    ends_with_command()
try:
    with stopping():
        os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit("no signal came")
except Stopped:
    os.kill(os.getpid(), signal.SIGTERM)
    raise SystemExit("went on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (143 if ends else -signal.SIGTERM, "")


@pytest.fixture(scope="module")
def few_documents(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a run of two documents, and its outcome."""
    output = tmp_path_factory.mktemp("few")
    few = options(place.checkpoint, output, limit=2)
    assert place.server.run(few).code == 0
    return few, outcome(output, place.checkpoint)


@pytest.mark.parametrize("error", ERRORS)
def test_every_file_operation_fails_once(
    place: Place, few_documents: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path, error: str
) -> None:
    """The n-th one fails: exit code 4 and one line, or it did not matter; the same command ends as if it had not."""
    few, truth = few_documents
    codes = []
    for number in range(1 + list(ERRORS).index(error) % EVERY, 400, EVERY):
        chosen = {**few, "output_path": str(tmp_path / str(number))}
        failing = f"*:{number}:{error}"
        ended = place.server.run(chosen, fails=failing)
        codes.append(ended.code)
        if ended.code == 0:
            break
        assert ended.code == 4 and "Traceback" not in ended.stderr, ended.stderr
        assert ended.lines[-1].startswith("ltm-eval: error[4]: ") and ERRORS[error] in ended.lines[-1]
        assert place.server.run(chosen).code == 0
        assert outcome(tmp_path / str(number), place.checkpoint) == truth
    assert codes[-1] == 0 and len(codes) > 25 // EVERY


def test_a_short_write_is_completed_or_skipped(place: Place, tmp_path: Path) -> None:
    ended = place.server.run(options(place.checkpoint, tmp_path), fails="journal.write:5:short")
    assert ended.code == 0 and outcome(tmp_path, place.checkpoint) == place.truth
    failing = "journal.write:5:short,journal.write:6:enospc"
    ended = place.server.run(options(place.checkpoint, tmp_path / "b"), fails=failing)
    assert ended.code == 4, ended.stderr
    (path,) = journal.files_of(model_folder(tmp_path / "b", place.checkpoint))
    assert not path.read_bytes().endswith(b"\n")
    check_finished(place, tmp_path / "b", before=answers(tmp_path / "b", place.checkpoint))


LEFT = f".ltm_eval-{2**22 + 1}-{'0' * 32}.tmp"  # of a process that cannot be


def test_one_command_at_a_time(place: Place, tmp_path: Path) -> None:
    tmp_path.joinpath(LEFT).write_text("half")
    with holding(tmp_path) as holder:
        assert not tmp_path.joinpath(LEFT).exists()
        ended = place.server.run(options(place.checkpoint, tmp_path))
    assert ended.code == 6
    assert ended.lines[-1].startswith(
        f"ltm-eval: error[6]: {tmp_path} is in use by {holder.host}:{os.getpid()} since 2"
    )
    assert holder_of(tmp_path) is None and not (tmp_path / HOLDER).exists()
    assert place.server.run(options(place.checkpoint, tmp_path, limit=1)).code == 0


def test_a_folder_that_was_moved_goes_on(place: Place, tmp_path: Path) -> None:
    """No path inside names the folder, so it may be renamed, and reached by a link."""
    stopped(place, tmp_path / "first").rename(tmp_path / "second")
    (tmp_path / "third").symlink_to(tmp_path / "second")
    check_finished(place, tmp_path / "third", before=answers(tmp_path / "third", place.checkpoint))


def test_leftovers_that_cannot_go_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath(LEFT).write_text("half")
    arm("results.unlink:2:eacces", monkeypatch.setattr)  # after that of the holder's own
    with holding(tmp_path):
        assert tmp_path.joinpath(LEFT).exists()


def test_other_settings_use_no_answer(place: Place, tmp_path: Path) -> None:
    """An unfinished run of other settings is in the way; a finished one is not, and gives nothing away."""
    stopped(place, tmp_path)
    ended = place.server.run(options(place.checkpoint, tmp_path, t_fast=2, limit=2))
    assert ended.code == 6 and "(7 answers) of other settings: fit.t_fast 1 → 2" in ended.lines[-1]
    ended = place.server.run(options(place.checkpoint, tmp_path, t_fast=2, limit=2, fresh=True))
    assert ended.code == 0
    assert "7 earlier answers" in ended.stderr and "not used: fit.t_fast 1 → 2" in ended.stderr
    assert len(answers(tmp_path, place.checkpoint)) == 9
    ended = place.server.run(options(place.checkpoint, tmp_path, t_fast=1))
    assert ended.code == 0 and f"resuming: 7 of {DOCUMENTS} answers found" in ended.stderr
    assert len(find_runs([tmp_path])) == 1


def test_batch_size_and_limit_are_no_other_settings(place: Place, tmp_path: Path) -> None:
    stopped(place, tmp_path)
    ended = place.server.run(options(place.checkpoint, tmp_path, batch_size=3))
    assert ended.code == 0 and f"resuming: 7 of {DOCUMENTS}" in ended.stderr
    assert outcome(tmp_path, place.checkpoint) == place.truth


def test_another_checkpoint_under_the_same_name_is_noticed(place: Place, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model"
    shutil.copytree(place.checkpoint, checkpoint)
    few = options(checkpoint, tmp_path / "out", limit=2)
    assert place.server.run(few).code == 0
    shutil.rmtree(checkpoint)
    tiny_folder(checkpoint, tiny_model(seed=1))
    ended = place.server.run(few)
    assert ended.code == 0 and "resuming" not in ended.stderr
    assert re.search(
        r"2 earlier answers in \S+ are of other settings and not used: model_sha \w+… → \w+…", ended.stderr
    )


def test_other_data_under_the_same_name_are_noticed(place: Place, tmp_path: Path) -> None:
    shutil.copytree(sample_data_dir() / "gsm8k", tmp_path / "data" / "gsm8k")
    chosen = {"limit": 4, "data": str(tmp_path / "data")}
    failing = "journal.written:4:kill"
    place.server.run(options(place.checkpoint, tmp_path / "out", **chosen), fails=failing)
    test = tmp_path / "data" / "gsm8k" / "test.jsonl"
    test.write_text("".join(test.read_text().splitlines(keepends=True)[1:]))
    ended = place.server.run(options(place.checkpoint, tmp_path / "out", **chosen))
    assert ended.code == 6 and "data.ltm_gsm8k." in ended.lines[-1]


def test_data_elsewhere_go_on(place: Place, tmp_path: Path) -> None:
    """A batch system may copy the same files to another folder for each start."""
    for name in ("first", "second"):
        shutil.copytree(sample_data_dir() / "gsm8k", tmp_path / name / "gsm8k")
    chosen = [
        options(place.checkpoint, tmp_path / "out", limit=4, data=str(tmp_path / name)) for name in ("first", "second")
    ]
    place.server.run(chosen[0], fails="journal.written:4:kill")
    ended = place.server.run(chosen[1])
    assert ended.code == 0 and "resuming: 2 of 4 answers found" in ended.stderr


def test_another_tokenizer_in_place_is_noticed(place: Place, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model"
    shutil.copytree(place.checkpoint, checkpoint)
    few = options(checkpoint, tmp_path / "out", limit=4)
    place.server.run(few, fails="journal.written:4:kill")
    ranks = (checkpoint / "tokenizer.tiktoken").read_bytes().splitlines()
    tokens = [line.split()[0] for line in ranks]
    tokens[65:67] = reversed(tokens[65:67])
    (checkpoint / "tokenizer.tiktoken").write_bytes(b"".join(b"%s %d\n" % (one, i) for i, one in enumerate(tokens)))
    told = json.loads((checkpoint / "config.json").read_text())
    del told["tokenizer_sha256"]
    (checkpoint / "config.json").write_text(json.dumps(told))
    ended = place.server.run(few)
    assert ended.code == 6 and "tokenizer.sha256" in ended.lines[-1]


def test_a_lost_manifest_is_rebuilt(place: Place, tmp_path: Path) -> None:
    folder = model_folder(stopped(place, tmp_path), place.checkpoint)
    before = (folder / MANIFEST).read_text()
    for content in (None, "{", '{"date_id": 1}'):
        (folder / MANIFEST).unlink()
        if content is not None:
            (folder / MANIFEST).write_text(content)
        ended = place.server.run(options(place.checkpoint, tmp_path))
        assert ended.code == 3 and "--rebuild" in ended.lines[-1], ended.stderr
        rebuild(folder)
        assert (folder / MANIFEST).read_text() == before
    check_finished(place, tmp_path, before=answers(tmp_path, place.checkpoint))
    with pytest.raises(ResultsError, match="no journal"):
        rebuild(tmp_path)


def test_contradicting_answers_are_refused(place: Place, tmp_path: Path) -> None:
    folder = model_folder(stopped(place, tmp_path), place.checkpoint)
    (path,) = journal.files_of(folder)
    row = journal.decode(path.read_bytes().split(b"\n")[4])
    twin = path.with_name("0.jsonl")
    twin.write_bytes(journal.encode({**row, "records": [{**row["records"][0], "fit_seconds": 1.5}]}))
    assert len(journal.read(folder).answers) == 7  # the same answer, made in another time
    twin.write_bytes(journal.encode({**row, "value": {"texts": ["5"], "budget": None}}))
    with pytest.raises(RefusedError, match=f"task {TASK} contradicts"):
        journal.read(folder)
    ended = place.server.run(options(place.checkpoint, tmp_path))
    assert ended.code == 6 and len(ended.lines[-1]) <= 300


def test_a_partial_result_gives_way_to_a_complete_one(place: Place, tmp_path: Path) -> None:
    """Two tasks, killed after the first; then another run of the first alone, in full."""
    few = {"tasks": ["gsm8k", "rules"], "limit": 2}
    failing = "results.written:1:kill"
    place.server.run(options(place.checkpoint, tmp_path, **few), fails=failing)
    (partial,) = find_runs([tmp_path])
    assert partial.extra.status == "running" and list(partial.tasks) == [TASK]
    assert place.server.run(options(place.checkpoint, tmp_path, tasks=["gsm8k"], limit=2)).code == 0
    (complete,) = find_runs([tmp_path])
    assert complete.extra.status == "complete" and complete.path != partial.path


def test_a_baseline_resumes_with_the_same_bits(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is given the same batches and random numbers as without an interruption."""
    gpt2 = tiny_gpt2(tmp_path / "gpt2")
    monkeypatch.setattr("ltm_eval.harness.baseline.CHUNK", 2)
    base = options(place.checkpoint, tmp_path / "a", limit=4, batch_size=2, baselines=(str(gpt2),), n=3)
    config = RunConfig(**{**base, "gen_kwargs": "max_gen_toks=4,temperature=1.0"})

    def lines(output: str, kind: str) -> list[Any]:
        folder = tmp_path / output / folder_name(str(gpt2))
        return [json.loads(line) for line in next(folder.glob(f"{kind}_*.jsonl")).read_text().splitlines()]

    run(config)
    interrupted = RunConfig(**{**config.__dict__, "output_path": str(tmp_path / "b")})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        arm("baselines.chunk:4:int", patch.setattr)
        run(interrupted)
    kept = len(journal.read(tmp_path / "b" / folder_name(str(gpt2))).answers)
    assert 6 <= kept < 16
    run(interrupted)
    assert len({row["resps"][0][0] for row in lines("a", "samples")}) > 1
    for kind, count in (("samples", 8), ("answers", 16), ("tokens", 8)):
        assert lines("a", kind) == lines("b", kind)
        assert len(lines("a", kind)) == count


def test_what_is_complete_stays_until_it_is_complete_again(place: Place, tmp_path: Path) -> None:
    """The same command over a complete run is killed: its results are as complete as before."""
    few = options(place.checkpoint, tmp_path, limit=2)
    assert place.server.run(few).code == 0
    first = outcome(tmp_path, place.checkpoint)
    for name in ("run.task", "results.replace"):
        place.server.run(few, fails=f"{name}:1:kill")
        for partial in tmp_path.rglob("*.tmp"):
            partial.unlink()
        assert outcome(tmp_path, place.checkpoint) == first


def test_python_writes_nothing(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ltm_eval

    monkeypatch.chdir(tmp_path)
    ltm_eval.evaluate(str(place.checkpoint), tasks=["gsm8k"], shots=0, data="sample", limit=1, t_fast=1)
    assert not list(tmp_path.iterdir())


def test_the_home_folder_is_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file of a run tells the user's name; only the folder of a model does, which is named by its path."""
    from ltm_eval.cli import main

    home = tmp_path / "alice"
    monkeypatch.setenv("HOME", str(home))
    shutil.copytree(sample_data_dir() / "gsm8k", home / "data" / "gsm8k")
    checkpoint = tiny_folder(home / "tiny")
    chosen = {"data": str(home / "data"), "limit": 1, "report": True, "command": ("run", f"-o={home}/out")}
    run(RunConfig(**{**options(checkpoint, home / "out"), **chosen}))
    folder = model_folder(home / "out", checkpoint)
    assert main(["rescore", str(home / "out"), "--filter", r"last=(\d+)"]) == 0
    own = folder.name.encode()
    for path in home.glob("out/**/*"):
        assert path.is_dir() or b"alice" not in path.read_bytes().replace(own, b""), path
    content = json.loads(min(folder.glob("results_*.json")).read_text())
    assert content["ltm_eval"]["settings"]["data"] == "~/data" and content["model_name"] == "~/tiny"
    assert content["ltm_eval"]["command"] == "run -o=~/out"
