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

from ltm_eval.results.statistics import (
    EFFECTIVE,
    RESAMPLES,
    UNKNOWN,
    WILSON,
    Interval,
    interval_from_stderr,
    mean_interval,
    paired_means,
    pass_at_k,
    ppl,
    ppl_stderr,
    quantile,
    rate_interval,
    share_interval,
    share_interval_from_stderr,
    tango_interval,
    wilson_interval,
)
from ltm_eval.system.errors import UsageError

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


def test_a_mean_of_symmetric_values_has_students_interval() -> None:
    from scipy.stats import t

    values = [-3.0, -1.0, 0.0, 1.0, 3.0]
    low, high = t.interval(0.95, 4, loc=0.0, scale=math.sqrt(20 / 4 / 5))
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


@given(st.floats(1.0, 500.0))
def test_quantile_is_scipys_also_between_whole_degrees(freedom: float) -> None:
    from scipy.stats import t

    assert quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-9)
    assert quantile(math.inf) == pytest.approx(1.959963984540054, rel=1e-12)


def test_a_skewed_mean_is_corrected_as_hall_does() -> None:
    """Hall 1992: g(T) = T + a T^2 + a^2 T^3 / 3 + a / 6 * ..., undone by bisection on the naive cubic."""
    from scipy.optimize import brentq
    from scipy.stats import t

    values = np.array([0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.9, 4.0]) - 2.0  # negative ones: no logarithmic scale
    n, mean = values.size, values.mean()
    skew = ((values - mean) ** 3).mean() / values.std() ** 3 / math.sqrt(n)
    q, stderr = t.ppf(0.975, n - 1), values.std(ddof=1) / math.sqrt(n)

    def cubic(x: float) -> float:
        return float(x + skew / 3 * x**2 + skew**2 / 27 * x**3 + skew / 6)

    high = mean - stderr * brentq(lambda x: cubic(x) + q, -60, 60)
    found = mean_interval(values.tolist())
    assert found.high == pytest.approx(high, rel=1e-9)
    assert found.low == pytest.approx(mean - q * stderr, rel=1e-9)  # the plain end lies further out
    assert high > mean + q * stderr


def test_a_rate_has_the_jackknifes_standard_error() -> None:
    """Units unequal: every document left out in turn, t with Kish's number of documents."""
    from scipy.stats import t

    x, u = np.array([-3.0, 4.0, 1.0, 9.0, -2.0, 2.0]), np.array([1.0, 2.0, 5.0, 3.0, 2.0, 7.0])
    rate, n = x.sum() / u.sum(), x.size
    left_out = np.array([(x.sum() - x[i]) / (u.sum() - u[i]) for i in range(n)])
    stderr = math.sqrt((n - 1) / n * ((left_out - rate) ** 2).sum())
    half = t.ppf(0.975, u.sum() ** 2 / (u**2).sum() - 1) * stderr
    found = rate_interval(x.tolist(), u.tolist(), positive=False)
    assert max(rate - found.low, 0) >= half * (1 - 1e-12) and found.high - rate >= half * (1 - 1e-12)
    assert min(rate - found.low, found.high - rate) == pytest.approx(half, rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=30))
def test_what_cannot_be_negative_has_an_interval_above_zero(values: list[float]) -> None:
    found = mean_interval(values, positive=True)
    assert found.low >= 0 and found.low <= math.fsum(values) / len(values) * (1 + 1e-9)
    units = [1.0 + i for i in range(len(values))]
    rate, found = math.fsum(values) / sum(units), rate_interval(values, units, positive=True)
    assert 0 <= found.low <= rate * (1 + 1e-9) and rate <= found.high * (1 + 1e-9)


def _coverage(interval: object, truth: float, n: int, draw: object, *, rounds: int = 1_000) -> float:
    generator = np.random.default_rng(n)
    found = (interval(draw(generator, n)) for _ in range(rounds))  # type: ignore[operator]
    return sum(one.low <= truth <= one.high for one in found) / rounds


