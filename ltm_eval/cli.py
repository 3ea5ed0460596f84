"""The command: `ltm-eval run --task gsm8k --shots 8` and its companions.

`main(args)` is what the console script calls and what tests call; it returns the exit code and never raises. Options
are spelt as lm-eval spells them, hyphens for underscores are accepted, and environment variables can give those of
`run`. A command's options are fields of the dataclass that it fills, see `system.options`. Torch and lm-eval are
imported by the commands that need them, so that `--help`, `ls`, `status` and `doctor` start at once.
"""

from __future__ import annotations

import inspect
import io
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import typer.core

from ltm_eval import __version__
from ltm_eval.harness.options import (
    LATENTS,
    MACHINE,
    OUTPUT,
    WHAT,
    GridConfig,
    ModelOptions,
    RunConfig,
    SweepConfig,
)
from ltm_eval.inference.options import PRESETS
from ltm_eval.probe.files import ProbeConfig, ProbeJob
from ltm_eval.report.tables import FORMATS, formats_of, suffix_format, targets, write_all
from ltm_eval.runs.processes import abandon, current, may_tell
from ltm_eval.system import files
from ltm_eval.system.crash import check_address_space, crash_file, explained
from ltm_eval.system.errors import (
    Door,
    IncompleteError,
    LtmEvalError,
    ResultsError,
    Together,
    UsageError,
    code_of,
    ends_with_command,
    nearest,
    printable,
    say,
    told,
)
from ltm_eval.system.files import DEMO_BASELINE, DEMO_MODEL
from ltm_eval.system.launch import quiet_torch
from ltm_eval.system.options import help_of, names_of, option_of, read, spelling, split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_eval.report.tables import Document

PROGRAM = "ltm-eval"
PARSER_ERROR: Any = typer.BadParameter.__bases__[0]  # the parser's usage errors
WORSE = 7  # exit code of `compare --fail_if_worse`

ENVIRONMENT = """[bold]Environment[/bold]

LTM_EVAL_<OPTION>: any option of 'run', for example LTM_EVAL_BATCH_SIZE=8; the command line wins

LTM_EVAL_DATA_DIR: folder of data sets   LTM_EVAL_DEBUG=1: traceback with every error

LTM_EVAL_RANK_SILENCE, LTM_EVAL_RANK_STALL: seconds after which a process of a job that is silent (40) or makes no
progress (110) is considered lost

HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, TIKTOKEN_CACHE_DIR, CUDA_VISIBLE_DEVICES, NO_COLOR: as usual

[bold]Exit codes[/bold]

0 done   1 bug   2 usage   3 unusable input   4 machine   5 incomplete   6 refused   7 worse   130 interrupted"""


class Call:
    """The command line, for results files and error reports; set by `main`."""

    argv: tuple[str, ...] = ()
    trying = Together()  # what is wrong with its options

    @classmethod
    def command(cls) -> tuple[str, ...]:
        """Return the program's name and its arguments."""
        return (PROGRAM, *cls.argv)


app = typer.Typer(
    name=PROGRAM,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["--help", "-h"],
        "token_normalize_func": lambda name: name.replace("-", "_"),
    },
)


class Checked(typer.core.TyperCommand):
    """A command that names all options that cannot be used at once, and whose `--help` may leave some out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words, without options that are not known; raise all that is wrong together."""
        left = list(args)
        with Together() as Call.trying:
            while True:
                try:
                    parsed: list[str] = super().parse_args(ctx, list(left))
                    break
                except PARSER_ERROR as error:
                    Call.trying.found.append(UsageError(_usage_text(error)))
                    unknown = str(getattr(error, "option_name", ""))
                    words = [word for word in left if word.partition("=")[0].replace("-", "_") == f"__{unknown[2:]}"]
                    if not words:
                        break
                    left.remove(words[0])
                    ctx.allow_extra_args = True  # what may have been its value
            if Call.trying.found and self.name == "run" and "RANK" not in os.environ:
                Call.trying(_check_run, ctx.params)
        return parsed

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the options that matter most, or all of them if `--help_all` asks."""
        if any(option.name == "help_all" for option in self.params) and not ctx.meta.get("help_all"):
            for option in self.params:
                option.hidden = option.name not in MAIN  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def _check_run(given: Mapping[str, Any]) -> None:
    """Check what else of a `run` can be known before model time."""
    from ltm_eval.harness.run import check

    check(run_config(given))


command = partial(app.command, cls=Checked)


def examples(*lines: str) -> str:
    """Return an epilogue of examples; typer keeps line ends only between paragraphs."""
    return "\n\n".join(("[bold]Examples[/bold]", *(line.replace("[", r"\[") for line in lines)))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(epilog=ENVIRONMENT)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Evaluate Latent Thought Models (arXiv:2502.01567): lm-eval tasks, valid bounds, one HTML report.

    Start with [bold]ltm-eval run --task gsm8k --shots 8[/bold], which needs neither model nor data.
    """


