"""Padded batches, and which documents are computed together.

On a GPU documents of equal shape share a batch, split as memory requires. On a CPU documents run side by side, and so
do the pieces of one if cores are left (`system.threads`); each piece is computed on one thread, because the sums of a
matrix product depend on its number of threads. A document has a pass of its own there, except that a few short
documents of a small model share one if a trial shows that each keeps its bits: the demo model's step on a short
document is mostly overhead.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ltm_eval.inference.windows import Document, Window
from ltm_eval.model.elbo import IGNORED, kl_nats, projected_nll_nats
from ltm_eval.system.device import give_back, ran_out, uploaded
from ltm_eval.system.errors import MachineError, UsageError
from ltm_eval.system.threads import one_thread, side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ltm_eval.model.decoder import Hidden, LatentThoughtModel


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_TOKENS_PER_PASS = 4096
# Parameters up to which one thread is as fast as several, which mostly wait for one another.
SMALL_PARAMETERS = 8_000_000
# Maximum padded tokens and documents of a shared pass on a CPU; it is 1.1 times faster at 256 tokens, 1.4 at 128.
SHARED_TOKENS = 512
SHARED_DOCUMENTS = 16
# Prompts decoded side by side on a CPU, and documents between two flushes of the journal. From 12 rows on, CPU matrix
# products gave each row the same bits whatever the other rows were (reports/NOTES.md).
CPU_LANES = 16


@dataclass(frozen=True)
class Rows:
    """Padded windows that run in one pass."""

    prelude: Hidden
    targets: Tensor  # (R, T)
    owner: Tensor  # (R,), index of the document that each row belongs to
    in_order: bool = False  # one row per document, in order, so that `owner` is not needed


@dataclass(frozen=True)
class Batch:
    """Documents of one padded length, for repeated evaluation of -log p(x|z) and its gradient in z."""

    model: LatentThoughtModel
    passes: tuple[Rows, ...]  # the split depends on the shape of one document only
    size: int  # documents B

    @classmethod
    def of(cls, model: LatentThoughtModel, documents: Sequence[Document]) -> Batch:
        """Pad and upload the windows of documents of equal shape."""
        longest = max(len(window.tokens) for document in documents for window in document.windows)
        limit = model.config.max_seq_len
        if longest > limit:
            raise UsageError(
                f"a window of {longest} tokens exceeds the model's context of {limit}; cut the text into windows first"
            )
        length = min(limit, documents[0].padded_length)
        n_windows = len(documents[0].windows)
        per_pass = max(1, _TOKENS_PER_PASS // length)
        passes = []
        for first in range(0, n_windows, per_pass):
            part = slice(first, first + per_pass)
            windows = [(i, window) for i, document in enumerate(documents) for window in document.windows[part]]
            tokens = torch.zeros(len(windows), length, dtype=torch.long)  # (R, T)
            targets = torch.full((len(windows), length), IGNORED, dtype=torch.long)  # (R, T)
            for row, (_, window) in enumerate(windows):
                tokens[row, : len(window.tokens)] = torch.tensor(window.tokens)
                targets[row, : len(window.targets)] = torch.tensor(window.targets)
            owner = torch.tensor([i for i, _ in windows])
            with torch.no_grad():
                prelude = model.prelude(uploaded(tokens, model.device))
            passes.append(Rows(prelude, uploaded(targets, model.device), uploaded(owner, model.device), n_windows == 1))
        return cls(model, tuple(passes), len(documents))

    def repeated(self, times: int) -> Batch:
        """Repeat the single document `times` times, reusing its cached first layer."""
        assert self.size == 1
        passes = [
            Rows(
                rows.prelude.repeated(times),
                rows.targets.repeat(times, 1),
                torch.arange(times, device=rows.owner.device).repeat_interleave(len(rows.owner)),
                rows.in_order,
            )
            for rows in self.passes
        ]
        return Batch(self.model, tuple(passes), times)

    def descend(self, mu: Tensor, log_var: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Set mu.grad and log_var.grad to the gradient of the summed -ELBO; return nll and kl, (B,), detached."""
        with torch.no_grad():
            sigma = (0.5 * log_var).exp()
            mu.grad, log_var.grad = mu.detach().clone(), 0.5 * (log_var.exp() - 1)  # gradient of the KL
            total = torch.zeros(self.size, device=mu.device)
        for draw in noise:
            for rows in self.passes:
                z = torch.addcmul(mu.detach(), draw, sigma).requires_grad_()
                nll = self._nll(rows, z) / len(noise)
                (slope,) = torch.autograd.grad(nll.sum(), z)  # of z only, even if a trainer's weights take gradients
                total += nll.detach()
                mu.grad += slope
                log_var.grad += slope * draw * (0.5 * sigma)
        return total, kl_nats(mu.detach(), log_var.detach())

    def expected_nll_nats(self, mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
        """Return the mean over draws of -log p(x | mu + draw * sigma), (B,), without a gradient."""
        with torch.no_grad():
            draws = [self.nll_nats(mu + draw * (0.5 * log_var).exp()) for draw in noise]
        return torch.stack(draws).mean(0)

    def nll_nats(self, z: Tensor | None) -> Tensor:
        """Return -log p(x|z) per document: (B, L, N, D) to (B,); None skips cross-attention."""
        total = torch.zeros(self.size, device=self.model.device)
        for rows in self.passes:
            total = total + self._nll(rows, z)
        return total

    def _nll(self, rows: Rows, z: Tensor | None) -> Tensor:
        hidden = self.model.hidden(rows.prelude, z if z is None or rows.in_order else z[rows.owner])
        per_row = projected_nll_nats(hidden.states, self.model.output_weight, rows.targets)
        if rows.in_order:
            return per_row
        return torch.zeros(self.size, device=per_row.device).index_add(0, rows.owner, per_row)


def tokens_per_pass(document: Document) -> int:
    """Return the number of padded tokens of a document in one pass."""
    return min(_TOKENS_PER_PASS, len(document.windows) * document.padded_length)


# Grouping -------------------------------------------------------------------------------------------------------------


def alone(model: LatentThoughtModel) -> bool:
    """Return whether documents may share a pass only if no bit changes: on a CPU."""
    return model.device.type == "cpu"


def is_small(model: torch.nn.Module) -> bool:
    """Return whether a model is on the CPU and small enough to compute on one thread."""
    weights = list(model.parameters())
    return weights[0].device.type == "cpu" and sum(weight.numel() for weight in weights) <= SMALL_PARAMETERS


def in_groups(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    work: Callable[[Sequence[int]], list[_Result]],
    *,
    shrinking: bool = False,
) -> list[_Result]:
    """Call `work` on the indices of documents to compute together; return one result per document, in order.

    Args:
        shrinking: whether documents leave their group one by one during `work`.
    """
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, document in enumerate(documents):
        shapes[document.shape].append(i)
    groups: list[Sequence[int]] = list(shapes.values())
    if alone(model):
        groups = [group for members in groups for group in _cut(model, documents, members, shrinking=shrinking)]
        largest = max((len(group) * tokens_per_pass(documents[group[0]]) for group in groups), default=0)
        # Per token, layer and unit of width a step keeps about 24 fp32 values for its backward pass.
        bytes_each = largest * 24 * 4 * model.config.dim * model.config.n_layers
        found = side_by_side(groups, work, bytes_each=bytes_each)
    else:
        found = [in_halves(members, work) for members in groups]
    parts = {i: part for members, own in zip(groups, found, strict=True) for i, part in zip(members, own, strict=True)}
    return [parts[i] for i in range(len(documents))]


def _cut(
    model: LatentThoughtModel, documents: Sequence[Document], members: Sequence[int], *, shrinking: bool
) -> list[Sequence[int]]:
    """Split documents of one shape into shared passes on a CPU, evenly over its cores."""
    first = documents[members[0]]
    most = 1
    if is_small(model) and not model.compiled:  # code would be compiled for each number of documents
        most = min(SHARED_DOCUMENTS, SHARED_TOKENS // tokens_per_pass(first))
    each_core = -(-len(members) // min(torch.get_num_threads(), len(members)))
    size = max(1, min(most, each_core))
    groups = [members[start : start + size] for start in range(0, len(members), size)]
    found: list[Sequence[int]] = []
    for group in groups:
        counts = range(2, len(group) + 1) if shrinking else [len(group)]
        shared = all(keeps_bits(model, first.shape, count) for count in counts)
        found += [group] if shared else [[i] for i in group]
    return found


_tried: WeakKeyDictionary[LatentThoughtModel, dict[tuple[object, ...], bool]] = WeakKeyDictionary()


def keeps_bits(model: LatentThoughtModel, shape: tuple[int, int], count: int) -> bool:
    """Return whether a step on `count` documents of a shape gives each its own bits; tried once per model.

    The trial uses random documents: kernels depend on shapes, not on content.
    """
    if count == 1:
        return True
    known = _tried.setdefault(model, {})
    key = (shape, count, model.blocks[0].attention.wk.weight.dtype)
    if key not in known:
        stream = torch.Generator().manual_seed(count)
        windows, length = shape
        length = min(length, model.config.max_seq_len)
        drawn = torch.randint(0, model.config.vocab_size, (count, windows, 2, length), generator=stream).tolist()
        texts = [Document(tuple(Window(tuple(read), tuple(scored)) for read, scored in own)) for own in drawn]
        latents = torch.randn(3, count, *model.config.latent_shape, generator=stream)  # mu, log_var, noise

        def step(part: slice) -> list[Tensor]:
            mu, log_var = (one[part].clone().requires_grad_() for one in latents[:2])
            terms = Batch.of(model, texts[part]).descend(mu, log_var, latents[2:, part])
            assert mu.grad is not None and log_var.grad is not None
            return [mu.grad, log_var.grad, *terms]

        with one_thread():
            together = step(slice(count))
            known[key] = all(
                torch.equal(own, all_[i : i + 1])
                for i in range(count)
                for own, all_ in zip(step(slice(i, i + 1)), together, strict=True)
            )
    return known[key]


def in_halves(items: Sequence[_Item], work: Callable[[Sequence[_Item]], list[_Result]]) -> list[_Result]:
    """Return `work` on all items at once; if a GPU's memory runs out, on each half, recursively.

    Raises:
        MachineError: there is not enough memory for a single item.
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


def each(model: LatentThoughtModel, items: Sequence[Any], work: Callable[[int], _Result]) -> list[_Result]:
    """Return `work` on the index of each item, several at once on a CPU."""
    places = range(len(items))
    return side_by_side(places, work) if alone(model) else [work(i) for i in places]


# Size of a batch ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BatchLimit:
    """Limit of a batch of fits: a number of documents, or of padded tokens that a device was measured to hold."""

    documents: int
    tokens: int | None = None  # padded tokens of a pass, over all documents; None for no limit
    full_length: int = 0  # documents of full length within a measured limit; 0 if nothing was measured

    @property
    def side_by_side(self) -> int:
        """Number of documents of any length to process at once."""
        return self.full_length or self.documents

    def batches(self, documents: Iterable[Document | None]) -> Iterator[list[int]]:
        """Yield the indices of documents to fit together, in order; None is a document without a fit.

        If tokens are limited, the documents of a batch have one shape: others would run in passes of their own anyway.
        A document above the limit is a batch of its own, and is tried.
        """
        batch: list[int] = []
        first: Document | None = None
        for place, document in enumerate(documents):
            if self.tokens is None:
                joins = True
            elif document is None or first is None:
                joins = document is first
            else:
                fits = (len(batch) + 1) * tokens_per_pass(document) <= self.tokens
                joins = document.shape == first.shape and fits
            if batch and not (joins and len(batch) < self.documents):
                yield batch
                batch = []
            if not batch:
                first = document
            batch.append(place)
        if batch:
            yield batch
