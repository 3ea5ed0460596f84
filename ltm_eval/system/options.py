"""Options as fields: type, range, help, flags and default of an option stand once, on a field of a frozen dataclass.

    limit: Annotated[int | None, Field(ge=1, description=HELP), Option("--limit", "-L", metavar="N")] = None

`@options()` makes such a class a pydantic dataclass: its constructor, and so `dataclasses.replace`, checks every value,
and raises our one-line error in place of pydantic's. Python values must be of a field's type; `read` takes what a
command line or lm-eval makes of one (`"16"`, `16.0`, `"true"`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pydantic.dataclasses
from pydantic import ConfigDict, Strict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import dataclass_transform

from ltm_eval.system.errors import LtmEvalError, UsageError, nearest, shown, spelt

T = TypeVar("T")
UNTOLD = 2**31  # bounds from there on only keep numbers from overflowing, messages leave them out

Many = Annotated[tuple[T, ...], Strict(False)]  # a field of several values, which may be given as a list

# What an option changes: what a model answers to the same request; what is asked of it and which figures are made of
# that; whether the run counts as done; none of these
ANSWERS, QUESTIONS, VERDICT, NOTHING = "answers", "questions", "verdict", "nothing"


@dataclass(frozen=True, init=False)
class Option:
    """How an option is given on the command line, and what it changes; its type and help stand on the field."""

    flags: tuple[str, ...]
    name: str  # as messages spell it; empty for the field's own name
    metavar: str | None
    panel: str | None
    default: str  # what help shows for the default; empty for the value itself
    listed: bool  # comma-separated values
    reader: Callable[[str], Any] | None  # of the command line's text, in place of the type
    repeatable: bool  # the flag may be given several times
    environment: bool  # whether LTM_EVAL_<FLAG> gives it too
    changes: tuple[str, ...]
    recorded: tuple[str, ...]  # names under which `get_model_info` records what it did

    def __init__(  # noqa: PLR0913 - one argument for each thing that can be said of an option
        self,
        *flags: str,
        name: str = "",
        metavar: str | None = None,
        panel: str | None = None,
        default: str = "",
        listed: bool = False,
        reader: Callable[[str], Any] | None = None,
        repeatable: bool = False,
        environment: bool = True,
        changes: str | tuple[str, ...] = (),
        recorded: str | tuple[str, ...] = (),
    ) -> None:
        given = {
            "flags": flags,
            "name": name,
            "metavar": metavar,
            "panel": panel,
            "default": default,
            "listed": listed,
            "reader": reader,
            "repeatable": repeatable,
            "environment": environment,
            "changes": (changes,) if isinstance(changes, str) else changes,
            "recorded": (recorded,) if isinstance(recorded, str) else recorded,
        }
        for key, value in given.items():
            object.__setattr__(self, key, value)


@dataclass_transform(frozen_default=True)
def options(*, error: type[LtmEvalError] = UsageError, where: str = "") -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass that checks its fields.

    Args:
        error: what a wrong value raises.
        where: begins its message.
    """

    def made(cls: type[T]) -> type[T]:
        checked: Any = pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))(cls)
        construct = checked.__init__

        @wraps(construct)
        def init(self: Any, *args: Any, **given: Any) -> None:
            try:
                construct(self, *args, **given)
            except ValidationError as found:
                raise error(where + complaint(checked, found)) from None

        checked.__init__ = init
        return checked  # type: ignore[no-any-return]

    return made


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the annotation of every field, with what `Annotated` adds."""
    return get_type_hints(cls, include_extras=True)


def _extras(cls: type, name: str) -> tuple[Any, ...]:
    kind = _hints(cls)[name]
    return get_args(kind)[1:] if get_origin(kind) is Annotated else ()


@cache
def option_of(cls: type, name: str) -> Option:
    """Return the mark of a field; an empty one if it has none."""
    return next((extra for extra in _extras(cls, name) if isinstance(extra, Option)), Option())


def help_of(cls: type, name: str) -> str:
    """Return the description of a field."""
    return next((one.description for one in _extras(cls, name) if getattr(one, "description", None)), "")


def spelling(cls: type, name: str) -> str:
    """Return a field as the caller spells it; one that is no option of a command by its name."""
    option = option_of(cls, name)
    return spelt(option.name or name) if option.flags else option.name or name


def names_of(cls: Any) -> tuple[str, ...]:
    """Return the names of the fields."""
    return tuple(field.name for field in fields(cls))


def changing(cls: type, what: str) -> tuple[str, ...]:
    """Return the options that change the answers, the questions, the verdict or nothing."""
    return tuple(name for name in names_of(cls) if what in option_of(cls, name).changes)


def _bare(kind: Any) -> Any:
    """Return a type without marks, and without None beside it."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    members = [one for one in get_args(kind) if one is not NoneType] if get_origin(kind) in (Union, UnionType) else []
    return _bare(members[0]) if len(members) == 1 else kind


