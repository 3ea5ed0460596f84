"""One HTML page from results files: what ran, the LTM beside its baselines, the samples.

    write(render(build(find_runs(["results/"]))), "report.html")

`build` computes every figure of the page, `render` only lays it out. The page is one file without network access: its
content security policy allows the one inline style and script by their digest and nothing else. Model text is not
trusted: Jinja escapes it, control and bidirectional characters become visible, long fields are cut. Nothing depends on
the clock, so the same results give the same bytes.
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import __version__
from ltm_eval.probe.files import find_probes, is_probe
from ltm_eval.probe.view import explorer_json, figures_of, probe_labels, probe_view
from ltm_eval.report.findings import (
    audit_line,
    findings,
    findings_text,
    headline_of,
    is_bundled,
    limit_banners,
    marks_of,
    missing_task_banners,
    older_banners,
    read_task,
    run_banners,
    settings_line,
    shared_warnings,
    task_banners,
    unfair,
    unofficial_data,
)
from ltm_eval.report.layout import assets, environment, markup
from ltm_eval.report.plots import (
    accuracy_bars,
    bands,
    bound_over_steps,
    compute_curves,
    divergence_curves,
    fit_trajectory,
    histogram,
    inline_svg,
    reconstruction,
    stacked_bars,
    write_plots,
)
from ltm_eval.report.samples import sample_browser, stored
from ltm_eval.report.tables import (
    RENDERERS,
    Banner,
    Cell,
    Column,
    Document,
    Part,
    Summary,
    SummaryRow,
    Table,
    interval_text,
    metric_text,
    status_note,
    summary_table,
    summary_texts,
    value_cell,
    value_text,
    write_all,
)
from ltm_eval.results import diagnostics
from ltm_eval.results.columns import columns_of, told_digest, told_of
from ltm_eval.results.diagnostics import (
    attempts_lines,
    draw_lines,
    latent_summary,
    layers_view,
    shots_lines,
    shots_pass_lines,
    size_rows,
    step_curves,
)
from ltm_eval.results.effect import budget_rows, effect_tables
from ltm_eval.results.figures import apart_of, compared_tasks, groups_of, subject_first
from ltm_eval.results.files import find_runs, read_tokens, result_files
from ltm_eval.results.official import read_facts
from ltm_eval.results.perplexity import of_same_tokens
from ltm_eval.results.scores import flat, published_for
from ltm_eval.results.signature import GPT2_DIGEST, per_token_words
from ltm_eval.results.views import EVALUATED, PUBLISHED, REFERENCE, Figure
from ltm_eval.system.errors import ResultsError
from ltm_eval.system.files import write_output
from ltm_eval.system.records import mapping
from ltm_eval.system.text import VERDICTS, p_both, signed, signed_bits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from matplotlib.figure import Figure as Plot

    from ltm_eval.probe.files import Probe
    from ltm_eval.report.findings import Finding, Mark, Told
    from ltm_eval.report.samples import SampleBrowser
    from ltm_eval.results.figures import TaskTables
    from ltm_eval.results.files import Run
    from ltm_eval.results.views import (
        ComputeCurve,
        Difference,
        EffectTable,
        GenerationSection,
        LayersView,
        Line,
        PerplexitySection,
        ProbeView,
        Published,
        ScoreTable,
        StepCurve,
    )


MOST_PUBLISHED = 4  # published figures in one row of the summary; the task's section lists all
SAMPLE_BYTES = 3_000_000
MOST_ROWS, MOST_UNFAIR, MOST_RESULTS = 14, 5, 3  # rows and reasons of the first screen, and of a task's heading
MIN_STEPS = 2  # numbers of fast steps from which a grid is shown
MIDDLE = 100  # of the forest plot, in units of its drawing
MOST_NAMED = 3  # models that the title names beside the first
PARAMETER_KEYS = ("parameters", "model_num_parameters")
UNTOLD = "–"
TASK_CAPTION = (
    "≤ marks upper bounds; shares and their differences in percent. p is not corrected; Holm’s correction is over the "
    "first figure of every task and model."
)
_FAMILIES = re.compile(r"LTM(-\w+)?( \(N_z=\d+\))?|GPT-2([- ]?(small|medium|large|xl))?( \(\w+\))?", re.IGNORECASE)


@dataclass(frozen=True)
class ModelCard:
    """What ran, for one run."""

    label: str
    kind: str
    digest: str
    parameters: int | None
    step: int | None
    sizes: str
    sources: tuple[str, ...]
    sample_data: bool
    date: str
    seconds: float | None
    paths: tuple[str, ...]  # the results file, or those that were joined
    command: str
    warnings: tuple[str, ...]
    audit: str  # the audit's verdict in one line; empty if none was made
    audit_passed: bool
    settings: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TaskSection:
    """Everything about one task."""

    name: str
    lead: str  # the model that the others are subtracted from; empty if nothing is compared
    versions: str
    tables: tuple[ScoreTable, ...]  # those of equal figures under several filters once
    effect: tuple[EffectTable, ...]
    grid: Table | None  # of a sweep: a model's first figure by condition, shots and fast steps
    budget: tuple[dict[str, Any], ...]  # compute of rethinking and of its control, per run
    latents: tuple[dict[str, Any], ...]  # what latent inference did, per run
    layers: tuple[LayersView, ...]
    compute: tuple[ComputeCurve, ...]
    published: tuple[Published, ...]
    definition: tuple[tuple[str, str], ...]
    perplexity: PerplexitySection | None
    generation: GenerationSection | None
    labels: tuple[str, ...]
    answering: tuple[dict[str, Any], ...]  # how questions were answered, per run; empty for scored tasks
    attempts: tuple[Line, ...]
    shots: tuple[Line, ...]
    shots_pass: tuple[int, tuple[Line, ...]]
    steps: tuple[StepCurve, ...]  # of perplexity sets: nats per token over the fast steps
    draws: tuple[Line, ...]
    costs: tuple[dict[str, Any], ...]
    figures: tuple[Figure, ...]  # of all tables, and the published ones
    browser: SampleBrowser | None  # documents to look through; None without samples


@dataclass(frozen=True)
class ReportData:
    """The page, before layout."""

    title: str
    subject: str
    banners: tuple[Banner, ...]
    findings: tuple[Finding, ...]  # who is better on what: the first screen
    settings: str  # the first model's, in one line
    marks: tuple[Mark, ...]  # whether the figures can be trusted
    warnings: tuple[tuple[str, tuple[str, ...]], ...]  # of the runs, with the models they hold for
    summary: Summary
    sizes: tuple[dict[str, Any], ...]
    models: tuple[ModelCard, ...]
    tasks: tuple[TaskSection, ...]
    probes: tuple[ProbeView, ...]
    version: str


def summary_of(tasks: Sequence[TaskSection], labels: Sequence[str]) -> Summary:
    """Return the summary: a row for each task, headline metric and group of settings.

    Args:
        tasks: of the page.
        labels: the page's models, the first one first.
    """
    rows: list[SummaryRow] = []
    for number, task in enumerate(tasks, 1):
        gaps = task.lead == labels[0]  # the column of differences is of the first model
        if task.perplexity is not None:
            rows += _perplexity_rows(task, task.perplexity, labels, number=number, gaps=gaps)
        if task.generation is not None:
            figures = {line.figure.model: line.figure for line in task.generation.lines if line.figure.series}
            rows += _rows(
                SummaryRow(
                    task=task.name,
                    number=number,
                    metric="MAUVE, mean ± standard deviation over seeds",
                    higher_is_better=True,
                    cells=tuple(map(figures.get, labels)),
                    gaps=(None,) * len(labels[1:]),
                    published=_published(task.published, "MAUVE"),
                    n=task.generation.n_human,
                )
            )
        for table in task.tables:
            figures = {row.model: row for row in table.rows}
            cells = tuple(map(figures.get, labels))
            rows += _rows(
                SummaryRow(
                    task=task.name,
                    number=number,
                    metric=table.metric if table.filter == "none" else f"{table.metric}, {table.filter}",
                    higher_is_better=table.higher_is_better,
                    share=table.share,
                    cells=cells,
                    gaps=tuple(cell.difference if cell and gaps else None for cell in cells[1:]),
                    published=_published(task.published, _published_metric(table.metric)),
                    n=next((cell.n for cell in cells if cell is not None), None),
                )
            )
    return Summary(labels=tuple(labels), rows=tuple(rows))


def _rows(row: SummaryRow) -> list[SummaryRow]:
    """Return the row, or one row per settings if its figures were made under several; none without a figure."""
    groups = groups_of([cell for cell in row.cells if cell is not None and cell.value is not None])
    found = []
    for group in groups:
        models = {cell.model for cell in group.figures}
        cells = tuple(cell if cell is not None and cell.model in models else None for cell in row.cells)
        gaps = tuple(
            gap if cells[0] is not None and cell is not None else None
            for gap, cell in zip(row.gaps, cells[1:], strict=True)
        )
        apart = apart_of(groups, group)
        n = group.figures[0].n if len(groups) > 1 else row.n
        only = f"only {apart}" if apart else ""
        found.append(replace(row, cells=cells, gaps=gaps, best=_best(cells, gaps), only=only, n=n))
    return found


def _perplexity_rows(
    task: TaskSection, perplexity: PerplexitySection, labels: Sequence[str], *, number: int, gaps: bool
) -> list[SummaryRow]:
    """Return headline bits per byte, next-token bits per byte, headline perplexity per token, as_released.

    Figures per token share a row only if their tokens are the same; if they are not, perplexity per word stands beside
    bits per byte, and a row for each kind of tokens below.
    """
    head: tuple[str, ...] = ("bound", "exact")
    released: tuple[str, ...] = ("as_released",)
    wanted: list[tuple[str, tuple[str, ...], str, str | None]] = [
        ("bits per byte", head, "bits_per_byte", None),
        ("bits per byte, next token", ("causal", "exact"), "bits_per_byte", None),
    ]
    own_tokens = list(dict.fromkeys(line.own_tokens for row in perplexity.rows for line in row.lines))
    if own_tokens != [""]:
        wanted.append(("perplexity per word", head, "per_word", None))
    for names, words in ((head, ""), (released, ", as_released: not a bound")):
        wanted += [(f"{per_token_words(own)}{words}", names, "per_token", own) for own in own_tokens]
    found = []
    there = {row.name for row in perplexity.rows}
    for metric, names, unit, own in wanted:
        lines = {
            line.label: line
            for row in perplexity.rows
            if row.name in names
            for line in row.lines
            if own is None or line.own_tokens == own
        }
        if not lines or names[0] not in there | {"bound"}:
            continue
        differences = {
            line.label: one for line, one in perplexity.differences if unit == "bits_per_byte" and one.ours in names
        }
        # Published figures per token count GPT-2's tokens.
        kinds = {
            (line.tokens.digest, line.tokens.of_blocks) if line.tokens is not None else None for line in lines.values()
        }
        counts_gpt2 = kinds <= {(GPT2_DIGEST, False)}
        found += _rows(
            SummaryRow(
                task=task.name,
                number=number,
                metric=metric,
                higher_is_better=False,
                bits=unit == "bits_per_byte",
                cells=tuple(getattr(lines[label], unit) if label in lines else None for label in labels),
                gaps=tuple(differences.get(label) if gaps else None for label in labels[1:]),
                published=_published_perplexity(task.published, released="as_released" in names)
                if unit == "per_token" and counts_gpt2
                else (),
                n=next((lines[label].documents for label in labels if label in lines), None),
            )
        )
    return found


def _best(cells: Sequence[Figure | None], gaps: Sequence[Difference | None]) -> int | None:
    """Return the index of the best model, if the differences prove it.

    0 if the first model is better than all others with figures; 1 if it is worse than the only other one.
    """
    with_figure = [gap for gap, cell in zip(gaps, cells[1:], strict=True) if cell is not None]
    if not with_figure or any(gap is not None and gap.caveat for gap in with_figure):
        return None
    if all(gap is not None and gap.verdict == "better" for gap in with_figure):
        return 0
    return 1 if [gap.verdict if gap else "" for gap in gaps] == ["worse"] else None


def _published_metric(metric: str) -> str:
    return "accuracy (%)" if metric in {"exact_match", "acc"} else f"{metric} (%)" if metric.startswith("pass@") else ""


def _published(rows: Iterable[Published], metric: str) -> tuple[Published, ...]:
    """Return figures of that metric, of LTMs and plain GPT-2 models: LTMs first, each model once."""
    return _few([row for row in rows if metric and row.metric == metric and _FAMILIES.fullmatch(row.model)])


def _published_perplexity(rows: Iterable[Published], *, released: bool) -> tuple[Published, ...]:
    """Return zero-shot perplexities per token: of LTMs beside as_released, of GPT-2 beside exact figures."""
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


# Building


def gather(paths: Sequence[str | Path]) -> tuple[list[Run], list[Probe]]:
    """Return the runs and the probes in `paths`, files or folders with all below them.

    Raises:
        ResultsError: a path holds neither, or a file is malformed.
    """
    places = list(map(Path, paths))
    probed = {place: find_probes([place]) for place in places}
    with_runs = [
        place
        for place in places
        if not probed[place] or not (is_probe(place) or (place.is_dir() and not result_files(place)))
    ]
    return find_runs(with_runs, newest_only=False), find_probes(places)


def build(runs: Sequence[Run], probes: Sequence[Probe] = (), *, full: bool = False) -> ReportData:
    """Compute the page of the columns that `runs` make; the first LTM is compared with all others. `probes` follow.

    Args:
        full: all documents in the sample browsers, however large the page becomes.

    Raises:
        ResultsError: neither, or a samples file or sidecar is malformed.
    """
    views = tuple(map(probe_view, probe_labels(probes), probes))
    if not runs and views:
        return _of_probes(views)
    if not runs:
        raise ResultsError("nothing to report: no runs were given; pass a results file or a folder that holds some")
    named = subject_first(columns_of(runs))
    tasks = [read_task(task) for task in compared_tasks(named)]
    names = [task.name for task in tasks]
    banners = run_banners(named) + limit_banners(named, names) + older_banners(named)
    sections = [_section(task, share_of_page=SAMPLE_BYTES // len(tasks), full=full) for task in tasks]
    for task in tasks:
        banners += task_banners(task.tables)
    banners += missing_task_banners(named, names)
    rows = findings(tasks, named)
    return ReportData(
        title=_title([label for label, _ in named]),
        subject=named[0][0],
        banners=tuple(dict.fromkeys(banners)),
        findings=tuple(rows),
        settings=settings_line(tasks, named, rows),
        marks=tuple(marks_of(tasks, named, rows)),
        warnings=tuple(shared_warnings(named)),
        summary=summary_of(sections, [label for label, _ in named]),
        sizes=size_rows(named, [row for section in sections for row in section.costs]),
        models=tuple(_card(label, run) for label, run in named),
        tasks=tuple(sections),
        probes=views,
        version=__version__,
    )


def _title(labels: Sequence[str]) -> str:
    first, *others = labels
    if len(others) > MOST_NAMED:
        return f"{first} against {others[0]} and {len(others) - 1} more"
    return f"{first} against {', '.join(others)}" if others else first


def rows_of(columns: Sequence[Run]) -> str:
    """Return the rows of the page's first screen for a terminal; empty if nothing is compared.

    Args:
        columns: of `results.columns`.

    Raises:
        ResultsError: a samples file or sidecar is malformed.
    """
    named = subject_first(columns)
    tasks = [read_task(task) for task in compared_tasks(named)]
    rows = findings(tasks, named)
    return findings_text(rows, settings_line(tasks, named, rows))


def _of_probes(views: tuple[ProbeView, ...]) -> ReportData:
    """Return the page of probes without runs."""
    demo = [
        Banner("alarm", f"Demo model: {view.label} is bundled to try the program with.") for view in views if view.demo
    ]
    return ReportData(
        title=f"Probe of {', '.join(view.label for view in views)}",
        subject=views[0].label,
        banners=tuple(dict.fromkeys(demo)),
        findings=(),
        settings="",
        marks=(),
        warnings=(),
        summary=Summary((), ()),
        sizes=(),
        models=(),
        tasks=(),
        probes=views,
        version=__version__,
    )


def _section(told: Told, *, share_of_page: int, full: bool) -> TaskSection:
    task, records = told.tables, told.latents
    name, entries, tables, perplexity = task.name, task.entries, task.tables, task.perplexity
    scored_texts_only = perplexity is not None and not any(table.share for table in tables)
    effect = effect_tables(name, entries)
    # None if a run scored other data under the set's name.
    others = any(unofficial_data(name, entry.run) or is_bundled(name, entry.run) for entry in entries)
    published = () if others else published_for(name)
    rows = perplexity.rows if perplexity is not None else ()
    alike = of_same_tokens(entries, rows, lead=next(iter(records), ""))
    layers = (layers_view(label, own) for label, own in records.items())
    return TaskSection(
        name=name,
        lead=task.lead,
        versions=", ".join(dict.fromkeys(entry.run.tasks[name].version or "?" for entry in entries)),
        tables=folded(tables),
        effect=effect,
        grid=grid_of(task),
        budget=budget_rows(name, entries),
        latents=tuple(latent_summary(label, own) for label, own in records.items()),
        layers=tuple(view for view in layers if view is not None),
        compute=diagnostics.compute_curves(name, entries, records, tables=tables, perplexity=perplexity),
        published=published,
        definition=flat(entries[0].run.tasks[name].config),
        perplexity=perplexity,
        generation=task.generation,
        labels=tuple(entry.label for entry in entries),
        answering=told.answering,
        attempts=attempts_lines(tables),
        shots=shots_lines(effect),
        shots_pass=shots_pass_lines(effect),
        steps=step_curves(alike, records, rows) if rows else (),
        draws=draw_lines(alike, records, rows),
        costs=told.costs,
        figures=(*task.figures, *(_published_export(name, one) for one in published)),
        browser=sample_browser(
            name,
            entries,
            records,
            costs=perplexity.documents if perplexity is not None and scored_texts_only else (),
            kept={entry.label: stored(read_tokens(entry.run, name)) for entry in entries},
            budget=share_of_page,
            full=full,
        ),
    )


def grid_of(task: TaskTables) -> Table | None:
    """Return a task's first figure of LTMs that ran under several settings; None without two numbers of fast steps."""
    cells: dict[tuple[str, str, str], dict[int, Cell]] = {}
    for entry in task.entries:
        steps = mapping(entry.run.config.get("fit")).get("t_fast")
        if entry.run.model_kind == "ltm" and isinstance(steps, int):
            shots, condition = entry.run.tasks[task.name].n_shot, str(entry.run.config.get("condition") or UNTOLD)
            row = (entry.run.model_name, condition, UNTOLD if shots is None else f"{shots:,}")
            cells.setdefault(row, {})[steps] = value_cell(headline_of(task, entry.label)[1])
    counts = sorted({steps for own in cells.values() for steps in own})
    if len(counts) < MIN_STEPS:
        return None
    heads = (Column("Model"), Column("Condition"), Column("Shots", numeric=True))
    columns = (*heads, *(Column(f"{steps:,} fast steps", numeric=True) for steps in counts))
    rows = tuple((*map(Cell, row), *(own.get(steps, Cell(UNTOLD)) for steps in counts)) for row, own in cells.items())
    return Table(headline_of(task, task.lead)[0], columns, rows)


