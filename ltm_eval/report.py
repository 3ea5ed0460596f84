"""One HTML page from results files: what ran, the LTM beside its baselines, the samples.

    write(render(build(find_runs(["results/"]))), "report.html")

`build` computes every figure of the page, `render` only lays it out. The page is one file without network access: its
content security policy allows the one inline style and script by their digest and nothing else. Model text is not
trusted: Jinja escapes it, control and bidirectional characters become visible, long fields are cut. Nothing depends on
the clock, so the same results give the same bytes.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_eval import __version__
from ltm_eval.answering import answer_facts, attempts_lines, shots_lines, shots_pass_lines
from ltm_eval.bound_curves import draw_lines, step_curves
from ltm_eval.compute import compute_curves
from ltm_eval.cost import cost_rows, size_rows
from ltm_eval.effect_tables import budget_rows, effect_tables
from ltm_eval.errors import ResultsError
from ltm_eval.generation import METRICS as GENERATION_METRICS
from ltm_eval.generation import generation_section
from ltm_eval.joined import joined
from ltm_eval.latent_page import TaskLatents
from ltm_eval.latents import latent_summary
from ltm_eval.layer_maps import layers_view
from ltm_eval.layout import assets, environment, markup
from ltm_eval.page import Banner, ModelCard, ReportData, TaskSection
from ltm_eval.page_figures import page_figures
from ltm_eval.ppl_tables import METRICS, document_costs, of_same_tokens, perplexity_section
from ltm_eval.probe_results import find_probes, is_probe
from ltm_eval.probe_views import explorer_json, figures_of, probe_labels, probe_view
from ltm_eval.results import find_runs, read_answers, read_latents, read_tokens, result_files
from ltm_eval.samples import sample_browser
from ltm_eval.scores import bars_of, entry_of, flat, labels_of, published_for, score_table
from ltm_eval.signatures import read_facts
from ltm_eval.strict_files import write_text_atomic
from ltm_eval.summary import summary_of
from ltm_eval.summary_text import summary_texts
from ltm_eval.token_views import stored
from ltm_eval.verdicts import (
    audit_line,
    corrected,
    limit_banners,
    missing_task_banners,
    run_banners,
    shared_warnings,
    task_banners,
    unofficial_data,
    verdicts_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.latent_page import ProbeView
    from ltm_eval.page import Published
    from ltm_eval.probe_results import Probe
    from ltm_eval.result_records import Run
    from ltm_eval.scores import Entry

SAMPLE_BYTES = 3_000_000
BRANCHES = ("main", "master")
"""What a host tells for a revision where none was asked for."""
DIGEST_KEYS = ("checkpoint_sha256", "checkpoint_digest", "model_sha", "model_revision")
PARAMETER_KEYS = ("parameters", "model_num_parameters")


# Building


def gather(paths: Sequence[str | Path]) -> tuple[list[Run], list[Probe]]:
    """The runs and the probes in `paths`, files or folders with all below them; runs by task are joined.

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
    return joined(find_runs(with_runs)), find_probes(places)


