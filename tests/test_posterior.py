from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ltm_eval
from ltm_eval.inference import batching as groups
from ltm_eval.inference import posterior
from ltm_eval.inference.batching import Batch
from ltm_eval.inference.options import PRESETS, FitConfig, fit_config
from ltm_eval.inference.posterior import fast_loop, fit, fit_documents, learning_rate
from ltm_eval.inference.windows import Document, Posterior, Start, Window, document_noise, generator, padded_length
from ltm_eval.system.errors import MachineError, UsageError
from tests.tiny import RELEASED, TINY, document, latent, relative_error, released, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable


DOCUMENTS = [document(seed, length) for seed, length in enumerate((5, 17, 17, 40, 64, 90))]


@pytest.mark.parametrize("name", RELEASED)
def test_whole_trajectory_equals_the_released_one(name: str) -> None:
    model, meta, expected = released(name)
    x, y = expected["X"].tolist(), expected["Y"].tolist()
    documents = [Document((Window(tuple(a), tuple(b)),)) for a, b in zip(x, y, strict=True)]
    noise = latent(model, expected["fit_eps"])
    start = Start(torch.zeros_like(noise), latent(model, expected["fit_init_log_var"]))
    config = fit_config("released", t_fast=meta["t_fast"], lr=meta["fast_lr"])
    found = fast_loop(Batch.of(model, documents), start, lambda step: noise.unsqueeze(0), config)
    objective = found.trace.objective_nats.double().sum(1)
    torch.testing.assert_close(objective, torch.from_numpy(expected["fit_objective_per_step"]), rtol=1e-5, atol=0)
    assert relative_error(found.mu, latent(model, expected["fit_mu"])) < 1e-4
    assert relative_error(found.log_var, latent(model, expected["fit_log_var"])) < 1e-4
    assert relative_error(found.at(noise), latent(model, expected["fit_z"])) < 1e-4
    assert float(found.trace.kl_nats[-1].mean()) == pytest.approx(float(expected["fit_kl_mean"]), rel=1e-4)
    assert float(found.trace.nll_nats[-1].mean()) == pytest.approx(float(expected["fit_nll_mean"]), rel=1e-4)
    perplexity = (found.trace.objective_nats[-1] / len(x[0])).exp().mean()
    assert float(perplexity) == pytest.approx(float(expected["fit_mean_of_sequence_ppl"]), rel=1e-4)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_document_has_the_same_bits_in_any_batch_and_order(preset: str) -> None:
    model, config = tiny_model(), fit_config(preset, t_fast=4)
    alone = {d.key: fit_documents(model, [d], config, seed=3) for d in DOCUMENTS}
    for order in list(permutations(range(6)))[:: 720 // 5]:
        together = fit_documents(model, [DOCUMENTS[i] for i in order], config, seed=3)
        for row, i in enumerate(order):
            own = alone[DOCUMENTS[i].key]
            assert torch.equal(together.mu[row], own.mu[0])
            assert torch.equal(together.log_var[row], own.log_var[0])
            assert torch.equal(together.trace.objective_nats[:, row], own.trace.objective_nats[:, 0])


def test_documents_do_not_couple_where_they_do_share_a_batch() -> None:
    """The path a GPU takes, on the CPU: equal up to rounding."""
    model, config = tiny_model(scale=4.0), fit_config("bound", t_fast=6)
    pair = [DOCUMENTS[1], DOCUMENTS[2]]
    noise = torch.randn(8, 1, 2, *TINY.latent_shape, generator=torch.Generator().manual_seed(0))
    start = Start(torch.zeros(2, *TINY.latent_shape), torch.full((2, *TINY.latent_shape), -1.0))
    together = fast_loop(Batch.of(model, pair), start, lambda step: noise[step], config)
    for i in (0, 1):
        own = Start(start.mu[i : i + 1], start.log_var[i : i + 1])
        single = fast_loop(Batch.of(model, [pair[i]]), own, lambda step, i=i: noise[step][:, i : i + 1], config)  # type: ignore[misc]
        assert relative_error(together.mu[i], single.mu[0]) < 1e-3
        assert relative_error(together.trace.objective_nats[:, i], single.trace.objective_nats[:, 0]) < 1e-5


def test_padding_of_rows_does_not_matter() -> None:
    model = tiny_model()
    tokens = torch.zeros(2, 40, dtype=torch.long)
    targets = torch.full((2, 40), -1)
    for row, d in enumerate(DOCUMENTS[1:3]):
        tokens[row, :17], targets[row, :17] = torch.tensor(d.windows[0].tokens), torch.tensor(d.windows[0].targets)
    padded = fit(model, tokens, targets, t_fast=3, seed=5)
    exact = fit(model, tokens[:, :17], targets[:, :17], t_fast=3, seed=5)
    assert torch.equal(padded.mu, exact.mu)


def test_gradient_equals_autograd_through_the_whole_model() -> None:
    model, d = tiny_model(scale=4.0), document(9, 30, windows=3)
    mu = torch.randn(1, *TINY.latent_shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    log_var = (-torch.ones(1, *TINY.latent_shape)).requires_grad_()
    noise = torch.randn(2, 1, *TINY.latent_shape, generator=torch.Generator().manual_seed(2))
    total, divergence = Batch.of(model, [d]).descend(mu, log_var, noise)
    found = [mu.grad, log_var.grad]
    naive_mu, naive_log_var = mu.detach().clone().requires_grad_(), log_var.detach().clone().requires_grad_()
    objective = -0.5 * (1 + naive_log_var - naive_mu**2 - naive_log_var.exp()).sum()
    for draw in noise:
        z = (naive_mu + draw * (0.5 * naive_log_var).exp()).expand(3, -1, -1, -1)
        logits = model(torch.tensor([w.tokens for w in d.windows]), z)
        objective = (
            objective
            + torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), torch.tensor([w.targets for w in d.windows]).flatten(), reduction="sum"
            )
            / 2
        )
    objective.backward()
    assert float(total + divergence) == pytest.approx(float(objective.detach()), rel=1e-5)
    assert all(p.grad is None for p in model.parameters())
    for ours, theirs in zip(found, (naive_mu.grad, naive_log_var.grad), strict=True):
        assert ours is not None and theirs is not None
        assert relative_error(ours, theirs) < 1e-5


