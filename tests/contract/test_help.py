"""Options of every command with their short names, choices and defaults, as `--help` shows them; words are free."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.contract.reference import check

if TYPE_CHECKING:
    from tests.contract.commands import Commands


def rows_of(text: str) -> list[str]:
    """Lines of the frames, without them."""
    return [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]


def options_of(text: str) -> dict[str, dict[str, Any]]:
    """By long name: its other names, choices, default; `required` where it has none."""
    found = {}
    for row in rows_of(text):
        names = re.match(r"(?:\*\s+)?((?:--?[a-zA-Z][\w-]*[,\s]+)+)(.*)", row)
        if not names:
            continue
        first, *others = names[1].replace(",", " ").split()
        choices = re.match(r"[^\s]*\|[^\s]*", names[2])
        default = re.search(r"\[default: ([^]]*)\]", row)
        known = choices[0].split("|") if choices and re.search("[a-z]", choices[0]) else []  # PATH|ID are none
        told: dict[str, Any] = {"also": others, "choices": known}
        if default and not default[1].startswith("("):
            told["default"] = default[1]
        found[first] = told | ({"required": True} if row.startswith("*") else {})
    return found


def test_options(cli: Commands) -> None:
    text = cli.done("--help").out
    names = [row.split()[0] for row in rows_of(text[text.index("Commands") :]) if not row.startswith("-")]
    commands = [name for name in names if re.fullmatch(r"[a-z-]+", name)]
    assert {"run", "report", "lm-eval"} < set(commands)
    found = {"": options_of(text)}
    for name in commands:
        if name != "lm-eval":  # its help is lm-eval's own
            help_text = cli.done(name, "--help_all" if name in ("run", "sweep") else "--help").out
            found[name] = options_of(help_text)
            assert f"ltm-eval {name}" in help_text.splitlines()[1] + help_text.splitlines()[0]
            assert "--help" in found[name]
    check("help", found, exact=True)
    codes = re.findall(r"(\d+) [a-z]+", text[text.index("Exit codes") :])
    assert codes == ["0", "1", "2", "3", "4", "5", "6", "7", "130"]


def test_hyphens_and_the_short_help(cli: Commands) -> None:
    assert cli.done("report", "-h").out == cli.done("report", "--help").out
    assert cli.done("run", "--help").out == cli.done("run", "-h").out
    assert cli.run().out == cli.done("--help").out


MAIN = "model tasks num_fewshot baseline data limit condition t_fast rows output_path help_all help"


def test_the_help_of_run_shows_ten_options_and_says_how_to_see_all(cli: Commands) -> None:
    rows = rows_of(cli.done("run", "--help").out)
    shown = [re.match(r"--(\w+)", row) for row in rows]
    assert {name[1] for name in shown if name} == set(MAIN.split())


def test_version(cli: Commands) -> None:
    import importlib.metadata

    assert cli.done("--version").out.strip() == f"ltm-eval {importlib.metadata.version('ltm-eval')}"


def test_help_of_lm_eval_is_its_own(cli: Commands) -> None:
    assert "Language Model Evaluation Harness" in cli.done("lm-eval", "--help").out
