"""Reference rows of a perplexity set: two models without content, on the very documents that were evaluated.

`uniform` gives every token of a vocabulary the same share. `unigram` is a code that learns the shares of tokens as it
reads the documents in the set's order: before each token it has seen only what comes earlier, so its length is that of
a message that can be decoded, and nothing is fitted to what it scores. Shares are counts with the escape of PPM's
method C (Moffat 1990; Witten and Bell 1991), which falls back on the uniform model:

    share(t) = (count(t) + types / V) / (seen + types)

Neither is a model that was evaluated: they have no trained parameters and read no context. A model that does not beat
them has learnt nothing of use.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import UsageError
from ltm_eval.perplexity import bits, bits_stderr, ppl, ppl_stderr
from ltm_eval.result_records import Floor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.tokenizer import Tokenizer

FIELDS = frozenset({"text", "n_words", "n_bytes", "index"})
"""What a document of a perplexity set has; see `blocks.Block`."""


def floors_of(documents: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> tuple[Floor, ...]:
    """Both rows on these documents, in the set's order whatever order they come in.

    Args:
        documents: rows of a perplexity set, with `FIELDS`.
        tokenizer: whose tokens are counted, a closing end-of-text included.

    Raises:
        UsageError: a document lacks one of the fields.
    """
    lacking = sorted({name for row in documents for name in FIELDS - row.keys()})
    if lacking:
        raise UsageError(f"reference rows need documents with {', '.join(sorted(FIELDS))}; {lacking[0]} is missing")
    ordered = sorted(documents, key=lambda row: int(row["index"]))
    ids = [tokenizer.encode(row["text"], end_of_text=True) for row in ordered]
    V = tokenizer.n_vocab
    return (
        _floor("uniform", f"all {V:,} tokens equally likely", uniform_nats(ids, V), ordered, ids, tokenizer),
        _floor(
            "unigram",
            "shares of tokens, learnt from the documents before and the tokens before (prequential code)",
            unigram_nats(ids, V),
            ordered,
            ids,
            tokenizer,
        ),
    )


def _floor(  # noqa: PLR0913 - the record of one row
    name: str,
    what: str,
    nats: Sequence[float],
    documents: Sequence[Mapping[str, Any]],
    ids: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
) -> Floor:
    units = {
        "token": [len(own) for own in ids],
        "word": [int(row["n_words"]) for row in documents],
        "byte": [int(row["n_bytes"]) for row in documents],
    }
    figures: dict[str, float | str] = {}
    for unit, sizes in units.items():
        pairs = list(zip(nats, sizes, strict=True))
        figures |= {f"ppl_per_{unit}": ppl(pairs), f"ppl_per_{unit}_stderr": ppl_stderr(pairs)}
    pairs = list(zip(nats, units["byte"], strict=True))
    figures |= {"bits_per_byte": bits(pairs), "bits_per_byte_stderr": bits_stderr(pairs)}
    return Floor(
        name=name,
        what=what,
        tokenizer=tokenizer.name,
        n_vocab=tokenizer.n_vocab,
        documents=len(documents),
        nats=math.fsum(nats),
        tokens=sum(units["token"]),
        words=sum(units["word"]),
        bytes=sum(units["byte"]),
        figures={key: _number(value) for key, value in figures.items()},
    )


def _number(value: float | str) -> float | None:
    return None if isinstance(value, str) or not math.isfinite(value) else value


def uniform_nats(documents: Sequence[Sequence[int]], n_vocab: int) -> list[float]:
    """ln V nats a token, summed over each document.

    Raises:
        UsageError: V is below 1.
    """
    if n_vocab < 1:
        raise UsageError(f"a uniform model needs at least 1 token in its vocabulary, got {n_vocab}")
    return [len(ids) * math.log(n_vocab) for ids in documents]


def unigram_nats(documents: Sequence[Sequence[int]], n_vocab: int) -> list[float]:
    """The adaptive code's length of each document, given the ones before it.

    Raises:
        UsageError: an id is outside the vocabulary, so the shares would not sum to one.
    """
    counts: dict[int, int] = {}
    seen, found = 0, []
    for ids in documents:
        costs = []
        for token in ids:
            if not 0 <= token < n_vocab:
                raise UsageError(f"a unigram code over {n_vocab} tokens cannot hold token {token}")
            types = len(counts)
            share = (counts.get(token, 0) + types / n_vocab) / (seen + types) if seen else 1 / n_vocab
            costs.append(-math.log(share))
            counts[token] = counts.get(token, 0) + 1
            seen += 1
        found.append(math.fsum(costs))
    return found
