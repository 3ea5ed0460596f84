"""Plugs the model `ltm` and the `ltm_*` tasks into an lm-eval that does not find them by itself (0.4.13).

`ltm_eval_bridge`, imported at every start of Python, calls `find_hooked` when one of the modules of lm-eval named in
HOOKS is imported; the hook runs after the module. lm-eval after 0.4.13 finds models by the entry-point group
`lm_eval.models`, so that the first hook has nothing left to do there.

Task options (lm-eval's `--metadata`) reach every task, and a loader takes from them what it knows; so each of our
loaders says what it reads (`reads`), and options that no task of a run reads are refused.

lm-eval turns a failure to save results into a log line and exit code 0. For our model the third hook looks at the place
before anything is answered, and ends the command with code 4 where something was not saved.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from contextlib import suppress
from difflib import SequenceMatcher
from functools import wraps
from importlib import import_module
from inspect import getsource, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ltm_eval.disk import cause, remedy
from ltm_eval.errors import LtmEvalError, MachineError, UsageError, hosted_by_lm_eval, leave, leaving, nearest
from ltm_eval.paths import short_name, tasks_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

log = logging.getLogger(__name__)

F = TypeVar("F", bound="Callable[..., Any]")

MODEL_NAME = "ltm"
MODEL_TARGET = "ltm_eval.lm:LTM"
ENTRY_POINT_GROUP = "lm_eval.models"


def finds_plugins(registry: ModuleType) -> bool:
    """Whether this lm-eval reads the entry-point group itself; its registry then holds the group's name as a string."""
    source = getsource(registry)
    return f'"{ENTRY_POINT_GROUP}"' in source or f"'{ENTRY_POINT_GROUP}'" in source


def register_model(_models: ModuleType) -> None:
    """Hook of `lm_eval.models`: add a lazy placeholder, unless the name is taken or lm-eval will find it by itself.

    Not sooner than that module: lm-eval loads its built-in models only into an empty registry.
    """
    from lm_eval.api import registry

    if MODEL_NAME not in registry.model_registry and not finds_plugins(registry):
        registry.model_registry.register(MODEL_NAME, target=MODEL_TARGET)


