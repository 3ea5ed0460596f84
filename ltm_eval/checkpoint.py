"""Checkpoints: our folder, a released `ckpt_*.pt`, or a Hugging Face hub id.

Our folder holds `config.json` (sizes, step, digest), `model.safetensors` and optionally `tokenizer.tiktoken`. The
released form (github mingluzhao/Latent-Thought-LM @498e39e, `train_ltm.py`) is a pickle; it is read with
`weights_only=True` and memory-mapped, never in another way. Parameter names are reduced to one spelling first, then
all of them must be there, no other, each of its shape.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ltm_eval.config import DEMO_MODEL, ModelConfig
from ltm_eval.errors import CheckpointError, MachineError, RefusedError
from ltm_eval.model import LatentThoughtModel
from ltm_eval.paths import assets_dir, demo_model_dir
from ltm_eval.tokenizer import RANKS_FILE, RELEASED_VOCAB, Tokenizer, check_fits, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "ltm_eval/1"
HUB_FILES = [CONFIG_FILE, WEIGHTS_FILE, RANKS_FILE]
TIED = "output.weight"
EMBEDDING = "tok_embeddings.weight"

_RENAMED = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_CONFIG_LIMIT = 2**20
_SAFE_PT_TORCH = (2, 10)
_LISTED = 4


@dataclass(frozen=True)
class CheckpointInfo:
    """Where a model came from."""

    source: str
    """The path or hub id as given."""
    form: str
    """`folder`, `released` or `live`."""
    step: int | None
    """Training step, where recorded."""
    weights_sha256: str
    """Over sorted names, dtypes, shapes and bytes of all tensors; equal for a released file and its converted
    folder.
    """
    revision: str | None = None
    """Commit of a hub checkpoint."""
    is_demo: bool = False
    """Whether it is a bundled demo model."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder held, checked, before a model is made of it."""

    info: CheckpointInfo
    config: ModelConfig
    weights: dict[str, Tensor]
    """Under our names, without the tied output."""
    tokenizer_spec: str | None
    """What `load_tokenizer` takes, or None where the checkpoint does not say."""


def load(source: str | Path, *, revision: str | None = None, device: str = "cpu") -> LatentThoughtModel:
    """Load a model for evaluation: weights in fp32, frozen, its origin under `model.info`.

    Args:
        source: our folder, a released `ckpt_*.pt`, a hub id `owner/name`, or `demo`.
        revision: commit, tag or branch of a hub id.
        device: as torch names it.

    Raises:
        CheckpointError: the files cannot be used; the message lists every missing, extra or mis-shaped tensor.
        MachineError: a hub could not be reached.
    """
    return build(read(source, revision=revision)).to(device)


def load_with_tokenizer(
    source: str | Path, *, tokenizer: str | None = None, revision: str | None = None, device: str = "cpu"
) -> tuple[LatentThoughtModel, Tokenizer]:
    """`load`, and the tokenizer the checkpoint names or the caller overrides it with."""
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
    return build(checkpoint).to(device), loaded


def build(checkpoint: Checkpoint) -> LatentThoughtModel:
    """A frozen fp32 model of a checked checkpoint."""
    with torch.device("meta"):
        model = LatentThoughtModel(checkpoint.config)
    model = model.to_empty(device="cpu")
    model.reset_tables()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.weights[name])
    model.info = checkpoint.info
    return model


