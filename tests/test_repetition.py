from __future__ import annotations

import math
from random import Random

import pytest

from ltm_eval.tasks.mauve import copied_share, distinct_share, facts_of, mean_facts, repeated_share


def test_by_hand() -> None:
    # a b | b a | a b | b a | a b: two different bigrams of five.
    assert repeated_share(["a b a b a b"], 2) == pytest.approx(3 / 5)
    assert repeated_share(["a b a b a b", "one two three"], 2) == pytest.approx(3 / 10)
    assert distinct_share(["a b", "a c"], 1) == pytest.approx(3 / 4)
    assert copied_share(["x", "y", "x", "x"]) == pytest.approx(1 / 2)


def test_texts_too_short_for_an_ngram_are_left_out_and_nothing_is_not_a_number() -> None:
    assert repeated_share(["", "a", "a b a b"], 2) == pytest.approx(1 / 3)
    assert math.isnan(repeated_share(["", "a"], 2)) and math.isnan(distinct_share(["", "a"], 2))


def test_equals_a_naive_count_on_random_texts() -> None:
    random = Random(3)
    texts = [" ".join(random.choices("abc", k=random.randint(4, 12))) for _ in range(30)]
    for n in (1, 2, 3, 4):
        pooled, shares = [], []
        for text in texts:
            words = text.split()
            grams = [" ".join(words[i : i + n]) for i in range(len(words)) if len(words[i : i + n]) == n]
            seen_before = sum(gram in grams[:i] for i, gram in enumerate(grams))
            shares.append(seen_before / len(grams))
            pooled += grams
        assert repeated_share(texts, n) == pytest.approx(sum(shares) / len(shares))
        assert distinct_share(texts, n) == pytest.approx(len(set(pooled)) / len(pooled))


def test_facts_and_their_mean() -> None:
    facts = facts_of(["a b c d", "", "a b"])
    assert (facts.texts, facts.empty, facts.words) == (3, 1, 2.0)
    assert facts.words_sd == pytest.approx(math.sqrt(8 / 3))
    assert facts.distinct["1"] == pytest.approx(4 / 6)
    both = mean_facts([["a b", "a b"], ["c d e f", "c d"]])
    assert (both.texts, both.empty, both.words) == (4, 0, 2.5)
    assert both.distinct["1"] == pytest.approx((2 / 4 + 4 / 6) / 2)  # not 6 / 10: collections are not pooled
