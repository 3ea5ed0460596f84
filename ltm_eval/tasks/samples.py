"""Several sampled answers per question: their number, pass@k, maj@n, and the content-free reference row.

pass@k is the unbiased estimate of Chen et al. 2021 (arXiv:2107.03374, section 2.1), maj@n the vote of Wang et al. 2022
(arXiv:2203.11171). Every question gets one greedy answer (z = mu) and n sampled ones (z ~ q, tokens sampled), so
that one run reports greedy and sampled accuracy.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_eval.results.answers import INVALID, gold_number, vote_key
from ltm_eval.results.statistics import interval_of, pass_at_k
from ltm_eval.system.errors import UsageError, spelt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


DEFAULT_K = (1, 5, 10)  # default k of pass@k, as far as n allows
# Default sampling, from the model's full distribution. Stated for baselines too: transformers defaults to top-50.
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
# Values that are allowed beside greedy decoding, which uses none of these options.
IDLE = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
COMMONEST = 5  # answers that the content-free row lists


@dataclass(frozen=True)
class Repeats:
    """How many sampled answers a question gets, and the k of its pass@k, ascending."""

    n: int
    k: tuple[int, ...]

    @property
    def answers(self) -> int:
        """Number of answers to a question's sampled request."""
        return self.n

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return (*(f"pass@{k}" for k in self.k), f"maj@{self.n}")

    def scores(self, extracted: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
        """Return pass@k and maj@n of one question.

        Args:
            extracted: what the filter found in each of the n samples.
            right: whether each is right.

        Raises:
            UsageError: there are not n samples.
        """
        if not len(extracted) == len(right) == self.n:
            raise UsageError(f"pass@k expects {self.n} samples per question, got {len(extracted)}")
        found = {f"pass@{k}": pass_at_k(self.n, sum(right), k) for k in self.k}
        chosen = majority(extracted)
        return {**found, f"maj@{self.n}": float(chosen is not None and right[chosen])}


@dataclass(frozen=True)
class Rethinking:
    """K rounds of rethinking and, as control, as many independent draws; one request holds the answers of both.

    Its answers are, in order: the chain's candidate with the lowest bound, the chain's rounds 1 to K, the control's
    candidate with the lowest bound, and its draws 1 to K.
    """

    rounds: int

    @property
    def answers(self) -> int:
        """Number of answers to one request."""
        return 2 * (self.rounds + 1)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics: of the chain, then of the control."""
        chain = ("rethink_best", "rethink_last", "rethink_maj", "rethink_oracle")
        return (*chain, "independent_best", "independent_maj", "independent_oracle")

    def scores(self, extracted: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
        """Return whether the best, last, majority and any candidate are right, for chain and control.

        Raises:
            UsageError: there are not 2 (K + 1) answers.
        """
        if not len(extracted) == len(right) == self.answers:
            raise UsageError(f"{self.rounds} rounds of rethinking need {self.answers} answers, got {len(extracted)}")
        middle = self.rounds + 1
        found = {}
        for name, part in (("rethink", slice(0, middle)), ("independent", slice(middle, None))):
            best, *candidates = right[part]
            chosen = majority(extracted[part][1:])
            found[f"{name}_best"] = float(best)
            found[f"{name}_last"] = float(candidates[-1])
            found[f"{name}_maj"] = float(chosen is not None and candidates[chosen])
            found[f"{name}_oracle"] = float(any(candidates))
        return {metric: found[metric] for metric in self.metrics}


def rethinking_of(metadata: Mapping[str, Any]) -> Rethinking | None:
    """Return the `rethink` of a task's metadata; None if it is absent or 0.

    Raises:
        UsageError: it is not a whole number of at least 1.
    """
    rounds = metadata.get("rethink")
    if rounds is None or str(rounds) in ("0", "0.0"):
        return None
    return Rethinking(_whole_numbers("rethink", rounds)[-1])


def repeats_of(metadata: Mapping[str, Any]) -> Repeats | None:
    """Return `n` and `k` of a task's metadata; None for a single greedy answer.

    Without `n`, n is the largest k; without `k`, k is DEFAULT_K up to n.

    Raises:
        UsageError: not whole numbers from 1, or a k above n.
    """
    n, k = metadata.get("n"), metadata.get("k")
    ks = _whole_numbers("k", k) if k is not None else ()
    if n is None and not ks:
        return None
    count = _whole_numbers("n", n)[0] if n is not None else ks[-1]
    if ks and ks[-1] > count:
        raise UsageError(
            f"pass@{ks[-1]} needs at least {ks[-1]} samples per question, got n = {count}; "
            f"raise {spelt('n')} or lower {spelt('k')}"
        )
    return Repeats(count, ks or tuple(k for k in DEFAULT_K if k <= count)) if count > 1 else None


def _whole_numbers(name: str, value: Any) -> tuple[int, ...]:
    """Parse `10`, `"1,5"`, `"1+5"` (model arguments cannot contain a comma) or `[1, 5]`, ascending."""
    parts = value if isinstance(value, (list, tuple)) else str(value).replace("+", ",").split(",")
    try:
        numbers = [0.5 if isinstance(part, bool) else float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(number.is_integer() and number >= 1 for number in numbers):
        raise UsageError(f"{name} must be whole numbers of at least 1, got {value!r}")
    return tuple(sorted({int(number) for number in numbers}))


def majority(extracted: Sequence[str]) -> int | None:
    """Return the index of the first of the most frequent answers; the earliest wins a tie.

    Answers that could not be extracted do not vote; None if no answer could be.
    """
    votes = [(index, vote_key(text)) for index, text in enumerate(extracted) if text != INVALID]
    counts = Counter(key for _, key in votes)
    return min(votes, key=lambda vote: (-counts[vote[1]], vote[0]))[0] if votes else None


def sampled_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a task's greedy generation options into sampling, at temperature 1 unless one above 0 is set."""
    named = {
        name: value for name, value in options.items() if value is not None and (name, value) != ("temperature", 0)
    }
    return {**SAMPLING, **named, "do_sample": True}


def greedy_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn generation options into greedy ones."""
    kept = {name: value for name, value in options.items() if name not in IDLE}
    return {**kept, "do_sample": False, "temperature": 0.0}


def refuse_greedy(changes: Mapping[str, Any]) -> None:
    """Raise UsageError if the user's generation options (see `one_spelling`) make all samples equal."""
    if changes.get("do_sample") is False or changes.get("temperature") == 0:
        raise UsageError(
            "greedy samples of one question would all be equal; remove do_sample=false and temperature=0 "
            "(every run includes a greedy answer), or set n = 1"
        )


def keeping_all(filters: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return a task's filter list without `take_first`, so that every answer is extracted and kept."""
    return [
        {**one, "filter": [step for step in one["filter"] if step["function"] != "take_first"]}
        for one in filters or [{"name": "none", "filter": []}]
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return intervals over questions, the number of answers and how many could not be extracted.

    Args:
        rows: a task's logged samples, one per question and filter.

    Returns:
        `"<metric>,<filter>"` to value, 95 % interval and its kind; `answers` and `without_answer` by filter.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(str(row["filter"]) for row in rows):
        own = [row for row in rows if row["filter"] == name]
        for metric in own[0]["metrics"]:
            found[f"{metric},{name}"] = interval_of([float(row[metric]) for row in own])
        resps = [one for row in own for one in row["filtered_resps"]]
        texts = [text for one in resps for text in (one if isinstance(one, (list, tuple)) else [one])]
        found.setdefault("answers", {})[name] = len(texts)
        found.setdefault("without_answer", {})[name] = sum(text == INVALID for text in texts)
    return found


def interval_words(found: Mapping[str, Any]) -> str:
    """Format a share with its interval."""
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['value']:.2f} % (95 % {low:.2f} to {high:.2f}, {found['kind']}, n {found['n']})"


def content_free(
    training_answers: Sequence[str], golds: Sequence[str], *, k: Sequence[int] = (1, COMMONEST)
) -> dict[str, Any]:
    """Score the most frequent training answers as answers to every question: a floor for any model.

    Args:
        training_answers: worked answers of the training file; those without `#### number` are ignored.
        golds: worked answers of the evaluated questions.
        k: pass@k takes the k most frequent answers as attempts.

    Returns:
        `answers` (the five most frequent, ties by first appearance) and `pass@k` with intervals; empty if no training
        answer has a number.
    """
    counts = Counter(number for number in map(gold_number, training_answers) if number != INVALID)
    ranked = [number for number, _ in counts.most_common()]
    wanted = [gold_number(gold) for gold in golds]
    if not ranked or not wanted:
        return {}
    found: dict[str, Any] = {"answers": ranked[:COMMONEST], "training_answers": counts.total()}
    for size in k:
        attempts = set(ranked[:size])
        found[f"pass@{size}"] = interval_of([float(gold in attempts) for gold in wanted])
    return found
