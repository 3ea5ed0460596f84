"""Runs compared by document: pairing, refusals, what follows from bounds, and the command."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from fake_runs import AUDIT, DATE, PPL_TASK, TASK, write_ppl_run, write_run

from ltm_eval import cli
from ltm_eval.report.comparison import document
from ltm_eval.report.tables import RENDERERS, as_terminal
from ltm_eval.results.compare import Series, compare, conclusion
from ltm_eval.results.files import find_runs
from ltm_eval.results.statistics import ppl
from ltm_eval.system.errors import RefusedError, ResultsError, UsageError
from ltm_eval.system.files import write_json_atomic, write_jsonl_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.results.compare import Comparisons


def often(index: int) -> bool:
    return index % 4 != 3


def rarely(index: int) -> bool:
    return index % 4 == 0


def two(folder: Path, **options: Any) -> list[str]:
    """Two runs, the first one right on three quarters of 40 documents, the second on one."""
    first = write_run(folder / "a", model="ltm-x", right=often, n=40, kind="ltm")
    second = write_run(folder / "b", model="gpt2-x", right=rarely, **{"n": 40, **options})
    return [str(first), str(second)]


def texts(
    folder: Path, *, ours: float, theirs: float, kinds: tuple[str, str] = ("ltm", "hf"), **options: Any
) -> list[str]:
    """Two runs of a perplexity set whose documents cost about so many nats."""
    first = write_ppl_run(folder / "a", model="x", nats=lambda i: ours + i % 3, n=12, kind=kinds[0], **options)
    second = write_ppl_run(folder / "b", model="y", nats=lambda i: theirs + i % 2, n=12, kind=kinds[1])
    return [str(first), str(second)]


def of(paths: list[str], **options: Any) -> Comparisons:
    return compare(find_runs(paths), **options)


def test_documents_are_paired_and_the_first_filter_is_the_headline(tmp_path: Path) -> None:
    strict, flexible = of(two(tmp_path)).rows
    assert (strict.task, strict.first.filter, strict.headline) == (TASK, "strict-match", True)
    assert (flexible.first.filter, flexible.headline, flexible.p_holm) == ("flexible-extract", False, None)
    assert strict.found.contest is not None
    assert (strict.found.contest.both, strict.found.contest.first, strict.found.contest.second) == (10, 20, 0)
    # Twenty documents differ, all one way: exact McNemar 2 / 2^20.
    assert strict.found.p_value == strict.p_holm == pytest.approx(2 / 2**20)
    assert (strict.found.estimate, strict.verdict) == (0.5, "better")


def test_the_order_of_a_samples_file_changes_nothing(tmp_path: Path) -> None:
    paths = two(tmp_path)
    before = document(of(paths)).data
    (samples,) = (tmp_path / "b").glob("*/samples_*")
    samples.write_text("".join(reversed(samples.read_text("utf-8").splitlines(keepends=True))), "utf-8")
    assert document(of(paths)).data == before


def test_holm_counts_every_task_and_every_run(tmp_path: Path) -> None:
    paths = two(tmp_path)
    third = write_run(tmp_path / "c", model="third", right=lambda i: i % 4 != 3 or i == 7, n=40)
    rows = [row for row in of([*paths, str(third)]).rows if row.headline]
    assert [row.other for row in rows] == ["gpt2-x", "third"]
    # 2 / 2^20 times two tests; one differing document of 40 says nothing.
    assert [row.p_holm for row in rows] == pytest.approx([4 / 2**20, 1.0])
    assert [row.verdict for row in rows] == ["better", "open"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shots": 0}, "shots 2 against 0; other prompts in 40 of 40 documents"),
        ({"n": 30}, "documents 40 against 30"),
        ({"change": {"versions": {TASK: 2.0}}}, "task versions 1.0 against 2.0"),
        ({"extra": {"sample_data": True}}, "bundled sample data against other data"),
    ],
)
def test_runs_that_are_not_like_for_like_are_refused_in_one_line(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    paths = two(tmp_path, **options)
    with pytest.raises(RefusedError, match="not like for like") as caught:
        of(paths)
    assert words in str(caught.value)
    assert "--allow_mismatch" in str(caught.value)
    found = of(paths, allow_mismatch=True)
    assert found.rows
    assert any(words.partition(";")[0] in what for _, _, wrong in found.mismatches for what in wrong)
    assert "Not like for like" in as_terminal(document(found))


def seeded(path: str, **config: Any) -> None:
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    content["config"] |= config
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def test_other_seeds_are_refused_and_a_seed_that_one_does_not_tell_is_not(tmp_path: Path) -> None:
    paths = two(tmp_path)
    seeded(paths[0], fewshot_seed=1)
    of(paths)
    seeded(paths[1], fewshot_seed=2)
    with pytest.raises(RefusedError, match="fewshot seed 1 against 2"):
        of(paths)


def test_other_targets_and_preparation_are_refused(tmp_path: Path) -> None:
    paths = two(tmp_path)
    (samples,) = (tmp_path / "b").glob("*/samples_*")
    samples.write_text(samples.read_text("utf-8").replace("She has 0 + 2", "He has 0 + 2"), "utf-8")
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    original = [json.loads(line) for line in next((tmp_path / "a").glob("*/samples_*")).read_text("utf-8").splitlines()]
    for row, other in zip(rows, original, strict=True):
        row["doc_hash"] = other["doc_hash"]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(RefusedError, match="other targets in 1 of 40"):
        of(paths)
    facts = [{"data": {"sets": {PPL_TASK: {"validation": {"block_tokens": size}}}}} for size in (512, 1024)]
    a = write_ppl_run(tmp_path / "p", model="x", nats=lambda _: 9.0, extra=facts[0])
    b = write_ppl_run(tmp_path / "q", model="y", nats=lambda _: 8.0, extra=facts[1])
    with pytest.raises(RefusedError, match="block_tokens 512 against 1024"):
        of([str(a), str(b)])


def test_unmatched_documents_are_counted(tmp_path: Path) -> None:
    found = of(two(tmp_path, n=30), allow_mismatch=True)
    assert [row.unmatched for row in found.rows] == [(10, 0), (10, 0)]
    assert found.rows[0].found.n == 30
    assert "10 documents of ltm-x and 0 of gpt2-x have no counterpart" in as_terminal(document(found))


def test_different_tasks_are_refused_and_no_common_task_always(tmp_path: Path) -> None:
    paths = two(tmp_path)
    other = str(write_ppl_run(tmp_path / "c", model="y", nats=lambda _: 8.0))
    for allowed in (False, True):
        with pytest.raises(RefusedError, match="share no task"):
            of([paths[0], other], allow_mismatch=allowed)
    with pytest.raises(UsageError, match="neither run has the task 'ptb'"):
        of(paths, tasks=["ptb"])
    assert of(paths, tasks=["gsm8k"]).rows


def test_runs_without_samples_or_alone(tmp_path: Path) -> None:
    paths = two(tmp_path)
    with pytest.raises(UsageError, match="at least 2 runs, got 1"):
        of(paths[:1])
    next((tmp_path / "b").glob("*/samples_*")).unlink()
    with pytest.raises(ResultsError, match="no figure by document.*--log_samples"):
        of(paths)


# Bounds


def test_a_bound_below_an_exact_figure_makes_its_model_better(tmp_path: Path) -> None:
    found = of(texts(tmp_path, ours=10, theirs=30)).rows
    assert (found[0].first.kind, found[0].second.kind, found[0].first.scale) == ("bound", "exact", "bits")
    assert (found[0].headline, found[0].verdict) == (True, "better")
    assert found[0].conclusion == "The first run's bound is below the other's exact figure: the first is better."
    causal = [row for row in found if (row.first.kind, row.second.kind) == ("causal", "exact")]
    assert {row.verdict for row in causal} == {"better"}


def test_a_bound_above_an_exact_figure_proves_nothing(tmp_path: Path) -> None:
    row = of(texts(tmp_path, ours=30, theirs=10)).rows[0]
    assert (row.verdict, row.found.estimate > 0) == ("open", True)
    assert "need not be worse" in row.conclusion


def test_an_exact_figure_above_the_others_bound_is_worse_and_below_it_nothing(tmp_path: Path) -> None:
    above = of(texts(tmp_path / "1", ours=30, theirs=10, kinds=("hf", "ltm"))).rows[0]
    below = of(texts(tmp_path / "2", ours=10, theirs=30, kinds=("hf", "ltm"))).rows[0]
    assert (above.verdict, below.verdict) == ("worse", "open")


def test_bounds_are_ordered_as_bounds_only(tmp_path: Path) -> None:
    found = of(texts(tmp_path, ours=10, theirs=30, kinds=("ltm", "ltm"))).rows
    assert found[0].verdict == "bounds: lower"
    assert "not certain" in found[0].conclusion
    released = [row for row in found if row.first.kind == "as_released"]
    assert {row.verdict for row in released} == {"open"}
    assert all(row.second.kind == "as_released" for row in released)
    assert all("≤" in text for text in (as_terminal(document(of(texts(tmp_path / "x", ours=10, theirs=30)))),))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("ppl_per_token_as_released:ppl_per_token_bound", "no bound; it cannot be set against ppl_per_token_bound"),
        ("ppl_per_token_bound:ppl_per_token_as_released", "no bound; it cannot be set against ppl_per_token_bound"),
        ("kl_per_token:ppl_per_token_bound", "do not measure the same"),
        ("nll_per_token_given_z:bits_per_byte_bound", "do not measure the same"),
    ],
)
def test_as_released_is_never_an_equal_of_a_bound(tmp_path: Path, metric: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        of(texts(tmp_path, ours=10, theirs=30, kinds=("ltm", "ltm")), metrics=[metric])


def test_named_figures(tmp_path: Path) -> None:
    paths = texts(tmp_path, ours=10, theirs=30)
    (row,) = of(paths, metrics=["ppl_per_token_bound:ppl_per_token"]).rows
    assert (row.first.metric, row.second.metric, row.verdict) == ("ppl_per_token_bound", "ppl_per_token", "better")
    (row,) = of(paths, metrics=["bits_per_byte_bound"]).rows
    assert row.second.metric == "bits_per_byte"
    with pytest.raises(UsageError, match="no run has the metric 'bits'"):
        of(paths, metrics=["bits"])


def test_a_bound_that_failed_the_audit_is_left_out(tmp_path: Path) -> None:
    extra = {"audit": {**AUDIT, "is_bound": False, "deficit_nats_per_block": 60.0, "caught": True}}
    found = of(texts(tmp_path, ours=10, theirs=30, extra=extra))
    assert {row.first.kind for row in found.rows} == {"causal"}
    assert any("the audit failed" in why for _, _, why in found.left_out)


def test_other_token_counts_leave_the_figure_per_token_out(tmp_path: Path) -> None:
    paths = texts(tmp_path, ours=10, theirs=30)
    (samples,) = (tmp_path / "b").glob("*/samples_*")
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    for row in rows:
        row["ppl_per_token"][1] += 1
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (results,) = (tmp_path / "b").glob("*/results_*")
    content = json.loads(results.read_text("utf-8"))
    content["results"]["ltm_ptb"]["ppl_per_token,none"] = ppl([row["ppl_per_token"] for row in rows])
    results.write_text(json.dumps(content), "utf-8")
    found = of(paths)
    assert {(row.first.scale, row.first.unit) for row in found.rows} == {("bits", "byte"), ("ppl", "word")}
    assert any("count tokens differently" in why for _, _, why in found.left_out)


def test_a_figure_that_is_no_mean_of_its_documents_is_left_out(tmp_path: Path) -> None:
    paths = two(tmp_path)
    with open(paths[0], encoding="utf-8") as file:
        content = json.load(file)
    content["results"][TASK]["exact_match,strict-match"] = 0.111
    with open(paths[0], "w", encoding="utf-8") as file:
        json.dump(content, file)
    found = of(paths)
    assert [row.first.filter for row in found.rows] == ["flexible-extract"]
    assert any("disagree" in why for _, _, why in found.left_out)


def series(kind: str, *, higher: bool | None = False) -> Series:
    return Series("m", "none", kind, "mean" if kind == "mean" else "bits", "byte", {}, higher)


@pytest.mark.parametrize(
    ("kinds", "sign", "verdict"),
    [
        (("exact", "exact"), -1, "better"),
        (("causal", "exact"), 1, "worse"),
        (("mean", "mean"), 0, "open"),
        (("bound", "bound"), 1, "bounds: higher"),
        (("part", "part"), -1, "open"),
    ],
)
def test_conclusions(kinds: tuple[str, str], sign: int, verdict: str) -> None:
    assert conclusion(series(kinds[0]), series(kinds[1]), sign)[0] == verdict
    assert conclusion(series("mean", higher=True), series("mean", higher=True), sign)[0] != "bounds: higher"


# Documents and the command


def test_every_format_is_the_same_twice_and_the_json_comes_back(tmp_path: Path) -> None:
    paths = texts(tmp_path, ours=10, theirs=30)
    for render in RENDERERS.values():
        assert render(document(of(paths))) == render(document(of(paths)))
    found = json.loads(RENDERERS["json"](document(of(paths))), parse_constant=pytest.fail)
    assert (found["schema"], [run["model"] for run in found["runs"]]) == ("ltm_eval/compare@1", ["x", "y"])
    first = of(paths).rows[0]
    row = found["comparisons"][0]
    assert (row["difference"], row["p"], row["first_relation"]) == (first.found.estimate, first.found.p_value, "≤")
    table = list(csv.DictReader(io.StringIO(RENDERERS["csv"](document(of(paths))))))
    assert len(table) == len(found["comparisons"])
    assert float(table[0]["difference"]) == first.found.estimate


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two(tmp_path)
    args = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "ltm-x compared with gpt2-x" in out
    assert "20 : 0" in out
    assert cli.main([*args, "--fail_if_worse"]) == 0
    assert cli.main(["compare", *reversed(args[1:]), "--fail_if_worse"]) == 7
    assert capsys.readouterr().err == f"ltm-eval: worse: {TASK} against ltm-x\n"
    assert cli.main([*args, "--format", "md,csv,json,latex,html", "-o", str(tmp_path / "out" / "c")]) == 0
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".csv", ".html", ".json", ".md", ".tex"]
    assert cli.main([*args, "-o", str(tmp_path / "c.md")]) == 0
    assert (tmp_path / "c.md").read_text("utf-8").startswith("# ltm-x compared with gpt2-x")


def test_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two(tmp_path, shots=0)
    args = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert cli.main(args) == 6
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines), len(lines[0]) <= 300) == (1, True)
    assert cli.main([*args, "--allow_mismatch"]) == 0
    assert cli.main([*args, "--format", "pdf"]) == 2
    assert cli.main(["compare", str(tmp_path / "none"), str(tmp_path / "b")]) == 3
    assert "no such file" in capsys.readouterr().err


def test_a_folder_with_baselines_puts_the_ltm_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two(tmp_path)
    shutil.copytree(tmp_path / "a", tmp_path / "all")
    shutil.copytree(tmp_path / "b", tmp_path / "all", dirs_exist_ok=True)
    assert cli.main(["compare", str(tmp_path / "all"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["label"] for run in found["runs"]] == ["ltm-x", "gpt2-x"]


def write_plain(folder: Path, *, kind: str, metrics: dict[str, list[Any]], task: str = "lambada_openai") -> str:
    """A run of one of lm-eval's own tasks, as lm-eval logs it: any metric, by document."""
    count = len(next(iter(metrics.values())))
    values = {
        f"{name},none": None if isinstance(rows[0], list) else sum(rows) / count for name, rows in metrics.items()
    }
    if "perplexity" in metrics:
        values["perplexity,none"] = math.exp(-sum(metrics["perplexity"]) / count)
    path = folder / f"results_{DATE}.json"
    content = {
        "results": {task: values},
        "higher_is_better": {task: {"acc": True}},
        "n-samples": {task: {"original": count, "effective": count}},
        "config": {"model": kind},
        "model_name": f"{kind}-model",
    }
    write_json_atomic(path, content)
    rows = [
        {
            "doc_id": i,
            "doc": {"text": f"text {i}"},
            "arguments": [],
            "target": "t",
            "metrics": list(metrics),
            "filter": "none",
        }
        | {name: rows[i] for name, rows in metrics.items()}
        for i in range(count)
    ]
    write_jsonl_atomic(folder / f"samples_{task}_{DATE}.jsonl", rows)
    return str(path)


