"""Runs compared on the same documents: which is better, by how much, and what the comparison cannot tell.

Documents are paired by the hash of their content and their occurrence. The first run is set against every other. Runs
that are not like for like (other prompts, targets, shots, seeds, limits, preparation) are refused unless asked for. The
first figure of every task is tested under Holm's correction over all tasks and runs; the others stand beside it, each
with its own p value. A bound is never taken for an exact figure, and `as_released` for neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ltm_eval.errors import RefusedError, ResultsError, UsageError, nearest
from ltm_eval.paired import holm, paired_means, paired_rates, sign_of
from ltm_eval.pairing import BOUND_KINDS, CAUSAL, EXACT, MEAN, PART, RELEASED, UNSOUND, mismatches, series_of
from ltm_eval.scores import entry_of, labels_of
from ltm_eval.signatures import same_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.paired import Paired
    from ltm_eval.pairing import Series
    from ltm_eval.result_records import Run
    from ltm_eval.scores import Entry

NEXT_TOKEN = (EXACT, CAUSAL)
SHOWN_UNITS = (("bits", "byte"), ("ppl", "token"), ("ppl", "word"), ("ppl", "target"))
"""Of rates, those that are compared: perplexity per byte says what bits per byte say."""
UNNAMED_MISMATCHES = 4


@dataclass(frozen=True)
class Comparison:
    """One figure of the first run against the same of another."""

    task: str
    """Task."""
    other: str
    """Label of the other run."""
    first: Series
    """The first run's figure."""
    second: Series
    """The other run's figure."""
    found: Paired
    """Difference, interval and test over the documents that both scored."""
    unmatched: tuple[int, int]
    """Documents that the first run alone, and the other alone, scored."""
    headline: bool
    """Whether it is the task's first figure, which Holm's correction counts."""
    p_holm: float | None
    """p value of a headline after Holm's correction; None for other figures."""
    verdict: str
    """better or worse (of the first run), open, or bounds: lower, bounds: higher."""
    conclusion: str
    """What follows, in a sentence."""