def build(runs: Sequence[Run], probes: Sequence[Probe] = (), *, full: bool = False) -> ReportData:
    """Compute the page for `runs`; the first LTM among them is compared with all others. `probes` follow.

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
    labels = labels_of(runs)
    subject = next((index for index, run in enumerate(runs) if run.model_kind == "ltm"), 0)
    order = [subject, *(index for index in range(len(runs)) if index != subject)]
    named = [(labels[index], runs[index]) for index in order]
    names = list(dict.fromkeys(task for _, run in named for task in run.tasks))
    sections, verdicts, banners = [], [], run_banners(named) + limit_banners(named, names)
    for name in names:
        entries = [entry_of(label, series, run, task=name) for series, (label, run) in enumerate(named, 1)]
        entries = [entry for entry in entries if name in entry.run.tasks]
        share = SAMPLE_BYTES // len(names)
        section = _section(name, entries, subject=named[0][0], share_of_page=share, full=full)
        sections.append(section)
        banners += task_banners(name, entries, section)
    sections = corrected(sections)
    for section in sections:
        verdicts += verdicts_of(section, subject=named[0][0])
    banners += missing_task_banners(named, names)
    others = ", ".join(label for label, _ in named[1:])
    return ReportData(
        title=f"{named[0][0]} against {others}" if others else named[0][0],
        subject=named[0][0],
        banners=tuple(dict.fromkeys(banners)),
        verdicts=tuple(verdicts),
        summary=summary_of(sections, [label for label, _ in named]),
        sizes=size_rows(named, [row for section in sections for row in section.costs]),
        models=tuple(_card(label, run) for label, run in named),
        tasks=tuple(sections),
        probes=views,
        version=__version__,
    )


def _of_probes(views: tuple[ProbeView, ...]) -> ReportData:
    """A page without runs."""
    demo = [
        Banner("alarm", f"Demo model: {view.label} is bundled to try the program with.") for view in views if view.demo
    ]
    return ReportData(
        title=f"Probe of {', '.join(view.label for view in views)}",
        subject=views[0].label,
        banners=tuple(dict.fromkeys(demo)),
        verdicts=(),
        summary=summary_of([], []),
        sizes=(),
        models=(),
        tasks=(),
        probes=views,
        version=__version__,
    )


def _section(name: str, entries: Sequence[Entry], *, subject: str, share_of_page: int, full: bool) -> TaskSection:
    generation = generation_section(name, entries)
    elsewhere = METRICS | (GENERATION_METRICS if generation is not None else set())
    scores = [s for entry in entries for s in entry.run.tasks[name].scores if s.metric not in elsewhere]
    keys = list(dict.fromkeys((s.metric, s.filter) for s in scores))
    tables = tuple(
        score_table(name, entries, metric=metric, filter_=filter_, subject=subject) for metric, filter_ in keys
    )
    perplexity = perplexity_section(name, entries, subject=subject)
    scored_texts_only = perplexity is not None and not any(table.share for table in tables)
    records = {entry.label: own for entry in entries if (own := read_latents(entry.run, name))}
    told = {entry.label: records.get(entry.label) or read_answers(entry.run, name) for entry in entries}
    costs = document_costs(name, entries) if scored_texts_only else ()
    effect = effect_tables(name, entries)
    rows = perplexity.rows if perplexity is not None else ()
    alike = of_same_tokens(entries, rows, lead=next(iter(records), ""))
    layers = (layers_view(label, own) for label, own in records.items())
    return TaskSection(
        name=name,
        versions=", ".join(dict.fromkeys(entry.run.tasks[name].version or "?" for entry in entries)),
        tables=tables,
        bars=bars_of(tables),
        effect=effect,
        budget=budget_rows(name, entries),
        latents=tuple(latent_summary(label, own) for label, own in records.items()),
        inference=TaskLatents(
            layers=tuple(view for view in layers if view is not None),
            compute=compute_curves(name, entries, records, tables=tables, perplexity=perplexity),
        ),
        published=_published(name, entries),
        definition=flat(entries[0].run.tasks[name].config),
        perplexity=perplexity,
        generation=generation,
        labels=tuple(entry.label for entry in entries),
        answering=answer_facts(name, entries, told),
        attempts=attempts_lines(tables),
        shots=shots_lines(effect),
        shots_pass=shots_pass_lines(effect),
        steps=step_curves(alike, records, rows) if rows else (),
        draws=draw_lines(alike, records, rows),
        costs=cost_rows(name, entries, records),
        browser=sample_browser(
            name,
            entries,
            records,
            costs=costs,
            kept={entry.label: stored(read_tokens(entry.run, name)) for entry in entries},
            budget=share_of_page,
            full=full,
        ),
    )


def _published(name: str, entries: Sequence[Entry]) -> tuple[Published, ...]:
    """Published figures of a set; none where a run scored other data under its name."""
    others = any(unofficial_data(name, entry.run) or _bundled(name, entry.run) for entry in entries)
    return () if others else published_for(name)


def _bundled(name: str, run: Run) -> bool:
    """Whether a task ran on the bundled sample data."""
    facts = read_facts((run.extra.data or {}).get("sets"), name)
    return facts.get("sample") is True or run.extra.sample_data


def _card(label: str, run: Run) -> ModelCard:
    arguments = run.config.get("model_args")
    told = {**(arguments if isinstance(arguments, dict) else {}), **run.config}
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
    """Layers, width and latents as a reader says them."""
    sizes = run.config.get("sizes")
    told = sizes if isinstance(sizes, dict) else {}
    words = (("n_layers", "layers"), ("dim", "wide"), ("max_z_len", "latent vectors"), ("max_seq_len", "tokens"))
    return ", ".join(f"{told[key]} {word}" for key, word in words if isinstance(told.get(key), int))


def _sources(run: Run) -> list[str]:
    """`task: sample, 4 of 120 documents` for every task."""
    found = []
    for name, result in run.tasks.items():
        facts = read_facts((run.extra.data or {}).get("sets"), name)
        of_all = f" of {result.n_original:,}" if result.n_original not in (None, result.n_effective) else ""
        counted = f"{result.n_effective:,}{of_all} documents" if result.n_effective is not None else ""
        where = "bundled sample" if _bundled(name, run) else str(facts.get("split") or "")
        found.append(f"{name}: {', '.join(filter(None, (where, counted))) or 'not told'}")
    return found


def told_digest(told: Mapping[str, object]) -> str:
    """The checkpoint's digest, as results tell it; a revision only where it is no name of a branch."""
    found = (str(told[key]) for key in DIGEST_KEYS if told.get(key))
    return next((text for text in found if text not in BRANCHES), "")


# Layout


def render(data: ReportData) -> str:
    """The page for `data`: one self-contained HTML document, the same bytes for the same data."""
    figures = {name: markup(svg) for name, svg in page_figures(data).items()}
    template = environment().get_template("report.html.jinja2")
    return template.render(
        data=data,
        figures=figures,
        settings=_side_by_side(data.models),
        warnings=shared_warnings(data.models),
        explorers=[markup(explorer_json(view)) for view in data.probes],
        figures_of=figures_of,
        forms=summary_texts(data.summary),
        whole=lambda text: markup(html.escape(text)),  # not cut; its parts are visible already
        **assets("report", "explorer", "tokens.css"),
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


def write(page: str, path: str | Path) -> None:
    """Write the page: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    write_text_atomic(path, page)
