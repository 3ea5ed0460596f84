"""Every bundled and generated problem is right: its steps are worked out again with exact fractions."""

from __future__ import annotations

import ast
import json
import re
from fractions import Fraction

import pytest

from ltm_eval.drafts import Draft, Noun, Problem
from ltm_eval.errors import UsageError
from ltm_eval.paths import sample_data_dir
from ltm_eval.problems import SAMPLE_ROWS, SAMPLE_SEED, SEEN_ROWS, TEMPLATES, generate

STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>(\d+)")
SPLITS = ("train", "test")


def worked(node: ast.expr) -> Fraction:
    """Exact value of + - * / on numbers."""
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(ast.unparse(node))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return worked(left) + worked(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return worked(left) - worked(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return worked(left) * worked(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return worked(left) / worked(right)
    raise AssertionError(ast.dump(node))


def check(problem: Problem) -> int:
    """Check the steps and the final number; return the number of steps."""
    *steps, final = problem.answer.split("\n")
    results = []
    for line in steps:
        found = STEP.findall(line)
        assert found, f"a line without a calculation: {line}"
        assert line.count("<<") == len(found)
        for expression, result, shown in found:
            value = worked(ast.parse(expression, mode="eval").body)
            assert value == Fraction(result) == Fraction(shown), line
            assert value >= 0
            results.append(value)
    assert re.fullmatch(r"#### \d+", final)
    assert results[-1] == int(final.removeprefix("#### "))
    assert problem.question.endswith("?")
    assert problem.question[0].isupper() or problem.question[0].isdigit()
    return len(steps)


def bundled(split: str) -> list[Problem]:
    lines = (sample_data_dir() / "gsm8k" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Problem(**json.loads(line)) for line in lines]


def test_the_checker_sees_a_wrong_step() -> None:
    right = Problem("How many?", "It is <<2*3=6>>6.\n#### 6")
    assert check(right) == 1
    for wrong in ("It is <<2*3=7>>7.\n#### 7", "It is <<2*3=6>>7.\n#### 6", "It is <<2*3=6>>6.\n#### 7"):
        with pytest.raises(AssertionError):
            check(Problem("How many?", wrong))


@pytest.mark.parametrize("split", SPLITS)
def test_generated_problems_are_right(split: str) -> None:
    problems = generate(1_500, seed=7, split=split)
    assert {check(problem) for problem in problems} <= {1, 2, 3, 4, 5}
    assert len(set(problems)) == len({problem.question for problem in problems}) == 1_500


@pytest.mark.parametrize("split", SPLITS)
def test_bundled_problems_are_right(split: str) -> None:
    problems = bundled(split)
    assert len({problem.question for problem in problems}) == len(problems)
    for problem in problems:
        check(problem)


def test_bundled_sizes() -> None:
    assert len(bundled("train")) >= 100
    assert len(bundled("test")) >= 60
    assert len(bundled("test")) - SAMPLE_ROWS["test"] - SEEN_ROWS >= 24


@pytest.mark.parametrize("split", SPLITS)
def test_bundled_generated_rows_are_the_generators(split: str) -> None:
    made = generate(SAMPLE_ROWS[split], seed=SAMPLE_SEED, split=split)
    assert [problem for problem in bundled(split) if problem in made] == made


def test_bundled_test_rows_take_turns() -> None:
    rows = bundled("test")
    seen = generate(SEEN_ROWS, seed=SAMPLE_SEED + 1, split="train")
    held_out = generate(SAMPLE_ROWS["test"], seed=SAMPLE_SEED, split="test")
    assert rows[1 : 3 * SEEN_ROWS : 3] == seen and rows[2 : 3 * SEEN_ROWS : 3] == held_out[:SEEN_ROWS]
    assert not set(rows) & set(bundled("train"))


def test_splits_are_disjoint() -> None:
    assert not set(TEMPLATES["train"]) & set(TEMPLATES["test"])
    assert len(TEMPLATES["train"]) + len(TEMPLATES["test"]) >= 24
    assert len(TEMPLATES["test"]) >= 6
    seen = [{surface(p) for p in generate(2_000, seed=3, split=split)} for split in SPLITS]
    assert not seen[0] & seen[1]
    assert not {p.question for p in bundled("train")} & {p.question for p in bundled("test")}


def surface(problem: Problem) -> str:
    """The wording of the last sentence, less names and numbers."""
    return re.sub(r"[A-Z][a-z]+|\d+", "_", problem.question)


def test_every_template_comes_up_once_a_round() -> None:
    n = len(TEMPLATES["train"])
    assert len({re.sub(r"<<.*", "", p.answer) for p in generate(n, seed=0, split="train")}) >= n // 2
    assert len({p.question for p in generate(n, seed=0, split="train")}) == n


def test_generation_is_seeded() -> None:
    assert generate(50, seed=1, split="train") == generate(50, seed=1, split="train")
    assert generate(50, seed=1, split="train") == generate(90, seed=1, split="train")[:50]
    assert generate(50, seed=1, split="train") != generate(50, seed=2, split="train")
    assert generate(0, seed=1, split="test") == []


@pytest.mark.parametrize("split", SPLITS)
def test_grammar(split: str) -> None:
    text = "\n".join(f"{p.question}\n{p.answer}" for p in generate(1_500, seed=5, split=split))
    text = re.sub(r"<<[^<>]*>>", "", text)
    assert "  " not in text
    assert "{" not in text
    plural = re.findall(
        r"(?<![\d$])\b1 (?:[a-z]+ )?(?:apples|coins|days|eggs|books|pieces|tickets|points|boxes|people|tins)\b", text
    )
    singular = re.findall(
        r"\b(?:[02-9]|\d\d+) (?:apple|coin|day|egg|book|piece|ticket|point|box|person|tin|friend)\b", text
    )
    assert (plural, singular) == ([], [])


def test_nouns() -> None:
    box = Noun("box", "boxes")
    assert [box.of(n) for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]


def test_answers_are_short() -> None:
    for split in SPLITS:
        for problem in generate(800, seed=9, split=split):
            pieces = re.findall(r"[A-Za-z]+|\d|<<|>>|####|[^\sA-Za-z\d]", problem.answer)
            assert len(pieces) <= 85, problem.answer


def test_a_draft_refuses_fractions_and_negative_numbers() -> None:
    from random import Random

    draft = Draft(Random(0))
    with pytest.raises(AssertionError, match="not whole"):
        draft.step("{}", 7, "/", 2)
    with pytest.raises(AssertionError, match="negative"):
        draft.step("{}", 2, "-", 3)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="train, test, got 'dev'"):
        generate(1, seed=0, split="dev")
    with pytest.raises(UsageError, match="got -1"):
        generate(-1, seed=0, split="train")
