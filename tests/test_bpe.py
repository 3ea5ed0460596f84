"""Encodings of our own: ranks and the transformers folder made of them give the same ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import generate

from ltm_eval.model.tokenizer import Tokenizer, learn, load_ranks, merges_of, ranks_file, save_for_transformers
from ltm_eval.system.errors import UsageError

TEXTS = [f"{p.question} {p.answer}" for p in generate(60, seed=3, split="train")]
HARD = [
    "",
    " ",
    "\n\n",
    "12345 #### 6",
    "naïve café 𝔘𝔫𝔦",
    "don't  stop",
    "\x00\x1b[0m",
    "<|endoftext|>x",
    "\u2028 \u00a0",
]


@pytest.fixture(scope="module")
def tokens() -> list[bytes]:
    return learn(TEXTS, 400)


@pytest.fixture(scope="module")
def tokenizer(tokens: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("ranks") / "ranks.tiktoken"
    path.write_bytes(ranks_file(tokens))
    return load_ranks(path)


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> object:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("fast")
    save_for_transformers(tokenizer, folder, context=64)
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_bytes_come_first_and_digits_never_merge(tokens: list[bytes]) -> None:
    assert tokens[:256] == [bytes([value]) for value in range(256)]
    assert len(set(tokens)) == 400
    assert not [token for token in tokens[256:] if any(chr(value).isdigit() for value in token)]


def test_learning_is_deterministic(tokens: list[bytes]) -> None:
    assert learn(TEXTS, 400) == tokens


def test_each_token_is_merged_from_two_earlier_ones(tokens: list[bytes]) -> None:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for token, (left, right) in zip(tokens[256:], merges_of(tokens), strict=True):
        assert left + right == token
        assert max(ranks[left], ranks[right]) < ranks[token]


def test_a_token_without_parents_is_named() -> None:
    with pytest.raises(UsageError, match="b'xyz'"):
        merges_of([bytes([value]) for value in range(256)] + [b"xyz"])


@pytest.mark.parametrize(("size", "message"), [(255, "at least 256"), (5_000, "provide more text")])
def test_sizes_out_of_reach_are_refused(size: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        learn(["ab ab"], size)


@pytest.mark.parametrize("text", [*HARD, *TEXTS[:5]])
def test_both_forms_encode_alike(tokenizer: Tokenizer, fast: object, text: str) -> None:
    plain = text.replace("<|endoftext|>", "")
    assert fast(plain, add_special_tokens=False)["input_ids"] == tokenizer.encode(plain)  # type: ignore[operator]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_both_forms_encode_any_text_alike(tokenizer: Tokenizer, fast: object, text: str) -> None:
    clean = text.encode("utf-8", "replace").decode().replace("<|endoftext|>", "")
    assert fast(clean, add_special_tokens=False)["input_ids"] == tokenizer.encode(clean)  # type: ignore[operator]


def test_the_end_of_text_has_the_same_id(tokenizer: Tokenizer, fast: object) -> None:
    assert fast.eos_token_id == tokenizer.eot_id == 400  # type: ignore[attr-defined]
    assert Path(fast.name_or_path).is_dir()  # type: ignore[attr-defined]
