"""Documents that could not be scored: why, how many a run allows, and its figures without them.

A number that is not finite never reaches a mean or an argmax: the document is recorded as failed, its neighbours stay
as they are, and the figures are aggregated over the others. A run with more failures than allowed ends incomplete.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ltm_eval.gaussians import Posterior

DIVERGED_NATS = 1_000.0
"""-ELBO per scored token that no fit reaches which has not diverged; equally likely tokens cost 11."""
LISTED = 3


@dataclass(frozen=True)
class Failure:
    """One document that could not be scored."""

    task: str
    """Task name."""
    doc_id: int
    """Index of the document in its split."""
    reason: str
    """What went wrong."""


def why_unusable(posterior: Posterior, *, tokens: int) -> str | None:
    """Why the fit of one document cannot be used, or None.

    Args:
        posterior: of one row.
        tokens: scored by the fit.
    """
    objective = posterior.trace.objective_nats[:, 0]
    if not len(objective):
        return None
    last = float(objective[-1])
    if not math.isfinite(last) or not bool(posterior.mu.isfinite().all() & posterior.log_var.isfinite().all()):
        odd = (~objective.isfinite()).nonzero()
        step = int(odd[0]) if len(odd) else len(objective) - 1
        return f"the fit is not finite from fast step {step} on (objective {float(objective[step]):g})"
    if last > DIVERGED_NATS * max(tokens, 1):
        return f"the fit diverged: {last:.3g} nats for {tokens} tokens"
    return None


def listed(failures: Sequence[Failure]) -> str:
    """The first few failures in words."""
    words = [f"document {one.doc_id}: {one.reason}" for one in failures[:LISTED]]
    return "; ".join(words) + (" …" if len(failures) > LISTED else "")


def allowed(limit: str, documents: int) -> int:
    """How many of `documents` may fail.

    Args:
        limit: a number, or a share such as `1%`.

    Raises:
        UsageError: it is neither.
    """
    text = limit.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    share = re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]{1,6})?|100)%", text)
    if share is None:
        raise UsageError(f"max_failed must be a number of documents or a share such as 1%, got {text[:40]!r}")
    return math.floor(documents * float(share[1]) / 100)


def failed_answers(task: str, rows: Iterable[Mapping[str, Any]]) -> list[Failure]:
    """Documents to which a model answered a log-likelihood that is no number.

    Args:
        rows: lm-eval's logged samples.
    """
    found = {}
    for row in rows:
        odd = next((value for value in _numbers(row["resps"]) if math.isnan(value) or value == math.inf), None)
        if odd is not None:
            found[row["doc_id"]] = Failure(task, row["doc_id"], f"the model answered {odd:g}")
    return list(found.values())


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)


def without(part: dict[str, Any], task: Any, failures: Sequence[Failure], *, bootstrap_iters: int) -> dict[str, Any]:
    """lm-eval's results of one task, aggregated anew over the documents that did not fail.

    The logged samples of the others keep document, prompt and answer, lose their metrics and get the key `failed`.

    Args:
        part: what `lm_eval.evaluator.evaluate` returned for `task` alone, samples included.
    """
    reasons = {one.doc_id: one.reason for one in failures}
    name = task.task_name
    rows = part["samples"][name]
    kept = [row for row in rows if row["doc_id"] not in reasons]
    figures = {key: value for key, value in part["results"][name].items() if "," not in key}
    for metric, filter_ in dict.fromkeys((metric, row["filter"]) for row in rows for metric in row["metrics"]):
        values = [row[metric] for row in kept if row["filter"] == filter_ and metric in row["metrics"]]
        figures |= _aggregated(task, metric, filter_, values, bootstrap_iters)
    scored = len({row["doc_id"] for row in kept})
    count = dict(part["n-samples"][name]) | {"effective": scored}
    return {
        **part,
        "results": {name: figures | {"sample_len": scored}},
        "n-samples": {name: count},
        "samples": {name: [_unscored(row, reasons.get(row["doc_id"])) for row in rows]},
    }


def _aggregated(task: Any, metric: str, filter_: str, values: list[Any], bootstrap_iters: int) -> dict[str, Any]:
    """As lm-eval aggregates one metric under one filter; no number where there is nothing left."""
    from lm_eval.api.metrics import mean, stderr_for_metric

    aggregate = task.aggregation().get(metric, mean)
    spread = stderr_for_metric(metric=aggregate, bootstrap_iters=bootstrap_iters)
    return {
        f"{metric},{filter_}": aggregate(values) if values else math.nan,
        f"{metric}_stderr,{filter_}": spread(values) if spread and len(values) > 1 else "N/A",
    }


def _unscored(row: dict[str, Any], reason: str | None) -> dict[str, Any]:
    if reason is None:
        return row
    bare = {key: value for key, value in row.items() if key not in row["metrics"]}
    return {**bare, "metrics": [], "failed": reason}
