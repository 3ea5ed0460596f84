"""What every test gets: one thread, no network, and none of the caller's own settings."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ltm_eval.model.tokenizer import Tokenizer

# Before torch, datasets or matplotlib are imported by a test module.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[_switch] = "1"
# An option in the caller's environment would change what is tested; the folder of real data sets is meant for tests.
_KEPT = ("LTM_EVAL_DATA_DIR", "LTM_EVAL_TEST_")
for _name in [name for name in os.environ if name.startswith("LTM_EVAL_") and not name.startswith(_KEPT)]:
    del os.environ[_name]

# What starts tests in the background may have signals ignored, and a run leaves ignored ones alone.
if threading.current_thread() is threading.main_thread():
    for _signal, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(_signal) is signal.SIG_IGN:
            signal.signal(_signal, _usual)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `tiny_model`, to be read only."""
    from tests.tiny import tiny_folder

    return tiny_folder(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Every byte is a token."""
    from ltm_eval.model.tokenizer import load_ranks
    from tests.tiny import byte_ranks

    return load_ranks(byte_ranks(tmp_path_factory.mktemp("ranks") / "bytes.tiktoken"))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty caches below `tmp_path`, no network, no folder named by the environment."""
    import huggingface_hub.constants

    monkeypatch.delenv("LTM_EVAL_DATA_DIR", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "caches" / "hub"))
    for variable in ("HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data sets; skips where LTM_EVAL_DATA_DIR names none."""
    named = os.environ.get("LTM_EVAL_DATA_DIR")
    if not named:
        pytest.skip("LTM_EVAL_DATA_DIR is not set")
    return Path(named)
