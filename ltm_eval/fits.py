"""Posteriors of the contexts of one call of a model: fitted in batches, when the first job of a batch is asked for."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval import failpoints
from ltm_eval.failures import why_unusable
from ltm_eval.gaussians import Posterior
from ltm_eval.jobs import GenerationJob, Job, ScoringJob, key_of
from ltm_eval.memory import finish
from ltm_eval.posterior import fit_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ltm_eval.batch_limit import BatchLimit
    from ltm_eval.config import FitConfig
    from ltm_eval.context import Context
    from ltm_eval.model import LatentThoughtModel


@dataclass(frozen=True)
class Fitted:
    """One distinct context with its posterior, ready to condition answers."""

    posterior: Posterior
    """Of one row, on the CPU or the model's device."""
    key: bytes
    """Names the fitted text."""
    fit_seconds: float
    """Share of the batch's fitting time."""
    failure: str | None = None
    """Why the fit cannot be used; its request gets no answer then."""

    @property
    def usable(self) -> Posterior:
        """The posterior, or one of zeros where the fit failed."""
        if self.failure is None:
            return self.posterior
        zeros = torch.zeros_like(self.posterior.mu)
        return replace(self.posterior, mu=zeros, log_var=zeros.clone())

    def z(self, noise: Tensor | None) -> Tensor:
        """mu, or mu + noise * sigma: (L, N, D); zeros where the fit failed, so that nothing is computed with NaN."""
        if self.failure is not None:
            return torch.zeros_like(self.posterior.mu[0])
        return self.posterior.mu[0] if noise is None else self.posterior.at(noise.to(self.posterior.mu.device))[0]


class Fits:
    """One posterior for each distinct context of a call's jobs."""

    def __init__(
        self,
        model: LatentThoughtModel,
        config: FitConfig,
        jobs: Sequence[GenerationJob | ScoringJob],
        *,
        seed: int,
        limit: BatchLimit,
        sync: Callable[[], None],
    ) -> None:
        """Nothing is fitted yet.

        Args:
            jobs: those of the call that share their context's time.
            seed: of the noise.
            limit: of contexts that are fitted together.
            sync: called before each batch: what the one before has answered must reach the disk.
        """
        self.model, self.config, self.seed = model, config, seed
        self.limit, self._sync = limit, sync
        self._last: dict[bytes, Fitted] = {}
        self._sharing = Counter(key_of(job.context) for job in jobs)

    def seconds(self, job: GenerationJob | ScoringJob, fitted: Fitted) -> float:
        """A job's share of its fit's time."""
        return fitted.fit_seconds / max(1, self._sharing[key_of(job.context)])

    def of(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Fitted]]:
        """Every job with its context's posterior; jobs of one context follow one another and share it.

        Contexts are fitted in batches, longest first, when the first job of a batch is asked for.
        """
        sharing = _by_context(jobs)
        for batch in self.limit.batches(own[0].context.document for own in sharing):
            fitted = self._fit_contexts([sharing[place][0].context for place in batch])
            for place in batch:
                for job in sharing[place]:
                    yield job, fitted[key_of(job.context)]

    def _fit_contexts(self, contexts: Iterable[Context]) -> dict[bytes, Fitted]:
        """One posterior per distinct context; those of the batch before are kept, for jobs of another configuration."""
        distinct = {key_of(context): context for context in contexts}
        kept = {key: fitted for key, fitted in self._last.items() if key in distinct}
        missing = {key: context for key, context in distinct.items() if key not in kept}
        self._sync()  # what the batch before has answered
        failpoints.moment("lm.fit")
        begun = time.monotonic()
        fits = [context.document for context in missing.values() if context.document is not None]
        posterior = fit_documents(self.model, fits, self.config, seed=self.seed) if fits else None
        finish(self.model.device)
        seconds = (time.monotonic() - begun) / max(1, len(missing))
        row = 0
        for key, context in missing.items():
            if context.document is None or posterior is None:
                kept[key] = Fitted(Posterior.prior(self.model), key, 0.0)
                continue
            own = posterior.row(row)
            kept[key] = Fitted(own, key, seconds, why_unusable(own, tokens=context.fitted_tokens))
            row += 1
        self._last = kept
        return kept


def _by_context(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that share a context together, those of the longest fit first; those of equal shape follow one another."""
    sharing: dict[bytes, list[Job]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: (-len(job.context.read), job.index)):
        sharing[key_of(job.context)].append(job)
    return sorted(sharing.values(), key=_length)


def _length(jobs: Sequence[GenerationJob | ScoringJob]) -> tuple[int, int, int, bytes]:
    """Sorts what takes longest to the front."""
    context = jobs[0].context
    windows, padded = context.document.shape if context.document else (0, 0)
    return -windows * padded, -padded, -len(context.read) - context.fitted_tokens, key_of(context)
