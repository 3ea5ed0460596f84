"""Read the environment variables of `torchrun`, `accelerate launch` and similar launchers.

Without them, or with a world size of 1, the process is alone. This module does not import torch, so that a command can
determine its rank before it loads anything.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


REMEDY = "start with torchrun or accelerate launch, or unset these variables"


@dataclass(frozen=True)
class Launch:
    """This process among those of a job."""

    rank: int = 0  # among all processes; 0 writes and prints
    world: int = 1  # number of processes
    local_rank: int = 0  # rank on this machine, the index of its GPU
    address: str = ""  # address of the store, on rank 0 or in torchrun
    port: int = 0  # port of the store
    served: bool = False  # whether the store is in torchrun, else on rank 0

    @property
    def leads(self) -> bool:
        """Whether this process writes results and prints for the job."""
        return self.rank == 0


def read_launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Parse the launcher's variables.

    Raises:
        UsageError: some are missing, or they contradict one another.
    """
    given = {name: environ[name] for name in ("RANK", "WORLD_SIZE") if environ.get(name)}
    if not given or given == {"WORLD_SIZE": "1"}:
        return Launch()
    for name, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if name not in given:
            raise UsageError(f"{other}={given[other]} is set, but {name} is not; {REMEDY}")
    rank, world = _whole(given, "RANK"), _whole(given, "WORLD_SIZE")
    if rank >= world:
        raise UsageError(f"RANK={rank} must be below WORLD_SIZE={world}; {REMEDY}")
    local = _whole(environ, "LOCAL_RANK") if environ.get("LOCAL_RANK") else rank
    if world == 1:
        return Launch(local_rank=local)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environ.get(name):
            raise UsageError(f"WORLD_SIZE={world} needs {name}, which is not set; {REMEDY}")
    port = _whole(environ, "MASTER_PORT")
    if not 0 < port < 2**16:
        raise UsageError(f"MASTER_PORT must be from 1 to 65535, got {port}; {REMEDY}")
    served = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Launch(rank, world, local, environ["MASTER_ADDR"], port, served)


def speaks(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process prints for the job; true if the variables are invalid."""
    try:
        return read_launch(environ).leads
    except UsageError:
        return environ.get("RANK") in (None, "", "0") or "WORLD_SIZE" not in environ


@contextmanager
def unlaunched() -> Iterator[None]:
    """Hide the launcher from a library that would split the work itself."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def quiet_torch() -> None:
    """Silence stack traces of torch's C++ code on lost connections; call before importing torch."""
    if not os.environ.get("LTM_EVAL_DEBUG"):
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


def _whole(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"{name} must be a whole number from 0, got {text!r}; {REMEDY}")
    return int(text)