@pytest.mark.parametrize("n", [3, 12, 24])
def test_intervals_hold_their_level_at_small_n(n: int) -> None:
    """95 % +- 3 standard errors of 1,000 rounds; a percentile bootstrap covers 76 % at n = 3. See coverage.py."""
    normal = _coverage(mean_interval, 0.0, n, lambda g, k: g.normal(size=k).tolist())
    costs = _coverage(
        lambda own: mean_interval(own, positive=True), math.exp(0.125), n, lambda g, k: g.lognormal(0, 0.5, k).tolist()
    )

    def unequal(generator: np.random.Generator, k: int) -> tuple[list[float], list[float]]:
        units = generator.lognormal(5, 1, k)
        return (units * generator.normal(2, 0.3, k)).tolist(), units.tolist()

    ratio = _coverage(lambda pair: rate_interval(*pair, positive=True), 2.0, n, unequal)
    assert 0.93 <= normal <= 0.99 and 0.92 <= costs <= 0.99 and 0.93 <= ratio <= 0.995


def test_mean_interval_degenerate() -> None:
    assert mean_interval([]) == UNKNOWN
    assert mean_interval([3.0]) == UNKNOWN
    assert mean_interval([3.0], positive=True) == Interval(0.0, math.inf)
    assert mean_interval([2.0] * 9) == UNKNOWN  # equal documents show no spread
    with pytest.raises(UsageError, match="got nan at position 1"):
        mean_interval([1.0, math.nan])
    with pytest.raises(UsageError, match="got 1 and 2 values"):
        rate_interval([1.0], [1.0, 2.0], positive=True)


def test_one_document_that_holds_all_units_tells_nothing() -> None:
    assert rate_interval([3.0, 0.0], [5.0, 0.0], positive=False) == UNKNOWN


def test_shares_of_right_or_wrong_are_wilsons_and_others_narrower() -> None:
    assert share_interval([1.0] * 3 + [0.0] * 9) == (wilson_interval(3, 12), WILSON)
    thirds = [0.0, 1 / 3, 1 / 3, 2 / 3] * 6
    found, kind = share_interval(thirds)
    theirs = wilson_interval(8, 24)
    assert kind == EFFECTIVE and 0 < found.low < 1 / 3 < found.high < 1
    assert theirs.low < found.low and found.high < theirs.high
    same, _ = share_interval([0.5] * 4)
    assert 0 < same.low < 0.5 < same.high < 1  # equal scores are not certainty
    assert share_interval([0.5])[0] == Interval(0.0, 1.0)
    with pytest.raises(UsageError, match="between 0 and 1, got 0.5 to 1.5"):
        share_interval([0.5, 1.5])


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=40))
def test_shares_told_by_mean_and_standard_error_are_those_of_the_scores(values: list[float]) -> None:
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    told = share_interval_from_stderr(mean, spread, len(values))
    assert told is not None
    known, kind = share_interval(values)
    assert told[1] == kind or spread == 0
    if told[1] == kind:
        assert (told[0].low, told[0].high) == pytest.approx((known.low, known.high), abs=1e-9)


def test_a_standard_error_alone_gives_students_interval() -> None:
    from scipy.stats import t

    found = interval_from_stderr(10.0, 2.0, 5, positive=False)
    assert (found.low, found.high) == pytest.approx(t.interval(0.95, 4, loc=10.0, scale=2.0))
    assert interval_from_stderr(10.0, 2.0, None, positive=False).high == pytest.approx(13.919927969080108)
    assert interval_from_stderr(1.0, 2.0, 5, positive=True).low > 0
    assert interval_from_stderr(1.0, 2.0, 1, positive=True) == UNKNOWN
    assert interval_from_stderr(1.0, 0.0, 5, positive=True) == Interval(1.0, 1.0)


