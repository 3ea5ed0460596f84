"""The command: `python -m ltm_eval run --task gsm8k --shots 8` and its companions.

`main(args)` is what the console script calls and what tests call; it returns the exit code and never raises. Options
are spelt as lm-eval spells them, hyphens for underscores are accepted, and environment variables can give those of
`run`. Torch and lm-eval are imported by the commands that need them, so that `--help`, `ls` and `report` start at once.
"""

from __future__ import annotations

import errno
import inspect
import io
import math
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ltm_eval import __version__
from ltm_eval.harness import options
from ltm_eval.harness.options import (
    Device,
    GridConfig,
    RunConfig,
    Seed,
    SweepConfig,
    checked_device,
    filled,
    unknown_variables,
)
from ltm_eval.inference.options import PRESETS
from ltm_eval.probe.files import DEFAULT_TASK, DIRECTIONS, LATENTS, RESTS, ProbeConfig, ProbeJob
from ltm_eval.report.tables import FORMATS, formats_of, suffix_format, targets, write_all
from ltm_eval.runs.processes import abandon, current, may_tell
from ltm_eval.system import files
from ltm_eval.system.errors import (
    IncompleteError,
    LtmEvalError,
    MachineError,
    UsageError,
    code_of,
    ends_with_command,
    error_line,
    nearest,
    printable,
    told,
)
from ltm_eval.system.files import DEMO_BASELINE, DEMO_MODEL, cause, remedy
from ltm_eval.system.launch import quiet_torch
from ltm_eval.tasks.prompts import conditions_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_eval.report.tables import Document
    from ltm_eval.results.views import ReportData


# How the command was called: its name, its words, and how examples stand in its help.

PROGRAM = "ltm-eval"


class Call:
    """The words of the call, for results files and error reports; `cli.main` sets them."""

    argv: tuple[str, ...] = ()

    @classmethod
    def command(cls) -> tuple[str, ...]:
        """Program and words."""
        return (PROGRAM, *cls.argv)


def examples(*lines: str) -> str:
    """An epilogue of examples; typer keeps line ends only between paragraphs."""
    return "\n\n".join(("[bold]Examples[/bold]", *(line.replace("[", r"\[") for line in lines)))


# The commands that read results only: `compare`, `history`, `index`, and the report's formats and figure files.

WORSE = 7
"""Exit code of `compare --fail_if_worse`."""

Formats = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="NAME[,...]", help=f"Some of {', '.join(FORMATS)}; -o names a folder or stem for several."
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "--output_path", "-o", metavar="FILE|DIR", help="Where it goes; its suffix tells the format."
    ),
]

PlotsDir = Annotated[
    str | None,
    typer.Option("--plots_dir", metavar="DIR", help="Write every figure there as PNG, SVG and PDF."),
]


def report_places(format_: str | None, output: str | None, *, beside: Path) -> dict[str, Path]:
    """Where the report goes in each format; `beside` is the page's place where nothing else was said."""
    formats = formats_of(format_) or suffix_format(output) or ("html",)
    if output is None:
        return targets(formats, None, stem=beside.with_suffix(""))
    return targets(formats, output, stem=Path("report"))


def write_report(data: ReportData, places: dict[str, Path], *, plots_dir: str | None) -> list[Path]:
    """Write the report in every format, and its figures; return what was written."""
    from ltm_eval.report.page import export

    return export(data, places, plots_dir=None if plots_dir is None else Path(plots_dir))