def read(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Find, read and check a checkpoint; see `load`."""
    check_place(source)
    if str(source) == DEMO_MODEL:
        return _read_folder(demo_model_dir(), source=DEMO_MODEL, revision=None)
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, source=str(source), revision=None)
    if path.exists():
        return _read_released(path)
    folder, commit = _fetch(str(source), revision)
    return _read_folder(folder, source=str(source), revision=commit)


def check_place(source: str | Path) -> None:
    """Raise CheckpointError unless `source` is there, or could be a hub id; nothing is read."""
    hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(source)) and not str(source).endswith(".pt")
    if str(source) != DEMO_MODEL and not Path(source).exists() and not hub_id:
        raise CheckpointError(
            f"checkpoint {source}: no such file or folder, and not a hub id (owner/name). Expected a folder with "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}, or a released ckpt_*.pt"
        )


# Our folder ----------------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, *, source: str, revision: str | None) -> Checkpoint:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            _explain_folder(folder, name)
    fields = read_config(folder / CONFIG_FILE)
    config = ModelConfig.from_mapping(fields.get("model", {}), where=str(folder / CONFIG_FILE))
    weights = _checked(_read_safetensors(folder / WEIGHTS_FILE), config, where=str(folder / WEIGHTS_FILE))
    digest = weights_sha256(weights)
    recorded = fields.get("weights_sha256")
    if recorded is not None and recorded != digest:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE}: content sha256 {digest[:12]} differs from {str(recorded)[:12]} in "
            f"{CONFIG_FILE}; "
            "the file was changed or damaged, copy it again"
        )
    ranks = folder / RANKS_FILE
    spec = str(ranks) if ranks.is_file() else fields.get("tokenizer")
    info = CheckpointInfo(source, "folder", fields.get("step"), digest, revision, folder.parent == assets_dir())
    return Checkpoint(info, config, weights, spec)


def _explain_folder(folder: Path, absent: str) -> None:
    """Raise the error that tells how to use what the folder does hold."""
    released = sorted(folder.glob("*.pt"))
    if released:
        raise CheckpointError(
            f"checkpoint {folder}: holds no {absent} but {len(released)} .pt file(s); pass the file itself "
            f"({released[-1]}) or "
            f"convert it: python -m ltm_eval convert {released[-1]} NEW_FOLDER"
        )
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:_LISTED]) or "nothing"
    raise CheckpointError(f"checkpoint {folder}: expected {CONFIG_FILE} and {WEIGHTS_FILE}, found {found}")


def read_config(path: Path) -> dict[str, Any]:
    """A `config.json`: one JSON object of at most 1 MiB, without duplicate keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise CheckpointError(f"{path}: key {min(twice)!r} occurs twice")
        return dict(pairs)

    try:
        if path.stat().st_size > _CONFIG_LIMIT:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, a config has at most {_CONFIG_LIMIT}")
        fields = json.loads(path.read_text("utf-8"), object_pairs_hook=unique)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({printable_cause(error)})") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
        raise CheckpointError(f"{path}: expected an object with the key 'model' (sizes); convert writes such a file")
    if fields.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"{path}: format {fields['format']!r} is not known, this version reads {FORMAT}; update ltm-eval"
        )
    return fields


def printable_cause(error: BaseException) -> str:
    """The first line of an error, short."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:120]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _refuse_impostors(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
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
            f"{sorted(map(str, content))[:8]}"
        )
    config = ModelConfig.from_mapping(sizes, where=f"{path} (model_args)")
    weights = _checked(state, config, where=str(path))
    step = content.get("iter_num")
    info = CheckpointInfo(str(path), "released", step if isinstance(step, int) else None, weights_sha256(weights))
    return Checkpoint(info, config, weights, "gpt2" if config.vocab_size == RELEASED_VOCAB else None)


def _unpickle(path: Path) -> dict[str, Any]:
    """The dictionary of a `.pt`, with nothing executed; limits are checked before anything is inflated."""
    _refuse_impostors(path)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE_PT_TORCH:
        raise MachineError(
            f"{path}: reading .pt files needs torch 2.10 or newer (CVE-2025-32434, CVE-2026-24747), this is "
            f"{torch.__version__}; "
            "update torch, or convert the file elsewhere"
        )
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a file that torch.save wrote ({path.stat().st_size} bytes); copy it again if it was cut off"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            inflated = sum(entry.file_size for entry in archive.infolist())
        if inflated > 1.1 * path.stat().st_size + 2**24:
            raise CheckpointError(f"{path}: would inflate from {path.stat().st_size} to {inflated} bytes; not loaded")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch.load answers damaged files with many exception types
        raise CheckpointError(
            f"{path}: not loaded; it is damaged or holds objects other than tensors and plain values "
            f"({_refused_object(error)}). "
            "Re-save it with torch.save of tensors, numbers and strings only"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, expected a dictionary with 'model' and 'model_args'"
        )
    return content


def _refused_object(error: BaseException) -> str:
    """The global that `weights_only` refused, if the message names one."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"refused {named[1]}" if named else type(error).__name__


def _refuse_impostors(path: Path) -> None:
    """Recognise the small text files that stand where weights should be."""
    try:
        with path.open("rb") as file:
            head = file.read(200).lstrip().lower()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: this is a git-lfs pointer, not the weights; run `git lfs pull`")
    if head.startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{path}: this is an HTML page, not a checkpoint; download it again")
    if not head:
        raise CheckpointError(f"{path}: the file is empty; copy it again")


# Hub -----------------------------------------------------------------------------------------------------------------


def _fetch(repo: str, revision: str | None) -> tuple[Path, str]:
    """Download (or find in the cache) a hub checkpoint; returns its folder and commit."""
    from huggingface_hub import HfApi, constants, snapshot_download

    try:
        if not constants.HF_HUB_OFFLINE:
            revision = HfApi().model_info(repo, revision=revision, timeout=10).sha
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub library and its HTTP client raise many types; each means the same to a user
        raise MachineError(
            f"hub checkpoint {repo} (revision {revision or 'main'}): not in the cache and could not be fetched "
            f"({type(error).__name__}). "
            f"If {repo} is meant as a path, it does not exist here; else download it elsewhere and pass the folder"
        ) from error
    return folder, folder.name


