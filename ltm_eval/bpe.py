"""Byte-pair encodings of our own: learnt from text, written as tiktoken's ranks, and given to transformers as well.

Learning is the `tokenizers` library's; the splitting pattern is GPT-2's, with every digit alone, so that numbers keep
their places. A ranks file and the folder made of it encode every text to the same ids.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import MachineError, UsageError
from ltm_eval.tokenizer import END_OF_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ltm_eval.tokenizer import Tokenizer

BYTES = 256


def learn(texts: Iterable[str], size: int) -> list[bytes]:
    """Tokens in the order of their ranks: the 256 bytes, then merges, most frequent first.

    Args:
        texts: what the merges are counted in.
        size: tokens in all, at least 256.

    Raises:
        UsageError: the texts do not hold that many different merges, or `size` is too small.
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
        raise UsageError(f"the texts give only {len(ordered)} tokens, {size} were asked for; give more text")
    return ordered[:size]


def _joined(merge: str | list[str]) -> bytes:
    """The bytes of one merge as the library writes it."""
    left, right = merge if isinstance(merge, list) else merge.split(" ")
    symbols = _byte_of_symbol()
    return bytes(symbols[symbol] for symbol in left + right)


def _byte_of_symbol() -> dict[str, int]:
    """The printable characters that stand for bytes in byte-level BPE files."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [value for value in range(BYTES) if value not in plain]
    return {chr(value): value for value in plain} | {chr(BYTES + i): value for i, value in enumerate(rest)}


def ranks_file(tokens: Iterable[bytes]) -> bytes:
    """Content of a tiktoken file: base64 token and rank, one a line."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def merges_of(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """For every token of several bytes, in order, the two tokens it is merged from.

    Raises:
        UsageError: a token cannot be made of two earlier ones.
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
    """The token as byte-pair encoding would build it, were its own rank unknown."""
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
        tokenizer: ours, of a ranks file.
        folder: exists.
        context: longest sequence of the model it serves.
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
