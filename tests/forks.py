"""Runs in forks of one process that has imported everything and computed nothing: a whole run takes a part of a second.

`python -m tests.forks` reads a JSON object a line from stdin and answers each with one on stdout:
`{"options": {…RunConfig…}, "fails": "…", "signals": [[seconds, number], …], "once": "…"}` gets the fields of `Ended`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 300.0
HUNG = 99
"""Exit code of a run that took longer than the limit and was killed."""


@dataclass(frozen=True)
class Ended:
    """How a run in a fork ended."""

    code: int | None
    """Exit code; None where a signal ended it."""
    signal: int | None
    """That signal."""
    seconds: float
    after_signal: float
    """Seconds from the last signal on."""
    stderr: str

    @property
    def lines(self) -> list[str]:
        """What it said on stderr."""
        return [line for line in self.stderr.splitlines() if line.strip()]


class Forks:
    """The client's side."""

    def __init__(self, warm: dict[str, Any]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self._ask({"warm": warm})

    def run(
        self, options: dict[str, Any], *, fails: str = "", signals: Sequence[tuple[float, int]] = (), once: str = ""
    ) -> Ended:
        """One run; `fails` is what `failing.arm` takes.

        `signals` are sent so many seconds after it began or, with `once`, after its output folder held such a file.
        """
        self._ask({"options": options, "fails": fails, "signals": list(signals), "once": once})
        assert self._process.stdout is not None
        return Ended(**json.loads(self._process.stdout.readline()))

    def _ask(self, asked: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@contextlib.contextmanager
def forks(warm: dict[str, Any]) -> Iterator[Forks]:
    """A process that forks, until the block ends; it has made a run of the options `warm`."""
    client = Forks(warm)
    try:
        yield client
    finally:
        client.close()


def serve() -> None:
    """The server's side."""
    import torch
    from tqdm import tqdm

    from ltm_eval.harness.options import RunConfig
    from ltm_eval.harness.run import run

    torch.set_num_threads(1)  # a fork of a process with threads may wait for one that it has not
    tqdm.monitor_interval = 0  # likewise
    tqdm.set_lock(threading.RLock())  # its own is one of all forks: a killed one would never give it back
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    for line in sys.stdin:
        asked = json.loads(line)
        if "warm" in asked:  # imports, the audit and the templates, once for all forks
            _cache()
            with tempfile.TemporaryDirectory() as folder:
                run(RunConfig(**_options({**asked["warm"], "limit": 2, "output_path": folder})))
            continue
        with tempfile.TemporaryFile() as said:
            begun = time.monotonic()
            child = os.fork()
            if child == 0:
                _run(asked["options"], asked["fails"], said.fileno())
            status, sent = _wait(child, asked["signals"], Path(asked["options"]["output_path"]), asked["once"])
            now = time.monotonic()
            said.seek(0)
            code = os.waitstatus_to_exitcode(status)
            ended = Ended(
                code if code >= 0 else None,
                -code if code < 0 else None,
                now - begun,
                now - sent,
                said.read().decode("utf-8", "replace"),
            )
        print(json.dumps(ended.__dict__), file=answers, flush=True)


def _run(options: dict[str, Any], fails: str, stderr: int) -> None:
    """In the fork: the command, without its parser."""
    code = 70
    try:
        os.dup2(stderr, 2)
        os.dup2(stderr, 1)
        from ltm_eval import cli
        from ltm_eval.harness import run
        from ltm_eval.harness.options import RunConfig
        from tests.failing import arm

        if fails:
            arm(fails)

        cli._invoke = lambda argv: run.run(RunConfig(**_options(options))) and 0  # type: ignore[assignment]
        sys.argv = ["ltm-eval", "run"]
        code = cli.main()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _cache() -> None:
    """lm-eval compiles a template anew for every document; versions of packages are read anew for every file."""
    import lm_eval.utils

    from ltm_eval.system import machine

    lm_eval.utils.env.from_string = cache(lm_eval.utils.env.from_string)
    machine.version = cache(machine.version)


def _wait(child: int, signals: list[tuple[float, int]], output: Path, once: str) -> tuple[int, float]:
    """The status with which the child ended, and when it was sent the last signal."""
    begun = 0.0 if once else time.monotonic()
    sent = time.monotonic()
    end = sent + LIMIT_SECONDS
    for after, number in signals:
        while (not begun or time.monotonic() < begun + after) and time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status, sent
            if not begun and any(output.rglob(once)):
                begun = time.monotonic()
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        sent = time.monotonic()
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status, sent
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return HUNG << 8, sent


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    serve()
