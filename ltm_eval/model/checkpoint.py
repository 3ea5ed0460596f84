"""Checkpoints: our folder, a released `ckpt_*.pt`, or a Hugging Face hub id.

Our folder holds `config.json` (sizes, step, digest), `model.safetensors` and optionally `tokenizer.tiktoken`. The
released form (github mingluzhao/Latent-Thought-LM @498e39e, `train_ltm.py`) is a pickle, always read with
`weights_only=True`. Parameter names are normalised; then exactly the expected tensors must be present, plain, finite
and of the right shape. Sizes are compared with the memory of the tensors before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickletools  # nosec B403
import re
import shutil
import zipfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ltm_eval.model.config import ModelConfig
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.model.tokenizer import RANKS_FILE, RELEASED_VOCAB, Tokenizer, check_fits, load_tokenizer
from ltm_eval.system.device import existing_device
from ltm_eval.system.errors import (
    CheckpointError,
    MachineError,
    RefusedError,
    TokenizerError,
    UsageError,
    naming_arguments,
    shown,
    spelt,
)
from ltm_eval.system.files import (
    DEMO_MODEL,
    PICKLE,
    assets_dir,
    atomic,
    atomic_folder,
    check_archive,
    check_regular,
    demo_model_dir,
    read_regular,
    steady,
)
from ltm_eval.system.hub import REFUSALS, ask, is_hub_id
from ltm_eval.system.machine import COMPUTE_FILE, read_training_compute

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

LONGEST_PATH = 4_095  # bytes; PATH_MAX of Linux less its end
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "ltm_eval/1"
HUB_FILES = [CONFIG_FILE, WEIGHTS_FILE, RANKS_FILE, COMPUTE_FILE]
TIED = "output.weight"
EMBEDDING = "tok_embeddings.weight"

_CONFIG_LIMIT = 2**20  # bytes
_SAFE_PT_TORCH = (2, 10)
_OLD_PT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before torch 1.6
_HEADER_LIMIT = 2**24  # bytes; 1 KB a tensor is much
# What the pickle of a checkpoint may call, and what it may name besides. torch allows more, by which
# a few bytes fill the memory: `bytearray`, `torch.Tensor` and quantised tensors of any size, `Counter` of a text.
_CALLED = frozenset(
    ("collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.complex", "_codecs.encode")
    + ("torch.Size", "torch.device")
    + tuple(f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter"))
    + tuple(f"torch._utils._rebuild_{kind}" for kind in ("sparse_tensor", "meta_tensor_no_storage"))
    + ("torch.serialization._get_layout",)
)
_KINDS = {
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), "container"),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), "constant"),
    "MARK": "mark",
    "BINFLOAT": "value",
}
_NAMED = re.compile(r"torch\.\w*Storage|torch\.storage\.UntypedStorage|torch\.[a-z]+[0-9]\w*|torch\.bool")
_PICKLE_LIMIT = 2**25  # bytes
_BUILT_LIMIT = 2**27  # bytes that the objects of a pickle may take, tensor data not counted
_OPCODE_BYTES, _CALL_BYTES, _ITEM_BYTES = 250, 2_000, 100  # that one may take
_LARGEST_KEY = 2**31  # of a dictionary, if it is a number; larger ones can be made to have one hash
_CODEC = 8  # characters of a text that are looked at
# What torch.compile, DDP, FSDP and activation checkpointing insert into parameter names.
_WRAPPERS = frozenset(("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
_RENAMED = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_TABLE_LIMIT = 2**26  # elements of a position table
_STEP_LIMIT = 2**63 - 1
_CHUNK = 2**22  # elements checked for NaN at a time
_LISTED = 4  # problems listed in an error, per kind if there are several kinds
_LISTED_OF_A_KIND = 2


@dataclass(frozen=True)
class CheckpointInfo:
    """Where a model came from."""

    source: str  # the path or hub id as given
    form: str  # `folder`, `released` or `live`
    step: int | None  # training step, if recorded
    # Over sorted names, dtypes, shapes and bytes of all tensors; equal for a released file and its converted folder.
    weights_sha256: str
    revision: str | None = None  # commit of a hub checkpoint
    is_demo: bool = False  # whether it is a bundled demo model
    notes: tuple[str, ...] = ()  # caveats: what was rounded, assumed or looks odd
    training: Mapping[str, Any] | None = None  # tokens seen and FLOPs, see `machine.training_compute`


@dataclass(frozen=True)
class Checkpoint:
    """Checked content of a file or folder, before a model is built from it."""

    info: CheckpointInfo
    config: ModelConfig
    weights: dict[str, Tensor]  # under this package's names, without the tied output
    tokenizer_spec: str | None  # for `load_tokenizer`; None if the checkpoint does not say
    tokenizer_sha256: str | None = None  # expected digest of the tokenizer, if the checkpoint records it


@naming_arguments
def load(source: str | Path, *, revision: str | None = None, device: str = "cpu") -> LatentThoughtModel:
    """Load a model for evaluation, frozen and in fp32.

    `model.info` tells its origin; `model.tokenizer` is its tokenizer if the checkpoint names one.

    Args:
        source: our folder, a released `ckpt_*.pt`, a hub id `owner/name`, or `demo`.
        revision: commit, tag or branch of a hub id.
        device: a torch device, or `auto`.

    Raises:
        UsageError: an argument has the wrong type, or the device name is invalid.
        CheckpointError: the files cannot be used; the message lists missing, unexpected and mis-shaped tensors.
        MachineError: the hub could not be reached, or the device does not exist.
    """
    place = existing_device(device)
    if revision is not None and not isinstance(revision, str):
        raise UsageError(f"{spelt('revision')} must be a commit, tag or branch, got {shown(revision)}")
    check_place(source)
    if revision is not None and (str(source) == DEMO_MODEL or Path(source).exists()):
        raise UsageError(f"{spelt('revision')} applies to hub checkpoints, and {source} is local; remove it")
    checkpoint = read(source, revision=revision)
    with torch.inference_mode(mode=False):
        model = build(checkpoint).to(place)
    model.tokenizer = tokenizer_of(checkpoint)
    return model


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer | partial[Tokenizer] | None:
    """Return the initial `model.tokenizer`; None if the checkpoint names none.

    It is a tokenizer, or a function called on first use that loads GPT-2's or raises the error of a broken file.
    """
    spec = checkpoint.tokenizer_spec
    if spec is None:
        return None
    later = partial(_own_tokenizer, spec, checkpoint.tokenizer_sha256, checkpoint.config.vocab_size)
    try:
        return later if spec == "gpt2" else later()
    except TokenizerError:
        return later


def _own_tokenizer(spec: str, sha256: str | None, rows: int) -> Tokenizer:
    """Return a checkpoint's tokenizer.

    Raises:
        LtmEvalError: it is not available, or not the one of the checkpoint.
    """
    loaded = load_tokenizer(spec)
    check_fits(loaded, rows)
    _check_pinned(loaded, sha256)
    return loaded


def info_of(model: LatentThoughtModel) -> CheckpointInfo:
    """Return the origin of the weights that a live model has in memory now.

    A model in training is no longer the checkpoint it was loaded from, so digest and step are not the checkpoint's. A
    caller's own `model.info` (`form="live"`) is kept, with the current digest.
    """
    digest = weights_sha256({name: one.detach().cpu() for name, one in model.named_parameters()})
    info: CheckpointInfo | None = model.info
    if info is None:
        return CheckpointInfo("live", "live", None, digest)
    if info.form == "live":
        return replace(info, weights_sha256=digest)
    if digest == (model.loaded_sha256 or info.weights_sha256):
        return info
    return CheckpointInfo("live", "live", None, digest, notes=(f"weights changed since {info.source} was loaded",))


def load_with_tokenizer(
    source: str | Path, *, tokenizer: str | None = None, revision: str | None = None, device: str = "cpu"
) -> tuple[LatentThoughtModel, Tokenizer]:
    """Load a model with the given tokenizer, or else the one that the checkpoint names."""
    checkpoint = read(source, revision=revision)
    spec = tokenizer or checkpoint.tokenizer_spec
    if spec is None:
        raise CheckpointError(
            f"{source}: the checkpoint does not say which tokenizer it was trained with "
            f"({checkpoint.config.vocab_size} rows); "
            "pass tokenizer=gpt2 or tokenizer=FILE of mergeable ranks"
        )
    loaded = load_tokenizer(spec)
    check_fits(loaded, checkpoint.config.vocab_size)
    model = build(checkpoint).to(device)
    notes = (*checkpoint.info.notes, *_tokenizer_notes(checkpoint, loaded))
    model.info = replace(checkpoint.info, notes=notes)
    model.tokenizer = loaded
    return model, loaded


def _tokenizer_notes(checkpoint: Checkpoint, tokenizer: Tokenizer) -> list[str]:
    """Return notes on what is unknown about the tokenizer.

    Raises:
        TokenizerError: it is not the one the checkpoint was saved with.
    """
    pinned = checkpoint.tokenizer_sha256
    _check_pinned(tokenizer, pinned)
    notes = []
    spare = checkpoint.config.vocab_size - tokenizer.n_vocab
    if pinned is None and (tokenizer.name != "gpt2" or checkpoint.info.form == "released"):
        notes.append(f"tokenizer not pinned: the checkpoint does not say that {tokenizer.name} is its own")
    if spare > 1:
        notes.append(f"{spare} rows of the embedding have no token of tokenizer {tokenizer.name}")
    return notes


def _check_pinned(tokenizer: Tokenizer, sha256: str | None) -> None:
    """Raise TokenizerError if the checkpoint records another digest for the tokenizer."""
    if sha256 is not None and sha256 != tokenizer.digest:
        raise TokenizerError(
            f"tokenizer {tokenizer.name}: sha256 {tokenizer.digest[:12]} differs from {sha256[:12]} in {CONFIG_FILE}; "
            "pass the tokenizer the model was trained with"
        )


def build(checkpoint: Checkpoint) -> LatentThoughtModel:
    """Build a frozen fp32 model from a checked checkpoint."""
    model = _without_memory(checkpoint.config)
    weights = {
        name: checkpoint.weights[name].to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name, _ in model.named_parameters()
    }
    model.load_state_dict(weights, assign=True)
    model.info = checkpoint.info
    if any(checkpoint.weights[name].dtype != torch.float32 for name in weights):
        model.loaded_sha256 = weights_sha256(weights)
    return model


def _without_memory(config: ModelConfig) -> LatentThoughtModel:
    with torch.device("meta"):
        return LatentThoughtModel(config)


def read(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Find, read and check a checkpoint; see `load`.

    Raises:
        RefusedError: its files changed during reading.
    """
    check_place(source)
    path = Path(source)
    if str(source) == DEMO_MODEL:
        return _read_folder(demo_model_dir(), source=DEMO_MODEL, revision=None)
    if path.exists():
        files = [path / CONFIG_FILE, path / WEIGHTS_FILE] if path.is_dir() else [path]
        with steady(files):
            return _read_folder(path, source=str(source), revision=None) if path.is_dir() else _read_released(path)
    folder, commit = _fetch(str(source), revision)
    return _read_folder(folder, source=str(source), revision=commit)