# Options from fields -------------------------------------------------------------------------------------------------

PREFIX = "LTM_EVAL_"
# Environment variables that are read; options add their own.
VARIABLES = {PREFIX + name for name in ("CACHE_DIR", "DATA_DIR", "DEBUG", "RANK_SILENCE", "RANK_STALL")}

Command = TypeVar("Command", bound=Callable[..., int])
Fields = Mapping[str, tuple[type, str]]  # name of the parameter to the dataclass and its field


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a line for every variable that looks like ours and is not read; those of the tests are left alone."""
    found = sorted(name for name in environment if name.upper().startswith(PREFIX) and name not in VARIABLES)
    return [
        f"environment variable {name} is not known and has no effect.{nearest(name.upper(), sorted(VARIABLES))}"
        for name in found
        if not name.startswith(f"{PREFIX}TEST_")
    ]


def filled(name: str, value: str | None) -> str | None:
    """Reject an empty value, which usually is an unset shell variable."""
    if value is not None and not value.strip():
        raise UsageError(f"{name} is empty; give a value or leave the option out")
    return value


def flag(kind: type, name: str) -> Any:
    """Return typer's declaration of a field."""
    option = option_of(kind, name)
    spelled = spelling(kind, name)
    longs = [one.removeprefix("--").split("/")[0] for one in option.flags if one.startswith("--")]
    variables = [PREFIX + one.upper() for one in longs] if option.environment else []
    VARIABLES.update(variables)

    def convert(value: str) -> Any:
        filled(spelled, value)
        if option.reader is not None:
            return option.reader(value)
        return split(kind, name, value) if option.listed else read(kind, name, value)

    def parse(value: Any) -> Any:
        if not isinstance(value, str):  # a default
            return value
        return Call.trying(convert, value)

    plain = option.repeatable or isinstance(getattr(kind, name, None), bool)
    return typer.Option(
        *option.flags,
        metavar=option.metavar,
        parser=None if plain else parse,
        envvar=variables,
        show_envvar=False,
        show_default=option.default or True,
        help=help_of(kind, name),
        rich_help_panel=option.panel,
    )


def takes(options: Fields, **more: Any) -> Callable[[Command], Command]:
    """Give a command that takes `**given` the signature of these fields.

    Args:
        more: further parameters, by name: annotation and default.
    """
    parameters = []
    for parameter, (kind, name) in options.items():
        default: Any = getattr(kind, name, None)
        annotation: Any = Any
        if option_of(kind, name).repeatable:
            default, annotation = list(default or ()), list[str]
        elif isinstance(default, bool):
            annotation = bool
        elif isinstance(default, tuple):
            default = None
        parameters.append((parameter, Annotated[annotation, flag(kind, name)], default))
    parameters += [(name, annotation, default) for name, (annotation, default) in more.items()]

    def mark(command: Command) -> Command:
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                for name, annotation, default in parameters
            ],
            return_annotation=int,
        )
        command.__annotations__ = {**{name: annotation for name, annotation, _ in parameters}, "return": int}
        return command

    return mark


def listed(values: Sequence[str] | None) -> tuple[str, ...]:
    """Return comma-separated names, given in one word or several."""
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


# Commands that evaluate: `run` and `sweep` ---------------------------------------------------------------------------

PANELS = (WHAT, LATENTS, MACHINE, OUTPUT)  # their order in help
RUN: Fields = {
    name: (RunConfig, name)
    for name in sorted(
        (name for name in names_of(RunConfig) if option_of(RunConfig, name).flags),
        key=lambda name: (PANELS.index(str(option_of(RunConfig, name).panel)), name in names_of(ModelOptions)),
    )
}
# A run's options without baselines (not part of a grid) and the page (made by `report`).
SWEEP: Fields = {
    **{name: field for name, field in RUN.items() if name not in ("baselines", "report")},
    "model": (GridConfig, "models"),
    "t_fast": (GridConfig, "t_fast"),
    "seed": (GridConfig, "seeds"),
    "ray_address": (GridConfig, "ray_address"),
    "cell_cpus": (GridConfig, "cell_cpus"),
}
# Options that `run --help` and `sweep --help` show; `--help_all` shows the others too
MAIN = (
    *("model", "tasks", "num_fewshot", "baselines", "data", "limit", "condition", "t_fast", "rows", "output_path"),
    "help_all",
)


def _print_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta["help_all"] = True
        print(context.get_help())
        raise typer.Exit


HELP_ALL = (
    Annotated[bool, typer.Option("--help_all", callback=_print_all, is_eager=True, help="Show all options and exit.")],
    False,
)
VARIABLES.add("LTM_EVAL_LOG_SAMPLES")
LOG_SAMPLES = (
    Annotated[
        bool,
        typer.Option(
            "--log_samples",
            "-s",
            envvar="LTM_EVAL_LOG_SAMPLES",
            hidden=True,
            help="Ignored; samples are always saved.",
        ),
    ],
    True,
)


