"""Statistics over documents: intervals, paired differences and their tests, pass@k, perplexity.

- Share of documents that are right or wrong: Wilson's score interval (1927, JASA 22:209).
- Mean of scores from 0 to 1 (pass@k): the same, with the number of documents that the scores' variance is worth.
- Rate, sum(x) / sum(u) (perplexity, bits, nats), and plain mean: jackknife standard error, Student's t with Kish's
  effective number of documents, widened by Hall's correction for skewness (1992, JRSS B 54:221). If the figure cannot
  be negative, the interval is made on the logarithmic scale, so that it stays positive.
- Paired difference of shares: exact McNemar test and Tango's score interval (1998, Statistics in Medicine 17:891).
- Paired difference of other means and of rates: sign-flip permutation over documents, and the interval of a rate.

Every interval and p value of the program is made here; `benchmarks/coverage.py` simulates how often each interval holds
the true value. Sums are exactly rounded (`math.fsum`) or made of sorted values, so that no result depends on the order
of the documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any

from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEVEL = 0.95
SEED = 1234
RESAMPLES = 9_999
ROUGH = 10  # documents below which an interval is called rough
WILSON = "Wilson"
EFFECTIVE = "Wilson, effective number of documents"
STUDENT = "t, corrected for skewness"
FROM_STDERR = "t, from the standard error"
_DRAWS = 100_000_000  # limits sign flips times documents to about a second
_FEWEST_RESAMPLES = 999
_CHUNK = 4_000_000
_EXACT_SIGNS = 13  # 2^13 sign patterns are fewer than RESAMPLES
_ROUNDING = 1e-12  # relative; equal scores that were computed in two ways differ by less
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class Interval:
    """A range of plausible values; infinite if the data do not limit it."""

    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


UNKNOWN = Interval(-math.inf, math.inf)


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
    if ((x == 0) | (x == 1)).all():
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
        The interval; infinite (from 0 if positive) for fewer than two documents or no units.

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
    """95 % interval of an estimate from the contribution of each document to its error.

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
        return nothing  # equal documents show no spread to infer one from
    scaled = left_out / largest
    squares, cubes = _sum(scaled**2), _sum(scaled**3)
    stderr = largest * math.sqrt((n - 1) / n * squares)
    effective = 1 / _sum(shares**2)
    skewness = cubes / n / (squares / n) ** 1.5
    return _student(estimate, stderr, effective - 1, skewness / math.sqrt(n), positive=positive)


def interval_from_stderr(value: float, stderr: float, n: int | None, *, positive: bool) -> Interval:
    """95 % interval of a value of which only the standard error over n documents is known."""
    if stderr <= 0 or (n is not None and n < 2):
        return Interval(value, value) if stderr == 0 else UNKNOWN
    return _student(value, stderr, n - 1 if n is not None else math.inf, 0.0, positive=positive and value > 0)


def share_interval_from_stderr(share: float, stderr: float | None, n: int) -> tuple[Interval, str] | None:
    """`share_interval` of n scores of which only mean and standard error are known.

    Without a standard error every score is taken as 0 or 1; None if `share` is then no multiple of 1 / n.
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
    """Each end by Student's or Hall's interval, whichever lies further out."""
    q = quantile(max(freedom, 1.0))
    below, above = max(q, _hall(q, skew)), max(q, -_hall(-q, skew))
    if not positive or estimate <= 0:
        return Interval(estimate - below * stderr, estimate + above * stderr)
    relative = stderr / estimate
    high = max(estimate * exp(q * relative), estimate + above * stderr)
    return Interval(estimate * math.exp(-below * relative), high)


def _hall(q: float, skew: float) -> float:
    """Invert Hall's (1992) cubic transformation of a studentised mean at q; skew is skewness / sqrt(n)."""
    if abs(skew) < 1e-6:
        return q
    inner = 1 + skew * (q - skew / 6)
    return 3 / skew * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)


