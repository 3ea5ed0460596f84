"""Perplexities from sums, and the score an LTM answers with."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm_eval.inference.draws import RollingScore
from ltm_eval.results.statistics import (
    bits,
    bits_stderr,
    block_mean_ppl,
    block_mean_ppl_stderr,
    mc_se,
    ppl,
    ppl_stderr,
    rate,
    rate_stderr,
)
from ltm_eval.system.errors import UsageError
from ltm_eval.tasks.perplexity import last_word_results, process_results

DOC = {"text": "one two", "n_words": 2, "n_bytes": 7, "n_tokens_block": 3, "index": 0}
ROWS = {
    "bound": 12.0,
    "bound_stderr": 0.5,
    "nll_given_z": 9.0,
    "kl": 3.0,
    "as_released": 8.0,
    "prior": 15.0,
    "iwae": 11.0,
    "causal": 14.0,
}
PAIRS = [(100 * math.log(20), 100), (300 * math.log(25), 300), (20 * math.log(1_500), 20)]


def test_a_rolling_score_is_minus_its_bound() -> None:
    score = RollingScore(ROWS, tokens=4)
    assert score == -12.0
    assert score + 1 == -11.0
    assert isinstance(score, float)
    assert dict(score.rows) == ROWS
    assert score.tokens == 4
    assert json.dumps([score]) == "[-12.0]"


def test_a_rolling_score_survives_copies_and_cannot_be_changed() -> None:
    score = RollingScore(ROWS, tokens=4)
    for twin in (copy.copy(score), copy.deepcopy([score])[0], pickle.loads(pickle.dumps(score))):
        assert type(twin) is RollingScore
        assert (float(twin), dict(twin.rows), twin.tokens) == (-12.0, ROWS, 4)
    with pytest.raises(TypeError):
        score.rows["bound"] = 0.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        score.tokens = 5  # type: ignore[misc]
    rows = dict(ROWS)
    kept = RollingScore(rows, tokens=1)
    rows["bound"] = 0.0
    assert kept.rows["bound"] == 12.0


@pytest.mark.parametrize(("rows", "tokens"), [({}, 1), ({"kl": 1.0}, 1), ({**ROWS, "kll": 1.0}, 1), (ROWS, 0)])
def test_what_is_no_score_is_refused(rows: dict[str, float], tokens: int) -> None:
    with pytest.raises(UsageError, match="a rolling score needs"):
        RollingScore(rows, tokens=tokens)


def test_a_plain_answer_gives_plain_names() -> None:
    found = process_results(DOC, [-6.0])
    assert found == {
        **dict.fromkeys(("ppl_per_token", "ppl_per_token_stderr"), (6.0, 3)),
        **dict.fromkeys(("ppl_per_word", "ppl_per_word_stderr"), (6.0, 2)),
        **dict.fromkeys(("ppl_per_byte", "ppl_per_byte_stderr", "bits_per_byte", "bits_per_byte_stderr"), (6.0, 7)),
    }


def test_a_bound_gives_names_that_say_so() -> None:
    found = process_results(DOC, [RollingScore(ROWS, tokens=4)])
    values = {
        "ppl_per_token_bound": (12.0, 4),
        "ppl_per_word_bound": (12.0, 2),
        "ppl_per_byte_bound": (12.0, 7),
        "bits_per_byte_bound": (12.0, 7),
        "ppl_per_token_as_released": (8.0, 4),
        "ppl_per_token_as_released_block_mean": (8.0, 4),
        "nll_per_token_given_z": (9.0, 4),
        "kl_per_token": (3.0, 4),
        "ppl_per_token_prior": (15.0, 4),
        "ppl_per_token_iwae": (11.0, 4),
        "ppl_per_token_causal": (14.0, 4),
    }
    expected = values | {f"{name}_stderr": value for name, value in values.items()}
    assert found == expected | {"ppl_per_token_bound_mc_se": (12.0, 4, 0.5)}


def test_rows_that_are_absent_stay_absent() -> None:
    found = process_results(DOC, [RollingScore({"bound": 12.0}, tokens=4)])
    assert {name for name in found if not name.endswith("_stderr")} == {
        "ppl_per_token_bound",
        "ppl_per_word_bound",
        "ppl_per_byte_bound",
        "bits_per_byte_bound",
    }


@pytest.mark.parametrize("results", [[-6.0], [RollingScore(ROWS, tokens=4)]])
def test_each_standard_error_follows_its_metric(results: list[float]) -> None:
    names = list(process_results(DOC, results))
    for name in names:
        if name.endswith("_stderr"):
            assert names.index(name) > names.index(name.removesuffix("_stderr"))


def test_last_word() -> None:
    assert last_word_results({}, [(-2.5, True)]) == {"acc": 1.0, "perplexity": (2.5, 1), "perplexity_stderr": (2.5, 1)}
    assert last_word_results({}, [(-2.5, False)])["acc"] == 0.0


def test_sums_are_divided_once() -> None:
    # Blocks of 100, 300 and 20 tokens: the mean of exponentials is another, larger figure.
    exact = math.exp((100 * math.log(20) + 300 * math.log(25) + 20 * math.log(1_500)) / 420)
    assert ppl(PAIRS) == pytest.approx(exact, rel=1e-12)
    assert block_mean_ppl(PAIRS) == pytest.approx((20 + 25 + 1_500) / 3, rel=1e-12)
    assert bits(PAIRS) == pytest.approx(math.log2(exact), rel=1e-12)
    assert rate(PAIRS) == pytest.approx(math.log(exact), rel=1e-12)


def test_standard_errors_differ_by_the_scale() -> None:
    spread = rate_stderr(PAIRS)
    assert isinstance(spread, float)
    assert bits_stderr(PAIRS) == pytest.approx(spread / math.log(2), rel=1e-12)
    assert ppl_stderr(PAIRS) == pytest.approx(spread * ppl(PAIRS), rel=1e-12)


def test_standard_error_of_equal_blocks_is_that_of_a_mean() -> None:
    nats = [2.0, 3.0, 7.0, 4.0]
    mean = sum(nats) / 4
    expected = math.sqrt(sum((x - mean) ** 2 for x in nats) / 3 / 4)
    assert rate_stderr([(x, 1) for x in nats]) == pytest.approx(expected, rel=1e-12)
    values = [math.exp(x) for x in nats]
    centre = sum(values) / 4
    spread = math.sqrt(sum((v - centre) ** 2 for v in values) / 3 / 4)
    assert block_mean_ppl_stderr([(x, 1) for x in nats]) == pytest.approx(spread, rel=1e-12)


def test_monte_carlo_error_by_simulation() -> None:
    items = [(100.0, 50, 1.0), (120.0, 50, 2.0), (90.0, 50, 0.5)]
    generator = random.Random(0)
    draws = [ppl([(x + s * generator.gauss(0, 1), u) for x, u, s in items]) for _ in range(20_000)]
    mean = sum(draws) / len(draws)
    spread = math.sqrt(sum((d - mean) ** 2 for d in draws) / len(draws))
    assert mc_se(items) == pytest.approx(spread, rel=0.03)


def test_a_single_document_has_no_standard_error() -> None:
    for aggregate in (rate_stderr, ppl_stderr, bits_stderr, block_mean_ppl_stderr):
        assert aggregate([(3.0, 2)]) == "N/A"


def test_a_document_without_a_score_shows() -> None:
    assert ppl([(math.inf, 3), (2.0, 3)]) == math.inf
    assert ppl_stderr([(math.inf, 3), (2.0, 3)]) == "N/A"
    assert math.isnan(ppl([(math.nan, 3), (2.0, 3)]))
    assert math.isnan(ppl([(1.0, 0), (2.0, 0)]))
    assert ppl([(1e6, 1)]) == math.inf


pairs = st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 2_000)), min_size=2, max_size=30)


@given(pairs, st.randoms(use_true_random=False))
def test_no_figure_depends_on_the_order(items: list[tuple[float, int]], order: random.Random) -> None:
    shuffled = list(items)
    order.shuffle(shuffled)
    for aggregate in (ppl, ppl_stderr, bits, bits_stderr, rate, rate_stderr, block_mean_ppl, block_mean_ppl_stderr):
        assert aggregate(items) == aggregate(shuffled)
    with_noise = [(x, u, 0.1 * u) for x, u in items]
    assert mc_se(with_noise) == mc_se([(x, u, 0.1 * u) for x, u in shuffled])


def test_documents_that_differ_by_noise_alone_owe_their_error_to_it() -> None:
    """400 documents, 300 nats each and noise of one nat: the share of the error that is noise is near 1."""
    generator = random.Random(0)
    noisy = [(300 + generator.gauss(0, 1), 100, 1.0) for _ in range(400)]
    apart = [(nats + 30 * (i % 2), units, noise) for i, (nats, units, noise) in enumerate(noisy)]
    for items, low, high in ((noisy, 0.9, 1.1), (apart, 0.0, 0.1)):
        spread = ppl_stderr([(nats, units) for nats, units, _ in items])
        assert isinstance(spread, float)
        assert low < mc_se(items) / spread < high


def test_bits_of_two_documents_by_hand() -> None:
    """Equally long, 20 nats apart: the standard error of their mean is 10 nats in 400 bytes."""
    items = [(300.0, 400), (280.0, 400)]
    assert bits(items) == pytest.approx(580 / 800 / math.log(2))
    assert bits_stderr(items) == pytest.approx(10 / 400 / math.log(2))
