"""The sample browser: documents with every model's answer, as many as there is room for, and what one may look for.

Of more documents than a page holds, those are kept that a filter can find (one model right and another wrong, no answer
extracted, the largest differences), in turn, beside the first ones; the counts speak of all documents.
"""

from __future__ import annotations

import html as html_escape
from collections import Counter
from dataclasses import replace
from itertools import chain, zip_longest
from types import MappingProxyType
from typing import TYPE_CHECKING

from ltm_eval.answers import INVALID, exact_match
from ltm_eval.page import Answer, SampleBrowser, SampleView
from ltm_eval.rerun import rerun_command
from ltm_eval.token_record import ANSWER, TARGET, TEXT
from ltm_eval.token_views import level_words, scored_part, stored_words, token_view
from ltm_eval.wording import cut, number, percent, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ltm_eval.latent_record import LatentRecord
    from ltm_eval.ppl_tables import DocumentCosts
    from ltm_eval.result_records import Sample
    from ltm_eval.scores import Entry
    from ltm_eval.token_views import Stored, TokenView

    Key = tuple[str, int]

SAMPLES_PER_TASK = 200
RESPONSES_PER_SAMPLE = 4
MARKUP_BYTES = 900
"""Of one document with one answer, beside its text."""
MARK_BYTES = 45
"""Of one marked span, beside its text."""
MARKS_BYTES = 1_600
"""Of what is said beside a marked text."""
TAGS = ("ahead", "behind", "wrong", "failed")


def sample_browser(  # noqa: PLR0913 - a task's runs with all that is known of their documents, and the room there is
    name: str,
    entries: Sequence[Entry],
    records: Mapping[str, Sequence[LatentRecord]],
    *,
    costs: Sequence[DocumentCosts] = (),
    kept: Mapping[str, Stored] = MappingProxyType({}),
    budget: int,
    full: bool = False,
) -> SampleBrowser | None:
    """The documents of the first run with samples; None where there are none.

    Args:
        records: the sidecars, by label.
        costs: bits per byte of every document, per run; empty for tasks that are answered.
        kept: what tokens cost, by label.
        budget: bytes of the page.
        full: all documents and all answers, whatever they take.
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
            view, marked = _unmarked(view), 0
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
    """What is said of tokens that are not marked; nothing for tasks that neither score texts nor generate."""
    labels = [entry.label for entry in entries if entry.samples]
    words = any(answer.responses for view in shown for answer in view.answers)
    marked = sum(_marks_bytes(view) > 0 for view in shown)
    return stored_words(kept, labels, scored=scored, marked=marked) if scored or words else ()


def _unmarked(view: SampleView) -> SampleView:
    """The same without marks, where there is no room for more."""
    return replace(view, tokens=None, answers=tuple(replace(answer, tokens=None) for answer in view.answers))


def _places(documents: Mapping[Key, Sample]) -> dict[Key, str]:
    """Each document's index, made unique: what a permalink ends in."""
    seen: Counter[int] = Counter()
    found = {}
    for key, sample in documents.items():
        seen[sample.doc_id] += 1
        found[key] = str(sample.doc_id) if seen[sample.doc_id] == 1 else f"{sample.doc_id}-{seen[sample.doc_id]}"
    return found


def _order(keys: Sequence[Key], tags: Mapping[Key, Sequence[str]], gaps: Mapping[Key, float]) -> list[Key]:
    """Half of the room for the first documents, then one of each kind in turn, then the rest."""
    queues = [[key for key in keys if tag in tags.get(key, ())] for tag in TAGS]
    queues.append(sorted((key for key in keys if key in gaps), key=lambda key: (-abs(gaps[key]), keys.index(key))))
    turns = [key for turn in zip_longest(*queues) for key in turn if key is not None]
    return list(dict.fromkeys([*keys[: SAMPLES_PER_TASK // 2], *turns, *keys]))


def _gaps(costs: Sequence[DocumentCosts]) -> dict[Key, float]:
    """Bits per byte of the first run minus those of the next one that has the document."""
    if len(costs) < 2:
        return {}
    first, *others = costs
    return {
        key: bits - next(other.bits[key] for other in others if key in other.bits)
        for key, bits in first.bits.items()
        if any(key in other.bits for other in others)
    }


def _tags(key: Key, entries: Sequence[Entry]) -> tuple[str, ...]:
    """What a document shows: the first filter's verdicts, and whether any filter found no answer."""
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
    costs: Sequence[DocumentCosts],
    kept: Mapping[str, Stored],
    full: bool,
) -> SampleView:
    from ltm_eval.fewshot import split_prompt

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
    """The scored text, or the data set's answer to this prompt, marked by what is stored of the models."""
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
    costs: Sequence[DocumentCosts],
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
    """right or wrong for each answer, by the first filter that extracts one number per answer; else empty."""
    for sample in samples:
        if len(sample.filtered) == len(first.responses) > 1:
            return tuple("right" if exact_match(text, sample.target) else "wrong" for text in sample.filtered)
    return tuple("" for _ in first.responses)


def _facts_by_document(records: Sequence[LatentRecord]) -> dict[int, tuple[tuple[str, str], ...]]:
    """What latent inference did for each document, of its first request and repeat."""
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
    """right or wrong by the first metric, if that is a yes or no."""
    value = next(iter(sample.metrics.values()), None)
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return "right" if value == 1 else "wrong"
    return ""


def _shared(views: Sequence[SampleView]) -> tuple[str, ...]:
    """The demonstrations that most of the documents have, all alike: shown once. None where they differ."""
    sets = Counter(view.demonstrations for view in views if view.demonstrations)
    usual = sets.most_common(1)
    return usual[0][0] if usual and usual[0][1] > 1 else ()


def _page_bytes(view: SampleView) -> int:
    """About how much room a document takes: its text, escaped, and the mark-up around it."""
    texts = [view.question, view.gold, view.worked, *view.demonstrations]
    for answer in view.answers:
        texts += [answer.label, *answer.responses, *(part for row in answer.extracted for part in row)]
        texts += [part for fact in answer.facts for part in fact]
    text_bytes = sum(len(html_escape.escape(visible(text)).encode("utf-8", "replace")) + 60 for text in texts)
    return text_bytes + MARKUP_BYTES * len(view.answers)


def _marks_bytes(view: SampleView) -> int:
    """About how much room the marks of a document take."""
    views = [one for one in (view.tokens, *(answer.tokens for answer in view.answers)) if one is not None]
    return sum(MARKS_BYTES + MARK_BYTES * sum(run.level != 0 for run in one.runs) for one in views)
