"""Score tables: every run's figure under a metric, its interval, and the paired difference from the first model."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ltm_eval.results.columns import setting_of
from ltm_eval.results.files import read_samples
from ltm_eval.results.statistics import (
    ALPHA,
    OPEN,
    STUDENT,
    TOLD,
    interval_of,
    mean_interval,
    paired_means,
    share_interval,
    sign_of,
    told_interval,
    told_share_interval,
    verdict_of,
)
from ltm_eval.results.views import (
    Bar,
    BudgetRow,
    Difference,
    Divergence,
    EffectRow,
    EffectTable,
    GenerationLine,
    GenerationSection,
    Published,
    ScoreRow,
    ScoreTable,
)
from ltm_eval.system.errors import ResultsError
from ltm_eval.system.files import reports_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ltm_eval.results.files import Run, Sample, Score
    from ltm_eval.results.statistics import Paired


AGREEMENT = 1e-6
"""Difference, relative or of shares, above which samples and results disagree."""
SHARES = ("exact_match", "acc", "pass@", "maj@", "rethink_", "independent_")
PUBLISHED_SETS: dict[str, tuple[str, ...]] = {
    "gsm8k": ("GSM8K",),
    "ptb": ("PTB", "PTB validation"),
    "ltm_wikitext": ("WikiText", "WikiText-103"),
    "wikitext": ("WikiText-2", "WikiText-2 test raw", "WikiText-2/103 test"),
    "lm1b": ("LM1B",),
    "lambada": ("LAMBADA",),
    "ag_news": ("AG News",),
    "pubmed": ("PubMed",),
    "arxiv": ("arXiv",),
    "mauve_paper": (),
    "mauve_unconditional": (),
    "mauve": ("conditional WebText (50->50 tokens)", "WebText 50->50, 1000 refs x 5 generations"),
}
"""Words of a task's name, and the sets under which its figures were published; lm-eval's own wikitext is WikiText-2."""
RELEASED_PROTOCOL = "the released evaluator’s protocol: compare with as_released; not a bound"
ROLLING_METRICS = frozenset({"word_perplexity", "byte_perplexity"})
"""lm-eval's own figures of whole texts; what an LTM answers there is a bound."""
METRIC_NOTES = (
    ("_as_released", "released evaluator, not a bound; shown so that published figures can be compared"),
    ("_given_z", "reconstruction cost, not a perplexity"),
    ("_bound", "upper bound"),
)


@dataclass(frozen=True)
class Entry:
    """A run under its label, with the samples of one task."""

    label: str
    series: int
    run: Run
    samples: Mapping[str, Mapping[tuple[str, int], Sample]]
    """By filter, then by document hash and occurrence."""


def entry_of(label: str, series: int, run: Run, *, task: str) -> Entry:
    samples: dict[str, dict[tuple[str, int], Sample]] = {}
    for sample in read_samples(run, task) if task in run.tasks else ():
        of_filter = samples.setdefault(sample.filter, {})
        occurrence = 0
        while (sample.doc_hash, occurrence) in of_filter:
            occurrence += 1
        of_filter[sample.doc_hash, occurrence] = sample
    return Entry(label=label, series=series, run=run.of(task), samples=samples)


def score_table(name: str, entries: Sequence[Entry], *, metric: str, filter_: str, subject: str) -> ScoreTable:
    scores = [_score(entry.run, name, metric=metric, filter_=filter_) for entry in entries]
    read = [_values(entry, name, metric=metric, filter_=filter_) for entry in entries]
    values = [own for own, _ in read]
    directions = [score.higher_is_better for score in scores if score and score.higher_is_better is not None]
    share = metric.startswith(SHARES)
    higher = directions[0] if directions else (True if share else None)
    lead = entries[0] if entries[0].label == subject else None
    rows = []
    for entry, score, (own, doubt) in zip(entries, scores, read, strict=True):
        pair = (values[0], own) if lead is not None and entry is not lead else None
        prompts = other_prompts(lead, entry, filter_=filter_) if lead is not None else frozenset()
        bounds = tuple(metric.endswith("_bound") or is_rolling_bound(one, metric) for one in (entries[0], entry))
        difference = difference_of(*pair, prompts=prompts, higher_is_better=higher, bounds=bounds) if pair else None
        row = _row(entry, score, own, task=name, difference=difference, doubt=doubt)
        unpaired = pair is not None and difference is None and not row.note
        rows.append(replace(row, note="no per-document figures to pair") if unpaired else row)
    rows += content_free_rows(entries, name, metric=metric)
    return ScoreTable(
        metric=metric,
        filter=filter_,
        higher_is_better=higher,
        share=share,
        bound=metric.endswith("_bound"),
        note=next((note for ending, note in METRIC_NOTES if metric.endswith(ending)), ""),
        rows=tuple(rows),
    )


