"""`torch.compile` over the parts of a layer, on request; without a compiler the parts run uncompiled.

Layers share compiled code, since it takes weights as inputs; each of the few padded lengths (`windows.padded_length`)
has its own. What a fit computes only once (`LatentThoughtModel.prelude`) is not compiled. On a GPU the fast step around
the compiled parts is captured as one CUDA graph (`posterior`). Compiled and uncompiled sums differ in their last bits.
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ltm_eval.system import progress
from ltm_eval.system.device import on_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ltm_eval.model.decoder import LatentThoughtModel


# Methods of a layer to compile, by device. On a CPU a compiler would unroll the blocks of self-attention, so only the
# rest is compiled.
PARTS = {"cpu": ("project", "merge", "read_latents", "transform"), "cuda": ("attend", "read_latents", "transform")}
SELF_ATTENTION = ("project", "merge", "attend")  # methods that the first layer runs in the prelude only
DEFAULT_LENGTHS = 8  # torch's own limit of lengths with code of their own
LENGTHS = 64  # ours; beyond torch's limit, code runs uncompiled
SMALL = 10_000_000  # parameters below which compiling is said to cost more than it gains

log = logging.getLogger(__name__)


def compile_layers(model: LatentThoughtModel, *, backend: str = "inductor") -> LatentThoughtModel:
    """Let the layers' parts be compiled on first use; return the same model.

    If that fails (no C++ compiler, no Triton), one warning is logged and the model runs uncompiled from then on.

    Args:
        backend: backend of `torch.compile`.
    """
    import torch._dynamo

    parameters = sum(parameter.numel() for parameter in model.parameters())
    if not model.compiled and parameters < SMALL:
        log.warning(
            "compile: compiling takes a minute or more before the first answer, which a model of %s parameters hardly "
            "wins back; leave it out for a short run",
            f"{parameters:,}",
        )
    torch._dynamo.config.recompile_limit = max(LENGTHS, torch._dynamo.config.recompile_limit)
    model.compiled, model.captures_steps = True, on_gpu(model.device)
    compiler = Compiler()
    for place, block in enumerate(model.blocks):
        for name in parts_of(model, place):
            plain = getattr(block, name)
            if not isinstance(plain, Compiled):
                setattr(block, name, Compiled(plain, compiler, backend=backend))
    return model


@contextmanager
def compiler_kept() -> Iterator[None]:
    """Restore the compiler's limit of recompilations, which `compile_layers` raises, at the end."""
    before = torch._dynamo.config.recompile_limit if "torch._dynamo" in sys.modules else DEFAULT_LENGTHS
    try:
        yield
    finally:
        if "torch._dynamo" in sys.modules:
            torch._dynamo.config.recompile_limit = before


def uncompiled(model: LatentThoughtModel) -> LatentThoughtModel:
    """Make a copy of a model (`as_read`) run its own layers, not the compiled ones of the original."""
    for block in model.blocks:
        for name in [name for name, part in vars(block).items() if isinstance(part, Compiled)]:
            delattr(block, name)
    model.compiled = model.captures_steps = False
    return model


def parts_of(model: LatentThoughtModel, place: int) -> list[str]:
    """Return the names of the layer's methods that are compiled."""
    parts = PARTS.get(model.device.type, PARTS["cuda"])
    return [name for name in parts if place or name not in SELF_ATTENTION]


@dataclass
class Compiler:
    """State that the compiled parts of one model share."""

    failed: bool = False  # whether compiling failed


class Compiled:
    """A function that is compiled on first call, and runs uncompiled once the compiler has failed."""

    def __init__(self, plain: Callable[..., Any], compiler: Compiler, *, backend: str = "inductor") -> None:
        self.plain, self.fast = plain, torch.compile(plain, dynamic=False, backend=backend)
        self.compiler = compiler

    def __call__(self, *given: Any) -> Any:
        """Call the compiled function, or the plain one after a failure."""
        if self.compiler.failed:
            return self.plain(*given)
        try:
            with warnings.catch_warnings(), progress.patient():
                warnings.simplefilter("ignore")  # compiler warnings about our code
                return self.fast(*given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers raise many types
            self.compiler.failed = True
            cause = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("compile: the model could not be compiled and runs as it is (%s)", cause[0][:200])
            return self.plain(*given)
