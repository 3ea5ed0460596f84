from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ltm_eval.inference.batching import Batch
from ltm_eval.inference.bounds import DocumentBounds, RowOptions, as_released, fresh_draws, iwae, prior, score_documents
from ltm_eval.inference.causal import CausalConfig, causal, text_of
from ltm_eval.inference.draws import minus_log_mean, nll_of_latents
from ltm_eval.inference.options import FitConfig, fit_config
from ltm_eval.inference.posterior import Adaptive, adaptive_loop, fit_adaptive, fit_documents
from ltm_eval.inference.windows import Document, Posterior, Window
from ltm_eval.model.checkpoint import load
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.model.elbo import IGNORED, kl_nats
from ltm_eval.system.errors import UsageError
from tests.tiny import TINY, document, relative_error, tiny_model
from tests.toy import ToyModel, evidence_nats, sampled_document

if TYPE_CHECKING:
    from ltm_eval.model.config import ModelConfig

SEEDS = 20


def without_latents(config: ModelConfig = TINY) -> LatentThoughtModel:
    """A model whose cross-attention adds nothing, so that p(x|z) = p(x)."""
    model = tiny_model(config, scale=4.0)
    with torch.no_grad():
        for block in model.blocks:
            block.cross_attention.wo.weight.zero_()
    return model


def plain_nll_nats(model: LatentThoughtModel, tokens: tuple[int, ...], *, first: int = 0) -> float:
    """-log p of the targets from position `first` on, from the model's logits alone."""
    logits = model(torch.tensor([tokens[:-1]]))[0].double().log_softmax(-1)
    return -float(logits[range(len(tokens) - 1), list(tokens[1:])][first:].sum())


# The numerically integrated toy ---------------------------------------------------------------------------------------


