"""Statistics of scores: intervals, paired tests, pass@k, corpus perplexity. Every interval of the program is made here.

- Share of documents that are right or wrong: Wilson's score interval (1927, JASA 22:209).
- Mean of scores from 0 to 1 (pass@k): the same, with the number of documents that the scores' variance is worth.
- Rate, sum(x) / sum(u) (perplexity, bits, nats), and plain mean: jackknife standard error, Student's t with Kish's
  effective number of documents, widened by Hall's correction for skewness (1992, JRSS B 54:221). Of figures that cannot
  be negative it is made on the logarithmic scale, so that it stays positive.
- Paired difference of shares: Tango's score interval (1998, Statistics in Medicine 17:891).
- Paired difference of other means and of rates: as a rate.

`benchmarks/coverage.py` simulates how often each holds the true value. Sums are exactly rounded (`math.fsum`) or made
of sorted values, so that no result depends on the order of the documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from ltm_eval.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEVEL = 0.95
SEED = 1234
RESAMPLES = 9_999
ROUGH = 10
"""Documents below which every interval is rough, and said to be."""
WILSON = "Wilson"
EFFECTIVE = "Wilson, effective number of documents"
STUDENT = "t, corrected for skewness"
TOLD = "t, from the standard error"
_DRAWS = 100_000_000  # limits sign flips times documents to about a second
_FEWEST_RESAMPLES = 999
_CHUNK = 4_000_000
_EXACT_SIGNS = 13  # 2^13 sign patterns are fewer than RESAMPLES
_ROUNDING = 1e-12  # relative; equal scores that were computed in two ways differ by less
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class Interval:
    """A range of plausible values; infinite where the data say nothing."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""

    @property
    def known(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


UNKNOWN = Interval(-math.inf, math.inf)


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a corpus, exp(sum of nats / sum of units)."""

    ppl: float
    """The estimate; infinite where it exceeds every float."""
    interval: Interval
    """95 % interval; infinite for a single document."""
    stderr: float | None
    """Standard error by the delta method over documents; None for a single document."""
    nats: float
    """Sum of nats."""
    units: float
    """Sum of units (tokens, words or bytes)."""
    documents: int
    """Number of documents."""
    rate_interval: Interval
    """95 % interval of nats per unit."""


def wilson_interval(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share (Wilson 1927, JASA 22:209); 0 to 1 for n = 0.

    Raises:
        UsageError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise UsageError(f"successes must lie between 0 and n = {n}, got {successes}")
    if n == 0:
        return Interval(0.0, 1.0)
    return _score_interval(successes / n, n, NormalDist().inv_cdf(0.5 + level / 2))


def _score_interval(share: float, n: float, z: float) -> Interval:
    spread = z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    low = 0.0 if share == 0 else max(0.0, centre - half)
    high = 1.0 if share == 1 else min(1.0, centre + half)
    return Interval(low, high)


def mean_interval(values: Sequence[float], *, positive: bool = False) -> Interval:
    """95 % interval of the mean, infinite for fewer than two values; see `share_interval` for scores from 0 to 1.

    Args:
        values: scores, one a document.
        positive: whether scores of this kind cannot be negative, not whether these happen to be positive.

    Raises:
        UsageError: a value is not finite.
    """
    return rate_interval(values, [1.0] * len(values), positive=positive)


def share_interval(values: Sequence[float]) -> tuple[Interval, str]:
    """95 % interval of the mean of scores from 0 to 1, and its name.

    Wilson's if every score is 0 or 1. Else Wilson's with the number of documents that would give a mean of such scores
    the variance found here, and Student's quantile. To the variance found half a document of the largest variance
    possible is added, m (1 - m), so that equal scores are not taken for certainty.

    Raises:
        UsageError: a value is not finite or not from 0 to 1.
    """
    x = _finite(values, name="values")
    if x.size and (x.min() < 0 or x.max() > 1):
        raise UsageError(f"shares must lie between 0 and 1, got {x.min():g} to {x.max():g}")
    mean = _sum(x) / max(x.size, 1)
    if _is_binary(x):
        return wilson_interval(round(mean * x.size), x.size), WILSON
    squares = _sum((x - mean) ** 2)
    return _effective(mean, squares / (x.size - 1) if x.size > 1 else 0.0, x.size), EFFECTIVE


def _effective(mean: float, variance: float, n: int) -> Interval:
    most = mean * (1 - mean)
    if n < 2 or most <= 0:
        return Interval(0.0, 1.0)
    variance = ((n - 1) * variance + most / 2) / (n - 0.5)
    return _score_interval(mean, n * most / variance, quantile(n - 1))


def rate_interval(x: Sequence[float], units: Sequence[float], *, positive: bool) -> Interval:
    """95 % interval of sum(x) / sum(units) over independent documents.

    Args:
        x: nats of each document, or the differences of two runs.
        units: tokens, words or bytes of each document; ones for a plain mean.
        positive: whether the rate cannot be negative; its interval is then made on the logarithmic scale.

    Returns:
        The interval; infinite (from 0 if positive) where fewer than two documents have units.

    Raises:
        UsageError: the lengths differ or a value is not finite.
    """
    a, u = _finite(x, name="x"), _finite(units, name="units")
    if a.size != u.size:
        raise UsageError(f"a rate needs figures and units of the same documents, got {a.size} and {u.size} values")
    total = _sum(u)
    if a.size < 2 or total <= 0:
        return Interval(0.0, math.inf) if positive else UNKNOWN
    rate = _sum(a) / total
    return residual_interval(rate, (a - rate * u) / total, u / total, positive=positive)


def residual_interval(estimate: float, residuals: Array, shares: Array, *, positive: bool = False) -> Interval:
    """95 % interval of an estimate from what each document adds to its error.

    Args:
        estimate: any smooth function of sums over documents.
        residuals: (n,) its linearised contributions, which sum to zero.
        shares: (n,) of the units that each document holds, in all 1.
        positive: as for `rate_interval`.
    """
    n, nothing = residuals.size, Interval(0.0, math.inf) if positive else UNKNOWN
    if n < 2 or shares.max() >= 1 or not math.isfinite(estimate):
        return nothing
    left_out = residuals / (1 - shares)  # how the estimate moves as a document is left out
    largest = float(abs(left_out).max())
    if largest <= _ROUNDING * abs(estimate):
        return Interval(estimate, estimate)
    scaled = left_out / largest
    squares, cubes = _sum(scaled**2), _sum(scaled**3)
    stderr = largest * math.sqrt((n - 1) / n * squares)
    effective = 1 / _sum(shares**2)
    skewness = cubes / n / (squares / n) ** 1.5
    return _student(estimate, stderr, effective - 1, skewness / math.sqrt(n), positive=positive)


def told_interval(value: float, stderr: float, n: int | None, *, positive: bool) -> Interval:
    """95 % interval where a standard error over n documents is all that is known."""
    if stderr <= 0 or (n is not None and n < 2):
        return Interval(value, value) if stderr == 0 else UNKNOWN
    return _student(value, stderr, n - 1 if n is not None else math.inf, 0.0, positive=positive and value > 0)


def told_share_interval(share: float, stderr: float | None, n: int) -> tuple[Interval, str] | None:
    """`share_interval` of n scores of which mean and standard error are all that is known.

    Without a standard error the scores are taken for right or wrong; None if the share is then no count of n.
    """
    variance, most = (None if stderr is None else stderr * stderr * n), share * (1 - share)
    binary = variance is None or math.isclose(variance * (n - 1), n * most, rel_tol=1e-6, abs_tol=1e-9)
    right = round(share * n)
    if n < 1 or not 0 <= share <= 1:
        return None
    if binary and math.isclose(share * n, right, abs_tol=1e-6 * n):
        return wilson_interval(right, n), WILSON
    return None if variance is None else (_effective(share, variance, n), EFFECTIVE)


def _student(estimate: float, stderr: float, freedom: float, skew: float, *, positive: bool) -> Interval:
    """Student's interval or Hall's, whichever end lies further out."""
    q = quantile(max(freedom, 1.0))
    below, above = max(q, _hall(q, skew)), max(q, -_hall(-q, skew))
    if not positive or estimate <= 0:
        return Interval(estimate - below * stderr, estimate + above * stderr)
    relative = stderr / estimate
    high = max(estimate * _exp(q * relative), estimate + above * stderr)
    return Interval(estimate * math.exp(-below * relative), high)


def _hall(q: float, skew: float) -> float:
    """Hall's (1992) cubic transformation of a studentised mean undone at q; skew is skewness / sqrt(n)."""
    if abs(skew) < 1e-6:
        return q
    inner = 1 + skew * (q - skew / 6)
    return 3 / skew * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)


