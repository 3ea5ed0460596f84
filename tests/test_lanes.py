"""Short documents share passes on a CPU, and each keeps the bits that it has alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_eval.inference import batching, posterior
from ltm_eval.inference.batching import Batch, in_groups, keeps_bits
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import Adaptive, fast_loop, fit_adaptive, fit_documents
from ltm_eval.model.decoder import LatentThoughtModel
from tests.tiny import document, tiny_model

if TYPE_CHECKING:
    from ltm_eval.inference.windows import Posterior

DOCUMENTS = [
    document(seed, *shape)
    for seed, shape in enumerate(
        [(14, 1)] * 9 + [(20, 1), (31, 1)] * 4 + [(60, 1)] * 5 + [(12, 2)] * 3 + [(150, 1)] * 2
    )
]


def same(own: Posterior, other: Posterior) -> bool:
    traces = [(p.trace.nll_nats, p.trace.kl_nats) for p in (own, other)]
    return (
        torch.equal(own.mu, other.mu)
        and torch.equal(own.log_var, other.log_var)
        and all(torch.equal(a, b) for a, b in zip(*traces, strict=True))
    )


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Documents of each pass that was fitted."""
    found: list[int] = []

    def counting(batch: Batch, *rest: Any) -> Posterior:
        found.append(batch.size)
        return fast_loop(batch, *rest)

    monkeypatch.setattr(posterior, "fast_loop", counting)
    return found


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_bits_are_those_of_each_document_alone(noise: str, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = tiny_model(), fit_config("bound", t_fast=5, noise=noise)
    order = list(range(len(DOCUMENTS)))
    random.Random(1).shuffle(order)
    together = fit_documents(model, DOCUMENTS, config, seed=1)
    assert max(sizes) > 8, "short documents share passes on this machine, or the test shows nothing"
    shuffled = fit_documents(model, [DOCUMENTS[i] for i in order], config, seed=1)
    some = fit_documents(model, DOCUMENTS[5:12], config, seed=1)
    monkeypatch.setattr(batching, "SHARED_DOCUMENTS", 1)
    sizes.clear()
    alone = fit_documents(model, DOCUMENTS, config, seed=1)
    assert set(sizes) == {1}
    assert same(together, alone)
    assert all(same(shuffled.row(place), alone.row(i)) for place, i in enumerate(order))
    assert all(same(some.row(i - 5), alone.row(i)) for i in range(5, 12))


def test_adaptive_fits_keep_their_bits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = tiny_model(scale=4.0), fit_config("bound", t_fast=5)
    rule = Adaptive(window=2, max_steps=40, tolerance_nats=0.02)
    together, steps = fit_adaptive(model, DOCUMENTS[:12], config, seed=1, rule=rule)
    monkeypatch.setattr(batching, "SHARED_DOCUMENTS", 1)
    alone, alone_steps = fit_adaptive(model, DOCUMENTS[:12], config, seed=1, rule=rule)
    assert steps == alone_steps and len(set(steps)) > 1
    assert torch.equal(together.mu, alone.mu)


def test_where_a_bit_differs_documents_run_alone(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose products of many rows sum otherwise, in the last bit of a single number."""
    honest = Batch.descend

    def other(batch: Batch, mu: torch.Tensor, *rest: Any) -> Any:
        terms = honest(batch, mu, *rest)
        if batch.size > 2:
            assert mu.grad is not None
            mu.grad[0, 0, 0, 0] = torch.nextafter(mu.grad[0, 0, 0, 0], torch.tensor(9.0))
        return terms

    monkeypatch.setattr(Batch, "descend", other)
    model, config = tiny_model(), fit_config("bound", t_fast=1)
    assert not keeps_bits(model, (1, 16), 9)
    found = fit_documents(model, DOCUMENTS[:9], config, seed=1)
    assert set(sizes) == {1}
    monkeypatch.undo()
    assert torch.equal(found.mu, fit_documents(tiny_model(), DOCUMENTS[:9], config, seed=1).mu)


@pytest.mark.parametrize("rows", [1, 5, 7])
def test_every_number_of_documents_is_tried(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that sums otherwise for one number of rows, and for no other."""
    honest = LatentThoughtModel.latent_keys_values

    def other(model: LatentThoughtModel, z: torch.Tensor) -> Any:
        found = honest(model, z)
        return [(k * (1 + 2**-20), v) for k, v in found] if len(z) == rows else found

    assert keeps_bits(tiny_model(), (1, 16), 16)
    monkeypatch.setattr(LatentThoughtModel, "latent_keys_values", other)
    kept = {count: keeps_bits(tiny_model(), (1, 16), count) for count in (2, 5, 7, 16)}
    assert kept == {count: rows not in (1, count) for count in kept}


def test_a_shape_is_tried_once_and_forgotten_with_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    honest = Batch.of.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Batch, "of", classmethod(lambda cls, *given: tried.append(1) or honest(cls, *given)))
    model: LatentThoughtModel | None = tiny_model()
    assert model is not None
    for _ in range(3):
        assert keeps_bits(model, (1, 16), 2)
    assert len(tried) == 3  # both, and each alone
    assert keeps_bits(model, (1, 32), 2) and keeps_bits(model, (1, 16), 3)
    assert len(tried) == 3 + 3 + 4
    keeps_bits(model.set_matmul_dtype(torch.bfloat16), (1, 16), 2)
    assert len(tried) == 10 + 3
    before = len(batching._tried)
    del model
    assert len(batching._tried) == before - 1


def groups(count: int, length: int, windows: int = 1, model: LatentThoughtModel | None = None) -> list[int]:
    found: list[list[int]] = []
    texts = [document(seed, length, windows) for seed in range(count)]
    assert in_groups(model or tiny_model(), texts, lambda group: found.append(list(group)) or list(group)) == list(
        range(count)
    )
    return [len(group) for group in sorted(found)]


def test_how_many_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "keeps_bits", lambda *_: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert {n: groups(16, n)[0] for n in (16, 32, 64, 128, 192)} == {16: 16, 32: 16, 64: 8, 128: 4, 192: 2}
    assert groups(4, 60, 4) == [2, 2]
    model = tiny_model()
    model.compiled = True
    assert groups(3, 16, model=model) == [1, 1, 1]
    monkeypatch.setattr(batching, "SMALL_PARAMETERS", 10)
    assert groups(3, 16) == [1, 1, 1]


@pytest.mark.parametrize(
    ("threads", "expected"), [(1, [16, 3]), (2, [10, 9]), (8, [3, 3, 3, 3, 3, 3, 1]), (64, [1] * 19)]
)
def test_no_core_goes_without(threads: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "keeps_bits", lambda *_: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert groups(19, 16) == expected
