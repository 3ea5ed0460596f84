"""Compiled templates on disk: used where they are ours, made anew where they are not."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from jinja2 import DictLoader, Environment
from jinja2.bccache import bc_magic

from ltm_eval.template_cache import TemplateCache

if TYPE_CHECKING:
    from pathlib import Path


def rendered(cache: TemplateCache, source: str = "{{ 1 + 1 }}") -> str:
    return Environment(loader=DictLoader({"a": source}), bytecode_cache=cache).get_template("a").render()  # noqa: S701


def test_a_template_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "templates"
    assert rendered(TemplateCache(folder)) == "2"
    (kept,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)

    def compiled(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(Environment, "_generate", compiled)
    assert rendered(TemplateCache(folder)) == "2"
    with pytest.raises(AssertionError, match="compiled again"):
        rendered(TemplateCache(folder), "{{ 2 + 2 }}")


@pytest.mark.parametrize("damage", [b"", b"x", b"j2" + b"\0" * 99])
def test_a_damaged_file_is_replaced(tmp_path: Path, damage: bytes) -> None:
    rendered(TemplateCache(tmp_path))
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    assert rendered(TemplateCache(tmp_path)) == "2"
    assert kept.read_bytes() == whole


def test_a_file_that_others_may_write_is_not_run(tmp_path: Path) -> None:
    """What it holds is code: another template's, put in its place, would be run."""
    rendered(TemplateCache(tmp_path))
    (kept,) = tmp_path.iterdir()
    other = TemplateCache(tmp_path / "other")
    rendered(other, "planted")
    (planted,) = (tmp_path / "other").iterdir()
    kept.write_bytes(_with_checksum_of(kept, planted))
    assert rendered(TemplateCache(tmp_path)) == "planted", "the file is one that would be run"
    kept.chmod(0o666)
    assert rendered(TemplateCache(tmp_path)) == "2"


def _with_checksum_of(kept: Path, planted: Path) -> bytes:
    """Code of the one file behind the other's checksum: magic, a pickled checksum, then code."""
    heads = []
    for path in (kept, planted):
        stream = io.BytesIO(path.read_bytes())
        assert stream.read(len(bc_magic)) == bc_magic
        pickle.load(stream)  # noqa: S301 - written a moment ago
        heads.append(stream.tell())
    return kept.read_bytes()[: heads[0]] + planted.read_bytes()[heads[1] :]


@pytest.mark.parametrize("place", ["file", "absent/nested", "/proc/nothing"])
def test_a_folder_that_cannot_be_used_costs_nothing(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    assert rendered(TemplateCache(tmp_path / place)) == "2"


def test_a_process_without_a_home_renders_too() -> None:
    code = (
        "import pathlib, os; os.environ.pop('HOME', None)\n"
        "def none(): raise RuntimeError('no home')\n"
        "pathlib.Path.home = none\n"
        "from ltm_eval.layout import environment\n"
        "environment().get_template('verdict.html.jinja2')"
    )
    kept = {key: value for key, value in os.environ.items() if key not in {"XDG_CACHE_HOME", "LTM_EVAL_CACHE_DIR"}}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=kept)
    assert done.returncode == 0, done.stderr
