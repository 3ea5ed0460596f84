"""Ask the Hugging Face hub within a bounded time, and once in a job.

The hub's client limits single socket operations only, so a server that accepts and never answers would hold a run up.
Every question therefore runs in a thread of its own; once the hub was silent, nothing else is asked for a while. The
processes of a job ask together, since a branch may move between two questions.
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

NETWORK_SECONDS = 30.0  # for everything that is asked before data flow
SILENT_SECONDS = 600.0  # a hub that did not answer is not asked again for so long
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # what the client reads when it is imported
TRUE = {"1", "ON", "YES", "TRUE"}
REFUSALS = {  # by the name of the client's error
    "GatedRepoError": "the hub lets only those read it who asked for it; ask there, then set HF_TOKEN",
    "RepositoryNotFoundError": "the hub knows no such repository, or shows it only to its members; set HF_TOKEN",
    "RevisionNotFoundError": "the repository has no such revision; give a commit, tag or branch that it has",
}


class Ranks(Protocol):
    """The processes of a job (`runs.processes.Job`)."""

    world: int

    @property
    def leads(self) -> bool:
        """Whether this process asks for all."""

    def exchange(self, payload: bytes) -> list[bytes]:
        """Return the payload of every process."""


@dataclass(frozen=True)
class Asked:
    """What the hub says of a revision: its commit, or why there is no answer."""

    commit: str | None
    silent: str = ""


_told: dict[tuple[str, str | None], Asked] = {}  # what the job's leading process was told
_silences: dict[str, tuple[float, str]] = {}  # by endpoint: when it did not answer (monotonic clock), and the reason


def within(work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises, unless that takes longer than `NETWORK_SECONDS`.

    Raises:
        TimeoutError: it does; `work` is left to itself.
    """
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
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
    """Return the commit that a revision of a model repository is now, or why the hub does not tell.

    Args:
        repo: `owner/name`, or a name without an owner.
        revision: commit, tag or branch; None is the default branch.
        job: the processes that ask together and get the same answer, which they keep. If there is none, all of them
            read only caches from then on, other libraries included.

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
    """Let several processes load the same commit of a hub checkpoint; do nothing if `source` is something else.

    Args:
        source: what a model is loaded from; all processes were given the same.
        revision: what was asked for.
        job: the processes.

    Raises:
        IncompleteError: a process of the job is lost.
    """
    if job.world > 1 and isinstance(source, str) and is_hub_id(source):
        ask(source, str(revision) if revision else None, job=job)


def why_unserved(
    repo: str, files: Iterable[str], *, kind: str = "model", revision: str | None = None, switches: Iterable[str] = ()
) -> str:
    """Return why the hub does not serve files of a repository; empty if it does.

    Args:
        repo: its name.
        files: paths in it.
        kind: `model` or `dataset`.
        revision: commit, tag or branch; None is the default branch.
        switches: further environment variables that forbid to ask.
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
    except Exception as error:  # noqa: BLE001 - the client's errors have no common class; each is the reason told
        return None, type(error).__name__


def is_hub_id(source: str | Path) -> bool:
    """Return whether `source` is no path here and has the form `owner/name`."""
    form = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(source))
    return form is not None and not str(source).endswith(".pt") and not Path(source).exists()


def is_repository_name(text: str) -> bool:
    """Return whether the hub could have a repository of this name, `owner/name` or, of its oldest models, `name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def is_cached(repo: str) -> bool:
    """Return whether the cache holds the config of a model repository."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, "config.json"), str)
