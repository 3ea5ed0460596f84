"""What latent inference did and what it cost, per run and task, from the sidecars."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from statistics import fmean, median, variance
from typing import TYPE_CHECKING, Any

from ltm_eval.results.answers import INVALID
from ltm_eval.results.files import fits_of, made_once
from ltm_eval.results.scores import PASS, attempts_of
from ltm_eval.results.statistics import quantile
from ltm_eval.results.views import (
    LEVELS,
    REFERENCE,
    AnswerFacts,
    ComputeCurve,
    ComputePoint,
    CostRow,
    Curve,
    HeatMap,
    HeatRow,
    LatentSummary,
    LayersView,
    Line,
    LinePoint,
    SizeRow,
    StepCurve,
    Unanswered,
)
from ltm_eval.system.files import reports_dir
from ltm_eval.system.machine import flops_of
from ltm_eval.system.records import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.results.files import AnswerRecord, LatentRecord, Run
    from ltm_eval.results.scores import Entry
    from ltm_eval.results.views import EffectTable, PerplexityRow, PerplexitySection, ScoreTable


# Whether a bound has settled: against the fast steps that were made, and against the noise draws that were taken.
#
# Over steps the sidecar holds the fit's objective at each step. Where the preset draws fresh noise for every step, the
# posterior of a step has not seen that step's noise, so each figure is a one-draw estimate of a valid bound; where the
# noise is fixed it is no bound and is said to be none. Over draws it holds what each draw alone says of a text, so
# every point of the curve is measured.

MOST_NATS = 700.0


def step_curves(
    entries: Sequence[Entry], records: Mapping[str, Sequence[LatentRecord]], rows: Sequence[PerplexityRow]
) -> tuple[StepCurve, ...]:
    """One per run whose sidecar holds trajectories."""
    found = (
        _step_curve(entry, records.get(entry.label, ()), settled=_bound_of(rows, entry.label)) for entry in entries
    )
    return tuple(curve for curve in found if curve is not None)


def _step_curve(entry: Entry, records: Sequence[LatentRecord], *, settled: float | None) -> StepCurve | None:
    finite = [r for r in records if len(r.objective_nats) > 1 and all(map(math.isfinite, r.objective_nats))]
    usual = Counter(len(record.objective_nats) for record in finite).most_common(1)
    own = [record for record in finite if len(record.objective_nats) == usual[0][0]]
    tokens = sum(record.fitted_tokens for record in own)
    if not tokens:
        return None
    steps = zip(*(record.objective_nats for record in own), strict=True)
    return StepCurve(
        label=entry.label,
        series=entry.series,
        nats_per_token=tuple(math.fsum(step) / tokens for step in steps),
        settled=settled,
        is_bound=_block(entry, "fit").get("noise") == "fresh",
        documents=len(own),
    )


def draw_lines(
    entries: Sequence[Entry], records: Mapping[str, Sequence[LatentRecord]], rows: Sequence[PerplexityRow]
) -> tuple[Line, ...]:
    """The bound's perplexity by the first 1, 2, 4 ... draws of every document, each draw alone beside it.

    The band is a 95 % interval of the noise as those draws themselves show it; a single draw shows none, so there it is
    that of all. Runs whose sidecar does not hold the draws of every document are left out.
    """
    found = (_draw_line(entry, records.get(entry.label, ()), rows) for entry in entries)
    return tuple(line for line in found if line is not None)


def _draw_line(entry: Entry, records: Sequence[LatentRecord], rows: Sequence[PerplexityRow]) -> Line | None:
    lines = [line for row in rows if row.name == "bound" for line in row.lines if line.label == entry.label]
    drawn = [record.draws_nats for record in records if record.draws_nats]
    draws = min(map(len, drawn), default=0)
    rate = _bound_of(rows, entry.label)
    if rate is None or rate <= 0 or lines[0].documents != len(drawn) or draws < 2:
        return None
    tokens = math.fsum(map(fmean, drawn)) / rate  # what the figure of the table was divided by
    points = []
    for used in sorted({*(2**power for power in range(draws.bit_length())), draws}):
        own = [nats[:used] for nats in drawn]
        middle = math.fsum(map(fmean, own)) / tokens
        half = _noise(own if used > 1 else drawn, used) / tokens
        points.append(LinePoint(used, *(_perplexity(middle + side) for side in (0.0, -half, half))))
    alone = [_perplexity(math.fsum(nats[place] for nats in drawn) / tokens) for place in range(draws)]
    return Line(entry.label, entry.series, tuple(points), dots=tuple((1.0, one) for one in alone))


def _noise(draws: Sequence[Sequence[float]], count: int) -> float:
    """Half the 95 % interval of the sum over documents of means over `count` draws that vary as these do, nats.

    Student's t with Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2:110).
    """
    variances = list(map(variance, draws))
    total = math.fsum(variances)
    if not total:
        return 0.0
    freedom = total**2 / math.fsum(own**2 / (len(nats) - 1) for own, nats in zip(variances, draws, strict=True))
    return quantile(freedom) * math.sqrt(total / count)


def _perplexity(nats: float) -> float:
    return math.exp(min(nats, MOST_NATS))


def _bound_of(rows: Sequence[PerplexityRow], label: str) -> float | None:
    """Return a run's bound, nats per token."""
    lines = (line for row in rows for line in row.lines if row.name == "bound" and line.label == label)
    figure = next((line.per_token for line in lines), None)
    value = figure.value if figure is not None else None
    return math.log(value) if value is not None and 0 < value < math.inf else None


