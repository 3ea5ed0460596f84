"""The summary of a page: one row per task and headline metric, the models beside each other, and what was published.

Figures are taken from the tables of the sections; nothing is computed here but which published figures are of the same
quantity. Figures under other settings never share a row. Published figures were not re-run: they stand in a column of
their own and no difference is taken from them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ltm_eval.comparable import apart_of, groups_of
from ltm_eval.signatures import GPT2_DIGEST, per_token_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ltm_eval.page import (
        Difference,
        GenerationSection,
        PerplexityLine,
        PerplexitySection,
        Published,
        ScoreTable,
        TaskSection,
    )

MOST_PUBLISHED = 4
"""Published figures in one row; the task's section lists all."""
_FAMILIES = re.compile(r"LTM(-\w+)?( \(N_z=\d+\))?|GPT-2([- ]?(small|medium|large|xl))?( \(\w+\))?", re.IGNORECASE)


@dataclass(frozen=True)
class SummaryCell:
    """One model's figure in a row."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    value: float | None
    """The figure; None where the run has none."""
    low: float | None
    """Lower end of its 95 % interval."""
    high: float | None
    """Upper end."""
    bound: bool
    """Whether it is an upper bound, shown with its sign."""
    best: bool = False
    """Whether it is better than every other model's by an interval that leaves out zero."""
    sd: float | None = None
    """Standard deviation over seeds, of a figure that is their mean."""
    signature: str = ""
    """The declared settings that make it."""
    n: int | None = None
    """Documents."""


@dataclass(frozen=True)
class SummaryGap:
    """The first model minus another, in one row."""

    label: str
    """The other model."""
    difference: Difference | None
    """The difference; None where nothing can be paired."""
    caveat: str
    """What the difference does not show."""


@dataclass(frozen=True)
class SummaryRow:
    """One task and metric."""

    task: str
    """Task name."""
    number: int
    """The task's number on the page, from 1."""
    metric: str
    """Metric, with its filter."""
    higher_is_better: bool | None
    """Direction."""
    share: bool
    """Whether figures are shares, shown in percent."""
    bits: bool
    """Whether differences are in bits per byte, shown to three decimals."""
    cells: tuple[SummaryCell, ...]
    """One per model of the page."""
    gaps: tuple[SummaryGap, ...]
    """One per model after the first."""
    published: tuple[Published, ...]
    """Published figures of the same quantity."""
    n: int | None
    """Documents of the first model that has the figure."""
    only: str = ""
    """Settings that set these figures apart from those of another row; empty for most."""


@dataclass(frozen=True)
class Summary:
    """The table."""

    labels: tuple[str, ...]
    """Models, the first one first."""
    rows: tuple[SummaryRow, ...]
    """In the order of the tasks."""

    @property
    def sources(self) -> tuple[Published, ...]:
        """One published figure for each distinct source, in order of appearance: the notes below the table."""
        found: dict[str, Published] = {}
        for row in self.rows:
            for one in row.published:
                found.setdefault(one.source, one)
        return tuple(found.values())


def summary_of(sections: Sequence[TaskSection], labels: Sequence[str]) -> Summary:
    """The table over all sections; `labels` are the page's models, the first one first."""
    rows: list[SummaryRow] = []
    for number, section in enumerate(sections, 1):
        if section.perplexity is not None:
            rows += _perplexity_rows(section, section.perplexity, labels, number=number)
        if section.generation is not None:
            rows.append(_generation_row(section, section.generation, labels, number=number))
        rows += [_score_row(section, table, labels, number=number) for table in section.tables]
    told = [row for row in rows if any(cell.value is not None for cell in row.cells)]
    return Summary(labels=tuple(labels), rows=tuple(part for row in told for part in _comparable(row)))


