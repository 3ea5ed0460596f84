from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ltm_eval.model import elbo
from ltm_eval.model.elbo import IGNORED, kl_nats, kl_per_layer_nats, projected_nll_nats, token_nll_nats
from tests.tiny import RELEASED, latent, relative_error, released


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kl_equals_torch_distributions() -> None:
    mu, log_var = random(3, 2, 4, 5), random(3, 2, 4, 5, seed=1)
    truth = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_nats(mu, log_var), truth.sum((1, 2, 3)))
    torch.testing.assert_close(kl_per_layer_nats(mu, log_var), truth.sum((2, 3)))


def test_uniform_logits_cost_log_v() -> None:
    targets = torch.tensor([[0, 5, IGNORED]])
    found = token_nll_nats(torch.zeros(1, 3, 7), targets)
    torch.testing.assert_close(found, torch.tensor([[math.log(7), math.log(7), 0.0]]))


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 11 * 16, 2**26])
def test_fused_projection_is_no_worse_than_the_naive_one(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ways: float64 truth, naive fp32, ours; value and gradient."""
    monkeypatch.setattr(elbo, "_CHUNK_BYTES", chunk_bytes)
    weight, targets = random(11, 6), torch.randint(-1, 11, (3, 29), generator=torch.Generator().manual_seed(2))
    found = []
    for way in ("truth", "naive", "ours"):
        dtype = torch.float64 if way == "truth" else torch.float32
        hidden = random(3, 29, 6, seed=3).to(dtype).requires_grad_()
        if way == "ours":
            nll = projected_nll_nats(hidden, weight, targets)
        else:
            logits = hidden @ weight.to(dtype).T
            nll = (
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
                )
                .view(3, 29)
                .sum(1)
            )
        (nll * torch.tensor([1.0, 0.5, 2.0], dtype=dtype)).sum().backward()
        found.append((nll.detach(), hidden.grad))
    for part in (0, 1):
        truth, naive, ours = (way[part] for way in found)
        assert truth is not None and naive is not None and ours is not None
        assert relative_error(ours, truth) <= max(2 * relative_error(naive, truth), 3e-7)


@pytest.mark.parametrize("name", RELEASED)
def test_terms_equal_the_released_ones(name: str) -> None:
    model, _, expected = released(name)
    mu, log_var, noise = (latent(model, expected[key]) for key in ("elbo_mu", "elbo_log_var", "elbo_eps"))
    hidden = model.hidden(model.prelude(torch.from_numpy(expected["X"])), mu + noise * (0.5 * log_var).exp())
    nll = projected_nll_nats(hidden.states, model.output_weight, torch.from_numpy(expected["Y"]))
    kl = kl_nats(mu, log_var)
    torch.testing.assert_close(nll, torch.from_numpy(expected["elbo_nll_per_sequence"]), rtol=1e-5, atol=0)
    torch.testing.assert_close(kl, torch.from_numpy(expected["elbo_kl_per_sequence"]), rtol=1e-5, atol=0)
    assert float((nll + kl).sum()) == pytest.approx(float(expected["elbo_total"]), rel=1e-5)
    perplexity = ((nll + kl) / expected["X"].shape[1]).exp().mean()
    assert float(perplexity) == pytest.approx(float(expected["elbo_mean_of_sequence_ppl"]), rel=1e-4)
