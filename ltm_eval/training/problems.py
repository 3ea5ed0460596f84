"""Word problems in the form of GSM8K, written for this project: sample data, and text to train the bundled demo model.

A template tells an everyday situation and works it out in one to five steps, all results whole and not negative.
Names, things and numbers come from a seeded generator. Templates of the split `test` never occur in `train`. The form
of answers (annotations `<<a op b=c>>`, a final `#### n`) is that of arXiv:2110.14168; no wording is.
"""

from __future__ import annotations

import json
from random import Random

from ltm_eval.system.errors import UsageError
from ltm_eval.system.files import sample_data_dir
from ltm_eval.training.drafts import Draft, Problem, Template
from ltm_eval.training.templates_heldout import HELDOUT_TEMPLATES
from ltm_eval.training.templates_measures import MEASURES_TEMPLATES
from ltm_eval.training.templates_things import THINGS_TEMPLATES

SAMPLE_SEED = 20_241
"""Seed of the bundled sample data."""
SAMPLE_ROWS = {"train": 144, "test": 125}
"""Generated rows of each split's templates in the bundled `train.jsonl` and `test.jsonl`."""
SEEN_ROWS = 72
"""Rows of the bundled `seen.jsonl`."""
TEMPLATES: dict[str, tuple[Template, ...]] = {
    "train": (*THINGS_TEMPLATES, *MEASURES_TEMPLATES),
    "test": HELDOUT_TEMPLATES,
}
"""Which templates a split is made from."""


def generate(n: int, *, seed: int, split: str) -> list[Problem]:
    """`n` different problems; templates take turns, in an order that the seed shuffles anew each round.

    Raises:
        UsageError: `split` is neither `train` nor `test`, `n` is negative or more than the templates can tell apart.
    """
    if split not in TEMPLATES:
        raise UsageError(f"split must be one of {', '.join(TEMPLATES)}, got {split!r}")
    if n < 0:
        raise UsageError(f"the number of problems must not be negative, got {n}")
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
            raise UsageError(f"split {split} tells about {before} different problems apart, got {n}; ask for fewer")
    return list(found)[:n]


def handwritten() -> list[Problem]:
    """The problems written by hand, from `handwritten.jsonl` beside the files made from them."""
    lines = (sample_data_dir() / "gsm8k" / "handwritten.jsonl").read_text(encoding="utf-8").splitlines()
    return [Problem(**json.loads(line)) for line in lines]


def in_turns(*lists: list[Problem]) -> list[Problem]:
    """All problems of the lists: each list keeps its order and is spread evenly, so that any prefix is mixed."""
    placed = [((2 * i + 1) / (2 * len(rows)), n, i) for n, rows in enumerate(lists) for i in range(len(rows))]
    return [lists[n][i] for _, n, i in sorted(placed)]


def sample_files() -> dict[str, list[Problem]]:
    """Rows of the bundled sample files, by name.

    `train.jsonl` (demonstrations) is made from training templates; `test.jsonl` has the problems written by hand and
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
    """One JSON object a line, `question` and `answer`."""
    rows = ({"question": problem.question, "answer": problem.answer} for problem in problems)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
