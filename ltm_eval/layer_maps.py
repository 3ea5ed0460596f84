"""Heat maps of what each layer's latents hold: documents against layers, as numbers that a page colours."""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING

from ltm_eval.latent_page import LEVELS, HeatMap, HeatRow, LayersView
from ltm_eval.latent_record import fits_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.latent_record import LatentRecord

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