def _comparable(row: SummaryRow) -> list[SummaryRow]:
    """The row, or one row per settings where its figures were made under several."""
    groups = groups_of([cell for cell in row.cells if cell.value is not None])
    found = []
    for group in groups:
        labels = {cell.label for cell in group.figures}
        apart = apart_of(groups, group)
        cells = tuple(
            cell if cell.label in labels else SummaryCell(cell.label, cell.series, None, None, None, bound=False)
            for cell in row.cells
        )
        gaps = tuple(
            gap if {gap.label, row.cells[0].label} <= labels else SummaryGap(gap.label, None, "") for gap in row.gaps
        )
        own = replace(row, cells=_best(cells, gaps), gaps=gaps, only=f"only {apart}" if apart else "")
        found.append(replace(own, n=group.figures[0].n if len(groups) > 1 else row.n))
    return found


def _score_row(section: TaskSection, table: ScoreTable, labels: Sequence[str], *, number: int) -> SummaryRow:
    own = {row.label: row for row in table.rows}
    cells = []
    for series, label in enumerate(labels, 1):
        row = own.get(label)
        low, high = row.interval if row is not None and row.interval else (None, None)
        bound = row is not None and (table.bound or row.bound)
        told = (row.signature, row.n) if row is not None else ("", None)
        cells.append(
            SummaryCell(label, series, row.value if row else None, low, high, bound, signature=told[0], n=told[1])
        )
    gaps = tuple(SummaryGap(label, own[label].difference if label in own else None, "") for label in labels[1:])
    return SummaryRow(
        task=section.name,
        number=number,
        metric=table.metric if table.filter == "none" else f"{table.metric}, {table.filter}",
        higher_is_better=table.higher_is_better,
        share=table.share,
        bits=False,
        cells=tuple(cells),
        gaps=gaps,
        published=_published(section.published, _published_metric(table.metric)),
        n=next((own[label].n for label in labels if label in own), None),
    )


def _perplexity_rows(
    section: TaskSection, perplexity: PerplexitySection, labels: Sequence[str], *, number: int
) -> list[SummaryRow]:
    """Headline bits per byte with differences, the causal row, headline perplexity per token, as_released.

    Figures per token share a row only where their tokens are the same (`signatures.own_tokens`); where they are not,
    perplexity per word stands beside bits per byte, and a row for each kind of tokens below.
    """
    rows = []
    found = {row.name for row in perplexity.rows}
    for metric, names, unit, own in _asked(perplexity):
        lines = {
            line.label: line
            for row in perplexity.rows
            if row.name in names
            for line in row.lines
            if own is None or line.own_tokens == own
        }
        if not lines or names[0] not in found | {"bound"}:
            continue
        bits = unit == "bits_per_byte"
        figures = {label: getattr(line, unit) for label, line in lines.items()}
        cells = [
            SummaryCell(
                label,
                series,
                value=figure.value if (figure := figures.get(label)) is not None else None,
                low=figure.low if figure is not None else None,
                high=figure.high if figure is not None else None,
                bound=label in lines and lines[label].bound,
                signature=lines[label].signature if label in lines else "",
                n=lines[label].documents if label in lines else None,
            )
            for series, label in enumerate(labels, 1)
        ]
        differences = {one.label: one for one in perplexity.differences if bits and one.ours in names}
        gaps = tuple(
            SummaryGap(label, differences[label].difference, differences[label].caveat)
            if label in differences
            else SummaryGap(label, None, "")
            for label in labels[1:]
        )
        rows.append(
            SummaryRow(
                task=section.name,
                number=number,
                metric=metric,
                higher_is_better=False,
                share=False,
                bits=bits,
                cells=tuple(cells),
                gaps=gaps,
                published=_published_perplexity(section.published, released="as_released" in names)
                if unit == "per_token" and _counts_gpt2(lines.values())
                else (),
                n=next((lines[label].documents for label in labels if label in lines), None),
            )
        )
    return rows


