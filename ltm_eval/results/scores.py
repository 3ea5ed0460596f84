"""Score tables: every run's figure under a metric, its interval, and the paired difference from the first model."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ltm_eval.results.columns import setting_of
from ltm_eval.results.files import read_samples, shots_words
from ltm_eval.results.statistics import (
    FROM_STDERR,
    STUDENT,
    interval_from_stderr,
    mean_interval,
    paired_means,
    share_interval,
    share_interval_from_stderr,
    sign_of,
    verdict_of,
)
from ltm_eval.results.views import REFERENCE, Difference, Figure, Published, ScoreTable
from ltm_eval.system.files import reports_dir
from ltm_eval.system.records import mapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.results.files import Run, Sample, Score
    from ltm_eval.results.statistics import Interval

    Key = tuple[str, int]  # hash of a document and its occurrence

AGREEMENT = 1e-6  # relative, or of shares: above this samples and results disagree
SHARES = ("exact_match", "acc", "pass@", "maj@", "rethink_", "independent_")
PUBLISHED_SETS: dict[str, tuple[str, ...]] = {
    "gsm8k": ("GSM8K",),
    "svamp": ("SVAMP",),
    "multiarith": ("MultiArith",),
    "openwebtext": ("OpenWebText",),
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
"""Part of a task's name to the sets under which its figures were published; lm-eval's own wikitext is WikiText-2."""
QUESTION_SETS = ("GSM8K", "SVAMP", "MultiArith")
RELEASED_PROTOCOL = "the released evaluator’s protocol: compare with as_released; not a bound"
ROLLING_METRICS = frozenset({"word_perplexity", "byte_perplexity"})
"""lm-eval's own figures of whole texts; an LTM's are bounds."""
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
    samples: Mapping[str, Mapping[Key, Sample]]  # by filter and document


def entry_of(label: str, series: int, run: Run, *, task: str) -> Entry:
    """Read the samples of `task`; documents are told apart by content hash and occurrence.

    Raises:
        ResultsError: the samples file is malformed.
    """
    samples: dict[str, dict[Key, Sample]] = {}
    for sample in read_samples(run, task) if task in run.tasks else ():
        of_filter = samples.setdefault(sample.filter, {})
        occurrence = 0
        while (sample.doc_hash, occurrence) in of_filter:
            occurrence += 1
        of_filter[sample.doc_hash, occurrence] = sample
    return Entry(label=label, series=series, run=run.of(task), samples=samples)


def score_table(name: str, entries: Sequence[Entry], *, metric: str, filter_: str, subject: str) -> ScoreTable:
    """Return the figures of all runs under one metric and filter, and those of the run `subject` minus them."""
    scores = [_score(entry.run, name, metric=metric, filter_=filter_) for entry in entries]
    read = [_scores(entry, name, metric=metric, filter_=filter_) for entry in entries]
    share = metric.startswith(SHARES)
    directions = [score.higher_is_better for score in scores if score and score.higher_is_better is not None]
    higher = directions[0] if directions else (True if share else None)
    lead = entries[0] if entries[0].label == subject else None
    rows = []
    for entry, score, (own, doubt) in zip(entries, scores, read, strict=True):
        result = entry.run.tasks[name]
        value = score.value if score else None
        interval, kind = (None, "") if doubt else _interval(score, own, n=result.n_effective)
        note = doubt if value is not None else score.note if score else "not reported by this run"
        difference = None
        if lead is not None and entry is not lead:
            difference = difference_of(
                read[0][0],
                own,
                prompts=other_prompts(lead, entry, filter_=filter_),
                higher_is_better=higher,
                bounds=(_is_bound(lead, metric), _is_bound(entry, metric)),
            )
            note = note or ("" if difference else "no per-document figures to pair")
        rows.append(
            Figure(
                task=name,
                metric=metric,
                filter=filter_,
                model=entry.label,
                series=entry.series,
                value=value,
                low=interval.low if interval else None,
                high=interval.high if interval else None,
                interval=kind,
                bound=metric.endswith("_bound") or (score is not None and _is_bound(entry, metric)),
                share=share,
                higher_is_better=higher,
                n=result.n_effective if result.n_effective is not None else len(own) or None,
                n_shot=result.n_shot,
                note="; ".join(filter(None, (shots_words(mapping(entry.run.extra.shots).get(name)), note))),
                signature=setting_of(entry.run, name).signature(score.metric, score.filter) if score else "",
                difference=difference,
            )
        )
    content_free = _content_free(entries, name, metric=metric)
    if content_free is not None:
        rows.append(replace(content_free, filter=filter_, share=share, higher_is_better=higher))
    return ScoreTable(
        metric=metric,
        filter=filter_,
        higher_is_better=higher,
        share=share,
        bound=metric.endswith("_bound"),
        note=next((note for ending, note in METRIC_NOTES if metric.endswith(ending)), ""),
        rows=tuple(rows),
    )


def _content_free(entries: Sequence[Entry], name: str, *, metric: str) -> Figure | None:
    """Return what always answering the commonest training answer scores, or for pass@k the k commonest."""
    size = 1 if metric == "exact_match" else attempts_of(metric)
    for entry in entries:
        facts = (entry.run.extra.content_free or {}).get(name)
        found = facts.get(f"pass@{size}") if isinstance(facts, dict) else None
        if isinstance(facts, dict) and isinstance(found, dict):
            answers = [str(answer) for answer in facts.get("answers", [])]
            shown = ", ".join(answers[:size]) + (", …" if size > len(answers) else "")
            one = "answer" if size == 1 else f"{size} answers"
            whole = {"low", "high"} <= found.keys()
            return Figure(
                task=name,
                metric=metric,
                model=f"Content-free: always the commonest training {one} ({shown})",
                status=REFERENCE,
                value=found.get("value"),
                low=found["low"] if whole else None,
                high=found["high"] if whole else None,
                interval=str(found.get("kind", "")),
                n=found.get("n"),
            )
    return None


def _score(run: Run, task: str, *, metric: str, filter_: str) -> Score | None:
    return next((s for s in run.tasks[task].scores if (s.metric, s.filter) == (metric, filter_)), None)


def by_document(entry: Entry, *, metric: str, filter_: str) -> dict[Key, tuple[float, float | None]]:
    """Return each document's score and None, or its nats and units (tokens, words or bytes) if the metric is a rate.

    Documents that failed and values that are not finite are left out.
    """
    found: dict[Key, tuple[float, float | None]] = {}
    for key, sample in entry.samples.get(filter_, {}).items():
        value = sample.metrics.get(metric)
        pair = value[:2] if isinstance(value, list) and len(value) > 1 else []
        if pair and all(type(one) in (int, float) and math.isfinite(one) for one in pair) and pair[1] >= 0:
            found[key] = float(pair[0]), float(pair[1])
        elif isinstance(value, (bool, int, float)) and math.isfinite(value):
            found[key] = float(value), None
    return found


def _scores(entry: Entry, task: str, *, metric: str, filter_: str) -> tuple[dict[Key, float], str]:
    """Return the scores by document, and why there are none if results and samples disagree."""
    logged = by_document(entry, metric=metric, filter_=filter_)
    found = {key: value for key, (value, units) in logged.items() if units is None}
    doubt = other_count(entry, task, metric=metric, filter_=filter_)
    score = _score(entry.run, task, metric=metric, filter_=filter_)
    if found and not doubt and score is not None and score.value is not None and metric.startswith(SHARES):
        mean = fmean(found.values())
        if abs(mean - score.value) > AGREEMENT:
            doubt = f"the samples' mean is {100 * mean:.2f} %: results and samples disagree"
    return ({}, doubt) if doubt else (found, "")


def other_count(entry: Entry, task: str, *, metric: str, filter_: str) -> str:
    """Return a note if the number of samples with the metric is not the results' number of documents; else nothing.

    A document that failed has a sample without metrics, and the results do not count it.
    """
    n = entry.run.tasks[task].n_effective
    samples = sum(metric in sample.metrics for sample in entry.samples.get(filter_, {}).values())
    if not samples or n is None or samples == n:
        return ""
    return f"{samples:,} samples for {n:,} documents: results and samples disagree, so there is no interval"


def _is_bound(entry: Entry, metric: str) -> bool:
    """Return whether the metric is a bound, as an LTM's answers to lm-eval's own tasks of whole texts are."""
    return metric.endswith("_bound") or (entry.run.model_kind == "ltm" and metric in ROLLING_METRICS)


def _interval(
    score: Score | None, values: Mapping[Any, float], *, n: int | None
) -> tuple[Interval, str] | tuple[None, str]:
    """Return the interval and its kind: from the documents' values if the score is their mean, else from its stderr."""
    if score is None or score.value is None:
        return None, ""
    own, share = list(values.values()), score.metric.startswith(SHARES)
    is_mean = bool(own) and math.isclose(fmean(own), score.value, rel_tol=AGREEMENT, abs_tol=AGREEMENT)
    if is_mean and ((share and min(own) >= 0 and max(own) <= 1) or set(own) <= {0.0, 1.0}):
        found, kind = share_interval(own)
    elif is_mean and len(own) > 1:
        found, kind = mean_interval(own), STUDENT
    elif share and n is not None:
        told = share_interval_from_stderr(score.value, score.stderr, n)
        if told is None:
            return None, ""
        found, kind = told
    elif score.stderr is not None:
        positive = score.metric in ROLLING_METRICS or score.metric == "perplexity"
        found, kind = interval_from_stderr(score.value, score.stderr, n, positive=positive), FROM_STDERR
    else:
        return None, ""
    return (found, kind) if found.known else (None, "")