def test_last_word_accuracy_is_the_headline_and_its_perplexity_is_over_targets(tmp_path: Path) -> None:
    ours = {"perplexity": [-1.0, -2.0, -3.0, -2.0], "acc": [1.0, 1.0, 0.0, 1.0]}
    theirs = {"perplexity": [-2.0, -2.0, -4.0, -4.0], "acc": [0.0, 1.0, 0.0, 1.0]}
    paths = [write_plain(tmp_path / k, kind=k, metrics=m) for k, m in (("a", ours), ("b", theirs))]
    acc, perplexity = of(paths).rows
    assert (acc.first.metric, acc.headline) == ("acc", True)
    # lm-eval's lambada perplexity: exp of minus the mean log-likelihood of the last words.
    assert (perplexity.found.first, perplexity.found.second) == pytest.approx((math.exp(2), math.exp(3)))


def test_what_an_ltm_answers_lm_evals_rolling_tasks_is_a_bound(tmp_path: Path) -> None:
    pairs = {"word_perplexity": [[-10.0, 4], [-12.0, 5]], "bits_per_byte": [[-10.0, 20], [-12.0, 24]]}
    paths = [write_plain(tmp_path / k, kind=k, metrics=pairs, task="wikitext") for k in ("ltm", "hf")]
    found = of(paths).rows
    assert [(row.first.unit, row.first.kind, row.second.kind) for row in found] == [
        ("byte", "bound", "exact"),
        ("word", "bound", "exact"),
    ]
    assert found[1].found.first == pytest.approx(math.exp(22 / 9))
