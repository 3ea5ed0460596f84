"""Rule episodes of demo/: what is hidden decides every answer, and no question tells it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from rules import FAMILIES, SAMPLE_DEMONSTRATIONS, SAMPLE_EPISODES, episode, sample_rows

from ltm_eval.system.files import sample_data_dir


def _number(question: str) -> int:
    return int(re.findall(r"\d+", question)[0])


TRUTH = {
    "machine": lambda question, hidden: _number(question) + hidden,
    "price": lambda question, hidden: _number(question) * hidden,
    "locker": lambda question, hidden: hidden,
}


def test_every_answer_follows_from_question_and_hidden_number() -> None:
    found = set()
    for seed in range(2_000):
        drawn = episode(Random(seed), 9)
        found.add((drawn.family, drawn.hidden))
        assert len({question for question, _ in drawn.examples}) == 9
        assert all(answer == TRUTH[drawn.family](question, drawn.hidden) for question, answer in drawn.examples)
    assert found == {(n, h) for n, f in FAMILIES.items() for h in range(f.low, f.high + 1)}


def test_the_question_does_not_tell_the_hidden_number() -> None:
    """The same questions occur under every hidden number of a family."""
    for name, family in FAMILIES.items():
        asked = [
            {family.ask(Random(seed), hidden)[0] for seed in range(50)} for hidden in range(family.low, family.high + 1)
        ]
        assert all(questions == asked[0] for questions in asked), name


def test_too_many_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 21 different questions"):
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


def test_the_training_data_script_writes_what_recipes_read(root: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(root / "demo" / "make_training_data.py"), "--output", str(tmp_path)]
    subprocess.run([*script, "--problems", "5", "--episodes", "3", "--rows", "4"], check=True, capture_output=True)
    problems = [json.loads(line) for line in (tmp_path / "problems" / "generated.jsonl").read_text().splitlines()]
    episodes = [json.loads(line) for line in (tmp_path / "rules" / "generated.jsonl").read_text().splitlines()]
    assert [set(row) for row in problems] == [{"question", "answer"}] * 5
    assert [len(row["examples"]) for row in episodes] == [4] * 3
    assert all(re.fullmatch(r"(machine|price|locker)/\d", row["group"]) for row in episodes)
