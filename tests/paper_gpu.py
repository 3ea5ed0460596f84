"""A GPU on paper: torch's meta device, whose tensors have shape and dtype and no memory.

What would make the host wait for a real device shows here: reading a value raises, as does a copy down, and every copy
up that waits and every operation that takes tensors of both sides is written down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ltm_eval.inference import posterior as steps
from ltm_eval.system import device as memory

if TYPE_CHECKING:
    import pytest

DEVICE = torch.device("meta")


def play_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on `DEVICE` is taken for a GPU."""
    for module in (memory, steps):
        monkeypatch.setattr(module, "on_gpu", lambda device: device == DEVICE)


@dataclass(eq=False)
class Traffic(TorchDispatchMode):
    """What passes between host and device while it is entered."""

    waits: list[str] = field(default_factory=list)
    """Operations for which the host waits."""
    mixed: list[str] = field(default_factory=list)
    """Operations that take tensors of both."""
    uploads: int = 0
    """Copies up for which nobody waits."""
    operations: int = 0
    """On the device."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        before, after = _devices((args, given)), _devices(result)
        if before == {"cpu"} and after == {"meta"}:
            asynchronous = bool(given.get("non_blocking"))
            self.uploads += asynchronous
            self.waits += [] if asynchronous else [str(func)]
        elif before == {"cpu", "meta"}:
            self.mixed.append(str(func))
        self.operations += "meta" in after
        return result


def _devices(values: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
