"""A model's run in its folder: its manifest, whether it is resumed, and the names of its files.

    <output>/<model>/run.json                the run: settings, what is asked, data, name of its results; written once
    <output>/<model>/journal/                finished answers (`journal`)
    <output>/<model>/results_<date>.json     `ltm_eval.status`: running, incomplete or complete

The same command resumes under the same names. A run with other settings begins beside finished ones and uses none of
their answers; it is refused beside an unfinished one, which could then not be resumed. The program itself, its source
and the libraries that compute, counts as a setting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_eval.results.files import read_object
from ltm_eval.runs.journal import FOLDER, Contents, Journal, digest, files_of, read
from ltm_eval.runs.processes import Job
from ltm_eval.runs.worklist import Answer, Worklist, say_on_stderr
from ltm_eval.system import progress
from ltm_eval.system.errors import LtmEvalError, MachineError, RefusedError, ResultsError, masked_all
from ltm_eval.system.files import (
    check_regular,
    read_regular,
    refuse_links,
    remove_leftovers,
    unused_date,
    write_json_atomic,
)
from ltm_eval.system.machine import described, program
from ltm_eval.system.records import OpenRecord, mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


MANIFEST = "run.json"
RUNNING, INCOMPLETE, COMPLETE = "running", "incomplete", "complete"
REBUILD = "`ltm-eval status --rebuild` with its folder writes it anew from the journal"
VERSIONS = "versions."
SHOWN = 4  # differing fields that an error names


@dataclass(frozen=True)
class Manifest(OpenRecord):
    """What `run.json` holds."""

    date_id: str  # in the names of results, samples and latents
    settings: Mapping[str, Any]  # what finished answers are kept under
    asked: Mapping[str, Any]  # tasks and options that choose the requests and the figures
    data: Mapping[str, Any]  # by task: files, counts and digests
    version: str  # the program that began it, for readers

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Return the manifest of a run's folder; None if there is none.

        Raises:
            ResultsError: it cannot be used.
        """
        path = folder / MANIFEST
        check_regular(path, kind=ResultsError)
        try:
            return cls.from_json(json.loads(read_regular(path, kind=ResultsError)), where=str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MachineError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, RecursionError, ResultsError):
            raise ResultsError(f"{path}: damaged or edited; {REBUILD}") from None

    def write(self, folder: Path) -> None:
        """Write it, complete or not at all."""
        write_json_atomic(folder / MANIFEST, self)

    def results(self, folder: Path) -> Path:
        """Return its results file."""
        return folder / f"results_{self.date_id}.json"


@dataclass
class Session:
    """A model at work in its folder."""

    folder: Path
    manifest: Manifest
    worklist: Worklist
    was_complete: bool  # whether its results were complete already; they stay until new ones are
    warnings: list[str]  # for readers of the results
    # files of the journal that were there before, with the start of the command that wrote each
    launches: Mapping[str, str]
    costs_before: Mapping[str, Any]  # by task: what an earlier start under the same names wrote of its cost

    @property
    def results(self) -> Path:
        """Its results file."""
        return self.manifest.results(self.folder)

    def made(self) -> list[tuple[str, Answer]]:
        """Return the answers of the calls closed since the last time, each once, with the start that made it.

        The start of this command is an empty text.
        """
        return [
            (self.launches.get(answer.source, answer.source if answer.source.endswith(".jsonl") else ""), answer)
            for answer in self.worklist.take()
        ]

    def check(self) -> None:
        """Raise MachineError if the folder is not there any more: nothing may be written where it was."""
        if not (self.folder / MANIFEST).is_file():
            raise MachineError(f"{self.folder}: deleted or moved during the run; run the same command again")

    def write(self, content: dict[str, Any], *, status: str) -> None:
        """Write the results of the tasks that are finished.

        Raises:
            MachineError: the folder is not there any more, or cannot be written.
        """
        self.check()
        if status == COMPLETE or not self.was_complete:
            content["ltm_eval"]["status"] = status
            write_json_atomic(self.results, content)


