"""Cost of the journal: writing an answer, reading 100,000, and its share of a run.

`python benchmarks/journal_cost.py [--answers 100000] [--folder DIR]`: DIR should be on the disk of the results.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import run
from ltm_eval.runs.journal import Journal, Writer, encode, read

STEPS = [3021.123456789 - step for step in range(65)]
RECORD = {"objective_nats": STEPS, "prompt_hash": "0" * 64, "condition": "demos"}
ANSWER = {"value": {"texts": ["So the answer is 42.\n#### 42" * 8], "budget": None}, "records": [RECORD]}


def timed(begun: tuple[float, float]) -> str:
    """Wall and CPU seconds since."""
    return f"{time.perf_counter() - begun[0]:.2f} s ({time.process_time() - begun[1]:.2f} s of CPU)"


def now() -> tuple[float, float]:
    """For `timed`."""
    return time.perf_counter(), time.process_time()


def flushes(folder: Path) -> list[float]:
    """Return milliseconds of 300 flushed writes of an answer's size, ascending: the cost of the disk itself."""
    data = encode({"key": "0" * 64, "task": "t", **ANSWER})
    spent = []
    with (folder / "bare").open("ab", buffering=0) as file:
        for _ in range(300):
            begun = time.perf_counter()
            file.write(data)
            os.fsync(file.fileno())
            spent.append(1e3 * (time.perf_counter() - begun))
    return sorted(spent)


def write(folder: Path, answers: int) -> None:
    """Time single answers, each flushed, against a bare flush; then many as in a run."""
    bare = flushes(folder)
    print(f"a bare write with its flush: median {statistics.median(bare):.2f} ms, 99 % {bare[296]:.2f} ms")
    single = Journal(folder / "single", {"a": 1})
    spent = []
    for number in range(300):
        begun = time.perf_counter()
        single.append(single.key(number), "t", ANSWER, sync=True)
        spent.append(1e3 * (time.perf_counter() - begun))
    single.close()
    spent.sort()
    print(f"an answer with its flush: median {statistics.median(spent):.2f} ms, 99 % {spent[296]:.2f} ms")
    many = Journal(folder / "many", {"a": 1})
    for number in range(answers):
        many.append(many.key(number), "t", ANSWER)
    many.close()
    size = many.writer.path.stat().st_size
    each = 1e3 * many.writer.seconds / answers
    print(f"{answers:,} answers, {size / answers:,.0f} bytes each: {each:.3f} ms an answer")


def read_back(folder: Path, answers: int) -> None:
    """Time a start: read the journal and look every answer up."""
    begun = now()
    found = read(folder / "many")
    print(f"{len(found.answers):,} answers indexed: {timed(begun)}")
    begun = now()
    again = Journal(folder / "many", {"a": 1})
    kept = sum(again.find(again.key(number)) is not None for number in range(answers))
    print(f"indexed and {kept:,} looked up: {timed(begun)}")


def share(folder: Path) -> None:
    """Time the journal in a run of the bundled model."""
    seconds: list[float] = []
    close = Writer.close

    def remember(writer: Writer) -> None:
        close(writer)
        seconds.append(writer.seconds)

    Writer.close = remember  # type: ignore[method-assign]
    config = RunConfig(limit=40, t_fast=16, gen_kwargs="max_gen_toks=64", output_path=str(folder / "run"), quiet=True)
    for name in ("fresh", "all found"):
        begun = now()
        run(config)
        spent = time.perf_counter() - begun[0]
        own = f"journal {1e3 * seconds[-1]:.1f} ms = {seconds[-1] / spent:.2%}"
        print(f"run of 40 questions, {name}: {timed(begun)}; {own}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        write(folder, given.answers)
        read_back(folder, given.answers)
        share(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
