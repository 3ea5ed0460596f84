"""The sample browser: documents with every model's answer.

If a page cannot hold all documents, it has the first ones and, in turn, those that a filter finds: one model right and
another wrong, no answer extracted, the largest differences. The counts are of all documents.
"""

from __future__ import annotations

import html as html_escape
import json
import re
import shlex
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain, pairwise, zip_longest
from types import MappingProxyType
from typing import TYPE_CHECKING

from ltm_eval.results.answers import INVALID, exact_match
from ltm_eval.results.files import ANSWER, TARGET, TEXT
from ltm_eval.results.tokens import Pieces, common_spans
from ltm_eval.system.text import cut, number, percent, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ltm_eval.results.files import LatentRecord, Run, Sample, TokenRecord
    from ltm_eval.results.scores import Entry
    from ltm_eval.results.tokens import Span
    from ltm_eval.results.views import DocumentBits

    Key = tuple[str, int]


# Texts with their tokens marked
#
# A text that two models scored (a document of a perplexity set, or the data set's own answer) shows the first model's
# NLL minus the second's, per span between common boundaries; a text that one model scored, and an answer, shows the NLL
# itself. All in nats. Two models' answers are different texts, so their NLLs are not compared.

DIFFERENCES = (1.0, 2.0, 4.0)  # nats at which levels 1, 2 and 3 of a difference begin
COSTS = (1.0, 3.0, 6.0)  # the same of an NLL
LARGEST = 5
LINE_END = "↵\n"  # shows a marked line end, which is too narrow for a colour

Stored = dict[tuple[int, str, str], "TokenRecord"]  # by document, prompt and part


@dataclass(frozen=True)
class TokenRun:
    """A stretch of text: a marked span, or all between two of them."""

    text: str
    # 0 is not marked; 1 to 3 a cost, or a difference in favour of the second model; negative one in favour of the first
    level: int
    nats: float | None  # difference or cost; None if nothing is marked


@dataclass(frozen=True)
class LargeSpan:
    """One of the spans with the largest difference, or cost."""

    text: str
    nats: tuple[float, ...]
    difference: float | None  # first minus second; None if there is one model


@dataclass(frozen=True)
class TokenSum:
    """What a text cost under one model."""

    label: str
    series: int
    nats: float  # sum over all tokens
    kl_nats: float | None  # KL of the posterior, which is in no token; None without latents
    draws: int


@dataclass(frozen=True)
class TokenView:
    """A text with its tokens marked."""

    runs: tuple[TokenRun, ...]
    rest: str  # what is said of the part that is not shown; empty if all is
    spans: int
    largest: tuple[LargeSpan, ...]
    sums: tuple[TokenSum, ...]

    @property
    def compares(self) -> bool:
        """Whether differences are marked."""
        return len(self.sums) > 1


@dataclass(frozen=True)
class Scored:
    """A model's record of a text."""

    label: str
    series: int  # colour, from 1
    record: TokenRecord


def stored(records: Sequence[TokenRecord]) -> Stored:
    """Return the records of first requests and repeats."""
    return {(one.doc_id, one.prompt_hash, one.part): one for one in records if one.idx == one.repeat == 0}


def scored_part(kept: Mapping[str, Stored], entry: Entry, sample: Sample, part: str) -> Scored | None:
    """Return the stored record of a run's document, if there is one.

    Args:
        kept: the records by label.
        part: text, answer or target.
    """
    record = kept.get(entry.label, {}).get((sample.doc_id, sample.prompt_hash, part))
    return None if record is None else Scored(entry.label, entry.series, record)


def token_view(text: str, scored: Sequence[Scored]) -> TokenView | None:
    """Return a text as the first one or two models scored it; None if no record is of this text.

    Args:
        text: the whole text.
        scored: its records, the first model's first.
    """
    own = [one for one in scored if sum(one.record.piece_characters) == len(text)][:2]
    if not own or not text:
        return None
    spans = common_spans([Pieces(one.record.piece_characters, one.record.piece_nats) for one in own])
    largest = sorted(spans, key=lambda span: (-abs(span.difference_nats), span.begin))[:LARGEST]
    shown = cut(text)
    length = len(text) if shown == text else _shared_length(text, shown)
    return TokenView(
        runs=tuple(_runs(text, length, spans, DIFFERENCES if len(own) > 1 else COSTS)),
        rest=shown[length:],
        spans=len(spans),
        largest=tuple(
            LargeSpan(
                text=text[span.begin : span.end].replace("\n", LINE_END[0]),
                nats=span.nats,
                difference=span.difference_nats if len(span.nats) > 1 else None,
            )
            for span in largest
        ),
        sums=tuple(
            TokenSum(one.label, one.series, one.record.nats, one.record.kl_nats, one.record.draws) for one in own
        ),
    )


