"""fp32 on a CPU: a document's record has the same bits whatever runs beside it, before it, or on how many processes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.commands import Commands, answers_of, free_port, json_of, lines_of, only, until

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = (
    "run --task gsm8k,wikitext --shots 1 --condition demos --fit_window each --n 2 --k 1,2 --t_fast 2 --rows bound "
    "--gen_kwargs max_gen_toks=8 --quiet --no_report"
)
ALL = "0,1,2,3"
TASKS = ("ltm_gsm8k", "ltm_wikitext")
FILTERS = ("strict-match", "flexible-extract")
ANSWERS = 4 + 4 * (1 + 2)  # bounds; greedy and two sampled answers
MOMENT = ("fit_seconds", "decode_seconds")


def made(folder: Path) -> dict[str, Any]:
    """What a run says of its documents, by document, and its figures."""
    model = folder / "demo"
    found: dict[str, Any] = {"results": json_of(only(model, "results_*.json"))["results"]}
    for kind in ("samples", "latents", "tokens"):
        for task in TASKS:
            records = lines_of(only(model, f"{kind}_{task}_*"))
            for record in records:
                for name in MOMENT:
                    record.pop(name, None)
            records.sort(
                key=lambda one: json.dumps([one["doc_id"], one.get("repeat"), one.get("filter"), one.get("part")])
            )
            found[f"{kind} {task}"] = records
    return found


@pytest.fixture(scope="session")
def whole(cli: Commands, shared: Callable[[str, Callable[[Path], None]], Path]) -> dict[str, Any]:
    """A run of four documents, in batches of the default size, that nothing interrupted."""
    return made(shared("whole", lambda out: cli.done(*COMMAND.split(), "--documents", ALL, "-o", out) and None))


def test_the_reference_is_of_four_documents(whole: dict[str, Any]) -> None:
    for task in TASKS:
        assert {one["doc_id"] for one in whole[f"samples {task}"]} == {0, 1, 2, 3}
        assert {one["doc_id"] for one in whole[f"latents {task}"]} == {0, 1, 2, 3}
    greedy, sampled = whole["samples ltm_gsm8k"][0]["resps"]
    assert len(greedy) == 1 and len(set(sampled)) == 2
    assert {f"pass@{k},{name}" for k in (1, 2) for name in FILTERS} <= whole["results"]["ltm_gsm8k"].keys()


@pytest.mark.parametrize("size", ["1", "3"])
def test_batch_size(cli: Commands, whole: dict[str, Any], tmp_path: Path, size: str) -> None:
    cli.done(*COMMAND.split(), "--documents", ALL, "--batch-size", size, "-o", tmp_path)
    assert made(tmp_path) == whole


@pytest.fixture(scope="module")
def subset(cli: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two of the four documents, named the other way round."""
    out = tmp_path_factory.mktemp("subset")
    cli.done(*COMMAND.split(), "--documents", "3,1", "-o", out)
    return made(out)


NUMBERED = ("doc_id", "stop_reasons")


def test_another_order_and_a_subset(whole: dict[str, Any], subset: dict[str, Any]) -> None:
    hashes = {
        one["prompt_hash"] for name in whole if "samples" in name for one in whole[name] if one["doc_id"] in (1, 3)
    }
    for name in whole.keys() - {"results"}:
        expected = [one for one in whole[name] if one["prompt_hash"] in hashes]
        bare = [
            [{k: v for k, v in one.items() if k not in NUMBERED} for one in some] for some in (subset[name], expected)
        ]
        assert bare[0] == bare[1] and expected, name


def test_a_subset_keeps_the_numbers_of_its_documents(whole: dict[str, Any], subset: dict[str, Any]) -> None:
    for name in whole.keys() - {"results"}:
        assert subset[name] == [one for one in whole[name] if one["doc_id"] in (1, 3)], name


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_resumed(cli: Commands, whole: dict[str, Any], tmp_path: Path, number: int) -> None:
    """Stopped after three answers; the same command makes the others alone, and says so."""
    command = [*COMMAND.split(), "--documents", ALL, "-o", tmp_path, "--batch_size"]
    started = cli.start(*command, "1")
    until(lambda: len(answers_of(tmp_path / "demo")) >= 3)
    started.kill(number)
    assert started.wait().code in (-signal.SIGKILL, 143)
    kept = {one["key"]: one for one in answers_of(tmp_path / "demo")}
    assert 3 <= len(kept) < ANSWERS and not list(tmp_path.glob("demo/results_*"))
    ended = cli.done(*command, "auto")
    assert "resuming" in ended.err and str(len(kept)) in ended.err
    answers = answers_of(tmp_path / "demo")
    assert [one for one in answers if one["key"] in kept] == list(kept.values())
    assert len({one["key"] for one in answers}) == len(answers) == ANSWERS
    assert made(tmp_path) == whole


def test_a_finished_run_is_not_made_again(cli: Commands, pair: Path, tmp_path: Path) -> None:
    """The same command on a finished folder ends in the same figures; another seed does not."""
    text_alone = COMMAND.replace("gsm8k,", "").replace("--n 2 --k 1,2", "").replace("--gen_kwargs max_gen_toks=8", "")
    command = [*text_alone.split(), "--limit", "1", "-o", tmp_path]
    figures = [cli.done(*command) and newest(tmp_path) for _ in range(2)]
    assert figures[0] == figures[1]
    cli.done(*command[:-1], tmp_path / "seed", "--seed", "5")
    assert newest(tmp_path / "seed") != figures[0]


def newest(folder: Path) -> Any:
    return json_of(max(folder.glob("demo/results_*.json")))["results"]


def test_two_processes(cli: Commands, whole: dict[str, Any], tmp_path: Path) -> None:
    """They share the requests inside the run; the environment is what torchrun gives."""
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        cli.start(
            *COMMAND.split(),
            "--documents",
            ALL,
            "-o",
            tmp_path,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    ended = [rank.wait() for rank in ranks]
    assert [one.code for one in ended] == [0, 0], ended
    journals = [path for path in tmp_path.glob("demo/journal/*.jsonl") if '"key"' in path.read_text("utf-8")]
    assert len(journals) == 2
    assert made(tmp_path) == whole