def run_config(given: Mapping[str, Any], **more: Any) -> RunConfig:
    """Return the options of a run, with the first of several conditions and numbers of few-shot examples.

    Args:
        given: parsed values by name; None means the default.
        more: values that override them.

    Raises:
        UsageError: a value cannot be used.
    """
    values = {name: value for name, value in given.items() if value is not None and name in names_of(RunConfig)}
    for name in ("condition", "num_fewshot"):
        if isinstance(values.get(name), tuple):
            values[name] = values[name][0]
    if "tasks" in values:
        values["tasks"] = listed(values["tasks"])
    values |= more
    if values.get("k") and values.get("n") == RunConfig.n:
        values["n"] = max(values["k"])
    return RunConfig(**values, command=Call.command())


@command(
    epilog=examples(
        "ltm-eval run --task gsm8k --shots 8",
        "ltm-eval run --model ckpt_60000.pt --task gsm8k --shots 8 --baseline gpt2-large --data DIR -o results/",
        "ltm-eval run --model ltm-large/ --task gsm8k --condition demos --t_fast 16 --limit 100 --device cuda",
        "ltm-eval run --task gsm8k --n 10 --k 1,5,10",
        "ltm-eval run --task rules --condition all --shots 0,1,2,4,8",
    )
)
@takes(RUN, log_samples=LOG_SAMPLES, help_all=HELP_ALL)
def run(**given: Any) -> int:
    """Evaluate a checkpoint, and baselines on the same documents; write results and a report.

    Results have lm-eval's layout; what it has no place for is in latents_*.jsonl, answers_*.jsonl and tokens_*.jsonl
    beside them.
    """
    config, conditions, shots = run_config(given), given["condition"], given["num_fewshot"] or (None,)
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
    if outcome.findings:
        print(f"\n{outcome.findings}")
    if outcome.failed:
        raise IncompleteError(outcome.failed)
    return 0


@command(
    epilog=examples(
        "ltm-eval sweep --task rules --t_fast 0,16,64 --shots 0,8 --seed 1,2 --limit 40",
        "ltm-eval sweep --model a.pt,b.pt --task gsm8k --condition demos,other --data DIR --ray_address local",
    )
)
@takes(SWEEP, log_samples=LOG_SAMPLES, help_all=HELP_ALL)
def sweep(**given: Any) -> int:
    """Run every combination of checkpoints, tasks, conditions, few-shot examples, fast steps and seeds.

    The same command does not repeat finished cells; sweep.json holds all figures.
    """
    from ltm_eval.harness.sweep import check, run_grid, table_grid

    base = run_config(given, model=None, t_fast=None, seed=RunConfig.seed, report=False)
    named = [name for part in given["model"] or () for name in ([part] if Path(part).exists() else part.split(","))]
    swept = run_grid(
        GridConfig(
            base,
            models=tuple(dict.fromkeys(filled("model", name) for name in named)) or (None,),
            t_fast=given["t_fast"] or (None,),
            shots=given["num_fewshot"] or (None,),
            conditions=given["condition"],
            seeds=given["seed"] or (RunConfig.seed,),
            ray_address=given["ray_address"],
            cell_cpus=given["cell_cpus"],
        )
    )
    print(table_grid(swept))
    if len(swept.failed) < len(swept.done):
        from ltm_eval.report import page

        target = swept.summary.with_name("report.html")
        page.write(page.render(page.build(*page.gather([swept.summary.parent]))), target)
        print(printable(f"report: {target}"))
    print(f"sweep: {swept.summary}")
    check(swept)
    return 0


# Commands about runs on disk: `status`, `rescore` and the readers of results -----------------------------------------

SHOWN = 60  # characters of a group's value on the terminal


@command(epilog=examples("ltm-eval status results/"))
def status(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run: its --output_path.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Rewrite a lost or damaged run.json in a model's folder.")
    ] = False,
) -> int:
    """Show the progress of a run from another terminal: answers by model and task, rate, time left, active process."""
    from ltm_eval.runs import status as looking
    from ltm_eval.runs.session import rebuild as write_manifest

    if rebuild:
        print(f"manifest: {write_manifest(Path(folder)).resolve()}")
        return 0
    found = looking.status(Path(folder))
    print(looking.to_json(found) if json_ else "\n".join(looking.text(found)))
    return 0


