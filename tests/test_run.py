from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ltm_eval
from ltm_eval.cli import main
from ltm_eval.harness.evaluation import folder_name
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import run, settle
from ltm_eval.report.page import build, gather
from ltm_eval.results.columns import columns_of
from ltm_eval.results.files import RunExtra, find_runs
from ltm_eval.system.errors import CheckpointError, DataError, LtmEvalError, UsageError
from ltm_eval.system.files import sample_data_dir
from tests.tiny import run_config, tiny_gpt2

TASK = "ltm_gsm8k"


def config(folder: Path, output: Path, **changes: Any) -> RunConfig:
    return run_config(folder, output, **{"limit": 9, "t_fast": 2, "gen_kwargs": "max_gen_toks=12", **changes})


def scores(path: Path) -> dict[str, float]:
    """Metrics of the one task."""
    values = json.loads(path.read_text())["results"][TASK]
    return {key: value for key, value in values.items() if isinstance(value, float)}


def documents(path: Path) -> list[dict[str, Any]]:
    """Everything in the samples file."""
    (samples,) = path.parent.glob(f"samples_{TASK}_{path.stem.removeprefix('results_')}.jsonl")
    return [json.loads(line) for line in samples.read_text().splitlines()]


def latents(path: Path) -> list[dict[str, Any]]:
    """The sidecar without times."""
    rows = [json.loads(line) for line in next(path.parent.glob(f"latents_{TASK}_*.jsonl")).read_text().splitlines()]
    return sorted(
        ({**row, "fit_seconds": 0, "decode_seconds": 0} for row in rows),
        key=lambda row: (row["doc_id"], row["idx"], row["repeat"]),
    )


