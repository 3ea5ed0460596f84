"""Records: frozen dataclasses that lie in files as JSON objects, described by their annotations, checked by pydantic.

    @dataclass(frozen=True)
    class Held(Record):
        doc_id: Whole
        reason: Literal["length", "end_of_text"]

    Held.from_json({"doc_id": -1, "reason": "length"}, where="f.jsonl:3")
    # ResultsError: f.jsonl:3: field doc_id: expected a whole number of at least 0, got -1

What is read from a file is checked, once; what the program itself makes is not. Values of other programs, which write
the same thing in several ways, are taken by `mapping`, `count` and `finite`, and passed over where they are unusable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from ltm_eval.system.errors import ResultsError, nearest
from ltm_eval.system.options import expected, kind_at, names_of

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

REPLACED = "replaced"  # key under which `system.files` notes what JSON could not hold


def _nan_for_null(values: Any) -> Any:
    """Return a list as it was before its non-finite numbers were replaced."""
    return (
        [math.nan if one is None else one for one in values] if isinstance(values, list) and None in values else values
    )


Whole = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Wholes = Annotated[tuple[Whole, ...], Strict(False)]
Reals = Annotated[tuple[float, ...], Strict(False), BeforeValidator(_nan_for_null)]


class Record:
    """Base of frozen dataclasses that are stored as JSON objects."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Let a JSON object stand for a record; its fields stay strict."""
        return {**handler(source), "strict": False}

    def to_json(self) -> dict[str, Any]:
        """Return a plain mapping, which `from_json` reads back."""
        plain: dict[str, Any] = _adapter(type(self)).dump_python(self)
        return plain

    @classmethod
    def from_json(cls, row: Any, *, where: str, at: str = "") -> Self:
        """Return the record that a JSON object describes.

        Args:
            row: the object.
            where: file, or file:line; begins every message.
            at: path of the object in its file or line.

        Raises:
            ResultsError: a field is absent, of the wrong type, out of range or, unless the class allows it, unknown.
        """
        return checked(cls, row, where=where, at=at)


class OpenRecord(Record):
    """Base of records whose unknown fields, which other versions write, are passed over."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore")


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def checked(kind: type[T], value: Any, *, where: str, at: str = "") -> T:
    """Return a value read from a file as a value of type `kind`; see `Record.from_json`.

    Raises:
        ResultsError: it is none.
    """
    if isinstance(value, dict) and REPLACED in value:
        value = {name: part for name, part in value.items() if name != REPLACED}
    try:
        found: T = _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise ResultsError(f"{where}: {_complaint(kind, error, at=at)}") from None
    return found


def _complaint(kind: Any, found: ValidationError, *, at: str) -> str:
    """Return pydantic's error as our line: the field by its path, what was expected, what came."""
    first = found.errors(include_url=False)[0]
    path, value = first["loc"], first["input"]
    if first["type"] == "unexpected_keyword_argument":
        *outer, name = path
        hint = nearest(str(name), names_of(kind_at(kind, outer)))
        return f"unknown field {name!r}, written by another version?{hint}"
    place = (at + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)).removeprefix(".")
    if first["type"] == "missing":
        return f"field {place} is missing; the file was not written by this program or was edited"
    if first["type"] == "value_error":  # a check of the record's own, whose message goes on with the path
        return f"field {place}{'.' if place else ''}{first['ctx']['error']}"
    return f"{f'field {place}: ' if place else ''}expected {expected(kind_at(kind, path), value, optional=False)}"


def mapping(value: Any) -> dict[str, Any]:
    """Return `value` if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def count(value: Any) -> int | None:
    """Return `value` if it is a whole number of at least 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def finite(value: Any) -> float | None:
    """Return `value` as a finite number; lm-eval writes some numbers as text and unknown ones as N/A."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class AuditResult(OpenRecord):
    """What a fit preset reports on uniformly random tokens."""

    preset: str
    # T ln V minus the reported figure, mean over blocks; positive is impossible luck for a bound. None: no number
    deficit_nats_per_block: float | None
    stderr_nats: float | None  # of that mean over blocks; None for a single block
    caught: bool  # whether the deficit exceeds 20 nats; a decoder whose latents carry little can leave a leak unnoticed
    is_bound: bool  # whether its expectation is over noise that the fit has not seen, and it was not caught
    t_fast: Whole
    figure: str  # what was compared: `bound` (fresh draws) or `as_released` (the fit's own noise)
    blocks: Whole
    length: Whole  # scored tokens per block, T
    vocab: Whole  # vocabulary size, V
    seed: Whole  # of tokens and noise
