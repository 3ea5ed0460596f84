"""Every figure that an output shows, as one record: `figures("results/")`, and `.frame()` of it for pandas.

The page, its exports, `history` and `index` are made of these records.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ltm_eval.results.columns import columns_of, labels_of
from ltm_eval.results.files import find_runs
from ltm_eval.results.generation import METRICS as GENERATION_METRICS
from ltm_eval.results.generation import generation_section
from ltm_eval.results.perplexity import METRICS, perplexity_section
from ltm_eval.results.scores import entry_of, score_table
from ltm_eval.results.signature import PREPARATION, Tokens, own_tokens
from ltm_eval.results.statistics import ALPHA, OPEN, holm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pandas import DataFrame

    from ltm_eval.results.files import Run
    from ltm_eval.results.scores import Entry
    from ltm_eval.results.views import (
        BitsDifference,
        Difference,
        FloorLine,
        GenerationSection,
        PerplexityLine,
        PerplexityRow,
        PerplexitySection,
        ScoreTable,
        Value,
    )


# Which figures may stand in one column: those under the same settings, as far as their signatures tell them.


class Signed(Protocol):
    """A figure that says under which settings it was made."""

    @property
    def signature(self) -> str:
        """The declared settings."""

    @property
    def n(self) -> int | None:
        """Documents."""


S = TypeVar("S", bound=Signed)

SIGNED_SETTINGS = ("task", "shots", "fewshot_seed", "scope", *PREPARATION)
"""Parts of a signature in which comparable figures agree; the number of documents comes on top."""


@dataclass
class Group(Generic[S]):
    """Figures under the same settings, as far as they tell them."""

    settings: dict[str, str] = field(default_factory=dict)
    figures: list[S] = field(default_factory=list)


def groups_of(figures: Sequence[S]) -> list[Group[S]]:
    """The figures by settings; one that does not tell a setting belongs to the first group it does not contradict."""
    groups: list[Group[S]] = []
    for figure in figures:
        own = _settings(figure)
        fitting = (g for g in groups if all(g.settings.get(key, value) == value for key, value in own.items()))
        group = next(fitting, None)
        if group is None:
            group = Group()
            groups.append(group)
        group.settings |= own
        group.figures.append(figure)
    return groups


def _settings(figure: Signed) -> dict[str, str]:
    pairs = (part.partition(":")[::2] for part in figure.signature.split("|")[1:])
    found = {key: value for key, value in pairs if key in SIGNED_SETTINGS}
    if figure.n is not None:
        found["documents"] = str(figure.n)
    return found


def apart_of(groups: Sequence[Group[S]], group: Group[S]) -> str:
    """What sets the group apart from the others: `shots 8, documents 100`."""
    keys = [key for key in group.settings if len({one.settings.get(key) for one in groups}) > 1]
    return ", ".join(f"{key} {group.settings[key]}" for key in keys)


EVALUATED = "evaluated"
PUBLISHED = "published, not re-run"
REFERENCE = "reference, no model ran"
NO_MODEL = "no model ran"
"""Note of a row of the score tables that is no model's."""
UNITS = (
    ("bits_per_byte", "bits per byte"),
    ("per_token", "perplexity per token"),
    ("per_word", "perplexity per word"),
    ("per_byte", "perplexity per byte"),
)


COLUMNS = (
    *("task", "metric", "filter", "model", "status", "relation", "value", "low", "high", "interval", "share"),
    *("higher_is_better", "documents", "shots", "first_minus_this", "first_minus_this_low", "first_minus_this_high"),
    *("p", "p_holm", "paired_documents", "first_is", "note", "signature", "source"),
)
"""Of the frame, of CSV and of a figure's record in JSON."""
COUNTS = ("documents", "shots", "paired_documents")


@dataclass(frozen=True)
class Figure:
    """One figure of one model."""

    task: str
    metric: str  # metric, or row of a perplexity table with its unit
    filter: str
    model: str
    status: str  # evaluated, or why no model ran
    bound: bool
    value: float | None  # the figure; shares from 0 to 1
    low: float | None
    high: float | None
    interval: str
    share: bool  # whether it is a share of documents
    higher_is_better: bool | None
    n: int | None
    n_shot: int | None
    note: str
    signature: str
    source: str
    difference: Difference | None  # the first model minus this one
    # of figures per token the tokens that are counted, as far as they are told; None for any other unit
    tokens: Tokens | None = None
    per_token: bool = False  # whether the unit is a token

    def record(self) -> dict[str, Any]:
        """Return the figure with its numbers in full, under the names of `COLUMNS`; `relation` is ≤ of a bound."""
        found = self.difference
        ends = (found.low, found.high) if found is not None and found.known else (None, None)
        values = (
            *(self.task, self.metric, self.filter, self.model, self.status, "≤" if self.bound else ""),
            *(self.value, self.low, self.high, self.interval, self.share, self.higher_is_better, self.n, self.n_shot),
            *((found.estimate, *ends, found.p_value, found.p_holm, found.n) if found is not None else (None,) * 6),
            *(found.verdict if found is not None else "", self.note, self.signature, self.source),
        )
        return dict(zip(COLUMNS, values, strict=True))


