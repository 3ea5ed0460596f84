"""Sentences above the tables: who is better on what, and what a reader must know before any number."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ltm_eval.results.columns import model_of
from ltm_eval.results.files import PREDICTED, UNFINISHED
from ltm_eval.results.official import NOT_OFFICIAL_FILES, unofficial
from ltm_eval.results.perplexity import KINDS, differing_protocols
from ltm_eval.results.scores import ROLLING_METRICS
from ltm_eval.results.statistics import OPEN, ROUGH, UNPROVEN
from ltm_eval.results.views import Banner, Verdict
from ltm_eval.system.text import VERDICTS, p_value, p_words, signed, signed_bits

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from ltm_eval.results.files import Run
    from ltm_eval.results.scores import Entry
    from ltm_eval.results.views import Difference, ModelCard, ScoreTable, TaskSection


K = TypeVar("K", bound="Hashable")

_BOUND_METRICS = frozenset(kind.metric for kind in KINDS if kind.bound)
ENOUGH_TEXTS = 1_000  # human texts of the smallest published protocol; mauve-text advises 5,000


def verdicts_of(section: TaskSection) -> list[Verdict]:
    """Return a sentence per baseline: bits per byte of a text set, else the first filter, with others that differ."""
    found = _perplexity_verdicts(section, subject=section.lead)
    for label in dict.fromkeys(row.model for table in section.tables for row in table.rows):
        rows = [
            (table, row.difference)
            for table in section.tables
            for row in table.rows
            if row.model == label and row.difference is not None and row.difference.verdict
        ]
        if rows:
            found.append(_verdict(section.name, label, rows, subject=section.lead))
    return found


def _perplexity_verdicts(section: TaskSection, *, subject: str) -> list[Verdict]:
    differences = section.perplexity.differences if section.perplexity is not None else ()
    found = []
    for label in dict.fromkeys(line.label for line, _ in differences):
        first, *others = [one for line, one in differences if line.label == label]
        text = f"{_bits_relation(first, subject, label)} on {section.name}: {_bits_words(first)}."
        text += f" {first.caveat}" if first.caveat else ""
        for other in others:
            text += f" Next-token figures: {VERDICTS[other.verdict]}, {_bits_words(other)}."
        found.append(Verdict(kind=first.verdict, text=text, caveat=_caveat(first)))
    return found


def _bits_relation(found: Difference, subject: str, label: str) -> str:
    """Say who is better; a bound above an exact figure does not make its model the worse one."""
    if found.verdict != UNPROVEN:
        return _relation(found, subject, label)
    figures = [f"{'bound' if name == 'bound' else 'exact figure'} of" for name in (found.ours, found.theirs)]
    word = "worse" if found.estimate > 0 else "better"
    return f"The {figures[0]} {subject} is {word} than the {figures[1]} {label}"


def _bits_words(found: Difference) -> str:
    interval = f"95 % interval {signed_bits(found.low)} to {signed_bits(found.high)}, " if found.known else ""
    return (
        f"bits per byte, {found.ours} minus {found.theirs}: {signed_bits(found.estimate)}, {interval}"
        f"{_p_words(found)}, {found.n:,} document{'s' if found.n != 1 else ''}"
    )


def _p_words(difference: Difference) -> str:
    corrected = difference.p_holm
    if corrected is None or corrected == difference.p_value:
        return f"p {p_words(difference.p_value)}"
    return f"p {p_words(difference.p_value)} (after Holm’s correction {p_value(corrected)})"


def _relation(difference: Difference, subject: str, label: str) -> str:
    return {
        "better": f"{subject} is better than {label}",
        "worse": f"{subject} is worse than {label}",
        OPEN: f"{subject} and {label} are not distinguishable",
        UNPROVEN: f"The figures of {subject} and {label} differ, but as bounds prove neither model better",
    }[difference.verdict]


def _verdict(task: str, label: str, rows: Sequence[tuple[ScoreTable, Difference]], *, subject: str) -> Verdict:
    table, difference = rows[0]
    unit = " percentage points" if table.share else ""
    scale = 100 if table.share else 1
    ends = (difference.low, difference.high)
    interval = f"95 % interval {' to '.join(signed(scale * end) for end in ends)}, " if difference.known else ""
    text = (
        f"{_relation(difference, subject, label)} on {task} ({_metric_words(table)}): difference "
        f"{signed(scale * difference.estimate)}{unit}, {interval}{_p_words(difference)}, {difference.n:,} documents."
    )
    for other, also in rows[1:]:
        if also.verdict != difference.verdict:
            text += f" Under {_metric_words(other)}: {VERDICTS[also.verdict]}."
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


def run_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
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
        banners.append(Banner("alarm", f"Sample data: not {what}. The bundled samples are small and synthetic."))
    if demo and any("ltm_rules" in run.tasks for _, run in named if run.extra.demo_model and run.extra.sample_data):
        seen = "Known rules: the bundled models' training episodes held every rule and question of the sample episodes"
        banners.append(Banner("note", f"{seen}; ltm_rules shows what the demonstrations carry over, not learning."))
    if 0 < len(sample) < len(named):
        banners.append(Banner("alarm", f"Different data: only {', '.join(sample)} ran on the bundled sample data."))
    return banners + _unfinished_banners(named) + _audit_banners(named)


def _alike(pairs: Iterable[tuple[K, str]]) -> dict[K, list[str]]:
    """Return the labels by their key, so that each key is named once."""
    found: dict[K, list[str]] = {}
    for key, label in pairs:
        found.setdefault(key, []).append(label)
    return found


def _unfinished_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    """Return a banner on runs that are in progress or were interrupted."""
    labels = [label for label, run in named if run.extra.status in UNFINISHED]
    text = f"Unfinished: {', '.join(labels)}: the tasks shown are whole, more may be to come; the same command goes on."
    return [Banner("alarm", text)] if labels else []


def has_bound(run: Run) -> bool:
    """Return whether the run reports a figure meant as an upper bound."""
    rolling = ROLLING_METRICS | {"bits_per_byte"} if run.model_kind == "ltm" else frozenset()
    metrics = {score.metric for task in run.tasks.values() for score in task.scores}
    return any(name.endswith("_bound") for name in metrics) or bool(metrics & (_BOUND_METRICS | rolling))


def audit_line(run: Run) -> str:
    """Return the audit's verdict in one line; empty without an audit, or if the run reports no bound."""
    audit = run.extra.audit
    if audit is None or not has_bound(run):
        return ""
    fit = run.config.get("fit")
    made = fit.get("t_fast") if isinstance(fit, dict) else None
    own = f" (the run itself: {made:,})" if isinstance(made, int) and made != audit.t_fast else ""
    head = f"Audit on random tokens: preset {audit.preset}, {audit.t_fast:,} fast steps{own}: "
    if audit.deficit_nats_per_block is None:
        return f"{head}no finite figure: not a bound"
    spread = f" (± {audit.stderr_nats:.1f})" if audit.stderr_nats is not None else ""
    side = "below" if audit.deficit_nats_per_block > 0 else "above"
    what = "bound" if audit.figure == "bound" else f"figure {audit.figure}"
    line = f"{head}{what} lies {abs(audit.deficit_nats_per_block):.1f} nats per block {side} T ln V{spread}: "
    if audit.is_bound:
        return f"{line}passes"
    return f"{line}not a bound" if audit.caught else f"{line}not caught, but scored at the fit’s own noise: not a bound"


