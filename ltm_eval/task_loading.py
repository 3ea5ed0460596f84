"""The tasks of a run: found by name, loaded, their data, shots and seeds settled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ltm_eval import paths, progress
from ltm_eval.errors import UsageError, nearest

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from ltm_eval.config import RunConfig


METADATA_EXAMPLE = '{"protocol": "documents"}'


ZERO_SHOT = 0
"""A task that says so itself has no demonstrations, whatever is asked for."""


PREFIX = "ltm_"


def tasks_of(config: RunConfig) -> list[Any]:
    """The tasks of a run, loaded and settled.

    Raises:
        LtmEvalError: a task is not known, its data are not there, or an option does not suit it.
    """
    manager = task_manager(config)
    return load_tasks(manager, known_tasks(config.tasks, manager), config)


def task_manager(config: RunConfig) -> TaskManager:
    """lm-eval's index of our tasks only, which takes a tenth of a second instead of nine."""
    from lm_eval.tasks import TaskManager

    asked = {"n": config.n if config.n > 1 else None, "k": list(config.k), "rethink": config.rethink}
    metadata = {
        "data": config.data,
        **task_metadata(config.metadata),
        "condition": config.condition,
        **{name: value for name, value in asked.items() if value},
    }
    return TaskManager(include_defaults=False, include_path=str(paths.tasks_dir()), metadata=metadata)


def task_metadata(text: str | None) -> dict[str, Any]:
    """The task options of `--metadata`.

    Raises:
        UsageError: it is not a JSON object.
    """
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise UsageError(f"metadata must be a JSON object such as {METADATA_EXAMPLE}, got {text!r}") from error
    if not isinstance(found, dict):
        raise UsageError(f"metadata must be a JSON object such as {METADATA_EXAMPLE}, got {text!r}")
    return found


def known_tasks(tasks: tuple[str, ...], manager: TaskManager) -> list[str]:
    """Task names with our prefix, each once.

    Raises:
        UsageError: a name is not known.
    """
    names = []
    for task in tasks:
        name = next((known for known in (PREFIX + task, task) if known in manager.all_tasks), None)
        if name is None:
            shown = [known.removeprefix(PREFIX) for known in manager.all_tasks]
            raise UsageError(
                f"task {task!r} is not known; known are {', '.join(shown)}.{nearest(task, shown)} "
                "For lm-eval's own tasks: python -m ltm_eval lm-eval --model ltm --tasks …"
            )
        if name not in names:
            names.append(name)
    return names


def load_tasks(manager: TaskManager, names: list[str], config: RunConfig) -> list[Any]:
    """Tasks with data, shots, seeds and generation options settled; shots are checked against the data."""
    from lm_eval.utils import simple_parse_args_string

    loaded = list(manager.load(names)["tasks"].values())
    for task in loaded:
        if config.num_fewshot is not None and task.config.num_fewshot != ZERO_SHOT:
            task.set_config(key="num_fewshot", value=config.num_fewshot)
        task.set_fewshot_seed(seed=config.seed)
        if hasattr(task, "progress"):
            task.progress = progress.silent if config.quiet else progress.for_terminal()
        if config.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
            task.set_config(key="generation_kwargs", value=simple_parse_args_string(config.gen_kwargs), update=True)
        _check_shots(task)
    return loaded


def _check_shots(task: Any) -> None:
    """Refuse more demonstrations than there are examples to draw from."""
    shots = task.config.num_fewshot or 0
    pool = len(list(task.fewshot_docs() or [])) if shots else 0
    if shots > pool:
        raise UsageError(
            f"shots: task {task.task_name} has {pool} training examples, {shots} demonstrations were asked for; ask "
            "for fewer"
        )
    document = next(iter(task.test_docs() or []), None)
    if shots and document is not None and hasattr(task, "show"):
        task.show(document)


def chosen_documents(config: RunConfig, task: Any) -> dict[str, list[int]] | None:
    """The documents of `--documents`, as lm-eval takes them.

    Raises:
        UsageError: the task has no such document.
    """
    if not config.documents:
        return None
    count = len(task.eval_docs)
    absent = [one for one in config.documents if not 0 <= one < count]
    if absent:
        raise UsageError(f"documents: task {task.task_name} has documents 0 to {count - 1}, {absent[0]} was asked for")
    # lm-eval 0.4.13 goes through the documents in their own order and takes the n-th name of this list for the n-th.
    return {task.task_name: sorted(config.documents)}


def data_facts(task: Any) -> Any:
    """What was read for a task: files, digests, counts, where its loader tells."""
    facts = {}
    for split, dataset in task.dataset.items():
        description = getattr(getattr(dataset, "info", None), "description", "")
        facts[split] = json.loads(description) if description.startswith("{") else {"rows": len(dataset)}
    return facts


def is_sample(facts: dict[str, Any]) -> bool:
    """Whether a task's loader says that it read the bundled sample, whoever asked for it."""
    return any(split.get("sample") is True for split in facts.values())
