"""Which documents are computed together: on a GPU those of equal shape, in as many batches as memory asks for; on a CPU
each alone, or a few short ones (`lanes`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeVar

from ltm_eval.batch import bytes_per_token, tokens_per_pass
from ltm_eval.errors import MachineError
from ltm_eval.lanes import lane_groups
from ltm_eval.memory import give_back, ran_out
from ltm_eval.workers import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ltm_eval.model import LatentThoughtModel
    from ltm_eval.windows import Document

_Item = TypeVar("_Item")
_Part = TypeVar("_Part")


def in_halves(items: Sequence[_Item], work: Callable[[Sequence[_Item]], list[_Part]]) -> list[_Part]:
    """`work` on all items at once; where a GPU's memory runs out, on each half by itself, and so on.

    Raises:
        MachineError: there is not enough for a single item.
    """
    try:
        return work(items)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        if len(items) == 1:
            raise MachineError(
                "not enough memory for one document; use a smaller model, shorter context or another device"
            ) from error
    give_back()
    middle = len(items) // 2
    return [*in_halves(items[:middle], work), *in_halves(items[middle:], work)]


def alone(model: LatentThoughtModel) -> bool:
    """Whether documents share passes only where that changes no bit: on a CPU, where a batch seldom gains anything."""
    return model.device.type == "cpu"


def in_groups(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    work: Callable[[Sequence[int]], list[_Part]],
) -> list[_Part]:
    """`work` on the indices of documents that are computed together: one part per document, in their order.

    Those of equal shape are, in as many batches as memory asks for; or each is `alone`, on a core of its own, or with
    some of its shape where that changes no bit of it.
    """
    groups = _shapes(documents)
    if alone(model):
        groups = lane_groups(model, groups, documents)
        largest = max((len(own) * tokens_per_pass(documents[own[0]]) for own in groups), default=0)
        found = side_by_side(groups, work, bytes_each=largest * bytes_per_token(model))
    else:
        found = [in_halves(members, work) for members in groups]
    parts = {i: part for members, own in zip(groups, found, strict=True) for i, part in zip(members, own, strict=True)}
    return [parts[i] for i in range(len(documents))]


def _shapes(documents: Sequence[Document]) -> list[list[int]]:
    """Indices of documents with equal numbers of windows and equal padded lengths."""
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, document in enumerate(documents):
        shapes[document.shape].append(i)
    return list(shapes.values())


def each(model: LatentThoughtModel, items: Sequence[Any], work: Callable[[int], _Part]) -> list[_Part]:
    """`work` on the place of each item; on a CPU several side by side."""
    places = range(len(items))
    return side_by_side(places, work) if alone(model) else [work(i) for i in places]