@pytest.mark.parametrize(("first", "second", "n"), [(12, 2, 50), (0, 0, 20), (1, 0, 44), (5, 5, 11), (3, 0, 3)])
def test_tangos_ends_are_where_the_score_test_has_p_5_percent(first: int, second: int, n: int) -> None:
    """The restricted likelihood is maximised by scipy, the statistic as Tango 1998 (equation 3) gives it."""
    from scipy.optimize import minimize_scalar

    found = tango_interval(first, second, n)
    for end in (found.low, found.high):
        if abs(end) == 1:
            continue

        def minus_log(q: float, end: float = end) -> float:
            cells = [(first, q + end), (second, q), (n - first - second, 1 - 2 * q - end)]
            return -sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)

        q = minimize_scalar(minus_log, bounds=(max(0.0, -end), (1 - end) / 2), options={"xatol": 1e-12}).x
        statistic = (first - second - n * end) / math.sqrt(n * (2 * q + end * (1 - end)))
        assert abs(statistic) == pytest.approx(1.959964, rel=1e-3)
    back = tango_interval(second, first, n)
    assert (back.low, back.high) == (-found.high, -found.low)
    with pytest.raises(UsageError, match="expected counts"):
        tango_interval(n, 1, n)


def test_no_document_that_differs_leaves_z_squared_over_n_plus_z_squared() -> None:
    z2 = 1.959963984540054**2
    assert tango_interval(0, 0, 20).high == pytest.approx(z2 / (20 + z2), rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=25), st.randoms())
def test_order_never_matters(pairs: list[tuple[float, float]], shuffler: random.Random) -> None:
    other = list(pairs)
    shuffler.shuffle(other)
    a, b = zip(*pairs, strict=True)
    c, d = zip(*other, strict=True)
    assert mean_interval(a) == mean_interval(c)
    assert paired_means(a, b) == paired_means(c, d)
    first, second = ([1 + abs(u) for u in own] for own in (b, d))
    assert rate_interval(a, first, positive=False) == rate_interval(c, second, positive=False)
    assert ppl([*zip(a, first, strict=True)]) == ppl([*zip(c, second, strict=True)])


def test_binary_difference_is_mcnemar() -> None:
    # 12 pairs only a solves, 3 only b: p = 2 * P(Binomial(15, 1/2) <= 3) = 2 * 576 / 32768.
    a, b = [1] * 12 + [0] * 3 + [1] * 20 + [0] * 5, [0] * 12 + [1] * 3 + [1] * 20 + [0] * 5
    found = paired_means(a, b)
    assert found.p_value == pytest.approx(1152 / 32768, rel=1e-12)
    assert (found.n, found.discordant) == (40, 15)
    assert found.estimate == pytest.approx(9 / 40, abs=1e-15)
    assert 0 < found.interval.low < 9 / 40 < found.interval.high
    back = paired_means(b, a)
    assert (back.estimate, back.p_value, back.discordant) == (-found.estimate, found.p_value, 15)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 400), st.integers(0, 400))
def test_binary_p_value_equals_scipys(better: int, worse: int) -> None:
    from scipy.stats import binomtest

    a, b = [1] * better + [0] * worse + [1], [0] * better + [1] * worse + [1]
    expected = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert paired_means(a, b).p_value == pytest.approx(expected, rel=1e-9)


def test_float_difference_equals_all_sign_patterns() -> None:
    a, b = [0.3, 1.7, 2.2, 0.1, 5.0, 2.0], [0.1, 1.0, 2.9, 0.4, 1.0, 2.0]
    steps = [x - y for x, y in zip(a, b, strict=True)]
    seen = abs(sum(steps))
    patterns = itertools.product((-1, 1), repeat=len(steps))
    far = [abs(sum(s * d for s, d in zip(signs, steps, strict=True))) >= seen - 1e-9 for signs in patterns]
    found = paired_means(a, b)
    assert found.p_value == pytest.approx(sum(far) / len(far), abs=1e-12)
    assert found.discordant == 5


def test_float_difference_random_signs_close_to_scipys() -> None:
    from scipy.stats import permutation_test

    generator = np.random.default_rng(5)
    a, b = generator.normal(0.25, 1.0, 60), generator.normal(0.0, 1.0, 60)
    theirs = permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    )
    assert paired_means(a.tolist(), b.tolist()).p_value == pytest.approx(theirs.pvalue, abs=0.02)


def test_p_values_of_equal_models_are_uniform_enough() -> None:
    generator = np.random.default_rng(11)
    small = 0
    for _ in range(100):
        values = generator.normal(size=(2, 20))
        small += paired_means(values[0].tolist(), values[1].tolist()).p_value < 0.1
    assert 3 <= small <= 20


