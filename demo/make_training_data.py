"""Write the generated part of the bundled pair's training data: word problems and rule episodes.

    python demo/make_training_data.py --output DIR/train

writes DIR/train/problems/generated.jsonl, one problem a line, and DIR/train/rules/generated.jsonl, one episode a line.
The defaults are those of `ltm-demo.yaml` and `gpt2-demo.yaml`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from problems import generate, jsonl
from rules import episode


def episode_line(seed: int, number: int, examples: int) -> str:
    """Format one episode as the JSON line that a source of kind `rules` reads."""
    drawn = episode(Random(f"rules-{seed}-{number}"), examples)
    return json.dumps({"group": f"{drawn.family}/{drawn.hidden}", "examples": drawn.rows()}) + "\n"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--problems", type=int, default=24_000, help="number of word problems (24000)")
    parser.add_argument("--episodes", type=int, default=12_000, help="number of rule episodes (12000)")
    parser.add_argument("--rows", type=int, default=9, help="questions of an episode (9)")
    parser.add_argument("--seed", type=int, default=2_026, help="random seed (2026)")
    options = parser.parse_args()
    files = {
        "problems": jsonl(generate(options.problems, seed=options.seed, split="train")),
        "rules": "".join(episode_line(options.seed, number, options.rows) for number in range(options.episodes)),
    }
    for name, content in files.items():
        path = options.output / name / "generated.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="\n")
        print(f"{path}: {content.count(chr(10))} rows")


if __name__ == "__main__":
    main()
