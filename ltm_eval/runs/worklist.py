"""Answers of a call of a model: found in the journal, made here, or made by another process of the job.

    work = worklist.open("generate_until", requests)    # looks answers up
    for place in work.todo: ...                         # indices of what is left to this process, in any order
        work.done(place, answer)                        # as each one ends
    answers = work.close()                              # of every request, in order

`open` and `close` are collective: every process of a job opens the same requests in the same order, even with nothing
to do, and closes them. Equal requests are answered once.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Tag

from ltm_eval.results.files import AnswerRecord, LatentRecord, TokenRecord
from ltm_eval.runs.journal import Journal, digest
from ltm_eval.runs.processes import Job, share
from ltm_eval.system import progress
from ltm_eval.system.options import Many
from ltm_eval.system.records import OpenRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from lm_eval.api.instance import Instance


BY_TOKEN = "by token"  # noqa: S105 - no password


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one answer is of: a repeat of lm-eval's instance, or all of them if they are answered together."""

    instance: Instance
    repeat: int | None = 0  # None: all
    # whether the per-token NLL is kept, also of `reference`; an answer without it does not stand for one with it
    by_token: bool = False
    batch: int | None = None  # number of the batch that one process answers whole; None shares by fit

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.instance.task_name)

    @property
    def reference(self) -> str:
        """What the task expects after the prompt, with what precedes it; empty if it names nothing."""
        return str(getattr(self.instance, "reference", ""))

    @property
    def asked(self) -> list[Any]:
        """Kind and arguments of the request, and the repeat."""
        own = self.instance
        return [own.request_type, list(own.args), getattr(own, "other_prompt", None), self.repeat]

    @property
    def content(self) -> list[Any]:
        """All that the answer depends on beside the model and its settings, as JSON."""
        return [*self.asked, *([BY_TOKEN, self.reference] if self.by_token else [])]

    @property
    def together(self) -> Any:
        """What requests have in common that stay on one process: the batch, or else the text that z is fitted on."""
        own = self.instance
        return self.batch if self.batch is not None else [own.args[0], getattr(own, "other_prompt", None)]

    @property
    def size(self) -> int:
        """Cost in letters, to share work and to begin with the longest."""
        return sum(len(part) for part in self.instance.args if isinstance(part, str))


def _kind(record: Any) -> str:
    """Return the class of an answer's record, read or made."""
    is_latent = isinstance(record, LatentRecord) or (isinstance(record, dict) and "fitted_tokens" in record)
    return (LatentRecord if is_latent else AnswerRecord).__name__


SidecarRecord = Annotated[
    Annotated[LatentRecord, Tag(LatentRecord.__name__)] | Annotated[AnswerRecord, Tag(AnswerRecord.__name__)],
    Discriminator(_kind),
]


@dataclass(frozen=True)
class Answer(OpenRecord):
    """What a model said to one request."""

    value: Any  # the answer, as JSON
    records: Many[SidecarRecord] = ()  # of the sidecar; the reader puts its task and document in
    failed: str = ""  # why there is no answer; `value` is then a placeholder
    tokens: Many[TokenRecord] = ()  # per-token NLL, if it was asked for
    # wall time since the previous answer in the same process
    spent_seconds: float = field(default=0.0, compare=False)
    # the journal's file that held it, or the rank that made it; empty if it was made here
    source: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the row of a journal, without empty fields."""
        row = super().to_json()
        names = ("spent_seconds", "value", "records", "tokens", "failed")
        return {name: row[name] for name in names if row[name] or name in ("value", "records")}


def first_documents(requests: Sequence[Instance], number: int) -> frozenset[tuple[str, int]]:
    """Return task and index of the first `number` documents of every task among the requests."""
    found: dict[str, set[int]] = defaultdict(set)
    for request in requests if number else ():
        found[str(request.task_name)].add(int(request.doc_id or 0))
    return frozenset((task, doc_id) for task, own in found.items() for doc_id in sorted(own)[:number])


def is_by_token(request: Instance, repeat: int, wanted: Collection[tuple[str, int]]) -> bool:
    """Return whether per-token NLL is kept: of the first request, and its first repeat, of the `wanted` documents."""
    return repeat == 0 and request.idx == 0 and (str(request.task_name), int(request.doc_id or 0)) in wanted


def numbered(requests: Sequence[Instance]) -> Iterator[tuple[Instance, int]]:
    """Yield each request with how often the same one came before: its repeat."""
    seen: dict[int, int] = defaultdict(int)
    for request in requests:
        yield request, seen[id(request)]
        seen[id(request)] += 1


class Worklist:
    """Open the calls of one model; without a journal nothing is kept beyond a call."""

    def __init__(
        self, journal: Journal | None = None, *, say: Callable[[str], None] | None = None, job: Job | None = None
    ) -> None:
        """Create a worklist.

        Args:
            journal: where answers are looked up and appended.
            say: called with a line about the answers found; None says nothing.
            job: the processes that share the work; None is this one alone.
        """
        self.journal, self.say, self.job = journal, say, job or Job()
        self._closed: dict[str, Answer] = {}

    def open(self, kind: str, requests: Sequence[Request]) -> Work:
        """Begin a call of the model's method `kind`."""
        return Work(self, kind, requests)

    def take(self) -> list[Answer]:
        """Return the answers of all calls closed since the last time, equal requests once; none without a journal."""
        found, self._closed = list(self._closed.values()), {}
        return found

    def sync(self) -> None:
        """Bring what was answered to the disk, at the end of a batch."""
        if self.journal is not None:
            self.journal.sync()


