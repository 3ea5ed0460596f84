"""The sample browser: the first documents with every model's answer, as many as there is room for."""

from __future__ import annotations

import html as html_escape
from typing import TYPE_CHECKING

from ltm_eval.page import Answer, SampleView
from ltm_eval.wording import cut, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.results import Sample
    from ltm_eval.scores import Entry

SAMPLES_PER_TASK = 50
RESPONSES_PER_SAMPLE = 4


def sample_views(entries: Sequence[Entry], *, budget: int) -> tuple[tuple[SampleView, ...], int]:
    """The first documents of the first run with samples, as many as there is room for; and how many there are."""
    lead = next((entry for entry in entries if entry.samples), None)
    if lead is None:
        return (), 0
    first = next(iter(lead.samples.values()))
    views: list[SampleView] = []
    for key in list(first)[:SAMPLES_PER_TASK]:
        view = _view(key, first[key], entries)
        budget -= _page_bytes(view)
        if budget < 0:
            break
        views.append(view)
    return tuple(views), len(first)


def _view(key: tuple[str, int], sample: Sample, entries: Sequence[Entry]) -> SampleView:
    from ltm_eval.fewshot import split_prompt

    prompt = split_prompt(sample.prompt)
    worked, mark, number = sample.target.rpartition("####")
    answers = [_answer(key, entry, shown=sample.prompt_hash) for entry in entries]
    return SampleView(
        doc_id=sample.doc_id,
        question=cut(prompt.question),
        demonstrations=tuple(map(cut, prompt.demonstrations)),
        gold=cut(number.strip() if mark else sample.target),
        worked=cut(sample.target) if mark and worked.strip() else "",
        answers=tuple(answer for answer in answers if answer is not None),
    )


def _answer(key: tuple[str, int], entry: Entry, *, shown: str) -> Answer | None:
    of_filters = {name: found[key] for name, found in entry.samples.items() if key in found}
    if not of_filters:
        return None
    first = next(iter(of_filters.values()))
    return Answer(
        label=entry.label,
        series=entry.series,
        responses=tuple(map(cut, first.responses[:RESPONSES_PER_SAMPLE])),
        more=max(len(first.responses) - RESPONSES_PER_SAMPLE, 0),
        extracted=tuple((name, cut(", ".join(one.filtered)), _right(one)) for name, one in of_filters.items()),
        other_prompt=first.prompt_hash != shown,
    )


def _right(sample: Sample) -> str:
    """right or wrong by the first metric, if that is a yes or no."""
    value = next(iter(sample.metrics.values()), None)
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return "right" if value == 1 else "wrong"
    return ""


def _page_bytes(view: SampleView) -> int:
    """About how much room a document takes: its text, escaped, and the mark-up around it."""
    texts = [view.question, view.gold, view.worked, *view.demonstrations]
    for answer in view.answers:
        texts += [answer.label, *answer.responses, *(part for row in answer.extracted for part in row)]
    return sum(len(html_escape.escape(visible(text)).encode("utf-8", "replace")) + 120 for text in texts)
