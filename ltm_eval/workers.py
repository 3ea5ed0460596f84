"""Independent pieces of work on the cores of a CPU: each piece on one thread, as many at once as there are cores.

Two reasons. The sums of a matrix product depend on the number of threads that share it, so a document's bits would
depend on the machine, or on how many others are at work. And a document of usual size keeps two cores busy for two
thirds of the time; two documents, each on a core of its own, keep them busy (benchmarks/RESULTS.md). torch releases
Python's lock inside its operations, and its number of threads is a setting of the calling thread.

Also: what else a process may have set, none of which may change a figure or be changed (`undisturbed`).
"""

from __future__ import annotations

import os
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SMALL_PARAMETERS = 8_000_000
"""Up to here one thread reads a token as fast as several, which only wait for one another between small products."""

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def side_by_side(items: Sequence[_Item], work: Callable[[_Item], _Result], *, bytes_each: int = 0) -> list[_Result]:
    """`work` on every item, on one thread each; results in the order of the items.

    As many run at once as torch has threads here. What `work` raises for the first item that fails is raised, after
    those under way have ended.

    Args:
        bytes_each: memory that an item needs while it is worked on; all that run may take half of what is free.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    lanes = max(1, min(threads, len(items), _fitting(bytes_each)))
    pool = ThreadPoolExecutor(lanes, initializer=partial(torch.set_num_threads, 1))
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads that begin later would take over the last number set anywhere


@contextmanager
def one_thread(*, when: bool = True) -> Iterator[None]:
    """Compute on the calling thread alone, where `when` holds; its number of threads is set back at the end."""
    threads = torch.get_num_threads()
    if not when or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Compute whatever modes a caller is in, and leave the caller's process as it was, also after an exception.

    Inside, gradients can be taken (also within `torch.no_grad` and `torch.inference_mode`), nothing is autocast, new
    tensors are float32 and on the CPU unless something else is said, and products of float32 are computed in float32.
    At the end these modes, the random states of Python, NumPy and torch on every device, the number of threads, the
    filters of warnings and the environment variables are what they were before.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.callback(_set_environment, dict(os.environ))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 - the caller's own
        _keep_torch_random(stack)
        _plain_products(stack)
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        yield


def _keep_torch_random(stack: ExitStack) -> None:
    """Set torch's generators back at the end; a device that is first used inside starts as the caller's CPU did."""
    stack.callback(torch.set_rng_state, torch.get_rng_state())
    if torch.backends.mps.is_available():
        stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
    if torch.cuda.is_initialized():
        stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
    else:
        stack.callback(_start_cuda, torch.initial_seed())


def _start_cuda(seed: int) -> None:
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _plain_products(stack: ExitStack) -> None:
    """No TF32 or bfloat16 inside products of float32, which a trainer may have allowed."""
    newer = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    backends: list[Any] = [one for one in newer if hasattr(one, "fp32_precision")]
    for backend in backends:
        if backend.fp32_precision != "ieee":
            stack.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
            backend.fp32_precision = "ieee"
    if not backends and torch.get_float32_matmul_precision() != "highest":  # torch before 2.9
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")


def _set_environment(held: dict[str, str]) -> None:
    """Set the environment variables that differ from `held` back."""
    for name in os.environ.keys() - held.keys():
        del os.environ[name]
    for name, value in held.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def is_small(model: torch.nn.Module) -> bool:
    """Whether a model lies on the CPU and is small enough to decode on one thread."""
    weights = list(model.parameters())
    return weights[0].device.type == "cpu" and sum(weight.numel() for weight in weights) <= SMALL_PARAMETERS


def _fitting(bytes_each: int) -> int:
    """How many pieces of `bytes_each` half of the free memory holds; any number where the system does not tell."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**31
    return max(1, free // 2 // bytes_each) if bytes_each else 2**31
