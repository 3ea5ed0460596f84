"""The rule between rooms: which sub-package may import which. Imports for type checking and late ones count too."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ltm_eval

PACKAGE = Path(ltm_eval.__file__).parent
# Room: the rooms it may import. "room.module" allows that module alone.
RULE = {
    "system": "",
    "results": "system inference.options",
    "model": "system",
    "inference": "system model",
    "data": "system model.tokenizer results.answers results.official",
    "tasks": "system results data model.tokenizer inference.options",
    "runs": "system results.files",
    "harness": "system results model inference data tasks runs report",
    "report": "system results tasks.prompts probe.files probe.view",
    "probe": "system results model inference tasks harness",
    "training": "system results.answers model inference data",
    "cli": "system results model inference data tasks runs harness report probe training",
    "__main__": "cli",
    "__init__": "model.checkpoint inference.posterior harness.evaluator results.figures",
}
HEAVY = ("torch", "lm_eval", "datasets", "transformers")


@cache
def imports() -> dict[str, set[str]]:
    """Module to the modules of ltm_eval it imports, wherever in its text, by dotted name without the package."""
    names = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name}: relative import"
                inside = f"{node.module}.".removeprefix("ltm_eval.").rstrip(".") if node.module else ""
                if node.module == "ltm_eval" or (node.module or "").startswith("ltm_eval."):
                    joined = {".".join(filter(None, (inside, alias.name))) for alias in node.names}
                    found[name] |= {one for one in joined if one in names} or ({inside} & set(names))
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name.removeprefix("ltm_eval.") for alias in node.names} & set(names)
    return found


def room(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


@pytest.mark.parametrize("name", RULE)
def test_rooms_import_what_the_rule_allows(name: str) -> None:
    allowed = RULE[name].split()
    wrong = {
        f"{module} -> {other}"
        for module, others in imports().items()
        for other in others
        if room(module) == name != room(other) and room(other) not in allowed and other not in allowed
    }
    assert not wrong, f"{name} may import {allowed or 'nothing of ours'}: {sorted(wrong)}"


def test_every_module_stands_in_a_room_of_the_rule() -> None:
    assert {room(module) for module in imports()} == set(RULE)


def test_no_circles() -> None:
    """Neither among modules nor, therefore, inside a room."""
    print("\n".join(f"{name} -> {allowed}" for name, allowed in RULE.items()))
    TopologicalSorter(imports()).prepare()


def test_doors_name_what_other_rooms_use() -> None:
    for name in RULE:
        door = PACKAGE / name / "__init__.py"
        if door.is_file():
            listed = ast.literal_eval(door.read_text("utf-8").partition("__all__ = ")[2])
            used = {
                m.split(".")[1] for here, others in imports().items() for m in others if room(m) == name != room(here)
            }
            assert used <= set(listed), f"ltm_eval.{name}.__all__ lacks {sorted(used - set(listed))}"


@pytest.mark.parametrize("name", ["cli", "results", "report", "tasks.prompts", "harness.plug", "harness.options"])
def test_light_rooms_import_nothing_heavy(name: str) -> None:
    modules = [m for m in imports() if m == name or (room(m) == name and not m.endswith("__init__"))]
    look = (
        f"import sys, {', '.join(f'ltm_eval.{m}' for m in modules)}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
