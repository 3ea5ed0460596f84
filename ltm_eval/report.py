"""One HTML page from results files: what ran, the LTM beside its baselines, the samples.

    write(render(build(find_runs(["results/"]))), "report.html")

`build` computes every figure of the page, `render` only lays it out. The page is one file without network access: its
content security policy allows the one inline style and script by their digest and nothing else. Model text is not
trusted: Jinja escapes it, control and bidirectional characters become visible, long fields are cut. Nothing depends on
the clock, so the same results give the same bytes.
"""

from __future__ import annotations

import base64
import html as html_escape
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import sha256
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ltm_eval import __version__
from ltm_eval.errors import ResultsError
from ltm_eval.paths import reports_dir
from ltm_eval.plots import Bar, Curve
from ltm_eval.results import read_latents, read_samples, write_text_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jinja2 import Environment
    from markupsafe import Markup

    from ltm_eval.results import LatentRecord, Run, Sample, Score, TaskResult

SAMPLES_PER_TASK = 50
RESPONSES_PER_SAMPLE = 4
FIELD_BYTES = 4096
SAMPLE_BYTES = 3_000_000
NORMAL_QUANTILE = 1.96
LEVEL = 0.05
SHARES = ("exact_match", "acc", "pass@", "maj@")
DIGEST_KEYS = ("checkpoint_sha256", "checkpoint_digest", "model_sha", "model_revision")
PARAMETER_KEYS = ("parameters", "model_num_parameters")
SIGNATURE_KEYS = (
    ("condition", "condition"),
    ("preset", "fit.preset"),
    ("t_fast", "fit.t_fast"),
    ("tok", "tokenizer.name"),
    ("dtype", "model_dtype"),
    ("limit", "limit"),
    ("seed", "random_seed"),
    ("fewshot_seed", "fewshot_seed"),
    ("v", "versions.ltm_eval"),
)
PUBLISHED_SETS = {"gsm8k": "GSM8K"}
METRIC_NOTES = (
    ("_as_released", "released evaluator, not a bound; shown so that published figures can be compared"),
    ("_given_z", "reconstruction cost, not a perplexity"),
    ("_bound", "upper bound"),
)


@dataclass(frozen=True)
class Banner:
    """Something a reader must know before any number."""

    kind: str
    """alarm (the figures are not what they seem) or note."""
    text: str
    """One or two sentences."""


@dataclass(frozen=True)
class ModelCard:
    """What ran, for one run."""

    label: str
    """Model name, made unique within the page."""
    kind: str
    """lm-eval's model type."""
    digest: str
    """Checkpoint digest or revision, if the run tells it."""
    parameters: int | None
    """Parameter count, if the run tells it."""
    date: str
    """Date in the results file's name."""
    seconds: float | None
    """Wall time of the evaluation."""
    path: str
    """The results file."""
    command: str
    """Command line."""
    warnings: tuple[str, ...]
    """Warnings the run gave."""
    settings: tuple[tuple[str, str], ...]
    """lm-eval's configuration, flattened."""
    data: tuple[tuple[str, str], ...]
    """Data source and digests, flattened."""
    provenance: tuple[tuple[str, str], ...]
    """Commit, versions, machine, flattened."""


@dataclass(frozen=True)
class Difference:
    """Subject minus baseline, paired by document."""

    estimate: float
    """Mean difference."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    p_value: float
    """Two-sided p value of no difference."""
    n: int
    """Documents both runs scored."""
    discordant: int
    """Of these, how many the two scored differently."""
    other_prompts: int
    """Of these, how many had different prompts."""
    unpaired: int
    """Documents only one of the two scored."""
    verdict: str
    """better, worse, open, or empty where the metric has no known direction."""


@dataclass(frozen=True)
class ScoreRow:
    """One model's figure."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    value: float | None
    """The figure; None where the run has none."""
    interval: tuple[float, float] | None
    """95 % interval."""
    interval_kind: str
    """How the interval was made."""
    n: int | None
    """Documents."""
    n_shot: int | None
    """Demonstrations per prompt."""
    note: str
    """Why something is missing or doubtful."""
    signature: str
    """The declared settings that make the figure, for comparison between laboratories."""
    difference: Difference | None
    """Subject minus this model; None for the subject and where nothing can be paired."""


