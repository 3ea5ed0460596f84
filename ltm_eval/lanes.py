"""Short documents that share passes on a CPU, where a small model's step on one of them is mostly the overhead of
operations (benchmarks/RESULTS.md).

They may only where a document's bits stay its own: a step on documents together is compared, once for every shape, with
the step on each alone. Matrix products of 12 rows or more gave each row the same bits whatever stood beside it
(reports/NOTES.md), but that is a property of a machine's library. Where a bit differs every document runs alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from ltm_eval.batch import Batch, tokens_per_pass
from ltm_eval.windows import Document, Window
from ltm_eval.workers import is_small, one_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.model import LatentThoughtModel

TOKENS = 512
"""Most padded tokens of a shared pass: at 256 a document gains 1.1 times, at 128 1.4 times."""
MOST = 16
"""Most documents of a shared pass."""

_checked: WeakKeyDictionary[LatentThoughtModel, dict[tuple[object, ...], bool]] = WeakKeyDictionary()


def lane_groups(
    model: LatentThoughtModel, shapes: Sequence[Sequence[int]], documents: Sequence[Document]
) -> list[list[int]]:
    """Places of documents of equal shape, cut into those that share a pass on one core; evenly over the cores.

    Args:
        shapes: places of the documents of each shape.
    """
    return [group for members in shapes for group in _cut(members, lanes(model, documents[members[0]]))]


def _cut(members: Sequence[int], most: int) -> list[list[int]]:
    """Runs of at most `most`, as many at least as there are cores to take them."""
    cores = min(torch.get_num_threads(), len(members))
    each = min(most, -(-len(members) // cores))
    return [list(members[start : start + each]) for start in range(0, len(members), each)]


def lanes(model: LatentThoughtModel, document: Document) -> int:
    """How many documents of this one's shape share a pass."""
    most = min(MOST, TOKENS // tokens_per_pass(document))
    if most < 2 or not is_small(model) or model.compiled:  # a compiler would make code for each number of documents
        return 1
    return most if keeps_bits(model, document.shape, most) else 1


def keeps_bits(model: LatentThoughtModel, shape: tuple[int, int], count: int) -> bool:
    """Whether a step on documents of a shape gives each the bits that it has alone."""
    known = _checked.setdefault(model, {})
    key = (shape, count, model.blocks[0].attention.wk.weight.dtype)
    if key not in known:
        with one_thread():
            known[key] = _compared(model, shape, count)
    return known[key]


def _compared(model: LatentThoughtModel, shape: tuple[int, int], count: int) -> bool:
    stream = torch.Generator().manual_seed(count)
    windows, length = shape
    length = min(length, model.config.max_seq_len)
    drawn = torch.randint(0, model.config.vocab_size, (count, windows, 2, length), generator=stream).tolist()
    texts = [Document(tuple(Window(tuple(read), tuple(scored)) for read, scored in own)) for own in drawn]
    latents = torch.randn(3, count, *model.config.latent_shape, generator=stream)
    if not _project_alike(model, latents[0]):
        return False
    for size in dict.fromkeys((count, 2)):  # the last pass of a group is seldom full
        together = _step(model, texts[:size], latents[:, :size])
        for i in (0, size // 2, size - 1):
            alone = _step(model, [texts[i]], latents[:, i : i + 1])
            if any(not torch.equal(own, all_[i : i + 1]) for own, all_ in zip(alone, together, strict=True)):
                return False
    return True


def _project_alike(model: LatentThoughtModel, z: torch.Tensor) -> bool:
    """Whether products with latents give each document's the same bits: theirs are the only ones of few rows, so every
    number of documents up to z's is tried.
    """
    alone = [_projected(model, own) for own in z.split(1)]
    for size in range(2, len(z) + 1):
        for part, *own in zip(_projected(model, z[:size]), *alone[:size], strict=True):
            if not torch.equal(part, torch.cat(own)):
                return False
    return True


def _projected(model: LatentThoughtModel, z: torch.Tensor) -> list[torch.Tensor]:
    """Keys and values of z and, through them, a gradient of z: (B, ...) each."""
    z = z.clone().requires_grad_()
    made = [part for pair in model.latent_keys_values(z) for part in pair]
    (grad,) = torch.autograd.grad(torch.stack([part.float().square().sum() for part in made]).sum(), z)
    return [*(part.detach() for part in made), grad]


def _step(model: LatentThoughtModel, texts: Sequence[Document], latents: torch.Tensor) -> list[torch.Tensor]:
    """Both gradients and both terms of a step at given mu, log_var and noise: (B, ...) each."""
    mu, log_var = latents[0].clone().requires_grad_(), latents[1].clone().requires_grad_()
    terms = Batch.of(model, texts).descend(mu, log_var, latents[2:])
    assert mu.grad is not None and log_var.grad is not None
    return [mu.grad, log_var.grad, *terms]
