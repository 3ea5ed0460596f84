"""Statistics against brute force, scipy and published values."""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_eval.errors import UsageError
from ltm_eval.metrics import (
    RESAMPLES,
    Interval,
    corpus_ppl,
    mean_interval,
    paired_difference,
    pass_at_k,
    wilson_interval,
)

if TYPE_CHECKING:
    import random

# Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (Wilson, no continuity correction).
NEWCOMBE = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize(("successes", "n", "low", "high"), NEWCOMBE)
def test_wilson_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 2_000), st.data())
def test_wilson_equals_scipy(n: int, data: st.DataObject) -> None:
    from scipy.stats import binomtest

    successes = data.draw(st.integers(0, n))
    theirs = binomtest(successes, n).proportion_ci(method="wilson")
    ours = wilson_interval(successes, n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours.low <= successes / n <= ours.high <= 1


def test_wilson_edges() -> None:
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)
    assert wilson_interval(0, 5).low == 0.0
    assert wilson_interval(5, 5).high == 1.0
    for successes, n in ((-1, 5), (6, 5), (0, -1)):
        with pytest.raises(UsageError, match=f"n = {n}, got {successes}"):
            wilson_interval(successes, n)


def test_mean_interval_close_to_scipys() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).gamma(2.0, size=200)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=9_999).confidence_interval
    ours = mean_interval(values.tolist())
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.05 * width
    assert abs(ours.high - theirs.high) < 0.05 * width


def test_mean_interval_covers_the_mean() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        interval = mean_interval(generator.exponential(size=150).tolist())
        covered += interval.low <= 1.0 <= interval.high
    assert 88 <= covered <= 99


def test_mean_interval_degenerate() -> None:
    nothing = Interval(-math.inf, math.inf)
    assert mean_interval([]) == mean_interval([3.0]) == nothing
    assert mean_interval([2.0] * 9) == Interval(2.0, 2.0)
    with pytest.raises(UsageError, match="got nan at position 1"):
        mean_interval([1.0, math.nan])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=25), st.randoms())
def test_order_never_matters(pairs: list[tuple[float, float]], shuffler: random.Random) -> None:
    other = list(pairs)
    shuffler.shuffle(other)
    a, b = zip(*pairs, strict=True)
    c, d = zip(*other, strict=True)
    assert mean_interval(a) == mean_interval(c)
    assert paired_difference(a, b) == paired_difference(c, d)
    assert corpus_ppl(a, [1 + abs(u) for u in b]) == corpus_ppl(c, [1 + abs(u) for u in d])


def test_binary_difference_is_mcnemar() -> None:
    # 12 pairs only a solves, 3 only b: p = 2 * P(Binomial(15, 1/2) <= 3) = 2 * 576 / 32768.
    a, b = [1] * 12 + [0] * 3 + [1] * 20 + [0] * 5, [0] * 12 + [1] * 3 + [1] * 20 + [0] * 5
    found = paired_difference(a, b)
    assert found.p_value == pytest.approx(1152 / 32768, rel=1e-12)
    assert (found.n, found.discordant) == (40, 15)
    assert found.estimate == pytest.approx(9 / 40, abs=1e-15)
    assert 0 < found.interval.low < 9 / 40 < found.interval.high
    back = paired_difference(b, a)
    assert (back.estimate, back.p_value, back.discordant) == (-found.estimate, found.p_value, 15)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 400), st.integers(0, 400))
def test_binary_p_value_equals_scipys(better: int, worse: int) -> None:
    from scipy.stats import binomtest

    a, b = [1] * better + [0] * worse + [1], [0] * better + [1] * worse + [1]
    expected = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert paired_difference(a, b).p_value == pytest.approx(expected, rel=1e-9)


def test_float_difference_equals_all_sign_patterns() -> None:
    a, b = [0.3, 1.7, 2.2, 0.1, 5.0, 2.0], [0.1, 1.0, 2.9, 0.4, 1.0, 2.0]
    steps = [x - y for x, y in zip(a, b, strict=True)]
    seen = abs(sum(steps))
    patterns = itertools.product((-1, 1), repeat=len(steps))
    far = [abs(sum(s * d for s, d in zip(signs, steps, strict=True))) >= seen - 1e-9 for signs in patterns]
    found = paired_difference(a, b)
    assert found.p_value == pytest.approx(sum(far) / len(far), abs=1e-12)
    assert found.discordant == 5


def test_float_difference_random_signs_close_to_scipys() -> None:
    from scipy.stats import permutation_test

    generator = np.random.default_rng(5)
    a, b = generator.normal(0.25, 1.0, 60), generator.normal(0.0, 1.0, 60)
    theirs = permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    )
    assert paired_difference(a.tolist(), b.tolist()).p_value == pytest.approx(theirs.pvalue, abs=0.02)