def quantile(freedom: float) -> float:
    """Two-sided 95 % quantile of Student's t; `freedom` may be fractional, infinity gives the normal quantile."""
    if math.isinf(freedom):
        return _Z
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def tango_interval(first: int, second: int, n: int) -> Interval:
    """95 % score interval of a paired difference of shares, first / n - second / n.

    The ends are the differences at which the score test by restricted maximum likelihood has p 0.05 (Tango 1998,
    Statistics in Medicine 17:891). If no document differs they are +- z^2 / (n + z^2).

    Args:
        first: documents that only the first run has right.
        second: documents that only the second run has right.
        n: all documents.

    Raises:
        UsageError: counts below 0, or more than n.
    """
    if min(first, second) < 0 or first + second > n or n < 1:
        raise UsageError(f"expected counts from 0 to n = {n} in all, got {first} and {second}")
    return Interval(_tango_low(first, second, n), -_tango_low(second, first, n))


def _tango_low(first: int, second: int, n: int) -> float:
    """Find the lower end by bisection: the test statistic falls as the difference under test rises."""

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
    """a - b of each document, (n,); exactly 0 if the two differ by rounding only.

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
    """Sum; exactly 0 if the values cancel up to rounding."""
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


def mcnemar(first: int, second: int) -> float:
    """p value of the exact two-sided McNemar test: `scipy.stats.binomtest(first, first + second)`, slow to import."""
    n, tail, ways = first + second, 0, 1
    for i in range(min(first, second) + 1):
        tail += ways
        ways = ways * (n - i) // (i + 1)
    return min(1.0, 2 * tail / (1 << n))


def sign_flips(difference: Array, *, seed: int = SEED) -> float:
    """p value of the two-sided sign-flip test of a zero mean; random sign patterns if many pairs differ."""
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
    """Exactly rounded sum."""
    return math.fsum(values.tolist())


def exp(nats: float) -> float:
    """exp; infinity on overflow."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


# Paired differences

ALPHA = 0.05
MCNEMAR = "exact McNemar (two-sided binomial test of the documents that differ)"
SIGN_FLIPS = "sign-flip permutation over documents"
TANGO = "Tango's score interval of paired shares"
NO_DISCORDANT = "no document differs: the limit of the share that does (Tango)"
NOTHING = "none: the documents show no spread"
ALIKE = "all documents differ alike: the limit of the share that does not (Tango)"
SCALES = ("ppl", "bits", "nats")
OPEN = "open"  # not distinguishable
UNPROVEN = "unproven"  # distinguishable, but as bounds, which do not prove which model is better


@dataclass(frozen=True)
class Contest:
    """Numbers of documents by which of two runs is right."""

    both: int
    first: int  # the first run only
    second: int
    neither: int


@dataclass(frozen=True)
class Paired:
    """The first run minus the second over the documents that both scored."""

    first: float
    second: float
    estimate: float  # first minus second
    interval: Interval
    interval_kind: str
    p_value: float
    test: str
    n: int
    discordant: int
    contest: Contest | None = None  # None unless every score is 0 or 1
    ratio: float | None = None
    ratio_interval: Interval | None = None

    def numbers(self) -> dict[str, Any]:
        """Return the difference under the names of `views.Difference`."""
        ends = {"low": self.interval.low, "high": self.interval.high}
        return {"estimate": self.estimate, **ends} | {key: getattr(self, key) for key in ("p_value", "n", "discordant")}


