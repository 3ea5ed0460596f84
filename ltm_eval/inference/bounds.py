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
    causal           z fitted on what precedes a chunk, chunk scored   a next-token code length (`causal`)

Models compute in fp32; sums over windows, draws, chunks and documents are float64.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import torch
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from ltm_eval.inference.batching import each
from ltm_eval.inference.causal import CausalConfig, causal_rows
from ltm_eval.inference.draws import (
    DRAWS,
    Draws,
    Estimate,
    RollingScore,
    TokenCosts,
    draw_noise,
    minus_log_mean,
    scored_means,
    weigh,
)
from ltm_eval.inference.options import FitConfig, fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Posterior, Window
from ltm_eval.model.elbo import IGNORED, kl_nats
from ltm_eval.system.device import finish
from ltm_eval.system.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ltm_eval.inference.posterior import BatchLimit
    from ltm_eval.model.decoder import LatentThoughtModel
    from ltm_eval.model.tokenizer import Tokenizer


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


def score_documents(  # noqa: PLR0913 - documents, what is computed of them, and where tokens' costs go
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    options: RowOptions,
    seed: int,
    posterior: Posterior | None = None,
    costs: TokenCosts | None = None,
) -> list[DocumentBounds]:
    """Every row asked for, of every document.

    Args:
        config: of the fit.
        seed: of the run; all noise depends on it and on a document's content.
        posterior: of the same documents in the same order, if they are fitted already.
        costs: gets what each token of `nll_given_z` costs, of the documents it names.
    """
    if posterior is None:
        posterior = fit_documents(model, documents, config, seed=seed)
    drawn = fresh_draws(model, documents, posterior, seed=seed, draws=options.draws, costs=costs)
    size = len(documents)
    nothing: list[Estimate | None] = [None] * size
    columns = (
        iwae(model, documents, posterior, seed=seed, draws=options.iwae) if options.iwae else nothing,
        prior(model, documents, seed=seed, draws=options.prior) if options.prior else nothing,
        as_released(model, documents, config, seed=seed, posterior=posterior) if options.as_released else nothing,
        causal_rows(model, documents, config, options=options.causal, seed=seed) if options.causal else nothing,
    )
    return [
        DocumentBounds(*_mean_rows(drawn, i), *(column[i] for column in columns))  # in the order of the fields
        for i in range(size)
    ]


def _mean_rows(drawn: Draws, i: int) -> tuple[Estimate, Estimate, Estimate]:
    """`bound`, `nll_given_z` and `kl` of document i."""
    draws = len(drawn.nll_nats)
    stderr = float(drawn.bound_stderr_nats[i])
    per_draw = drawn.nll_nats[:, i] + drawn.kl_nats[i]
    return (
        Estimate(float(drawn.bound_nats[i]), stderr, draws, draws, tuple(per_draw.tolist())),
        Estimate(float(drawn.nll_nats.mean(0)[i]), stderr, draws, draws),
        Estimate(float(drawn.kl_nats[i]), 0.0, 0, 0),
    )


def fresh_draws(  # noqa: PLR0913 - documents with their posteriors, the draws, and where tokens' costs go
    model: LatentThoughtModel,
    documents: Sequence[Document],
    posterior: Posterior,
    *,
    seed: int,
    draws: int = DRAWS,
    costs: TokenCosts | None = None,
) -> Draws:
    """Score each document under draws from its posterior that its fit has not seen.

    Args:
        posterior: of the same documents in the same order.
        seed: of the run; the draws depend on it and on the document's content.
        draws: S, at least 2 for a standard error.
        costs: see `score_documents`.

    Raises:
        UsageError: fewer than 2 draws.
    """
    if draws < 2:
        raise UsageError(f"a bound needs at least 2 fresh draws for its standard error, got {draws}")

    def column(i: int) -> Tensor:
        own, key = posterior.row(i), documents[i].key
        keep: list[Tensor] | None = [] if costs is not None and i in costs.wanted else None
        noise = draw_noise(own, key, "bound", seed=seed, draws=draws)
        nll = weigh(model, documents[i], own, noise=noise, keep=keep).nll
        if costs is not None and keep:
            costs.nats[i] = scored_means(documents[i], keep)
        return nll

    columns = each(model, documents, column)
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
        noise = draw_noise(own, key, "iwae", seed=seed, draws=draws)
        return minus_log_mean(weigh(model, documents[i], own, noise=noise).log_weight)

    return each(model, documents, estimate)


