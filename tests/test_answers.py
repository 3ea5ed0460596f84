"""Extraction equals lm-eval's own filters and metric, on known answers and on random text."""

from __future__ import annotations

import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_eval.answers import INVALID, exact_match, flexible_extract, gold_number, strict_match

IGNORED = [",", "\\$", "(?s).*#### ", "\\.$"]

# (response, strict-match, flexible-extract): found by running lm-eval 0.4.13's filters of gsm8k.yaml version 3.
KNOWN = [
    ("She makes 9*2=<<9*2=18>>18.\n#### 18", "18", "18"),
    ("#### 1,234", "1,234", "1,234"),
    ("#### $5", INVALID, "$5"),
    ("#### -3\n#### 4", "-3", "4"),
    ("####18", INVALID, "18"),
    ("It is 7", INVALID, "7"),
    ("It is 7.", INVALID, "7."),
    ("no number here", INVALID, INVALID),
    ("", INVALID, INVALID),
    ("so 5...", INVALID, "5..."),
    ("well ... no", INVALID, "..."),
    ("a , b", INVALID, INVALID),
    ("nan inf 1e999", INVALID, "999"),
    ("#### nan", INVALID, INVALID),
    ("#### ١٢", INVALID, INVALID),
    ("\N{MINUS SIGN}5", INVALID, "5"),
    ("#### 1,000.00.", "1,000.00.", "1,000.00."),
    ("2-3", INVALID, "-3"),
]

texts = st.text(st.one_of(st.sampled_from("#  0123456789.,$-\n\0aİß[]"), st.characters()), max_size=40)


def theirs(response: str, name: str) -> str:
    from lm_eval.filters.extraction import RegexFilter

    filters = {
        "strict-match": RegexFilter("#### (\\-?[0-9\\.\\,]+)"),
        "flexible-extract": RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
    }
    return filters[name].apply([[response]], [{}])[0][0]


def their_match(extracted: str, target: str) -> bool:
    from lm_eval.api.metrics import exact_match_hf_evaluate

    found = exact_match_hf_evaluate([extracted], [target], regexes_to_ignore=IGNORED, ignore_case=True)
    return bool(found["exact_match"])


@pytest.mark.parametrize(("response", "strict", "flexible"), KNOWN)
def test_known_responses(response: str, strict: str, flexible: str) -> None:
    assert (strict_match(response), flexible_extract(response)) == (strict, flexible)
    assert (theirs(response, "strict-match"), theirs(response, "flexible-extract")) == (strict, flexible)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_extraction_equals_lm_eval(response: str) -> None:
    assert strict_match(response) == theirs(response, "strict-match")
    assert flexible_extract(response) == theirs(response, "flexible-extract")


@settings(max_examples=400, deadline=None)
@given(texts, texts)
def test_comparison_equals_lm_eval(extracted: str, target: str) -> None:
    assert exact_match(extracted, target) == their_match(extracted, target)
    assert exact_match(extracted, extracted) is their_match(extracted, extracted) is True
    worked = f"{target}\n#### {extracted}"
    assert exact_match(extracted, worked) == their_match(extracted, worked)


@pytest.mark.parametrize(
    ("extracted", "target", "equal"),
    [
        ("18", "16-3-4=9\n#### 18", True),
        ("1,234", "#### 1234", True),
        ("$18.", "18", True),
        ("18.00", "18", False),
        ("018", "18", False),
        ("5..", "5", False),
        ("5.\n", "5\n", True),
        (INVALID, "#### 18", False),
        ("5.\0", "5", True),
        ("A", "a", True),
        ("İ", "i", True),
    ],
)
def test_known_comparisons(extracted: str, target: str, equal: bool) -> None:
    assert exact_match(extracted, target) is equal
    assert their_match(extracted, target) is equal


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("It is 5.\n#### 1,000", "1000"),
        ("#### 3\nno: #### 4.", "4"),
        ("#### -12", "-12"),
        ("no marker 5", INVALID),
        ("#### five", INVALID),
        ("", INVALID),
    ],
)
def test_gold_number(answer: str, number: str) -> None:
    assert gold_number(answer) == number


@given(st.integers(-(10**12), 10**12))
def test_gold_number_is_what_the_metric_compares_with(number: int) -> None:
    answer = f"Some steps.\n#### {number:,}"
    assert exact_match(gold_number(answer), answer)
    assert exact_match(strict_match(answer), answer)
    assert exact_match(flexible_extract(answer), answer)


@pytest.mark.parametrize(
    "text",
    [part * (1_000_000 // len(part)) for part in ("9", "#### ", "#", "-", "1 ", "\0", ".")],
    ids=["digits", "markers", "hashes", "minus", "numbers", "nul", "dots"],
)
def test_a_megabyte_takes_less_than_a_second(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begun = time.process_time()
        extracted = strict_match(text), flexible_extract(text), gold_number(text)
        exact_match(extracted[1], text)
        assert time.process_time() - begun < 1.0


@pytest.mark.parametrize("text", ["#### " + "7" * 5_000, "#### 1e999", "#### \ud800", "\ud800"])
def test_odd_text_never_raises(text: str) -> None:
    assert exact_match(flexible_extract(text), flexible_extract(text))
    assert isinstance(gold_number(text), str)
    assert isinstance(strict_match(text), str)
