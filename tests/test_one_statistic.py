"""One interval and one p value for one quantity, whichever command shows it; and what is no score is shown as none."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_runs import AUDIT, DATE, FILTERS, PPL_TASK, TASK, write_ppl_run, write_run

from ltm_eval.report import history
from ltm_eval.report import index as results_index
from ltm_eval.report.comparison import document as compare_document
from ltm_eval.report.page import build, document, render
from ltm_eval.report.tables import RENDERERS
from ltm_eval.results.compare import compare
from ltm_eval.results.effect import effect
from ltm_eval.results.files import find_runs, read_run
from ltm_eval.results.statistics import holm, share_interval, tango_interval, wilson_interval

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.results.files import Run

MODELS = (("ltm-x_step1000", "ltm"), ("gpt2-x_step1000", "hf"), ("gpt2-y_step1000", "hf"))


def fill(folder: Path, *, n: int = 24) -> None:
    """Three models, right-or-wrong answers and two perplexity sets of texts that are not equally long."""
    draw = np.random.default_rng(4)
    for place, (model, kind) in enumerate(MODELS):
        right, noise = draw.random(n) < 0.5 - 0.1 * place, draw.normal(1.0, 0.05, n)
        write_run(folder / str(place), model=model, kind=kind, right=lambda i, r=right: bool(r[i]), n=n)
        for task, cost in (("ltm_ptb", 1.0), ("ltm_lm1b", 1.3)):
            extra = {"audit": AUDIT} if kind == "ltm" else None

            def nats(i: int, k: float = cost * (1 + 0.03 * place), r: Any = noise) -> float:
                return float(k * (30 + i % 5 + i) * r[i])

            write_ppl_run(folder / f"{task}{place}", model=model, nats=nats, n=n, kind=kind, task=task, extra=extra)


def whole(folder: Path) -> list[Run]:
    """The same as three runs of three tasks each."""
    fill(folder)
    for place in range(3):
        (path,) = (folder / str(place)).glob("*/results_*")
        content = json.loads(path.read_text("utf-8"))
        for task in ("ltm_ptb", "ltm_lm1b"):
            (other,) = (folder / f"{task}{place}").glob("*/results_*")
            more = json.loads(other.read_text("utf-8"))
            for key in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
                content[key] |= more[key]
            shutil.copy(samples_of(other), path.parent)
        path.write_text(json.dumps(content), "utf-8")
    return [run for place in range(3) for run in find_runs([folder / str(place)])]


def samples_of(path: Path) -> Path:
    (found,) = path.parent.glob("samples_*")
    return found


def rows_of(made: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(RENDERERS["csv"](made))))


def test_page_and_compare_give_one_difference_interval_and_p(tmp_path: Path) -> None:
    fill(tmp_path)
    for task in ("0", "ltm_ptb0"):
        folder = "" if task == "0" else "ltm_ptb"
        runs = [run for place in range(3) for run in find_runs([tmp_path / f"{folder}{place}"])]
        page = build(runs)
        compared = compare(runs)
        seen = 0
        for row in compared.rows:
            for figure in rows_of(document(page)):
                wanted = "bits per byte" if row.first.scale == "bits" else row.first.metric
                if figure["model"] != row.other or not figure["p"] or figure["filter"] != row.first.filter:
                    continue
                if figure["metric"].rpartition(", ")[2] != wanted or (row.first.kind == "causal"):
                    continue
                seen += 1
                ends = (row.found.interval.low, row.found.interval.high)
                assert (float(figure["first_minus_this_low"]), float(figure["first_minus_this_high"])) == ends
                assert float(figure["first_minus_this"]) == row.found.estimate
                assert float(figure["p"]) == row.found.p_value
                assert figure["p_holm"] == ("" if row.p_holm is None else str(row.p_holm))
        assert seen >= 2


def test_the_first_figure_of_every_task_and_model_is_corrected_as_in_compare(tmp_path: Path) -> None:
    runs = whole(tmp_path)
    data = build(runs)
    assert len(data.models) == 3 and len(data.tasks) == 3
    found = [row.difference for task in data.tasks for table in task.tables for row in table.rows if row.difference]
    found += [one for task in data.tasks if task.perplexity for _, one in task.perplexity.differences]
    heads = [one for one in found if one.p_holm is not None]
    assert len(heads) == 6 < len(found)
    assert sorted(one.p_holm or 0 for one in heads) == sorted(holm([one.p_value for one in heads]))
    assert any(one.p_holm != one.p_value for one in heads)
    assert all(one.verdict == "open" or (one.p_holm or 0) < 0.05 for one in heads)
    assert "Holm" in render(data)
    compared = sorted((row.found.p_value, row.p_holm) for row in compare(runs).rows if row.p_holm is not None)
    assert compared == sorted((one.p_value, one.p_holm) for one in heads)


def test_history_and_index_show_the_pages_intervals(tmp_path: Path) -> None:
    fill(tmp_path)
    for folder in ("0", "ltm_ptb0"):
        (run,) = find_runs([tmp_path / folder])
        page = {(r["task"], r["metric"], r["filter"]): (r["low"], r["high"]) for r in rows_of(document(build([run])))}
        points = rows_of(history.document([run]))
        listed = rows_of(results_index.document(results_index.index(tmp_path / folder), base=tmp_path))
        assert len(points) > 1 and listed
        for row in (*points, *listed):
            assert page[row["task"], row["metric"], row["filter"]] == (row["low"], row["high"])


def test_the_effect_of_demonstrations_is_compares(tmp_path: Path) -> None:
    """The same documents under two conditions, and as two runs."""
    paths = [
        write_run(tmp_path / name, model=name, kind="ltm", right=lambda i, k=every: i % k == 0, n=30, shots=2)
        for name, every in (("demos", 2), ("other", 3))
    ]
    demos, other = map(read_run, paths)
    block = effect([("demos", demos), ("other", other)], reference="demos")
    own = block["tasks"][TASK][0]["cells"][1]
    (row, *_) = compare([other, demos]).rows
    assert own["difference"]["interval"] == {"low": row.found.interval.low, "high": row.found.interval.high}
    assert own["difference"]["p_value"] == row.found.p_value
    assert (own["low"], own["high"]) == (wilson_interval(10, 30).low, wilson_interval(10, 30).high)


def test_where_no_document_differs_every_door_has_the_same_honest_interval(tmp_path: Path) -> None:
    for name, kind in (("a", "ltm"), ("b", "hf")):
        write_run(tmp_path / name, model=name, kind=kind, right=lambda i: i % 2 == 0, n=20)
        write_ppl_run(tmp_path / f"p{name}", model=name, kind="hf", nats=lambda i: 30.0 + i)
    expected = tango_interval(0, 0, 20)
    figures = rows_of(document(build(find_runs([tmp_path / "a", tmp_path / "b"]))))
    told = [row for row in figures if row["p"]]
    assert len(told) == len(FILTERS)
    for row in told:
        assert (float(row["first_minus_this_low"]), float(row["first_minus_this_high"])) == (
            expected.low,
            expected.high,
        )
        assert (row["first_minus_this"], row["p"], row["first_is"]) == ("0.0", "1.0", "open")
    for one in compare(find_runs([tmp_path / "a", tmp_path / "b"])).rows:
        assert one.found.interval == expected
    runs = find_runs([tmp_path / "pa", tmp_path / "pb"])
    (bits,) = [row for row in rows_of(document(build(runs))) if row["p"]]
    assert (bits["first_minus_this"], bits["first_minus_this_low"], bits["p"]) == ("0.0", "", "1.0")
    page = render(build(runs))
    assert "inf" not in page.split("Differences in bits per byte")[1].split("</table>")[0]
    assert "∞" not in RENDERERS["md"](compare_document(compare(runs)))


@pytest.mark.parametrize("change", ["doubled", "cut", "others"])
def test_samples_that_are_not_the_results_give_no_interval(tmp_path: Path, change: str) -> None:
    """25 % of 40 with the interval of 80 or 10 samples, or of samples that are mostly right, was shown before."""
    for name, every in (("a", 2), ("b", 4)):
        path = write_run(tmp_path / name, model=name, right=lambda i, k=every: i % k == 0, n=40)
    rows = [json.loads(line) for line in samples_of(path).read_text("utf-8").splitlines()]
    if change == "doubled":
        rows *= 2
    elif change == "cut":
        rows = [row for row in rows if row["doc_id"] < 12]
    else:
        rows = [row | {"exact_match": 1.0} if row["doc_id"] % 8 else row for row in rows]
    samples_of(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    runs = find_runs([tmp_path])
    data = build(runs)
    for row in (row for table in data.tasks[0].tables for row in table.rows if row.model == "b"):
        assert (row.value, row.low, row.high, row.difference) == (0.25, None, None, None)
        assert "results and samples disagree" in row.note
    whole = [row for table in data.tasks[0].tables for row in table.rows if row.model == "a"]
    assert all(row.low is not None for row in whole)
    assert {(row.word, row.gap) for row in data.findings} == {("Not comparable", "–")}
    assert all("results and samples disagree" in row.why[0] for row in data.findings)
    listed = rows_of(results_index.document(results_index.index(tmp_path / "b"), base=tmp_path))
    assert listed and all(row["low"] == "" for row in listed)
    with pytest.raises(Exception, match="results and samples disagree"):
        compare(runs)


def test_answers_alone_are_no_score_of_999(tmp_path: Path) -> None:
    """`lm_eval --predict_only` writes the metric `bypass`, 999, and gives every sample that too."""
    for name, kind in (("a", "ltm"), ("b", "hf")):
        path = write_run(tmp_path / name, model=name, kind=kind, right=lambda _: True, n=12)
        content = json.loads(path.read_text("utf-8"))
        content["results"][TASK] = {"alias": TASK, "bypass,none": 999, "bypass_stderr,none": "N/A"}
        content["higher_is_better"][TASK] = {"bypass": True}
        path.write_text(json.dumps(content), "utf-8")
        rows = [json.loads(line) for line in samples_of(path).read_text("utf-8").splitlines()][:12]
        for row in rows:
            del row["exact_match"]
            row |= {"filter": "none", "metrics": ["bypass"], "bypass": 999.0}
        samples_of(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    data = build(find_runs([tmp_path]))
    page = render(data)
    table = page.split('aria-label="Scores"')[1].split("</table>")[0]
    assert "999" not in table and "answers only; no score" in table
    assert data.summary.rows == () and data.findings == ()
    assert any(banner.text.startswith(f"Answers only: {TASK}") for banner in data.banners)
    for name in ("md", "latex", "csv", "json"):
        assert "999" not in RENDERERS[name](document(data))
    assert "999" not in RENDERERS["md"](results_index.document(results_index.index(tmp_path), base=tmp_path))


def test_texts_of_which_answers_alone_were_kept(tmp_path: Path) -> None:
    """With `--predict_only` lm-eval gives texts and choices no metric at all and counts none of their documents."""
    path = write_ppl_run(tmp_path, model="m", nats=lambda i: 5.0 + i, n=3)
    content = json.loads(path.read_text("utf-8"))
    content["results"] = {PPL_TASK: {"name": PPL_TASK, "alias": PPL_TASK, "sample_len": 0}}
    content["n-samples"][PPL_TASK] = {"original": 336, "effective": 0}
    content["config"]["limit"] = 3.0
    path.write_text(json.dumps(content), "utf-8")
    texts = [banner.text for banner in build(find_runs([tmp_path])).banners]
    assert f"Answers only: {PPL_TASK} was run with --predict_only by m, so there is no score." in texts
    assert not any("were scored" in text for text in texts)
    assert "0 of 336" not in render(build(find_runs([tmp_path])))
    content["ltm_eval"] = {"settings": {"limit": 3}}  # a run of ours whose every document failed
    path.write_text(json.dumps(content), "utf-8")
    texts = [banner.text for banner in build(find_runs([tmp_path])).banners]
    assert any("0 of 336 documents" in text for text in texts) and not any("Answers only" in text for text in texts)


def test_few_documents_are_said_to_make_intervals_rough(tmp_path: Path) -> None:
    for count in (4, 10):
        write_run(tmp_path / str(count), model="m", right=lambda i: i == 0, n=count)
        texts = [banner.text for banner in build(find_runs([tmp_path / str(count)])).banners]
        assert any("below 10 documents all intervals are rough" in text for text in texts) == (count < 10)


def test_a_perplexity_of_few_blocks_has_an_interval_above_one(tmp_path: Path) -> None:
    write_ppl_run(tmp_path, model="m", nats=lambda i: (5.0, 90.0, 400.0)[i], n=3)
    for samples in (True, False):
        if not samples:
            samples_of(tmp_path / "m" / f"results_{DATE}.json").unlink()
        section = build(find_runs([tmp_path])).tasks[0].perplexity
        assert section is not None
        (line,) = section.rows[0].lines
        for figure, least in ((line.per_token, 1.0), (line.per_byte, 1.0), (line.bits_per_byte, 0.0)):
            assert figure is not None and figure.low is not None and figure.high is not None
            assert least < figure.low < figure.value < figure.high
            assert math.isfinite(figure.high)


def test_pass_at_k_has_one_interval_in_terminal_and_page(tmp_path: Path) -> None:
    """What `run` prints is stored by `repeats.summary`; the page reads the samples."""
    path = write_run(tmp_path, model="m", kind="ltm", right=lambda _: True, n=12)
    values = [i % 4 / 3 for i in range(12)]
    rows = [json.loads(line) for line in samples_of(path).read_text("utf-8").splitlines()]
    for row in rows:
        del row["exact_match"]
        row |= {"metrics": ["pass@1"], "pass@1": values[row["doc_id"]]}
    samples_of(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    content = json.loads(path.read_text("utf-8"))
    spread = float(np.std(values, ddof=1) / math.sqrt(12))
    content["results"][TASK] = {"alias": TASK}
    for name in FILTERS:
        content["results"][TASK] |= {f"pass@1,{name}": sum(values) / 12, f"pass@1_stderr,{name}": spread}
    path.write_text(json.dumps(content), "utf-8")
    expected, kind = share_interval(values)
    for samples in (True, False):
        if not samples:
            samples_of(path).unlink()
        row = build(find_runs([tmp_path])).tasks[0].tables[0].rows[0]
        assert (row.low, row.high) == pytest.approx((expected.low, expected.high)) and row.interval == kind