def add_tasks(manager: ModuleType) -> None:
    """Hook of `lm_eval.tasks.manager`: `TaskManager` scans our folder too, wherever it scans lm-eval's own, and looks
    at task options before it loads any task.
    """
    original = manager.TaskManager.__init__
    described = signature(original)
    if hasattr(original, "by_ltm_eval") or not {"include_path", "include_defaults"} <= set(described.parameters):
        return

    @wraps(original)
    def scan_ours_too(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            call = described.bind(self, *args, **kwargs)
        except TypeError:
            original(self, *args, **kwargs)  # raises the same, in TaskManager's own words
            return
        call.apply_defaults()
        given = call.arguments["include_path"]
        if call.arguments["include_defaults"]:
            call.arguments["include_path"] = with_ours(given)
        original(*call.args, **call.kwargs)
        self.include_path = given

    scan_ours_too.__dict__["by_ltm_eval"] = True
    manager.TaskManager.__init__ = scan_ours_too
    load = getattr(manager.TaskManager, "load", None)
    if load is not None:
        manager.TaskManager.load = _checking_options(load)


def _checking_options(load: Callable[..., Any]) -> Callable[..., Any]:
    """`TaskManager.load` that first looks at the task options."""

    @wraps(load)
    def load_checked(self: Any, task_list: Any) -> Any:
        leaving(check_host_metadata)(self, task_list if isinstance(task_list, list) else [task_list])
        return load(self, task_list)

    return load_checked


def with_ours(given: Any) -> list[Any]:
    """The folders `given` (one, several or None) with ours before them, so that the user's definitions win."""
    theirs = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
    ours = tasks_dir()
    named = {os.path.realpath(path) for path in theirs}
    return theirs if os.path.realpath(ours) in named else [ours, *theirs]


def guard_saving(loggers: ModuleType) -> None:
    """Hook of `lm_eval.loggers.evaluation_tracker`: our model's results are saved, or the command says they are not.

    A checkpoint's path names the folder of its results as in lm-eval, cut where no file system takes such a name.
    """
    tracker, general = loggers.EvaluationTracker, loggers.GeneralConfigTracker
    if hasattr(tracker, "by_ltm_eval"):
        return
    begin, log = tracker.__init__, general.log_experiment_args
    save_results, save_samples = tracker.save_results_aggregated, tracker.save_results_samples

    def ours(self: Any) -> bool:
        return bool(self.output_path) and self.general_config_tracker.model_source == MODEL_NAME

    def named(method: Callable[..., None], self: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        return signature(method).bind(self, *args, **kwargs).arguments

    @wraps(begin)
    def begin_known(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.general_config_tracker.saved_by = self

    @wraps(log)
    def log_and_look(self: Any, *args: Any, **kwargs: Any) -> None:
        log(self, *args, **kwargs)
        owner = getattr(self, "saved_by", None)
        if owner is not None and ours(owner):
            if len(os.fsencode(self.model_name_sanitized)) > NAME_BYTES:
                self.model_name_sanitized = short_name(self.model_name_sanitized)
            _look(owner)

    @wraps(save_results)
    def save_results_or_leave(self: Any, *args: Any, **kwargs: Any) -> None:
        save_results(self, *args, **kwargs)
        self.told = named(save_results, self, args, kwargs)["results"]
        if ours(self):
            _whole(self, _places(self)[0], None)

    @wraps(save_samples)
    def save_samples_or_leave(self: Any, *args: Any, **kwargs: Any) -> None:
        save_samples(self, *args, **kwargs)
        told = named(save_samples, self, args, kwargs)
        if ours(self):
            file = _places(self)[1] / f"samples_{told['task_name']}_{getattr(self, 'date_id', '')}.jsonl"
            _whole(self, file, len(told["samples"]))

    tracker.by_ltm_eval = True
    tracker.__init__, general.log_experiment_args = begin_known, log_and_look
    tracker.save_results_aggregated, tracker.save_results_samples = save_results_or_leave, save_samples_or_leave


NAME_BYTES = 255
"""Longest name of a file or folder that common file systems take."""
LONGEST_FILE = "samples_" + "x" * 80
"""As long as the name of a file of samples."""


def _places(tracker: Any) -> tuple[Path, Path]:
    """Where lm-eval puts the results of an evaluation, and the folder of its samples."""
    path, date = Path(tracker.output_path), getattr(tracker, "date_id", "2026-01-01T00-00-00.000000")
    if path.suffix == ".json":
        return path.with_name(f"{path.stem}_{date}.json"), path.parent
    folder = path / str(tracker.general_config_tracker.model_name_sanitized)
    return folder / f"results_{date}.json", folder


def _look(tracker: Any) -> None:
    """Try to write where results will go; end lm-eval's command where that fails."""
    results, folder = _places(tracker)
    for probe in (results.with_name(results.name + f".{os.getpid()}"), folder / f"{LONGEST_FILE}.{os.getpid()}"):
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            leave(_unwritable(tracker, error))


def _unwritable(tracker: Any, error: OSError) -> LtmEvalError:
    place = Path(tracker.output_path)
    why = f"cannot be written ({cause(error, place)}); {remedy(error, place)}, or choose another with --output_path"
    return MachineError(f"results below output_path {str(place)[-80:]} {why}")


def _whole(tracker: Any, file: Path, lines: int | None) -> None:
    """Read back what lm-eval saved, so many lines or one JSON object; where it is not whole, show the table, leave."""
    try:
        content = file.read_bytes()
        if lines is None:
            json.loads(content)
        elif content.count(b"\n") != lines:
            raise ValueError
    except (OSError, ValueError):
        from lm_eval.utils import make_table

        with suppress(Exception):
            print(make_table(tracker.told))
        _look(tracker)
        leave(MachineError(f"{str(file)[-120:]}: lm-eval did not save it whole; see its log, and --output_path"))


HOOKS: Mapping[str, Callable[[ModuleType], None]] = {
    "lm_eval.models": register_model,
    "lm_eval.tasks.manager": add_tasks,
    "lm_eval.loggers.evaluation_tracker": guard_saving,
}


def find_hooked(name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    """The spec that the finders other than the bridge give for a module of HOOKS; its loader calls the hook at the end.

    A hook that fails is passed over: the other models of lm-eval do not need us.
    """
    spec = _found_by_others(name, path, target)
    loader: Any = spec.loader if spec is not None else None
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return spec

    def exec_module(module: ModuleType) -> None:
        execute(module)
        with suppress(Exception):
            HOOKS[name](module)

    with suppress(AttributeError):  # a loader that takes no attributes; `plug_in` remains
        loader.exec_module = exec_module
    return spec


def _found_by_others(name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    for finder in list(sys.meta_path):
        find: Any = getattr(finder, "find_spec", None)
        if find is None or getattr(finder, "__module__", None) == "ltm_eval_bridge":
            continue
        spec: ModuleSpec | None = find(name, path, target)
        if spec is not None:
            return spec
    return None


def plug_in() -> None:
    """Import the modules of HOOKS and run their hooks, with or without the bridge. Safe to repeat.

    Raises:
        ImportError: lm-eval is not installed.
    """
    for name, hook in HOOKS.items():
        hook(import_module(name))


# What tasks read of --metadata --------------------------------------------------------------------------------------

CLOSE = 0.85
"""How like a known name another must be to be taken for a slip where options of a model may stand among a task's."""


def reads(names: Callable[[Mapping[str, Any]], Collection[str]]) -> Callable[[F], F]:
    """Mark a loader of data, or a task class, with the task options that it reads.

    Args:
        names: from the options given, `dataset_kwargs` included, to the names of those that change anything.
    """

    def marked(loader: F) -> F:
        loader.__dict__["reads"] = names
        return loader

    return marked


def read_by(manager: Any, specs: Iterable[Any], given: Mapping[str, Any]) -> tuple[set[str], list[str]]:
    """The task options that some task reads, and the tasks that do not tell, which may read any.

    Args:
        manager: lm-eval's `TaskManager`.
        specs: tasks, groups and tags as it loads them.
        given: the options.
    """
    names: set[str] = set()
    silent = []
    for name, definition in _definitions(manager, specs):
        told = getattr(definition.get("custom_dataset"), "reads", None)
        if told is None:
            silent.append(name)
            continue
        fixed = definition.get("dataset_kwargs") or {}
        own = getattr(definition.get("class"), "task_options", None)
        names |= set(told({**given, **fixed})) - fixed.keys()
        names |= set(own(definition)) if own is not None else set()
    return names, silent


def _definitions(manager: Any, specs: Iterable[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and definition of every single task; an empty one where only lm-eval can make sense of it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for spec in specs:
        entry = manager.task_index.get(spec) if isinstance(spec, str) else None
        if entry is None or entry.yaml_path is None:
            tags = getattr(entry, "tags", None)
            yield from _definitions(manager, sorted(tags)) if tags else [(str(spec), {})]
            continue
        try:
            definition = load_yaml(entry.yaml_path)
        except Exception:  # noqa: BLE001 - lm-eval says better what is wrong when it loads the task
            definition = {}
        members = definition.get("task")
        if isinstance(members, list):
            yield from _definitions(manager, members)
        else:
            yield spec, definition


def refuse_unread(
    given: Mapping[str, Any], manager: Any, specs: Sequence[Any], *, elsewhere: Collection[str] = ()
) -> None:
    """Refuse task options that no task of a run reads; warn where a task may read any.

    Args:
        given: the options.
        manager: lm-eval's `TaskManager`.
        specs: as in `read_by`.
        elsewhere: names that have an option of the command's own.

    Raises:
        UsageError: an option would change nothing; with the nearest name.
    """
    names, silent = read_by(manager, specs, given)
    for key in given:
        if key in elsewhere:
            raise UsageError(f"metadata: {key!r} is an option of its own here; give it as --{key}")
        if key in names:
            continue
        known = sorted(names - set(elsewhere))
        words = f"metadata: no task of this run reads {key!r}.{nearest(key, known)}"
        if not silent:
            raise UsageError(f"{words} Read are {', '.join(known) or 'none'}")
        log.warning("%s Whether %s does is not known", words, ", ".join(silent[:3]))


def check_host_metadata(manager: Any, specs: Sequence[Any]) -> None:
    """`refuse_unread` for lm-eval's own command; elsewhere a look for slips.

    lm-eval hands task options and arguments of the model over as one. What its command line says of `--metadata` tells
    them apart; where there is none, an unread name is refused only if it is nearly one that is read.

    Raises:
        UsageError: see `refuse_unread`; or an option is given twice.
    """
    given = told_on_command_line() if hosted_by_lm_eval() else {}
    if given:
        refuse_unread(given, manager, specs)
        return
    merged = manager.metadata if isinstance(manager.metadata, dict) else {}
    names, silent = read_by(manager, specs, merged)
    for key in merged if names and not silent else ():
        close = [name for name in names if SequenceMatcher(None, str(key), name).ratio() >= CLOSE]
        if key not in names and close:
            raise UsageError(f"metadata: no task of this run reads {key!r}.{nearest(key, close)}")


def told_on_command_line() -> dict[str, Any]:
    """The task options that lm-eval's command line names, each with its value as far as that is JSON.

    Raises:
        UsageError: one is given twice.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--metadata", nargs="+", action="extend", default=[])
    try:
        words = parser.parse_known_args(sys.argv[1:])[0].metadata
    except argparse.ArgumentError:
        return {}  # lm-eval's own parser says what is wrong
    pairs: list[tuple[str, Any]] = []
    for word in words:
        if word.lstrip().startswith("{"):
            pairs += metadata_object(word, where="--metadata").items()
        else:
            pairs += [
                (part.partition("=")[0].strip(), part.partition("=")[2]) for part in word.split(",") if "=" in part
            ]
    return _each_once(pairs)


def metadata_object(text: str, *, where: str = "metadata") -> dict[str, Any]:
    """The task options of a JSON object.

    Raises:
        UsageError: it is none, or a key stands there twice.
    """
    example = '{"protocol": "documents"}'
    try:
        found = json.loads(text, object_pairs_hook=_each_once)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{where} must be a JSON object such as {example}, got {text!r}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{where} must be a JSON object such as {example}, got {text!r}")
    return found


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Pairs whose names differ."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UsageError(f"metadata: {key!r} is given twice; give it once")
        found[key] = value
    return found