def paired_means(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compare mean scores.

    Args:
        a: scores of the first run, one a document.
        b: scores of the second run, same documents in the same order.

    Raises:
        UsageError: the lengths differ, there is no pair, or a value is not finite.
    """
    found = differences(a, b)
    n, discordant, contest = found.size, int((found != 0).sum()), None
    if {*a, *b} <= {0.0, 1.0}:
        pairs = list(zip(a, b, strict=True))
        contest = Contest(*map(pairs.count, ((1, 1), (1, 0), (0, 1), (0, 0))))
        interval = tango_interval(contest.first, contest.second, n)
        kind, test, p_value = TANGO, MCNEMAR, mcnemar(contest.first, contest.second)
    else:
        test, p_value = SIGN_FLIPS, sign_flips(found)
        interval = rate_interval(found.tolist(), [1.0] * n, positive=False)
        kind = STUDENT if interval.known else NOTHING
        if all(0 <= value <= 1 for value in (*a, *b)):
            if not interval.known:  # all differences are equal: as many may be others as Tango's limit allows
                limit, kind = tango_interval(0, 0, n).high, ALIKE
                interval = Interval(total(found) / n - limit, total(found) / n + limit)
            interval = Interval(max(interval.low, -1.0), min(interval.high, 1.0))
    return Paired(
        first=math.fsum(a) / n,
        second=math.fsum(b) / n,
        estimate=total(found) / n,
        interval=interval,
        interval_kind=NO_DISCORDANT if not discordant and interval.known else kind,
        p_value=p_value,
        test=test,
        n=n,
        discordant=discordant,
        contest=contest,
    )


def paired_rates(a: Sequence[float], b: Sequence[float], units: Sequence[float], *, scale: str) -> Paired:
    """Compare sums of nats over sums of units, as perplexity, bits or nats per unit.

    Both runs have the same units, so the difference of the rates is the rate of the differences.

    Args:
        a: nats of the first run, one a document.
        b: nats of the second run, same documents in the same order.
        units: tokens, words or bytes of these documents.
        scale: ppl, bits or nats.

    Raises:
        UsageError: an unknown scale, other lengths, no pair, a value that is not finite, or no units.
    """
    import numpy as np

    if scale not in SCALES or len(units) != len(a) or not all(u >= 0 for u in units) or not any(units):
        raise UsageError(f"expected a scale of {', '.join(SCALES)} and the units of {len(a)} documents, not all 0")
    found, u = differences(a, b), np.asarray(units, dtype=np.float64)
    n, discordant, length = found.size, int((found != 0).sum()), math.fsum(units)
    rates = math.fsum(a) / length, math.fsum(b) / length
    per_nat = 1 / math.log(2) if scale == "bits" else 1.0
    first, second = (exp(rate) if scale == "ppl" else rate * per_nat for rate in rates)
    known = math.isfinite(first) and math.isfinite(second)
    log_ratio = rate_interval(found.tolist(), units, positive=False) if discordant else UNKNOWN
    difference = total(found) / length
    if scale != "ppl":
        estimate, interval = difference * per_nat, Interval(log_ratio.low * per_nat, log_ratio.high * per_nat)
    else:
        estimate, interval = (first - second if difference else 0.0) if known else math.nan, UNKNOWN
        if known and log_ratio.known:  # linearised
            left, right = (
                math.exp(rate) * (np.asarray(nats, dtype=np.float64) - rate * u) / length
                for nats, rate in zip((a, b), rates, strict=True)
            )
            interval = residual_interval(math.exp(rates[0]) - math.exp(rates[1]), left - right, u / length)
    return Paired(
        first=first,
        second=second,
        estimate=estimate,
        interval=interval,
        interval_kind=STUDENT if discordant else NOTHING,
        p_value=sign_flips(found),
        test=SIGN_FLIPS,
        n=n,
        discordant=discordant,
        ratio=exp(difference) if scale == "ppl" else None,
        ratio_interval=Interval(exp(log_ratio.low), exp(log_ratio.high)) if scale == "ppl" else None,
    )


def sign_of(found: Paired, p_value: float) -> int:
    """-1 or 1 if the first run's figure is lower or higher, 0 if the two are not distinguishable.

    Test and interval must agree: p below 0.05 and zero outside. Perplexities are compared by their ratio, so that they
    and bits per byte never disagree.

    Args:
        found: the difference.
        p_value: its p value, corrected if it is one of several.
    """
    low, high = found.interval.low, found.interval.high
    if found.ratio_interval is not None:
        low, high = found.ratio_interval.low - 1, found.ratio_interval.high - 1
    if p_value >= ALPHA or not (low > 0 or high < 0):
        return 0
    return 1 if low > 0 else -1


def verdict_of(sign: int, *, higher_is_better: bool | None, bounds: tuple[bool, bool] = (False, False)) -> str:
    """better or worse (of the first run), open, unproven, or empty if `higher_is_better` is None.

    Args:
        sign: of the difference, from `sign_of`.
        higher_is_better: direction.
        bounds: whether the first and the second figure are upper bounds. A bound below an exact figure proves its model
            better; a bound above one proves nothing, nor do two bounds.
    """
    if sign == 0:
        return OPEN
    if higher_is_better is None:
        return ""
    if (bounds[0] and (bounds[1] or sign > 0)) or (bounds[1] and sign < 0):
        return UNPROVEN
    return "better" if (sign > 0) == higher_is_better else "worse"


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979, Scand. J. Statist. 6:65), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


# Aggregation over documents, as lm-eval's metrics

UNKNOWN_STDERR = "N/A"  # as lm-eval writes it
Pair = tuple[float, float]  # nats of a document and its tokens, words or bytes


def interval_of(values: Sequence[float]) -> dict[str, Any]:
    """Mean over documents, its 95 % interval, their number, and the interval's kind."""
    shares = min(values) >= 0 and max(values) <= 1
    interval, kind = share_interval(values) if shares else (mean_interval(values), STUDENT)
    return {"value": fmean(values), "low": interval.low, "high": interval.high, "n": len(values), "kind": kind}


def rate(items: Sequence[Pair]) -> float:
    """sum(nats) / sum(units); NaN if a document's nats are NaN or there are no units."""
    units = math.fsum(u for _, u in items)
    if not units or any(math.isnan(x) for x, _ in items):
        return math.nan
    return math.fsum(x for x, _ in items) / units


def rate_stderr(items: Sequence[Pair]) -> float | str:
    """Standard error of `rate` over independent documents (linearised ratio); N/A for fewer than two."""
    n, mean = len(items), rate(items)
    if n < 2 or not math.isfinite(mean):
        return UNKNOWN_STDERR
    squares = math.fsum((x - mean * u) ** 2 for x, u in items)
    return math.sqrt(n / (n - 1) * squares) / math.fsum(u for _, u in items)


def ppl(items: Sequence[Pair]) -> float:
    """exp(sum(nats) / sum(units)); infinity on overflow."""
    return exp(rate(items))


def ppl_stderr(items: Sequence[Pair]) -> float | str:
    """Standard error of `ppl` by the delta method."""
    spread, value = rate_stderr(items), ppl(items)
    return UNKNOWN_STDERR if isinstance(spread, str) or math.isinf(value) else value * spread


def bits(items: Sequence[Pair]) -> float:
    """Bits per unit, sum(nats) / (ln 2 * sum(units))."""
    return rate(items) / math.log(2)


def bits_stderr(items: Sequence[Pair]) -> float | str:
    """Standard error of `bits`."""
    spread = rate_stderr(items)
    return spread if isinstance(spread, str) else spread / math.log(2)


def block_mean_ppl(items: Sequence[Pair]) -> float:
    """Mean over documents of exp(nats / units), as the released evaluator averages."""
    try:
        return math.fsum(exp(x / u) for x, u in items) / len(items)
    except OverflowError:
        return math.inf


def block_mean_ppl_stderr(items: Sequence[Pair]) -> float | str:
    """Standard error of `block_mean_ppl`."""
    n, mean = len(items), block_mean_ppl(items)
    if n < 2 or not math.isfinite(mean):
        return UNKNOWN_STDERR
    deviations = [exp(x / u) - mean for x, u in items]
    largest = max(map(abs, deviations)) or 1.0  # squares of it may exceed every float
    return largest * math.sqrt(math.fsum((d / largest) ** 2 for d in deviations) / (n - 1) / n)


def mc_se(items: Sequence[tuple[float, float, float]]) -> float:
    """Standard error of `ppl` due to the Monte-Carlo noise of the draws alone, not the choice of documents.

    Args:
        items: nats, units and the Monte-Carlo standard error of the nats, of each document.
    """
    spread = math.sqrt(math.fsum(s * s for _, _, s in items)) / math.fsum(u for _, u, _ in items)
    return ppl([(x, u) for x, u, _ in items]) * spread
