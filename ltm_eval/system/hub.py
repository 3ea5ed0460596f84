"""The Hugging Face hub, asked within a bounded time: a server that accepts and never answers must not hold a run up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


T = TypeVar("T")

NETWORK_SECONDS = 30.0
"""For everything that is asked before data flow."""
REFUSALS = {
    "GatedRepoError": "the hub lets only those read it who asked for it; ask there, then set HF_TOKEN",
    "RepositoryNotFoundError": "the hub knows no such repository, or shows it only to its members; set HF_TOKEN",
    "RevisionNotFoundError": "the repository has no such revision; give a commit, tag or branch that it has",
}
"""What the hub itself says no to, by the name of its client's error."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises, unless that takes longer.

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
    worker.join(seconds)
    if raised:
        raise raised[0]
    if not found:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return found[0]


def commit_of(repo: str, revision: str | None) -> str | None:
    """The commit that a revision of a model repository is now.

    Raises:
        Exception: whatever the hub's client raises; TimeoutError after 30 seconds.
    """
    from huggingface_hub import HfApi

    return within(NETWORK_SECONDS, lambda: HfApi().model_info(repo, revision=revision, timeout=10).sha)


def is_hub_id(source: str | Path) -> bool:
    """Whether `source` is no path here and has the form `owner/name`."""
    form = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(source))
    return form is not None and not str(source).endswith(".pt") and not Path(source).exists()


def is_repository_name(text: str) -> bool:
    """Whether the hub could have a repository of this name, `owner/name` or, of its oldest models, `name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


@dataclass(frozen=True)
class Asked:
    """What the hub says of a revision."""

    commit: str | None
    """None where it says nothing."""
    silent: str = ""
    """Why."""


_told: dict[tuple[str, str | None], Asked] = {}
"""What another process of the job was told."""


def remember(repo: str, revision: str | None, asked: Asked) -> None:
    """Do not ask for this revision again: another process of the job has."""
    _told[repo, revision] = asked


def ask(repo: str, revision: str | None) -> Asked:
    """The commit of a revision, or why the hub does not tell it."""
    from huggingface_hub import constants

    if (repo, revision) in _told:
        return _told[repo, revision]
    if constants.HF_HUB_OFFLINE:
        return Asked(None, "HF_HUB_OFFLINE is set")
    try:
        return Asked(commit_of(repo, revision))
    except Exception as error:  # noqa: BLE001 - the client's errors have no common class; each is the reason told
        return Asked(None, type(error).__name__)


def go_offline() -> None:
    """Only caches are read from here on: other libraries try again and again where the hub is silent."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


def is_cached(repo: str) -> bool:
    """Whether the cache holds the config of a model repository."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, "config.json"), str)