def test_no_steps_is_the_prior() -> None:
    found = fit_documents(tiny_model(), DOCUMENTS[:2], fit_config("released", t_fast=0), seed=1)
    assert not found.mu.any() and not found.log_var.any()
    assert found.trace.nll_nats.shape == (1, 2) and not found.trace.kl_nats.any()


def test_fitting_lowers_the_objective() -> None:
    found = fit_documents(tiny_model(scale=4.0), DOCUMENTS[3:], fit_config("bound", t_fast=32), seed=1)
    objective = found.trace.objective_nats
    assert (objective[-8:].mean(0) < objective[:8].mean(0)).all()


def test_more_steps_never_change_earlier_noise() -> None:
    model = tiny_model()
    constant = replace(PRESETS["bound"], lr=0.05, lr_final=0.05)
    short = fit_documents(model, DOCUMENTS[:1], replace(constant, t_fast=3), seed=1)
    long = fit_documents(model, DOCUMENTS[:1], replace(constant, t_fast=7), seed=1)
    assert torch.equal(short.trace.objective_nats[:3], long.trace.objective_nats[:3])


def test_seed_and_content_and_nothing_else_choose_the_noise() -> None:
    model, config = tiny_model(), fit_config("bound", t_fast=2)
    torch.manual_seed(0)
    first = fit_documents(model, DOCUMENTS[:1], config, seed=1)
    torch.manual_seed(99)
    np.random.seed(5)
    again = fit_documents(model, DOCUMENTS[:1], config, seed=1)
    other = fit_documents(model, DOCUMENTS[:1], config, seed=2)
    assert torch.equal(first.mu, again.mu)
    assert not torch.equal(first.mu, other.mu)
    streams = {
        generator(1, role, key, repeat).integers(2**62)
        for role in ("fit", "bound")
        for key in (b"a", b"b")
        for repeat in (0, 1)
    }
    assert len(streams) == 8


def noise_of(config: FitConfig, documents: list[Document], *, seed: int = 1, steps: int = 3) -> torch.Tensor:
    """(steps, draws, B, L, N, D)."""
    noise = document_noise(tiny_model(), documents, config, seed)
    return torch.stack([noise(step) for step in range(steps)])


def test_antithetic_noise_is_the_fresh_stream_and_its_mirror_image() -> None:
    pairs = noise_of(fit_config("bound", noise="antithetic", draws=4), DOCUMENTS[:3])
    assert pairs.shape == (3, 4, 3, *TINY.latent_shape)
    assert not (pairs[:, :2] + pairs[:, 2:]).any()
    assert float(pairs.double().mean(1).abs().max()) == 0
    fresh = noise_of(fit_config("bound", draws=2), DOCUMENTS[:3])
    assert torch.equal(pairs[:, :2], fresh)
    assert torch.equal(pairs[:, 2:], -fresh)
    assert not torch.equal(pairs[0], pairs[1])  # anew in every step


