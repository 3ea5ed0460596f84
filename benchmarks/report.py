"""Time and size of a page: GSM8K's 1,319 questions answered by three models, 8 few-shot examples each.

    python benchmarks/report.py [--documents 1319] [--models 3] [--profile]

The results are synthetic, with answers and prompts of realistic length; measurements are in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fake_runs import DATE, LATENT, TASK, write_run  # noqa: E402

from ltm_eval.system.files import digest, write_jsonl_atomic

WORDS = "so the number of apples that she has left after lunch is twice what Tom sold on market day".split()  # noqa: SIM905


def write_models(folder: Path, *, documents: int, models: int) -> None:
    """Write an LTM with its sidecar, and baselines; every second to fifth answer is right."""
    for index in range(models):
        name, kind = ("ltm-large", "ltm") if index == 0 else (f"gpt2-{index}", "hf")

        def right(document: int, every: int = 2 + index) -> bool:
            return document % every == 0

        path = write_run(folder, model=name, right=right, n=documents, shots=8, kind=kind, latents=kind == "ltm")
        _lengthen(path.parent / f"samples_{TASK}_{DATE}.jsonl", seed=index)
        if kind == "ltm":
            _trajectories(path.parent / f"latents_{TASK}_{DATE}.jsonl", documents)


def _lengthen(path: Path, *, seed: int) -> None:
    """Answers of about 400 characters instead of one sentence, and demonstrations of each document's own."""
    draw = Random(seed)
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        steps = " ".join(draw.choice(WORDS) for _ in range(80))
        row["resps"] = [[f" {steps}.{row['resps'][0][0]}"]]
        arguments = row["arguments"]["gen_args_0"]
        own = " ".join(Random(row["doc_id"]).choice(WORDS) for _ in range(30))
        arguments["arg_0"] = arguments["arg_0"].replace("Mia has 10", f"{own} 10")
        row["prompt_hash"] = digest(arguments["arg_0"])
        rows.append(row)
    write_jsonl_atomic(path, rows)


def _trajectories(path: Path, documents: int) -> None:
    draw = Random(0)
    steps = [tuple(900.0 / (1 + step) + draw.random() for step in range(65)) for _ in range(documents)]
    write_jsonl_atomic(path, [replace(LATENT, doc_id=i, objective_nats=one, t_fast=64) for i, one in enumerate(steps)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1319)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="where the time goes, within one process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, documents=arguments.documents, models=arguments.models)
        for options in ((), ("--full",)):
            page = folder / "report.html"
            begun, used = time.perf_counter(), _processor_seconds()
            command = [sys.executable, "-m", "ltm_eval", "report", str(folder), "-o", str(page), *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds, used = time.perf_counter() - begun, _processor_seconds() - used
            what = " ".join(options) or "(default)"
            print(f"report {what}: {seconds:.2f} s, {used:.2f} s of processor, {page.stat().st_size / 1e6:.2f} MB")
        if arguments.profile:
            _profile(folder)


def _processor_seconds() -> float:
    """Of all finished child processes: on a busy machine the wall clock says little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _profile(folder: Path) -> None:
    from ltm_eval.report.page import build, render
    from ltm_eval.results.files import find_runs

    with cProfile.Profile() as profile:
        render(build(find_runs([folder])))
    pstats.Stats(profile).sort_stats("cumulative").print_stats(30)


if __name__ == "__main__":
    main()
