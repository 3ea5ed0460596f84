"""The comparison equals lm-eval's own metric, and numbers are read as a person reads them."""

from __future__ import annotations

import time
import warnings
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_eval.results.answers import (
    INVALID,
    canonical_number,
    exact_match,
    first_number,
    gold_number,
    has_gold_number,
    last_number,
)

IGNORED = [",", "\\$", "(?s).*#### ", "\\.$"]

texts = st.text(st.one_of(st.sampled_from("#  0123456789.,$-\n\0aİß[]"), st.characters()), max_size=40)


def their_match(extracted: str, target: str) -> bool:
    from lm_eval.api.metrics import exact_match_hf_evaluate

    found = exact_match_hf_evaluate([extracted], [target], regexes_to_ignore=IGNORED, ignore_case=True)
    return bool(found["exact_match"])


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


@pytest.mark.parametrize(
    "text",
    [part * (1_000_000 // len(part)) for part in ("9", "#### ", "#", "-", "1 ", "\0", ".")],
    ids=["digits", "markers", "hashes", "minus", "numbers", "nul", "dots"],
)
def test_a_megabyte_takes_less_than_a_second(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begun = time.process_time()
        gold_number(text), first_number(text), last_number(text), canonical_number(text)
        exact_match(text, text)
        assert time.process_time() - begun < 1.0


@pytest.mark.parametrize("text", ["#### " + "7" * 5_000, "#### 1e999", "#### \ud800", "\ud800"])
def test_odd_text_never_raises(text: str) -> None:
    assert exact_match(text, text)
    assert isinstance(gold_number(text), str)


# Numbers as numbers ---------------------------------------------------------------------------------------------------

# (text, the one number after "#### ", the last number): what a person reads, by the rules at the head of `answers`.
READ = [
    ("72 left...", "72", "72"),
    ("72...", "72", "72"),
    ("3.", "3", "3"),
    (".5", "0.5", "0.5"),
    ("-7", "-7", "-7"),
    ("\N{MINUS SIGN}7", "-7", "-7"),
    ("$1,234.50", "1234.5", "1234.5"),
    ("-$5", "-5", "-5"),
    ("$-5", "-5", "-5"),
    ("50%", "50", "50"),
    ("1,234,567.890", "1234567.89", "1234567.89"),
    ("1,2,3", INVALID, "3"),
    ("1, 2, 3", "1", "3"),
    ("12,34", INVALID, "34"),
    ("1,234,56", INVALID, "56"),
    ("1234,567", INVALID, "567"),
    ("1.000.000", INVALID, INVALID),
    ("3 of 1.000.000", "3", INVALID),
    ("5-3", "5", "3"),
    ("5 - 3", "5", "3"),
    ("2 + -3", "2", "-3"),
    ("(12)-3", INVALID, "3"),
    ("1/2", "0.5", "0.5"),
    ("-1/2", "-0.5", "-0.5"),
    ("1/3", INVALID, INVALID),
    ("1/0", INVALID, INVALID),
    ("5/6/2020", INVALID, INVALID),
    ("007", "7", "7"),
    ("-0.0", "0", "0"),
    ("...", INVALID, INVALID),
    ("$,", INVALID, INVALID),
    ("no number", INVALID, INVALID),
    ("", INVALID, INVALID),
]


@pytest.mark.parametrize(("text", "first", "last"), READ)
def test_numbers_are_read_as_a_person_reads_them(text: str, first: str, last: str) -> None:
    assert (first_number(f"so 9.\n#### {text}"), last_number(f"so {text}")) == (first, last)


def test_the_first_marker_that_a_number_follows_counts() -> None:
    assert first_number("#### none\n#### 4\n#### 5") == "4"
    assert first_number("it is 5") == INVALID


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("18.0", "18"), ("$18", "18"), ("18 %", "18"), ("1,800", "1800"), ("\N{MINUS SIGN}7.50", "-7.5"),
        ("5/2", "2.5"),
        ("1,2,3", "1,2,3"), ("12,34", "12,34"), ("...", "..."), ("five", "five"), ("5 or 6", "5 or 6"), ("", ""),
    ],
)  # fmt: skip
def test_what_is_no_number_keeps_its_text(text: str, canonical: str) -> None:
    assert canonical_number(text) == canonical


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_every_form_of_a_number_is_the_same_number(number: Decimal) -> None:
    plain = canonical_number(f"{number:f}")
    assert Decimal(plain) == number
    for form in (f"{number:,f}", f"{number:f}00", f"${number:,f}."):
        assert first_number(f"#### {form}") == last_number(f"so {form}") == canonical_number(form) == plain


@settings(max_examples=400, deadline=None)
@given(texts)
def test_any_text_is_read_as_numbers_or_as_none(text: str) -> None:
    for found in (first_number(text), last_number(text)):
        assert found == INVALID or canonical_number(found) == found


@pytest.mark.parametrize(
    ("answer", "has"),
    [("It is 5.\n#### 1,000", True), ("#### $5.", True), ("#### -2.5", True), ("7", True)]
    + [("#### five", False), ("#### 5 apples", False), ("no marker", False), ("5\n#### ", False)],
)
def test_gold_answers_that_no_answer_can_match(answer: str, has: bool) -> None:
    assert has_gold_number(answer) is has
