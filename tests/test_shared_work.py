"""A call of a model shared by processes, which are threads here: who does what, and what all know at its end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from lm_eval.api.instance import Instance

from ltm_eval.runs.journal import Journal, read
from ltm_eval.runs.processes import Job
from ltm_eval.runs.worklist import Answer, Request, Work, Worklist, first_documents, is_by_token
from ltm_eval.system.errors import RefusedError
from ltm_eval.system.launch import Launch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.faults
SETTINGS = {"model": "x"}


class Thread(Job):
    """One of several threads that exchange as processes do."""

    def __init__(self, rank: int, world: int, barrier: threading.Barrier, table: list[bytes]) -> None:
        super().__init__(Launch(rank, world, rank, "here", 1))
        self.barrier, self.table = barrier, table

    def exchange(self, payload: bytes) -> list[bytes]:
        self.table[self.rank] = payload
        self.barrier.wait(120)
        found = list(self.table)
        self.barrier.wait(120)
        return found


def together(world: int, work: Callable[[Job], Any]) -> list[Any]:
    """What each of `world` threads returns."""
    barrier, table = threading.Barrier(world), [b""] * world
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(lambda rank: work(Thread(rank, world, barrier, table)), range(world)))


def items(number: int) -> list[Request]:
    """The first six of three prompts, the size of each its number; the last is asked twice."""
    arguments = [(chr(97 + (i % 3 if i < 6 else i)), "x" * i, i) for i in range(number)]
    found = [Request(instance=Instance("loglikelihood", {}, own, 0, metadata=("t", 0, 1))) for own in arguments]
    return [*found, found[-1]]


def answered(work: Work) -> list[int]:
    """Answer what is left, each with its number and who it was."""
    rank = work.worklist.job.rank
    for place in work.todo:
        work.done(place, Answer([work.requests[place].instance.args[2], rank]))
    return work.todo


@pytest.mark.parametrize("world", [1, 2, 3])
def test_everything_is_answered_once_and_known_to_all(world: int) -> None:
    def one(job: Job) -> tuple[list[int], list[Answer]]:
        work = Worklist(job=job).open("k", items(12))
        return answered(work), work.close()

    done = together(world, one)
    places = [place for own, _ in done for place in own]
    assert (
        sorted(places) == list(range(12))
        and len({tuple(str(one.to_json()) for one in known) for _, known in done}) == 1
    )
    values = [answer.value for answer in done[0][1]]
    assert [value[0] for value in values] == [*range(12), 11]
    for value in values:
        assert value[0] in done[value[1]][0], "the answer is of the rank that made it"
    owners = [{value[1] for value in values[:6] if value[0] % 3 == owner} for owner in range(3)]
    assert all(len(own) == 1 for own in owners), "what shares a fit stays on one rank"
    if world == 2:
        loads = [sum(1 + place for place in own) for own, _ in done]
        assert max(loads) <= 4 / 3 * sum(loads) / 2


def test_what_one_rank_found_the_others_are_told(tmp_path: Path) -> None:
    """Folders that are not shared: rank 0 has found places 0 to 4, rank 1 places 3 to 7, rank 2 nothing."""
    wanted = items(12)
    for rank, found in ((0, range(5)), (1, range(3, 8))):
        own = Journal(tmp_path / str(rank), SETTINGS)
        for place in found:
            own.append(own.key(wanted[place].content), "t", Answer([place, 10]).to_json())
        own.close()

    def one(job: Job) -> tuple[list[int], list[Any], list[str]]:
        work = Worklist(Journal(tmp_path / str(job.rank), SETTINGS), job=job).open("k", wanted)
        todo = answered(work)
        return todo, [answer.value for answer in work.close()], work._sent

    done = together(3, one)
    assert sorted(place for todo, _, _ in done for place in todo) == list(range(8, 12))
    for _, values, _ in done:
        assert [value[0] for value in values] == [*range(12), 11]
        assert [value[1] for value in values[:8]] == [10] * 8
    sent = [key for _, _, keys in done for key in keys]
    assert len(sent) == len(set(sent)) == 12, "every answer that one lacks is sent, by one rank"


def test_ranks_that_are_asked_for_different_things(tmp_path: Path) -> None:
    def one(job: Job) -> str:
        try:
            Worklist(job=job).open("k", items(5 if job.rank else 6))
        except RefusedError as error:
            return str(error)
        return ""

    assert all("rank 1 (on" in told and "another list of requests (k)" in told for told in together(2, one))


def test_only_the_leading_rank_plans(tmp_path: Path) -> None:
    said: list[str] = []

    def one(job: Job) -> None:
        journal = Journal(tmp_path, SETTINGS)
        work = Worklist(journal, say=said.append, job=job).open("k", items(4))
        answered(work)
        work.close()
        journal.close()

    together(2, one)
    (plan,) = read(tmp_path).plans
    assert (plan.task, plan.kind, plan.total, plan.left) == ("t", "k", 4, 4) and said == []
    together(2, one)
    assert said == [f"resuming: 5 of 5 answers found in {tmp_path} (t)"] and len(read(tmp_path).plans) == 1


def test_the_end_of_a_batch_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    journal = Journal(tmp_path, SETTINGS)
    monkeypatch.setattr(journal.writer, "sync", lambda: flushed.append(1))
    worklist = Worklist(journal)
    work = worklist.open("k", items(3))
    before = len(flushed)
    worklist.sync()
    assert len(flushed) == before + 1
    answered(work)
    flushed.clear()
    work.close()
    assert flushed == [1]


def test_whose_tokens_costs_are_kept() -> None:
    """Of the first request and its first repeat, of the documents with the lowest numbers of each task."""

    def asked(doc_id: int, idx: int = 0, task: str = "t") -> Instance:
        return Instance("loglikelihood", {}, ("a", "b"), idx, (task, doc_id, 1))

    requests = [asked(doc_id) for doc_id in (7, 2, 5)] + [asked(9, task="u"), asked(2, idx=1)]
    wanted = first_documents(requests, 2)
    assert wanted == {("t", 2), ("t", 5), ("u", 9)} and first_documents(requests, 0) == frozenset()
    assert is_by_token(asked(2), 0, wanted)
    assert not is_by_token(asked(2), 1, wanted) and not is_by_token(asked(2, idx=1), 0, wanted)
    assert not is_by_token(asked(7), 0, wanted) and not is_by_token(asked(9), 0, wanted)
    assert is_by_token(asked(9, task="u"), 0, wanted)
