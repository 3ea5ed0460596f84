"""docs/FAULTS.md, made from tests/faults.yaml: python -m tests.faults_page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SECTIONS = {
    1: "Command line",
    12: "Checkpoints",
    34: "Tokenizers",
    41: "Data sets and prompts",
    60: "Numerics of the fit",
    67: "Interruption and storage",
    87: "Results, reports, terminals",
    96: "Network",
    100: "Ranks and Ray",
    108: "Files of the user and of strangers",
    115: "Costly files and starved machines",
    121: "Clocks, kills, places and file systems",
}
TABLE = "| # | fault | what happens | code | tests |\n|---|---|---|---|---|\n"
HEAD = """# Faults

What can go wrong, what happens then, and how it is tested. Written from `tests/faults.yaml` by
`python -m tests.faults_page`; `pytest -m faults` runs the cases.

Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 unusable input, 4 machine, 5 incomplete, 6 refused, 130 and 143 signals.
An error is one line of at most 300 characters on stderr.
"""


def page(catalogue: list[dict[str, Any]]) -> str:
    """The page in Markdown."""
    lines = [HEAD]
    for fault in catalogue:
        if fault["id"] in SECTIONS:
            lines.append(
                f"\n## {SECTIONS[fault['id']]}\n\n| # | fault | what happens | code | tests |\n|---|---|---|---|---|\n"
            )
        lines.append(_line(fault))
    return "".join(lines)


def _line(fault: dict[str, Any]) -> str:
    cases = fault.get("cases", [])
    codes = ", ".join(map(str, sorted({case.get("code", 0) for case in cases})))
    tests = [f"{len(cases)} case{'s' if len(cases) != 1 else ''}"] if cases else []
    tests += [f"`{where.removeprefix('tests/')}`" for where in fault.get("where", [])]
    tests += [f"not tested: {fault['untested']}"] if "untested" in fault else []
    cells = (str(fault["id"]), _cell(fault["fault"]), _cell(fault["expect"]), codes, ", ".join(tests))
    return f"| {' | '.join(cells)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    told = yaml.safe_load((HERE / "faults.yaml").read_text("utf-8"))
    target = HERE.parent / "docs" / "FAULTS.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(page(told), "utf-8")