@contextmanager
def session(
    folder: Path,
    lm: Any,
    *,
    asked: Mapping[str, Any],
    data: Mapping[str, Any],
    fresh: bool = False,
    job: Job | None = None,
) -> Iterator[Session]:
    """Begin a run or resume it; only while its output folder is held (`files.holding`).

    Of several processes the leading one settles and writes; each appends to a journal file of its own.

    `lm.settings` names what answers are kept under; `lm.worklist` is replaced until the block ends. However it ends,
    finished answers are on disk and the results file says how far it is.

    Args:
        folder: of the model.
        lm: the model.
        asked: see `Manifest`.
        data: see `Manifest`.
        fresh: leave an unfinished run of other settings behind.
        job: the processes that share the run; None is this one alone.

    Raises:
        RefusedError: an unfinished run of other settings or data lies there, or the processes differ in them.
        ResultsError: its manifest cannot be used although there is a journal.
        MachineError: the folder cannot be read or written.
    """
    job = job or Job()
    refuse_links(folder, folder / FOLDER)
    if job.leads:
        remove_leftovers(folder)
    wanted = Manifest(unused_date(folder), _plain(lm.settings), _plain(asked), _plain(data), described())
    job.agree(flat({"settings": wanted.settings, "asked": wanted.asked, "data": wanted.data}))
    journal, manifest = _opened(folder, wanted, fresh=fresh, job=job)
    journal.head |= {"run": manifest.to_json(), "launch": journal.launch}
    damaged = journal.contents.damaged
    warnings = [f"{damaged} damaged lines of the journal were skipped; what they held is done again"] if damaged else []
    for line in warnings if job.leads else ():
        say_on_stderr(line)
    costs = mapping(_block_of(manifest.results(folder)).get("cost"))
    state = Session(
        folder,
        manifest,
        Worklist(journal, say=say_on_stderr, job=job),
        was_complete=status_of(manifest.results(folder)) == COMPLETE,
        warnings=warnings,
        launches={head.file: head.launch for head in journal.contents.heads},
        costs_before={task: cost for task, cost in costs.items() if isinstance(cost, dict)},
    )
    before, lm.worklist = lm.worklist, state.worklist
    try:
        yield state
    except BaseException:
        with suppress(LtmEvalError, OSError, ValueError):  # what ended the run is reported, not what else goes wrong
            journal.close()
            if job.leads and status_of(state.results) == RUNNING:
                content = json.loads(state.results.read_text("utf-8"))
                content["ltm_eval"]["status"] = INCOMPLETE
                write_json_atomic(state.results, content)
        raise
    else:
        journal.close()
    finally:
        progress.rest()
        lm.worklist = before


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` as it comes back from a file, without access tokens."""
    found: dict[str, Any] = masked_all(json.loads(json.dumps(content, default=str)))
    return found


def _opened(folder: Path, wanted: Manifest, *, fresh: bool, job: Job) -> tuple[Journal, Manifest]:
    """Return the journal, and the manifest that the leading process settles; the others read once that is done."""
    settled = b""
    if job.leads:
        journal = Journal(folder, wanted.settings)
        manifest = _settled(folder, wanted, journal.contents, fresh=fresh)
        settled = json.dumps([journal.launch, manifest.to_json()]).encode()
    launch, row = json.loads(job.exchange(settled)[0])
    if not job.leads:
        journal, manifest = Journal(folder, wanted.settings), Manifest.from_json(row, where="rank 0")
        journal.launch = launch
    return journal, manifest


def status_of(results: Path) -> str:
    """Return the status of a results file; empty if there is none."""
    block = _block_of(results)
    return str(block.get("status", COMPLETE if block else ""))


def _block_of(results: Path) -> dict[str, Any]:
    """Return what this program adds to a results file; nothing if the file or the block cannot be read."""
    try:
        return mapping(read_object(results).get("ltm_eval"))
    except (ResultsError, MachineError):
        return {}


def _settled(folder: Path, wanted: Manifest, found: Contents, *, fresh: bool) -> Manifest:
    """Return the manifest of the run that is resumed, or write that of the one that begins.

    Raises:
        RefusedError: an unfinished run with other settings lies there.
        ResultsError: the manifest is missing or cannot be used.
    """
    there = Manifest.read(folder)
    if there is None and found.answers:
        raise ResultsError(f"{folder / MANIFEST}: missing beside a journal of answers; {REBUILD}")
    if there is not None:
        shared = there.data.keys() & wanted.data.keys()
        changes = differing(
            {**there.settings, "data": _without_places({name: there.data[name] for name in shared})},
            {**wanted.settings, "data": _without_places({name: wanted.data[name] for name in shared})},
        )
        if not changes and there.asked == wanted.asked:
            return there
        count = answers_under(there.settings, found) if changes else 0
        if count and status_of(there.results(folder)) != COMPLETE and not fresh:
            raise _refusal(folder, there, count, changes)
        if count:
            say_on_stderr(f"{count} earlier answers in {folder} are of other settings and not used: {_listed(changes)}")
    wanted.write(folder)
    return wanted


def _without_places(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the data but where they lie: the same files may be elsewhere, as after a requeue."""
    return {name: value for name, value in flat(data).items() if name.rpartition(".")[2] != "source"}


def differing(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return fields of nested mappings that differ, as `field old → new`; options first, versions last."""

    def short(value: Any) -> str:
        text = "none" if value is None else str(value)
        return text if len(text) <= 20 else f"{text[:12]}…"

    old, new = flat(there), flat(wanted)
    names = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    names.sort(key=lambda name: (name.startswith(VERSIONS), name != f"{VERSIONS}source_sha256", name))
    return [f"{name} {short(old.get(name))} → {short(new.get(name))}" for name in names]


def check_program(folders: Iterable[Path], *, fresh: bool) -> None:
    """Refuse, before any model time, to resume an unfinished run of another version of the program.

    Args:
        folders: of the models that a command evaluates.
        fresh: whether such a run is discarded.

    Raises:
        RefusedError: there is one.
    """
    now = program("transformers")
    for folder in folders if not fresh else ():
        there = Manifest.read(folder)
        if there is None or status_of(there.results(folder)) == COMPLETE:
            continue
        before = there.settings.get("versions") or {}
        wanted = {name: now.get(name) for name in {*before, *program()}}
        if before != wanted and (count := answers_under(there.settings, read(folder))):
            changes = differing({"versions": before}, {"versions": wanted})
            raise _refusal(folder, there, count, changes)


def _refusal(folder: Path, there: Manifest, count: int, changes: Sequence[str]) -> RefusedError:
    """Return the error of a command that cannot go on with the unfinished run in a folder."""
    begun = f"{folder} holds an unfinished run ({count} answers) of"
    if all(change.startswith(VERSIONS) for change in changes):
        versions = _listed([change.removeprefix(VERSIONS) for change in changes], 2)
        return RefusedError(
            f"{begun} another program: {versions}. Finish it with ltm_eval {there.version}, name another "
            "--output_path, or give it up with --fresh"
        )
    return RefusedError(
        f"{begun} other settings: {_listed(changes)}. Finish it with its own command, name another --output_path, or "
        "give it up with --fresh"
    )


def _listed(changes: Sequence[str], number: int = SHOWN) -> str:
    return ", ".join(changes[:number]) + (f" and {len(changes) - number} more" if len(changes) > number else "")


def answers_under(settings: Mapping[str, Any], found: Contents) -> int:
    """Return how many answers in a journal are of these settings."""
    wanted = digest(settings)
    files = {head.file for head in found.heads if digest(head.settings) == wanted}
    return sum(place.path.name in files for place in found.answers.values())


def flat(content: Mapping[str, Any], *, at: str = "") -> dict[str, Any]:
    """Return nested mappings as one, names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= flat(value, at=f"{at}{name}.") if isinstance(value, Mapping) else {f"{at}{name}": value}
    return found


def rebuild(folder: Path) -> Path:
    """Write a lost manifest again, from the journal's newest file.

    Raises:
        ResultsError: no file of the journal names a run.
    """
    runs = {head.file: head.run for head in read(folder).heads if head.run is not None}
    newest = max((path for path in files_of(folder) if path.name in runs), key=os.path.getmtime, default=None)
    if newest is None:
        raise ResultsError(f"{folder}: no journal that tells of a run; evaluate with --output_path first")
    Manifest.from_json(runs[newest.name], where=str(newest)).write(folder)
    return folder / MANIFEST
