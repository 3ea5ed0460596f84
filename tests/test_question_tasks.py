"""Tasks of questions inside lm-eval: scores and options of its own task, prompts that depend on the problem alone,
episodes, and several samples per question."""

from __future__ import annotations

import json
import logging
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from problems import generate

from ltm_eval.results.answers import exact_match
from ltm_eval.system.errors import DataError, UsageError
from ltm_eval.system.files import tasks_dir
from ltm_eval.tasks.keyed import KeyedTask
from ltm_eval.tasks.prompts import split_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of lm-eval's imports
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

TASKS = {"rules": "ltm_rules", "svamp": "ltm_svamp", "multiarith": "ltm_multiarith"}
RESPONSES = [
    " It is <<1+1=2>>2.\n#### {gold}",
    " #### {gold}.",
    " The answer is {gold}",
    " #### 99999",
    " #### {gold}\n#### 7",
    " 5 and then ... {gold}...",
    "",
    " $1,{gold}",
    " #### ${gold}",
]


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

    @property
    def prompts(self) -> dict[str, str]:
        return {request.doc["question"]: request.args[0] for request in self.requests}

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


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 made-up test problems and 30 training ones, one of which is a test problem too."""
    path = tmp_path_factory.mktemp("data")
    splits = {"train": generate(30, seed=5, split="train"), "test": generate(17, seed=5, split="test")}
    splits["test"].append(splits["train"][3])
    for split, problems in splits.items():
        rows = [json.dumps({"question": p.question, "answer": p.answer}) for p in problems]
        (path / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No warnings of lm-eval's, and no inventory of the machine, which takes a second a run."""
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


def formed(request: Any, _: int = 0) -> str:
    """One of the forms above, by the length of the question."""
    gold = request.doc["answer"].rpartition("#### ")[2]
    return RESPONSES[len(request.doc["question"]) % len(RESPONSES)].format(gold=gold)


def evaluated(data: Path, **options: Any) -> tuple[dict[str, Any], Scripted]:
    return run(data, "ltm_gsm8k", formed, **options)


# GSM8K, against lm-eval's own task ------------------------------------------------------------------------------------


def theirs(data: Path) -> dict[str, Any]:
    """lm-eval's own gsm8k.yaml on the same files."""
    path = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    files = {split: str(data / f"{split}.jsonl") for split in ("train", "test")}
    config |= {
        "task": "their_gsm8k",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }
    config.pop("tag")
    found = lm_eval.simple_evaluate(
        model=Scripted(formed), tasks=[config], bootstrap_iters=0, task_manager=TaskManager(include_defaults=False)
    )
    assert found is not None
    return found


def scores(found: dict[str, Any], task: str) -> dict[tuple[str, str], tuple[str, float]]:
    """(question, filter) to what was extracted and its score."""
    samples = found["samples"][task]
    return {(s["doc"]["question"], s["filter"]): (s["filtered_resps"][0], s["exact_match"]) for s in samples}