def compare(  # noqa: PLR0913 - the signature is the declaration of the options
    *,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_A RUN_B...",
            help="Results files or folders; of a folder the newest results of each task count.",
        ),
    ],
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", "--task", "-t", metavar="NAME[,...]", help="Only these tasks.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME[:NAME]", help="Only these figures; NAME_OF_A:NAME_OF_B for two names."),
    ] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow_mismatch", help="Compare runs with other prompts or settings all the same.")
    ] = False,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail_if_worse", help=f"Exit code {WORSE} where A is worse on a task; for CI.")
    ] = False,
    format_: Formats = None,
    output: Output = None,
) -> int:
    """Set the first run against the others, paired by document: differences with intervals, tests, and what follows.

    Runs with other prompts, targets, shots, seeds, limits or preparation are refused (exit code 6).
    """
    from ltm_eval.report.comparison import document
    from ltm_eval.results.columns import compared_runs
    from ltm_eval.results.compare import compare as compared

    formats_of(format_)  # a wrong name is told before anything is read
    found = compared(compared_runs(runs), allow_mismatch=allow_mismatch, tasks=_listed(tasks), metrics=_listed(metric))
    _say(document(found), format_, output, stem=Path("compare"))
    if fail_if_worse and found.worse:
        named = ", ".join(f"{row.task} against {row.other}" for row in found.worse)
        print(f"ltm-eval: worse: {printable(named)[:250]}", file=sys.stderr)
        return WORSE
    return 0


def _listed(values: list[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def _say(document: Document, format_: str | None, output: str | None, *, stem: Path) -> None:
    """Print the document, or write it in the formats asked for and say where."""
    from ltm_eval.report.tables import RENDERERS, as_terminal

    formats = formats_of(format_) or suffix_format(output)
    if not formats and output is not None:
        formats = ("html",)
    if not formats:
        print(as_terminal(document), end="")
    elif formats != ("html",) and len(formats) == 1 and output is None:
        print(RENDERERS[formats[0]](document), end="")
    else:
        places = targets(formats, output, stem=stem)
        write_all({name: partial(RENDERERS[name], document) for name in formats}, places)
        for path in places.values():
            print(f"{document.kind}: {path.resolve()}")


def history(
    sources: Annotated[
        list[str], typer.Argument(metavar="DIR...", help="Results of many checkpoints: files or folders.")
    ],
    *,
    format_: Formats = None,
    output: Output = None,
) -> int:
    """Set every figure against the training step, over the checkpoints of a training run; nothing is evaluated."""
    from ltm_eval.report.history import document
    from ltm_eval.results.files import find_runs

    formats_of(format_)
    _say(document(find_runs(sources, newest_only=False)), format_, output, stem=Path("history"))
    return 0


def index(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder of results.")],
    *,
    format_: Formats = None,
    output: Output = None,
) -> int:
    """List every run below a folder on one page, with its main figures and links; nothing is evaluated."""
    from ltm_eval.report.index import document
    from ltm_eval.report.index import index as indexed

    stem = Path(folder) / "index"
    formats = formats_of(format_) or suffix_format(output) or ("html",)
    place = targets(formats, output, stem=stem)[formats[0]]
    _say(document(indexed(Path(folder)), base=place.parent), ",".join(formats), output, stem=stem)
    return 0


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        epilog=examples(
            "ltm-eval compare results/ltm results/gpt2-large",
            "ltm-eval compare new/ old/ --task gsm8k --fail_if_worse",
            "ltm-eval compare a/ b/ --format html,latex,csv -o paper/gsm8k",
        )
    )(compare)
    app.command(epilog=examples("ltm-eval history results/", "ltm-eval history runs/*/results -o history.html"))(
        history
    )
    app.command(epilog=examples("ltm-eval index results/", "ltm-eval index results/ --format csv"))(index)


# The options of commands that evaluate, each once: which there are, their defaults, and the `RunConfig` they make.
#
# A command names its options; its signature, which typer reads, is made of them. Their help, ranges and environment
# variables stand in `options`, their defaults in `config`.

F = TypeVar("F", bound=Callable[..., int])

RUN: Mapping[str, Any] = {
    "model": options.Model,
    "tasks": options.Tasks,
    "num_fewshot": options.Shots,
    "baselines": options.Baselines,
    "data": options.Data,
    "metadata": options.Metadata,
    "limit": options.Limit,
    "documents": options.Documents,
    "gen_kwargs": options.GenKwargs,
    "n": options.Samples,
    "k": options.PassAt,
    "tokenizer": options.Tokenizer,
    "revision": options.Revision,
    "condition": options.Condition,
    "preset": options.Preset,
    "fit": options.FitOptions,
    "t_fast": options.FastSteps,
    "fit_window": options.FitWindow,
    "rethink": options.Rethink,
    "rows": options.Rows,
    "causal_chunk": options.CausalChunk,
    "causal_t_fast": options.CausalFastSteps,
    "seed": options.Seed,
    "device": options.Device,
    "dtype": options.Dtype,
    "compile": options.Compile,
    "batch_size": options.BatchSize,
    "output_path": options.OutputPath,
    "max_failed": options.MaxFailed,
    "token_nll": options.TokenNll,
    "report": options.WriteReport,
    "log_samples": options.LogSamples,
    "quiet": options.Quiet,
    "fresh": options.Fresh,
}
"""By field of `RunConfig`."""
SWEPT = {"model": options.Models, "t_fast": options.SweptSteps, "seed": options.Seeds}
"""What takes several values where combinations are run."""
SWEEP: Mapping[str, Any] = {
    **{name: SWEPT.get(name, kind) for name, kind in RUN.items() if name not in ("baselines", "report")},
    "ray_address": options.RayAddress,
    "cell_cpus": options.CellCpus,
}
"""All of a run's but baselines, which are no cells, and the page, which `report` makes of their folders."""
TEXTS = ("model", "data", "output_path", "fit", "gen_kwargs", "tokenizer", "revision")
"""Where an empty value is a forgotten variable."""


def takes(kinds: Mapping[str, Any], defaults: Mapping[str, Any]) -> Callable[[F], F]:
    """Give a command that takes `**given` the signature of these options.

    Args:
        kinds: name to annotation.
        defaults: of those that are no fields of `RunConfig`, or have another default here.
    """

    def mark(command: F) -> F:
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(name, keyword, default=defaults.get(name, _default(name)), annotation=kind)
            for name, kind in kinds.items()
        ]
        command.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {**kinds, "return": int}
        return command

    return mark


