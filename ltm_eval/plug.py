"""Plugs the model `ltm` and the `ltm_*` tasks into an lm-eval that does not find them by itself (0.4.13).

`ltm_eval_bridge`, imported at every start of Python, calls `find_hooked` when one of the two modules of lm-eval named
in HOOKS is imported; the hook runs after the module. lm-eval after 0.4.13 finds models by the entry-point group
`lm_eval.models`, so that the first hook has nothing left to do there.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import wraps
from importlib import import_module
from inspect import getsource, signature
from typing import TYPE_CHECKING, Any

from ltm_eval.paths import tasks_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

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
    """Hook of `lm_eval.tasks.manager`: `TaskManager` scans our folder too, wherever it scans lm-eval's own."""
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


def with_ours(given: Any) -> list[Any]:
    """The folders `given` (one, several or None) with ours before them, so that the user's definitions win."""
    theirs = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
    ours = tasks_dir()
    named = {os.path.realpath(path) for path in theirs}
    return theirs if os.path.realpath(ours) in named else [ours, *theirs]


HOOKS: Mapping[str, Callable[[ModuleType], None]] = {
    "lm_eval.models": register_model,
    "lm_eval.tasks.manager": add_tasks,
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
