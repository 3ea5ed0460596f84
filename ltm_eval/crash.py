"""Errors as the one line a user sees; an unexpected one leaves a file with its traceback."""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import typer

from ltm_eval import __version__
from ltm_eval.calls import PROGRAM, Call
from ltm_eval.config import RunConfig
from ltm_eval.disk import cause, remedy
from ltm_eval.distributed import current
from ltm_eval.errors import LtmEvalError, MachineError, UsageError, nearest, printable

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
