"""Texts with their tokens marked by what they cost: what the sample browser shows, before layout.

Of a text that two models scored, the first model's cost minus the second's, per span between common boundaries; of a
text that one model scored, and of an answer, which only its own model wrote, the cost itself. Both are nats. A
difference is comparable because the text is the same: a document of a perplexity set, or the data set's own answer to a
question. Costs of two models' answers are not set against each other, since the answers differ.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ltm_eval.token_pieces import Pieces, common_spans
from ltm_eval.wording import cut

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.result_records import Sample
    from ltm_eval.scores import Entry
    from ltm_eval.token_pieces import Span
    from ltm_eval.token_record import TokenRecord

DIFFERENCES = (1.0, 2.0, 4.0)
"""Nats from which on a difference has level 1, 2, 3."""
COSTS = (1.0, 3.0, 6.0)
"""Nats from which on a cost has level 1, 2, 3."""
LARGEST = 5
LINE_END = "↵\n"
"""Shows a marked line end, which has no place for a colour."""

Stored = dict[tuple[int, str, str], "TokenRecord"]
"""Records by document, prompt and part."""


@dataclass(frozen=True)
class Run:
    """A stretch of text: a marked span, or all between two of them."""

    text: str
    """Its characters."""
    level: int
    """0 is not marked; 1 to 3 a cost, or a difference in favour of the second model; negative one in favour of the
    first.
    """
    nats: float | None
    """Difference or cost; None where nothing is marked."""


@dataclass(frozen=True)
class LargeSpan:
    """One of the spans with the largest difference, or cost."""

    text: str
    """Its characters."""
    nats: tuple[float, ...]
    """Cost under each model."""
    difference: float | None
    """First minus second; None where there is one model."""


@dataclass(frozen=True)
class TokenSum:
    """What a text cost under one model."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    nats: float
    """Sum over all tokens."""
    kl_nats: float | None
    """KL of the posterior, which is in no token; None without latents."""
    draws: int
    """Draws of z that were averaged."""


@dataclass(frozen=True)
class TokenView:
    """A text with its tokens marked."""

    runs: tuple[Run, ...]
    """The text, as far as a page shows it."""
    rest: str
    """What is said of the part that is not shown; empty where all is."""
    spans: int
    """Spans in the whole text."""
    largest: tuple[LargeSpan, ...]
    """Largest first, of the whole text."""
    sums: tuple[TokenSum, ...]
    """Of one model or two."""

    @property
    def compares(self) -> bool:
        """Whether differences are marked."""
        return len(self.sums) > 1


@dataclass(frozen=True)
class Scored:
    """A model's record of a text."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    record: TokenRecord
    """What was stored."""


def stored(records: Sequence[TokenRecord]) -> Stored:
    """The records of first requests and repeats."""
    return {(one.doc_id, one.prompt_hash, one.part): one for one in records if one.idx == one.repeat == 0}


def scored_part(kept: Mapping[str, Stored], entry: Entry, sample: Sample, part: str) -> Scored | None:
    """What is stored of a run's document; None where that is nothing.

    Args:
        kept: the records by label.
        part: text, answer or target.
    """
    record = kept.get(entry.label, {}).get((sample.doc_id, sample.prompt_hash, part))
    return None if record is None else Scored(entry.label, entry.series, record)


def token_view(text: str, scored: Sequence[Scored]) -> TokenView | None:
    """A text under the first one or two models; None where nothing is stored, or of another text.

    Args:
        text: the whole text.
        scored: its records, the first model's first.
    """
    own = [one for one in scored if sum(one.record.piece_characters) == len(text)][:2]
    if not own or not text:
        return None
    spans = common_spans([Pieces(one.record.piece_characters, one.record.piece_nats) for one in own])
    shown = cut(text)
    length = len(text) if shown == text else _shared_length(text, shown)
    return TokenView(
        runs=tuple(_runs(text, length, spans, DIFFERENCES if len(own) > 1 else COSTS)),
        rest=shown[length:],
        spans=len(spans),
        largest=tuple(_large(text, span) for span in _largest(spans)),
        sums=tuple(
            TokenSum(one.label, one.series, one.record.nats, one.record.kl_nats, one.record.draws) for one in own
        ),
    )


def _shared_length(text: str, shown: str) -> int:
    """How many characters of a text stand in what `cut` made of it."""
    low, high = 0, min(len(text), len(shown))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if shown.startswith(text[:middle]) else (low, middle - 1)
    return low


def _runs(text: str, length: int, spans: Sequence[Span], edges: Sequence[float]) -> list[Run]:
    """The first `length` characters as marked spans and what lies between them."""
    runs: list[Run] = []
    plain = 0
    for span in spans:
        if span.begin >= length:
            break
        level = _level(span.difference_nats, edges)
        if level:
            if span.begin > plain:
                runs.append(Run(text[plain : span.begin], 0, None))
            plain = min(span.end, length)
            runs.append(Run(text[span.begin : plain].replace("\n", LINE_END), level, span.difference_nats))
    return [*runs, Run(text[plain:length], 0, None)] if plain < length else runs


def _level(nats: float, edges: Sequence[float]) -> int:
    level = bisect_right(edges, abs(nats))
    return level if nats > 0 else -level


def level_words(marks: str) -> tuple[str, ...]:
    """What levels 1, 2 and 3 of a difference or a cost stand for, in nats."""
    edges = {"difference": DIFFERENCES, "cost": COSTS}[marks]
    return (*(f"{low:g} to {high:g}" for low, high in pairwise(edges)), f"{edges[-1]:g} or more")


def _largest(spans: Sequence[Span]) -> list[Span]:
    """Those with the largest differences, or costs, earlier ones first among equals."""
    return sorted(spans, key=lambda span: (-abs(span.difference_nats), span.begin))[:LARGEST]


def _large(text: str, span: Span) -> LargeSpan:
    difference = span.difference_nats if len(span.nats) > 1 else None
    return LargeSpan(text[span.begin : span.end].replace("\n", LINE_END[0]), span.nats, difference)


def stored_words(kept: Mapping[str, Stored], labels: Sequence[str], *, scored: bool, marked: int) -> tuple[str, ...]:
    """What a reader must know of documents whose tokens are not marked.

    Args:
        kept: the records by label.
        labels: models that have the task.
        scored: whether texts were scored and not answered.
        marked: documents of the page with marks.
    """
    lacking = [label for label in labels if not kept.get(label)]
    if len(lacking) == len(labels):
        told = "These results hold no NLL per token, so none is marked."
        return (f"{told} ltm-eval run stores it with --token_nll N, of the first N documents; lm-eval’s own does not.",)
    found = []
    if lacking:
        told = "so the cost itself is marked" if scored and len(labels) - len(lacking) == 1 else "so it is left out"
        found.append(f"No NLL per token is stored of {', '.join(lacking)} (--token_nll of its run), {told}.")
    documents = len({doc_id for own in kept.values() for doc_id, _, _ in own})
    found.append(f"It is stored of the first {documents:,} document{'s' if documents != 1 else ''} (--token_nll).")
    if marked < documents:
        found.append(f"For room {marked:,} of them are marked here; report --full marks all.")
    return tuple(found)
