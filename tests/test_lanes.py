"""Short documents share passes on a CPU, and each keeps the bits that it has alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_eval.inference import batching as lanes
from ltm_eval.inference import batching as workers
from ltm_eval.inference import posterior
from ltm_eval.inference.batching import Batch, keeps_bits, lane_groups
from ltm_eval.inference.batching import lanes as lanes_of
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import Adaptive, fast_loop, fit_adaptive, fit_documents
from ltm_eval.model.decoder import LatentThoughtModel
from tests.test_steps import document
from tests.tiny import tiny_model

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
    monkeypatch.setattr(lanes, "MOST", 1)
    sizes.clear()
    alone = fit_documents(model, DOCUMENTS, config, seed=1)
    assert set(sizes) == {1}
    assert same(together, alone)
    assert all(same(shuffled.row(place), alone.row(i)) for place, i in enumerate(order))
    assert all(same(some.row(i - 5), alone.row(i)) for i in range(5, 12))


def test_adaptive_fits_keep_their_bits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = tiny_model(scale=4.0), fit_config("bound", t_fast=5)
    rule = Adaptive(window=2, max_steps=40, tolerance_nats=0.02)
    together = fit_adaptive(model, DOCUMENTS[:12], config, seed=1, rule=rule)
    monkeypatch.setattr(lanes, "MOST", 1)
    alone = fit_adaptive(model, DOCUMENTS[:12], config, seed=1, rule=rule)
    assert together.steps == alone.steps and len(set(alone.steps)) > 1
    assert torch.equal(together.posterior.mu, alone.posterior.mu)


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
def test_every_number_of_documents_is_tried_with_the_products_of_few_rows(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that sums otherwise for one number of rows, and for no other."""
    honest = LatentThoughtModel.latent_keys_values

    def other(model: LatentThoughtModel, z: torch.Tensor) -> Any:
        found = honest(model, z)
        return [(k * (1 + 2**-20), v) for k, v in found] if len(z) == rows else found

    assert keeps_bits(tiny_model(), (1, 16), 16)
    monkeypatch.setattr(LatentThoughtModel, "latent_keys_values", other)
    assert not keeps_bits(tiny_model(), (1, 16), 16)


def test_a_shape_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []
    monkeypatch.setattr(lanes, "_compared", lambda model, *key: compared.append(key) or True)
    model = tiny_model()
    for _ in range(3):
        assert keeps_bits(model, (1, 16), 16)
    assert keeps_bits(model, (1, 32), 16) and keeps_bits(tiny_model(), (1, 16), 16)
    model.set_matmul_dtype(torch.bfloat16)
    assert keeps_bits(model, (1, 16), 16)
    assert compared == [((1, 16), 16), ((1, 32), 16), ((1, 16), 16), ((1, 16), 16)]


def test_how_many_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "keeps_bits", lambda *_: True)
    model = tiny_model()
    counts = {n: lanes_of(model, document(1, n)) for n in (16, 32, 64, 128, 192)}
    assert counts == {16: 16, 32: 16, 64: 8, 128: 4, 192: 2}
    assert lanes_of(model, document(1, 60, 4)) == 2
    model.compiled = True
    assert lanes_of(model, document(1, 16)) == 1
    monkeypatch.setattr(workers, "SMALL_PARAMETERS", 10)
    assert lanes_of(tiny_model(), document(1, 16)) == 1


@pytest.mark.parametrize(
    ("threads", "expected"), [(1, [16, 3]), (2, [10, 9]), (8, [3, 3, 3, 3, 3, 3, 1]), (64, [1] * 19)]
)
def test_no_core_goes_without(threads: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "keeps_bits", lambda *_: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    texts = [document(seed, 16) for seed in range(19)]
    groups = lane_groups(tiny_model(), [list(range(19))], texts)
    assert [len(group) for group in groups] == expected
    assert [place for group in groups for place in group] == list(range(19))


def test_memory_of_a_model_does_not_outlive_it() -> None:
    model: LatentThoughtModel | None = tiny_model()
    assert model is not None
    keeps_bits(model, (1, 16), 2)
    before = len(lanes._checked)
    del model
    assert len(lanes._checked) == before - 1