@dataclass(frozen=True)
class Comparisons:
    """Everything `compare` found."""

    labels: tuple[str, ...]
    """The runs, the first one first."""
    runs: tuple[Run, ...]
    """The same."""
    rows: tuple[Comparison, ...]
    """By other run, then by task."""
    mismatches: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Other run, task and in what the two are not like for like; filled only where that was allowed."""
    left_out: tuple[tuple[str, str, str], ...]
    """Other run, task, and why something is not compared."""

    @property
    def worse(self) -> tuple[Comparison, ...]:
        """Headlines in which the first run is worse."""
        return tuple(row for row in self.rows if row.headline and row.verdict in {"worse", "bounds: higher"})


def compare(
    runs: Sequence[Run], *, allow_mismatch: bool = False, tasks: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Comparisons:
    """Set the first of `runs` against every other.

    Args:
        runs: at least two.
        allow_mismatch: compare runs that are not like for like all the same, and say so.
        tasks: tasks to compare (`ltm_` may be left out); without any, all.
        metrics: figures to compare, `NAME` or `NAME_OF_FIRST:NAME_OF_OTHER`; without any, all that pair.

    Raises:
        UsageError: fewer than two runs, or a task or metric that no run has.
        RefusedError: runs that are not like for like, no common task or document, or a pair of figures of unlike kind.
        ResultsError: a samples file is malformed.
    """
    if len(runs) < 2:
        raise UsageError(
            f"compare needs at least 2 runs, got {len(runs)}; give results files or folders that hold some"
        )
    labels = labels_of(runs)
    rows: list[Comparison] = []
    differing: list[tuple[str, str, tuple[str, ...]]] = []
    left_out: list[tuple[str, str, str]] = []
    for series, (label, run) in enumerate(zip(labels[1:], runs[1:], strict=True), 2):
        for task in _common_tasks((labels[0], runs[0]), (label, run), tasks, allow_mismatch=allow_mismatch):
            pair = entry_of(labels[0], 1, runs[0], task=task), entry_of(label, series, run, task=task)
            wrong = mismatches(task, *pair)
            if wrong and not allow_mismatch:
                raise RefusedError(_refusal(task, labels[0], label, wrong))
            differing += [(label, task, tuple(wrong))] if wrong else []
            made, why = _of_task(task, pair, metrics)
            rows += made
            left_out += [(label, task, reason) for reason in why]
    if not rows:
        raise _nothing(runs, metrics, left_out)
    return Comparisons(tuple(labels), tuple(runs), _judged(rows), tuple(differing), tuple(left_out))


def _refusal(task: str, first: str, second: str, wrong: Sequence[str]) -> str:
    more = f"; and {len(wrong) - UNNAMED_MISMATCHES} more" if len(wrong) > UNNAMED_MISMATCHES else ""
    named = "; ".join(wrong[:UNNAMED_MISMATCHES])
    named = named if len(named) <= 150 else f"{named[:149]}…"
    who = f"{task[:40]}: {first[:30]} and {second[:30]}"
    return f"{who} are not like for like: {named}{more}; --allow_mismatch compares them"


def _nothing(runs: Sequence[Run], metrics: Sequence[str], left_out: Sequence[tuple[str, str, str]]) -> Exception:
    known = sorted({score.metric for run in runs for result in run.tasks.values() for score in result.scores})
    wanted = [part for name in metrics for part in name.split(":")]
    unknown = next((name for name in wanted if name not in known and not name.startswith("bits_per_byte_")), None)
    if unknown is not None:
        return UsageError(
            f"no run has the metric {unknown!r}; there are {', '.join(known)[:120]}.{nearest(unknown, known)}"
        )
    why = left_out[0][2] if left_out else "the runs share no figure"
    return ResultsError(f"nothing to compare: {why[:150]}; samples are needed, so run lm-eval with --log_samples")


def _common_tasks(
    first: tuple[str, Run], second: tuple[str, Run], wanted: Sequence[str], *, allow_mismatch: bool
) -> list[str]:
    """Tasks of both runs.

    Raises:
        UsageError: a wanted task is in neither run.
        RefusedError: the runs have other tasks, and that was not allowed.
    """
    ours, theirs = (
        [task for task in run.tasks if not wanted or task in wanted or task.removeprefix("ltm_") in wanted]
        for _, run in (first, second)
    )
    for name in wanted:
        if not {name, f"ltm_{name}"} & {*ours, *theirs}:
            known = [*first[1].tasks, *second[1].tasks]
            raise UsageError(f"neither run has the task {name!r}.{nearest(name, known)}")
    common = [task for task in ours if task in theirs]
    apart = [task for task in (*ours, *theirs) if task not in common]
    names = (
        f"{first[0][:30]} has {', '.join(ours)[:60] or 'none'}, {second[0][:30]} has {', '.join(theirs)[:60] or 'none'}"
    )
    if not common:
        raise RefusedError(f"the runs share no task: {names}")
    if apart and not allow_mismatch:
        raise RefusedError(
            f"the runs have different tasks: {names}; choose with --task, or compare the common ones "
            "with --allow_mismatch"
        )
    return common


def _of_task(task: str, pair: tuple[Entry, Entry], metrics: Sequence[str]) -> tuple[list[Comparison], list[str]]:
    """Every comparison of a task, the headline first, and what is left out."""
    (ours, why), (theirs, more) = (series_of(entry, task) for entry in pair)
    chosen = _named_pairs(ours, theirs, metrics) if metrics else _pairs(ours, theirs)
    made: list[Comparison] = []
    unsound = [f"{one.metric}: the audit failed, so it is no bound" for one in ours + theirs if one.kind == UNSOUND]
    reasons = list(dict.fromkeys(why + more + unsound))
    for first, second in chosen:
        shared = [key for key in first.values if key in second.values]
        if not shared:
            text = f"{first.metric}: the runs share no document"
            reasons.append(text)
            continue
        found = _paired(first, second, shared)
        if isinstance(found, str):
            reasons.append(found)
            continue
        made.append(
            Comparison(
                task=task,
                other=pair[1].label,
                first=first,
                second=second,
                found=found,
                unmatched=(len(first.values) - len(shared), len(second.values) - len(shared)),
                headline=not made,
                p_holm=None,
                verdict="",
                conclusion="",
            )
        )
    return made, reasons


def _paired(first: Series, second: Series, shared: Sequence[tuple[str, int]]) -> Paired | str:
    """The statistics, or why there are none."""
    if "_per_token" in first.metric and not same_tokens([first.tokens, second.tokens]):
        return f"{first.metric}: the runs do not tell the same tokens, so figures per token do not compare"
    a, b = ([series.values[key][0] for key in shared] for series in (first, second))
    if not all(map(math.isfinite, (*a, *b))):
        return f"{first.metric}: a document has no finite figure"
    if first.scale == MEAN:
        return paired_means(a, b)
    units, others = ([series.values[key][1] for key in shared] for series in (first, second))
    if units != others:
        what = f"the runs count {first.unit}s differently, so figures per {first.unit} do not compare"
        return f"{first.metric}: {what}"
    return paired_rates(a, b, units, scale=first.scale) if any(units) else f"{first.metric}: no {first.unit}s"


def _pairs(ours: Sequence[Series], theirs: Sequence[Series]) -> list[tuple[Series, Series]]:
    """Figures that may be set against each other, the headline first."""
    rated = []
    for kinds in ((*BOUND_KINDS[:1], EXACT), (CAUSAL, EXACT), BOUND_KINDS[1:2], BOUND_KINDS[2:3], (RELEASED,)):
        for scale, unit in SHOWN_UNITS:
            first, second = (_of_kind(series, kinds, scale, unit) for series in (ours, theirs))
            if first is not None and second is not None and (first, second) not in rated:
                rated.append((first, second))
    means = [
        (one, other)
        for one in ours
        for other in theirs
        if one.scale == other.scale == MEAN and (one.metric, one.filter) == (other.metric, other.filter)
    ]
    words_first = any(one.unit == "target" for one, _ in rated)  # the accuracy of a last word is its headline
    return means + rated if words_first else rated + means


def _of_kind(series: Sequence[Series], kinds: Sequence[str], scale: str, unit: str) -> Series | None:
    """The figure of the first of `kinds` that the run has."""
    there = [one for kind in kinds for one in series if (one.kind, one.scale, one.unit) == (kind, scale, unit)]
    return there[0] if there else None


def _named_pairs(
    ours: Sequence[Series], theirs: Sequence[Series], metrics: Sequence[str]
) -> list[tuple[Series, Series]]:
    """Figures by name.

    Raises:
        RefusedError: the two are of kinds that cannot be compared.
    """
    chosen = []
    for name in metrics:
        left, _, right = name.partition(":")
        for one in (one for one in ours if one.metric == left):
            wanted = [other for other in theirs if other.metric == (right or left)]
            wanted = wanted or [other for other in theirs if not right and _same_quantity(one, other)]
            for other in (other for other in wanted if other.filter == one.filter):
                _refuse_unlike(one, other)
                chosen.append((one, other))
    return chosen


def _same_quantity(one: Series, other: Series) -> bool:
    kinds = {one.kind, other.kind}
    headline = kinds <= {BOUND_KINDS[0], EXACT} or kinds <= {CAUSAL, EXACT}
    return headline and (one.scale, one.unit) == (other.scale, other.unit) and one.scale != MEAN


def _refuse_unlike(one: Series, other: Series) -> None:
    """Raises RefusedError for a pair of figures that do not measure the same."""
    if (one.scale, one.unit) != (other.scale, other.unit):
        raise RefusedError(f"{one.metric} and {other.metric} do not measure the same; compare figures of one unit")
    loose = {RELEASED, PART, UNSOUND}
    if one.kind != other.kind and loose & {one.kind, other.kind}:
        first, second = (one, other) if one.kind in loose else (other, one)
        what = {RELEASED: "is the released evaluator's figure, no bound", PART: "is a part of a bound"}
        raise RefusedError(
            f"{first.metric} {what.get(first.kind, 'failed the audit: no bound')}; it cannot be set against "
            f"{second.metric} ({second.kind}); compare like with like"
        )


# Conclusions


def _judged(rows: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The rows with Holm's correction over all headlines, and what follows."""
    corrected = iter(holm([row.found.p_value for row in rows if row.headline]))
    found = []
    for row in rows:
        p_holm = next(corrected) if row.headline else None
        sign = sign_of(row.found, row.found.p_value if p_holm is None else p_holm)
        verdict, text = conclusion(row.first, row.second, sign)
        found.append(replace(row, p_holm=p_holm, verdict=verdict, conclusion=text))
    return tuple(found)


