"""Perplexity sets as the documents that any lm-eval model scores: blocks of the MDLM family, or whole documents.

Protocol `mdlm` (arXiv:2406.07524; kuleshov-group/bd3lms `dataloader.py` with `insert_valid_eos=False`): GPT-2 BPE of
each example without special tokens, concatenated in order, cut into 1,022 tokens between two end-of-text tokens, the
remainder dropped. There the remainder depends on the number of processes; here one process does it all and counts what
it drops. Protocol `documents`: whole documents, nothing dropped or appended.

A model gets text, not tokens. The leading end-of-text is the prefix token that lm-eval's models put before a rolling
text; the closing one is the literal `<|endoftext|>`, which GPT-2's tokenizers read as the special token. A cut between
tokens can fall inside a character, and the text of a block need not encode to the same tokens again (across the border
of two examples). So a cut moves back, token by token, until the block is valid text that encodes to at most as many
tokens as fit; the next block begins with the tokens given up. A block whose text encodes to fewer tokens stays as it
is: tokens are counted as a model sees them.

GPT-2's vocabulary needs the network once. Blocks can therefore be cut and counted with another tokenizer
(`block_tokenizer`); the bundled sample data use the bundled model's by default, with shorter blocks. The facts of a
preparation name the tokenizer.

Words and bytes are those of the de-tokenised text (UTF-8), without end-of-text. Words are separated by white space
within their example and count in the block where they begin, so that neither joins nor cuts change the sum.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ltm_eval.data.metadata import dataset_of, reads
from ltm_eval.data.sets import documents, load_texts, text_set
from ltm_eval.data.sources import PLACE, SAMPLE, place_of
from ltm_eval.model.tokenizer import END_OF_TEXT, Tokenizer, load_gpt2, load_tokenizer
from ltm_eval.system.errors import DataError, MachineError, TokenizerError, UsageError, spelt
from ltm_eval.system.files import DEMO_MODEL, demo_model_dir
from ltm_eval.system.options import names_of, options, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset


Protocol = Literal["mdlm", "documents"]
BLOCK_TOKENS = 1_024
SAMPLE_BLOCK_TOKENS = 256  # of the bundled sample data, which are short
GPT2 = "gpt2"  # GPT-2's tokenizer; the bundled model's, which needs no network, is `DEMO_MODEL`
FEWEST_TOKENS = 16  # a character can take several tokens; below this a block might hold none
PARTS = ("split", "file")  # task options that choose the file; `<set>_split` and `<set>_file` apply to one set
MDLM_ONLY = "block_tokens and insert_eos belong to protocol mdlm; documents are never cut"
SPLIT = "blocks"  # lm-eval's name for the split, whatever split of the set is read
_WORD = re.compile(r"\S+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


@options()
class BlockOptions:
    """How a set becomes documents."""

    protocol: Protocol = "mdlm"
    block_tokens: Annotated[int, Field(ge=FEWEST_TOKENS)] = BLOCK_TOKENS  # both ends of text included; `mdlm` only
    insert_eos: bool = False  # whether end-of-text follows every example; `mdlm` only
    block_tokenizer: str = GPT2  # to cut and count with: `gpt2`, `demo` (the bundled model's) or a file of ranks

    def __post_init__(self) -> None:
        if self.protocol == "documents" and (self.insert_eos or self.block_tokens != BLOCK_TOKENS):
            raise UsageError(MDLM_ONLY)


@dataclass(frozen=True)
class Block:
    """One document of a task."""

    text: str  # scored by rolling log-likelihood, a closing end-of-text included
    n_words: int  # words that begin in the block
    n_bytes: int  # of UTF-8, without end-of-text
    n_tokens_block: int  # of `text`, by the block tokenizer, a closing end-of-text included
    index: int  # in the set


@dataclass(frozen=True)
class Counts:
    """Counts of what became of the text, summed over all blocks."""

    documents: int  # blocks, or whole documents
    n_words: int
    n_bytes: int
    n_tokens_block: int
    stream_tokens: int  # tokens of the examples, each encoded alone
    dropped_tokens: int = 0  # tokens after the last whole block
    dropped_bytes: int = 0
    moved_cuts: int = 0
    moved_tokens: int = 0  # tokens by which cuts moved back, in total
    changed_blocks: int = 0  # blocks whose text encodes to other tokens than the examples


@dataclass(frozen=True)
class Prepared:
    """A set ready for evaluation."""

    blocks: tuple[Block, ...]
    facts: Mapping[str, Any]  # set, split, files with digest, options and `Counts`, for the record


def prepare(
    name: str,
    options: BlockOptions | None = None,
    *,
    data: object = None,
    split: str | None = None,
    file: str | None = None,
) -> Prepared:
    """Read a set and prepare its documents.

    Args:
        name: of `sets.TEXT_SETS`.
        options: protocol, lengths and tokenizer; None takes `default_options(data)`.
        data: `auto` (also None), `sample`, `hub` or a folder.
        split: split to read in place of the set's own.
        file: file to read in place of the set's own.

    Raises:
        UsageError: an option is invalid.
        DataError: see `sets.load_texts`; or nothing is left to evaluate.
        MachineError: GPT-2's vocabulary is not available, or a file cannot be read.
        TokenizerError: the block tokenizer's file is not one of mergeable ranks.
    """
    options = options or default_options(data)
    texts = load_texts(name, data=data, split=split, file=file)
    tokenizer = block_tokenizer(options.block_tokenizer)
    wholes = documents(texts)
    if options.protocol == "documents":
        blocks, counts = whole_documents(wholes, tokenizer)
    else:
        blocks, counts = cut_blocks((text for parts in wholes for text in parts), tokenizer, options)
    if not blocks:
        raise DataError(
            f"{name}: {counts.stream_tokens} tokens do not fill one block of {options.block_tokens}; "
            "pass block_tokens=N with a smaller N, or protocol=documents"
        )
    facts = {
        **texts.facts(),
        "rows": len(texts.rows),
        **(asdict(options) if options.protocol == "mdlm" else {"protocol": options.protocol}),
        "block_tokenizer": tokenizer.name,
        "block_tokenizer_sha256": tokenizer.digest,
        **asdict(counts),
    }
    return Prepared(tuple(blocks), facts)


def default_options(data: object, *, protocol: Protocol = "mdlm") -> BlockOptions:
    """Return the default options: the published preparation, or shorter blocks for the bundled samples.

    Args:
        data: as in `prepare`.
        protocol: blocks or whole documents.
    """
    if str(data) != SAMPLE:
        return BlockOptions(protocol)
    length = SAMPLE_BLOCK_TOKENS if protocol == "mdlm" else BLOCK_TOKENS
    return BlockOptions(protocol, length, block_tokenizer=DEMO_MODEL)


def block_tokenizer(spec: str) -> Tokenizer:
    """Load the tokenizer to cut and count with.

    Args:
        spec: `gpt2`, `demo` or a file of mergeable ranks (or a folder that holds one).

    Raises:
        UsageError: `spec` is neither a known name nor a file.
        TokenizerError: there is no such file, or it is not one of mergeable ranks.
        MachineError: GPT-2's vocabulary is not available.
    """
    if spec == GPT2:
        try:
            return load_gpt2()
        except MachineError as error:
            raise MachineError(
                "blocks are counted in GPT-2 tokens, and its vocabulary is neither in tiktoken's cache nor could it be "
                "downloaded; set TIKTOKEN_CACHE_DIR, or, for other blocks than the published ones, pass "
                + spelt("metadata", '{"block_tokenizer": "demo"}')
            ) from error
    if spec == DEMO_MODEL:
        return replace(load_tokenizer(str(demo_model_dir())), name=DEMO_MODEL)
    if not Path(spec).exists():
        named_as_path = Path(spec).name != spec or bool(Path(spec).suffix)
        raise (TokenizerError if named_as_path else UsageError)(
            f"block_tokenizer must be gpt2, demo or a file of mergeable ranks, got {spec!r}"
        )
    return load_tokenizer(spec)


def whole_documents(wholes: Iterable[Sequence[str]], tokenizer: Tokenizer) -> tuple[list[Block], Counts]:
    """Return one block per document, without a closing end-of-text.

    Args:
        wholes: documents, each as its examples.
        tokenizer: the block tokenizer.
    """
    blocks = []
    stream_tokens = 0
    for index, parts in enumerate(wholes):
        text = "".join(parts)
        tokens = len(tokenizer.encode(text))
        stream_tokens += tokens
        blocks.append(
            Block(
                text=text,
                n_words=sum(len(_WORD.findall(part)) for part in parts),
                n_bytes=len(text.encode()),
                n_tokens_block=tokens,
                index=index,
            )
        )
    return blocks, _counts(blocks, stream_tokens=stream_tokens)


def _counts(blocks: Sequence[Block], *, stream_tokens: int, **others: int) -> Counts:
    return Counts(
        documents=len(blocks),
        n_words=sum(block.n_words for block in blocks),
        n_bytes=sum(block.n_bytes for block in blocks),
        n_tokens_block=sum(block.n_tokens_block for block in blocks),
        stream_tokens=stream_tokens,
        **others,
    )


def cut_blocks(examples: Iterable[str], tokenizer: Tokenizer, options: BlockOptions) -> tuple[list[Block], Counts]:
    """Cut examples into the blocks of protocol `mdlm`.

    Args:
        examples: de-tokenised, in order.
        tokenizer: the block tokenizer.
        options: length and separator.
    """
    cutter = _Cutter(tokenizer, options.block_tokens - 2)
    blocks = [
        block
        for example in examples
        for block in cutter.blocks_after(example, followed_by=[tokenizer.eot_id] if options.insert_eos else [])
    ]
    return blocks, _counts(
        blocks,
        stream_tokens=cutter.stream_tokens,
        dropped_tokens=len(cutter.pending),
        dropped_bytes=len(tokenizer.decode_bytes(cutter.pending)),
        moved_cuts=cutter.moved_cuts,
        moved_tokens=cutter.moved_tokens,
        changed_blocks=cutter.changed_blocks,
    )


class _Cutter:
    """The tokens since the last cut. Byte positions count from the beginning of the set, without end-of-text."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length
        self.pending: list[int] = []  # tokens since the last cut
        self.word_starts: list[int] = []  # byte positions since the last cut
        self.cut_at = self.read_to = 0  # byte positions
        self.index = self.stream_tokens = self.moved_cuts = self.moved_tokens = self.changed_blocks = 0

    def blocks_after(self, example: str, *, followed_by: Sequence[int]) -> Iterator[Block]:
        """Append an example and yield the blocks that are now full."""
        ids = [*self.tokenizer.encode(example), *followed_by]
        self.stream_tokens += len(ids)
        self._note_words(example)
        self.pending += ids
        begin = 0
        while len(self.pending) - begin >= self.length:
            used, block = self._block(self.pending[begin : begin + self.length])
            begin += used
            yield block
        del self.pending[:begin]

    def _note_words(self, example: str) -> None:
        longer = [(found.start(), len(found[0].encode()) - 1) for found in _NOT_ASCII.finditer(example)]
        longer.append((len(example), 0))
        base, beyond = self.read_to, 0
        for word in _WORD.finditer(example):
            while longer[beyond][0] < word.start():
                base += longer[beyond][1]
                beyond += 1
            self.word_starts.append(base + word.start())
        self.read_to += len(example.encode())

    def _block(self, ids: Sequence[int]) -> tuple[int, Block]:
        """Return the longest prefix of `ids` that fits as a block: its number of tokens and the block."""
        used, text, encoded = self._fitting(ids)
        n_bytes = len(text.replace(END_OF_TEXT, "").encode())
        words = bisect_left(self.word_starts, self.cut_at + n_bytes)
        del self.word_starts[:words]
        self.cut_at += n_bytes
        self.moved_cuts += used < len(ids)
        self.moved_tokens += len(ids) - used
        self.changed_blocks += encoded != list(ids[:used])
        block = Block(text + END_OF_TEXT, words, n_bytes, len(encoded) + 1, self.index)
        self.index += 1
        return used, block

    def _fitting(self, ids: Sequence[int]) -> tuple[int, str, list[int]]:
        """Return how many of `ids` make a block, its text, and the tokens of that text."""
        for used in range(len(ids), 0, -1):
            try:
                text = self.tokenizer.encoding.decode_bytes(list(ids[:used])).decode("utf-8")
            except UnicodeDecodeError:  # the cut falls inside a character
                continue
            encoded = self.tokenizer.encode(text, end_of_text=True)
            if len(encoded) <= self.length:
                return used, text, encoded
        raise AssertionError(f"no beginning of {len(ids)} tokens is text of at most {self.length} tokens")