def test_the_closing_page_is_the_one_that_report_makes_of_the_folder(folder: Path, tmp_path: Path) -> None:
    """With what was probed there before, and the same bytes."""
    output = tmp_path / "out"
    common = ["--model", str(folder), "--data", "sample", "--output_path", str(output), "--quiet"]
    assert main(["probe", "--task", "rules", "--limit", "1", "--t_fast", "1", "--no-report", *common]) == 0
    outcome = run(config(folder, output, report=True, limit=2))
    assert outcome.report is not None
    page = outcome.report.read_bytes()
    assert b'id="probe-1"' in page and b'id="task-1"' in page
    assert main(["report", str(output), "-o", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == page


def test_the_closing_page_shows_the_folder_s_earlier_runs_too_and_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config(folder, tmp_path, limit=2, report=True))
    assert "earlier run" not in capsys.readouterr().err
    outcome = run(config(folder, tmp_path, report=True, limit=2, seed=5))
    assert outcome.report is not None
    page = outcome.report.read_text(encoding="utf-8")
    assert f"the page {tmp_path / 'report.html'} shows 1 earlier run of this folder too" in capsys.readouterr().err
    assert "· seed 1234" in page and "· seed 5" in page
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_shots_beyond_the_context_and_the_compute_of_training_are_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "run --task gsm8k,svamp,multiarith --shots 32 --limit 1 --t_fast 1 --gen_kwargs max_gen_toks=2 --no-report"
    told = ["--metadata", '{"training_tokens": 1e9, "training_flops": 2e15}']
    assert main([*asked.split(), *told, "-o", str(tmp_path)]) == 0
    (found,) = find_runs([tmp_path])
    assert found.config["training"] == {"tokens": 1e9, "flops": 2e15} and list(found.tasks) == list(
        found.extra.shots or {}
    )
    for task, shots in (found.extra.shots or {}).items():
        (line,) = [
            json.loads(one) for one in (found.tasks[task].latents_path or Path()).read_text("utf-8").splitlines()
        ]
        read = line["demonstrations_read"]
        assert shots == {"in_prompt": 32, "used": read, "fewest": read, "most": read} and 0 < read < 32
    assert "ltm_gsm8k: 12 of 32 shots fit on average (12 to 12)" in capsys.readouterr().out
    assert main([*asked.split(), "--metadata", '{"training_flops": -1}', "-o", str(tmp_path / "b")]) == 2
    assert "metadata: training: flops must be a positive number, got -1" in capsys.readouterr().err


def test_runs_of_one_task_after_the_other_are_one_model_on_the_page(folder: Path, tmp_path: Path) -> None:
    """As one run of both tasks: a column, its commands, its files, and each document's own command."""
    first = run(config(folder, tmp_path, limit=2, command=("ltm-eval", "run", "--seed", "1")))
    options: Any = {"tasks": ("ltm_ptb",), "gen_kwargs": None, "report": True, "limit": 2}
    second = run(config(folder, tmp_path, **options, command=("ltm-eval", "run", "-q")))
    (one,) = columns_of(gather([tmp_path])[0])
    assert [part.path for part in one.parts] == [*first.results, *second.results]
    assert list(one.tasks) == [TASK, "ltm_ptb"] and one.path == second.results[0]
    assert one.seconds == pytest.approx(sum(part.seconds or 0 for part in one.parts))
    assert one.extra.cost is not None and set(one.extra.cost) == {TASK, "ltm_ptb"}
    assert one.extra.floors is not None and set(one.extra.floors) == {"ltm_ptb"}
    assert second.report is not None
    page = second.report.read_text(encoding="utf-8")
    assert 'id="task-2"' in page and "Incomplete: " not in page and "Results files, joined" in page
    assert "<pre>ltm-eval run --seed 1\nltm-eval run -q</pre>" in page
    assert f"ltm-eval run --seed 1 --task {TASK} --documents 0" in page
    run(config(folder, tmp_path, tasks=("ltm_rules",), limit=2, seed=5))
    run(config(folder, tmp_path, limit=2))
    (whole,) = columns_of(gather([tmp_path])[0])
    assert [(part.extra.settings or {})["seed"] for part in whole.parts] == [1234, 5, 1234]  # each task's own
    assert whole.older == {TASK: 1}


def test_a_stranger_s_broken_file_does_not_cost_the_closing_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results_2020-01-01T00-00-00.000000.json").write_text("{", encoding="utf-8")
    outcome = run(config(folder, tmp_path, report=True, limit=2))
    assert outcome.report is not None and b'id="task-1"' in outcome.report.read_bytes()
    assert "the page shows this run alone: " in capsys.readouterr().err


def test_perplexity_on_the_samples_ends_in_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled model and texts on a bare machine: no GPT-2 vocabulary, no folder of data."""

    def absent() -> None:
        raise AssertionError("GPT-2's vocabulary was asked for")

    monkeypatch.setattr("ltm_eval.data.blocks.load_gpt2", absent)
    monkeypatch.delenv("LTM_EVAL_DATA_DIR", raising=False)
    chosen = RunConfig(
        tasks=("ag_news", "lambada_last_word"), limit=2, t_fast=1, rows="bound", output_path=str(tmp_path), quiet=True
    )
    outcome = run(chosen)
    content = json.loads(outcome.results[0].read_text())
    read = content["ltm_eval"]["data"]["sets"]
    facts = read["ltm_ag_news"]["blocks"]
    assert (facts["sample"], facts["block_tokenizer"], facts["block_tokens"]) == (True, "demo", 256)
    assert read["ltm_lambada_last_word"]["blocks"]["sample"] and content["ltm_eval"]["sample_data"]
    assert content["ltm_eval"]["warnings"][0] == "demo model, sample data: not the published sets"
    assert outcome.report is not None
    page = outcome.report.read_text()
    assert "block_tokenizer" in page and "Demo model, sample data: not benchmark results." in page


Case = tuple[tuple[str, ...], str, str]
UNREAD: list[Case] = [
    (("gsm8k",), '{"split": "train"}', "no task of this run reads 'split'. Read are data, data_dir, k, n, rethink"),
    (("ptb",), '{"protocl": "documents"}', "reads 'protocl'. Did you mean 'protocol'?"),
    (("ptb",), '{"ptb_splitt": "test"}', "reads 'ptb_splitt'. Did you mean 'ptb_split'?"),
    (("wikitext", "gsm8k"), '{"ptb_split": "test"}', "reads 'ptb_split'."),
    (("lambada_last_word",), '{"protocol": "documents"}', "reads 'protocol'."),
    (("ptb",), '{"n": 4}', "reads 'n'."),
    (("ppl",), '{"text_set_name": "ptb"}', "reads 'text_set_name'."),
    (("ptb",), '{"version": 2}', "reads 'version'."),
    (("mauve",), '{"mauve_sample": 4}', "reads 'mauve_sample'. Did you mean 'mauve_samples'?"),
    (("mauve_unconditional",), '{"mauve_conditional": true}', "reads 'mauve_conditional'."),
    (("mauve",), '{"n": 4}', "reads 'n'."),
    (("ptb",), '{"protocol": "mdlm", "protocol": "mdlm"}', "'protocol' is given twice"),
    (("ptb",), '{"ptb_split": "test", "split": "test"}', "reads 'split'. Did you mean 'ptb_split'?"),
    (("ptb",), '{"protocol": "documents", "block_tokens": 1024}', "belong to protocol mdlm"),
    (("ptb",), '{"protocol": "documents", "insert_eos": false}', "belong to protocol mdlm"),
    (("gsm8k",), '{"condition": "other"}', "give it as --condition"),
    (("gsm8k",), '{"data": "/elsewhere"}', "data is 'sample', and '/elsewhere' by --metadata; give it once"),
    (("gsm8k",), '["split"]', "must be a JSON object"),
]


@pytest.mark.parametrize("command", ["run", "sweep", "probe"])
@pytest.mark.parametrize("case", UNREAD, ids=lambda case: case[1])
def test_an_option_that_no_task_reads_is_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    case: tuple[tuple[str, ...], str, str],
) -> None:
    tasks, metadata, words = case
    if command == "probe" and len(tasks) > 1:
        pytest.skip("a probe is of one task")
    if command == "sweep" and "belong to protocol" in words:
        pytest.skip("a cell's own error")
    arguments = ["--model", str(folder), "--data", "sample", "--metadata", metadata, "--task", ",".join(tasks)]
    assert main([command, *arguments, "-o", str(tmp_path / "out"), "--quiet"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("ltm-eval: error[2]: ") and words in told
    assert not list((tmp_path / "out").rglob("*.json"))


def test_python_refuses_it_too(folder: Path) -> None:
    for given in ('{"protocl": "documents"}', {"protocl": "documents"}, "[]"):
        with pytest.raises(UsageError, match="metadata"):
            ltm_eval.evaluate(str(folder), tasks=["ptb"], data="sample", metadata=given)


def test_an_option_that_one_task_of_a_sweep_reads_is_heard_there(folder: Path, tmp_path: Path) -> None:
    few = f"--limit 1 --t_fast 1 --gen_kwargs max_gen_toks=2 --model {folder} --data sample --quiet -o {tmp_path}"
    told = ["--task", "ag_news,gsm8k", "--metadata", '{"protocol": "documents", "n": 2}']
    assert main(["sweep", *few.split(), *told]) == 0
    contents = [json.loads(path.read_text()) for path in tmp_path.rglob("results_*.json")]
    found = {name: content for content in contents for name in content["results"]}
    facts = found["ltm_ag_news"]["ltm_eval"]["data"]["sets"]["ltm_ag_news"]["blocks"]
    assert facts["protocol"] == "documents"
    assert "pass@1,strict-match" in found[TASK]["results"][TASK]


def test_a_part_of_a_set_is_said_to_be_one_in_every_output(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results, page and terminal; the demonstrations' file only where some are shown."""
    data = tmp_path / "data" / "rules"
    data.mkdir(parents=True)
    for split in ("train", "test"):
        lines = (sample_data_dir() / "rules" / f"{split}.jsonl").read_text("utf-8").splitlines(keepends=True)
        (data / f"{split}.jsonl").write_text("".join(lines[:-16]), "utf-8")
    test, shown = (
        "ltm_rules: not the official file: 104 of 120 documents",
        "ltm_rules: demonstrations: not the official file: 1,904 of 1,920 documents",
    )
    for shots in (0, 2):
        chosen = config(folder, tmp_path / str(shots), tasks=("rules",), data=str(data.parent), num_fewshot=shots)
        outcome = run(replace(chosen, report=True, limit=2, t_fast=1))
        content = json.loads(outcome.results[0].read_text())["ltm_eval"]
        assert content["data"]["sets"]["ltm_rules"]["test"]["official"] is False
        assert (test in content["warnings"], shown in content["warnings"]) == (True, shots > 0)
        told = capsys.readouterr().err
        assert (told.count(f"ltm-eval: {test}"), told.count(f"ltm-eval: {shown}")) == (1, int(shots > 0))
        assert told.count("not the official file") == 1 + (shots > 0)
        assert outcome.report is not None
        page = outcome.report.read_text()
        assert "Not the official file: 104 of 120 documents (ltm_rules, " in page
        assert ("Demonstrations: not the official file: 1,904 of 1,920 documents" in page) is (shots > 0)
    told = find_runs([outcome.results[0]])[0]
    stock = replace(told, extra=RunExtra())  # as lm-eval's own command writes it, without a record of the data
    words = " ".join(one.text for one in build([stock]).banners)
    assert "Not the official file: 104 of 120" in words and "Demonstrations: not the official file: 1,904" in words
    found = ltm_eval.evaluate(
        str(folder), tasks=["rules"], shots=2, data=str(data.parent), limit=1, t_fast=1, gen_kwargs="max_gen_toks=2"
    )
    assert found["caveats"]["ltm_rules"] == [shown, test]


def test_asking_for_the_samples_by_metadata_is_recorded(folder: Path, tmp_path: Path) -> None:
    chosen = config(
        folder,
        tmp_path,
        tasks=("ltm_ag_news",),
        data="auto",
        metadata='{"data": "sample"}',
        limit=1,
        t_fast=1,
        gen_kwargs=None,
    )
    content = json.loads(run(chosen).results[0].read_text())
    assert content["ltm_eval"]["sample_data"] is True
    questions = config(folder, tmp_path / "q", data="auto", metadata='{"data": "sample"}', limit=1, t_fast=1)
    assert json.loads(run(questions).results[0].read_text())["ltm_eval"]["sample_data"] is True


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"num_fewshot": 32, "data": "{few}"}, UsageError, "2 training examples"),
        ({"condition": "other", "num_fewshot": 2, "data": "{few}"}, UsageError, "training examples"),
        ({"data": "{tmp}"}, DataError, "test.jsonl"),
        ({"baselines": ("{tmp}",)}, CheckpointError, "config.json"),
        ({"gen_kwargs": "do_sample=true,top_q=3"}, UsageError, "'top_p'"),
        ({"gen_kwargs": "do_sample=true"}, UsageError, "sample at temperature 0"),
        ({"gen_kwargs": "temperature=0.7"}, UsageError, "temperature=0.7 has no effect"),
        (
            {"tasks": ("lm1b",), "n": 3},
            UsageError,
            "gen_kwargs and n have no effect because none of the tasks .ltm_lm1b",
        ),
        ({"tasks": ("lm1b",), "gen_kwargs": None, "k": (2,), "n": 2}, UsageError, "n and k have no effect"),
        ({"tasks": ("lambada_last_word",), "gen_kwargs": None, "rethink": 2}, UsageError, "rethink has no effect"),
        ({"model": "{tmp}/absent", "data": "{tmp}/absent"}, LtmEvalError, "checkpoint"),
    ],
)
def test_what_is_wrong_is_named(
    changes: dict[str, Any], error: type[LtmEvalError], words: str, folder: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few" / "gsm8k"
    few.mkdir(parents=True)
    for name in ("train.jsonl", "test.jsonl"):
        lines = (sample_data_dir() / "gsm8k" / name).read_text().splitlines(keepends=True)
        (few / name).write_text("".join(lines[:2]))
    places = {"tmp": str(tmp_path), "few": str(few.parent)}

    def placed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(placed(part) for part in value)
        return value.format(**places) if isinstance(value, str) else value

    with pytest.raises(error, match=words):
        run(config(folder, tmp_path / "out", **{key: placed(value) for key, value in changes.items()}))


def test_what_was_left_open_is_settled_and_said() -> None:
    demo, notes = settle(RunConfig())
    assert (demo.model, demo.data) == ("demo", "sample") and notes == ["demo model, sample data: not GSM8K"]
    _, notes = settle(RunConfig(tasks=("ptb", "lm1b")))
    assert notes == ["demo model, sample data: not the published sets"]
    real, notes = settle(RunConfig(model="x"))
    assert (real.model, real.data, notes) == ("x", "auto", [])
    _, notes = settle(RunConfig(model="x", data="sample", limit=3))
    assert len(notes) == 2


@pytest.mark.parametrize("name", ["..", ".", "/", "../../x", "a/b", "\x1b[31mred", "x" * 400])
def test_folders_stay_below_the_output(name: str, tmp_path: Path) -> None:
    made = folder_name(name)
    assert (tmp_path / made).resolve().parent == tmp_path.resolve() and len(made.encode()) <= 100 and made.isprintable()


def test_samples_beside_the_greedy_answer(folder: Path, tmp_path: Path) -> None:
    (path,) = run(config(folder, tmp_path / "out", n=4, k=(1, 4), limit=3)).results
    rows, records = documents(path), latents(path)
    named = {"exact_match,strict-match", "pass@1,strict-match", "pass@4,flexible-extract", "maj@4,strict-match"}
    assert named <= scores(path).keys()
    assert len(records) == 3 * 5 and len({tuple(row["resps"][1]) for row in rows}) == 3
    assert all(len(set(row["resps"][1])) > 1 for row in rows)
    assert [len(request) for request in rows[0]["stop_reasons"]] == [1, 4]
    assert [len(request) for request in rows[0]["filtered_resps"]] == [1, 4]
    (greedy,) = run(config(folder, tmp_path / "greedy", limit=3)).results
    assert [row["resps"][0] for row in rows] == [row["resps"][0] for row in documents(greedy)]
    (fewer,) = run(config(folder, tmp_path / "fewer", n=2, limit=3)).results
    assert [row["resps"][1] for row in documents(fewer)] == [row["resps"][1][:2] for row in rows]


def test_intervals_and_the_content_free_row_are_in_results_and_page(folder: Path, tmp_path: Path) -> None:
    gpt2 = tiny_gpt2(tmp_path / "gpt2")
    outcome = run(config(folder, tmp_path / "out", n=3, limit=4, baselines=(str(gpt2),), report=True))
    for path in outcome.results:
        content = json.loads(path.read_text())["ltm_eval"]
        sampled, floor = content["sampled"][TASK], content["content_free"][TASK]
        assert sampled["answers"] == {"strict-match": 16, "flexible-extract": 16}
        assert sampled["pass@1,strict-match"]["n"] == 4 and sampled["pass@1,strict-match"]["low"] >= 0
        assert len(floor["answers"]) == 5 and {"pass@1"} <= floor.keys()
        assert [len(row["resps"][1]) for row in documents(path)] == [3] * 8
    assert outcome.report is not None
    page = outcome.report.read_text()
    assert f"Content-free: always the commonest training answer ({floor['answers'][0]})" in page


def test_a_baselines_samples_are_reproducible(folder: Path, tmp_path: Path) -> None:
    gpt2 = tiny_gpt2(tmp_path / "gpt2")
    found = []
    for place in ("a", "b"):
        outcome = run(config(folder, tmp_path / place, n=3, limit=2, baselines=(str(gpt2),)))
        found.append([row["resps"] for row in documents(outcome.results[1])])
    assert found[0] == found[1] and len(set(found[0][0][1])) > 1


def test_models_of_long_paths_have_folders_of_their_own() -> None:
    """Their last 100 bytes may be the same."""
    long = "/x" * 80 + "/ckpt.pt"
    names = [folder_name(f"{start}{long}") for start in ("a", "b")]
    assert len(set(names)) == 2 and all(len(name) == 100 and name.endswith("x__x__ckpt.pt") for name in names)
    assert folder_name("owner/name") == "owner__name" and len(folder_name("é" * 60 + "e").encode()) <= 100


def test_an_output_path_too_long_for_its_files_is_refused_first(folder: Path, tmp_path: Path) -> None:
    """A path may have 4,096 bytes on Linux; a results file in such a folder could never be written."""
    output = tmp_path
    while len(str(output)) < 3800:
        output /= "d" * 100
    with pytest.raises(UsageError, match=r"\d{4} bytes long.*name a shorter one"):
        run(config(folder, output))


def test_both_kinds_of_model_are_told_the_same_decoding_and_the_record_says_it(folder: Path, tmp_path: Path) -> None:
    """transformers would sample from the 50 likeliest tokens where an LTM takes all, unless it is told."""
    gpt2 = tiny_gpt2(tmp_path / "gpt2")
    told = {"do_sample": True, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "max_gen_toks": 3}
    for changes, expected in (
        ({"gen_kwargs": "do_sample=true,temperature=0.5,max_new_tokens=3"}, [told]),
        ({"gen_kwargs": "temperature=0.5,max_gen_toks=3", "n": 2}, [{**told, "do_sample": False}, told]),
    ):
        output = tmp_path / str(len(expected))
        for path in run(config(folder, output, limit=1, baselines=(str(gpt2),), **changes)).results:
            stated = json.loads(path.read_text())["configs"][TASK]["generation_kwargs"]
            assert {name: stated[name] for name in told} == told
            asked = [args["arg_1"] for args in documents(path)[0]["arguments"].values()]
            assert [one["do_sample"] for one in asked] == [one["do_sample"] for one in expected]
            assert {name: asked[-1][name] for name in told} == told


@pytest.mark.parametrize("quiet", [False, True])
def test_one_rule_of_progress_and_of_data_for_both_kinds_of_model(
    folder: Path, tmp_path: Path, quiet: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Plain lines of ours where stderr is no terminal, nothing with --quiet, never lm-eval's bars; data said once."""
    gpt2 = tiny_gpt2(tmp_path / "gpt2")
    (tmp_path / "data" / "ptb").mkdir(parents=True)
    (tmp_path / "data" / "ptb" / "ptb.valid.txt").write_text(
        "".join(f" the boy went home {i} times \n" for i in range(8)), "utf-8"
    )
    capfd.readouterr()
    options: dict[str, Any] = {"metadata": '{"protocol": "documents", "block_tokenizer": "demo"}', "rows": "bound"}
    run(
        config(
            folder, tmp_path / "out", tasks=("ptb",), data=str(tmp_path / "data"), baselines=(str(gpt2),), limit=2,
            t_fast=1, num_fewshot=None, quiet=quiet, condition="prompt", gen_kwargs=None, **options,
        )
    )  # fmt: skip
    told = capfd.readouterr().err
    assert "Running" not in told and "%|" not in told and "\r" not in told, told
    assert (told.count("1/2 ptb: 2/2 documents"), told.count("2/2 ptb: 2/2 documents")) == (not quiet, not quiet), told
    assert told.count(", all done in about ") == 2 * (not quiet), told
    assert told.count("not the official file") == 1, told


def test_rethinking_with_its_control_and_budget(folder: Path, tmp_path: Path) -> None:
    outcome = run(config(folder, tmp_path, rethink=2, limit=2, report=True))
    (path,) = outcome.results
    assert {"rethink_best,strict-match", "independent_oracle,flexible-extract"} <= scores(path).keys()
    budget = json.loads(path.read_text())["ltm_eval"]["rethink_budget"][TASK]
    assert budget["rethink"]["fast_steps"] == budget["independent"]["fast_steps"] == 2 * 2 * 2
    assert outcome.report is not None and "Compute of rethinking" in outcome.report.read_text()


def test_the_command_prints_intervals(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--model", str(folder), "--shots", "1", "--data", "sample", "--limit", "2", "--t_fast", "1"]
    arguments += ["--k", "1,2", "--gen-kwargs", "max_gen_toks=4", "-o", str(tmp_path), "--quiet", "--no_report"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"{TASK}: pass@2, strict-match" in out and "Wilson" in out
    assert "content-free, always the commonest training answers" in out


def test_named_documents_are_said_and_must_be_there(folder: Path, tmp_path: Path) -> None:
    part = run(config(folder, tmp_path / "part", limit=None, documents=(5, 2))).results[0]
    content = json.loads(part.read_text())
    assert "only documents 5, 2 of each task" in content["ltm_eval"]["warnings"]
    cost = content["ltm_eval"]["cost"][TASK]
    assert cost["seconds"] > 0 and cost["memory_of"] == "process"
    with pytest.raises(UsageError, match=r"has documents 0 to \d+, 99999 was asked for"):
        run(config(folder, tmp_path / "none", limit=None, documents=(99_999,)))
    with pytest.raises(UsageError, match="limit and documents exclude each other"):
        config(folder, tmp_path, documents=(1,))


def test_a_long_start_says_what_each_row_costs_and_the_end_which_were_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "--model", str(folder), "--task", "ptb", "--data", "sample", "--limit", "1", "--t_fast", "1"]
    words += ["-q", "--no_report"]
    assert main([*words, "-o", str(tmp_path / "short")]) == 0
    said = capsys.readouterr()
    assert "shares of the work" not in said.err
    assert "ltm_ptb: as_released, iwae, causal were not computed" in said.out and "--rows all" in said.out
    monkeypatch.setattr("ltm_eval.harness.run.LONG", {"cpu": 0.0, "cuda": 0.0})
    assert main([*words, "--rows", "all", "-o", str(tmp_path / "long")]) == 0
    said = capsys.readouterr()
    assert "not computed" not in said.out
    (line,) = [line for line in said.err.splitlines() if "shares of the work" in line]
    shares = {name: int(share) for name, share in re.findall(r"(\w+) (\d+) %", line)}
    assert set(shares) == {"bound", "prior", "iwae", "as_released", "causal"} and 98 <= sum(shares.values()) <= 102