def content_free_rows(entries: Sequence[Entry], name: str, *, metric: str) -> list[ScoreRow]:
    """What always answering the commonest training answers scores, beside the models' own figures; k of them for
    pass@k.
    """
    size = 1 if metric == "exact_match" else attempts_of(metric)
    for entry in entries:
        facts = (entry.run.extra.content_free or {}).get(name)
        found = facts.get(f"pass@{size}") if isinstance(facts, dict) else None
        if not isinstance(facts, dict) or not isinstance(found, dict):
            continue
        answers = [str(answer) for answer in facts.get("answers", [])]
        shown = ", ".join(answers[:size]) + (", …" if size > len(answers) else "")
        one = "answer" if size == 1 else f"{size} answers"
        return [
            ScoreRow(
                label=f"Content-free: always the commonest training {one} ({shown})",
                series=0,
                value=found.get("value"),
                interval=(found["low"], found["high"]) if {"low", "high"} <= found.keys() else None,
                interval_kind=str(found.get("kind", "")),
                bound=False,
                n=found.get("n"),
                n_shot=None,
                note="no model ran",
                signature="",
                difference=None,
            )
        ]
    return []


def _score(run: Run, task: str, *, metric: str, filter_: str) -> Score | None:
    return next((s for s in run.tasks[task].scores if (s.metric, s.filter) == (metric, filter_)), None)


def _values(entry: Entry, task: str, *, metric: str, filter_: str) -> tuple[dict[tuple[str, int], float], str]:
    """Per-document figures, and why they are none of the results'; corpus-level metrics, whose documents hold tuples,
    have none.
    """
    found = {}
    for key, sample in entry.samples.get(filter_, {}).items():
        value = sample.metrics.get(metric)
        if isinstance(value, (bool, int, float)) and math.isfinite(value):
            found[key] = float(value)
    doubt = other_count(entry, task, metric=metric, filter_=filter_)
    score = _score(entry.run, task, metric=metric, filter_=filter_)
    if found and not doubt and score is not None and score.value is not None and metric.startswith(SHARES):
        mean = fmean(found.values())
        if abs(mean - score.value) > AGREEMENT:
            doubt = f"the samples' mean is {100 * mean:.2f} %: results and samples disagree"
    return ({}, doubt) if doubt else (found, "")


def other_count(entry: Entry, task: str, *, metric: str, filter_: str) -> str:
    """What to say where more or fewer samples have the metric than the results have documents; else nothing.

    Documents that failed are kept without metrics, and the results do not count them.
    """
    n = entry.run.tasks[task].n_effective
    samples = sum(metric in sample.metrics for sample in entry.samples.get(filter_, {}).values())
    if not samples or n is None or samples == n:
        return ""
    return f"{samples:,} samples for {n:,} documents: results and samples disagree, so there is no interval"


def is_rolling_bound(entry: Entry, metric: str) -> bool:
    """Whether this is what an LTM answers to one of lm-eval's own tasks of whole texts, which is a bound."""
    return entry.run.model_kind == "ltm" and metric in ROLLING_METRICS