def prior(model: LatentThoughtModel, documents: Sequence[Document], *, seed: int, draws: int) -> list[Estimate]:
    """-log mean of p(x|z) over z ~ N(0, I), nothing fitted; its expectation is a bound for any number of draws."""
    unfitted = Posterior.prior(model)

    def estimate(i: int) -> Estimate:
        noise = draw_noise(unfitted, documents[i].key, "prior", seed=seed, draws=draws)
        return minus_log_mean(weigh(model, documents[i], unfitted, noise=noise).log_weight)

    return each(model, documents, estimate)


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


# Whole texts as bounds: what an LTM answers where lm-eval asks for a rolling log-likelihood.
#
# A text is cut into windows as lm-eval 0.4.13 cuts it for any model: each token is scored once, the first of a window
# after one token of context, and only the last window reads as far back as fits. Every window has a z of its own,
# fitted to the tokens scored in it, so the sum over windows bounds -log p of the text under that model. The causal row
# alone takes the text as a whole (`causal`).

OPTIONAL_ROWS = ("as_released", "iwae", "prior", "causal")
ALL_ROWS = "all"
DRAWS_OF_MIXTURES = 16
"""Draws of the importance-weighted and the prior row."""


def row_options(rows: str, *, causal_chunk: int, causal_t_fast: int) -> RowOptions:
    """Which rows are computed beside the bound and its parts.

    Args:
        rows: `all`, `bound`, or names joined by `+`, such as `bound+causal+prior`.
        causal_chunk: tokens scored between two refits of z.
        causal_t_fast: fast steps of each refit.

    Raises:
        UsageError: a name is not known, or a number is out of range.
    """
    causal = CausalConfig(chunk=causal_chunk, t_fast=causal_t_fast)
    names = set(OPTIONAL_ROWS) if rows == ALL_ROWS else set(rows.split("+")) - {"bound"}
    for name in sorted(names - set(OPTIONAL_ROWS)):
        known = (ALL_ROWS, "bound", *OPTIONAL_ROWS)
        raise UsageError(f"rows must be names of {', '.join(known)} joined by +, got {name!r}.{nearest(name, known)}")
    return RowOptions(
        iwae=DRAWS_OF_MIXTURES if "iwae" in names else 0,
        prior=DRAWS_OF_MIXTURES if "prior" in names else 0,
        as_released="as_released" in names,
        causal=causal if "causal" in names else None,
    )


def windows_of(text: str, tokenizer: Tokenizer, max_length: int) -> list[Document]:
    """lm-eval's windows of a text, each a document; a literal end-of-text token in the text is read as that token."""
    tokens = tokenizer.encode(text, end_of_text=True)
    documents = []
    for context, wanted in map(
        make_disjoint_window, get_rolling_token_windows(tokens, tokenizer.eot_id, max_length, 1)
    ):
        read = [*context, *wanted][:-1]
        targets = [IGNORED] * (len(read) - len(wanted)) + list(wanted)
        documents.append(Document((Window(tuple(read), tuple(targets)),)))
    return documents


@dataclass
class _Text:
    """Windows of one text that are scored so far."""

    open: int
    scored: dict[int, tuple[DocumentBounds, Posterior]] = field(default_factory=dict)
    token_nats: dict[int, tuple[float, ...]] = field(default_factory=dict)
    fit_seconds: float = 0.0


