"""The command as a user has it: arguments in; exit code, text and files out. No module of the package is known here.

`Commands` owns a process that has run the command once and then forks itself for each further one, by `runpy` as
`python -m ltm_eval` does, so that a run takes seconds less. `python -m tests.contract.commands` is that process.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 600.0
WARM = "run --task rules --limit 1 --shots 1 --t_fast 1 --gen_kwargs max_gen_toks=2 --baseline gpt2-demo --quiet -o"
PAIR = (
    "run --tasks rules,gsm8k,wikitext --num_fewshot 2 --limit 2 --t-fast 2 --condition demos --fit_window each "
    "--rows bound --gen_kwargs max_gen_toks=40 --baseline gpt2-demo --quiet --log_samples -o"
)
TASKS = ("ltm_rules", "ltm_gsm8k", "ltm_wikitext")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code; minus the signal where one ended it."""
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line in which a command says why it failed."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("ltm-eval: error[")]
        return line


class Started:
    """A command that is at work."""

    def __init__(self, commands: Commands, pid: int, folder: Path) -> None:
        self._commands, self.pid, self._folder = commands, pid, folder

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Ended:
        code = self._commands._ask({"wait": self.pid})
        return Ended(code, *((self._folder / name).read_text("utf-8", "replace") for name in ("out", "err")))


class Commands:
    """The client's side."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="contract-"))
        self._count = 0
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
        environment["CUDA_VISIBLE_DEVICES"] = ""  # the references are of a CPU
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        assert self._ask({"ready": True}) == 0, "the first run failed"

    def start(self, *args: object, cwd: Path | None = None, env: dict[str, str] | None = None, **more: str) -> Started:
        """Begin a command; a single text is cut at blanks. `module` stands for ltm_eval where it is another one's."""
        words = str(args[0]).split() if len(args) == 1 else [str(word) for word in args]
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        asked = {"args": words, "cwd": str(cwd or folder), "env": env or {}, "folder": str(folder), **more}
        return Started(self, self._ask(asked), folder)

    def run(self, *args: object, **more: Any) -> Ended:
        """A whole command."""
        return self.start(*args, **more).wait()

    def done(self, *args: object, **more: Any) -> Ended:
        """A command that ends well."""
        ended = self.run(*args, **more)
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err
        return ended

    def _ask(self, asked: dict[str, Any]) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return int(json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()
        subprocess.run(["rm", "-rf", str(self._folder)], check=True)


def until(there: Callable[[], object]) -> None:
    """Wait for what must come."""
    end = time.monotonic() + LIMIT_SECONDS / 2
    while not there():
        assert time.monotonic() < end
        time.sleep(0.005)


def free_port() -> int:
    """A port nobody listens on, of those that no outgoing connection is given."""
    for port in random.SystemRandom().sample(range(10_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Objects of a .jsonl file, which is strict JSON."""
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text("utf-8").splitlines()]


def only(folder: Path, pattern: str) -> Path:
    """The one file of that name."""
    (found,) = folder.glob(pattern)
    return found


def json_of(path: Path) -> Any:
    """A strict JSON file."""
    return json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)


def journal_of(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of the journals of a model's folder, without their check digits."""
    return [
        json.loads(line.partition(" ")[2], parse_constant=pytest.fail)
        for path in sorted(folder.glob("journal/*.jsonl"))
        for line in path.read_text("utf-8").splitlines(keepends=True)
        if line.endswith("\n")  # the last one may be in the making
    ]


def answers_of(folder: Path) -> list[dict[str, Any]]:
    """Answers in the journals."""
    return [line for line in journal_of(folder) if "key" in line]


def serve() -> None:
    """Answer each line of stdin: the process id of a command begun, or the exit code of one waited for."""
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)  # a fork of a process with threads may wait for one that it has not
    tqdm.monitor_interval = 0  # likewise
    tqdm.set_lock(threading.RLock())  # its own is one of all forks: a killed one would never give it back
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        if "ready" in asked:
            with tempfile.TemporaryDirectory() as folder:
                _descriptors(Path(folder))
                answer = _command([*WARM.split(), folder], "ltm_eval")
        else:
            answer = _wait(asked["wait"]) if "wait" in asked else _fork(asked)
        print(json.dumps(answer), file=answers, flush=True)


def _fork(asked: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.chdir(asked["cwd"])
        os.environ.update(asked["env"])
        _descriptors(Path(asked["folder"]))
        code = _command(asked["args"], asked.get("module", "ltm_eval"))
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _descriptors(folder: Path) -> None:
    """Give this process files of its own to write to."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)


def _command(args: list[str], module: str) -> int:
    sys.argv = [module, *args]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def _wait(pid: int) -> int:
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return 98


if __name__ == "__main__":
    serve()
