"""Training data: rows that decode to what was packed, batches that depend on seed and step alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ltm_eval.model.elbo import IGNORED
from ltm_eval.system.errors import DataError, UsageError
from ltm_eval.training.packing import PAD, Feed, Packed, prepare
from ltm_eval.training.recipe import Recipe, Source

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.model.tokenizer import Tokenizer

RULES = Source("rules", "rules", 1.0, 48, 3, files=("rules.jsonl",), rows=4, validation=4)
PROBLEMS = Source("problems", "problems", 1.0, 96, 2, files=("problems.jsonl",), validation=2)
TEXT = Source("text", "text", 2.0, 16, 2, files=("texts/*.txt", "texts/*.jsonl"), validation=2)
RECIPE = Recipe({}, (RULES, PROBLEMS, TEXT), steps=5, ranks=300)
QUESTIONS = [
    {"question": f"Ada has {i} plums and eats one. What is left?", "answer": f"#### {i - 1}"} for i in range(60)
]
EPISODES = [
    {
        "group": f"add/{hidden}",
        "examples": [{"question": f"From {i}?", "answer": f"#### {i + hidden}"} for i in range(hidden, hidden + 4)],
    }
    for hidden in range(30)
]


def text_of(row: dict[str, str]) -> str:
    """lm-eval's GSM8K prompt, one example."""
    return f"Question: {row['question']}\nAnswer: {row['answer']}\n\n"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer, dict[str, Packed]]:
    folder = tmp_path_factory.mktemp("packing")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("Every night the lamp is lit. " * 20, "utf-8")
    write_lines(folder / "texts" / "b.jsonl", [{"text": f"Line {i} holds a line end \u2028."} for i in range(9)])
    write_lines(folder / "problems.jsonl", QUESTIONS)
    write_lines(folder / "rules.jsonl", EPISODES)
    return (folder, *prepare(RECIPE, data=folder, folder=folder / "data"))


def test_each_row_of_an_episode_is_one_demonstration(made: tuple[Path, Tokenizer, dict[str, Packed]]) -> None:
    _, tokenizer, packed = made
    source = packed["rules"]
    assert source.rows.shape == (30, 4, 49)
    episodes = {tuple(map(text_of, one["examples"])): one["group"] for one in EPISODES}
    for rows, group in zip(source.rows, source.groups, strict=True):
        texts = tuple(tokenizer.decode([int(i) for i in row if i != PAD]) for row in rows)
        assert episodes[texts] == source.names[group]
        assert all(row[0] == tokenizer.eot_id for row in rows)


def test_rows_of_problems_begin_at_a_problem(made: tuple[Path, Tokenizer, dict[str, Packed]]) -> None:
    _, tokenizer, packed = made
    stream = "".join(map(text_of, QUESTIONS))
    for (row,) in packed["problems"].rows:
        text = tokenizer.decode(row.tolist())
        assert text.startswith("Question: ") and text in stream and PAD not in row


def test_text_is_cut_without_loss(made: tuple[Path, Tokenizer, dict[str, Packed]]) -> None:
    """All rows of a file, each less its end-of-text in front, are its text but for the remainder."""
    _, tokenizer, packed = made
    source = packed["text"]
    ids = tokenizer.encode("Every night the lamp is lit. " * 20)
    expected = {tuple(ids[i : i + 16]) for i in range(0, len(ids) - 15, 16)}
    found = {
        tuple(row[0, 1:].tolist()) for row, g in zip(source.rows, source.groups, strict=True) if source.names[g] == "a"
    }
    assert found == expected


def test_padding_has_no_target(made: tuple[Path, Tokenizer, dict[str, Packed]]) -> None:
    source = made[2]["rules"]
    batch = source.documents(np.arange(5))
    held = torch.from_numpy(source.rows[:5].astype(np.int64))
    assert batch.tokens.shape == batch.targets.shape == (5, 4, 48)
    assert bool(((batch.targets == IGNORED) == (held[:, :, 1:] == PAD)).all())
    assert batch.scored == int((held[:, :, 1:] != PAD).sum())
    assert int(batch.tokens.max()) < 301