@cache
def toy() -> tuple[ToyModel, list[Document], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """The toy, 20 texts and what each of them costs in truth."""
    model = ToyModel()
    documents = [sampled_document(model, seed)[0] for seed in range(SEEDS)]
    return model, documents, np.array([evidence_nats(model, text) for text in documents])


@cache
def toy_fit(preset: str, t_fast: int) -> Posterior:
    model, documents, _ = toy()
    return fit_documents(model, documents, fit_config(preset, t_fast=t_fast), seed=1)


def nats(found: list[DocumentBounds]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([one.bound.nats for one in found])


def errors(found: list[DocumentBounds]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([one.bound.stderr_nats for one in found], dtype=float)


def mean_and_stderr(excess: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    return float(excess.mean()), float(excess.std(ddof=1)) / math.sqrt(len(excess))


def test_integral_has_converged_and_latents_matter() -> None:
    model, documents, truth = toy()
    coarse = [evidence_nats(model, text, points=901) for text in documents[:5]]
    np.testing.assert_allclose(coarse, truth[:5], rtol=0, atol=1e-3)
    at_zero = [
        float(nll_of_latents(Batch.of(model, [text]), torch.zeros(1, *model.config.latent_shape))) for text in documents
    ]
    assert np.abs(at_zero - truth).max() > 3


@pytest.mark.parametrize("t_fast", [0, 4, 16, 64])
def test_bound_is_never_below_the_truth(t_fast: int) -> None:
    model, documents, truth = toy()
    drawn = fresh_draws(model, documents, toy_fit("bound", t_fast), seed=1, draws=32)
    excess = nats(drawn) - truth
    assert (excess >= -3 * errors(drawn)).all()
    mean, stderr = mean_and_stderr(excess)
    assert mean >= -3 * stderr


def test_more_steps_tighten_the_bound() -> None:
    model, documents, truth = toy()
    bounds = [nats(fresh_draws(model, documents, toy_fit("bound", t), seed=1)).mean() for t in (0, 4, 16, 64)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] - truth.mean() < 0.25 * (bounds[0] - truth.mean())


def test_iwae_falls_with_k_to_the_truth() -> None:
    model, documents, truth = toy()
    means = {}
    for k in (1, 8, 64):
        found = iwae(model, documents, toy_fit("bound", 64), seed=1, draws=k)
        means[k], stderr = mean_and_stderr(np.array([row.nats for row in found]) - truth)
        assert means[k] >= -3 * stderr, k
        if k > 1:
            known = [(row.nats, row.stderr_nats) for row in found]
            assert sum(n < t - 3 * (s or 0) for (n, s), t in zip(known, truth, strict=True)) <= 1, k
    assert means[1] > means[8] > means[64]
    assert abs(means[64]) < 0.1


def test_prior_is_a_bound() -> None:
    model, documents, truth = toy()
    found = prior(model, documents, seed=1, draws=64)
    assert all(row.nats >= t - 3 * (row.stderr_nats or 0) for row, t in zip(found, truth, strict=True))
    few = np.array([row.nats for row in prior(model, documents, seed=1, draws=2)])
    assert few.mean() > np.mean([row.nats for row in found])


@pytest.mark.parametrize("preset", ["released", "published"])
def test_own_noise_falls_below_the_truth_and_fresh_noise_does_not(preset: str) -> None:
    model, documents, truth = toy()
    fitted = toy_fit(preset, 64)
    config = fit_config(preset, t_fast=64)
    own = as_released(model, documents, config, seed=1, posterior=fitted)
    mean, stderr = mean_and_stderr(np.array([row.nats for row in own]) - truth)
    assert mean < -3 * stderr
    assert mean < -1
    mean, stderr = mean_and_stderr(nats(fresh_draws(model, documents, fitted, seed=1)) - truth)
    assert mean > 3 * stderr


def test_causal_is_a_code_length_of_texts_from_the_model() -> None:
    """Texts drawn from the model cost no code less than the model itself, on average."""
    model, documents, truth = toy()
    found = causal(
        model, [text_of(d) for d in documents], fit_config(), options=CausalConfig(chunk=8, t_fast=4), seed=1
    )
    mean, stderr = mean_and_stderr(np.array([row.nats for row in found]) - truth)
    assert mean >= -3 * stderr


# Rows of a document ---------------------------------------------------------------------------------------------------


def test_every_row_has_the_same_bits_in_any_batch_and_order() -> None:
    model, config = tiny_model(), fit_config(t_fast=3)
    documents = [document(seed, length) for seed, length in enumerate((5, 17, 17, 40))]
    options = RowOptions(draws=3, iwae=4, prior=3, causal=CausalConfig(chunk=8, t_fast=2, draws=2))
    alone = [score_documents(model, [d], config, options=options, seed=3)[0] for d in documents]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        together = score_documents(model, [documents[i] for i in order], config, options=options, seed=3)
        assert together == [alone[i] for i in order]
    assert list(alone[0].rows()) == ["bound", "nll_given_z", "kl", "iwae_4", "prior", "as_released", "causal"]
    assert score_documents(model, documents[:1], config, options=options, seed=4) != alone[:1]


def test_rows_not_asked_for_are_absent() -> None:
    options = RowOptions(draws=2, iwae=0, prior=0, as_released=False)
    (found,) = score_documents(tiny_model(), [document(1, 9)], fit_config(t_fast=1), options=options, seed=3)
    assert list(found.rows()) == ["bound", "nll_given_z", "kl"]
    assert found.bound.nats == pytest.approx(found.nll_given_z.nats + found.kl.nats, abs=1e-9)


def test_several_latents_in_one_pass_equal_one_at_a_time() -> None:
    """The path a GPU takes, on the CPU: equal up to rounding."""
    model, two = tiny_model(), Document((*document(1, 20).windows, *document(2, 33).windows))
    z = torch.randn(5, *TINY.latent_shape, generator=torch.Generator().manual_seed(0))
    batch = Batch.of(model, [two])
    single = torch.cat([nll_of_latents(batch, row.unsqueeze(0)) for row in z])
    torch.testing.assert_close(nll_of_latents(batch, z), single, rtol=1e-6, atol=0)
    naive = 0.0
    for window in two.windows:
        logits = model(torch.tensor([window.tokens]), z[:1])[0].double().log_softmax(-1)
        naive -= float(logits[range(len(window.tokens)), list(window.targets)].sum())
    assert float(single[0]) == pytest.approx(naive, rel=1e-5)


def test_where_latents_do_nothing_every_row_is_known() -> None:
    model, text = without_latents(), document(3, 30)
    truth = plain_nll_nats(model, text_of(text))
    options = RowOptions(causal=CausalConfig(chunk=7, t_fast=2))
    (found,) = score_documents(model, [text], fit_config(t_fast=4, log_var_start=-1.0), options=options, seed=3)
    assert found.nll_given_z.nats == pytest.approx(truth, rel=1e-6)
    assert found.bound.nats == pytest.approx(truth + found.kl.nats, rel=1e-6)
    assert found.kl.nats > 0
    assert found.prior is not None and found.prior.nats == pytest.approx(truth, rel=1e-6)
    assert found.prior.stderr_nats == pytest.approx(0, abs=1e-4)
    assert found.causal is not None and found.causal.nats == pytest.approx(truth, rel=1e-6)
    assert found.iwae is not None and truth - 3 * (found.iwae.stderr_nats or 0) < found.iwae.nats < found.bound.nats


def test_kl_is_summed_in_float64() -> None:
    fitted = fit_documents(tiny_model(), [document(1, 9)], fit_config(t_fast=3), seed=1)
    (drawn,) = fresh_draws(tiny_model(), [document(1, 9)], fitted, seed=1)
    assert drawn.kl.nats == float(kl_nats(fitted.mu.double(), fitted.log_var.double()))
    assert drawn.bound.stderr_nats == pytest.approx(np.std(drawn.bound.per_draw_nats, ddof=1) / 8**0.5)


def test_as_released_reads_a_fixed_fit_and_refits_a_fresh_one() -> None:
    model, texts = tiny_model(), [document(1, 20), document(2, 30)]
    released = fit_documents(model, texts, fit_config("released", t_fast=5), seed=3)
    last = released.trace.objective_nats[-1]
    for config in (fit_config("released", t_fast=5), fit_config("bound", t_fast=5)):
        found = as_released(model, texts, config, seed=3)
        assert [row.nats for row in found] == pytest.approx(last.tolist(), rel=1e-6)
        assert all(row.stderr_nats is None for row in found)
    published = as_released(model, texts, fit_config("published", t_fast=5), seed=3)
    assert [row.nats for row in published] != pytest.approx(last.tolist(), rel=1e-6)


def test_log_mean_of_known_weights() -> None:
    equal = minus_log_mean(torch.full((5,), -700.0, dtype=torch.float64))
    assert equal.nats == pytest.approx(700)
    assert equal.stderr_nats == pytest.approx(0, abs=1e-9)
    assert equal.effective_draws == pytest.approx(5)
    uneven = minus_log_mean(torch.tensor([1.0, 3.0], dtype=torch.float64).log() - 1000)
    assert uneven.nats == pytest.approx(1000 - math.log(2))
    assert uneven.effective_draws == pytest.approx(16 / 10)  # (1 + 3)^2 / (1 + 9)
    lone = minus_log_mean(torch.tensor([-7.0], dtype=torch.float64))
    assert (lone.nats, lone.stderr_nats) == (7.0, None)


def test_jackknife_equals_leaving_out_one_at_a_time() -> None:
    weights = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    each = np.array([-minus_log_mean(torch.cat([weights[:i], weights[i + 1 :]])).nats for i in range(9)])
    assert minus_log_mean(weights).stderr_nats == pytest.approx(math.sqrt(8 / 9 * ((each - each.mean()) ** 2).sum()))


def test_a_single_draw_that_carries_the_mean_shows_in_the_error() -> None:
    degenerate = minus_log_mean(torch.tensor([0.0, -50.0, -51.0, -52.0], dtype=torch.float64))
    assert degenerate.stderr_nats is not None and degenerate.stderr_nats > 30
    assert degenerate.effective_draws == pytest.approx(1)


def test_too_few_draws_are_named() -> None:
    model, texts = tiny_model(), [document(1, 9)]
    with pytest.raises(UsageError, match="at least 2 fresh draws"):
        fresh_draws(model, texts, Posterior.prior(model), seed=1, draws=1)


# Causal ---------------------------------------------------------------------------------------------------------------

TEXT = tuple(torch.randint(0, 256, (60,), generator=torch.Generator().manual_seed(8)).tolist())
QUICK = CausalConfig(chunk=16, t_fast=3, draws=3)


@pytest.mark.parametrize("at", [17, 33, 50])
def test_causal_never_looks_ahead(at: int) -> None:
    model = tiny_model()
    (original,) = causal(model, [TEXT], fit_config(), options=QUICK, seed=1)
    changed = TEXT[:at] + tuple(255 - token for token in TEXT[at:])
    whole = (at - 1) // 16  # chunks whose targets all stand before the change
    for later in (changed, TEXT[:at], TEXT + TEXT):
        (found,) = causal(model, [later], fit_config(), options=QUICK, seed=1)
        assert found.chunk_nats[:whole] == original.chunk_nats[:whole]
    (found,) = causal(model, [changed], fit_config(), options=QUICK, seed=1)
    assert found.chunk_nats[whole] != original.chunk_nats[whole]


@pytest.mark.parametrize("past", [(), (3, 1, 0, 2), (3, 1, 0, 2, 1, 1, 2, 0, 3, 3)])
def test_causal_probabilities_of_all_continuations_sum_to_one(past: tuple[int, ...]) -> None:
    config = replace(TINY, vocab_size=4, max_seq_len=8)
    model = LatentThoughtModel(config)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(12 if weight.dim() > 1 else 1)
    options = CausalConfig(chunk=2, t_fast=3, draws=3)
    texts = [(0, *past, *chunk) for chunk in product(range(4), repeat=2)]
    found = causal(model, texts, fit_config(), options=options, seed=1)
    shares = np.exp([-row.chunk_nats[-1] for row in found])
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    assert shares.std() > 1e-3


def test_causal_reads_as_much_as_the_context_holds() -> None:
    """Latents do nothing here, so a chunk's cost is known: text beyond the context drops out from the left."""
    model = without_latents(replace(TINY, max_seq_len=32, window_size=32))
    (found,) = causal(model, [TEXT], fit_config(), options=CausalConfig(chunk=12, t_fast=1, draws=2), seed=1)
    expected = []
    for first in range(0, 59, 12):
        start, end = max(0, first + 12 - 32), min(first + 12, 59)
        expected.append(plain_nll_nats(model, TEXT[start : end + 1], first=first - start))
    assert found.chunk_nats == pytest.approx(expected, rel=1e-5)
    assert found.tokens == 59
    assert found.fast_steps == 4
    assert found.fitted_tokens == 12 + 24 + 32 + 32
    assert found.read_tokens == 2 * (12 + 24 + 32 + 32 + 31)
    assert found.nats == pytest.approx(sum(expected), rel=1e-5)


def test_causal_chunk_may_fill_the_context() -> None:
    model = tiny_model(replace(TINY, max_seq_len=16, window_size=16))
    (found,) = causal(model, [TEXT], fit_config(), options=CausalConfig(chunk=16, t_fast=2, draws=2), seed=1)
    assert len(found.chunk_nats) == 4
    assert math.isfinite(found.nats)


def test_causal_without_steps_keeps_the_prior() -> None:
    model = tiny_model()
    (found,) = causal(model, [TEXT], fit_config(), options=replace(QUICK, t_fast=0), seed=1)
    (fitted,) = causal(model, [TEXT], fit_config(), options=QUICK, seed=1)
    assert (found.fast_steps, found.fitted_tokens) == (0, 0)
    assert found.chunk_nats[0] == fitted.chunk_nats[0]
    assert found.chunk_nats[1:] != fitted.chunk_nats[1:]


def test_texts_side_by_side_equal_texts_alone() -> None:
    model = tiny_model()
    texts = [TEXT, TEXT[:20], TEXT[5:]]
    together = causal(model, texts, fit_config(), options=QUICK, seed=1)
    assert together == [causal(model, [text], fit_config(), options=QUICK, seed=1)[0] for text in texts]


@pytest.mark.parametrize(
    ("texts", "chunk", "words"),
    [([TEXT], 400, "exceeds the model's context of 192"), ([TEXT, (3,)], 8, "text 1 has 1 tokens")],
)
def test_causal_refuses_what_it_cannot_score(texts: list[tuple[int, ...]], chunk: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        causal(tiny_model(), texts, fit_config(), options=CausalConfig(chunk=chunk), seed=1)


@pytest.mark.parametrize("options", [{"chunk": 0}, {"draws": 0}, {"chunk": 2.5}])
def test_causal_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        CausalConfig(**options)


@pytest.mark.parametrize("options", [{"draws": 1}, {"iwae": -1}, {"prior": 0.5}])
def test_row_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        RowOptions(**options)


def test_text_of_windows_is_the_text_they_were_cut_from() -> None:
    first = Window((9, 1, 2), (1, 2, 3))
    overlapping = Window((2, 3, 4), (IGNORED, 4, 5))
    assert text_of(Document((first, overlapping))) == (9, 1, 2, 3, 4, 5)
    with pytest.raises(UsageError, match="own next tokens"):
        text_of(Document((Window((1, 2), (7, 3)),)))


# Adaptive steps -------------------------------------------------------------------------------------------------------

RULE = Adaptive(tolerance_nats=0.02, window=8, max_steps=96)


def adaptive_config() -> FitConfig:
    return fit_config("bound")


def test_a_document_that_gains_nothing_stops_first() -> None:
    model, dull = tiny_model(scale=4.0), without_latents()
    text = [document(4, 64)]
    _, found = fit_adaptive(dull, text, replace(adaptive_config(), log_var_start=0.0), seed=1, rule=RULE)
    assert found == [4 * RULE.window]  # two windows to see it, as many to let the rate fall
    _, longer = fit_adaptive(model, text, adaptive_config(), seed=1, rule=replace(RULE, tolerance_nats=1e-9))
    assert longer[0] > 4 * RULE.window
    _, never = fit_adaptive(model, text, adaptive_config(), seed=1, rule=Adaptive(1e-9, window=20, max_steps=30))
    assert never == [30]


def test_adaptive_fits_have_the_same_bits_in_any_order() -> None:
    model = tiny_model()
    texts = [document(seed, length) for seed, length in enumerate((17, 40, 64))]
    found, steps = fit_adaptive(model, texts, adaptive_config(), seed=3, rule=RULE)
    again, reversed_steps = fit_adaptive(model, texts[::-1], adaptive_config(), seed=3, rule=RULE)
    assert steps == reversed_steps[::-1]
    assert torch.equal(found.mu, again.mu.flip(0))
    trace = found.trace.objective_nats
    assert trace.shape == (max(steps) + 1, 3)
    assert trace[-1].isfinite().all()
    assert [int(column.isfinite().sum()) for column in trace.T] == [one + 1 for one in steps]


def test_documents_leave_a_shared_batch_without_disturbing_it() -> None:
    """The path a GPU takes, on the CPU: equal up to rounding."""
    model, rule = tiny_model(scale=4.0), replace(RULE, max_steps=40)
    constant = Document((Window((65,) * 40, (65,) * 40),))
    texts = [document(1, 40), constant, document(2, 40)]
    together = adaptive_loop(model, texts, adaptive_config(), seed=3, rule=rule)
    for text, (posterior, steps) in zip(texts, together, strict=True):
        ((alone, alone_steps),) = adaptive_loop(model, [text], adaptive_config(), seed=3, rule=rule)
        assert steps == alone_steps
        assert relative_error(posterior.mu, alone.mu) < 1e-2
        assert relative_error(posterior.trace.objective_nats, alone.trace.objective_nats) < 1e-4


def test_adaptive_first_steps_are_those_of_a_fixed_fit() -> None:
    model, texts = tiny_model(), [document(1, 40)]
    constant = replace(adaptive_config(), lr_final=adaptive_config().lr, t_fast=10)
    fixed = fit_documents(model, texts, constant, seed=3)
    adaptive, _ = fit_adaptive(model, texts, constant, seed=3, rule=RULE)
    assert torch.equal(adaptive.trace.objective_nats[:10], fixed.trace.objective_nats[:10])


def test_adaptive_fit_reaches_what_a_long_fit_reaches() -> None:
    model, documents, _ = toy()
    some = documents[:3]
    found, steps = fit_adaptive(model, some, fit_config("bound"), seed=1, rule=Adaptive(window=8, max_steps=128))
    short = fresh_draws(model, some, toy_fit("bound", 16), seed=1)  # the first rows of the longer fit
    assert nats(fresh_draws(model, some, found, seed=1)).mean() < nats(short).mean()
    assert sum(steps) / 3 < 128


@pytest.mark.parametrize("rule", [{"window": 0}, {"max_steps": 3}, {"tolerance_nats": 0.0}])
def test_adaptive_rules_are_checked(rule: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"window|tolerance"):
        Adaptive(**rule)


# Sharing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "windows"), [(30, 1), (30, 2), (150, 1)])
def test_a_draw_costs_the_same_bits_however_many_there_are(length: int, windows: int) -> None:
    model = tiny_model(scale=4.0)
    text = Document(tuple(document(seed, length).windows[0] for seed in range(windows)))
    fitted = fit_documents(model, [text], fit_config("bound", t_fast=3), seed=1)
    many = fresh_draws(model, [text], fitted, seed=1, draws=21)[0].bound.per_draw_nats
    for draws in (2, 8, 11):
        (found,) = fresh_draws(model, [text], fitted, seed=1, draws=draws)
        assert found.bound.per_draw_nats == many[:draws]


def test_draws_that_share_a_pass_equal_draws_alone() -> None:
    model, text = tiny_model(scale=4.0), document(3, 40)
    z = torch.randn(8, *TINY.latent_shape, generator=torch.Generator().manual_seed(4))
    alone = torch.cat([nll_of_latents(Batch.of(model, [text]), one.unsqueeze(0)) for one in z])
    torch.testing.assert_close(nll_of_latents(Batch.of(model, [text]), z), alone, rtol=1e-6, atol=0)


def test_the_prelude_is_made_once_for_all_draws_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plain = LatentThoughtModel.prelude
    monkeypatch.setattr(LatentThoughtModel, "prelude", lambda self, tokens: made.append(1) or plain(self, tokens))
    iwae(tiny_model(), [document(1, 20)], Posterior.prior(tiny_model()), seed=1, draws=64)
    assert len(made) == 1


def test_draws_that_memory_cannot_hold_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, text, passes = tiny_model(scale=4.0), document(3, 40), []
    z = torch.randn(7, *TINY.latent_shape, generator=torch.Generator().manual_seed(4))
    exact, plain = nll_of_latents(Batch.of(model, [text]), z), Batch.repeated

    def crowded(self: Batch, times: int) -> Batch:
        passes.append(times)
        if times > 3:
            raise torch.OutOfMemoryError("CUDA out of memory (faked)")
        return plain(self, times)

    monkeypatch.setattr(Batch, "repeated", crowded)
    torch.testing.assert_close(nll_of_latents(Batch.of(model, [text]), z), exact, rtol=1e-6, atol=0)
    assert passes == [7, 3, 4, 2, 2]


# Rounded fits ---------------------------------------------------------------------------------------------------------


def test_a_bound_of_rounded_products_differs_by_less_than_its_monte_carlo_error() -> None:
    """Corpus bound of the bundled model on random tokens, fitted and scored in bf16 and in fp32."""
    texts = [document(seed, 60, vocab=1000) for seed in range(6)]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load("demo").set_matmul_dtype(dtype)
        fitted = fit_documents(model, texts, fit_config("bound", t_fast=12), seed=1)
        found.append(fresh_draws(model, texts, fitted, seed=1))
    full, rounded = found
    gap = nats(rounded) - nats(full)
    assert abs(gap.sum()) < np.sqrt((errors(full) ** 2).sum())
    assert np.abs(gap).max() / 60 < 0.02
