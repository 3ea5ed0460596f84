"""Paired statistics: known values, scipy's answers, and independence of the documents' order."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from ltm_eval.results.statistics import (
    MCNEMAR,
    NO_DISCORDANT,
    NOTHING,
    OPEN,
    SIGN_FLIPS,
    STUDENT,
    TANGO,
    UNPROVEN,
    Contest,
    holm,
    paired_means,
    paired_rates,
    rate_interval,
    sign_of,
    tango_interval,
    verdict_of,
)
from ltm_eval.system.errors import UsageError


def scores(both: int, first: int, second: int, neither: int) -> tuple[list[float], list[float]]:
    pairs = [(1.0, 1.0)] * both + [(1.0, 0.0)] * first + [(0.0, 1.0)] * second + [(0.0, 0.0)] * neither
    random.Random(7).shuffle(pairs)
    return [a for a, _ in pairs], [b for _, b in pairs]


def costs(n: int = 60) -> tuple[list[float], list[float], list[float]]:
    """Nats of two runs and bytes of n documents; the first run costs about 2 % less."""
    generator = np.random.default_rng(3)
    units = generator.integers(20, 200, n).astype(float)
    b = units * generator.normal(1.5, 0.2, n)
    return list(b * generator.normal(0.98, 0.03, n)), list(b), list(units)


@pytest.mark.parametrize(("first", "second"), [(10, 0), (3, 9), (12, 13), (40, 20)])
def test_mcnemar_is_scipys_binomial_test_of_the_discordant_pairs(first: int, second: int) -> None:
    found = paired_means(*scores(30, first, second, 11))
    assert found.p_value == pytest.approx(stats.binomtest(first, first + second).pvalue)
    assert (found.test, found.discordant, found.n) == (MCNEMAR, first + second, 41 + first + second)
    assert found.contest == Contest(both=30, first=first, second=second, neither=11)
    assert found.estimate == pytest.approx((first - second) / found.n)


def test_mcnemar_known_value() -> None:
    # Ten discordant pairs, all one way: 2 / 2^10.
    assert paired_means(*scores(5, 10, 0, 5)).p_value == 2 / 1024


def test_interval_of_a_share_is_tangos() -> None:
    found = paired_means(*scores(40, 22, 9, 30))
    assert (found.interval_kind, found.interval) == (TANGO, tango_interval(22, 9, 101))
    assert found.interval.low < 13 / 101 < found.interval.high


@pytest.mark.parametrize("values", [[1.0, 0.0] * 10, [0.5, 0.2] * 10])
def test_no_differing_document_is_not_taken_for_certain_equality(values: list[float]) -> None:
    found = paired_means(values, values)
    limit = 1.959963984540054**2 / (20 + 1.959963984540054**2)
    assert (found.p_value, found.estimate, found.interval_kind) == (1.0, 0.0, NO_DISCORDANT)
    assert (found.interval.low, found.interval.high) == pytest.approx((-limit, limit))


def test_equal_costs_have_no_interval_rather_than_a_point() -> None:
    for scale in ("ppl", "bits"):
        found = paired_rates([3.0, 4.0], [3.0, 4.0], [1.0, 2.0], scale=scale)
        assert (found.estimate, found.p_value, found.interval.known, found.interval_kind) == (0.0, 1.0, False, NOTHING)
        assert sign_of(found, 0.0) == 0


def test_other_means_are_tested_by_sign_flips() -> None:
    a = [0.5, 0.25, 1.0, 0.75, 0.9, 0.8]
    b = [0.25, 0.25, 0.5, 0.5, 0.1, 0.3]
    found = paired_means(a, b)
    # Five pairs differ, all one way: 2 of 2^5 sign patterns are as extreme.
    assert (found.test, found.contest) == (SIGN_FLIPS, None)
    assert found.p_value == pytest.approx(2 / 32)


def test_perplexity_difference_ratio_and_interval() -> None:
    a, b, units = costs()
    found = paired_rates(a, b, units, scale="ppl")
    total = sum(units)
    assert found.first == pytest.approx(math.exp(sum(a) / total))
    assert found.estimate == pytest.approx(math.exp(sum(a) / total) - math.exp(sum(b) / total))
    assert found.ratio == pytest.approx(math.exp((sum(a) - sum(b)) / total))

    assert found.interval_kind == STUDENT
    assert found.interval.low < found.estimate < found.interval.high < 0
    # Linearised, so near the second run's perplexity times the interval of the ratio less one.
    assert found.ratio_interval is not None
    second = math.exp(sum(b) / total)
    ends = (second * (found.ratio_interval.low - 1), second * (found.ratio_interval.high - 1))
    width = ends[1] - ends[0]
    assert (found.interval.low, found.interval.high) == pytest.approx(ends, abs=0.1 * width)
    assert found.ratio_interval.low < found.ratio < found.ratio_interval.high < 1


def test_bits_are_nats_over_ln_2_and_both_tests_agree() -> None:
    a, b, units = costs()
    bits, nats, ppl = (paired_rates(a, b, units, scale=scale) for scale in ("bits", "nats", "ppl"))
    assert bits.estimate == pytest.approx(nats.estimate / math.log(2))
    assert bits.interval.low == pytest.approx(nats.interval.low / math.log(2))
    assert bits.p_value == nats.p_value == ppl.p_value
    assert bits.ratio is None


def test_nothing_depends_on_the_order_of_the_documents() -> None:
    a, b, units = costs()
    order = random.Random(1).sample(range(len(a)), len(a))
    mixed = [[column[i] for i in order] for column in (a, b, units)]
    for scale in ("ppl", "bits"):
        assert paired_rates(*mixed, scale=scale) == paired_rates(a, b, units, scale=scale)
    assert paired_means(*mixed[:2]) == paired_means(a, b)


def test_one_document_has_no_interval() -> None:
    found = paired_rates([3.0], [2.0], [1.0], scale="ppl")
    assert (found.interval.low, found.interval.high, found.p_value) == (-math.inf, math.inf, 1.0)


@pytest.mark.parametrize(
    ("units", "scale"), [([1.0], "bits"), ([0.0, 0.0], "bits"), ([1.0, -1.0], "bits"), ([1.0, 1.0], "log")]
)
def test_wrong_units_or_scale(units: list[float], scale: str) -> None:
    with pytest.raises(UsageError, match="expected a scale"):
        paired_rates([1.0, 2.0], [1.0, 2.0], units, scale=scale)


def test_holm_known_values() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_is_never_below_the_raw_value_and_keeps_the_order() -> None:
    values = [random.Random(5).random() ** 3 for _ in range(9)]
    adjusted = holm(values)
    assert all(high >= low for high, low in zip(adjusted, values, strict=True))
    assert sorted(range(9), key=adjusted.__getitem__) == sorted(range(9), key=values.__getitem__)


def test_means_are_those_of_each_run() -> None:
    found = paired_means([0.5, 2.0, 0.5], [1.0, 1.0, 4.0])
    assert (found.first, found.second) == (1.0, 2.0)
    yes_no = paired_means([1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])
    assert (yes_no.first, yes_no.second) == (0.5, 0.25)


def test_bits_have_the_interval_of_nats_over_ln_2() -> None:
    nats, bits = (paired_rates(*costs(), scale=scale).interval for scale in ("nats", "bits"))
    assert (bits.low, bits.high) == pytest.approx((nats.low / math.log(2), nats.high / math.log(2)))


def test_documents_of_one_unit_or_none_are_documents() -> None:
    found = paired_rates([2.0, 0.0, 3.0], [1.0, 0.0, 5.0], [1.0, 0.0, 1.0], scale="nats")
    assert (found.first, found.second, found.n) == (2.5, 3.0, 3)
    assert found.interval == rate_interval([1.0, 0.0, -2.0], [1.0, 0.0, 1.0], positive=False)
    assert found.interval.low < -0.5 < found.interval.high and found.interval.known


def test_the_rate_of_one_run_and_of_a_difference_are_made_alike() -> None:
    """A second run that costs nothing: the difference is the first run's own rate."""
    a, _, units = costs()
    found = paired_rates(a, [0.0] * len(a), units, scale="nats")
    own = rate_interval(a, units, positive=True)
    assert found.estimate == pytest.approx(math.fsum(a) / math.fsum(units))
    assert found.interval.high - found.interval.low == pytest.approx(own.high - own.low, rel=0.05)


