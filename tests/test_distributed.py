"""Processes of one job: meeting, sharing, exchanging, and noticing who is lost."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lm_eval.api.instance import Instance

from ltm_eval.harness import baseline as baselines
from ltm_eval.harness.options import RunConfig
from ltm_eval.runs.processes import current, join, share
from ltm_eval.system import files as paths
from ltm_eval.system.errors import LtmEvalError, MachineError, UsageError
from ltm_eval.system.launch import Launch, read_launch, speaks
from tests.contract.commands import free_port, until
from tests.failing import arm
from tests.gang import LIMIT_SECONDS, Gang, Started, told
from tests.gang import command as run_command
from tests.tiny import tiny_folder, tiny_gpt2, tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator

SILENCE = 5.0
"""Seconds after which a rank counts as lost in these tests."""
LONG = 2 * LIMIT_SECONDS
"""Seconds that a rank computes or hangs where nobody ends it; a gang does not wait for so long."""
DOCUMENTS = os.environ.get("LTM_EVAL_TEST_DOCUMENTS", "3")
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    with Gang() as gang:
        yield gang


# What launchers say ---------------------------------------------------------------------------------------------------


def test_launchers_variables() -> None:
    assert read_launch({}) == read_launch({"WORLD_SIZE": "1"}) == Launch()
    assert read_launch({"RANK": "0", "WORLD_SIZE": "1"}).leads
    assert read_launch(TORCHRUN) == Launch(1, 2, 1, "node0", 29500)
    assert read_launch({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}).served
    assert speaks({}) and not speaks(TORCHRUN) and speaks({"WORLD_SIZE": "2", "RANK": "0"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"WORLD_SIZE": ""}, "RANK=1 is set, but WORLD_SIZE is not"),
        ({"RANK": ""}, "WORLD_SIZE=2 is set, but RANK is not"),
        ({"RANK": "2"}, "RANK=2 must be below WORLD_SIZE=2"),
        ({"RANK": "-1"}, "RANK must be a whole number from 0, got '-1'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK must be a whole number"),
        ({"MASTER_ADDR": ""}, "needs MASTER_ADDR"),
        ({"MASTER_PORT": ""}, "needs MASTER_PORT"),
        ({"MASTER_PORT": "70000"}, "from 1 to 65535"),
    ],
)
def test_contradictory_variables_are_named(changes: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_launch({**TORCHRUN, **changes})


def test_every_process_of_a_machine_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from ltm_eval.system.device import resolve_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(resolve_device("auto")) == str(resolve_device("cuda")).replace("cuda", "cuda:0") == "cuda:0"
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    for name in ("auto", "cuda", "cuda:0", None):  # lm-eval's command says cuda:0 to all of them
        assert str(resolve_device(name)) == "cuda:1"
    assert str(resolve_device("cpu")) == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(MachineError, match="local rank 2 needs cuda:2, but this machine has 2 GPU"):
        resolve_device("auto")


def hosted(argument: dict[str, Any]) -> int:
    """lm-eval's own command with the model `ltm`, which is shared there too."""
    from ltm_eval.harness.ltm import LTM

    lm = LTM.create_from_arg_obj({"pretrained": argument["folder"], "t_fast": 1, "device": "cpu"}, {"batch_size": 1})
    requests = [Instance("loglikelihood", {}, (f"text {i}", " more"), 0, ("task", i, 1)) for i in range(5)]
    answers = lm.loglikelihood(requests)
    kept = sorted(record.doc_id for record in lm.records)
    print(json.dumps([answers, kept, lm.rank, lm.world_size]))
    return 0


def test_lm_evals_own_command_is_shared_too(gang: Gang, folder: Path) -> None:
    said = []
    for world in (1, 2):
        done = gang.run(world, "tests.test_distributed:hosted", {"folder": str(folder)})
        said += [json.loads(done.out(rank)) for rank in range(world)]
    assert said[0] == said[1] == said[2]
    assert said[0][1:] == [[0, 1, 2, 3, 4], 0, 1]


# Sharing --------------------------------------------------------------------------------------------------------------