@command(epilog=examples("ltm-eval rescore results/ --k 1,3", r"ltm-eval rescore results/ --filter 'last=(-?\d+)'"))
def rescore(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or one of its results files.")],
    k: Annotated[
        str | None, typer.Option("--k", metavar="K,...", help="Values of k for pass@k, at most the run's n.")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", metavar="NAME=REGEX", help="Additional answer extraction; the last match is the answer."
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="FIELD", help="Also show rates by this field of the documents.")
    ] = None,
) -> int:
    """Recompute the metrics of a finished run from its saved answers, without loading the model.

    Original files are kept.
    """
    from ltm_eval.harness.evaluation import results_table
    from ltm_eval.harness.rescore import Changes
    from ltm_eval.harness.rescore import rescore as make
    from ltm_eval.results.files import read_run
    from ltm_eval.system.text import terminal
    from ltm_eval.tasks.samples import interval_words

    ks = tuple(sorted(split(RunConfig, "k", k))) if k else ()
    for path in make(Path(folder), Changes(ks, tuple(map(_named, filters or [])), group)):
        print(results_table(path))
        for task, values in (read_run(path).extra.groups or {}).items():
            for value, figures in values.items():
                short = value if len(value) <= SHOWN else f"{value[: SHOWN - 1]}…"
                for figure, found in figures.items():
                    name = terminal(figure.replace(",", ", "))
                    print(f"{task}: {terminal(short)}: {name} {interval_words(found)}")
        print(f"results: {path}")
    return 0


def _named(text: str) -> tuple[str, str]:
    name, equals, pattern = text.partition("=")
    if not equals or not name.strip() or "," in name:
        raise UsageError(rf"filter must be NAME=REGEX, such as last-number=(-?\d+), got {text!r}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"filter {name}: {pattern!r} is no regular expression ({error})") from None
    return name.strip(), pattern


Formats = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="NAME[,...]", help=f"Any of {', '.join(FORMATS)}; for several, -o is a folder or file stem."
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "--output_path", "-o", metavar="FILE|DIR", help="Output file; its suffix selects the format."
    ),
]


@command(
    epilog=examples(
        "ltm-eval report results/",
        "ltm-eval report ltm/results_a.json gpt2/results_b.json -o both.html",
        "ltm-eval report results/ --format html,latex,csv -o paper/ --plots_dir paper/figures",
    )
)
def report(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Results files or folders, ours or lm-eval's of any model."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "--output_path",
            "-o",
            metavar="FILE",
            help="Output file.",
            show_default="report.html beside them",
        ),
    ] = None,
    format_: Formats = None,
    plots_dir: Annotated[
        str | None, typer.Option("--plots_dir", metavar="DIR", help="Folder for every plot as PNG, SVG and PDF.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Include all documents and answers, whatever the size of the page.")
    ] = False,
) -> int:
    """Render one self-contained HTML page from results on disk; nothing is evaluated."""
    from ltm_eval.report import page

    found = sources or [RunConfig.output_path]
    filled("output", output)
    filled("plots_dir", plots_dir)
    formats = formats_of(format_) or suffix_format(output) or ("html",)
    if output is None:
        beside = Path(found[0]) / "report" if Path(found[0]).is_dir() else Path(found[0]).with_name("report")
        places = targets(formats, None, stem=beside)
    else:
        places = targets(formats, output, stem=Path("report"))
    data = page.build(*page.gather(found), full=full)
    for path in page.export(data, places, plots_dir=None if plots_dir is None else Path(plots_dir)):
        print(printable(f"report: {path.resolve()}"))
    return 0


def _write(document: Document, format_: str | None, output: str | None, *, stem: Path) -> None:
    """Print the document, or write it in the formats asked for and print the paths."""
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


@command(
    epilog=examples(
        "ltm-eval compare results/ltm results/gpt2-large",
        "ltm-eval compare new/ old/ --task gsm8k --fail_if_worse",
        "ltm-eval compare a/ b/ --format html,latex,csv -o paper/gsm8k",
    )
)
def compare(  # noqa: PLR0913 - the signature is the declaration of the options
    *,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_A RUN_B...",
            help="Results files or folders; from a folder, per task, the newest runs that compare.",
        ),
    ],
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", "--task", "-t", metavar="NAME[,...]", help="Only these tasks.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME[:NAME]", help="Only these metrics; A_NAME:B_NAME if the names differ."),
    ] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow_mismatch", help="Compare runs even if prompts or settings differ.")
    ] = False,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail_if_worse", help=f"Exit with code {WORSE} if A is worse on a task; for CI.")
    ] = False,
    format_: Formats = None,
    output: Output = None,
) -> int:
    """Compare the first run with the others, paired by document: differences with intervals, tests, conclusions.

    Runs with different prompts, targets, shots, seeds, limits or preparation are refused (exit code 6).
    """
    from ltm_eval.report.comparison import document
    from ltm_eval.results.compare import compare_paths

    formats_of(format_)  # reject a wrong name before anything is read
    found = compare_paths(runs, allow_mismatch=allow_mismatch, tasks=listed(tasks), metrics=listed(metric))
    _write(document(found), format_, output, stem=Path("compare"))
    if fail_if_worse and found.worse:
        named = ", ".join(f"{row.task} against {row.other}" for row in found.worse)
        print(f"ltm-eval: worse: {printable(named)[:250]}", file=sys.stderr)
        return WORSE
    return 0