@dataclass(frozen=True)
class ScoreTable:
    """All models under one metric and filter."""

    metric: str
    """Metric."""
    filter: str
    """Filter; none is lm-eval's default."""
    higher_is_better: bool | None
    """Direction."""
    share: bool
    """Whether the figure is a share of documents, shown in percent."""
    bound: bool
    """Whether the figure is an upper bound, shown with its sign."""
    note: str
    """What the metric is not."""
    rows: tuple[ScoreRow, ...]
    """One per run that has the task."""


@dataclass(frozen=True)
class Verdict:
    """The one-sentence answer for a task and a baseline."""

    kind: str
    """better, worse or open."""
    text: str
    """The sentence, with interval."""
    caveat: str
    """Why the comparison is not like for like; empty if it is."""


@dataclass(frozen=True)
class Published:
    """A published figure, not re-run."""

    model: str
    """Model."""
    params: str
    """Parameters, as published."""
    metric: str
    """Metric, as published."""
    value: float
    """The figure."""
    shots: int | None
    """Demonstrations, if stated."""
    protocol: str
    """Protocol, kind of training and notes."""
    evidence: str
    """How directly the figure was seen."""
    source: str
    """Where it stands."""


@dataclass(frozen=True)
class Answer:
    """One model's answer to one document."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    responses: tuple[str, ...]
    """Model output, the first few repeats."""
    more: int
    """Further repeats, not shown."""
    extracted: tuple[tuple[str, str, str], ...]
    """Filter, what it extracted, and right, wrong or empty where the metric is no yes or no."""
    other_prompt: bool
    """Whether this model saw another prompt than the one shown."""


@dataclass(frozen=True)
class SampleView:
    """One document in the sample browser."""

    doc_id: int
    """Index in the split."""
    question: str
    """The prompt's last piece."""
    demonstrations: tuple[str, ...]
    """The pieces before it."""
    gold: str
    """The answer to match."""
    worked: str
    """The worked answer it was taken from; empty if there is none."""
    answers: tuple[Answer, ...]
    """One per model that scored the document."""


@dataclass(frozen=True)
class LatentSummary:
    """What latent inference did in one run and task."""

    label: str
    """Model."""
    condition: str
    """Conditions, with counts if several."""
    preset: str
    """Presets, with counts if several."""
    t_fast: str
    """Fast steps, with counts if several."""
    requests: int
    """Records in the sidecar."""
    truncated: int
    """Requests whose prompt was cut."""
    demonstrations: float
    """Mean demonstrations per prompt."""
    demonstrations_read: float
    """Mean demonstrations the decoder read."""
    demonstrations_fitted: float
    """Mean demonstrations z was fitted on."""
    nll_nats: float | None
    """Median NLL given z, summed over the fitted tokens."""
    kl_nats: float | None
    """Median KL."""
    kl_nats_per_token: float | None
    """Sum of KL over sum of fitted tokens."""
    share_at_prior: float | None
    """Median share of dimensions at the prior."""
    kl_per_layer_nats: tuple[float, ...]
    """Median KL of each layer."""
    mean_log_var_per_layer: tuple[float, ...]
    """Median of the mean log variance of each layer."""
    stop_reasons: tuple[tuple[str, int], ...]
    """Why generation ended, most frequent first."""
    fit_seconds: float
    """Sum of fitting time."""
    decode_seconds: float
    """Sum of decoding time."""
    curve: Curve | None
    """Objective relative to the first step."""


@dataclass(frozen=True)
class TaskSection:
    """Everything about one task."""

    name: str
    """Task name."""
    versions: str
    """Task versions in the runs."""
    tables: tuple[ScoreTable, ...]
    """Figures, one table per metric and filter."""
    bars: tuple[Bar, ...]
    """Shares for the figure."""
    latents: tuple[LatentSummary, ...]
    """Latent inference, per run that has it."""
    published: tuple[Published, ...]
    """Published figures for the same data set."""
    definition: tuple[tuple[str, str], ...]
    """Task definition, flattened."""
    samples: tuple[SampleView, ...]
    """The first documents."""
    documents: int
    """Documents in the samples file."""


