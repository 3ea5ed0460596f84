"""How many small changes of a module its tests notice.

    python -m tests.mutants ltm_eval/runs/journal.py tests/test_journal.py --most 100

Each mutant is the module with one thing changed: a comparison, an operator, a number, a truth value, a condition, a
statement left out. Its tests run in a process of their own; a mutant that no test notices is printed with its line.
Texts and annotations are left alone: no test needs to know an error's every word.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

LIMIT_SECONDS = 240.0
COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}

Change = tuple[str, Callable[[], None]]


def changes(tree: ast.Module) -> Iterator[Change]:
    """What can be done to a module: in words, and the doing, of `tree` itself."""
    for node in _code(tree):
        yield from _changes_of(node)


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """Everything but annotations and what stands for type checkers alone."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, (ast.arguments, ast.Import, ast.ImportFrom)):
            continue
        yield child
        if isinstance(child, ast.AnnAssign):
            yield from [] if child.value is None else [child.value, *_code(child.value)]
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for statement in child.body:
                yield from (statement, *_code(statement))
        else:
            yield from _code(child)


def _changes_of(node: ast.AST) -> Iterator[Change]:
    line = getattr(node, "lineno", 0)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        other = COMPARED[type(node.ops[0])]
        yield f"{line}: {_name(node.ops[0])} to {other.__name__}", lambda: node.ops.__setitem__(0, other())
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        yield (
            f"{line}: {_name(node.op)} to {COMPUTED[type(node.op)].__name__}",
            lambda: _set(node, "op", COMPUTED[type(node.op)]()),
        )
    elif isinstance(node, ast.BoolOp):
        swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"{line}: {_name(node.op)} to {_name(swapped)}", lambda: _set(node, "op", swapped)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield f"{line}: condition negated", lambda: _set(node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{line}: {node.value} to {not node.value}", lambda: _set(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield f"{line}: {node.value} to {node.value + 1}", lambda: _set(node, "value", node.value + 1)
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield f"{line}: returns None", lambda: _set(node, "value", ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"{line}: left out: {ast.unparse(node)[:60]}", lambda: _set(node, "value", ast.Constant(None))


def _name(node: ast.AST) -> str:
    return type(node).__name__


def _set(node: ast.AST, field: str, value: object) -> None:
    setattr(node, field, value)


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from changed source."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin=str(self.path))

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self.path)
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def noticed(path: Path, place: int, tests: list[str]) -> bool:
    """Whether the tests fail on a changed module, do not end, or bring the process down; place -1 changes nothing."""
    argv = [sys.executable, "-m", "tests.mutants", str(path), *tests, "--place", str(place)]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def run_changed(path: Path, place: int, tests: list[str]) -> int:
    """The tests with the change of this number made; pytest's exit code."""
    import pytest

    tree = ast.parse(path.read_text("utf-8"))
    if place >= 0:
        list(changes(tree))[place][1]()
    module = ".".join(path.resolve().relative_to(Path.cwd()).with_suffix("").parts)
    sys.meta_path.insert(0, _Changed(module, path, ast.fix_missing_locations(tree)))
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--most", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.place is not None:
        raise SystemExit(run_changed(asked.module, asked.place, asked.tests))
    every = [words for words, _ in changes(ast.parse(asked.module.read_text("utf-8")))]
    number = len(every)
    if noticed(asked.module, -1, asked.tests):
        raise SystemExit("the tests fail on the module as it is")
    chosen = sorted(random.Random(asked.seed).sample(range(number), min(asked.most, number)))
    survived = []
    for place in chosen:
        if not noticed(asked.module, place, asked.tests):
            survived.append(place)
            print(f"not noticed: {asked.module}:{every[place]}", flush=True)
    found = len(chosen) - len(survived)
    print(f"{asked.module}: {found} of {len(chosen)} mutants noticed ({100 * found / len(chosen):.0f} %), of {number}")


if __name__ == "__main__":
    main()
