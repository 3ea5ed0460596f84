"""Memory of a device that runs out: told from other errors, and given back before the next try."""

from __future__ import annotations

import torch

_SAYINGS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Of the driver, of other backends, and of libraries that allocate for themselves."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that a device's memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


def give_back() -> None:
    """Return what torch holds and nothing uses; once the error is gone, whose frames hold what was allocated."""
    torch.cuda.empty_cache()
