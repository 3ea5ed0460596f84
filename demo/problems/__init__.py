"""Word problems in the form of GSM8K, written for this project: sample data, and text to train the bundled demo model.

A template tells an everyday situation and works it out in one to five steps, all results whole and not negative.
Names, things and numbers come from a seeded generator. Templates of the split `test` never occur in `train`. The form
of answers (annotations `<<a op b=c>>`, a final `#### n`) is that of arXiv:2110.14168; no wording is.
"""

from __future__ import annotations

import json
from inspect import isfunction
from random import Random
from types import ModuleType

from ltm_eval.system.files import sample_data_dir
from problems import heldout, measures, things
from problems.drafts import Draft, Problem, Template

SAMPLE_SEED = 20_241
SAMPLE_ROWS = {"train": 144, "test": 125}  # generated rows of the bundled train.jsonl and test.jsonl
SEEN_ROWS = 72  # rows of the bundled seen.jsonl


def _templates(module: ModuleType) -> tuple[Template, ...]:
    """Return the functions of a module, in their order: each is a template."""
    return tuple(one for one in vars(module).values() if isfunction(one) and one.__module__ == module.__name__)


TEMPLATES = {"train": _templates(things) + _templates(measures), "test": _templates(heldout)}


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
            draft = Draft(random)
            found.setdefault(Problem(template(draft), draft.answer))
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


def jsonl(problems: list[Problem]) -> str:
    """Format problems as JSON lines, `question` and `answer`."""
    rows = ({"question": problem.question, "answer": problem.answer} for problem in problems)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
