"""Fast steps of a GPU, as far as a machine without one goes: the numbers that torch's optimiser gives, a capture that
is played, and a loop on paper in which the host never waits.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_eval.inference import posterior as steps
from ltm_eval.inference.batching import Batch
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import AdamW, DeviceSteps, HostSteps, Natural, fast_loop, learning_rate
from ltm_eval.inference.windows import Document, Posterior, document_noise, preset_start
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.system import device as memory
from tests.paper_gpu import DEVICE, Traffic, play_gpu
from tests.tiny import TINY, document, relative_error, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from ltm_eval.inference.options import FitConfig


def fitted(kind: type, config: FitConfig, monkeypatch: pytest.MonkeyPatch, *, captures: bool = False) -> Posterior:
    model, documents = tiny_model(scale=4.0), [document(seed, 60) for seed in range(3)]
    model.captures_steps = captures
    monkeypatch.setattr(steps, "HostSteps", kind)
    noise = document_noise(model, documents, config, 1)
    return fast_loop(Batch.of(model, documents), preset_start(model, documents, config, 1), noise, config)


@pytest.mark.parametrize("preset", ["bound", "released", "published", "natural"])
def test_a_gpus_steps_are_those_of_torchs_optimiser(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = fit_config(preset, t_fast=9, weight_decay=0.1)
    host, device = (fitted(kind, config, monkeypatch) for kind in (HostSteps, DeviceSteps))
    assert not torch.equal(device.mu, torch.zeros_like(device.mu))
    assert relative_error(device.mu, host.mu) < 1e-4
    assert relative_error(device.log_var, host.log_var) < 1e-5
    assert relative_error(device.trace.objective_nats, host.trace.objective_nats) < 1e-5


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_optimiser_is_torchs_bit_for_bit(decay: float) -> None:
    config = fit_config("bound", t_fast=20, weight_decay=decay)
    mine, torchs = ([torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(i)) for i in (1, 2)] for _ in "ab")
    own = AdamW(*mine, config)
    other = torch.optim.AdamW(
        torchs, lr=1.0, betas=(config.beta1, config.beta2), eps=config.adam_eps, weight_decay=decay
    )
    for step in range(20):
        for values in (mine, torchs):
            stream = torch.Generator().manual_seed(step)
            for value in values:
                value.grad = torch.randn(value.shape, generator=stream)
        other.param_groups[0]["lr"] = learning_rate(config, step)
        own.step(learning_rate(config, step))
        other.step()
        assert all(torch.equal(a, b) for a, b in zip(mine, torchs, strict=True))


def test_natural_steps_are_those_of_the_paper() -> None:
    """Mean and precision as arXiv:1806.04854 moves them, in float64; the precision stays at or above the prior's."""
    config = fit_config("natural", t_fast=20)
    stream = torch.Generator().manual_seed(5)
    mu, log_var = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
    mean, precision = mu.double(), torch.ones(2, 3, 4, 5, dtype=torch.float64)
    own = Natural(mu, log_var, config)
    for step in range(20):
        g, e = torch.randn(2, *mu.shape, generator=stream).mul(3).double()
        sigma = precision.rsqrt()
        mu.grad = (g + mean).float()
        log_var.grad = (0.5 * (sigma.square() - 1) + 0.5 * g * e * sigma).float()
        rate = learning_rate(config, step)
        share = 0.1 * rate / 0.5
        precision = ((1 - share) * precision + share * (1 + g * e / sigma)).clamp(min=1)
        mean = mean - rate * (g + mean) / precision
        own.step(rate)
        assert relative_error(mu, mean.float()) < 1e-5
        assert relative_error(log_var, -precision.log().float()) < 1e-5
    assert bool((precision == 1).any()) and float(precision.max()) > 1.5


def test_natural_steps_reach_the_posterior_of_a_gaussian() -> None:
    """Of x ~ N(W z, I) under z ~ N(0, I), the best factorised q has the precisions on the diagonal of I + W'W."""
    stream = torch.Generator().manual_seed(0)
    w, x = torch.randn(6, 4, generator=stream), torch.randn(6, generator=stream)
    whole = torch.eye(4) + w.T @ w
    mu, log_var = torch.zeros(4), torch.zeros(4)
    config = fit_config("natural", t_fast=4000)
    own = Natural(mu, log_var, config)
    for step in range(4000):
        e, sigma = torch.randn(4, generator=stream), (0.5 * log_var).exp()
        g = w.T @ (w @ (mu + e * sigma) - x)
        mu.grad, log_var.grad = g + mu, 0.5 * (log_var.exp() - 1) + 0.5 * g * e * sigma
        own.step(learning_rate(replace(config, lr=0.05, lr_final=0.0005), step))
    torch.testing.assert_close(mu, torch.linalg.solve(whole, w.T @ x), rtol=0, atol=0.02)
    torch.testing.assert_close((-log_var).exp(), whole.diagonal(), rtol=0.1, atol=0)


