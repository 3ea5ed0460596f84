"""Fitting q(z|x) = N(mu, exp(log_var)) to texts by the fast loop.

Source: arXiv:2502.01567 section 2.2; github mingluzhao/Latent-Thought-LM @498e39e, `optimizer.py`. Departures:
gradients of z only; the layer-0 self-attention, which z cannot change, is computed once; documents never share a
generator, a sum or a padded length, so what is fitted to a document does not depend on its neighbours in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_eval.adaptive import Adaptive, fit_adaptive
from ltm_eval.batch import Batch
from ltm_eval.config import FitConfig, fit_config
from ltm_eval.fast_loop import fast_loop
from ltm_eval.gaussians import Posterior, Start, preset_start, stacked
from ltm_eval.groups import in_groups
from ltm_eval.noise import document_noise
from ltm_eval.windows import Document, trimmed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ltm_eval.model import LatentThoughtModel


def fit(
    model: LatentThoughtModel,
    tokens: Tensor,
    targets: Tensor,
    *,
    preset: str = "bound",
    t_fast: int | None = None,
    seed: int = 1234,
) -> Posterior:
    """Fit one posterior per row.

    Args:
        model: weights stay as they are.
        tokens: (B, T), long; rows may be padded at their end where `targets` is -1.
        targets: (B, T), long; -1 where a position is not scored.
        preset: `released`, `published` or `bound`.
        t_fast: fast steps; None takes the preset's, 0 returns the prior.
        seed: of the noise, together with each row's own content.

    Returns:
        Posterior of B documents, in the order of the rows.

    Raises:
        UsageError: an option is out of range, or a row has no scored position.
    """
    documents = [
        Document((trimmed(row, wanted),)) for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True)
    ]
    return fit_documents(model, documents, fit_config(preset, t_fast=t_fast), seed=seed)


def fit_documents(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    seed: int,
    starts: Sequence[Start] | None = None,
) -> Posterior:
    """Fit every document; those of equal shape run together on a GPU, each alone or a few short ones on a CPU.

    On a CPU a document's bits are its own: where kernels might sum otherwise for several documents, and where a batch
    gains nothing, it is alone (`lanes`). Where a GPU's memory runs out, the batch is fitted in two halves, and so on.

    Args:
        documents: each becomes one row of the result, in this order.
        starts: a warm start per document instead of the preset's.

    Returns:
        Posterior of len(documents) rows.

    Raises:
        MachineError: there is not enough memory for one document.
    """
    if config.adaptive and starts is None:
        return fit_adaptive(model, documents, config, seed=seed, rule=Adaptive()).posterior

    def together(members: Sequence[int]) -> list[Posterior]:
        own = None if starts is None else [starts[i] for i in members]
        fitted = fit_together(model, [documents[i] for i in members], config, seed=seed, starts=own)
        return [fitted.row(row) for row in range(len(members))]

    return Posterior.joined(in_groups(model, documents, together))


def fit_together(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    seed: int,
    starts: Sequence[Start] | None = None,
) -> Posterior:
    """Fit documents of one shape in one batch, for `config.t_fast` steps.

    Raises:
        torch.OutOfMemoryError: the batch does not fit.
    """
    start = preset_start(model, documents, config, seed) if starts is None else stacked(starts)
    return fast_loop(Batch.of(model, documents), start, document_noise(model, documents, config, seed), config)
