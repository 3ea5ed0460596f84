"""Errors, their one line and exit code, and signals that stop a run.

    LtmEvalError                 1   a bug, if nothing below fits
    |- UsageError                2   arguments, options, settings
    |- InputError                3   something that was read cannot be used
    |  |- CheckpointError            checkpoint files
    |  |- TokenizerError             tokenizer files
    |  |- DataError                  data sets
    |  `- ResultsError               result files
    |- MachineError              4   disk, permission, network, device, missing package
    |- IncompleteError           5   ended early; the same command resumes
    `- RefusedError              6   would mix results of different settings

The number is the exit code of the command.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import threading
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache, wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType


P = ParamSpec("P")
R = TypeVar("R")

LINE_LIMIT = 300
SHOWN_LIMIT = 80
SHORTEST_SECRET = 8
CAUSE_LENGTH = 120  # characters of a line's beginning that its last sentences leave it, where they can
SHORTEST_CAUSE, LONGEST_REMEDY = 90, 400
# Words of so many characters, and how many stay of their beginning and end.
_LONG_WORDS = ((re.compile(r"\S{80,}"), 20, 40), (re.compile(r"\S{48,}"), 12, 32))
_SENTENCE_END = re.compile(r"[;.?] ")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
_URL_PASSWORD = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)


class LtmEvalError(Exception):
    """Base class: every error a caller of this package can expect."""

    exit_code = 1
    also: tuple[LtmEvalError, ...] = ()  # further errors that were found together with it

    def __str__(self) -> str:
        return "; also: ".join(map(Exception.__str__, (self, *self.also)))


class UsageError(LtmEvalError):
    """An argument, option or setting is wrong."""

    exit_code = 2


class InputError(LtmEvalError):
    """Something that was read cannot be used."""

    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint file or folder cannot be used."""


class TokenizerError(InputError):
    """A tokenizer file cannot be used."""


class DataError(InputError):
    """A data set cannot be used."""


class ResultsError(InputError):
    """A result file cannot be used."""


class MachineError(LtmEvalError):
    """Disk, permission, network, device or a missing package."""

    exit_code = 4


class IncompleteError(LtmEvalError):
    """The run ended before everything was done; the same command resumes it."""

    exit_code = 5


class RefusedError(LtmEvalError):
    """Going on would mix results of different settings."""

    exit_code = 6


@cache
def _names_secret(variable: str) -> bool:
    return _SECRET_NAME.search(variable) is not None


def _secrets() -> list[str]:
    """Return the secrets in the environment, the longest first."""
    found = {os.environ[name] for name in os.environ if _names_secret(name)}
    return sorted((one for one in found if len(one) >= SHORTEST_SECRET and one[0] not in "/~"), key=len, reverse=True)


def masked(text: str, secrets: Sequence[str] | None = None) -> str:
    """Mask access tokens in `text`: token patterns, values of HF_TOKEN and the like, passwords in URLs.

    Args:
        secrets: values of such variables, for many texts; None reads them.
    """
    for secret in _secrets() if secrets is None else secrets:
        text = text.replace(secret, "***")
    return _URL_PASSWORD.sub("://***@", _TOKEN.sub("hf_***", text))


def at_home(text: str) -> str:
    """Write the user's home folder as `~`: a file that is passed on need not tell the user's name."""
    home = os.path.expanduser("~")
    if len(home) < 2 or home not in text:
        return text
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)


