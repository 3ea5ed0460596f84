"""The page: its figures, its warnings, and that no text of a model or a data set can change its structure."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_runs import AUDIT, TASK, write_ppl_run, write_run
from hostile import HOSTILE, INVISIBLE, MARKUP, Structure, assert_inert

from ltm_eval import __version__
from ltm_eval.report.page import build, document, render, write
from ltm_eval.report.plots import shortened
from ltm_eval.report.tables import RENDERERS
from ltm_eval.results.files import find_runs
from ltm_eval.results.statistics import WILSON, wilson_interval
from ltm_eval.system.errors import MachineError, ResultsError
from ltm_eval.system.text import cut, number, p_words, short, signed, signed_bits, visible

if TYPE_CHECKING:
    from ltm_eval.report.page import ReportData, TaskSection
    from ltm_eval.results.views import Figure

DATA = Path(__file__).parent / "data" / "report"
SNAPSHOT = DATA / "page_data.json"
PAGE = DATA / "plain_page.txt"
RENEW = "RENEW_SNAPSHOTS" in os.environ


def right(index: int) -> bool:
    return index % 2 == 0


def half_as_often(index: int) -> bool:
    return index % 4 == 0


def write_two(folder: Path, *, n: int = 40, **options: Any) -> None:
    """An LTM that is right on every second document and a baseline that is on every fourth."""
    extra = {
        "warnings": ["3 prompts were cut"],
        "command": "python -m ltm_eval run --task gsm8k",
        "data": {"gsm8k": {"rows": n}},
        "provenance": {"commit": "abc", "dirty": False},
    }
    write_run(folder, model="ltm-x", right=right, n=n, kind="ltm", latents=True, extra=extra)
    write_run(folder, model="gpt2-x", right=half_as_often, n=n, **options)


def data_of(folder: Path) -> ReportData:
    return build(find_runs([folder]))


def only(data: ReportData) -> TaskSection:
    (section,) = data.tasks
    return section


def baseline_row(data: ReportData) -> Figure:
    return only(data).tables[0].rows[1]


# Figures


def test_snapshot_of_the_page_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RENEW_SNAPSHOTS=1 pytest tests/test_report.py` writes it anew; read the difference before committing it."""
    monkeypatch.chdir(tmp_path)
    write_two(Path("runs"), n=6)
    found = json.loads(RENDERERS["json"](document(data_of(Path("runs")))))
    del found["version"]
    found["figures"] = [one for one in found["figures"] if one["source"] == ""]
    for one in found["figures"]:  # the values of differences are tested where they are computed
        one["low"], one["high"] = round(one["low"], 6), round(one["high"], 6)
        for name in ("first_minus_this_low", "first_minus_this_high", "p", "p_holm"):
            one[name] = one[name] is not None
    for verdict in found["verdicts"]:
        verdict["text"] = re.sub(r"interval .*, p [=<] [\d.]+", "interval …", verdict["text"])
    if RENEW:
        SNAPSHOT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_snapshot_of_the_page() -> None:
    """What a reader reads on the page of another model's results, line by line; renewed like the one above."""
    html = re.sub(r"<(style|script|svg).*?</\1>", "", render(data_of(DATA / "plain")), flags=re.DOTALL)
    shown = (
        "".join(Structure(html).text).replace(str(DATA), "DATA").replace(f"ltm_eval {__version__}", "ltm_eval VERSION")
    )
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    found = "".join(f"{line}\n" for line in lines if line)
    if RENEW:
        PAGE.write_text(found, encoding="utf-8")
    assert found == PAGE.read_text(encoding="utf-8")