def other_prompts(lead: Entry, entry: Entry, *, filter_: str) -> frozenset[Key]:
    """Return the documents that the two runs saw under different prompts."""
    ours, theirs = lead.samples.get(filter_, {}), entry.samples.get(filter_, {})
    return frozenset(key for key in ours.keys() & theirs.keys() if ours[key].prompt_hash != theirs[key].prompt_hash)


def difference_of(
    ours: Mapping[Key, float],
    theirs: Mapping[Key, float],
    *,
    prompts: frozenset[Key],
    higher_is_better: bool | None,
    bounds: tuple[bool, bool] = (False, False),
) -> Difference | None:
    """Return the mean of `ours` minus that of `theirs` over the documents in both; None without any."""
    shared = [key for key in ours if key in theirs]
    if not shared:
        return None
    found = paired_means([ours[key] for key in shared], [theirs[key] for key in shared])
    return Difference(
        **found.numbers(),
        other_prompts=sum(key in prompts for key in shared),
        unpaired=len(ours.keys() ^ theirs.keys()),
        verdict=verdict_of(sign_of(found, found.p_value), higher_is_better=higher_is_better, bounds=bounds),
    )


def flat(values: Mapping[str, Any], *, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Return nested mappings as dotted keys; text as it is, other values as JSON."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value and prefix.count(".") < 3:
            rows += flat(value, prefix=f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return tuple(rows)


UNTOLD = "–"


def side_by_side(told: Sequence[Mapping[str, str]]) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
    """Return each key with its value in every mapping, and whether two of them tell different ones."""
    keys = dict.fromkeys(key for one in told for key in one)
    rows = ((key, tuple(one.get(key, UNTOLD) for one in told)) for key in keys)
    return tuple((key, values, len({*values} - {UNTOLD}) > 1) for key, values in rows)


def published_for(task: str) -> tuple[Published, ...]:
    """Return the published figures of the task's own data set, grouped by source."""
    words = f"_{re.sub(r'[^a-z0-9]+', '_', task.lower())}_"
    last_word = "_last_word_" in words or "_lambada_openai_" in words
    sets = next((sets for key, sets in PUBLISHED_SETS.items() if f"_{key}_" in words), ())
    rows = json.loads((reports_dir() / "published.json").read_text(encoding="utf-8")) if sets else []
    asked = set(sets) <= set(QUESTION_SETS)
    found = [
        _published_row(row)
        for row in rows
        if row["dataset"] in sets
        and (asked or row["metric"] == "MAUVE" or _same_quantity(row["metric"], last_word=last_word))
    ]
    order = list(dict.fromkeys((row.source, row.evidence) for row in found))
    return tuple(sorted(found, key=lambda row: order.index((row.source, row.evidence))))


def _same_quantity(metric: str, *, last_word: bool) -> bool:
    """Return whether the metric is a perplexity of whole texts, or of their last words."""
    return "perplexity" in metric and ("last-word" in metric) == last_word


def _published_row(row: Mapping[str, Any]) -> Published:
    # LTM perplexities were published as bounds, but come from the released evaluator, whose figure is not one.
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


PASS = "pass@"  # noqa: S105 - a metric
LONGEST_K = 10  # digits


def attempts_of(metric: str) -> int:
    """Return k of `pass@k`, 0 of any other metric."""
    k = metric.removeprefix(PASS)
    return int(k) if k != metric and k.isascii() and k.isdigit() and len(k) < LONGEST_K else 0