def _row(
    entry: Entry,
    score: Score | None,
    values: Mapping[Any, float],
    *,
    task: str,
    difference: Difference | None,
    doubt: str,
) -> ScoreRow:
    result = entry.run.tasks[task]
    interval, kind = (None, "") if doubt else _interval(score, values, n=result.n_effective)
    note = "" if score is None or score.value is None else doubt
    return ScoreRow(
        label=entry.label,
        series=entry.series,
        value=score.value if score else None,
        interval=interval,
        interval_kind=kind,
        bound=score is not None and is_rolling_bound(entry, score.metric),
        n=result.n_effective if result.n_effective is not None else len(values) or None,
        n_shot=result.n_shot,
        note=note or _row_note(score),
        signature=setting_of(entry.run, task).signature(score.metric, score.filter) if score else "",
        difference=difference,
    )


def _interval(
    score: Score | None, values: Mapping[Any, float], *, n: int | None
) -> tuple[tuple[float, float] | None, str]:
    """From the documents' figures where the score is their mean, else from its standard error over n documents."""
    if score is None or score.value is None:
        return None, ""
    own, share = list(values.values()), score.metric.startswith(SHARES)
    is_mean = bool(own) and math.isclose(fmean(own), score.value, rel_tol=AGREEMENT, abs_tol=AGREEMENT)
    if is_mean and ((share and min(own) >= 0 and max(own) <= 1) or set(own) <= {0.0, 1.0}):
        found, kind = share_interval(own)
    elif is_mean and len(own) > 1:
        found, kind = mean_interval(own), STUDENT
    elif share and n is not None:
        told = told_share_interval(score.value, score.stderr, n)
        if told is None:
            return None, ""
        found, kind = told
    elif score.stderr is not None:
        positive = score.metric in ROLLING_METRICS or score.metric == "perplexity"
        found, kind = told_interval(score.value, score.stderr, n, positive=positive), TOLD
    else:
        return None, ""
    return ((found.low, found.high), kind) if found.known else (None, "")


def _row_note(score: Score | None) -> str:
    if score is None:
        return "not reported by this run"
    return score.note if score.value is None else ""


def other_prompts(lead: Entry, entry: Entry, *, filter_: str) -> frozenset[tuple[str, int]]:
    """Documents that the two runs saw under different prompts."""
    ours, theirs = lead.samples.get(filter_, {}), entry.samples.get(filter_, {})
    return frozenset(key for key in ours.keys() & theirs.keys() if ours[key].prompt_hash != theirs[key].prompt_hash)


def difference_of(
    ours: Mapping[tuple[str, int], float],
    theirs: Mapping[tuple[str, int], float],
    *,
    prompts: frozenset[tuple[str, int]],
    higher_is_better: bool | None,
    bounds: tuple[bool, ...] = (False, False),
) -> Difference | None:
    shared = [key for key in ours if key in theirs]
    if not shared:
        return None
    found = paired_means([ours[key] for key in shared], [theirs[key] for key in shared])
    return difference_from(
        found,
        other_prompts=sum(key in prompts for key in shared),
        unpaired=len(ours.keys() ^ theirs.keys()),
        verdict=verdict_of(
            sign_of(found, found.p_value), higher_is_better=higher_is_better, bounds=(bounds[0], bounds[1])
        ),
    )


def difference_from(found: Paired, *, other_prompts: int, unpaired: int, verdict: str) -> Difference:
    """What the page shows of a paired comparison."""
    return Difference(
        estimate=found.estimate,
        low=found.interval.low,
        high=found.interval.high,
        p_value=found.p_value,
        n=found.n,
        discordant=found.discordant,
        other_prompts=other_prompts,
        unpaired=unpaired,
        verdict=verdict,
    )


def bars_of(tables: Sequence[ScoreTable]) -> tuple[Bar, ...]:
    return tuple(
        Bar(
            group=table.metric if table.filter == "none" else f"{table.metric}, {table.filter}",
            label=row.label if row.series else "content-free",
            series=row.series,
            value=row.value,
            low=row.interval[0] if row.interval else row.value,
            high=row.interval[1] if row.interval else row.value,
        )
        for table in tables
        if table.share
        for row in table.rows
        if row.value is not None and 0 <= row.value <= 1
    )


