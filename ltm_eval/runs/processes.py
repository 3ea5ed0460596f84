"""The processes of one job: they share requests, exchange answers, and notice a lost one (`watchdog`).

torch's launchers start and restart the processes, its store and a gloo group connect them. The group is not torch's
default one, so that a trainer's group is left alone. Bytes of JSON are exchanged, never pickles.

    job = join()                                   # alone without a launcher
    job.agree({"checkpoint": sha256})              # exit code 6, naming the rank that differs
    mine = [work for work, rank in zip(all, share(costs, job.world)) if rank == job.rank]
    parts = job.exchange(json.dumps(answers).encode())   # one of every rank, in order
"""

from __future__ import annotations

import atexit
import heapq
import json
import math
import os
import secrets
import socket
import sys
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from ltm_eval.runs.watchdog import (
    FAILED,
    GRACE_SECONDS,
    PERIOD_SECONDS,
    SILENCE_SECONDS,
    STALL_SECONDS,
    TOLD,
    Heartbeat,
    beat_key,
)
from ltm_eval.system.errors import LISTENERS, IncompleteError, LtmEvalError, MachineError, RefusedError, UsageError
from ltm_eval.system.launch import Launch, read_launch, speaks

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from torch._C._distributed_c10d import Store


SILENCE_VARIABLE = "LTM_EVAL_RANK_SILENCE"
STALL_VARIABLE = "LTM_EVAL_RANK_STALL"
# how long processes wait for one another at the start: the imports of a cold network disk take minutes
JOIN_SECONDS = 300.0
LEAVING_SECONDS = 60.0
UNLIMITED = timedelta(days=30)  # ranks may finish hours apart; the heartbeat, not a time limit, notices a lost one
_POLL_SECONDS = 0.02


