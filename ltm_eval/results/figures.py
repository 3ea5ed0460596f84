"""Every figure that an output shows: `figures("results/")`, and `.frame()` of it for pandas."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ltm_eval.results.columns import columns_of, labels_of
from ltm_eval.results.files import find_runs, read_samples
from ltm_eval.results.generation import METRICS as GENERATION_METRICS
from ltm_eval.results.generation import generation_section
from ltm_eval.results.perplexity import METRICS, UNIT_WORDS, perplexity_section
from ltm_eval.results.scores import entry_of, score_table
from ltm_eval.results.signature import PREPARATION, own_tokens
from ltm_eval.results.statistics import ALPHA, OPEN, holm
from ltm_eval.results.views import COLUMNS, EVALUATED, Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pandas import DataFrame

    from ltm_eval.results.files import Run
    from ltm_eval.results.scores import Entry
    from ltm_eval.results.signature import Tokens
    from ltm_eval.results.views import Difference, GenerationSection, PerplexitySection, ScoreTable


SIGNED_SETTINGS = ("task", "shots", "fewshot_seed", "scope", *PREPARATION)
"""Parts of a signature in which comparable figures agree; the number of documents comes on top."""
COUNTS = ("documents", "shots", "paired_documents")


@dataclass
class Group:
    """Figures under the same settings, as far as they name them."""

    settings: dict[str, str] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)


def groups_of(figures: Sequence[Figure]) -> list[Group]:
    """Return the figures by settings; one that names no value of a setting joins the first group it fits."""
    groups: list[Group] = []
    for figure in figures:
        pairs = (part.partition(":")[::2] for part in figure.signature.split("|")[1:])
        own = {key: value for key, value in pairs if key in SIGNED_SETTINGS}
        own |= {} if figure.n is None else {"documents": str(figure.n)}
        fitting = (g for g in groups if all(g.settings.get(key, value) == value for key, value in own.items()))
        group = next(fitting, None)
        if group is None:
            group = Group()
            groups.append(group)
        group.settings |= own
        group.figures.append(figure)
    return groups


def apart_of(groups: Sequence[Group], group: Group) -> str:
    """Return what sets the group apart from the others: `shots 8, documents 100`."""
    keys = [key for key in group.settings if len({one.settings.get(key) for one in groups}) > 1]
    return ", ".join(f"{key} {group.settings[key]}" for key in keys)


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
        """Return the figures in the tables' order: perplexities, generated texts, scores."""
        found: list[Figure] = []
        if self.perplexity is not None:
            differences: dict[Figure | None, Difference] = {}
            for line, difference in self.perplexity.differences:
                differences.setdefault(line.bits_per_byte, difference)
            for row in self.perplexity.rows:
                found += [one for unit in UNIT_WORDS for line in row.lines if (one := getattr(line, unit)) is not None]
            for index, one in enumerate(found):
                if one in differences:
                    difference = differences[one]
                    note = "; ".join(filter(None, (one.note, difference.caveat)))
                    found[index] = replace(one, difference=difference, note=note)
            found = by_own_tokens(found)
            for line in self.perplexity.floors:
                found += [one for unit in UNIT_WORDS if (one := getattr(line, unit)) is not None]
        if self.generation is not None:
            found += [line.figure for line in self.generation.lines if line.figure.value is not None]
        for table in self.tables:
            found += [replace(row, note="; ".join(filter(None, (row.note, table.note)))) for row in table.rows]
        return found


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


def samples(*paths: str | Path) -> DataFrame:
    """Return every document of the results in `paths`, files or folders with all below them, as a pandas frame.

    A row for each model (as `figures` names it), task, document and filter: `model`, `task`, `doc_id` (index in its
    split), `filter`, `prompt`, `target`, `responses` and `filtered` (tuples, an answer of each request and repeat, and
    what the filter made of them), then a column for each metric: a number, or the pair (nats, units) of a rate.

    Raises:
        ResultsError: a path holds no results, or a file is malformed.
    """
    import pandas as pd

    rows = [
        {"model": label, "task": task}
        | {name: getattr(one, name) for name in ("doc_id", "filter", "prompt", "target", "responses", "filtered")}
        | dict(one.metrics)
        for label, run in subject_first(columns_of(find_runs(paths, newest_only=False)))
        for task in run.tasks
        for one in read_samples(run, task)
    ]
    frame: DataFrame = pd.DataFrame(rows)
    return frame


def _corrected(tasks: Sequence[TaskTables]) -> list[TaskTables]:
    """Return the tasks with Holm's correction over the first figure of every task and model, as `compare` takes it.

    Verdicts of these figures follow the corrected p value; the others keep their own.
    """
    heads: list[Difference] = []
    for task in tasks:
        first: dict[str, Difference] = {}
        for label, found in _differences(task):
            first.setdefault(label, found)
        heads += first.values()
    corrected = {
        id(found): replace(found, p_holm=value, verdict=found.verdict if value < ALPHA else OPEN)
        for found, value in zip(heads, holm([found.p_value for found in heads]), strict=True)
    }
    return [_changed(task, lambda found: corrected.get(id(found), found)) for task in tasks]


def _differences(task: TaskTables) -> list[tuple[str, Difference]]:
    """Return every difference of the task with the label of the other model, headlines first."""
    found = [(line.label, one) for line, one in (task.perplexity.differences if task.perplexity is not None else ())]
    rows = (row for table in task.tables for row in table.rows)
    return found + [(row.model, row.difference) for row in rows if row.difference is not None]


def _changed(task: TaskTables, new: Callable[[Difference], Difference]) -> TaskTables:
    """Return the task with `new` of each of its differences."""
    tables = tuple(
        replace(
            table,
            rows=tuple(
                row if row.difference is None else replace(row, difference=new(row.difference)) for row in table.rows
            ),
        )
        for table in task.tables
    )
    perplexity = task.perplexity
    if perplexity is not None:
        perplexity = replace(perplexity, differences=tuple((line, new(one)) for line, one in perplexity.differences))
    return replace(task, tables=tables, perplexity=perplexity)


def figures_of(label: str, run: Run) -> list[Figure]:
    """Return a run's own figures, compared with nothing.

    Raises:
        ResultsError: a samples file is malformed.
    """
    tables = (task_tables(task, [entry_of(label, 1, run, task=task)]) for task in run.tasks)
    return [one for table in tables for one in table.figures if one.status == EVALUATED and one.value is not None]


def by_own_tokens(figures: Sequence[Figure]) -> list[Figure]:
    """Return figures that stand together; those per token name their tokens if a task's models have different ones or
    they are not the models' own.
    """
    tokens: dict[str, dict[str, Tokens | None]] = {}
    for one in figures:
        if one.per_token:
            tokens.setdefault(one.task, {})[one.model] = one.tokens
    own = {task: own_tokens(by_model) for task, by_model in tokens.items()}
    return [
        replace(one, metric=one.metric.removesuffix("token") + own[one.task][one.model])
        if one.metric.endswith("per token") and own[one.task][one.model]
        else one
        for one in figures
    ]