def _audit_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    banners = []
    for line, labels in _alike((audit_line(run), label) for label, run in named).items():
        audit = next(run.extra.audit for label, run in named if label == labels[0])
        if audit is None or audit.is_bound or not line:
            continue
        what = (
            "No figure of this run may be called a bound."
            if audit.figure == "bound"
            else "What the fit itself reports, and every row as_released, is no bound; rows marked ≤ are scored with "
            "noise that the fit has not seen."
        )
        banners.append(Banner("alarm", f"Not a bound: {', '.join(labels)}. {line}. {what}"))
    return banners


def task_banners(name: str, entries: Sequence[Entry], section: TaskSection) -> list[Banner]:
    return [
        *_data_banners(name, entries),
        *_prompt_banners(name, section),
        *_setting_banners(name, entries),
        *_protocol_banners(name, section),
        *_generation_banners(name, section),
        *_sample_banners(name, entries),
        *few_banners([(name, entry.run.tasks[name].n_effective) for entry in entries]),
        *_predicted_banners(name, entries),
    ]


def unofficial_data(name: str, run: Run) -> list[str]:
    """Return how the data of a task differ from the published files, as the run records it."""
    result, sets = run.tasks[name], (run.extra.data or {}).get("sets")
    if sets is None:
        told = result.config.get("metadata")
        files = told.get(NOT_OFFICIAL_FILES) if isinstance(told, dict) else None
        differing = files.items() if isinstance(files, dict) else ()
        sets = {name: {split: {"difference": difference} for split, difference in differing}}
    return unofficial(sets, name, shots=result.n_shot)


def _data_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
    """Return a banner on data that have a set's name but are not the published files."""
    found = _alike((sentence, entry.label) for entry in entries for sentence in unofficial_data(name, entry.run))
    return [
        Banner("alarm", f"{sentence[0].upper()}{sentence[1:]} ({name}, {', '.join(labels)}).")
        for sentence, labels in found.items()
    ]


def few_banners(counts: Iterable[tuple[str, int | None]]) -> list[Banner]:
    """Return a banner for each task with so few documents that its intervals are rough.

    Args:
        counts: tasks and their documents.
    """
    found: dict[str, int] = {}
    for name, n in counts:
        if n is not None and 0 < n < ROUGH:
            found[name] = min(n, found.get(name, n))
    return [
        Banner("note", f"Few documents: {name} has {n:,}; below {ROUGH} documents all intervals are rough.")
        for name, n in found.items()
    ]


def _predicted_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
    labels = [entry.label for entry in entries if _is_predicted(entry.run, name)]
    text = f"Answers only: {name} was run with --predict_only by {', '.join(labels)}, so there is no score."
    return [Banner("note", text)] if labels else []


