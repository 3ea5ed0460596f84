"""Every bundled and generated problem is right: its steps are worked out again with exact fractions."""

from __future__ import annotations

import ast
import json
import re
from fractions import Fraction
from functools import cache
from random import Random

import pytest

from ltm_eval.system.errors import UsageError
from ltm_eval.system.files import sample_data_dir
from ltm_eval.training import drafts
from ltm_eval.training.drafts import (
    ANIMALS,
    BAKED,
    BIRDS,
    COLLECTED,
    COLOURED,
    CONTAINERS,
    DEAR,
    FRUIT,
    NAMES,
    PART,
    PLANTS,
    ROOMS,
    SHOP,
    THINGS,
    TIMES,
    Draft,
    Noun,
    Problem,
    Template,
)
from ltm_eval.training.problems import (
    SAMPLE_ROWS,
    SEEN_ROWS,
    TEMPLATES,
    generate,
    handwritten,
    in_turns,
    jsonl,
    sample_files,
)

STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>(\d+)")
SPLITS = ("train", "test")
FILES = ("train.jsonl", "test.jsonl", "seen.jsonl", "handwritten.jsonl")


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


def bundled(name: str) -> list[Problem]:
    lines = (sample_data_dir() / "gsm8k" / name).read_text(encoding="utf-8").splitlines()
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


@cache
def each_template(split: str) -> list[tuple[Template, Problem]]:
    """150 problems of every template, one template after another."""
    made = []
    for template in TEMPLATES[split]:
        for seed in range(150):
            draft = Draft(Random(seed))
            made.append((template, Problem(template(draft), draft.answer)))
    return made


@pytest.mark.parametrize("split", SPLITS)
def test_every_template_is_right_over_many_seeds(split: str) -> None:
    steps: dict[Template, set[int]] = {}
    for template, problem in each_template(split):
        steps.setdefault(template, set()).add(check(problem))
        for given in set(re.findall(r"\d+", problem.question)):
            assert int(given) > 0, problem.question
    assert set(steps) == set(TEMPLATES[split])
    assert set().union(*steps.values()) <= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("split", SPLITS)
def test_a_question_has_one_answer(split: str) -> None:
    found: dict[str, str] = {}
    for _, problem in each_template(split):
        final = problem.answer.rsplit("#### ")[-1]
        assert found.setdefault(problem.question, final) == final


@pytest.mark.parametrize("name", FILES)
def test_bundled_problems_are_right(name: str) -> None:
    problems = bundled(name)
    assert len({problem.question for problem in problems}) == len(problems)
    for problem in problems:
        check(problem)


def test_bundled_sizes() -> None:
    assert {name: len(bundled(name)) for name in FILES} == {
        "train.jsonl": SAMPLE_ROWS["train"],
        "test.jsonl": SAMPLE_ROWS["test"] + len(handwritten()),
        "seen.jsonl": SEEN_ROWS,
        "handwritten.jsonl": len(handwritten()),
    }
    assert len(bundled("test.jsonl")) >= 200
    assert len(handwritten()) >= 80
    assert len(bundled("train.jsonl")) >= 120
    assert len(bundled("seen.jsonl")) >= 60


def test_bundled_files_are_what_the_code_makes() -> None:
    """`python demo/write_sample.py` writes them anew."""
    for name, problems in sample_files().items():
        assert (sample_data_dir() / "gsm8k" / name).read_bytes().decode("utf-8") == jsonl(problems), name


def test_bundled_test_rows_take_turns() -> None:
    rows, hand = bundled("test.jsonl"), set(handwritten())
    whole = len(hand) / len(rows)
    for n in range(5, len(rows) + 1):
        share = sum(row in hand for row in rows[:n])
        assert abs(share - n * whole) <= 1
    first = [row for row in rows if row not in hand][: len(TEMPLATES["test"])]
    assert len({masked(row) for row in first}) == len(TEMPLATES["test"])


def test_in_turns_keeps_every_list_in_order() -> None:
    a, b = [Problem(f"a{i}", "") for i in range(3)], [Problem(f"b{i}", "") for i in range(5)]
    mixed = in_turns(a, b)
    assert "".join(p.question[0] for p in mixed) == "bababbab"
    assert [p for p in mixed if p in a] == a and [p for p in mixed if p in b] == b
    assert in_turns([], a) == a


@cache
def chosen_words() -> re.Pattern[str]:
    """Names, numbers and the things that templates choose."""
    chosen = (COLOURED, THINGS, SHOP, BAKED, PLANTS, FRUIT, COLLECTED, BIRDS, ANIMALS, DEAR, CONTAINERS)
    words = {word for nouns in chosen for noun in nouns for word in noun}
    words |= {*NAMES, *ROOMS, *TIMES.values(), *PART.values()}
    either = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    return re.compile(rf"\b(?:{either})\b|\d+")


