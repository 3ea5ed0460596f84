"""Tokens as pieces of a text, and two tokenisations of one text: nothing lost, no boundary inside a character."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_eval.results.tokens import Pieces, Span, common_spans, pieces_of_bytes, pieces_of_offsets

TEXTS = st.text(st.sampled_from("aé€𝄞 \n語\u0301\u200d👩"), min_size=1, max_size=24)
COSTS = st.floats(0, 40, allow_nan=False)


@st.composite
def tokenised(draw: st.DrawFn, text: str) -> tuple[list[bytes], list[float]]:
    """The bytes of a text cut anywhere, also inside characters and into nothing, each part with a cost."""
    data = text.encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return parts, draw(st.lists(COSTS, min_size=len(parts), max_size=len(parts)))


def boundaries_of(tokens: list[bytes]) -> set[int]:
    """Where tokens end that do not end inside a character, in characters: the plain definition."""
    data, found = b"".join(tokens), set()
    for end in accumulate(map(len, tokens)):
        if end == len(data) or data[end] & 0xC0 != 0x80:
            found.add(len(data[:end].decode()))
    return found


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_spans_lie_at_every_common_boundary_and_nowhere_else(data: st.DataObject) -> None:
    text = data.draw(TEXTS)
    cut = [data.draw(tokenised(text)) for _ in range(2)]
    pieces = [pieces_of_bytes(tokens, nats) for tokens, nats in cut]
    assert [sum(own.characters) for own in pieces] == [len(text)] * 2
    spans = common_spans(pieces)
    assert "".join(text[span.begin : span.end] for span in spans) == text
    assert {span.end for span in spans} == (boundaries_of(cut[0][0]) & boundaries_of(cut[1][0])) - {0}
    for model in range(2):
        found = math.fsum(span.nats[model] for span in spans)
        assert found == pytest.approx(math.fsum(cut[model][1]), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_text_against_itself_differs_nowhere(data: st.DataObject) -> None:
    text = data.draw(TEXTS)
    tokens, nats = data.draw(tokenised(text))
    own = pieces_of_bytes(tokens, nats)
    assert all(span.difference_nats == 0 for span in common_spans([own, own]))
    ends = set(accumulate(own.characters))
    assert {span.end for span in common_spans([own])} == ends - {0}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=5), min_size=1, max_size=8))
def test_bytes_that_are_no_text_have_the_characters_of_their_decoding(tokens: list[bytes]) -> None:
    pieces = pieces_of_bytes(tokens, [1.0] * len(tokens))
    assert sum(pieces.characters) == len(b"".join(tokens).decode("utf-8", "replace"))
    assert math.fsum(pieces.nats) == len(tokens)


def test_tokens_that_share_a_character_are_one_piece() -> None:
    euro = "€".encode()
    assert pieces_of_bytes([b"a" + euro[:1], euro[1:] + b"b", b"c"], [1.0, 2.0, 4.0]) == Pieces((3, 1), (3.0, 4.0))
    assert pieces_of_bytes([b"", b"ab", b""], [1.0, 2.0, 4.0]) == Pieces((0, 2, 0), (1.0, 2.0, 4.0))
    assert pieces_of_bytes([b"a", euro[:2]], [1.0, 2.0]) == Pieces((1, 1), (1.0, 2.0))


def test_tokens_without_text_belong_to_the_span_where_they_stand() -> None:
    ours = Pieces((0, 2, 0, 3, 0), (1.0, 2.0, 4.0, 8.0, 16.0))
    theirs = Pieces((1, 1, 3), (1.0, 1.0, 1.0))
    assert common_spans([ours, theirs]) == (Span(0, 2, (7.0, 2.0)), Span(2, 5, (24.0, 1.0)))
    assert common_spans([Pieces((), ())]) == ()
    with pytest.raises(ValueError, match="texts of"):
        common_spans([ours, Pieces((4,), (1.0,))])


def test_pieces_from_offsets() -> None:
    """GPT-2's fast tokenizer gives both halves of a character its whole place; others leave spaces out."""
    assert pieces_of_offsets([(0, 1), (1, 2), (1, 2), (2, 3)], [1, 2, 4, 8], length=3) == Pieces((1, 1, 1), (1, 6, 8))
    assert pieces_of_offsets([(0, 0), (0, 3), (4, 7)], [1, 2, 4], length=8) == Pieces((0, 3, 5), (1, 2, 4))
    assert pieces_of_offsets([(3, 5), (0, 2)], [1, 2], length=5) is None
    assert pieces_of_offsets([(0, 9)], [1], length=5) is None


def test_pieces_of_the_beginning() -> None:
    whole = Pieces((2, 0, 3, 0), (1.0, 2.0, 4.0, 8.0))
    assert whole.first(5) == whole
    assert whole.first(4) == Pieces((2, 0, 2), (1.0, 2.0, 4.0))
    assert whole.first(2) == Pieces((2, 0), (1.0, 2.0))
    assert whole.first(1) == Pieces((1,), (1.0,))
    assert whole.first(0) == Pieces((), ())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 9)), min_size=1, max_size=8), st.integers(0, 12))
def test_pieces_after_a_beginning_keep_its_cost(drawn: list[tuple[int, float]], length: int) -> None:
    whole = Pieces(tuple(own for own, _ in drawn), tuple(cost for _, cost in drawn))
    rest = whole.after(length)
    assert sum(rest.characters) == max(0, sum(whole.characters) - length)
    if sum(whole.characters) > length:
        assert math.fsum(rest.nats) == pytest.approx(math.fsum(whole.nats))
    assert whole.after(0) == whole
    assert Pieces((1, 4), (2.0, 3.0)).after(1) == Pieces((4,), (5.0,))
    assert Pieces((4, 1), (2.0, 3.0)).after(1) == Pieces((3, 1), (2.0, 3.0))
