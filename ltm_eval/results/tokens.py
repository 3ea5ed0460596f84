"""Tokens as pieces of a text, and two tokenisations of one text set beside each other.

A token is bytes and may end inside a character; a piece never does: tokens that share a character are one piece, whose
NLL, their cost, is the sum. Two models cut a text at different places. Only between places where both have a boundary
can their costs be compared: those stretches are the spans.
"""

from __future__ import annotations

import codecs
import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Pieces:
    """A text cut into pieces."""

    characters: tuple[int, ...]  # length of each, in code points
    nats: tuple[float, ...]  # NLL of each

    def first(self, length: int) -> Pieces:
        """Return the pieces of the first `length` characters; one that reaches further is cut and keeps its cost."""
        characters, nats, left = [], [], length
        for own, cost in zip(self.characters, self.nats, strict=True):
            if own > left == 0:
                break
            characters.append(min(own, left))
            nats.append(cost)
            if own > left:
                break
            left -= own
        return Pieces(tuple(characters), tuple(nats))

    def after(self, length: int) -> Pieces:
        """Return the pieces after the first `length` characters; what ends there leaves its cost to the next piece."""
        characters: list[int] = []
        nats: list[float] = []
        left, owed = length, 0.0
        for own, cost in zip(self.characters, self.nats, strict=True):
            if own <= left and left:
                left, owed = left - own, owed + cost
                continue
            characters.append(own - left)
            nats.append(cost + owed)
            left, owed = 0, 0.0
        return Pieces(tuple(characters), tuple(nats))


def pieces_of_bytes(tokens: Sequence[bytes], nats: Sequence[float]) -> Pieces:
    """Return the pieces of the text that the tokens' bytes decode to; what is no UTF-8 becomes U+FFFD.

    Args:
        tokens: each one's bytes; empty for one without text.
        nats: what each costs.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    characters: list[int] = []
    costs: list[float] = []
    open_piece = False
    for place, (token, cost) in enumerate(zip(tokens, nats, strict=True)):
        length = len(decoder.decode(token, final=place == len(tokens) - 1))
        if open_piece:
            characters[-1] += length
            costs[-1] += cost
        else:
            characters.append(length)
            costs.append(cost)
        open_piece = bool(decoder.getstate()[0])
    return Pieces(tuple(characters), tuple(costs))


def pieces_of_offsets(offsets: Sequence[tuple[int, int]], nats: Sequence[float], *, length: int) -> Pieces | None:
    """Return the pieces of a text of `length` characters whose tokens begin and end at offsets; None if those go back.

    What lies between two tokens (a space that the tokenizer leaves out of both) belongs to the one that follows.
    """
    characters: list[int] = []
    costs: list[float] = []
    at = 0
    for (begin, end), cost in zip(offsets, nats, strict=True):
        if end > length or begin > end or (end < at and end != begin):
            return None
        if begin < at and end > begin and characters:  # shares a character with what comes before
            characters[-1] += max(end - at, 0)
            costs[-1] += cost
        else:
            characters.append(max(end - at, 0))
            costs.append(cost)
        at = max(at, end)
    if not characters:
        return None if length else Pieces((), ())
    characters[-1] += length - at
    return Pieces(tuple(characters), tuple(costs))


@dataclass(frozen=True)
class Span:
    """A stretch of a text between two places where every tokenisation has a boundary."""

    begin: int  # first character
    end: int  # where the next span begins
    nats: tuple[float, ...]  # NLL under each model

    @property
    def difference_nats(self) -> float:
        """Return the first model's NLL minus the second's; the NLL itself if there is one model."""
        return self.nats[0] - self.nats[1] if len(self.nats) > 1 else self.nats[0]


def common_spans(pieces: Sequence[Pieces]) -> tuple[Span, ...]:
    """Return the smallest spans at whose ends all tokenisations of one text have a boundary, in order.

    The costs of all spans add up to those of all pieces: a piece without characters belongs to the span that ends
    where it stands, at the beginning to the first one.

    Raises:
        ValueError: the tokenisations are of texts of different lengths.
    """
    ends = [list(accumulate(own.characters)) for own in pieces]
    lengths = {own[-1] if own else 0 for own in ends}
    if len(lengths) != 1:
        raise ValueError(f"pieces of one text, not of texts of {sorted(lengths)} characters")
    shared = sorted(set.intersection(*map(set, ends)) - {0})
    columns = [_costs_between(own, cuts, shared) for own, cuts in zip(pieces, ends, strict=True)]
    begins = [0, *shared][:-1]
    return tuple(
        Span(begin, end, tuple(column[place] for column in columns))
        for place, (begin, end) in enumerate(zip(begins, shared, strict=True))
    )


def _costs_between(own: Pieces, ends: Sequence[int], shared: Sequence[int]) -> list[float]:
    """Return the NLL of the pieces that end in each stretch between two shared boundaries."""
    parts: list[list[float]] = [[] for _ in shared]
    place = 0
    for end, cost in zip(ends, own.nats, strict=True):
        while place < len(shared) - 1 and end > shared[place]:
            place += 1
        if parts:
            parts[place].append(cost)
    return [math.fsum(part) for part in parts]