def _shared_length(text: str, shown: str) -> int:
    """Return how many characters of a text `cut` kept."""
    low, high = 0, min(len(text), len(shown))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if shown.startswith(text[:middle]) else (low, middle - 1)
    return low


def _runs(text: str, length: int, spans: Sequence[Span], edges: Sequence[float]) -> list[TokenRun]:
    """Return the first `length` characters as marked spans and the text between them."""
    runs: list[TokenRun] = []
    plain = 0
    for span in spans:
        if span.begin >= length:
            break
        level = bisect_right(edges, abs(span.difference_nats))
        if level:
            level = level if span.difference_nats > 0 else -level
            if span.begin > plain:
                runs.append(TokenRun(text[plain : span.begin], 0, None))
            plain = min(span.end, length)
            runs.append(TokenRun(text[span.begin : plain].replace("\n", LINE_END), level, span.difference_nats))
    return [*runs, TokenRun(text[plain:length], 0, None)] if plain < length else runs


def level_words(marks: str) -> tuple[str, ...]:
    """Return the ranges of levels 1, 2 and 3 of a difference or a cost, in nats."""
    edges = {"difference": DIFFERENCES, "cost": COSTS}[marks]
    return (*(f"{low:g} to {high:g}" for low, high in pairwise(edges)), f"{edges[-1]:g} or more")


def stored_words(kept: Mapping[str, Stored], labels: Sequence[str], *, scored: bool, marked: int) -> tuple[str, ...]:
    """Return notes on documents whose tokens are not marked.

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


# Scoring one document again

PLACE = "rerun"  # folder of its results: beside the run's own they would count as newer results of all documents
_VALUE = r"""(?:=|\s+)(?:"[^"]*"|'[^']*'|\S+)"""
_DROPPED = re.compile(rf"\s(?:--(?:limit|documents|tasks?|output[_-]path)|-[Lto])(?:{_VALUE})", re.IGNORECASE)


def rerun_command(run: Run, task: str, doc_id: int | str) -> str:
    """Return the run's own command for one document, lm-eval's for results of others; empty if neither is known."""
    run = run.of(task)
    if run.extra.command:
        kept = _DROPPED.sub("", run.extra.command)
        return f"{kept} --task {task} --documents {doc_id} --output_path {PLACE}"
    arguments = run.config.get("model_args")
    if not run.model_kind or not arguments:
        return ""
    told = arguments if isinstance(arguments, str) else ",".join(f"{key}={value}" for key, value in arguments.items())
    samples = json.dumps({task: [doc_id]}).replace(f'"{doc_id}"', str(doc_id))
    words = ["--model", run.model_kind, "--model_args", told, "--tasks", task, "--samples", samples]
    return f"lm_eval {' '.join(map(shlex.quote, words))} --log_samples --output_path {PLACE}"


# The browser


@dataclass(frozen=True)
class Answer:
    """One model's answer to one document."""

    label: str
    series: int
    responses: tuple[str, ...]
    verdicts: tuple[str, ...]  # right, wrong or empty for each of these
    more: int
    # filter, what it extracted, and right, wrong or empty if the metric is no yes or no
    extracted: tuple[tuple[str, str, str], ...]
    other_prompt: bool
    bits_per_byte: float | None
    bound: bool
    facts: tuple[tuple[str, str], ...]  # what latent inference did, named; empty for other models
    tokens: TokenView | None = None


@dataclass(frozen=True)
class SampleView:
    """One document in the sample browser."""

    doc_id: int
    place: str
    question: str
    demonstrations: tuple[str, ...]
    gold: str
    worked: str  # the worked answer it was taken from; empty if there is none
    answers: tuple[Answer, ...]
    tags: tuple[str, ...]
    gap: float | None  # bits per byte of the first model minus the second's; None for tasks that are answered
    # the scored text, or the data set's answer, with its tokens marked, where their costs are stored
    tokens: TokenView | None = None


