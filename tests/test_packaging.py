"""What a wheel and an editable install contain, and that versions and declarations agree."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest

from ltm_eval import __version__, cli
from ltm_eval.harness import plug

if sys.version_info >= (3, 11):
    import tomllib
else:  # a dependency of pytest there
    import tomli as tomllib

wheel_builder = pytest.importorskip("hatchling.builders.wheel")


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))


def build(root: Path, target: Path, *, version: str) -> zipfile.ZipFile:
    """A wheel of the checkout, `standard` or `editable`."""
    (made,) = wheel_builder.WheelBuilder(str(root)).build(directory=str(target), versions=[version])
    return zipfile.ZipFile(made)


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """What `pip install .` unpacks."""
    return build(root, tmp_path_factory.mktemp("wheel"), version="standard")


@pytest.fixture(scope="module")
def editable(root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """What `pip install -e .` unpacks."""
    return build(root, tmp_path_factory.mktemp("editable"), version="editable")


def own_files(folder: Path) -> set[str]:
    """Files below `folder` that belong to the project, relative to it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


RECIPES = ("ltm-demo.yaml", "gpt2-demo.yaml")


def test_wheel_holds_the_package_tasks_reports_and_bridge(root: Path, wheel: zipfile.ZipFile) -> None:
    expected = {f"ltm_eval/{name}" for name in own_files(root / "ltm_eval")}
    expected |= {f"ltm_eval/tasks/{name}" for name in own_files(root / "tasks")}
    expected |= {f"ltm_eval/reports/{name}" for name in own_files(root / "reports")}
    expected |= {"ltm_eval_bridge.py", "ltm_eval_bridge.pth"}
    expected |= {f"ltm_eval/demo/{name}" for name in own_files(root / "demo") if name in RECIPES}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert "ltm_eval/py.typed" in expected


def test_editable_install_copies_only_the_pth(root: Path, editable: zipfile.ZipFile) -> None:
    names = {name for name in editable.namelist() if ".dist-info/" not in name}
    assert names == {"_ltm_eval.pth", "ltm_eval_bridge.pth"}
    assert Path(editable.read("_ltm_eval.pth").decode()) == root
    # site reads .pth files by name: the path must be there before the bridge is imported.
    assert sorted(names) == ["_ltm_eval.pth", "ltm_eval_bridge.pth"]


def test_both_declare_command_and_model(wheel: zipfile.ZipFile, editable: zipfile.ZipFile) -> None:
    for archive in (wheel, editable):
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        points = configparser.ConfigParser()
        points.read_string(archive.read(name).decode())
        assert points["console_scripts"]["ltm-eval"] == f"{cli.main.__module__}:{cli.main.__name__}"
        assert points[plug.ENTRY_POINT_GROUP][plug.MODEL_NAME] == plug.MODEL_TARGET


def test_unpacked_wheel_works_away_from_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site = tmp_path / "site"
    wheel.extractall(site)
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
from site import addsitedir
addsitedir({str(site)!r})  # reads the .pth
import lm_eval.models
from lm_eval.api.registry import model_registry
from ltm_eval import cli
from ltm_eval.system import files as paths
assert paths.PACKAGE.parent.samefile({str(site)!r}), paths.PACKAGE
assert paths.tasks_dir().parent == paths.reports_dir().parent == paths.PACKAGE
assert 'ltm' in model_registry
from ltm_eval.training.recipe import read_recipe
assert read_recipe(paths.Path('ltm-demo')).architecture == 'ltm' and list(paths.recipes()) == ['gpt2-demo', 'ltm-demo']
sys.exit(cli.main(['--version']))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ltm-eval {__version__}\n", "")


def test_version_is_stated_once(project: dict[str, Any], wheel: zipfile.ZipFile) -> None:
    assert "version" not in project["project"]
    assert Path(str(wheel.filename)).name.startswith(f"ltm_eval-{__version__}-")


def names_of(requirements: list[str]) -> set[str]:
    """Normalised project names of requirement lines."""
    return {re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements}


def pins(root: Path) -> dict[str, str]:
    """Version of each project in constraints.txt."""
    lines = (root / "constraints.txt").read_text("utf-8").splitlines()
    found = {}
    for line in (line.split(";")[0].strip() for line in lines if line and not line.startswith("#")):
        name, version = line.split("==")
        assert re.fullmatch(r"[\d.a-z]+", version), f"{line}: neither a local version nor a range belongs here"
        found[name.lower().replace("_", "-")] = version
    return found


def test_constraints_pin_what_is_declared(root: Path, project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    declared = names_of([*project["project"]["dependencies"], *extras["hf"], *extras["dev"]])
    assert declared <= set(pins(root))


def test_constraints_pin_what_those_need(root: Path, project: dict[str, Any]) -> None:
    pinned = pins(root)
    missing = set()
    for name in names_of(project["project"]["dependencies"]) - {"torch"}:  # torch: other needs on every platform
        try:
            needed = [line for line in requires(name) or [] if ";" not in line]
        except PackageNotFoundError:
            continue
        missing |= names_of(needed) - set(pinned)
    assert missing == set()


def test_pins_lie_within_the_declared_bounds(root: Path, project: dict[str, Any]) -> None:
    pinned = pins(root)

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", version))

    for line in project["project"]["dependencies"]:
        low, high = re.findall(r"[<>]=?([\d.]+)", line)
        (name,) = names_of([line])
        assert number(low) <= number(pinned[name]) < number(high), line