def _asked(perplexity: PerplexitySection) -> list[tuple[str, tuple[str, ...], str, str | None]]:
    """Rows of a perplexity set: what each is called, the table's rows it takes from, the unit, and whose tokens."""
    head, released = ("bound", "exact"), ("as_released",)
    asked: list[tuple[str, tuple[str, ...], str, str | None]] = [
        ("bits per byte", head, "bits_per_byte", None),
        ("bits per byte, next token", ("causal", "exact"), "bits_per_byte", None),
    ]
    own = list(dict.fromkeys(line.own_tokens for row in perplexity.rows for line in row.lines))
    if own != [""]:
        asked.append(("perplexity per word", head, "per_word", None))
    for names, words in ((head, ""), (released, ", as_released: not a bound")):
        asked += [(f"{per_token_words(one)}{words}", names, "per_token", one) for one in own]
    return asked


def _counts_gpt2(lines: Iterable[PerplexityLine]) -> bool:
    """Whether figures per token count GPT-2's tokens, as the published ones do."""
    return all(line.tokens is not None and line.tokens.digest == GPT2_DIGEST for line in lines)


def _generation_row(
    section: TaskSection, generation: GenerationSection, labels: Sequence[str], *, number: int
) -> SummaryRow:
    lines = {line.label: line for line in generation.lines if line.series}
    cells = []
    for series, label in enumerate(labels, 1):
        line = lines.get(label)
        value, spread = (line.mauve, line.mauve_sd) if line is not None else (None, None)
        told = line.signature if line is not None else ""
        cells.append(SummaryCell(label, series, value, None, None, bound=False, sd=spread, signature=told))
    return SummaryRow(
        task=section.name,
        number=number,
        metric="MAUVE, mean ± standard deviation over seeds",
        higher_is_better=True,
        share=False,
        bits=False,
        cells=tuple(cells),
        gaps=tuple(SummaryGap(label, None, "") for label in labels[1:]),
        published=_published(section.published, "MAUVE"),
        n=generation.n_human,
    )


def _best(cells: Sequence[SummaryCell], gaps: Sequence[SummaryGap]) -> tuple[SummaryCell, ...]:
    """The first model is marked where it is better than all others with figures, another where the first is worse
    than it and no third has a figure: more the differences do not tell.
    """
    verdicts = [gap.difference.verdict if gap.difference else "" for gap in gaps]
    with_figure = [gap for gap, cell in zip(gaps, cells[1:], strict=True) if cell.value is not None]
    decided = bool(with_figure) and not any(gap.caveat for gap in with_figure)
    first = decided and all(gap.difference and gap.difference.verdict == "better" for gap in with_figure)
    other = verdicts.index("worse") + 1 if decided and verdicts == ["worse"] else None
    return tuple(
        replace(cell, best=best)
        for index, cell in enumerate(cells)
        for best in [(index == 0 and first) or index == other]
    )


# Published figures


def _published_metric(metric: str) -> str:
    return "accuracy (%)" if metric in {"exact_match", "acc"} else f"{metric} (%)" if metric.startswith("pass@") else ""


def _published(rows: Iterable[Published], metric: str) -> tuple[Published, ...]:
    """Figures of that very metric, of LTMs and plain GPT-2 models: LTMs first, each model once."""
    found = [row for row in rows if metric and row.metric == metric and _FAMILIES.fullmatch(row.model)]
    return _few(found)


def _published_perplexity(rows: Iterable[Published], *, released: bool) -> tuple[Published, ...]:
    """Zero-shot perplexities per token: those of LTMs stand beside as_released, those of GPT-2 beside exact figures."""
    found = [
        row
        for row in rows
        if row.metric == "zero-shot perplexity"
        and _FAMILIES.fullmatch(row.model)
        and row.model.startswith("LTM") == released
    ]
    return _few(found)


def _few(rows: Sequence[Published]) -> tuple[Published, ...]:
    first: dict[tuple[str, int | None], Published] = {}
    for row in sorted(rows, key=lambda row: not row.model.startswith("LTM")):
        first.setdefault((row.model, row.shots), row)
    return tuple(first.values())[:MOST_PUBLISHED]
