"""Devices: resolve names, copy tensors, wait, and free memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ltm_eval.system.errors import MachineError, UsageError, shown, spelt
from ltm_eval.system.launch import read_launch

# messages of the driver, other backends, and libraries with their own allocators
_SAYINGS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def on_gpu(device: torch.device) -> bool:
    """Return whether the device runs work asynchronously."""
    return device.type == "cuda"


def uploaded(host: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to the device, without waiting (from pinned memory) on a GPU."""
    if not on_gpu(device):
        return host.to(device)
    return (host.pin_memory() if torch.cuda.is_available() else host).to(device, non_blocking=True)


def finish(device: torch.device) -> None:
    """Wait for queued work of a GPU, before reading a clock."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


def ran_out(error: BaseException) -> bool:
    """Return whether an error means that a device ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


def give_back() -> None:
    """Free unused memory that torch holds; call it after the error, whose frames keep tensors alive."""
    torch.cuda.empty_cache()


HOST_DEFAULT_DEVICE = "cuda:0"  # lm-eval 0.4.13's default on every machine


def resolve_device(name: str | None) -> torch.device:
    """Return an existing torch device; of several processes on one machine each gets its own GPU.

    lm-eval's command passes `cuda:0` to all of them, so that name means the process's own GPU too.

    Raises:
        MachineError: it does not exist; the message lists those found.
    """
    launch = read_launch()
    if launch.world > 1 and torch.cuda.is_available() and name in (None, "", "auto", "cuda", HOST_DEFAULT_DEVICE):
        count = torch.cuda.device_count()
        if launch.local_rank >= count:
            raise MachineError(
                f"local rank {launch.local_rank} needs cuda:{launch.local_rank}, but this machine has {count} GPU; "
                f"start at most {count} processes a machine, or pass {spelt('device', 'cpu')}"
            )
        return torch.device(f"cuda:{launch.local_rank}")
    return existing_device(name)


def existing_device(name: str | torch.device | None) -> torch.device:
    """Return the device of a name, or the best available one for None and `auto`.

    Raises:
        UsageError: the name is invalid.
        MachineError: it does not exist; the message lists those found.
    """
    found = (
        ["cpu"]
        + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        + (["mps"] if torch.backends.mps.is_available() else [])
    )
    if name in (None, "", "auto"):
        return torch.device(found[1] if len(found) > 1 else "cpu")
    try:
        device = torch.device(str(name))
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{spelt('device')} must be auto, cpu, cuda, cuda:N or mps, got {shown(name)}") from error
    wanted = str(device) if device.index else "cuda:0" if device.type == "cuda" else device.type
    if wanted not in found:
        raise MachineError(
            f"{spelt('device', name)} is not available; found {', '.join(found)}. "
            f"Pass {spelt('device', found[-1])}, or auto"
        )
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a name; `auto` is bfloat16 on an NVIDIA GPU, float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32
