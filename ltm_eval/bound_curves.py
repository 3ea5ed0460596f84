"""Whether a bound has settled: against the fast steps that were made, and against the noise draws that were taken.

Over steps the sidecar holds the fit's objective at each step. Where the preset draws fresh noise for every step, the
posterior of a step has not seen that step's noise, so each figure is a one-draw estimate of a valid bound; where the
noise is fixed it is no bound and is said to be none. Over draws only the spread at S draws is stored: the band at k
draws is that standard error times the square root of S / k.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_eval.answering import Line, LinePoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.latent_record import LatentRecord
    from ltm_eval.page import PerplexityRow
    from ltm_eval.scores import Entry

NORMAL_QUANTILE = 1.96
MOST_DRAWS = 64


@dataclass(frozen=True)
class StepCurve:
    """Nats per token over the fast steps of a set, all documents together."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    nats_per_token: tuple[float, ...]
    """One per step, the start first."""
    settled: float | None
    """The set's bound over fresh draws, nats per token."""
    is_bound: bool
    """Whether each step's figure estimates a valid bound: fresh noise at every step."""
    documents: int
    """Documents whose trajectories are summed."""


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


def draw_lines(entries: Sequence[Entry], rows: Sequence[PerplexityRow]) -> tuple[Line, ...]:
    """The bound's perplexity with its noise alone, at 1 to 64 draws; runs that do not tell their draws are left out."""
    lines = []
    for entry in entries:
        figure = next(
            (line.per_token for row in rows if row.name == "bound" for line in row.lines if line.label == entry.label),
            None,
        )
        draws = _block(entry, "rows").get("draws")
        if figure is None or figure.mc_se is None or not isinstance(draws, int) or not math.isfinite(figure.value):
            continue
        counts = sorted({1, 2, 4, 8, 16, 32, MOST_DRAWS, draws})
        halves = [NORMAL_QUANTILE * figure.mc_se * math.sqrt(draws / count) for count in counts]
        points = [
            LinePoint(count, figure.value, figure.value - half, figure.value + half)
            for count, half in zip(counts, halves, strict=True)
        ]
        lines.append(Line(entry.label, entry.series, tuple(points)))
    return tuple(lines)


def _bound_of(rows: Sequence[PerplexityRow], label: str) -> float | None:
    for row in rows:
        for line in row.lines:
            if row.name == "bound" and line.label == label and line.per_token is not None:
                value = line.per_token.value
                return math.log(value) if 0 < value < math.inf else None
    return None


def _block(entry: Entry, key: str) -> Mapping[str, Any]:
    found = entry.run.config.get(key)
    return found if isinstance(found, dict) else {}