class Recorded:
    """A capture without a device: nothing is computed while it is made; each replay computes into the same tensors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asides = self.captures = self.replays = 0
        monkeypatch.setattr(steps, "aside", self.aside)
        monkeypatch.setattr(steps, "captured", self.captured)

    def aside(self, work: Callable[[], Any]) -> Any:
        self.asides += 1
        return work()

    def captured(self, work: Callable[[], Any]) -> Callable[[], Any]:
        self.captures += 1
        given: list[torch.Tensor] = []

        def replay() -> Any:
            self.replays += 1
            found = work()
            if not given:
                given.extend(part.clone() for part in found)
            for own, part in zip(given, found, strict=True):
                own.copy_(part)
            return tuple(given)

        return replay


@pytest.mark.parametrize("noise", ["fresh", "fixed", "antithetic"])
def test_captured_steps_take_every_steps_own_noise_and_rate(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = 2 if noise == "antithetic" else 1
    config, recorded = fit_config("bound", t_fast=7, noise=noise, draws=draws), Recorded(monkeypatch)
    plain = fitted(DeviceSteps, config, monkeypatch)
    assert recorded.captures == 0
    found = fitted(DeviceSteps, config, monkeypatch, captures=True)
    assert (recorded.asides, recorded.captures, recorded.replays) == (1, 1, 6)
    assert torch.equal(found.mu, plain.mu) and torch.equal(found.log_var, plain.log_var)
    assert torch.equal(found.trace.objective_nats, plain.trace.objective_nats)


def test_what_cannot_be_captured_is_computed_step_by_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(work: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    config = fit_config("bound", t_fast=5)
    plain = fitted(DeviceSteps, config, monkeypatch)
    Recorded(monkeypatch)
    monkeypatch.setattr(steps, "captured", refused)
    with caplog.at_level(logging.WARNING):
        found = fitted(DeviceSteps, config, monkeypatch, captures=True)
    assert torch.equal(found.mu, plain.mu)
    assert len(caplog.records) == 1 and "one by one" in caplog.text

    def crowded(work: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory (faked)")

    monkeypatch.setattr(steps, "captured", crowded)
    with pytest.raises(torch.OutOfMemoryError):  # for those who halve the batch
        fitted(DeviceSteps, config, monkeypatch, captures=True)


# On paper ------------------------------------------------------------------------------------------------------------


def on_paper(dtype: torch.dtype) -> LatentThoughtModel:
    model = LatentThoughtModel(TINY).set_matmul_dtype(dtype).to(DEVICE)
    if model._output_cast is not None:
        model._output_cast = model._output_cast.to(DEVICE)
    return model


@pytest.mark.parametrize("captures", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "documents", [[document(1, 20)], [document(i, 90) for i in range(3)], [document(2, 50, 3)] * 2]
)
def test_the_host_never_waits_for_the_loop(
    documents: list[Document], dtype: torch.dtype, captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short and long against the window, rows in order and rows that share a z; noise is all that goes up."""
    play_gpu(monkeypatch)
    Recorded(monkeypatch)
    model = on_paper(dtype)
    model.captures_steps = captures
    for config in (fit_config("bound", t_fast=3), fit_config("released", t_fast=3)):
        before, loop = Traffic(), Traffic()
        with before:
            batch, start = Batch.of(model, documents), preset_start(model, documents, config, 1)
        with loop:
            found = fast_loop(batch, start, document_noise(model, documents, config, 1), config)
        assert before.waits == loop.waits == before.mixed == loop.mixed == []
        assert loop.uploads == 1 + (1 if config.noise == "fixed" else 4)  # the table of rates, and draws
        assert found.mu.device == DEVICE and found.trace.nll_nats.shape == (4, len(documents))
        assert loop.operations > 500


@pytest.mark.parametrize(
    "slip",
    [
        lambda nll: nll / float(nll.sum()),
        lambda nll: nll if nll.sum() > 0 else -nll,
        lambda nll: nll.cpu().to(DEVICE),
        lambda nll: nll[nll > 0],
        lambda nll: nll.new_tensor(nll.tolist()),
    ],
)
def test_a_slip_would_be_seen(slip: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    play_gpu(monkeypatch)
    model, config = on_paper(torch.float32), fit_config("bound", t_fast=2)
    batch, honest = Batch.of(model, [document(1, 20)]), Batch._nll
    start, noise = (
        preset_start(model, [document(1, 20)], config, 1),
        document_noise(model, [document(1, 20)], config, 1),
    )
    monkeypatch.setattr(Batch, "_nll", lambda self, rows, z: slip(honest(self, rows, z)))
    with Traffic(), pytest.raises((RuntimeError, NotImplementedError)):
        fast_loop(batch, start, noise, config)


def test_a_clock_waits_for_what_was_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    memory.finish(torch.device("cpu"))
    assert waited == []
    memory.finish(torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)]


def test_a_tensor_of_the_host_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    play_gpu(monkeypatch)
    traffic = Traffic()
    with traffic:
        torch.ones(3).to(DEVICE)
        torch.ones(3, device=DEVICE) * torch.tensor(2.0)
    assert len(traffic.waits) == 1 and len(traffic.mixed) == 1