@command(
    epilog=examples(
        "ltm-eval history results/",
        "ltm-eval history runs/*/results -o history.html",
        "ltm-eval history results/ --x flops -o scaling.html",
    )
)
def history(
    sources: Annotated[
        list[str], typer.Argument(metavar="DIR...", help="Results files or folders of several checkpoints.")
    ],
    *,
    x: Annotated[
        str,
        typer.Option(
            "--x",
            metavar="step|tokens|flops|t_fast|n_z|parameters",
            help="Horizontal axis: training step, tokens or FLOPs, fast steps, latent vectors in all, model size.",
        ),
    ] = "step",
    format_: Formats = None,
    output: Output = None,
) -> int:
    """Plot every figure against the training step, over the checkpoints of a training run; nothing is evaluated."""
    from ltm_eval.report.history import document
    from ltm_eval.results.files import find_runs

    formats_of(format_)
    _write(document(find_runs(sources, newest_only=False), x), format_, output, stem=Path("history"))
    return 0


@command(epilog=examples("ltm-eval index results/", "ltm-eval index results/ --format csv"))
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
    _write(document(indexed(Path(folder)), base=place.parent), ",".join(formats), output, stem=stem)
    return 0


@command(epilog=examples("ltm-eval view", "ltm-eval view results/ --port 8000"))
def view(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="A folder of results.")] = RunConfig.output_path,
    *,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="Port on this machine; 0 takes a free one.")
    ] = 0,
) -> int:
    """Serve the runs of a folder, their progress, pages and comparisons to a browser on this machine."""
    from ltm_eval.report.view import Viewer
    from ltm_eval.runs import status as looking

    def progress(place: Path) -> list[str]:
        try:
            return looking.text(looking.status(place))
        except ResultsError:  # results without a journal
            return []
        except LtmEvalError as error:
            return [str(error)]

    with Viewer(Path(folder), port=port, progress=progress) as server:
        print(f"view: {server.url} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


# Commands about one model: `probe`, `audit`, `convert`, `train` and `bench` ------------------------------------------

PROBE: Fields = {
    "model": RUN["model"],
    "prompt": (ProbeJob, "prompts"),
    "n_tokens": (ProbeConfig, "n_tokens"),
    "text": (ProbeJob, "texts"),
    **{name: (ProbeJob, name) for name in ("task", "limit")},
    **{name: RUN[name] for name in ("data", "metadata", "gen_kwargs", "t_fast", "preset", "fit")},
    **{
        name: (ProbeConfig, name)
        for name in ("groups", "rest", "latents", "direction", "max_tokens", "prompt_tokens", "explore")
    },
    **{
        name: RUN[name]
        for name in ("seed", "tokenizer", "revision", "device", "dtype", "compile", "output_path", "report", "quiet")
    },
}


@command(
    epilog=examples(
        "ltm-eval probe",
        "ltm-eval probe --model ckpt_60000.pt --text story.txt --text poem.txt --output_path results/",
        "ltm-eval probe --task gsm8k --limit 20 --rest prior --direction up",
        "ltm-eval probe --model ckpt_60000.pt --prompt 'The future of artificial intelligence' --n_tokens 100",
    )
)
@takes(PROBE)
def probe(**given: Any) -> int:
    """Fit z with all layers, then reconstruct a text, or continue a prompt, with the latents of some of them.

    Writes probe_<date>.json into the model's folder of results, and the page of the output folder, which has a layer
    explorer. The same command resumes.
    """
    from ltm_eval.probe import job as probing

    how = {name: given.pop(name) for name in names_of(ProbeConfig)}
    prompts, texts = given.pop("prompt"), given.pop("text")
    outcome = probing.probe(
        ProbeJob(probe=ProbeConfig(**how), prompts=prompts, texts=texts, **given, command=Call.command())
    )
    if outcome.results is None:
        return 0
    print(probing.table(outcome.results))
    print(f"results: {outcome.results}")
    if given["report"]:
        from ltm_eval.report import page as report

        page = outcome.output / "report.html"
        report.write(report.render(report.build(*report.gather([outcome.output]))), page)
        print(f"report: {page}")
    return 0


@command(epilog=examples("ltm-eval audit", "ltm-eval audit --model ckpt_60000.pt --preset released --json audit.json"))
def audit(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-M", metavar="PATH|ID", help="Checkpoint to audit.", show_default="an untrained decoder"
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", metavar="|".join((*PRESETS, "all")), help="Fit presets to audit.")
    ] = "all",
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="Blocks of random tokens per preset.")] = 4,
    seed: Annotated[Any, flag(RunConfig, "seed")] = RunConfig.seed,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="File to write the results to, as JSON.")
    ] = None,
) -> int:
    """Fit uniformly random tokens and show which presets report figures below what any valid bound can reach."""
    from ltm_eval.inference import audit as auditing
    from ltm_eval.inference.options import fit_config
    from ltm_eval.model.checkpoint import load
    from ltm_eval.system.files import write_output

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
        write_output(Path(json_path), auditing.to_json(found))
        print(printable(f"audit: {Path(json_path).resolve()}"))
    return 0


