"""What a task cost while it ran: wall time, and the most memory that was held at once."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TaskCost:
    """Of one task of one run, data loading and model loading left out."""

    seconds: float
    """Wall time of the evaluation, metrics included."""
    peak_memory_bytes: int | None
    """Most memory held: on a GPU by tensors during this task, else by the process since its start; None: not told."""
    memory_of: str
    """gpu or process."""


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
        self.begun = time.perf_counter()

    def read(self) -> TaskCost:
        """The cost so far."""
        seconds = time.perf_counter() - self.begun
        if self.on_gpu:
            import torch

            return TaskCost(seconds, torch.cuda.max_memory_allocated(self.device), "gpu")
        return TaskCost(seconds, _resident_peak(), "process")


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
