"""The sidecar line of every request: what latent inference did, as `results.LatentRecord`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch

from ltm_eval.elbo import kl_per_layer_nats
from ltm_eval.latent_record import LatentRecord
from ltm_eval.perplexity import RollingScore
from ltm_eval.strict_files import digest
from ltm_eval.token_pieces import Pieces, pieces_of_bytes
from ltm_eval.token_record import ANSWER, TARGET, TEXT, TokenRecord, rounded
from ltm_eval.tokenizer import END_OF_TEXT, Tokenizer
from ltm_eval.worklist import reference_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lm_eval.api.instance import Instance

    from ltm_eval.config import FitConfig
    from ltm_eval.context import Context
    from ltm_eval.decode import Continuation
    from ltm_eval.gaussians import Posterior
    from ltm_eval.rethink import Candidate
    from ltm_eval.rolling import TextScore
    from ltm_eval.windows import Document

AT_PRIOR_NATS = 0.01
"""A latent dimension with less KL than this counts as back at the prior."""

TRACED_DOCUMENTS = 32
"""Documents of a task, by their index, of which every step's KL is kept layer by layer."""


@dataclass(frozen=True)
class Recorder:
    """Makes records of one model's settings."""

    condition: str
    """What z is fitted on."""
    fit: FitConfig
    """Of the fast loop."""

    def answered(
        self,
        request: Instance,
        context: Context,
        posterior: Posterior,
        *,
        repeat: int,
        continuation: Continuation | None,
        seconds: tuple[float, float],
    ) -> LatentRecord:
        """One generated or scored continuation; `seconds` are of fitting and decoding."""
        return LatentRecord(
            **named(request),
            **self._facts((posterior,), on_text=context.document is not None),
            kl_steps_nats=kl_steps(request, (posterior,)) if context.document and not repeat else (),
            repeat=repeat,
            demonstrations=context.demonstrations,
            demonstrations_read=context.demonstrations_read,
            demonstrations_fitted=context.demonstrations_fitted if context.document else 0,
            prompt_tokens=context.prompt_tokens,
            read_tokens=len(context.read),
            fitted_tokens=context.fitted_tokens,
            fitted_windows=len(context.document.windows) if context.document else 0,
            truncated=context.truncated,
            new_tokens=len(continuation.tokens) if continuation else 0,
            stop_reason=continuation.stop_reason if continuation else "",
            fit_seconds=seconds[0],
            decode_seconds=seconds[1],
            fit=_name(context.document.key) if context.document else "",
        )

    def rethought(self, request: Instance, context: Context, candidate: Candidate, *, repeat: int) -> LatentRecord:
        """One candidate of rethinking or of its control: the fit is that of its own trace."""
        trace = candidate.continuation
        fitted = candidate.fast_steps > 0
        base = self.answered(
            request,
            context,
            candidate.posterior,
            repeat=repeat,
            continuation=trace,
            seconds=(candidate.fit_seconds, trace.seconds),
        )
        name = _name(f"{base.fit} {base.prompt_hash} {repeat}".encode())  # every candidate has a fit of its own
        own = self._facts((candidate.posterior,), on_text=fitted)
        return replace(
            base,
            **{**own, "t_fast": candidate.fast_steps},
            fitted_tokens=candidate.fitted_tokens,
            fitted_windows=int(fitted),
            fit=name if fitted else "",
        )

    def bounded(self, request: Instance, windows: Sequence[Document], done: TextScore) -> LatentRecord:
        """One text; figures are sums over its windows."""
        tokens = sum(len(document.windows[0].tokens) for document in windows)
        return LatentRecord(
            **named(request),
            **self._facts(done.posteriors, on_text=True),
            kl_steps_nats=kl_steps(request, done.posteriors),
            repeat=0,
            demonstrations=0,
            demonstrations_read=0,
            demonstrations_fitted=0,
            prompt_tokens=sum(document.scored for document in windows),
            read_tokens=tokens,
            fitted_tokens=tokens,
            fitted_windows=len(windows),
            truncated=False,
            new_tokens=0,
            stop_reason="",
            fit_seconds=done.fit_seconds,
            decode_seconds=0.0,
            draws_nats=done.draws_nats,
            fit=_name(*(document.key for document in windows)),
        )

    def _facts(self, posteriors: Sequence[Posterior], *, on_text: bool) -> dict[str, Any]:
        """What fits tell of themselves: sums of nats over posteriors, means of the rest."""
        mu, log_var = (torch.cat([getattr(p, name) for p in posteriors]) for name in ("mu", "log_var"))
        per_dimension = -0.5 * (1 + log_var - mu.square() - log_var.exp())
        traces = [
            [nats for nats in p.trace.objective_nats[:, 0].tolist() if not math.isnan(nats)] or [math.nan]
            for p in posteriors
        ]
        longest = max(map(len, traces))
        steps = [trace + trace[-1:] * (longest - len(trace)) for trace in traces]
        return {
            "condition": self.condition,
            "preset": self.fit.preset,
            "t_fast": longest - 1 if on_text else 0,
            "nll_nats": math.fsum(float(p.trace.nll_nats[-1, 0]) for p in posteriors) if on_text else None,
            "kl_nats": math.fsum(float(p.trace.kl_nats[-1, 0]) for p in posteriors) if on_text else None,
            "objective_nats": tuple(map(math.fsum, zip(*steps, strict=True))) if on_text else (),
            "kl_per_layer_nats": tuple(kl_per_layer_nats(mu, log_var).sum(0).tolist()),
            "mean_log_var_per_layer": tuple(log_var.flatten(2).mean((0, 2)).tolist()),
            "share_at_prior": float((per_dimension < AT_PRIOR_NATS).float().mean()),
        }


