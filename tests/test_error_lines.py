"""An error's line of 300 characters keeps what to do, whatever is long in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ltm_eval
from ltm_eval.cli import main
from ltm_eval.system.errors import IncompleteError, RefusedError, UsageError, error_line, spelt

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


def test_a_long_command_to_type_is_whole_and_the_line_as_long_as_it_needs() -> None:
    command = f"ltm-eval report {LONG}/{LONG}"
    line = error_line(UsageError(f"{LIST}; type {command}"))
    assert line.endswith(f"… type {command}") and line.startswith("ltm-eval: error[2]: name_0") and len(line) < 400


def test_what_is_wrong_is_said_together_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "--t_fast", "x", "--shot", "3", "--limit", "0", "--task", "gsm9k", "--model", "no/such/model.pt"]
    assert main([*words, "-o", "out/a/b"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error[" in line]
    assert [line[:20] for line in lines] == ["ltm-eval: error[2]: "] * 3 + [
        "ltm-eval: error[3]: ",
        "ltm-eval: error[2]: ",
    ]
    for line, part in zip(
        lines, ("--shot. Did", "--t_fast must", "--limit must", "no/such/model.pt", "gsm9k"), strict=True
    ):
        assert part in line
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept").mkdir()
    assert main(["run", "--task", "gsm9k", "-o", "kept"]) == 2 and (tmp_path / "kept").is_dir()
    assert main(["run", "--task", "gsm9k", "-o", "kept/new"]) == 2 and not list((tmp_path / "kept").iterdir())


def test_options_are_spelt_as_the_caller_spells_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", "--shots", "99"]) == 2
    assert "]: --shots must be" in capsys.readouterr().err
    with pytest.raises(UsageError, match="^shots must be"):
        ltm_eval.evaluate("demo", tasks="gsm8k", shots=99)
    assert (spelt("t_fast"), spelt("data", "my dir")) == ("t_fast", "data='my dir'")
    monkeypatch.setattr("ltm_eval.system.errors.hosted_by_lm_eval", lambda: True)
    told = ("--model_args t_fast", "--num_fewshot", "--metadata data=DIR", "--limit 3")
    assert (spelt("t_fast"), spelt("shots"), spelt("data", "DIR"), spelt("limit", 3)) == told
