"""What `ltm-eval doctor` looks at: versions, devices, the plug into lm-eval, data and tokenizer files."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_eval import __version__, paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _torch_text() -> str:
    import torch

    gpus = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return f"{torch.__version__}, {torch.get_num_threads()} threads, devices: {', '.join(['cpu', *gpus, *mps])}"


def _plug_text() -> str:
    """Looks in a fresh interpreter, since this one may have been helped along."""
    look = "import lm_eval.models; from lm_eval.api.registry import model_registry as m; print('ltm' in m)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=120, check=False)
    if done.stdout.strip() == "True":
        return "lm_eval --model ltm works"
    return "lm_eval does not know 'ltm': install ltm-eval with pip, or use 'ltm-eval lm-eval'"


def _data_text() -> str:
    named = os.environ.get("LTM_EVAL_DATA_DIR")
    found = [_folder_text("LTM_EVAL_DATA_DIR", Path(named))] if named else ["LTM_EVAL_DATA_DIR not set"]
    return "; ".join([*found, _folder_text("sample", paths.sample_data_dir())])


def _folder_text(name: str, folder: Path) -> str:
    if not folder.is_dir():
        return f"{name} {folder}: absent"
    sets = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return f"{name} {folder}: {', '.join(sets) or 'empty'}"


def _tokenizer_text() -> str:
    """tiktoken keeps a file under the sha1 of its address; these two are GPT-2's."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = Path(named or os.path.join(tempfile.gettempdir(), "data-gym-cache"))
    files = ("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
    state = "present" if all((folder / name).is_file() for name in files) else "absent, needs network once"
    return f"gpt2 in {folder}: {state}"


LOOKS: dict[str, Callable[[], str]] = {
    "ltm-eval": lambda: f"{__version__} in {paths.PACKAGE}",
    "python": lambda: f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs",
    "torch": _torch_text,
    "lm-eval": lambda: _version_of("lm_eval"),
    "plug": _plug_text,
    "extras": lambda: ", ".join(
        f"{name} {_version_of(name)}" for name in ("transformers", "accelerate", "mauve-text", "ray")
    ),
    "tasks": lambda: _folder_text("folder", paths.tasks_dir()),
    "data": _data_text,
    "tokenizer": _tokenizer_text,
}


def findings() -> Iterator[tuple[str, str]]:
    """Name and finding of everything looked at, in order; what is broken says so."""
    for name, look in LOOKS.items():
        try:
            yield name, look()
        except Exception as error:  # noqa: BLE001 - whatever is broken is what the doctor is asked about
            yield name, f"broken: {type(error).__name__}: {error}"
