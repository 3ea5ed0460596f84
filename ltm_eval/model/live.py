"""Models of a caller: check them, copy them for evaluation, and leave the process unchanged."""

from __future__ import annotations

import os
import random
import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.model.inputs import told
from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_FIRST_PID = os.getpid()
_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


def live_model(given: Any) -> LatentThoughtModel:
    """Return a caller's model, unwrapped from `torch.compile` or `DistributedDataParallel`.

    Raises:
        UsageError: it is not a Latent Thought Model, or its weights are missing or not finite.
    """
    if os.getpid() != _FIRST_PID:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork, and it would wait for them forever
    model = given
    while isinstance(model, nn.Module) and not isinstance(model, LatentThoughtModel):
        model = next((getattr(model, name) for name in ("_orig_mod", "module") if hasattr(model, name)), None)
    if not isinstance(model, LatentThoughtModel):
        raise UsageError(f"model must be a LatentThoughtModel, as ltm_eval.load returns it, got {told(given)}")
    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.numel():
            raise UsageError(f"model: {name} has no values; load the weights, or gather their shards, first")
        if weight.dtype not in _FLOATS:
            raise UsageError(f"model: {name} has dtype {weight.dtype}, expected a float of 16 to 64 bits")
        if weight.device != model.device:
            raise UsageError(
                f"model: {name} is on {weight.device}, others are on {model.device}; move all to one device"
            )
    whole = torch.stack([torch.isfinite(one.detach()).all() for one in model.parameters()]).tolist()
    broken = [name for (name, _), fine in zip(model.named_parameters(), whole, strict=True) if not fine]
    if broken:
        more = f" and {len(broken) - 1} more tensors" if broken[1:] else ""
        raise UsageError(f"model: {broken[0]}{more} contains NaN or infinite values; training may have diverged")
    return model


def as_read(
    model: LatentThoughtModel, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> LatentThoughtModel:
    """Return a frozen fp32 copy for evaluation that may be moved, converted and compiled; `model` is unchanged.

    Weights that are already in fp32 on `device` are shared, so that the copy follows training steps. Others take 4
    bytes per parameter (another device, or a model in half, bfloat16 or double), or 2 if matrix products are in
    bfloat16.

    Args:
        device: None keeps the model's.
        dtype: of matrix products; None takes the one of `set_matmul_dtype`, else float32.
    """
    own = {module: module.__new__(type(module)) for module in model.modules()}
    for module, copy in own.items():
        weights = {name: _shared(value) for name, value in module._parameters.items()}
        copy.__dict__ = {
            **module.__dict__,
            "_parameters": {
                name: None if value is None else nn.Parameter(value, requires_grad=False)
                for name, value in weights.items()
            },
            "_buffers": {name: _shared(value) for name, value in module._buffers.items()},
            "_modules": {
                name: None if child is None else own[getattr(child, "_orig_mod", child)]
                for name, child in module._modules.items()
            },
            "_compiled_call_impl": None,
        }
    found = own[model]
    assert isinstance(found, LatentThoughtModel)
    products = dtype or (torch.float32 if model._output_cast is None else model._output_cast.dtype)
    found._output_cast = None
    return found.eval().to(device or model.device).float().set_matmul_dtype(products)


def _shared(value: Tensor | None) -> Tensor | None:
    """Return a tensor that shares memory, or a copy if it is a `torch.inference_mode` tensor."""
    if value is None:
        return None
    return value.detach().clone() if value.is_inference() else value.detach()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Isolate a computation from the caller's modes, and restore the process at the end, also after an exception.

    Inside, gradients are enabled (also within `torch.no_grad` and `torch.inference_mode`), autocast is off, new tensors
    are float32 on the CPU by default, and float32 matrix products are computed in float32. These modes, the random
    states of Python, NumPy and torch on every device, the number of threads, warning filters and environment
    variables are restored.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.callback(_set_environment, dict(os.environ))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 - the caller's own
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.backends.mps.is_available():
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        if torch.cuda.is_initialized():
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        else:
            stack.callback(_seed_cuda, torch.initial_seed())
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


def _seed_cuda(seed: int) -> None:
    """Give a device that was first used inside `undisturbed` its initial random state."""
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _plain_products(stack: ExitStack) -> None:
    """Disable TF32 and bfloat16 in float32 products, which a trainer may have enabled."""
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
    """Restore environment variables to `held`."""
    for name in os.environ.keys() - held.keys():
        del os.environ[name]
    for name, value in held.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