def _block(entry: Entry, key: str) -> Mapping[str, Any]:
    found = entry.run.config.get(key)
    return found if isinstance(found, dict) else {}


# What the figures of a page cost: time, speed, memory, and compute per token at equal size and at equal compute.
#
# Compute per token is the operations of every pass that a run recorded, over the tokens of its texts, or of its prompts
# and the answers generated. Files that record none have the papers' (t_fast + 1) passes of a token, an autoregressive
# model one; each pass is charged like one of training in all of them, so they stand on one footing.

TRAINING_FLOPS_PER_PARAMETER = 6
"""Of an autoregressive model, per token, attention left out."""


def cost_rows(
    name: str, entries: Sequence[Entry], records: Mapping[str, Sequence[LatentRecord]]
) -> tuple[CostRow, ...]:
    """What task `name` cost each run."""
    return tuple(_row(name, entry, records.get(entry.label, ())) for entry in entries)


def _row(name: str, entry: Entry, records: Sequence[LatentRecord]) -> CostRow:
    told = (entry.run.extra.cost or {}).get(name)
    told = told if isinstance(told, dict) else {}
    documents = entry.run.tasks[name].n_effective
    # A run of one task tells its time though nothing was measured per task.
    seconds = _number(told.get("seconds")) or (entry.run.seconds if len(entry.run.tasks) == 1 else None)
    once = made_once(records)
    fit, decode = (sum(getattr(r, field) for r in once) for field in ("fit_seconds", "decode_seconds"))
    steps = fmean(record.t_fast for record in records) if records else None
    flops, tokens = _number(told.get("flops")), sum(r.prompt_tokens + r.new_tokens for r in once)
    is_counted = bool(flops and tokens)
    if not is_counted:
        flops = flops_of(entry.run.config, t_fast=steps or 0.0) if _counts(entry.run, steps) else None
    processes = count(told.get("processes")) or 1
    memory = count(told.get("total_memory_bytes" if processes > 1 else "peak_memory_bytes"))
    return CostRow(
        task=name,
        label=entry.label,
        series=entry.series,
        documents=documents,
        seconds=seconds,
        seconds_per_document=seconds / documents if seconds is not None and documents else None,
        fit_share=fit / (fit + decode) if fit + decode > 0 else None,
        fitted_tokens_per_second=sum(r.t_fast * r.fitted_tokens for r in fits_of(records)) / fit if fit > 0 else None,
        new_tokens_per_second=sum(r.new_tokens for r in once) / decode if decode > 0 else None,
        peak_memory_bytes=memory,
        memory_of=str(told.get("memory_of") or ""),
        t_fast=steps,
        flops_per_token=flops / tokens if is_counted and flops is not None else flops,
        by_formula=not is_counted and steps is not None,
        processes=processes,
        working_seconds=_number(told.get("working_seconds")) if processes > 1 else None,
        starts=count(told.get("starts")) or 1,
    )


def _counts(run: Run, steps: float | None) -> bool:
    """Whether the steps are known: an LTM without a sidecar does not tell them."""
    return steps is not None or run.model_kind != "ltm"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None


