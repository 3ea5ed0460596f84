"""The command: `python -m ltm_eval run --task gsm8k --shots 8` and its companions.

`main(args)` is what the console script calls and what tests call; it returns the exit code and never raises. Options
are spelt as lm-eval spells them, hyphens for underscores are accepted, and environment variables can give those of
`run`. Torch and lm-eval are imported by the commands that need them, so that `--help`, `ls` and `report` start at once.
"""

from __future__ import annotations

import errno
import io
import math
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm_eval import __version__, cli_compare, paths, probe_command, run_commands
from ltm_eval.config import DEMO_BASELINE, DEMO_MODEL, PRESETS, GridConfig, RunConfig, SweepConfig, conditions_of
from ltm_eval.distributed import abandon, current, may_tell
from ltm_eval.errors import IncompleteError, LtmEvalError, MachineError, UsageError, error_line, nearest, printable
from ltm_eval.launch import quiet_torch
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
    WriteReport,
    checked_device,
    filled,
)
from ltm_eval.stopping import code_of, ends_with_command, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = "ltm-eval"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
INTERRUPTED = 130
NO_MEMORY = re.compile(r"out of memory|(?:not enough|can't allocate) memory", re.IGNORECASE)


# Commands -------------------------------------------------------------------------------------------------------------

PASS_THROUGH = {
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
    "ignore_unknown_options": True,
}

app = typer.Typer(
    name=PROGRAM,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["--help", "-h"],
        "token_normalize_func": lambda name: name.replace("-", "_"),
    },
)


def _examples(*lines: str) -> str:
    """An epilogue; typer keeps line ends only between paragraphs."""
    return "\n\n".join(("[bold]Examples[/bold]", *(line.replace("[", r"\[") for line in lines)))


