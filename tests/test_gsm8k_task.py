"""The task `ltm_gsm8k` inside lm-eval: same scores as lm-eval's own task, prompts that depend on the problem alone."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from problems import generate

from ltm_eval.results.answers import exact_match, flexible_extract, strict_match
from ltm_eval.system.errors import DataError, UsageError
from ltm_eval.system.files import tasks_dir
from ltm_eval.tasks.prompts import split_prompt

if TYPE_CHECKING:
    from collections.abc import Iterator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of lm-eval's imports
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

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


class Canned(LM):
    """Answers each problem from a fixed list of forms, and keeps the prompts it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: dict[str, str] = {}
        self.options: list[dict[str, Any]] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.prompts |= {request.doc["question"]: request.args[0] for request in requests}
        self.options += [request.args[1] for request in requests]
        return [self.answer(request.doc) for request in requests]

    @staticmethod
    def answer(doc: dict[str, str]) -> str:
        gold = doc["answer"].rpartition("#### ")[2]
        return RESPONSES[len(doc["question"]) % len(RESPONSES)].format(gold=gold)

    def loglikelihood(self, requests: list[Any]) -> Any:
        raise AssertionError("not a generation")

    loglikelihood_rolling = loglikelihood


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def run(data: Path, **options: Any) -> tuple[dict[str, Any], Canned]:
    model = Canned()
    settings = {"bootstrap_iters": 0, "log_samples": True, **options}
    found = lm_eval.simple_evaluate(model=model, tasks=["ltm_gsm8k"], task_manager=manager(data), **settings)
    assert found is not None
    return found, model


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
        model=Canned(), tasks=[config], bootstrap_iters=0, task_manager=TaskManager(include_defaults=False)
    )
    assert found is not None
    return found


def scores(found: dict[str, Any], task: str) -> dict[tuple[str, str], tuple[str, float]]:
    """(question, filter) to what was extracted and its score."""
    samples = found["samples"][task]
    return {(s["doc"]["question"], s["filter"]): (s["filtered_resps"][0], s["exact_match"]) for s in samples}