def check_place(source: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless `source` exists or could be a hub id; read nothing.

    Raises:
        UsageError: it is not a usable name.
    """
    if not isinstance(source, (str, os.PathLike)) or not str(source).strip():
        raise UsageError(
            f"checkpoint: expected {DEMO_MODEL}, a folder, a released ckpt_*.pt or a hub id (owner/name), got "
            f"{shown(source)}"
        )
    if len(os.fsencode(source)) > LONGEST_PATH:
        raise UsageError(f"checkpoint: a path of {len(str(source))} characters is too long; shorten it")
    if str(source) != DEMO_MODEL and not os.path.exists(source) and not is_hub_id(str(source)):  # noqa: PTH110 - also accepts impossible names
        raise CheckpointError(
            f"checkpoint {source}: no such file or folder, and not a hub id (owner/name). Expected a folder with "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}, or a released ckpt_*.pt"
        )


# Tensors --------------------------------------------------------------------------------------------------------------


def canonical_name(name: str) -> str:
    """Normalise a released parameter name: remove wrappers and names of fused kernels."""
    return ".".join(_RENAMED.get(part, part) for part in name.split(".") if part not in _WRAPPERS)


def checked(state: Mapping[str, Any], config: ModelConfig, *, where: str) -> dict[str, Tensor]:
    """Return the tensors under normalised names; raise one error for all disagreements with the config."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        key = canonical_name(name) if isinstance(name, str) else shown(name)
        if key in found:
            raise CheckpointError(f"{where}: two tensors have the name {key[:80]} after removing wrappers")
        found[key] = value.detach() if isinstance(value, torch.Tensor) else value
    _raise_listed(where, [oddity for name, value in found.items() if (oddity := _oddity(name, value))])
    _refuse_huge(found, config, where)
    wanted = {name: tuple(weight.shape) for name, weight in _without_memory(config).named_parameters()}
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
        raise CheckpointError(f"{where}: tensors share memory, so the model would be larger than the file")
    return kept


def _raise_listed(where: str, *kinds: Sequence[str]) -> None:
    """Raise one error with examples of every kind of problem; do nothing if there is none."""
    found = [problems for problems in kinds if problems]
    if found:
        shown = _LISTED if len(found) == 1 else _LISTED_OF_A_KIND
        told = [
            "; ".join(problems[:shown]) + (f" and {len(problems) - shown} more" if len(problems) > shown else "")
            for problems in found
        ]
        raise CheckpointError(f"{where}: {sum(map(len, found))} tensor(s) do not fit the config: {'; '.join(told)}")


def _oddity(name: str, value: Any) -> str | None:
    """Return why a value is not a plain tensor in host memory; None if it is one."""
    if not isinstance(value, torch.Tensor):
        return f"{name[:80]} is a {type(value).__name__}, not a tensor"
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_neg()
    if not plain or not value.is_contiguous() or type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"{name[:80]} is not a plain, contiguous tensor; re-save it with .contiguous()"
    return None


def _held_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the memory of the tensors, shared memory counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _refuse_huge(found: Mapping[str, Any], config: ModelConfig, where: str) -> None:
    """Reject sizes far beyond the content of the file before anything is allocated."""
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
    """Return the problem of one tensor; None if there is none."""
    if tuple(value.shape) != shape:
        return f"{name} has shape {tuple(value.shape)}, needs {shape}"
    if value.dtype not in _FLOATS:
        return f"{name} has dtype {value.dtype}, needs a float of 16 to 64 bits"
    parts = value.flatten().split(_CHUNK)  # saves memory
    broken = sum(int((~torch.isfinite(part)).sum()) for part in parts)
    if not broken and value.dtype == torch.float64:
        broken = sum(int((~torch.isfinite(part.float())).sum()) for part in parts)
        return f"{name} holds {broken} values beyond float32, in which models run" if broken else None
    return f"{name} holds {broken} NaN or infinite values" if broken else None


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 over sorted names, dtypes, shapes and bytes."""
    content = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        content.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        content.update(tensor.view(torch.uint8).numpy().data)
    return content.hexdigest()


# Our folder ----------------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, *, source: str, revision: str | None) -> Checkpoint:
    for name in HUB_FILES:
        check_regular(folder / name, kind=CheckpointError)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            _explain_folder(folder, name)
    fields = read_config(folder / CONFIG_FILE)
    config = ModelConfig.from_mapping(fields.get("model", {}), where=str(folder / CONFIG_FILE))
    weights = checked(_read_safetensors(folder / WEIGHTS_FILE), config, where=str(folder / WEIGHTS_FILE))
    digest = weights_sha256(weights)
    recorded, pinned, named = (
        _optional_text(fields, name, folder) for name in ("weights_sha256", "tokenizer_sha256", "tokenizer")
    )
    if recorded is not None and recorded != digest:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE}: content sha256 {digest[:12]} differs from {str(recorded)[:12]} in "
            f"{CONFIG_FILE}; "
            "the file was changed or damaged, copy it again"
        )
    ranks = folder / RANKS_FILE
    spec = str(ranks) if ranks.is_file() else named
    step, odd = _step("step", fields.get("step"))
    notes = (*_notes(fields["model"], weights), *odd)
    is_demo, training = folder.parent == assets_dir(), read_training_compute(folder / COMPUTE_FILE)
    info = CheckpointInfo(source, "folder", step, digest, revision, is_demo, notes, training)
    return Checkpoint(info, config, weights, spec, pinned)


def _optional_text(fields: Mapping[str, Any], name: str, folder: Path) -> str | None:
    """Return an optional text field of `config.json`."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{folder / CONFIG_FILE}: {name} must be text, got {shown(value)}")
    return value


