"""Two runs on the same documents: means, perplexities and bits per byte, with paired intervals and tests.

The page, `compare` and the effect of demonstrations all take their differences from here, and what they conclude from
`sign_of` and `verdict_of`. Yes-or-no scores: exact McNemar test, which is the two-sided binomial test of the documents
that differ, and Tango's score interval. Other means and rates: sign-flip permutation over documents, and the intervals
of `metrics`. Nothing depends on the order of the documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_eval.errors import UsageError
from ltm_eval.metrics import (
    STUDENT,
    UNKNOWN,
    Interval,
    differences,
    mcnemar,
    rate_interval,
    residual_interval,
    sign_flips,
    tango_interval,
    total,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ALPHA = 0.05
MCNEMAR = "exact McNemar (two-sided binomial test of the documents that differ)"
SIGN_FLIPS = "sign-flip permutation over documents"
TANGO = "Tango's score interval of paired shares"
NO_DISCORDANT = "no document differs: the limit of the share that does (Tango)"
NOTHING = "none: no document differs"
SCALES = ("ppl", "bits", "nats")
OPEN, UNPROVEN = "open", "unproven"
"""Not distinguishable; and told apart, but by bounds, which leave open which model is better."""


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
    found = differences(a, b)
    contest, n, discordant = _contest(a, b), found.size, int((found != 0).sum())
    if contest is not None:
        interval = tango_interval(contest.first, contest.second, n)
        kind, test, p_value = TANGO, MCNEMAR, mcnemar(contest.first, contest.second)
    else:
        interval, kind = rate_interval(found.tolist(), [1.0] * n, positive=False), STUDENT
        test, p_value = SIGN_FLIPS, sign_flips(found)
        if all(0 <= value <= 1 for value in (*a, *b)):
            interval = Interval(max(interval.low, -1.0), min(interval.high, 1.0))
            interval = interval if discordant else tango_interval(0, 0, n)
        elif not discordant:
            interval, kind = UNKNOWN, NOTHING
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
    found = differences(a, b)
    n, discordant, length = found.size, int((found != 0).sum()), math.fsum(units)
    rates = math.fsum(a) / length, math.fsum(b) / length
    per_nat = 1 / math.log(2) if scale == "bits" else 1.0
    first, second = (_exp(rate) if scale == "ppl" else rate * per_nat for rate in rates)
    known = math.isfinite(first) and math.isfinite(second)
    log_ratio = rate_interval(found.tolist(), units, positive=False) if discordant else UNKNOWN
    difference = total(found) / length
    if scale != "ppl":
        estimate, interval = difference * per_nat, Interval(log_ratio.low * per_nat, log_ratio.high * per_nat)
    else:
        estimate = (first - second if difference else 0.0) if known else math.nan
        interval = _ppl_interval(a, b, units, rates) if known and log_ratio.known else UNKNOWN
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
        ratio=_exp(difference) if scale == "ppl" else None,
        ratio_interval=Interval(_exp(log_ratio.low), _exp(log_ratio.high)) if scale == "ppl" else None,
    )


def _ppl_interval(
    a: Sequence[float], b: Sequence[float], units: Sequence[float], rates: tuple[float, float]
) -> Interval:
    """Of exp(sum(a) / sum(units)) - exp(sum(b) / sum(units)), linearised."""
    import numpy as np

    u = np.asarray(units, dtype=np.float64)
    length = math.fsum(u)
    first, second = (
        math.exp(rate) * (np.asarray(nats, dtype=np.float64) - rate * u) / length
        for nats, rate in zip((a, b), rates, strict=True)
    )
    return residual_interval(math.exp(rates[0]) - math.exp(rates[1]), first - second, u / length)


# What follows from a difference


def sign_of(found: Paired, p_value: float) -> int:
    """-1 or 1 where the first run's figure is lower or higher, 0 where the two cannot be told apart.

    Both the test and the interval must say so: p below 0.05 and zero outside. Perplexities are told apart by their
    ratio, so that they and bits per byte never disagree.

    Args:
        found: the difference.
        p_value: its p value, corrected where it is one of several.
    """
    low, high = found.interval.low, found.interval.high
    if found.ratio_interval is not None:
        low, high = found.ratio_interval.low - 1, found.ratio_interval.high - 1
    if p_value >= ALPHA or not (low > 0 or high < 0):
        return 0
    return 1 if low > 0 else -1


def verdict_of(sign: int, *, higher_is_better: bool | None, bounds: tuple[bool, bool] = (False, False)) -> str:
    """better or worse (of the first run), open, unproven, or empty where no direction is better.

    Args:
        sign: as `sign_of` gives it.
        higher_is_better: direction.
        bounds: whether the first and the second figure are upper bounds: one that lies below an exact figure proves its
            model the better one, one that lies above proves nothing, and two bounds prove nothing of each other.
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


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
