"""The command: `python -m ltm_eval run --task gsm8k --shots 8` and its companions.

`main(args)` is what the console script calls and what tests call; it returns the exit code and never raises. Options
are spelt as lm-eval spells them, hyphens for underscores are accepted, and environment variables can give those of
`run`. Torch and lm-eval are imported by the commands that need them, so that `--help`, `ls` and `report` start at once.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltm_eval import __version__, cli_compare, evaluate_commands, model_commands, paths, probe_command, run_commands
from ltm_eval.calls import PROGRAM, Call, examples
from ltm_eval.config import PRESETS, RunConfig
from ltm_eval.crash import crash_file, exit_code, explained, placed
from ltm_eval.distributed import abandon, current, may_tell
from ltm_eval.errors import IncompleteError, LtmEvalError, UsageError, error_line, printable
from ltm_eval.launch import quiet_torch
from ltm_eval.listing import CONDITION_TEXTS, model_rows, preset_text, print_section, task_rows
from ltm_eval.options import filled, unknown_variables
from ltm_eval.stopping import code_of, ends_with_command, told

if TYPE_CHECKING:
    from collections.abc import Sequence


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


evaluate_commands.register(app)


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


model_commands.register(app)


@app.command(epilog=examples("ltm-eval ls", "lm_eval --model ltm --include_path $(ltm-eval ls --path) ..."))
def ls(
    path: Annotated[bool, typer.Option("--path", help="Print the folder of task definitions, nothing else.")] = False,
) -> int:
    """List tasks, conditions, fit presets and bundled models."""
    if path:
        print(paths.tasks_dir())
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
        raise LtmEvalError(f"lm-eval failed, see {crash_file(error)}: {type(error).__name__}: {error}") from error
    return 0


app.command("lm_eval", hidden=True, context_settings=PASS_THROUGH)(lm_eval)


@app.command(epilog=examples("ltm-eval doctor"))
def doctor() -> int:
    """Look at this machine: versions, devices, the plug into lm-eval, data and tokenizer files. Changes nothing."""
    from ltm_eval.doctor import findings

    for name, finding in findings():
        print(f"{name:<10} {printable(finding)}")
    return 0


cli_compare.register(app)
run_commands.register(app)
probe_command.register(app)


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
