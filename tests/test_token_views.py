"""Marked texts of the sample browser: the text as it was, levels by size and side, and what is missing is said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ltm_eval.report.page import build, render
from ltm_eval.report.samples import Scored, TokenView, level_words, scored_part, stored, stored_words, token_view
from ltm_eval.report.samples import TokenRun as Run
from ltm_eval.results.files import TokenRecord, find_runs, read_samples
from ltm_eval.results.scores import Entry
from ltm_eval.system.text import FIELD_BYTES, cut
from tests.fake_runs import DATE, PPL_TASK, TASK, write_ppl_run, write_run
from tests.hostile import HOSTILE, Structure
from tests.rich_runs import write_rich

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.report.samples import SampleBrowser

TEXT = "one two\nthree"


def record(characters: tuple[int, ...], nats: tuple[float, ...], **changes: object) -> TokenRecord:
    made = TokenRecord("t", 3, 0, 0, "h", "text", "x", 8, sum(nats), 2.5, characters, nats)
    return replace(made, **changes)  # type: ignore[arg-type]


def scored(*records: TokenRecord) -> list[Scored]:
    return [Scored(f"m{place}", place, one) for place, one in enumerate(records, 1)]


def viewed(text: str, *records: TokenRecord) -> TokenView:
    found = token_view(text, scored(*records))
    assert found is not None
    return found


def test_differences_are_marked_between_common_boundaries() -> None:
    """Negative where the first model spends less, positive where it spends more; small ones are plain."""
    ours = record((3, 4, 1, 5), (2.0, 1.0, 0.25, 6.0))
    theirs = record((3, 1, 4, 2, 3), (1.0, 0.5, 0.25, 1.0, 1.5))
    view = viewed(TEXT, ours, theirs)
    assert view.compares and view.spans == 3
    assert view.runs == (Run("one", 1, 1.0), Run(" two\n", 0, None), Run("three", 2, 3.5))
    assert [(one.text, one.nats, one.difference) for one in view.largest] == [
        ("three", (6.0, 2.5), 3.5),
        ("one", (2.0, 1.0), 1.0),
        (" two↵", (1.25, 0.75), 0.5),
    ]
    turned = viewed(TEXT, theirs, ours)
    assert [run.level for run in turned.runs] == [-1, 0, -2]
    assert viewed(TEXT, ours).runs[1:] == (Run(" two", 1, 1.0), Run("\n", 0, None), Run("three", 3, 6.0))
    assert viewed("a\nb", record((1, 1, 1), (0.0, 2.0, 0.0))).runs[1] == Run("↵\n", 1, 2.0)
    alike = viewed(TEXT, ours, replace(ours, piece_nats=(2.0, 1.49, 0.25, 6.0)))
    assert alike.runs == (Run(TEXT, 0, None),)


@pytest.mark.parametrize(
    ("nats", "compares", "level"),
    [(0.99, True, 0), (1.0, True, 1), (2.0, True, 2), (4.0, True, 3), (0.99, False, 0), (1.0, False, 1)]
    + [(3.0, False, 2), (6.0, False, 3)],
)
def test_levels(nats: float, compares: bool, level: int) -> None:
    one, other = record((13,), (nats,)), record((13,), (0.0,))
    assert viewed(TEXT, one, *([other] if compares else [])).runs[0].level == level
    if compares:
        assert viewed(TEXT, other, one).runs[0].level == -level


def test_levels_in_words() -> None:
    assert level_words("difference") == ("1 to 2", "2 to 4", "4 or more")
    assert level_words("cost") == ("1 to 3", "3 to 6", "6 or more")


def test_a_text_is_cut_as_any_other_field() -> None:
    text = "語" * (FIELD_BYTES // 3 - 1) + "abcdefgh" + "x" * 50
    width = 7
    full = len(text) // width
    characters = (*([width] * full), len(text) - width * full)
    view = viewed(text, record(characters, tuple(float(i % 5) for i in range(full + 1))))
    assert "".join(run.text for run in view.runs) + view.rest == cut(text)
    assert "[cut:" in view.rest and view.spans == full + 1
    assert viewed(TEXT, record((13,), (9.0,))).rest == ""


def test_records_of_another_text_are_not_shown(tmp_path: Path) -> None:
    assert token_view(TEXT, scored(record((12,), (1.0,)))) is None
    assert token_view("", scored(record((), ()))) is None and token_view(TEXT, []) is None
    only = viewed(TEXT, record((12,), (1.0,)), record((13,), (1.0,)))
    assert [one.label for one in only.sums] == ["m2"]
    kept = {"m": stored([record((13,), (1.0,)), record((13,), (2.0,), repeat=1), record((13,), (3.0,), idx=1)])}
    (run,) = find_runs([write_run(tmp_path, model="m", right=bool, n=4)])
    asked = replace(read_samples(run, TASK)[3], prompt_hash="h")
    entry = Entry("m", 1, run, {})
    found = scored_part(kept, entry, asked, "text")
    assert found is not None and found.record.nats == 1.0
    others = ((asked, "answer"), (replace(asked, prompt_hash="g"), "text"), (replace(asked, doc_id=2), "text"))
    assert [scored_part(kept, entry, one, part) for one, part in others] == [None] * 3
    assert scored_part(kept, replace(entry, label="x"), asked, "text") is None


def test_what_is_not_stored_is_said() -> None:
    kept = {"a": stored([record((13,), (1.0,))]), "b": {}}
    assert "--token_nll N" in stored_words({}, ["a", "b"], scored=True, marked=0)[0]
    told = stored_words(kept, ["a", "b"], scored=True, marked=1)
    assert "stored of b" in told[0] and "cost itself" in told[0] and "first 1 document (" in told[1] and len(told) == 2
    assert "report --full" in stored_words({"a": kept["a"]}, ["a"], scored=True, marked=0)[-1]


# On a page


def browsers(folder: Path, *, full: bool = False) -> dict[str, SampleBrowser]:
    data = build(find_runs([folder]), full=full)
    return {task.name: task.browser for task in data.tasks if task.browser is not None}


def test_marks_of_a_page(tmp_path: Path) -> None:
    write_rich(tmp_path)
    found = browsers(tmp_path)
    asked, texts = found[TASK], found[PPL_TASK]
    assert [name for name, _ in asked.marks] == ["difference", "cost"]
    assert texts.marks == (("difference", ("1 to 2", "2 to 4", "4 or more")),)
    assert [view.tokens is not None for view in asked.samples] == [True] * 6 + [False] * 2
    assert [view.tokens is not None for view in texts.samples] == [True] * 6 + [False] * 2
    assert [view.answers[1].tokens is not None for view in asked.samples] == [True] * 6 + [False] * 2
    first = texts.samples[0].tokens
    assert first is not None and [run.level for run in first.runs] == [-2, 0, 3]
    assert [one.kl_nats for one in first.sums] == [12.5, None]
    page = render(build(find_runs([tmp_path])))
    assert page.count('<mark class="l2" title="−2.5">Text 0</mark>') == 1
    for words in ("mean over 8 draws; the KL of 12.50 nats is in no mark", "Largest differences", "(--token_nll)"):
        assert words in page


def test_the_text_is_whole_in_its_marks(tmp_path: Path) -> None:
    write_rich(tmp_path, word=HOSTILE["mark-up"])
    text = json.loads((tmp_path / "gpt2-x" / f"samples_{PPL_TASK}_{DATE}.jsonl").read_text().splitlines()[0])
    page = render(build(find_runs([tmp_path])))
    held = re.findall(r'<pre class="tokens">.*?</pre>', page, re.DOTALL)
    assert text["doc"]["text"] in ["".join(Structure(one).text) for one in held]


def test_results_without_tokens_say_which_option_stores_them(tmp_path: Path) -> None:
    write_run(tmp_path, model="gpt2-x", right=lambda i: True)
    write_ppl_run(tmp_path / "p", model="gpt2-y", nats=lambda i: 30.0)
    for one in browsers(tmp_path).values():
        assert one.marks == () and len(one.marks_notes) == 1
    page = render(build(find_runs([tmp_path])))
    assert page.count("ltm-eval run stores it with --token_nll N") == 2 and "<mark" not in page


def test_marks_give_way_where_there_is_no_room(tmp_path: Path) -> None:
    """Long texts with a mark on every letter: the page keeps its size, says how many are marked, `full` marks all."""
    for model, kind, nats in (("ltm-x", "ltm", 9.0), ("gpt2-x", "hf", 1.0)):
        path = write_ppl_run(
            tmp_path, model=model, nats=lambda i: 30.0, n=40, kind=kind, word="".join(f"w{i} " for i in range(1000))
        )
        samples = path.parent / f"samples_{PPL_TASK}_{DATE}.jsonl"
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        lines = [
            record(
                (1,) * len(row["doc"]["text"]), (nats,) * len(row["doc"]["text"]), task=PPL_TASK,
                doc_id=row["doc_id"], prompt_hash=row["prompt_hash"],
            )
            for row in rows
        ]  # fmt: skip
        (path.parent / f"tokens_{PPL_TASK}_{DATE}.jsonl").write_text(
            "".join(json.dumps(one.to_json()) + "\n" for one in lines)
        )
    data = build(find_runs([tmp_path]))
    page, browser = render(data), data.tasks[0].browser
    assert browser is not None
    marked = sum(view.tokens is not None for view in browser.samples)
    assert 0 < marked < 40 and len(page.encode()) < 5_000_000
    assert f"For room {marked} of them are marked here" in page
    (everything,) = browsers(tmp_path, full=True).values()
    assert all(view.tokens is not None for view in everything.samples)


def test_a_line_end_among_the_largest_spans_is_seen() -> None:
    text = "ab\ncd"
    view = viewed(text, record((2, 1, 2), (1.0, 9.0, 1.0)), record((2, 1, 2), (1.0, 1.0, 1.0)))
    assert view.largest[0].text == "↵" and "\n" not in "".join(span.text for span in view.largest)
