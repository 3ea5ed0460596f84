"""What latent inference did and what it cost, by run and task, from the sidecars.

Nothing here is a figure that models are compared by. Functions whose result is laid out by one template return
mappings with the names that it reads; None stands for what a run's results do not record.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from itertools import pairwise
from operator import attrgetter
from statistics import fmean, median, variance
from typing import TYPE_CHECKING, Any

from ltm_eval.results.answers import INVALID
from ltm_eval.results.files import fits_of, made_once
from ltm_eval.results.scores import PASS, attempts_of
from ltm_eval.results.statistics import quantile
from ltm_eval.results.views import (
    LEVELS,
    REFERENCE,
    ComputeCurve,
    Curve,
    HeatMap,
    LayersView,
    Line,
    LinePoint,
    StepCurve,
)
from ltm_eval.system.files import reports_dir
from ltm_eval.system.machine import flops_of
from ltm_eval.system.records import count, mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ltm_eval.results.files import AnswerRecord, LatentRecord, Run
    from ltm_eval.results.scores import Entry
    from ltm_eval.results.views import EffectTable, Figure, PerplexityRow, PerplexitySection, ScoreTable

    Layers = tuple[float, ...]  # a number for each layer

MOST_NATS = 700.0
HEAT_ROWS = 10  # of a heat map; more documents are grouped


# How a bound depends on the fast steps and on the noise draws


def step_curves(
    entries: Sequence[Entry], records: Mapping[str, Sequence[LatentRecord]], rows: Sequence[PerplexityRow]
) -> tuple[StepCurve, ...]:
    """Return the objective over the fast steps of each run whose sidecar holds it, nats per token of all documents.

    If the preset draws fresh noise for every step, the posterior of a step has not seen that step's noise, so each
    value is a one-draw estimate of a valid bound; with fixed noise it is no bound.
    """
    curves = []
    for entry in entries:
        own = _of_usual_length(records.get(entry.label, ()), "objective_nats")
        tokens = sum(record.fitted_tokens for record in own)
        if tokens:
            steps = zip(*(record.objective_nats for record in own), strict=True)
            curves.append(
                StepCurve(
                    label=entry.label,
                    series=entry.series,
                    nats_per_token=tuple(math.fsum(step) / tokens for step in steps),
                    settled=_bound_of(rows, entry.label)[0],
                    is_bound=mapping(entry.run.config.get("fit")).get("noise") == "fresh",
                    documents=len(own),
                )
            )
    return tuple(curves)


def draw_lines(
    entries: Sequence[Entry], records: Mapping[str, Sequence[LatentRecord]], rows: Sequence[PerplexityRow]
) -> tuple[Line, ...]:
    """Return the bound's perplexity by the first 1, 2, 4 ... draws of every document, with that of each draw alone.

    The band is a 95 % interval of the noise of those draws; a single draw has none of its own, so there it is that of
    all. Runs whose sidecar does not hold the draws of every document are left out.
    """

    def perplexity(nats: float) -> float:
        return math.exp(min(nats, MOST_NATS))

    found = []
    for entry in entries:
        drawn = [record.draws_nats for record in records.get(entry.label, ()) if record.draws_nats]
        draws = min(map(len, drawn), default=0)
        rate, documents = _bound_of(rows, entry.label)
        if rate is None or rate <= 0 or documents != len(drawn) or draws < 2:
            continue
        tokens = math.fsum(map(fmean, drawn)) / rate  # the denominator of the table's figure
        points = []
        for used in sorted({*(2**power for power in range(draws.bit_length())), draws}):
            own = [nats[:used] for nats in drawn]
            middle = math.fsum(map(fmean, own)) / tokens
            half = _noise(own if used > 1 else drawn, used) / tokens
            points.append(LinePoint(used, *(perplexity(middle + side) for side in (0.0, -half, half))))
        alone = (perplexity(math.fsum(nats[draw] for nats in drawn) / tokens) for draw in range(draws))
        found.append(Line(entry.label, entry.series, tuple(points), dots=tuple((1.0, one) for one in alone)))
    return tuple(found)


def _noise(draws: Sequence[Sequence[float]], used: int) -> float:
    """Return half the 95 % interval, nats, of the sum over documents of means over `used` draws that vary like these.

    Student's t with Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2:110).
    """
    variances = list(map(variance, draws))
    total = math.fsum(variances)
    if not total:
        return 0.0
    freedom = total**2 / math.fsum(own**2 / (len(nats) - 1) for own, nats in zip(variances, draws, strict=True))
    return quantile(freedom) * math.sqrt(total / used)


def _bound_of(rows: Sequence[PerplexityRow], label: str) -> tuple[float | None, int | None]:
    """Return a run's bound, nats per token, and its number of documents."""
    lines = (line for row in rows for line in row.lines if row.name == "bound" and line.label == label)
    line = next(lines, None)
    value = line.per_token.value if line is not None and line.per_token is not None else None
    nats = math.log(value) if value is not None and 0 < value < math.inf else None
    return nats, line.documents if line is not None else None


