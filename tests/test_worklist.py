"""The model's methods with a journal: what is found is what would be made, bit for bit, and nothing is made twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lm_eval.api.instance import Instance

from ltm_eval.harness.ltm import LTM
from ltm_eval.inference.draws import RollingScore
from ltm_eval.runs.journal import Journal
from ltm_eval.runs.worklist import Answer, Request, Worklist
from ltm_eval.system import progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.faults
SAMPLED = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 5, "until": []}


def model(folder: Path) -> LTM:
    made = LTM(str(folder), t_fast=2, rows="bound+prior", device="cpu")
    made.progress = progress.silent
    return made


def generating(prompts: int, *, rethink: int = 0) -> list[Instance]:
    """Greedy, sampled and rethinking requests, as lm-eval repeats them."""
    found = []
    for number in range(prompts):
        text = f"Question: {number % 4} plus two?\nAnswer:"
        options = [({"max_gen_toks": 5, "until": []}, 1), (SAMPLED, 2)]
        options += [({**SAMPLED, "rethink": rethink}, 2 * (rethink + 1))] if rethink else []
        for idx, (own, repeats) in enumerate(options):
            one = Instance("generate_until", {}, (text, own), idx, metadata=("t", number, repeats))
            found += [one] * repeats
    return found


def scoring(texts: int) -> list[Instance]:
    arguments = [(f"Red {number}, blue", f" {number % 3}") for number in range(texts)]
    return [Instance("loglikelihood", {}, args, 0, metadata=("t", i, 1)) for i, args in enumerate(arguments)]


def rolling(texts: int) -> list[Instance]:
    words = [(f"A text of its own, number {number}. " * (1 + 6 * (number == 1)),) for number in range(texts)]
    return [
        Instance("loglikelihood_rolling", {}, args, 0, metadata=("t", i, 1)) for i, args in enumerate([*words, ("",)])
    ]


def told(value: Any) -> Any:
    """With every bit, and the parts of a bound."""
    return (repr(float(value)), dict(value.rows), value.tokens) if isinstance(value, RollingScore) else repr(value)


def timeless(made: LTM) -> list[dict[str, Any]]:
    return [
        {name: repr(value) for name, value in record.to_json().items() if not name.endswith("_seconds")}
        for record in made.records
    ]


CALLS: dict[str, tuple[str, Callable[[int], list[Instance]]]] = {
    "generating": ("generate_until", generating),
    "rethinking": ("generate_until", lambda n: generating(n, rethink=2)),
    "scoring": ("loglikelihood", scoring),
    "bounding": ("loglikelihood_rolling", rolling),
}


@pytest.mark.parametrize("name", CALLS)
def test_found_answers_are_the_made_ones(folder: Path, tmp_path: Path, name: str) -> None:
    """Half in one process, all in a second, all found in a third: as one process without a journal."""
    method, requests = CALLS[name]
    plain = model(folder)
    expected = [told(value) for value in getattr(plain, method)(requests(6))]
    for count in (3, 6, 6):
        kept = model(folder)
        kept.worklist = Worklist(Journal(tmp_path, kept.settings))
        found = [told(value) for value in getattr(kept, method)(requests(count))]
        if count == 6:
            assert found == expected and timeless(kept) == timeless(plain) and kept.budget == plain.budget
        assert kept.worklist.journal is not None
        kept.worklist.journal.close()
    lines = sum(path.read_bytes().count(b"\n") for path in (tmp_path / "journal").glob("*"))
    answers = len(Journal(tmp_path, kept.settings).contents.answers)
    assert lines == answers + 4 and len(list((tmp_path / "journal").glob("*"))) == 2  # two heads, two plans


def test_seconds_come_from_the_process_that_spent_them(folder: Path, tmp_path: Path) -> None:
    spent = []
    for _ in range(2):
        kept = model(folder)
        kept.worklist = Worklist(Journal(tmp_path, kept.settings))
        kept.loglikelihood(scoring(2))
        spent.append([record.fit_seconds for record in kept.records])
    assert spent[0] == spent[1] and all(seconds > 0 for seconds in spent[0])


def test_equal_requests_are_answered_once(folder: Path, tmp_path: Path) -> None:
    kept = model(folder)
    kept.worklist = Worklist(Journal(tmp_path, kept.settings))
    twice = [Instance("loglikelihood", {}, ("Red, blue", " 1"), 0, metadata=("t", i, 1)) for i in range(2)]
    found = kept.loglikelihood(twice)
    assert found[0] == found[1] and len(Journal(tmp_path, kept.settings).contents.answers) == 1
    assert [record.doc_id for record in kept.records] == [0, 1]


def test_settings_tell_models_apart(folder: Path) -> None:
    base = model(folder)
    changes: list[dict[str, Any]] = [{"seed": 5}, {"lr": 0.2}, {"rows": "bound"}, {"condition": "demos"}]
    others = [LTM(str(folder), **{"t_fast": 2, "rows": "bound+prior", "device": "cpu", **change}) for change in changes]
    assert base.settings == model(folder).settings
    assert all(other.settings != base.settings for other in others)
    base.condition = "demos"
    assert base.settings["condition"] == "demos"


def test_what_is_said_and_planned(tmp_path: Path) -> None:
    said: list[str] = []
    asked = [Instance("generate_until", {}, (f"{number % 5}",), 0, metadata=("t", number, 1)) for number in range(6)]
    items = [Request(instance=one) for one in asked]
    first = Worklist(Journal(tmp_path, {}), say=said.append).open("generate_until", items)
    assert first.todo == [0, 1, 2, 3, 4] and not said
    for place in (1, 3):
        first.done(place, Answer(place))
    second = Worklist(Journal(tmp_path, {}), say=said.append).open("generate_until", items)
    assert second.todo == [0, 2, 4] and said == [f"resuming: 2 of 6 answers found in {tmp_path} (t)"]
    for place in second.todo:
        second.done(place, Answer(place))
    assert [answer.value for answer in second.close()] == [0, 1, 2, 3, 4, 0]
    plans = Journal(tmp_path, {}).contents.plans
    assert sorted((plan.task, plan.total, plan.left) for plan in plans) == [("t", 5, 3), ("t", 5, 5)]
