"""Fields of JSON rows, checked by type; what is wrong is named with its place."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ltm_eval.system.errors import ResultsError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


REPLACED = "replaced"


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("a whole number of at least 0")
    return value


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("a number")
    return float(value)


def _reals(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of numbers")
    return tuple(math.nan if item is None else _real(item) for item in value)


def _wholes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of whole numbers")
    return tuple(map(_whole, value))


def _rows_of_reals(value: Any) -> tuple[tuple[float, ...], ...]:
    if not isinstance(value, list):
        raise ValueError("a list of lists of numbers")
    return tuple(map(_reals, value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "int": _whole,
    "float": _real,
    "float | None": lambda value: None if value is None else _real(value),
    "tuple[float, ...]": _reals,
    "tuple[tuple[float, ...], ...]": _rows_of_reals,
    "tuple[int, ...]": _wholes,
    "str": _text,
    "bool": _flag,
}


Record = TypeVar("Record")


def record_of(cls: type[Record], row: Mapping[str, Any], *, where: str) -> Record:
    """The frozen record that `row` describes; `where` (file:line) opens every message.

    Raises:
        ResultsError: a field is unknown, of the wrong type, or absent and without a default; or the record refuses it.
    """
    known = fields(cls)  # type: ignore[arg-type]
    types = {field.name: str(field.type) for field in known}
    for name in row:
        if name not in types and name != REPLACED:
            raise ResultsError(f"{where}: unknown field {name!r}, written by another version?{nearest(name, types)}")
    wanted = [field.name for field in known if field.name in row or field.default is MISSING]
    values = {name: checked(row, name, kind=types[name], where=where) for name in wanted}
    try:
        return cls(**values)
    except ResultsError as error:
        raise ResultsError(f"{where}: {error}") from None


def checked(row: Mapping[str, Any], name: str, *, kind: str, where: str) -> Any:
    if name not in row:
        raise ResultsError(f"{where}: field {name} is missing; the file was not written by this program or was edited")
    try:
        return _CHECKS[kind](row[name])
    except (ValueError, OverflowError) as expected:
        raise ResultsError(f"{where}: field {name}: expected {expected}, got {str(row[name])[:80]!r}") from None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def finite(value: Any) -> float | None:
    """`value` as a finite number; lm-eval writes some numbers as text and unknown ones as N/A."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# What a results file and its samples hold, as frozen records.


@dataclass(frozen=True)
class AuditResult:
    """What a fit preset reports on uniformly random tokens."""

    preset: str
    """Name of the fit preset."""
    deficit_nats_per_block: float | None
    """T ln V minus the reported figure, mean over blocks; positive is impossible luck for a bound. None: no number."""
    stderr_nats: float | None
    """Standard error of that mean over blocks; None for a single block."""
    caught: bool
    """Whether the deficit exceeds 20 nats. A decoder whose latents carry little can leave a leak unnoticed."""
    is_bound: bool
    """Whether the preset takes its expectation over noise that the fit has not seen, and was not caught."""
    t_fast: int
    """Fast steps of the audit's fit."""
    figure: str
    """What was compared: `bound` (fresh draws) or `as_released` (the fit's own noise)."""
    blocks: int
    """Blocks of random tokens."""
    length: int
    """Scored tokens per block, T."""
    vocab: int
    """Vocabulary size, V."""
    seed: int
    """Of tokens and noise."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> AuditResult:
        """The verdict that `row` describes; fields of other versions are left alone.

        Raises:
            ResultsError: a field is absent or of the wrong type.
        """
        types = {field.name: str(field.type) for field in fields(cls)}
        return cls(**{name: checked(row, name, kind=kind, where=where) for name, kind in types.items()})