def folded(tables: Sequence[ScoreTable]) -> tuple[ScoreTable, ...]:
    """Return the tables; those of one metric whose filters give equal figures are one, named after all of them."""
    found: dict[tuple[Any, ...], list[ScoreTable]] = {}
    for table in tables:
        gaps = [one.difference and replace(one.difference, p_holm=None, verdict="") for one in table.rows]
        rows = ((one.model, one.value, one.low, one.high, one.n, one.note) for one in table.rows)
        shown = zip(rows, gaps, strict=True)
        found.setdefault((table.metric, *shown), []).append(table)
    made = []
    for own in found.values():
        name = " = ".join(table.filter for table in own)
        made.append(replace(own[0], filter=name, rows=tuple(replace(row, filter=name) for row in own[0].rows)))
    return tuple(made)


def _card(label: str, run: Run) -> ModelCard:
    told = told_of(run)
    parameters = next((told[key] for key in PARAMETER_KEYS if isinstance(told.get(key), int)), None)
    return ModelCard(
        label=label,
        kind=run.model_kind,
        digest=told_digest(told),
        parameters=parameters,
        step=_step(run),
        sizes=_sizes(run),
        sources=tuple(_sources(run)),
        sample_data=run.extra.sample_data,
        date=run.date_id,
        seconds=run.seconds,
        paths=tuple(part.path.as_posix() for part in run.parts or (run,)),
        command="\n".join(dict.fromkeys(part.extra.command for part in run.parts or (run,) if part.extra.command)),
        warnings=run.extra.warnings,
        audit=audit_line(run),
        audit_passed=run.extra.audit is None or run.extra.audit.is_bound,
        settings=flat({**run.config, **({"run": dict(run.extra.settings)} if run.extra.settings else {})}),
        data=flat(run.extra.data or {}),
        provenance=flat({**run.software, **(run.extra.provenance or {})}),
    )


