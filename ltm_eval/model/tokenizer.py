"""Byte-pair encoding by tiktoken: GPT-2's, or a file of mergeable ranks in the checkpoint folder.

The released vocabulary has 50,258 rows, GPT-2's 50,257 plus one; id 50,257 is never encoded and decodes to nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.system.errors import MachineError, TokenizerError, UsageError
from ltm_eval.system.files import check_regular
from ltm_eval.system.hub import within

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiktoken import Encoding


RANKS_FILE = "tokenizer.tiktoken"
END_OF_TEXT = "<|endoftext|>"
GPT2_VOCAB = 50_257
RELEASED_VOCAB = 50_258
FILE_LIMIT = 2**24  # bytes of a ranks file; the largest published ones have 4 million
SPARE_ROWS = 128  # embedding rows without a token; trainers round the number of rows up to a multiple of this at most
_LONGEST_PIECE = 100_000


@dataclass(frozen=True)
class Tokenizer:
    """Convert text to ids and back. Special tokens in text are encoded as plain text."""

    encoding: Encoding  # tiktoken's encoding
    name: str  # `gpt2`, or the name of the ranks file

    def __deepcopy__(self, memo: dict[int, object]) -> Tokenizer:
        """Return the tokenizer itself, which is immutable and slow to copy."""
        return self

    @property
    def n_vocab(self) -> int:
        """Ids run from 0 to n_vocab - 1."""
        return self.encoding.n_vocab

    @property
    def eot_id(self) -> int:
        """Id of the end-of-text token, which also precedes a text."""
        return self.encoding.eot_token

    def encode(self, text: str, *, end_of_text: bool = False) -> list[int]:
        """Return the ids of `text`; replace lone surrogates, and split long texts at line ends to keep time linear.

        Args:
            text: any string.
            end_of_text: read a literal `<|endoftext|>` as that token instead of as plain text.
        """
        if end_of_text and END_OF_TEXT in text:
            head, *tails = (self.encode(part) for part in text.split(END_OF_TEXT))
            return head + [i for tail in tails for i in (self.eot_id, *tail)]
        text = text.encode("utf-8", "replace").decode("utf-8")
        if len(text) <= _LONGEST_PIECE:
            return self.encoding.encode_ordinary(text)
        return [i for piece in _pieces(text) for i in self.encoding.encode_ordinary(piece)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; incomplete UTF-8 becomes U+FFFD, ids without text become nothing."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the UTF-8 bytes of `ids`, possibly incomplete at the end."""
        return self.encoding.decode_bytes([i for i in ids if i < self.n_vocab and i != self.eot_id])

    def bytes_each(self, ids: Sequence[int], *, end_of_text: bytes = b"") -> list[bytes]:
        """Return the bytes of each id; `end_of_text` for that token, empty for ids without text."""
        special = {self.eot_id: end_of_text}
        return [
            special[i] if i in special else self.encoding.decode_single_token_bytes(i) if i < self.n_vocab else b""
            for i in ids
        ]

    @cached_property
    def digest(self) -> str:
        """sha256 over the mergeable ranks and the splitting pattern."""
        content = hashlib.sha256(self.encoding._pat_str.encode())
        for token, rank in sorted(self.encoding._mergeable_ranks.items(), key=lambda pair: pair[1]):
            content.update(b"%d:%d:" % (rank, len(token)) + token)
        return content.hexdigest()


def _pieces(text: str) -> list[str]:
    """Split after line ends into pieces below the limit; split a longer line at the limit."""
    pieces, current = [], ""
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), _LONGEST_PIECE):
            part = line[start : start + _LONGEST_PIECE]
            if len(current) + len(part) > _LONGEST_PIECE:
                pieces.append(current)
                current = ""
            current += part
    return [*pieces, current]


def load_gpt2() -> Tokenizer:
    """Load GPT-2's encoding from tiktoken's cache, else from the network within 30 seconds.

    Raises:
        MachineError: neither has it.
    """
    import tiktoken

    try:
        return Tokenizer(within(lambda: tiktoken.get_encoding("gpt2")), "gpt2")
    except Exception as error:  # tiktoken's download raises many types
        cause = str(error) if isinstance(error, TimeoutError) else type(error).__name__
        folder = os.environ.get("TIKTOKEN_CACHE_DIR", "unset")
        raise MachineError(
            f"GPT-2's vocabulary is not in tiktoken's cache (TIKTOKEN_CACHE_DIR: {folder}) and could not be downloaded "
            f"({cause}). Set TIKTOKEN_CACHE_DIR to a folder filled on a machine with network, or pass tokenizer=FILE "
            "with mergeable ranks"
        ) from error


