"""Turn exceptions into errors with one line and an exit code; write a crash file for unexpected ones."""

from __future__ import annotations

import errno
import os
import platform
import re
import tempfile
import time
import traceback
from pathlib import Path

from ltm_eval.system.errors import LtmEvalError, MachineError, UsageError, printable, spelt
from ltm_eval.system.files import cause, remedy

NO_MEMORY = re.compile(
    r"out of memory|bad_alloc|(?:not enough|can't allocate|cannot allocate) memory|failed to map segment",
    re.IGNORECASE,
)
# MiB of address space below which lm-eval or torch ends in a signal, or hangs, while it is imported; two threads
_LM_EVAL, _TORCH = 1_536, 768
ADDRESS_SPACE = {
    **dict.fromkeys(("run", "sweep", "rescore", "probe", "lm-eval", "lm_eval"), _LM_EVAL),
    **dict.fromkeys(("audit", "convert", "train", "bench"), _TORCH),
}


def check_address_space(command: str) -> None:
    """Raise MachineError if the limit of address space (ulimit -v) is too small for what a command imports."""
    try:
        import resource
    except ImportError:  # not Unix
        return
    limit, needed = resource.getrlimit(resource.RLIMIT_AS)[0], ADDRESS_SPACE.get(command, 0)
    if limit != resource.RLIM_INFINITY and limit < needed * 2**20:
        raise MachineError(
            f"{command} needs {needed:,} MiB of address space to begin, the limit is {limit // 2**20:,}; raise it "
            f"(ulimit -v {needed * 2**10})"
        )


def explained(error: Exception, *, call: str, folder: Path) -> LtmEvalError:
    """Return the LtmEvalError to report for an exception.

    Args:
        call: program, version and command line, for the crash file.
        folder: preferred folder for the crash file.
    """
    if isinstance(error, LtmEvalError):
        return error
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(
            f"a path of {len(str(error.filename))} characters is too long for this file system; shorten it"
        )
    if shortage := _shortage(error):
        return MachineError(shortage)
    if isinstance(error, OSError) and error.errno is not None:
        where = Path(str(error.filename)) if error.filename else Path()
        return MachineError(f"{error.filename or 'a file'}: {cause(error, where)}; {remedy(error, where)}")
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("ltm_eval"):
        return MachineError(
            f"the package {error.name!r} is missing; reinstall ltm-eval with the extra that contains it"
        )
    file = crash_file(error, call=call, folder=folder)
    return LtmEvalError(f"this is a bug of ltm_eval, please report it with {file}: {type(error).__name__}: {error}")


def _shortage(error: Exception) -> str | None:
    """Return what to do if memory or threads ran out."""
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return "no thread could be started; raise the limits (ulimit -v, ulimit -u)"
    lacking = isinstance(error, ImportError) and NO_MEMORY.search(str(error))
    if lacking or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "out of memory; raise the limit (ulimit -v), or free some"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        return f"out of memory; free some, or try a smaller {spelt('batch_size')}"
    return None


def crash_file(error: Exception, *, call: str, folder: Path) -> str:
    """Write the traceback, access tokens masked, to the first writable folder; return its path."""
    lines = [f"Python {platform.python_version()}, {platform.platform()}", *call.splitlines()]
    lines += "".join(traceback.format_exception(error)).splitlines()
    text = "".join(f"{printable(line)}\n" for line in lines)
    name = f"crash-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
    for place in (folder, Path.cwd(), Path(tempfile.gettempdir())):
        try:
            with open(place / name, "x", encoding="utf-8") as file:  # never through a link
                file.write(text)
        except OSError:
            continue
        return str(place / name)
    return "the traceback of LTM_EVAL_DEBUG=1"