def quantile(freedom: float) -> float:
    """Two-sided 95 % quantile of Student's t; `freedom` need not be whole, infinite gives the normal one."""
    if math.isinf(freedom):
        return _Z
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def tango_interval(first: int, second: int, n: int) -> Interval:
    """95 % score interval of a paired difference of shares, first / n - second / n.

    The ends are the differences at which the score test by restricted maximum likelihood has p 0.05 (Tango 1998,
    Statistics in Medicine 17:891). Where no document differs they are +- z^2 / (n + z^2).

    Args:
        first: documents that the first run alone has right.
        second: documents that the second run alone has right.
        n: all documents.

    Raises:
        UsageError: counts below 0, or more than n.
    """
    if min(first, second) < 0 or first + second > n or n < 1:
        raise UsageError(f"expected counts from 0 to n = {n} in all, got {first} and {second}")
    return Interval(_tango_low(first, second, n), -_tango_low(second, first, n))


def _tango_low(first: int, second: int, n: int) -> float:
    """By bisection: the test statistic falls as the difference under test rises."""

    def statistic(delta: float) -> float:
        b = -first - second + (2 * n - first + second) * delta
        c = -second * delta * (1 - delta)
        only_second = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * only_second + delta * (1 - delta))
        found = first - second - n * delta
        return found / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, found) if found else 0.0

    low, high = -1.0, (first - second) / n
    if statistic(low) <= _Z:
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if statistic(middle) > _Z else (low, middle)
    return low


