"""Checks of a caller's tensors; each error names what was expected and what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ltm_eval.system.errors import UsageError, shown

if TYPE_CHECKING:
    from ltm_eval.model.config import ModelConfig


def told(value: Any) -> str:
    """Describe a value for an error message."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}" if isinstance(value, (list, tuple, dict, set)) else shown(value)


def check_tokens(name: str, given: Any) -> None:
    """Raise UsageError unless `given` is a non-empty tensor (B, T) of whole numbers."""
    whole = isinstance(given, Tensor) and not (
        given.is_floating_point() or given.is_complex() or given.dtype == torch.bool or given.is_quantized
    )
    if not whole or given.dim() != 2 or not given.numel():  # noqa: PLR2004 - (B, T)
        raise UsageError(
            f"{name} must be a tensor of whole numbers of shape (B, T), at least one row and one position, got "
            f"{told(given)}"
        )


def check_range(name: str, given: Tensor, vocab: int, *, where: Tensor | None = None, or_else: str = "") -> None:
    """Raise UsageError, naming the first, if a value (where `where` is true) is outside 0 to vocab - 1."""
    if given.is_meta:
        return
    wrong = (given < 0) | (given >= vocab)
    wrong = wrong if where is None else wrong & where
    if bool(wrong.any()):
        row, place = wrong.nonzero()[0].tolist()
        raise UsageError(
            f"{name}: row {row}, position {place} is {int(given[row, place])}, expected 0 to {vocab - 1} "
            f"(the vocabulary){or_else}"
        )


def check_inputs(tokens: Tensor, z: Tensor | None, config: ModelConfig, device: torch.device) -> None:
    """Raise UsageError unless a decoder of these sizes on `device` can compute logits of `tokens` given `z`."""
    check_tokens("tokens", tokens)
    if tokens.shape[1] > config.max_seq_len:
        raise UsageError(f"tokens: {tokens.shape[1]} in a row exceed the model's context of {config.max_seq_len}")
    check_range("tokens", tokens.long(), config.vocab_size)
    if tokens.device != device:
        raise UsageError(f"tokens are on {tokens.device}, the model is on {device}; move them there")
    if z is None:
        return
    wanted = (len(tokens), *config.latent_shape)
    if not isinstance(z, Tensor) or not z.is_floating_point() or tuple(z.shape) != wanted:
        raise UsageError(f"z must be a tensor of floats of shape {wanted}, (B, L, N, D), got {told(z)}")
    if z.device != device:
        raise UsageError(f"z is on {z.device}, the model is on {device}; move it there")
    if not z.is_meta and not bool(torch.isfinite(z.detach()).all()):
        raise UsageError("z contains NaN or infinite values")
