"""What a task cost while it ran: time, memory and compute, of all processes that shared it."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltm_eval import pulse
from ltm_eval.flops import flops_of
from ltm_eval.latent_record import fits_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from ltm_eval.latent_record import LatentRecord


MEMORY = ("peak_memory_bytes", "total_memory_bytes")


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
    starts: int = 1
    """Starts of the command that the answers come from. Times are sums over them; of a start that was cut off they end
    with its last answer. Memory is the most of those that ended the task.
    """
    fits: int | None = None
    """Fits made, each once however many answers share it; None where the model has no sidecar."""
    fitted_token_steps: int | None = None
    """Fast steps times the tokens each went through, over all fits; None where the model has no sidecar."""
    new_tokens: int | None = None
    """Generated, over all answers."""
    flops: float | None = None
    """Operations of fits, reading and generation, by the papers' count (`flops`)."""


@dataclass(frozen=True)
class Made:
    """What is known of how one answer was made."""

    launch: str
    """Start of the command that made it; empty for this one."""
    process: str
    """Of that start."""
    seconds: float
    """Wall time it took its process."""
    records: Sequence[LatentRecord]
    """Its sidecar lines."""


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


def with_earlier(cost: TaskCost, made: Sequence[Made], told_before: Mapping[str, Any]) -> TaskCost:
    """The cost of a task with that of earlier starts of the command, as far as their answers stand.

    Args:
        cost: of this start, all processes.
        made: every answer of the task, each once.
        told_before: what an earlier start that ended the task wrote of its cost; empty where none did.
    """
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for one in made:
        spent[one.launch][one.process] += one.seconds
    earlier = [processes for launch, processes in spent.items() if launch]
    grown: dict[str, Any] = {name: max(getattr(cost, name) or 0, told_before.get(name) or 0) or None for name in MEMORY}
    return replace(
        cost,
        seconds=cost.seconds + sum(max(processes.values()) for processes in earlier),
        working_seconds=cost.working_seconds + sum(sum(processes.values()) for processes in earlier),
        starts=max(1, len(spent)),
        processes=max(cost.processes, *(len(processes) for processes in spent.values()), 1),
        **(grown if told_before.get("memory_of") == cost.memory_of else {}),
    )


def with_compute(cost: TaskCost, made: Sequence[Made], told: Mapping[str, Any]) -> TaskCost:
    """The tokens and operations of a task's answers beside its cost; a fit that several of them share counts once.

    Args:
        cost: of all processes and starts.
        made: every answer of the task, each once.
        told: what results files say of the model, under `config`.
    """
    records = [record for one in made for record in one.records]
    if not records:
        return cost
    own: dict[tuple[str, str], list[LatentRecord]] = defaultdict(list)
    for one in made:
        own[one.launch, one.process] += one.records
    fits = [fit for found in own.values() for fit in fits_of(found)]
    per_token = flops_of(told, t_fast=0)
    steps = sum(fit.t_fast * fit.fitted_tokens for fit in fits)
    decoded = sum(record.read_tokens + record.new_tokens for record in records)
    return replace(
        cost,
        fits=len(fits),
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
