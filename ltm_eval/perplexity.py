"""Perplexities from the sums of rolling log-likelihood tasks: per token, word and byte, with standard errors.

lm-eval hands back one number a document. A Latent Thought Model answers with a `RollingScore`, a float that carries
the parts of its bound, so that every figure is reported under its own name; any other model's float is its
log-likelihood, and a baseline of `run` answers with a `TextScore`, which tells how many tokens of its own were scored.
All sums are exactly rounded (`math.fsum`), so that no figure depends on the order of the documents.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

UNKNOWN = "N/A"
"""How lm-eval writes a standard error that is not known."""
ROWS = ("bound", "bound_stderr", "nll_given_z", "kl", "as_released", "prior", "iwae", "causal")

Pair = tuple[float, float]
"""Nats of a document and its tokens, words or bytes."""


class RollingScore(float):
    """Minus the bound of a document, in nats, with the parts that make it up."""

    __slots__ = ("_rows", "_tokens")
    _rows: dict[str, float]
    _tokens: int

    def __new__(cls, rows: Mapping[str, float], *, tokens: int) -> RollingScore:
        """A score.

        Args:
            rows: some of `ROWS`, `bound` among them, each in nats summed over the document. `bound_stderr` is the
                Monte-Carlo standard error of `bound`.
            tokens: the model's own tokens that were scored.

        Raises:
            UsageError: `bound` is missing, a name is unknown, or `tokens` is below 1.
        """
        unknown = sorted(set(rows) - set(ROWS))
        if "bound" not in rows or unknown:
            raise UsageError(f"a rolling score needs bound and may have {', '.join(ROWS[1:])}; got {', '.join(rows)}")
        if tokens < 1:
            raise UsageError(f"a rolling score needs at least 1 scored token, got {tokens}")
        score = super().__new__(cls, -rows["bound"])
        score._rows = {name: float(value) for name, value in rows.items()}
        score._tokens = tokens
        return score

    @property
    def rows(self) -> Mapping[str, float]:
        """The parts in nats, read-only."""
        return MappingProxyType(self._rows)

    @property
    def tokens(self) -> int:
        """The model's own tokens that were scored."""
        return self._tokens

    def __reduce__(self) -> tuple[Callable[..., RollingScore], tuple[dict[str, float], int]]:
        """So that copies and pickles keep the parts."""
        return _restored, (dict(self._rows), self._tokens)


def _restored(rows: dict[str, float], tokens: int) -> RollingScore:
    return RollingScore(rows, tokens=tokens)


class TextScore(float):
    """The log-likelihood of a document, in nats, with the number of tokens that the model scored."""

    __slots__ = ("_tokens",)
    _tokens: int

    def __new__(cls, nats: float, *, tokens: int) -> TextScore:
        """A score.

        Args:
            nats: log-likelihood, at most 0.
            tokens: the model's own tokens that were scored.
        """
        score = super().__new__(cls, nats)
        score._tokens = tokens
        return score

    @property
    def tokens(self) -> int:
        """The model's own tokens that were scored."""
        return self._tokens

    def to_json(self) -> dict[str, float]:
        """A plain mapping; `from_json` reads it back."""
        return {"log_likelihood": float(self), "tokens": self._tokens}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TextScore:
        """The score that `row` describes."""
        return cls(float(row["log_likelihood"]), tokens=int(row["tokens"]))

    def __reduce__(self) -> tuple[Callable[..., TextScore], tuple[float, int]]:
        """So that copies and pickles keep the count."""
        return _counted, (float(self), self._tokens)


def _counted(nats: float, tokens: int) -> TextScore:
    return TextScore(nats, tokens=tokens)


# For lm-eval --------------------------------------------------------------------------------------------------------


def process_results(doc: Mapping[str, Any], results: Sequence[float]) -> dict[str, tuple[float, ...]]:
    """What each metric's aggregation needs of one document.

    Each metric is followed by `<metric>_stderr`, which lm-eval then shows as its standard error. Per-token figures of
    a `RollingScore` and a `TextScore` count the model's own tokens, those of a plain float the block tokenizer's tokens
    of the text (GPT-2's unless the facts of the set name another; lm-eval's own models do not tell their count), the
    closing end-of-text included.

    Args:
        doc: a row of `blocks.blocks_dataset`.
        results: the one answer.
    """
    score = results[0]
    if not isinstance(score, RollingScore):
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


