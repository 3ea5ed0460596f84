"""`report`, `compare`, `history`, `index` in every format: the same figures in each, and those of the results."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.commands import TASKS, Commands, json_of, lines_of, only
from tests.contract.reference import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMATS = {"html": "html", "md": "md", "csv": "csv", "latex": "tex", "json": "json"}
COMMANDS = ("report", "compare", "history", "index")
# Intervals, tests and what is concluded from them are set in relation to the figures, not stored.
STATISTICS = (
    r"/.*/(low|high|interval|p|p_holm|test|.*_low|.*_high|verdict|conclusion|first_is|note|command|paths?|date|seconds"
    r"|results|differ|differ_.*|version|source)"
)
WORDS = (
    r"/version|/(banners|verdicts|caveat|left_out)(/.*)?|/models/\d+/(settings|sources|warnings|audit|sizes|provenance|versions)(/.*)?"
    r"|/runs/\d+/(warnings|settings)(/.*)?"
)


@pytest.fixture(scope="session")
def written(cli: Commands, pair: Path, shared: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Every command's output in every format, as COMMAND.SUFFIX; `history` over two checkpoints."""

    def make(folder: Path) -> None:
        steps = folder / "steps"
        for step in (4400, 8800):
            shutil.copytree(pair / "demo", steps / str(step))
            path = only(steps / str(step), "results_*.json")
            results = json_of(path)
            results["config"]["checkpoint"]["step"] = step
            results["date"] += step
            if step == 8800:
                results["results"]["ltm_wikitext"]["bits_per_byte_bound,none"] = 2.25
            path.write_text(json.dumps(results), "utf-8")
        places: dict[str, list[object]] = {"report": [pair], "history": [steps], "index": [pair]}
        places["compare"] = [pair / "demo", pair / "gpt2-demo"]
        for command, given in places.items():
            out = cli.done(command, *given, "--format", ",".join(FORMATS), "-o", folder / command).out
            assert out.splitlines() == [f"{command}: {(folder / command).resolve()}.{end}" for end in FORMATS.values()]

    return shared("written", make)