def _default(name: str) -> Any:
    """As the parser takes it: what is given as several words is None or a list, a number that may be a word is text."""
    if name in ("documents", "k"):
        return None
    default = getattr(RunConfig, name, None)
    if name in ("tasks", "baselines"):
        return list(default or ())
    return str(default) if name == "batch_size" else default


def run_config(given: Mapping[str, Any], **more: Any) -> RunConfig:
    """The options of a run.

    Of several conditions and numbers of demonstrations it has the first.

    Args:
        given: what the parser found, by name.
        more: fields that stand for what was given.

    Raises:
        UsageError: a value cannot be used.
    """
    known = {one.name for one in fields(RunConfig)}
    values = {name: value for name, value in given.items() if name in known and name not in more}
    for name in values.keys() & set(TEXTS):
        values[name] = filled(name, values[name]) or getattr(RunConfig, name)
    for name, settle in SETTLED.items():
        if name in values:
            values[name] = settle(values[name])
    if values.get("k") and values.get("n") == RunConfig.n:
        values["n"] = max(values["k"])
    return RunConfig(**values, **more, command=Call.command())


def names_in(words: list[str]) -> tuple[str, ...]:
    """Comma-separated names, given in one word or several."""
    return tuple(name.strip() for word in words for name in word.split(",") if name.strip())


SETTLED: Mapping[str, Callable[[Any], Any]] = {
    "tasks": names_in,
    "baselines": tuple,
    "documents": lambda found: found or (),
    "k": lambda found: found or (),
    "num_fewshot": lambda found: None if found is None else found[0],
    "condition": lambda found: conditions_of(found)[0],
    "batch_size": lambda found: "auto" if found == "auto" else int(found),
    "device": checked_device,
}
"""From what the parser found to the field."""


