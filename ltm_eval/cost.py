"""What the figures of a page cost: time, speed, memory, and compute per token at equal size and at equal compute.

Compute per token is that of `flops`: the papers' own count, in which a fast step is charged like a training step. For
an autoregressive model it is the same formula without fast steps, so the two stand on one footing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ltm_eval.flops import flops_of
from ltm_eval.latent_record import fits_of, made_once
from ltm_eval.paths import reports_dir
from ltm_eval.row_checks import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.latent_record import LatentRecord
    from ltm_eval.result_records import Run
    from ltm_eval.scores import Entry

TRAINING_FLOPS_PER_PARAMETER = 6
"""Of an autoregressive model, per token, attention left out."""


@dataclass(frozen=True)
class CostRow:
    """One model on one task; None where its results do not tell."""

    task: str
    """Task name."""
    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    documents: int | None
    """Documents."""
    seconds: float | None
    """Wall time of the task."""
    seconds_per_document: float | None
    """The same per document."""
    fit_share: float | None
    """Share of fitting in the time of fitting and decoding."""
    fitted_tokens_per_second: float | None
    """Fast steps times the tokens each went through, per second of fitting."""
    new_tokens_per_second: float | None
    """Generated tokens per second of decoding."""
    peak_memory_bytes: int | None
    """Most memory held at once; of several processes, their peaks summed."""
    memory_of: str
    """gpu or process; empty where the memory is not told."""
    t_fast: float | None
    """Mean fast steps; None for an autoregressive model."""
    flops_per_token: float | None
    """Compute per token, as the papers count it."""
    processes: int = 1
    """Processes that shared the task."""
    working_seconds: float | None = None
    """What they spent on answers, summed, where there were several."""
    starts: int = 1
    """Starts of the command that its answers come from."""


@dataclass(frozen=True)
class SizeRow:
    """One model's size and training; None where its results do not tell."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    parameters: int | None
    """Parameters."""
    size_ratio: float | None
    """Over those of the first model."""
    flops_per_token: float | None
    """At its largest mean number of fast steps on this page."""
    compute_ratio: float | None
    """Over that of the first model."""
    same_compute_parameters: float | None
    """Parameters of an autoregressive model that costs as much per token."""
    training_flops: float | None
    """Operations of its training, where a model card tells."""
    training_tokens: float | None
    """Tokens it was trained on."""
    training_source: str
    """Where that stands."""


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
        flops_per_token=flops_of(entry.run.config, t_fast=steps or 0.0) if _counts(entry.run, steps) else None,
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
    flops = [_largest(row.flops_per_token for row in costs if row.label == label) for label, _ in named]
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
