"""A folder of runs as a person means it: which runs share a column, what columns are called, what is folded away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import ltm_eval
from ltm_eval import cli
from tests.fake_runs import DATE, TASK, write_ppl_run, write_run

if TYPE_CHECKING:
    from pathlib import Path

Right = Any
PPL_TASK = "ltm_ptb"


def right(index: int) -> bool:
    return index % 2 == 0


class Folder:
    """Results as `run` leaves them: one file a command and model, each a second later than the one before."""

    def __init__(self, path: Path) -> None:
        self.path, self.commands = path, 0

    def _redated(self, made: Path, model: str) -> Path:
        self.commands += 1
        date = f"2026-01-02T03-{self.commands:02}-05.000006"
        target = self.path / model.replace("/", "__")
        target.mkdir(parents=True, exist_ok=True)
        for file in list(made.parent.iterdir()):
            file.rename(target / file.name.replace(DATE, date))
        return target / made.name.replace(DATE, date)

    def ltm(self, *tasks: str, digest: str = "a" * 64, step: int = 7, **settings: Any) -> Path:
        """One file of one LTM; `settings`: t_fast, condition, seed, n, name, shots."""
        name, n = settings.get("name", "demo"), settings.get("n", 8)
        fit = {"preset": "bound", "t_fast": settings.get("t_fast", 2)}
        config = {
            "model": "ltm",
            "model_args": {"pretrained": name},
            "model_sha": digest,
            "checkpoint": {"step": step},
            "fit": fit,
            "condition": settings.get("condition", "prompt"),
            "latent_seed": settings.get("seed", 1234),
            "rows": {"draws": 8, "causal": None},
            "limit": settings.get("limit"),
        }
        extra = {"settings": fit, **settings.get("extra", {})}
        return self._written(tasks, name, config, n=n, shots=settings.get("shots", 2), extra=extra)

    def baseline(self, *tasks: str, name: str = "gpt2-demo", n: int = 8, shots: int = 2, **arguments: Any) -> Path:
        """One file of a baseline, as `run` writes it, or with `foreign` as lm-eval does."""
        foreign = arguments.pop("foreign", False)
        config = {"model": "hf", "model_args": {"pretrained": name, **arguments}, "random_seed": 1234}
        return self._written(
            tasks, name, config, n=n, shots=shots, extra=None if foreign else {"settings": {"model": "demo"}}
        )

    def _written(
        self, tasks: tuple[str, ...], name: str, config: dict[str, Any], *, n: int, shots: int, extra: Any
    ) -> Path:
        kind = config["model"]
        scratch = self.path.parent / f"scratch-{self.path.name}-{self.commands}"
        change = {"config": config}
        made: list[Path] = []
        if TASK in tasks:
            path = write_run(
                scratch / "g", model=name, right=right, n=n, kind=kind, shots=shots, extra=extra, change=change
            )
            made.append(path)
        if PPL_TASK in tasks:
            path = write_ppl_run(
                scratch / "p", model=name, nats=lambda i: 30.0 + i, n=n, kind=kind, extra=extra, change=change
            )
            made.append(path)
        if len(made) == 2:  # one command, two tasks: one file
            first, second = (json.loads(path.read_text("utf-8")) for path in made)
            for key, value in second.items():
                if isinstance(value, dict) and key not in ("config", "ltm_eval"):
                    first[key] = {**first.get(key, {}), **value}
            made[0].write_text(json.dumps(first), "utf-8")
            for file in made[1].parent.glob("*.jsonl"):
                file.rename(made[0].parent / file.name)
        return self._redated(made[0], name)

    def page(self, *paths: Path) -> dict[str, Any]:
        """What `report` shows of the folder."""
        target = self.path.parent / "page.json"
        given = [str(path) for path in paths or (self.path,)]
        assert cli.main(["report", *given, "--format", "json", "-o", str(target)]) == 0
        return dict(json.loads(target.read_text("utf-8")))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "B")


def labels(page: dict[str, Any]) -> list[str]:
    return [model["label"] for model in page["models"]]


def compared(page: dict[str, Any]) -> set[tuple[str, str]]:
    """Task and model of every difference."""
    return {(one["task"], one["model"]) for one in page["figures"] if one["first_minus_this"] is not None}


def notes(page: dict[str, Any]) -> list[str]:
    return [banner["text"] for banner in page["banners"] if "older run" in banner["text"]]


def test_two_commands_are_two_columns_and_both_tasks_are_compared(folder: Folder) -> None:
    folder.ltm(TASK)
    folder.baseline(TASK)
    folder.ltm(PPL_TASK, t_fast=2)
    folder.baseline(PPL_TASK)
    page = folder.page()
    assert labels(page) == ["demo", "gpt2-demo"]
    assert compared(page) == {(TASK, "gpt2-demo"), (PPL_TASK, "gpt2-demo")}
    assert not notes(page) and not any("Incomplete" in banner["text"] for banner in page["banners"])


def test_one_command_of_two_tasks_reads_the_same(folder: Folder, tmp_path: Path) -> None:
    folder.ltm(TASK, PPL_TASK)
    folder.baseline(TASK, PPL_TASK)
    apart = Folder(tmp_path / "C")
    for task in (TASK, PPL_TASK):
        apart.ltm(task)
        apart.baseline(task)
    one, other = folder.page(), apart.page()
    assert labels(one) == labels(other)
    assert one["figures"] == other["figures"]


def test_a_task_under_other_steps_is_a_column_more_and_the_other_task_stays(folder: Folder) -> None:
    folder.ltm(TASK, t_fast=2)
    folder.ltm(PPL_TASK, t_fast=2)
    folder.ltm(TASK, t_fast=4)
    folder.baseline(TASK, PPL_TASK)
    page = folder.page()
    assert labels(page) == ["demo · 2 steps", "demo · 4 steps", "gpt2-demo"]
    assert compared(page) == {(TASK, "demo · 4 steps"), (TASK, "gpt2-demo"), (PPL_TASK, "gpt2-demo")}
    assert not any("Incomplete" in banner["text"] for banner in page["banners"])


def test_a_setting_that_a_task_does_not_depend_on_makes_no_column(folder: Folder) -> None:
    """Texts that are scored as a whole have no condition, a greedy baseline no seed."""
    folder.ltm(PPL_TASK, condition="prompt")
    folder.ltm(PPL_TASK, condition="demos")
    page = folder.page()
    assert labels(page) == ["demo"]
    assert notes(page) == [f"demo, {PPL_TASK}: 1 older run not shown."]


def test_conditions_of_a_question_task_are_columns_named_by_them(folder: Folder) -> None:
    folder.ltm(TASK, condition="demos", t_fast=16)
    folder.ltm(TASK, condition="prompt", t_fast=2)
    assert set(labels(folder.page())) == {"demo · demos · 16 steps", "demo · prompt · 2 steps"}


def test_another_limit_is_a_column_and_the_first_one_compares_with_the_baseline(folder: Folder) -> None:
    folder.ltm(TASK, n=4)
    folder.baseline(TASK, n=4)
    folder.ltm(TASK, n=8)
    page = folder.page()
    assert labels(page) == ["demo · 4 documents", "demo · 8 documents", "gpt2-demo"]
    assert (TASK, "gpt2-demo") in compared(page)


def test_older_runs_of_the_same_settings_are_folded_away_with_a_note(folder: Folder) -> None:
    folder.ltm(TASK)
    folder.ltm(TASK)
    newest = folder.ltm(TASK)
    page = folder.page()
    assert labels(page) == ["demo"]
    assert notes(page) == [f"demo, {TASK}: 2 older runs not shown."]
    assert page["models"][0]["paths"] == [newest.as_posix()]


def test_a_file_that_is_named_is_always_shown(folder: Folder) -> None:
    old, new = folder.ltm(TASK), folder.ltm(TASK)
    page = folder.page(old, new)
    assert len(page["models"]) == 2 and not notes(page)
    assert len(set(labels(page))) == 2


def test_two_checkpoints_of_one_training_run_are_two_models(folder: Folder) -> None:
    folder.ltm(TASK, digest="a" * 64, step=1000)
    folder.ltm(TASK, digest="b" * 64, step=2000)
    assert labels(folder.page()) == ["demo · step 1000", "demo · step 2000"]


def test_one_checkpoint_under_two_names_is_one_model(folder: Folder) -> None:
    folder.ltm(TASK, name="demo")
    folder.ltm(PPL_TASK, name="copy-of-demo")
    assert len(labels(folder.page())) == 1


def test_two_baselines_are_both_compared_on_every_task(folder: Folder) -> None:
    folder.ltm(TASK, PPL_TASK)
    for name in ("gpt2", "gpt2-large"):
        for task in (TASK, PPL_TASK):
            folder.baseline(task, name=name)
    page = folder.page()
    assert labels(page) == ["demo", "gpt2", "gpt2-large"]
    assert compared(page) == {(task, name) for task in (TASK, PPL_TASK) for name in ("gpt2", "gpt2-large")}


def test_shots_that_both_models_were_asked_under_come_first(folder: Folder) -> None:
    for shots in (0, 8):
        folder.ltm(TASK, shots=shots)
    folder.baseline(TASK, shots=0)
    assert labels(folder.page()) == ["demo · 0 shots", "demo · 8 shots", "gpt2-demo"]


def test_shots_that_did_not_fit_are_told_where_shots_are(folder: Folder) -> None:
    for shots, used in ((8, 8.0), (32, 9.25)):
        told = {TASK: {"in_prompt": shots, "used": used, "fewest": 7, "most": 11}}
        folder.ltm(TASK, shots=shots, extra={"shots": told})
    page = folder.page()
    assert set(labels(page)) == {"demo · 8 shots", "demo · 9.25 of 32 shots fit"}
    assert [one["note"] for one in page["figures"] if one["shots"] == 32] == ["9.25 of 32 shots fit"] * 2
    assert not [one for one in page["figures"] if one["shots"] == 8 and "fit" in one["note"]]


def test_of_a_sweep_its_first_combination_stands_for_all(folder: Folder) -> None:
    folder.ltm(TASK)
    cell = folder.ltm(TASK, condition="prior", extra={"sweep_cell": "prior_2-shot"})
    assert labels(folder.page()) == ["demo"]
    assert labels(folder.page(cell)) == ["demo"]


def test_an_unfinished_run_gives_way_to_a_finished_one(folder: Folder) -> None:
    done = folder.ltm(TASK)
    folder.ltm(TASK, extra={"status": "incomplete"})
    page = folder.page()
    assert page["models"][0]["paths"] == [done.as_posix()] and not notes(page)


def test_results_of_stock_lm_eval_follow_the_same_rule(folder: Folder) -> None:
    folder.baseline(TASK, name="gpt2", foreign=True, batch_size=4)
    folder.baseline(PPL_TASK, name="gpt2", foreign=True, batch_size=8)
    assert labels(folder.page()) == ["gpt2"]
    folder.baseline(TASK, name="gpt2", foreign=True, load_in_4bit=True)
    assert set(labels(folder.page())) == {"gpt2 · default options", "gpt2 · load_in_4bit=true"}


def test_compare_takes_the_newest_of_each_task_of_a_folder(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    for task in (TASK, PPL_TASK):
        folder.ltm(task)
        folder.baseline(task)
    folder.ltm(TASK, t_fast=4)
    capsys.readouterr()
    for given in (("demo", "gpt2-demo"), ("",)):
        paths = [str(folder.path / name) for name in given]
        assert cli.main(["compare", *paths, "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {one["task"] for one in found["comparisons"]} == {TASK, PPL_TASK}
        assert [(run["model"], run["kind"]) for run in found["runs"]] == [("demo", "ltm"), ("gpt2-demo", "hf")]


def test_compare_takes_the_newest_runs_that_compare(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.ltm(TASK)
    folder.baseline(TASK)
    folder.ltm(TASK, n=3, limit=3)
    capsys.readouterr()
    paths = [str(folder.path / name) for name in ("demo", "gpt2-demo")]
    assert cli.main(["compare", *paths, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"demo, {TASK}: 1 newer run not compared (other limit)." in [one["text"] for one in found["banners"]]
    assert {one["documents"] for one in found["comparisons"]} == {8}
    assert cli.main(["compare", *paths, "--format", "json", "--allow_mismatch"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["documents"] == 3


def test_compare_names_two_folders_of_one_model_by_where_they_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("old", "new"):
        Folder(tmp_path / name).ltm(TASK)
    assert cli.main(["compare", str(tmp_path / "new"), str(tmp_path / "old"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["label"] for run in found["runs"]] == ["demo · new", "demo · old"]


def test_the_index_lists_every_run_under_a_name_of_its_own(folder: Folder, tmp_path: Path) -> None:
    folder.ltm(TASK)
    folder.ltm(TASK)
    folder.ltm(TASK, t_fast=4)
    assert cli.main(["index", str(folder.path), "--format", "json", "-o", str(tmp_path / "index.json")]) == 0
    runs = json.loads((tmp_path / "index.json").read_text("utf-8"))["runs"]
    assert [run["model"] for run in runs] == ["demo · 4 steps", "demo · 2 steps", "demo · 2 steps #2"]


def test_a_task_that_the_first_checkpoint_lacks_is_compared_by_the_next(folder: Folder) -> None:
    folder.ltm(TASK, digest="a" * 64, step=1000)
    folder.ltm(TASK, PPL_TASK, digest="b" * 64, step=2000)
    folder.baseline(TASK, PPL_TASK)
    page = folder.page()
    assert (PPL_TASK, "gpt2-demo") in compared(page)
    assert any(text.startswith("demo · step 2000") and PPL_TASK in text for text in verdicts(page))


def verdicts(page: dict[str, Any]) -> list[str]:
    return [verdict["text"] for verdict in page["verdicts"]]


def test_the_frame_holds_the_figures_of_the_report(folder: Folder) -> None:
    folder.ltm(TASK, PPL_TASK)
    folder.baseline(TASK, PPL_TASK)
    found = ltm_eval.figures(folder.path)
    shown = [one for one in folder.page()["figures"] if not one["status"].startswith("published")]
    assert [one.record() for one in found] == shown
    frame = found.frame()
    assert list(frame.columns) == list(shown[0]) and len(frame) == len(shown)
    accuracy = frame[(frame.metric == "exact_match") & (frame["filter"] == "strict-match")]
    assert accuracy.set_index("model").value.to_dict() == {"demo": 0.5, "gpt2-demo": 0.5}
    assert frame.dtypes["documents"] == "Int64" and set(frame.relation) == {"", "≤"}
