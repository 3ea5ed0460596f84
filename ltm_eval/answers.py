"""Final numbers of GSM8K answers, as lm-eval 0.4.13's `gsm8k` (version 3) extracts and compares them.

Every function equals lm-eval's filters and `exact_match` metric on single strings (`lm_eval/tasks/gsm8k/gsm8k.yaml`,
`filters/extraction.py`, `api/metrics.py` of github EleutherAI/lm-evaluation-harness) and takes time linear in the text,
where lm-eval's `(?s).*#### ` is quadratic. No text makes them raise; numbers stay text, so `18` and `18.00` differ,
unless a task's filter ends in `canonical_numbers`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DELIMITER = "\n\n"
"""Stands after each demonstration: lm-eval's `fewshot_delimiter`."""
INVALID = "[invalid]"
"""What lm-eval's filters return where nothing matches."""

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_FINAL_STOP = re.compile(r"\.$")
_PLAIN = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")


def worked(question: str, answer: object) -> str:
    """A question and its answer as a demonstration of lm-eval's GSM8K prompt shows them."""
    return f"Question: {question}\nAnswer: {answer}"


def strict_match(response: str) -> str:
    """The first number after `#### `, else `[invalid]`: filter `strict-match`."""
    found = _STRICT.search(response)
    return found.group(1) if found else INVALID


def flexible_extract(response: str) -> str:
    """The last thing that looks like a number (`..` and `$,` do), else `[invalid]`: filter `flexible-extract`."""
    last = INVALID
    for found in _FLEXIBLE.finditer(response):
        last = found.group()
    return last


def exact_match(extracted: str, target: str) -> bool:
    """Whether both are the same text once commas, `$`, all up to the last `#### `, a final stop and case are set aside.

    `target` is the worked answer of the data set or its number alone.
    """
    return _normalised(extracted) == _normalised(target)


def gold_number(answer: str) -> str:
    """The number after the last `#### ` of a worked answer, without commas and final stop; else `[invalid]`."""
    found = _STRICT.findall(answer)
    return _normalised(found[-1]) if found else INVALID


def vote_key(extracted: str) -> str:
    """Answers with the same key are one candidate in a majority vote: those that `exact_match` cannot tell apart."""
    return _normalised(extracted)


def canonical_number(text: str) -> str:
    """A number in its shortest decimal form, so that equal numbers are equal text: 18.0, `$18` and 018 are 18.

    Commas, `$`, `%` and a final stop are set aside; what is no number then stays as it is.
    """
    bare = text.strip().replace(",", "").replace("$", "").rstrip("%").rstrip(".")
    if not _PLAIN.fullmatch(bare):
        return text
    sign, digits = ("-", bare[1:]) if bare.startswith("-") else ("", bare)
    whole, _, part = digits.partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    shortest = f"{whole}.{part}" if part else whole
    return shortest if shortest == "0" else sign + shortest


def is_number(text: str) -> bool:
    """Whether `text` is a plain decimal number."""
    return _PLAIN.fullmatch(text) is not None


def canonical_numbers(responses: Sequence[Sequence[str]], _docs: Sequence[object]) -> list[list[str]]:
    """`canonical_number` of every answer: lm-eval's filter `custom`."""
    return [[canonical_number(text) for text in answers] for answers in responses]


def _normalised(text: str) -> str:
    """`regexes_to_ignore` of gsm8k.yaml in their order, then lower case.

    lm-eval does this on NumPy arrays of fixed width, which drop trailing NULs and cut what grows in lower case (`İ`).
    """
    text = text.replace(",", "").rstrip("\0").replace("$", "").rstrip("\0")
    text = text.rpartition("#### ")[2].rstrip("\0")
    text = _FINAL_STOP.sub("", text).rstrip("\0")
    return text.lower()[: len(text)].rstrip("\0")
