"""What a task cost while it ran: time, memory and compute, of all processes that shared it."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltm_eval import pulse
from ltm_eval.flops import flops_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from ltm_eval.latent_record import LatentRecord


@dataclass(frozen=True)
class TaskCost:
    """Of one task of one run, data loading and model loading left out."""

    seconds: float
    """Wall time of the evaluation, metrics included."""
    peak_memory_bytes: int | None
    """Most memory held: on a GPU by tensors during this task, else by the process since its start; None: not told."""
    memory_of: str
    """gpu or process."""
    processes: int = 1
    """That shared the task; `peak_memory_bytes` is the largest of any."""
    working_seconds: float = 0.0
    """Spent on answers, summed over processes: waiting for others and metrics left out."""
    total_memory_bytes: int | None = None
    """Peaks of all processes, summed."""
    fitted_token_steps: int | None = None
    """Fast steps times the tokens each went through, over all answers; None where the model has no sidecar."""
    new_tokens: int | None = None
    """Generated, over all answers."""
    flops: float | None = None
    """Operations of fits, reading and generation, by the papers' count (`flops`)."""


def together(parts: Sequence[TaskCost]) -> TaskCost:
    """What a task cost all processes; the first is the leading one, whose wall time is that of the task."""
    peaks = [part.peak_memory_bytes for part in parts if part.peak_memory_bytes is not None]
    return replace(
        parts[0],
        peak_memory_bytes=max(peaks, default=None),
        processes=len(parts),
        working_seconds=sum(part.working_seconds for part in parts),
        total_memory_bytes=sum(peaks) if peaks else None,
    )


def with_compute(cost: TaskCost, records: Sequence[LatentRecord], told: Mapping[str, Any]) -> TaskCost:
    """The tokens and operations of a task's answers beside its cost.

    Args:
        cost: of all processes.
        records: of all answers, whoever made them.
        told: what results files say of the model, under `config`.
    """
    if not records:
        return cost
    per_token = flops_of(told, t_fast=0)
    steps = sum(record.t_fast * record.fitted_tokens for record in records)
    decoded = sum(record.read_tokens + record.new_tokens for record in records)
    return replace(
        cost,
        fitted_token_steps=steps,
        new_tokens=sum(record.new_tokens for record in records),
        flops=None if per_token is None else per_token * (steps + decoded),
    )


class Meter:
    """Measures from its making on.

    Args:
        device: of the model; a name of one will do.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.on_gpu = str(device).startswith("cuda")
        if self.on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        self.device = device
        self.begun, self.worked = time.perf_counter(), pulse.working_seconds()

    def read(self) -> TaskCost:
        """The cost so far."""
        seconds, worked = time.perf_counter() - self.begun, pulse.working_seconds() - self.worked
        if self.on_gpu:
            import torch

            return TaskCost(seconds, torch.cuda.max_memory_allocated(self.device), "gpu", working_seconds=worked)
        return TaskCost(seconds, _resident_peak(), "process", working_seconds=worked)


def _resident_peak() -> int | None:
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def sizes_of(lm: Any) -> dict[str, int]:
    """Layers and width of a transformers model, under the names that an LTM's results give them; empty if not told."""
    config = getattr(lm, "config", None)
    found = {
        "n_layers": getattr(config, "num_hidden_layers", None),
        "dim": getattr(config, "hidden_size", None),
    }
    return {name: value for name, value in found.items() if isinstance(value, int)}
