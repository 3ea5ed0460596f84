"""Plug the model `ltm` and the `ltm_*` tasks into an lm-eval that does not find them by itself (0.4.13).

`ltm_eval_bridge`, imported at every start of Python, calls `find_hooked` when one of the modules of lm-eval named in
HOOKS is imported; the hook runs after the module. lm-eval after 0.4.13 finds models by the entry-point group
`lm_eval.models`, so that the first hook has nothing left to do there.

Task options (lm-eval's `--metadata`) reach every task, and a loader takes from them what it knows; so each of our
loaders says what it reads (`reads`), and options that no task of a run reads are refused.

lm-eval turns a failure to save results into a log line and exit code 0. For our model the third hook looks at the place
before anything is answered, and ends the command with code 4 where something was not saved.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from functools import wraps
from importlib import import_module
from inspect import getsource, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.data.metadata import check_host_metadata
from ltm_eval.system.errors import MachineError, leave, leaving
from ltm_eval.system.files import cause, remedy, short_name, tasks_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


MODEL_NAME = "ltm"
MODEL_TARGET = "ltm_eval.harness.ltm:LTM"
ENTRY_POINT_GROUP = "lm_eval.models"


def finds_plugins(registry: ModuleType) -> bool:
    """Return whether this lm-eval reads the entry-point group itself: its registry then holds the group's name."""
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
    """Hook of `lm_eval.tasks.manager`: `TaskManager` scans our folder too if it scans lm-eval's own, and checks task
    options before it loads any task.
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

        @wraps(load)
        def load_checked(self: Any, task_list: Any) -> Any:
            leaving(check_host_metadata)(self, task_list if isinstance(task_list, list) else [task_list])
            return load(self, task_list)

        manager.TaskManager.load = load_checked


def with_ours(given: Any) -> list[Any]:
    """Return the folders `given` (one, several or None) with ours before them, so that the user's definitions win."""
    theirs = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
    ours = tasks_dir()
    named = {os.path.realpath(path) for path in theirs}
    return theirs if os.path.realpath(ours) in named else [ours, *theirs]


def guard_saving(loggers: ModuleType) -> None:
    """Hook of `lm_eval.loggers.evaluation_tracker`: end the command with an error if our model's results are not saved.

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


NAME_BYTES = 255  # Longest name of a file or folder that common file systems take
LONGEST_FILE = "samples_" + "x" * 80  # As long as the name of a file of samples


def _places(tracker: Any) -> tuple[Path, Path]:
    """Return the results file of an evaluation in lm-eval, and the folder of its samples."""
    path, date = Path(tracker.output_path), getattr(tracker, "date_id", "2026-01-01T00-00-00.000000")
    if path.suffix == ".json":
        return path.with_name(f"{path.stem}_{date}.json"), path.parent
    folder = path / str(tracker.general_config_tracker.model_name_sanitized)
    return folder / f"results_{date}.json", folder


def _look(tracker: Any) -> None:
    """Try to write where results will go; end lm-eval's command if that fails."""
    results, folder = _places(tracker)
    for probe in (results.with_name(results.name + f".{os.getpid()}"), folder / f"{LONGEST_FILE}.{os.getpid()}"):
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            place = Path(tracker.output_path)
            why = f"cannot be written ({cause(error, place)}); {remedy(error, place)}"
            leave(
                MachineError(
                    f"results below output_path {str(place)[-80:]} {why}, or choose another with --output_path"
                )
            )


def _whole(tracker: Any, file: Path, lines: int | None) -> None:
    """Read back what lm-eval saved, `lines` lines or one JSON object; if incomplete, print the table and end."""
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
    """Return the spec that finders other than the bridge give for a module of HOOKS, with a loader that calls the hook.

    A hook that fails is passed over: the other models of lm-eval do not need us.
    """
    spec: ModuleSpec | None = None
    for finder in list(sys.meta_path):
        find: Any = getattr(finder, "find_spec", None)
        if find is not None and getattr(finder, "__module__", None) != "ltm_eval_bridge":
            spec = find(name, path, target)
            if spec is not None:
                break
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


def plug_in() -> None:
    """Import the modules of HOOKS and run their hooks, with or without the bridge. Safe to repeat.

    Raises:
        ImportError: lm-eval is not installed.
    """
    for name, hook in HOOKS.items():
        hook(import_module(name))