# Time, speed, memory and compute


def cost_rows(
    name: str, entries: Sequence[Entry], records: Mapping[str, Sequence[LatentRecord]]
) -> tuple[dict[str, Any], ...]:
    """Return what task `name` took in each run.

    Compute per token is the operations of every pass that a run recorded, over the tokens of its texts, or of its
    prompts and generated answers. Files that record none get the papers' (t_fast + 1) passes of a token, an
    autoregressive model one. Each pass is charged like one of training.
    """

    def duration(value: Any) -> float | None:
        known = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
        return float(value) if known else None

    rows = []
    for entry in entries:
        run, own = entry.run, records.get(entry.label, ())
        cost, documents = mapping((run.extra.cost or {}).get(name)), run.tasks[name].n_effective
        # The time of a run of one task is known even if it was not measured by task.
        seconds = duration(cost.get("seconds")) or (run.seconds if len(run.tasks) == 1 else None)
        once = made_once(own)
        fit, decode = (sum(getattr(record, field) for record in once) for field in ("fit_seconds", "decode_seconds"))
        fitted = sum(record.t_fast * record.fitted_tokens for record in fits_of(own))
        steps = fmean(record.t_fast for record in own) if own else None
        processes = count(cost.get("processes")) or 1
        flops, tokens = duration(cost.get("flops")), sum(record.prompt_tokens + record.new_tokens for record in once)
        by_formula = not (flops and tokens)
        if by_formula:  # an LTM without a sidecar does not record its steps either
            known = steps is not None or run.model_kind != "ltm"
            flops, tokens = flops_of(run.config, t_fast=steps or 0.0) if known else None, 1
        rows.append(
            {
                "label": entry.label,
                "series": entry.series,
                "seconds": seconds,
                "seconds_per_document": seconds / documents if seconds is not None and documents else None,
                "fit_share": fit / (fit + decode) if fit + decode > 0 else None,
                "fitted_tokens_per_second": fitted / fit if fit > 0 else None,
                "new_tokens_per_second": sum(record.new_tokens for record in once) / decode if decode > 0 else None,
                "peak_memory_bytes": count(cost.get("total_memory_bytes" if processes > 1 else "peak_memory_bytes")),
                "memory_of": str(cost.get("memory_of") or ""),  # gpu or process
                "t_fast": steps,
                "flops_per_token": None if flops is None else flops / tokens,
                "by_formula": by_formula and steps is not None,
                "processes": processes,
                "working_seconds": duration(cost.get("working_seconds")) if processes > 1 else None,
                "starts": count(cost.get("starts")) or 1,
            }
        )
    return tuple(rows)


