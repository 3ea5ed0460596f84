"""Commands that evaluate: `run` and `sweep`. Registered with the others in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ltm_eval.calls import Call, examples
from ltm_eval.config import GridConfig, RunConfig, SweepConfig, conditions_of
from ltm_eval.errors import IncompleteError, printable
from ltm_eval.options import (
    Baselines,
    BatchSize,
    CausalChunk,
    CausalFastSteps,
    CellCpus,
    Compile,
    Condition,
    Data,
    Device,
    Documents,
    Dtype,
    FastSteps,
    FitOptions,
    FitWindow,
    Fresh,
    GenKwargs,
    Limit,
    LogSamples,
    MaxFailed,
    Metadata,
    Model,
    Models,
    OutputPath,
    PassAt,
    Preset,
    Quiet,
    RayAddress,
    Rethink,
    Revision,
    Rows,
    Samples,
    Seed,
    Seeds,
    Shots,
    SweptSteps,
    Tasks,
    Tokenizer,
    TokenNll,
    WriteReport,
    checked_device,
    filled,
)

if TYPE_CHECKING:
    import typer


def run(  # noqa: PLR0913 - the signature is the declaration of the options
    *,
    model: Model = RunConfig.model,
    tasks: Tasks = list(RunConfig.tasks),  # noqa: B006 - typer copies it
    num_fewshot: Shots = RunConfig.num_fewshot,
    baseline: Baselines = list(RunConfig.baselines),  # noqa: B006
    data: Data = RunConfig.data,
    metadata: Metadata = RunConfig.metadata,
    limit: Limit = RunConfig.limit,
    documents: Documents = None,
    gen_kwargs: GenKwargs = RunConfig.gen_kwargs,
    n: Samples = RunConfig.n,
    k: PassAt = None,
    tokenizer: Tokenizer = RunConfig.tokenizer,
    revision: Revision = RunConfig.revision,
    condition: Condition = RunConfig.condition,
    preset: Preset = RunConfig.preset,
    fit: FitOptions = RunConfig.fit,
    t_fast: FastSteps = RunConfig.t_fast,
    fit_window: FitWindow = RunConfig.fit_window,
    rethink: Rethink = RunConfig.rethink,
    rows: Rows = RunConfig.rows,
    causal_chunk: CausalChunk = RunConfig.causal_chunk,
    causal_t_fast: CausalFastSteps = RunConfig.causal_t_fast,
    seed: Seed = RunConfig.seed,
    device: Device = RunConfig.device,
    dtype: Dtype = RunConfig.dtype,
    compile_: Compile = RunConfig.compile,
    batch_size: BatchSize = str(RunConfig.batch_size),
    output_path: OutputPath = RunConfig.output_path,
    max_failed: MaxFailed = RunConfig.max_failed,
    token_nll: TokenNll = RunConfig.token_nll,
    report: WriteReport = RunConfig.report,
    log_samples: LogSamples = True,
    quiet: Quiet = RunConfig.quiet,
    fresh: Fresh = RunConfig.fresh,
) -> int:
    """Evaluate a checkpoint, and baselines on the same documents; write results and a report.

    Results have lm-eval's layout; what it has no room for stands in latents_*.jsonl beside them.
    """
    conditions = conditions_of(condition)
    shots = (None,) if num_fewshot is None else num_fewshot
    several = k if k is not None else ()
    config = RunConfig(
        model=filled("model", model),
        tasks=tuple(name.strip() for part in tasks for name in part.split(",") if name.strip()),
        num_fewshot=shots[0],
        baselines=tuple(baseline),
        data=filled("data", data) or RunConfig.data,
        metadata=metadata,
        limit=limit,
        documents=documents or (),
        output_path=filled("output_path", output_path) or RunConfig.output_path,
        batch_size="auto" if batch_size == "auto" else int(batch_size),
        device=checked_device(device),
        dtype=dtype,
        compile=compile_,
        fit=filled("fit", fit),
        condition=conditions[0],
        preset=preset,
        t_fast=t_fast,
        fit_window=fit_window,
        n=max(several) if several and n == RunConfig.n else n,
        k=several,
        rethink=rethink,
        rows=rows,
        causal_chunk=causal_chunk,
        causal_t_fast=causal_t_fast,
        seed=seed,
        tokenizer=filled("tokenizer", tokenizer),
        revision=filled("revision", revision),
        gen_kwargs=gen_kwargs,
        max_failed=max_failed,
        token_nll=token_nll,
        report=report,
        quiet=quiet,
        fresh=fresh,
        command=Call.command(),
    )
    from ltm_eval import run as runner
    from ltm_eval.results_table import results_table

    if len(conditions) > 1 or len(shots) > 1:
        from ltm_eval import sweep

        outcome = sweep.run(SweepConfig(config, conditions, shots))
        for path in outcome.results[:1]:
            print(sweep.table(path))
    else:
        outcome = runner.run(config)
    for path in outcome.results:
        print(results_table(path))
    for path in outcome.results:
        print(printable(f"results: {path}"))
    if outcome.report is not None:
        print(printable(f"report: {outcome.report}"))
    if outcome.failed:
        raise IncompleteError(outcome.failed)
    return 0


def sweep(  # noqa: PLR0913 - the signature is the declaration of the options
    *,
    model: Models = None,
    tasks: Tasks = list(RunConfig.tasks),  # noqa: B006 - typer copies it
    num_fewshot: Shots = RunConfig.num_fewshot,
    data: Data = RunConfig.data,
    metadata: Metadata = RunConfig.metadata,
    limit: Limit = RunConfig.limit,
    gen_kwargs: GenKwargs = RunConfig.gen_kwargs,
    n: Samples = RunConfig.n,
    k: PassAt = None,
    tokenizer: Tokenizer = RunConfig.tokenizer,
    revision: Revision = RunConfig.revision,
    condition: Condition = RunConfig.condition,
    preset: Preset = RunConfig.preset,
    t_fast: SweptSteps = None,
    fit_window: FitWindow = RunConfig.fit_window,
    rethink: Rethink = RunConfig.rethink,
    rows: Rows = RunConfig.rows,
    causal_chunk: CausalChunk = RunConfig.causal_chunk,
    causal_t_fast: CausalFastSteps = RunConfig.causal_t_fast,
    seed: Seeds = None,
    device: Device = RunConfig.device,
    dtype: Dtype = RunConfig.dtype,
    batch_size: BatchSize = str(RunConfig.batch_size),
    output_path: OutputPath = RunConfig.output_path,
    max_failed: MaxFailed = RunConfig.max_failed,
    token_nll: TokenNll = RunConfig.token_nll,
    quiet: Quiet = RunConfig.quiet,
    ray_address: RayAddress = GridConfig.ray_address,
    cell_cpus: CellCpus = GridConfig.cell_cpus,
) -> int:
    """Run every combination of checkpoints, tasks, conditions, demonstrations, fast steps and seeds.

    Finished cells are not run again by the same command; sweep.json holds all figures.
    """
    from ltm_eval import grid

    several = k if k is not None else ()
    base = RunConfig(
        tasks=tuple(name.strip() for part in tasks for name in part.split(",") if name.strip()),
        data=filled("data", data) or RunConfig.data,
        metadata=metadata,
        limit=limit,
        output_path=filled("output_path", output_path) or RunConfig.output_path,
        batch_size="auto" if batch_size == "auto" else int(batch_size),
        device=checked_device(device),
        dtype=dtype,
        preset=preset,
        fit_window=fit_window,
        n=max(several) if several and n == RunConfig.n else n,
        k=several,
        rethink=rethink,
        rows=rows,
        causal_chunk=causal_chunk,
        causal_t_fast=causal_t_fast,
        tokenizer=filled("tokenizer", tokenizer),
        revision=filled("revision", revision),
        gen_kwargs=gen_kwargs,
        max_failed=max_failed,
        token_nll=token_nll,
        report=False,
        quiet=quiet,
        command=Call.command(),
    )
    given = [name for part in model or () for name in ([part] if Path(part).exists() else part.split(","))]
    swept = grid.run(
        GridConfig(
            base,
            models=tuple(dict.fromkeys(filled("model", name) for name in given)) or (None,),
            t_fast=(None,) if t_fast is None else t_fast,
            shots=(None,) if num_fewshot is None else num_fewshot,
            conditions=conditions_of(condition),
            seeds=(RunConfig.seed,) if seed is None else seed,
            ray_address=filled("ray_address", ray_address),
            cell_cpus=cell_cpus,
        )
    )
    print(grid.table(swept))
    print(f"sweep: {swept.summary}")
    grid.check(swept)
    return 0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "ltm-eval run --task gsm8k --shots 8",
            "ltm-eval run --model ckpt_60000.pt --task gsm8k --shots 8 --baseline gpt2-large --data DIR -o results/",
            "ltm-eval run --model ltm-large/ --task gsm8k --condition demos --t_fast 16 --limit 100 --device cuda",
            "ltm-eval run --task gsm8k --n 10 --k 1,5,10",
            "ltm-eval run --task rules --condition all --shots 0,1,2,4,8",
        )
    )(run)
    app.command(
        epilog=examples(
            "ltm-eval sweep --task rules --t_fast 0,16,64 --shots 0,8 --seed 1,2 --limit 40",
            "ltm-eval sweep --model a.pt,b.pt --task gsm8k --condition demos,other --data DIR --ray_address local",
        )
    )(sweep)