def differences(a: Sequence[float], b: Sequence[float]) -> Array:
    """a - b of every document, (n,); exactly 0 where the two differ by rounding alone.

    Raises:
        UsageError: the lengths differ, there is no pair, or a value is not finite.
    """
    import numpy as np

    first, second = _finite(a, name="a"), _finite(b, name="b")
    if first.size != second.size or first.size == 0:
        raise UsageError(
            f"a paired comparison needs two equally long lists of scores, got {first.size} and {second.size}"
        )
    found = first - second
    found[np.abs(found) <= _ROUNDING * np.maximum(np.abs(first), np.abs(second))] = 0.0
    return found


def total(values: Array) -> float:
    """Their sum; exactly 0 where they cancel but for rounding."""
    found = _sum(values)
    return 0.0 if abs(found) <= _ROUNDING * _sum(abs(values)) else found


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right, from n samples with c right ones.

    Equals 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374, section 2.1). With n = k it is `any right`.

    Raises:
        UsageError: not 0 <= c <= n or not 1 <= k <= n.
    """
    if not 0 <= c <= n:
        raise UsageError(f"pass@k needs between 0 and n = {n} right samples, got {c}")
    if not 1 <= k <= n:
        raise UsageError(f"pass@{k} needs k between 1 and the {n} samples a problem; draw more samples or lower k")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def corpus_ppl(nats: Sequence[float], units: Sequence[float]) -> Perplexity:
    """Perplexity of a corpus from the sums of each document: exp(sum(nats) / sum(units)).

    Args:
        nats: negative log-likelihood (or its bound) of each document, summed over its tokens.
        units: tokens, words or bytes of each document.

    Raises:
        UsageError: the lengths differ, a value is not finite, units are negative or all zero.
    """
    x, u = _finite(nats, name="nats"), _finite(units, name="units")
    if x.size != u.size:
        raise UsageError(
            f"corpus perplexity needs nats and units of the same documents, got {x.size} and {u.size} values"
        )
    if (u < 0).any() or not u.any():
        raise UsageError(
            "corpus perplexity needs units that are not negative and not all 0; count tokens, words or bytes"
        )
    length = _sum(u)
    rate = _sum(x) / length
    interval = rate_interval(nats, units, positive=bool((x >= 0).all()))
    return Perplexity(
        ppl=_exp(rate),
        interval=Interval(_exp(interval.low), _exp(interval.high)),
        stderr=_exp(rate) * _ratio_stderr(x, u, rate) if x.size > 1 else None,
        nats=_sum(x),
        units=length,
        documents=x.size,
        rate_interval=interval,
    )


def _ratio_stderr(x: Array, u: Array, rate: float) -> float:
    """Standard error of sum(x) / sum(u) over independent documents (linearised)."""
    n = x.size
    residual = x - rate * u
    return math.sqrt(n / (n - 1) * _sum(residual * residual)) / _sum(u)


def mcnemar(first: int, second: int) -> float:
    """Exact two-sided McNemar test: of the pairs that differ, each side wins with chance one half.

    Equals `scipy.stats.binomtest(first, first + second)`, whose import alone takes longer than a whole report.
    """
    n, tail, ways = first + second, 0, 1
    for i in range(min(first, second) + 1):
        tail += ways
        ways = ways * (n - i) // (i + 1)
    return min(1.0, 2 * tail / (1 << n))


def sign_flips(difference: Array, *, seed: int = SEED) -> float:
    """Two-sided sign-flip test of a zero mean: all sign patterns where few pairs differ, else random ones."""
    import numpy as np

    sizes = np.sort(np.abs(difference[difference != 0]))
    if sizes.size == 0:
        return 1.0
    seen = abs(total(difference)) - _ROUNDING * _sum(sizes)  # sums of the same numbers differ by rounding
    if sizes.size <= _EXACT_SIGNS:
        patterns = np.arange(2**sizes.size)[:, None] >> np.arange(sizes.size) & 1
        return float((np.abs((2.0 * patterns - 1) @ sizes) >= seen).mean())
    resamples = max(_FEWEST_RESAMPLES, min(RESAMPLES, _DRAWS // sizes.size))
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // sizes.size)
    as_far = 0
    for start in range(0, resamples, rows):
        signs = generator.integers(0, 2, size=(min(rows, resamples - start), sizes.size), dtype=np.int8)
        as_far += int((np.abs((2.0 * signs - 1) @ sizes) >= seen).sum())
    return (1 + as_far) / (1 + resamples)


def _finite(values: Sequence[float], *, name: str) -> Array:
    """The values as an array.

    Raises:
        UsageError: a value is not finite.
    """
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise UsageError(
            f"{name} must be finite numbers, got {array[wrong[0]]} at position {wrong[0]}; leave such documents out"
        )
    return array


def _sum(values: Array) -> float:
    """Exactly rounded, so that no order matters."""
    return math.fsum(values.tolist())


def _is_binary(values: Array) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _exp(nats: float) -> float:
    """exp, infinite where no float can hold it."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