@dataclass(frozen=True)
class ReportData:
    """The page, before layout."""

    title: str
    """Page title."""
    subject: str
    """Label of the model the others are compared with."""
    banners: tuple[Banner, ...]
    """Warnings above everything else."""
    verdicts: tuple[Verdict, ...]
    """One per task and baseline."""
    models: tuple[ModelCard, ...]
    """What ran."""
    tasks: tuple[TaskSection, ...]
    """One section per task."""
    version: str
    """Version of this program."""


# Building


@dataclass(frozen=True)
class _Entry:
    """A run under its label, with the samples of one task."""

    label: str
    series: int
    run: Run
    samples: Mapping[str, Mapping[tuple[str, int], Sample]]
    """By filter, then by document hash and occurrence."""


def build(runs: Sequence[Run]) -> ReportData:
    """Compute the page for `runs`; the first LTM among them is compared with all others.

    Raises:
        ResultsError: no runs, or a samples file or sidecar is malformed.
    """
    if not runs:
        raise ResultsError("nothing to report: no runs were given; pass a results file or a folder that holds some")
    labels = _labels(runs)
    subject = next((index for index, run in enumerate(runs) if run.model_kind == "ltm"), 0)
    order = [subject, *(index for index in range(len(runs)) if index != subject)]
    named = [(labels[index], runs[index]) for index in order]
    names = list(dict.fromkeys(task for _, run in named for task in run.tasks))
    sections, verdicts, banners = [], [], _run_banners(named)
    for name in names:
        entries = [_entry(label, series, run, task=name) for series, (label, run) in enumerate(named, 1)]
        entries = [entry for entry in entries if name in entry.run.tasks]
        section = _section(name, entries, subject=named[0][0], share_of_page=SAMPLE_BYTES // len(names))
        sections.append(section)
        verdicts += _verdicts(section, subject=named[0][0])
        banners += _task_banners(name, entries, section)
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


def _labels(runs: Sequence[Run]) -> list[str]:
    """Model names; runs of one model get their date, and a number if that is not enough."""
    counts = Counter(run.model_name for run in runs)
    dated = [run.model_name if counts[run.model_name] == 1 else f"{run.model_name} ({run.date_id})" for run in runs]
    seen: Counter[str] = Counter()
    labels = []
    for label in dated:
        seen[label] += 1
        labels.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return labels


def _entry(label: str, series: int, run: Run, *, task: str) -> _Entry:
    samples: dict[str, dict[tuple[str, int], Sample]] = {}
    for sample in read_samples(run, task) if task in run.tasks else ():
        of_filter = samples.setdefault(sample.filter, {})
        occurrence = 0
        while (sample.doc_hash, occurrence) in of_filter:
            occurrence += 1
        of_filter[sample.doc_hash, occurrence] = sample
    return _Entry(label=label, series=series, run=run, samples=samples)


def _section(name: str, entries: Sequence[_Entry], *, subject: str, share_of_page: int) -> TaskSection:
    keys = list(dict.fromkeys((s.metric, s.filter) for entry in entries for s in entry.run.tasks[name].scores))
    tables = tuple(_table(name, entries, metric=metric, filter_=filter_, subject=subject) for metric, filter_ in keys)
    samples, documents = _samples(entries, budget=share_of_page)
    return TaskSection(
        name=name,
        versions=", ".join(dict.fromkeys(entry.run.tasks[name].version or "?" for entry in entries)),
        tables=tables,
        bars=_bars(tables),
        latents=tuple(
            _latents(entry.label, records) for entry in entries if (records := read_latents(entry.run, name))
        ),
        published=_published(name),
        definition=_flat(entries[0].run.tasks[name].config),
        samples=samples,
        documents=documents,
    )


def _table(name: str, entries: Sequence[_Entry], *, metric: str, filter_: str, subject: str) -> ScoreTable:
    scores = [_score(entry.run, name, metric=metric, filter_=filter_) for entry in entries]
    values = [_values(entry, metric=metric, filter_=filter_) for entry in entries]
    directions = [score.higher_is_better for score in scores if score and score.higher_is_better is not None]
    share = metric.startswith(SHARES)
    higher = directions[0] if directions else (True if share else None)
    lead = entries[0] if entries[0].label == subject else None
    rows = []
    for entry, score, own in zip(entries, scores, values, strict=True):
        pair = (values[0], own) if lead is not None and entry is not lead else None
        prompts = _other_prompts(lead, entry, filter_=filter_) if lead is not None else frozenset()
        difference = _difference(*pair, prompts=prompts, higher_is_better=higher) if pair else None
        row = _row(entry, score, own, task=name, difference=difference)
        unpaired = pair is not None and difference is None and not row.note
        rows.append(replace(row, note="no per-document figures to pair") if unpaired else row)
    return ScoreTable(
        metric=metric,
        filter=filter_,
        higher_is_better=higher,
        share=share,
        bound=metric.endswith("_bound"),
        note=next((note for ending, note in METRIC_NOTES if metric.endswith(ending)), ""),
        rows=tuple(rows),
    )


def _score(run: Run, task: str, *, metric: str, filter_: str) -> Score | None:
    return next((s for s in run.tasks[task].scores if (s.metric, s.filter) == (metric, filter_)), None)


def _values(entry: _Entry, *, metric: str, filter_: str) -> dict[tuple[str, int], float]:
    """Per-document figures; corpus-level metrics, whose documents hold tuples, have none."""
    found = {}
    for key, sample in entry.samples.get(filter_, {}).items():
        value = sample.metrics.get(metric)
        if isinstance(value, (bool, int, float)) and math.isfinite(value):
            found[key] = float(value)
    return found


def _row(
    entry: _Entry, score: Score | None, values: Mapping[Any, float], *, task: str, difference: Difference | None
) -> ScoreRow:
    result = entry.run.tasks[task]
    interval, kind = _interval(score, values)
    return ScoreRow(
        label=entry.label,
        series=entry.series,
        value=score.value if score else None,
        interval=interval,
        interval_kind=kind,
        n=result.n_effective if result.n_effective is not None else len(values) or None,
        n_shot=result.n_shot,
        note=_row_note(score, values),
        signature=_signature(score, entry.run, result) if score else "",
        difference=difference,
    )


def _signature(score: Score, run: Run, result: TaskResult) -> str:
    """Name and value of every declared setting, as in `exact_match|task:ltm_gsm8k@1.0|shots:8|…`."""
    settings = dict(_flat(run.config))
    declared = [
        ("task", f"{result.name}@{result.version}" if result.version else result.name),
        ("filter", score.filter if score.filter != "none" else ""),
        ("shots", "" if result.n_shot is None else str(result.n_shot)),
        *((name, settings.get(key, "")) for name, key in SIGNATURE_KEYS),
        ("lm_eval", run.software.get("lm_eval_version", "")),
    ]
    return "|".join([score.metric, *(f"{name}:{value}" for name, value in declared if value not in {"", "null"})])


def _interval(score: Score | None, values: Mapping[Any, float]) -> tuple[tuple[float, float] | None, str]:
    """Wilson's interval for yes-or-no documents, else 1.96 standard errors either side."""
    from ltm_eval.metrics import wilson_interval

    if score is None or score.value is None:
        return None, ""
    if values and set(values.values()) <= {0.0, 1.0}:
        wilson = wilson_interval(round(sum(values.values())), len(values))
        return (wilson.low, wilson.high), "Wilson"
    if score.stderr is None:
        return None, ""
    low, high = score.value - NORMAL_QUANTILE * score.stderr, score.value + NORMAL_QUANTILE * score.stderr
    return ((max(low, 0.0), min(high, 1.0)) if score.metric.startswith(SHARES) else (low, high)), "normal"


def _row_note(score: Score | None, values: Mapping[Any, float]) -> str:
    if score is None:
        return "not reported by this run"
    if score.value is None:
        return score.note
    if score.metric.startswith(SHARES) and values and abs(fmean(values.values()) - score.value) > 1e-6:
        return f"the samples' mean is {100 * fmean(values.values()):.2f} %: results and samples disagree"
    return ""


def _other_prompts(lead: _Entry, entry: _Entry, *, filter_: str) -> frozenset[tuple[str, int]]:
    """Documents that the two runs saw under different prompts."""
    ours, theirs = lead.samples.get(filter_, {}), entry.samples.get(filter_, {})
    return frozenset(key for key in ours.keys() & theirs.keys() if ours[key].prompt_hash != theirs[key].prompt_hash)


def _difference(
    ours: Mapping[tuple[str, int], float],
    theirs: Mapping[tuple[str, int], float],
    *,
    prompts: frozenset[tuple[str, int]],
    higher_is_better: bool | None,
) -> Difference | None:
    from ltm_eval.metrics import paired_difference

    shared = [key for key in ours if key in theirs]
    if not shared:
        return None
    found = paired_difference([ours[key] for key in shared], [theirs[key] for key in shared])
    low, high = found.interval.low, found.interval.high
    verdict = "open"
    if found.p_value < LEVEL and (low > 0 or high < 0):
        verdict = "" if higher_is_better is None else ("better" if (low > 0) == higher_is_better else "worse")
    return Difference(
        estimate=found.estimate,
        low=low,
        high=high,
        p_value=found.p_value,
        n=len(shared),
        discordant=found.discordant,
        other_prompts=sum(key in prompts for key in shared),
        unpaired=len(ours.keys() ^ theirs.keys()),
        verdict=verdict,
    )


def _bars(tables: Sequence[ScoreTable]) -> tuple[Bar, ...]:
    return tuple(
        Bar(
            group=table.metric if table.filter == "none" else f"{table.metric}, {table.filter}",
            label=row.label,
            value=row.value,
            low=row.interval[0] if row.interval else row.value,
            high=row.interval[1] if row.interval else row.value,
        )
        for table in tables
        if table.share
        for row in table.rows
        if row.value is not None and 0 <= row.value <= 1
    )


# Words


def _verdicts(section: TaskSection, *, subject: str) -> list[Verdict]:
    """One sentence per baseline, under the task's first filter; other filters that say otherwise are added."""
    found = []
    for label in dict.fromkeys(row.label for table in section.tables for row in table.rows):
        rows = [
            (table, row.difference)
            for table in section.tables
            for row in table.rows
            if row.label == label and row.difference is not None and row.difference.verdict
        ]
        if rows:
            found.append(_verdict(section.name, label, rows, subject=subject))
    return found


def _verdict(task: str, label: str, rows: Sequence[tuple[ScoreTable, Difference]], *, subject: str) -> Verdict:
    table, difference = rows[0]
    relation = {
        "better": f"{subject} is better than {label}",
        "worse": f"{subject} is worse than {label}",
        "open": f"{subject} and {label} are not distinguishable",
    }
    unit = " percentage points" if table.share else ""
    scale = 100 if table.share else 1
    text = (
        f"{relation[difference.verdict]} on {task} ({_metric_words(table)}): difference "
        f"{signed(scale * difference.estimate)}{unit}, 95 % interval {signed(scale * difference.low)} to "
        f"{signed(scale * difference.high)}, p {p_words(difference.p_value)}, {difference.n:,} documents."
    )
    for other, also in rows[1:]:
        if also.verdict != difference.verdict:
            text += f" Under {_metric_words(other)}: {also.verdict.replace('open', 'not distinguishable')}."
    return Verdict(kind=difference.verdict, text=text, caveat=_caveat(difference))


def _metric_words(table: ScoreTable) -> str:
    return table.metric if table.filter == "none" else f"{table.metric}, {table.filter}"


def _caveat(difference: Difference) -> str:
    parts = []
    if difference.other_prompts:
        parts.append(f"the prompts differ in {difference.other_prompts:,} of {difference.n:,} documents")
    if difference.unpaired:
        parts.append(f"{difference.unpaired:,} documents were scored by one of the two only and are left out")
    return f"Not like for like: {'; '.join(parts)}." if parts else ""


def _run_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    banners = []
    demo = [label for label, run in named if run.extra.demo_model]
    sample = [label for label, run in named if run.extra.sample_data]
    gsm8k = any("gsm8k" in task.lower() for _, run in named for task in run.tasks)
    what = "GSM8K" if gsm8k else "benchmark results"
    if demo and sample:
        banners.append(Banner("alarm", f"Demo model, sample data: not {what}. Bundled model: {', '.join(demo)}."))
    elif demo:
        banners.append(Banner("alarm", f"Demo model: {', '.join(demo)} is bundled to try the program with."))
    elif sample:
        banners.append(Banner("alarm", f"Sample data: not {what}. The bundled problems are few and made up."))
    if 0 < len(sample) < len(named):
        banners.append(Banner("alarm", f"Different data: only {', '.join(sample)} ran on the bundled sample data."))
    return banners


def _task_banners(name: str, entries: Sequence[_Entry], section: TaskSection) -> list[Banner]:
    return [
        *_limit_banners(name, entries),
        *_prompt_banners(name, section),
        *_setting_banners(name, entries),
        *_sample_banners(name, entries),
    ]


def _limit_banners(name: str, entries: Sequence[_Entry]) -> list[Banner]:
    """Runs that scored a part of the data, those of the same part in one banner."""
    parts: dict[tuple[float | None, int | None, int | None], list[str]] = {}
    for entry in entries:
        result, limit = entry.run.tasks[name], entry.run.extra.limit
        scored, whole = result.n_effective, result.n_original
        if limit is not None or (scored is not None and whole is not None and scored < whole):
            parts.setdefault((limit, scored, whole), []).append(entry.label)
    banners = []
    for (limit, scored, whole), labels in parts.items():
        why = "Part of the data only" if limit is None else f"Limit {limit:g} used"
        count = f"{scored:,} of {whole:,}" if scored is not None and whole is not None else "some"
        banners.append(Banner("alarm", f"{why}: {count} documents of {name} were scored ({', '.join(labels)})."))
    return banners


def _prompt_banners(name: str, section: TaskSection) -> list[Banner]:
    return [
        Banner(
            "alarm",
            f"Mismatched prompts: {row.label} saw other prompts than the first model in "
            f"{row.difference.other_prompts:,} of {row.difference.n:,} documents of {name}. "
            "Differences mix model and prompt.",
        )
        for table in section.tables
        for row in table.rows
        if row.difference is not None and row.difference.other_prompts
    ]


def _setting_banners(name: str, entries: Sequence[_Entry]) -> list[Banner]:
    results = [entry.run.tasks[name] for entry in entries]
    banners = []
    for what, seen in (
        ("numbers of demonstrations", {str(result.n_shot) for result in results}),
        ("task versions", {result.version or "none" for result in results}),
    ):
        if len(seen) > 1:
            text = f"Different {what} for {name}: {', '.join(sorted(seen))}. The rows are not comparable as they stand."
            banners.append(Banner("alarm", text))
    return banners


def _sample_banners(name: str, entries: Sequence[_Entry]) -> list[Banner]:
    without = [entry.label for entry in entries if entry.run.tasks[name].samples_path is None]
    if not without:
        return []
    text = f"No samples of {name} were logged for {', '.join(without)}, so they are not paired"
    return [Banner("note", f"{text}; run lm-eval with --log_samples.")]


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
        settings=_flat({**run.config, **({"run": dict(run.extra.settings)} if run.extra.settings else {})}),
        data=_flat(run.extra.data or {}),
        provenance=_flat({**run.software, **(run.extra.provenance or {})}),
    )