# Tensors -------------------------------------------------------------------------------------------------------------


def canonical_name(name: str) -> str:
    """Our spelling of a released parameter name: compile and data-parallel wrappers dropped, fused kernels' names
    undone.
    """
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while parts and parts[0] == "module":
        parts = parts[1:]
    return ".".join(_RENAMED.get(part, part) for part in parts)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor a model of these sizes has, computed without allocating it."""
    with torch.device("meta"):
        model = LatentThoughtModel(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _checked(state: Mapping[str, Any], config: ModelConfig, *, where: str) -> dict[str, Tensor]:
    """The tensors under our names; every disagreement with the config goes into one error."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        key = canonical_name(str(name))
        if key in found:
            raise CheckpointError(f"{where}: two tensors are named {key} once wrappers are dropped from their names")
        found[key] = value
    _refuse_huge(found, config, where)
    wanted = expected_shapes(config)
    tied = found.pop(TIED, None)
    if tied is not None:
        found.setdefault(EMBEDDING, tied)
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"extra {name}" for name in found if name not in wanted]
    problems += [
        complaint for name in wanted if name in found and (complaint := _complaint(name, found[name], wanted[name]))
    ]
    if (
        not problems
        and tied is not None
        and not (isinstance(tied, torch.Tensor) and torch.equal(tied, found[EMBEDDING]))
    ):
        problems.append(f"{TIED} differs from {EMBEDDING}, which it must equal")
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise CheckpointError(
            f"{where}: {len(problems)} tensor(s) do not fit the config: {'; '.join(problems[:_LISTED])}{more}"
        )
    return {name: found[name] for name in wanted}


def _refuse_huge(found: Mapping[str, Any], config: ModelConfig, where: str) -> None:
    """Refuse sizes far beyond what the file holds before anything is made of them."""
    held = sum(value.numel() for value in found.values() if isinstance(value, torch.Tensor))
    layer = 2 * config.dim * config.dim + 3 * config.dim * config.ffn_dim
    claimed = config.vocab_size * config.dim + config.n_layers * layer
    if claimed > 4 * held + 2**20 or config.max_seq_len * config.head_dim > 2**28:
        raise CheckpointError(
            f"{where}: the config asks for about {claimed:,} parameters, the file holds {held:,}; the config does "
            "not belong to it"
        )


def _complaint(name: str, value: Any, shape: tuple[int, ...]) -> str | None:
    """What is wrong with one tensor, or None."""
    if not isinstance(value, torch.Tensor):
        return f"{name} is a {type(value).__name__}, not a tensor"
    if tuple(value.shape) != shape:
        return f"{name} has shape {tuple(value.shape)}, needs {shape}"
    if value.dtype not in _FLOATS:
        return f"{name} has dtype {value.dtype}, needs a float of 16 to 64 bits"
    if not bool(torch.isfinite(value).all()):
        return f"{name} holds {int((~torch.isfinite(value)).sum())} NaN or infinite values"
    return None


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """sha256 over sorted names, dtypes, shapes and bytes."""
    content = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        content.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        content.update(tensor.view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


# Writing -------------------------------------------------------------------------------------------------------------


def convert(source: str | Path, target: Path, *, tokenizer: str | None = None) -> CheckpointInfo:
    """Write `source` as our folder, or as a released file where `target` ends in `.pt`.

    Raises:
        RefusedError: the target exists already.
    """
    checkpoint = read(source)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise RefusedError(f"{target}: exists already; name a new place, nothing was written")
    try:
        if target.suffix == ".pt":
            _save_released(checkpoint, target)
        else:
            save(checkpoint, target, tokenizer=tokenizer)
    except OSError as error:
        raise MachineError(f"{target}: cannot be written ({error.strerror})") from error
    return checkpoint.info


def save(checkpoint: Checkpoint, target: Path, *, tokenizer: str | None = None) -> None:
    """Write our folder; it appears under its name only when complete."""
    from safetensors.torch import save_file

    spec = tokenizer or checkpoint.tokenizer_spec
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
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
    (part / CONFIG_FILE).write_text(json.dumps(fields, indent=1) + "\n", "utf-8")
    if target.is_dir():
        target.rmdir()
    os.replace(part, target)


def _save_released(checkpoint: Checkpoint, target: Path) -> None:
    """Write the released form with plain names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    state = dict(checkpoint.weights) | {TIED: checkpoint.weights[EMBEDDING]}
    part = target.with_name(target.name + ".part")
    torch.save(
        {"model": state, "model_args": asdict(checkpoint.config), "iter_num": checkpoint.info.step or 0, "config": {}},
        part,
    )
    os.replace(part, target)
