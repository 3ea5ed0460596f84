"""Several samples per question: what is asked, and figures compared with counting."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_eval.results.answers import INVALID
from ltm_eval.results.statistics import EFFECTIVE, interval_of
from ltm_eval.system.errors import UsageError
from ltm_eval.tasks.samples import (
    Repeats,
    Rethinking,
    content_free,
    greedy_options,
    keeping_all,
    majority,
    refuse_greedy,
    repeats_of,
    rethinking_of,
    sampled_options,
    summary,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(right: list[bool]) -> None:
    """The definition, counted over all subsets of k of the n samples."""
    n = len(right)
    found = Repeats(n, tuple(range(1, n + 1))).scores(["x"] * n, right)
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(right, k))
        assert found[f"pass@{k}"] == pytest.approx(fmean(any(chosen) for chosen in subsets), abs=1e-12)


def test_a_random_table_of_questions_equals_brute_force() -> None:
    source = random.Random(3)
    table = [[source.random() < source.random() for _ in range(10)] for _ in range(40)]
    asked = Repeats(10, (1, 5, 10))
    rows = [asked.scores([str(int(one)) for one in row], row) for row in table]
    for k in asked.k:
        subsets = list(itertools.combinations(range(10), k))
        brute = fmean(fmean(any(row[i] for i in chosen) for chosen in subsets) for row in table)
        assert fmean(row[f"pass@{k}"] for row in rows) == pytest.approx(brute, abs=1e-12)
    votes = [Counter(row).most_common() for row in table]
    clear = [i for i, vote in enumerate(votes) if len(vote) < 2 or vote[0][1] > vote[1][1]]
    assert len(clear) > 20
    assert all(rows[i]["maj@10"] == float(votes[i][0][0]) for i in clear)


def test_majority_breaks_ties_by_the_first_and_ignores_what_is_no_answer() -> None:
    assert majority([INVALID, INVALID, INVALID, "7"]) == 3
    assert majority(["3", "4", "4", "3"]) == 0
    assert majority(["5", "$1,000", "1000", "1000."]) == 1
    assert majority([INVALID, INVALID]) is None
    assert Repeats(2, (1,)).scores([INVALID, INVALID], [False, False]) == {"pass@1": 0.0, "maj@2": 0.0}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, None),
        ({"n": 1}, None),
        ({"n": 10}, Repeats(10, (1, 5, 10))),
        ({"n": 7}, Repeats(7, (1, 5))),
        ({"n": "20", "k": "20+1"}, Repeats(20, (1, 20))),
        ({"k": [5, 1, 5]}, Repeats(5, (1, 5))),
        ({"n": 4.0, "k": 2}, Repeats(4, (2,))),
    ],
)
def test_what_a_task_is_told(metadata: dict[str, Any], expected: Repeats | None) -> None:
    assert repeats_of(metadata) == expected


@pytest.mark.parametrize("metadata", [{"n": 0}, {"n": "ten"}, {"n": 4, "k": "5"}, {"n": 2.5}, {"n": True}, {"k": []}])
def test_impossible_numbers_are_named(metadata: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"n must|k must|needs at least"):
        repeats_of(metadata)


def test_options_of_greedy_and_sampled_requests() -> None:
    task = {"until": ["\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 8}
    sampled = sampled_options(task)
    assert sampled == {**task, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert sampled_options({**task, "temperature": 0.7, "top_p": 0.9})["temperature"] == 0.7
    assert greedy_options({**sampled, "top_p": 0.9, "top_k": 4}) == task


@pytest.mark.parametrize("changes", [{"do_sample": False}, {"temperature": 0}, {"temperature": 0.0, "top_p": 0.9}])
def test_greedy_samples_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="all be equal"):
        refuse_greedy(changes)


def test_options_that_sample_are_not_refused() -> None:
    for changes in ({}, {"do_sample": True}, {"temperature": 0.5}, {"max_gen_toks": 3}):
        refuse_greedy(changes)


def test_filters_keep_every_answer() -> None:
    first = {"function": "take_first"}
    regex = {"function": "regex", "regex_pattern": "x"}
    assert keeping_all([{"name": "a", "filter": [regex, first]}]) == [{"name": "a", "filter": [regex]}]
    assert keeping_all(None) == [{"name": "none", "filter": []}]


def test_interval_over_questions() -> None:
    binary = interval_of([1.0] * 30 + [0.0] * 70)
    assert (binary["value"], binary["n"], binary["kind"]) == (0.3, 100, "Wilson")
    assert (binary["low"], binary["high"]) == pytest.approx(
        (0.2189, 0.3958), abs=1e-4
    )  # statsmodels proportion_confint
    shares = [i % 11 / 10 for i in range(200)]
    found = interval_of(shares)
    sd = math.sqrt(fmean((x - fmean(shares)) ** 2 for x in shares))
    assert found["kind"] == EFFECTIVE
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * sd / math.sqrt(200), rel=0.05)


def test_content_free_row_of_a_training_file() -> None:
    training = [f"so\n#### {n}" for n in [4, 4, 4, 6, 6, 10, 10, 5, 20, 7]] + ["no number"]
    golds = [f"#### {n}" for n in [4, 6, 7, 99]]
    found = content_free(training, golds, k=(1, 2, 5))
    assert found["answers"] == ["4", "6", "10", "5", "20"] and found["training_answers"] == 10
    assert [found[f"pass@{k}"]["value"] for k in (1, 2, 5)] == [0.25, 0.5, 0.5]
    assert content_free(["none"], golds) == {}


def test_content_free_row_of_gsm8k(data_dir: Any) -> None:
    """Always answering 4, 6, 10, 5, 20 scores 12.81 % pass@5 on the published files."""
    from ltm_eval.data.sets import GSM8K
    from ltm_eval.data.sources import load

    splits = load(GSM8K, ("train", "test"), data=data_dir)
    answers = {name: [row["answer"] for row in split.rows] for name, split in splits.items()}
    found = content_free(answers["train"], answers["test"], k=(1, 5, 10))
    assert found["answers"] == ["4", "6", "10", "5", "20"]
    assert [round(100 * found[f"pass@{k}"]["value"], 2) for k in (1, 5, 10)] == [2.65, 12.81, 24.41]


def test_summary_counts_answers_and_gives_intervals() -> None:
    rows = [
        {
            "filter": "strict",
            "metrics": ["exact_match", "pass@1"],
            "exact_match": float(i % 2),
            "pass@1": i / 4,
            "filtered_resps": [["1"], ["2", INVALID, "3"]],
        }
        for i in range(4)
    ]
    found = summary(rows)
    assert found["exact_match,strict"]["value"] == 0.5
    assert found["pass@1,strict"]["kind"] == EFFECTIVE
    assert (found["answers"], found["without_answer"]) == ({"strict": 16}, {"strict": 4})


def test_rethinking_scores_by_the_place_of_an_answer() -> None:
    asked = rethinking_of({"rethink": "3"})
    assert asked == Rethinking(3) and asked.answers == 8
    #            best  1    2    3     best  1    2    3
    extracted = ["2", "9", "2", "9", "5", "5", "6", "2"]
    right = [text == "2" for text in extracted]
    assert asked.scores(extracted, right) == {
        "rethink_best": 1.0,
        "rethink_last": 0.0,
        "rethink_maj": 0.0,
        "rethink_oracle": 1.0,
        "independent_best": 0.0,
        "independent_maj": 0.0,
        "independent_oracle": 1.0,
    }
    assert rethinking_of({}) is None and rethinking_of({"rethink": 0}) is None
    with pytest.raises(UsageError):
        asked.scores(extracted[1:], right[1:])
