"""Reference rows: codes whose shares sum to one, and which learn nothing from what they have yet to score."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm_eval.model.tokenizer import END_OF_TEXT, Tokenizer
from ltm_eval.results.files import Floor
from ltm_eval.system.errors import ResultsError, UsageError
from ltm_eval.tasks.perplexity import floors_of, uniform_nats, unigram_nats

if TYPE_CHECKING:
    pass


def rows(texts: list[str]) -> list[dict[str, Any]]:
    return [
        {"text": text, "n_words": len(text.split()), "n_bytes": len(text.encode()), "index": i}
        for i, text in enumerate(texts)
    ]


def test_uniform_costs_the_logarithm_of_the_vocabulary() -> None:
    assert uniform_nats([[1, 1, 2], [], [3]], 16) == pytest.approx([3 * math.log(16), 0, math.log(16)])
    with pytest.raises(UsageError, match="at least 1 token"):
        uniform_nats([[0]], 0)


def test_unigram_by_hand() -> None:
    """Tokens 0 0 1 | 0 of a vocabulary of 4: shares 1/4, (1 + 1/4)/2, (1/4)/3, (2 + 2/4)/5."""
    expected = [-math.log(1 / 4) - math.log(1.25 / 2) - math.log(0.25 / 3), -math.log(2.5 / 5)]
    assert unigram_nats([[0, 0, 1], [0]], 4) == pytest.approx(expected)


@pytest.mark.parametrize("length", [1, 2, 4])
def test_unigram_is_a_code_whose_shares_sum_to_one(length: int) -> None:
    """Over all texts of one length, in one document or cut in two."""
    for cut in (0, length // 2):
        texts = [[list(text[:cut]), list(text[cut:])] for text in product(range(3), repeat=length)]
        assert math.fsum(math.exp(-math.fsum(unigram_nats(text, 3))) for text in texts) == pytest.approx(1)


@given(st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=2, max_size=5))
def test_unigram_never_looks_ahead(documents: list[list[int]]) -> None:
    whole = unigram_nats(documents, 7)
    assert unigram_nats(documents[:-1], 7) == whole[:-1]
    assert unigram_nats([*documents[:-1], [6, 6, 6]], 7)[:-1] == whole[:-1]


def test_unigram_learns_the_shares_of_tokens() -> None:
    """20,000 draws from known shares cost their entropy a token; a learner's surplus over 50 types stays below 3 %."""
    stream = random.Random(0)
    weights = [1 / (i + 1) for i in range(50)]
    shares = [weight / sum(weights) for weight in weights]
    entropy = -sum(share * math.log(share) for share in shares)
    ids = stream.choices(range(50), weights, k=20_000)
    cost = math.fsum(unigram_nats([ids], 50_257)) / 20_000
    counts = [ids.count(token) / 20_000 for token in range(50)]
    assert cost > -sum(share * math.log(share) for share in counts if share)  # in hindsight is never dearer
    assert cost == pytest.approx(entropy, rel=0.03)


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="token 4 is outside"):
        unigram_nats([[0, 4]], 4)


def test_rows_of_a_set_in_every_unit(tokenizer: Tokenizer) -> None:
    documents = rows(["one two", "é three"])
    uniform, unigram = floors_of(documents, tokenizer)
    assert (uniform.name, unigram.name, uniform.tokenizer) == ("uniform", "unigram", tokenizer.name)
    assert (uniform.documents, uniform.tokens, uniform.words, uniform.bytes) == (2, 15, 4, 15)
    nats = 15 * math.log(257)  # 256 bytes and end-of-text
    assert uniform.nats == pytest.approx(nats)
    for metric, expected in (
        ("ppl_per_token", 257.0),
        ("ppl_per_word", math.exp(nats / 4)),
        ("ppl_per_byte", 257.0),
        ("bits_per_byte", math.log2(257)),
    ):
        assert uniform.figures[metric] == pytest.approx(expected)
    assert uniform.figures["ppl_per_token_stderr"] == pytest.approx(0, abs=1e-9)
    own = [[*text.encode()] for text in ("one two", "é three")]
    assert unigram.nats == pytest.approx(math.fsum(unigram_nats(own, 257)))
    assert unigram.figures["bits_per_byte_stderr"]


def test_a_closing_end_of_text_is_one_token_and_no_byte(tokenizer: Tokenizer) -> None:
    documents = [{**row, "text": row["text"] + END_OF_TEXT} for row in rows(["one", "two"])]
    uniform = floors_of(documents, tokenizer)[0]
    assert (uniform.tokens, uniform.bytes) == (8, 6)


def test_rows_do_not_depend_on_the_order_the_documents_come_in(tokenizer: Tokenizer) -> None:
    documents = rows([f"text {i} " * (i % 3 + 1) for i in range(9)])
    assert floors_of(documents[::-1], tokenizer) == floors_of(documents, tokenizer)


def test_what_is_no_perplexity_set_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="n_words is missing"):
        floors_of([{"text": "a", "n_bytes": 1, "index": 0}], tokenizer)


def test_json_both_ways(tokenizer: Tokenizer) -> None:
    for floor in floors_of(rows(["only one"]), tokenizer):
        written = json.loads(json.dumps(asdict(floor)))
        assert written["figures"]["ppl_per_token_stderr"] is None  # a single document tells no spread
        assert Floor.from_json(written, where="x") == floor
    with pytest.raises(ResultsError, match="x: field nats is missing"):
        Floor.from_json({key: value for key, value in written.items() if key != "nats"}, where="x")
