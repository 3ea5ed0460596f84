"""Blocks: what is cut where, what is kept, dropped and counted."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_ranks, put

from ltm_eval.data.blocks import (
    Block,
    BlockOptions,
    Counts,
    block_tokenizer,
    blocks_dataset,
    cut_blocks,
    default_options,
    last_word_dataset,
    options_of,
    prepare,
    whole_documents,
)
from ltm_eval.model.tokenizer import END_OF_TEXT, Tokenizer, load_ranks
from ltm_eval.system.errors import DataError, MachineError, TokenizerError, UsageError
from ltm_eval.system.files import assets_dir

SIXTEEN = BlockOptions(block_tokens=16)


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Bytes and the merges b+c, then a+b, then c+d: `ab`, `cd` are 2 tokens apart and `abcd` 3 together."""
    tokens = [*(bytes([b]) for b in range(256)), b"bc", b"ab", b"cd"]
    path = tmp_path_factory.mktemp("ranks") / "merging.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return load_ranks(path)


@pytest.fixture
def as_gpt2(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes in place of GPT-2's vocabulary, which may not be at hand."""
    monkeypatch.setattr("ltm_eval.data.blocks.load_gpt2", lambda: tokenizer)
    monkeypatch.delenv("LTM_EVAL_DATA_DIR", raising=False)


def inner(block: Block) -> str:
    assert block.text.endswith(END_OF_TEXT)
    return block.text.removesuffix(END_OF_TEXT)


def test_blocks_by_hand(tokenizer: Tokenizer) -> None:
    blocks, counts = cut_blocks(["one two three", "four five", "six seven"], tokenizer, SIXTEEN)
    assert blocks == [
        Block("one two threef" + END_OF_TEXT, 4, 14, 15, 0),  # `four` begins here
        Block("our fivesix se" + END_OF_TEXT, 3, 14, 15, 1),  # `five`, `six`, `seven`
    ]
    assert counts == Counts(
        documents=2,
        n_words=7,
        n_bytes=28,
        n_tokens_block=30,
        stream_tokens=31,
        dropped_tokens=3,
        dropped_bytes=3,
        moved_cuts=0,
        moved_tokens=0,
        changed_blocks=0,
    )


def test_end_of_text_after_every_example(tokenizer: Tokenizer) -> None:
    options = BlockOptions(block_tokens=16, insert_eos=True)
    blocks, counts = cut_blocks(["one two three", "four five", "six"], tokenizer, options)
    assert blocks == [
        Block(f"one two three{END_OF_TEXT}{END_OF_TEXT}", 3, 13, 15, 0),
        Block(f"four five{END_OF_TEXT}six{END_OF_TEXT}{END_OF_TEXT}", 3, 12, 15, 1),
    ]
    assert (counts.stream_tokens, counts.dropped_tokens, counts.dropped_bytes) == (28, 0, 0)


def test_a_cut_never_falls_inside_a_character(tokenizer: Tokenizer) -> None:
    blocks, counts = cut_blocks(["x" * 13 + "€" + "y" * 30], tokenizer, SIXTEEN)
    assert [inner(block) for block in blocks] == ["x" * 13, "€" + "y" * 11, "y" * 14]
    assert (counts.moved_cuts, counts.moved_tokens, counts.dropped_tokens) == (1, 1, 5)
    assert blocks[0].n_tokens_block == 14


def test_a_block_whose_text_takes_more_tokens_gives_some_up(merging: Tokenizer) -> None:
    assert len(merging.encode("ab")) + len(merging.encode("cd")) == 2
    assert len(merging.encode("abcd")) == 3
    blocks, counts = cut_blocks(["ab", "cd"] * 20, merging, SIXTEEN)
    for block in blocks:
        assert len(merging.encode(inner(block))) == block.n_tokens_block - 1 <= 14
    assert counts.moved_cuts == counts.changed_blocks == len(blocks)
    kept = "".join(map(inner, blocks))
    assert ("abcd" * 20).startswith(kept)
    assert len(kept) + counts.dropped_bytes == 80


def test_a_block_whose_text_takes_fewer_tokens_stays(merging: Tokenizer) -> None:
    blocks, counts = cut_blocks(["xb", "cx"] * 7, merging, SIXTEEN)
    assert [inner(block) for block in blocks] == ["xbcx" * 3 + "xb", "cx" + "xbcx" * 3]
    assert [block.n_tokens_block for block in blocks] == [12, 12]
    assert (counts.moved_cuts, counts.changed_blocks, counts.stream_tokens) == (0, 2, 28)


EXAMPLES = st.lists(st.text(alphabet="abcd  \n\u2009€🙂é", max_size=40), max_size=12)


@given(EXAMPLES, st.integers(16, 40), st.booleans())
def test_all_text_is_in_the_blocks_or_dropped(
    merging: Tokenizer, examples: list[str], block_tokens: int, insert_eos: bool
) -> None:
    options = BlockOptions(block_tokens=block_tokens, insert_eos=insert_eos)
    blocks, counts = cut_blocks(examples, merging, options)
    assert (blocks, counts) == cut_blocks(iter(examples), merging, options)
    whole = "".join(example + END_OF_TEXT * insert_eos for example in examples)
    kept = "".join(map(inner, blocks))
    assert whole.startswith(kept)
    dropped = whole[len(kept) :].replace(END_OF_TEXT, "")
    assert counts.dropped_bytes == len(dropped.encode())
    assert counts.n_bytes + counts.dropped_bytes == sum(len(example.encode()) for example in examples)
    assert counts.dropped_tokens < block_tokens - 2
    for block in blocks:
        assert len(merging.encode(block.text, end_of_text=True)) == block.n_tokens_block <= block_tokens - 1
        assert len(inner(block).replace(END_OF_TEXT, "").encode()) == block.n_bytes
    words = sum(len(re.findall(r"\S+", example)) for example in examples)
    assert words - len(re.findall(r"\S+", dropped)) - len(examples) <= counts.n_words <= words


def words_by_hand(examples: list[str], begin: int, end: int) -> int:
    """Words of the examples that begin between two byte positions of their concatenation."""
    count = before = 0
    for example in examples:
        starts = [before + len(example[: word.start()].encode()) for word in re.finditer(r"\S+", example)]
        count += sum(begin <= start < end for start in starts)
        before += len(example.encode())
    return count


@given(EXAMPLES)
def test_a_word_counts_in_the_block_where_it_begins(tokenizer: Tokenizer, examples: list[str]) -> None:
    padded = [*examples, " " * 40]  # so that every word lies in a whole block
    blocks, counts = cut_blocks(padded, tokenizer, SIXTEEN)
    assert counts.n_words == sum(len(example.split()) for example in examples)
    begin = 0
    for block in blocks:
        assert block.n_words == words_by_hand(padded, begin, begin + block.n_bytes)
        begin += block.n_bytes


def test_whole_documents(tokenizer: Tokenizer) -> None:
    blocks, counts = whole_documents([(" = A =\n", " b c\n"), ("dé",)], tokenizer)
    assert blocks == [Block(" = A =\n b c\n", 5, 12, 12, 0), Block("dé", 1, 3, 3, 1)]
    assert (counts.documents, counts.n_words, counts.dropped_tokens) == (2, 6, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "mdml"}, "protocol must be one of mdlm, documents, got 'mdml'"),
        ({"block_tokens": 15}, "at least 16, got 15"),
        ({"protocol": "documents", "insert_eos": True}, "belong to protocol mdlm"),
        ({"protocol": "documents", "block_tokens": 512}, "belong to protocol mdlm"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BlockOptions(**options)


def test_options_as_a_command_line_passes_them() -> None:
    assert options_of({}) == BlockOptions()
    assert options_of({"block_tokens": "256", "insert_eos": "true"}) == BlockOptions("mdlm", 256, True)
    assert options_of({"block_tokens": 256.0, "insert_eos": False, "t_fast": 4}) == BlockOptions("mdlm", 256, False)
    for wrong in ({"block_tokens": "many"}, {"block_tokens": 99.5}, {"block_tokens": True}, {"insert_eos": "perhaps"}):
        with pytest.raises(UsageError, match="must be"):
            options_of(wrong)


# From files ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_gpt2")
def test_facts_say_what_was_read_and_done(tmp_path: Path, tokenizer: Tokenizer) -> None:
    put(tmp_path, "ptb/ptb.valid.txt", "the <unk> 's N\n" * 5)
    facts = prepare("ptb", SIXTEEN, data=tmp_path).facts
    assert facts == {
        "name": "ptb",
        "split": "validation",
        "source": str(tmp_path / "ptb"),
        "files": ("ptb.valid.txt",),
        "sha256": facts["sha256"],
        "complete": False,
        "official": False,
        "difference": "5 of 3,370 documents",
        "sample": False,
        "rows": 5,
        "protocol": "mdlm",
        "block_tokens": 16,
        "insert_eos": False,
        "block_tokenizer": "bytes.tiktoken",
        "block_tokenizer_sha256": tokenizer.digest,
        "documents": 3,
        "n_words": 14,
        "n_bytes": 42,
        "n_tokens_block": 45,
        "stream_tokens": 45,
        "dropped_tokens": 3,
        "dropped_bytes": 3,
        "moved_cuts": 0,
        "moved_tokens": 0,
        "changed_blocks": 0,
    }


@pytest.mark.usefixtures("as_gpt2")
def test_rows_for_lm_eval(tmp_path: Path) -> None:
    put(tmp_path, "ptb/ptb.valid.txt", "a b c d e f g h i j\n")
    put(tmp_path, "ptb/ptb.test.txt", "k l m n o p q r s t\n")
    found = blocks_dataset(text_set_name="ptb", data=str(tmp_path), block_tokens=16, pretrained="demo", version=1.0)
    assert list(found) == ["blocks"]
    assert found["blocks"][0] == {
        "text": "a b c d e f g " + END_OF_TEXT,
        "n_words": 7,
        "n_bytes": 14,
        "n_tokens_block": 15,
        "index": 0,
    }
    facts = json.loads(found["blocks"].info.description)
    assert (facts["name"], facts["rows"], facts["dropped_tokens"]) == ("ptb", 1, 5)
    for key in ("split", "ptb_split"):
        other = blocks_dataset(text_set_name="ptb", data_dir=tmp_path, protocol="documents", **{key: "test"})
        assert other["blocks"]["text"] == ["k l m n o p q r s t"]
    chosen = blocks_dataset(
        text_set_name="ptb", data=tmp_path, protocol="documents", ptb_file="ptb.test.txt", lm1b_file="x"
    )
    assert chosen["blocks"]["text"] == ["k l m n o p q r s t"]
    with pytest.raises(UsageError, match="give one of them"):
        blocks_dataset(text_set_name="ptb", data=tmp_path, data_dir="other")


@pytest.mark.usefixtures("as_gpt2")
def test_too_little_text_for_a_block(tmp_path: Path) -> None:
    put(tmp_path, "ptb/ptb.valid.txt", "a b c\n")
    with pytest.raises(DataError, match="ptb: 5 tokens do not fill one block of 1024; pass block_tokens=N"):
        prepare("ptb", data=tmp_path)


@pytest.mark.usefixtures("as_gpt2")
def test_text_that_models_would_misread(tmp_path: Path) -> None:
    put(tmp_path, "lambada/lambada_test.jsonl", json.dumps({"text": f"a {END_OF_TEXT} b"}))
    with pytest.raises(DataError, match="occurs in an example, and models read it as the end"):
        prepare("lambada", data=tmp_path)


def test_without_gpt2s_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ConnectionError(name)

    put(tmp_path, "ptb/ptb.valid.txt", "a b c\n")
    monkeypatch.setattr("tiktoken.get_encoding", absent)
    with pytest.raises(MachineError, match="blocks are counted in GPT-2 tokens.*block_tokenizer") as caught:
        prepare("ptb", data=tmp_path)
    assert "\n" not in str(caught.value)
    demo = BlockOptions(block_tokens=16, block_tokenizer="demo")
    put(tmp_path, "ptb/ptb.valid.txt", "a b c\n" * 20)
    assert prepare("ptb", demo, data=tmp_path).facts["block_tokenizer"] == "demo"


# The block tokenizer ------------------------------------------------------------------------------------------------


def test_defaults_of_the_samples_and_of_everything_else() -> None:
    assert default_options("sample") == BlockOptions("mdlm", 256, False, "demo")
    assert default_options("sample", protocol="documents") == BlockOptions("documents", block_tokenizer="demo")
    for other in (None, "auto", "hub", Path("sample/ptb")):
        assert default_options(other) == BlockOptions("mdlm", 1_024, False, "gpt2")
    for key in ("data", "data_dir"):
        assert options_of({key: "sample"}) == default_options("sample")
    documents = options_of({"data": "sample", "protocol": "documents"})
    assert documents == default_options("sample", protocol="documents")
    chosen = options_of({"data": "sample", "block_tokens": 512, "block_tokenizer": "gpt2"})
    assert chosen == BlockOptions("mdlm", 512, False, "gpt2")


def test_block_tokenizers_by_name_and_file(tmp_path: Path) -> None:
    assert block_tokenizer("demo").digest == load_ranks(assets_dir() / "ltm-demo" / "tokenizer.tiktoken").digest
    assert block_tokenizer("demo").name == "demo"
    ranks = byte_ranks(tmp_path / "tokenizer.tiktoken")
    for spec in (ranks, tmp_path):
        found = block_tokenizer(str(spec))
        assert (found.name, found.n_vocab) == ("tokenizer.tiktoken", 257)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, TokenizerError, "block_tokenizer must be gpt2, demo or a file of mergeable ranks, got '.*x.tiktoken'"),
        (b"", TokenizerError, "256 of the 256 single bytes have no rank"),
        (b"YQ== 0 0\n", TokenizerError, "x.tiktoken:1: expected a base64 token, a space and its rank"),
        (b"\x00\xff\xfe 0\n", TokenizerError, "x.tiktoken:1: expected a base64 token, a space and its rank"),
        (b"YQ== 7\n", TokenizerError, "ranks must be 0 to n-1"),
        (b"YQ== 0\n", TokenizerError, "255 of the 256 single bytes have no rank; is it a complete tiktoken file"),
    ],
)
def test_block_tokenizers_that_are_none(
    tmp_path: Path, content: bytes | None, kind: type[Exception], message: str
) -> None:
    path = tmp_path / "x.tiktoken"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=message) as caught:
        blocks_dataset(text_set_name="ptb", data="sample", block_tokenizer=str(path))
    assert "\n" not in str(caught.value)