# Commands that evaluate: `run` and `sweep`. Registered with the others in `cli`.


@takes(RUN, {"log_samples": True})
def run(**given: Any) -> int:
    """Evaluate a checkpoint, and baselines on the same documents; write results and a report.

    Results have lm-eval's layout; what it has no room for stands in latents_*.jsonl, answers_*.jsonl and
    tokens_*.jsonl beside them.
    """
    config, conditions, shots = run_config(given), conditions_of(given["condition"]), _shots(given)
    from ltm_eval.harness import run as runner
    from ltm_eval.harness.evaluation import results_table

    if len(conditions) > 1 or len(shots) > 1:
        from ltm_eval.harness import sweep

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


def _shots(given: dict[str, Any]) -> tuple[int | None, ...]:
    return (None,) if given["num_fewshot"] is None else tuple(given["num_fewshot"])


@takes(
    SWEEP,
    {
        **dict.fromkeys(("model", "t_fast", "seed")),
        "log_samples": True,
        "ray_address": GridConfig.ray_address,
        "cell_cpus": GridConfig.cell_cpus,
    },
)
def sweep(**given: Any) -> int:
    """Run every combination of checkpoints, tasks, conditions, demonstrations, fast steps and seeds.

    Finished cells are not run again by the same command; sweep.json holds all figures.
    """
    from ltm_eval.harness.sweep import check, run_grid, table_grid

    base = run_config(given, model=None, t_fast=None, seed=RunConfig.seed, report=False)
    named = [name for part in given["model"] or () for name in ([part] if Path(part).exists() else part.split(","))]
    swept = run_grid(
        GridConfig(
            base,
            models=tuple(dict.fromkeys(filled("model", name) for name in named)) or (None,),
            t_fast=given["t_fast"] or (None,),
            shots=_shots(given),
            conditions=conditions_of(given["condition"]),
            seeds=given["seed"] or (RunConfig.seed,),
            ray_address=filled("ray_address", given["ray_address"]),
            cell_cpus=given["cell_cpus"],
        )
    )
    print(table_grid(swept))
    print(f"sweep: {swept.summary}")
    check(swept)
    return 0


def register_evaluate_commands(app: typer.Typer) -> None:
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


# Commands about one model: `convert`, `audit`, `train` and `bench`. Registered with the others in `cli`.


def convert(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="Released ckpt_*.pt, a folder or a hub id.")],
    target: Annotated[str, typer.Argument(metavar="DIR", help="New folder, or new file that ends in .pt.")],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="gpt2|FILE", help="tiktoken encoding, or a file of mergeable ranks."),
    ] = None,
) -> int:
    """Write a checkpoint as a folder of config.json, model.safetensors and tokenizer; no code of it is run."""
    from ltm_eval.model.checkpoint import convert as convert_checkpoint

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
    from ltm_eval.inference import audit as auditing
    from ltm_eval.inference.options import fit_config
    from ltm_eval.model.checkpoint import load
    from ltm_eval.system.files import write_text_atomic

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
    from ltm_eval.training.recipe import read_recipe
    from ltm_eval.training.train import train as run_training

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
    from ltm_eval.inference import bench as benchmark
    from ltm_eval.system.device import resolve_device

    folder = filled("growth", growth)
    where = str(resolve_device(checked_device(device)))
    config = benchmark.BenchConfig(size, tokens, batch, where, rounds, cpu_time, compile_)
    for part in benchmark.report(config, folder=None if folder is None else Path(folder), memory=memory):
        print(part, end="\n\n", flush=True)
    return 0


def register_model_commands(app: typer.Typer) -> None:
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


# `python -m ltm_eval probe`: what each layer's latents carry.