def test_scores_and_paired_difference(tmp_path: Path) -> None:
    write_two(tmp_path)
    data = data_of(tmp_path)
    ours, theirs = only(data).tables[0].rows
    assert (ours.model, ours.value, ours.difference) == ("ltm-x", 0.5, None)
    # Wilson's interval of 20 in 40: 0.5 +- 0.148 (centre 0.5, half-width z/(1+z²/n)·sqrt(0.25/n+z²/4n²)).
    assert (ours.low, ours.high) == pytest.approx((0.352, 0.648), abs=1e-3)
    assert (theirs.value, theirs.n, theirs.n_shot, theirs.interval) == (0.25, 40, 2, "Wilson")
    found = theirs.difference
    assert found is not None
    assert (found.estimate, found.n, found.discordant, found.other_prompts, found.unpaired) == (0.25, 40, 10, 0, 0)
    # Ten documents of 40 go to the LTM and none to the baseline: exact McNemar p = 2 / 2^10.
    assert found.p_value == pytest.approx(2 / 1024)
    assert 0 < found.low < 0.25 < found.high
    assert found.verdict == "better"
    (row,) = data.findings
    assert row.sentence.startswith(
        "ltm-x is better than gpt2-x on ltm_gsm8k (exact_match, strict-match): difference +25.0 percentage points, "
    )
    assert (row.word, row.gap, row.why) == ("Better", "+25.0 points", ())
    assert row.ours is not None and row.theirs is not None and (row.ours.value, row.theirs.value) == (0.5, 0.25)


def test_the_ltm_comes_first_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    write_two(tmp_path)
    runs = find_runs([tmp_path])
    assert [run.model_name for run in runs] == ["gpt2-x", "ltm-x"]
    assert build(runs).title == build(runs[::-1]).title == "ltm-x against gpt2-x"


def test_a_worse_model_is_called_worse_and_an_equal_one_is_not_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path, model="ltm-x", right=half_as_often, n=40, kind="ltm")
    write_run(tmp_path, model="better", right=right, n=40)
    write_run(tmp_path, model="equal", right=lambda index: index % 4 == 1, n=40)
    rows = data_of(tmp_path).findings
    assert [(row.kind, row.word) for row in rows] == [("worse", "Worse"), ("open", "Not proven")]
    assert "ltm-x and equal are not distinguishable" in rows[1].sentence


