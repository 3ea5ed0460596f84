"""What latent inference did in one run and task, summed up from the sidecar."""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ltm_eval.latent_record import fits_of, made_once
from ltm_eval.page import LatentSummary
from ltm_eval.plots import Curve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.latent_record import LatentRecord


def latent_summary(label: str, records: Sequence[LatentRecord]) -> LatentSummary:
    once = made_once(records)
    kl = [(r.kl_nats, r.fitted_tokens) for r in fits_of(records) if r.kl_nats is not None and r.fitted_tokens]
    return LatentSummary(
        label=label,
        condition=_tally(record.condition for record in records),
        preset=_tally(record.preset for record in records),
        t_fast=_steps([record.t_fast for record in records]),
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
        curve=_curve(label, [record.objective_nats for record in records]),
    )


def _stop_reasons(records: Sequence[LatentRecord]) -> tuple[tuple[str, int], ...]:
    """Nothing for tasks whose texts are scored and not continued."""
    if not any(record.stop_reason for record in records):
        return ()
    return tuple(Counter(record.stop_reason or "nothing generated" for record in records).most_common())


def _tally(values: Any) -> str:
    counts = Counter(values).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{value} ({count:,})" for value, count in counts)


def _steps(t_fast: Sequence[int]) -> str:
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


def _curve(label: str, objectives: Sequence[tuple[float, ...]]) -> Curve | None:
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