def masked_all(value: Any, secrets: Sequence[str] | None = None) -> Any:
    """Apply `masked` and `at_home` to every text in nested mappings and sequences."""
    secrets = _secrets() if secrets is None else secrets
    if isinstance(value, str):
        return at_home(masked(value, secrets))
    if isinstance(value, dict):
        return {masked_all(key, secrets): masked_all(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(masked_all(item, secrets) for item in value)
    return value


def printable(text: str) -> str:
    """Return `text` on one line, control and bidirectional characters escaped and access tokens masked."""
    text = masked(text)
    text = re.sub(r"\s*\n\s*", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """Return a short form of an external value: plain ones as `repr`, others by type."""
    if value is None or isinstance(value, (bool, float, str)) or (isinstance(value, int) and abs(value) < 10**18):
        text = repr(value)
        return text if len(text) <= SHOWN_LIMIT else text[: SHOWN_LIMIT - 1] + "…"
    return "a very large number" if isinstance(value, int) else f"a {type(value).__name__}"


def error_line(error: BaseException) -> str:
    """Return the single line that stands for `error` on stderr: 300 characters, or more if what to do needs them.

    Long paths are cut in the middle, then the text before the last sentences: these say what to do, and stay whole.
    """
    code = error.exit_code if isinstance(error, LtmEvalError) else 1
    line = f"ltm-eval: error[{code}]: {printable(Exception.__str__(error) or type(error).__name__)}"
    ends = [len(line) - found.end() for found in _SENTENCE_END.finditer(line)]  # characters after each
    wide = next((left for left in ends if left <= LINE_LIMIT - CAUSE_LENGTH), 0)
    # the last sentence alone may be longer; a list of names is no remedy, and its end is cut
    remedy = line[len(line) - max(wide, min((left for left in ends if left <= LONGEST_REMEDY), default=0)) :]
    cause = line.removesuffix(remedy)
    for long_word, first, last in _LONG_WORDS:
        if len(cause) + len(remedy) > LINE_LIMIT:
            cause = long_word.sub(lambda word: f"{word[0][:first]}…{word[0][-last:]}", cause)  # noqa: B023 - called at once
    room = max(LINE_LIMIT - len(remedy), SHORTEST_CAUSE)
    return cause + remedy if len(cause) <= room else f"{cause[: room - 2]}… {remedy}".strip()


def say(error: LtmEvalError) -> None:
    """Print an error, and those found together with it, on stderr: one line each."""
    for one in (error, *error.also):
        print(error_line(one), file=sys.stderr)


class Together:
    """Checks that do not depend on one another: the first error is raised at the end of the block, with the others.

    with Together() as trying:
        tasks = trying(tasks_of, config)  # None if it failed
        trying(check_place, model)
    """

    def __init__(self) -> None:
        self.found: list[LtmEvalError] = []

    def __call__(self, function: Callable[P, R], *args: P.args, **named: P.kwargs) -> R | None:
        """Call a function and keep its error."""
        try:
            return function(*args, **named)
        except LtmEvalError as error:
            self.found.append(error)
            return None

    def __enter__(self) -> Together:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, LtmEvalError):
            return
        found = [part for one in (*self.found, *filter(None, [error])) for part in (one, *one.also)]
        for part in found:
            part.also = ()
        for first, *others in [{str(part): part for part in found}.values()] if found else ():
            first.also = tuple(others)
            raise first


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ` Did you mean 't_fast'?`, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def naming_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function: an argument that it does not have is a UsageError that names the nearest one."""
    known = signature(function).parameters

    @wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        for name in options:
            if name not in known:
                raise UsageError(f"{function.__name__} has no argument {name!r}.{nearest(name, known)}")
        return function(*args, **options)

    return checked


class Door:
    """Whether our command line is the caller, which `cli.main` says; lm-eval's is recognised, the rest is Python."""

    command = False


# Options that lm-eval's command has itself; the rest is the model's
_OF_LM_EVAL = ("batch_size", "device", "gen_kwargs", "limit", "metadata", "num_fewshot", "output_path", "tasks")


def spelt(name: str, value: object = None) -> str:
    """Return an option, with a value, as the caller spells it: `--t_fast 8`, `t_fast=8`, `--model_args t_fast=8`."""
    if hosted_by_lm_eval():
        name = {"shots": "num_fewshot"}.get(name, name)
        if name == "data":  # a task option there
            return "--metadata data" + ("" if value is None else f"={value}")
        if name not in _OF_LM_EVAL:
            return f"--model_args {name}" + ("" if value is None else f"={value}")
    elif not Door.command:
        return name if value is None else f"{name}={value!r}"
    return f"--{name}" if value is None else f"--{name} {shlex.quote(str(value))}"


def hosted_by_lm_eval() -> bool:
    """Return whether lm-eval's own command is the running program, so that none of our code is the caller."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    package = spec.name.partition(".")[0] if spec is not None else ""
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return package == "lm_eval" or program in {"lm_eval", "lm-eval"}


# Called with an error that ends the process before it is printed; False leaves printing to another process
LISTENERS: list[Callable[[LtmEvalError | None], bool]] = []


def may_tell(error: LtmEvalError | None) -> bool:
    """Return whether this process should print the error that ends it."""
    return all(listener(error) for listener in LISTENERS)


def leave(error: LtmEvalError) -> NoReturn:
    """Under lm-eval's own command print the error and exit with its code; elsewhere raise it."""
    if not hosted_by_lm_eval():
        raise error
    if may_tell(error):
        say(error)
    raise SystemExit(error.exit_code)


def leaving(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function that lm-eval calls, so that our errors pass through `leave`."""

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except LtmEvalError as error:
            leave(error)

    return wrapped


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless `value`, of any type, is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        hint = nearest(value, allowed) if isinstance(value, str) else ""
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}.{hint}")


# Signals: the first stops a run in order, a second at once; finished answers are on disk either way. Exit codes are 130
# for SIGINT, and 143 for SIGTERM, SIGHUP, and SIGUSR1, which batch systems send ahead of a time limit.

GRACE_SECONDS = 8.0  # seconds until the process is ended in any case
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
INTERRUPTED, TERMINATED = 130, 143


class Stopped(KeyboardInterrupt):
    """Raised when a signal stops the run; not caught by `except Exception`."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def code_of(stop: BaseException) -> int:
    """Return the exit code of a run that was stopped."""
    return TERMINATED if isinstance(stop, Stopped) and stop.signum != signal.SIGINT else INTERRUPTED


def told(stop: BaseException) -> str:
    """Return the message for the user."""
    if not isinstance(stop, Stopped):
        return "interrupted"
    return f"stopped by {stop}; finished answers are kept, the same command resumes"


class _Process:
    """Whether this process ends with the command."""

    ends = False


def ends_with_command() -> None:
    """Declare that the process ends with the command; after the first, every signal then ends it at once."""
    _Process.ends = True


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` in the main thread on a signal.

    Handlers are restored at the end, unless the process is about to end, where a signal would cause a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[threading.Timer] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, at_once)
        late = threading.Timer(GRACE_SECONDS, os._exit, [code_of(Stopped(signum))])
        late.daemon = True
        late.start()
        timers.append(late)
        raise Stopped(signum)

    def at_once(signum: int, frame: FrameType | None) -> None:
        os._exit(code_of(Stopped(signum)))

    before = {one: signal.signal(one, stop) for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for late in timers:
            late.cancel()
        if not (timers and _Process.ends):
            for one, handler in before.items():
                signal.signal(one, handler)
