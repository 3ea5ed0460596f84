"""Tasks of questions beside GSM8K's, and several samples per question, inside lm-eval."""

from __future__ import annotations

import json
import logging
import random
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.system.errors import DataError, UsageError
from ltm_eval.system.files import tasks_dir
from ltm_eval.tasks.prompts import split_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of lm-eval's imports
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

TASKS = {"rules": "ltm_rules", "svamp": "ltm_svamp", "multiarith": "ltm_multiarith"}


class Scripted(LM):
    """Answers by a function of request and repeat."""

    def __init__(self, answer: Callable[[Any, int], str]) -> None:
        super().__init__()
        self.answer, self.requests = answer, list[Any]()

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        seen: dict[int, int] = {}
        answers = []
        for request in requests:
            repeat = seen.get(id(request), 0)
            seen[id(request)] = repeat + 1
            answers.append(self.answer(request, repeat))
        self.requests += requests
        return answers

    def loglikelihood(self, requests: list[Any]) -> Any:
        raise AssertionError("not a generation")

    loglikelihood_rolling = loglikelihood


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rule episodes, two problems of SVAMP and MultiArith each in their original form, GSM8K beside them."""
    path = tmp_path_factory.mktemp("sets")

    def lines(name: str, rows: list[dict[str, Any]]) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")

    def row(episode: int, x: int) -> dict[str, Any]:
        return {"question": f"What is f of {x}?", "answer": f"#### {x + 7 * episode}", "episode": episode}

    lines("rules/train.jsonl", [row(e, x) for e in range(6) for x in range(16)])
    lines("rules/test.jsonl", [row(e, x) for e in range(6) for x in (30, 31)])
    worked = [
        {"question": f"Add 1 to {i}?", "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"} for i in range(20)
    ]
    lines("gsm8k/train.jsonl", worked)
    lines("gsm8k/test.jsonl", worked[:8])
    svamp = [
        {
            "ID": "chal-1",
            "Body": "Ann has 20 pears.",
            "Question": "How many are 2 fewer?",
            "Equation": "( 20.0 - 2.0 )",
        },
        {"ID": "chal-2", "Body": "Bob walks 5 km ", "Question": " How far is half of it?", "Equation": "( 5.0 / 2.0 )"},
    ]
    for entry, answer in zip(svamp, (18.0, 2.5), strict=True):
        entry |= {"Answer": answer, "Type": "Subtraction"}  # type: ignore[dict-item]
    multi = [
        {"iIndex": 1, "lEquations": ["X=(6+2)"], "lSolutions": [8.0], "sQuestion": " How many are 6 and 2 ? "},
        {"iIndex": 2, "lEquations": ["X=(1000+0)"], "lSolutions": ["1000"], "sQuestion": "A thousand and none?"},
    ]
    for name, entries in (("svamp/SVAMP.json", svamp), ("multiarith/MultiArith.json", multi)):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(entries, indent=1), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def manager(data: object, **metadata: Any) -> TaskManager:
    return TaskManager(include_defaults=False, include_path=str(tasks_dir()), metadata={"data": str(data), **metadata})


def run(
    data: Path, task: str, answer: Callable[[Any, int], str], *, metadata: dict[str, Any] | None = None, **options: Any
) -> tuple[dict[str, Any], Scripted]:
    model = Scripted(answer)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=manager(data, **(metadata or {})),
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    assert found is not None
    return found, model


def load(data: object, task: str, **metadata: Any) -> Any:
    return manager(data, **metadata).load([task])["tasks"][task]


def right(request: Any, _: int = 0) -> str:
    return f" {request.doc['answer']}"


@pytest.mark.parametrize("task", TASKS.values())
def test_right_answers_score_one_and_wrong_ones_nothing(folder: Path, task: str) -> None:
    found, _ = run(folder, task, right, num_fewshot=2)
    assert found["results"][task]["exact_match,strict-match"] == 1.0
    found, _ = run(folder, task, lambda *_: " #### 12345", num_fewshot=2)
    assert found["results"][task]["exact_match,strict-match"] == 0.0
    json.dumps(found["configs"], default=str)


def test_original_forms_become_gsm8ks(folder: Path) -> None:
    docs = {name: list(load(folder, TASKS[name]).test_docs()) for name in ("svamp", "multiarith")}
    assert docs["svamp"] == [
        {"question": "Ann has 20 pears. How many are 2 fewer?", "answer": "#### 18"},
        {"question": "Bob walks 5 km How far is half of it?", "answer": "#### 2.5"},
    ]
    assert [doc["answer"] for doc in docs["multiarith"]] == ["#### 8", "#### 1000"]
    assert docs["multiarith"][0]["question"] == "How many are 6 and 2 ?"


@pytest.mark.parametrize("form", [" #### {}.0", " #### {}.", " #### 0{}", " #### {}.00 and more"])
def test_numbers_are_compared_as_numbers(folder: Path, form: str) -> None:
    found, _ = run(folder, "ltm_multiarith", lambda request, _: form.format(request.doc["answer"][5:]))
    assert found["results"]["ltm_multiarith"]["exact_match,strict-match"] == 1.0


def test_a_thousand_may_have_its_comma_and_its_dollar(folder: Path) -> None:
    found, _ = run(
        folder, "ltm_multiarith", lambda request, _: " so $1,000.00" if "thou" in request.doc["question"] else ""
    )
    assert found["results"]["ltm_multiarith"]["exact_match,flexible-extract"] == 0.5


@pytest.mark.parametrize("task", ["ltm_svamp", "ltm_multiarith"])
@pytest.mark.parametrize(
    ("form", "right"), [("{} left...", 1), ("5-{}", 1), ("{}/1", 1), ("{}.000.000", 0), ("{}", 1), ("7 of {}", 1)]
)
def test_the_last_number_of_an_answer_counts(folder: Path, task: str, form: str, right: int) -> None:
    found, _ = run(folder, task, lambda request, _: form.format(request.doc["answer"][5:]))
    assert found["results"][task]["exact_match,flexible-extract"] == right


def test_a_list_is_not_a_thousand(folder: Path) -> None:
    found, _ = run(folder, "ltm_multiarith", lambda request, _: " #### 1,0,0,0 or 8,0")
    assert found["results"]["ltm_multiarith"]["exact_match,strict-match"] == 0
    assert found["results"]["ltm_multiarith"]["exact_match,flexible-extract"] == 0


@pytest.mark.parametrize("answer", ["#### five", "#### 5 apples", "It is 5.", "#### "])
@pytest.mark.parametrize("task", ["ltm_gsm8k", "ltm_rules"])
def test_a_gold_answer_without_a_number_is_named(tmp_path: Path, task: str, answer: str) -> None:
    good = {"question": "What?", "answer": "#### 5", "episode": 1}
    for split, rows in (("train", [good]), ("test", [good, {**good, "answer": answer}])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.jsonl:2: the answer must end in '#### ' and a number, got "):
        load(tmp_path, task)


@pytest.mark.parametrize("name", ["svamp", "multiarith"])
def test_demonstrations_are_gsm8ks(folder: Path, name: str) -> None:
    _, model = run(folder, TASKS[name], right, num_fewshot=3)
    for request in model.requests:
        shown = split_prompt(request.args[0]).demonstrations
        assert len(shown) == 3 and all(text.startswith("Question: Add 1 to") for text in shown)


@pytest.mark.parametrize("name", ["svamp", "multiarith"])
def test_missing_sets_say_what_to_put_where(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=rf"put .*\.json \(.*github.* in DIR/{name}/ .*looked in .*{name} \("):
        load(tmp_path, TASKS[name])
    monkeypatch.delenv("LTM_EVAL_DATA_DIR", raising=False)
    with pytest.raises(DataError, match=rf"no test split of {name}: put .*\.json .*github.*not set"):
        load("auto", TASKS[name])


@pytest.mark.parametrize(
    ("name", "entries", "words"),
    [
        ("SVAMP.json", {"ID": 1}, "array of objects, got an object"),
        ("SVAMP.json", [{"Body": "a", "Question": "b", "Answer": "many"}], "entry 1: column 'Answer' must be a number"),
        ("SVAMP.json", [{"Question": "b", "Answer": 1}], "column 'Body' is missing"),
        ("SVAMP.json", [{"Body": "a", "Question": "b", "Answer": "1,2,3"}], "'Answer' must be a number, got '1,2,3'"),
        ("MultiArith.json", [{"sQuestion": "a", "lSolutions": [1, 2]}], "array of one number"),
        ("MultiArith.json", ["a"], "entry 1: expected a JSON object"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, name: str, entries: Any, words: str) -> None:
    (tmp_path / name).write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(DataError, match=words):
        load(tmp_path, f"ltm_{name.removesuffix('.json').lower()}")


# Episodes -------------------------------------------------------------------------------------------------------------


def difference(text: str) -> set[int]:
    """Which episodes demonstrations are of: answer minus what was asked, over 7."""
    found = set()
    for shown in split_prompt(text).demonstrations:
        asked, _, answer = shown.removeprefix("Question: What is f of ").partition("?\nAnswer: #### ")
        found.add((int(answer) - int(asked)) // 7)
    return found


def test_demonstrations_come_from_the_documents_episode(folder: Path) -> None:
    _, model = run(folder, "ltm_rules", right, num_fewshot=16)
    assert len(model.requests) == 12
    for request in model.requests:
        assert difference(request.args[0]) == {int(request.doc["episode"])}
        assert len(split_prompt(request.args[0]).demonstrations) == 16
        assert not hasattr(request, "other_prompt")
    with pytest.raises(UsageError, match="16 available training examples, got 17"):
        run(folder, "ltm_rules", right, num_fewshot=17)


def test_others_are_of_one_other_episode_and_the_prompt_stays(folder: Path) -> None:
    prompts = {r.doc_id: r.args[0] for r in run(folder, "ltm_rules", right, num_fewshot=4)[1].requests}
    _, model = run(folder, "ltm_rules", right, num_fewshot=4, metadata={"condition": "other"})
    chosen = []
    for request in model.requests:
        assert request.args[0] == prompts[request.doc_id]
        (episode,) = difference(request.other_prompt)
        assert episode != int(request.doc["episode"])
        assert split_prompt(request.other_prompt).question == split_prompt(request.args[0]).question
        chosen.append(episode)
    assert len(set(chosen)) > 2


@pytest.mark.parametrize("task", ["ltm_rules", "ltm_gsm8k"])
def test_other_demonstrations_depend_on_the_document_alone(folder: Path, task: str) -> None:
    def others(**options: Any) -> dict[str, str]:
        _, model = run(folder, task, right, num_fewshot=4, metadata={"condition": "other"}, **options)
        return {request.doc["question"] + request.doc["answer"]: request.other_prompt for request in model.requests}

    whole = others()
    assert len(set(whole.values())) > 3
    for options in ({"limit": 3}, {"samples": {task: [5, 1, 7]}}):
        part = others(**options)
        assert len(part) == 3 and part.items() <= whole.items()
    assert others(fewshot_random_seed=7) != whole


def test_other_demonstrations_of_a_pool_are_none_of_the_documents_own(folder: Path) -> None:
    _, model = run(folder, "ltm_gsm8k", right, num_fewshot=9, metadata={"condition": "other"})
    for request in model.requests:
        own, other = (set(split_prompt(text).demonstrations) for text in (request.args[0], request.other_prompt))
        assert len(own) == len(other) == 9 and not own & other
        assert not any(request.doc["question"] in text for text in other)
    with pytest.raises(UsageError, match="available training examples"):
        run(folder, "ltm_gsm8k", right, num_fewshot=10, metadata={"condition": "other"})


def test_a_single_episode_has_no_other(tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [{"question": f"{split} {i}?", "answer": "#### 1", "episode": "only"} for i in range(4)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UsageError, match="no episode except 'only' has 2 training rows"):
        run(tmp_path, "ltm_rules", right, num_fewshot=2, metadata={"condition": "other"})


# Samples --------------------------------------------------------------------------------------------------------------


def scripted(request: Any, repeat: int) -> str:
    """Greedy answers are wrong for odd documents; sample i is right where (i + document) % 3 == 0."""
    gold = request.doc["answer"].rpartition("#### ")[2]
    if not request.args[1]["do_sample"]:
        return f" #### {gold}" if request.doc_id % 2 == 0 else " nothing"
    return f" #### {gold}" if (repeat + request.doc_id) % 3 == 0 else f" #### {900 + repeat}"


def test_greedy_and_samples_stand_side_by_side(folder: Path) -> None:
    found, model = run(folder, "ltm_gsm8k", scripted, num_fewshot=1, metadata={"n": 6, "k": "1,2,6"})
    scores = found["results"]["ltm_gsm8k"]
    assert scores["exact_match,strict-match"] == 0.5
    assert scores["pass@1,strict-match"] == pytest.approx(2 / 6)
    assert scores["pass@2,strict-match"] == pytest.approx(1 - (4 * 3) / (6 * 5))
    assert scores["pass@6,strict-match"] == 1.0
    assert scores["maj@6,strict-match"] == 1.0  # two right answers agree, the wrong ones are all different
    greedy = [r for r in model.requests if not r.args[1]["do_sample"]]
    assert len(greedy) == 8 and len(model.requests) == 8 * 7
    assert found["higher_is_better"]["ltm_gsm8k"]["pass@2"] is True
    rows = [row for row in found["samples"]["ltm_gsm8k"] if row["filter"] == "strict-match"]
    assert [len(request) for request in rows[0]["resps"]] == [1, 6]
    assert rows[1]["filtered_resps"][0] == ["[invalid]"] and len(rows[1]["filtered_resps"][1]) == 6


def test_the_variant_for_lm_evals_own_command(folder: Path) -> None:
    found, _ = run(folder, "ltm_gsm8k_pass", scripted, limit=2)
    assert {
        "exact_match,strict-match",
        "pass@1,strict-match",
        "pass@10,strict-match",
        "maj@10,flexible-extract",
    } <= set(found["results"]["ltm_gsm8k_pass"])
    found, _ = run(folder, "ltm_gsm8k_pass", scripted, limit=2, metadata={"n": 4, "k": 2})
    assert "pass@2,strict-match" in found["results"]["ltm_gsm8k_pass"]
    assert "pass@10,strict-match" not in found["results"]["ltm_gsm8k_pass"]


@pytest.mark.parametrize("kwargs", ["do_sample=False", "temperature=0.0"])
def test_greedy_samples_are_refused_before_any_is_drawn(folder: Path, kwargs: str) -> None:
    with pytest.raises(UsageError, match="all be equal"):
        run(folder, "ltm_gsm8k", scripted, metadata={"n": 4}, gen_kwargs=kwargs)
    found, model = run(folder, "ltm_gsm8k", scripted, metadata={"n": 2}, gen_kwargs="temperature=0.5", limit=1)
    assert sorted(request.args[1]["temperature"] for request in model.requests) == [0.0, 0.5, 0.5]
    assert found["results"]


@pytest.mark.parametrize(
    "kwargs", ["do_sample=true", "temperature=0.7", "top_k=3", {"do_sample": True, "temperature": 0}]
)
def test_options_without_effect_are_refused_under_lm_eval_too(folder: Path, kwargs: Any) -> None:
    with pytest.raises(UsageError, match=r"has no effect|sample at temperature 0"):
        run(folder, "ltm_gsm8k", scripted, gen_kwargs=kwargs, limit=1)


def test_random_tables_through_lm_eval_equal_counting(folder: Path) -> None:
    source = random.Random(11)
    table = {i: [source.random() < 0.4 for _ in range(5)] for i in range(8)}

    def answer(request: Any, repeat: int) -> str:
        good = request.args[1]["do_sample"] and table[request.doc_id][repeat]
        return f" {request.doc['answer']}" if good else " #### 777"

    found, _ = run(folder, "ltm_gsm8k", answer, metadata={"n": 5, "k": "1,3"})
    scores = found["results"]["ltm_gsm8k"]
    assert scores["pass@1,strict-match"] == pytest.approx(sum(map(sum, table.values())) / 40)
    draws = [source.sample(range(5), 3) for _ in range(4000)]
    share = sum(any(row[i] for i in draw) for row in table.values() for draw in draws) / (8 * len(draws))
    assert scores["pass@3,strict-match"] == pytest.approx(share, abs=0.01)


def test_rethinking_asks_for_chain_and_control(folder: Path) -> None:
    def answer(request: Any, repeat: int) -> str:
        return f" {request.doc['answer']}" if request.args[1].get("rethink") == 2 and repeat in (0, 1) else " #### 5000"

    found, model = run(folder, "ltm_gsm8k", answer, metadata={"rethink": 2})
    scores = found["results"]["ltm_gsm8k"]
    wanted = {"rethink_best": 1, "rethink_last": 0, "rethink_oracle": 1, "independent_best": 0, "independent_oracle": 0}
    assert {name: scores[f"{name},strict-match"] for name in wanted} == wanted
    assert scores["exact_match,strict-match"] == 0 and len(model.requests) == 8 * (1 + 6)
