"""Three ways: the yardstick in float64 is the truth, the yardstick in fp32 the measure, ours is tested."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from ltm_eval.inference.batching import Batch
from ltm_eval.inference.bench import NaiveFit, NaiveStep
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fast_loop
from ltm_eval.inference.windows import Document, Start, Window
from tests.tiny import TINY, relative_error, tiny_model

if TYPE_CHECKING:
    from ltm_eval.model.config import ModelConfig

SHARED_HEADS = replace(TINY, dim=32, n_heads=4, n_kv_heads=2, n_layers=3, max_z_len=6)
UNROTATED = replace(TINY, use_z_pos_emb=False)
PARTS = ("nll_nats", "kl_nats", "mu_grad", "log_var_grad")


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(length: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets, the first few of which are not scored."""
    text = torch.randint(0, 256, (batch, length + 1), generator=torch.Generator().manual_seed(length))
    targets = text[:, 1:].clone()
    targets[:, :3] = -1
    return text[:, :-1], targets


def documents(tokens: torch.Tensor, targets: torch.Tensor) -> list[Document]:
    pairs = zip(tokens.tolist(), targets.tolist(), strict=True)
    return [Document((Window(tuple(read), tuple(wanted)),)) for read, wanted in pairs]


def latents(config: ModelConfig, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = (batch, *config.latent_shape)
    return random(*shape, seed=1), random(*shape, seed=2) - 2, random(*shape, seed=3)


@pytest.mark.parametrize("config", [TINY, SHARED_HEADS, UNROTATED])
@pytest.mark.parametrize("length", [7, 64, 100])
def test_ours_is_no_worse_than_the_naive_step(config: ModelConfig, length: int) -> None:
    """Objective and gradients; lengths below, at a multiple of and beyond the window."""
    model = tiny_model(config, scale=4.0)
    batch = rows(length, 2)
    mu, log_var, noise = latents(config, 2)
    truth, naive = (
        NaiveFit(dict(model.named_parameters()), config, dtype=dtype).step(batch, *(x.to(dtype) for x in values))
        for dtype, values in ((torch.float64, (mu, log_var, noise)), (torch.float32, (mu, log_var, noise)))
    )
    mu.requires_grad_(), log_var.requires_grad_()
    nll, kl = Batch.of(model, documents(*batch)).descend(mu, log_var, noise.unsqueeze(0))
    assert mu.grad is not None and log_var.grad is not None
    ours = NaiveStep(nll, kl, mu.grad, log_var.grad)
    for part in PARTS:
        exact = getattr(truth, part)
        allowed = max(3 * relative_error(getattr(naive, part), exact), 1e-6)
        assert relative_error(getattr(ours, part), exact) <= allowed, part


def test_bfloat16_stays_near_the_truth() -> None:
    model = tiny_model(SHARED_HEADS, scale=4.0)
    batch = rows(100, 1)
    mu, log_var, noise = latents(SHARED_HEADS, 1)
    exact = NaiveFit(dict(model.named_parameters()), SHARED_HEADS, dtype=torch.float64)
    truth = exact.step(batch, mu.double(), log_var.double(), noise.double())
    mu.requires_grad_(), log_var.requires_grad_()
    rounded = Batch.of(model.set_matmul_dtype(torch.bfloat16), documents(*batch))
    nll, _ = rounded.descend(mu, log_var, noise.unsqueeze(0))
    assert mu.grad is not None and log_var.grad is not None
    assert relative_error(nll, truth.nll_nats) < 2**-8
    assert relative_error(mu.grad, truth.mu_grad) < 0.03
    assert relative_error(log_var.grad, truth.log_var_grad) < 0.03


def test_naive_run_is_our_loop_without_its_schedule() -> None:
    model, (tokens, targets) = tiny_model(scale=4.0), rows(40, 1)
    mu, log_var, noise = latents(TINY, 1)
    config = replace(fit_config("published", t_fast=5), lr=0.1, lr_final=0.1)
    naive = NaiveFit(dict(model.named_parameters()), TINY).run((tokens, targets), (mu, log_var), noise, config)
    ours = fast_loop(
        Batch.of(model, documents(tokens, targets)), Start(mu, log_var), lambda step: noise.unsqueeze(0), config
    )
    torch.testing.assert_close(ours.trace.objective_nats[:-1], naive, rtol=1e-5, atol=1e-3)


def test_naive_makes_the_gradients_of_all_weights() -> None:
    model = tiny_model()
    naive = NaiveFit(dict(model.named_parameters()), TINY)
    naive.step(rows(30, 1), *latents(TINY, 1))
    assert all(weight.grad is not None and weight.grad.any() for weight in naive.weights.values())
    assert all(weight.grad is None for weight in model.parameters())