ENVIRONMENT = """[bold]Environment[/bold]

LTM_EVAL_<OPTION>: any option of 'run', for example LTM_EVAL_BATCH_SIZE=8; the command line wins

LTM_EVAL_DATA_DIR: folder of data sets   LTM_EVAL_DEBUG=1: traceback with every error

LTM_EVAL_RANK_SILENCE: seconds after which a silent process of a job counts as lost (40)

HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, TIKTOKEN_CACHE_DIR, CUDA_VISIBLE_DEVICES, NO_COLOR: as usual

[bold]Exit codes[/bold]

0 done   1 bug   2 usage   3 unusable input   4 machine   5 incomplete   6 refused   7 worse   130 interrupted"""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(epilog=ENVIRONMENT)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Evaluate Latent Thought Models (arXiv:2502.01567): tasks of lm-eval, bounds that hold, one HTML report.

    Start with [bold]ltm-eval run --task gsm8k --shots 8[/bold], which needs neither model nor data.
    """


@app.command(
    epilog=_examples(
        "ltm-eval run --task gsm8k --shots 8",
        "ltm-eval run --model ckpt_60000.pt --task gsm8k --shots 8 --baseline gpt2-large --data DIR -o results/",
        "ltm-eval run --model ltm-large/ --task gsm8k --condition demos --t_fast 16 --limit 100 --device cuda",
        "ltm-eval run --task gsm8k --n 10 --k 1,5,10",
        "ltm-eval run --task rules --condition all --shots 0,1,2,4,8",
    )
)
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
        report=report,
        quiet=quiet,
        fresh=fresh,
        command=(PROGRAM, *_STATE.argv),
    )
    from ltm_eval import run as runner

    if len(conditions) > 1 or len(shots) > 1:
        from ltm_eval import sweep

        outcome = sweep.run(SweepConfig(config, conditions, shots))
        for path in outcome.results[:1]:
            print(sweep.table(path))
    else:
        outcome = runner.run(config)
    for path in outcome.results:
        print(runner.results_table(path))
    for path in outcome.results:
        print(printable(f"results: {path}"))
    if outcome.report is not None:
        print(printable(f"report: {outcome.report}"))
    if outcome.failed:
        raise IncompleteError(outcome.failed)
    return 0


@app.command(
    epilog=_examples(
        "ltm-eval sweep --task rules --t_fast 0,16,64 --shots 0,8 --seed 1,2 --limit 40",
        "ltm-eval sweep --model a.pt,b.pt --task gsm8k --condition demos,other --data DIR --ray_address local",
    )
)
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
        report=False,
        quiet=quiet,
        command=(PROGRAM, *_STATE.argv),
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


@app.command(
    epilog=_examples(
        "ltm-eval report results/",
        "ltm-eval report ltm/results_a.json gpt2/results_b.json -o both.html",
        "ltm-eval report results/ --format html,latex,csv -o paper/ --plots_dir paper/figures",
    )
)
def report(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Results files or folders of lm-eval, ours or any model's."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "--output_path", "-o", metavar="FILE", help="The page.", show_default="report.html beside them"
        ),
    ] = None,
    format_: cli_compare.Formats = None,
    plots_dir: cli_compare.PlotsDir = None,
    full: Annotated[
        bool, typer.Option("--full", help="All documents and answers, however large the page becomes.")
    ] = False,
) -> int:
    """Render one self-contained HTML page from results on disk; nothing is evaluated."""
    from ltm_eval import report as page

    found = sources or [RunConfig.output_path]
    target = Path(filled("output", output) or Path(found[0]) / "report.html")
    if output is None and not Path(found[0]).is_dir():
        target = Path(found[0]).with_name("report.html")
    if target.is_dir():
        target = target / "report.html"
    places = cli_compare.report_places(format_, output, beside=target)
    data = page.build(*page.gather(found), full=full)
    for path in cli_compare.write_report(data, places, plots_dir=filled("plots_dir", plots_dir)):
        print(printable(f"report: {path.resolve()}"))
    return 0


@app.command(epilog=_examples("ltm-eval convert ckpt_60000.pt ltm-large/ --tokenizer gpt2"))
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


@app.command(
    epilog=_examples("ltm-eval audit", "ltm-eval audit --model ckpt_60000.pt --preset released --json audit.json")
)
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
    from ltm_eval.results import write_text_atomic

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


@app.command(
    epilog=_examples(
        "ltm-eval train --config demo/ltm-demo.yaml --data DIR --output runs/ltm-demo",
        "torchrun --nproc-per-node 8 -m ltm_eval train --config big.yaml --data DIR --output runs/big",
    )
)
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


@app.command(epilog=_examples("ltm-eval bench", "ltm-eval bench --size L --memory", "ltm-eval bench --growth figures/"))
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


@app.command(epilog=_examples("ltm-eval ls", "lm_eval --model ltm --include_path $(ltm-eval ls --path) ..."))
def ls(
    path: Annotated[bool, typer.Option("--path", help="Print the folder of task definitions, nothing else.")] = False,
) -> int:
    """List tasks, conditions, fit presets and bundled models."""
    if path:
        print(paths.tasks_dir())
        return 0
    _print_section("Tasks (--task, 'ltm_' may be left out)", _task_rows())
    _print_section("Conditions (--condition)", CONDITION_TEXTS.items())
    _print_section("Fit presets (--preset)", ((name, _preset_text(name)) for name in PRESETS))
    _print_section("Bundled models", _model_rows())
    return 0


@app.command(
    "lm-eval",
    epilog=_examples("ltm-eval lm-eval --model ltm --model_args pretrained=demo --tasks ltm_gsm8k --num_fewshot 8"),
    context_settings=PASS_THROUGH,
)
def lm_eval(context: typer.Context) -> int:
    """Run lm-eval's own command with the model 'ltm' and our tasks known to it; all arguments are lm-eval's."""
    from ltm_eval.plug import plug_in

    plug_in()
    from lm_eval.__main__ import cli_evaluate

    # lm-eval reads sys.argv; its first word is also how `errors.leave` knows whose command is running.
    sys.argv = ["lm-eval", *context.args]
    try:
        cli_evaluate()
    except LtmEvalError:
        raise
    except Exception as error:
        raise LtmEvalError(f"lm-eval failed, see {_crash_file(error)}: {type(error).__name__}: {error}") from error
    return 0


app.command("lm_eval", hidden=True, context_settings=PASS_THROUGH)(lm_eval)


@app.command(epilog=_examples("ltm-eval doctor"))
def doctor() -> int:
    """Look at this machine: versions, devices, the plug into lm-eval, data and tokenizer files. Changes nothing."""
    from ltm_eval.doctor import findings

    for name, finding in findings():
        print(f"{name:<10} {printable(finding)}")
    return 0


cli_compare.register(app)
run_commands.register(app)


# What `ls` knows ------------------------------------------------------------------------------------------------------

CONDITION_TEXTS = {
    "prompt": "z is fitted on the prompt as far as it fits; the decoder reads the same (default, the paper's Eq. 7)",
    "demos": "one z is fitted on all demonstrations, in windows; the decoder reads the question only",
    "demos+prompt": "z on all demonstrations and the question; the decoder reads what fits of both",
    "shuffled": "as demos, but every answer stands under another question of the prompt: a control",
    "other": "as demos, but with the demonstrations of another question or episode: a control",
    "prior": "z is drawn from N(0, I), nothing is fitted; the decoder reads the prompt as far as it fits",
}


def _print_section(title: str, rows: Any) -> None:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    print(title)
    for name, text in rows:
        print(f"  {name:<{width}}  {printable(text)}".rstrip())
    print()


def _task_rows() -> Iterator[tuple[str, str]]:
    """Name and kind of every task and group in our YAML files."""
    for file in sorted(paths.tasks_dir().rglob("*.yaml")):
        content = _read_task(file)
        name = content.get("group") or content.get("task")
        if isinstance(name, str):
            shots = content.get("num_fewshot")
            detail = "" if shots is None else ", zero-shot" if shots == 0 else f", {shots} shots unless told"
            members = ", ".join(content["task"]) if "group" in content else ""
            yield name, members or f"{content.get('output_type')}{detail}"


def _read_task(file: Path) -> dict[str, Any]:
    """The YAML as lm-eval reads it, `include` resolved, `!function` left as text; nothing is imported."""
    import yaml

    class Reader(yaml.SafeLoader):
        """Knows lm-eval's tag."""

    Reader.add_multi_constructor("!", lambda loader, suffix, node: f"{suffix} {node.value}")
    try:
        content = Reader(file.read_text("utf-8")).get_single_data()
    except (OSError, yaml.YAMLError) as error:
        raise LtmEvalError(f"{file}: our own task definition cannot be read ({type(error).__name__})") from error
    content = content if isinstance(content, dict) else {}
    base = content.pop("include", None)
    return {**_read_task(file.parent / base), **content} if isinstance(base, str) else content