def _is_predicted(run: Run, name: str) -> bool:
    """Return whether lm-eval kept the answers only: its stand-in is the one metric, or texts and choices have none."""
    task = run.tasks[name]
    unscored = bool(task.scores) or (task.n_original is not None and not task.n_effective)
    return run.of(name).extra.settings is None and unscored and all(s.metric == PREDICTED for s in task.scores)


def limit_banners(named: Sequence[tuple[str, Run]], names: Sequence[str]) -> list[Banner]:
    """Return banners on runs that scored a part of the data, one for the tasks that the same runs cut alike."""
    parts: dict[tuple[str, str], list[str]] = {}
    for name in names:
        cut: dict[tuple[str, str], list[str]] = {}
        for label, run in named:
            if name in run.tasks and not _is_predicted(run, name) and (told := _cut(run, name)) is not None:
                cut.setdefault(told, []).append(label)
        for (why, count), labels in cut.items():
            parts.setdefault((why, ", ".join(labels)), []).append(f"{count} documents of {name}")
    return [
        Banner("alarm", f"{why}: {', '.join(counts)} were scored ({labels}).")
        for (why, labels), counts in parts.items()
    ]


def _cut(run: Run, name: str) -> tuple[str, str] | None:
    """Return why a run scored only some documents of a task, and how many; None if all, or if not recorded."""
    run = run.of(name)
    result, limit = run.tasks[name], run.extra.limit
    scored, whole = result.n_effective, result.n_original
    known = scored is not None and whole is not None
    if limit is None and not known:
        return None
    if scored is not None and whole is not None and scored >= whole:
        return None
    why = "Part of the data only" if limit is None else f"Limit {limit:g} used"
    return why, f"{scored:,} of {whole:,}" if known else "some"


def shared_warnings(models: Sequence[ModelCard]) -> list[tuple[str, tuple[str, ...]]]:
    """Return each warning of the runs once, with its models."""
    found = _alike((warning, model.label) for model in models for warning in model.warnings)
    return [(warning, tuple(dict.fromkeys(labels))) for warning, labels in found.items()]


def older_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    """Return a banner for each column in whose place older runs of the same settings are not shown."""
    return [
        Banner("note", f"{label}, {task}: {count} older run{'s' if count > 1 else ''} not shown.")
        for label, run in named
        for task, count in run.older.items()
    ]


def missing_task_banners(named: Sequence[tuple[str, Run]], names: Sequence[str]) -> list[Banner]:
    """Return a banner for each model that lacks a task which another has: interrupted, or asked for less."""
    scored: dict[tuple[str, ...], set[str]] = {}
    for _, run in named:
        scored.setdefault(model_of(run), set()).update(run.tasks)
    lacks = {label: tuple(name for name in names if name not in scored[model_of(run)]) for label, run in named}
    return [
        Banner(
            "alarm",
            f"Incomplete: no results of {', '.join(missing)} by {', '.join(labels)}, so nothing is compared there.",
        )
        for missing, labels in _alike((missing, label) for label, missing in lacks.items() if missing).items()
    ]


def _prompt_banners(name: str, section: TaskSection) -> list[Banner]:
    found = {
        (row.difference.other_prompts, row.difference.n, row.model): None
        for table in section.tables
        for row in table.rows
        if row.difference is not None and row.difference.other_prompts
    }
    return [
        Banner(
            "alarm",
            f"Mismatched prompts: {', '.join(labels)} saw other prompts than the first model in {other:,} of {n:,} "
            f"documents of {name}. Differences mix model and prompt.",
        )
        for (other, n), labels in _alike(((other, n), label) for other, n, label in found).items()
    ]


def _setting_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
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


def _protocol_banners(name: str, section: TaskSection) -> list[Banner]:
    differing = differing_protocols(section.perplexity) if section.perplexity is not None else []
    text = f"Different preparations of {name}: {'; '.join(differing)}. The rows are not comparable as they stand."
    return [Banner("alarm", text)] if differing else []


def _generation_banners(name: str, section: TaskSection) -> list[Banner]:
    """Return banners on texts that were generated or compared differently, and on too few of them."""
    generation = section.generation
    if generation is None:
        return []
    banners = []
    differing = [f"{key}: {', '.join(dict.fromkeys(values))}" for key, values, differs in generation.options if differs]
    if differing:
        text = f"Different settings of {name}: {'; '.join(differing)}. MAUVE compares only under equal settings."
        banners.append(Banner("alarm", text))
    if generation.n_human is not None and generation.n_human < ENOUGH_TEXTS:
        text = f"Few texts: MAUVE of {name} rests on {generation.n_human:,} human texts; so few raise and blur it."
        banners.append(Banner("note", text))
    return banners


def _sample_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
    without = [entry.label for entry in entries if entry.run.tasks[name].samples_path is None]
    if not without:
        return []
    text = f"No samples of {name} were logged for {', '.join(without)}, so they are not paired"
    return [Banner("note", f"{text}; run lm-eval with --log_samples.")]
