"""Access the Hugging Face hub within a bounded time, and once per job.

The hub's client limits only single socket operations, so a server that accepts and never answers would block a run.
Every request therefore runs in its own thread; after a timeout nothing else is requested for a while. The ranks of a
job ask together, since a branch may move between two requests.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

NETWORK_SECONDS = 30.0  # limit of a request before data flow
SILENT_SECONDS = 600.0  # pause after a hub did not answer
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # what the client reads on import
TRUE = {"1", "ON", "YES", "TRUE"}
REFUSALS = {  # by the name of the client's exception
    "GatedRepoError": "the hub lets only those read it who asked for it; ask there, then set HF_TOKEN",
    "RepositoryNotFoundError": "the hub knows no such repository, or shows it only to its members; set HF_TOKEN",
    "RevisionNotFoundError": "the repository has no such revision; give a commit, tag or branch that it has",
}


class Ranks(Protocol):
    """The processes of a job (`runs.processes.Job`)."""

    world: int

    @property
    def leads(self) -> bool:
        """Whether this process asks for all ranks."""

    def exchange(self, payload: bytes) -> list[bytes]:
        """Return the payload of every process."""


@dataclass(frozen=True)
class Asked:
    """The hub's answer for a revision: its commit, or why there is none."""

    commit: str | None
    silent: str = ""


_told: dict[tuple[str, str | None], Asked] = {}  # answers to the job's leading process
_silences: dict[str, tuple[float, str]] = {}  # by endpoint: time of the last failure (monotonic clock) and its reason


def within(work: Callable[[], T]) -> T:
    """Run `work` in a thread for at most `NETWORK_SECONDS`; return its result or raise its error.

    Raises:
        TimeoutError: it takes longer; the thread is abandoned.
    """
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            raised.append(error)

    worker = Thread(target=run, daemon=True)
    worker.start()
    worker.join(NETWORK_SECONDS)
    if raised:
        raise raised[0]
    if not found:
        raise TimeoutError(f"no answer in {NETWORK_SECONDS:.0f} s")
    return found[0]


def ask(repo: str, revision: str | None = None, *, job: Ranks | None = None) -> Asked:
    """Return the current commit of a revision of a model repository, or why the hub does not answer.

    Args:
        repo: `owner/name`, or a name without an owner.
        revision: commit, tag or branch; None is the default branch.
        job: ranks that ask together and cache the same answer. If there is none, all of them use only local caches
            from then on, in other libraries too.

    Raises:
        IncompleteError: a process of the job is lost.
    """
    from huggingface_hub import HfApi, constants

    asked = _told.get((repo, revision))
    if asked is None and (job is None or job.leads):
        commit, silent = _answer(lambda: HfApi().model_info(repo, revision=revision, timeout=10).sha)
        asked = Asked(commit, silent)
    if job is None:
        assert asked is not None
        return asked
    asked = Asked(**json.loads(job.exchange(json.dumps(asdict(asked)).encode() if asked and job.leads else b"")[0]))
    if asked.silent:
        constants.HF_HUB_OFFLINE = True
    if job.world > 1:
        _told[repo, revision] = asked
    return asked


def agree_on(source: object, revision: object, *, job: Ranks) -> None:
    """Make all ranks load the same commit of a hub checkpoint; do nothing for other sources.

    Args:
        source: source of a model, the same on all ranks.
        revision: the requested revision.
        job: the ranks.

    Raises:
        IncompleteError: a process of the job is lost.
    """
    if job.world > 1 and isinstance(source, str) and is_hub_id(source):
        ask(source, str(revision) if revision else None, job=job)


def why_unserved(
    repo: str, files: Iterable[str], *, kind: str = "model", revision: str | None = None, switches: Iterable[str] = ()
) -> str:
    """Return why the hub does not serve files of a repository; empty if it serves them.

    Args:
        repo: name of the repository.
        files: paths in the repository.
        kind: `model` or `dataset`.
        revision: commit, tag or branch; None is the default branch.
        switches: further environment variables that disable requests.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    def look() -> None:
        for name in files:
            get_hf_file_metadata(hf_hub_url(repo, name, repo_type=kind, revision=revision), timeout=10)

    return _answer(look, switches)[1]


def _answer(question: Callable[[], T], switches: Iterable[str] = ()) -> tuple[T | None, str]:
    """Return the answer, or None and the reason why there is none."""
    from huggingface_hub import constants

    named = [name for name in (*SWITCHES, *switches) if os.environ.get(name, "").upper() in TRUE]
    if constants.HF_HUB_OFFLINE or set(named) - set(SWITCHES):
        return None, f"not asked, {named[0]} is set" if named else "not asked again"
    since, silence = _silences.get(constants.ENDPOINT, (0.0, ""))
    if silence and time.monotonic() - since < SILENT_SECONDS:
        return None, silence
    try:
        return within(question), ""
    except TimeoutError as error:
        _silences[constants.ENDPOINT] = time.monotonic(), str(error)
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - the client's errors have no common class
        return None, type(error).__name__


def is_hub_id(source: str | Path) -> bool:
    """Return whether `source` has the form `owner/name` and is not an existing path."""
    form = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(source))
    return form is not None and not str(source).endswith(".pt") and not Path(source).exists()


def is_repository_name(text: str) -> bool:
    """Return whether a name is valid on the hub: `owner/name`, or `name` for its oldest models."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def is_cached(repo: str) -> bool:
    """Return whether the config of a model repository is cached."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, "config.json"), str)
