"""Parse the generation options that lm-eval passes with its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_eval.inference.options import GenerationConfig
from ltm_eval.system.errors import UsageError, nearest, shown, spelt
from ltm_eval.system.options import read
from ltm_eval.tasks.samples import IDLE, SAMPLING

if TYPE_CHECKING:
    from collections.abc import Mapping


DEFAULT_NEW_TOKENS = 256
NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = frozenset(("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "rethink"))
# Options of transformers that tasks of other authors name at the value that changes nothing.
_AT_ONE = frozenset(("num_beams", "num_beam_groups", "num_return_sequences", "repetition_penalty", "length_penalty"))


def generation_config(raw: Mapping[str, Any]) -> GenerationConfig:
    """Return lm-eval's generation options as ours.

    As in lm-eval, `do_sample` decides; if it is absent, a temperature above 0 means sampling. Greedy decoding uses no
    temperature (`unused_by_greedy`); beams and penalties are accepted at 1, which changes nothing.

    Raises:
        UsageError: an option is unknown, out of range or given twice, or sampling has temperature 0.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    given = {
        name: value for name, value in one_spelling(raw).items() if name not in _AT_ONE or value is True or value != 1
    }
    if given.get("do_sample") is False:
        given.pop("temperature", None)
    options = normalize_gen_kwargs(given, DEFAULT_NEW_TOKENS)
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


def unused_by_greedy(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling options that a request names and its greedy decoding does not use."""
    given = one_spelling(raw)
    if given.get("do_sample", bool(given.get("temperature"))):
        return {}
    return {name: given[name] for name, neutral in IDLE.items() if given.get(name, neutral) != neutral}


def one_spelling(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return generation options with numbers parsed and one name for the number of new tokens, without None.

    Raises:
        UsageError: a value has the wrong type, or the number of new tokens is given twice.
    """
    given = {name: value for name, value in options.items() if value is not None}
    tokens = [name for name in NEW_TOKENS if name in given]
    if len(tokens) > 1:
        raise UsageError(f"{' and '.join(tokens)} both set the maximum number of new tokens; give only {NEW_TOKENS[0]}")
    for name in tokens:
        given[NEW_TOKENS[0]] = read(GenerationConfig, "max_new_tokens", given.pop(name), spelled=name)
    for name in given.keys() & {"do_sample", "rethink", "temperature", "top_k", "top_p"}:
        given[name] = read(GenerationConfig, name, given[name])
    return given


def generation_changes(text: str | None) -> dict[str, Any]:
    """Parse `--gen_kwargs`; a value of None removes the task's own option.

    Raises:
        UsageError: it is not `name=value,...`, or an option is unknown or given twice.
    """
    from lm_eval.utils import handle_arg_string

    found: dict[str, Any] = {}
    for part in (text or "").split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not name and not equals:
            continue
        if not equals:
            raise UsageError(f"{spelt('gen_kwargs')} must be name=value joined by commas, got {shown(part)}")
        if name not in {*_KNOWN, *NEW_TOKENS} - {"rethink"}:  # set by --rethink
            raise UsageError(f"generation option {shown(name)} is not known.{nearest(name, _KNOWN)}")
        if name in found:
            raise UsageError(f"{spelt('gen_kwargs')} names {name} twice; give it once")
        found[name] = handle_arg_string(value)
    if one_spelling(found).get(NEW_TOKENS[0]) == 0:
        raise UsageError(f"{NEW_TOKENS[0]} must be at least 1, got 0: all answers would be empty")
    return found


def changed_decoding(own: Mapping[str, Any], changes: Mapping[str, Any], *, task: str) -> dict[str, Any]:
    """Merge a user's changes into a task's generation options, stated so that every kind of model decodes alike.

    Greedy decoding becomes temperature 0 without `top_p` and `top_k`; sampling always states all three, because the
    defaults of models differ.

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
                f"{name}={asked[name]} has no effect because task {task} decodes greedily; add {more}, or remove {name}"
            )
    return {
        **{name: value for name, value in merged.items() if name not in IDLE},
        "do_sample": False,
        "temperature": 0.0,
    }
