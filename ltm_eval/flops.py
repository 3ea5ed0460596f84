"""Compute per token, as published: what the papers' "training compute" counts, so that runs can be set beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PUBLISHED_WIDTH = 512
"""The published count takes 512 for the positions that a token sees, whatever the window."""


def flops_per_token(parameters: int, *, layers: int, width: int, t_fast: float) -> float:
    """(t_fast + 1) (6 P + 12 L D 512), of arXiv:2502.01567.

    With D = 512 it gives the published 4.07, 5.52 and 32.2 GFLOPs for LTM-S, M (16 fast steps) and L (64). A fast step
    is charged like a training step, gradients of weights included, which this program does not compute
    (`learners.training_flops` counts what it does).

    Args:
        parameters: P, all of them.
        layers: L.
        width: D.
        t_fast: fast steps of a text, a mean where they differ.
    """
    return (t_fast + 1) * (6 * parameters + 12 * layers * width * PUBLISHED_WIDTH)


def flops_of(told: Mapping[str, Any], *, t_fast: float) -> float | None:
    """The same from what a results file says of its model (`config`); None where it lacks a size."""
    sizes = told.get("sizes")
    found = [told.get("model_num_parameters")]
    found += [sizes.get(name) for name in ("n_layers", "dim")] if isinstance(sizes, dict) else [None]
    numbers = [value for value in found if isinstance(value, int) and not isinstance(value, bool)]
    if len(numbers) != 3:
        return None
    return flops_per_token(numbers[0], layers=numbers[1], width=numbers[2], t_fast=t_fast)