def test_documents_are_paired_by_content_not_by_place(tmp_path: Path) -> None:
    write_two(tmp_path)
    (samples,) = tmp_path.glob("gpt2-x/samples_*")
    samples.write_text(
        "".join(reversed(samples.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8"
    )
    row = baseline_row(data_of(tmp_path)).difference
    assert row is not None
    assert (row.estimate, row.n, row.discordant) == (0.25, 40, 10)


def test_documents_only_one_model_saw_are_left_out_and_counted(tmp_path: Path) -> None:
    write_two(tmp_path)
    write_run(tmp_path, model="gpt2-x", right=half_as_often, n=30)
    data = data_of(tmp_path)
    row = baseline_row(data).difference
    assert row is not None
    assert (row.n, row.unpaired) == (30, 10)
    assert "10 documents were scored by one of the two only" in data.findings[0].why[0]


def test_scores_carry_a_signature_of_the_declared_settings(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "model": "ltm",
        "condition": "prompt",
        "fit": {"preset": "bound", "t_fast": 16},
        "limit": None,
    }
    config |= {"tokenizer": {"name": "gpt2"}, "random_seed": 7, "versions": {"ltm_eval": "0.1.0"}}
    write_run(tmp_path, model="ltm-x", right=right, change={"config": config})
    assert only(data_of(tmp_path)).figures[0].signature == (
        "exact_match|task:ltm_gsm8k@1.0|filter:strict-match|shots:2|condition:prompt|preset:bound|t_fast:16|tok:gpt2"
        "|seed:7|v:0.1.0|lm_eval:0.4.13"
    )


def test_a_mean_that_its_samples_do_not_have_is_pointed_out(tmp_path: Path) -> None:
    write_two(tmp_path, change={"results": {TASK: {"exact_match,strict-match": 0.9}}})
    assert baseline_row(data_of(tmp_path)).note == "the samples' mean is 25.00 %: results and samples disagree"


def test_without_samples_the_standard_error_gives_the_interval(tmp_path: Path) -> None:
    write_two(tmp_path)
    for file in tmp_path.glob("gpt2-x/samples_*"):
        file.unlink()
    data = data_of(tmp_path)
    row = baseline_row(data)
    wilson = wilson_interval(10, 40)  # as with samples: mean and standard error say that each is right or wrong
    assert (row.low, row.high) == pytest.approx((wilson.low, wilson.high))
    assert (row.interval, row.difference, row.note) == (WILSON, None, "no per-document figures to pair")
    assert [banner.kind for banner in data.banners] == ["note"]
    assert [(one.word, one.gap, one.why) for one in data.findings] == [
        ("Not comparable", "–", ("no per-document figures to pair",))
    ]


def test_latents_are_summed_up(tmp_path: Path) -> None:
    write_two(tmp_path)
    (latents,) = only(data_of(tmp_path)).latents
    assert (latents["label"], latents["requests"], latents["truncated"]) == ("ltm-x", 40, 40)
    assert (latents["kl_nats"], latents["kl_nats_per_token"]) == (12.25, 12.25 / 40)
    assert (latents["demonstrations"], latents["demonstrations_read"], latents["demonstrations_fitted"]) == (2, 2, 1)
    assert latents["stop_reasons"] == (("stop_string", 40),)
    assert latents["curve"] is not None
    assert latents["curve"].median == latents["curve"].low == (0.0, -50.0, -80.0, -97.25)


def test_samples_show_prompt_demonstrations_answer_number_and_gold(tmp_path: Path) -> None:
    write_two(tmp_path)
    section = only(data_of(tmp_path))
    assert section.browser is not None
    first = section.browser.samples[1]
    assert first.question == "Question: Mia has 1 apples and picks 2 more. How many apples has she now?\nAnswer:"
    assert [text[:25] for text in first.demonstrations] == ["Question: Mia has 100 app", "Question: Mia has 101 app"]
    assert (first.gold, first.worked[-7:]) == ("3", "\n#### 3")
    ltm, gpt2 = first.answers
    assert ltm.extracted == (("strict-match", "4", "wrong"), ("flexible-extract", "4", "wrong"))
    assert gpt2.responses == (" She has 4 apples.\n#### 4",)


def test_published_figures_stand_beside_their_own_task_only(tmp_path: Path) -> None:
    write_two(tmp_path)
    shown = only(data_of(tmp_path)).published
    assert {(row.model, row.metric, row.shots, row.value) for row in shown} >= {("LTM-L", "pass@5 (%)", 5, 24.6)}
    assert all(section.published == () for section in data_of(DATA / "plain").tasks)


# Warnings


def alarms(folder: Path) -> list[str]:
    return [banner.text for banner in data_of(folder).banners if banner.kind == "alarm"]


def test_a_clean_comparison_has_no_alarm(tmp_path: Path) -> None:
    write_two(tmp_path)
    assert alarms(tmp_path) == []


def test_demo_model_and_sample_data_are_announced(tmp_path: Path) -> None:
    write_two(tmp_path, extra={"demo_model": True, "sample_data": True})
    found = alarms(tmp_path)
    assert found[0].startswith("Demo model, sample data: not GSM8K.")
    assert found[1] == "Different data: only gpt2-x ran on the bundled sample data."


@pytest.mark.parametrize("status", ["running", "incomplete", "complete"])
def test_a_run_that_is_not_finished_is_announced(tmp_path: Path, status: str) -> None:
    write_two(tmp_path, extra={"status": status})
    assert [text.startswith("Unfinished: gpt2-x: ") for text in alarms(tmp_path)] == [True] * (status != "complete")


def test_what_holds_of_several_models_is_said_once_with_their_names(tmp_path: Path) -> None:
    told = {"status": "running", "warnings": ["3 prompts were cut"], "audit": {**AUDIT, "is_bound": False}}
    for model in ("a", "b"):
        write_run(tmp_path, model=model, right=right, n=4, kind="ltm", extra=told)
    write_run(tmp_path, model="c", right=right, n=4, shots=1, extra={"warnings": ["3 prompts were cut", "slow"]})
    write_run(tmp_path, model="d", right=right, n=4, shots=1)
    found = alarms(tmp_path)
    for start in ("Unfinished: a, b: ", "Mismatched prompts: c, d saw other prompts "):
        assert [text.startswith(start) for text in found].count(True) == 1, start
    data = data_of(tmp_path)
    assert list(data.warnings) == [("3 prompts were cut", ("a", "b", "c")), ("slow", ("c",))]
    assert render(data).count("3 prompts were cut") == 1
    for model in ("a", "b"):
        write_ppl_run(tmp_path / "p", model=model, nats=lambda i: 30.0 + i, kind="ltm", extra=told)
    assert [text.startswith("Not a bound: a, b. ") for text in alarms(tmp_path / "p")].count(True) == 1


def test_a_limit_is_announced(tmp_path: Path) -> None:
    write_two(tmp_path, change={"config": {"limit": 40}, "n-samples": {TASK: {"original": 1319, "effective": 40}}})
    assert alarms(tmp_path) == ["Limit 40 used: 40 of 1,319 documents of ltm_gsm8k were scored (gpt2-x)."]


def test_a_limit_of_several_tasks_is_one_alarm() -> None:
    from ltm_eval.report.findings import limit_banners
    from ltm_eval.results.files import Run, RunExtra, TaskResult

    def task(name: str, scored: int | None, whole: int | None) -> TaskResult:
        return TaskResult(name, "1", 0, whole, scored, "", {}, (), None, None, None, None, {})

    def run(limit: float | None, *tasks: TaskResult) -> Run:
        named = {one.name: one for one in tasks}
        return Run(Path("r.json"), "", "m", "hf", {}, named, {}, None, RunExtra(limit=limit))

    ours = run(4, task("x", 4, 1319), task("y", 4, 9), task("z", 2, 2))
    theirs = run(4, task("x", 4, 1319), task("y", 4, 9), task("w", None, None))
    alone = run(None, task("x", 3, 1319), task("w", None, None))
    found = limit_banners([("a", ours), ("b", theirs), ("c", alone)], ["x", "y", "z", "w"])
    assert [banner.text for banner in found] == [
        "Limit 4 used: 4 of 1,319 documents of x, 4 of 9 documents of y were scored (a, b).",
        "Part of the data only: 3 of 1,319 documents of x were scored (c).",
        "Limit 4 used: some documents of w were scored (b).",
    ]


def test_a_limit_that_left_nothing_out_is_no_alarm(tmp_path: Path) -> None:
    write_two(tmp_path, change={"config": {"limit": 40}, "n-samples": {TASK: {"original": 21, "effective": 21}}})
    assert alarms(tmp_path) == []


def test_other_prompts_are_announced_wherever_the_pairs_are_used(tmp_path: Path) -> None:
    write_two(tmp_path, shots=1)
    data = data_of(tmp_path)
    row = baseline_row(data).difference
    assert row is not None
    assert row.other_prompts == 40
    assert (data.findings[0].word, data.findings[0].why) == (
        "Not comparable",
        ("the prompts differ in 40 of 40 documents",),
    )
    found = alarms(tmp_path)
    assert found[0].startswith(
        "Mismatched prompts: gpt2-x saw other prompts than the first model in 40 of 40 documents"
    )
    assert found[1].startswith("Different numbers of demonstrations for ltm_gsm8k: 1, 2.")
    page = render(data)
    assert page.count("answered another prompt than the one shown") == 40
    # In the table of scores, once for both filters, which agree; the summary keeps other settings in rows of their own.
    assert page.count("other prompts</span>") == 1
    assert [row.only for row in data.summary.rows] == ["only shots 2", "only shots 1"]
    assert "only shots 1" in page


def test_other_task_versions_are_announced(tmp_path: Path) -> None:
    write_two(tmp_path, change={"versions": {TASK: 3.0}})
    assert alarms(tmp_path)[0].startswith("Different task versions for ltm_gsm8k: 1.0, 3.0.")


def test_runs_under_several_steps_and_shots_make_a_grid(tmp_path: Path) -> None:
    for steps, shots, every in ((4, 2, 2), (16, 2, 4), (16, 8, 5)):
        config = {"model": "ltm", "model_args": {"pretrained": "m"}, "model_sha": "a" * 64, "condition": "demos"}
        config |= {"fit": {"preset": "bound", "t_fast": steps}, "limit": None}
        run = tmp_path / f"{steps}-{shots}"
        write_run(
            run,
            model="m",
            right=lambda i, k=every: i % k == 0,
            n=40,
            shots=shots,
            kind="ltm",
            change={"config": config},
        )
    grid = only(data_of(tmp_path)).grid
    assert grid is not None
    assert [column.name for column in grid.columns] == ["Model", "Condition", "Shots", "4 fast steps", "16 fast steps"]
    rows = {tuple(cell.text for cell in row) for row in grid.rows}
    assert rows == {("m", "demos", "2", "50.0 %", "25.0 %"), ("m", "demos", "8", "–", "20.0 %")}
    assert all(row[4].note for row in grid.rows)


# The page


def test_the_page_is_one_file_under_a_policy_that_names_its_style_and_script(tmp_path: Path) -> None:
    write_two(tmp_path)
    page = render(data_of(tmp_path))
    structure = Structure(page)
    policy = next(
        dict(attrs)["content"]
        for tag, attrs in structure.elements
        if ("http-equiv", "Content-Security-Policy") in attrs
    )
    assert policy is not None
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    names = {name for _, attrs in structure.elements for name, _ in attrs}
    names |= {name for _, *attributes in structure.drawn for name in attributes}
    assert not names & {"style", "src", "srcset", "action", "xlink:href", "data", "poster"}
    assert not any(name.startswith("on") for name in names)
    links = [value for _, attrs in structure.elements for name, value in attrs if name == "href"]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)|@import|https?://", page.split("</style>")[0] + page.split("<script>")[1])


def test_every_link_has_its_target_and_every_id_is_unique(tmp_path: Path) -> None:
    write_two(tmp_path)
    page = render(data_of(tmp_path))
    ids = re.findall(r' id="([^"]*)"', page)
    links = re.findall(r' href="#([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    assert {"findings", "task-1", "ran", "warnings"} < set(links)


def test_same_results_same_bytes(tmp_path: Path) -> None:
    write_two(tmp_path)
    assert render(data_of(tmp_path)) == render(data_of(tmp_path))


def test_every_figure_of_the_tables_is_on_the_page_without_script(tmp_path: Path) -> None:
    write_two(tmp_path)
    text = " ".join(" ".join(Structure(render(data_of(tmp_path))).text).split())
    for expected in ("50.0 %", "25.0 %", "35.2 to 64.8", "+25.0", "10 of 40", "12.25", "3 prompts were cut", "24.60"):
        assert expected in text.replace("\xa0", " "), expected


def page_with(folder: Path, word: str) -> Structure:
    """The page of two runs that hold `word` wherever a model, a data set or a setting can bring in text."""
    extra = {
        "warnings": [word],
        "demo_model": True,
        "command": word,
        "data": {f"set {word}": word},
        "provenance": {f"x {word}": word},
    }
    config = {"model": f"hf {word}", "model_args": {"pretrained": word}, "model_sha": word, f"k {word}": word}
    write_run(folder, model="ltm-x", right=right, kind="ltm", latents=True, extra=extra, word=word, n=4)
    path = write_run(folder, model="other", right=right, extra=extra, word=word, n=4, change={"config": config})
    for file in (path, *path.parent.glob("samples_*")):  # what another program's files can hold, ours never
        text = file.read_text(encoding="utf-8").replace('"model_name": "other"', f'"model_name": {json.dumps(word)}')
        text = text.replace("exact_match", json.dumps(f"exact_match {word}")[1:-1])
        file.write_text(text.replace("strict-match", json.dumps(f"strict {word}")[1:-1]), encoding="utf-8")
    return Structure(render(data_of(folder)))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Structure:
    return page_with(tmp_path_factory.mktemp("harmless"), "pears")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_inert_in_every_field(tmp_path: Path, harmless: Structure, name: str) -> None:
    """The same page with a harmless word in every place has the same elements and attributes."""
    assert_inert(page_with(tmp_path, HOSTILE[name]), harmless, name=name)


def test_hostile_task_names_are_inert(tmp_path: Path) -> None:
    results = {f"<b>{word}": {"acc,none": 0.5, "acc_stderr,none": 0.1} for word in (*MARKUP, *INVISIBLE, "x" * 5000)}
    write_run(tmp_path, model="m", right=right, n=2, change={"results": results})
    page = Structure(render(data_of(tmp_path)))
    assert not {"b", "img"} & {tag for tag, _ in page.elements}
    assert sum(tag == "h1" for tag, _ in page.elements) == 1
    assert page.open == []


def test_another_models_plain_lm_eval_output_is_rendered() -> None:
    data = data_of(DATA / "plain")
    assert [section.name for section in data.tasks] == ["sums", "texts"]
    text = " ".join("".join(Structure(render(data)).text).split())
    assert "word_perplexity ↓ lower is better" in text
    assert "11.02" in text
    assert "nothing is compared" in text


def test_a_large_run_keeps_the_page_small(tmp_path: Path) -> None:
    """1,319 documents, three models, answers of 40 KB of mark-up."""
    word = "<&" * 1000
    for model in ("ltm-a", "gpt2-b", "gpt2-c"):
        write_run(tmp_path, model=model, right=right, n=1319, word="apples")
    write_run(tmp_path / "long", model="long", right=right, n=60, word=word)
    data = data_of(tmp_path)
    page = render(data)
    assert len(page.encode()) < 5_000_000
    browser = only(data).browser
    assert browser is not None
    assert browser.documents == 1319
    assert len(browser.samples) == 200


def test_samples_stop_where_the_page_would_grow_too_long(tmp_path: Path) -> None:
    for model in ("a", "b", "c"):
        write_run(tmp_path, model=model, right=right, n=60, shots=8, word="<&\x01" * 1500)
    data = data_of(tmp_path)
    browser = only(data).browser
    assert browser is not None
    assert 0 < len(browser.samples) < 60
    assert len(render(data).encode()) < 5_000_000


def test_a_label_that_a_figure_shortens_stands_whole_in_the_tables_with_its_colour(tmp_path: Path) -> None:
    """Bidirectional and control characters are shown by number before a label is shortened."""
    names = [f"run\u202e\u2066/{'checkpoint-' * 20}\x1b{end}" for end in ("60000", "70000")]
    for name, folder in zip(names, "ab", strict=True):
        write_run(tmp_path, model=folder, right=right, n=4, kind="ltm", latents=True, change={"model_name": name})
    page = render(data_of(tmp_path))
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    around = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    for place, name in enumerate(names, 1):
        short = shortened(name)
        assert short.startswith("run⟦U+202E⟧⟦U+2066") and short.endswith(f"␛{name[-5:]}") and len(short) == 36
        assert f">{short}</text>" in drawn and visible(name) not in drawn
        assert f'<span class="mark s{place}" aria-hidden="true"></span>{visible(name)}' in around
    assert not set("\u202e\u2066\x1b") & set(page)


def test_a_metric_that_only_begins_like_pass_at_k_is_a_metric_like_others(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=right, n=4)
    content = json.loads(path.read_text(encoding="utf-8"))
    odd = {f"pass@{k},none": 0.5 for k in ("many", "", "²", "9" * 5000, "-1", "1.5")}
    content["results"][TASK] |= {**odd, "pass@1,none": 0.25, "pass@2,none": 0.5}
    path.write_text(json.dumps(content), encoding="utf-8")
    data = data_of(tmp_path)
    (line,) = only(data).attempts
    assert [point.x for point in line.points] == [1, 2]
    assert "pass@many" in render(data)


def test_nothing_to_report_is_said() -> None:
    with pytest.raises(ResultsError, match="nothing to report"):
        build([])


def test_writing_names_the_place_it_cannot_write(tmp_path: Path) -> None:
    write("<p>", tmp_path / "a" / "r.html")
    assert (tmp_path / "a" / "r.html").read_text(encoding="utf-8") == "<p>"
    with pytest.raises(MachineError, match="cannot write"):
        write("<p>", tmp_path / "a" / "r.html" / "x.html")


def test_importing_the_report_loads_nothing_heavy() -> None:
    code = "import sys, ltm_eval.report.page; print(*sorted(sys.modules))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lm_eval", "datasets", "pandas", "transformers", "matplotlib", "numpy", "jinja2"} & set(names)


def test_building_and_rendering_loads_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys; from ltm_eval.results.files import find_runs; from ltm_eval.report.page import build, render;"
        f"render(build(find_runs([{str(DATA / 'plain')!r}]))); print(*sorted(sys.modules))"
    )
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lm_eval", "datasets", "transformers"} & set(names)