class Job:
    """This process and the others; alone if no launcher started it."""

    def __init__(self, launch: Launch | None = None) -> None:
        self.launch = launch or Launch()
        self.rank, self.world = self.launch.rank, self.launch.world

    @property
    def leads(self) -> bool:
        """Whether this process writes results and speaks for the job."""
        return self.launch.leads

    def exchange(self, payload: bytes) -> list[bytes]:
        """Return the payload of every rank, in order.

        Raises:
            IncompleteError: a rank is lost.
        """
        return [payload]

    def check(self) -> None:
        """Check, between two pieces of work, that the job goes on.

        Raises:
            IncompleteError: a rank is lost.
        """

    def tell(self, error: LtmEvalError | None) -> bool:
        """Report that this process ends early; return whether it is the one to print `error`."""
        return True

    def wait(self) -> None:
        """Wait until every rank is here.

        Raises:
            IncompleteError: a rank is lost.
        """
        self.exchange(b"")

    def close(self) -> None:
        """Wait for all others, and leave."""

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Compare what must be the same everywhere.

        Args:
            facts: by name, of JSON's types.

        Raises:
            RefusedError: a rank differs from rank 0; all ranks raise it.
        """
        own = json.dumps({**facts, "": socket.gethostname()}, sort_keys=True)
        leading, *others = (json.loads(text) for text in self.exchange(own.encode()))
        for rank, other in enumerate(others, start=1):
            for name in sorted((set(leading) | set(other)) - {""}):
                if leading.get(name) != other.get(name):
                    values = (other.get(name), leading.get(name))
                    texts = [one if isinstance(one, str) else json.dumps(one) for one in values]
                    own, first = (one if len(one) <= 40 else one[:37] + "…" for one in texts)
                    raise RefusedError(
                        f"rank {rank} (on {other['']}) has another {name} than rank 0 (on {leading['']}): "
                        f"{own} instead of {first}; give all ranks the same"
                    )


class _Joined(Job):
    """One of several processes."""

    def __init__(self, launch: Launch, store: Store, group: Any, heartbeat: Heartbeat) -> None:
        super().__init__(launch)
        self._store, self._group, self._heartbeat = store, group, heartbeat
        self._open = True
        self._pending: Any = None  # what is being exchanged
        atexit.register(self._leave)

    def exchange(self, payload: bytes) -> list[bytes]:
        import torch

        sizes = [int(size) for size in self._gather(torch.tensor([len(payload)]))]
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        if payload:
            padded[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        found = self._gather(padded)
        return [part[:size].numpy().tobytes() for part, size in zip(found, sizes, strict=True)]

    def _gather(self, tensor: Any) -> list[Any]:
        """Return the tensor of every rank."""
        import torch

        self.check()
        found = [torch.zeros_like(tensor) for _ in range(self.world)]
        try:
            self._pending = self._group.allgather([found], [tensor])
            pause = _POLL_SECONDS / 64
            while not self._pending.is_completed():  # torch's own wait lets neither signals nor verdicts through
                self.check()
                time.sleep(pause)
                pause = min(2 * pause, _POLL_SECONDS)
            self._pending.wait()
            self._pending = None
        except RuntimeError as error:
            verdict = self._heartbeat.wait_for_verdict()
            if verdict is None:
                verdict = f"the connection to another rank broke ({str(error).splitlines()[0][:120]})"
            raise IncompleteError(f"{verdict or 'another rank failed'}; the same command resumes") from error
        return found

    def check(self) -> None:
        verdict = self._heartbeat.verdict
        if verdict is not None:
            raise IncompleteError(f"{verdict or 'another rank failed'}; the same command resumes")

    def tell(self, error: LtmEvalError | None) -> bool:
        if self._heartbeat.verdict is not None:
            return False
        try:
            first = error is not None and self._store.add(TOLD, 1) == 1
            self._store.set(FAILED, str(self.rank))
        except RuntimeError:  # whoever kept the store is gone
            return self._heartbeat.stands_in()
        if self.rank == 0:  # the store ends with this process, maybe before the others have looked
            self._heartbeat.stands_in()
        return first

    def close(self) -> None:
        if self._open:
            self.wait()
            self._leave()

    def _leave(self) -> None:
        """Leave the job; the process that keeps the store waits until the others have left too."""
        global _joined  # noqa: PLW0603 - one job a process
        if not self._open:
            return
        self._open, _joined = False, None
        if self._pending is not None:
            _end(IncompleteError.exit_code)
        self.part(LEAVING_SECONDS if self._heartbeat.verdict is None else GRACE_SECONDS)

    def part(self, seconds: float) -> None:
        """Stop the heartbeat; if the store is kept here, wait for the others to do the same."""
        self._heartbeat.leave()
        if self.leads and not self.launch.served:
            self._heartbeat.others_left(seconds)


def _stands_in(launch: Launch, nonce: str) -> bool:
    """Return whether this rank prints the error, the store being gone: the first of its machine to ask.

    Args:
        nonce: name of this start of the job; an empty file of that name tells the others that one has printed.
    """
    try:
        os.close(os.open(os.path.join(tempfile.gettempdir(), f"ltm_eval-{nonce}"), os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    except OSError:
        return launch.local_rank == 0 or launch.rank == 1
    return True


_joined: _Joined | None = None


def current() -> Job:
    """Return the job that was joined, or this process alone."""
    return _joined or Job()


def may_tell(error: LtmEvalError | None) -> bool:
    """Report that this process ends early; return whether it is the one to print `error`.

    Before the processes have met, a usage error is taken to be the same in all of them; any other need not be.
    """
    return _joined.tell(error) if _joined is not None else speaks() or not isinstance(error, UsageError)


def abandon(code: int) -> None:
    """End this process of a job without waiting for exchanges that will not come about. Alone, do nothing.

    The process that keeps the store first gives the others time to read it.
    """
    if _joined is not None:
        _joined.part(2 * PERIOD_SECONDS + GRACE_SECONDS)
        _end(code)


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def join(launch: Launch | None = None) -> Job:
    """Join the processes that the launcher started; once a process, later calls return the same.

    Raises:
        UsageError: the launcher's variables contradict one another.
        MachineError: the others cannot be reached.
    """
    global _joined  # noqa: PLW0603 - one job a process
    if _joined is not None:
        return _joined
    if may_tell not in LISTENERS:
        LISTENERS.append(may_tell)
    launch = launch or read_launch()
    if launch.world == 1:
        return Job(launch)
    from torch.distributed import PrefixStore, ProcessGroupGloo  # type: ignore[attr-defined]

    silence, stall = _seconds(SILENCE_VARIABLE, SILENCE_SECONDS), _seconds(STALL_VARIABLE, STALL_SECONDS)
    store = _connect(launch)
    nonce, names = _meet(store, launch)
    own = PrefixStore(nonce, store)
    heartbeat = Heartbeat(
        PrefixStore(nonce, _client(launch, silence)),
        launch.rank,
        names,
        stands_in=partial(_stands_in, launch, nonce),
        silence=silence,
        stall=stall,
    )
    heartbeat.start()
    try:
        group = ProcessGroupGloo(PrefixStore("gloo", own), launch.rank, launch.world, timedelta(seconds=JOIN_SECONDS))
        group._set_default_timeout(UNLIMITED)
    except RuntimeError as error:
        raise MachineError(
            f"rank {launch.rank}: gloo cannot connect the processes ({str(error).splitlines()[0][:120]}); name the "
            "network interface in GLOO_SOCKET_IFNAME"
        ) from error
    _joined = _Joined(launch, own, group, heartbeat)
    return _joined


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds < math.inf:
        raise UsageError(f"{variable} must be a number of seconds, at least 1, got {text!r}")
    return seconds


def _connect(launch: Launch) -> Store:
    """Return the job's store, which rank 0 keeps unless torchrun does."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    if launch.served or not launch.leads:
        _reach(launch)
        return _client(launch, JOIN_SECONDS)
    try:
        return TCPStore(launch.address, launch.port, is_master=True, wait_for_workers=False, multi_tenant=True)
    except RuntimeError as error:
        cause = "another program has it" if "EADDRINUSE" in str(error) else str(error).splitlines()[0][:120]
        raise MachineError(
            f"port {launch.port} of {launch.address}: cannot be opened ({cause}); set MASTER_PORT to a free one, or "
            "start with torchrun --standalone"
        ) from error


