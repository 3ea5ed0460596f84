"""Sentences above the tables: who is better on what, and what a reader must know before any number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_eval.page import Banner, Verdict
from ltm_eval.wording import p_words, signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.page import Difference, ScoreTable, TaskSection
    from ltm_eval.results import Run
    from ltm_eval.scores import Entry


def verdicts_of(section: TaskSection, *, subject: str) -> list[Verdict]:
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
        banners.append(Banner("alarm", f"Sample data: not {what}. The bundled problems are few and made up."))
    if 0 < len(sample) < len(named):
        banners.append(Banner("alarm", f"Different data: only {', '.join(sample)} ran on the bundled sample data."))
    return banners


def task_banners(name: str, entries: Sequence[Entry], section: TaskSection) -> list[Banner]:
    return [
        *_limit_banners(name, entries),
        *_prompt_banners(name, section),
        *_setting_banners(name, entries),
        *_sample_banners(name, entries),
    ]


def _limit_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
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


def _sample_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
    without = [entry.label for entry in entries if entry.run.tasks[name].samples_path is None]
    if not without:
        return []
    text = f"No samples of {name} were logged for {', '.join(without)}, so they are not paired"
    return [Banner("note", f"{text}; run lm-eval with --log_samples.")]
