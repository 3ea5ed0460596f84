"""Headers of safetensors files, read before anything of the file is.

The format (github huggingface/safetensors, README) forbids duplicate names, holes and overlaps; its reader accepts the
first. A header that passes here tells the size of every tensor, and together they are the file: so what is loaded is
never larger than what lies on disk.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

HEADER_LIMIT = 2**22
"""Bytes; that of a Latent Thought Model has some ten thousand."""
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
}
"""Type name to the size of a number."""


def check_header(path: Path) -> None:
    """Raise CheckpointError unless the header is whole, each name is told once, and the tensors fill the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            raise CheckpointError(
                f"{path}: not a complete safetensors file: of {size:,} bytes, its header should take {length:,}; copy "
                "it again"
            )
        entries = _entries(file.read(length), path)
    spans = sorted(_span(name, entry, path) for name, entry in entries.items() if name != "__metadata__")
    end = 0
    for begin, after, name in spans:
        if begin != end:
            what = "a hole before" if begin > end else "an overlap at"
            raise CheckpointError(
                f"{path}: {what} tensor {name[:80]!r}; the file was not written as the format demands"
            )
        end = after
    if 8 + length + end != size:
        raise CheckpointError(
            f"{path}: not a complete safetensors file: {size:,} bytes, its header promises {8 + length + end:,}; copy "
            "it again"
        )


def _entries(header: bytes, path: Path) -> dict[str, Any]:
    """Name to what the header says of the tensor."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise CheckpointError(f"{path}: the header names {key[:80]!r} twice, so two readers may see two models")
            found[key] = value
        return found

    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not JSON; not a safetensors file, or damaged") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object; not a safetensors file")
    return entries


def _span(name: str, entry: Any, path: Path) -> tuple[int, int, str]:
    """Where a tensor begins and ends, as far as its type and shape agree with that."""
    told = entry if isinstance(entry, dict) else {}
    bits, shape, offsets = (
        BITS.get(str(told.get("dtype"))),
        _wholes(told.get("shape")),
        _wholes(told.get("data_offsets")),
    )
    if bits and shape is not None and offsets is not None and len(offsets) == 2:
        begin, end = offsets
        if end - begin == math.prod(shape) * bits // 8:
            return begin, end, name
    raise CheckpointError(
        f"{path}: tensor {name[:80]!r}: type, shape and place in the header do not agree; the file is damaged"
    )


def _wholes(value: Any) -> list[int] | None:
    """A list of sizes, or None where it is anything else."""
    good = isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)
    return value if good else None
