from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ltm_eval.inference.bench import SIZES, decoder
from ltm_eval.model.decoder import (
    LatentThoughtModel,
    RMSNorm,
    _windowed_in_blocks,
    rope_table,
    rotate,
    windowed_attention,
)
from ltm_eval.system.errors import CheckpointError
from tests.tiny import RELEASED, TINY, latent, relative_error, released, tiny_model


@pytest.mark.parametrize("name", RELEASED)
def test_logits_equal_the_released_ones(name: str) -> None:
    model, _, expected = released(name)
    logits = model(torch.from_numpy(expected["X"]), latent(model, expected["z"]))
    assert relative_error(logits, torch.from_numpy(expected["logits"])) < 1e-5


@pytest.mark.parametrize(("name", "millions"), [("S", 38.37), ("M", 51.01), ("L", 76.28)])
def test_published_sizes(name: str, millions: float) -> None:
    """Parameter counts of LTM-S, M and L (arXiv:2502.01567, derived from its FLOP figures)."""
    with torch.device("meta"):
        model = LatentThoughtModel(SIZES[name])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("length", [1, 5, 7, 8, 20, 21, 64])
@pytest.mark.parametrize("window", [1, 3, 7, 30])
def test_windowed_attention_equals_the_dense_mask(length: int, window: int) -> None:
    q, k, v = torch.randn(3, 2, 3, length, 4, generator=torch.Generator().manual_seed(length))
    gap = torch.arange(length).view(-1, 1) - torch.arange(length).view(1, -1)
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=(gap >= 0) & (gap < window))
    torch.testing.assert_close(windowed_attention(q, k, v, window), dense)
    torch.testing.assert_close(_windowed_in_blocks(q, k, v, window), dense)  # the path of a GPU


@pytest.mark.parametrize(("length", "window"), [(40, 7), (64, 64), (130, 30), (200, 256)])
def test_gradient_of_windowed_attention_equals_autograd(length: int, window: int) -> None:
    """Three ways: float64 truth and fp32 through torch's own attention with a dense mask, ours."""
    q, k, v, grad = torch.randn(4, 2, 3, length, 8, generator=torch.Generator().manual_seed(length))
    gap = torch.arange(length).view(-1, 1) - torch.arange(length).view(1, -1)
    mask = (gap >= 0) & (gap < window)

    def gradients(dtype: torch.dtype, *, ours: bool) -> tuple[torch.Tensor, ...]:
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        out = windowed_attention(*leaves, window) if ours else F.scaled_dot_product_attention(*leaves, attn_mask=mask)
        return torch.autograd.grad(out, leaves, grad.to(dtype))

    truth, naive = (gradients(dtype, ours=False) for dtype in (torch.float64, torch.float32))
    for found, exact, plain in zip(gradients(torch.float32, ours=True), truth, naive, strict=True):
        assert relative_error(found, exact) <= max(2 * relative_error(plain, exact), 3e-7)
    for found, exact in zip(gradients(torch.bfloat16, ours=True), truth, strict=True):
        assert relative_error(found, exact) < 0.01


def test_gradients_of_weights_are_whole_where_a_trainer_asks_for_them() -> None:
    """A step of training differentiates everything; compared with the yardstick's own backward pass in float64."""
    model = tiny_model(scale=4.0).requires_grad_(True)
    tokens = torch.randint(0, 256, (2, 60), generator=torch.Generator().manual_seed(7))
    z = torch.randn(2, *TINY.latent_shape, generator=torch.Generator().manual_seed(8))
    found = torch.autograd.grad(model(tokens, z).square().mean(), list(model.parameters()))
    exact = {name: weight.detach().double().requires_grad_() for name, weight in model.named_parameters()}
    truth = torch.autograd.grad(decoder(exact, TINY, tokens, z.double()).square().mean(), list(exact.values()))
    for ours, wanted in zip(found, truth, strict=True):
        assert relative_error(ours, wanted) < 1e-4


@pytest.mark.parametrize("shape", [(1, 8), (2, 5, 16)])
def test_norm_and_its_gradients_equal_the_formula(shape: tuple[int, ...]) -> None:
    norm = RMSNorm(shape[-1], 1e-5)
    norm.weight.data.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    wide, weight = (t.detach().double().requires_grad_() for t in (x, norm.weight))
    truth = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight
    torch.testing.assert_close(norm(x).double(), truth, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(norm(x).cos().sum(), (x, norm.weight))
    for ours, wanted in zip(found, torch.autograd.grad(truth.cos().sum(), (wide, weight)), strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_repeated_prelude_is_the_prelude_of_repeated_tokens() -> None:
    model, tokens = tiny_model(), torch.arange(20).view(1, 20)
    z = torch.randn(3, *TINY.latent_shape, generator=torch.Generator().manual_seed(9))
    once = model.hidden(model.prelude(tokens).repeated(3), z).states
    torch.testing.assert_close(once, model.hidden(model.prelude(tokens.expand(3, -1)), z).states)


def test_zero_latents_equal_none() -> None:
    model, tokens = tiny_model(), torch.arange(40).view(2, 20)
    torch.testing.assert_close(model(tokens, torch.zeros(2, *TINY.latent_shape)), model(tokens), rtol=0, atol=0)


def test_latents_change_the_logits() -> None:
    model, tokens = tiny_model(), torch.arange(40).view(2, 20)
    z = torch.randn(2, *TINY.latent_shape, generator=torch.Generator().manual_seed(1))
    assert relative_error(model(tokens, z), model(tokens)) > 0.01


def test_later_tokens_do_not_change_earlier_logits() -> None:
    model = tiny_model()
    tokens = torch.randint(0, 257, (1, 60), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(tokens)[:, :31], model(tokens[:, :31]), rtol=1e-5, atol=1e-5)


def test_rotation_keeps_lengths_and_depends_on_distance_only() -> None:
    table = rope_table(8, 32)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    at = [(rotate(q, table[:, i]) * rotate(k, table[:, i - 4])).sum() for i in (4, 11, 31)]
    torch.testing.assert_close(at[0], at[1])
    torch.testing.assert_close(at[0], at[2])
    torch.testing.assert_close(rotate(q, table[:, 9]).norm(), q.norm())


def test_latents_without_positions() -> None:
    model = tiny_model(replace(TINY, use_z_pos_emb=False))
    z = torch.randn(1, *TINY.latent_shape, generator=torch.Generator().manual_seed(4))
    tokens = torch.arange(12).view(1, 12)
    torch.testing.assert_close(model(tokens, z), model(tokens, z.flip(2)))


def test_bfloat16_matrix_products_stay_close_and_report_fp32() -> None:
    tokens = torch.randint(0, 257, (1, 50), generator=torch.Generator().manual_seed(5))
    z = torch.randn(1, *TINY.latent_shape, generator=torch.Generator().manual_seed(6))
    exact = tiny_model(scale=4.0)(tokens, z)
    rounded = tiny_model(scale=4.0).set_matmul_dtype(torch.bfloat16)(tokens, z)
    assert rounded.dtype == torch.float32
    assert relative_error(rounded, exact) < 0.03


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_kv_heads": 3}, "n_kv_heads 3"),
        ({"dim": 0}, "dim must be"),
        ({"window_size": "8"}, "window_size"),
        ({"max_z_len": 400}, "max_seq_len 192"),
    ],
)
def test_impossible_sizes_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        replace(TINY, **change)  # type: ignore[arg-type]