@dataclass(frozen=True)
class SampleBrowser:
    """Documents of one task to look through."""

    samples: tuple[SampleView, ...]
    documents: int
    counts: tuple[tuple[str, int], ...]
    shared: tuple[str, ...]
    scored: bool
    command: str  # scores one document again; DOCUMENT stands for its index. Empty if it is not known
    # what marked tokens show (difference, cost), and the nats that the levels stand for, in words
    marks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    marks_notes: tuple[str, ...] = ()


SAMPLES_PER_TASK = 200
RESPONSES_PER_SAMPLE = 4
MARKUP_BYTES = 900  # of a document with one answer, without its text
MARK_BYTES = 45  # of a marked span, without its text
MARKS_BYTES = 1_600  # of the notes on a marked text
TAGS = ("ahead", "behind", "wrong", "failed")


def sample_browser(  # noqa: PLR0913 - a task's runs with all that is known of their documents, and the room there is
    name: str,
    entries: Sequence[Entry],
    records: Mapping[str, Sequence[LatentRecord]],
    *,
    costs: Sequence[DocumentBits] = (),
    kept: Mapping[str, Stored] = MappingProxyType({}),
    budget: int,
    full: bool = False,
) -> SampleBrowser | None:
    """Return the documents of the first run with samples; None without any.

    Args:
        records: the sidecars, by label.
        costs: bits per byte of every document, per run; empty for tasks that are answered.
        kept: NLLs of tokens, by label.
        budget: bytes of the page.
        full: all documents and all answers, however large the page becomes.
    """
    lead = next((entry for entry in entries if entry.samples), None)
    if lead is None:
        return None
    documents = next(iter(lead.samples.values()))
    tags = {key: _tags(key, entries) for key in documents} if not costs else {}
    gaps = _gaps(costs)
    facts = {label: _facts_by_document(own) for label, own in records.items()}
    chosen: dict[Key, SampleView] = {}
    for_marks = budget // 2
    for key in documents if full else _order(list(documents), tags, gaps):
        if len(chosen) == SAMPLES_PER_TASK and not full:
            break
        view = _view(key, documents[key], entries, facts=facts, costs=costs, kept=kept, full=full)
        for_marks -= (marked := _marks_bytes(view))
        if for_marks < 0 and not full:
            answers = tuple(replace(answer, tokens=None) for answer in view.answers)
            view, marked = replace(view, tokens=None, answers=answers), 0
        budget -= _page_bytes(view) + marked
        if budget < 0 and not full:
            break
        chosen[key] = view
    shown = [chosen[key] for key in documents if key in chosen]
    counts = Counter(chain.from_iterable(tags.values()))
    views = [view for one in shown for view in (one.tokens, *(answer.tokens for answer in one.answers)) if view]
    marks = [
        name
        for name, compares in (("difference", True), ("cost", False))
        if compares in {view.compares for view in views}
    ]
    return SampleBrowser(
        samples=tuple(
            replace(chosen[key], place=place, tags=tags.get(key, ()), gap=gaps.get(key))
            for key, place in _places(documents).items()
            if key in chosen
        ),
        documents=len(documents),
        counts=tuple((tag, counts[tag]) for tag in TAGS),
        shared=_shared(shown),
        scored=bool(costs),
        command=rerun_command(lead.run, name, "DOCUMENT"),
        marks=tuple((name, level_words(name)) for name in marks),
        marks_notes=_marks_notes(kept, entries, shown, scored=bool(costs)),
    )


def _marks_notes(
    kept: Mapping[str, Stored], entries: Sequence[Entry], shown: Sequence[SampleView], *, scored: bool
) -> tuple[str, ...]:
    """Return notes on tokens that are not marked; none for tasks that neither score texts nor generate."""
    labels = [entry.label for entry in entries if entry.samples]
    words = any(answer.responses for view in shown for answer in view.answers)
    marked = sum(_marks_bytes(view) > 0 for view in shown)
    return stored_words(kept, labels, scored=scored, marked=marked) if scored or words else ()


def _places(documents: Mapping[Key, Sample]) -> dict[Key, str]:
    """Return each document's index, made unique, for its permalink."""
    seen: Counter[int] = Counter()
    found = {}
    for key, sample in documents.items():
        seen[sample.doc_id] += 1
        found[key] = str(sample.doc_id) if seen[sample.doc_id] == 1 else f"{sample.doc_id}-{seen[sample.doc_id]}"
    return found