@dataclass(frozen=True)
class TaskTables:
    """One task's figures in the tables that show them."""

    name: str
    entries: tuple[Entry, ...]  # the runs that have the task
    lead: str  # label of the run that the others are subtracted from; empty if there is none
    tables: tuple[ScoreTable, ...]
    perplexity: PerplexitySection | None
    generation: GenerationSection | None

    @property
    def figures(self) -> list[Figure]:
        """The figures in the tables' order: perplexities, generated texts, scores."""
        return flat_figures(self.name, self.tables, perplexity=self.perplexity, generation=self.generation)


def task_tables(name: str, entries: Sequence[Entry], *, lead: str = "") -> TaskTables:
    """Return the figures of a task in every run; those of the run `lead`, the first, minus the others beside them.

    Raises:
        ResultsError: a samples file is malformed.
    """
    generation = generation_section(name, entries)
    elsewhere = METRICS | (GENERATION_METRICS if generation is not None else set())
    scores = [score for entry in entries for score in entry.run.tasks[name].scores if score.metric not in elsewhere]
    keys = dict.fromkeys((score.metric, score.filter) for score in scores)
    tables = (score_table(name, entries, metric=metric, filter_=filter_, subject=lead) for metric, filter_ in keys)
    perplexity = perplexity_section(name, entries, subject=lead)
    return TaskTables(name, tuple(entries), lead, tuple(tables), perplexity, generation)


def compared_tasks(named: Sequence[tuple[str, Run]]) -> list[TaskTables]:
    """Return the tables of all tasks of a page's columns, the first of which is compared with the others.

    Where the first has no results of a task, the first LTM that has some takes its place.

    Raises:
        ResultsError: a samples file is malformed.
    """
    found = []
    for name in dict.fromkeys(task for _, run in named for task in run.tasks):
        entries = [
            entry_of(label, series, run, task=name) for series, (label, run) in enumerate(named, 1) if name in run.tasks
        ]
        leads = (one for one in entries if one.series == 1 or one.run.model_kind == "ltm")
        lead = next(leads, None)
        entries.sort(key=lambda one: one is not lead)
        found.append(task_tables(name, entries, lead=lead.label if lead is not None else ""))
    return _corrected(found)


def subject_first(columns: Sequence[Run]) -> list[tuple[str, Run]]:
    """Return the columns with their labels, the first LTM before all others."""
    named = list(zip(labels_of(columns), columns, strict=True))
    subject = next((index for index, run in enumerate(columns) if run.model_kind == "ltm"), 0)
    return [*named[subject : subject + 1], *named[:subject], *named[subject + 1 :]]


class Figures(tuple[Figure, ...]):
    """Figures of results files, in the order of the report."""

    def frame(self) -> DataFrame:
        """Return a pandas frame of one row a figure; counts are `Int64`, which knows missing ones."""
        import pandas as pd

        rows = [figure.record() for figure in self]
        frame: DataFrame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COUNTS, "Int64"))
        return frame


def figures(*paths: str | Path) -> Figures:
    """Return every figure of the results in `paths`, files or folders with all below them.

    They are those of `ltm-eval report`, without the published ones: one for each model, the settings it depends on,
    task and metric, with its interval, its sign (≤ of a bound), its signature and the first model's difference from it.

    Raises:
        ResultsError: a path holds no results, or a file is malformed.
    """
    named = subject_first(columns_of(find_runs(paths, newest_only=False)))
    return Figures(figure for task in compared_tasks(named) for figure in task.figures)


def _corrected(tasks: Sequence[TaskTables]) -> list[TaskTables]:
    """Return the tasks with Holm's correction over the first figure of every task and model, as `compare` takes it.

    Verdicts of these figures follow the corrected p value; the others keep their own.
    """
    heads = [(index, label, found) for index, one in enumerate(tasks) for label, found in _heads(one).items()]
    values = holm([found.p_value for _, _, found in heads])
    changed: dict[int, dict[str, tuple[Difference, Difference]]] = {}
    for (index, label, found), value in zip(heads, values, strict=True):
        open_now = found.verdict if value < ALPHA else OPEN
        changed.setdefault(index, {})[label] = (found, replace(found, p_holm=value, verdict=open_now))
    return [_with_differences(one, changed.get(index, {})) for index, one in enumerate(tasks)]


def _heads(task: TaskTables) -> dict[str, Difference]:
    """Return the first difference from each model."""
    found: dict[str, Difference] = {}
    for one in task.perplexity.differences if task.perplexity is not None else ():
        found.setdefault(one.label, one.difference)
    for row in (row for table in task.tables for row in table.rows):
        if row.difference is not None:
            found.setdefault(row.label, row.difference)
    return found


