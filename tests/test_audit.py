from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from ltm_eval.inference.audit import UNTRAINED, audit, random_document, to_json, untrained_model
from ltm_eval.inference.options import PRESETS, fit_config
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.system.errors import UsageError
from ltm_eval.system.records import AuditResult
from tests.tiny import released

SMALL = replace(UNTRAINED, max_seq_len=64, window_size=64, max_z_len=12)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_verdict_on_every_preset(preset: str) -> None:
    """Fixed noise is caught on a decoder of three layers that has seen no data; fresh noise is not."""
    found = audit(untrained_model(SMALL), fit_config(preset), blocks=2, seed=3)
    assert found.t_fast == 64
    fresh = preset in ("bound", "natural")
    assert found.is_bound == fresh
    assert found.caught != fresh
    if fresh:
        assert found.deficit_nats_per_block < 0
        assert found.figure == "bound"
    else:
        assert found.deficit_nats_per_block > 40
        assert found.figure == "as_released"


def test_fixed_noise_is_no_bound_where_it_is_not_caught() -> None:
    """The released fixture has little room for latents: the leak stays below 20 nats, the verdict does not change."""
    model = released("released_a")[0]
    fixed = audit(model, fit_config("released"), blocks=2, seed=3)
    assert (fixed.caught, fixed.is_bound) == (False, False)
    fresh = audit(model, fit_config("bound"), blocks=2, seed=3)
    assert (fresh.caught, fresh.is_bound) == (False, True)
    assert fresh.deficit_nats_per_block < fixed.deficit_nats_per_block


def test_fresh_noise_makes_a_bound_of_the_released_schedule() -> None:
    fresh = replace(fit_config("released"), noise="fresh")
    assert audit(untrained_model(SMALL), fresh, blocks=1, seed=3).is_bound


def test_antithetic_noise_passes() -> None:
    config = fit_config("bound", noise="antithetic", draws=2)
    found = audit(untrained_model(SMALL), config, blocks=2, seed=3)
    assert (found.figure, found.caught, found.is_bound) == ("bound", False, True)
    assert found.deficit_nats_per_block is not None
    assert found.deficit_nats_per_block < 0


class Uniform(LatentThoughtModel):
    """Gives every token the same share, whatever it reads."""

    @property
    def output_weight(self) -> torch.Tensor:
        return torch.zeros_like(self.tok_embeddings.weight)


def test_a_model_that_knows_nothing_has_no_deficit_but_its_kl() -> None:
    model = Uniform(SMALL)
    model.init_weights(torch.Generator().manual_seed(0))
    found = audit(model, fit_config("bound"), blocks=2, length=20, seed=1)
    assert found.is_bound
    assert -60 < found.deficit_nats_per_block <= 1e-3
    assert (found.length, found.vocab, found.blocks) == (20, SMALL.vocab_size, 2)


def test_random_tokens_are_uniform_and_follow_their_seed() -> None:
    one = random_document(8, 20_000, seed=1).windows[0]
    counts = torch.tensor(one.targets).bincount(minlength=8)
    assert counts.shape == (8,)
    assert float(((counts - 2500.0) ** 2 / 2500).sum()) < 24.3  # chi-squared, 7 degrees of freedom, p = 0.001
    assert one.tokens[1:] == one.targets[:-1]
    assert one == random_document(8, 20_000, seed=1).windows[0]
    assert one != random_document(8, 20_000, seed=2).windows[0]
    assert one != random_document(8, 20_000, seed=1, block=1).windows[0]


def test_untrained_models_follow_their_seed() -> None:
    first, again, other = untrained_model(seed=1), untrained_model(seed=1), untrained_model(seed=2)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, dict(again.named_parameters())[name])
    assert not torch.equal(first.output_weight, other.output_weight)
    assert first.config.n_layers == 3
    assert not any(weight.requires_grad for weight in first.parameters())


def test_json_lists_one_object_per_preset() -> None:
    results = [
        AuditResult("released", 46.9, 3.0, True, False, 64, "as_released", 4, 1024, 2048, 1234),
        AuditResult("bound", -80.8, None, False, True, 64, "bound", 1, 1024, 2048, 1234),
    ]
    found = json.loads(to_json(results))
    assert [(row["preset"], row["deficit_nats_per_block"], row["is_bound"]) for row in found] == [
        ("released", 46.9, False),
        ("bound", -80.8, True),
    ]
    assert found[1]["stderr_nats"] is None


def test_deficit_and_its_error_are_over_blocks() -> None:
    model, config = untrained_model(SMALL), replace(fit_config("bound"), lr=1e-6, lr_final=1e-6)
    each = [audit(model, config, blocks=blocks, length=8, seed=1) for blocks in (1, 2)]
    assert each[0].stderr_nats is None
    first, both = each[0].deficit_nats_per_block, each[1].deficit_nats_per_block
    assert each[1].stderr_nats == pytest.approx(abs(first - both))  # |a - b| / 2, with b = 2 mean - a
    assert math.isfinite(both)


@pytest.mark.parametrize(("options", "words"), [({"blocks": 0}, "0 of 64"), ({"length": 65}, "4 of 65")])
def test_wrong_options_are_named(options: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        audit(untrained_model(SMALL), fit_config(), **options)