OWN: Mapping[str, Any] = {
    "text": Annotated[
        list[str] | None,
        typer.Option("--text", metavar="FILE", help="A file of plain text, one text; repeatable."),
    ],
    "task": Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            metavar="NAME",
            help="Take a task's documents: whole texts, or questions with their gold answers.",
            show_default=f"the bundled sample of {DEFAULT_TASK}",
        ),
    ],
    "limit": Annotated[int, typer.Option("--limit", "-L", min=1, help="Only the first N documents of the task.")],
    "rest": Annotated[
        str,
        typer.Option(
            "--rest",
            metavar="|".join(RESTS),
            help="What stands for the other layers' latents: zeros, the prior's mean, or one draw of the prior a text.",
        ),
    ],
    "latents": Annotated[
        str,
        typer.Option(
            "--latents", metavar="|".join(LATENTS), help="What kept layers hold: the posterior's mean or a draw."
        ),
    ],
    "direction": Annotated[
        str,
        typer.Option("--direction", metavar="|".join(DIRECTIONS), help="Layers 1 to l, the last l, or both."),
    ],
    "max_tokens": Annotated[int, typer.Option("--max_tokens", min=2, help="Tokens of a text; longer ones are cut.")],
    "prompt_tokens": Annotated[
        int,
        typer.Option(
            "--prompt_tokens", min=0, help="First tokens the decoder reads in the explorer; questions are read whole."
        ),
    ],
    "explore": Annotated[int, typer.Option("--explore", min=0, help="Texts the explorer holds generations of.")],
}
SHARED = ("data", "metadata", "t_fast", "preset", "fit", "seed", "tokenizer", "revision", "device", "dtype", "compile")
"""Options of `run` that a probe has too, beside model, place and page."""
PROBE: Mapping[str, Any] = {
    "model": RUN["model"],
    **{name: OWN[name] for name in ("text", "task", "limit")},
    **{name: RUN[name] for name in SHARED[:5]},
    **{name: OWN[name] for name in ("rest", "latents", "direction", "max_tokens", "prompt_tokens", "explore")},
    **{name: RUN[name] for name in (*SHARED[5:], "output_path", "report", "quiet")},
}


def _defaults() -> dict[str, Any]:
    """Of the two records that the options fill."""
    return {name: getattr(ProbeJob if hasattr(ProbeJob, name) else ProbeConfig, name, None) for name in PROBE}


@takes(PROBE, _defaults())
def probe(**given: Any) -> int:
    """Fit z with all layers, then reconstruct with the latents of some: curves by layer, and the layer explorer.

    Writes probe_<date>.json into the model's folder of results, and the page of the output folder.
    """
    from ltm_eval.probe import job as probing

    outcome = probing.probe(job_of(given))
    print(probing.table(outcome.results))
    print(f"results: {outcome.results}")
    if given["report"]:
        from ltm_eval.report import page as report

        page = outcome.output / "report.html"
        report.write(report.render(report.build(*report.gather([outcome.output]))), page)
        print(f"report: {page}")
    return 0


def job_of(given: Mapping[str, Any]) -> ProbeJob:
    """What is probed, how, and where it goes.

    Raises:
        UsageError: a value cannot be used.
    """
    values = dict(given, task=filled("task", given["task"]), device=checked_device(given["device"]))
    for name in values.keys() & set(TEXTS):
        default = getattr(ProbeJob, name, getattr(ProbeConfig, name, None))
        values[name] = filled(name, values[name]) or default
    how = {one.name: values.pop(one.name) for one in fields(ProbeConfig)}
    texts = tuple(values.pop("text") or ())
    return ProbeJob(probe=ProbeConfig(**how), texts=texts, **values, command=Call.command())


def register_probe_command(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "ltm-eval probe",
            "ltm-eval probe --model ckpt_60000.pt --text story.txt --text poem.txt --output_path results/",
            "ltm-eval probe --task gsm8k --limit 20 --rest prior --direction up",
        )
    )(probe)


# Commands about runs on disk: `status` and `rescore`. Registered with the others in `cli`.

