"""Tensors of a checkpoint under our names, checked before a model is made of them.

Parameter names are reduced to one spelling first; then all of them must be there, no other, each of its shape, plain
and finite. Sizes are compared with the memory that the tensors really have before anything is allocated.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from ltm_eval.errors import CheckpointError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from ltm_eval.model_config import ModelConfig

TIED = "output.weight"
EMBEDDING = "tok_embeddings.weight"

_WRAPPERS = frozenset(("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""What torch.compile, data-parallel wrappers (DDP, FSDP) and activation checkpointing put into a name, anywhere."""
_RENAMED = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_TABLE_LIMIT = 2**26
_CHUNK = 2**22
_LISTED = 4
_LISTED_OF_A_KIND = 2
"""Where there are problems of several kinds."""


def canonical_name(name: str) -> str:
    """Our spelling of a released parameter name: wrappers dropped wherever they stand, fused kernels' names undone."""
    return ".".join(_RENAMED.get(part, part) for part in name.split(".") if part not in _WRAPPERS)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor a model of these sizes has, in the model's order.

    Written out: a model on torch's meta device would tell them, after a second of imports.
    """
    dim, ffn, heads, kv = (
        config.dim,
        config.ffn_dim,
        config.n_heads * config.head_dim,
        config.n_kv_heads * config.head_dim,
    )
    attention = {"wq": (heads, dim), "wk": (kv, dim), "wv": (kv, dim), "wo": (dim, heads)}
    layer: dict[str, tuple[int, ...]] = {
        f"{kind}.{name}.weight": shape for kind in ("attention", "cross_attention") for name, shape in attention.items()
    }
    layer |= {"feed_forward.w1.weight": (ffn, dim), "feed_forward.w2.weight": (dim, ffn)}
    layer |= {"feed_forward.w3.weight": (ffn, dim)}
    layer |= {f"{name}.weight": (dim,) for name in ("attention_norm", "cross_attention_norm", "ffn_norm")}
    layers = {f"layers.{i}.{name}": shape for i in range(config.n_layers) for name, shape in layer.items()}
    return {EMBEDDING: (config.vocab_size, dim), **layers, "norm.weight": (dim,)}


def checked(state: Mapping[str, Any], config: ModelConfig, *, where: str) -> dict[str, Tensor]:
    """The tensors under our names; every disagreement with the config goes into one error."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        key = canonical_name(name) if isinstance(name, str) else shown(name)
        if key in found:
            raise CheckpointError(
                f"{where}: two tensors are named {key[:80]} once wrappers are dropped from their names"
            )
        found[key] = value.detach() if isinstance(value, torch.Tensor) else value
    _raise_listed(where, [oddity for name, value in found.items() if (oddity := _oddity(name, value))])
    _refuse_huge(found, config, where)
    wanted = expected_shapes(config)
    tied = found.pop(TIED, None)
    if tied is not None:
        found.setdefault(EMBEDDING, tied)
    missing = [f"missing {name}" for name in wanted if name not in found]
    extra = [f"extra {name[:80]}" for name in found if name not in wanted]
    wrong = [
        complaint for name in wanted if name in found and (complaint := _complaint(name, found[name], wanted[name]))
    ]
    if not (missing or extra or wrong) and tied is not None and not torch.equal(tied, found[EMBEDDING]):
        wrong.append(f"{TIED} differs from {EMBEDDING}, which it must equal")
    _raise_listed(where, missing, extra, wrong)
    kept = {name: found[name] for name in wanted}
    if _held_bytes(kept.values()) < sum(tensor.nbytes for tensor in kept.values()):
        raise CheckpointError(f"{where}: tensors share their memory; a model made of them would outgrow the file")
    return kept


def _raise_listed(where: str, *kinds: Sequence[str]) -> None:
    """One error for all that is wrong with the tensors, if anything is, with examples of every kind."""
    found = [problems for problems in kinds if problems]
    if found:
        shown = _LISTED if len(found) == 1 else _LISTED_OF_A_KIND
        told = [
            "; ".join(problems[:shown]) + (f" and {len(problems) - shown} more" if len(problems) > shown else "")
            for problems in found
        ]
        raise CheckpointError(f"{where}: {sum(map(len, found))} tensor(s) do not fit the config: {'; '.join(told)}")


def _oddity(name: str, value: Any) -> str | None:
    """Why something is no plain tensor in this machine's memory, or None."""
    if not isinstance(value, torch.Tensor):
        return f"{name[:80]} is a {type(value).__name__}, not a tensor"
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_neg()
    if not plain or not value.is_contiguous() or type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"{name[:80]} is not a plain, contiguous tensor; re-save it with .contiguous()"
    return None


def _held_bytes(tensors: Iterable[Tensor]) -> int:
    """Memory behind the tensors, what they share counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _refuse_huge(found: Mapping[str, Any], config: ModelConfig, where: str) -> None:
    """Refuse sizes far beyond what the file holds before anything is made of them."""
    held = _held_bytes(found.values())
    layer = 2 * config.dim * config.dim + 3 * config.dim * config.ffn_dim
    claimed = config.vocab_size * config.dim + config.n_layers * layer
    tables = max(config.max_seq_len * config.head_dim, config.max_z_len * config.dim)
    if claimed > 2 * held + 2**20 or config.n_layers > len(found) or tables > _TABLE_LIMIT:
        raise CheckpointError(
            f"{where}: the config asks for about {claimed:,} parameters in {config.n_layers:,} layers, "
            f"{config.max_seq_len:,} positions and {config.max_z_len:,} latents; the file holds {held:,} bytes in "
            f"{len(found):,} tensors, so the config does not belong to it"
        )


def _complaint(name: str, value: Tensor, shape: tuple[int, ...]) -> str | None:
    """What is wrong with one tensor, or None."""
    if tuple(value.shape) != shape:
        return f"{name} has shape {tuple(value.shape)}, needs {shape}"
    if value.dtype not in _FLOATS:
        return f"{name} has dtype {value.dtype}, needs a float of 16 to 64 bits"
    broken = sum(int((~torch.isfinite(part)).sum()) for part in value.flatten().split(_CHUNK))  # in little memory
    return f"{name} holds {broken} NaN or infinite values" if broken else None


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """sha256 over sorted names, dtypes, shapes and bytes."""
    content = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        content.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        content.update(tensor.view(torch.uint8).numpy().data)
    return content.hexdigest()