def test_tokens_are_those_of_the_named_tokenizer(tmp_path: Path, merging: Tokenizer) -> None:
    put(tmp_path, "lambada/lambada_test.jsonl", json.dumps({"text": "abcd " * 9}))
    ranks = tmp_path / "merging.tiktoken"
    tokens = [*(bytes([b]) for b in range(256)), b"bc", b"ab", b"cd"]
    ranks.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    options = {"data": tmp_path, "protocol": "documents"}
    rows = blocks_dataset(text_set_name="lambada", block_tokenizer=str(ranks), **options)["blocks"]
    facts = json.loads(rows.info.description)
    assert rows[0]["n_tokens_block"] == facts["n_tokens_block"] == len(merging.encode(rows[0]["text"]))
    assert (facts["block_tokenizer"], facts["block_tokenizer_sha256"]) == ("merging.tiktoken", merging.digest)


def test_last_words(tmp_path: Path) -> None:
    put(tmp_path, "lambada/lambada_test.jsonl", '{"text": "one two\\nthree four"}\n{"text": "a b"}\n')
    rows = last_word_dataset(data=tmp_path)["blocks"]
    assert rows[0] == {"context": "one two\nthree", "target": " four", "index": 0}
    assert rows[1] == {"context": "a", "target": " b", "index": 1}
    for text in ("word", "word ", " word"):
        put(tmp_path, "lambada/lambada_test.jsonl", json.dumps({"text": text}))
        with pytest.raises(DataError, match="passage 1 has no last word"):
            last_word_dataset(data=tmp_path)


# Published data -------------------------------------------------------------------------------------------------------

COUNTED = [  # blocks, words, bytes, GPT-2 tokens scored, tokens of the examples, dropped, cuts moved, blocks changed
    ("ptb", (77, 68_486, 373_450, 78_768, 78_403, 97, 73, 77)),
    ("wikitext", (237, 181_839, 1_079_417, 242_449, 242_248, 34, 0, 2)),
    ("lambada", (414, 305_640, 1_675_821, 423_506, 423_590, 487, 5, 11)),
    ("ag_news", (384, 286_644, 1_787_980, 391_650, 392_508, 60, 0, 335)),
]


@pytest.mark.parametrize(("name", "expected"), COUNTED)
def test_counts_of_the_published_sets(
    data_dir: Path, name: str, expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = data_dir / "tiktoken_cache"
    if cache.is_dir():
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    facts = prepare(name, data=data_dir).facts
    keys = ("documents", "n_words", "n_bytes", "n_tokens_block", "stream_tokens", "dropped_tokens", "moved_cuts")
    assert tuple(facts[key] for key in (*keys, "changed_blocks")) == expected
