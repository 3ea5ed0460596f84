"""One HTML page from results files: what ran, the LTM beside its baselines, the samples.

    write(render(build(find_runs(["results/"]))), "report.html")

`build` computes every figure of the page, `render` only lays it out. The page is one file without network access: its
content security policy allows the one inline style and script by their digest and nothing else. Model text is not
trusted: Jinja escapes it, control and bidirectional characters become visible, long fields are cut. Nothing depends on
the clock, so the same results give the same bytes.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ltm_eval import __version__
from ltm_eval.effect_tables import budget_rows, effect_tables
from ltm_eval.errors import ResultsError
from ltm_eval.generation import METRICS as GENERATION_METRICS
from ltm_eval.generation import generation_section
from ltm_eval.latents import latent_summary
from ltm_eval.page import ModelCard, ReportData, TaskSection
from ltm_eval.paths import reports_dir
from ltm_eval.plots import Bar
from ltm_eval.ppl_tables import METRICS, perplexity_section
from ltm_eval.results import read_latents, write_text_atomic
from ltm_eval.samples import sample_views
from ltm_eval.scores import bars_of, entry_of, flat, labels_of, published_for, score_table
from ltm_eval.verdicts import audit_line, run_banners, task_banners, verdicts_of
from ltm_eval.wording import cut, duration, number, p_words, percent, short, signed, signed_bits, visible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jinja2 import Environment
    from markupsafe import Markup

    from ltm_eval.page import PerplexitySection
    from ltm_eval.results import Run
    from ltm_eval.scores import Entry

SAMPLE_BYTES = 3_000_000
DIGEST_KEYS = ("checkpoint_sha256", "checkpoint_digest", "model_sha", "model_revision")
PARAMETER_KEYS = ("parameters", "model_num_parameters")


# Building


def build(runs: Sequence[Run]) -> ReportData:
    """Compute the page for `runs`; the first LTM among them is compared with all others.

    Raises:
        ResultsError: no runs, or a samples file or sidecar is malformed.
    """
    if not runs:
        raise ResultsError("nothing to report: no runs were given; pass a results file or a folder that holds some")
    labels = labels_of(runs)
    subject = next((index for index, run in enumerate(runs) if run.model_kind == "ltm"), 0)
    order = [subject, *(index for index in range(len(runs)) if index != subject)]
    named = [(labels[index], runs[index]) for index in order]
    names = list(dict.fromkeys(task for _, run in named for task in run.tasks))
    sections, verdicts, banners = [], [], run_banners(named)
    for name in names:
        entries = [entry_of(label, series, run, task=name) for series, (label, run) in enumerate(named, 1)]
        entries = [entry for entry in entries if name in entry.run.tasks]
        section = _section(name, entries, subject=named[0][0], share_of_page=SAMPLE_BYTES // len(names))
        sections.append(section)
        verdicts += verdicts_of(section, subject=named[0][0])
        banners += task_banners(name, entries, section)
    others = ", ".join(label for label, _ in named[1:])
    return ReportData(
        title=f"{named[0][0]} against {others}" if others else named[0][0],
        subject=named[0][0],
        banners=tuple(dict.fromkeys(banners)),
        verdicts=tuple(verdicts),
        models=tuple(_card(label, run) for label, run in named),
        tasks=tuple(sections),
        version=__version__,
    )


def _section(name: str, entries: Sequence[Entry], *, subject: str, share_of_page: int) -> TaskSection:
    generation = generation_section(name, entries)
    elsewhere = METRICS | (GENERATION_METRICS if generation is not None else set())
    scores = [s for entry in entries for s in entry.run.tasks[name].scores if s.metric not in elsewhere]
    keys = list(dict.fromkeys((s.metric, s.filter) for s in scores))
    tables = tuple(
        score_table(name, entries, metric=metric, filter_=filter_, subject=subject) for metric, filter_ in keys
    )
    perplexity = perplexity_section(name, entries, subject=subject)
    scored_texts_only = perplexity is not None and not any(table.share for table in tables)
    samples, documents = ((), 0) if scored_texts_only else sample_views(entries, budget=share_of_page)
    return TaskSection(
        name=name,
        versions=", ".join(dict.fromkeys(entry.run.tasks[name].version or "?" for entry in entries)),
        tables=tables,
        bars=bars_of(tables),
        effect=effect_tables(name, entries),
        budget=budget_rows(name, entries),
        latents=tuple(
            latent_summary(entry.label, records) for entry in entries if (records := read_latents(entry.run, name))
        ),
        published=published_for(name),
        definition=flat(entries[0].run.tasks[name].config),
        perplexity=perplexity,
        generation=generation,
        labels=tuple(entry.label for entry in entries),
        samples=samples,
        documents=documents,
    )


def _card(label: str, run: Run) -> ModelCard:
    arguments = run.config.get("model_args")
    told = {**(arguments if isinstance(arguments, dict) else {}), **run.config}
    parameters = next((told[key] for key in PARAMETER_KEYS if isinstance(told.get(key), int)), None)
    return ModelCard(
        label=label,
        kind=run.model_kind,
        digest=next((str(told[key]) for key in DIGEST_KEYS if told.get(key)), ""),
        parameters=parameters,
        date=run.date_id,
        seconds=run.seconds,
        path=run.path.as_posix(),
        command=run.extra.command,
        warnings=run.extra.warnings,
        audit=audit_line(run),
        audit_passed=run.extra.audit is None or run.extra.audit.is_bound,
        settings=flat({**run.config, **({"run": dict(run.extra.settings)} if run.extra.settings else {})}),
        data=flat(run.extra.data or {}),
        provenance=flat({**run.software, **(run.extra.provenance or {})}),
    )


# Layout


def render(data: ReportData) -> str:
    """The page for `data`: one self-contained HTML document, the same bytes for the same data."""
    from ltm_eval import plots

    folder = reports_dir()
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    figures = {}
    for index, task in enumerate(data.tasks, 1):
        if task.bars:
            figures[f"bars-{index}"] = _markup(plots.accuracy_bars(_shown(task.bars), name=f"bars-{index}"))
        curves = [replace(one.curve, label=visible(one.label)) for one in task.latents if one.curve is not None]
        if curves:
            figures[f"fit-{index}"] = _markup(plots.fit_trajectory(curves, name=f"fit-{index}"))
        if task.generation is not None and task.generation.curves:
            shown = [replace(one, label=visible(one.label)) for one in task.generation.curves]
            figures[f"divergence-{index}"] = _markup(plots.divergence_curves(shown, name=f"divergence-{index}"))
        if task.perplexity is not None:
            figures |= _perplexity_figures(task.perplexity, index=index)
    return (
        _environment()
        .get_template("report.html.jinja2")
        .render(
            data=data,
            figures=figures,
            style=_markup(style),
            script=_markup(script),
            policy=_policy(style=style, script=script),
            settings=_side_by_side(data.models),
        )
    )


def _perplexity_figures(section: PerplexitySection, *, index: int) -> dict[str, Markup]:
    from ltm_eval import plots

    figures = {}
    stacks = [replace(stack, label=visible(stack.label)) for stack in section.stacks]
    spreads = [replace(spread, label=visible(spread.label)) for spread in section.spreads if len(spread.values) > 1]
    if stacks:
        figures[f"parts-{index}"] = _markup(plots.stacked_bars(stacks, name=f"parts-{index}"))
    if spreads:
        figures[f"spread-{index}"] = _markup(plots.histogram(spreads, name=f"spread-{index}"))
    return figures


def _markup(text: str) -> Markup:
    """Mark-up of our own making: files of this package, and figures whose text the XML writer has escaped.

    Never called with text of a model or a results file.
    """
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 # nosec B704


def _shown(bars: Sequence[Bar]) -> list[Bar]:
    return [Bar(group=visible(b.group), label=visible(b.label), value=b.value, low=b.low, high=b.high) for b in bars]


def _environment() -> Environment:
    """Jinja with escaping on, undefined names an error, and every text made visible and cut on its way out."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(reports_dir() / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(
        percent=percent,
        number=number,
        short=short,
        signed=signed,
        signed_bits=signed_bits,
        p_words=p_words,
        duration=duration,
        grouped=lambda value: f"{value:,}",
    )
    return environment


def _finalize(value: Any) -> Any:
    """What every expression of a template passes through; our own mark-up is left alone."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return visible(cut(value))
    return value


def _policy(*, style: str, script: str) -> str:
    """Content security policy that admits exactly this style and this script."""

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {allowed(style)}; script-src {allowed(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _side_by_side(models: Sequence[ModelCard]) -> list[tuple[str, list[tuple[str, list[str], bool]]]]:
    """Settings, data and provenance of all runs as rows of one table: (key, one value per run, whether they differ)."""
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


def write(html: str, path: str | Path) -> None:
    """Write the page: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    write_text_atomic(path, html)
