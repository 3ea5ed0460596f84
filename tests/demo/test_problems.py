"""Word problems of demo/: every step is worked out again with exact fractions, and no test wording is trained on."""

from __future__ import annotations

import ast
import json
import re
from fractions import Fraction
from functools import cache
from random import Random
from typing import Any

import pytest
from problems import (
    NOUNS,
    TEMPLATES,
    WORDS,
    Noun,
    Problem,
    Template,
    generate,
    handwritten,
    in_turns,
    jsonl,
    multiarith_rows,
    sample_files,
    svamp_rows,
)

from ltm_eval.system.files import sample_data_dir

STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>(\d+)")
SPLITS = ("train", "test", "svamp", "multiarith")
FILES = {"train.jsonl": 144, "test.jsonl": 219, "seen.jsonl": 72, "handwritten.jsonl": 94}


def worked(node: ast.expr) -> Fraction:
    """Return the exact value of + - * / on numbers."""
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
        assert found and line.count("<<") == len(found), line
        for expression, result, shown in found:
            value = worked(ast.parse(expression, mode="eval").body)
            assert value == Fraction(result) == Fraction(shown) and value >= 0, line
            results.append(value)
    assert re.fullmatch(r"#### \d+", final)
    assert results[-1] == int(final.removeprefix("#### "))
    assert problem.question.endswith("?") and (problem.question[0].isupper() or problem.question[0].isdigit())
    pieces = re.findall(r"[A-Za-z]+|\d|<<|>>|####|[^\sA-Za-z\d]", problem.answer)
    assert len(pieces) <= 130, problem.answer
    return len(steps)


@cache
def bundled(name: str) -> list[Problem]:
    lines = (sample_data_dir() / "gsm8k" / name).read_text(encoding="utf-8").splitlines()
    return [Problem(**json.loads(line)) for line in lines]


@cache
def each_template(split: str) -> list[tuple[Template, Problem]]:
    """150 problems of every template, one template after another."""
    return [(template, template.problem(Random(seed))) for template in TEMPLATES[split] for seed in range(150)]


def test_the_checker_sees_a_wrong_step() -> None:
    assert check(Problem("How many?", "It is <<2*3=6>>6.\n#### 6")) == 1
    for wrong in ("It is <<2*3=7>>7.\n#### 7", "It is <<2*3=6>>7.\n#### 6", "It is <<2*3=6>>6.\n#### 7"):
        with pytest.raises(AssertionError):
            check(Problem("How many?", wrong))


@pytest.mark.parametrize("split", SPLITS)
def test_every_template_is_right_over_many_seeds(split: str) -> None:
    answers: dict[str, str] = {}
    for _, problem in each_template(split):
        assert check(problem) in {1, 2, 3, 4, 5}
        assert all(int(given) > 0 for given in re.findall(r"\d+", problem.question)), problem.question
        final = problem.answer.rsplit("#### ")[-1]
        assert answers.setdefault(problem.question, final) == final, "a question has one answer"


def test_bundled_problems_are_right_and_what_the_code_makes() -> None:
    """`python demo/write_sample.py` writes them anew."""
    assert {name: len({problem.question for problem in bundled(name)}) for name in FILES} == FILES
    for name in FILES:
        assert all(check(problem) for problem in bundled(name))
    for name, problems in sample_files().items():
        assert (sample_data_dir() / "gsm8k" / name).read_bytes().decode("utf-8") == jsonl(problems), name
    together = [problem.question for name in ("train.jsonl", "seen.jsonl", "test.jsonl") for problem in bundled(name)]
    assert len(set(together)) == len(together)


@pytest.mark.parametrize(
    ("name", "rows", "split", "steps"),
    [
        ("svamp/SVAMP.json", svamp_rows(), "svamp", 1),
        ("multiarith/MultiArith.json", multiarith_rows(), "multiarith", 2),
    ],
)
def test_samples_of_other_sets_are_right_and_what_the_code_makes(
    name: str, rows: list[dict[str, Any]], split: str, steps: int
) -> None:
    assert json.loads((sample_data_dir() / name).read_text(encoding="utf-8")) == rows
    assert all(check(problem) == steps for _, problem in each_template(split))
    assert len({json.dumps([row.get("Body"), row.get("sQuestion")]) for row in rows}) == len(rows) == 60
    for row in rows:
        (equation,) = row.get("lEquations", [row.get("Equation")])
        value = worked(ast.parse(equation.removeprefix("X=").strip(), mode="eval").body)
        assert value == Fraction(row["Answer"] if "Answer" in row else row["lSolutions"][0])


