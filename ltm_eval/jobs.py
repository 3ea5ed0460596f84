"""What a model is asked for, request by request: continuations to generate or to score, each with its context."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from ltm_eval.worklist import Item, item_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lm_eval.api.instance import Instance

    from ltm_eval.config import GenerationConfig
    from ltm_eval.context import Context

LETTERS_PER_NEW_TOKEN = 4
"""What a new token costs beside a letter of the prompt, where work is shared out."""


@dataclass(frozen=True)
class GenerationJob:
    """One continuation to generate."""

    index: int
    request: Instance
    repeat: int
    context: Context
    config: GenerationConfig
    by_token: bool = False
    """Whether what each token costs is kept."""


@dataclass(frozen=True)
class Unit:
    """Continuations that are finished together: one, or all of a request that rethinks."""

    place: int
    jobs: tuple[GenerationJob, ...]

    @property
    def rethinks(self) -> bool:
        """Whether it is a request that rethinks."""
        return bool(self.jobs[0].config.rethink)

    @property
    def item(self) -> Item:
        """As an item of the worklist."""
        first = self.jobs[0]
        item = item_of(first.request, repeat=None if self.rethinks else first.repeat, by_token=first.by_token)
        return replace(item, size=item.size + LETTERS_PER_NEW_TOKEN * first.config.max_new_tokens * len(self.jobs))


@dataclass(frozen=True)
class ScoringJob:
    """One continuation to score."""

    index: int
    request: Instance
    repeat: int
    context: Context
    continuation: tuple[int, ...]


Job = TypeVar("Job", "GenerationJob", "ScoringJob")


def units_of(jobs: Sequence[GenerationJob]) -> list[Unit]:
    """Jobs as units, in their order."""
    together: dict[tuple[int, int], list[GenerationJob]] = defaultdict(list)
    for job in jobs:
        together[id(job.request), 0 if job.config.rethink else job.repeat].append(job)
    return [Unit(place, tuple(own)) for place, own in enumerate(together.values())]


def decoded_together(jobs: Sequence[GenerationJob]) -> list[tuple[GenerationConfig, list[GenerationJob]]]:
    """Jobs that can be decoded together: of one configuration, greedy ones beside samples of the same limits."""
    limits = {(job.config.max_new_tokens, job.config.until): job.config for job in jobs if job.config.do_sample}
    groups: dict[GenerationConfig, list[GenerationJob]] = defaultdict(list)
    for job in jobs:
        own = job.config
        groups[own if own.do_sample else limits.get((own.max_new_tokens, own.until), own)].append(job)
    return list(groups.items())


def key_of(context: Context) -> bytes:
    """Names what z is fitted on."""
    return context.document.key if context.document else b"prior"