def _order(keys: Sequence[Key], tags: Mapping[Key, Sequence[str]], gaps: Mapping[Key, float]) -> list[Key]:
    """Return the documents by priority: half of the room for the first ones, then one of each tag in turn, the rest."""
    queues = [[key for key in keys if tag in tags.get(key, ())] for tag in TAGS]
    queues.append(sorted((key for key in keys if key in gaps), key=lambda key: (-abs(gaps[key]), keys.index(key))))
    turns = [key for turn in zip_longest(*queues) for key in turn if key is not None]
    return list(dict.fromkeys([*keys[: SAMPLES_PER_TASK // 2], *turns, *keys]))


def _gaps(costs: Sequence[DocumentBits]) -> dict[Key, float]:
    """Return bits per byte of the first run minus those of the next run that has the document."""
    if len(costs) < 2:
        return {}
    first, *others = costs
    return {
        key: bits - next(other.bits[key] for other in others if key in other.bits)
        for key, bits in first.bits.items()
        if any(key in other.bits for other in others)
    }


def _tags(key: Key, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return a document's tags, by the first filter's verdicts and whether any filter extracted no answer."""
    own = [[found[key] for found in entry.samples.values() if key in found] for entry in entries]
    marks = [_right(found[0]) for found in own if found]
    tags = []
    if marks and marks[0] == "right" and "wrong" in marks[1:]:
        tags.append("ahead")
    if marks and marks[0] == "wrong" and "right" in marks[1:]:
        tags.append("behind")
    if marks and set(marks) == {"wrong"}:
        tags.append("wrong")
    if any(INVALID in sample.filtered for found in own for sample in found):
        tags.append("failed")
    return tuple(tags)


def _view(  # noqa: PLR0913 - a document and what is known of it
    key: Key,
    sample: Sample,
    entries: Sequence[Entry],
    *,
    facts: Mapping[str, Mapping[int, tuple[tuple[str, str], ...]]],
    costs: Sequence[DocumentBits],
    kept: Mapping[str, Stored],
    full: bool,
) -> SampleView:
    from ltm_eval.tasks.prompts import split_prompt

    prompt = split_prompt(sample.prompt) if not costs else None
    worked, mark, figure = sample.target.rpartition("####")
    answers = [_answer(key, entry, shown=sample.prompt_hash, facts=facts, kept=kept, full=full) for entry in entries]
    if costs:
        answers = [_scored(key, entry, costs, facts=facts) for entry in entries]
    return SampleView(
        doc_id=sample.doc_id,
        place="",
        question=cut(prompt.question if prompt else sample.prompt or sample.target),
        demonstrations=tuple(map(cut, prompt.demonstrations)) if prompt else (),
        gold="" if costs else cut(figure.strip() if mark else sample.target),
        worked=cut(sample.target) if mark and worked.strip() and not costs else "",
        answers=tuple(answer for answer in answers if answer is not None),
        tags=(),
        gap=None,
        tokens=_marked_text(key, sample, entries, kept, part=TEXT if costs else TARGET),
    )


def _marked_text(
    key: Key, sample: Sample, entries: Sequence[Entry], kept: Mapping[str, Stored], *, part: str
) -> TokenView | None:
    """Return the scored text, or the data set's answer to this prompt, marked by the models' records."""
    found = []
    for entry in entries:
        own = next((of_filter[key] for of_filter in entry.samples.values() if key in of_filter), None)
        if own is not None and (own.prompt, own.target) == (sample.prompt, sample.target):
            found.append(scored_part(kept, entry, own, part))
    text = sample.prompt if part == TEXT else sample.target
    return token_view(text, [one for one in found if one is not None])


def _answer(  # noqa: PLR0913 - a document of a run and what is known of it
    key: Key,
    entry: Entry,
    *,
    shown: str,
    facts: Mapping[str, Mapping[int, tuple[tuple[str, str], ...]]],
    kept: Mapping[str, Stored],
    full: bool,
) -> Answer | None:
    of_filters = {name: found[key] for name, found in entry.samples.items() if key in found}
    if not of_filters:
        return None
    first = next(iter(of_filters.values()))
    most = len(first.responses) if full else RESPONSES_PER_SAMPLE
    scored = scored_part(kept, entry, first, ANSWER)
    return Answer(
        label=entry.label,
        series=entry.series,
        responses=tuple(map(cut, first.responses[:most])),
        verdicts=_verdicts(first, of_filters.values())[:most],
        more=max(len(first.responses) - most, 0),
        extracted=tuple((name, cut(", ".join(one.filtered)), _right(one)) for name, one in of_filters.items()),
        other_prompt=first.prompt_hash != shown,
        bits_per_byte=None,
        bound=False,
        facts=facts.get(entry.label, {}).get(first.doc_id, ()),
        tokens=token_view(first.responses[0], [scored]) if scored is not None and first.responses else None,
    )


def _scored(
    key: Key,
    entry: Entry,
    costs: Sequence[DocumentBits],
    *,
    facts: Mapping[str, Mapping[int, tuple[tuple[str, str], ...]]],
) -> Answer | None:
    own = next((cost for cost in costs if cost.label == entry.label and key in cost.bits), None)
    if own is None:
        return None
    doc_id = next(found[key].doc_id for found in entry.samples.values() if key in found)
    return Answer(
        label=entry.label,
        series=entry.series,
        responses=(),
        verdicts=(),
        more=0,
        extracted=(),
        other_prompt=False,
        bits_per_byte=own.bits[key],
        bound=own.bound,
        facts=facts.get(entry.label, {}).get(doc_id, ()),
    )


def _verdicts(first: Sample, samples: Iterable[Sample]) -> tuple[str, ...]:
    """Return right or wrong for each answer, by the first filter that extracts one per answer; else empty texts."""
    for sample in samples:
        if len(sample.filtered) == len(first.responses) > 1:
            return tuple("right" if exact_match(text, sample.target) else "wrong" for text in sample.filtered)
    return tuple("" for _ in first.responses)


def _facts_by_document(records: Sequence[LatentRecord]) -> dict[int, tuple[tuple[str, str], ...]]:
    """Return facts of latent inference for each document, from its first request and repeat."""
    found: dict[int, tuple[tuple[str, str], ...]] = {}
    for record in records:
        if record.idx == record.repeat == 0:
            found.setdefault(record.doc_id, tuple(_facts(record)))
    return found


def _facts(record: LatentRecord) -> Iterable[tuple[str, str]]:
    settings = cut(f"{record.condition}, {record.preset}")
    yield "z", f"{settings}, {record.t_fast:,} fast steps on {record.fitted_tokens:,} tokens"
    if record.kl_nats is not None:
        yield "KL", f"{number(record.kl_nats)} nats"
    if record.nll_nats is not None:
        yield "NLL given z", f"{number(record.nll_nats)} nats of the fitted text"
    if record.share_at_prior is not None:
        yield "dimensions at the prior", f"{percent(record.share_at_prior)} %"
    if record.demonstrations:
        read, fitted = record.demonstrations_read, record.demonstrations_fitted
        yield "demonstrations", f"{record.demonstrations} in the prompt, {read} read, {fitted} fitted"
    if record.stop_reason:
        yield "generation", f"{record.new_tokens:,} tokens, ended by {record.stop_reason}"


def _right(sample: Sample) -> str:
    """Return right or wrong by the first metric, empty if its value is neither 1 nor 0."""
    value = next(iter(sample.metrics.values()), None)
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return "right" if value == 1 else "wrong"
    return ""


def _shared(views: Sequence[SampleView]) -> tuple[str, ...]:
    """Return the demonstrations that most documents share, to be shown once; none if they differ."""
    sets = Counter(view.demonstrations for view in views if view.demonstrations)
    usual = sets.most_common(1)
    return usual[0][0] if usual and usual[0][1] > 1 else ()


def _page_bytes(view: SampleView) -> int:
    """Estimate a document's size on the page: its escaped text and the mark-up around it."""
    texts = [view.question, view.gold, view.worked, *view.demonstrations]
    for answer in view.answers:
        texts += [answer.label, *answer.responses, *(part for row in answer.extracted for part in row)]
        texts += [part for fact in answer.facts for part in fact]
    text_bytes = sum(len(html_escape.escape(visible(text)).encode("utf-8", "replace")) + 60 for text in texts)
    return text_bytes + MARKUP_BYTES * len(view.answers)


def _marks_bytes(view: SampleView) -> int:
    """Estimate the size of a document's marks on the page."""
    views = [one for one in (view.tokens, *(answer.tokens for answer in view.answers)) if one is not None]
    return sum(MARKS_BYTES + MARK_BYTES * sum(run.level != 0 for run in one.runs) for one in views)
