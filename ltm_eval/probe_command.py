"""`python -m ltm_eval probe`: what each layer's latents carry."""

from __future__ import annotations

from typing import Annotated

import typer

from ltm_eval.calls import Call, examples
from ltm_eval.config import AUTO
from ltm_eval.options import (
    Data,
    Device,
    Dtype,
    FastSteps,
    Model,
    OutputPath,
    Preset,
    Quiet,
    Revision,
    Seed,
    Tokenizer,
    WriteReport,
    checked_device,
    filled,
)
from ltm_eval.probe_results import DEFAULT_TASK, DIRECTIONS, LATENTS, RESTS, ProbeConfig, ProbeJob


def probe(  # noqa: PLR0913 - the signature is the declaration of the options
    *,
    model: Model = ProbeJob.model,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="FILE", help="A file of plain text, one text; repeatable."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            metavar="NAME",
            help="Take a task's documents: whole texts, or questions with their gold answers.",
            show_default=f"the bundled sample of {DEFAULT_TASK}",
        ),
    ] = ProbeJob.task,
    limit: Annotated[
        int, typer.Option("--limit", "-L", min=1, help="Only the first N documents of the task.")
    ] = ProbeJob.limit,
    data: Data = ProbeJob.data,
    t_fast: FastSteps = ProbeConfig.t_fast,
    preset: Preset = ProbeConfig.preset,
    rest: Annotated[
        str,
        typer.Option(
            "--rest",
            metavar="|".join(RESTS),
            help="What stands for the other layers' latents: zeros, the prior's mean, or one draw of the prior a text.",
        ),
    ] = ProbeConfig.rest,
    latents: Annotated[
        str,
        typer.Option(
            "--latents", metavar="|".join(LATENTS), help="What kept layers hold: the posterior's mean or a draw."
        ),
    ] = ProbeConfig.latents,
    direction: Annotated[
        str,
        typer.Option("--direction", metavar="|".join(DIRECTIONS), help="Layers 1 to l, the last l, or both."),
    ] = ProbeConfig.direction,
    max_tokens: Annotated[
        int, typer.Option("--max_tokens", min=2, help="Tokens of a text; longer ones are cut.")
    ] = ProbeConfig.max_tokens,
    prompt_tokens: Annotated[
        int,
        typer.Option(
            "--prompt_tokens", min=0, help="First tokens the decoder reads in the explorer; questions are read whole."
        ),
    ] = ProbeConfig.prompt_tokens,
    explore: Annotated[
        int, typer.Option("--explore", min=0, help="Texts the explorer holds generations of.")
    ] = ProbeConfig.explore,
    seed: Seed = ProbeConfig.seed,
    tokenizer: Tokenizer = ProbeJob.tokenizer,
    revision: Revision = ProbeJob.revision,
    device: Device = ProbeJob.device,
    dtype: Dtype = ProbeJob.dtype,
    output_path: OutputPath = ProbeJob.output_path,
    report: WriteReport = ProbeJob.report,
    quiet: Quiet = ProbeJob.quiet,
) -> int:
    """Fit z with all layers, then reconstruct with the latents of some: curves by layer, and the layer explorer.

    Writes probe_<date>.json into the model's folder of results, and the page of the output folder.
    """
    from ltm_eval import probing

    job = ProbeJob(
        probe=ProbeConfig(
            preset=preset,
            t_fast=t_fast,
            rest=rest,
            latents=latents,
            direction=direction,
            max_tokens=max_tokens,
            prompt_tokens=prompt_tokens,
            explore=explore,
            seed=seed,
        ),
        model=filled("model", model),
        texts=tuple(text or ()),
        task=filled("task", task),
        limit=limit,
        data=filled("data", data) or AUTO,
        output_path=filled("output_path", output_path) or ProbeJob.output_path,
        device=checked_device(device),
        dtype=dtype,
        tokenizer=filled("tokenizer", tokenizer),
        revision=filled("revision", revision),
        report=report,
        quiet=quiet,
        command=Call.command(),
    )
    outcome = probing.probe(job)
    print(probing.table(outcome.results))
    print(f"results: {outcome.results}")
    if outcome.report is not None:
        print(f"report: {outcome.report}")
    return 0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "ltm-eval probe",
            "ltm-eval probe --model ckpt_60000.pt --text story.txt --text poem.txt --output_path results/",
            "ltm-eval probe --task gsm8k --limit 20 --rest prior --direction up",
        )
    )(probe)