# Text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ’ 漢字 😀\n\ttext", "plain ’ 漢字 😀\n\ttext"),
        ("\x00\x1b\r\x7f", "␀␛␍␡"),
        ("\x85\u202e\ud800\u2028", "⟦U+0085⟧⟦U+202E⟧⟦U+D800⟧⟦U+2028⟧"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_long_text_is_cut_at_whole_characters() -> None:
    assert cut("é" * 2048) == "é" * 2048
    assert cut("é" * 5000).startswith("é" * 2048 + " … [cut: 10,000 bytes in all")
    assert cut("x" + "é" * 5000).startswith("x" + "é" * 2047 + " …")


def test_numbers_are_written_for_readers() -> None:
    assert [signed(value) for value in (4.25, -0.5, 0.0, 12.0)] == ["+4.2", "−0.5", "0.0", "+12.0"]
    assert [p_words(value) for value in (0.0001, 0.0123, 0.5)] == ["< 0.001", "= 0.012", "= 0.50"]
    assert [short(value) for value in (-0.001, -1.5, 1234.567)] == ["0.00", "−1.50", "1,234.57"]
    assert [signed_bits(value) for value in (0.0254, -1.0, 0.0, float("-inf"))] == ["+0.025", "−1.000", "0.000", "−∞"]
    assert number(float("inf")) == "∞"
    values = [number(value) for value in (11.023176, 1.23659, 0.30625, 1234.5, 0.0, -2.5, 3e-5)]
    assert values == ["11.02", "1.237", "0.3063", "1,234", "0.0000", "−2.500", "3.000e−05"]


@pytest.mark.parametrize(
    ("sets", "banner"),
    [
        ({"test": {"official": False, "difference": "12 of 1,319 documents"}}, "12 of 1,319 documents"),
        ({"test": {"official": False, "difference": "this is the train split"}}, "this is the train split"),
        ({"train": {"official": False, "difference": "8 of 7,473 documents"}, "test": {}}, "8 of 7,473 documents"),
        ({"test": {"official": False, "difference": "219 of 1,319 documents", "sample": True}}, ""),
        ({"test": {"official": True, "difference": ""}}, None),
        ({"test": {"official": None, "difference": ""}}, None),
        ({"test": {"difference": 7}, "train": "x"}, None),
        (None, None),
    ],
)
def test_published_figures_stand_beside_the_published_set_only(tmp_path: Path, sets: Any, banner: str | None) -> None:
    """None: no banner, and the figures; empty: no figures, for a reason that another banner gives."""
    write_run(tmp_path, model="m", right=bool, kind="ltm", extra={"data": {"sets": {TASK: sets}}})
    data = build(find_runs([tmp_path]))
    told = [one.text for one in data.banners if "official" in one.text]
    assert (len(data.tasks[0].published) > 0) is (banner is None)
    assert [banner in text for text in told] == ([True] if banner else [])
    if banner:
        assert banner in render(data)
