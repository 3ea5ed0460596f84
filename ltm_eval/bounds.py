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

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval.causal import CausalConfig, causal_rows
from ltm_eval.config import FitConfig, fit_config
from ltm_eval.draws import DRAWS, draw_noise, weigh
from ltm_eval.elbo import kl_nats
from ltm_eval.errors import UsageError
from ltm_eval.estimates import Draws, Estimate, minus_log_mean
from ltm_eval.gaussians import Posterior
from ltm_eval.groups import each
from ltm_eval.posterior import fit_documents
from ltm_eval.token_costs import TokenCosts, scored_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.model import LatentThoughtModel
    from ltm_eval.windows import Document


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
