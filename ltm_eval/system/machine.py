"""Provenance of figures (versions, machine, commit), cost of a task, and the checks of `ltm-eval doctor`."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ltm_eval
from ltm_eval.system import files, progress
from ltm_eval.system.errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch


PUBLISHED_WIDTH = 512  # positions that a token sees in the published count, whatever the window


def flops_per_token(parameters: int, *, layers: int, width: int, t_fast: float) -> float:
    """Return (t_fast + 1) (6 P + 12 L D 512), the compute per token of arXiv:2502.01567.

    With D = 512 it gives the published 4.07, 5.52 and 32.2 GFLOPs for LTM-S, M (16 fast steps) and L (64). It counts a
    fast step as a training step, including gradients of weights, which this program does not compute
    (`learners.training_flops` counts the actual operations).

    Args:
        parameters: P, the number of all parameters.
        layers: L.
        width: D.
        t_fast: fast steps per text, averaged if they differ.
    """
    return (t_fast + 1) * (6 * parameters + 12 * layers * width * PUBLISHED_WIDTH)


def flops_of(told: Mapping[str, Any], *, t_fast: float) -> float | None:
    """Return `flops_per_token` from the `config` of a results file; None if a size is missing."""
    sizes = told.get("sizes")
    found = [told.get("model_num_parameters")]
    found += [sizes.get(name) for name in ("n_layers", "dim")] if isinstance(sizes, dict) else [None]
    numbers = [value for value in found if isinstance(value, int) and not isinstance(value, bool)]
    if len(numbers) != 3:
        return None
    return flops_per_token(numbers[0], layers=numbers[1], width=numbers[2], t_fast=t_fast)


COMPUTE_FILE = "training_compute.json"  # in a model's folder, or beside a released file


def training_compute(values: Mapping[str, Any], *, where: str) -> dict[str, Any] | None:
    """Return what training took, of the keys below that are given; None if there are none of them.

    Args:
        values: `tokens` and `flops`, positive numbers; `step`, a whole number; `formula`, how FLOPs were counted.
        where: begins an error message.

    Raises:
        InputError: a value is none of these.
    """
    found = {name: values[name] for name in ("step", "tokens", "flops", "formula") if values.get(name) is not None}
    for name, value in found.items():
        if name == "formula":
            fits, wanted = isinstance(value, str), "text"
        elif name == "step":
            fits, wanted = type(value) is int and value >= 0, "a whole number of at least 0"
        else:
            fits, wanted = type(value) in (int, float) and 0 < value < math.inf, "a positive number"
        if not fits:
            raise InputError(f"{where}: {name} must be {wanted}, got {shown(value)}")
    return found or None


def read_training_compute(path: Path, *, model: str = "") -> dict[str, Any] | None:
    """Return what a `training_compute.json` says of a model; None if there is no such file.

    The file is one object of `training_compute`, or one by name of the models' files that it stands beside.

    Raises:
        InputError: the file is not such an object.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(files.read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({type(error).__name__})") from error
    if isinstance(content, dict) and isinstance(content.get(model), dict):
        content = content[model]
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object with tokens and flops, got {shown(content)}")
    return training_compute(content, where=str(path))


def provenance() -> dict[str, Any]:
    """Return versions, machine and commit."""
    packages = ("torch", "lm-eval", "transformers", "datasets", "tiktoken", "numpy")
    return {
        "ltm_eval": ltm_eval.__version__,
        "git": _git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
    }


def program(*packages: str) -> dict[str, str | None]:
    """Return what may change an answer: version and source of this program, torch, lm-eval and `packages`.

    Answers are stored under it, and all ranks of a job must agree on it.
    """
    return {
        "ltm_eval": ltm_eval.__version__,
        "source_sha256": files.source_sha256(),
        **{name: version(name) for name in ("torch", "lm-eval", *packages)},
    }


def described() -> str:
    """Return the program for a reader: version, and commit if it runs from a checkout."""
    git = _git_state()
    if git is None:
        return ltm_eval.__version__
    return f"{ltm_eval.__version__}, commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}"


def _git_state() -> dict[str, Any] | None:
    """Return commit and whether the tree was changed, if the program runs from a checkout."""
    root = files.PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def version(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# What a task cost while it ran ----------------------------------------------------------------------------------------

MEMORY = ("peak_memory_bytes", "total_memory_bytes")


@dataclass(frozen=True)
class TaskCost:
    """Cost of one task of one run, without loading data and model."""

    seconds: float  # wall time of the evaluation, metrics included
    # on a GPU of tensors during this task, else of the process since its start; None if unknown
    peak_memory_bytes: int | None
    memory_of: str  # gpu or process
    processes: int = 1  # that shared the task; `peak_memory_bytes` is their maximum
    working_seconds: float = 0.0  # spent on answers, summed over processes, without waiting and metrics
    total_memory_bytes: int | None = None  # peaks of all processes, summed
    # Starts of the command that the answers come from. Times are summed over them, up to the last answer of an
    # interrupted one; memory is that of the start that finished the task.
    starts: int = 1
    fits: int | None = None  # number of fits, each counted once however many answers share it; None without a sidecar
    # tokens times passes with a gradient, over all fits; None without a sidecar
    fitted_token_steps: int | None = None
    token_passes: int | None = None  # tokens times passes without one: read, generated, scored, under every draw of z
    new_tokens: int | None = None  # generated, over all answers
    flops: float | None = None  # operations of all passes, each charged by the papers' count (`flops_per_token`)


def together(parts: Sequence[TaskCost]) -> TaskCost:
    """Return the cost of a task over all processes; wall time is that of the first, the leading one."""
    peaks = [part.peak_memory_bytes for part in parts if part.peak_memory_bytes is not None]
    return replace(
        parts[0],
        peak_memory_bytes=max(peaks, default=None),
        processes=len(parts),
        working_seconds=sum(part.working_seconds for part in parts),
        total_memory_bytes=sum(peaks) if peaks else None,
    )


class Meter:
    """Measure the cost from construction on.

    Args:
        device: device of the model, or its name.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.on_gpu = str(device).startswith("cuda")
        if self.on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        self.device = device
        self.begun, self.worked = time.perf_counter(), progress.working_seconds()

    def read(self) -> TaskCost:
        """Return the cost so far."""
        seconds, worked = time.perf_counter() - self.begun, progress.working_seconds() - self.worked
        if self.on_gpu:
            import torch

            return TaskCost(seconds, torch.cuda.max_memory_allocated(self.device), "gpu", working_seconds=worked)
        return TaskCost(seconds, _resident_peak(), "process", working_seconds=worked)


def _resident_peak() -> int | None:
    try:
        import resource
    except ImportError:  # not Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def sizes_of(lm: Any) -> dict[str, int]:
    """Return layers and width of a transformers model by the names of LTM results; empty if unknown."""
    config = getattr(lm, "config", None)
    found = {
        "n_layers": getattr(config, "num_hidden_layers", None),
        "dim": getattr(config, "hidden_size", None),
    }
    return {name: value for name, value in found.items() if isinstance(value, int)}


# Checks of `ltm-eval doctor` ------------------------------------------------------------------------------------------


def _torch_text() -> str:
    import torch

    gpus = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return f"{torch.__version__}, {torch.get_num_threads()} threads, devices: {', '.join(['cpu', *gpus, *mps])}"


def _plug_text() -> str:
    """Check in a fresh interpreter, since the plugin may already be loaded here."""
    look = "import lm_eval.models; from lm_eval.api.registry import model_registry as m; print('ltm' in m)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=120, check=False)
    if done.stdout.strip() == "True":
        return "lm_eval --model ltm works"
    return "lm_eval does not know 'ltm': install ltm-eval with pip, or use 'ltm-eval lm-eval'"


def _data_text() -> str:
    named = os.environ.get("LTM_EVAL_DATA_DIR")
    found = [_folder_text("LTM_EVAL_DATA_DIR", Path(named))] if named else ["LTM_EVAL_DATA_DIR not set"]
    return "; ".join([*found, _folder_text("sample", files.sample_data_dir())])


def _folder_text(name: str, folder: Path) -> str:
    if not folder.is_dir():
        return f"{name} {folder}: absent"
    sets = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return f"{name} {folder}: {', '.join(sets) or 'empty'}"


def _tokenizer_text() -> str:
    """Check for GPT-2's two files, which tiktoken caches by the sha1 of their URL."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = Path(named or os.path.join(tempfile.gettempdir(), "data-gym-cache"))
    files = ("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
    state = "present" if all((folder / name).is_file() for name in files) else "absent, needs network once"
    return f"gpt2 in {folder}: {state}"


LOOKS: dict[str, Callable[[], str]] = {
    "ltm-eval": lambda: f"{ltm_eval.__version__} in {files.PACKAGE}",
    "python": lambda: f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs",
    "torch": _torch_text,
    "lm-eval": lambda: version("lm_eval") or "missing",
    "plug": _plug_text,
    "extras": lambda: ", ".join(
        f"{name} {version(name) or 'missing'}" for name in ("transformers", "accelerate", "mauve-text", "ray")
    ),
    "tasks": lambda: _folder_text("folder", files.tasks_dir()),
    "data": _data_text,
    "tokenizer": _tokenizer_text,
}


def findings() -> Iterator[tuple[str, str]]:
    """Yield name and finding of every check, in order."""
    for name, look in LOOKS.items():
        try:
            yield name, look()
        except Exception as error:  # noqa: BLE001 - reporting what is broken is the purpose
            yield name, f"broken: {type(error).__name__}: {error}"