def kind_at(kind: Any, path: Iterable[Any]) -> Any:
    """Return the annotation of what lies at a path of names and indices; what has no parts lies at any index."""
    for step in path:
        bare = _bare(kind)
        if is_dataclass(bare):
            kind = _hints(bare)[step]  # type: ignore[arg-type]
        elif get_origin(bare) in (tuple, Mapping):
            kind = get_args(bare)[0 if isinstance(step, int) else 1]
        elif get_origin(bare) in (Union, UnionType):  # pydantic names the member that was tried
            kind = next((one for one in get_args(bare) if getattr(one, "__name__", None) == step), kind)
    return kind


@cache
def _adapter(cls: type, name: str, item: bool) -> TypeAdapter[Any]:
    return TypeAdapter(kind_at(cls, (name, 0) if item else (name,)))


def read(cls: type, name: str, value: Any, *, spelled: str = "", item: bool = False) -> Any:
    """Return a value of a field from text, JSON or lm-eval's arguments; a number is never a truth value.

    Args:
        spelled: the caller's name of the option.
        item: whether it is one item of a field of several values.

    Raises:
        UsageError: it cannot be used.
    """
    try:
        return _adapter(cls, name, item).validate_python(value, strict=isinstance(value, bool) or None)
    except ValidationError as found:
        loc = found.errors()[0]["loc"]
        inside = bool(loc) and isinstance(loc[0], int)
        given = found.errors()[0]["input"] if inside else value
        kind = kind_at(cls, (name, 0) if item or inside else (name,))
        told = spelled or spelling(cls, name)
        raise UsageError(_must_be(told, kind, given, optional=value is None)) from None


def split(cls: type, name: str, text: str, *, spelled: str = "") -> tuple[Any, ...]:
    """Return the values of a comma-separated text, each once."""
    parts = (read(cls, name, part.strip(), spelled=spelled, item=True) for part in text.split(","))
    return tuple(dict.fromkeys(parts))


def complaint(cls: type, found: ValidationError) -> str:
    """Return pydantic's error as our line: the option as the caller spells it, what was expected, what came."""
    first = found.errors(include_url=False)[0]
    place, *inside = first["loc"]
    name = names_of(cls)[place] if isinstance(place, int) else place
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown option {name!r}.{nearest(name, names_of(cls))}"
    spelled = spelling(cls, name)
    if first["type"] == "missing":
        return f"{spelled} is missing"
    path = (name, 0) if inside and isinstance(inside[0], int) else (name,)
    return _must_be(spelled, kind_at(cls, path), first["input"])


def _must_be(spelled: str, kind: Any, value: Any, *, optional: bool = True) -> str:
    """Return the line on an option: what was expected and what came."""
    words = expected(kind, value, optional=optional)
    is_text = words.startswith("text") and isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{spelled} must be {words}" + (f"; quote it: {spelled}='...'" if is_text else "")


def expected(kind: Any, value: Any, *, optional: bool = True) -> str:
    """Return what was expected and what came, such as `a number, got 'x'`."""
    bare = _bare(kind)
    if get_origin(bare) is not Literal:
        return f"{in_words(kind, optional=optional)}, got {shown(value)}"
    choices = tuple(filter(None, get_args(bare)))
    hint = f".{nearest(value, choices)}" if isinstance(value, str) else ""
    return f"one of {', '.join(choices)}, got {shown(value)}{hint}"


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "None"}


def in_words(kind: Any, *, optional: bool = True) -> str:
    """Return a type and its range in words.

    Args:
        optional: whether None is named if it is allowed.
    """
    bounds: list[Any] = []
    while get_origin(kind) is Annotated:
        kind, *extras = get_args(kind)
        bounds += [one for extra in extras for one in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(in_words(one) for one in args if optional or one is not NoneType)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is tuple:
        return f"a list, each item {in_words(args[0], optional=False)}"
    words = _WORDS.get(kind, "an object" if is_dataclass(kind) or origin is Mapping else f"a {kind.__name__}")
    if any(isinstance(one, pydantic.AllowInfNan) for one in bounds):
        words = "a finite number"
    above, low, high = (
        next((getattr(one, name) for one in bounds if getattr(one, name, None) is not None), None)
        for name in ("gt", "ge", "le")
    )
    above, low = (None if end is not None and end <= -UNTOLD else end for end in (above, low))
    below = next((one.lt for one in bounds if getattr(one, "lt", None) is not None and one.lt < UNTOLD), None)
    if above == 0 and high is None and below is None:
        return words.replace("a ", "a positive ", 1)
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    ends = [f"above {above}"] * (above is not None) + [f"of at least {low}"] * (low is not None)
    ends += [f"below {below}"] * (below is not None) + [f"at most {high}"] * (high is not None)
    return " ".join([words, *" and ".join(ends).split()])
