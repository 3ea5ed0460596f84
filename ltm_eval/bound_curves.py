"""Whether a bound has settled: against the fast steps that were made, and against the noise draws that were taken.

Over steps the sidecar holds the fit's objective at each step. Where the preset draws fresh noise for every step, the
posterior of a step has not seen that step's noise, so each figure is a one-draw estimate of a valid bound; where the
noise is fixed it is no bound and is said to be none. Over draws it holds what each draw alone says of a text, so every
point of the curve is measured.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING, Any

from ltm_eval.answering import Line, LinePoint
from ltm_eval.metrics import quantile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.latent_record import LatentRecord
    from ltm_eval.page import PerplexityRow
    from ltm_eval.scores import Entry

MOST_NATS = 700.0


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
    if not lines or lines[0].per_token is None or lines[0].documents != len(drawn) or draws < 2:
        return None
    rate = math.log(lines[0].per_token.value) if 1 < lines[0].per_token.value < math.inf else math.nan
    tokens = math.fsum(map(fmean, drawn)) / rate  # what the figure of the table was divided by
    if not math.isfinite(tokens):
        return None
    points = []
    for count in sorted({*(2**power for power in range(draws.bit_length())), draws}):
        own = [nats[:count] for nats in drawn]
        middle = math.fsum(map(fmean, own)) / tokens
        half = _noise(own if count > 1 else drawn, count) / tokens
        points.append(LinePoint(count, *(_perplexity(middle + side) for side in (0.0, -half, half))))
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
    for row in rows:
        for line in row.lines:
            if row.name == "bound" and line.label == label and line.per_token is not None:
                value = line.per_token.value
                return math.log(value) if 0 < value < math.inf else None
    return None


def _block(entry: Entry, key: str) -> Mapping[str, Any]:
    found = entry.run.config.get(key)
    return found if isinstance(found, dict) else {}
