"""Checkpoints over training steps: where the step is found, what shares a curve, the best one and its caveat."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from fake_runs import write_ppl_run, write_run
from hostile import HOSTILE, Structure, assert_inert

from ltm_eval import cli
from ltm_eval.report.history import CAVEAT, curves_of, document, name_of, step_of
from ltm_eval.report.tables import RENDERERS
from ltm_eval.results.files import find_runs
from ltm_eval.system.errors import ResultsError

if TYPE_CHECKING:
    from pathlib import Path

STEPS = (1000, 2000, 10000)


def checkpoints(folder: Path, *, word: str = "apples", **fit: Any) -> None:
    """Three checkpoints; the middle one is right most often, the last one has the lowest bound."""
    for place, step in enumerate(STEPS):
        config = {"model": "ltm", "model_args": {"pretrained": word}, "checkpoint": {"step": step}}
        config |= {"fit": {"preset": "bound", "t_fast": 16, **fit}}
        name = f"run/ckpt_{step}.pt"
        right = [8, 20, 16][place]
        change = {"config": config}
        write_run(folder / "g", model=name, right=lambda i, k=right: i < k, n=40, kind="ltm", change=change, word=word)
        write_ppl_run(folder / "p", model=name, nats=lambda i, k=place: 40.0 - 5 * k + i % 3, kind="ltm", change=change)


def runs(folder: Path) -> Any:
    return find_runs([folder], newest_only=False)


def test_curves_are_in_order_of_the_steps(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    frame, without = curves_of(runs(tmp_path))
    assert without == [] and set(frame["label"]) == {"run"}
    curves = dict(list(frame.groupby(["task", "metric", "filter"])))
    assert {tuple(curve["step"]) for curve in curves.values()} == {STEPS}
    accuracy = curves["ltm_gsm8k", "exact_match", "strict-match"]
    assert [figure.value for figure in accuracy["figure"]] == [0.2, 0.5, 0.4]
    # Wilson's interval of 20 in 40.
    middle = accuracy["figure"].iloc[1]
    assert (middle.low, middle.high) == pytest.approx((0.352, 0.648), abs=1e-3)
    assert list(accuracy[accuracy["best"]]["step"]) == [2000]
    bits = curves["ltm_ptb", "bound, bits per byte", "none"]
    assert list(bits[bits["best"]]["step"]) == [10000] and all(figure.bound for figure in bits["figure"])
    assert not curves["ltm_ptb", "as_released, perplexity per token", "none"]["best"].any()


def test_other_settings_make_another_curve(tmp_path: Path) -> None:
    checkpoints(tmp_path / "a")
    checkpoints(tmp_path / "b", t_fast=64)
    frame, _ = curves_of(runs(tmp_path))
    assert set(frame[frame["metric"] == "bound, bits per byte"]["label"]) == {"run · 16 steps", "run · 64 steps"}


def test_the_newest_result_of_a_step_counts(tmp_path: Path) -> None:
    checkpoints(tmp_path / "a")
    folder = next((tmp_path / "a" / "g").glob("*_2000.pt"))
    content = json.loads(next(folder.glob("results_*")).read_text("utf-8"))
    content["results"]["ltm_gsm8k"]["exact_match,strict-match"] = 0.9
    (folder / "results_2030-01-01T00-00-00.json").write_text(json.dumps(content), "utf-8")
    frame, _ = curves_of(runs(tmp_path))
    assert [figure.value for figure in frame[frame["filter"] == "strict-match"]["figure"]] == [0.2, 0.9, 0.4]


@pytest.mark.parametrize(
    ("model", "arguments", "step", "name"),
    [
        ("out/ckpt_60000.pt", {}, 60000, "out"),
        ("pythia-70m", {"pretrained": "EleutherAI/pythia-70m", "revision": "step3000"}, 3000, "pythia-70m"),
        ("x/checkpoint-500", {}, 500, "x"),
        ("gpt2-large", {}, None, "gpt2-large"),
        ("stepwise-7b", {}, None, "stepwise-7b"),
        ("ltm-iter=12", {}, 12, "ltm"),
    ],
)
def test_where_the_step_is_found(
    tmp_path: Path, model: str, arguments: dict[str, Any], step: int | None, name: str
) -> None:
    change = {"config": {"model": "hf", "model_args": arguments}, "model_name": model}
    write_run(tmp_path, model="m", right=lambda _: True, change=change)
    (run,) = runs(tmp_path)
    assert (step_of(run), name_of(run)) == (step, name)


def scaled(folder: Path, name: str, right: int, **config: Any) -> None:
    """A run of a model of its own size, fit and training, right on the first `right` of 40 documents."""
    kind = config.pop("kind", "ltm")
    change = {"config": {"model": kind, "model_args": {"pretrained": name}, **config}}
    write_run(folder / name, model=name, right=lambda i: i < right, n=40, kind=kind, change=change)


def strict(runs: Any, x: str) -> dict[str, list[tuple[float, float]]]:
    """Points of exact_match under strict-match, by curve."""
    frame, _ = curves_of(runs, x)
    found: dict[str, list[tuple[float, float]]] = {}
    for row in frame[frame["filter"] == "strict-match"].itertuples():
        found.setdefault(row.label, []).append((getattr(row, x), row.figure.value))
    return found


def test_models_of_several_sizes_share_a_curve(tmp_path: Path) -> None:
    for name, parameters, n_z, right in (("s", 1_000, 3, 8), ("m", 2_000, 6, 12), ("l", 40_000, 6, 20)):
        scaled(tmp_path, name, right, model_num_parameters=parameters, sizes={"max_z_len": n_z})
    scaled(tmp_path, "gpt2", 16, model_num_parameters=5_000, kind="hf")
    assert strict(runs(tmp_path), "parameters") == {"LTM": [(1e3, 0.2), (2e3, 0.3), (4e4, 0.5)], "hf": [(5e3, 0.4)]}
    assert strict(runs(tmp_path), "n_z") == {
        "LTM, 1,000 parameters": [(3, 0.2)],
        "LTM, 2,000 parameters": [(6, 0.3)],
        "LTM, 40,000 parameters": [(6, 0.5)],
    }
    made = document(runs(tmp_path), "n_z")
    assert made.parts[-1].title == "Left out: no latent vectors N_z" and "best" not in made.parts[0].title.lower()
    assert [row[1].text for row in document(runs(tmp_path), "parameters").parts[0].tables[0].rows] == ["s", "m", "l"]


def test_fast_steps_of_one_checkpoint_share_a_curve(tmp_path: Path) -> None:
    for steps, right in ((0, 4), (16, 12), (64, 20)):
        for step in (100, 200):
            fit = {"preset": "bound", "t_fast": steps}
            name = f"a{steps}-ckpt_{step}"
            scaled(tmp_path, name, right + step // 100, fit=fit, checkpoint={"step": step})
            for file in (tmp_path / name).rglob("results_*.json"):
                file.write_text(file.read_text("utf-8").replace(name, f"a-ckpt_{step}"), "utf-8")
    assert strict(runs(tmp_path), "t_fast") == {
        "a · step 100": [(0, 0.125), (16, 0.325), (64, 0.525)],
        "a · step 200": [(0, 0.15), (16, 0.35), (64, 0.55)],
    }


def test_compute_is_told_by_the_checkpoint_or_beside_it(tmp_path: Path) -> None:
    scaled(tmp_path, "x-step1", 8, checkpoint={"step": 1, "training": {"tokens": 10, "flops": 1e12, "formula": "6 P"}})
    scaled(tmp_path, "x-step2", 16, checkpoint={"step": 2}, training={"tokens": 20, "flops": 3e15, "formula": "6 P"})
    scaled(tmp_path, "gpt2", 20, kind="hf")
    assert strict(runs(tmp_path), "flops") == {"x": [(1e12, 0.2), (3e15, 0.4)]}
    made = document(runs(tmp_path), "flops")
    assert made.lead.endswith("FLOPs: 6 P.") and made.parts[-1].title == "Left out: no training FLOPs"
    assert "training_compute.json" in made.parts[-1].sentences[0]
    with pytest.raises(ResultsError, match=r"no run tells its training tokens \(gpt2\); put training_compute\.json"):
        document(runs(tmp_path / "gpt2"), "tokens")


def test_runs_without_a_step_are_listed_and_alone_refused(tmp_path: Path) -> None:
    write_run(tmp_path, model="gpt2", right=lambda _: True)
    with pytest.raises(ResultsError, match=r"no run tells its training step \(gpt2\)"):
        document(runs(tmp_path))
    checkpoints(tmp_path)
    made = document(runs(tmp_path))
    assert made.parts[-1].title == "Left out: no training step"
    assert [row[0].text for row in made.parts[-1].tables[0].rows] == ["gpt2"]


def test_answers_without_a_score_are_refused(tmp_path: Path) -> None:
    """lm-eval's `--predict_only` writes 999 for every metric, which is no figure."""
    checkpoints(tmp_path)
    for file in tmp_path.rglob("results_*.json"):
        told = json.loads(file.read_text())
        for task in told["results"]:
            told["results"][task] = {"alias": task, "bypass,none": 999, "bypass_stderr,none": "N/A"}
        file.write_text(json.dumps(told))
    with pytest.raises(ResultsError, match="no run holds a figure to plot"):
        document(runs(tmp_path))


