"""Time until a dead or stalled rank is noticed, and what the job then leaves.

    python benchmarks/lost_ranks.py                 # both faults, with and without torchrun, default limits

Two processes evaluate the bundled model on bundled problems. After its first answer rank 1 gets SIGKILL or SIGSTOP, or
(without torchrun) enters a call that never returns while its interpreter lives. Printed are the seconds from the fault
to the end of the other rank, the exit codes and the message.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = ("-m", "ltm_eval", "run", "--task", "gsm8k", "--shots", "1", "--t_fast", "256", "--batch_size", "1")
LIMIT_SECONDS = 300.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


STUCK = "stuck"
"""Make rank 1 hang in its third fit, in place of a signal."""


def start_plain(output: Path, *, stuck: bool) -> list[subprocess.Popen[str]]:
    """Start two processes with a launcher's variables, without an agent."""
    port = str(free_port())
    found = []
    for rank in range(2):
        names = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environ = {**os.environ, **names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = ("-m", "tests.failing", "lm.fit:3:sleep", *COMMAND[2:]) if stuck and rank == 1 else COMMAND
        argv = [sys.executable, *command, "--output_path", str(output)]
        found.append(subprocess.Popen(argv, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    return found


def start_torchrun(output: Path) -> list[subprocess.Popen[str]]:
    """Start torchrun with two processes."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *COMMAND]
    argv += ["--output_path", str(output)]
    return [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)]


def of_rank(rank: int, parents: list[subprocess.Popen[str]]) -> int:
    """Return the process id of a rank: one of ours, or a child of torchrun."""
    pids = [process.pid for process in parents]
    pids += [int(pid) for own in pids for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]
    for pid in pids:
        if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
            return pid
    raise SystemExit(f"no process of rank {rank}")


def answers(output: Path) -> int:
    """Return the number of answers in the journals."""
    return sum(path.read_bytes().count(b'{"key":') for path in output.rglob("journal/*.jsonl"))


def lose(how: signal.Signals | str, launcher: str) -> None:
    """Measure one fault."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        processes = start_torchrun(output) if launcher == "torchrun" else start_plain(output, stuck=how == STUCK)
        end = time.monotonic() + LIMIT_SECONDS
        while len([path for path in output.rglob("journal/*.jsonl") if path.read_bytes().count(b"\n") > 2]) < 2:
            if time.monotonic() > end or any(process.poll() is not None for process in processes):
                raise SystemExit("the job ended, or did not begin, before a process could be lost")
            time.sleep(0.1)
        lost = of_rank(1, processes)
        if isinstance(how, signal.Signals):
            os.kill(lost, how)
        begun = time.monotonic()
        code = processes[0].wait(LIMIT_SECONDS)
        seconds = time.monotonic() - begun
        if launcher == "plain":
            processes[1].kill()
        said = [line for own in processes for line in (own.stderr or []) if line.startswith("ltm-eval: error")]
        name = how.name if isinstance(how, signal.Signals) else how
        print(f"{launcher:<9} {name:<8} {seconds:6.1f} s  exit code {code}  {answers(output)} answers kept  {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--launcher", choices=("plain", "torchrun", "both"), default="both")
    chosen = parser.parse_args().launcher
    for launcher in ("plain", "torchrun") if chosen == "both" else (chosen,):
        for how in (signal.SIGKILL, signal.SIGSTOP, *((STUCK,) if launcher == "plain" else ())):
            lose(how, launcher)


if __name__ == "__main__":
    main()
