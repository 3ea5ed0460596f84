"""Statistics of scores: intervals, paired differences, pass@k, corpus perplexity.

Inputs are per-document values; sums are exactly rounded (`math.fsum`) and resampling works on sorted values, so that no
result depends on the order of the documents. All intervals are two-sided 95 % unless a level is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from ltm_eval.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEVEL = 0.95
SEED = 1234
RESAMPLES = 9_999
_DRAWS = 100_000_000  # limits resamples times documents to about a second
_FEWEST_RESAMPLES = 999
_CHUNK = 4_000_000
_EXACT_SIGNS = 13  # 2^13 sign patterns are fewer than RESAMPLES


@dataclass(frozen=True)
class Interval:
    """A range of plausible values; infinite where the data say nothing."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""


@dataclass(frozen=True)
class PairedDifference:
    """How two runs differ on the same documents."""

    estimate: float
    """Mean of a - b."""
    interval: Interval
    """95 % interval of the mean difference, from resampled documents."""
    p_value: float
    """Two-sided; exact McNemar for yes-or-no scores, else a sign-flip permutation test."""
    n: int
    """Pairs."""
    discordant: int
    """Pairs that differ."""


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a corpus, exp(sum of nats / sum of units)."""

    ppl: float
    """The estimate; infinite where it exceeds every float."""
    interval: Interval
    """95 % interval from resampled documents."""
    stderr: float | None
    """Standard error by the delta method over documents; None for a single document."""
    nats: float
    """Sum of nats."""
    units: float
    """Sum of units (tokens, words or bytes)."""
    documents: int
    """Number of documents."""


def wilson_interval(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share (Wilson 1927, JASA 22:209); 0 to 1 for n = 0.

    Raises:
        UsageError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise UsageError(f"successes must lie between 0 and n = {n}, got {successes}")
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def mean_interval(values: Sequence[float], *, level: float = LEVEL, seed: int = SEED) -> Interval:
    """Percentile bootstrap interval of the mean; infinite for fewer than two values, a point for equal ones.

    Raises:
        UsageError: a value is not finite.
    """
    array = _finite(values, name="values")
    if array.size < 2:
        return Interval(-math.inf, math.inf)
    return percentiles([array], lambda sums: sums[0] / array.size, level=level, seed=seed)


def paired_difference(a: Sequence[float], b: Sequence[float], *, seed: int = SEED) -> PairedDifference:
    """Compare two runs document by document.

    Args:
        a: scores of the first run, one a document.
        b: scores of the second run, same documents in the same order.
        seed: of the bootstrap and, above 13 pairs that differ, of the sign flips.

    Raises:
        UsageError: the lengths differ, there is no pair, or a value is not finite.
    """
    first, second = _finite(a, name="a"), _finite(b, name="b")
    if first.size != second.size or first.size == 0:
        raise UsageError(
            f"a paired comparison needs two equally long lists of scores, got {first.size} and {second.size}"
        )
    difference = first - second
    binary = bool(((first == 0) | (first == 1)).all() and ((second == 0) | (second == 1)).all())
    interval = mean_interval(difference.tolist(), seed=seed)
    return PairedDifference(
        estimate=math.fsum(difference) / difference.size,
        interval=Interval(max(interval.low, -1.0), min(interval.high, 1.0)) if binary else interval,
        p_value=_mcnemar(difference) if binary else _sign_flips(difference, seed=seed),
        n=difference.size,
        discordant=int((difference != 0).sum()),
    )


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


def corpus_ppl(nats: Sequence[float], units: Sequence[float], *, level: float = LEVEL, seed: int = SEED) -> Perplexity:
    """Perplexity of a corpus from the sums of each document: exp(sum(nats) / sum(units)).

    Args:
        nats: negative log-likelihood (or its bound) of each document, summed over its tokens.
        units: tokens, words or bytes of each document.
        level: of the interval.
        seed: of the bootstrap over documents.

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
    total, length = math.fsum(x), math.fsum(u)
    rate = total / length
    return Perplexity(
        ppl=_exp(rate),
        interval=_ppl_interval(x, u, level=level, seed=seed),
        stderr=_exp(rate) * _ratio_stderr(x, u, rate) if x.size > 1 else None,
        nats=total,
        units=length,
        documents=x.size,
    )


def _ppl_interval(x: Array, u: Array, *, level: float, seed: int) -> Interval:
    """Bootstrap over documents of the ratio of sums; 0 to infinity for a single document."""
    import numpy as np

    if x.size < 2:
        return Interval(0.0, math.inf)
    order = np.lexsort((u, x))

    def rate(sums: Sequence[Array]) -> Array:
        """Nats a unit; a resample that holds only empty documents says nothing."""
        return np.divide(sums[0], sums[1], out=np.full_like(sums[0], np.nan), where=sums[1] > 0)

    interval = percentiles([x[order], u[order]], rate, level=level, seed=seed)
    return Interval(_exp(interval.low), _exp(interval.high))


def _ratio_stderr(x: Array, u: Array, rate: float) -> float:
    """Standard error of sum(x) / sum(u) over independent documents (linearised)."""
    n = x.size
    residual = x - rate * u
    return math.sqrt(n / (n - 1) * math.fsum(residual * residual)) / math.fsum(u)


def percentiles(
    columns: Sequence[Array], statistic: Callable[[Sequence[Array]], Array], *, level: float, seed: int
) -> Interval:
    """Percentile bootstrap over rows of a statistic of column sums.

    `columns` hold one value a document and are equally long. A single column is sorted here, several come in an order
    that does not depend on the documents' order. Large corpora get fewer resamples, at least 999.
    """
    import numpy as np

    if len(columns) == 1:
        columns = [np.sort(columns[0])]
    n = columns[0].size
    resamples = max(_FEWEST_RESAMPLES, min(RESAMPLES, _DRAWS // n))
    draws = _kept_draws if n * resamples <= _CHUNK else _draws
    found = [statistic([column[chosen].sum(axis=1) for column in columns]) for chosen in draws(n, resamples, seed)]
    with np.errstate(invalid="ignore"):  # between two infinite values
        low, high = np.nanquantile(np.concatenate(found), [0.5 - level / 2, 0.5 + level / 2])
    return Interval(-math.inf if math.isnan(low) else float(low), math.inf if math.isnan(high) else float(high))


def _draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Documents of every resample by their index, in pieces that fit in memory."""
    import numpy as np

    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        yield generator.integers(0, n, size=(min(rows, resamples - start), n))


@lru_cache(maxsize=4)
def _kept_draws(n: int, resamples: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """The same, kept: a page asks for the same draws dozens of times."""
    return tuple(_draws(n, resamples, seed))


def _mcnemar(difference: Array) -> float:
    """Exact two-sided McNemar test: of the pairs that differ, each side wins with chance one half.

    Equals `scipy.stats.binomtest(better, better + worse)`, whose import alone takes longer than a whole report.
    """
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    n, tail, ways = better + worse, 0, 1
    for i in range(min(better, worse) + 1):
        tail += ways
        ways = ways * (n - i) // (i + 1)
    return min(1.0, 2 * tail / (1 << n))


def _sign_flips(difference: Array, *, seed: int) -> float:
    """Two-sided sign-flip test of a zero mean: all sign patterns where few pairs differ, else random ones."""
    import numpy as np

    sizes = np.sort(np.abs(difference[difference != 0]))
    if sizes.size == 0:
        return 1.0
    seen = abs(math.fsum(difference)) * (1 - 1e-12)  # sums of the same numbers differ by rounding
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


def _exp(nats: float) -> float:
    """exp, infinite where no float can hold it."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