def _client(launch: Launch, seconds: float) -> Store:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    limit = timedelta(seconds=seconds)
    return TCPStore(launch.address, launch.port, is_master=False, wait_for_workers=False, timeout=limit)


def _reach(launch: Launch) -> None:
    """Wait until the store's port answers; torch's own client would fill the terminal with its attempts."""
    end = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((launch.address, launch.port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise MachineError(
                    f"rank {launch.rank}: {launch.address}, port {launch.port} has not answered for "
                    f"{JOIN_SECONDS:.0f} s ({error.strerror or error}); check MASTER_ADDR and MASTER_PORT, and that "
                    "rank 0 runs"
                ) from error
            time.sleep(0.2)


def _meet(store: Store, launch: Launch) -> tuple[str, list[str]]:
    """Return a name for this start of the job that all ranks share, and host and process id of each rank.

    torchrun keeps one store over all restarts, so what a dead process left there must not be taken for a living one:
    rank 0 proposes a name to the ranks it sees, and the name holds once each of them has acknowledged it.

    Raises:
        MachineError: a rank does not come.
    """
    own = f"{socket.gethostname()}, process {os.getpid()}, {secrets.token_hex(8)}"
    store.set(f"hello/{launch.rank}", own)
    end = time.monotonic() + JOIN_SECONDS
    nonce, answered = "", ""
    seen: list[str] = []
    while True:
        if launch.leads:
            found = _hellos(store, launch.world)
            if all(found) and found != seen:
                seen, nonce = found, secrets.token_hex(8)
                store.set("welcome", json.dumps({"nonce": nonce, "ranks": seen}))
            if nonce and store.check([f"{nonce}/ack/{rank}" for rank in range(1, launch.world)]):
                store.set(f"{nonce}/{beat_key(0)}", "0")
                store.set(f"{nonce}/go", "1")
                break
        elif store.check(["welcome"]):
            welcome = json.loads(store.get("welcome"))
            nonce, seen = welcome["nonce"], welcome["ranks"]
            if len(seen) == launch.world and seen[launch.rank] == own:
                if nonce != answered:
                    store.set(f"{nonce}/{beat_key(launch.rank)}", "0")
                    store.set(f"{nonce}/ack/{launch.rank}", "1")
                    answered = nonce
                if store.check([f"{nonce}/go"]):
                    break
        if time.monotonic() > end:
            absent = [str(rank) for rank, hello in enumerate(_hellos(store, launch.world)) if not hello]
            named = f"rank {', '.join(absent)}" if absent else "another rank"
            raise MachineError(
                f"rank {launch.rank}: {named} of {launch.world} did not come within {JOIN_SECONDS:.0f} s; see that "
                "rank's own output, or start fewer processes"
            )
        time.sleep(_POLL_SECONDS)
    return nonce, [name.rpartition(", ")[0] for name in seen]


def _hellos(store: Store, world: int) -> list[str]:
    """Return the greeting of each rank; empty if it has not come."""
    keys = [f"hello/{rank}" for rank in range(world)]
    return [store.get(key).decode() if store.check([key]) else "" for key in keys]


def share(work: Sequence[tuple[Hashable, float]], world: int) -> list[int]:
    """Return which rank does each piece of work.

    Pieces that belong together go to one rank. The costliest go first, each to the rank with the least so far
    (longest processing time first; at most 4/3 of the best makespan, Graham 1969). All ranks compute the same.

    Args:
        work: what a piece belongs to, and its cost.
        world: ranks.
    """
    totals: dict[Hashable, float] = {}
    for owner, cost in work:
        totals[owner] = totals.get(owner, 0.0) + cost
    loads = [(0.0, rank) for rank in range(world)]
    ranks: dict[Hashable, int] = {}
    for owner in sorted(totals, key=lambda owner: -totals[owner]):  # stable: equal costs keep their order
        load, rank = heapq.heappop(loads)
        ranks[owner] = rank
        heapq.heappush(loads, (load + totals[owner], rank))
    return [ranks[owner] for owner, _ in work]
