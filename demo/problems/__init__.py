"""Word problems in the form of GSM8K, written for this project: sample data, and text to train the bundled demo model.

A template is an entry of `train.yaml` or `test.yaml`: an everyday situation, worked out in one to five steps whose
results are whole and not negative.

    seats:
      draw: {rows: 4..12, width: 4..12, room: rooms, taken: 5..rows * width - 2}
      steps:
        seats = rows * width: The {room} has {seat.of(seats)}.
        result = seats - taken: The number of empty seats is {result}.
      question: A {room} has {rows} rows of {width} seats. {taken} seats are taken. How many seats are empty?

`draw` is drawn in its order from a seeded generator: `low..high` is a number, both ends included; a list, or the name
of one in `words.yaml`, is one of its items; `= …` is computed. `who`, `other`, `third` (names) and `thing` are drawn
before. A step is a calculation and the sentence that shows it; what stands in parentheses is shown as one number, and
` if …` makes a step conditional. Of several questions one is drawn. What stands in braces, ranges and calculations is
Python.

Templates of the split `test` never occur in `train`; `svamp.yaml` and `multiarith.yaml` hold situations of their own,
for samples in the form of those sets. The form of answers (annotations `<<a op b=c>>`, a final `#### n`)
is that of arXiv:2110.14168; no wording is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from math import gcd
from pathlib import Path
from random import Random
from types import CodeType
from typing import Any, NamedTuple

import yaml

from ltm_eval.system.files import sample_data_dir

SAMPLE_SEED = 20_241
SAMPLE_ROWS = {"train": 144, "test": 125}  # generated rows of the bundled train.jsonl and test.jsonl
SEEN_ROWS = 72  # rows of the bundled seen.jsonl
SET_ROWS = 60  # rows of the bundled SVAMP.json and MultiArith.json
INNER_RANGE = re.compile(r"\(([^().]+)\.\.(.+)\)")  # (2..9) within an expression


@dataclass(frozen=True)
class Problem:
    """A situation with a question, and its answer: a sentence a step with its annotated calculation, then `#### n`."""

    question: str
    answer: str


class Noun(NamedTuple):
    """A thing that can be counted, in singular and plural."""

    one: str
    many: str

    def of(self, n: int) -> str:
        """Return `1 apple`, `2 apples`."""
        return f"{n} {self.one if n == 1 else self.many}"


class Worked(int):
    """The result of a step; as text, with its calculation."""

    calculation: str

    def __str__(self) -> str:
        return f"<<{self.calculation}={int(self)}>>{int(self)}"


def _load(name: str) -> Any:
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))


WORDS = _load("words.yaml")
NOUNS = {
    kind: [Noun(one, many or one + "s") for one, _, many in (word.partition("/") for word in words)]
    for kind, words in WORDS.pop("nouns").items()
}

KNOWN = {
    **WORDS,
    **NOUNS,
    **{noun.one.split()[0]: noun for noun in NOUNS["counted"]},
    "unit_of": {percent: 100 // gcd(percent, 100) for percent in WORDS["percents"]},  # least whole with a whole part
}


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression.strip(), "<template>", "eval")


def _value(expression: str, values: dict[str, Any]) -> Any:
    """Evaluate an expression of our own templates."""
    return eval(_compiled(expression), KNOWN, values)


def _filled(text: str, values: dict[str, Any]) -> str:
    return re.sub(r"\{([^}]*)\}", lambda slot: str(_value(slot[1], values)), text)


@dataclass(frozen=True)
class Template:
    """One entry of a file of templates."""

    name: str
    draw: dict[str, Any]
    steps: dict[str, str]
    question: str | list[str]

    def problem(self, random: Random) -> Problem:
        """Draw names and numbers and work the steps out."""
        values: dict[str, Any] = dict(zip(("who", "other", "third"), random.sample(WORDS["names"], 3), strict=True))
        values["thing"] = random.choice(NOUNS["things"])
        for name, drawn in self.draw.items():
            values[name] = _drawn(drawn, values, random)
        lines = []
        for step, sentence in self.steps.items():
            calculation, _, condition = step.partition(" if ")
            if condition and not _value(condition, values):
                continue
            name, _, calculation = calculation.partition(" = ")
            result = _worked(calculation, values)
            lines.append(_filled(sentence, {**values, name: result}))
            values[name] = final = int(result)
        question = random.choice(self.question) if isinstance(self.question, list) else self.question
        chosen = {name: _filled(value, values) for name, value in values.items() if isinstance(value, str)}
        return Problem(_filled(question, {**values, **chosen}), "\n".join([*lines, f"#### {final}"]))


def _drawn(drawn: Any, values: dict[str, Any], random: Random) -> Any:
    """Draw one value as `draw` declares it."""

    def number(low: str, high: str) -> int:
        return random.randint(_value(low, values), _value(high, values))

    if isinstance(drawn, list):
        return random.choice(drawn)
    if drawn.startswith("="):
        return _value(drawn[1:], values)
    if inner := INNER_RANGE.search(drawn):
        return _value(INNER_RANGE.sub("_drawn", drawn), {**values, "_drawn": number(*inner.groups())})
    if ".." in drawn:
        return number(*drawn.split(".."))
    return random.choice(_value(drawn, values))


def _worked(calculation: str, values: dict[str, Any]) -> Worked:
    """Work a step out; a part in parentheses is shown as its value."""
    shown = re.sub(r"\([^)]*\)|[a-z_]+", lambda part: str(_value(part[0], values)), calculation).replace(" ", "")
    result = _value(calculation, values)
    assert result == int(result), f"{shown} is not whole"
    assert result >= 0, f"{shown} is negative"
    worked = Worked(result)
    worked.calculation = shown
    return worked


TEMPLATES = {
    split: tuple(Template(name, **entry) for name, entry in _load(f"{split}.yaml").items())
    for split in ("train", "test", "svamp", "multiarith")
}


def generate(n: int, *, seed: int, split: str) -> list[Problem]:
    """Return `n` different problems; templates take turns, in an order that the seed shuffles anew each round.

    Raises:
        ValueError: the templates of the split cannot make that many.
    """
    random = Random(f"{split}-{seed}")
    found: dict[Problem, None] = {}
    stale = 0
    while len(found) < n:
        before = len(found)
        for template in random.sample(TEMPLATES[split], len(TEMPLATES[split])):
            found.setdefault(template.problem(random))
        stale = stale + 1 if len(found) == before else 0
        if stale > 1_000:
            raise ValueError(f"split {split} has about {before} different problems, got {n}; ask for fewer")
    return list(found)[:n]


def handwritten() -> list[Problem]:
    """Return the problems written by hand, from `handwritten.jsonl` beside the bundled files made from them."""
    lines = (sample_data_dir() / "gsm8k" / "handwritten.jsonl").read_text(encoding="utf-8").splitlines()
    return [Problem(**json.loads(line)) for line in lines]


def in_turns(*lists: list[Problem]) -> list[Problem]:
    """Merge lists so that each keeps its order and is spread evenly: any prefix is mixed."""
    placed = [((2 * i + 1) / (2 * len(rows)), n, i) for n, rows in enumerate(lists) for i in range(len(rows))]
    return [lists[n][i] for _, n, i in sorted(placed)]


def sample_files() -> dict[str, list[Problem]]:
    """Return the rows of the bundled sample files, by name.

    `train.jsonl` (few-shot examples) is made from training templates; `test.jsonl` has the problems written by hand and
    those of held-out templates, none of a situation the demo model was trained on. `seen.jsonl`, which no task reads,
    is made from training templates with names and numbers of another seed.
    """
    train = generate(SAMPLE_ROWS["train"], seed=SAMPLE_SEED, split="train")
    seen = generate(2 * SEEN_ROWS, seed=SAMPLE_SEED + 1, split="train")
    held_out = generate(SAMPLE_ROWS["test"], seed=SAMPLE_SEED, split="test")
    return {
        "train.jsonl": train,
        "test.jsonl": in_turns(handwritten(), held_out),
        "seen.jsonl": [problem for problem in seen if problem not in train][:SEEN_ROWS],
    }


OPERATIONS = {"+": "Addition", "-": "Subtraction", "*": "Multiplication", "/": "Common-Division"}


def svamp_rows() -> list[dict[str, object]]:
    """Return the bundled sample in the form of SVAMP.json (arXiv:2103.07191)."""
    rows: list[dict[str, object]] = []
    for number, problem in enumerate(generate(SET_ROWS, seed=SAMPLE_SEED, split="svamp"), 1):
        body, _, question = problem.question.rpartition(". ")
        ((left, operator, right),) = re.findall(r"<<(\d+)(\D)(\d+)=", problem.answer)
        rows.append(
            {
                "ID": f"sample-{number}",
                "Body": f"{body}.",
                "Question": question,
                "Equation": f"( {left}.0 {operator} {right}.0 )",
                "Answer": float(problem.answer.rpartition("#### ")[2]),
                "Type": OPERATIONS[operator],
            }
        )
    return rows


def multiarith_rows() -> list[dict[str, object]]:
    """Return the bundled sample in the form of MultiArith.json (Roy and Roth 2015)."""
    rows: list[dict[str, object]] = []
    for number, problem in enumerate(generate(SET_ROWS, seed=SAMPLE_SEED, split="multiarith")):
        steps = re.findall(r"<<(\d+)(\D)(\d+)=(\d+)", problem.answer)
        (a, first, b, between), (c, second, d, _) = steps
        inner = f"({a}.0{first}{b}.0)"
        outer = f"{inner}{second}{d}.0" if c == between else f"{c}.0{second}{inner}"
        rows.append(
            {
                "iIndex": number,
                "lEquations": [f"X=({outer})"],
                "lSolutions": [float(problem.answer.rpartition("#### ")[2])],
                "sQuestion": problem.question,
            }
        )
    return rows


def jsonl(problems: list[Problem]) -> str:
    """Format problems as JSON lines, `question` and `answer`."""
    rows = ({"question": problem.question, "answer": problem.answer} for problem in problems)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
