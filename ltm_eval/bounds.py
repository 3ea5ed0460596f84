"""What a text costs under a fitted posterior: six figures per document, in nats, and which of them bound -log p(x).

For any q, E_{z~q}[-log p(x|z)] + KL(q || p) >= -log p(x), if the expectation is over noise that the fit has not seen:
the draws here come from streams of their own. Sources: arXiv:2502.01567 Eq. 2 for the ELBO; arXiv:1509.00519 Eq. 8
(IWAE) for the importance-weighted bound. `as_released` follows github
mingluzhao/Latent-Thought-LM @498e39e, `optimizer.py`, whose own-noise figure is no bound.

    bound            mean of -log p(x|z) over draws, plus KL           bound
    nll_given_z, kl  its two parts                                     -
    iwae_K           -log mean of p(x|z) p(z) / q(z) over K draws      bound
    prior            -log mean of p(x|z) over draws z ~ N(0, I)        bound
    as_released      the objective at the noise the fit was made for   no bound
    causal           z fitted on what precedes a chunk, chunk scored   a next-token code length

Models compute in fp32; sums over windows, draws, chunks and documents are float64. Draws of one document share a pass,
two documents never do, so a document's bits do not depend on its neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ltm_eval import pulse
from ltm_eval.config import FitConfig, fit_config
from ltm_eval.elbo import IGNORED, kl_nats
from ltm_eval.errors import UsageError
from ltm_eval.posterior import (
    Batch,
    Document,
    Posterior,
    Start,
    Window,
    fit_documents,
    generator,
    in_halves,
    padded_length,
    standard_normal,
)
from ltm_eval.workers import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ltm_eval.model import LatentThoughtModel

_Result = TypeVar("_Result")

DRAWS = 8
"""Fresh noise draws per document."""

_TOKENS_IN_FLIGHT = 65_536
"""Of all draws of a pass on a GPU."""
_CPU_TOKENS_IN_FLIGHT = 1024
"""On a CPU: where matrix products are as fast as they get."""
_CPU_LANES = 8
"""Most draws of a pass on a CPU; the usual numbers of draws are multiples of it."""


@dataclass(frozen=True)
class CausalConfig:
    """How the causal row is computed."""

    chunk: int = 64
    """Tokens scored between two refits of z."""
    t_fast: int = 16
    """Fast steps of each refit; 0 leaves the prior."""
    draws: int = DRAWS
    """Draws z ~ q in a chunk's mixture."""

    def __post_init__(self) -> None:
        for name in ("chunk", "draws"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"causal {name} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class RowOptions:
    """Which rows are computed, and with how many draws."""

    draws: int = DRAWS
    """Of `bound`; at least 2."""
    iwae: int = 64
    """K of `iwae_K`; 0 leaves the row out."""
    prior: int = 64
    """Of `prior`; 0 leaves the row out."""
    as_released: bool = True
    """Whether the released evaluator is run beside; costs a second fit unless the fit's noise is fixed already."""
    causal: CausalConfig | None = None
    """Options of the causal row; None leaves it out."""

    def __post_init__(self) -> None:
        for name, least in (("draws", 2), ("iwae", 0), ("prior", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name} must be a whole number of at least {least} draws, got {value!r}")


@dataclass(frozen=True)
class Estimate:
    """One row of one document."""

    nats: float
    """Sum over the document."""
    stderr_nats: float | None
    """Monte-Carlo standard error; 0 where nothing is drawn, None where a single draw tells nothing."""
    draws: int
    """Noise draws."""
    effective_draws: float
    """1 / (sum of squared weight shares): near 1, a single draw carries an importance-weighted row."""


@dataclass(frozen=True)
class Draws:
    """-log p(x|z) of every document at fresh draws z ~ q, and what a bound is made of."""

    nll_nats: Tensor
    """(S, B), float64, on the CPU: -log p(x|z_s)."""
    kl_nats: Tensor
    """(B,), float64, on the CPU: KL(q || p)."""

    @property
    def bound_nats(self) -> Tensor:
        """-ELBO, mean over draws: (B,), float64."""
        bound: Tensor = self.nll_nats.mean(0) + self.kl_nats  # fp32 numbers: their float64 sum is exact in any order
        return bound

    @property
    def bound_stderr_nats(self) -> Tensor:
        """Monte-Carlo standard error of `bound_nats`: (B,); KL is exact and adds nothing."""
        spread = torch.stack([column.clone().std() for column in self.nll_nats.unbind(1)])  # alone: same bits anywhere
        return spread / math.sqrt(len(self.nll_nats))


@dataclass(frozen=True)
class Causal:
    """A text scored chunk by chunk, each under a posterior of what precedes it."""

    chunk_nats: tuple[float, ...]
    """-log of the mean over draws of p(chunk | z, preceding tokens), one joint figure per chunk."""
    stderr_nats: float | None
    """Monte-Carlo standard error of the sum; None for a single draw."""
    tokens: int
    """Tokens scored."""
    draws: int
    """Draws per chunk."""
    fast_steps: int
    """Fast steps of all refits."""
    fitted_tokens: int
    """Tokens those steps went through: the cost of fitting."""
    read_tokens: int
    """Tokens the decoder went through to score, over all draws."""

    @property
    def nats(self) -> float:
        """Sum over chunks."""
        return math.fsum(self.chunk_nats)


@dataclass(frozen=True)
class DocumentBounds:
    """The rows of one document; None where a row was not asked for."""

    bound: Estimate
    """-ELBO at fresh draws."""
    nll_given_z: Estimate
    """-log p(x|z) at the same draws: a reconstruction cost, not a bound."""
    kl: Estimate
    """KL(q || p), exact: what z itself costs."""
    iwae: Estimate | None = None
    """Importance-weighted bound."""
    prior: Estimate | None = None
    """-log mean p(x|z) over prior draws."""
    as_released: Estimate | None = None
    """The released evaluator's figure. Not a bound."""
    causal: Estimate | None = None
    """Prequential next-token cost."""

    def rows(self) -> dict[str, Estimate]:
        """The rows that were computed, under their names in a table (`iwae_64`)."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {f"iwae_{row.draws}" if name == "iwae" else name: row for name, row in found.items() if row is not None}


# Rows of a document ---------------------------------------------------------------------------------------------------


def score_documents(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    options: RowOptions,
    seed: int,
    posterior: Posterior | None = None,
) -> list[DocumentBounds]:
    """Every row asked for, of every document.

    Args:
        config: of the fit.
        seed: of the run; all noise depends on it and on a document's content.
        posterior: of the same documents in the same order, if they are fitted already.
    """
    if posterior is None:
        posterior = fit_documents(model, documents, config, seed=seed)
    drawn = fresh_draws(model, documents, posterior, seed=seed, draws=options.draws)
    size = len(documents)
    nothing: list[Estimate | None] = [None] * size
    columns = (
        iwae(model, documents, posterior, seed=seed, draws=options.iwae) if options.iwae else nothing,
        prior(model, documents, seed=seed, draws=options.prior) if options.prior else nothing,
        as_released(model, documents, config, seed=seed, posterior=posterior) if options.as_released else nothing,
        _causal_rows(model, documents, config, options=options.causal, seed=seed) if options.causal else nothing,
    )
    return [
        DocumentBounds(*_mean_rows(drawn, i), *(column[i] for column in columns))  # in the order of the fields
        for i in range(size)
    ]


def _mean_rows(drawn: Draws, i: int) -> tuple[Estimate, Estimate, Estimate]:
    """`bound`, `nll_given_z` and `kl` of document i."""
    draws = len(drawn.nll_nats)
    stderr = float(drawn.bound_stderr_nats[i])
    return (
        Estimate(float(drawn.bound_nats[i]), stderr, draws, draws),
        Estimate(float(drawn.nll_nats.mean(0)[i]), stderr, draws, draws),
        Estimate(float(drawn.kl_nats[i]), 0.0, 0, 0),
    )


def fresh_draws(
    model: LatentThoughtModel, documents: Sequence[Document], posterior: Posterior, *, seed: int, draws: int = DRAWS
) -> Draws:
    """Score each document under draws from its posterior that its fit has not seen.

    Args:
        posterior: of the same documents in the same order.
        seed: of the run; the draws depend on it and on the document's content.
        draws: S, at least 2 for a standard error.

    Raises:
        UsageError: fewer than 2 draws.
    """
    if draws < 2:
        raise UsageError(f"a bound needs at least 2 fresh draws for its standard error, got {draws}")

    def column(i: int) -> Tensor:
        own, key = posterior.row(i), documents[i].key
        return _weigh(model, documents[i], own, noise=_noise(own, key, "bound", seed=seed, draws=draws)).nll

    columns = _each(model, documents, column)
    kl = kl_nats(posterior.mu.cpu().double(), posterior.log_var.cpu().double())
    return Draws(torch.stack(columns, dim=1), kl[: len(documents)])


def iwae(
    model: LatentThoughtModel, documents: Sequence[Document], posterior: Posterior, *, seed: int, draws: int
) -> list[Estimate]:
    """Importance-weighted bound (arXiv:1509.00519 Eq. 8): -log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k), z_k ~ q fresh.

    Its expectation falls with K towards -log p(x); K = 1 is the ELBO with a sampled KL. The first draws are the same
    for every K.
    """

    def estimate(i: int) -> Estimate:
        own, key = posterior.row(i), documents[i].key
        noise = _noise(own, key, "iwae", seed=seed, draws=draws)
        return minus_log_mean(_weigh(model, documents[i], own, noise=noise).log_weight)

    return _each(model, documents, estimate)


def prior(model: LatentThoughtModel, documents: Sequence[Document], *, seed: int, draws: int) -> list[Estimate]:
    """-log mean of p(x|z) over z ~ N(0, I), nothing fitted; its expectation is a bound for any number of draws."""
    unfitted = Posterior.prior(model)

    def estimate(i: int) -> Estimate:
        noise = _noise(unfitted, documents[i].key, "prior", seed=seed, draws=draws)
        return minus_log_mean(_weigh(model, documents[i], unfitted, noise=noise).log_weight)

    return _each(model, documents, estimate)


def _each(model: LatentThoughtModel, items: Sequence[Any], work: Callable[[int], _Result]) -> list[_Result]:
    """`work` on the place of each item; on a CPU several side by side."""
    places = range(len(items))
    return side_by_side(places, work) if model.device.type == "cpu" else [work(i) for i in places]


def as_released(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    seed: int,
    posterior: Posterior | None = None,
) -> list[Estimate]:
    """The released evaluator's figure: NLL + KL at the very noise that the fit was made for. Not a bound.

    Where `config` has fixed noise it is read off the fit's last trace row. Where every step has noise of its own there
    is no such noise, and the documents are fitted again under the preset `released`, with the same number of steps.

    Args:
        posterior: the fit under `config`, if there is one already.
    """
    if config.noise != "fixed":
        config, posterior = fit_config("released", t_fast=config.t_fast), None
    if posterior is None:
        posterior = fit_documents(model, documents, config, seed=seed)
    last = posterior.trace.nll_nats[-1].cpu().double() + posterior.trace.kl_nats[-1].cpu().double()
    return [Estimate(nats, None, config.draws, config.draws) for nats in last.tolist()]


def minus_log_mean(log_weight: Tensor) -> Estimate:
    """-log of the mean weight, with a jackknife standard error: (K,) float64 to nats.

    The delta method would cap the error at 1 nat however few draws carry the mean; leaving each draw out in turn shows
    it.
    """
    draws = len(log_weight)
    total = log_weight.logsumexp(0)
    effective = float((2 * total - (2 * log_weight).logsumexp(0)).exp())
    return Estimate(math.log(draws) - float(total), _jackknife(log_weight), draws, effective)


def _jackknife(log_weight: Tensor) -> float | None:
    """Standard error of log sum exp from the K leave-one-out values."""
    draws = len(log_weight)
    if draws < 2:
        return None
    nothing = log_weight.new_full((1,), -math.inf)
    before = torch.cat([nothing, log_weight.logcumsumexp(0)[:-1]])
    after = torch.cat([log_weight.flip(0).logcumsumexp(0).flip(0)[1:], nothing])
    left_out = torch.logaddexp(before, after)
    return math.sqrt((draws - 1) * float((left_out - left_out.mean()).square().mean()))


# Draws ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weighed:
    """One document under S draws, (S,) each, float64 on the CPU."""

    nll: Tensor
    """-log p(x|z_s)."""
    log_ratio: Tensor
    """log p(z_s) - log q(z_s)."""

    @property
    def log_weight(self) -> Tensor:
        """log p(x|z_s) p(z_s) / q(z_s)."""
        return self.log_ratio - self.nll


def _noise(own: Posterior, key: bytes, role: str, *, seed: int, draws: int) -> Iterator[Tensor]:
    """Standard normal draws (1, L, N, D), one after the other from one stream."""
    stream = generator(seed, role, key)
    return (standard_normal(stream, own.mu.shape) for _ in range(draws))


def _weigh(model: LatentThoughtModel, document: Document, own: Posterior, *, noise: Iterator[Tensor]) -> _Weighed:
    """Score a document under z = mu + noise * sigma for every draw."""
    mu, sigma, log_var = own.mu.cpu(), (0.5 * own.log_var).exp().cpu(), own.log_var.cpu().double()
    nll, ratio = [], []
    lanes = _lanes(model, document)
    with torch.no_grad():
        one = Batch.of(model, [document])
        for draws in _packed(noise, lanes):
            z = mu + draws * sigma  # (S, L, N, D)
            filled = _filled(z, lanes) if model.device.type == "cpu" else z
            nll.append(_nll_of_draws(one, filled.to(model.device))[: len(z)])
            pulse.mark()
            wide, drawn = z.double(), draws.double()
            ratio.append((0.5 * (drawn.square() + log_var - wide.square())).flatten(1).sum(1))
    return _Weighed(torch.cat(nll), torch.cat(ratio))


def _lanes(model: LatentThoughtModel, document: Document) -> int:
    """Draws that share a pass; they depend on the document alone, so that a draw's bits do not depend on how many there
    are.
    """
    if model.device.type == "cpu":
        return max(1, min(_CPU_LANES, _CPU_TOKENS_IN_FLIGHT // _tokens(document)))
    return max(1, _TOKENS_IN_FLIGHT // _tokens(document))


def _filled(z: Tensor, lanes: int) -> Tensor:
    """z with its last draw repeated up to `lanes`."""
    return torch.cat([z, z[-1:].expand(lanes - len(z), *z.shape[1:])])


def _packed(noise: Iterator[Tensor], lanes: int) -> Iterator[Tensor]:
    """Up to `lanes` draws at a time: (lanes, L, N, D)."""
    while held := list(islice(noise, lanes)):
        yield torch.cat(held)


def nll_of_latents(model: LatentThoughtModel, document: Document, z: Tensor) -> Tensor:
    """-log p(x|z_s) of one document under several latents in one pass: (S, L, N, D) to (S,), float64 on the CPU."""
    with torch.no_grad():
        return _nll_of_draws(Batch.of(model, [document]), z)


def _nll_of_draws(one: Batch, z: Tensor) -> Tensor:
    """`nll_of_latents` of a batch of one document; in several passes where memory runs out."""

    def together(draws: Sequence[int]) -> list[Tensor]:
        return [one.repeated(len(draws)).nll_nats(z[draws[0] : draws[-1] + 1]).cpu().double()]

    return torch.cat(in_halves(range(len(z)), together))


def _tokens(document: Document) -> int:
    """Tokens of a pass over the document, padded."""
    return sum(padded_length(len(window.tokens)) for window in document.windows)


# Causal ---------------------------------------------------------------------------------------------------------------


def causal(
    model: LatentThoughtModel,
    texts: Sequence[Sequence[int]],
    config: FitConfig,
    *,
    options: CausalConfig,
    seed: int,
) -> list[Causal]:
    """Score texts prequentially: a figure that compares with an autoregressive model's.

    The text is cut into chunks. Before each, z is refitted on the tokens that precede it (as many as the context
    holds), starting from the posterior before; the first chunk has the prior. The chunk is then scored given z and the
    preceding tokens, as -log (1/S) sum_s p(chunk | z_s, preceding): the draws depend on the preceding tokens only, so
    this is a probability distribution over chunks and its sum over chunks a code length of the text.

    Texts advance side by side; on a GPU their refits share a batch.

    Args:
        texts: token ids; the first of each is read and not scored.
        config: of the refits, except for `t_fast`, which `options` holds.
        options: chunk, steps of each refit, draws.

    Raises:
        UsageError: a chunk is longer than the model's context, or a text has nothing to score.
    """
    limit = model.config.max_seq_len
    if options.chunk > limit:
        raise UsageError(f"causal chunk of {options.chunk} tokens exceeds the model's context of {limit}; lower it")
    short = next((i for i, text in enumerate(texts) if len(text) < 2), None)
    if short is not None:
        raise UsageError(
            f"causal: text {short} has {len(texts[short])} tokens; the first is only read, so give 2 or more"
        )
    config = replace(config, t_fast=options.t_fast, adaptive=False)
    streams = [_Stream(tuple(text), Posterior.prior(model)) for text in texts]
    for first in range(0, max(len(text) for text in texts) - 1, options.chunk):
        active = [stream for stream in streams if len(stream.text) - 1 > first]
        if first and config.t_fast:
            _refit(model, active, config, first=first, seed=seed)
        _each(model, active, lambda i: _score_chunk(model, active[i], options, first=first, seed=seed))  # noqa: B023 - called before the next
    return [stream.result(options) for stream in streams]


class _Stream:
    """A text on its way through `causal`."""

    def __init__(self, text: tuple[int, ...], posterior: Posterior) -> None:
        self.text, self.posterior = text, posterior
        self.scores: list[Estimate] = []
        self.fast_steps = self.fitted_tokens = self.read_tokens = 0

    def result(self, options: CausalConfig) -> Causal:
        """What the text cost."""
        errors = [score.stderr_nats for score in self.scores if score.stderr_nats is not None]
        return Causal(
            chunk_nats=tuple(score.nats for score in self.scores),
            stderr_nats=math.sqrt(math.fsum(error * error for error in errors)) if errors else None,
            tokens=len(self.text) - 1,
            draws=options.draws,
            fast_steps=self.fast_steps,
            fitted_tokens=self.fitted_tokens,
            read_tokens=self.read_tokens,
        )


def _refit(model: LatentThoughtModel, streams: Sequence[_Stream], config: FitConfig, *, first: int, seed: int) -> None:
    """Fit each stream's z on the targets before position `first`, from where its posterior stands."""
    start = max(0, first - model.config.max_seq_len)
    seen = [Document((Window(s.text[start:first], s.text[start + 1 : first + 1]),)) for s in streams]
    starts = [Start(s.posterior.mu, s.posterior.log_var) for s in streams]
    fitted = fit_documents(model, seen, config, seed=seed, starts=starts)
    for i, stream in enumerate(streams):
        stream.posterior = fitted.row(i)
        stream.fast_steps += config.t_fast
        stream.fitted_tokens += config.t_fast * (first - start)


def _score_chunk(model: LatentThoughtModel, stream: _Stream, options: CausalConfig, *, first: int, seed: int) -> None:
    """Score targets `first` ... `first + chunk - 1` given z and the tokens before them."""
    end = min(first + options.chunk, len(stream.text) - 1)
    start = max(0, first + options.chunk - model.config.max_seq_len)  # must not depend on where the text ends
    targets = (IGNORED,) * (first - start) + stream.text[first + 1 : end + 1]
    past = stream.text[start : first + 1]
    noise = _noise(stream.posterior, Document((Window(past, past),)).key, "causal", seed=seed, draws=options.draws)
    weighed = _weigh(model, Document((Window(stream.text[start:end], targets),)), stream.posterior, noise=noise)
    stream.scores.append(minus_log_mean(-weighed.nll))
    stream.read_tokens += options.draws * (end - start)


def text_of(document: Document) -> tuple[int, ...]:
    """The text a document's windows were cut from: its first input token, then every scored target in turn.

    Raises:
        UsageError: a window's targets are not its own next tokens, so it was not cut from one text.
    """
    for window in document.windows:
        if any(t not in (IGNORED, x) for t, x in zip(window.targets, window.tokens[1:], strict=False)):
            raise UsageError("causal needs windows whose targets are their own next tokens; leave the causal row out")
    scored = (target for window in document.windows for target in window.targets if target != IGNORED)
    return (document.windows[0].tokens[0], *scored)


def _causal_rows(
    model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, *, options: CausalConfig, seed: int
) -> list[Estimate]:
    found = causal(model, [text_of(document) for document in documents], config, options=options, seed=seed)
    return [Estimate(row.nats, row.stderr_nats, row.draws, row.draws) for row in found]
