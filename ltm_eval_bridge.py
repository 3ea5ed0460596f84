"""Makes lm-eval 0.4.13 know the model `ltm` and the `ltm_*` tasks, without a word from the user.

lm-eval after 0.4.13 finds models by the entry-point group `lm_eval.models`; 0.4.13 finds none. `ltm_eval_bridge.pth`
imports this module at every interpreter start, so it lies outside `ltm_eval`, needs nothing that the interpreter has
not loaded already, and never prints or raises: whatever goes wrong here, Python and the rest of lm-eval work as before.

Nothing is imported early. A meta-path finder waits for two modules of lm-eval and acts after each has run:

- `lm_eval.models`: register the placeholder `ltm_eval.lm:LTM`. Not sooner, because lm-eval loads its built-in models
  only into an empty registry.
- `lm_eval.tasks.manager`: let `TaskManager` scan our task folder besides its own, before any folder of the user's.

A .pth line that imports is read up to Python 3.17 (PEP 829); by then lm-eval's entry points have long taken over.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # type checkers take this name for true; importing typing would cost every start of Python
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    Hook = Callable[[ModuleType], None]

MODEL_NAME = "ltm"
MODEL_TARGET = "ltm_eval.lm:LTM"
ENTRY_POINT_GROUP = "lm_eval.models"


class Bridge:
    """Meta-path finder that lets the other finders find, and runs a hook after the found module was executed."""

    def __init__(self) -> None:
        self._searching: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a watched module, its loader extended by the hook; None for every other module."""
        hook = HOOKS.get(fullname)
        if hook is None or fullname in self._searching:
            return None
        self._searching.add(fullname)
        try:
            return _extended(_found_by_others(self, fullname, path, target), hook)
        finally:
            self._searching.discard(fullname)


def _found_by_others(
    bridge: Bridge, fullname: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in list(sys.meta_path):
        find = None if finder is bridge else getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find(fullname, path, target) if find else None
        if spec is not None:
            return spec
    return None


def _extended(spec: ModuleSpec | None, hook: Hook) -> ModuleSpec | None:
    """`spec` whose loader calls `hook(module)` once the module has been executed; errors of the hook are dropped."""
    execute = getattr(getattr(spec, "loader", None), "exec_module", None)
    if spec is None or execute is None:
        return spec

    def exec_module(module: ModuleType) -> None:
        execute(module)
        _quietly(hook, module)

    _quietly(setattr, spec.loader, "exec_module", exec_module)
    return spec


def _quietly(function: Callable[..., object], *args: object) -> None:
    try:
        function(*args)
    except Exception:  # noqa: BLE001 - a plug-in that fails must not take its host down
        return


def package_dir() -> str | None:
    """Folder of `ltm_eval`, found without importing it; None where it is not installed."""
    from importlib.util import find_spec

    spec = find_spec("ltm_eval")
    return os.path.dirname(spec.origin) if spec is not None and spec.origin else None


def tasks_dir() -> str | None:
    """Our lm-eval task definitions, packed (wheel) or beside the package (checkout); None where there are none.

    The rule of `ltm_eval.paths.tasks_dir`, repeated because this module must not import the package.
    """
    package = package_dir()
    if package is None:
        return None
    packed = os.path.join(package, "tasks")
    folder = packed if os.path.isdir(packed) else os.path.join(os.path.dirname(package), "tasks")
    return folder if os.path.isdir(folder) else None


def finds_plugins(registry: ModuleType) -> bool:
    """Whether this lm-eval reads the entry-point group itself; its registry then holds the group's name as a string."""
    from inspect import getsource

    source = getsource(registry)
    return f'"{ENTRY_POINT_GROUP}"' in source or f"'{ENTRY_POINT_GROUP}'" in source


def register_model(_models: ModuleType) -> None:
    """Hook of `lm_eval.models`: add the lazy placeholder unless the name is taken or lm-eval will find it by itself."""
    from lm_eval.api import registry

    known = registry.model_registry
    if MODEL_NAME not in known and not finds_plugins(registry) and package_dir() is not None:
        known.register(MODEL_NAME, target=MODEL_TARGET)


def add_tasks(manager: ModuleType) -> None:
    """Hook of `lm_eval.tasks.manager`: `TaskManager` scans our folder too, wherever it scans lm-eval's own."""
    from functools import wraps
    from inspect import signature

    original = manager.TaskManager.__init__
    described = signature(original)
    if getattr(original, "by_ltm_eval", False) or not {"include_path", "include_defaults"} <= set(described.parameters):
        return

    @wraps(original)
    def scan_ours_too(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            call = described.bind(self, *args, **kwargs)
            call.apply_defaults()
            arguments = call.arguments
            given = arguments["include_path"]
            paths = _with_ours(given) if arguments["include_defaults"] else None
        except Exception:  # noqa: BLE001 - let TaskManager itself judge arguments that we do not understand
            paths = None
        if not paths:
            original(self, *args, **kwargs)
            return
        arguments["include_path"] = paths
        original(*call.args, **call.kwargs)
        self.include_path = given

    scan_ours_too.__dict__["by_ltm_eval"] = True
    manager.TaskManager.__init__ = scan_ours_too


def _with_ours(given: Any) -> list[Any] | None:
    """`given` with our task folder before it, so that the user's definitions win; None where nothing changes."""
    ours = tasks_dir()
    theirs = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
    named = {os.path.realpath(path) for path in theirs}
    return None if ours is None or os.path.realpath(ours) in named else [ours, *theirs]


HOOKS: dict[str, Hook] = {"lm_eval.models": register_model, "lm_eval.tasks.manager": add_tasks}


def install() -> None:
    """Put the finder first, once, and serve what has been imported already. Safe to call again."""
    if not any(type(finder).__name__ == "Bridge" and type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, Bridge())
    for name, hook in HOOKS.items():
        if name in sys.modules:
            _quietly(hook, sys.modules[name])


install()
