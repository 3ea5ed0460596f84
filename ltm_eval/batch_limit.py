"""How much a batch of fits may hold: so many documents, or so many padded tokens as a device was seen to bear."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ltm_eval.batch import tokens_per_pass
from ltm_eval.decode import CPU_LANES
from ltm_eval.groups import alone
from ltm_eval.memory import give_back, ran_out
from ltm_eval.posterior import fit_together
from ltm_eval.windows import Document, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ltm_eval.config import FitConfig
    from ltm_eval.model import LatentThoughtModel

MAX_BATCH = 64
"""Most documents of full length that `auto` tries."""
MAX_DOCUMENTS = 512
"""Most documents of a batch that tokens limit, however short they are: each has latents of its own."""


@dataclass(frozen=True)
class BatchLimit:
    """What a batch may hold."""

    documents: int
    """Most documents."""
    tokens: int | None = None
    """Most padded tokens of a pass, over all documents; None does not count them."""
    full_length: int = 0
    """Documents of full length that a measured limit holds; 0 where nothing was measured."""

    @property
    def side_by_side(self) -> int:
        """Documents of any length that are worked on at once."""
        return self.full_length or self.documents

    def batches(self, documents: Iterable[Document | None]) -> Iterator[list[int]]:
        """Places of documents that are fitted together, in the order given; None stands for one without a fit.

        Where tokens count, a batch is of one shape, and holds count x padded length of them: documents of another
        shape would run by themselves anyway. One that is too large alone makes a batch, and is tried.
        """
        batch: list[int] = []
        first: Document | None = None
        for place, document in enumerate(documents):
            if batch and not self._joins(document, first, len(batch)):
                yield batch
                batch = []
            if not batch:
                first = document
            batch.append(place)
        if batch:
            yield batch

    def _joins(self, document: Document | None, first: Document | None, count: int) -> bool:
        if count >= self.documents:
            return False
        if self.tokens is None or document is None or first is None:
            return self.tokens is None or document is first
        return document.shape == first.shape and (count + 1) * tokens_per_pass(document) <= self.tokens


def batch_limit(model: LatentThoughtModel, config: FitConfig, *, asked: int | None, most: int | None) -> BatchLimit:
    """The limit for a model on its device.

    Args:
        asked: documents, as the user says; None measures on a GPU. On a CPU, where documents run alone, a batch is what
            a flush of the journal waits for.
        most: upper end of what is measured, in documents.
    """
    if asked is not None:
        return BatchLimit(asked)
    if alone(model):
        return BatchLimit(CPU_LANES)
    return measured_limit(model, config, most=most)


def measured_limit(model: LatentThoughtModel, config: FitConfig, *, most: int | None = None) -> BatchLimit:
    """What a fit step at the longest length was seen to bear, halving from `most` documents, or from 64."""
    length, size = model.config.max_seq_len, most or MAX_BATCH
    probe = replace(config, t_fast=1, adaptive=False)
    text = Document((Window((0,) * length, (0,) * length),))
    while size > 1 and not _bears(model, [text] * size, probe):
        give_back()
        size //= 2
    return BatchLimit(most or MAX_DOCUMENTS, size * tokens_per_pass(text), size)


def _bears(model: LatentThoughtModel, documents: list[Document], probe: FitConfig) -> bool:
    """Whether a step on all documents at once finds enough memory."""
    try:
        fit_together(model, documents, probe, seed=0)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        return False
    return True
