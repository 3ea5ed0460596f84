"""Documents of one padded length, ready for many evaluations of -log p(x|z) and its gradient under changing z."""

from __future__ import annotations

import os
import random
import warnings
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ltm_eval.inference.windows import Document, Window
from ltm_eval.model.elbo import IGNORED, kl_nats, projected_nll_nats
from ltm_eval.system.device import give_back, ran_out, uploaded
from ltm_eval.system.errors import MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ltm_eval.model.decoder import Hidden, LatentThoughtModel


_TOKENS_PER_PASS = 4096


@dataclass(frozen=True)
class Rows:
    """Padded windows that run in one pass."""

    prelude: Hidden
    targets: Tensor
    """(R, T)."""
    owner: Tensor
    """(R,): which document of the batch each row belongs to."""
    in_order: bool = False
    """Whether there is one row per document, in their order, so that `owner` need not be looked up."""


@dataclass(frozen=True)
class Batch:
    """Documents of one padded length, ready for many evaluations under changing z."""

    model: LatentThoughtModel
    passes: tuple[Rows, ...]
    """Rows, split so that a pass stays small; the split depends on one document's shape only."""
    size: int
    """Documents B."""

    @classmethod
    def of(cls, model: LatentThoughtModel, documents: Sequence[Document]) -> Batch:
        """Pad and place the documents' windows; they must share the number of windows and the padded length."""
        longest = max(len(window.tokens) for document in documents for window in document.windows)
        limit = model.config.max_seq_len
        if longest > limit:
            raise UsageError(
                f"a window of {longest} tokens exceeds the model's context of {limit}; cut the text into windows first"
            )
        length = min(limit, documents[0].padded_length)
        n_windows = len(documents[0].windows)
        per_pass = max(1, _TOKENS_PER_PASS // length)
        with torch.no_grad():
            passes = [
                _rows(model, documents, slice(first, first + per_pass), length)
                for first in range(0, n_windows, per_pass)
            ]
        return cls(model, tuple(passes), len(documents))

    def repeated(self, times: int) -> Batch:
        """Its one document `times` times over, to be evaluated under as many latents; the prelude is not made again."""
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
        """Put the gradient of the summed -ELBO into mu.grad and log_var.grad; returns (nll, kl), (B,) each,
        detached.
        """
        with torch.no_grad():
            sigma = (0.5 * log_var).exp()
            mu.grad, log_var.grad = mu.detach().clone(), 0.5 * (log_var.exp() - 1)  # of the KL
            total = torch.zeros(self.size, device=mu.device)
        for draw in noise:
            for rows in self.passes:
                z = torch.addcmul(mu.detach(), draw, sigma).requires_grad_()
                nll = self._nll(rows, z) / len(noise)
                (slope,) = torch.autograd.grad(
                    nll.sum(), z
                )  # of z alone, also where a trainer's weights take gradients
                total += nll.detach()
                mu.grad += slope
                log_var.grad += slope * draw * (0.5 * sigma)
        return total, kl_nats(mu.detach(), log_var.detach())

    def expected_nll_nats(self, mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
        """Mean over draws of -log p(x | mu + draw * sigma): (B,), no gradient."""
        with torch.no_grad():
            draws = [self.nll_nats(mu + draw * (0.5 * log_var).exp()) for draw in noise]
        return torch.stack(draws).mean(0)

    def nll_nats(self, z: Tensor | None) -> Tensor:
        """-log p(x|z) per document: (B, L, N, D) to (B,); None skips cross-attention."""
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


def _rows(model: LatentThoughtModel, documents: Sequence[Document], part: slice, length: int) -> Rows:
    """Rows of the windows `part` of every document, padded to `length`."""
    windows = [(owner, window) for owner, document in enumerate(documents) for window in document.windows[part]]
    tokens = torch.zeros(len(windows), length, dtype=torch.long)
    targets = torch.full((len(windows), length), IGNORED, dtype=torch.long)
    for row, (_, window) in enumerate(windows):
        tokens[row, : len(window.tokens)] = torch.tensor(window.tokens)
        targets[row, : len(window.targets)] = torch.tensor(window.targets)
    owner = torch.tensor([owner for owner, _ in windows])
    device = model.device
    in_order = len(documents[0].windows) == 1
    return Rows(model.prelude(uploaded(tokens, device)), uploaded(targets, device), uploaded(owner, device), in_order)


def tokens_per_pass(document: Document) -> int:
    """Tokens that go through the decoder at once."""
    return min(_TOKENS_PER_PASS, len(document.windows) * document.padded_length)


def bytes_per_token(model: LatentThoughtModel) -> int:
    """Memory that a fast step keeps for its backward pass, per token: about 24 numbers of the width in each layer."""
    return 24 * 4 * model.config.dim * model.config.n_layers


# Independent pieces of work on the cores of a CPU: each piece on one thread, as many at once as there are cores.
#
# Two reasons. The sums of a matrix product depend on the number of threads that share it, so a document's bits would
# depend on the machine, or on how many others are at work. And a document of usual size keeps two cores busy for two
# thirds of the time; two documents, each on a core of its own, keep them busy (benchmarks/RESULTS.md). torch releases
# Python's lock inside its operations, and its number of threads is a setting of the calling thread.
#
# Also: what else a process may have set, none of which may change a figure or be changed (`undisturbed`).

SMALL_PARAMETERS = 8_000_000
"""Up to here one thread reads a token as fast as several, which only wait for one another between small products."""

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def side_by_side(items: Sequence[_Item], work: Callable[[_Item], _Result], *, bytes_each: int = 0) -> list[_Result]:
    """`work` on every item, on one thread each; results in the order of the items.

    As many run at once as torch has threads here. What `work` raises for the first item that fails is raised, after
    those under way have ended.

    Args:
        bytes_each: memory that an item needs while it is worked on; all that run may take half of what is free.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    lanes = max(1, min(threads, len(items), _fitting(bytes_each)))
    pool = ThreadPoolExecutor(lanes, initializer=partial(torch.set_num_threads, 1))
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads that begin later would take over the last number set anywhere


@contextmanager
def one_thread(*, when: bool = True) -> Iterator[None]:
    """Compute on the calling thread alone, where `when` holds; its number of threads is set back at the end."""
    threads = torch.get_num_threads()
    if not when or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Compute whatever modes a caller is in, and leave the caller's process as it was, also after an exception.

    Inside, gradients can be taken (also within `torch.no_grad` and `torch.inference_mode`), nothing is autocast, new
    tensors are float32 and on the CPU unless something else is said, and products of float32 are computed in float32.
    At the end these modes, the random states of Python, NumPy and torch on every device, the number of threads, the
    filters of warnings and the environment variables are what they were before.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.callback(_set_environment, dict(os.environ))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 - the caller's own
        _keep_torch_random(stack)
        _plain_products(stack)
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        yield


def _keep_torch_random(stack: ExitStack) -> None:
    """Set torch's generators back at the end; a device that is first used inside starts as the caller's CPU did."""
    stack.callback(torch.set_rng_state, torch.get_rng_state())
    if torch.backends.mps.is_available():
        stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
    if torch.cuda.is_initialized():
        stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
    else:
        stack.callback(_start_cuda, torch.initial_seed())


def _start_cuda(seed: int) -> None:
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _plain_products(stack: ExitStack) -> None:
    """No TF32 or bfloat16 inside products of float32, which a trainer may have allowed."""
    newer = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    backends: list[Any] = [one for one in newer if hasattr(one, "fp32_precision")]
    for backend in backends:
        if backend.fp32_precision != "ieee":
            stack.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
            backend.fp32_precision = "ieee"
    if not backends and torch.get_float32_matmul_precision() != "highest":  # torch before 2.9
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")


def _set_environment(held: dict[str, str]) -> None:
    """Set the environment variables that differ from `held` back."""
    for name in os.environ.keys() - held.keys():
        del os.environ[name]
    for name, value in held.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def is_small(model: torch.nn.Module) -> bool:
    """Whether a model lies on the CPU and is small enough to decode on one thread."""
    weights = list(model.parameters())
    return weights[0].device.type == "cpu" and sum(weight.numel() for weight in weights) <= SMALL_PARAMETERS


def _fitting(bytes_each: int) -> int:
    """How many pieces of `bytes_each` half of the free memory holds; any number where the system does not tell."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**31
    return max(1, free // 2 // bytes_each) if bytes_each else 2**31


# Short documents that share passes on a CPU, where a small model's step on one of them is mostly the overhead of
# operations (benchmarks/RESULTS.md).
#
# They may only where a document's bits stay its own: a step on documents together is compared, once for every shape,
# with the step on each alone. Matrix products of 12 rows or more gave each row the same bits whatever stood beside it
# (reports/NOTES.md), but that is a property of a machine's library. Where a bit differs every document runs alone.

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


# Which documents are computed together: on a GPU those of equal shape, in as many batches as memory asks for; on a CPU
# each alone, or a few short ones (`lanes`).

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
