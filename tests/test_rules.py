"""Rule episodes: what is hidden decides every answer, and no question tells it."""

from __future__ import annotations

import json
import re
from random import Random

import pytest

from ltm_eval.system.errors import UsageError
from ltm_eval.system.files import sample_data_dir
from ltm_eval.training.rules import FAMILIES, SAMPLE_DEMONSTRATIONS, SAMPLE_EPISODES, episode, sample_rows


def _number(question: str) -> int:
    found = re.search(r"\d+", question)
    assert found is not None
    return int(found[0])


TRUTH = {
    "machine": lambda question, hidden: _number(question) + hidden,
    "price": lambda question, hidden: _number(question) * hidden,
    "locker": lambda question, hidden: hidden,
}


@pytest.mark.parametrize("seed", range(30))
def test_every_answer_follows_from_question_and_hidden_number(seed: int) -> None:
    drawn = episode(Random(seed), 9)
    assert len({example.question for example in drawn.examples}) == 9
    for example in drawn.examples:
        assert example.answer == TRUTH[drawn.family](example.question, drawn.hidden)
        assert example.text == f"Question: {example.question}\nAnswer: #### {example.answer}\n\n"


def test_the_question_does_not_tell_the_hidden_number() -> None:
    """The same questions occur under every hidden number of a family."""
    for name, family in FAMILIES.items():
        asked = [
            {family.ask(Random(seed), hidden)[0] for seed in range(50)} for hidden in range(family.low, family.high + 1)
        ]
        assert all(questions == asked[0] for questions in asked), name


def test_all_hidden_numbers_occur() -> None:
    found = {(drawn.family, drawn.hidden) for drawn in (episode(Random(seed), 2) for seed in range(2_000))}
    assert found == {(n, h) for n, f in FAMILIES.items() for h in range(f.low, f.high + 1)}


def test_too_many_questions_are_refused() -> None:
    with pytest.raises(UsageError, match="fewer than 21 different questions"):
        for seed in range(100):  # a machine takes 20 numbers
            episode(Random(seed), 21)


def test_the_bundled_files_are_what_the_generator_makes() -> None:
    rows = sample_rows()
    for split, expected in rows.items():
        lines = (sample_data_dir() / "rules" / f"{split}.jsonl").read_text("utf-8").splitlines()
        assert [json.loads(line) for line in lines] == expected
    assert len(rows["test"]) == SAMPLE_EPISODES
    assert len(rows["train"]) == SAMPLE_EPISODES * SAMPLE_DEMONSTRATIONS
    shown = {(row["episode"], row["question"]) for row in rows["train"]}
    assert not shown & {(row["episode"], row["question"]) for row in rows["test"]}
