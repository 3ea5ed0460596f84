"""Metrics of the perplexity tasks: per token, word and byte, with standard errors; and reference rows beside them.

lm-eval passes one number per document. A Latent Thought Model returns a `RollingScore`, a float that carries the parts
of its bound; a baseline of `run` returns a `TextScore`, which carries its number of tokens; any other model's float is
its log-likelihood. Sums are exactly rounded (`math.fsum`), so that no figure depends on the order of the documents.

Reference rows are two trivial models on the same documents; a model that does not beat them has learnt nothing useful.
`uniform` gives every token of the vocabulary equal probability. `unigram` is an adaptive code: it estimates token
probabilities from the tokens before, in the set's order, so its length is that of a decodable message. The estimate is
PPM's method C (Moffat 1990; Witten and Bell 1991), which falls back on the uniform model:

    share(t) = (count(t) + types / V) / (seen + types)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ltm_eval.results.files import Floor
from ltm_eval.results.statistics import bits, bits_stderr, ppl, ppl_stderr
from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.model.tokenizer import Tokenizer


class TextScore(float):
    """The log-likelihood of a document, in nats, with the number of the model's tokens."""

    __slots__ = ("tokens",)
    tokens: int  # the model's own

    def __new__(cls, nats: float, *, tokens: int) -> TextScore:
        """Make a score of `nats`, at most 0."""
        score = super().__new__(cls, nats)
        score.tokens = tokens
        return score

    def __getnewargs_ex__(self) -> tuple[tuple[float], dict[str, int]]:
        """Let copies and pickles keep the count."""
        return (float(self),), {"tokens": self.tokens}

    def to_json(self) -> dict[str, float]:
        """Return a plain mapping that `from_json` reads back."""
        return {"log_likelihood": float(self), "tokens": self.tokens}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TextScore:
        """Return the score that `row` describes."""
        return cls(float(row["log_likelihood"]), tokens=int(row["tokens"]))


# For lm-eval --------------------------------------------------------------------------------------------------------


# Metric to the row of a `RollingScore` behind it.
PER_TOKEN_ROWS: Mapping[str, str] = {
    "ppl_per_token_as_released": "as_released",
    "ppl_per_token_as_released_block_mean": "as_released",
    "nll_per_token_given_z": "nll_given_z",
    "kl_per_token": "kl",
    "ppl_per_token_prior": "prior",
    "ppl_per_token_iwae": "iwae",
    "ppl_per_token_causal": "causal",
}


def process_results(doc: Mapping[str, Any], results: Sequence[float]) -> dict[str, tuple[float, ...]]:
    """Return what the aggregation of each metric needs from one document.

    Each metric is followed by `<metric>_stderr`, which lm-eval shows as its standard error. Per-token figures count the
    model's own tokens for a `RollingScore` or `TextScore`, and the block tokenizer's for a plain float (GPT-2's unless
    the facts of the set name another), a closing end-of-text included.

    Args:
        doc: a row of `blocks.blocks_dataset`.
        results: the single answer.
    """
    score: Any = results[0]
    if not hasattr(score, "rows"):
        counted = score.tokens if isinstance(score, TextScore) else doc["n_tokens_block"]
        return _with_stderr(_per_unit(doc, nats=-float(score), tokens=counted, suffix=""))
    rows, tokens = score.rows, score.tokens
    found = _per_unit(doc, nats=rows["bound"], tokens=tokens, suffix="_bound")
    for metric, row in PER_TOKEN_ROWS.items():
        if row in rows:
            found[metric] = (rows[row], tokens)
    found = dict(_with_stderr(found))
    if "bound_stderr" in rows:
        found["ppl_per_token_bound_mc_se"] = (rows["bound"], tokens, rows["bound_stderr"])
    return found


def _per_unit(doc: Mapping[str, Any], *, nats: float, tokens: float, suffix: str) -> dict[str, tuple[float, ...]]:
    return {
        f"ppl_per_token{suffix}": (nats, tokens),
        f"ppl_per_word{suffix}": (nats, doc["n_words"]),
        f"ppl_per_byte{suffix}": (nats, doc["n_bytes"]),
        f"bits_per_byte{suffix}": (nats, doc["n_bytes"]),
    }