@cache
def masked(problem: Problem) -> str:
    """The question less names, numbers and the things that templates choose."""
    return chosen_words().sub("_", problem.question)


def test_templates_are_many_and_no_held_out_one_is_trained_on() -> None:
    assert len(TEMPLATES["train"]) >= 56 and len(TEMPLATES["test"]) >= 16
    assert len(set(TEMPLATES["train"]) | set(TEMPLATES["test"])) == sum(map(len, TEMPLATES.values()))


def test_no_wording_of_the_test_rows_is_trained_on() -> None:
    train = {masked(problem) for _, problem in each_template("train")}
    assert len(train) > len(TEMPLATES["train"])
    assert {masked(problem) for problem in bundled("train.jsonl") + bundled("seen.jsonl")} <= train
    assert not train & {masked(problem) for _, problem in each_template("test")}
    assert not train & {masked(problem) for problem in bundled("test.jsonl")}


def test_no_sentence_of_a_question_is_trained_on() -> None:
    """Less names and numbers, no sentence that tells a test situation occurs in training."""
    train = {sentence for _, problem in each_template("train") for sentence in sentences(problem)}
    test = {sentence for _, problem in each_template("test") for sentence in sentences(problem)}
    assert not train & test
    assert not train & {sentence for problem in bundled("test.jsonl") for sentence in sentences(problem)}


def sentences(problem: Problem) -> list[str]:
    """The masked sentences of a question except the last, which asks."""
    return re.split(r"(?<=[.?]) ", masked(problem))[:-1]


def test_bundled_files_share_no_problem() -> None:
    train, seen, test = (bundled(name) for name in ("train.jsonl", "seen.jsonl", "test.jsonl"))
    assert len({problem.question for problem in train + seen + test}) == len(train + seen + test)


def test_every_template_comes_up_once_a_round() -> None:
    n = len(TEMPLATES["train"])
    assert len({re.sub(r"<<.*", "", p.answer) for p in generate(n, seed=0, split="train")}) >= n // 2
    assert len({p.question for p in generate(n, seed=0, split="train")}) == n


def test_generation_is_seeded() -> None:
    assert generate(50, seed=1, split="train") == generate(50, seed=1, split="train")
    assert generate(50, seed=1, split="train") == generate(90, seed=1, split="train")[:50]
    assert generate(50, seed=1, split="train") != generate(50, seed=2, split="train")
    assert generate(0, seed=1, split="test") == []


def nouns_in(value: object) -> list[Noun]:
    """The noun or nouns that a constant of `drafts` holds."""
    if isinstance(value, Noun):
        return [value]
    return [noun for noun in value if isinstance(noun, Noun)] if isinstance(value, tuple) else []


@pytest.mark.parametrize("split", SPLITS)
def test_grammar(split: str) -> None:
    text = "\n".join(f"{p.question}\n{p.answer}" for p in generate(1_500, seed=5, split=split))
    text = re.sub(r"<<[^<>]*>>", "", text)
    assert "  " not in text
    assert "{" not in text
    nouns = [noun for name in dir(drafts) for noun in nouns_in(getattr(drafts, name)) if noun.one != noun.many]
    many, one = ("|".join(sorted({noun[n] for noun in nouns})) for n in (1, 0))
    plural = re.findall(rf"(?<![\d$.,])\b1 (?:[a-z]+ )?(?:{many})\b", text)
    singular = re.findall(rf"\b(?:[02-9]|\d\d+) (?:{one})\b(?! plant)", text)
    assert (plural, singular) == ([], [])


def test_nouns() -> None:
    box = Noun("box", "boxes")
    assert [box.of(n) for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]


def test_answers_are_short() -> None:
    for split in SPLITS:
        for problem in generate(800, seed=9, split=split):
            pieces = re.findall(r"[A-Za-z]+|\d|<<|>>|####|[^\sA-Za-z\d]", problem.answer)
            assert len(pieces) <= 110, problem.answer


def test_a_draft_refuses_fractions_and_negative_numbers() -> None:
    draft = Draft(Random(0))
    with pytest.raises(AssertionError, match="not whole"):
        draft.step("{}", 7, "/", 2)
    with pytest.raises(AssertionError, match="not whole"):
        draft.percent("{}", 30, 25)
    with pytest.raises(AssertionError, match="negative"):
        draft.step("{}", 2, "-", 3)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="train, test, got 'dev'"):
        generate(1, seed=0, split="dev")
    with pytest.raises(UsageError, match="got -1"):
        generate(-1, seed=0, split="train")
