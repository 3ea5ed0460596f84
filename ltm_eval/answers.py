"""Final numbers of GSM8K answers, as lm-eval 0.4.13's `gsm8k` (version 3) extracts and compares them.

Every function equals lm-eval's filters and `exact_match` metric on single strings (`lm_eval/tasks/gsm8k/gsm8k.yaml`,
`filters/extraction.py`, `api/metrics.py` of github EleutherAI/lm-evaluation-harness) and takes time linear in the text,
where lm-eval's `(?s).*#### ` is quadratic. No text makes them raise; numbers stay text, so `18` and `18.00` differ.
"""

from __future__ import annotations

import re

INVALID = "[invalid]"
"""What lm-eval's filters return where nothing matches."""

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_FINAL_STOP = re.compile(r"\.$")


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


def _normalised(text: str) -> str:
    """`regexes_to_ignore` of gsm8k.yaml in their order, then lower case.

    lm-eval does this on NumPy arrays of fixed width, which drop trailing NULs and cut what grows in lower case (`İ`).
    """
    text = text.replace(",", "").rstrip("\0").replace("$", "").rstrip("\0")
    text = text.rpartition("#### ")[2].rstrip("\0")
    text = _FINAL_STOP.sub("", text).rstrip("\0")
    return text.lower()[: len(text)].rstrip("\0")
