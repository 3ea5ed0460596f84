"""Every option of the program, each default stated here and nowhere else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_eval.results.answers import INVALID, gold_number, vote_key
from ltm_eval.results.statistics import interval_of, pass_at_k
from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


DEFAULT_K = (1, 5, 10)
"""pass@k that n samples are counted for unless k is named, as far as n reaches."""
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""How tokens are sampled where neither task nor user names it: from all of the model's distribution. A baseline is told
too, since transformers would take the 50 likeliest.
"""
IDLE = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
"""Of these options, what may stand beside greedy decoding, which uses none of them."""


# Several sampled answers per question: what is asked for, and pass@k, maj@n and the content-free row made of them.
#
# pass@k is the unbiased estimate of Chen et al. 2021 (arXiv:2107.03374, section 2.1), maj@n the vote of Wang et al.
# 2022 (arXiv:2203.11171). A task asks for one greedy answer (z = mu) and n sampled ones (z ~ q, tokens drawn) of every
# question, so that greedy and sampled accuracy stand side by side in one run.

COMMONEST = 5
"""Answers of the content-free row that are named, whatever k is asked for."""


@dataclass(frozen=True)
class Repeats:
    """How many sampled answers a question gets, and what is counted."""

    n: int
    """Samples per question."""
    k: tuple[int, ...]
    """For which k pass@k is reported, ascending."""

    @property
    def answers(self) -> int:
        """Answers a question's sampled request is answered by."""
        return self.n

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the figures made of the samples."""
        return (*(f"pass@{k}" for k in self.k), f"maj@{self.n}")

    def scores(self, extracted: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
        """pass@k and maj@n of one question.

        Args:
            extracted: what the filter found in each of the n samples.
            right: whether each is right.

        Raises:
            UsageError: there are not n samples.
        """
        if not len(extracted) == len(right) == self.n:
            raise UsageError(f"pass@k was asked for {self.n} samples a question, got {len(extracted)}")
        found = {f"pass@{k}": pass_at_k(self.n, sum(right), k) for k in self.k}
        chosen = majority(extracted)
        return {**found, f"maj@{self.n}": float(chosen is not None and right[chosen])}


@dataclass(frozen=True)
class Rethinking:
    """Rounds of rethinking and, as control, as many independent draws; one request holds the answers of both.

    The request's answers are: the candidate of the chain with the lowest bound, those of rounds 1 to K, the control's
    with the lowest bound, its draws 1 to K.
    """

    rounds: int
    """K."""

    @property
    def answers(self) -> int:
        """Answers of one request."""
        return 2 * (self.rounds + 1)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the figures: of the chain, then of the control."""
        chain = ("rethink_best", "rethink_last", "rethink_maj", "rethink_oracle")
        return (*chain, "independent_best", "independent_maj", "independent_oracle")

    def scores(self, extracted: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
        """Whether best, last, majority and any candidate are right, and the same of the control (whose last is but
        one draw).

        Raises:
            UsageError: there are not 2 (K + 1) answers.
        """
        if not len(extracted) == len(right) == self.answers:
            raise UsageError(f"rethinking of {self.rounds} rounds gives {self.answers} answers, got {len(extracted)}")
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
    """The rounds that a task's metadata asks for with `rethink`; None for none.

    Raises:
        UsageError: not one whole number of at least 1.
    """
    rounds = metadata.get("rethink")
    if rounds is None or str(rounds) in ("0", "0.0"):
        return None
    return Rethinking(_whole_numbers("rethink", rounds)[-1])


def repeats_of(metadata: Mapping[str, Any]) -> Repeats | None:
    """The samples that a task's metadata asks for with `n` and `k`; None for a single greedy answer.

    `k` alone asks for as many samples as its largest; `n` alone for the customary k up to n.

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
            f"pass@{ks[-1]} needs at least {ks[-1]} samples a question, got n = {count}; raise n or lower k"
        )
    return Repeats(count, ks or tuple(k for k in DEFAULT_K if k <= count)) if count > 1 else None


def _whole_numbers(name: str, value: Any) -> tuple[int, ...]:
    """`10`, `"1,5"`, `"1+5"` or `[1, 5]` as ascending numbers; lm-eval's model arguments leave no comma to use."""
    parts = value if isinstance(value, (list, tuple)) else str(value).replace("+", ",").split(",")
    found = sorted({int(float(part)) if _is_whole(part) else 0 for part in parts})
    if not found or found[0] < 1:
        raise UsageError(f"{name} must be whole numbers of at least 1, got {value!r}")
    return tuple(found)


def _is_whole(part: Any) -> bool:
    try:
        return not isinstance(part, bool) and float(part).is_integer()
    except (TypeError, ValueError):
        return False


def majority(extracted: Sequence[str]) -> int | None:
    """Position of the first answer of the largest class of equal ones; no answer has no vote, the earlier class wins.

    None where nothing was extracted.
    """
    votes = [(place, vote_key(text)) for place, text in enumerate(extracted) if text != INVALID]
    counts = Counter(key for _, key in votes)
    return min(votes, key=lambda vote: (-counts[vote[1]], vote[0]))[0] if votes else None


# What the model is asked ----------------------------------------------------------------------------------------------


def sampled_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A task's greedy generation options made to sample, at temperature 1 unless it names one above 0."""
    named = {
        name: value for name, value in options.items() if value is not None and (name, value) != ("temperature", 0)
    }
    return {**SAMPLING, **named, "do_sample": True}


def greedy_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same without anything that samples."""
    kept = {name: value for name, value in options.items() if name not in IDLE}
    return {**kept, "do_sample": False, "temperature": 0.0}


def refuse_greedy(changes: Mapping[str, Any]) -> None:
    """Raise UsageError where the user's generation options, in one spelling, make all samples the same."""
    if changes.get("do_sample") is False or changes.get("temperature") == 0:
        raise UsageError(
            "several greedy answers to one question would all be the same; leave do_sample=false and temperature=0 out "
            "(a greedy answer stands beside the samples anyway), or ask for n = 1"
        )


def keeping_all(filters: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """A task's filter list without `take_first`: every answer is extracted and kept."""
    return [
        {**one, "filter": [step for step in one["filter"] if step["function"] != "take_first"]}
        for one in filters or [{"name": "none", "filter": []}]
    ]


# What is said of a whole task -----------------------------------------------------------------------------------------


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Intervals over questions, and how many answers there were without one that could be extracted.

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
        texts = [text for row in own for request in row["filtered_resps"] for text in _listed(request)]
        found.setdefault("answers", {})[name] = len(texts)
        found.setdefault("without_answer", {})[name] = sum(text == INVALID for text in texts)
    return found


def _listed(value: Any) -> Sequence[str]:
    return value if isinstance(value, (list, tuple)) else (value,)


def interval_words(found: Mapping[str, Any]) -> str:
    """A share with its interval, as a line of text."""
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['value']:.2f} % (95 % {low:.2f} to {high:.2f}, {found['kind']}, n {found['n']})"


def content_free(
    training_answers: Sequence[str], golds: Sequence[str], *, k: Sequence[int] = (1, COMMONEST)
) -> dict[str, Any]:
    """What answering every question with the commonest training answers scores: a floor for any model.

    Args:
        training_answers: worked answers of the training file; those without `#### number` are left aside.
        golds: worked answers of the questions that were asked.
        k: pass@k counts the k commonest answers as the k attempts.

    Returns:
        `answers` (the five commonest, ties by first appearance) and `pass@k` with intervals; empty where the training
        file holds no number.
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