def size_rows(named: Sequence[tuple[str, Run]], costs: Sequence[CostRow]) -> tuple[SizeRow, ...]:
    """Sizes of all runs beside the first one's."""
    sizes = [run.config.get("model_num_parameters") for _, run in named]
    parameters = [size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None for size in sizes]
    own_costs = [[row for row in costs if row.label == label] for label, _ in named]
    flops = [_largest(row.flops_per_token for row in rows) for rows in own_costs]
    trained = json.loads((reports_dir() / "training_compute.json").read_text(encoding="utf-8"))
    rows = []
    for series, (label, run) in enumerate(named, 1):
        card = next(
            (one for one in trained if (one["model"], one["demo"]) == (run.model_name, run.extra.demo_model)), None
        )
        own = flops[series - 1]
        rows.append(
            SizeRow(
                label=label,
                series=series,
                parameters=parameters[series - 1],
                size_ratio=_ratio(parameters[series - 1], parameters[0]),
                flops_per_token=own,
                compute_ratio=_ratio(own, flops[0]),
                same_compute_parameters=None if own is None else own / TRAINING_FLOPS_PER_PARAMETER,
                by_formula=any(row.by_formula for row in own_costs[series - 1]),
                training_flops=card["flops"] if card else None,
                training_tokens=card["tokens"] if card else None,
                training_source=card["source"] if card else "",
            )
        )
    return tuple(rows)