PER_TOKEN_ROWS: Mapping[str, str] = {
    "ppl_per_token_as_released": "as_released",
    "ppl_per_token_as_released_block_mean": "as_released",
    "nll_per_token_given_z": "nll_given_z",
    "kl_per_token": "kl",
    "ppl_per_token_prior": "prior",
    "ppl_per_token_iwae": "iwae",
    "ppl_per_token_causal": "causal",
}
"""Metric to the row of a `RollingScore` that it is made of."""


def _per_unit(doc: Mapping[str, Any], *, nats: float, tokens: float, suffix: str) -> dict[str, tuple[float, ...]]:
    return {
        f"ppl_per_token{suffix}": (nats, tokens),
        f"ppl_per_word{suffix}": (nats, doc["n_words"]),
        f"ppl_per_byte{suffix}": (nats, doc["n_bytes"]),
        f"bits_per_byte{suffix}": (nats, doc["n_bytes"]),
    }


def _with_stderr(found: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """Each metric followed by its standard error's."""
    return {
        name: value for metric, value in found.items() for name in (metric, f"{metric}_stderr") for value in [value]
    }


def last_word_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """LAMBADA's last word: whether greedy decoding gives it, and its nats."""
    log_likelihood, is_greedy = results[0]
    nats = (-float(log_likelihood), 1)
    return {"acc": float(is_greedy), "perplexity": nats, "perplexity_stderr": nats}


# Aggregation over documents -----------------------------------------------------------------------------------------


def rate(items: Sequence[Pair]) -> float:
    """Nats a unit: sum(nats) / sum(units); not a number where a document's nats are none or there are no units."""
    units = math.fsum(u for _, u in items)
    if not units or any(math.isnan(x) for x, _ in items):
        return math.nan
    return math.fsum(x for x, _ in items) / units


def rate_stderr(items: Sequence[Pair]) -> float | str:
    """Standard error of `rate` over independent documents (linearised ratio); unknown for a single one."""
    n, mean = len(items), rate(items)
    if n < 2 or not math.isfinite(mean):
        return UNKNOWN
    squares = math.fsum((x - mean * u) ** 2 for x, u in items)
    return math.sqrt(n / (n - 1) * squares) / math.fsum(u for _, u in items)


def ppl(items: Sequence[Pair]) -> float:
    """exp(sum(nats) / sum(units)), infinite where no float can hold it."""
    return _exp(rate(items))


def ppl_stderr(items: Sequence[Pair]) -> float | str:
    """Standard error of `ppl` by the delta method."""
    spread, value = rate_stderr(items), ppl(items)
    return UNKNOWN if isinstance(spread, str) or math.isinf(value) else value * spread


def bits(items: Sequence[Pair]) -> float:
    """Bits a unit: sum(nats) / (ln 2 * sum(units))."""
    return rate(items) / math.log(2)


def bits_stderr(items: Sequence[Pair]) -> float | str:
    """Standard error of `bits`."""
    spread = rate_stderr(items)
    return spread if isinstance(spread, str) else spread / math.log(2)


def block_mean_ppl(items: Sequence[Pair]) -> float:
    """Mean over documents of exp(nats / units), as the released evaluator averages."""
    try:
        return math.fsum(_exp(x / u) for x, u in items) / len(items)
    except OverflowError:
        return math.inf


def block_mean_ppl_stderr(items: Sequence[Pair]) -> float | str:
    """Standard error of `block_mean_ppl`."""
    n, mean = len(items), block_mean_ppl(items)
    if n < 2 or not math.isfinite(mean):
        return UNKNOWN
    deviations = [_exp(x / u) - mean for x, u in items]
    largest = max(map(abs, deviations)) or 1.0  # squares of it may exceed every float
    return largest * math.sqrt(math.fsum((d / largest) ** 2 for d in deviations) / (n - 1) / n)


def mc_se(items: Sequence[tuple[float, float, float]]) -> float:
    """The share of `ppl`'s standard error that is Monte-Carlo noise of the draws, not choice of documents.

    Args:
        items: nats, units and the Monte-Carlo standard error of the nats, of each document.
    """
    spread = math.sqrt(math.fsum(s * s for _, _, s in items)) / math.fsum(u for _, u, _ in items)
    return ppl([(x, u) for x, u, _ in items]) * spread


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
