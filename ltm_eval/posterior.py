"""Fitting q(z|x) = N(mu, exp(log_var)) to texts by the fast loop.

Source: arXiv:2502.01567 section 2.2; github mingluzhao/Latent-Thought-LM @498e39e, `optimizer.py`. Departures:
gradients of z only; the layer-0 self-attention, which z cannot change, is computed once; documents never share a
generator, a sum or a padded length, so what is fitted to a document does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Literal

from ltm_eval.adaptive import Adaptive, fit_adaptive
from ltm_eval.batch import Batch
from ltm_eval.config import FitConfig, fit_config
from ltm_eval.elbo import IGNORED
from ltm_eval.errors import UsageError, shown
from ltm_eval.fast_loop import fast_loop
from ltm_eval.gaussians import Posterior, Start, preset_start, stacked
from ltm_eval.groups import in_groups
from ltm_eval.model import check_range, check_tokens, live_model
from ltm_eval.noise import document_noise
from ltm_eval.windows import Document, trimmed
from ltm_eval.workers import undisturbed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ltm_eval.model import LatentThoughtModel

TORCH_IGNORED = -100
"""What `torch.nn.functional.cross_entropy` leaves out unless told otherwise; read as `IGNORED`."""


def fit(
    model: LatentThoughtModel,
    tokens: Tensor,
    targets: Tensor,
    *,
    preset: str = "bound",
    t_fast: int | Literal["auto"] | None = None,
    seed: int = 1234,
) -> Posterior:
    """Fit one posterior per row.

    The model and the process are left as they were, and modes that the caller is in (`torch.no_grad`,
    `torch.inference_mode`, `torch.autocast`) change nothing: computed is in float32, or with the matrix products of
    `set_matmul_dtype`. A model in half, bfloat16 or double is converted in a copy for the time of the call.

    Args:
        model: what `ltm_eval.load` returns, also in the middle of training.
        tokens: (B, T), whole numbers from 0 to V - 1; rows may be padded at their end, with anything, where `targets`
            says that nothing is scored.
        targets: (B, T), whole numbers; -1 or -100 where a position is read and not scored.
        preset: `released`, `published` or `bound`.
        t_fast: fast steps; None takes the preset's, 0 returns the prior, `auto` ends each row's fit once it gains no
            more.
        seed: of the noise, together with each row's own content.

    Returns:
        Posterior of B documents, in the order of the rows.

    Raises:
        UsageError: an argument is of another kind or shape or out of range, a weight is not finite, or a row has no
            scored position.
    """
    source = live_model(model)
    steps = t_fast if t_fast is None or isinstance(t_fast, str) else _whole("t_fast", t_fast)
    config = fit_config(preset, t_fast=steps)
    number = _whole("seed", seed)
    documents = documents_of(tokens, targets, vocab=source.config.vocab_size)
    with undisturbed():
        return fit_documents(source.as_read(), documents, config, seed=number)


def _whole(name: str, value: Any) -> int:
    """A whole number of any integer type."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"{name} must be a whole number, got {shown(value)}")


def documents_of(tokens: Tensor, targets: Tensor, *, vocab: int) -> list[Document]:
    """A document of one window per row, without the padding at its end.

    Args:
        tokens: (B, T).
        targets: (B, T), `IGNORED` or `TORCH_IGNORED` where nothing is scored.

    Raises:
        UsageError: kind, shape or a value is another, or a row has nothing to score.
    """
    check_tokens("tokens", tokens)
    check_tokens("targets", targets)
    if tokens.shape != targets.shape:
        raise UsageError(
            f"targets must have the shape of tokens, {tuple(tokens.shape)}, got {tuple(targets.shape)}: one target "
            "for each token, the one after it"
        )
    tokens, targets = tokens.detach().cpu().long(), targets.detach().cpu().long()
    scored = (targets != IGNORED) & (targets != TORCH_IGNORED)
    ignored = f", or {IGNORED} or {TORCH_IGNORED} where nothing is scored"
    check_range("targets", targets, vocab, where=scored, or_else=ignored)
    read = scored.flip(1).cumsum(1).flip(1) > 0  # up to the last scored position
    check_range("tokens", tokens, vocab, where=read)
    rows = zip(tokens.tolist(), targets.where(scored, IGNORED).tolist(), strict=True)
    return [Document((trimmed(row, wanted, where=f"fit: row {i}"),)) for i, (row, wanted) in enumerate(rows)]


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
