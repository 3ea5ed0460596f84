"""Final numbers of answers, as lm-eval 0.4.13's `gsm8k` (version 3) compares them, and as a person reads them.

`exact_match` equals lm-eval's metric on single strings (`lm_eval/tasks/gsm8k/gsm8k.yaml`, `api/metrics.py` of github
EleutherAI/lm-evaluation-harness) and takes time linear in the text, where lm-eval's `(?s).*#### ` is quadratic. No text
makes a function of this module raise; numbers stay text, so `18` and `18.00` differ.

Tasks that compare numbers as numbers (SVAMP, MultiArith) use the filters `first_numbers` and `last_numbers` instead.
They read a text's numbers as a person does: a comma belongs to a number only between groups of three digits and
separates numbers otherwise, a hyphen after a digit or letter is no sign, a stop or `%` behind a number is not part of
it, `1/2` is 0.5, and what has digits but is no decimal number (`1.000.000`, `5/6/2020`, `1/3`) is no answer.
"""

from __future__ import annotations

import re
from collections import deque
from decimal import Context, Decimal, DecimalException, DivisionByZero, Inexact, InvalidOperation
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


DELIMITER = "\n\n"  # after each demonstration: lm-eval's `fewshot_delimiter`
INVALID = "[invalid]"  # what lm-eval's filters return if nothing matches

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FINAL_STOP = re.compile(r"\.$")
_PLAIN = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_SIGNS = "-\N{MINUS SIGN}\N{SMALL HYPHEN-MINUS}\N{FULLWIDTH HYPHEN-MINUS}"
# A sign, a dollar, and digits with what may stand between them
_RUN = re.compile(
    rf"(?P<sign>(?<![\w)\]%])[{_SIGNS}])?\$?(?P<second>[{_SIGNS}](?<=\$.))?"
    r"(?P<digits>(?:(?<![\w.])\.)?[0-9]+(?:[.,/][0-9]+)*)"
)
_EXACT = Context(prec=50, traps=[Inexact, InvalidOperation, DivisionByZero])


def worked(question: str, answer: object) -> str:
    """Return a question and its answer as a demonstration of lm-eval's GSM8K prompt shows them."""
    return f"Question: {question}\nAnswer: {answer}"


def exact_match(extracted: str, target: str) -> bool:
    """Return whether both are the same text without commas, `$`, all up to the last `#### `, a final stop and case.

    `target` is the worked answer of the data set or its number alone.
    """
    return _normalised(extracted) == _normalised(target)


def gold_number(answer: str) -> str:
    """Return the number after the last `#### ` of a worked answer, without commas and final stop; else `[invalid]`."""
    found = _STRICT.findall(answer)
    return _normalised(found[-1]) if found else INVALID


def vote_key(extracted: str) -> str:
    """Return the key under which answers count as one candidate in a majority vote: what `exact_match` compares."""
    return _normalised(extracted)


def canonical_number(text: str) -> str:
    """Return a number in its shortest decimal form, so that equal numbers are equal text: 18.0, `$18`, 1,800 % and 018.

    A `$`, a `%`, a final stop and commas between groups of three digits are set aside; what is no number then stays as
    it is.
    """
    bare = text.strip().rstrip("%").rstrip().rstrip(".")
    found = _RUN.fullmatch(bare) or _RUN.fullmatch(bare.replace("$", "", 1))
    numbers = _numbers_in(found) if found else []
    return numbers[0] if len(numbers) == 1 and numbers[0] != INVALID else text


def is_number(text: str) -> bool:
    """Return whether `text` is a plain decimal number."""
    return _PLAIN.fullmatch(text) is not None


def has_gold_number(answer: str) -> bool:
    """Return whether a worked answer ends in a number, as `exact_match` reads it; otherwise no answer is right."""
    return is_number(_normalised(answer))


def first_number(response: str) -> str:
    """Return the one number after the first `#### ` that digits follow, in its shortest form; else `[invalid]`."""
    for marker in re.finditer("#### ", response):
        if found := _RUN.match(response, marker.end()):
            numbers = _numbers_in(found)
            return numbers[0] if len(numbers) == 1 else INVALID
    return INVALID


def last_number(response: str) -> str:
    """Return the last number, in its shortest form; `[invalid]` if there is none or it is part of something else."""
    last = deque(_RUN.finditer(response), maxlen=1)
    return _numbers_in(last[0])[-1] if last and not _is_part(last[0]) else INVALID


def _is_part(found: re.Match[str]) -> bool:
    """Return whether digits continue a number written in a form that is not read: 1e3, 10^3, 1_000, 1 000, 5 1/2."""
    before, digits = found.string[: found.start()], found["digits"]
    if re.search(r"[0-9](?:[eE][+-]?|[_^'\u2019/]|\*\*)$", before):
        return True
    grouped = re.fullmatch("[0-9]{3}", digits) and re.search(r"(?<![0-9.,])[0-9]{1,3}[ \u00a0\u202f]$", before)
    return bool(grouped or ("/" in digits and re.search("[0-9] $", before)))


def first_numbers(responses: Sequence[Sequence[str]], _docs: Sequence[object]) -> list[list[str]]:
    """Apply `first_number` to every answer, as lm-eval's filter `custom`."""
    return [[first_number(text) for text in answers] for answers in responses]


def last_numbers(responses: Sequence[Sequence[str]], _docs: Sequence[object]) -> list[list[str]]:
    """Apply `last_number` to every answer, as lm-eval's filter `custom`."""
    return [[last_number(text) for text in answers] for answers in responses]


def _numbers_in(found: re.Match[str]) -> list[str]:
    """Return the numbers of a run, at least one; `[invalid]` for what is none. A sign belongs to the first."""
    digits = found["digits"]
    whole = _GROUPED.fullmatch(digits) or _PLAIN.fullmatch(digits)
    values = [_shortest(digits.replace(",", ""))] if whole else list(_separated(digits))
    if (found["sign"] or found["second"]) and values[0] not in (INVALID, "0"):
        values[0] = f"-{values[0]}"
    return values


def _separated(digits: str) -> Iterator[str]:
    """Yield the values of a run that is no single number: a quotient, or several numbers between commas."""
    if "/" in digits:
        yield _quotient(*digits.split("/"))
        return
    parts = digits.split(",")
    plain = all(_PLAIN.fullmatch(part) for part in parts)
    padded = any(part.startswith("0") and part[1:2].isdigit() for part in parts[1:])  # 1,0000 is no list
    yield from map(_shortest, parts) if plain and not padded else [INVALID]


def _quotient(*parts: str) -> str:
    """Return the quotient of two numbers, `[invalid]` if it is no decimal number."""
    try:
        above, below = (Decimal(canonical_number(part)) for part in parts)
        return _shortest(format(_EXACT.divide(above, below), "f"))
    except (ValueError, DecimalException):
        return INVALID


def _shortest(digits: str) -> str:
    """Return a decimal number without sign, less the zeros that say nothing."""
    whole, _, part = digits.partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    return f"{whole}.{part}" if part else whole


def _normalised(text: str) -> str:
    """Remove what `regexes_to_ignore` of gsm8k.yaml matches, in its order, then lower the case.

    lm-eval does this on NumPy arrays of fixed width, which drop trailing NULs and cut what grows in lower case (`İ`).
    """
    text = text.replace(",", "").rstrip("\0").replace("$", "").rstrip("\0")
    text = text.rpartition("#### ")[2].rstrip("\0")
    text = _FINAL_STOP.sub("", text).rstrip("\0")
    return text.lower()[: len(text)].rstrip("\0")