def test_the_best_checkpoint_comes_with_its_caveat(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    made = document(runs(tmp_path))
    for name in ("html", "md", "json"):
        assert CAVEAT[:60] in RENDERERS[name](made)
    best = {(row["task"], row["metric"]): row for row in json.loads(RENDERERS["json"](made))["best"]}
    assert best["ltm_gsm8k", "exact_match"]["step"] == 2000
    (accuracy, *_) = [row for row in made.parts[0].tables[0].rows if row[0].text == "ltm_gsm8k"]
    assert accuracy[7].note == "inside the best's interval"


def test_csv_has_one_line_per_point(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    made = document(runs(tmp_path))
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"](made))))
    assert len(rows) == len(made.records)
    assert {row["step"] for row in rows} == {"1000", "2000", "10000"}
    assert {row["relation"] for row in rows if row["metric"] == "bound, bits per byte"} == {"≤"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_do_not_change_the_page(tmp_path: Path, name: str) -> None:
    def page(folder: Path, word: str) -> str:
        checkpoints(folder)
        for file in folder.rglob("results_*"):
            content = json.loads(file.read_text("utf-8"))
            content["model_name"] = word
            content["results"] = {word + task: values for task, values in content["results"].items()}
            file.write_text(json.dumps(content), "utf-8")
        return RENDERERS["html"](document(runs(folder)))

    hostile = page(tmp_path / "1", HOSTILE[name])
    harmless = page(tmp_path / "2", "".join(c if c.isspace() else "a" for c in HOSTILE[name]))
    assert_inert(Structure(hostile), Structure(harmless), name=name)
    assert "<svg" in hostile


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints(tmp_path)
    assert cli.main(["history", str(tmp_path)]) == 0
    assert "3 checkpoints" not in capsys.readouterr().err
    assert cli.main(["history", str(tmp_path), "-o", str(tmp_path / "h.html")]) == 0
    assert (tmp_path / "h.html").is_file()
    assert cli.main(["history", str(tmp_path / "none")]) == 3