def _with_differences(task: TaskTables, changed: dict[str, tuple[Difference, Difference]]) -> TaskTables:
    def of(label: str, found: Difference | None) -> Difference | None:
        old, new = changed.get(label, (None, None))
        return new if found is not None and found is old else found

    tables = tuple(
        replace(table, rows=tuple(replace(row, difference=of(row.label, row.difference)) for row in table.rows))
        for table in task.tables
    )
    perplexity = task.perplexity
    if perplexity is not None:
        own = (
            replace(one, difference=of(one.label, one.difference) or one.difference) for one in perplexity.differences
        )
        perplexity = replace(perplexity, differences=tuple(own))
    return replace(task, tables=tables, perplexity=perplexity)


def flat_figures(
    name: str,
    tables: Sequence[ScoreTable],
    *,
    perplexity: PerplexitySection | None,
    generation: GenerationSection | None,
) -> list[Figure]:
    """The figures of a task's tables, in their order: perplexities, generated texts, scores."""
    found: list[Figure] = []
    if perplexity is not None:
        figures = [one for row in perplexity.rows for one in _perplexity_figures(name, row, perplexity)]
        found += by_own_tokens(figures)
        found += [one for line in perplexity.floors for one in _floor_figures(name, line)]
    found += list(_generation_figures(name, generation)) if generation is not None else []
    return found + [one for table in tables for one in _score_figures(name, table)]


def by_own_tokens(figures: Sequence[Figure]) -> list[Figure]:
    """The figures of a task that stand together; those per token name their tokens where these are not the same.

    Args:
        figures: of one task; those of a model per token tell the same tokens.
    """
    own = own_tokens({one.model: one.tokens for one in figures if one.per_token})
    return [
        replace(one, metric=f"{one.metric.replace('per token', 'per own token')} ({own[one.model]})")
        if one.per_token and own[one.model]
        else one
        for one in figures
    ]


def _perplexity_figures(name: str, row: PerplexityRow, section: PerplexitySection) -> Iterator[Figure]:
    """One record per unit and model, so that a column holds one unit."""
    for unit, words in UNITS:
        for line in row.lines:
            figure = getattr(line, unit)
            if figure is not None:
                metric = f"{row.name}, {'nats per token' if row.nats else words}"
                found = _bits_difference(section, row, line) if unit == "bits_per_byte" else None
                notes = (line.note, found.caveat if found is not None else "")
                yield replace(
                    _record(name, metric, figure, line=line),
                    model=line.label,
                    bound=line.bound,
                    signature=line.signature,
                    note="; ".join(filter(None, notes)),
                    difference=found.difference if found is not None else None,
                    tokens=line.tokens if unit == "per_token" else None,
                    per_token=unit == "per_token",
                )


def _bits_difference(section: PerplexitySection, row: PerplexityRow, line: PerplexityLine) -> BitsDifference | None:
    """The first model's row against this line, where the report has it; headline before next-token figures."""
    pairs = (one for one in section.differences if (one.label, one.theirs) == (line.label, row.name))
    return next(pairs, None)


def _floor_figures(name: str, line: FloorLine) -> Iterator[Figure]:
    for unit, words in UNITS:
        figure = getattr(line, unit)
        if figure is not None:
            yield replace(
                _record(name, f"reference, {words}", figure, line=line),
                model=line.name,
                status=REFERENCE,
                note=line.what,
            )


def _record(name: str, metric: str, figure: Value, *, line: PerplexityLine | FloorLine) -> Figure:
    return Figure(
        task=name,
        metric=metric,
        filter="none",
        model="",
        status=EVALUATED,
        bound=False,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        interval=figure.kind,
        share=False,
        higher_is_better=False,
        n=line.documents,
        n_shot=None,
        note=getattr(line, "note", ""),
        signature="",
        source="",
        difference=None,
    )


def _generation_figures(name: str, section: GenerationSection) -> Iterator[Figure]:
    """MAUVE, its standard deviation over seeds in the note: that is no interval over documents."""
    for line in section.lines:
        if line.mauve is None:
            continue
        spread = f"sd over seeds {line.mauve_sd:.4f}" if line.mauve_sd is not None else ""
        yield Figure(
            task=name,
            metric="mauve",
            filter="none",
            model=line.label,
            status=EVALUATED if line.series else REFERENCE,
            bound=False,
            value=line.mauve,
            low=None,
            high=None,
            interval="",
            share=False,
            higher_is_better=True,
            n=None,
            n_shot=None,
            note="; ".join(filter(None, (spread, line.texts))),
            signature=line.signature,
            source="",
            difference=None,
        )


def _score_figures(name: str, table: ScoreTable) -> Iterator[Figure]:
    for row in table.rows:
        low, high = row.interval if row.interval is not None else (None, None)
        yield Figure(
            task=name,
            metric=table.metric,
            filter=table.filter,
            model=row.label,
            status=EVALUATED if row.note != NO_MODEL else REFERENCE,
            bound=table.bound or row.bound,
            value=row.value,
            low=low,
            high=high,
            interval=row.interval_kind,
            share=table.share,
            higher_is_better=table.higher_is_better,
            n=row.n,
            n_shot=row.n_shot,
            note="; ".join(part for part in (row.note, table.note) if part and part != NO_MODEL),
            signature=row.signature,
            source="",
            difference=row.difference,
        )