def text_tokens(request: Instance, done: TextScore, tokenizer: Tokenizer, *, draws: int) -> TokenRecord | None:
    """What the tokens of a whole text cost given z; None where they were not kept."""
    text = request.args[0]
    ids = tokenizer.encode(text, end_of_text=True)
    if not isinstance(done.score, RollingScore) or len(ids) != len(done.token_nats):
        return None
    pieces = pieces_of_bytes(tokenizer.bytes_each(ids, end_of_text=END_OF_TEXT.encode()), done.token_nats)
    rows = done.score.rows
    return _tokens(
        request, pieces, TEXT, tokenizer=tokenizer.name, draws=draws, nats=rows["nll_given_z"], kl_nats=rows["kl"]
    )


def answer_tokens(request: Instance, continuation: Continuation, tokenizer: Tokenizer, *, text: str) -> TokenRecord:
    """What the tokens of an answer, `text`, cost when they were generated, up to its end before a stop string."""
    pieces = pieces_of_bytes(tokenizer.bytes_each(continuation.tokens), continuation.token_nats).first(len(text))
    return _tokens(request, pieces, ANSWER, tokenizer=tokenizer.name, draws=0, nats=math.fsum(pieces.nats))


def target_tokens(
    request: Instance, ids: Sequence[int], nats: Sequence[float], tokenizer: Tokenizer
) -> TokenRecord | None:
    """What the tokens of the data set's answer cost after the prompt; None where they were not scored."""
    if not nats:
        return None
    reference = reference_of(request)
    pieces = pieces_of_bytes(tokenizer.bytes_each(ids), nats).after(len(reference) - len(reference.lstrip()))
    return _tokens(request, pieces, TARGET, tokenizer=tokenizer.name, draws=0, nats=math.fsum(nats))


def _tokens(  # noqa: PLR0913 - a text, its costs, and what they are of
    request: Instance,
    pieces: Pieces,
    part: str,
    *,
    tokenizer: str,
    draws: int,
    nats: float,
    kl_nats: float | None = None,
) -> TokenRecord:
    return TokenRecord(
        **named(request),
        repeat=0,
        part=part,
        tokenizer=tokenizer,
        draws=draws,
        nats=nats,
        kl_nats=kl_nats,
        piece_characters=pieces.characters,
        piece_nats=rounded(pieces.nats),
    )


def kl_steps(request: Instance, posteriors: Sequence[Posterior]) -> tuple[tuple[float, ...], ...]:
    """KL of each layer at every fast step, summed over posteriors of one length; of the first documents only."""
    kept = [p.trace.kl_layers_nats for p in posteriors if p.trace.kl_layers_nats is not None]
    if int(request.doc_id or 0) >= TRACED_DOCUMENTS or request.idx or len(kept) < len(posteriors):
        return ()
    if len({len(one) for one in kept}) != 1:
        return ()
    steps = torch.stack([one[:, 0].cpu().double() for one in kept]).sum(0).tolist()
    return tuple(tuple(float(f"{nats:.4g}") for nats in step) for step in steps)


def _name(*keys: bytes) -> str:
    """A short name of what was fitted."""
    return sha256(b"".join(keys)).hexdigest()[:16]


def named(request: Instance) -> dict[str, Any]:
    """Which request a record is of."""
    return {
        "task": str(request.task_name),
        "doc_id": int(request.doc_id or 0),
        "idx": request.idx,
        "prompt_hash": digest(request.args[0]),
    }
