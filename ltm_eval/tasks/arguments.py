"""What lm-eval passes to a model's constructor and to its requests, made sense of.

lm-eval 0.4.13's command turns `-1` into -1.0 and `none` into text, and passes `device="cuda:0"` on every machine and
sizes as int or str.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from ltm_eval.inference.options import AUTO, EACH, GenerationConfig
from ltm_eval.system.device import HOST_DEFAULT_DEVICE
from ltm_eval.system.errors import UsageError, nearest, shown
from ltm_eval.tasks.samples import IDLE, SAMPLING

if TYPE_CHECKING:
    from collections.abc import Mapping


DEFAULT_NEW_TOKENS = 256


NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = frozenset(("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "rethink"))
_TRUE, _FALSE = {"true", "1", "1.0"}, {"false", "0", "0.0"}


def generation_config(raw: Mapping[str, Any]) -> GenerationConfig:
    """lm-eval's generation options as ours.

    As everywhere in lm-eval, `do_sample` decides; where it is absent, a temperature above 0 samples. Greedy decoding
    uses no temperature.

    Raises:
        UsageError: an option is not known, out of range or told twice, or sampling is asked for at temperature 0.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    options = normalize_gen_kwargs(one_spelling(raw), DEFAULT_NEW_TOKENS)
    unknown = sorted(set(options) - _KNOWN)
    if unknown:
        raise UsageError(
            f"generation option {unknown[0]!r} is not known to a Latent Thought Model.{nearest(unknown[0], _KNOWN)}"
        )
    until = options.get("until") or ()
    if not all(isinstance(stop, str) for stop in until):
        raise UsageError(f"stop strings in `until` must be text, got {shown(next(iter(until)))}; quote them")
    used = ("top_p", "top_k", "rethink", *(("temperature",) if options["do_sample"] else ()))
    return GenerationConfig(
        max_new_tokens=options["max_gen_toks"],
        until=tuple(until),
        do_sample=options["do_sample"],
        **{name: options[name] for name in used if name in options},
    )


def one_spelling(options: Mapping[str, Any]) -> dict[str, Any]:
    """Generation options with numbers as numbers and new tokens under one name; those that are None are left out.

    Raises:
        UsageError: a value is of another kind, or the number of new tokens is told twice.
    """
    given = {name: value for name, value in options.items() if value is not None}
    tokens = [name for name in NEW_TOKENS if name in given]
    if len(tokens) > 1:
        raise UsageError(f"{' and '.join(tokens)} both tell the most new tokens; give {NEW_TOKENS[0]} only")
    for name in tokens:
        given[NEW_TOKENS[0]] = whole(name, given.pop(name), 0)
    for name in given.keys() & {"top_k", "rethink"}:
        given[name] = whole(name, given[name], 0)
    for name in given.keys() & {"temperature", "top_p"}:
        given[name] = number_or_none(name, given[name])
    if given.get("temperature", 0.0) < 0:
        raise UsageError(f"temperature must be at least 0, got {given['temperature']}")
    if "do_sample" in given:
        given["do_sample"] = yes(given["do_sample"])
    return given


def generation_changes(told: str | None) -> dict[str, Any]:
    """The options of `--gen_kwargs`, each once; None removes one of the task's.

    Raises:
        UsageError: it is not `name=value,...`, or an option is not known or named twice.
    """
    from lm_eval.utils import handle_arg_string

    found: dict[str, Any] = {}
    for part in (told or "").split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not name and not equals:
            continue
        if not equals:
            raise UsageError(f"gen_kwargs must be name=value joined by commas, got {shown(part)}")
        if name not in {*_KNOWN, *NEW_TOKENS} - {"rethink"}:  # which is asked for by an option of its own
            raise UsageError(f"generation option {shown(name)} is not known.{nearest(name, _KNOWN)}")
        if name in found:
            raise UsageError(f"gen_kwargs names {name} twice; give it once")
        found[name] = handle_arg_string(value)
    one_spelling(found)
    return found


def changed_decoding(own: Mapping[str, Any], changes: Mapping[str, Any], *, task: str) -> dict[str, Any]:
    """A task's generation options with a user's changes, telling what is done by every kind of model.

    Greedy decoding is told as temperature 0 without `top_p` and `top_k`; sampling with all three, because models
    differ in what they take for one that is absent.

    Raises:
        UsageError: a change has no effect, contradicts the task's options, or cannot be used.
    """
    kept = one_spelling(own)
    for name in {NEW_TOKENS[0] if name in NEW_TOKENS else name for name in changes}:
        kept.pop(name, None)
    asked = one_spelling(changes)
    merged = {**kept, **asked}
    temperature = merged.get("temperature")
    samples = merged.get("do_sample", bool(temperature))
    if samples and temperature == 0:
        raise UsageError(
            f"task {task} would sample at temperature 0; for greedy decoding set do_sample=false, for sampling "
            "do_sample=true,temperature=1"
        )
    if samples:
        return {**SAMPLING, **merged, "do_sample": True}
    for name, neutral in IDLE.items():
        if asked.get(name, neutral) != neutral:
            more = "do_sample=true" if name == "temperature" else "do_sample=true,temperature=1"
            raise UsageError(
                f"{name}={asked[name]} does nothing: task {task} decodes greedily; add {more}, or leave {name} out"
            )
    return {
        **{name: value for name, value in merged.items() if name not in IDLE},
        "do_sample": False,
        "temperature": 0.0,
    }


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
        number = None if value is None else math.nan if isinstance(value, bool) else float(value)
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
    return at_least_one("batch_size", value, instead="`auto` or ")


def at_least_one(name: str, value: Any, *, instead: str = "") -> int | None:
    """A whole number from 1, or None.

    Raises:
        UsageError: it is anything else; the message names what may stand `instead`.
    """
    if value is None:
        return None
    number = whole(name, value, 1)
    if number < 1:
        raise UsageError(f"{name} must be {instead}at least 1, got {number}")
    return number
