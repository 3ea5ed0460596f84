"""Sets of decoder layers whose latents stay active: which a probe tries, and how they are written.

Layers count from 1. A set is written as its runs of neighbours, `1-3,7`; the empty one as `none`. This is also the key
under which a probe's file and the explorer of the page find it.
"""

from __future__ import annotations

import re
from itertools import combinations

Layers = tuple[int, ...]
"""Layers from 1, ascending."""

NONE = "none"
GROUPS = 4
"""Groups of the stack that can be combined: its quarters, or single layers where there are fewer."""
MOST_LAYERS = 512
"""Of a model that a key is read for; keys come from files."""
_RUN = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?")


def key_of(layers: Layers) -> str:
    """`1-3,7` of (1, 2, 3, 7)."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or NONE


def layers_of(key: str) -> Layers:
    """The set that `key` writes.

    Raises:
        ValueError: it writes none, or not as `key_of` does.
    """
    found: list[int] = []
    for run in () if key == NONE else key.split(","):
        match = _RUN.fullmatch(run)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, MOST_LAYERS + 1)
        if last > MOST_LAYERS:
            raise ValueError(f"a set of layers such as 1-3,7 or {NONE}")
        found += range(first, last + 1)
    if key_of(tuple(found)) != key or found != sorted(set(found)):
        raise ValueError(f"a set of layers such as 1-3,7 or {NONE}")
    return tuple(found)


def words_of(key: str) -> str:
    """The set as a reader says it."""
    if key == NONE:
        return "no layer"
    return f"layer{'s' if '-' in key or ',' in key else ''} {key.replace('-', '–').replace(',', ', ')}"


def groups_of(n_layers: int) -> tuple[tuple[int, int], ...]:
    """First and last layer of each group; sizes differ by one at most."""
    count = min(GROUPS, n_layers)
    ends = [round(n_layers * place / count) for place in range(count + 1)]
    return tuple((low + 1, high) for low, high in zip(ends, ends[1:], strict=False))


def ranges_of(n_layers: int) -> list[Layers]:
    """Every contiguous range, L (L + 1) / 2 of them."""
    return [tuple(range(first, last + 1)) for first in range(1, n_layers + 1) for last in range(first, n_layers + 1)]


def group_sets(n_layers: int) -> list[Layers]:
    """Every combination of groups, none and all among them."""
    groups = groups_of(n_layers)
    return [
        tuple(layer for first, last in chosen for layer in range(first, last + 1))
        for size in range(len(groups) + 1)
        for chosen in combinations(groups, size)
    ]


def explored(n_layers: int) -> list[str]:
    """Keys of what the explorer can show: none, every range, every combination of groups; each once."""
    return list(dict.fromkeys(map(key_of, ((), *ranges_of(n_layers), *group_sets(n_layers)))))


def upward(n_layers: int) -> list[str]:
    """Keys of layers 1 ... l, for l = 0 ... L."""
    return [key_of(tuple(range(1, count + 1))) for count in range(n_layers + 1)]


def downward(n_layers: int) -> list[str]:
    """Keys of the last l layers, for l = 0 ... L."""
    return [key_of(tuple(range(n_layers - count + 1, n_layers + 1))) for count in range(n_layers + 1)]