def test_p_values_of_equal_models_are_uniform_enough() -> None:
    generator = np.random.default_rng(11)
    small = 0
    for _ in range(100):
        values = generator.normal(size=(2, 20))
        small += paired_difference(values[0].tolist(), values[1].tolist()).p_value < 0.1
    assert 3 <= small <= 20


def test_paired_difference_edges() -> None:
    same = paired_difference([1, 0, 1], [1, 0, 1])
    assert (same.estimate, same.p_value, same.discordant, same.interval) == (0.0, 1.0, 0, Interval(0.0, 0.0))
    assert paired_difference([0.5], [0.5]).p_value == 1.0
    assert paired_difference([1], [0]).interval == Interval(-1.0, 1.0)
    assert paired_difference([1.5], [0.0]).interval == Interval(-math.inf, math.inf)
    for a, b in (([1], [1, 0]), ([], [])):
        with pytest.raises(UsageError, match=f"got {len(a)} and {len(b)}"):
            paired_difference(a, b)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_equals_all_subsets(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        right = [i < c for i in range(n)]
        subsets = list(itertools.combinations(right, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_edges() -> None:
    assert pass_at_k(200, 1, 100) == pytest.approx(0.5, abs=1e-12)
    assert pass_at_k(5_000, 3, 1) == pytest.approx(3 / 5_000, abs=1e-12)
    with pytest.raises(UsageError, match="pass@6 needs k between 1 and the 5 samples"):
        pass_at_k(5, 1, 6)
    with pytest.raises(UsageError, match="got 0"):
        pass_at_k(-1, 0, 1)
    with pytest.raises(UsageError, match="pass@0"):
        pass_at_k(5, 1, 0)


def test_corpus_ppl_is_the_ratio_of_sums() -> None:
    # STYLE of the field, not a mean over documents: 100, 300 and 20 tokens at 2, 3 and 9 nats a token.
    found = corpus_ppl([200.0, 900.0, 180.0], [100, 300, 20])
    assert found.ppl == pytest.approx(math.exp(1280 / 420), rel=1e-12)
    assert (found.nats, found.units, found.documents) == (1280.0, 420.0, 3)
    assert found.interval.low <= found.ppl <= found.interval.high


def test_corpus_ppl_stderr_is_the_spread_of_repetitions() -> None:
    generator = np.random.default_rng(2)
    estimates, stderrs, covered = [], [], 0
    truth = math.exp(2.0)
    for seed in range(120):
        units = generator.integers(20, 80, 120)
        nats = units * generator.normal(2.0, 0.3, 120)
        found = corpus_ppl(nats.tolist(), units.tolist(), seed=seed)
        assert found.stderr is not None
        estimates.append(found.ppl)
        stderrs.append(found.stderr)
        covered += found.interval.low <= truth <= found.interval.high
    assert np.mean(stderrs) == pytest.approx(np.std(estimates), rel=0.2)
    assert covered >= 105


def test_corpus_ppl_edges() -> None:
    single = corpus_ppl([3.0], [1])
    assert (single.stderr, single.interval) == (None, Interval(0.0, math.inf))
    assert corpus_ppl([1e9, 1e9], [1, 1]).ppl == math.inf
    assert corpus_ppl([0.0, 5.0, 5.0], [0, 5, 5]).ppl == pytest.approx(math.e)
    for nats, units, message in (
        ([1.0], [1, 2], "got 1 and 2"),
        ([1.0], [0], "not all 0"),
        ([], [], "not all 0"),
        ([1.0, 1.0], [-1, 3], "not negative"),
        ([math.inf], [1], "nats must be finite"),
    ):
        with pytest.raises(UsageError, match=message):
            corpus_ppl(nats, units)


def test_large_corpora_take_seconds() -> None:
    values = np.random.default_rng(0).normal(5.0, 1.0, 50_000)
    begun = time.process_time()
    corpus_ppl(values.tolist(), [2.0] * values.size)
    assert time.process_time() - begun < 15.0


def test_a_permutation_test_never_says_less_than_one_in_all_its_draws() -> None:
    """Forty differences of one sign: 2 / 2^40 by all patterns, so no random one reaches as far."""
    found = paired_difference([float(i + 1) for i in range(40)], [0.0] * 40)
    assert found.p_value == 1 / (1 + RESAMPLES)


def test_two_documents_have_a_standard_error() -> None:
    # Rate 1.5, residuals -0.5 and 0.5: sqrt(2 / 1 * 0.5) / 2.
    assert corpus_ppl([1.0, 2.0], [1.0, 1.0]).stderr == pytest.approx(0.5 * math.exp(1.5))