def test_alone() -> None:
    job = current()
    assert (job.rank, job.world, job.leads) == (0, 1, True)
    assert job.exchange(b"x") == [b"x"] and join(Launch()).world == 1
    job.agree({"anything": 1})
    job.check()
    job.close()


def test_shares_are_even_and_keep_together_what_belongs_together() -> None:
    rng = random.Random(0)
    for world in (1, 2, 3, 8):
        work = [(rng.randrange(30), rng.uniform(1, 100)) for _ in range(100)]
        ranks = share(work, world)
        assert ranks == share(work, world)
        assert len({(owner, rank) for (owner, _), rank in zip(work, ranks, strict=True)}) == len({w for w, _ in work})
        loads = [sum(cost for (_, cost), rank in zip(work, ranks, strict=True) if rank == r) for r in range(world)]
        pieces: dict[int, float] = {}
        for owner, cost in work:
            pieces[owner] = pieces.get(owner, 0.0) + cost
        best = max(sum(loads) / world, *pieces.values())
        assert max(loads) <= 4 / 3 * best + 1e-9
    assert share([], 3) == [] and share([("a", 1.0)], 5) == [0]
    assert share([("a", 1.0), ("b", 5.0), ("c", 4.0)], 2) == [1, 0, 1]


# Meeting and exchanging -----------------------------------------------------------------------------------------------


def exchanged(argument: dict[str, Any]) -> int:
    """Each rank sends others something of its own length, twice."""
    job = join()
    assert join() is job is current() and job.leads == (job.rank == 0)
    own = bytes(range(256)) * job.rank
    assert job.exchange(own) == [bytes(range(256)) * rank for rank in range(job.world)]
    assert job.exchange(b"") == [b""] * job.world
    job.agree({"same": "for all"})
    job.close()
    assert not isinstance(current(), type(job)) and current().world == 1
    return 0


@pytest.mark.parametrize("world", [2, 4])
def test_everyone_gets_what_everyone_sent(gang: Gang, world: int) -> None:
    done = gang.run(world, "tests.test_distributed:exchanged", {})
    assert [done.said(rank) for rank in range(world)] == [""] * world


def stale(argument: dict[str, Any]) -> int:
    """The store still holds what ranks of an earlier start left there."""
    from torch.distributed import TCPStore

    port, rank = int(os.environ["MASTER_PORT"]), int(os.environ["RANK"])
    if rank == 0:
        store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, multi_tenant=True)
        store.set("hello/1", "a dead process")
        store.set("welcome", '{"nonce": "old", "ranks": ["a", "b"]}')
        store.set("old/go", "1")
    return exchanged(argument)


def test_a_restart_is_not_confused_by_what_the_dead_left(gang: Gang) -> None:
    gang.run(2, "tests.test_distributed:stale", {})


def differing(argument: dict[str, Any]) -> int:
    job = join()
    try:
        job.agree({"checkpoint": "ab" * 32 if job.rank != 2 else "cd" * 32, "t_fast": 16})
    except LtmEvalError as error:
        print(error, "told" if job.tell(error) else "quiet")
        return error.exit_code
    return 0


def test_a_rank_that_differs_is_named_once(gang: Gang) -> None:
    job = gang.start(3, "tests.test_distributed:differing", {})
    assert job.wait() == [6, 6, 6]
    said = [job.out(rank) for rank in range(3)]
    assert all("rank 2 (on" in text and "another checkpoint" in text and "cdcdcd" in text for text in said)
    assert sum(text.endswith("told\n") for text in said) == 1


def failing(argument: dict[str, Any]) -> int:
    """Rank 1 cannot go on; the others wait for it."""
    job = join()
    if job.rank == 1:
        assert job.tell(MachineError("no disk"))
        return 4
    return told(lambda: job.exchange(b""))


def test_the_others_end_when_one_fails(gang: Gang) -> None:
    job = gang.start(3, "tests.test_distributed:failing", {})
    assert job.wait() == [5, 4, 5]
    assert job.said(0) == job.said(2) == ""


def test_a_taken_port_is_one_line(gang: Gang) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        job = gang.start(2, "tests.test_distributed:joining", {}, environ={"MASTER_PORT": port})
        assert job.wait([0]) == [4]
        assert f"port {port} of 127.0.0.1: cannot be opened (another program has it)" in job.err(0)
        os.kill(job.pids[1], signal.SIGKILL)
        job.wait([1])