def _with_stderr(found: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """Return each metric followed by its standard error."""
    return {name: value for metric, value in found.items() for name in (metric, f"{metric}_stderr")}


def last_word_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """Return whether greedy decoding gives LAMBADA's last word, and the NLL of that word."""
    log_likelihood, is_greedy = results[0]
    nats = (-float(log_likelihood), 1)
    return {"acc": float(is_greedy), "perplexity": nats, "perplexity_stderr": nats}


# Reference rows ----------------------------------------------------------------------------------------------------

FIELDS = frozenset({"text", "n_words", "n_bytes", "index"})  # of a document; see `data.blocks.Block`


def floors_of(documents: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> tuple[Floor, ...]:
    """Return both reference rows on these documents, always in the set's order.

    Args:
        documents: rows of a perplexity set, with `FIELDS`.
        tokenizer: counts the tokens, a closing end-of-text included.

    Raises:
        UsageError: a document lacks one of the fields.
    """
    lacking = sorted({name for row in documents for name in FIELDS - row.keys()})
    if lacking:
        raise UsageError(f"reference rows need documents with {', '.join(sorted(FIELDS))}; {lacking[0]} is missing")
    ordered = sorted(documents, key=lambda row: int(row["index"]))
    ids = [tokenizer.encode(row["text"], end_of_text=True) for row in ordered]
    V = tokenizer.n_vocab
    units = {
        "token": [len(own) for own in ids],
        "word": [int(row["n_words"]) for row in ordered],
        "byte": [int(row["n_bytes"]) for row in ordered],
    }

    def floor(name: str, what: str, nats: Sequence[float]) -> Floor:
        pairs = {unit: list(zip(nats, sizes, strict=True)) for unit, sizes in units.items()}
        metrics: dict[str, float | str] = {}
        for unit, own in pairs.items():
            metrics |= {f"ppl_per_{unit}": ppl(own), f"ppl_per_{unit}_stderr": ppl_stderr(own)}
        metrics |= {"bits_per_byte": bits(pairs["byte"]), "bits_per_byte_stderr": bits_stderr(pairs["byte"])}
        return Floor(
            name=name,
            what=what,
            tokenizer=tokenizer.name,
            n_vocab=V,
            documents=len(ordered),
            nats=math.fsum(nats),
            tokens=sum(units["token"]),
            words=sum(units["word"]),
            bytes=sum(units["byte"]),
            figures={
                key: None if isinstance(value, str) or not math.isfinite(value) else value
                for key, value in metrics.items()
            },
        )

    learnt = "shares of tokens, learnt from the documents before and the tokens before (prequential code)"
    return (
        floor("uniform", f"all {V:,} tokens equally likely", uniform_nats(ids, V)),
        floor("unigram", learnt, unigram_nats(ids, V)),
    )


def uniform_nats(documents: Sequence[Sequence[int]], n_vocab: int) -> list[float]:
    """Return the NLL of each document at ln V nats per token.

    Raises:
        UsageError: V is below 1.
    """
    if n_vocab < 1:
        raise UsageError(f"a uniform model needs a vocabulary of at least 1 token, got {n_vocab}")
    return [len(ids) * math.log(n_vocab) for ids in documents]


def unigram_nats(documents: Sequence[Sequence[int]], n_vocab: int) -> list[float]:
    """Return the length of each document in nats under the adaptive code, given the documents before.

    Raises:
        UsageError: a token id is outside the vocabulary.
    """
    counts: dict[int, int] = {}
    seen, found = 0, []
    for ids in documents:
        nats = []
        for token in ids:
            if not 0 <= token < n_vocab:
                raise UsageError(f"token {token} is outside the unigram code's vocabulary of {n_vocab} tokens")
            types = len(counts)
            share = (counts.get(token, 0) + types / n_vocab) / (seen + types) if seen else 1 / n_vocab
            nats.append(-math.log(share))
            counts[token] = counts.get(token, 0) + 1
            seen += 1
        found.append(math.fsum(nats))
    return found