@command(epilog=examples("ltm-eval convert ckpt_60000.pt ltm-large/ --tokenizer gpt2"))
def convert(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="Released ckpt_*.pt, a folder or a hub id.")],
    target: Annotated[str, typer.Argument(metavar="DIR", help="New folder, or new file that ends in .pt.")],
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="gpt2|FILE", help=help_of(RunConfig, "tokenizer"))
    ] = None,
) -> int:
    """Write a checkpoint as a folder of config.json, model.safetensors and tokenizer; none of its code is run."""
    from ltm_eval.model.checkpoint import convert as convert_checkpoint

    convert_checkpoint(Path(checkpoint), Path(target), tokenizer=filled("tokenizer", tokenizer))
    print(printable(f"checkpoint: {Path(target).resolve()}"))
    return 0


@command(
    epilog=examples(
        "ltm-eval train --config ltm-demo --data DIR --output runs/ltm-demo",
        "torchrun --nproc-per-node 8 -m ltm_eval train --config big.yaml --data DIR --output runs/big",
    )
)
def train(
    config: Annotated[
        str, typer.Option("--config", metavar="FILE", help="Recipe in YAML; bundled: ltm-demo, gpt2-demo.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "--output_path", "-o", metavar="DIR", help="Folder for tokens, state, log and final model."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder with the files that the recipe names.", envvar="LTM_EVAL_DATA_DIR"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Number of slow steps.", show_default="the recipe's")
    ] = None,
    device: Annotated[Any, flag(RunConfig, "device")] = RunConfig.device,
) -> int:
    """Train an LTM by dual-rate learning, or a GPT-2 on the same batches; the same command resumes."""
    from ltm_eval.training.recipe import read_recipe
    from ltm_eval.training.train import train as run_training

    recipe = read_recipe(Path(config), steps=steps)
    done = run_training(recipe, Path(output), data=None if data is None else Path(data), device=device)
    print(f"trained: {done.steps} slow steps, {done.tokens:,} tokens, {done.flops:.3g} operations")
    print(printable(f"model: {done.final.resolve()}"))
    return 0


@command(
    epilog=examples("ltm-eval bench", "ltm-eval bench --size L --memory", "ltm-eval bench --released Latent-Thought-LM")
)
def bench(  # noqa: PLR0913 - the signature is the declaration of the options
    *,
    size: Annotated[
        str, typer.Option("--size", metavar="demo|S|M|L", help="Model size: a published one, or the demo's.")
    ] = "S",
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens per document.")] = 1024,
    batch: Annotated[int, typer.Option("--batch", help="Documents, of one row each.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", help="Timings of each implementation, interleaved.")] = 5,
    device: Annotated[Any, flag(RunConfig, "device")] = RunConfig.device,
    cpu_time: Annotated[
        bool,
        typer.Option("--cpu_time", help="Measure CPU time of one thread, not wall-clock time; for shared machines."),
    ] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="Also time the step with compiled layers.")] = False,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="float32|bfloat16|both", help="Dtype of matrix products to time.")
    ] = "both",
    released: Annotated[
        str | None,
        typer.Option(
            "--released",
            metavar="DIR",
            help="Also time the released code: a checkout of github mingluzhao/Latent-Thought-LM. Its code is run.",
        ),
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Also measure the peak memory of a fit.")] = False,
    growth: Annotated[
        str | None,
        typer.Option("--growth", metavar="DIR", help="Removed; use benchmarks/growth.py in the source tree."),
    ] = None,
) -> int:
    """Time a fast step against a plain implementation of the published algorithm and the machine's ceiling.

    All take the same step on the same documents, tokens and threads; compare rows of the same dtype.
    """
    from ltm_eval.inference import bench as benchmark
    from ltm_eval.system.device import resolve_device

    if growth is not None:
        raise UsageError(
            "growth curves and the kernel profile are measured by a script of the source tree: "
            "python benchmarks/growth.py --output DIR"
        )
    config = benchmark.BenchConfig(
        size, tokens, batch, str(resolve_device(device)), rounds, cpu_time, compile_, released, dtype
    )
    for part in benchmark.report(config, memory=memory):
        print(part, end="\n\n", flush=True)
    return 0


# `ls`, `doctor` and lm-eval's own command ---------------------------------------------------------------------------