def size_rows(named: Sequence[tuple[str, Run]], costs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return each run's parameters and compute beside the first one's; `costs` are those of all tasks."""

    def ratio(value: float | None, first: float | None) -> float | None:
        return value / first if value is not None and first else None

    trained = json.loads((reports_dir() / "training_compute.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = []
    for series, (label, run) in enumerate(named, 1):
        own = [row for row in costs if row["label"] == label]
        flops = [row["flops_per_token"] for row in own]
        most = max((value for value in flops if value is not None), default=None)
        parameters = count(run.config.get("model_num_parameters")) or None
        cards = (card for card in trained if (card["model"], card["demo"]) == (run.model_name, run.extra.demo_model))
        card = next(cards, {"flops": None, "tokens": None, "source": ""})
        first = rows[0] if rows else {"parameters": parameters, "flops_per_token": most}
        rows.append(
            {
                "label": label,
                "series": series,
                "parameters": parameters,
                "size_ratio": ratio(parameters, first["parameters"]),
                "flops_per_token": most,
                "compute_ratio": ratio(most, first["flops_per_token"]),
                "by_formula": any(row["by_formula"] for row in own),
                # an autoregressive model trains with 6 FLOPs per parameter and token, attention left out
                "same_compute_parameters": None if most is None else most / 6,
                **{f"training_{key}": card[key] for key in ("flops", "tokens", "source")},
            }
        )
    return tuple(rows)


# How questions were answered


def answer_facts(
    name: str, entries: Sequence[Entry], records: Mapping[str, Sequence[LatentRecord | AnswerRecord]]
) -> tuple[dict[str, Any], ...]:
    """Return failed extractions, stop reasons and the context budget of each run that generated answers."""
    found = []
    for entry in entries:
        task = entry.run.tasks[name]
        generated = task.config.get("output_type", "generate_until") == "generate_until"
        if not entry.samples or not generated or not any("exact_match" in score.metric for score in task.scores):
            continue
        own = records.get(entry.label, ())
        ended = [record for record in own if record.stop_reason]
        first = next(iter(entry.samples.values()))
        texts = [text for sample in first.values() for text in sample.responses]
        unanswered = []
        for filter_, samples in entry.samples.items():
            extracted = [text for sample in samples.values() for text in sample.filtered]
            unanswered.append((filter_, extracted.count(INVALID), len(extracted)))
        # Under other conditions the decoder reads the question alone, so nothing is cut.
        cut = sum(
            record.truncated
            or (
                getattr(record, "condition", "prompt") in ("prompt", "demos+prompt", "prior")
                and record.demonstrations_read < record.demonstrations
            )
            for record in own
        )
        asked, read = _mean_of(own, "demonstrations"), _mean_of(own, "demonstrations_read")
        found.append(
            {
                "label": entry.label,
                "series": entry.series,
                "documents": len(first),
                "unanswered": unanswered,
                "characters": median(map(len, texts)) if texts else 0.0,
                "empty": sum(not text.strip() for text in texts),
                "stops": tuple(Counter(record.stop_reason for record in ended).most_common()),
                "new_tokens": _mean_of(ended, "new_tokens"),
                "demonstrations": asked,
                "dropped": asked - read if asked is not None and read is not None else None,
                "prompts_cut": (cut, len(own)) if own else None,
                **{key: _mean_of(own, key) for key in ("prompt_tokens", "read_tokens", "fitted_tokens")},
                "windows": _mean_of(own, "fitted_windows"),
            }
        )
    return tuple(found)


def _mean_of(records: Sequence[LatentRecord | AnswerRecord], field: str) -> float | None:
    known = records and hasattr(records[0], field)
    return fmean(getattr(record, field) for record in records) if known else None


def attempts_lines(tables: Sequence[ScoreTable]) -> tuple[Line, ...]:
    """Return pass@k over k, of the first filter that has several k."""
    by_filter: dict[str, dict[str, list[tuple[int, Figure]]]] = {}
    for table in tables:
        for row in table.rows if (k := attempts_of(table.metric)) else ():
            # The content-free row names its answers, of which there are k.
            label = "content-free" if row.status == REFERENCE else row.model
            if row.value is not None:
                by_filter.setdefault(table.filter, {}).setdefault(label, []).append((k, row))
    for found in by_filter.values():
        if any(len(points) > 1 for points in found.values()):
            return tuple(
                Line(
                    label,
                    points[-1][1].series,
                    tuple(_point(k, row) for k, row in sorted(points, key=lambda point: point[0])),
                    dashed=points[-1][1].status == REFERENCE,
                )
                for label, points in found.items()
            )
    return ()


def _point(x: float, row: Figure) -> LinePoint:
    """Return a figure as a point; one without an interval has its value at both ends."""
    value = row.value or 0.0
    ends = (value, value) if row.low is None or row.high is None else (row.low, row.high)
    return LinePoint(x, value, *ends)


def shots_lines(tables: Sequence[EffectTable]) -> tuple[Line, ...]:
    """Return accuracy over the number of demonstrations, of each model's first table, a line per condition."""
    return _over_shots([table for table in tables if not table.metric.startswith(PASS)])


def shots_pass_lines(tables: Sequence[EffectTable]) -> tuple[int, tuple[Line, ...]]:
    """Return the largest k > 1 of a sweep's pass@k, and pass@k over the number of demonstrations; 0 without one."""
    k = max((attempts_of(table.metric) for table in tables), default=0)
    lines = _over_shots([table for table in tables if table.metric == f"{PASS}{k}"]) if k > 1 else ()
    return (k, lines) if lines else (0, ())


def _over_shots(tables: Sequence[EffectTable]) -> tuple[Line, ...]:
    lines: list[Line] = []
    first = {table.label: table for table in reversed(tables)}
    for label in dict.fromkeys(table.label for table in tables):
        rows = sorted(first[label].rows, key=lambda row: row.n_shot or 0)
        for condition in dict.fromkeys(row.model for row in first[label].rows):
            points = (_point(row.n_shot or 0, row) for row in rows if row.model == condition)
            name = f"{label}, {condition}" if len(first) > 1 else condition
            lines.append(Line(name, len(lines) + 1, tuple(points)))
    return tuple(lines) if any(len(line.points) > 1 for line in lines) else ()


# Test-time compute: one model's figures against its fast steps


def compute_curves(
    name: str,
    entries: Sequence[Entry],
    records: Mapping[str, Sequence[LatentRecord]],
    *,
    tables: Sequence[ScoreTable],
    perplexity: PerplexitySection | None,
) -> tuple[ComputeCurve, ...]:
    """Return every share of documents and the bound against the fast steps of runs that differ in nothing else.

    Args:
        records: the sidecars, by label.
        tables: of the task, a row per entry.
        perplexity: of the task.
    """
    steps: dict[str, float] = {}
    families: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        run, own = entry.run, records.get(entry.label, ())
        fit = mapping(run.config.get("fit"))
        made = fmean(record.t_fast for record in own) if own else fit.get("t_fast")
        if isinstance(made, float if own else int):
            steps[entry.label] = round(float(made), 2)
            same = {key: run.config.get(key) for key in ("tokenizer", "condition", "fit_window")}
            same |= {"model": run.config.get("model_sha") or run.model_name, "preset": fit.get("preset")}
            same["shots"] = run.tasks[name].n_shot
            families[json.dumps(same, sort_keys=True, default=str)].append(entry)
    shown = [
        (table.metric if table.filter == "none" else f"{table.metric}, {table.filter}", list(table.rows))
        for table in tables
        if table.share
    ]
    for row in perplexity.rows if perplexity is not None else ():
        if row.name == "bound":
            figures = [line.per_token for line in row.lines if line.bound and line.per_token is not None]
            shown.append(("perplexity per token, bound", figures))
    curves = []
    for family in families.values():
        lead = family[0].run
        condition = lead.config.get("condition")
        model = f"{lead.model_name}, {condition}" if condition else lead.model_name
        for title, figures in shown:
            by_label = {one.model: one for one in figures if one.value is not None}
            points = [
                (steps[one.label], flops_of(one.run.config, t_fast=steps[one.label]), by_label[one.label])
                for one in family
                if one.label in by_label
            ]
            if len({t_fast for t_fast, _, _ in points}) > 1:
                points.sort(key=lambda point: (point[0], point[2].model))
                curves.append(ComputeCurve(model, title, tuple(points)))
    return tuple(curves)


# What was fitted


def latent_summary(label: str, records: Sequence[LatentRecord]) -> dict[str, Any]:
    """Return what latent inference did in one run and task: settings, means, medians, times and the fit's curve."""
    once = made_once(records)
    kl = [(r.kl_nats, r.fitted_tokens) for r in fits_of(records) if r.kl_nats is not None and r.fitted_tokens]
    low, high = min(record.t_fast for record in records), max(record.t_fast for record in records)
    mean = fmean(record.t_fast for record in records)
    found: dict[str, Any] = {
        "label": label,
        "t_fast": str(low) if low == high else f"mean {mean:.1f} ({low} to {high})",  # they vary if t_fast=auto
        "requests": len(records),
        "truncated": sum(record.truncated for record in records),
        "kl_nats_per_token": sum(nats for nats, _ in kl) / sum(tokens for _, tokens in kl) if kl else None,
        "stop_reasons": (),
        "fit_seconds": sum(record.fit_seconds for record in once),
        "decode_seconds": sum(record.decode_seconds for record in once),
        "curve": _fit_curve(label, records),
    }
    if any(record.stop_reason for record in records):  # else texts were scored
        counts = Counter(record.stop_reason or "nothing generated" for record in records)
        found["stop_reasons"] = tuple(counts.most_common())
    for field in ("condition", "preset"):
        ranked = Counter(getattr(record, field) for record in records).most_common()
        found[field] = ", ".join(f"{value} ({times:,})" if len(ranked) > 1 else value for value, times in ranked)
    for field in ("demonstrations", "demonstrations_read", "demonstrations_fitted"):
        found[field] = fmean(getattr(record, field) for record in records)
    for field in ("nll_nats", "kl_nats", "share_at_prior"):
        known = [value for record in records if (value := getattr(record, field)) is not None]
        found[field] = median(known) if known else None
    for field in ("kl_per_layer_nats", "mean_log_var_per_layer"):
        rows = [getattr(one, field) for one in _of_usual_length(records, field, least=1)]
        found[field] = tuple(median(column) for column in zip(*rows, strict=True))
    return found


def _of_usual_length(records: Iterable[LatentRecord], field: str, *, least: int = 2) -> list[LatentRecord]:
    """Return the records in which `field` is finite and of the most frequent length: a run has one number of layers."""
    series: Callable[[LatentRecord], tuple[float, ...]] = attrgetter(field)
    finite = [one for one in records if len(series(one)) >= least and all(map(math.isfinite, series(one)))]
    lengths = Counter(len(series(one)) for one in finite).most_common(1)
    return [one for one in finite if len(series(one)) == lengths[0][0]]


def _fit_curve(label: str, records: Sequence[LatentRecord]) -> Curve | None:
    import numpy as np

    objectives = [one.objective_nats for one in _of_usual_length(records, "objective_nats", least=1)]
    relative = [[nats - own[0] for nats in own] for own in objectives]
    if not relative or len(relative[0]) < 2:
        return None
    low, mid, high = (tuple(map(float, row)) for row in np.quantile(relative, (0.1, 0.5, 0.9), axis=0))
    worst = max(relative, key=lambda one: one[-1]) if len(relative) > 1 else []
    return Curve(label=label, median=mid, low=low, high=high, worst=tuple(worst))


# Heat maps by layer


def layers_view(label: str, records: Sequence[LatentRecord]) -> LayersView | None:
    """Return the heat maps of one run and task, each fit once; None if nothing was fitted."""
    fitted = fits_of(records)
    traces = [record.objective_nats for record in fitted if len(record.objective_nats) > 1]
    pairs = [(record.kl_per_layer_nats, record.mean_log_var_per_layer) for record in fitted]
    maps = layer_maps(pairs, [f"document {record.doc_id}" for record in fitted])
    if not maps:
        return None
    steps = step_map([record.kl_steps_nats for record in fitted if record.kl_steps_nats])
    worse = sum(trace[-1] > trace[0] for trace in traces)
    return LayersView(label=label, fits=len(fitted), worse=worse, traced=len(traces), maps=(*maps, *steps))


def layer_maps(pairs: Sequence[tuple[Layers, Layers]], labels: Sequence[str]) -> tuple[HeatMap, ...]:
    """Return the maps of KL and of mean log variance, from both of each document by layer; none if lengths differ.

    Documents are sorted from least to most KL and shown one by one, or as the means of tenths of equal size.
    """
    whole = [
        (kl, var, label)
        for (kl, var), label in zip(pairs, labels, strict=True)
        if len(kl) == len(var) > 0 and all(map(math.isfinite, (*kl, *var)))
    ]
    if not whole or len({len(kl) for kl, _, _ in whole}) != 1:
        return ()
    whole.sort(key=lambda one: (math.fsum(one[0]), one[2]))
    rows = min(HEAT_ROWS, len(whole))
    parts = [whole[low:high] for low, high in pairwise(round(len(whole) * at / rows) for at in range(rows + 1))]
    names = [part[0][2] for part in parts]
    if rows < len(whole):
        names = [f"tenth {at}" for at in range(1, rows + 1)]
        names[0], names[-1] = f"{names[0]} (least KL)", f"{names[-1]} (most KL)"
    kl = [_mean([kl for kl, _, _ in part]) for part in parts]
    var = [_mean([var for _, var, _ in part]) for part in parts]
    stored, held = (
        "Deeper: more is stored in that layer.",
        "Deeper: further below 0, the prior’s; that layer is held more sharply.",
    )
    return (
        HeatMap("KL of each layer, nats", stored, _rows(names, kl, deep_is_high=True)),
        HeatMap("Mean log variance of each layer", held, _rows(names, var, deep_is_high=False)),
    )


def step_map(traces: Sequence[Sequence[Layers]]) -> tuple[HeatMap, ...]:
    """Return the map of KL by layer, means over documents: at the start, after 1, 2, 4 ... fast steps, at the end.

    Args:
        traces: of documents, a row for every step; those of the most frequent length are shown.
    """
    sizes = Counter((len(trace), len(trace[0])) for trace in traces if len(trace) > 1)
    if not sizes:
        return ()
    (length, layers), _ = sizes.most_common(1)[0]
    own = [
        one
        for one in traces
        if len(one) == length and all(len(row) == layers and all(map(math.isfinite, row)) for row in one)
    ]
    if not own or not layers:
        return ()
    doubling = (2**power for power in range(length.bit_length()) if 2**power < length - 1)
    steps = list(dict.fromkeys((0, *doubling, length - 1)))
    means = [_mean([trace[step] for trace in own]) for step in steps]
    rows = _rows([f"{step:,}" for step in steps], means, deep_is_high=True)
    documents = f"{len(own):,} document{'s' if len(own) > 1 else ''}"
    note = f"Means over {documents}, the first of the task. Deeper: more is stored."
    return (HeatMap("KL of each layer over the fit, nats", note, rows, head="Fast steps"),)


def _mean(rows: Sequence[Layers]) -> Layers:
    return tuple(fmean(column) for column in zip(*rows, strict=True))


def _rows(
    names: Sequence[str], rows: Sequence[Layers], *, deep_is_high: bool
) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
    """Return the name of each row with its numbers as text and their depths of colour, 0 to `LEVELS`."""
    sign, digits = (1, 2) if deep_is_high else (-1, 3)
    top = max(0.0, *(sign * value for row in rows for value in row))

    def cell(value: float) -> tuple[str, int]:
        text = f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")  # + 0.0: no minus before a zero
        return text, round(LEVELS * max(sign * value, 0.0) / top) if top > 0 else 0

    return tuple((name, tuple(map(cell, row))) for name, row in zip(names, rows, strict=True))
