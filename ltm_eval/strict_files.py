"""Files written complete or not at all, as strict JSON or text.

A value JSON cannot hold is replaced, and the key `replaced` of the same object says where (JSON Pointer, RFC 6901) and
what stood there."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import failpoints
from ltm_eval.disk import cause, remedy
from ltm_eval.errors import MachineError
from ltm_eval.row_checks import REPLACED, mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def digest(text: str) -> str:
    """SHA-256 (hex) of `text`, as lm-eval hashes documents and prompts; lone surrogates are hashed as they are."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def strict_json(obj: Any) -> str:
    """`obj` as strict, indented JSON text; what JSON cannot hold is replaced as in every file."""
    return _strict(obj, indent=2) + "\n"


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """Write `obj` as strict, indented JSON: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    write_text_atomic(path, strict_json(obj))


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    _write_atomic(Path(path), [text])


def write_jsonl_atomic(path: str | Path, rows: Iterable[Any]) -> None:
    """Write one strict JSON line per row (a mapping or a record with `to_json`): complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    _write_atomic(Path(path), (_strict(row, indent=None) + "\n" for row in rows))


def _write_atomic(path: Path, chunks: Iterable[str]) -> None:
    partial = path.with_name(f".{digest(path.name)[:8]}.{os.getpid()}.tmp")
    try:
        failpoints.hit("results.open")
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            failpoints.hit("results.write")
            file.writelines(chunks)
            file.flush()
            failpoints.hit("results.sync")
            os.fsync(file.fileno())
        failpoints.hit("results.replace")
        partial.replace(path)
        failpoints.moment("results.replaced")
    except OSError as error:
        told = f"{cause(error, path)}; {remedy(error, path)} or choose another --output_path"
        raise MachineError(f"cannot write {path}: {told}") from error
    finally:
        _discard(partial)


def _discard(partial: Path) -> None:
    """Remove what an interrupted write left; after a good one there is nothing, and a lost disk cannot be helped."""
    try:
        partial.unlink(missing_ok=True)
    except OSError:
        return


def _strict(obj: Any, *, indent: int | None) -> str:
    replaced: dict[str, str] = {}
    plain = _plain(obj, at="", replaced=replaced)
    if replaced and isinstance(plain, dict):
        plain[REPLACED] = {**mapping(plain.get(REPLACED)), **replaced}
    text = json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
    # Readers that split at Unicode line ends would tear a JSONL line; these characters occur inside strings only.
    return text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(obj: Any, *, at: str, replaced: dict[str, str]) -> Any:
    """`obj` in JSON's own types.

    Non-finite numbers become null, lone surrogates U+FFFD, both noted in `replaced`; what JSON does not know
    becomes text.
    """
    if hasattr(obj, "to_json"):
        obj = obj.to_json()
    elif is_dataclass(obj) and not isinstance(obj, type):
        obj = asdict(obj)
    elif hasattr(obj, "tolist"):  # numpy and torch, without importing them
        obj = obj.tolist()
    elif isinstance(obj, (set, frozenset)):
        obj = sorted(obj, key=str)
    if isinstance(obj, dict):
        return _plain_mapping(obj, at=at, replaced=replaced)
    if isinstance(obj, (list, tuple)):
        return [_plain(value, at=f"{at}/{index}", replaced=replaced) for index, value in enumerate(obj)]
    if isinstance(obj, float):
        return _plain_float(obj, at=at, replaced=replaced)
    if obj is None or isinstance(obj, (bool, int)):
        return obj
    return _plain_text(str(obj), at=at, replaced=replaced)


def _plain_mapping(obj: Mapping[Any, Any], *, at: str, replaced: dict[str, str]) -> dict[str, Any]:
    plain = {}
    for key, value in obj.items():
        name = _plain_text(str(key), at=at, replaced=replaced)
        step = name.replace("~", "~0").replace("/", "~1")
        plain[name] = _plain(value, at=f"{at}/{step}", replaced=replaced)
    return plain


def _plain_float(value: float, *, at: str, replaced: dict[str, str]) -> float | None:
    if math.isfinite(value):
        return float(value)
    replaced[at] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return None


def _plain_text(value: str, *, at: str, replaced: dict[str, str]) -> str:
    clean = re.sub("[\ud800-\udfff]", "\ufffd", value)
    if clean != value:
        replaced[at] = "lone surrogate"
    return clean
