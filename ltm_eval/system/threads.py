"""Work side by side on a CPU, each part on one thread, so that no result depends on the number of threads.

torch releases the GIL inside its operations, and its number of threads is a setting of the calling thread. Items
(documents) run side by side; a thread that has no item left helps another with the pieces of its item.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Crew:
    """The threads of one `side_by_side`."""

    def __init__(self, threads: int, *, idle: int) -> None:
        self.helpers = ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1))
        self.idle = threading.Semaphore(idle)  # threads that have no item


class _Here(threading.local):
    crew: _Crew | None = None  # that works on the item of the calling thread


_here = _Here()


def side_by_side(items: Sequence[_Item], work: Callable[[_Item], _Result], *, bytes_each: int = 0) -> list[_Result]:
    """Return `work` on every item in order, one thread per item and as many at once as torch has threads.

    The error of the first item that fails is raised once the running ones have ended.

    Args:
        bytes_each: memory of an item during `work`; all running items may take half of the free memory.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    fitting = len(items)
    if bytes_each:
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            fitting = free // 2 // bytes_each
        except (AttributeError, OSError, ValueError):  # not known on this system
            pass
    lanes = max(1, min(threads, len(items), fitting))
    crew, left = _Crew(threads, idle=threads - lanes), iter(range(len(items) - lanes))

    def enter() -> None:
        torch.set_num_threads(1)
        _here.crew = crew

    def own(item: _Item) -> _Result:
        try:
            return work(item)
        finally:
            if next(left, None) is None:  # no further item for this thread
                crew.idle.release()

    pool = ThreadPoolExecutor(lanes, initializer=enter)
    try:
        return list(pool.map(own, items))
    finally:
        pool.shutdown(cancel_futures=True)
        crew.helpers.shutdown()
        torch.set_num_threads(threads)  # later threads would inherit the last number set anywhere


def in_pieces(pieces: Sequence[_Item], work: Callable[[_Item], _Result]) -> list[_Result]:
    """Return `work` on every piece of an item of `side_by_side` in order, with the help of its idle threads.

    Elsewhere pieces run one after the other on the calling thread. `work` must not call this function.
    """
    crew = _here.crew
    if crew is None:
        return [work(piece) for piece in pieces]
    found: dict[int, _Result] = {}
    left = iter(range(len(pieces)))

    def take() -> None:
        for place in left:
            found[place] = work(pieces[place])

    def help_out() -> None:
        try:
            take()
        finally:
            crew.idle.release()

    helpers: list[Future[None]] = []
    while len(helpers) < len(pieces) - 1 and crew.idle.acquire(blocking=False):
        helpers.append(crew.helpers.submit(help_out))
    try:
        take()
    finally:
        for helper in helpers:
            helper.exception()  # waits
    for helper in helpers:
        helper.result()
    return [found[place] for place in range(len(pieces))]


@contextmanager
def one_thread(*, when: bool = True) -> Iterator[None]:
    """Compute on the calling thread only, if `when` is true, and restore its number of threads."""
    threads = torch.get_num_threads()
    if not when or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