def _notes(sizes: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return notes on what was assumed or rounded, and on tensors that look untrained."""
    notes = [] if "use_z_pos_emb" in sizes else ["the model config does not tell use_z_pos_emb; taken as true"]
    wide = [name for name, tensor in weights.items() if tensor.dtype == torch.float64]
    idle = [name for name, tensor in weights.items() if not tensor.any()]
    if wide:
        notes.append(f"{len(wide)} tensors of float64 were rounded to float32")
    if idle:
        notes.append(f"{len(idle)} tensors are all zero: {', '.join(idle[:_LISTED])}")
    return tuple(notes)


def _explain_folder(folder: Path, absent: str) -> None:
    """Raise an error that says how to use what the folder contains."""
    released = sorted(folder.glob("*.pt"))
    if released:
        raise CheckpointError(
            f"checkpoint {folder}: no {absent}, but {len(released)} .pt file(s); pass one of them, such as "
            f"{released[-1].name}, or make a folder of it: ltm-eval convert FILE NEW_FOLDER"
        )
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:_LISTED]) or "nothing"
    raise CheckpointError(f"checkpoint {folder}: expected {CONFIG_FILE} and {WEIGHTS_FILE}, found {found}")


def read_config(path: Path) -> dict[str, Any]:
    """Read a `config.json`: one JSON object of at most 1 MiB, without duplicate keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise CheckpointError(f"{path}: key {shown(key)} occurs twice")
            found[key] = value
        return found

    refuse_impostors(path)
    try:
        if path.stat().st_size > _CONFIG_LIMIT:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, a config has at most {_CONFIG_LIMIT}")
        fields = json.loads(path.read_text("utf-8"), object_pairs_hook=unique)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({printable_cause(error)})") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
        other = fields.get("model_type") if isinstance(fields, dict) else None
        hint = f"; this is a {shown(other)} model for transformers, pass it as --baseline" if other else ""
        raise CheckpointError(
            f"{path}: expected an object with the key 'model' (sizes); convert writes such a file{hint}"
        )
    if "auto_map" in fields:
        raise CheckpointError(f"{path}: auto_map refers to code, which is never run; remove it")
    if fields.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"{path}: format {shown(fields['format'])} is unknown, this version reads {FORMAT}; update ltm-eval"
        )
    return fields