def joining(argument: dict[str, Any]) -> int:
    return told(join)


# One result whatever the number of processes --------------------------------------------------------------------------

TIMINGS = (
    "seconds",
    "memory_bytes",
    "processes",
    "starts",
    "date",
    "total_evaluation_time_seconds",
    "command",
    "output_path",
    "batch_sizes",
    "git",  # of the moment: somebody may commit, and a busy machine may not answer in time
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("distributed") / "tiny")


def timeless(value: Any) -> Any:
    """Without what tells when and how fast."""
    if isinstance(value, dict):
        return {name: timeless(part) for name, part in value.items() if not name.endswith(TIMINGS)}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def left(output: Path) -> dict[str, Any]:
    """What a run left: results, samples in their order, sidecar lines sorted; JSON keeps every bit."""
    found: dict[str, Any] = {}
    for path in sorted(output.rglob("*.json*")):
        name = re.sub(r"_20\d\d-.*", "", str(path.relative_to(output)))
        if path.parent.name == "journal" or path.name == "run.json":
            continue
        assert name not in found
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            found[name] = timeless(json.loads(text))
            continue
        found[name] = [timeless(json.loads(line)) for line in text.splitlines()]
        if path.name.startswith("latents"):
            found[name].sort(key=json.dumps)
    return found


def command(folder: Path, output: Path, *more: str) -> list[str]:
    argv = ["run", "--model", str(folder), "--data", "sample", "--t_fast", "1", "--device", "cpu", "--no_report"]
    return [*argv, "--rows", "bound", "--gen_kwargs", "max_gen_toks=6", "--output_path", str(output), *more]


