"""Commands about one model: `convert`, `audit`, `train` and `bench`. Registered with the others in `cli`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ltm_eval.calls import examples
from ltm_eval.config import PRESETS, RunConfig
from ltm_eval.errors import printable
from ltm_eval.options import Device, Seed, checked_device, filled


def convert(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="Released ckpt_*.pt, a folder or a hub id.")],
    target: Annotated[str, typer.Argument(metavar="DIR", help="New folder, or new file that ends in .pt.")],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="gpt2|FILE", help="tiktoken encoding, or a file of mergeable ranks."),
    ] = None,
) -> int:
    """Write a checkpoint as a folder of config.json, model.safetensors and tokenizer; no code of it is run."""
    from ltm_eval.checkpoint import convert as convert_checkpoint

    convert_checkpoint(Path(checkpoint), Path(target), tokenizer=filled("tokenizer", tokenizer))
    print(printable(f"checkpoint: {Path(target).resolve()}"))
    return 0


def audit(
    model: Annotated[
        str | None,
        typer.Option("--model", "-M", metavar="PATH|ID", help="A checkpoint.", show_default="an untrained decoder"),
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", metavar="|".join((*PRESETS, "all")), help="Which fit presets are audited.")
    ] = "all",
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="Blocks of random tokens per preset.")] = 4,
    seed: Seed = RunConfig.seed,
    json_path: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the results there.")] = None,
) -> int:
    """Fit uniformly random tokens and tell which presets report figures that no bound can reach."""
    from ltm_eval import audit as auditing
    from ltm_eval.checkpoint import load
    from ltm_eval.config import fit_config
    from ltm_eval.strict_files import write_text_atomic

    configs = [fit_config(name) for name in (PRESETS if preset == "all" else [preset])]
    decoder = auditing.untrained_model() if model is None else load(model)
    found = [auditing.audit(decoder, config, blocks=blocks, seed=seed) for config in configs]
    for result in found:
        verdict = "passes" if result.is_bound else "not a bound"
        caught = "" if result.caught or result.is_bound else " (same noise as the fit; this decoder does not show it)"
        deficit = result.deficit_nats_per_block if result.deficit_nats_per_block is not None else math.nan
        side = "below" if deficit > 0 else "above"
        print(
            f"{result.preset:<10} {abs(deficit):8.1f} nats per block {side} T ln V "
            f"({result.figure}, {result.t_fast} fast steps, T {result.length}, V {result.vocab}): {verdict}{caught}"
        )
    if json_path is not None:
        write_text_atomic(Path(json_path), auditing.to_json(found))
        print(printable(f"audit: {Path(json_path).resolve()}"))
    return 0


def train(
    config: Annotated[str, typer.Option("--config", metavar="FILE", help="Recipe in YAML; see demo/ltm-demo.yaml.")],
    output: Annotated[
        str, typer.Option("--output", "--output_path", "-o", metavar="DIR", help="Tokens, state, log and final model.")
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="Where the recipe's files lie.", envvar="LTM_EVAL_DATA_DIR"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Slow steps.", show_default="the recipe's")
    ] = None,
    device: Device = RunConfig.device,
) -> int:
    """Train an LTM by dual-rate learning, or a GPT-2 on the same batches; the same command resumes."""
    from ltm_eval.recipe import read_recipe
    from ltm_eval.train import train as run_training

    recipe = read_recipe(Path(config), steps=steps)
    done = run_training(
        recipe, Path(output), data=None if data is None else Path(data), device=checked_device(device) or "auto"
    )
    print(f"trained: {done.steps} slow steps, {done.tokens:,} tokens, {done.flops:.3g} operations")
    print(printable(f"model: {done.final.resolve()}"))
    return 0


def bench(  # noqa: PLR0913 - the signature is the declaration of the options
    *,
    size: Annotated[str, typer.Option("--size", metavar="demo|S|M|L", help="Published size, or the demo's.")] = "S",
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of a row.")] = 1024,
    batch: Annotated[int, typer.Option("--batch", help="Rows.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", help="Timings of each way, in turn.")] = 5,
    device: Device = RunConfig.device,
    cpu_time: Annotated[
        bool, typer.Option("--cpu_time", help="CPU seconds of one thread: for a machine that others use too.")
    ] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="Time our step with compiled layers too.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Measure the peak of a fit too.")] = False,
    growth: Annotated[
        str | None, typer.Option("--growth", metavar="DIR", help="Measure time against size too; figure goes there.")
    ] = None,
) -> int:
    """Time a fast step against the published algorithm, plainly written, and against the machine's ceiling."""
    from ltm_eval import bench as benchmark
    from ltm_eval.arguments import resolve_device

    folder = filled("growth", growth)
    where = str(resolve_device(checked_device(device)))
    config = benchmark.BenchConfig(size, tokens, batch, where, rounds, cpu_time, compile_)
    for part in benchmark.report(config, folder=None if folder is None else Path(folder), memory=memory):
        print(part, end="\n\n", flush=True)
    return 0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("ltm-eval convert ckpt_60000.pt ltm-large/ --tokenizer gpt2"))(convert)
    app.command(
        epilog=examples("ltm-eval audit", "ltm-eval audit --model ckpt_60000.pt --preset released --json audit.json")
    )(audit)
    app.command(
        epilog=examples(
            "ltm-eval train --config demo/ltm-demo.yaml --data DIR --output runs/ltm-demo",
            "torchrun --nproc-per-node 8 -m ltm_eval train --config big.yaml --data DIR --output runs/big",
        )
    )(train)
    app.command(
        epilog=examples("ltm-eval bench", "ltm-eval bench --size L --memory", "ltm-eval bench --growth figures/")
    )(bench)