def _preset_text(name: str) -> str:
    fit = PRESETS[name]
    rate = f"rate {fit.lr:g}" if fit.lr == fit.lr_final else f"rate {fit.lr:g} to {fit.lr_final:g}"
    verdict = "a bound" if fit.is_bound else "not a bound, for comparison with published figures"
    return f"{fit.t_fast} steps, {rate}, log_var from {fit.log_var_start:g}, {fit.noise} noise: {verdict}"


def _model_rows() -> Iterator[tuple[str, str]]:
    for folder in sorted(paths.assets_dir().glob("*/config.json")):
        name = folder.parent.name.removeprefix("ltm-")
        use = {DEMO_MODEL: " (taken without --model)", DEMO_BASELINE: " (as --baseline)"}.get(name, "")
        yield name, f"{folder.parent}{use}"


# Errors ---------------------------------------------------------------------------------------------------------------


class _State:
    """What error reports and the results file say about the call; set once by `main`."""

    argv: tuple[str, ...] = ()


_STATE = _State()
probe_command.register(app, lambda: _STATE.argv)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command `args` (None: of this process) and return its exit code."""
    _STATE.argv = tuple(sys.argv[1:] if args is None else args)
    if args is None:
        ends_with_command()
    _tolerate_narrow_terminal()
    if "RANK" in os.environ:
        quiet_torch()
    try:
        code = _invoke(list(_STATE.argv) or ["--help"])
        if sys.stdout is not None:
            sys.stdout.flush()
        current().close()
        return code
    except (KeyboardInterrupt, typer.Abort) as stop:
        stopped = _placed(IncompleteError(told(stop)))
        if may_tell(stopped):
            print(f"{PROGRAM}: {stopped}", file=sys.stderr)
        abandon(code_of(stop))
        return code_of(stop)
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as leaving:
        return _exit_code(leaving)
    except Exception as error:  # noqa: BLE001 - the last line of defence; nothing is hidden, see `_explained`
        explained = _explained(error)
        if os.environ.get("LTM_EVAL_DEBUG") == "1":
            traceback.print_exception(error)
        if may_tell(explained):
            print(error_line(_placed(explained)), file=sys.stderr)
        abandon(explained.exit_code)
        return explained.exit_code


def _placed(error: LtmEvalError) -> LtmEvalError:
    """`error` with the rank it happened on, where that is not the first."""
    rank = current().rank
    return type(error)(f"rank {rank}: {error}") if rank and not str(error).startswith("rank ") else error


def _tolerate_narrow_terminal() -> None:
    """Where stdout cannot show a character (C locale), show a question mark instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper) and (sys.stdout.encoding or "").lower() != "utf-8":
        sys.stdout.reconfigure(errors="replace")