def _step(run: Run) -> int | None:
    checkpoint = run.config.get("checkpoint")
    step = checkpoint.get("step") if isinstance(checkpoint, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _sizes(run: Run) -> str:
    """Return layers, width, latents and context in words."""
    sizes = run.config.get("sizes")
    told = sizes if isinstance(sizes, dict) else {}
    words = (("n_layers", "layers"), ("dim", "wide"), ("max_z_len", "latent vectors"), ("max_seq_len", "tokens"))
    return ", ".join(f"{told[key]} {word}" for key, word in words if isinstance(told.get(key), int))


def _sources(run: Run) -> list[str]:
    """Return `task: sample, 4 of 120 documents` for every task."""
    found = []
    for name, result in run.tasks.items():
        facts = read_facts((run.extra.data or {}).get("sets"), name)
        of_all = f" of {result.n_original:,}" if result.n_original not in (None, result.n_effective) else ""
        counted = f"{result.n_effective:,}{of_all} documents" if result.n_effective is not None else ""
        where = "bundled sample" if is_bundled(name, run) else str(facts.get("split") or "")
        found.append(f"{name}: {', '.join(filter(None, (where, counted))) or 'not told'}")
    return found


# Plots

PROBE_MEASURES = ("top1", "saved", "greedy", "prefix")  # NLL's texts differ more than its layers: the table shows it


def page_plots(data: ReportData) -> dict[str, Plot]:
    """Return every plot of a page by the name that its template knows it by."""
    found: dict[str, Plot] = {}
    for number, task in enumerate(data.tasks, 1):
        found |= {f"{name}-{number}": plot for name, plot in _task_plots(task)}
    for number, view in enumerate(data.probes, 1):
        measures = [one for one in view.measures if one.key in PROBE_MEASURES]
        found |= {f"probe-{number}-{measure.key}": reconstruction(measure) for measure in measures}
    return found


def _task_plots(task: TaskSection) -> Iterator[tuple[str, Plot]]:
    rows = [row for table in task.tables if table.share for row in table.rows]
    if shares := [row for row in rows if row.value is not None and 0 <= row.value <= 1]:
        yield "bars", accuracy_bars(shares)
    if curves := [one["curve"] for one in task.latents if one["curve"] is not None]:
        yield "fit", fit_trajectory(curves)
    if task.generation is not None and task.generation.curves:
        yield "divergence", divergence_curves(task.generation.curves)
    if task.attempts:
        yield "attempts", bands(task.attempts, x="attempts k", y="pass@k, percent")
    if task.shots:
        yield "shots", bands(task.shots, x="demonstrations", y="percent correct")
    k, lines = task.shots_pass
    if lines:
        yield "shots-pass", bands(lines, x="demonstrations", y=f"pass@{k}, percent")
    if task.steps:
        yield "steps", bound_over_steps(task.steps)
    if task.draws:
        yield "draws", bands(task.draws, x="noise draws", y="perplexity per token", scale=1, doubling=True)
    if task.perplexity is not None:
        if task.perplexity.stacks:
            yield "parts", stacked_bars(task.perplexity.stacks)
        if models := [one for one in task.perplexity.documents if len(one.bits) > 1]:
            yield "spread", histogram(models)
    yield from _compute_plots(task.compute)


def _compute_plots(curves: Sequence[ComputeCurve]) -> Iterator[tuple[str, Plot]]:
    shares, bounds = ([one for one in curves if one.points[0][2].share is share] for share in (True, False))
    shares = [curve for curve in shares if curve.metric == shares[0].metric]  # a plot shows one quantity
    for kind, same in (("share", shares), ("bound", bounds)):
        if same:
            yield f"steps-{kind}", compute_curves(same, flops=False)
        if same and all(flops is not None for curve in same for _, flops, _ in curve.points):
            yield f"flops-{kind}", compute_curves(same, flops=True)


# Layout


def render(data: ReportData, plots: Mapping[str, Plot] | None = None) -> str:
    """Return the page: one self-contained HTML document, the same bytes for the same data.

    Args:
        data: what the page shows.
        plots: those of `page_plots(data)`, if they are made already.
    """
    plots = page_plots(data) if plots is None else plots
    template = environment().get_template("report.html.jinja2")
    first, more = _first_rows(data.findings)
    widths = {unit: _width(row for row in data.findings if _scale(row) == unit) for unit in map(_scale, data.findings)}
    return template.render(
        data=data,
        first_rows=first,
        more_rows=more,
        drawn=lambda row: markup(_drawn(row, widths[_scale(row)])),
        scales=[f"±{width:g} {unit}" for unit, width in widths.items() if width],
        unfair=unfair(data.findings),
        most_unfair=MOST_UNFAIR,
        results=[_results(data, task) for task in data.tasks],
        plots={name: markup(inline_svg(plot, name=name)) for name, plot in plots.items()},
        settings=_side_by_side(data.models),
        explorers=[markup(explorer_json(view)) for view in data.probes],
        figures_of=figures_of,
        forms=summary_texts(data.summary),
        whole=lambda text: markup(html.escape(text)),  # not cut; its parts are visible already
        **assets("report", "explorer", "tokens.css"),
    )


def _first_rows(rows: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Return the rows of the first screen, those of baselines before others, and the rest; both in the page's order."""
    ranked = sorted(rows, key=lambda row: not row.baseline)
    first = ranked[:MOST_ROWS]
    own = [row for row in first if row.baseline] if len(rows) > MOST_ROWS else first
    first = own or first
    return [row for row in rows if row in first], [row for row in rows if row not in first]


def _scale(row: Finding) -> str:
    """Return what rows share a scale by: their unit, else their own metric."""
    return row.unit or row.metric


def _width(rows: Iterable[Finding]) -> float:
    """Return half the width of a scale, a round number, in the unit in which its rows are shown; 0 without a number."""
    most = 0.0
    for row in rows:
        if row.difference is not None:
            ends = (row.difference.estimate, row.difference.low, row.difference.high)
            most = max(most, *(abs(end) * (100 if row.share else 1) for end in ends if math.isfinite(end)))
    if not most:
        return 0.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= most * 0.999)


def _drawn(row: Finding, width: float) -> str:
    """Return a row of the forest plot as SVG: to the right of the middle the first model is better."""
    found = row.difference
    parts = [f'<path class="zero" d="M{MIDDLE} 0V20"/>']
    if found is not None and width and math.isfinite(found.estimate):
        side = (100 if row.share else 1) * (-1 if row.higher_is_better is False else 1) * (MIDDLE - 6) / width
        at = MIDDLE + side * found.estimate
        if found.known:
            low, high = sorted((MIDDLE + side * found.low, MIDDLE + side * found.high))
            parts.append(f'<path class="ends" d="M{low:.1f} 10H{high:.1f}"/>')
        parts.append(f'<path class="dot" d="M{at - 4.5:.1f} 10a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0"/>')
    shape = f'viewBox="0 0 {2 * MIDDLE} 20" width="{2 * MIDDLE}" height="20"'
    return f'<svg {shape} aria-hidden="true" focusable="false">{"".join(parts)}</svg>'


def _results(data: ReportData, task: TaskSection) -> list[tuple[str, str]]:
    """Return what the heading of a task says: kind and words of its rows, else its first figure."""
    rows = sorted((row for row in data.findings if row.task == task.name), key=lambda row: not row.baseline)
    found = []
    for row in rows[:MOST_RESULTS]:
        gap = f" {row.gap}" if row.difference is not None else ""
        found.append((row.word.lower().replace(" ", "-"), f"{row.word}:{gap} against {row.other}"))
    if len(rows) > MOST_RESULTS:
        found.append(("", f"{len(rows) - MOST_RESULTS} more"))
    figures = (cell for row in data.summary.rows if row.task == task.name for cell in row.cells[:1] if cell is not None)
    first = next(figures, None)
    return found or ([("", f"{metric_text(first)} {value_text(first)}")] if first is not None else [])


def _side_by_side(models: Sequence[ModelCard]) -> list[tuple[str, list[tuple[str, list[str], bool]]]]:
    """Return settings, data and provenance of all runs as rows: key, a value per run, whether they differ."""
    parts = []
    for title, column in (
        ("Settings", [dict(model.settings) for model in models]),
        ("Data", [dict(model.data) for model in models]),
        ("Provenance", [dict(model.provenance) for model in models]),
    ):
        keys = list(dict.fromkeys(key for values in column for key in values))
        rows = [(key, [values.get(key, "–") for values in column]) for key in keys]
        if rows:
            parts.append((title, [(key, values, len(set(values)) > 1) for key, values in rows]))
    return parts


def write(page: str, path: str | Path) -> None:
    """Write the page: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    write_output(Path(path), page)


# Other formats


def export(data: ReportData, places: Mapping[str, Path], *, plots_dir: Path | None) -> list[Path]:
    """Write the report in every format to its place, and its plots to `plots_dir`; return what was written.

    Raises:
        MachineError: a file cannot be written.
    """
    plots = page_plots(data) if plots_dir is not None or "html" in places else {}
    if "html" in places:
        write(render(data, plots), places["html"])
    files = [] if plots_dir is None else write_plots(plots, plots_dir, tasks=[task.name for task in data.tasks])
    tables = {name: path for name, path in places.items() if name != "html"}
    if tables:
        made = document(data)
        write_all({name: partial(RENDERERS[name], made) for name in tables}, tables)
    return [*places.values(), *files]


def document(data: ReportData) -> Document:
    """Return the report's summary and the tables of its tasks."""
    figures = [one for task in data.tasks for one in task.figures]
    others = ", ".join(model.label for model in data.models[1:])
    return Document(
        kind="report",
        title=data.title,
        lead=f"Differences are {data.subject} minus the model of the row, paired by document." if others else "",
        banners=data.banners,
        parts=(
            Part(title="Summary", tables=(summary_table(data.summary),)),
            *(_task_part(task, figures) for task in data.tasks),
        ),
        records=tuple(one.record() for one in figures),
        data={
            "title": data.title,
            "subject": data.subject,
            "banners": [asdict(banner) for banner in data.banners],
            "verdicts": [
                {"kind": row.kind, "word": row.word, "text": row.sentence, "caveat": " ".join(unfair([row]))}
                for row in data.findings
            ],
            "models": [asdict(model) for model in data.models],
            "tasks": [{"name": task.name, "versions": task.versions} for task in data.tasks],
            "figures": [one.record() for one in figures],
        },
    )


def _published_export(name: str, one: Published) -> Figure:
    return Figure(
        task=name,
        metric=one.metric,
        model=f"{one.model} {one.params}".strip(),
        status=PUBLISHED,
        bound=one.bound,
        value=one.value,
        n_shot=one.shots,
        note="; ".join(filter(None, (one.dataset, one.protocol, one.evidence))),
        source=one.source,
    )


def _task_part(task: TaskSection, figures: Sequence[Figure]) -> Part:
    own = [one for one in figures if one.task == task.name and one.status != PUBLISHED]
    groups = groups_of([one for one in own if one.status == EVALUATED])
    reference = [one for one in own if one.status == REFERENCE]
    tables = []
    for index, group in enumerate(groups):
        apart = apart_of(groups, group)
        members = group.figures + (reference if index == 0 else [])
        tables.append(_task_table(members, title=f"only {apart}" if apart else ""))
    published = [one for one in figures if one.task == task.name and one.status == PUBLISHED]
    tables += [_published_table(published)] if published else []
    return Part(title=f"{task.name}, version {task.versions}", tables=tuple(tables))


def _task_table(figures: Sequence[Figure], *, title: str) -> Table:
    heads = (
        "figure",
        "model",
        "value",
        "95 % interval",
        "n",
        "shots",
        "first - this",
        "95 % interval",
        "p",
        "first model is",
    )
    rows = []
    for one in figures:
        found = one.difference
        shown, scale = signed_bits if "bits" in one.metric and not one.share else signed, 100 if one.share else 1
        against = ("", "", "", "")
        if found is not None:
            estimate, low, high = (shown(scale * value) for value in (found.estimate, found.low, found.high))
            p = p_both(found.p_value, found.p_holm)
            against = (estimate, f"{low} to {high}" if found.known else UNTOLD, p, VERDICTS[found.verdict])
        numbers = tuple(UNTOLD if count is None else f"{count:,}" for count in (one.n, one.n_shot))
        texts = (value_text(one), interval_text(one), *numbers, *against)
        rows.append((Cell(metric_text(one)), Cell(one.model, note=status_note(one)), *(Cell(text) for text in texts)))
    columns = tuple(Column(head, numeric=index in range(2, 9)) for index, head in enumerate(heads))
    return Table(title, columns, tuple(rows), TASK_CAPTION)


def _published_table(figures: Sequence[Figure]) -> Table:
    columns = (
        Column("model"),
        Column("metric"),
        Column("value", numeric=True),
        Column("shots", numeric=True),
        Column("set, protocol"),
        Column("source"),
    )
    rows = tuple(
        (
            Cell(one.model, note=PUBLISHED),
            Cell(one.metric),
            Cell(value_text(one)),
            Cell(UNTOLD if one.n_shot is None else str(one.n_shot)),
            Cell(one.note),
            Cell(one.source),
        )
        for one in figures
    )
    return Table("Published, not re-run", columns, rows)
