"""Which formats are written, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_eval.report.tables import formats_of, suffix_format, targets, write_all
from ltm_eval.system.errors import MachineError, UsageError


def test_formats() -> None:
    assert formats_of(None) == ()
    assert formats_of("html, MD,html") == ("html", "md")
    for text in ("pdf", "", ","):
        with pytest.raises(UsageError, match="--format must list some of html, md, csv, latex, json"):
            formats_of(text)
    with pytest.raises(UsageError, match="Did you mean 'html'"):
        formats_of("htm")


@pytest.mark.parametrize(("name", "expected"), [("a.tex", ("latex",)), ("a.MD", ("md",)), ("a", ()), (None, ())])
def test_the_suffix_tells_the_format(name: str | None, expected: tuple[str, ...]) -> None:
    assert suffix_format(name) == expected


def test_targets(tmp_path: Path) -> None:
    stem = tmp_path / "compare"
    assert targets(("md",), None, stem=stem) == {"md": tmp_path / "compare.md"}
    assert targets(("md",), "x.txt", stem=stem) == {"md": Path("x.txt")}
    assert targets(("md", "latex"), str(tmp_path), stem=stem) == {
        "md": tmp_path / "compare.md",
        "latex": tmp_path / "compare.tex",
    }
    assert targets(("md", "csv"), "new/", stem=stem) == {"md": Path("new/compare.md"), "csv": Path("new/compare.csv")}
    assert targets(("md", "csv"), "p/x.html", stem=stem) == {"md": Path("p/x.md"), "csv": Path("p/x.csv")}
    assert targets(("md", "csv"), "p/v1.2", stem=stem) == {"md": Path("p/v1.2.md"), "csv": Path("p/v1.2.csv")}


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write"):
        write_all({"md": lambda: "text"}, {"md": tmp_path / "file" / "x.md"})