def _read_by_sets(metadata: Mapping[str, Any]) -> set[str]:
    """Return the task options that choose the file of a set."""
    name = str(metadata.get("text_set_name", ""))
    own = {f"{name}_{key}" for key in PARTS}
    return {*PLACE, *own, *(key for key in PARTS if f"{name}_{key}" not in metadata)}


@reads(lambda metadata: _read_by_sets(metadata) | set(names_of(BlockOptions)))
def blocks_dataset(*, text_set_name: str, **metadata: object) -> dict[str, Dataset]:
    """Return a perplexity set for lm-eval: rows with the fields of `Block`, under the one split `blocks`.

    Args:
        text_set_name: of `sets.TEXT_SETS`, from the task's YAML.
        metadata: lm-eval passes `--metadata` and all model arguments. Read are `data` (or `data_dir`), the fields of
            `BlockOptions`, and `split` and `file`, which `<set>_split` and `<set>_file` override for one set.

    Raises:
        LtmEvalError: see `prepare`.
    """
    prepared = prepare(text_set_name, options_of(metadata), **_source_of(text_set_name, metadata))
    return {SPLIT: dataset_of([asdict(block) for block in prepared.blocks], prepared.facts)}


@reads(lambda metadata: _read_by_sets({"text_set_name": "lambada", **metadata}))
def last_word_dataset(*, text_set_name: str = "lambada", **metadata: object) -> dict[str, Dataset]:
    """Return LAMBADA for lm-eval: `context`, the passage up to its last space, and `target`, the rest.

    The passage is not changed, as in lm-eval's `lambada_openai`.

    Raises:
        DataError: see `sets.load_texts`; or a passage is a single word.
    """
    texts = load_texts(text_set_name, **_source_of(text_set_name, metadata))
    rows = []
    for index, passage in enumerate(texts.examples):
        context, space, word = passage.rpartition(" ")
        if not context.strip() or not word.strip():
            raise DataError(f"{texts.name} in {texts.source}: passage {index + 1} has no last word after a space")
        rows.append({"context": context, "target": space + word, "index": index})
    return {SPLIT: dataset_of(rows, {**texts.facts(), "examples": len(rows)})}


def options_of(metadata: Mapping[str, object]) -> BlockOptions:
    """Parse the options in `metadata`, which may be text from a command line.

    Raises:
        UsageError: a value is out of range or has the wrong type.
    """
    told = {name: metadata[name] for name in names_of(BlockOptions) if metadata.get(name) is not None}
    given = {name: read(BlockOptions, name, value) for name, value in told.items()}
    if given.get("protocol") == "documents" and given.keys() & {"block_tokens", "insert_eos"}:
        raise UsageError(MDLM_ONLY)
    return replace(default_options(place_of(metadata), protocol=given.get("protocol", "mdlm")), **given)


def _source_of(name: str, metadata: Mapping[str, object]) -> dict[str, Any]:
    """Return `data`, `split` and `file` of one set."""
    text_set(name)
    found: dict[str, Any] = {"data": place_of(metadata)}
    for key in PARTS:
        value = metadata.get(f"{name}_{key}", metadata.get(key))
        found[key] = None if value is None else str(value)
    return found
