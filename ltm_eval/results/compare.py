"""Runs compared on the same documents: which is better, by how much, and what the comparison cannot tell.

Documents are paired by the hash of their content and their occurrence. The first run is set against every other. Runs
that are not like for like (other prompts, targets, shots, seeds, limits, preparation) are refused unless asked for. The
first figure of every task is tested under Holm's correction over all tasks and runs; the others stand beside it, each
with its own p value. A bound is never taken for an exact figure, and `as_released` for neither.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from ltm_eval.results.columns import columns_of, joined, labels_of, model_of
from ltm_eval.results.files import UNFINISHED, find_runs
from ltm_eval.results.perplexity import BLOCK_MEAN, KINDS, PROTOCOL_KEYS, VALUE_OF, preparation, scale_of
from ltm_eval.results.scores import AGREEMENT, ROLLING_METRICS, SHARES, by_document, entry_of, other_count
from ltm_eval.results.signature import ROLLING, Tokens, causal_scope, same_tokens, tokens_of
from ltm_eval.results.statistics import holm, paired_means, paired_rates, ppl, sign_of
from ltm_eval.system.errors import RefusedError, ResultsError, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ltm_eval.results.files import Run, Score
    from ltm_eval.results.scores import Entry, Key
    from ltm_eval.results.statistics import Paired

MEAN, BOUND, EXACT, CAUSAL, RELEASED, PART = "mean", "bound", "exact", "causal", "as_released", "part"
UNSOUND = "not a bound (audit failed)"
BOUND_KINDS = (BOUND, "iwae", "prior")
SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed", "latent_seed")
UNITS = {"word_perplexity": "word", "byte_perplexity": "byte", "perplexity": "target"}
_KIND = {kind.metric: kind.name for kind in KINDS}
_IN_BYTES = tuple(kind.name for kind in KINDS if kind.in_bytes)


@dataclass(frozen=True)
class Series:
    """One figure of one run, by document."""

    metric: str
    filter: str
    kind: str  # mean, exact, bound, iwae, prior, causal, as_released, part, or that the audit failed
    scale: str  # mean, ppl, bits or nats
    unit: str
    values: Mapping[Key, tuple[float, float]]  # score and 1, or nats and units, of each document
    higher_is_better: bool | None
    tokens: Tokens | None = None

    @property
    def share(self) -> bool:
        """Whether it is a share of documents, shown in percent."""
        return self.metric.startswith(SHARES)


def series_of(entry: Entry, task: str) -> tuple[list[Series], list[str]]:
    """Return every figure of the run that its samples hold by document, and why the others are left out."""
    found, left_out = [], []
    for score in entry.run.tasks[task].scores:
        if score.metric.endswith("_mc_se"):
            continue
        made = _series(entry, score, task)
        if isinstance(made, Series):
            counted = "_per_token" in made.metric
            found.append(replace(made, tokens=tokens_of(entry.run, task)) if counted else made)
        else:
            left_out.append(f"{score.metric}: {made}")
    return found + _in_bytes(found), left_out


def _series(entry: Entry, score: Score, task: str) -> Series | str:
    """Return the figure by document, or why there is none."""
    metric, filter_, higher = score.metric, score.filter, score.higher_is_better
    logged = by_document(entry, metric=metric, filter_=filter_)
    values = {key: (x, 1.0 if units is None else units) for key, (x, units) in logged.items()}
    if not values:
        return "no figure by document"
    if other := other_count(entry, task, metric=metric, filter_=filter_):
        return other
    if metric == BLOCK_MEAN.metric:
        means = {key: (ppl([pair]), 1.0) for key, pair in values.items() if pair[1]}
        return Series(metric, filter_, RELEASED, MEAN, "document", means, higher)
    rated = metric == "perplexity" or all(units is not None for _, units in logged.values())
    if not rated:
        values = {key: (x, 1.0) for key, (x, _) in values.items()}
        mean = math.fsum(x for x, _ in values.values()) / len(values)
        if score.value is not None and not math.isclose(mean, score.value, rel_tol=AGREEMENT, abs_tol=AGREEMENT):
            return "no mean of its documents, or results and samples disagree"
        higher = True if higher is None and metric.startswith(SHARES) else higher
        return Series(metric, filter_, MEAN, MEAN, "document", values, higher)
    values, scale = {key: (abs(nats), units) for key, (nats, units) in values.items()}, scale_of(metric)
    why = "" if any(units for _, units in values.values()) else "no units to divide by"
    if not why and score.value is not None:
        agree = math.isclose(VALUE_OF[scale](list(values.values())), score.value, rel_tol=AGREEMENT)
        why = "" if agree else "results and samples disagree"
    unit = next((unit for unit in ("token", "word", "byte") if f"_per_{unit}" in metric), "unit")
    return why or Series(
        metric, filter_, _kind(entry.run, metric), scale, UNITS.get(metric, unit), values, higher_is_better=False
    )


def _kind(run: Run, metric: str) -> str:
    """What the figure may be called; an LTM's answer to lm-eval's own rolling tasks is a bound."""
    name = BOUND if metric.endswith("_bound") else _KIND.get(metric, EXACT)
    if metric in {*ROLLING_METRICS, "bits_per_byte"} and run.model_kind == "ltm":
        name = BOUND
    if metric.startswith(("nll_per_", "kl_per_")):
        return PART
    return UNSOUND if name in BOUND_KINDS and not run.extra.bounds_hold else name


def _in_bytes(found: Sequence[Series]) -> list[Series]:
    """Bits per byte of the rows that are logged per token alone, with the bytes of the headline."""
    sizes = next((one.values for one in found if one.scale == "bits" and one.unit == "byte"), {})
    made = []
    for one in found:
        if one.kind in _IN_BYTES and one.unit == "token" and one.kind not in {BOUND, EXACT} and sizes:
            values = {key: (nats, sizes[key][1]) for key, (nats, _) in one.values.items() if key in sizes}
            metric = f"bits_per_byte_{one.kind}"
            made.append(Series(metric, one.filter, one.kind, "bits", "byte", values, False))
    return made


# What differs


def mismatches(task: str, a: Entry, b: Entry) -> list[str]:
    """In what two runs of a task are not like for like, each as a few words; empty if they are."""
    ours, theirs = a.run.tasks[task], b.run.tasks[task]
    rolling = all(score.metric.startswith(ROLLING) for score in ours.scores)
    found = [_against("task versions", ours.version, theirs.version)]
    found += [] if rolling else [_against("shots", ours.n_shot, theirs.n_shot)]
    found.append(_against("documents", ours.n_effective, theirs.n_effective))
    if ours.n_effective is None or theirs.n_effective is None:
        found.append(_against("limit", _limit(a.run), _limit(b.run)))
    found += [_against(seed.replace("_", " "), a.run.config.get(seed), b.run.config.get(seed)) for seed in SEEDS]
    found.append(_against("causal row of each", causal_scope(a.run.config), causal_scope(b.run.config)))
    for name in ("generation_kwargs", "repeats"):
        found.append(_against(name, ours.config.get(name), theirs.config.get(name)))
    protocols = preparation(task, a), preparation(task, b)
    found += [_against(name, *(facts.get(name) for facts in protocols)) for name in PROTOCOL_KEYS]
    if a.run.extra.sample_data != b.run.extra.sample_data:
        found.append("bundled sample data against other data")
    return [one for one in found if one] + _document_mismatches(a, b)


def _limit(run: Run) -> float | str:
    return "none" if run.extra.limit is None else run.extra.limit


def _against(name: str, ours: Any, theirs: Any) -> str:
    """`shots 0 against 8`; empty where the two agree or one does not tell."""
    if {repr(ours), repr(theirs)} & {"None", "''"} or ours == theirs:
        return ""
    shown = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in (ours, theirs))
    return f"{name} {' against '.join(shown)}"


def _document_mismatches(a: Entry, b: Entry) -> list[str]:
    """Prompts and targets of the documents that both runs saw, over all filters."""
    prompts, targets, shared = set(), set(), set()
    for name in a.samples.keys() & b.samples.keys():
        ours, theirs = a.samples[name], b.samples[name]
        for key in ours.keys() & theirs.keys():
            shared.add(key)
            if ours[key].prompt_hash != theirs[key].prompt_hash:
                prompts.add(key)
            if ours[key].target != theirs[key].target:
                targets.add(key)
    named = (("prompts", prompts), ("targets", targets))
    return [f"other {name} in {len(keys):,} of {len(shared):,} documents" for name, keys in named if keys]


SHOWN_UNITS = (("bits", "byte"), ("ppl", "token"), ("ppl", "word"), ("ppl", "target"))
"""Of rates, those that are compared: perplexity per byte says what bits per byte say."""
UNNAMED_MISMATCHES = 4


@dataclass(frozen=True)
class Comparison:
    """One figure of the first run against the same of another."""

    task: str
    other: str
    first: Series
    second: Series
    found: Paired
    unmatched: tuple[int, int]
    headline: bool
    p_holm: float | None = None  # p value of a headline after Holm's correction; None for other figures
    verdict: str = ""  # better or worse (of the first run), open, or bounds: lower, bounds: higher
    conclusion: str = ""


@dataclass(frozen=True)
class Comparisons:
    """Everything `compare` found."""

    labels: tuple[str, ...]
    runs: tuple[Run, ...]
    rows: tuple[Comparison, ...]
    mismatches: tuple[tuple[str, str, tuple[str, ...]], ...]
    left_out: tuple[tuple[str, str, str], ...]
    newer: tuple[str, ...] = ()  # sentences about newer runs that are not compared

    @property
    def worse(self) -> tuple[Comparison, ...]:
        """Headlines in which the first run is worse."""
        return tuple(row for row in self.rows if row.headline and row.verdict in {"worse", "bounds: higher"})


def compare_paths(
    paths: Sequence[str | Path],
    *,
    allow_mismatch: bool = False,
    tasks: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> Comparisons:
    """Compare the results in `paths`, files or folders, an LTM before the baselines of the same path.

    One path alone stands for the first column of each of its models, or for all columns of the only one. Of several
    each stands for its model, or for each of its models: for every task the newest run that compares with one of every
    other model, or the newest of all if `allow_mismatch`.

    Raises:
        ResultsError: a path does not exist, holds no results, or a file is malformed.
        UsageError, RefusedError: as `compare`.
    """
    sides: list[list[Run]] = []  # the runs of one model, newest first and unfinished ones last
    for path in paths:
        found = find_runs([path], newest_only=False)
        models: dict[tuple[str, ...], list[Run]] = {}
        for run in sorted(columns_of(found), key=lambda run: run.model_kind != "ltm"):
            models.setdefault(model_of(run), []).append(run)
        if len(paths) == 1:
            sides = (
                [[own[0]] for own in models.values()] if len(models) > 1 else [[run] for run in [*models.values()][0]]
            )
        else:
            order = sorted(found, key=lambda run: (run.extra.status not in UNFINISHED, run.date_id), reverse=True)
            sides += [[run for run in order if model_of(run) == model] for model in models]
    chosen: list[dict[str, Run]] = [{} for _ in sides]
    for task in dict.fromkeys(task for side in sides for run in side for task in run.tasks):
        having = [[run for run in side if task in run.tasks] for side in sides]
        for own, newest in zip(chosen, _newest_alike(task, having, allow_mismatch=allow_mismatch), strict=True):
            if newest is not None:
                own[task] = newest
    runs: dict[tuple[Any, ...], tuple[Run, Sequence[Run]]] = {}
    for side, own in zip(sides, chosen, strict=True):
        key = tuple(sorted((task, run.of(task).path.resolve()) for task, run in own.items()))
        runs.setdefault(key, (joined(own.items()) if own and len(side) > 1 else side[0], side))
    return replace(
        compare([run for run, _ in runs.values()], allow_mismatch=allow_mismatch, tasks=tasks, metrics=metrics),
        newer=_newer([*runs.values()]),
    )


def _newest_alike(task: str, sides: Sequence[Sequence[Run]], *, allow_mismatch: bool) -> list[Run | None]:
    """Return a run of each side that has the task: the newest that compare, or the newest of all if none do."""
    newest = [side[0] if side else None for side in sides]
    if allow_mismatch or all(len(side) < 2 for side in sides) or not sides[0]:
        return newest
    by_path = {run.path: run for side in sides for run in side}
    read = cache(lambda path: entry_of("", 1, by_path[path], task=task))
    for first in sides[0]:
        found = [
            next((run for run in side if not mismatches(task, read(first.path), read(run.path))), None)
            for side in sides[1:]
        ]
        if all(run is not None or not side for run, side in zip(found, sides[1:], strict=True)):
            return [first, *found]
    return newest


def _newer(runs: Sequence[tuple[Run, Sequence[Run]]]) -> tuple[str, ...]:
    """Return a sentence for each run and task of which a newer one was passed over."""
    found = []
    for label, (run, side) in zip(labels_of([run for run, _ in runs]), runs, strict=True):
        for task in run.tasks:
            own = run.of(task)
            having = [one for one in side if task in one.tasks]
            passed = having[: [one.path for one in having].index(own.path)] if len(having) > 1 else []
            if passed:
                limits = any(one.extra.limit != own.extra.limit for one in passed)
                many = f"{len(passed)} newer run{'s' if len(passed) > 1 else ''} not compared"
                found.append(f"{label}, {task}: {many} (other {'limit' if limits else 'settings'}).")
    return tuple(found)


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
            f"no run has the metric {unknown!r}; there are {_listed(known, 120)}.{nearest(unknown, known)}"
        )
    why = left_out[0][2] if left_out else "the runs share no figure"
    return ResultsError(f"nothing to compare: {why[:150]}; samples are needed, so run lm-eval with --log_samples")


def _listed(names: Sequence[str], most: int) -> str:
    """Return the names in at most so many characters, the last ones left out whole."""
    return shorten(", ".join(names), most, placeholder=" …")


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
    names = f"{first[0][:30]} has {_listed(ours, 60) or 'none'}, {second[0][:30]} has {_listed(theirs, 60) or 'none'}"
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
            reasons.append(f"{first.metric}: the runs share no document")
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
            )
        )
    return made, reasons


def _paired(first: Series, second: Series, shared: Sequence[Key]) -> Paired | str:
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
