"""How long and how repetitive texts are, over words (what stands between white space); averaged text by text.

A MAUVE without these is easily misread: short or looping texts can score high.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DISTINCT = (1, 2, 3)
REPEATED = (2, 3, 4)


@dataclass(frozen=True)
class TextFacts:
    """Of a collection of texts."""

    texts: int
    """How many."""
    empty: int
    """Of these, without a word."""
    words: float
    """Mean number of words."""
    words_sd: float
    """Standard deviation of that number over texts."""
    distinct: dict[str, float]
    """n to distinct-n: different n-grams over n-grams of all texts together (arXiv:1510.03055)."""
    repeated: dict[str, float]
    """n to rep-n: share of a text's n-grams that occurred in it before, mean over texts (arXiv:1908.04319)."""


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct_share(texts: Sequence[str], n: int) -> float:
    """Different n-grams over n-grams, all texts pooled; not a number where there is none."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        counts.update(ngrams(text.split(), n))
    return len(counts) / counts.total() if counts else math.nan


def repeated_share(texts: Sequence[str], n: int) -> float:
    """1 - different n-grams over n-grams of one text, mean over those that have one; else not a number."""
    grams = [found for text in texts if (found := ngrams(text.split(), n))]
    return fmean(1 - len(set(found)) / len(found) for found in grams) if grams else math.nan


def copied_share(texts: Sequence[str]) -> float:
    """Share of at least one texts that equal another one before them."""
    return 1 - len(set(texts)) / len(texts)


def facts_of(texts: Sequence[str]) -> TextFacts:
    """Length and repetition of at least one text."""
    lengths = [len(text.split()) for text in texts]
    mean = fmean(lengths)
    return TextFacts(
        texts=len(texts),
        empty=sum(length == 0 for length in lengths),
        words=mean,
        words_sd=math.sqrt(fmean((length - mean) ** 2 for length in lengths)),
        distinct={str(n): distinct_share(texts, n) for n in DISTINCT},
        repeated={str(n): repeated_share(texts, n) for n in REPEATED},
    )


def mean_facts(collections: Sequence[Sequence[str]]) -> TextFacts:
    """Facts of each collection, averaged; `texts` and `empty` are sums.

    distinct-n falls as texts are added, so texts are compared in collections of equal size.
    """
    found = [facts_of(texts) for texts in collections]
    return TextFacts(
        texts=sum(one.texts for one in found),
        empty=sum(one.empty for one in found),
        words=fmean(one.words for one in found),
        words_sd=fmean(one.words_sd for one in found),
        distinct={str(n): fmean(one.distinct[str(n)] for one in found) for n in DISTINCT},
        repeated={str(n): fmean(one.repeated[str(n)] for one in found) for n in REPEATED},
    )
