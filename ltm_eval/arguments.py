"""What lm-eval passes to a model's constructor and to its requests, made sense of.

lm-eval 0.4.13's command turns `-1` into -1.0 and `none` into text, and passes `device="cuda:0"` on every machine and
sizes as int or str.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ltm_eval.config import AUTO, EACH, GenerationConfig
from ltm_eval.errors import MachineError, UsageError, nearest, shown
from ltm_eval.launch import read_launch

DEFAULT_NEW_TOKENS = 256
HOST_DEFAULT_DEVICE = "cuda:0"
NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_TRUE, _FALSE = {"true", "1", "1.0"}, {"false", "0", "0.0"}


def generation_config(raw: dict[str, Any]) -> GenerationConfig:
    """lm-eval's generation options as ours.

    Raises:
        UsageError: an option is not known or out of range.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    given = {name: value for name, value in raw.items() if value is not None}
    for name in (*NEW_TOKENS, "top_k", "rethink"):
        if name in given:
            given[name] = whole(name, given[name], 0)
    for name in ("temperature", "top_p"):
        if name in given:
            given[name] = number_or_none(name, given[name])
    if "do_sample" in given:
        given["do_sample"] = yes(given["do_sample"])
    options = normalize_gen_kwargs(given, DEFAULT_NEW_TOKENS)
    known = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "rethink"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(
            f"generation option {unknown[0]!r} is not known to a Latent Thought Model.{nearest(unknown[0], known)}"
        )
    until = options.get("until") or ()
    if not all(isinstance(stop, str) for stop in until):
        raise UsageError(f"stop strings in `until` must be text, got {shown(next(iter(until)))}; quote them")
    return GenerationConfig(
        max_new_tokens=int(options["max_gen_toks"]),
        until=tuple(until),
        do_sample=bool(options.get("do_sample", False)),
        temperature=float(options.get("temperature") or 1.0),
        top_p=float(options.get("top_p", 1.0)),
        top_k=int(options.get("top_k") or 0),
        rethink=int(options.get("rethink") or 0),
    )


def yes(value: Any, name: str = "do_sample") -> bool:
    """Whether an option is asked for, also where a command line made text or a number of it.

    Raises:
        UsageError: it is neither true nor false.
    """
    word = str(value).strip().lower() if isinstance(value, (bool, int, float, str)) else ""
    if word not in _TRUE | _FALSE:
        raise UsageError(f"{name} must be true or false, got {shown(value)}")
    return word in _TRUE


def text(name: str, value: Any) -> str | None:
    """A text, or None; a host's command line makes numbers of what looks like one.

    Raises:
        UsageError: it is anything else.
    """
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} must be text, got {shown(value)}; quote it: {name}='...'")
    return value


def resolve_device(name: str | None) -> torch.device:
    """A torch device that exists; of several processes on one machine each gets a GPU of its own.

    lm-eval's command passes `cuda:0` to all of them, so that name means "the own one" there too.

    Raises:
        MachineError: it does not exist; the message lists those found.
    """
    launch = read_launch()
    if launch.world > 1 and torch.cuda.is_available() and name in (None, "", "auto", "cuda", HOST_DEFAULT_DEVICE):
        count = torch.cuda.device_count()
        if launch.local_rank >= count:
            raise MachineError(
                f"local rank {launch.local_rank} needs cuda:{launch.local_rank}, and this machine shows {count} GPU; "
                f"start at most {count} processes a machine, or pass --device cpu"
            )
        return torch.device(f"cuda:{launch.local_rank}")
    return existing_device(name)


def existing_device(name: str | torch.device | None) -> torch.device:
    """The device of a name, or the best there is for None and `auto`.

    Raises:
        UsageError: no device is named so.
        MachineError: it does not exist; the message lists those found.
    """
    found = (
        ["cpu"]
        + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        + (["mps"] if torch.backends.mps.is_available() else [])
    )
    if name in (None, "", "auto"):
        return torch.device(found[1] if len(found) > 1 else "cpu")
    try:
        device = torch.device(str(name))
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"device must be auto, cpu, cuda, cuda:N or mps, got {shown(name)}") from error
    wanted = f"cuda:{device.index or 0}" if device.type == "cuda" else device.type
    if wanted not in found:
        raise MachineError(f"device {name} is not here; found {', '.join(found)}. Pass --device {found[-1]}, or auto")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on an NVIDIA GPU, float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def host_arguments(known: list[str], given: dict[str, Any], host: dict[str, Any]) -> dict[str, Any]:
    """lm-eval's arguments under our names: unknown ones refused, its default device and `none` understood.

    Raises:
        UsageError: a name in `given` is not known.
    """
    for name in given:
        if name not in known:
            raise UsageError(
                f"model argument {name!r} is not known; known are {', '.join(known)}.{nearest(name, known)}"
            )
    merged = {name: value for name, value in {**host, **given}.items() if value not in (None, "none")}
    if merged.get("device") == HOST_DEFAULT_DEVICE and "device" not in given and not torch.cuda.is_available():
        merged["device"] = "auto"
    return merged


def whole(name: str, value: Any, default: int) -> int:
    """A whole number, also where the command line made 16.0 or '16' of it; None is the default.

    Raises:
        UsageError: it is anything else.
    """
    if value is None:
        return default
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number != int(number):
        raise UsageError(f"{name} must be a whole number, got {shown(value)}")
    return int(number)


def steps_or_auto(value: Any) -> int | str | None:
    """Fast steps, `auto`, or None for the preset's."""
    return value if value is None or value == AUTO else whole("t_fast", value, 0)


def number_or_none(name: str, value: Any) -> float | None:
    """A number, or None."""
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{name} must be a number, got {shown(value)}") from error
    if number is not None and not math.isfinite(number):
        raise UsageError(f"{name} must be a finite number, got {shown(value)}")
    return number


def fit_window(value: Any) -> int | str | None:
    """Most tokens of one fitted window, `each`, or None for the model's context.

    Raises:
        UsageError: it is anything else.
    """
    if value is None or value == EACH:
        return value if value is None else EACH
    number = whole("fit_window", value, 0)
    if number < 1:
        raise UsageError(f"fit_window must be {EACH!r} or at least 1 token, got {number}")
    return number


def batch_size_or_auto(value: Any) -> int | None:
    """None stands for auto, to be measured."""
    if value is None or str(value).partition(":")[0] == "auto":
        return None
    number = whole("batch_size", value, 1)
    if number < 1:
        raise UsageError(f"batch_size must be `auto` or at least 1, got {number}")
    return number
