from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_eval.model.tokenizer import Tokenizer, load_ranks, load_tokenizer
from ltm_eval.system import hub
from ltm_eval.system.errors import MachineError, TokenizerError
from tests.tiny import byte_ranks

if TYPE_CHECKING:
    from pathlib import Path


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text.encode("utf-8", "replace").decode()


def test_special_text_is_plain_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|endoftext|>")
    assert tokenizer.eot_id not in ids and tokenizer.decode(ids) == "<|endoftext|>"


def test_ids_without_text_decode_to_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([65, tokenizer.eot_id, 9999, 66]) == "AB"


def test_incomplete_utf8_is_marked(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([0xE2, 0x98]) == "\ufffd"
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_long_texts_take_linear_time(tokenizer: Tokenizer) -> None:
    text = "a" * 10**6 + "\n" + "b c\n" * 10**4
    begun = time.process_time()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.process_time() - begun < 30


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "256 of the 256 single bytes"),
        (b"QQ== x\n", ":1: expected a base64 token"),
        (b"not base64! 0\n", ":1: expected a base64 token"),
        (b"QQ== 5\n", "0 to n-1"),
        (b"QQ== 0\nQQ== 1\n", "0 to n-1"),
    ],
)
def test_damaged_rank_files_are_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(TokenizerError, match=words):
        load_tokenizer(str(tmp_path / "r"))


def test_absent_rank_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(str(tmp_path / "absent"))


def test_gpt2_without_cache_or_network_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ConnectionError(name)

    monkeypatch.setattr(tiktoken, "get_encoding", refuse)
    with pytest.raises(MachineError, match="TIKTOKEN_CACHE_DIR"):
        load_tokenizer("gpt2")


def test_a_silent_network_is_over_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "NETWORK_SECONDS", 0.05)
    over = Event()
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: over.wait())
    with pytest.raises(MachineError, match="no answer"):
        load_tokenizer("gpt2")
    over.set()


def test_digest_names_the_ranks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    swapped = (
        byte_ranks(tmp_path / "swapped")
        .read_bytes()
        .replace(b"QQ== 65", b"QQ== X")
        .replace(b"Qg== 66", b"Qg== 65")
        .replace(b"X", b"66", 1)
    )
    (tmp_path / "swapped").write_bytes(swapped)
    assert load_ranks(tmp_path / "swapped").digest != tokenizer.digest
    assert load_ranks(byte_ranks(tmp_path / "same")).digest == tokenizer.digest