CONDITION_TEXTS = {
    "prompt": "z is fitted on as much of the prompt as fits; the decoder reads the same (default, the paper's Eq. 7)",
    "demos": "one z is fitted on all few-shot examples, in windows; the decoder reads the question only",
    "demos+prompt": "z is fitted on all few-shot examples and the question; the decoder reads what fits of both",
    "shuffled": "as demos, but with the answers permuted among the questions of the prompt: a control",
    "other": "as demos, but with the few-shot examples of another question or episode: a control",
    "prior": "z is drawn from N(0, I), nothing is fitted; the decoder reads as much of the prompt as fits",
}


@command(epilog=examples("ltm-eval ls", "lm_eval --model ltm --include_path $(ltm-eval ls --path) ..."))
def ls(
    path: Annotated[bool, typer.Option("--path", help="Print only the folder of task definitions.")] = False,
) -> int:
    """List tasks, conditions, fit presets and bundled models."""
    if path:
        print(files.tasks_dir())
        return 0
    sections: dict[str, list[tuple[str, str]]] = {
        "Tasks (--task, 'ltm_' may be left out)": list(_tasks()),
        "Conditions (--condition)": list(CONDITION_TEXTS.items()),
        "Fit presets (--preset)": [],
        "Bundled models": [],
    }
    for name, fit in PRESETS.items():
        rate = f"rate {fit.lr:g}" if fit.lr == fit.lr_final else f"rate {fit.lr:g} to {fit.lr_final:g}"
        verdict = "a bound" if fit.is_bound else "not a bound, for comparison with published figures"
        text = f"{fit.t_fast} steps, {rate}, log_var from {fit.log_var_start:g}, {fit.noise} noise: {verdict}"
        sections["Fit presets (--preset)"].append((name, text))
    for folder in sorted(path.parent for path in files.assets_dir().glob("*/config.json")):
        name = folder.name.removeprefix("ltm-")
        use = {DEMO_MODEL: " (used without --model)", DEMO_BASELINE: " (as --baseline)"}.get(name, "")
        sections["Bundled models"].append((name, f"{folder}{use}"))
    for title, rows in sections.items():
        width = max((len(name) for name, _ in rows), default=0)
        print(title, *(f"  {name:<{width}}  {printable(text)}".rstrip() for name, text in rows), "", sep="\n")
    return 0


def _tasks() -> Iterator[tuple[str, str]]:
    """Yield name, kind, size and needs of every task in our YAML files, then tags with their tasks."""
    from ltm_eval.data.sets import QUESTION_SETS, TEXT_SETS

    tags: dict[str, list[str]] = {}
    for file in sorted(files.tasks_dir().rglob("*.yaml")):
        content = _read_task(file)
        name = content.get("task")
        if isinstance(name, str):
            shots = content.get("num_fewshot")
            detail = "" if shots is None else ", zero-shot" if shots == 0 else f", {shots} shots by default"
            found = [f"{content.get('output_type')}{detail}"]
            if (spec := {**TEXT_SETS, **QUESTION_SETS}.get(file.parent.name)) is not None:
                sample = spec.bundled or (files.sample_data_dir() / spec.name).is_dir()
                found += [f"{spec.official[spec.split].rows:,} examples", "sample bundled" if sample else "no sample"]
            if "tasks.mauve" in str(content.get("class")):
                found += ["sample bundled", "needs ltm-eval[hf,mauve]"]
            yield name, "; ".join(found)
            if "tag" in content:
                tags.setdefault(content["tag"], []).append(name)
    yield from ((tag, ", ".join(names)) for tag, names in tags.items())


def _read_task(file: Path) -> dict[str, Any]:
    """Return the YAML as lm-eval reads it, `include` resolved, `!function` left as text; nothing is imported."""
    import yaml

    class Reader(yaml.SafeLoader):
        """Knows lm-eval's tag."""

    Reader.add_multi_constructor("!", lambda loader, suffix, node: f"{suffix} {node.value}")
    try:
        content = Reader(file.read_text("utf-8")).get_single_data()
    except (OSError, yaml.YAMLError) as error:
        raise LtmEvalError(
            f"{file}: this task definition of the package cannot be read ({type(error).__name__})"
        ) from error
    content = content if isinstance(content, dict) else {}
    base = content.pop("include", None)
    return {**_read_task(file.parent / base), **content} if isinstance(base, str) else content


@command(epilog=examples("ltm-eval doctor"))
def doctor() -> int:
    """Check the environment (read-only): versions, devices, the plug-in into lm-eval, data and tokenizer files."""
    from ltm_eval.system.machine import findings

    for name, finding in findings():
        print(f"{name:<10} {printable(finding)}")
    return 0


PASS_THROUGH = {
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
    "ignore_unknown_options": True,
}


