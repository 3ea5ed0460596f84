"""Prompts taken apart, and draws that depend on seed and document alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import generate

from ltm_eval.system.errors import UsageError
from ltm_eval.tasks.prompts import Prompt, draw, split_prompt

DOCUMENT = {"question": "How many?", "answer": "#### 3"}

# Text with blank lines, but none that begins a line of its own with the lead.
loose = st.lists(
    st.sampled_from(["Tom has 3", "\n", "\n\n", "Note: x", "#### 3", " ", "é", "Answer: 2", "Q", ":"]), max_size=8
)
pieces = loose.map("".join)


def gsm8k_prompt(demonstrations: list[tuple[str, str]], question: str) -> tuple[list[str], str]:
    """lm-eval's GSM8K prompt in pieces."""
    return [f"Question: {q}\nAnswer: {a}\n\n" for q, a in demonstrations], f"Question: {question}\nAnswer:"


@given(st.text(st.sampled_from("\n\nQ:a x"), max_size=60))
def test_the_pieces_make_the_prompt(context: str) -> None:
    prompt = split_prompt(context)
    assert "".join(prompt.demonstrations) + prompt.question == context
    assert all(piece.endswith("\n\n") for piece in prompt.demonstrations)


@given(st.text(max_size=200))
def test_any_text_is_reassembled(context: str) -> None:
    prompt = split_prompt(context)
    assert "".join(prompt.demonstrations) + prompt.question == context


@settings(max_examples=60)
@given(st.lists(st.tuples(pieces, pieces), max_size=32), pieces)
def test_gsm8k_prompts_with_blank_lines(shots: list[tuple[str, str]], question: str) -> None:
    demonstrations, last = gsm8k_prompt(shots, question)
    context = "".join(demonstrations) + last
    assume(context.count("\n\nQuestion:") == len(shots))
    assert split_prompt(context) == Prompt(tuple(demonstrations), last)


@pytest.mark.parametrize("shots", range(33))
def test_gsm8k_prompts_of_any_number_of_shots(shots: int) -> None:
    rows = [(p.question, p.answer) for p in generate(shots + 1, seed=shots, split="train")]
    demonstrations, last = gsm8k_prompt(rows[:-1], rows[-1][0])
    assert split_prompt("".join(demonstrations) + last) == Prompt(tuple(demonstrations), last)


@pytest.mark.parametrize(
    ("context", "demonstrations", "question"),
    [
        ("", [], ""),
        ("Question: a\nAnswer:", [], "Question: a\nAnswer:"),
        ("Question: a\n\nHow many\nare left?\nAnswer:", [], "Question: a\n\nHow many\nare left?\nAnswer:"),
        ("Question: a\n\nNote: b\nAnswer:", [], "Question: a\n\nNote: b\nAnswer:"),
        ("Q: a\nA: 1\n\nQ: b\nA:", ["Q: a\nA: 1\n\n"], "Q: b\nA:"),
        ("Solve this.\n\nQuestion: a\nAnswer:", ["Solve this.\n\n"], "Question: a\nAnswer:"),
        ("Problem: a\n\nso\n\nProblem: b\n\nProblem: c", ["Problem: a\n\nso\n\n", "Problem: b\n\n"], "Problem: c"),
        ("one\n\ntwo\n\nthree", ["one\n\n", "two\n\n"], "three"),
        ("x\nA: 1\n\ny\nA:", ["x\nA: 1\n\n"], "y\nA:"),
        ("Question: a\nAnswer: 1\n\n\nQuestion: b", ["Question: a\nAnswer: 1\n\n\n"], "Question: b"),
        ("Question: a\nAnswer: 1\n\n\n\nQuestion: b", ["Question: a\nAnswer: 1\n\n\n\n"], "Question: b"),
        ("just text", [], "just text"),
        ("a\n\n", [], "a\n\n"),
        (" \n\n ", [], " \n\n "),
        ("one\n\ntwo \n\n\n", ["one\n\n"], "two \n\n\n"),
        ("Q: a\nA: 1\n\nQ: b\nA: \n\n", ["Q: a\nA: 1\n\n"], "Q: b\nA: \n\n"),
        ("a.b*c: 1\n\na.b*c: 2", ["a.b*c: 1\n\n"], "a.b*c: 2"),
        ("x" * 40 + ": a\n\n" + "x" * 40 + ": b\n\nc", ["x" * 40 + ": a\n\n", "x" * 40 + ": b\n\n"], "c"),
    ],
)
def test_known_prompts(context: str, demonstrations: list[str], question: str) -> None:
    assert split_prompt(context) == Prompt(tuple(demonstrations), question)


@given(st.integers(1, 60), st.data(), st.one_of(st.none(), st.integers()))
def test_a_draw_is_different_positions_of_the_pool(size: int, data: st.DataObject, seed: int | None) -> None:
    n = data.draw(st.integers(0, size))
    drawn = draw(size, n, seed=seed, document=DOCUMENT)
    assert len(set(drawn)) == len(drawn) == n
    assert all(0 <= place < size for place in drawn)
    assert drawn == draw(size, n, seed=seed, document=dict(reversed(DOCUMENT.items())))
    assert draw(size, size, seed=seed, document=DOCUMENT)[:n] == drawn


def test_a_draw_depends_on_seed_and_document() -> None:
    drawn = draw(1_000, 8, seed=1234, document=DOCUMENT)
    assert drawn != draw(1_000, 8, seed=1235, document=DOCUMENT)
    assert drawn != draw(1_000, 8, seed=None, document=DOCUMENT)
    assert drawn != draw(1_000, 8, seed=1234, document={**DOCUMENT, "question": "How many ?"})


def test_a_draw_stays_the_same_between_versions() -> None:
    recorded = (6_548, 664, 1_816, 2_840, 7_284)  # by version 0.1.0 on Python 3.11
    assert draw(7_473, 5, seed=1234, document=DOCUMENT) == recorded


def test_draws_are_uniform() -> None:
    seen = Counter(place for i in range(3_000) for place in draw(10, 3, seed=0, document={"id": i}))
    expected = 900.0
    chi_square = sum((seen[place] - expected) ** 2 / expected for place in range(10))
    assert chi_square < 27.9  # 0.1 % of fair draws lie above, with 9 degrees of freedom


@pytest.mark.parametrize(("size", "n"), [(5, 6), (0, 1), (5, -1)])
def test_impossible_draws_are_refused_with_both_numbers(size: int, n: int) -> None:
    with pytest.raises(UsageError, match=f"between 0 and the {size} available training examples, got {n};"):
        draw(size, n, seed=0, document=DOCUMENT)


def test_splitting_a_prompt_imports_nothing_heavy() -> None:
    code = (
        "import sys, ltm_eval.tasks.prompts as f; f.split_prompt('a\\n\\nb'); "
        "print(sorted({'torch', 'lm_eval', 'datasets', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