OPEN = "Not distinguishable, which is not the same as equal."
OF_BOUNDS = {
    (True, True, -1): ("bounds: lower", "The first bound is lower; the order of the exact figures is not certain."),
    (True, True, 1): ("bounds: higher", "The first bound is higher; the order of the exact figures is not certain."),
    (True, False, -1): ("better", "The first run's bound is below the other's exact figure: the first is better."),
    (True, False, 1): ("open", "The first run's bound is above the other's exact figure: it need not be worse."),
    (False, True, -1): ("open", "The first run's exact figure is below the other's bound: it need not be better."),
    (False, True, 1): ("worse", "The other run's bound is below the first's exact figure: the first is worse."),
}
"""What follows, by whether the first and the other figure are bounds and whether the first is lower or higher."""


def conclusion(first: Series, second: Series, sign: int) -> tuple[str, str]:
    """What follows from the first figure being lower (-1), higher (1) or not distinguishable (0): verdict, sentence."""
    word = "lower" if sign < 0 else "higher"
    bounds = first.kind in BOUND_KINDS, second.kind in BOUND_KINDS
    if sign == 0:
        return "open", OPEN
    if {first.kind, second.kind} & {RELEASED, UNSOUND}:
        return "open", f"The first figure is {word}; neither is a bound, so nothing about the likelihoods follows."
    if any(bounds):
        return OF_BOUNDS[bounds[0], bounds[1], sign]
    if first.kind == PART or first.higher_is_better is None:
        return "open", f"The first figure is {word}; no direction is better."
    verdict = "better" if (sign > 0) == first.higher_is_better else "worse"
    return verdict, f"The first run is {verdict}."
