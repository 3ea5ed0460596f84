"""Find and load the tasks of a run, and settle their data, shots and seeds."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from ltm_eval.data import sources
from ltm_eval.data.metadata import described, metadata_object, read_by, refuse_unread
from ltm_eval.inference.options import AUTO
from ltm_eval.results.official import unofficial
from ltm_eval.runs.processes import current
from ltm_eval.system import files, progress
from ltm_eval.system.errors import InputError, UsageError, nearest, printable, spelt
from ltm_eval.system.machine import training_compute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lm_eval.tasks import TaskManager

    from ltm_eval.harness.options import RunConfig


PREFIX = "ltm_"
ZERO_SHOT = 0  # A task whose definition says so has no few-shot examples, whatever --shots asks for
ELSEWHERE = ("condition",)  # Task options that a command which runs tasks sets by an option of its own
# What `--metadata` may say of the model's training, under the names of `machine.training_compute`
TRAINING = {"training_tokens": "tokens", "training_flops": "flops"}


def tasks_of(config: RunConfig) -> list[Any]:
    """Load the tasks of a run.

    Raises:
        LtmEvalError: a task is not known, its data are not there, or an option does not suit it.
    """
    manager = task_manager(config)
    names = known_tasks(config.tasks, manager)
    refuse_unread(task_metadata(config.metadata), manager, names, elsewhere=ELSEWHERE)
    heeding(manager, names, config)
    return load_tasks(manager, names, config)


def task_manager(config: RunConfig) -> TaskManager:
    """Return lm-eval's index of our tasks only, which takes a tenth of a second instead of nine.

    Raises:
        UsageError: `metadata` is not a JSON object, or contradicts another option.
    """
    from lm_eval.tasks import TaskManager

    told = task_metadata(config.metadata)
    asked = {"n": config.n if config.n > 1 else None, "k": list(config.k), "rethink": config.rethink}
    options: dict[str, Any] = {name: value for name, value in asked.items() if value}
    if config.data != AUTO:
        options["data"] = config.data
    for name in options.keys() & {"data" if key == "data_dir" else key for key in told}:
        other = told.get(name, told.get("data_dir"))
        if str(other) != str(options[name]):
            raise UsageError(
                f"{spelt(name)} is {options[name]!r}, and {other!r} by {spelt('metadata')}; give it once, "
                f"as {spelt(name)}"
            )
    metadata = {"data": config.data, **told, "condition": config.condition, **options}
    return TaskManager(include_defaults=False, include_path=str(files.tasks_dir()), metadata=metadata)


def task_metadata(text: str | None) -> dict[str, Any]:
    """Return the task options of `--metadata`.

    Raises:
        UsageError: it is not a JSON object, or a key stands there twice.
    """
    return {key: value for key, value in metadata_object(text or "{}").items() if key not in TRAINING}


def training_metadata(text: str | None) -> dict[str, Any]:
    """Return what `--metadata` says of the model's training.

    Raises:
        UsageError: see `task_metadata`; or a value is no positive number.
    """
    told = {name: value for name, value in metadata_object(text or "{}").items() if name in TRAINING}
    try:
        return (
            training_compute({TRAINING[name]: value for name, value in told.items()}, where="metadata: training") or {}
        )
    except InputError as error:
        raise UsageError(str(error)) from error


def metadata_for(config: RunConfig, task: str, manager: TaskManager) -> str | None:
    """Return those of a command's task options that one of its tasks reads."""
    told = metadata_object(config.metadata or "{}")
    names, _ = read_by(manager, [task], task_metadata(config.metadata))
    read = {key: value for key, value in told.items() if key in names or key in TRAINING}
    return config.metadata if read == told else json.dumps(read)


