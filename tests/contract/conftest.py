"""One process for all commands of a worker, and the runs that several tests look at, made once for all workers."""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.contract.commands import PAIR, Commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def cli() -> Iterator[Commands]:
    """The command."""
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A folder of that name which the first worker that asks for it makes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        made = base / f"shared-{name}"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / f"{name}.made").exists():
                shutil.rmtree(made, ignore_errors=True)  # what a failure left
                made.mkdir()
                make(made)
                (base / f"{name}.made").touch()
        return made

    return folder


@pytest.fixture(scope="session")
def pair(cli: Commands, shared: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The output folder of a run of the bundled pair on three small tasks; not to be written to."""
    return shared("pair", lambda folder: cli.done(*PAIR.split(), folder / "out") and None) / "out"
