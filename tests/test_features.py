from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ltm_eval.system.errors import DataError, MachineError, UsageError, error_line
from ltm_eval.tasks.features import Featuriser, locate
from ltm_eval.tasks.mauve_options import MauveConfig
from tests.tiny import tiny_gpt2

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["one", "", "a longer text than the others, by far", "two words", "one", "ä€𝄞"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gpt2(tmp_path_factory.mktemp("features") / "tiny")


def featuriser(folder: Path, cache: Path | None, **changes: Any) -> Featuriser:
    options: dict[str, Any] = {"max_tokens": 12, "batch_size": 4, "device": "cpu", **changes}
    return Featuriser(locate(str(folder)), cache=cache, **options)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_equals_the_last_hidden_state_of_each_text_alone(folder: Path, batch_size: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    found = featuriser(folder, None, batch_size=batch_size).features(TEXTS)
    assert found.shape == (len(TEXTS), 16) and found.dtype == np.float32
    for text, row in zip(TEXTS, found, strict=True):
        ids = tokenizer.encode(text)[:12] or [tokenizer.eos_token_id]
        with torch.no_grad():
            states = network(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
        assert np.allclose(row, states[0, -1].numpy(), atol=1e-5)
    assert (found[0] == found[4]).all() and not np.allclose(found[0], found[3], atol=1e-3)


def test_equals_mauve_texts_own_featuriser(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("mauve.utils")
    monkeypatch.setenv("DISABLE_TQDM", "1")
    own = featuriser(folder, None, batch_size=3)
    found = own.features(TEXTS)
    tokenizer, network, _ = own._parts()
    distinct = sorted(set(TEXTS) - {""}, key=lambda text: -len(tokenizer.encode(text)[:12]))
    ids = [torch.tensor([tokenizer.encode(text)[:12]]) for text in distinct]
    theirs = utils.featurize_tokens_from_model(network, ids, 3).numpy()
    assert np.allclose(theirs, [found[TEXTS.index(text)] for text in distinct], atol=1e-6)


def test_kept_features_are_read_back_without_the_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = featuriser(folder, tmp_path).features(TEXTS)

    def refuse(self: Featuriser) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Featuriser, "_parts", refuse)
    assert (featuriser(folder, tmp_path, batch_size=1).features(TEXTS) == first).all()
    for other in (
        lambda: featuriser(folder, tmp_path, max_tokens=5).features(TEXTS),
        lambda: featuriser(folder, tmp_path).features(TEXTS[:3]),
    ):
        with pytest.raises(AssertionError, match="was loaded"):
            other()


def test_another_model_under_the_same_name_has_features_of_its_own(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    before = locate(str(copy)).digest
    assert before == locate(str(folder)).digest
    (weights,) = copy.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert locate(str(copy)).digest != before


@pytest.mark.parametrize("content", [b"", b"not an array", None])
def test_a_broken_cache_file_is_made_again(
    folder: Path, tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    first = featuriser(folder, tmp_path).features(TEXTS)
    (file,) = tmp_path.iterdir()
    if content is None:
        np.save(file, np.full((5, 16), np.nan, dtype=np.float32))
    else:
        file.write_bytes(content)
    assert (featuriser(folder, tmp_path).features(TEXTS) == first).all()
    assert (np.load(file)[:1] == first[:1]).all()


def test_a_cache_that_cannot_be_written_costs_no_run(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    with caplog.at_level(logging.WARNING):
        assert featuriser(folder, taken / "below").features(["x"]).shape == (1, 16)
    assert "cannot be cached" in caplog.text


def test_errors_name_the_option(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError) as caught:
        locate(MauveConfig.feature_model)
    line = error_line(caught.value)
    assert "feature model gpt2-large: not in" in line and "HF_HUB_OFFLINE" in line
    assert "mauve_feature_model" in line and "\n" not in line and not line.endswith("…")
    with pytest.raises(DataError, match=r"no such folder; .*mauve_feature_model"):
        locate(str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"expected a transformers folder .* found none of them"):
        locate(str(tmp_path))
    with pytest.raises(UsageError, match=r"reads at most 1024 tokens, mauve_max_text_length is 1025"):
        featuriser(folder, None, max_tokens=1025)


def test_a_folder_that_transformers_cannot_load(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (weights,) = copy.glob("*.safetensors")
    weights.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"transformers could not load it"):
        featuriser(copy, None).features(["x"])
