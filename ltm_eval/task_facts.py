"""What a task's results hold beside lm-eval's own figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ltm_eval.failures import Failure, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.answer_record import AnswerRecord
    from ltm_eval.latent_record import LatentRecord


@dataclass(frozen=True)
class TaskFacts:
    """What a task's results hold beside lm-eval's own."""

    fast_steps: tuple[int, ...]
    """Fast steps of every fit on record."""
    sampled: dict[str, Any] | None
    """Figures of several samples per question, with intervals over questions; None where there was one answer."""
    content_free: dict[str, Any]
    """What the commonest training answers score; empty where answers are no numbers."""
    budget: dict[str, Any] | None
    """Compute of rethinking and of its control."""
    documents: int = 0
    """Documents that were evaluated, failed ones included."""
    failures: tuple[Failure, ...] = ()
    """Documents that could not be scored; no figure contains them."""
    caveats: tuple[str, ...] = ()
    """What was found odd in documents and prompts."""

    @property
    def notes(self) -> list[str]:
        """Sentences that every output must carry."""
        if not self.failures:
            return list(self.caveats)
        count = f"{len(self.failures):,} of {self.documents:,} documents failed and are left out of its figures"
        return [f"{self.failures[0].task}: {count} ({listed(self.failures)})", *self.caveats]


def task_facts(task: Any, rows: list[dict[str, Any]], lm: Any) -> TaskFacts:
    """Facts of a task that has just been evaluated; `rows` are lm-eval's logged samples."""
    from ltm_eval.repeats import content_free, summary

    repeats, rethinking = getattr(task, "repeats", None), getattr(task, "rethinking", None)
    floor: dict[str, Any] = {}
    shown = [str(task.doc_to_target(doc)) for doc in task.fewshot_docs() or []]
    if task.OUTPUT_TYPE == "generate_until" and shown and rows:
        asked = [row for row in rows if row["filter"] == rows[0]["filter"]]
        wanted = [str(row["target"]) for row in asked]
        floor = content_free(shown, wanted, k=repeats.k) if repeats else content_free(shown, wanted)
    budget = getattr(lm, "budget", None)
    if rethinking and budget is not None:
        lm.budget = type(budget)()
    return TaskFacts(
        fast_steps=tuple(record.t_fast for record in getattr(lm, "records", [])),
        sampled=summary(rows) if rows and (repeats or rethinking) else None,
        content_free=floor,
        budget=asdict(budget) if rethinking and budget is not None else None,
    )


def stop_reasons(records: Sequence[LatentRecord | AnswerRecord]) -> dict[int, list[list[str]]]:
    """Why each answer ended: by document, per request, per repeat; nothing where the model does not tell."""
    found: dict[int, dict[int, list[str]]] = {}
    for record in sorted(records, key=lambda record: (record.doc_id, record.idx, record.repeat)):
        if record.stop_reason:
            found.setdefault(record.doc_id, {}).setdefault(record.idx, []).append(record.stop_reason)
    return {doc_id: list(requests.values()) for doc_id, requests in found.items()}


def mean_fast_steps(fast_steps: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Mean over requests, by task; tasks without fits left out."""
    return {name: fmean(steps) for name, steps in fast_steps.items() if steps}