def load_ranks(path: Path) -> Tokenizer:
    """Load a file of mergeable ranks: per line a token in base64, a space and its rank.

    Raises:
        TokenizerError: the file is absent, empty, malformed, or its ranks are not 0 ... n-1.
    """
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = _read_ranks(path)
    encoding = tiktoken.Encoding(
        name=path.stem, pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
    )
    return Tokenizer(encoding, path.name)


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Parse and check a ranks file."""
    check_regular(path, kind=TokenizerError)
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise TokenizerError(f"tokenizer {path}: {path.stat().st_size:,} bytes, at most {FILE_LIMIT:,} are read")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TokenizerError(
            f"tokenizer {path}: cannot be read ({error.strerror}); expected a file of mergeable ranks"
        ) from error
    head = lines[0].lstrip().lower() if lines else b""
    if head.startswith((b"version https://git-lfs", b"<!doctype", b"<html")):
        what = (
            "a git-lfs pointer; run `git lfs pull`" if head.startswith(b"version") else "an HTML page; fetch it again"
        )
        raise TokenizerError(f"tokenizer {path}: this is {what}")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerError(f"tokenizer {path}:{number}: expected a base64 token, a space and its rank") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise TokenizerError(
            f"tokenizer {path}: ranks must be 0 to n-1, each once, and tokens distinct; found {len(ranks)} tokens"
        )
    absent = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if absent:
        raise TokenizerError(
            f"tokenizer {path}: {len(absent)} of the 256 single bytes have no rank; is it a complete tiktoken file?"
        )
    return ranks


def load_tokenizer(spec: str) -> Tokenizer:
    """Load `gpt2`, a ranks file, or `tokenizer.tiktoken` of a folder."""
    if spec == "gpt2":
        return load_gpt2()
    path = Path(spec)
    return load_ranks(path / RANKS_FILE if os.path.isdir(spec) else path)  # noqa: PTH112 - also accepts impossible names


def check_fits(tokenizer: Tokenizer, rows: int) -> None:
    """Raise TokenizerError unless every id has an embedding row and few rows have no id."""
    if not 0 <= rows - tokenizer.n_vocab < SPARE_ROWS:
        raise TokenizerError(
            f"tokenizer {tokenizer.name} has {tokenizer.n_vocab:,} ids, the checkpoint's embedding {rows:,} rows; pass "
            "the tokenizer the model was trained with"
        )


# Learning an encoding by the `tokenizers` library. The pattern is GPT-2's with every digit by itself, so that the
# places of numbers line up. A ranks file and the transformers folder written from it encode every text to the same ids.

BYTES = 256


def learn(texts: Iterable[str], size: int) -> list[bytes]:
    """Learn tokens, in the order of their ranks: the 256 bytes, then merges, most frequent first.

    Args:
        texts: texts to count merges in.
        size: total number of tokens, at least 256.

    Raises:
        UsageError: the texts have too few distinct merges, or `size` is too small.
        MachineError: `tokenizers` is not installed.
    """
    if size < BYTES:
        raise UsageError(f"a byte-pair encoding has at least {BYTES} tokens, got {size}")
    try:
        from tokenizers import Regex, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Learner
    except ImportError as error:
        raise MachineError("learning an encoding needs extra packages: pip install 'ltm-eval[hf]'") from error
    learner = Learner(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    merged = [_joined(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    ordered = list(dict.fromkeys([bytes([value]) for value in range(BYTES)] + merged))
    if len(ordered) < size:
        raise UsageError(f"the texts give only {len(ordered)} of {size} tokens; provide more text")
    return ordered[:size]


def _joined(merge: str | list[str]) -> bytes:
    """Return the bytes of a merge in the library's format."""
    left, right = merge if isinstance(merge, list) else merge.split(" ")
    symbols = _byte_of_symbol()
    return bytes(symbols[symbol] for symbol in left + right)


def _byte_of_symbol() -> dict[str, int]:
    """Map the printable characters of byte-level BPE files to bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [value for value in range(BYTES) if value not in plain]
    return {chr(value): value for value in plain} | {chr(BYTES + i): value for i, value in enumerate(rest)}


def ranks_file(tokens: Iterable[bytes]) -> bytes:
    """Return the content of a tiktoken file: per line a base64 token and its rank."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def merges_of(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return, for every token of several bytes in order, the two tokens that it is merged from.

    Raises:
        UsageError: a token is not a merge of two earlier ones.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    found = []
    for token in tokens:
        if len(token) > 1:
            parts = _apart(token, ranks)
            if len(parts) != 2:
                raise UsageError(f"token {token!r} cannot be merged from two tokens of lower rank")
            found.append((parts[0], parts[1]))
    return found


def _apart(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Return the token split as byte-pair encoding would without its own rank."""
    parts = [bytes([value]) for value in token]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1], ranks[token]), i) for i in range(len(parts) - 1)]
        rank, place = min(pairs)
        if rank >= ranks[token]:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def save_for_transformers(tokenizer: Tokenizer, folder: Path, *, context: int) -> None:
    """Write `tokenizer.json` and its configuration, so that `AutoTokenizer.from_pretrained(folder)` gives the same ids.

    Args:
        tokenizer: a tokenizer of a ranks file.
        folder: an existing folder.
        context: longest sequence of the model.
    """
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Fast

    tokens = [tokenizer.encoding.decode_single_token_bytes(i) for i in range(tokenizer.eot_id)]
    symbol = {value: character for character, value in _byte_of_symbol().items()}

    def shown(token: bytes) -> str:
        return "".join(symbol[value] for value in token)

    vocabulary = {shown(token): rank for rank, token in enumerate(tokens)} | {END_OF_TEXT: tokenizer.eot_id}
    merges = [(shown(left), shown(right)) for left, right in merges_of(tokens)]
    fast = Fast(models.BPE(vocab=vocabulary, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    fast.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
