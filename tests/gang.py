"""Several processes of one job, in seconds: a server imports everything once and forks the processes of each test.

with Gang() as gang:
    job = gang.start(2, "tests.test_distributed:exchanged", {"folder": str(tmp_path)})
    job.pids, job.wait()            # exit codes by rank; output in job.out(rank), job.err(rank)
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.contract.commands import free_port
from tests.failing import arm

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 600.0


def launcher(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun would set, without its store."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


class Started:
    """The processes of one job."""

    def __init__(self, gang: Gang, pids: list[int], folder: Path) -> None:
        self.gang, self.pids, self.folder = gang, pids, folder
        self.begun = time.monotonic()

    def out(self, rank: int) -> str:
        """Standard output; nothing before the process has begun."""
        path = self.folder / f"{rank}.out"
        return path.read_text("utf-8") if path.exists() else ""

    def err(self, rank: int) -> str:
        """Standard error."""
        return (self.folder / f"{rank}.err").read_text("utf-8")

    def said(self, rank: int) -> str:
        """The lines on standard error that are ours; a library of others may warn beside them."""
        lines = self.err(rank).splitlines(keepends=True)
        assert not any("Traceback" in line for line in lines), self.err(rank)
        return "".join(line for line in lines if line.startswith("ltm-eval"))

    def wait(self, ranks: list[int] | None = None) -> list[int]:
        """Exit codes; minus the signal where there was one."""
        return self.gang.ask({"wait": [self.pids[rank] for rank in ranks or range(len(self.pids))]})


class Gang:
    """The server's owner."""

    def __enter__(self) -> Gang:
        self._temporary = tempfile.TemporaryDirectory()
        self._jobs = 0
        command = [sys.executable, "-m", "tests.gang"]
        self._server = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "TORCH_CPP_LOG_LEVEL": "FATAL"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()
        self._temporary.cleanup()

    def ask(self, request: dict[str, Any]) -> Any:
        """One answer of the server."""
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        return json.loads(self._server.stdout.readline())

    def start(
        self, world: int, call: str, argument: Any, *, environ: dict[str, str] | None = None, fails: str = ""
    ) -> Started:
        """Fork `world` processes that call `module:function` with `argument`; what it returns is the exit code.

        `fails` is what `failing.arm` takes.
        """
        port = free_port()
        self._jobs += 1
        folder = Path(self._temporary.name) / str(self._jobs)
        folder.mkdir()
        settings = [{**launcher(rank, world, port), **(environ or {})} if world > 1 else {} for rank in range(world)]
        request = {"start": settings, "call": call, "argument": argument, "folder": str(folder), "fails": fails}
        return Started(self, self.ask(request), folder)

    def run(self, world: int, call: str, argument: Any, *, environ: dict[str, str] | None = None) -> Started:
        """Start, and wait until all have ended with exit code 0."""
        started = self.start(world, call, argument, environ=environ)
        codes = started.wait()
        assert codes == [0] * world, [codes, *(started.err(rank) for rank in range(world))]
        return started


def command(argv: list[str]) -> int:
    """The command line, as a process of a gang calls it."""
    from ltm_eval.cli import main

    return main(argv)


def told(function: Callable[[], object]) -> int:
    """The exit code of `function`, its error told as the command tells it."""
    from ltm_eval.runs.processes import current
    from ltm_eval.system.errors import LtmEvalError, error_line

    try:
        function()
    except LtmEvalError as error:
        if current().tell(error):
            print(error_line(error), file=sys.stderr)
        return error.exit_code
    return 0


def serve() -> None:
    """Fork and wait on request, until standard input ends."""
    import lm_eval.evaluator  # noqa: F401
    import transformers  # noqa: F401

    import ltm_eval.harness.ltm
    import ltm_eval.harness.run  # noqa: F401
    import tests.conftest  # noqa: F401 - settings of every test

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = [_wait(pid) for pid in request["wait"]]
        else:
            answer = [_fork(rank, settings, request) for rank, settings in enumerate(request["start"])]
        print(json.dumps(answer), flush=True)


def _fork(rank: int, settings: dict[str, str], request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.environ.update(settings)
        folder = Path(request["folder"])
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY), descriptor)
        if request["fails"]:
            arm(request["fails"])
        module, _, function = request["call"].partition(":")
        code = getattr(importlib.import_module(module), function)(request["argument"]) or 0
    except BaseException:  # noqa: BLE001 - the parent reads it
        import traceback

        traceback.print_exc()
    finally:
        import atexit

        with suppress(Exception):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> int:
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 99


if __name__ == "__main__":
    serve()
