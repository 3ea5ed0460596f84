"""Which requests of a call are still to be answered, and all answers at its end: the one place where a method of a
model meets the journal.

    work = worklist.open("generate_until", items)    # looks answers up
    for place in work.todo: ...                      # answers what is left here, in any order
        work.done(place, answer)                     # as each one ends
    answers = work.close()                           # of every item, in the order of the items

The processes of a job share a call: `share` decides which of the missing items are this process's own, `gather`
exchanges what each has answered. Both are collective: every process opens the same items in the same order, even with
nothing to do, and closes them. Equal items are answered once.
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


@dataclass(frozen=True)
class Item:
    """One thing to answer: a request, one of its repeats, or all of them where they are made together."""

    content: Any  # what the answer depends on beside the model and its settings, as JSON
    task: str  # for those who watch
    size: int  # what it costs, in any unit; for sharing the work, longest first
    # items of which this is equal stay on one process, because they share a fit; or None
    together: Any = None


def _kind(record: Any) -> str:
    """Return the class of a line of an answer, read or made."""
    is_latent = isinstance(record, LatentRecord) or (isinstance(record, dict) and "fitted_tokens" in record)
    return (LatentRecord if is_latent else AnswerRecord).__name__


SidecarRecord = Annotated[
    Annotated[LatentRecord, Tag(LatentRecord.__name__)] | Annotated[AnswerRecord, Tag(AnswerRecord.__name__)],
    Discriminator(_kind),
]


@dataclass(frozen=True)
class Answer(OpenRecord):
    """What a model said to one item."""

    value: Any  # the answer, as JSON
    records: Many[SidecarRecord] = ()  # of the sidecar; the reader puts its task and document in
    failed: str = ""  # why there is no answer; `value` is then what stands for one
    tokens: Many[TokenRecord] = ()  # NLL by token, of items that ask for it
    # wall time since the answer before it was done in the same process
    spent_seconds: float = field(default=0.0, compare=False)
    # the journal's file that held it, or the rank that made it; empty if it was made here
    source: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the row of a journal, in which fields that say nothing are left out."""
        row = super().to_json()
        names = ("spent_seconds", "value", "records", "tokens", "failed")
        return {name: row[name] for name in names if row[name] or name in ("value", "records")}


def content_of(request: Instance, *, repeat: int | None = 0) -> list[Any]:
    """Return what an answer depends on: kind and arguments of the request, and the repeat (None: all are one item)."""
    return [request.request_type, list(request.args), getattr(request, "other_prompt", None), repeat]


def item_of(request: Instance, *, repeat: int | None = 0, by_token: bool = False) -> Item:
    """Return a request as an item.

    Args:
        by_token: whether the answer holds what each token costs, also of the request's `reference`, the text that a
            task wants to hear. An answer without that does not stand for one with.
    """
    size = sum(len(part) for part in request.args if isinstance(part, str))
    together = [request.args[0], getattr(request, "other_prompt", None)]
    content = [*content_of(request, repeat=repeat), *([BY_TOKEN, reference_of(request)] if by_token else [])]
    return Item(content, str(request.task_name), size, together)


def first_documents(requests: Sequence[Instance], number: int) -> frozenset[tuple[str, int]]:
    """Return task and index of the first `number` documents of every task among the requests."""
    found: dict[str, set[int]] = defaultdict(set)
    for request in requests if number else ():
        found[str(request.task_name)].add(int(request.doc_id or 0))
    return frozenset((task, doc_id) for task, own in found.items() for doc_id in sorted(own)[:number])


def reference_of(request: Instance) -> str:
    """Return the text that a task expects after the prompt, with what precedes it; empty if it names none."""
    return str(getattr(request, "reference", ""))


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
    """Opens the calls of one model; without a journal nothing is kept beyond a call."""

    def __init__(
        self, journal: Journal | None = None, *, say: Callable[[str], None] | None = None, job: Job | None = None
    ) -> None:
        """A worklist.

        Args:
            journal: where answers are looked up and appended.
            say: gets the line that tells what was found; None says nothing.
            job: the processes that share the work; None is this one alone.
        """
        self.journal, self.say, self.job = journal, say, job or Job()
        self._closed: dict[str, Answer] = {}

    def open(self, kind: str, items: Sequence[Item]) -> Work:
        """Begin a call of the model's method `kind`."""
        return Work(self, kind, items)

    def keep(self, answers: Mapping[str, Answer]) -> None:
        """Keep the answers of a call that is closed, if there is a journal."""
        if self.journal is not None:
            self._closed.update(answers)

    def take(self) -> list[Answer]:
        """Return the answers of all calls closed since this was last asked, equal items once."""
        found, self._closed = list(self._closed.values()), {}
        return found

    def key(self, content: Any) -> str:
        """Return the name of an item, the same in every process."""
        return self.journal.key(content) if self.journal is not None else digest(content)

    def sync(self) -> None:
        """Bring what was answered to the disk, at the end of a batch."""
        if self.journal is not None:
            self.journal.sync()