def test_bundled_test_rows_take_turns() -> None:
    rows, hand = bundled("test.jsonl"), set(handwritten())
    for n in range(5, len(rows) + 1):
        assert abs(sum(row in hand for row in rows[:n]) - n * len(hand) / len(rows)) <= 1
    first = [row for row in rows if row not in hand][: len(TEMPLATES["test"])]
    assert len({masked(row) for row in first}) == len(TEMPLATES["test"])
    a, b = [Problem(f"a{i}", "") for i in range(3)], [Problem(f"b{i}", "") for i in range(5)]
    assert "".join(p.question[0] for p in in_turns(a, b)) == "bababbab"


@cache
def chosen_words() -> re.Pattern[str]:
    """Match names, numbers and the words and things that templates choose from."""
    lists = [list(value.values()) if isinstance(value, dict) else value for value in WORDS.values()]
    words = {word for value in lists for word in value if isinstance(word, str)}
    words |= {word for kind, nouns in NOUNS.items() if kind != "counted" for noun in nouns for word in noun}
    either = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    return re.compile(rf"\b(?:{either})\b|\d+")


@cache
def masked(problem: Problem) -> str:
    return chosen_words().sub("_", problem.question)


def sentences(problem: Problem) -> list[str]:
    """The masked sentences of a question except the last, which asks."""
    return re.split(r"(?<=[.?]) ", masked(problem))[:-1]


def test_no_wording_of_the_test_rows_is_trained_on() -> None:
    """Without names and numbers, neither a question nor a sentence that tells a test situation occurs in training."""
    assert len({one.name for templates in TEMPLATES.values() for one in templates}) == sum(map(len, TEMPLATES.values()))
    test = [problem for split in SPLITS[1:] for _, problem in each_template(split)] + bundled("test.jsonl")
    train = {masked(problem) for _, problem in each_template("train")}
    assert len(train) > len(TEMPLATES["train"])
    assert {masked(problem) for problem in bundled("train.jsonl") + bundled("seen.jsonl")} <= train
    assert not train & {masked(problem) for problem in test}
    trained = {sentence for _, problem in each_template("train") for sentence in sentences(problem)}
    assert not trained & {sentence for problem in test for sentence in sentences(problem)}


@pytest.mark.parametrize("split", SPLITS)
def test_generation_is_seeded_and_takes_every_template_once_a_round(split: str) -> None:
    problems = generate(1_500, seed=1, split=split)
    assert len({problem.question for problem in problems}) == 1_500
    assert generate(50, seed=1, split=split) == problems[:50] != generate(50, seed=2, split=split)
    assert generate(0, seed=1, split=split) == []
    first = problems[: len(TEMPLATES[split])]
    assert len({re.sub(r"<<.*", "", p.answer) for p in first}) >= len(first) // 2


@pytest.mark.parametrize("split", SPLITS)
def test_grammar(split: str) -> None:
    text = "\n".join(f"{p.question}\n{p.answer}" for p in generate(1_500, seed=5, split=split))
    text = re.sub(r"<<[^<>]*>>", "", text)
    assert "  " not in text and "{" not in text
    nouns = [noun for kind in NOUNS.values() for noun in kind]
    many, one = ("|".join(sorted({noun[n] for noun in nouns if noun.one != noun.many})) for n in (1, 0))
    plural = re.findall(rf"(?<![\d$.,])\b1 (?:[a-z]+ )?(?:{many})\b", text)
    singular = re.findall(rf"\b(?:[02-9]|\d\d+) (?:{one})\b(?! plant)", text)
    assert (plural, singular) == ([], [])
    assert [Noun("box", "boxes").of(n) for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]


@pytest.mark.parametrize(
    ("step", "wrong"), [("a = 7 / 2", "not whole"), ("a = 30 * 25 / 100", "not whole"), ("a = 2 - 3", "negative")]
)
def test_a_step_refuses_fractions_and_negative_numbers(step: str, wrong: str) -> None:
    with pytest.raises(AssertionError, match=wrong):
        Template("wrong", {}, {step: "{a}"}, "How many?").problem(Random(0))
