"""Named places where tests make the machine fail: `LTM_EVAL_FAILPOINT=name:n:action`, several joined by commas.

The n-th time (from 1) the named place is passed, the action happens, once; `*` counts every place together. Without
the variable a place costs one look into the environment. Nothing but tests sets it.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass

VARIABLE = "LTM_EVAL_FAILPOINT"
ERRORS = {
    "enospc": errno.ENOSPC,
    "edquot": errno.EDQUOT,
    "eio": errno.EIO,
    "eacces": errno.EACCES,
    "emfile": errno.EMFILE,
}
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
LEFT_TO_THE_PLACE = ("short", "nan")
SLEEP_SECONDS = 3600.0


@dataclass
class _Armed:
    """One place that will fail."""

    name: str
    """Of the place, or `*`."""
    left: int
    """Passes until it fails."""
    action: str


class _State:
    """What the variable said when it was last read."""

    text = ""
    armed: tuple[_Armed, ...] = ()


def hit(name: str) -> str | None:
    """Pass the place `name`, right before a file operation.

    Returns:
        `short` or `nan` where the place itself must write too little or answer NaN; else None.

    Raises:
        OSError: the armed action is one of `enospc`, `eio`, `eacces`.
        ValueError: the variable is malformed.
    """
    return _pass(name, _armed())


def moment(name: str) -> None:
    """Pass the place `name`, where no operation could fail but the process may be killed, stopped or held up."""
    _pass(name, tuple(armed for armed in _armed() if armed.action in (*SIGNALS, "sleep")))


def _pass(name: str, every: tuple[_Armed, ...]) -> str | None:
    passed = [armed for armed in every if armed.name in (name, "*")]
    for armed in passed:
        armed.left -= 1
    due = next((armed for armed in passed if armed.left == 0), None)
    return None if due is None else _fail(due.action, name)


def _armed() -> tuple[_Armed, ...]:
    """What the variable arms; it is read again when it changes."""
    text = os.environ.get(VARIABLE, "")
    if text != _State.text:
        _State.armed, _State.text = _parsed(text), text
    return _State.armed


def _parsed(text: str) -> tuple[_Armed, ...]:
    armed = []
    for part in filter(None, text.split(",")):
        name, _, rest = part.partition(":")
        number, _, action = rest.partition(":")
        if not number.isdecimal() or action not in (*ERRORS, *SIGNALS, *LEFT_TO_THE_PLACE, "sleep"):
            raise ValueError(f"{VARIABLE} must be name:n:action, got {part!r}")
        armed.append(_Armed(name, int(number), action))
    return tuple(armed)


def _fail(action: str, name: str) -> str | None:
    if action in ERRORS:
        raise OSError(ERRORS[action], os.strerror(ERRORS[action]), f"failpoint {name}")
    if action in SIGNALS:
        os.kill(os.getpid(), SIGNALS[action])
    if action == "sleep":
        time.sleep(SLEEP_SECONDS)
    return action if action in LEFT_TO_THE_PLACE else None
