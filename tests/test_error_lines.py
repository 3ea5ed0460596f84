"""An error's line of 300 characters keeps what to do, whatever is long in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ltm_eval
from ltm_eval.system.errors import IncompleteError, RefusedError, UsageError, error_line

LONG = "/scratch/" + "a-user/" * 12 + "run"
LIST = ", ".join(f"name_{i}: {i} instead of {i + 1}" for i in range(30))
PACKAGE = Path(ltm_eval.__file__).parent


def messages() -> dict[str, list[str]]:
    """The text of every error raised in place, in pieces: literals, and '' for each value."""
    found = {}
    for file in sorted(PACKAGE.glob("*/*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
                text = node.args[0] if node.args else None
                if isinstance(text, ast.JoinedStr):
                    pieces = [str(one.value) if isinstance(one, ast.Constant) else "" for one in text.values]
                    found[f"{file.parent.name}/{file.name}:{node.lineno}"] = pieces
    return found


WITH_REMEDY = {where: pieces for where, pieces in messages().items() if re.search("[;.] [^;.]*$", pieces[-1])}


@pytest.mark.parametrize("value", [LONG, f"{LONG} {LONG}", LIST, "; ".join(f"document {i}: bad" for i in range(40))])
def test_every_errors_last_sentence_stays_whole(value: str) -> None:
    assert len(WITH_REMEDY) > 100
    for where, pieces in WITH_REMEDY.items():
        line = error_line(UsageError("".join(piece or value for piece in pieces)))
        remedy = re.split("[;.] ", pieces[-1])[-1]
        assert line.endswith(remedy) and line.startswith("ltm-eval: error[2]: ") and len(line) <= 300, where


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (
            RefusedError(
                f"{LONG} holds an unfinished run (5 answers) of other settings: {LIST}; repeat the old command "
                "to finish it, name another --output_path, or discard it with --fresh"
            ),
            "repeat the old command to finish it, name another --output_path, or discard it with --fresh",
        ),
        (
            IncompleteError(
                f"ltm_ptb: 9 of 40 documents failed (document 3: {'x ' * 150}); the figures in {LONG} leave them out. "
                "--max_failed 9 allows it"
            ),
            "--max_failed 9 allows it",
        ),
        (UsageError(f"rows must be names of {LIST}; got 'causl'. Did you mean 'causal'?"), "Did you mean 'causal'?"),
    ],
)
def test_what_to_do_is_not_cut(error: Exception, last: str) -> None:
    line = error_line(error)
    assert line.endswith(last) and "… " in line and len(line) <= 300


def test_lines_without_a_remedy_are_cut_at_their_end() -> None:
    assert error_line(UsageError("x " * 300)).endswith("…")
    line = error_line(UsageError("cause; " + "y " * 300))  # a remedy too long for any line
    assert len(line) <= 300 and "cause" in line and line.endswith("…")
    short = UsageError("cause; remedy")
    assert error_line(short) == "ltm-eval: error[2]: cause; remedy"