def test_perplexity_and_bits_are_told_apart_together() -> None:
    generator = np.random.default_rng(8)
    for _ in range(60):
        units = generator.lognormal(4, 1, 6)
        a, b = units * generator.normal(2.0, 0.3, 6), units * generator.normal(2.4, 0.3, 6)
        signs = {
            sign_of(paired_rates(list(a), list(b), list(units), scale=scale), 0.01) for scale in ("ppl", "bits", "nats")
        }
        assert len(signs) == 1


@pytest.mark.parametrize(
    ("sign", "higher", "bounds", "verdict"),
    [
        (0, False, (True, True), OPEN),
        (-1, False, (False, False), "better"),
        (1, False, (False, False), "worse"),
        (1, True, (False, False), "better"),
        (1, None, (False, False), ""),
        (-1, False, (True, False), "better"),
        (1, False, (True, False), UNPROVEN),
        (-1, False, (False, True), UNPROVEN),
        (1, False, (False, True), "worse"),
        (-1, False, (True, True), UNPROVEN),
        (1, False, (True, True), UNPROVEN),
    ],
)
def test_what_a_bound_proves(sign: int, higher: bool | None, bounds: tuple[bool, bool], verdict: str) -> None:
    assert verdict_of(sign, higher_is_better=higher, bounds=bounds) == verdict


def test_a_perplexity_beyond_every_float_has_no_difference() -> None:
    found = paired_rates([800.0, 801.0], [1.0, 2.0], [1.0, 1.0], scale="ppl")
    assert math.isinf(found.first) and math.isfinite(found.second) and math.isnan(found.estimate)
    assert (found.interval.low, found.interval.high) == (-math.inf, math.inf)
    assert math.isnan(paired_rates([1.0, 2.0], [800.0, 801.0], [1.0, 1.0], scale="ppl").estimate)
    some = paired_rates([1.0] * 9 + [5000.0], [1.0] * 10, [1.0] * 10, scale="ppl")
    assert math.isfinite(some.estimate) and some.interval.low < some.estimate < some.interval.high


@pytest.mark.parametrize("n", [3, 6, 12])
def test_equal_differences_are_not_taken_for_certainty(n: int) -> None:
    """Of differences that are 0.1 nine times in ten and else 0.5, most small samples hold 0.1 alone."""
    found = paired_means([0.5] * n, [0.4] * n)
    assert found.interval.low < 0 < found.estimate < 0.14 < found.interval.high
    costs = paired_rates([101.0 + i for i in range(n)], [100.0 + i for i in range(n)], [50.0] * n, scale="ppl")
    assert not costs.interval.known
