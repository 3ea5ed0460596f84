"""Two runs on the same documents: means, perplexities and bits per byte, with paired intervals and tests.

Yes-or-no scores: exact McNemar test, which is the two-sided binomial test of the documents that differ. Other means and
rates: sign-flip permutation over documents. Intervals resample documents, both runs together. Nothing depends on the
order of the documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_eval.errors import UsageError
from ltm_eval.metrics import LEVEL, SEED, Interval, paired_difference, percentiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.metrics import Array

MCNEMAR = "exact McNemar (two-sided binomial test of the documents that differ)"
SIGN_FLIPS = "sign-flip permutation over documents"
BOOTSTRAP = "paired bootstrap over documents"
NO_DISCORDANT = "exact: no document differs, so the share that does has this upper limit (Clopper and Pearson)"
SCALES = ("ppl", "bits", "nats")


@dataclass(frozen=True)
class Contest:
    """Yes-or-no documents by who is right."""

    both: int
    """Both runs."""
    first: int
    """The first run alone."""
    second: int
    """The second run alone."""
    neither: int
    """Neither run."""


@dataclass(frozen=True)
class Paired:
    """The first run minus the second over the documents that both scored."""

    first: float
    """The first run's figure over these documents."""
    second: float
    """The second run's."""
    estimate: float
    """First minus second."""
    interval: Interval
    """95 % interval of the difference."""
    interval_kind: str
    """How the interval was made."""
    p_value: float
    """Two-sided p value of no difference."""
    test: str
    """How the p value was made."""
    n: int
    """Pairs."""
    discordant: int
    """Pairs that differ."""
    contest: Contest | None = None
    """Who is right where; None unless every score is 0 or 1."""
    ratio: float | None = None
    """First over second; of perplexities alone."""
    ratio_interval: Interval | None = None
    """95 % interval of that ratio."""


def paired_means(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compare mean scores.

    Args:
        a: scores of the first run, one a document.
        b: scores of the second run, same documents in the same order.

    Raises:
        UsageError: the lengths differ, there is no pair, or a value is not finite.
    """
    found = paired_difference(a, b)
    contest = _contest(a, b)
    interval, kind = found.interval, BOOTSTRAP
    if contest is not None and found.discordant == 0:
        limit = 1 - ((1 - LEVEL) / 2) ** (1 / found.n)
        interval, kind = Interval(-limit, limit), NO_DISCORDANT
    return Paired(
        first=math.fsum(a) / found.n,
        second=math.fsum(b) / found.n,
        estimate=found.estimate,
        interval=interval,
        interval_kind=kind,
        p_value=found.p_value,
        test=MCNEMAR if contest is not None else SIGN_FLIPS,
        n=found.n,
        discordant=found.discordant,
        contest=contest,
    )


def _contest(a: Sequence[float], b: Sequence[float]) -> Contest | None:
    if not {*a, *b} <= {0.0, 1.0}:
        return None
    pairs = list(zip(a, b, strict=True))
    return Contest(*(sum(pair == kind for pair in pairs) for kind in ((1, 1), (1, 0), (0, 1), (0, 0))))


def paired_rates(a: Sequence[float], b: Sequence[float], units: Sequence[float], *, scale: str) -> Paired:
    """Compare corpus figures: sum of nats over sum of units, as perplexity, bits or nats per unit.

    The units are those of both runs, so that a difference of rates is the rate of the differences.

    Args:
        a: nats of the first run, one a document.
        b: nats of the second run, same documents in the same order.
        units: tokens, words or bytes of these documents.
        scale: ppl, bits or nats.

    Raises:
        UsageError: an unknown scale, other lengths, no pair, a value that is not finite, or no units.
    """
    if scale not in SCALES or len(units) != len(a) or not all(u >= 0 for u in units) or not any(units):
        raise UsageError(f"expected a scale of {', '.join(SCALES)} and the units of {len(a)} documents, not all 0")
    tested = paired_difference(a, b)
    total = math.fsum(units)
    rates = math.fsum(a) / total, math.fsum(b) / total
    per_nat = 1 / math.log(2) if scale == "bits" else 1.0
    first, second = (_exp(rate) if scale == "ppl" else rate * per_nat for rate in rates)
    log_ratio = _rate_interval(a, b, units) if tested.n > 1 else Interval(-math.inf, math.inf)
    interval = Interval(log_ratio.low * per_nat, log_ratio.high * per_nat)
    known = math.isfinite(first) and math.isfinite(second)
    if scale == "ppl":
        interval = _ppl_interval(a, b, units) if tested.n > 1 and known else Interval(-math.inf, math.inf)
    return Paired(
        first=first,
        second=second,
        estimate=first - second if known else math.nan,
        interval=interval,
        interval_kind=BOOTSTRAP,
        p_value=tested.p_value,
        test=SIGN_FLIPS,
        n=tested.n,
        discordant=tested.discordant,
        ratio=_exp(rates[0] - rates[1]) if scale == "ppl" else None,
        ratio_interval=Interval(_exp(log_ratio.low), _exp(log_ratio.high)) if scale == "ppl" else None,
    )


def _rate_interval(a: Sequence[float], b: Sequence[float], units: Sequence[float]) -> Interval:
    """Of sum(a - b) / sum(units)."""
    import numpy as np

    columns = _sorted(np.asarray(a) - np.asarray(b), np.asarray(units, dtype=np.float64))
    return percentiles(columns, lambda sums: _over(sums[0], sums[1]), level=LEVEL, seed=SEED)


def _ppl_interval(a: Sequence[float], b: Sequence[float], units: Sequence[float]) -> Interval:
    """Of exp(sum(a) / sum(units)) - exp(sum(b) / sum(units))."""
    import numpy as np

    columns = _sorted(*(np.asarray(column, dtype=np.float64) for column in (a, b, units)))

    def difference(sums: Sequence[Array]) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.exp(_over(sums[0], sums[2])) - np.exp(_over(sums[1], sums[2])))

    return percentiles(columns, difference, level=LEVEL, seed=SEED)


def _sorted(*columns: Array) -> list[Array]:
    """Rows in an order that does not depend on the documents'."""
    import numpy as np

    order = np.lexsort(columns)
    return [column[order] for column in columns]


def _over(sums: Array, units: Array) -> Array:
    """A resample that holds only empty documents says nothing."""
    import numpy as np

    return np.divide(sums, units, out=np.full_like(sums, np.nan), where=units > 0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979, Scand. J. Statist. 6:65), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
