"""The Hugging Face hub, asked within a bounded time: a server that accepts and never answers must not hold a run up."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

NETWORK_SECONDS = 30.0
"""For everything that is asked before data flow."""


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


def go_offline_unless_reached(repo: str) -> str:
    """Why the hub does not tell about `repo`, and from then on only caches are read; nothing where it does.

    Other libraries try again and again where the hub is silent; told to stay offline they look into their caches.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        commit_of(repo, None)
    except Exception as error:  # noqa: BLE001 - the client's errors have no common class; each is the reason told
        constants.HF_HUB_OFFLINE = True
        return type(error).__name__
    return ""


def is_cached(repo: str) -> bool:
    """Whether the cache holds the config of a model repository."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, "config.json"), str)