def flat(values: Mapping[str, Any], *, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested mappings as dotted keys; other values as JSON, text as it is."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value and prefix.count(".") < 3:
            rows += flat(value, prefix=f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return tuple(rows)


def published_for(task: str) -> tuple[Published, ...]:
    """Published figures of the task's own data set, those of one source together."""
    words = f"_{re.sub(r'[^a-z0-9]+', '_', task.lower())}_"
    last_word = "_last_word_" in words or "_lambada_openai_" in words
    sets = next((sets for key, sets in PUBLISHED_SETS.items() if f"_{key}_" in words), ())
    rows = json.loads((reports_dir() / "published.json").read_text(encoding="utf-8")) if sets else []
    found = [
        _published_row(row)
        for row in rows
        if row["dataset"] in sets
        and (sets == ("GSM8K",) or row["metric"] == "MAUVE" or _same_quantity(row["metric"], last_word=last_word))
    ]
    order = list(dict.fromkeys((row.source, row.evidence) for row in found))
    return tuple(sorted(found, key=lambda row: order.index((row.source, row.evidence))))


def _same_quantity(metric: str, *, last_word: bool) -> bool:
    """A perplexity of whole texts, or of their last words."""
    return "perplexity" in metric and ("last-word" in metric) == last_word


def _published_row(row: Mapping[str, Any]) -> Published:
    """LTM perplexities were published as bounds, but stem from the released evaluator, whose figure is none."""
    notes = [str(row[key]) for key in ("protocol", "kind", "sampling", "note") if row.get(key)]
    released = row["model"].startswith("LTM") and "perplexity" in row["metric"]
    return Published(
        model=row["model"],
        params=row.get("params", ""),
        dataset=row["dataset"],
        metric=row["metric"],
        value=row["value"],
        bound=bool(row["bound"]) and not released,
        shots=row.get("shots"),
        protocol="; ".join([*notes, *([RELEASED_PROTOCOL] if released else [])]),
        evidence=row["evidence"],
        source=row["source"],
    )


# How questions were answered: extraction failures, why generation ended, what fitted the context, pass@k over k.

PASS = "pass@"  # noqa: S105 - a metric
LONGEST_K = 10
"""Digits of a k that is a number to draw."""


def attempts_of(metric: str) -> int:
    """k of `pass@k`; 0 of every other metric, whatever a results file calls it."""
    k = metric.removeprefix(PASS)
    return int(k) if k != metric and k.isascii() and k.isdigit() and len(k) < LONGEST_K else 0


# What demonstrations do: one figure under every condition and number of demonstrations, each compared with `demos`.
#
# Differences are paired by document. A cell is compared with the reference condition at its own number of
# demonstrations; a cell without demonstrations, and the reference's own cells, with the reference at the largest
# number.

METRICS = ("exact_match", "pass@", "maj@")
DIFFERENCE = ("estimate", "interval", "p_value", "n", "discordant")
"""Fields of a paired comparison that are kept."""


@dataclass(frozen=True)
class EffectCell:
    """One combination that was run."""

    condition: str
    """What z was fitted on and what the decoder read."""
    run: Run
    """Its results."""

    def shots(self, task: str) -> int:
        """Demonstrations per prompt."""
        return self.run.tasks[task].n_shot or 0

    def values(self, task: str, *, metric: str, filter_: str) -> dict[str, float]:
        """The figure of every document, by document."""
        return {
            f"{sample.doc_id} {sample.doc_hash}": float(sample.metrics[metric])
            for sample in self.samples(task)
            if sample.filter == filter_ and metric in sample.metrics
        }

    def samples(self, task: str) -> tuple[Sample, ...]:
        """The task's samples."""
        return read_samples(self.run, task)


def effect(cells: Sequence[EffectCell], *, reference: str) -> dict[str, Any]:
    """The block `effect` of a sweep's results: all cells of every task, metric and filter, each with its difference.

    Args:
        cells: what was run.
        reference: condition the others are compared with.
    """
    tasks = list(dict.fromkeys(name for cell in cells for name in cell.run.tasks))
    return {"reference": reference, "tasks": {task: list(_tables(cells, task, reference)) for task in tasks}}


def _tables(cells: Sequence[EffectCell], task: str, reference: str) -> Iterator[dict[str, Any]]:
    there = [cell for cell in cells if task in cell.run.tasks]
    for score in there[0].run.tasks[task].scores:
        if not score.metric.startswith(METRICS):
            continue
        values = [cell.values(task, metric=score.metric, filter_=score.filter) for cell in there]
        keys = [(cell.condition, cell.shots(task)) for cell in there]
        yield {
            "metric": score.metric,
            "filter": score.filter,
            "cells": [_row_effect(keys, values, i, reference) for i in range(len(keys)) if values[i]],
        }


def _row_effect(
    keys: Sequence[tuple[str, int]], values: Sequence[Mapping[str, float]], i: int, reference: str
) -> dict[str, Any]:
    condition, shots = keys[i]
    row = {"condition": condition, "shots": shots, **interval_of(list(values[i].values()))}
    against = reference_of(keys, keys[i], reference)
    if against is None or not values[against]:
        return {**row, "difference": None}
    shared = [key for key in values[i] if key in values[against]]
    found = paired_means([values[i][key] for key in shared], [values[against][key] for key in shared])
    told = {key: value for key, value in asdict(found).items() if key in DIFFERENCE}
    return {**row, "difference": {**told, "against": keys[against][0], "against_shots": keys[against][1]}}


def reference_of(keys: Sequence[tuple[str, int]], own: tuple[str, int], reference: str) -> int | None:
    """Position of the cell that `own` is compared with; None where it is itself the one, or there is none.

    Args:
        keys: condition and shots of every cell.
    """
    most = max((shots for condition, shots in keys if condition == reference), default=None)
    wanted = (reference, own[1] if own[0] != reference and own[1] else most)
    if wanted not in keys:
        wanted = (reference, most)
    return keys.index(wanted) if wanted in keys and wanted != own else None


def text_table(block: Mapping[str, Any]) -> str:
    """The block as plain text, one table per task, metric and filter; shares in percent."""
    parts = []
    for task, tables in block["tasks"].items():
        for table in tables:
            parts.append(f"Effect of the demonstrations: {task}, {table['metric']}, {table['filter']}")
            parts += _aligned([HEAD, *(_cells(row) for row in table["cells"])])
            parts.append("")
    return "\n".join(parts).rstrip()


HEAD = ("condition", "shots", "score", "95 % interval", "n", "minus", "difference", "95 % interval", "p")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    score = (f"{100 * row['value']:.1f} %", f"{100 * row['low']:.1f} to {100 * row['high']:.1f}", f"{row['n']}")
    head = (row["condition"], str(row["shots"]), *score)
    found = row["difference"]
    if found is None:
        return (*head, "", "", "", "")
    low, high = found["interval"]["low"], found["interval"]["high"]
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    against = f"{found['against']}, {found['against_shots']}"
    return (*head, against, f"{100 * found['estimate']:+.1f}", interval, f"{found['p_value']:.3g}")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# The effect of the demonstrations and the compute of rethinking, from a results file's block to rows of the page.

SIDES = (("rethink", "rethinking"), ("independent", "independent draws"))


def effect_tables(name: str, entries: Sequence[Entry]) -> tuple[EffectTable, ...]:
    """The sweep's tables of a task, per run that has some.

    Raises:
        ResultsError: the block is not as this program writes it.
    """
    found = []
    for entry in entries:
        block = entry.run.extra.effect or {}
        try:
            found += [_table(entry.label, block, one) for one in block.get("tasks", {}).get(name, [])]
        except (KeyError, TypeError, AttributeError) as error:
            raise ResultsError(
                f"{entry.run.path}: field ltm_eval.effect: {type(error).__name__} ({error}); was the file edited?"
            ) from error
    return tuple(found)


def _table(label: str, block: Mapping[str, Any], table: Mapping[str, Any]) -> EffectTable:
    return EffectTable(
        label=label,
        metric=table["metric"],
        filter=table["filter"],
        reference=block["reference"],
        rows=tuple(map(_row_effect_tables, table["cells"])),
    )


def _row_effect_tables(cell: Mapping[str, Any]) -> EffectRow:
    found = cell["difference"]
    return EffectRow(
        condition=cell["condition"],
        shots=cell["shots"],
        value=cell["value"],
        low=cell["low"],
        high=cell["high"],
        n=cell["n"],
        against=f"{found['against']}, {found['against_shots']} shots" if found else "",
        difference=_difference(found) if found else None,
    )


def _difference(found: Mapping[str, Any]) -> Difference:
    low, high = found["interval"]["low"], found["interval"]["high"]
    clear = found["p_value"] < ALPHA and (low > 0 or high < 0)
    return Difference(
        estimate=found["estimate"],
        low=low,
        high=high,
        p_value=found["p_value"],
        n=found["n"],
        discordant=found["discordant"],
        other_prompts=0,
        unpaired=0,
        verdict=("better" if low > 0 else "worse") if clear else OPEN,
    )


def budget_rows(name: str, entries: Sequence[Entry]) -> tuple[BudgetRow, ...]:
    """What rethinking and its control cost, per run that did it.

    Raises:
        ResultsError: the block is not as this program writes it.
    """
    rows = []
    for entry in entries:
        block = (entry.run.extra.rethink_budget or {}).get(name)
        try:
            rows += [BudgetRow(entry.label, words, **block[side]) for side, words in SIDES] if block else []
        except (KeyError, TypeError) as error:
            raise ResultsError(
                f"{entry.run.path}: field ltm_eval.rethink_budget: {type(error).__name__} ({error}); was it edited?"
            ) from error
    return tuple(rows)


# MAUVE on the page: every model's figure with its spread, the ceiling of human texts, lengths, repetition, curves.
#
# The figures are in any lm-eval results file of a `ltm_mauve` task; curves, seeds and options only where `run` wrote
# it.

METRICS_GENERATION = frozenset(
    ("mauve", "mauve_sd", "mauve_ceiling", "mauve_ceiling_sd")
    + tuple(f"{name}{side}" for name in ("words", "distinct_2", "rep_3") for side in ("", "_human"))
)
"""What the table shows; the score tables leave it out of a task that has `mauve`."""
UNTOLD = "–"
HUMAN = "human texts, half against half"
SIGNED = (
    ("texts", "texts"),
    ("prompt", "prompt_tokens"),
    ("new", "max_gen_toks"),
    ("sampling", "sampling"),
    ("features", "feature_model"),
    ("max", "max_text_length"),
    ("c", "scaling"),
)


def generation_section(name: str, entries: Sequence[Entry]) -> GenerationSection | None:
    """The section of a task with a `mauve`; nothing for any other."""
    with_figure = [entry for entry in entries if _score_generation(entry, name, "mauve") is not None]
    if not with_figure:
        return None
    lines = [_line(entry, name) for entry in with_figure]
    ceilings = _ceilings(with_figure, name)
    told = [_mapping(entry.run.tasks[name].generation.get("options")) for entry in with_figure]
    keys = list(dict.fromkeys(key for options in told for key in options))
    rows = [(key, tuple(_shown(options, key) for options in told)) for key in keys]
    sizes = [size for entry in with_figure if (size := _count(entry.run.tasks[name].generation.get("n_human")))]
    return GenerationSection(
        lines=(*lines, *ceilings),
        curves=_curves(with_figure, name),
        options=tuple((key, values, len(set(values) - {UNTOLD}) > 1) for key, values in rows),
        n_human=min(sizes) if sizes else None,
    )


def _line(entry: Entry, name: str) -> GenerationLine:
    facts = entry.run.tasks[name].generation
    scores = facts.get("scores")
    seeds = f"{len(scores)} × {len(scores[0])}" if isinstance(scores, list) and scores and scores[0] else ""
    generated, human = _count(facts.get("n_generated")), _count(facts.get("n_human"))
    texts = f"{generated:,} with {human:,}" if generated and human else ""
    return GenerationLine(
        label=entry.label,
        series=entry.series,
        **_figures(entry, name, "mauve"),
        sd_kmeans=_real(facts.get("sd_kmeans")),
        sd_generation=_real(facts.get("sd_generation")),
        seeds=seeds,
        texts=texts,
        buckets=_count(facts.get("buckets")),
        **_facts(entry, name, "generated", suffix=""),
        copies=_real(facts.get("copies")),
        signature=_signature(entry, name),
    )


def _ceilings(entries: Sequence[Entry], name: str) -> list[GenerationLine]:
    """One line for human texts, or one per run where the runs differ in them."""
    lines = []
    for entry in entries:
        facts = entry.run.tasks[name].generation
        ceiling, human = facts.get("ceiling"), _count(facts.get("n_human"))
        line = GenerationLine(
            label=HUMAN,
            series=0,
            **_figures(entry, name, "mauve_ceiling"),
            sd_kmeans=None,
            sd_generation=None,
            seeds=f"{len(ceiling)}" if isinstance(ceiling, list) and ceiling else "",
            texts=f"{human // 2:,} with {human // 2:,}" if human else "",
            buckets=_count(facts.get("ceiling_buckets")),
            **_facts(entry, name, "human", suffix="_human"),
            copies=_real(facts.get("copies_human")),
            signature="",
        )
        if line not in lines:
            lines.append(line)
    return lines


def _figures(entry: Entry, name: str, metric: str) -> dict[str, Any]:
    values = [_score_generation(entry, name, one) for one in (metric, f"{metric}_sd")]
    return dict(zip(("mauve", "mauve_sd"), (None if one is None else one.value for one in values), strict=True))


def _facts(entry: Entry, name: str, side: str, *, suffix: str) -> dict[str, Any]:
    """Lengths and repetition from the block, else the few that are metrics."""
    facts = _mapping(entry.run.tasks[name].generation.get(side))
    if facts:
        distinct, repeated = _mapping(facts.get("distinct")), _mapping(facts.get("repeated"))
        return {
            "words": _real(facts.get("words")),
            "words_sd": _real(facts.get("words_sd")),
            "distinct": tuple(_real(distinct.get(n)) for n in ("1", "2", "3")),
            "repeated": tuple(_real(repeated.get(n)) for n in ("2", "3", "4")),
            "empty": _count(facts.get("empty")),
        }
    words, distinct_2, rep_3 = (
        _score_generation(entry, name, f"{one}{suffix}") for one in ("words", "distinct_2", "rep_3")
    )
    return {
        "words": None if words is None else words.value,
        "words_sd": None,
        "distinct": (None, None if distinct_2 is None else distinct_2.value, None),
        "repeated": (None, None if rep_3 is None else rep_3.value, None),
        "empty": None,
    }


def _signature(entry: Entry, name: str) -> str:
    score = _score_generation(entry, name, "mauve")
    facts = entry.run.tasks[name].generation
    options = _mapping(facts.get("options"))
    sizes = [
        (label, facts.get(key))
        for label, key in (("n", "n_generated"), ("human", "n_human"), ("buckets", "buckets"))
        if key in facts
    ]
    declared = [*((label, options.get(key)) for label, key in SIGNED if key in options), *sizes]
    found = setting_of(entry.run, name).signature(score.metric, score.filter) if score is not None else ""
    return "|".join([found, *(f"{label}:{value}" for label, value in declared)])


def _curves(entries: Sequence[Entry], name: str) -> tuple[Divergence, ...]:
    found = [
        Divergence(entry.label, entry.series, points)
        for entry in entries
        if (points := _points(entry.run.tasks[name].generation.get("curve")))
    ]
    ceilings = [_points(entry.run.tasks[name].generation.get("ceiling_curve")) for entry in entries]
    human = [Divergence(HUMAN, 0, points) for points in dict.fromkeys(ceilings) if points]
    return (*human, *found)


def _points(value: Any) -> tuple[tuple[float, float], ...]:
    """Pairs of finite numbers; nothing where the file holds anything else."""
    rows = value if isinstance(value, list) else []
    points = [tuple(map(_real, row)) for row in rows if isinstance(row, list) and len(row) == 2]
    whole = len(points) == len(rows) and all(x is not None and y is not None for x, y in points)
    return tuple((float(x or 0), float(y or 0)) for x, y in points) if whole else ()


def _score_generation(entry: Entry, name: str, metric: str) -> Score | None:
    return next((score for score in entry.run.tasks[name].scores if score.metric == metric), None)


def _shown(options: Mapping[str, Any], key: str) -> str:
    value = options.get(key, UNTOLD)
    return value if isinstance(value, str) else json.dumps(value)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _real(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