def test_batches_depend_on_seed_and_step_alone(made: tuple[Path, Tokenizer, dict[str, Packed]]) -> None:
    packed = made[2]
    first = [Feed(RECIPE, packed).batch(step, 0) for step in range(12)]
    feed = Feed(RECIPE, packed)
    again = [feed.batch(step, 0) for step in reversed(range(12))][::-1]
    for a, b in zip(first, again, strict=True):
        assert a.source == b.source and torch.equal(a.tokens, b.tokens) and a.groups == b.groups
    other = [Feed(replace(RECIPE, seed=1), packed).batch(step, 0) for step in range(12)]
    assert not all(
        a.tokens.shape == b.tokens.shape and torch.equal(a.tokens, b.tokens) for a, b in zip(first, other, strict=True)
    )


def test_sources_come_at_their_weight_and_not_before_their_step(
    made: tuple[Path, Tokenizer, dict[str, Packed]],
) -> None:
    late = replace(RECIPE, sources=(RULES, PROBLEMS, replace(TEXT, from_step=400)))
    feed = Feed(late, made[2])
    feed.packed[2] = replace(feed.packed[2], source=late.sources[2])
    drawn = [feed.batch(step, 0).source.name for step in range(1_200)]
    assert "text" not in drawn[:400]
    share = drawn[400:].count("text") / 800
    assert abs(share - 0.5) < 4 * (0.25 / 800) ** 0.5  # four standard deviations


def test_held_out_documents_are_never_in_a_batch(made: tuple[Path, Tokenizer, dict[str, Packed]]) -> None:
    source = made[2]["rules"]
    held = {row.tobytes() for row in source.rows[source.training :]}
    feed = Feed(replace(RECIPE, sources=(RULES,)), made[2])
    for step in range(100):
        tokens = feed.batch(step, 0).tokens
        places = [int((source.rows[:, 0, :8] == row[0, :8].numpy()).all(1).argmax()) for row in tokens]
        assert not {source.rows[place].tobytes() for place in places} & held


def test_shares_of_processes_make_up_the_batch(made: tuple[Path, Tokenizer, dict[str, Packed]]) -> None:
    batch = made[2]["rules"].documents(np.arange(5))
    parts = [batch.part(rank, 3) for rank in range(3)]
    assert sorted(place for _, places in parts for place in places) == list(range(5))
    for part, places in parts:
        assert torch.equal(part.tokens, batch.tokens[list(places)])
    assert sum(part.scored for part, _ in parts) == batch.scored


def test_files_are_made_once(made: tuple[Path, Tokenizer, dict[str, Packed]]) -> None:
    folder = made[0]
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "data").iterdir()}
    prepare(RECIPE, data=None, folder=folder / "data")
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "data").iterdir()} == before


@pytest.mark.parametrize(
    ("change", "content", "error", "message"),
    [
        ({"files": ("texts/*.md",)}, "x", DataError, "no file matches texts/*.md"),
        ({"files": ("texts/*.jsonl",)}, '{"body": "x"}', DataError, "c.jsonl:1: expected a JSON object with text"),
        ({"files": ("texts/*.jsonl",)}, '{"text": 3}', DataError, "c.jsonl:1: expected a JSON object with text"),
        ({"files": ("texts/*.jsonl",)}, "{", DataError, "c.jsonl:1"),
        ({"files": ("texts/*.jsonl",), "kind": "problems"}, '{"question": "x"}', DataError, "question and answer"),
        ({"files": ("texts/*.jsonl",), "kind": "rules"}, json.dumps(EPISODES[0]), DataError, "as many examples"),
        ({"files": ("generated.jsonl",)}, "x", DataError, "make_training_data.py of the source tree makes it"),
        ({"files": ("texts/*.jsonl",)}, '{"text": "short"}', DataError, "0 documents of 16 tokens"),
    ],
)
def test_unusable_text_is_named(
    tmp_path: Path, change: dict[str, object], content: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "c.jsonl").write_text(content, "utf-8")
    write_lines(tmp_path / "rules.jsonl", EPISODES)
    recipe = replace(RECIPE, ranks=270, sources=(replace(TEXT, **change), RULES))  # type: ignore[arg-type]
    with pytest.raises(error, match=message.replace("*", r"\*")):
        prepare(recipe, data=tmp_path, folder=tmp_path / "data")


def test_files_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data DIR or LTM_EVAL_DATA_DIR"):
        prepare(RECIPE, data=None, folder=tmp_path / "data")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    recipe = replace(RECIPE, sources=(RULES,), ranks=260)
    write_lines(tmp_path / "rules.jsonl", EPISODES)
    prepare(recipe, data=tmp_path, folder=tmp_path)
    (tmp_path / "rules.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"rules\.bin: missing, or its size differs"):
        prepare(recipe, data=None, folder=tmp_path)