def test_paired_edges() -> None:
    same = paired_means([1, 0, 1], [1, 0, 1])
    assert (same.estimate, same.p_value, same.discordant) == (0.0, 1.0, 0)
    assert same.interval == tango_interval(0, 0, 3)
    assert paired_means([0.5], [0.5]).p_value == 1.0
    assert paired_means([1.5], [0.0]).interval == UNKNOWN
    assert paired_means([1.5, 2.5], [1.5, 2.5]).interval == UNKNOWN
    for a, b in (([1], [1, 0]), ([], [])):
        with pytest.raises(UsageError, match=f"got {len(a)} and {len(b)}"):
            paired_means(a, b)


def test_ties_of_pass_at_k_are_exact() -> None:
    """Sums of thirds and fifths that cancel: exactly 0 and p 1, not 1e-15 and p 0.93."""
    a = [pass_at_k(10, c, 3) for c in (1, 2, 3, 7, 5, 5, 0, 9)]
    for b in (list(reversed(a)), [a[3], *a[:3], *a[4:]], [1 - (1 - x) for x in a]):
        found = paired_means(a, b)
        assert (found.estimate, found.p_value) == (0.0, 1.0)
    assert paired_means(a, [1 - (1 - x) for x in a]).discordant == 0
    many = [pass_at_k(10, c % 11, 3) for c in range(220)]
    found = paired_means(many, [*many[7:], *many[:7]])
    assert (found.estimate, found.p_value) == (0.0, 1.0)


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


def test_ppl_is_the_ratio_of_sums() -> None:
    # not a mean over documents: 100, 300 and 20 tokens at 2, 3 and 9 nats a token
    pairs = [(200.0, 100.0), (900.0, 300.0), (180.0, 20.0)]
    assert ppl(pairs) == pytest.approx(math.exp(1280 / 420), rel=1e-12)
    found = rate_interval(*zip(*pairs, strict=True), positive=True)
    assert found.low <= 1280 / 420 <= found.high


def test_ppl_stderr_is_the_spread_of_repetitions() -> None:
    generator = np.random.default_rng(2)
    estimates, stderrs, covered = [], [], 0
    for _ in range(120):
        units = generator.integers(20, 80, 120)
        nats = units * generator.normal(2.0, 0.3, 120)
        pairs = list(zip(nats.tolist(), units.tolist(), strict=True))
        estimates.append(ppl(pairs))
        stderrs.append(ppl_stderr(pairs))
        interval = rate_interval(nats.tolist(), units.tolist(), positive=True)
        covered += interval.low <= 2.0 <= interval.high
    assert np.mean(stderrs) == pytest.approx(np.std(estimates), rel=0.2)  # type: ignore[arg-type]
    assert covered >= 105


def test_rate_edges() -> None:
    assert rate_interval([3.0], [1], positive=True) == Interval(0.0, math.inf)
    assert ppl_stderr([(3.0, 1)]) == "N/A"
    assert ppl([(1e9, 1), (1e9, 1)]) == math.inf
    assert ppl([(0.0, 0), (5.0, 5), (5.0, 5)]) == pytest.approx(math.e)
    with pytest.raises(UsageError, match="got 1 and 2"):
        rate_interval([1.0], [1, 2], positive=True)
    with pytest.raises(UsageError, match="x must be finite"):
        rate_interval([math.inf], [1], positive=True)


def test_large_corpora_take_seconds() -> None:
    values = np.random.default_rng(0).normal(5.0, 1.0, 50_000)
    begun = time.process_time()
    rate_interval(values.tolist(), [2.0] * values.size, positive=True)
    assert time.process_time() - begun < 15.0


def test_a_permutation_test_never_says_less_than_one_in_all_its_draws() -> None:
    """Forty differences of one sign: 2 / 2^40 by all patterns, so no random one reaches as far."""
    found = paired_means([float(i + 1) for i in range(40)], [0.0] * 40)
    assert found.p_value == 1 / (1 + RESAMPLES)


def test_two_documents_have_a_standard_error() -> None:
    # Rate 1.5, residuals -0.5 and 0.5: sqrt(2 / 1 * 0.5) / 2.
    assert ppl_stderr([(1.0, 1.0), (2.0, 1.0)]) == pytest.approx(0.5 * math.exp(1.5))