def known_tasks(tasks: tuple[str, ...], manager: TaskManager) -> list[str]:
    """Return task names with our prefix, each once.

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
    """Load tasks and set shots, seeds and generation options; shots are checked against the data.

    Files that are not the published ones are named on standard error, once.
    """
    from ltm_eval.tasks.arguments import generation_changes, generation_config

    changes = generation_changes(config.gen_kwargs)
    reader = logging.getLogger(sources.__name__)
    level = reader.level
    reader.setLevel(logging.ERROR)  # its warnings are the caveats below, which know shots and task
    try:
        loaded = list(manager.load(names)["tasks"].values())
    finally:
        reader.setLevel(level)
    for task in loaded:
        if config.num_fewshot is not None and task.config.num_fewshot != ZERO_SHOT:
            task.set_config(key="num_fewshot", value=config.num_fewshot)
        task.set_fewshot_seed(seed=config.seed)
        if hasattr(task, "progress"):
            task.progress = progress.silent if config.quiet else progress.for_terminal()
        if changes and task.OUTPUT_TYPE == "generate_until":
            task.set_config(key="generation_kwargs", value=changes, update=True)
            generation_config(task.config.generation_kwargs)
        _check_shots(task)
        for line in data_caveats(task) if current().leads else ():
            print(printable(f"ltm-eval: {line}"), file=sys.stderr)
    return loaded


def heeding(manager: TaskManager, names: Sequence[str], config: RunConfig) -> list[str]:
    """Return the tasks that generate text, and check the generation options before any data are read.

    Raises:
        UsageError: an option is not known or has no effect.
    """
    from ltm_eval.tasks.arguments import changed_decoding, generation_changes, one_spelling
    from ltm_eval.tasks.samples import refuse_greedy, sampled_options

    changes = generation_changes(config.gen_kwargs)
    index = manager.task_index  # in which a tag has no definition; its tasks have
    members = [one for name in names for one in ([name] if index[name].cfg else sorted(index[name].tags))]
    definitions = {name: index[name].cfg for name in members}
    told = {name: one.get("generation_kwargs") or {} for name, one in definitions.items() if _generates(one)}
    asked = {"gen_kwargs": changes, "n": config.n > 1, "k": config.k, "rethink": config.rethink}
    idle = [name for name, given in asked.items() if given]
    if idle and not told:
        raise UsageError(
            f"{' and '.join(map(spelt, idle))} {'has' if len(idle) == 1 else 'have'} no effect because none of "
            f"the tasks ({', '.join(names)}) generates text; "
            f"remove {'it' if len(idle) == 1 else 'them'}, or add a task that does"
        )
    sampled = bool(config.n > 1 or config.rethink)
    if sampled:
        refuse_greedy(one_spelling(changes))
    for name, own in told.items() if changes else ():
        changed_decoding(sampled_options(own) if sampled else own, changes, task=name)
    return list(told)


def _generates(definition: Mapping[str, Any]) -> bool:
    return definition.get("output_type") == "generate_until"


def _check_shots(task: Any) -> None:
    """Raise UsageError if there are fewer examples to draw from than shots."""
    shots = task.config.num_fewshot or 0
    pool = len(list(task.fewshot_docs() or [])) if shots else 0
    if shots > pool:
        raise UsageError(
            f"{spelt('shots')}: task {task.task_name} has {pool} training examples, {shots} demonstrations were asked "
            "for; ask for fewer"
        )
    document = next(iter(task.test_docs() or []), None)
    if shots and document is not None and hasattr(task, "show"):
        task.show(document)


def chosen_documents(config: RunConfig, task: Any) -> dict[str, list[int]] | None:
    """Return the documents of `--documents` as lm-eval takes them.

    Raises:
        UsageError: the task has no such document.
    """
    if not config.documents:
        return None
    count = len(task.eval_docs)
    absent = [one for one in config.documents if not 0 <= one < count]
    if absent:
        raise UsageError(
            f"{spelt('documents')}: task {task.task_name} has documents 0 to {count - 1}, {absent[0]} was asked for"
        )
    # lm-eval 0.4.13 goes through the documents in their own order and takes the n-th name of this list for the n-th.
    return {task.task_name: sorted(config.documents)}


def data_facts(task: Any) -> Any:
    """Return what was read for a task: files, digests and counts, if its loader records them."""
    return described(task.dataset)


def is_sample(facts: dict[str, Any]) -> bool:
    """Return whether a task's loader read the bundled sample."""
    return any(split.get("sample") is True for split in facts.values())


def data_caveats(task: Any) -> list[str]:
    """Return in what the data of a loaded task differ from the published ones, as sentences that name it."""
    sets = {task.task_name: data_facts(task)}
    shots = task.config.num_fewshot
    return [f"{task.task_name}: {sentence}" for sentence in unofficial(sets, task.task_name, shots=shots)]