def test_antithetic_noise_of_a_document_is_its_own() -> None:
    config = fit_config("bound", noise="antithetic", draws=2, t_fast=4)
    together = noise_of(config, DOCUMENTS[:3])
    assert torch.equal(noise_of(config, DOCUMENTS[1:2])[:, :, 0], together[:, :, 1])
    assert not torch.equal(noise_of(config, DOCUMENTS[:3], seed=2), together)
    model = tiny_model()
    alone = fit_documents(model, DOCUMENTS[1:2], config, seed=3)
    assert torch.equal(fit_documents(model, DOCUMENTS[:4], config, seed=3).mu[1], alone.mu[0])


def test_antithetic_pairs_cancel_what_is_linear_in_the_noise() -> None:
    """-log p(x|z) is almost linear in small noise, so the mean of a pair spreads far less than that of two draws."""
    model = tiny_model(scale=4.0)
    mu = torch.randn(1, *TINY.latent_shape, generator=torch.Generator().manual_seed(0))
    log_var = torch.full_like(mu, -8)
    batch = Batch.of(model, DOCUMENTS[2:3])
    spreads = []
    for config in (fit_config("bound", draws=2), fit_config("bound", noise="antithetic", draws=2)):
        noise = document_noise(model, DOCUMENTS[2:3], config, 1)
        costs = [float(batch.expected_nll_nats(mu, log_var, noise(step))[0]) for step in range(40)]
        spreads.append(float(np.std(costs)))
    assert spreads[1] < 0.2 * spreads[0]


@pytest.mark.parametrize("draws", [1, 3])
def test_antithetic_draws_come_in_pairs(draws: int) -> None:
    with pytest.raises(UsageError, match=f"draws must be even, got {draws}"):
        fit_config("bound", noise="antithetic", draws=draws)
    with pytest.raises(
        UsageError, match="noise must be one of fixed, fresh, antithetic, got 'antithetik'.*'antithetic'"
    ):
        fit_config("bound", noise="antithetik")


def test_schedule_is_the_released_cosine() -> None:
    config = fit_config("released", t_fast=16)
    assert learning_rate(config, 0) == pytest.approx(0.34)
    assert learning_rate(config, 8) == pytest.approx((0.34 + 0.034) / 2)
    assert learning_rate(fit_config("published"), 11) == pytest.approx(0.34)


def test_lengths_are_padded_to_few_sizes() -> None:
    assert [padded_length(n) for n in (1, 16, 17, 33, 64, 65, 1024)] == [16, 16, 32, 64, 64, 128, 1024]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"t_fast": -1}, "t_fast"), ({"preset": "bond"}, "'bound'"), ({"t_fast": 2.5}, "t_fast")],
)
def test_wrong_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ltm_eval.fit(tiny_model(), torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long), **options)  # type: ignore[arg-type]


def test_rows_that_cannot_be_fitted_are_named() -> None:
    model, ones = tiny_model(), torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(UsageError, match="no scored position"):
        fit(model, ones, -ones)
    long = torch.ones(1, 300, dtype=torch.long)
    with pytest.raises(UsageError, match="300 tokens exceeds the model's context of 192"):
        fit(model, long, long)


def _crowded(most: int, sizes: list[int]) -> Callable[..., Posterior]:
    """A fast loop on a machine whose memory holds `most` documents."""

    def loop(batch: Batch, *rest: Any) -> Posterior:
        sizes.append(batch.size)
        if batch.size > most:
            raise torch.OutOfMemoryError("CUDA out of memory (faked)")
        return fast_loop(batch, *rest)

    return loop


def test_a_batch_that_memory_cannot_hold_is_halved_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: seven documents of one shape share a batch, and no more than two fit."""
    model, config, sizes = tiny_model(scale=4.0), fit_config("bound", t_fast=3), []
    texts = [document(seed, 20) for seed in range(7)]
    alone = fit_documents(model, texts, config, seed=1)
    monkeypatch.setattr(groups, "alone", lambda model: False)
    monkeypatch.setattr(posterior, "fast_loop", _crowded(2, sizes))
    found = fit_documents(model, texts, config, seed=1)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    assert relative_error(found.mu, alone.mu) < 1e-3
    monkeypatch.setattr(posterior, "fast_loop", _crowded(0, sizes))
    with pytest.raises(MachineError, match="not enough memory for one document"):
        fit_documents(model, texts[:2], config, seed=1)


def test_fitting_leaves_a_trainers_gradients_alone() -> None:
    """Weights that take gradients get none from the fast loop, and its result is the same up to rounding."""
    model, config = tiny_model(scale=4.0), fit_config("bound", t_fast=3)
    frozen = fit_documents(model, DOCUMENTS[:1], config, seed=1)
    trained = fit_documents(model.requires_grad_(True), DOCUMENTS[:1], config, seed=1)
    assert relative_error(trained.mu, frozen.mu) < 1e-4
    assert all(weight.grad is None for weight in model.parameters())