@app.command(
    "lm-eval",
    epilog=examples("ltm-eval lm-eval --model ltm --model_args pretrained=demo --tasks ltm_gsm8k --num_fewshot 8"),
    context_settings=PASS_THROUGH,
)
@app.command("lm_eval", hidden=True, context_settings=PASS_THROUGH)
def lm_eval(context: typer.Context) -> int:
    """Run lm-eval's own command with the model 'ltm' and our tasks registered; all arguments are lm-eval's."""
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
        file = crash_file(error, call=_call(), folder=_output_folder())
        raise LtmEvalError(f"lm-eval failed, see {file}: {type(error).__name__}: {error}") from error
    return 0


# From argv to an exit code --------------------------------------------------------------------------------------------


def main(args: Sequence[str] | None = None) -> int:
    """Run the command `args` (None: of this process) and return its exit code."""
    Door.command = True
    try:
        return _main(args)
    finally:
        Door.command = False


def _main(args: Sequence[str] | None) -> int:
    Call.argv = tuple(sys.argv[1:] if args is None else args)
    if args is None:
        ends_with_command()
        _open_streams()
    _prepare_streams()
    if "RANK" in os.environ:
        quiet_torch()
    try:
        code = _invoke(list(Call.argv) or ["--help"])
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
        # The reader closed the pipe; without this Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as leaving:
        return _exit_code(leaving)
    except Exception as error:  # noqa: BLE001 - the last line of defence; nothing is hidden, see `explained`
        if isinstance(error, PARSER_ERROR):
            known: LtmEvalError = UsageError(_usage_text(error))
        else:
            known = explained(error, call=_call(), folder=_output_folder())
        if os.environ.get("LTM_EVAL_DEBUG") == "1":
            traceback.print_exception(error)
        if may_tell(known):
            say(_placed(known))
        abandon(known.exit_code)
        return known.exit_code


def _exit_code(leaving: SystemExit) -> int:
    """Return the code of a command that ended the process: lm-eval's parser, or rich if nobody reads its help page."""
    if isinstance(leaving.__context__, BrokenPipeError):
        return 0
    if isinstance(leaving.code, str):
        print(leaving.code, file=sys.stderr)
        return 1
    return leaving.code or 0


class _Lossy(io.FileIO):
    """stderr: what it does not take is lost, since there is nowhere to say so, and the work goes on."""

    def write(self, data: Any) -> int:
        """Write `data`, or drop it."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _Named(io.FileIO):
    """stdout: the first error of it says so, and what follows is lost."""

    def write(self, data: Any) -> int:
        """Write `data`."""
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # so that Python's own last flush succeeds
            raise OSError(error.errno, error.strerror, "standard output") from None


def _open_streams() -> None:
    """Give closed streams a place, so that no file of results becomes stdout or stderr; let stderr fail unnoticed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        told = io.BufferedWriter(_Named(sys.stdout.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(told, sys.stdout.encoding, sys.stdout.errors, line_buffering=sys.stdout.isatty())
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        held = io.BufferedWriter(_Lossy(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(held, sys.stderr.encoding, "backslashreplace", line_buffering=True)


def _prepare_streams() -> None:
    """Print a question mark for what a C locale cannot show, and a warning for variables that have no effect."""
    if isinstance(sys.stdout, io.TextIOWrapper) and (sys.stdout.encoding or "").lower() != "utf-8":
        sys.stdout.reconfigure(errors="replace")
    if os.environ.get("RANK", "0") == "0" and sys.stderr is not None:
        for line in unknown_variables(os.environ):
            print(printable(f"{PROGRAM}: warning: {line}"), file=sys.stderr)


def _invoke(argv: list[str]) -> int:
    if any("\0" in word for word in argv):
        raise UsageError("an argument contains a NUL character, which no path, name or number may contain")
    if not {"--help", "-h"} & {*argv}:
        check_address_space(argv[0])
    command = typer.main.get_command(app)
    try:
        with command.make_context(PROGRAM, argv) as context:
            code = command.invoke(context)
    except typer.Exit as leaving:
        return leaving.exit_code
    return code if isinstance(code, int) else 0


def _placed(error: LtmEvalError) -> LtmEvalError:
    """Return `error` with the rank it happened on, unless that is the first."""
    rank = current().rank
    return type(error)(f"rank {rank}: {error}") if rank and not str(error).startswith("rank ") else error


def _usage_text(error: Exception) -> str:
    """Return the parser's message with the nearest known name."""
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


def _call() -> str:
    """Return program, version and command line, for a crash file."""
    return f"{PROGRAM} {__version__}\n{' '.join(Call.command())}"


def _output_folder() -> Path:
    """Return the output folder that the failed command line names."""
    given = os.environ.get("LTM_EVAL_OUTPUT_PATH", RunConfig.output_path)
    for word, following in zip(Call.argv, [*Call.argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.replace("-", "_") in ("__output_path", "_o"):
            given = value if equals else following
    return Path(given)
