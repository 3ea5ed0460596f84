"""What `compare` says, as a document: differences first, then what differs between the runs and what was left out."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ltm_eval.report.findings import few_banners, findings, findings_text, read_task, run_banners, settings_line
from ltm_eval.report.tables import Banner, Cell, Column, Document, Part, Table
from ltm_eval.results.compare import BOUND_KINDS, RELEASED
from ltm_eval.results.figures import compared_tasks
from ltm_eval.results.scores import flat
from ltm_eval.system.text import number, p_value, percent, signed, signed_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.results.compare import Comparison, Comparisons, Series
    from ltm_eval.results.files import Run


COLUMNS = ("task", "figure", "A", "B", "A - B", "95 % interval", "p", "p, Holm", "n", "differ", "what follows")
NUMERIC = COLUMNS[2:10]
SCALE_WORDS = {"bits": "bits", "ppl": "perplexity", "nats": "nats"}
SETTINGS = 80
LEFT_OUT = 40
UNTOLD = "–"
NOTHING = ("", "null")
VOLATILE = ("batch_size", "batch_sizes", "device", "use_cache", "bootstrap_iters")
"""Settings that change no figure, or that say nothing alone."""
GLOSSARY = (
    ("A, B", "A is the first run, B the other one of the table. Documents are matched by the hash of their content."),
    (
        "McNemar",
        "Exact: of the documents that one run alone answers rightly, each side wins with chance one half (two-sided "
        "binomial test). All other figures: sign-flip permutation over documents.",
    ),
    (
        "95 % interval",
        "Of the difference, over documents, both runs together. Shares: Tango's score interval; all else: Student's t "
        "on jackknife standard errors, corrected for skewness. It speaks of other documents of the same kind, not of "
        "other seeds or prompts. Where no document differs only shares have one.",
    ),
    (
        "p, Holm",
        "The p value of a task's first figure after Holm's correction over the first figures of all tasks and runs on "
        "the page. Figures without it are further views of the same documents; their p stands alone.",
    ),
    ("≤", "An upper bound. Below an exact figure it proves its model better; above it proves nothing."),
    (
        "as_released",
        "The released evaluator's figure, scored at the fit's own noise: no bound, compared with its like only.",
    ),
)


def document(found: Comparisons) -> Document:
    """The comparison as a document."""
    first = found.labels[0]
    others = [label for label in found.labels[1:] if any(row.other == label for row in found.rows)]
    return Document(
        kind="compare",
        title=f"{first} compared with {', '.join(others)}",
        lead="Paired by document: every difference is the first run minus the other on the documents that both scored.",
        banners=_banners(found),
        parts=(*(_part(found, label) for label in others), *_settings(found), *_left_out(found)),
        records=tuple(_record(found, row) for row in found.rows),
        data=_data(found),
        glossary=GLOSSARY,
        ending=_ending(found),
    )


def _ending(found: Comparisons) -> str:
    """Return the rows that the page of these runs begins with."""
    named = list(zip(found.labels, found.runs, strict=True))
    compared = {row.task for row in found.rows}
    tasks = [read_task(task) for task in compared_tasks(named) if task.name in compared]
    rows = findings(tasks, named)
    return findings_text(rows, settings_line(tasks, named, rows))


def _banners(found: Comparisons) -> tuple[Banner, ...]:
    banners = run_banners(list(zip(found.labels, found.runs, strict=True)))
    for label, task, wrong in found.mismatches:
        text = f"Not like for like: {task}, {found.labels[0]} and {label}: {'; '.join(wrong)}."
        banners.append(Banner("alarm", text))
    for label, task, unmatched in dict.fromkeys((row.other, row.task, row.unmatched) for row in found.rows):
        if any(unmatched):
            text = f"{task}: {unmatched[0]:,} documents of {found.labels[0]} and {unmatched[1]:,} of {label} have no"
            banners.append(Banner("note", f"{text} counterpart and are left out."))
    banners += [Banner("note", text) for text in found.newer]
    banners += few_banners((row.task, row.found.n) for row in found.rows)
    return tuple(dict.fromkeys(banners))


def _part(found: Comparisons, label: str) -> Part:
    rows = [row for row in found.rows if row.other == label]
    title = f"A: {found.labels[0]}, B: {label}"
    table = Table(
        title="",
        columns=tuple(Column(name, numeric=name in NUMERIC, roomy=name == COLUMNS[-1]) for name in COLUMNS),
        rows=tuple(_cells(row, first=row is rows[0] or row.task != before.task) for row, before in _with_before(rows)),
        caption=_caption(rows, headlines=sum(row.headline for row in found.rows)),
    )
    return Part(title=title, tables=(table,))


def _with_before(rows: Sequence[Comparison]) -> list[tuple[Comparison, Comparison]]:
    return list(zip(rows, [rows[0], *rows[:-1]], strict=True))


def _caption(rows: Sequence[Comparison], *, headlines: int) -> str:
    tests = list(dict.fromkeys(row.found.test for row in rows))
    intervals = list(dict.fromkeys(row.found.interval_kind for row in rows))
    holm = f"Holm over the first figure of every task and run, {headlines} in all." if headlines > 1 else ""
    return f"p: {'; '.join(tests)}. Intervals: {'; '.join(intervals)}. {holm}".strip()


def _cells(row: Comparison, *, first: bool) -> tuple[Cell, ...]:
    found, contest = row.found, row.found.contest
    differ = f"{found.discordant:,}" if contest is None else f"{contest.first:,} : {contest.second:,}"
    kind = row.verdict if row.verdict in {"better", "worse"} else ""
    return (
        Cell(row.task if first else ""),
        Cell(_figure_name(row.first, row.second), note=_kinds(row.first, row.second)),
        Cell(_value(row.first, found.first)),
        Cell(_value(row.second, found.second)),
        Cell(_difference(row.first, found.estimate), note=_ratio(row)),
        Cell(_interval(row)),
        Cell(p_value(found.p_value)),
        Cell(UNTOLD if row.p_holm is None else p_value(row.p_holm)),
        Cell(f"{found.n:,}"),
        Cell(differ),
        Cell(row.conclusion, kind=kind),
    )


def _figure_name(first: Series, second: Series) -> str:
    if first.scale in SCALE_WORDS and first.unit != "unit":
        return f"{SCALE_WORDS[first.scale]} per {first.unit}"
    name = first.metric if first.metric == second.metric else f"{first.metric}, {second.metric}"
    return name if first.filter == "none" else f"{name}, {first.filter}"


def _kinds(first: Series, second: Series) -> str:
    if first.scale == "mean" and first.kind != RELEASED:
        return ""
    return first.kind if first.kind == second.kind else f"{first.kind} against {second.kind}"


def _value(series: Series, value: float) -> str:
    sign = "≤ " if series.kind in BOUND_KINDS else ""
    return f"{percent(value)} %" if series.share else f"{sign}{number(value)}"


def _difference(series: Series, value: float) -> str:
    """In percentage points for shares, three decimals for bits."""
    if math.isnan(value):
        return UNTOLD
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return signed(100 * value) if series.share else signed_bits(value) if series.scale == "bits" else signed(value)


def _interval(row: Comparison) -> str:
    found = row.found.interval
    if not found.known:
        return UNTOLD
    return f"{_difference(row.first, found.low)} to {_difference(row.first, found.high)}"


def _ratio(row: Comparison) -> str:
    found = row.found
    if found.ratio is None:
        return ""
    return f"ratio {number(found.ratio)}"


def _settings(found: Comparisons) -> tuple[Part, ...]:
    """Settings in which the runs differ."""
    told = [{key: value for key, value in flat(_told(run)) if value not in NOTHING} for run in found.runs]
    keys = [key for key in dict.fromkeys(key for one in told for key in one) if _differs(key, told)]
    if not keys:
        return ()
    columns = (Column("setting"), *(Column(label) for label in found.labels))
    rows = tuple((Cell(key), *(Cell(one.get(key, UNTOLD)) for one in told)) for key in keys[:SETTINGS])
    more = f"{len(keys) - SETTINGS} more settings differ." if len(keys) > SETTINGS else ""
    return (Part(title="What differs between the runs", tables=(Table("", columns, rows, more),)),)


def _differs(key: str, told: Sequence[dict[str, str]]) -> bool:
    """Whether two runs tell the setting, and differently; what one kind of model alone tells is its own affair."""
    return key.rpartition(".")[2] not in VOLATILE and len({one[key] for one in told if key in one}) > 1


def _told(run: Run) -> dict[str, Any]:
    return {"model": run.model_name, **run.config, "date": run.date_id}


def _left_out(found: Comparisons) -> tuple[Part, ...]:
    if not found.left_out:
        return ()
    columns = (Column("task"), Column("run"), Column("why"))
    rows = tuple((Cell(task), Cell(label), Cell(why)) for label, task, why in found.left_out[:LEFT_OUT])
    more = f"{len(found.left_out) - LEFT_OUT} more." if len(found.left_out) > LEFT_OUT else ""
    return (Part(title="Left out", tables=(Table("", columns, rows, more),)),)


# Data


def _record(found: Comparisons, row: Comparison) -> dict[str, Any]:
    """One comparison with every number in full; shares from 0 to 1."""
    paired = row.found
    contest = (
        asdict(paired.contest) if paired.contest is not None else dict.fromkeys(("both", "first", "second", "neither"))
    )
    ratio = paired.ratio_interval if paired.ratio_interval is not None and paired.interval.known else None
    ends = (paired.interval.low, paired.interval.high) if paired.interval.known else (None, None)
    return {
        "task": row.task,
        "first": found.labels[0],
        "second": row.other,
        "filter": row.first.filter,
        "first_metric": row.first.metric,
        "second_metric": row.second.metric,
        "first_kind": row.first.kind,
        "second_kind": row.second.kind,
        "first_relation": "≤" if row.first.kind in BOUND_KINDS else "",
        "first_value": paired.first,
        "second_relation": "≤" if row.second.kind in BOUND_KINDS else "",
        "second_value": paired.second,
        "difference": paired.estimate,
        "difference_low": ends[0],
        "difference_high": ends[1],
        "interval": paired.interval_kind,
        "ratio": paired.ratio,
        "ratio_low": None if ratio is None else ratio.low,
        "ratio_high": None if ratio is None else ratio.high,
        "p": paired.p_value,
        "p_holm": row.p_holm,
        "test": paired.test,
        "documents": paired.n,
        "differ": paired.discordant,
        **{f"right_{name}": value for name, value in contest.items()},
        "unmatched_first": row.unmatched[0],
        "unmatched_second": row.unmatched[1],
        "headline": row.headline,
        "higher_is_better": row.first.higher_is_better,
        "verdict": row.verdict,
        "conclusion": row.conclusion,
    }


def _data(found: Comparisons) -> dict[str, Any]:
    runs = zip(found.labels, found.runs, strict=True)
    return {
        "runs": [
            {
                "label": label,
                "model": run.model_name,
                "kind": run.model_kind,
                "date": run.date_id,
                "path": run.path.as_posix(),
            }
            for label, run in runs
        ],
        "mismatches": [{"second": label, "task": task, "what": list(wrong)} for label, task, wrong in found.mismatches],
        "comparisons": [_record(found, row) for row in found.rows],
        "left_out": [{"second": label, "task": task, "why": why} for label, task, why in found.left_out],
        "banners": [asdict(banner) for banner in _banners(found)],
    }
