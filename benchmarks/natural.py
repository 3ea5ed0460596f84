"""Bound against fast steps: AdamW (preset `bound`) and natural-gradient steps (preset `natural`).

    python benchmarks/natural.py          # the bundled model on bundled problems, and an untrained one
    python benchmarks/natural.py --models demo --sets ptb,wikitext --data DIR --texts 4 --tokens 256

Prints a Markdown table: nats per token of the valid bound (8 fresh draws) after 4 to 64 steps, and seconds of fitting.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import bound_preset
import torch

from ltm_eval.inference.bounds import fresh_draws
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fit_documents

STEPS = (4, 8, 16, 32, 64)
SETTINGS = (
    ("bound", {}),
    ("natural", {}),
    ("natural", {"precision_rate": 0.05}),
    ("natural", {"precision_rate": 0.3}),
    ("natural", {"lr": 0.3}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["demo", "untrained"], metavar="PATH")
    parser.add_argument("--sets", default="", help="joined by commas; without it every model has its own texts")
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--texts", type=int, default=4, metavar="N", help="pieces of each set")
    parser.add_argument("--tokens", type=int, default=256, metavar="T", help="tokens of a piece")
    asked = parser.parse_args()
    sets = tuple(filter(None, asked.sets.split(",")))
    small = bound_preset.small_grid()
    options = bound_preset.Options(tuple(asked.models), sets, asked.data, asked.texts, asked.tokens, small, None)
    torch.set_num_threads(1)
    print(f"| model | texts | preset | {' | '.join(f'{steps} steps' for steps in STEPS)} | s at {STEPS[-1]} |")
    print(f"|---|---|---|{'---:|' * (len(STEPS) + 1)}")
    for case in bound_preset.cases(options):
        documents = list(case.documents)
        tokens = sum(len(document.windows[0].targets) for document in documents)
        for preset, changes in SETTINGS:
            cells, seconds = [], 0.0
            for steps in STEPS:
                began = time.perf_counter()
                fitted = fit_documents(case.model, documents, fit_config(preset, t_fast=steps, **changes), seed=1)
                seconds = time.perf_counter() - began
                drawn = fresh_draws(case.model, documents, fitted, seed=2)
                cells.append(f"{sum(one.bound.nats for one in drawn) / tokens:.4f}")
            name = ", ".join([preset, *(f"{key} {value}" for key, value in changes.items())])
            row = (Path(case.model_name).name, case.set_name, name, *cells, f"{seconds:.1f}")
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
