"""Trains the bundled `ltm-demo`: a tiny LTM on project-made word problems, on a CPU, in minutes.

    python demo/train_demo.py OUTPUT_FOLDER [--minutes 25]

It exists so that the whole path of the program can be tried on a bare machine; it is not a measure of what LTMs can do.
Dual-rate learning after arXiv:2502.01567: a short fast loop with fresh noise, then one AdamW step on -log p(x|z).
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from ltm_eval.checkpoint import Checkpoint, CheckpointInfo, save, weights_sha256
from ltm_eval.config import ModelConfig, fit_config
from ltm_eval.elbo import kl_nats
from ltm_eval.model import LatentThoughtModel
from ltm_eval.posterior import Batch, Document, Posterior, Start, Window, fast_loop
from ltm_eval.problems import generate
from ltm_eval.tokenizer import Tokenizer, load_ranks

SEED = 2024
RANKS = 1023
SIZES = ModelConfig(
    dim=128,
    n_layers=3,
    n_heads=4,
    n_kv_heads=4,
    vocab_size=RANKS + 1,
    multiple_of=32,
    max_seq_len=1024,
    window_size=128,
    max_z_len=12,
)
FIT = fit_config("bound", t_fast=4, lr=0.3, lr_final=0.1, log_var_start=-0.5)
FITTED_EVERY = 4
"""Every so many batches z is fitted; in the others it is drawn from the prior, which costs a third of the time."""
LEARNING_RATE, FINAL_RATE, WARM_UP = 2e-3, 1e-4, 30
LENGTH, BATCH = 512, 8


def problem_text(problem: object) -> str:
    """One problem in lm-eval's GSM8K prompt."""
    return f"Question: {problem.question}\nAnswer: {problem.answer}\n\n"  # type: ignore[attr-defined]


def train_ranks(texts: list[str], path: Path) -> Tokenizer:
    """Byte-pair ranks in tiktoken's format; digits never merge, so that numbers keep their places."""
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Trainable

    trainable = Trainable(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    trainable.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainable.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=RANKS, initial_alphabet=sorted(alphabet), show_progress=False)
    )
    symbol_bytes = byte_symbols()
    merged = [
        bytes(symbol_bytes[c] for c in left + right)
        for left, right in (
            m if isinstance(m, list) else m.split(" ") for m in json.loads(trainable.to_str())["model"]["merges"]
        )
    ]
    ordered = list(dict.fromkeys([bytes([b]) for b in range(256)] + merged))[:RANKS]
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ordered)))
    return load_ranks(path)


def byte_symbols() -> dict[str, int]:
    """The printable characters that stand for bytes in byte-level BPE files."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def batches(tokenizer: Tokenizer) -> object:
    """Endless (tokens, targets), (BATCH, LENGTH): whole problems after end-of-text, cut at LENGTH."""
    stream: list[int] = []
    for seed in range(1, 10**9):
        rows = []
        for problem in generate(400, seed=SEED + seed, split="train"):
            stream += tokenizer.encode(problem_text(problem))
        while len(stream) >= LENGTH:
            rows.append([tokenizer.eot_id, *stream[:LENGTH]])
            stream = stream[LENGTH:]
            if len(rows) == BATCH:
                block = torch.tensor(rows)
                yield block[:, :-1], block[:, 1:]
                rows = []


def fast(
    model: LatentThoughtModel, tokens: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
) -> Posterior:
    """The batch's posteriors after the fast loop."""
    rows = zip(tokens.tolist(), targets.tolist(), strict=True)
    documents = [Document((Window(tuple(x), tuple(y)),)) for x, y in rows]
    shape = (len(documents), *SIZES.latent_shape)
    start = Start(torch.zeros(shape), torch.full(shape, FIT.log_var_start))
    return fast_loop(Batch.of(model, documents), start, lambda step: torch.randn(1, *shape, generator=generator), FIT)


def train(minutes: float, tokenizer: Tokenizer) -> tuple[LatentThoughtModel, list[dict[str, float]]]:
    """Slow steps until the time is over; the schedule follows the clock."""
    generator = torch.Generator().manual_seed(SEED)
    model = LatentThoughtModel(SIZES)
    model.init_weights(generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    begun, log = time.monotonic(), []
    for step, (tokens, targets) in enumerate(batches(tokenizer)):
        spent = (time.monotonic() - begun) / (60 * minutes)
        if spent >= 1:
            break
        rate = FINAL_RATE + 0.5 * (1 + math.cos(math.pi * spent)) * (LEARNING_RATE - FINAL_RATE)
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
        noise = torch.randn(BATCH, *SIZES.latent_shape, generator=generator)
        fitted = fast(model, tokens, targets, generator) if step % FITTED_EVERY == 0 else None
        model.requires_grad_(True)
        z = noise if fitted is None else fitted.at(noise)
        nll = F.cross_entropy(model(tokens, z).flatten(0, 1), targets.flatten())
        nll.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        model.requires_grad_(False)
        kl = 0.0 if fitted is None else float(kl_nats(fitted.mu, fitted.log_var).mean()) / LENGTH
        log.append({"step": step, "nll_nats_per_token": nll.item(), "kl_nats_per_token": kl, "share_of_time": spent})
        if step % 20 == 0:
            print(json.dumps(log[-1]), flush=True)
    return model, log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=25.0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    texts = [problem_text(problem) for problem in generate(20_000, seed=SEED, split="train")]
    tokenizer = train_ranks(texts, arguments.output / "ranks.tiktoken")
    model, log = train(arguments.minutes, tokenizer)
    weights = {name: parameter.detach().half() for name, parameter in model.named_parameters()}
    info = CheckpointInfo("demo/train_demo.py", "live", len(log), weights_sha256(weights))
    save(Checkpoint(info, SIZES, weights, str(arguments.output / "ranks.tiktoken")), arguments.output / "ltm-demo")
    (arguments.output / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


if __name__ == "__main__":
    main()