def _exit_code(leaving: SystemExit) -> int:
    """Of a command that ended the process itself: lm-eval's parser, or rich where nobody reads its help page."""
    if isinstance(leaving.__context__, BrokenPipeError):
        return 0
    if isinstance(leaving.code, str):
        print(leaving.code, file=sys.stderr)
        return 1
    return leaving.code or 0


def _invoke(argv: list[str]) -> int:
    if any("\0" in word for word in argv):
        raise UsageError("an argument holds a NUL character; no path, name or number does")
    command = typer.main.get_command(app)
    try:
        with command.make_context(PROGRAM, argv) as context:
            code = command.invoke(context)
    except typer.Exit as leaving:
        return leaving.exit_code
    return code if isinstance(code, int) else 0


def _explained(error: Exception) -> LtmEvalError:
    """`error` as the one whose line and exit code the user gets; an unexpected one leaves a crash file."""
    if isinstance(error, LtmEvalError):
        return error
    if isinstance(error, _parser_errors()):
        return UsageError(_usage_text(error))
    if isinstance(error, OSError) and error.errno is not None:
        return _of_machine(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        return MachineError("out of memory; try a smaller --batch_size")
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("ltm_eval"):
        return MachineError(
            f"the package {error.name!r} is missing; install ltm-eval again, with the extra that brings it"
        )
    return LtmEvalError(
        f"this is a bug of ltm_eval, please report it with {_crash_file(error)}: {type(error).__name__}: {error}"
    )


def _of_machine(error: OSError) -> LtmEvalError:
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(
            f"a path of {len(str(error.filename))} characters is too long for this file system; shorten it"
        )
    return MachineError(f"{error.filename or 'a file'}: {error.strerror}; look at disk, path and permissions")


def _parser_errors() -> type[Exception]:
    """Usage errors of the parser below typer: click's in older releases, typer's own in newer ones."""
    base: type[Exception] = typer.BadParameter.__bases__[0]
    return base


def _usage_text(error: Exception) -> str:
    """What the parser complains about, with the nearest name that it knows."""
    text: str = getattr(error, "message", None) or str(error)
    if hasattr(error, "format_message") and not hasattr(error, "option_name"):
        text = error.format_message()
    context: Any = getattr(error, "ctx", None)
    hint = ""
    if context is not None:
        named = getattr(error, "option_name", None)
        unknown = re.search(r"No such command '([^']*)'", text)
        if named:
            known = [name for option in context.command.params for name in option.opts]
            hint = nearest(named, [*known, *context.help_option_names])
        elif unknown:
            text = unknown.group()
            hint = nearest(unknown.group(1), getattr(context.command, "commands", {}))
        hint += f" See '{context.command_path} --help'."
    return f"{text.strip().rstrip('.')}.{hint}"


def _crash_file(error: Exception) -> str:
    """Write the traceback, access tokens masked, where results go or else here; return where."""
    lines = [
        f"{PROGRAM} {__version__}, Python {platform.python_version()}, {platform.platform()}",
        " ".join((PROGRAM, *_STATE.argv)),
        *"".join(traceback.format_exception(error)).splitlines(),
    ]
    text = "".join(f"{printable(line)}\n" for line in lines)
    name = f"crash-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
    for folder in (_output_folder(), Path.cwd(), Path(tempfile.gettempdir())):
        try:
            (folder / name).write_text(text, "utf-8")
        except OSError:
            continue
        return str(folder / name)
    return "the traceback of LTM_EVAL_DEBUG=1"


def _output_folder() -> Path:
    """The folder of results, as far as a call that failed tells it."""
    given = os.environ.get("LTM_EVAL_OUTPUT_PATH", RunConfig.output_path)
    for word, following in zip(_STATE.argv, [*_STATE.argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.replace("-", "_") in ("__output_path", "_o"):
            given = value if equals else following
    return Path(given)
