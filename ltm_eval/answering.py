"""How questions were answered: extraction failures, why generation ended, what fitted the context, pass@k over k."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from ltm_eval.answers import INVALID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.answer_record import AnswerRecord
    from ltm_eval.latent_record import LatentRecord
    from ltm_eval.page import EffectTable, ScoreTable
    from ltm_eval.scores import Entry

SHOWS_ALL = ("prompt", "demos+prompt", "prior")
"""Conditions under which the decoder reads the demonstrations."""
PASS = "pass@"  # noqa: S105 - a metric
LONGEST_K = 10
"""Digits of a k that is a number to draw."""


@dataclass(frozen=True)
class Unanswered:
    """Answers of which a filter could make nothing."""

    filter: str
    """Filter."""
    count: int
    """How many."""
    answers: int
    """Of how many answers."""


@dataclass(frozen=True)
class AnswerFacts:
    """One model's answers to one task; None where its results do not tell."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    documents: int
    """Questions."""
    unanswered: tuple[Unanswered, ...]
    """Extraction failures, per filter."""
    characters: float
    """Median length of an answer."""
    empty: int
    """Answers without any text."""
    stops: tuple[tuple[str, int], ...]
    """Why generation ended, most frequent first; empty where the results do not tell."""
    new_tokens: float | None
    """Mean tokens of an answer."""
    demonstrations: float | None
    """Mean demonstrations in the prompt."""
    dropped: float | None
    """Mean demonstrations that the decoder did not read."""
    prompts_cut: tuple[int, int] | None
    """Requests of whose prompt not all was read that should have been, of how many."""
    prompt_tokens: float | None
    """Mean tokens of the whole prompt."""
    read_tokens: float | None
    """Mean tokens the decoder read."""
    fitted_tokens: float | None
    """Mean tokens z was fitted on."""
    windows: float | None
    """Mean windows that shared the one z."""


@dataclass(frozen=True)
class LinePoint:
    """A figure with its 95 % interval."""

    x: float
    """Where it stands."""
    value: float
    """The figure."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


@dataclass(frozen=True)
class Line:
    """A figure over something."""

    label: str
    """Model, or condition."""
    series: int
    """Colour, from 1."""
    points: tuple[LinePoint, ...]
    """Ascending in x."""
    dashed: bool = False
    """Whether no model ran."""
    dots: tuple[tuple[float, float], ...] = ()
    """Single values beside the line."""


def answer_facts(
    name: str, entries: Sequence[Entry], records: Mapping[str, Sequence[LatentRecord | AnswerRecord]]
) -> tuple[AnswerFacts, ...]:
    """Facts per run with generated answers; nothing for tasks that are scored and not answered."""
    generating = [
        entry
        for entry in entries
        if entry.samples and entry.run.tasks[name].config.get("output_type", "generate_until") == "generate_until"
    ]
    yes_or_no = [entry for entry in generating if any("exact_match" in s.metric for s in entry.run.tasks[name].scores)]
    return tuple(_facts(entry, records.get(entry.label, ())) for entry in yes_or_no)


def _facts(entry: Entry, records: Sequence[LatentRecord | AnswerRecord]) -> AnswerFacts:
    first = next(iter(entry.samples.values()))
    texts = [text for sample in first.values() for text in sample.responses]
    failed = []
    for name, samples in entry.samples.items():
        extracted = [text for sample in samples.values() for text in sample.filtered]
        failed.append(Unanswered(name, sum(text == INVALID for text in extracted), len(extracted)))
    generated = [record for record in records if record.stop_reason]

    def mean(field: str, of: Sequence[LatentRecord | AnswerRecord]) -> float | None:
        return fmean(getattr(record, field) for record in of) if of and hasattr(of[0], field) else None

    asked, read = mean("demonstrations", records), mean("demonstrations_read", records)
    return AnswerFacts(
        label=entry.label,
        series=entry.series,
        documents=len(first),
        unanswered=tuple(failed),
        characters=median(map(len, texts)) if texts else 0.0,
        empty=sum(not text.strip() for text in texts),
        stops=tuple(Counter(record.stop_reason for record in generated).most_common()),
        new_tokens=mean("new_tokens", generated),
        demonstrations=asked,
        dropped=asked - read if asked is not None and read is not None else None,
        prompts_cut=(sum(map(_is_cut, records)), len(records)) if records else None,
        prompt_tokens=mean("prompt_tokens", records),
        read_tokens=mean("read_tokens", records),
        fitted_tokens=mean("fitted_tokens", records),
        windows=mean("fitted_windows", records),
    )


def _is_cut(record: LatentRecord | AnswerRecord) -> bool:
    """Whether less of the prompt was read than there is; a condition that shows the question alone cuts nothing."""
    shows_all = getattr(record, "condition", "prompt") in SHOWS_ALL
    return record.truncated or (shows_all and record.demonstrations_read < record.demonstrations)


def attempts_of(metric: str) -> int:
    """k of `pass@k`; 0 of every other metric, whatever a results file calls it."""
    k = metric.removeprefix(PASS)
    return int(k) if k != metric and k.isascii() and k.isdigit() and len(k) < LONGEST_K else 0


def attempts_lines(tables: Sequence[ScoreTable]) -> tuple[Line, ...]:
    """pass@k over k, of the first filter that has several k."""
    for name in dict.fromkeys(table.filter for table in tables if attempts_of(table.metric)):
        own = [table for table in tables if table.filter == name and attempts_of(table.metric)]
        found: dict[str, list[LinePoint]] = {}
        series: dict[str, tuple[int, bool]] = {}
        for table in own:
            for row in table.rows:
                # The content-free row names its answers, which grow with k.
                label = row.label if row.note != "no model ran" else "content-free"
                if row.value is not None:
                    low, high = row.interval or (row.value, row.value)
                    point = LinePoint(attempts_of(table.metric), row.value, low, high)
                    found.setdefault(label, []).append(point)
                    series[label] = (row.series, row.note == "no model ran")
        lines = tuple(
            Line(label, series[label][0], tuple(sorted(points, key=lambda point: point.x)), dashed=series[label][1])
            for label, points in found.items()
        )
        if any(len(line.points) > 1 for line in lines):
            return lines
    return ()


def shots_lines(tables: Sequence[EffectTable]) -> tuple[Line, ...]:
    """Accuracy over the number of demonstrations, one line per model and condition, of each model's first table."""
    return _over_shots([table for table in tables if not table.metric.startswith(PASS)])


def shots_pass_lines(tables: Sequence[EffectTable]) -> tuple[int, tuple[Line, ...]]:
    """The largest k > 1 of which a sweep tells pass@k, and that over the number of demonstrations; 0 without one."""
    k = max((attempts_of(table.metric) for table in tables), default=0)
    lines = _over_shots([table for table in tables if table.metric == f"{PASS}{k}"]) if k > 1 else ()
    return (k, lines) if lines else (0, ())


def _over_shots(tables: Sequence[EffectTable]) -> tuple[Line, ...]:
    lines: list[Line] = []
    several = len({table.label for table in tables}) > 1
    for label in dict.fromkeys(table.label for table in tables):
        table = next(table for table in tables if table.label == label)
        for condition in dict.fromkeys(row.condition for row in table.rows):
            own = sorted((row for row in table.rows if row.condition == condition), key=lambda row: row.shots)
            points = tuple(LinePoint(row.shots, row.value, row.low, row.high) for row in own)
            name = f"{label}, {condition}" if several else condition
            lines.append(Line(name, len(lines) + 1, points))
    return tuple(lines) if any(len(line.points) > 1 for line in lines) else ()