class Work:
    """One call."""

    def __init__(self, worklist: Worklist, kind: str, requests: Sequence[Request]) -> None:
        """Look up what is there and share out the rest."""
        progress.rest()
        self.worklist, self.kind, self.requests = worklist, kind, requests
        journal = worklist.journal
        self.keys = [digest(one.content) if journal is None else journal.key(one.content) for one in requests]
        self.answers: dict[str, Answer] = {}  # by key; what this process knows
        if journal is not None:
            for key in dict.fromkeys(self.keys):
                if (row := journal.contents.find(key)) is not None:
                    file = journal.contents.answers[key].path
                    self.answers[key] = Answer.from_json({**row, "source": file.name}, where=str(file))
        self._sent: list[str] = []  # keys whose answers this process has and another lacks
        missing = {key: place for place, key in reversed(list(enumerate(self.keys))) if key not in self.answers}
        self.todo: list[int] = self.share(sorted(missing.values()))  # indices of the requests to answer here
        if journal is not None and worklist.job.leads:
            self._announce(journal, missing)
        progress.begin()
        self._since = time.monotonic()

    def _announce(self, journal: Journal, missing: Mapping[str, int]) -> None:
        """Say what was found, and write down what is planned, by task."""
        found = sum(key not in missing for key in self.keys)
        totals = Counter({key: one.task for key, one in zip(self.keys, self.requests, strict=True)}.values())
        left = Counter(self.requests[place].task for place in missing.values())
        if found and self.worklist.say is not None:
            where = f"{journal.folder} ({', '.join(totals)})"
            self.worklist.say(f"resuming: {found} of {len(self.requests)} answers found in {where}")
        for task in totals if missing else ():
            journal.plan({"task": task, "kind": self.kind, "total": totals[task], "left": left[task]})

    def share(self, missing: list[int]) -> list[int]:
        """Return which of the missing requests (indices, ascending, each key once) this process answers.

        Raises:
            RefusedError: the processes were not asked for the same.
            IncompleteError: one of them is lost.
        """
        job = self.worklist.job
        if job.world == 1:
            return missing
        job.agree({f"list of requests ({self.kind})": digest(self.keys)})
        lacking = [set(json.loads(text)) for text in job.exchange(json.dumps(missing).encode())]
        firsts = {key: place for place, key in reversed(list(enumerate(self.keys)))}
        for key, place in firsts.items():
            having = [rank for rank, lacks in enumerate(lacking) if place not in lacks]
            if 0 < len(having) < job.world and having[0] == job.rank:
                self._sent.append(key)
        nobody_has = sorted(set.intersection(*lacking))
        pieces = [(digest(one.together), float(one.size)) for one in (self.requests[place] for place in nobody_has)]
        mine = [place for place, rank in zip(nobody_has, share(pieces, job.world), strict=True) if rank == job.rank]
        self._sent += [self.keys[place] for place in mine]
        return mine

    def done(self, place: int, answer: Answer, *, batch_ended: bool = False) -> None:
        """Keep the answer of a request; it outlasts this process from here on.

        Args:
            place: index of the request.
            answer: what the model said.
            batch_ended: whether nothing else of the same batch follows.

        Raises:
            MachineError: it cannot be written.
            IncompleteError: another process is lost; this answer is kept.
        """
        progress.mark()
        key = self.keys[place]
        before, self._since = self._since, time.monotonic()
        answer = self.answers[key] = replace(answer, spent_seconds=round(self._since - before, 6))
        if self.worklist.journal is not None:
            self.worklist.journal.append(key, self.requests[place].task, answer.to_json(), sync=batch_ended)
        self.worklist.job.check()

    def close(self) -> list[Answer]:
        """Return the answer of every request, in order, whichever process made it.

        Raises:
            MachineError: the last answers did not reach the disk.
            IncompleteError: a process is lost.
        """
        progress.rest()
        self.worklist.sync()
        if self.worklist.job.world > 1:
            own = {key: (self.answers[key].source, self.answers[key].to_json()) for key in self._sent}
            for rank, text in enumerate(self.worklist.job.exchange(json.dumps(own).encode())):
                for key, (source, row) in json.loads(text).items():
                    if key not in self.answers:
                        row["source"] = source or f"rank {rank}"
                        self.answers[key] = Answer.from_json(row, where=f"rank {rank}")
        if self.worklist.journal is not None:
            self.worklist._closed.update(self.answers)
        return [self.answers[key] for key in self.keys]


def say_on_stderr(line: str) -> None:
    """Print one line of the command."""
    print(f"ltm-eval: {line}", file=sys.stderr)