@pytest.fixture(scope="module")
def alone(gang: Gang, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Files and standard output of one process."""
    output = tmp_path_factory.mktemp("alone")
    done = gang.run(1, "tests.gang:command", command(folder, output, *MANY))
    return left(output), done.out(0).replace(str(output), "OUT")


MANY = ("--task", "gsm8k,wikitext,lambada_last_word", "--shots", "2", "--limit", DOCUMENTS, "--n", "2")


@pytest.mark.parametrize("world", [2, 3])
def test_results_do_not_depend_on_the_number_of_processes(
    gang: Gang, folder: Path, tmp_path: Path, alone: tuple[dict[str, Any], str], world: int
) -> None:
    done = gang.run(world, "tests.gang:command", command(folder, tmp_path, *MANY))
    files, said = alone
    found = left(tmp_path)
    assert found.keys() == files.keys() and any("latents" in name for name in found)
    for name, content in files.items():
        assert found[name] == content, name
    undated = [re.sub(r"_20\d\d-[\d:T.-]*", "", text) for text in (done.out(0).replace(str(tmp_path), "OUT"), said)]
    assert undated[0] == undated[1]
    assert all(done.out(rank) == done.said(rank) == "" for rank in range(1, world))
    journals = list(tmp_path.rglob("journal/*.jsonl"))
    assert 1 < len(journals) <= world
    costs = told_costs(tmp_path)
    assert costs and all(cost["processes"] == world for cost in costs)
    assert all(0 < cost["peak_memory_bytes"] <= cost["total_memory_bytes"] for cost in costs)


def told_costs(output: Path) -> list[dict[str, Any]]:
    (path,) = output.rglob("results_*.json")
    return list(json.loads(path.read_text("utf-8"))["ltm_eval"]["cost"].values())


def working(argv: list[str]) -> int:
    """The command; what this process worked is told."""
    from ltm_eval.system import progress as pulse

    code = run_command(argv)
    print(json.dumps(pulse.working_seconds()))
    return code


def test_the_cost_is_that_of_all_processes(gang: Gang, folder: Path, tmp_path: Path) -> None:
    """Time at work, tokens and operations of two ranks, each of which does half; waiting is not counted."""
    own = command(folder, tmp_path / "two", "--task", "gsm8k", "--limit", "6", "--shots", "1", "--n", "2")
    done = gang.run(2, "tests.test_distributed:working", own)
    (cost,) = told_costs(tmp_path / "two")
    each = [float(done.out(rank).splitlines()[-1]) for rank in range(2)]
    assert min(each) > 0 and cost["processes"] == 2
    assert cost["working_seconds"] == pytest.approx(sum(each), rel=1e-6)
    (sidecar,) = tmp_path.rglob("latents_*.jsonl")
    records = [json.loads(line) for line in sidecar.read_text("utf-8").splitlines()]
    assert len(records) == 6 * 3  # a greedy answer and two samples, which share its fit
    steps = sum(row["t_fast"] * row["fitted_tokens"] for row in records if row["idx"] == 0)
    assert (cost["fits"], cost["fitted_token_steps"]) == (6, steps) and steps > 0
    assert cost["new_tokens"] == sum(row["new_tokens"] for row in records) > 0
    parameters = sum(parameter.numel() for parameter in tiny_model().parameters())
    per_token = 6 * parameters + 12 * 2 * 8 * 512  # two layers of width 8, as `flops` counts
    passes = sum(row["answer_token_passes"] + row["fit_token_passes"] * (row["idx"] == 0) for row in records)
    assert cost["token_passes"] == passes > sum(row["read_tokens"] + row["new_tokens"] for row in records)
    assert cost["flops"] == pytest.approx(per_token * (steps + passes))


def test_more_ranks_than_documents(gang: Gang, folder: Path, tmp_path: Path) -> None:
    argv = ("--task", "gsm8k", "--shots", "1", "--limit", "1")
    gang.run(1, "tests.gang:command", command(folder, tmp_path / "1", *argv))
    done = gang.run(4, "tests.gang:command", command(folder, tmp_path / "4", *argv))
    assert left(tmp_path / "1") == left(tmp_path / "4")
    assert len(list((tmp_path / "4").rglob("journal/*.jsonl"))) <= 2 and done.said(3) == ""


@pytest.mark.parametrize("more", [("--condition", "demos,prior", "--shots", "2"), ("--rethink", "1", "--shots", "1")])
def test_conditions_and_rethinking_are_shared_too(
    gang: Gang, folder: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    for world in (1, 2):
        gang.run(world, "tests.gang:command", command(folder, tmp_path / str(world), "--limit", "2", *more))
    assert left(tmp_path / "1") == left(tmp_path / "2")


def small_chunks(argv: list[str]) -> int:
    """The command, baselines being given two requests at a time."""
    baselines.CHUNK = 2
    return run_command([*argv, "--batch_size", "1"])


def test_baselines_are_shared_too(gang: Gang, folder: Path, tmp_path: Path) -> None:
    gpt2 = tiny_gpt2(tmp_path / "gpt2")
    argv = ("--task", "gsm8k", "--shots", "0", "--limit", "2", "--n", "2", "--baseline", str(gpt2))
    for world in (1, 3):
        output = tmp_path / str(world)
        done = gang.run(world, "tests.test_distributed:small_chunks", command(folder, output, *argv))
        assert all(done.said(rank) == "" for rank in range(1, world))
    assert left(tmp_path / "1") == left(tmp_path / "3")
    journals = [path.parent.parent.name for path in (tmp_path / "3").rglob("journal/*.jsonl")]
    assert sum("gpt2" in name for name in journals) > 1


def answers_in(output: Path) -> list[str]:
    """Keys of all answers in a run's journals."""
    lines = [line for path in output.rglob("journal/*.jsonl") for line in path.read_text("utf-8").splitlines()]
    rows = [json.loads(line.partition(" ")[2]) for line in lines]
    return [row["key"] for row in rows if "key" in row]


RESUMED = ("--task", "gsm8k", "--shots", "1", "--limit", "8", "--batch_size", "1")


def dying(argv: list[str]) -> int:
    """The command; rank 1 is killed as its second answer is written, in the job's first start."""
    if os.environ["RANK"] == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        arm("journal.written:3:kill")
    code = run_command(argv)
    if code and "TORCHELASTIC_RUN_ID" in os.environ:
        sys.exit(code)
    return code


@pytest.mark.faults
def test_a_killed_job_resumes_on_another_number_of_processes(gang: Gang, folder: Path, tmp_path: Path) -> None:
    gang.run(1, "tests.gang:command", command(folder, tmp_path / "1", *RESUMED))
    argv = command(folder, tmp_path / "3", *RESUMED)
    job = gang.start(3, "tests.test_distributed:dying", argv, environ={"LTM_EVAL_RANK_SILENCE": str(2 * SILENCE)})
    assert job.wait() == [5, -9, 5]
    assert (job.err(0) + job.err(2)).count("error[5]: rank 1 (") == 1
    kept = answers_in(tmp_path / "3")
    assert 2 <= len(kept) == len(set(kept)) <= 8
    done = gang.run(2, "tests.gang:command", argv)
    assert len(kept) == 8 or f"resuming: {len(kept)} of 8 answers found" in done.err(0)
    every = answers_in(tmp_path / "3")
    assert len(every) == len(set(every)) == 8
    assert left(tmp_path / "1") == left(tmp_path / "3")
    (alone,), (cost,) = told_costs(tmp_path / "1"), told_costs(tmp_path / "3")
    assert (alone["starts"], cost["starts"]) == (1, 2) or len(kept) == 8
    assert cost["working_seconds"] >= sum(spent_in(tmp_path / "3")) - 1e-3 > 0


def spent_in(output: Path) -> list[float]:
    """What every answer in a run's journals took its process."""
    lines = [line for path in output.rglob("journal/*.jsonl") for line in path.read_text("utf-8").splitlines()]
    return [row["spent_seconds"] for row in (json.loads(line.partition(" ")[2]) for line in lines) if "key" in row]


def restarted(argv: list[str]) -> int:
    """torchrun --nproc-per-node 2 --max-restarts 1, its workers forked instead of started anew."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="restarted",
        max_restarts=1,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        start_method="fork",
        monitor_interval=0.1,
    )
    elastic_launch(config, dying)(argv)
    return 0


@pytest.mark.faults
def test_a_rank_killed_under_max_restarts_changes_nothing(gang: Gang, folder: Path, tmp_path: Path) -> None:
    gang.run(1, "tests.gang:command", command(folder, tmp_path / "1", *RESUMED))
    done = gang.run(1, "tests.test_distributed:restarted", command(folder, tmp_path / "2", *RESUMED))
    assert "resuming: " in done.err(0) and "SIGKILL" in done.err(0)
    every = answers_in(tmp_path / "2")
    assert len(every) == len(set(every)) == 8
    assert left(tmp_path / "1") == left(tmp_path / "2")


def unlike(argument: dict[str, Any]) -> int:
    """The command; rank 1 has other files under the same names."""
    os.chdir(argument["here"])
    if os.environ["RANK"] == "1" and argument["what"] == "checkpoint":
        os.chdir(argument["elsewhere"])
    if os.environ["RANK"] == "1" and argument["what"] == "program":
        paths.source_sha256 = lambda: "another"
    return run_command(argument["argv"])


@pytest.mark.parametrize(("what", "words"), [("checkpoint", "settings.model_sha"), ("program", "source_sha256")])
def test_ranks_with_other_files_are_refused(gang: Gang, tmp_path: Path, what: str, words: str) -> None:
    for name, seed in (("here", 0), ("there", 1)):
        (tmp_path / name).mkdir()
        tiny_folder(tmp_path / name / "tiny", tiny_model(seed=seed))
    argv = command(Path("tiny"), tmp_path / "out", "--task", "gsm8k", "--shots", "0", "--limit", "1")
    argument = {"what": what, "argv": argv, "elsewhere": str(tmp_path / "there")}
    job = gang.start(2, "tests.test_distributed:unlike", {**argument, "here": str(tmp_path / "here")})
    assert job.wait() == [6, 6]
    said = job.err(0) + job.err(1)
    assert said.count("error[6]") == 1 and "rank 1 (on " in said and words in said


@pytest.mark.faults
def test_a_rank_that_waits_for_the_others_can_be_stopped(gang: Gang, folder: Path, tmp_path: Path) -> None:
    argv = command(folder, tmp_path, "--task", "gsm8k", "--shots", "0", "--limit", "1")
    argv[argv.index("--t_fast") + 1] = "9999"
    job = gang.start(2, "tests.gang:command", argv)
    until(lambda: list(tmp_path.glob("*/run.json")))
    time.sleep(2)  # it may well be stopped sooner, too
    os.kill(job.pids[1], signal.SIGTERM)
    codes, said = job.wait(), job.said(0) + job.said(1)
    assert codes == [5, 143] and said.count("rank 1: stopped by SIGTERM") == 1, said


def test_an_error_is_told_once(gang: Gang, folder: Path, tmp_path: Path) -> None:
    job = gang.start(3, "tests.gang:command", command(folder, tmp_path, "--task", "gsm9k"))
    assert job.wait() == [2, 2, 2]
    said = "".join(job.said(rank) for rank in range(3))
    assert said.count("error[2]") == 1 == said.count("\n")


def pinned(argument: dict[str, Any]) -> int:
    """The hub tells every process that asks another commit, as a branch does that moves; its cache is a folder."""
    import huggingface_hub

    from ltm_eval.harness.evaluation import Subject
    from ltm_eval.harness.run import construct

    asked: list[str] = []
    rank = os.environ["RANK"]

    class Api:
        def model_info(self, repo: str, *, revision: str | None, timeout: float) -> Any:
            asked.append(repo)
            return type("Info", (), {"sha": f"commit-of-{rank}-{len(asked)}"})

    def snapshot(repo: str, *, revision: str, **options: Any) -> str:
        asked.append(revision)
        place = Path(argument["place"]) / rank / revision
        shutil.copytree(argument["folder"], place)
        return str(place)

    huggingface_hub.HfApi = Api  # type: ignore[misc]
    huggingface_hub.snapshot_download = snapshot
    huggingface_hub.constants.HF_HUB_OFFLINE = False
    job = join()
    config = RunConfig(model="owner/name", revision="main", device="cpu", quiet=True)
    lm: Any = construct(Subject("owner/name", "ltm", {"pretrained": "owner/name", "revision": "main"}), config)
    print(json.dumps([asked, lm.get_model_info()["model_revision"]]))
    job.close()
    return 0


def test_the_hub_is_asked_once_for_all_ranks(gang: Gang, folder: Path, tmp_path: Path) -> None:
    argument = {"folder": str(folder), "place": str(tmp_path)}
    done = gang.run(2, "tests.test_distributed:pinned", argument)
    first, second = (json.loads(done.out(rank)) for rank in range(2))
    assert first == [["owner/name", "commit-of-0-1"], "commit-of-0-1"]
    assert second == [["commit-of-0-1"], "commit-of-0-1"]


# Who is lost ----------------------------------------------------------------------------------------------------------


def waiting(argument: dict[str, Any]) -> int:
    """All ranks but the first wait in an exchange; the first computes and does not look."""
    job = join()
    print("here", flush=True)
    if job.rank == 0:
        time.sleep(LONG)
    return told(lambda: job.exchange(b""))


def lose(gang: Gang, how: signal.Signals, rank: int = 1) -> Started:
    """Start 3 processes and lose one of them; the two others end with code 5, long before what they wait for."""
    job = gang.start(3, "tests.test_distributed:waiting", {}, environ={"LTM_EVAL_RANK_SILENCE": str(SILENCE)})
    until(lambda: all(job.out(r) for r in range(3)))
    time.sleep(0.5)  # it may be lost before the others wait as well
    os.kill(job.pids[rank], how)
    others = [r for r in range(3) if r != rank]
    codes = job.wait(others)
    if how == signal.SIGSTOP:
        os.kill(job.pids[rank], signal.SIGKILL)
    job.wait([rank])
    assert codes == [5, 5], [job.err(r) for r in others]
    return job


@pytest.mark.faults
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_is_noticed_and_named_once(gang: Gang, how: signal.Signals) -> None:
    job = lose(gang, how)
    said = job.said(0) + job.said(2)
    assert said.count("\n") == 1 and f"process {job.pids[1]}" in said, said
    assert said.startswith("ltm-eval: error[5]: rank 1 (") and "the same command resumes" in said
    assert "has not answered for 5 s" in said


@pytest.mark.faults
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_first_rank_is_noticed_by_those_whose_store_it_kept(gang: Gang, how: signal.Signals) -> None:
    job = lose(gang, how, rank=0)
    said = job.said(1) + job.said(2)
    assert said.count("error[5]") == 1 and "no longer answers" in said


@pytest.mark.faults
def test_the_only_rank_left_tells_that_the_first_is_lost(gang: Gang) -> None:
    """The memory killer took rank 0, which keeps the store, and rank 1, which would have told in its place."""
    job = gang.start(3, "tests.test_distributed:waiting", {}, environ={"LTM_EVAL_RANK_SILENCE": str(SILENCE)})
    until(lambda: all(job.out(r) for r in range(3)))
    for rank in (0, 1):
        os.kill(job.pids[rank], signal.SIGKILL)
    assert job.wait() == [-9, -9, 5]
    assert job.said(2).count("error[5]") == 1 and "no longer answers" in job.said(2)


def exchanging(argument: dict[str, Any]) -> int:
    """Exchange for three seconds."""
    job = join()
    print("here", flush=True)
    return told(lambda: [(job.exchange(b"x"), time.sleep(0.05)) for _ in range(60)] and job.close())


@pytest.mark.faults
def test_a_job_that_was_stopped_as_a_whole_goes_on(gang: Gang) -> None:
    """Ctrl-Z and fg, for longer than a silent rank is waited for."""
    environ = {"LTM_EVAL_RANK_SILENCE": str(SILENCE), "LTM_EVAL_RANK_STALL": str(SILENCE)}
    job = gang.start(3, "tests.test_distributed:exchanging", {}, environ=environ)
    until(lambda: all(job.out(r) for r in range(3)))
    for pid in job.pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.8 * SILENCE)
    for pid in job.pids:
        os.kill(pid, signal.SIGCONT)
    assert job.wait() == [0, 0, 0], [job.err(rank) for rank in range(3)]


def hanging(argument: dict[str, Any]) -> int:
    """Rank 1 comes to a kernel that never returns, before its second fast step."""
    import ctypes

    from ltm_eval.inference.batching import Batch

    library = {"beside other threads": ctypes.CDLL, "with the interpreter": ctypes.PyDLL}[argument["how"]]
    descend, passed = Batch.descend, []

    def step(self: Batch, *given: Any) -> Any:
        passed.append(1)
        if int(os.environ["RANK"]) == argument["rank"] and len(passed) == 2:
            print("hangs", flush=True)
            library(None).sleep(int(LONG))
        return descend(self, *given)

    Batch.descend = step  # type: ignore[method-assign]
    return run_command(argument["argv"])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("how", "rank", "words"),
    [
        ("beside other threads", 0, "is stuck: no step for 4 s"),
        ("with the interpreter", 1, "has not answered for 5 s"),
    ],
)
def test_a_kernel_that_never_returns_is_noticed(
    gang: Gang, folder: Path, tmp_path: Path, how: str, rank: int, words: str
) -> None:
    """The interpreter of a rank that waits for a GPU goes on; where it does not, the rank falls silent."""
    argument = {"how": how, "rank": rank, "argv": command(folder, tmp_path)}
    seconds = {"LTM_EVAL_RANK_STALL": "4", "LTM_EVAL_RANK_SILENCE": str(SILENCE)}
    job = gang.start(2, "tests.test_distributed:hanging", argument, environ=seconds)
    until(lambda: "hangs" in job.out(rank))
    assert job.wait([1 - rank]) == [5]
    if how == "with the interpreter":
        os.kill(job.pids[rank], signal.SIGKILL)
        job.wait([rank])
    else:
        assert job.wait([rank]) == [5]
    said = [line for r in range(2) for line in job.err(r).splitlines() if "error" in line]
    assert len(said) == 1 and said[0].startswith(f"ltm-eval: error[5]: rank {rank} (") and words in said[0], said
    assert "the same command resumes" in said[0]


def test_the_limits_of_silence_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LTM_EVAL_RANK_SILENCE", "LTM_EVAL_RANK_STALL"):
        monkeypatch.setenv(name, "0.5")
        with pytest.raises(UsageError, match=f"{name} must be a number of seconds, at least 1, got '0.5'"):
            join(Launch(0, 2, 0, "127.0.0.1", free_port()))
        monkeypatch.delenv(name)