def test_same_scores_as_lm_evals_own_task(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    ours, reference = run(folder)[0], theirs(folder)
    for key in ("exact_match,strict-match", "exact_match,flexible-extract"):
        assert ours["results"]["ltm_gsm8k"][key] == reference["results"]["their_gsm8k"][key]
    found = scores(ours, "ltm_gsm8k")
    assert found == scores(reference, "their_gsm8k")
    assert {score for _, score in found.values()} == {0.0, 1.0}
    questions = {question for question, _ in found}
    assert any(found[q, "strict-match"][1] != found[q, "flexible-extract"][1] for q in questions)


def test_same_scores_as_our_own_functions(folder: Path) -> None:
    found, _ = run(folder)
    functions = {"strict-match": strict_match, "flexible-extract": flexible_extract}
    assert len(found["samples"]["ltm_gsm8k"]) == 36
    for sample in found["samples"]["ltm_gsm8k"]:
        extracted = functions[sample["filter"]](sample["resps"][0][0])
        assert sample["filtered_resps"] == [extracted]
        assert sample["exact_match"] == exact_match(extracted, sample["target"])


def test_prompt_form_and_generation_options(folder: Path) -> None:
    found, model = run(folder, num_fewshot=2)
    question, prompt = next(iter(model.prompts.items()))
    parts = split_prompt(prompt)
    assert parts.question == f"Question: {question}\nAnswer:"
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    forms = {f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows}
    assert len(parts.demonstrations) == 2
    assert set(parts.demonstrations) <= forms
    options = {
        "until": ["Question:", "</s>", "<|im_end|>"],
        "do_sample": False,
        "temperature": 0.0,
        "max_gen_toks": 256,
    }
    assert model.options[0] == options
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


def test_prompts_do_not_depend_on_limit_order_or_subset(folder: Path, tmp_path: Path) -> None:
    whole = run(folder)[1].prompts
    assert len(whole) == 18
    assert all(len(split_prompt(prompt).demonstrations) == 5 for prompt in whole.values())
    for options in ({"limit": 3}, {"limit": 0.5}, {"samples": {"ltm_gsm8k": [11, 2, 7]}}):
        part = run(folder, **options)[1].prompts
        assert 0 < len(part) < 18
        assert part.items() <= whole.items()
    lines = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(reversed(lines[5:])), encoding="utf-8")
    (tmp_path / "train.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    part = run(tmp_path)[1].prompts
    assert len(part) == 13
    assert part.items() <= whole.items()


def test_prompts_do_not_depend_on_the_rank(folder: Path) -> None:
    prompts: dict[str, str] = {}
    for rank in range(3):
        task = load(folder)
        task.set_fewshot_seed(1234)
        task.build_all_requests(rank=rank, world_size=3)
        prompts |= {request.doc["question"]: request.args[0] for request in task.instances}
    assert prompts == run(folder)[1].prompts


def test_the_seed_changes_the_prompts(folder: Path) -> None:
    first, again, other = (run(folder, fewshot_random_seed=seed)[1].prompts for seed in (1, 1, 2))
    assert first == again
    assert sum(first[question] != other[question] for question in first) > 15


def test_fewer_shots_are_the_beginning_of_more(folder: Path) -> None:
    four, eight = (run(folder, num_fewshot=n)[1].prompts for n in (4, 8))
    for question, prompt in four.items():
        assert split_prompt(prompt).demonstrations == split_prompt(eight[question]).demonstrations[:4]


def load(data: object, **metadata: Any) -> Any:
    return manager(data, **metadata).load(["ltm_gsm8k"])["tasks"]["ltm_gsm8k"]


def test_a_training_row_equal_to_the_problem_is_never_shown(folder: Path) -> None:
    task = load(folder)
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
def test_impossible_shots_are_refused(folder: Path, shots: int) -> None:
    with pytest.raises(UsageError, match=rf"between 0 and the 30 available training examples, got {shots}"):
        run(folder, num_fewshot=shots)


def test_no_shots(folder: Path) -> None:
    assert all(prompt == f"Question: {q}\nAnswer:" for q, prompt in run(folder, num_fewshot=0)[1].prompts.items())


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
def test_the_test_split_is_never_shown(folder: Path, splits: dict[str, str]) -> None:
    from ltm_eval.tasks.keyed import KeyedTask

    task = KeyedTask(config=config(**splits, metadata={"data": str(folder)}))
    doc = task.test_docs()[0]
    assert task.fewshot_context(doc, 0) == doc["question"]
    with pytest.raises(UsageError, match="the 0 available training examples, got 1"):
        task.fewshot_context(doc, 1)


def test_samples_of_the_configuration_may_be_shown(folder: Path) -> None:
    from ltm_eval.tasks.keyed import KeyedTask

    samples = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(3)]
    shown = {"fewshot_config": {"sampler": "default", "samples": samples}, "metadata": {"data": str(folder)}}
    task = KeyedTask(config=config(**shown))
    prompt = split_prompt(task.fewshot_context(task.test_docs()[0], 3))
    assert sorted(prompt.demonstrations) == ["q0 a0\n\n", "q1 a1\n\n", "q2 a2\n\n"]


def test_model_arguments_do_not_disturb_the_data(folder: Path) -> None:
    task = load(folder, pretrained="demo", t_fast=16, device="cpu")
    assert task.test_docs().num_rows == 18
    assert isinstance(task.config.metadata, dict)


def test_no_misleading_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.disable(logging.NOTSET)
    with caplog.at_level(logging.WARNING):
        load(folder)
    assert "Custom kwargs" not in caplog.text


def test_missing_data_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked in .*gsm8k \(train\.jsonl, test\.jsonl\)"):
        load(tmp_path)


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
    assert done.stderr.strip().splitlines()[-1].startswith("ltm-eval: error[3]: no train and test split of gsm8k: put")


def test_every_shipped_task_is_indexed() -> None:
    known = manager("sample").all_tasks
    for path in tasks_dir().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8").replace("!function ", "")
        content = yaml.safe_load(text)
        assert content["task"] in known, path
    assert "ltm_gsm8k" in known


def test_the_class_can_be_pickled() -> None:
    from ltm_eval.tasks.keyed import KeyedTask

    assert pickle.loads(pickle.dumps(KeyedTask)) is KeyedTask


def test_the_sample_data_runs() -> None:
    found, model = run(Path("sample"), limit=8)
    assert len(model.prompts) == 8
    assert found["n-samples"]["ltm_gsm8k"]["effective"] == 8


def test_impossible_shots_are_refused_before_any_prompt_is_built(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="got 31"):
        run(folder, num_fewshot=31)
    assert "0/18" not in capsys.readouterr().err
