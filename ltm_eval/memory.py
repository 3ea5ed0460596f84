"""A device and its memory: what goes up without waiting, when work is done, that memory ran out, what is given back."""

from __future__ import annotations

import torch
from torch import Tensor

_SAYINGS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Of the driver, of other backends, and of libraries that allocate for themselves."""


def on_gpu(device: torch.device) -> bool:
    """Whether work is queued on the device while the host goes on."""
    return device.type == "cuda"


def uploaded(host: Tensor, device: torch.device) -> Tensor:
    """A host's tensor on the device. A GPU takes it from pinned memory when its turn comes, and nobody waits."""
    if not on_gpu(device):
        return host.to(device)
    return (host.pin_memory() if torch.cuda.is_available() else host).to(device, non_blocking=True)


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what was queued: before a clock is read."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that a device's memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


def give_back() -> None:
    """Return what torch holds and nothing uses; once the error is gone, whose frames hold what was allocated."""
    torch.cuda.empty_cache()
