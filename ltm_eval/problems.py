"""Word problems in the form of GSM8K, written for this project: sample data, and text to train the bundled demo model.

A template tells an everyday situation and works it out in one to five steps, all results whole and not negative.
Names, things and numbers come from a seeded generator. Templates of the split `test` never occur in `train`. The form
of answers (annotations `<<a op b=c>>`, a final `#### n`) is that of arXiv:2110.14168; no wording is.
"""

from __future__ import annotations

from random import Random

from ltm_eval.drafts import Draft, Problem, Template
from ltm_eval.errors import UsageError
from ltm_eval.templates_heldout import HELDOUT_TEMPLATES
from ltm_eval.templates_measures import MEASURES_TEMPLATES
from ltm_eval.templates_things import THINGS_TEMPLATES

SAMPLE_SEED = 20_241
"""Seed of the bundled sample data."""
SAMPLE_ROWS = {"train": 120, "test": 40}
"""Generated rows of each split's templates in the bundled sample data."""
SEEN_ROWS = 30
"""Rows of the bundled `test.jsonl` that come from training templates, with numbers and names of seed `SAMPLE_SEED + 1`.

The file takes turns: a problem written by hand, one of a template the demo model was trained on, one of a held-out
template.
"""
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