def test_same_scores_as_lm_evals_own_task(problems: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    ours, reference = evaluated(problems)[0], theirs(problems)
    for key in ("exact_match,strict-match", "exact_match,flexible-extract"):
        assert ours["results"]["ltm_gsm8k"][key] == reference["results"]["their_gsm8k"][key]
    found = scores(ours, "ltm_gsm8k")
    assert found == scores(reference, "their_gsm8k")
    assert {score for _, score in found.values()} == {0.0, 1.0}
    questions = {question for question, _ in found}
    assert any(found[q, "strict-match"][1] != found[q, "flexible-extract"][1] for q in questions)


def test_same_scores_as_our_own_comparison(problems: Path) -> None:
    found, _ = evaluated(problems)
    assert len(found["samples"]["ltm_gsm8k"]) == 36
    for sample in found["samples"]["ltm_gsm8k"]:
        assert sample["exact_match"] == exact_match(sample["filtered_resps"][0], sample["target"])


def test_prompt_form_and_generation_options(problems: Path) -> None:
    found, model = evaluated(problems, num_fewshot=2)
    question, prompt = next(iter(model.prompts.items()))
    parts = split_prompt(prompt)
    assert parts.question == f"Question: {question}\nAnswer:"
    rows = [json.loads(line) for line in (problems / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    forms = {f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows}
    assert len(parts.demonstrations) == 2
    assert set(parts.demonstrations) <= forms
    options = {
        "until": ["Question:", "</s>", "<|im_end|>"],
        "do_sample": False,
        "temperature": 0.0,
        "max_gen_toks": 256,
    }
    assert model.requests[0].args[1] == options
    assert (found["n-shot"], found["versions"]) == ({"ltm_gsm8k": 2}, {"ltm_gsm8k": 1.0})
    json.dumps(found["configs"])


def test_defaults_equal_lm_evals_yaml() -> None:
    path = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    reference = yaml.safe_load(path.read_text(encoding="utf-8"))
    text = (tasks_dir() / "gsm8k" / "ltm_gsm8k.yaml").read_text(encoding="utf-8").replace("!function ", "")
    ours = yaml.safe_load(text)
    ours["generation_kwargs"].pop("max_gen_toks")
    different = {"task", "tag", "dataset_path", "dataset_name", "class", "custom_dataset", "metadata"}
    assert {k: v for k, v in ours.items() if k not in different} == {
        k: v for k, v in reference.items() if k not in different
    }


def test_prompts_do_not_depend_on_limit_order_or_subset(problems: Path, tmp_path: Path) -> None:
    whole = evaluated(problems)[1].prompts
    assert len(whole) == 18
    assert all(len(split_prompt(prompt).demonstrations) == 5 for prompt in whole.values())
    for options in ({"limit": 3}, {"limit": 0.5}, {"samples": {"ltm_gsm8k": [11, 2, 7]}}):
        part = evaluated(problems, **options)[1].prompts
        assert 0 < len(part) < 18
        assert part.items() <= whole.items()
    lines = (problems / "test.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(reversed(lines[5:])), encoding="utf-8")
    (tmp_path / "train.jsonl").write_bytes((problems / "train.jsonl").read_bytes())
    part = evaluated(tmp_path)[1].prompts
    assert len(part) == 13
    assert part.items() <= whole.items()


def test_prompts_do_not_depend_on_the_rank(problems: Path) -> None:
    prompts: dict[str, str] = {}
    for rank in range(3):
        task = load(problems, "ltm_gsm8k")
        task.set_fewshot_seed(1234)
        task.build_all_requests(rank=rank, world_size=3)
        prompts |= {request.doc["question"]: request.args[0] for request in task.instances}
    assert prompts == evaluated(problems)[1].prompts


def test_the_seed_changes_the_prompts(problems: Path) -> None:
    first, again, other = (evaluated(problems, fewshot_random_seed=seed)[1].prompts for seed in (1, 1, 2))
    assert first == again
    assert sum(first[question] != other[question] for question in first) > 15


def test_fewer_shots_are_the_beginning_of_more(problems: Path) -> None:
    four, eight = (evaluated(problems, num_fewshot=n)[1].prompts for n in (4, 8))
    for question, prompt in four.items():
        assert split_prompt(prompt).demonstrations == split_prompt(eight[question]).demonstrations[:4]


def test_a_training_row_equal_to_the_problem_is_never_shown(problems: Path) -> None:
    task = load(problems, "ltm_gsm8k")
    twin = next(doc for doc in task.test_docs() if doc in list(task.training_docs()))
    other = task.test_docs()[0]
    for seed in range(20):
        task.set_fewshot_seed(seed)
        shown = split_prompt(task.fewshot_context(twin, 29)).demonstrations
        assert len(set(shown)) == 29
        assert not any(twin["question"] in text for text in shown)
    assert any(twin["question"] in text for text in split_prompt(task.fewshot_context(other, 30)).demonstrations)
    with pytest.raises(UsageError, match=r"the 29 available training examples, got 30"):
        task.fewshot_context(twin, 30)


@pytest.mark.parametrize("shots", [31, -1])
def test_impossible_shots_are_refused_before_any_prompt_is_built(
    problems: Path, shots: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=rf"between 0 and the 30 available training examples, got {shots}"):
        evaluated(problems, num_fewshot=shots)
    assert "0/18" not in capsys.readouterr().err


def test_no_shots(problems: Path) -> None:
    assert all(
        prompt == f"Question: {q}\nAnswer:" for q, prompt in evaluated(problems, num_fewshot=0)[1].prompts.items()
    )


def config(**changes: Any) -> dict[str, Any]:
    from ltm_eval.data.sets import gsm8k_dataset

    return {
        "task": "t",
        "class": "removed",
        "custom_dataset": gsm8k_dataset,
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        **changes,
    }


@pytest.mark.parametrize("splits", [{}, {"fewshot_split": "test"}, {"training_split": "test"}])
def test_the_test_split_is_never_shown(problems: Path, splits: dict[str, str]) -> None:
    task = KeyedTask(config=config(**splits, metadata={"data": str(problems)}))
    doc = task.test_docs()[0]
    assert task.fewshot_context(doc, 0) == doc["question"]
    with pytest.raises(UsageError, match="the 0 available training examples, got 1"):
        task.fewshot_context(doc, 1)


def test_samples_of_the_configuration_may_be_shown(problems: Path) -> None:
    samples = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(3)]
    shown = {"fewshot_config": {"sampler": "default", "samples": samples}, "metadata": {"data": str(problems)}}
    task = KeyedTask(config=config(**shown))
    prompt = split_prompt(task.fewshot_context(task.test_docs()[0], 3))
    assert sorted(prompt.demonstrations) == ["q0 a0\n\n", "q1 a1\n\n", "q2 a2\n\n"]


def test_model_arguments_do_not_disturb_the_data(problems: Path) -> None:
    task = load(problems, "ltm_gsm8k", pretrained="demo", t_fast=16, device="cpu")
    assert task.test_docs().num_rows == 18
    assert isinstance(task.config.metadata, dict)


def test_no_misleading_warning(problems: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.disable(logging.NOTSET)
    with caplog.at_level(logging.WARNING):
        load(problems, "ltm_gsm8k")
    assert "Custom kwargs" not in caplog.text


def test_missing_data_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked in .*gsm8k \(train\.jsonl, test\.jsonl\)"):
        load(tmp_path, "ltm_gsm8k")


def test_missing_data_ends_lm_evals_own_command_with_one_line(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv[0] = 'lm_eval'\n"
        "from lm_eval.tasks import TaskManager\n"
        f"data, tasks = {str(tmp_path)!r}, {str(tasks_dir())!r}\n"
        "TaskManager(include_defaults=False, include_path=tasks, metadata={'data': data}).load(['ltm_gsm8k'])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("ltm-eval: error[3]: no train and test split of gsm8k: looked in ") and "put train" in line
    assert "in DIR/gsm8k/ and name it by --metadata data=DIR or LTM_EVAL_DATA_DIR" in line


def test_every_shipped_task_is_indexed() -> None:
    known = manager("sample").all_tasks
    for path in tasks_dir().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8").replace("!function ", "")
        content = yaml.safe_load(text)
        assert content["task"] in known, path
    assert "ltm_gsm8k" in known


def test_the_class_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(KeyedTask)) is KeyedTask


# The other sets -------------------------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match=rf"looked in .*{name} \(.*; put .*\.json \(.*github.* in DIR/{name}/ "):
        load(tmp_path, TASKS[name])
    monkeypatch.delenv("LTM_EVAL_DATA_DIR", raising=False)
    with pytest.raises(DataError, match=rf"no test split of {name}: .*not set.*; put .*\.json .*github"):
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
