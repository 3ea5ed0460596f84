from __future__ import annotations

import re
from pathlib import Path

import pytest

import ltm_eval
from ltm_eval.system import files as failpoints

HERE = Path(__file__)
SITE = re.compile(r"(?:failpoints|files)\.(?:hit|moment)\(\"([a-z.]+)\"\)")


def sites() -> set[str]:
    """Every place in the package."""
    sources = Path(ltm_eval.__file__).parent.rglob("*.py")
    return {name for path in sources for name in SITE.findall(path.read_text("utf-8"))}


def test_every_place_has_a_test() -> None:
    tests = "".join(path.read_text("utf-8") for path in HERE.parent.glob("test_*.py") if path != HERE)
    untested = {name for name in sites() if not re.search(rf"[\"' ,]{re.escape(name)}[:\"',]", tests)}
    assert sites() and not untested, f"no test makes these fail: {sorted(untested)}"


def test_places_do_nothing_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    assert failpoints.hit("a") is None
    monkeypatch.setenv(failpoints.VARIABLE, "a:2:short,*:4:eio")
    assert [failpoints.hit(name) for name in "aba"] == [None, None, "short"]
    with pytest.raises(OSError, match="failpoint b"):
        failpoints.hit("b")
    assert failpoints.hit("a") is None


@pytest.mark.parametrize("text", ["a", "a:1", "a:x:kill", "a:1:explode"])
def test_what_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, text)
    with pytest.raises(ValueError, match="name:n:action"):
        failpoints.hit("a")