SHOWN = 60
"""Characters of a group's value on the terminal."""


def status(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, as its --output_path.")],
    json_: Annotated[bool, typer.Option("--json", help="For other programs.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write the lost or damaged run.json of a model's folder anew.")
    ] = False,
) -> int:
    """Show how far a run is, from another terminal: answers by model and task, rate, time left, who is at work."""
    from ltm_eval.runs import status as looking
    from ltm_eval.runs.session import rebuild as write_manifest

    if rebuild:
        print(f"manifest: {write_manifest(Path(folder)).resolve()}")
        return 0
    found = looking.status(Path(folder))
    print(looking.to_json(found) if json_ else "\n".join(looking.text(found)))
    return 0


def rescore(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or one of its results files.")],
    k: Annotated[str | None, typer.Option("--k", metavar="K,...", help="Other k of pass@k, up to the run's n.")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="NAME=REGEX", help="A further extraction; the last match is the answer."),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="FIELD", help="Shares with intervals by a field of the documents.")
    ] = None,
) -> int:
    """Make the metrics of a finished run anew from its answers, without the model; the run's own files stay."""
    from ltm_eval.harness.evaluation import results_table
    from ltm_eval.harness.rescore import Changes
    from ltm_eval.harness.rescore import rescore as make
    from ltm_eval.results.files import read_run

    changes = Changes(_whole_numbers(k), tuple(map(_named, filters or [])), group)
    for path in make(Path(folder), changes):
        print(results_table(path))
        for line in group_lines(read_run(path).extra.groups or {}):
            print(line)
        print(f"results: {path}")
    return 0


