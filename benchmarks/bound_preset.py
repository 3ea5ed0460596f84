"""How the preset `bound` was chosen: the fresh-noise bound after few fast steps, over starts, rates, schedules, draws.

    python benchmarks/bound_preset.py                        # every model that is here
    python benchmarks/bound_preset.py released_a untrained   # these

Models: the two released fixtures on the texts recorded with them, an untrained decoder on texts drawn from itself at
z ~ N(0, I), and the bundled demo model on the bundled problems, where it is installed. A setting's regret is its bound
minus the best bound any setting reached at the same steps on the same model, in nats per token; the last table averages
it. Prints Markdown.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ltm_eval.audit import untrained_model
from ltm_eval.bounds import fresh_draws
from ltm_eval.checkpoint import load, load_with_tokenizer
from ltm_eval.config import FitConfig, fit_config
from ltm_eval.model import LatentThoughtModel
from ltm_eval.paths import assets_dir, sample_data_dir
from ltm_eval.posterior import Batch, Document, Start, Window, document_noise, fast_loop

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "data"
MODELS = ("released_a", "released_b", "untrained", "demo")
STEPS = (4, 16, 64)
STARTS = (-5.0, -2.0, -1.0, 0.0)
RATES = (0.03, 0.1, 0.3)
SCHEDULES = ("constant", "cosine")
DRAWS = (1, 2)
SEED = 1234
DEMO_TEXTS = 2
DEMO_TOKENS = 192
SHOWN = 12

Setting = tuple[float, float, str, int]
"""log_var_start, lr, schedule, draws."""


def fixture(name: str) -> tuple[LatentThoughtModel, list[Document]]:
    """A released checkpoint and the texts its own code was recorded on."""
    expected = np.load(FIXTURES / name / "expected.npz")
    pairs = zip(expected["X"].tolist(), expected["Y"].tolist(), strict=True)
    return load(FIXTURES / name / "ckpt_1000.pt"), [Document((Window(tuple(x), tuple(y)),)) for x, y in pairs]


def untrained(texts: int = 3, length: int = 64) -> tuple[LatentThoughtModel, list[Document]]:
    """A random decoder and texts drawn from it, each at latents of its own."""
    model, stream = untrained_model(), torch.Generator().manual_seed(SEED)
    z = torch.randn(texts, *model.config.latent_shape, generator=stream)
    tokens = torch.zeros(texts, 1, dtype=torch.long)
    for _ in range(length):
        shares = model(tokens, z)[:, -1].softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(shares, 1, generator=stream)], dim=1)
    return model, [Document((Window(tuple(row[:-1]), tuple(row[1:])),)) for row in tokens.tolist()]


def demo() -> tuple[LatentThoughtModel, list[Document]]:
    """The bundled model on bundled problems, cut to one length."""
    model, tokenizer = load_with_tokenizer("demo")
    lines = (sample_data_dir() / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines()
    text = "\n\n".join(f"Question: {row['question']}\nAnswer: {row['answer']}" for row in map(json.loads, lines))
    ids = tokenizer.encode(text)
    cuts = [ids[i * DEMO_TOKENS : (i + 1) * DEMO_TOKENS + 1] for i in range(DEMO_TEXTS)]
    return model, [Document((Window(tuple(cut[:-1]), tuple(cut[1:])),)) for cut in cuts]


def settings() -> list[Setting]:
    return list(itertools.product(STARTS, RATES, SCHEDULES, DRAWS))


def config_of(setting: Setting, t_fast: int) -> FitConfig:
    start, rate, schedule, draws = setting
    final = rate if schedule == "constant" else rate / 10
    return fit_config("bound", t_fast=t_fast, lr=rate, lr_final=final, log_var_start=start, draws=draws)


def bound_per_token(model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig) -> float:
    """Mean bound in nats per scored token; the documents are of one length and share a batch."""
    shape = (len(documents), *model.config.latent_shape)
    start = Start(torch.zeros(shape), torch.full(shape, config.log_var_start))
    noise = document_noise(model, documents, config, SEED)
    fitted = fast_loop(Batch.of(model, documents), start, noise, config)
    bound = fresh_draws(model, documents, fitted, seed=SEED).bound_nats
    return float(bound.mean()) / len(documents[0].windows[0].targets)


def measure(name: str) -> dict[tuple[Setting, int], float]:
    """The bound of every setting and number of steps on one model."""
    found = fixture(name) if name in {"released_a", "released_b"} else untrained() if name == "untrained" else demo()
    model, documents = found
    return {
        (setting, steps): bound_per_token(model, documents, config_of(setting, steps))
        for setting in settings()
        for steps in STEPS
    }


def cells(setting: Setting) -> list[str]:
    start, rate, schedule, draws = setting
    return [f"{start:g}", f"{rate:g}", schedule, str(draws)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    if not names:
        names = [name for name in MODELS if name != "demo" or (assets_dir() / "ltm-demo").is_dir()]
    head = ["log_var", "lr", "schedule", "draws", *(f"t_fast {steps}" for steps in STEPS)]
    regret: dict[tuple[Setting, int], list[float]] = {(s, t): [] for s in settings() for t in STEPS}
    for name in names:
        began = time.perf_counter()
        found = measure(name)
        print(f"### {name}: bound, nats per token ({time.perf_counter() - began:.0f} s)\n")
        print(table(head, ([*cells(s), *(f"{found[s, t]:.3f}" for t in STEPS)] for s in settings())), flush=True)
        for (setting, steps), value in found.items():
            best = min(found[s, steps] for s in settings())
            regret[setting, steps].append(value - best)
    mean = {key: sum(values) / len(values) for key, values in regret.items()}
    order = sorted(settings(), key=lambda s: sum(mean[s, t] for t in STEPS))
    print(f"### mean regret over {', '.join(names)}, nats per token, best {SHOWN} of {len(order)}\n")
    print(table(head, ([*cells(s), *(f"{mean[s, t]:.3f}" for t in STEPS)] for s in order[:SHOWN])))


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in MODELS]
    if unknown:
        sys.exit(f"unknown model {unknown[0]!r}; known: {', '.join(MODELS)}")
    main(sys.argv[1:])