class Work:
    """One call."""

    def __init__(self, worklist: Worklist, kind: str, items: Sequence[Item]) -> None:
        """Look up what is there and share out the rest."""
        progress.rest()
        self.worklist, self.kind, self.items = worklist, kind, items
        self.keys = [worklist.key(item.content) for item in items]
        self.answers: dict[str, Answer] = self._found()  # by key; what this process knows
        self._sent: list[str] = []  # keys whose answers this process has and another lacks
        missing = {key: place for place, key in reversed(list(enumerate(self.keys))) if key not in self.answers}
        self.todo: list[int] = self.share(sorted(missing.values()))  # places of the items to answer here
        self._announce(missing)
        progress.begin()
        self._since = time.monotonic()

    def share(self, missing: list[int]) -> list[int]:
        """Return which of the missing items (indices, ascending, each key once) this process answers.

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
        ranks = share([self._piece(place) for place in nobody_has], job.world)
        mine = [place for place, rank in zip(nobody_has, ranks, strict=True) if rank == job.rank]
        self._sent += [self.keys[place] for place in mine]
        return mine

    def _piece(self, place: int) -> tuple[str, float]:
        """Return what an item belongs to, and its cost."""
        item = self.items[place]
        return self.keys[place] if item.together is None else digest(item.together), float(item.size)

    def gather(self) -> None:
        """Make `answers` hold every key, whichever process answered it.

        Raises:
            IncompleteError: a process is lost.
        """
        if self.worklist.job.world == 1:
            return
        own = {key: (self.answers[key].source, self.answers[key].to_json()) for key in self._sent}
        for rank, text in enumerate(self.worklist.job.exchange(json.dumps(own).encode())):
            for key, (source, row) in json.loads(text).items():
                if key not in self.answers:
                    row["source"] = source or f"rank {rank}"
                    self.answers[key] = Answer.from_json(row, where=f"rank {rank}")

    def done(self, place: int, answer: Answer, *, batch_ended: bool = False) -> None:
        """Keep the answer of an item; it outlasts this process from here on.

        Args:
            place: of the item.
            answer: what was found.
            batch_ended: whether nothing else of the same batch follows.

        Raises:
            MachineError: it cannot be written.
            IncompleteError: another process is lost; this answer is kept.
        """
        progress.mark()
        key, item = self.keys[place], self.items[place]
        before, self._since = self._since, time.monotonic()
        answer = self.answers[key] = replace(answer, spent_seconds=round(self._since - before, 6))
        if self.worklist.journal is not None:
            self.worklist.journal.append(key, item.task, answer.to_json(), sync=batch_ended)
        self.worklist.job.check()

    def close(self) -> list[Answer]:
        """Return the answer of every item, in their order.

        Raises:
            MachineError: the last answers did not reach the disk.
        """
        progress.rest()
        self.worklist.sync()
        self.gather()
        self.worklist.keep(self.answers)
        return [self.answers[key] for key in self.keys]

    def _found(self) -> dict[str, Answer]:
        journal = self.worklist.journal
        found = {}
        for key in dict.fromkeys(self.keys) if journal is not None else ():
            row = journal.find(key) if journal is not None else None
            if journal is not None and row is not None:
                file = journal.contents.answers[key].path
                found[key] = Answer.from_json({**row, "source": file.name}, where=str(file))
        return found

    def _announce(self, missing: Mapping[str, int]) -> None:
        """Say what was found, and write down what is planned, by task."""
        journal = self.worklist.journal
        if journal is None or not self.worklist.job.leads:
            return
        found = sum(key not in missing for key in self.keys)
        totals = Counter({key: item.task for key, item in zip(self.keys, self.items, strict=True)}.values())
        left = Counter(self.items[place].task for place in missing.values())
        if found and self.worklist.say is not None:
            where = f"{journal.folder} ({', '.join(totals)})"
            self.worklist.say(f"resuming: {found} of {len(self.items)} answers found in {where}")
        for task in totals if missing else ():
            journal.plan({"task": task, "kind": self.kind, "total": totals[task], "left": left[task]})


def say_on_stderr(line: str) -> None:
    """Print one line of the command."""
    print(f"ltm-eval: {line}", file=sys.stderr)