def _flat(values: Mapping[str, Any], *, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested mappings as dotted keys; other values as JSON, text as it is."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value and prefix.count(".") < 3:
            rows += _flat(value, prefix=f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return tuple(rows)


def _published(task: str) -> tuple[Published, ...]:
    dataset = next((PUBLISHED_SETS[word] for word in re.split(r"[\W_]+", task.lower()) if word in PUBLISHED_SETS), None)
    if dataset is None:
        return ()
    rows = json.loads((reports_dir() / "published.json").read_text(encoding="utf-8"))
    return tuple(
        Published(
            model=row["model"],
            params=row.get("params", ""),
            metric=row["metric"],
            value=row["value"],
            shots=row.get("shots"),
            protocol="; ".join(str(row[key]) for key in ("protocol", "kind", "sampling", "note") if row.get(key)),
            evidence=row["evidence"],
            source=row["source"],
        )
        for row in rows
        if row["dataset"] == dataset
    )


# Latents


def _latents(label: str, records: Sequence[LatentRecord]) -> LatentSummary:
    kl = [(r.kl_nats, r.fitted_tokens) for r in records if r.kl_nats is not None and r.fitted_tokens]
    return LatentSummary(
        label=label,
        condition=_tally(record.condition for record in records),
        preset=_tally(record.preset for record in records),
        t_fast=_tally(str(record.t_fast) for record in records),
        requests=len(records),
        truncated=sum(record.truncated for record in records),
        demonstrations=fmean(record.demonstrations for record in records),
        demonstrations_read=fmean(record.demonstrations_read for record in records),
        demonstrations_fitted=fmean(record.demonstrations_fitted for record in records),
        nll_nats=_median(record.nll_nats for record in records),
        kl_nats=_median(record.kl_nats for record in records),
        kl_nats_per_token=sum(nats for nats, _ in kl) / sum(tokens for _, tokens in kl) if kl else None,
        share_at_prior=_median(record.share_at_prior for record in records),
        kl_per_layer_nats=_medians([record.kl_per_layer_nats for record in records]),
        mean_log_var_per_layer=_medians([record.mean_log_var_per_layer for record in records]),
        stop_reasons=tuple(Counter(record.stop_reason or "nothing generated" for record in records).most_common()),
        fit_seconds=sum(record.fit_seconds for record in records),
        decode_seconds=sum(record.decode_seconds for record in records),
        curve=_curve(label, [record.objective_nats for record in records]),
    )


def _tally(values: Any) -> str:
    counts = Counter(values).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{value} ({count:,})" for value, count in counts)


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _usual(series: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Finite series of the most frequent length; a run has one number of layers and, as a rule, of steps."""
    finite = [one for one in series if one and all(map(math.isfinite, one))]
    lengths = Counter(map(len, finite)).most_common(1)
    return [one for one in finite if len(one) == lengths[0][0]] if lengths else []


def _medians(series: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(median(column) for column in zip(*_usual(series), strict=True))


def _curve(label: str, objectives: Sequence[tuple[float, ...]]) -> Curve | None:
    relative = [tuple(value - one[0] for value in one) for one in _usual(objectives) if len(one) > 1]
    if not relative:
        return None
    columns = [sorted(column) for column in zip(*relative, strict=True)]
    low, mid, high = (tuple(_quantile(column, share) for column in columns) for share in (0.1, 0.5, 0.9))
    return Curve(label=label, median=mid, low=low, high=high)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics (numpy's default)."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


# Samples


def _samples(entries: Sequence[_Entry], *, budget: int) -> tuple[tuple[SampleView, ...], int]:
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


def _view(key: tuple[str, int], sample: Sample, entries: Sequence[_Entry]) -> SampleView:
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


def _answer(key: tuple[str, int], entry: _Entry, *, shown: str) -> Answer | None:
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


# Text


_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\ufdd0-\ufdef\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """`text` with control, bidirectional and invisible characters and lone surrogates shown by a symbol or number."""
    return _INVISIBLE.sub(_symbol, text)


def _symbol(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟦U+{code:04X}⟧"


def cut(text: str) -> str:
    """At most 4 KB of `text`, with a note of what is missing."""
    if len(text) <= FIELD_BYTES // 4:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= FIELD_BYTES:
        return text
    kept = data[:FIELD_BYTES].decode("utf-8", "ignore")
    return f"{kept} … [cut: {len(data):,} bytes in all, the whole text is in the samples file]"


def signed(value: float) -> str:
    """A difference with its sign, to three significant digits or one decimal."""
    text = f"{abs(value):.1f}" if abs(value) >= 1 or value == 0 else f"{abs(value):.2g}"
    return text if value == 0 else f"{'+' if value > 0 else '−'}{text}"


def number(value: float) -> str:
    """A figure to four significant digits, never in exponent form between 0.001 and 10 million."""
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3e}".replace("-", "−")
    digits = max(0, 3 - len(str(int(abs(value)))) + (abs(value) >= 1)) if abs(value) >= 1 else 4
    return f"{value:,.{digits}f}".replace("-", "−")


def short(value: float) -> str:
    """A figure to two decimals, for lists of many."""
    return f"{value:,.2f}".replace("-", "−")


def percent(value: float) -> str:
    """A share in percent, without the sign."""
    return f"{100 * value:.1f}"


def p_words(value: float) -> str:
    """`= 0.012` or `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}" if value < 0.1 else f"= {value:.2f}"


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


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


def _markup(text: str) -> Markup:
    """Mark-up of our own making: files of this package, and figures whose text the XML writer has escaped."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - never called with text of a model or a results file


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
