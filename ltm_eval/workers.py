"""Independent pieces of work on the cores of a CPU: each piece on one thread, as many at once as there are cores.

Two reasons. The sums of a matrix product depend on the number of threads that share it, so a document's bits would
depend on the machine, or on how many others are at work. And a document of usual size keeps two cores busy for two
thirds of the time; two documents, each on a core of its own, keep them busy (benchmarks/RESULTS.md). torch releases
Python's lock inside its operations, and its number of threads is a setting of the calling thread.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SMALL_PARAMETERS = 8_000_000
"""Up to here one thread reads a token as fast as several, which only wait for one another between small products."""

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