def printable_cause(error: BaseException) -> str:
    """Return the first line of an error, shortened."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:120]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as tensors_of

    refuse_impostors(path)
    try:
        content = read_regular(path, kind=CheckpointError)
        header = int.from_bytes(content[:8], "little")
        if _HEADER_LIMIT < header < len(content):
            raise CheckpointError(f"{path}: a header of {header:,} bytes, at most {_HEADER_LIMIT:,} are read")
        return tensors_of(content)
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # KeyError: a dtype that torch lacks
        raise CheckpointError(
            f"{path}: not a complete safetensors file of {path.stat().st_size} bytes ({printable_cause(error)}); "
            "copy it again"
        ) from error


# Released files ------------------------------------------------------------------------------------------------------


def _read_released(path: Path) -> Checkpoint:
    content = _unpickle(path)
    state, sizes = content.get("model"), content.get("model_args")
    if not isinstance(state, dict) or not isinstance(sizes, dict):
        raise CheckpointError(
            f"{path}: expected the keys 'model' and 'model_args' of a released checkpoint, found "
            f"{', '.join(sorted(key for key in content if isinstance(key, str))[:8]) or 'none'}"
        )
    sizes = {name: _plain(value) for name, value in sizes.items()}
    config = ModelConfig.from_mapping(sizes, where=f"{path} (model_args)")
    weights = checked(state, config, where=str(path))
    step, odd = _step("iter_num", content.get("iter_num"))
    notes = (*_notes(sizes, weights), *odd)
    training = read_training_compute(path.with_name(COMPUTE_FILE), model=path.name)
    info = CheckpointInfo(str(path), "released", step, weights_sha256(weights), notes=notes, training=training)
    return Checkpoint(info, config, weights, "gpt2" if config.vocab_size == RELEASED_VOCAB else None)


def _plain(value: Any) -> Any:
    """Return a one-element tensor as a number, any other value unchanged."""
    single = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return value.item() if single and value.numel() == 1 else value


def _step(name: str, value: Any) -> tuple[int | None, tuple[str, ...]]:
    """Return the recorded training step, and a note if the record is not a step."""
    number = _plain(value)
    if isinstance(number, str) and number.strip().isdecimal() and len(number) < 20:
        number = int(number)
    if number is None or (type(number) is int and 0 <= number <= _STEP_LIMIT):
        return number, ()
    if isinstance(number, float) and number.is_integer() and 0 <= number <= _STEP_LIMIT:
        return int(number), ()
    return None, (f"step unknown: {name} is {shown(number)}, not a whole number",)


def _unpickle(path: Path) -> dict[str, Any]:
    """Read the dictionary of a `.pt` without running code; check limits before decompressing."""
    refuse_impostors(path)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE_PT_TORCH:
        raise MachineError(
            f"{path}: reading .pt files needs torch 2.10 or newer (CVE-2025-32434, CVE-2026-24747), this is "
            f"{torch.__version__}; "
            "update torch, or convert the file elsewhere"
        )
    with path.open("rb") as file:
        if file.read(len(_OLD_PT)) == _OLD_PT:
            raise CheckpointError(
                f"{path}: in the format of torch.save before torch 1.6, not read. If you trust it, re-save it: "
                f"python -c \"import torch; torch.save(torch.load('OLD.pt'), 'NEW.pt')\""
            )
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            pickle = next(entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] == PICKLE)
            if pickle.file_size > _PICKLE_LIMIT:
                raise _UnplainError(f"{pickle.file_size:,} bytes of objects besides tensors")
            _check_pickle(archive.read(pickle))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for damaged files
        raise CheckpointError(
            f"{path}: cannot be loaded; it is damaged or contains objects other than tensors and plain values "
            f"({_refused_object(error)}). "
            "Re-save it with torch.save of tensors, numbers and strings only"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, expected a dictionary with 'model' and 'model_args'"
        )
    return content


def _refused_object(error: BaseException) -> str:
    """Return the global that `weights_only` refused, if the message names one."""
    if isinstance(error, _UnplainError):
        return printable_cause(error)
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"refused {named[1]}" if named else type(error).__name__


class _UnplainError(Exception):
    """A pickle is not one of a checkpoint."""


@dataclass(slots=True)
class _Built:
    """What an opcode would build: enough of it to know what calls and keys cost."""

    kind: str  # text, int, global, tuple, call, `dict` and other containers, mark, or anything else
    value: Any = None  # a number, a short text, the name of a global; of a list, whether items are no keys
    items: Sequence[_Built] = ()  # of a tuple
    count: int = 0  # of items, the number of them; of a text, its characters


def _check_pickle(content: bytes) -> None:  # noqa: PLR0912 - one branch an opcode
    """Raise unless a pickle builds what checkpoints hold, within the limits; build nothing of it.

    torch's reader knows the opcodes that `torch.save` writes. This follows them on a stack of kinds.
    Arguments of calls are counted whenever they are used, since a pickle may use a large object often.

    Raises:
        _UnplainError: it holds something else, or more.
        ValueError, IndexError, KeyError: it is damaged.
    """
    stack: list[_Built] = []
    memo: dict[int, _Built] = {}
    taken = 0

    def since_mark() -> list[_Built]:
        at = max(i for i, one in enumerate(stack) if one.kind == "mark")
        found = stack[at + 1 :]
        del stack[at:]
        return found

    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        taken += _OPCODE_BYTES
        if name in ("PROTO", "STOP"):
            pass
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            named = ".".join(argument.split(" ")).replace("__builtin__.", "builtins.")
            if named not in _CALLED and not _NAMED.fullmatch(named):
                raise _UnplainError(f"refused {named[:80]}")
            stack.append(_Built("global", named))
        elif name in _KINDS:
            stack.append(_Built(_KINDS[name]))
        elif name in ("TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            size = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}.get(name)
            items = since_mark() if size is None else [stack.pop() for _ in range(size)][::-1]
            stack.append(_Built("tuple", None, items, len(items)))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            step = 2 if name.startswith("SET") else 1
            items = since_mark() if name.endswith("S") else [stack.pop() for _ in range(step)][::-1]
            target, odd = stack[-1], not all(map(_is_key, items[::step]))
            if target.kind not in ("container", "OrderedDict") or (odd and step > 1):
                raise _UnplainError(f"items of a {target.kind}, or keys that are neither text nor small numbers")
            target.count += len(items) // step
            target.value = target.value or odd
        elif name in ("REDUCE", "BUILD"):
            given, target = stack.pop(), stack.pop()
            called = target.value if name == "REDUCE" and target.kind == "global" else target.kind
            taken += _CALL_BYTES + _ITEM_BYTES * (given.count + sum(one.count for one in given.items))
            _check_call(called, given, name)
            stack.append(_Built("call" if called != "collections.OrderedDict" else "OrderedDict"))
        elif name == "BINPERSID":
            given = stack.pop()
            if [one.kind for one in given.items] != ["text", "global", "text", "text", "int"]:
                raise _UnplainError("a storage that torch.save does not write")
            stack.append(_Built("storage"))
        elif name in ("BINUNICODE", "SHORT_BINSTRING"):
            stack.append(_Built("text", argument[:_CODEC], (), len(argument)))
        elif name in ("BININT", "BININT1", "BININT2", "LONG1"):
            stack.append(_Built("int", argument))
        else:
            raise _UnplainError(f"opcode {name}")
        if taken > _BUILT_LIMIT:
            raise _UnplainError(f"objects besides tensors that take more than {_BUILT_LIMIT:,} bytes")


def _is_key(one: _Built) -> bool:
    return one.kind in ("text", "constant") or (one.kind == "int" and abs(one.value) < _LARGEST_KEY)


def _check_call(called: Any, given: _Built, how: str) -> None:
    """Raise _UnplainError unless a call is one of `torch.save`: its arguments fresh, of plain values or tensors."""
    if how == "BUILD":
        if called != "OrderedDict":
            raise _UnplainError(f"the state of a {called}")
        return
    kinds = [one.kind for one in given.items]
    if given.kind != "tuple" or called not in _CALLED:
        raise _UnplainError(f"a call of a {given.kind}")
    if called == "collections.OrderedDict" and kinds:
        raise _UnplainError(f"{called} of something")
    if called == "collections.Counter" and (kinds != ["container"] or given.items[0].value):  # milestones of a schedule
        raise _UnplainError(f"{called} of something that is no dictionary")
    if called == "builtins.set" and any(one.value for one in given.items):
        raise _UnplainError(f"{called} of something that is neither text nor a small number")
    if called == "_codecs.encode":
        # bytes, which protocol 2 writes as text of its own and the name of a codec
        if kinds != ["text", "text"] or given.items[1].value != "latin1":
            raise _UnplainError(f"{called} of something that is no bytes")
        given.items[0].kind = "encoded"


def refuse_impostors(path: Path) -> None:
    """Raise CheckpointError for git-lfs pointers, HTML pages, empty files, pipes and devices."""
    check_regular(path, kind=CheckpointError)
    try:
        with path.open("rb") as file:
            start = file.read(200)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    head = start.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: this is a git-lfs pointer, not the weights; run `git lfs pull`")
    if head.startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{path}: this is an HTML page, not a checkpoint; download it again")
    if not start:
        raise CheckpointError(f"{path}: the file is empty; copy it again")


# Hub -----------------------------------------------------------------------------------------------------------------


def _fetch(repo: str, revision: str | None) -> tuple[Path, str]:
    """Find a hub checkpoint in the cache or download it; return its folder and commit."""
    from huggingface_hub import snapshot_download

    asked = ask(repo, revision)
    offline = asked.commit is None
    try:
        folder = Path(
            snapshot_download(
                repo, revision=asked.commit or revision, allow_patterns=HUB_FILES, local_files_only=offline
            )
        )
    except Exception as error:  # the hub's client raises many types, all with the same meaning for a user
        named = f"hub checkpoint {repo} (revision {revision or 'main'})"
        if asked.silent in REFUSALS:
            raise CheckpointError(f"{named}: {REFUSALS[asked.silent]} ({asked.silent})") from error
        raise MachineError(
            f"{named}: not in the cache and could not be downloaded ({asked.silent or type(error).__name__}). "
            f"If {repo} is meant as a path, it does not exist; else download it elsewhere and pass the folder"
        ) from error
    return folder, folder.name


# Writing -------------------------------------------------------------------------------------------------------------


def convert(source: str | Path, target: Path, *, tokenizer: str | None = None) -> CheckpointInfo:
    """Write `source` as a folder, or as a released file if `target` ends in `.pt`.

    Raises:
        RefusedError: the target exists already.
    """
    checkpoint = read(source)
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
        raise RefusedError(f"{target}: already exists; choose another target, nothing was written")
    if target.suffix == ".pt":
        _save_released(checkpoint, target)
    else:
        save(checkpoint, target, tokenizer=tokenizer)
    return checkpoint.info


def save(checkpoint: Checkpoint, target: Path, *, tokenizer: str | None = None) -> None:
    """Write a checkpoint folder; it appears under its name only when complete."""
    from safetensors.torch import save_file

    spec = tokenizer or checkpoint.tokenizer_spec
    with atomic_folder(target) as part:
        save_file({name: value.contiguous() for name, value in checkpoint.weights.items()}, part / WEIGHTS_FILE)
        fields: dict[str, Any] = {
            "format": FORMAT,
            "model": asdict(checkpoint.config),
            "step": checkpoint.info.step,
            "weights_sha256": checkpoint.info.weights_sha256,
        }
        if spec == "gpt2":
            fields["tokenizer"] = spec
        elif spec is not None:
            given = Path(spec)
            shutil.copyfile(given / RANKS_FILE if given.is_dir() else given, part / RANKS_FILE)
            fields["tokenizer_sha256"] = load_tokenizer(str(part / RANKS_FILE)).digest
        (part / CONFIG_FILE).write_text(json.dumps(fields, indent=1) + "\n", "utf-8")
        if checkpoint.info.training is not None:
            (part / COMPUTE_FILE).write_text(json.dumps(checkpoint.info.training, indent=1) + "\n", "utf-8")


def _save_released(checkpoint: Checkpoint, target: Path) -> None:
    """Write the released form with plain names."""
    state = dict(checkpoint.weights) | {TIED: checkpoint.weights[EMBEDDING]}
    fields = {"model": state, "model_args": asdict(checkpoint.config), "iter_num": checkpoint.info.step, "config": {}}
    with atomic(target, binary=True, other="place") as file:
        torch.save(fields, file)