def _whole_numbers(text: str | None) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UsageError(f"k must be whole numbers of at least 1, got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def _named(text: str) -> tuple[str, str]:
    import re

    name, equals, pattern = text.partition("=")
    if not equals or not name.strip() or "," in name:
        raise UsageError(rf"filter must be NAME=REGEX, such as last-number=(-?\d+), got {text!r}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"filter {name}: {pattern!r} is no regular expression ({error})") from None
    return name.strip(), pattern


def group_lines(groups: Mapping[str, Any]) -> list[str]:
    """Shares by group, a line each; values come from data and are made harmless and short."""
    from ltm_eval.system.text import terminal
    from ltm_eval.tasks.samples import interval_words

    return [
        f"{task}: {terminal(_short(value))}: {terminal(figure.replace(',', ', '))} {interval_words(found)}"
        for task, values in groups.items()
        for value, figures in values.items()
        for figure, found in figures.items()
    ]


def _short(value: str) -> str:
    """A value that names a group, in a line of figures; the results file has all of it."""
    return value if len(value) <= SHOWN else f"{value[: SHOWN - 1]}…"


def register_run_commands(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("ltm-eval status results/"))(status)
    app.command(
        epilog=examples("ltm-eval rescore results/ --k 1,3", r"ltm-eval rescore results/ --filter 'last=(-?\d+)'")
    )(rescore)


# Errors as the one line a user sees; an unexpected one leaves a file with its traceback.

NO_MEMORY = re.compile(r"out of memory|(?:not enough|can't allocate) memory", re.IGNORECASE)


def placed(error: LtmEvalError) -> LtmEvalError:
    """`error` with the rank it happened on, where that is not the first."""
    rank = current().rank
    return type(error)(f"rank {rank}: {error}") if rank and not str(error).startswith("rank ") else error


def exit_code(leaving: SystemExit) -> int:
    """Of a command that ended the process itself: lm-eval's parser, or rich where nobody reads its help page."""
    if isinstance(leaving.__context__, BrokenPipeError):
        return 0
    if isinstance(leaving.code, str):
        print(leaving.code, file=sys.stderr)
        return 1
    return leaving.code or 0


def explained(error: Exception) -> LtmEvalError:
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
        f"this is a bug of ltm_eval, please report it with {crash_file(error)}: {type(error).__name__}: {error}"
    )


def _of_machine(error: OSError) -> LtmEvalError:
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(
            f"a path of {len(str(error.filename))} characters is too long for this file system; shorten it"
        )
    where = Path(str(error.filename)) if error.filename else Path()
    return MachineError(f"{error.filename or 'a file'}: {cause(error, where)}; {remedy(error, where)}")


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


def crash_file(error: Exception) -> str:
    """Write the traceback, access tokens masked, where results go or else here; return where."""
    lines = [
        f"{PROGRAM} {__version__}, Python {platform.python_version()}, {platform.platform()}",
        " ".join(Call.command()),
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
    for word, following in zip(Call.argv, [*Call.argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.replace("-", "_") in ("__output_path", "_o"):
            given = value if equals else following
    return Path(given)


# What `ltm-eval ls` prints: tasks, conditions, presets and bundled models.

CONDITION_TEXTS = {
    "prompt": "z is fitted on the prompt as far as it fits; the decoder reads the same (default, the paper's Eq. 7)",
    "demos": "one z is fitted on all demonstrations, in windows; the decoder reads the question only",
    "demos+prompt": "z on all demonstrations and the question; the decoder reads what fits of both",
    "shuffled": "as demos, but every answer stands under another question of the prompt: a control",
    "other": "as demos, but with the demonstrations of another question or episode: a control",
    "prior": "z is drawn from N(0, I), nothing is fitted; the decoder reads the prompt as far as it fits",
}


def print_section(title: str, rows: Any) -> None:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    print(title)
    for name, text in rows:
        print(f"  {name:<{width}}  {printable(text)}".rstrip())
    print()


def task_rows() -> Iterator[tuple[str, str]]:
    """Name and kind of every task and group in our YAML files."""
    for file in sorted(files.tasks_dir().rglob("*.yaml")):
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


def preset_text(name: str) -> str:
    fit = PRESETS[name]
    rate = f"rate {fit.lr:g}" if fit.lr == fit.lr_final else f"rate {fit.lr:g} to {fit.lr_final:g}"
    verdict = "a bound" if fit.is_bound else "not a bound, for comparison with published figures"
    return f"{fit.t_fast} steps, {rate}, log_var from {fit.log_var_start:g}, {fit.noise} noise: {verdict}"


def model_rows() -> Iterator[tuple[str, str]]:
    for folder in sorted(files.assets_dir().glob("*/config.json")):
        name = folder.parent.name.removeprefix("ltm-")
        use = {DEMO_MODEL: " (taken without --model)", DEMO_BASELINE: " (as --baseline)"}.get(name, "")
        yield name, f"{folder.parent}{use}"


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


ENVIRONMENT = """[bold]Environment[/bold]

LTM_EVAL_<OPTION>: any option of 'run', for example LTM_EVAL_BATCH_SIZE=8; the command line wins

LTM_EVAL_DATA_DIR: folder of data sets   LTM_EVAL_DEBUG=1: traceback with every error

LTM_EVAL_RANK_SILENCE, LTM_EVAL_RANK_STALL: seconds after which a process of a job that is silent (40), or takes no
step (110), counts as lost

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


register_evaluate_commands(app)


@app.command(
    epilog=examples(
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
    format_: Formats = None,
    plots_dir: PlotsDir = None,
    full: Annotated[
        bool, typer.Option("--full", help="All documents and answers, however large the page becomes.")
    ] = False,
) -> int:
    """Render one self-contained HTML page from results on disk; nothing is evaluated."""
    from ltm_eval.report import page

    found = sources or [RunConfig.output_path]
    target = Path(filled("output", output) or Path(found[0]) / "report.html")
    if output is None and not Path(found[0]).is_dir():
        target = Path(found[0]).with_name("report.html")
    if target.is_dir():
        target = target / "report.html"
    places = report_places(format_, output, beside=target)
    data = page.build(*page.gather(found), full=full)
    for path in write_report(data, places, plots_dir=filled("plots_dir", plots_dir)):
        print(printable(f"report: {path.resolve()}"))
    return 0


register_model_commands(app)


@app.command(epilog=examples("ltm-eval ls", "lm_eval --model ltm --include_path $(ltm-eval ls --path) ..."))
def ls(
    path: Annotated[bool, typer.Option("--path", help="Print the folder of task definitions, nothing else.")] = False,
) -> int:
    """List tasks, conditions, fit presets and bundled models."""
    if path:
        print(files.tasks_dir())
        return 0
    print_section("Tasks (--task, 'ltm_' may be left out)", task_rows())
    print_section("Conditions (--condition)", CONDITION_TEXTS.items())
    print_section("Fit presets (--preset)", ((name, preset_text(name)) for name in PRESETS))
    print_section("Bundled models", model_rows())
    return 0


@app.command(
    "lm-eval",
    epilog=examples("ltm-eval lm-eval --model ltm --model_args pretrained=demo --tasks ltm_gsm8k --num_fewshot 8"),
    context_settings=PASS_THROUGH,
)
def lm_eval(context: typer.Context) -> int:
    """Run lm-eval's own command with the model 'ltm' and our tasks known to it; all arguments are lm-eval's."""
    from ltm_eval.harness.plug import plug_in

    plug_in()
    from lm_eval.__main__ import cli_evaluate

    # lm-eval reads sys.argv; its first word is also how `errors.leave` knows whose command is running.
    sys.argv = ["lm-eval", *context.args]
    try:
        cli_evaluate()
    except LtmEvalError:
        raise
    except Exception as error:
        raise LtmEvalError(f"lm-eval failed, see {crash_file(error)}: {type(error).__name__}: {error}") from error
    return 0


app.command("lm_eval", hidden=True, context_settings=PASS_THROUGH)(lm_eval)


@app.command(epilog=examples("ltm-eval doctor"))
def doctor() -> int:
    """Look at this machine: versions, devices, the plug into lm-eval, data and tokenizer files. Changes nothing."""
    from ltm_eval.system.machine import findings

    for name, finding in findings():
        print(f"{name:<10} {printable(finding)}")
    return 0


register(app)
register_run_commands(app)
register_probe_command(app)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command `args` (None: of this process) and return its exit code."""
    Call.argv = tuple(sys.argv[1:] if args is None else args)
    if args is None:
        ends_with_command()
    _tolerate_narrow_terminal()
    if "RANK" in os.environ:
        quiet_torch()
    if os.environ.get("RANK", "0") == "0" and sys.stderr is not None:
        for line in unknown_variables(os.environ):
            print(printable(f"{PROGRAM}: warning: {line}"), file=sys.stderr)
    try:
        code = _invoke(list(Call.argv) or ["--help"])
        if sys.stdout is not None:
            sys.stdout.flush()
        current().close()
        return code
    except (KeyboardInterrupt, typer.Abort) as stop:
        stopped = placed(IncompleteError(told(stop)))
        if may_tell(stopped):
            print(f"{PROGRAM}: {stopped}", file=sys.stderr)
        abandon(code_of(stop))
        return code_of(stop)
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as leaving:
        return exit_code(leaving)
    except Exception as error:  # noqa: BLE001 - the last line of defence; nothing is hidden, see `explained`
        told_as = explained(error)
        if os.environ.get("LTM_EVAL_DEBUG") == "1":
            traceback.print_exception(error)
        if may_tell(told_as):
            print(error_line(placed(told_as)), file=sys.stderr)
        abandon(told_as.exit_code)
        return told_as.exit_code


def _tolerate_narrow_terminal() -> None:
    """Where stdout cannot show a character (C locale), show a question mark instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper) and (sys.stdout.encoding or "").lower() != "utf-8":
        sys.stdout.reconfigure(errors="replace")


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