class Page(HTMLParser):
    """Title, headings and tables of a page as texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title, self.headings, self.tables, self.links = "", [], [], []  # type: ignore[var-annotated]
        self._inside: list[str] = []
        self._words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        if tag in ("title", "h1", "h2", "h3", "th", "td", "caption", "script", "style"):
            self._inside.append(tag)
            self._words = []

    def handle_endtag(self, tag: str) -> None:
        if not self._inside or self._inside[-1] != tag:
            return
        self._inside.pop()
        text = " ".join("".join(self._words).replace("\xa0", " ").split())
        if tag == "title":
            self.title = text
        elif tag in ("h1", "h2", "h3"):
            self.headings.append(text)
        elif tag in ("th", "td"):
            self.tables[-1][-1].append(text)

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] not in ("script", "style"):
            self._words.append(data + " ")

    def cell(self, row: str, column: str) -> str:
        """The first cell of a row that begins so, below a head that does."""
        for table in self.tables:
            for line in table:
                for index, head in enumerate(table[0]):
                    if head.startswith(column) and len(line) > index and line[0].startswith(row):
                        return str(line[index])
        raise AssertionError(f"no row {row} with {column} in {self.tables}")


def records_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def typed(text: str) -> Any:
    """A CSV field as JSON has it."""
    if text in ("true", "false"):
        return text == "true"
    if text == "":
        return None
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text) else text.removeprefix("'")


@pytest.mark.parametrize("command", COMMANDS)
def test_json(written: Path, command: str) -> None:
    content = json_of(written / f"{command}.json")
    assert content["schema"] == f"ltm_eval/{command}@1"
    content["figures"] = [one for one in content.get("figures", []) if not one["status"].startswith("published")]
    check(f"{command}_json", content, left_out="|".join((STATISTICS, WORDS)))


LISTS: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
    "report": lambda content: content["figures"],
    "compare": lambda content: content["comparisons"],
    "history": lambda content: content["points"],
    "index": lambda content: [figure for run in content["runs"] for figure in run["figures"]],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_csv_has_the_records_of_json(written: Path, command: str) -> None:
    records = LISTS[command](json_of(written / f"{command}.json"))
    lines = records_of(written / f"{command}.csv")
    assert len(lines) == len(records) > 3
    check(f"{command}_csv", list(lines[0]))
    shared_names = set(lines[0]) & set(records[0])
    assert set(lines[0]) - shared_names == ({"date", "digest", "warnings", "results"} if command == "index" else set())
    for line, record in zip(lines, records, strict=True):
        for name in shared_names:
            found, expected = typed(line[name]), record[name]
            assert found == (None if expected == "" else expected) or str(found) == str(expected), (name, line, record)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", ["html", "md", "tex"])
def test_every_text_form_shows_the_figures(written: Path, command: str, form: str) -> None:
    """To the digits it shows: shares in percent, four digits else; bounds with their sign."""
    text = (written / f"{command}.{form}").read_text("utf-8").replace("\xa0", " ").replace("&nbsp;", " ")
    text = text.replace("\\%", "%").replace("\\_", "_").replace("$\\le$", "≤").replace("$-$", "−")
    shown = {"report": ["≤ 2.415", "2.456", "≤ 186.1", "203.3", "50.0 %", "0.0 %"], "history": ["≤ 2.250", "50.0 %"]}
    shown["compare"] = shown["index"] = shown["report"]
    for figure in [*shown[command], "ltm_rules", "ltm_gsm8k", "ltm_wikitext", "exact_match", "strict-match"]:
        assert figure in text, figure


def test_the_page(written: Path) -> None:
    page = Page((written / "report.html").read_text("utf-8"))
    assert "demo" in page.title and "gpt2-demo" in page.title
    for task in TASKS:
        assert any(task in heading for heading in page.headings)
    assert page.cell("ltm_rules", "demo").startswith("50.0 %")
    assert page.cell("ltm_rules", "gpt2-demo").startswith("0.0 %")
    assert page.cell("ltm_wikitext bits per byte", "demo").startswith("≤ 2.415")
    assert page.cell("ltm_wikitext bits per byte", "gpt2-demo").startswith("2.456")
    assert [link for link in page.links if not link.startswith(("#", "data:", "http"))] == []


@pytest.mark.parametrize("command", ["compare", "history", "index"])
def test_the_other_pages(written: Path, command: str) -> None:
    text = (written / f"{command}.html").read_text("utf-8")
    page = Page(text)
    assert page.title and page.headings
    for task in (*TASKS, "demo"):
        assert task in " ".join([*page.headings, *(cell for table in page.tables for line in table for cell in line)])
    assert "<script src" not in text and "<link" not in text
    if command == "compare":
        assert page.cell("ltm_rules", "A")[:6] == "50.0 %" and page.cell("ltm_rules", "B")[:5] == "0.0 %"


def test_the_page_that_the_run_wrote_has_the_figures_of_report(pair: Path, written: Path) -> None:
    ours, theirs = (Page(path.read_text("utf-8")) for path in (pair / "report.html", written / "report.html"))
    assert ours.title == theirs.title and ours.tables == theirs.tables


@pytest.mark.parametrize("command", COMMANDS)
def test_same_results_same_bytes(cli: Commands, pair: Path, written: Path, tmp_path: Path, command: str) -> None:
    given = {"compare": [pair / "demo", pair / "gpt2-demo"], "history": [written / "steps"]}.get(command, [pair])
    cli.done(command, *given, "--format", ",".join(FORMATS), "-o", written / f"again-{command}")
    for suffix in FORMATS.values():
        again = (written / f"again-{command}.{suffix}").read_bytes()
        assert again == (written / f"{command}.{suffix}").read_bytes(), suffix


def test_figures_are_those_of_the_results_files(pair: Path, written: Path) -> None:
    results = {model: json_of(only(pair / model, "results_*.json"))["results"] for model in ("demo", "gpt2-demo")}
    for name in ("report", "index"):
        figures = LISTS[name](json_of(written / f"{name}.json"))
        for model, tasks in results.items():
            for task in ("ltm_rules", "ltm_gsm8k"):
                expected = {key: value for key, value in tasks[task].items() if key.startswith("exact_match,")}
                found = {
                    f"{one['metric']},{one['filter']}": one["value"]
                    for one in figures
                    if (one["model"], one["task"]) == (model, task)
                }
                assert found == expected
            bound = "_bound" if model == "demo" else ""
            relation = "≤" if bound else ""
            (rate,) = [
                one
                for one in figures
                if (one["model"], one["task"]) == (model, "ltm_wikitext")
                and one["metric"].endswith("bits per byte")
                and one["status"] == "evaluated"
            ]
            assert math.isclose(rate["value"], tasks["ltm_wikitext"][f"bits_per_byte{bound},none"], rel_tol=1e-9)
            assert rate["relation"] == relation and rate["higher_is_better"] is False


def test_intervals_hold_their_figures_and_differences_are_differences(written: Path) -> None:
    figures = LISTS["report"](json_of(written / "report.json"))
    held = [one for one in figures if one["low"] is not None]
    assert len(held) > 8
    for one in held:
        assert one["low"] <= one["value"] <= one["high"] and one["interval"]
    compared = LISTS["compare"](json_of(written / "compare.json"))
    assert len(compared) > 4
    found = 0
    for one in compared:
        assert math.isclose(one["difference"], one["first_value"] - one["second_value"], rel_tol=1e-6, abs_tol=1e-12)
        assert one["difference_low"] <= one["difference"] <= one["difference_high"]
        assert 0 < one["p"] <= 1 and (one["p_holm"] is None) == (not one["headline"])
        assert one["documents"] == 2 and one["verdict"] == "open"
        name = (
            one["second_metric"].replace("ppl_", "perplexity_").replace("_", " ").replace("exact match", "exact_match")
        )
        seen = [
            two
            for two in figures
            if (two["task"], two["model"], two["filter"]) == (one["task"], "gpt2-demo", one["filter"])
            and two["metric"].endswith(name)
            and two["first_minus_this"] is not None
        ]
        for two in seen:
            assert math.isclose(two["first_minus_this"], one["difference"], rel_tol=1e-9)
            assert two["paired_documents"] == 2 and two["first_is"] == "open"
        found += len(seen)
    assert found >= 4


def test_history_goes_by_step(written: Path) -> None:
    content = json_of(written / "history.json")
    (best,) = [one for one in content["best"] if one["metric"].endswith("bits per byte")]
    assert (best["step"], best["value"], best["checkpoints"]) == (8800, 2.25, 2)
    points = [one for one in content["points"] if one["metric"].endswith("bits per byte")]
    assert [(one["step"], one["value"]) for one in points] == [(4400, pytest.approx(2.4154, abs=1e-3)), (8800, 2.25)]
    assert {one["training_run"] for one in points} == {"demo"}


def test_report_of_foreign_results(cli: Commands, root: Path, tmp_path: Path) -> None:
    """lm-eval's own files of a model that this program has never seen."""
    cli.done("report", root / "tests/data/report/plain", "--format", "json", "-o", tmp_path / "page.json")
    found = {
        (one["task"], one["metric"], one["filter"]): one["value"] for one in json_of(tmp_path / "page.json")["figures"]
    }
    assert found[("sums", "exact_match", "strict-match")] == 0.5
    assert found[("sums", "exact_match", "flexible-extract")] == 0.5
    samples = lines_of(only(root / "tests/data/report/plain/gpt2", "samples_sums_*"))
    assert sum(one["exact_match"] for one in samples if one["filter"] == "strict-match") == 2


def test_plots_are_files(cli: Commands, pair: Path, tmp_path: Path) -> None:
    cli.done("report", pair, "-o", tmp_path / "page.html", "--plots_dir", tmp_path / "plots")
    suffixes = [path.suffix for path in (tmp_path / "plots").iterdir()]
    assert set(suffixes) == {".png", ".svg", ".pdf"} and len({suffixes.count(one) for one in set(suffixes)}) == 1
    signs = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    assert all(path.read_bytes().startswith(signs[path.suffix]) for path in (tmp_path / "plots").iterdir())


def test_report_goes_to_the_place_of_its_sources(cli: Commands, pair: Path, tmp_path: Path) -> None:
    shutil.copytree(pair, tmp_path / "results", ignore=shutil.ignore_patterns("report.html"))
    assert cli.done("report", "results", cwd=tmp_path).out.strip() == f"report: {tmp_path / 'results' / 'report.html'}"
    assert cli.done("report", cwd=tmp_path).code == 0
