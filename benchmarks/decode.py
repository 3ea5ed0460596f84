"""Tokens per second of generation: with and without a key/value cache, and transformers' GPT-2.

    python benchmarks/decode.py                                # sizes of LTM-S, this machine's best device
    python benchmarks/decode.py --new_tokens 512 --batches 1,8,64 --device cpu

Three implementations with the same number of new tokens, greedy, with random weights and prompts of 480 tokens
(few-shot prompts fill the context), without early stops:
- `cached`: `ltm_eval.inference.decode.generate`;
- `cache-free`: reads everything again for every token, as the released `generate` does, with the output projection of
  the last position only; it is slow, so it is timed at every `--stride`-th length (the first included) and summed;
- `gpt2`: `transformers` GPT-2 of the same width, vocabulary and, by its layers, number of parameters, with its cache.
`--clock cpu` counts CPU time, for shared machines. On a CPU `generate` always runs 16 lanes, so that batches above 16
take turns. Prints Markdown; measurements are in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import platform
import time
from typing import TYPE_CHECKING

import torch

from ltm_eval.inference.decode import Prompt, generate
from ltm_eval.inference.options import GenerationConfig
from ltm_eval.model.config import ModelConfig
from ltm_eval.model.decoder import LatentThoughtModel

if TYPE_CHECKING:
    from collections.abc import Callable

LTM_S = ModelConfig(
    dim=512,
    n_layers=3,
    n_heads=8,
    n_kv_heads=8,
    vocab_size=50_258,
    max_seq_len=1024,
    window_size=256,
    max_z_len=24,
    multiple_of=32,
)


def parameters(model: torch.nn.Module) -> int:
    """Return the number of parameters, tied ones counted once."""
    return sum(weight.numel() for weight in model.parameters())


def random_ltm(config: ModelConfig, device: str) -> LatentThoughtModel:
    """Return a decoder with random weights."""
    model = LatentThoughtModel(config)
    model.init_weights(torch.Generator().manual_seed(0))
    return model.to(device)


def random_gpt2(config: ModelConfig, wanted: int, device: str) -> torch.nn.Module:
    """Return a GPT-2 of the same width whose number of parameters is closest to `wanted`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def sized(layers: int) -> GPT2Config:
        return GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_seq_len,
            n_embd=config.dim,
            n_layer=layers,
            n_head=config.n_heads,
        )

    per_layer = 12 * config.dim**2
    fixed = (config.vocab_size + config.max_seq_len) * config.dim
    return GPT2LMHeadModel(sized(max(1, round((wanted - fixed) / per_layer)))).eval().to(device)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def timed(work: Callable[[], object], device: str) -> float:
    """Return the seconds of `work` until the device has finished."""
    begun = clock()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - begun


def cached_seconds(model: LatentThoughtModel, tokens: torch.Tensor, new_tokens: int, device: str) -> float:
    """Return the seconds of `generate` on a batch of prompts."""
    z = torch.randn(model.config.latent_shape, generator=torch.Generator().manual_seed(1)).to(device)
    prompts = [Prompt(tuple(row), z) for row in tokens.tolist()]
    config = GenerationConfig(max_new_tokens=new_tokens)
    return timed(lambda: list(generate(model, prompts, config, batch_size=len(prompts))), device)


@torch.no_grad()
def cache_free_seconds(
    model: LatentThoughtModel, tokens: torch.Tensor, new_tokens: int, device: str, stride: int
) -> float:
    """Return the seconds of generation without a cache, from the steps at every `stride`-th length."""
    z = torch.randn(1, *model.config.latent_shape, generator=torch.Generator().manual_seed(1)).to(device)
    z = z.expand(len(tokens), -1, -1, -1)
    filler = torch.zeros(len(tokens), new_tokens, dtype=torch.long)
    whole = torch.cat([tokens, filler], dim=1).to(device)
    total = 0.0
    for start in range(0, new_tokens, stride):
        read = whole[:, : tokens.shape[1] + start]

        def step(read: torch.Tensor = read) -> torch.Tensor:
            return model.logits(model.hidden(model.prelude(read), z).states[:, -1]).argmax(-1).cpu()

        total += timed(step, device) * min(stride, new_tokens - start)
    return total


@torch.no_grad()
def gpt2_seconds(model: torch.nn.Module, tokens: torch.Tensor, new_tokens: int, device: str) -> float:
    """Return the seconds of transformers' greedy generation."""
    given = tokens.to(device)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(given)
    return timed(lambda: model.generate(given, attention_mask=mask, **options), device)  # type: ignore[operator]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new_tokens", type=int, default=512)
    parser.add_argument("--prompt_tokens", type=int, default=480)
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stride", type=int, default=32, help="lengths between two timed steps of the cache-free loop")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args()
    global clock  # noqa: PLW0603 - set once, before anything is timed
    clock = CLOCKS[given.clock]
    model = random_ltm(LTM_S, given.device)
    gpt2 = random_gpt2(LTM_S, parameters(model), given.device)
    machine = torch.cuda.get_device_name() if given.device.startswith("cuda") else platform.processor() or "CPU"
    print(f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} threads, fp32, {given.clock} time")
    print(f"{given.new_tokens} new tokens after {given.prompt_tokens}")
    print(f"parameters: LTM {parameters(model) / 1e6:.1f} M, GPT-2 {parameters(gpt2) / 1e6:.1f} M\n")
    print("| batch | cached, tokens/s | cache-free, tokens/s | gpt2, tokens/s | cached : cache-free | cached : gpt2 |")
    print("|---:|---:|---:|---:|---:|---:|")
    stream = torch.Generator().manual_seed(2)
    for batch in map(int, given.batches.split(",")):
        tokens = torch.randint(0, LTM_S.vocab_size, (batch, given.prompt_tokens), generator=stream)
        for warm in (cached_seconds, gpt2_seconds):
            warm(model if warm is cached_seconds else gpt2, tokens[:1], 4, given.device)  # type: ignore[arg-type]
        seconds = (
            cached_seconds(model, tokens, given.new_tokens, given.device),
            cache_free_seconds(model, tokens, given.new_tokens, given.device, given.stride),
            gpt2_seconds(gpt2, tokens, given.new_tokens, given.device),
        )
        cached, free, theirs = (batch * given.new_tokens / one for one in seconds)
        print(
            f"| {batch} | {cached:,.0f} | {free:,.1f} | {theirs:,.0f} | {cached / free:.1f} | {cached / theirs:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