def _largest(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None


# How questions were answered: extraction failures, why generation ended, what fitted the context, pass@k over k.

SHOWS_ALL = ("prompt", "demos+prompt", "prior")
"""Conditions under which the decoder reads the demonstrations."""


def answer_facts(
    name: str, entries: Sequence[Entry], records: Mapping[str, Sequence[LatentRecord | AnswerRecord]]
) -> tuple[AnswerFacts, ...]:
    """Facts per run with generated answers; nothing for tasks that are scored and not answered."""
    generating = [
        entry
        for entry in entries
        if entry.samples and entry.run.tasks[name].config.get("output_type", "generate_until") == "generate_until"
    ]
    yes_or_no = [entry for entry in generating if any("exact_match" in s.metric for s in entry.run.tasks[name].scores)]
    return tuple(_facts(entry, records.get(entry.label, ())) for entry in yes_or_no)


def _facts(entry: Entry, records: Sequence[LatentRecord | AnswerRecord]) -> AnswerFacts:
    first = next(iter(entry.samples.values()))
    texts = [text for sample in first.values() for text in sample.responses]
    failed = []
    for name, samples in entry.samples.items():
        extracted = [text for sample in samples.values() for text in sample.filtered]
        failed.append(Unanswered(name, sum(text == INVALID for text in extracted), len(extracted)))
    generated = [record for record in records if record.stop_reason]

    def mean(field: str, of: Sequence[LatentRecord | AnswerRecord]) -> float | None:
        return fmean(getattr(record, field) for record in of) if of and hasattr(of[0], field) else None

    asked, read = mean("demonstrations", records), mean("demonstrations_read", records)
    return AnswerFacts(
        label=entry.label,
        series=entry.series,
        documents=len(first),
        unanswered=tuple(failed),
        characters=median(map(len, texts)) if texts else 0.0,
        empty=sum(not text.strip() for text in texts),
        stops=tuple(Counter(record.stop_reason for record in generated).most_common()),
        new_tokens=mean("new_tokens", generated),
        demonstrations=asked,
        dropped=asked - read if asked is not None and read is not None else None,
        prompts_cut=(sum(map(_is_cut, records)), len(records)) if records else None,
        prompt_tokens=mean("prompt_tokens", records),
        read_tokens=mean("read_tokens", records),
        fitted_tokens=mean("fitted_tokens", records),
        windows=mean("fitted_windows", records),
    )


def _is_cut(record: LatentRecord | AnswerRecord) -> bool:
    """Whether less of the prompt was read than there is; a condition that shows the question alone cuts nothing."""
    shows_all = getattr(record, "condition", "prompt") in SHOWS_ALL
    return record.truncated or (shows_all and record.demonstrations_read < record.demonstrations)


def attempts_lines(tables: Sequence[ScoreTable]) -> tuple[Line, ...]:
    """pass@k over k, of the first filter that has several k."""
    for name in dict.fromkeys(table.filter for table in tables if attempts_of(table.metric)):
        own = [table for table in tables if table.filter == name and attempts_of(table.metric)]
        found: dict[str, list[LinePoint]] = {}
        series: dict[str, tuple[int, bool]] = {}
        for table in own:
            for row in table.rows:
                # The content-free row names its answers, of which there are k.
                dashed = row.status == REFERENCE
                label = "content-free" if dashed else row.model
                if row.value is not None:
                    low, high = (row.value, row.value) if row.low is None or row.high is None else (row.low, row.high)
                    point = LinePoint(attempts_of(table.metric), row.value, low, high)
                    found.setdefault(label, []).append(point)
                    series[label] = (row.series, dashed)
        lines = tuple(
            Line(label, series[label][0], tuple(sorted(points, key=lambda point: point.x)), dashed=series[label][1])
            for label, points in found.items()
        )
        if any(len(line.points) > 1 for line in lines):
            return lines
    return ()


def shots_lines(tables: Sequence[EffectTable]) -> tuple[Line, ...]:
    """Accuracy over the number of demonstrations, one line per model and condition, of each model's first table."""
    return _over_shots([table for table in tables if not table.metric.startswith(PASS)])


def shots_pass_lines(tables: Sequence[EffectTable]) -> tuple[int, tuple[Line, ...]]:
    """The largest k > 1 of which a sweep tells pass@k, and that over the number of demonstrations; 0 without one."""
    k = max((attempts_of(table.metric) for table in tables), default=0)
    lines = _over_shots([table for table in tables if table.metric == f"{PASS}{k}"]) if k > 1 else ()
    return (k, lines) if lines else (0, ())


def _over_shots(tables: Sequence[EffectTable]) -> tuple[Line, ...]:
    lines: list[Line] = []
    several = len({table.label for table in tables}) > 1
    for label in dict.fromkeys(table.label for table in tables):
        table = next(table for table in tables if table.label == label)
        for condition in dict.fromkeys(row.condition for row in table.rows):
            own = sorted((row for row in table.rows if row.condition == condition), key=lambda row: row.shots)
            points = tuple(LinePoint(row.shots, row.value, row.low, row.high) for row in own)
            name = f"{label}, {condition}" if several else condition
            lines.append(Line(name, len(lines) + 1, points))
    return tuple(lines) if any(len(line.points) > 1 for line in lines) else ()


# Test-time compute: one model's figures against its fast steps, where the runs of a page differ in them.

BOUND_ROW = "bound"


def compute_curves(
    name: str,
    entries: Sequence[Entry],
    records: Mapping[str, Sequence[LatentRecord]],
    *,
    tables: Sequence[ScoreTable],
    perplexity: PerplexitySection | None,
) -> tuple[ComputeCurve, ...]:
    """Curves of every share of documents and of the bound, for each model that ran with different numbers of steps.

    Args:
        records: the sidecars, by label.
        tables: of the task, a row per entry.
        perplexity: of the task.
    """
    steps = {entry.label: _steps(entry.run, records.get(entry.label, ())) for entry in entries}
    families: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if steps[entry.label] is not None:
            families[_family(entry.run, name)].append(entry)
    curves = []
    for family in families.values():
        if len({steps[entry.label] for entry in family}) > 1:
            curves += _curves(family, steps, tables=tables, perplexity=perplexity)
    return tuple(curves)


def _steps(run: Run, records: Sequence[LatentRecord]) -> float | None:
    """Mean fast steps of a run: of its records, else of its settings; None where it is no LTM's."""
    if records:
        return round(fmean(record.t_fast for record in records), 2)
    fit = run.config.get("fit")
    value = fit.get("t_fast") if isinstance(fit, dict) else None
    return float(value) if isinstance(value, int) else None


def _family(run: Run, name: str) -> str:
    """Equal where runs are the same but for their fast steps."""
    fit = run.config.get("fit")
    told: dict[str, Any] = {
        "model": run.config.get("model_sha") or run.model_name,
        "tokenizer": run.config.get("tokenizer"),
        "condition": run.config.get("condition"),
        "fit_window": run.config.get("fit_window"),
        "preset": fit.get("preset") if isinstance(fit, dict) else None,
        "shots": run.tasks[name].n_shot,
    }
    return json.dumps(told, sort_keys=True, default=str)


def _curves(
    family: Sequence[Entry],
    steps: Mapping[str, float | None],
    *,
    tables: Sequence[ScoreTable],
    perplexity: PerplexitySection | None,
) -> list[ComputeCurve]:
    found = []
    for table in tables if any(table.share for table in tables) else ():
        values = {row.model: (row.value, row.low, row.high) for row in table.rows if row.value is not None}
        if table.share:
            title = table.metric if table.filter == "none" else f"{table.metric}, {table.filter}"
            found.append(_curve(family, steps, values, title=title, higher=table.higher_is_better, table=table))
    lines = [row for row in perplexity.rows if row.name == BOUND_ROW] if perplexity is not None else []
    for one in lines:
        figures = {line.label: line.per_token for line in one.lines if line.bound}
        values = {
            label: (own.value, own.low, own.high)
            for label, own in figures.items()
            if own is not None and own.value is not None
        }
        found.append(_curve(family, steps, values, title="perplexity per token, bound", higher=False, table=None))
    return [curve for curve in found if len({point.t_fast for point in curve.points}) > 1]


def _curve(  # noqa: PLR0913 - a family, its steps and figures, and what these are
    family: Sequence[Entry],
    steps: Mapping[str, float | None],
    values: Mapping[str, tuple[float, float | None, float | None]],
    *,
    title: str,
    higher: bool | None,
    table: ScoreTable | None,
) -> ComputeCurve:
    points = []
    for entry in family:
        t_fast = steps[entry.label]
        if t_fast is not None and entry.label in values:
            flops = flops_of(entry.run.config, t_fast=t_fast)
            points.append(ComputePoint(entry.label, t_fast, flops, *values[entry.label]))
    lead = family[0].run
    condition = lead.config.get("condition")
    return ComputeCurve(
        model=f"{lead.model_name}, {condition}" if condition else lead.model_name,
        metric=title,
        share=table is not None,
        bound=table is None or table.bound,
        higher_is_better=higher,
        points=tuple(sorted(points, key=lambda point: (point.t_fast, point.label))),
    )


def latent_summary(label: str, records: Sequence[LatentRecord]) -> LatentSummary:
    once = made_once(records)
    kl = [(r.kl_nats, r.fitted_tokens) for r in fits_of(records) if r.kl_nats is not None and r.fitted_tokens]
    return LatentSummary(
        label=label,
        condition=_tally(record.condition for record in records),
        preset=_tally(record.preset for record in records),
        t_fast=_steps_latents([record.t_fast for record in records]),
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
        stop_reasons=_stop_reasons(records),
        fit_seconds=sum(record.fit_seconds for record in once),
        decode_seconds=sum(record.decode_seconds for record in once),
        curve=_curve_latents(label, [record.objective_nats for record in records]),
    )


def _stop_reasons(records: Sequence[LatentRecord]) -> tuple[tuple[str, int], ...]:
    """Nothing for tasks whose texts are scored and not continued."""
    if not any(record.stop_reason for record in records):
        return ()
    return tuple(Counter(record.stop_reason or "nothing generated" for record in records).most_common())


def _tally(values: Any) -> str:
    counts = Counter(values).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{value} ({count:,})" for value, count in counts)


def _steps_latents(t_fast: Sequence[int]) -> str:
    """The number of fast steps, or their mean and range where documents ended after different ones (`t_fast=auto`)."""
    low, high = min(t_fast), max(t_fast)
    return str(low) if low == high else f"mean {fmean(t_fast):.1f} ({low} to {high})"


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


def _curve_latents(label: str, objectives: Sequence[tuple[float, ...]]) -> Curve | None:
    relative = [tuple(value - one[0] for value in one) for one in _usual(objectives) if len(one) > 1]
    if not relative:
        return None
    columns = [sorted(column) for column in zip(*relative, strict=True)]
    low, mid, high = (tuple(_quantile(column, share) for column in columns) for share in (0.1, 0.5, 0.9))
    worst = max(relative, key=lambda one: one[-1]) if len(relative) > 1 else ()
    return Curve(label=label, median=mid, low=low, high=high, worst=worst)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics (numpy's default)."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


# Heat maps of what each layer's latents hold: documents against layers, as numbers that a page colours.

ROWS = 10
"""Rows of a heat map; more documents are grouped."""
Layers = tuple[float, ...]


def layers_view(label: str, records: Sequence[LatentRecord]) -> LayersView | None:
    """Of one run and task, each fit once; None where nothing was fitted."""
    fitted = fits_of(records)
    traces = [record.objective_nats for record in fitted if len(record.objective_nats) > 1]
    pairs = [(record.kl_per_layer_nats, record.mean_log_var_per_layer) for record in fitted]
    maps = layer_maps(pairs, [f"document {record.doc_id}" for record in fitted])
    if not maps:
        return None
    steps = step_map([record.kl_steps_nats for record in fitted if record.kl_steps_nats])
    return LayersView(
        label=label,
        fits=len(fitted),
        worse=sum(trace[-1] > trace[0] for trace in traces),
        traced=len(traces),
        maps=(*maps, *steps),
    )


def layer_maps(pairs: Sequence[tuple[Layers, Layers]], labels: Sequence[str]) -> tuple[HeatMap, ...]:
    """Maps of KL and of mean log variance, from both of each document by layer; none where lengths differ.

    Documents stand from least to most KL, each or in tenths of equal size, whose means are shown.
    """
    whole = [(kl, var, label) for (kl, var), label in zip(pairs, labels, strict=True) if _usable(kl, var)]
    if not whole or len({len(kl) for kl, _, _ in whole}) != 1:
        return ()
    whole.sort(key=lambda one: (math.fsum(one[0]), one[2]))
    parts = _parts(len(whole))
    names = _names(parts, [label for _, _, label in whole])
    kl = [_mean([whole[i][0] for i in part]) for part in parts]
    var = [_mean([whole[i][1] for i in part]) for part in parts]
    return (
        HeatMap("KL of each layer, nats", "Deeper: more is stored in that layer.", _rows(names, kl, deep_is_high=True)),
        HeatMap(
            "Mean log variance of each layer",
            "Deeper: further below 0, the prior’s; that layer is held more sharply.",
            _rows(names, var, deep_is_high=False),
        ),
    )


def step_map(traces: Sequence[Sequence[Layers]]) -> tuple[HeatMap, ...]:
    """KL of each layer on the way, means over documents at the start, after 1, 2, 4 ... fast steps and at the end.

    Args:
        traces: of documents, a row for every step; those of the most frequent length are shown.
    """
    sizes = Counter((len(trace), len(trace[0])) for trace in traces if len(trace) > 1)
    if not sizes:
        return ()
    (length, layers), _ = sizes.most_common(1)[0]
    own = [one for one in traces if len(one) == length and all(len(row) == layers and _finite(row) for row in one)]
    if not own or not layers:
        return ()
    steps = [0, *(2**power for power in range(length.bit_length()) if 2**power < length - 1), length - 1]
    means = [_mean([trace[step] for trace in own]) for step in dict.fromkeys(steps)]
    names = [f"{step:,}" for step in dict.fromkeys(steps)]
    note = (
        f"Means over {len(own):,} document{'s' if len(own) > 1 else ''}, the first of the task. Deeper: more is stored."
    )
    return (
        HeatMap("KL of each layer over the fit, nats", note, _rows(names, means, deep_is_high=True), head="Fast steps"),
    )


def _finite(values: Layers) -> bool:
    return all(map(math.isfinite, values))


def _usable(kl: Layers, var: Layers) -> bool:
    return len(kl) == len(var) > 0 and _finite((*kl, *var))


def _parts(count: int) -> list[range]:
    """Places of ordered documents, in rows of nearly equal size."""
    rows = min(ROWS, count)
    ends = [round(count * at / rows) for at in range(rows + 1)]
    return [range(low, high) for low, high in zip(ends, ends[1:], strict=False)]


def _names(parts: Sequence[range], labels: Sequence[str]) -> list[str]:
    if all(len(part) == 1 for part in parts):
        return [labels[part[0]] for part in parts]
    least, most = {0: " (least KL)"}, {len(parts) - 1: " (most KL)"}
    return [f"tenth {at + 1}{least.get(at, most.get(at, ''))}" for at in range(len(parts))]


def _mean(rows: Sequence[Layers]) -> Layers:
    return tuple(fmean(column) for column in zip(*rows, strict=True))


def _rows(names: Sequence[str], rows: Sequence[Layers], *, deep_is_high: bool) -> tuple[HeatRow, ...]:
    signed = [[value if deep_is_high else -value for value in row] for row in rows]
    top = max(0.0, *(max(row) for row in signed))
    levels = [tuple(round(LEVELS * max(value, 0.0) / top) if top > 0 else 0 for value in row) for row in signed]
    shown = [tuple(_words(value, digits=2 if deep_is_high else 3) for value in row) for row in rows]
    return tuple(HeatRow(*one) for one in zip(names, shown, levels, strict=True))


def _words(value: float, *, digits: int) -> str:
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")  # + 0.0: no minus before a zero