@dataclass(frozen=True)
class TextScore:
    """One text, done."""

    index: int
    """Its place among the texts."""
    score: RollingScore | float
    """Minus the bound with its parts; 0.0 for a text without tokens."""
    posteriors: tuple[Posterior, ...]
    """Of its windows, in order."""
    fit_seconds: float
    """Its windows' share of the fitting time."""
    ends_batch: bool = True
    """Whether it is the last text that its batch finished."""
    token_nats: tuple[float, ...] = ()
    """What each token costs given z, mean over the bound's draws; empty where it was not kept."""
    draws_nats: tuple[float, ...] = ()
    """What each of the bound's draws alone says, summed over windows."""


def score_texts(  # noqa: PLR0913 - texts, what is computed of them, and of which by token
    model: LatentThoughtModel,
    texts: Sequence[Sequence[Document]],
    config: FitConfig,
    *,
    options: RowOptions,
    seed: int,
    limit: BatchLimit,
    by_token: Collection[int] = (),
) -> Iterator[TextScore]:
    """Score texts given as windows; each comes when its last window is done, longest windows first.

    The causal row is of the whole text, the others are sums over its windows.

    Args:
        texts: of `windows_of`.
        limit: of windows that are fitted together.
        by_token: places of the texts of which each token's cost is kept.
    """
    held = [_Text(len(windows)) for windows in texts]
    by_window = replace(options, causal=None)
    for index, windows in enumerate(texts):
        if not windows:
            yield TextScore(index, 0.0, (), 0.0)
    places = [(index, place) for index, windows in enumerate(texts) for place in range(len(windows))]
    places.sort(key=lambda at: (-len(texts[at[0]][at[1]].windows[0].tokens), at))
    for batch in limit.batches(texts[index][place] for index, place in places):
        part = [places[i] for i in batch]
        documents = [texts[index][place] for index, place in part]
        begun = time.monotonic()
        posterior = fit_documents(model, documents, config, seed=seed)
        finish(model.device)
        seconds = (time.monotonic() - begun) / len(part)
        costs = TokenCosts({row for row, (index, _) in enumerate(part) if index in by_token})
        found = score_documents(
            model, documents, config, options=by_window, seed=seed, posterior=posterior, costs=costs
        )
        finished = []
        for row, (index, place) in enumerate(part):
            held[index].scored[place] = found[row], posterior.row(row)
            held[index].token_nats |= {place: costs.nats[row]} if row in costs.nats else {}
            held[index].fit_seconds += seconds
            held[index].open -= 1
            if not held[index].open:
                finished.append(index)
        wholes = [Document(tuple(document.windows[0] for document in texts[index])) for index in finished]
        causal = causal_rows(model, wholes, config, options=options.causal, seed=seed) if options.causal else []
        for place, index in enumerate(finished):
            score = _text_score(index, held[index], texts[index], causal[place] if causal else None)
            held[index].scored = {}
            yield replace(score, ends_batch=index == finished[-1])


def _text_score(index: int, text: _Text, windows: Sequence[Document], causal: Estimate | None) -> TextScore:
    """Sums over windows; a row that a window lacks is lacking in the text."""
    ordered = [text.scored[place] for place in sorted(text.scored)]
    bounds = [scored[0] for scored in ordered]
    rows: dict[str, float] = {}
    for name in ("bound", "nll_given_z", "kl", *OPTIONAL_ROWS):
        parts = [getattr(bound, name) for bound in bounds]
        if all(part is not None for part in parts):
            rows[name] = math.fsum(part.nats for part in parts)
    if causal is not None:
        rows["causal"] = causal.nats
    rows["bound_stderr"] = math.sqrt(math.fsum((bound.bound.stderr_nats or 0.0) ** 2 for bound in bounds))
    tokens = sum(target != IGNORED for window in windows for target in window.windows[0].targets)
    posteriors = tuple(scored[1] for scored in ordered)
    token_nats = tuple(nats for place in sorted(text.token_nats) for nats in text.token_nats[place])
    draws = tuple(map(math.fsum, zip(*(bound.bound.per_draw_nats for bound in bounds), strict=True)))
    score = RollingScore(rows, tokens=tokens)
    return TextScore(index, score, posteriors, text.fit_seconds, token_nats=token_nats, draws_nats=draws)
