"""Result files: records there and back, strict writing, lm-eval's layout as lm-eval 0.4.13 wrote it."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fake_runs import AUDIT, DATE, FILTERS, FLOORS, LATENT, TASK, document, write_run

from ltm_eval.results.files import LatentRecord, find_runs, read_latents, read_run, read_samples
from ltm_eval.system.errors import MachineError, ResultsError
from ltm_eval.system.files import digest, unused_date, write_json_atomic, write_jsonl_atomic

# Written by lm-eval 0.4.13 itself for a model that answers made-up sums (odd ones wrongly).
PLAIN = Path(__file__).parent / "data" / "report" / "plain"


def refuse(constant: str) -> None:
    raise AssertionError(f"not strict JSON: {constant}")


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=refuse)


def right(index: int) -> bool:
    return index % 3 == 0


# Records


def test_a_record_survives_json() -> None:
    assert LatentRecord.from_json(json.loads(json.dumps(LATENT.to_json())), where="x:1") == LATENT


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("doc_id", "3", "a whole number of at least 0"),
        ("doc_id", True, "a whole number of at least 0"),
        ("doc_id", -1, "a whole number of at least 0"),
        ("prompt_hash", 5, "text"),
        ("truncated", 1, "true or false"),
        ("kl_nats", "many", "a number"),
        ("objective_nats", 1.0, "a list, each item a number"),
        ("objective_nats[1]", [1.0, "x"], "a number"),
        ("stop_reason", "tired", "stop_string, end_of_text, length"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, name: str, value: object, expected: str) -> None:
    path = write_run(tmp_path, model="m", right=right, n=2, latents=True)
    sidecar = path.parent / f"latents_{TASK}_{DATE}.jsonl"
    rows = [LATENT.to_json(), {**LATENT.to_json(), name.partition("[")[0]: value}]
    sidecar.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(ResultsError) as caught:
        read_latents(find_runs([path])[0], TASK)
    assert f"{sidecar}:2: field {name}: expected" in str(caught.value)
    assert expected in str(caught.value)


def test_missing_and_unknown_fields_are_refused() -> None:
    row = LATENT.to_json()
    with pytest.raises(ResultsError, match="f:7: field kl_nats is missing"):
        LatentRecord.from_json({k: v for k, v in row.items() if k != "kl_nats"}, where="f:7")
    with pytest.raises(ResultsError, match="f:7: unknown field 'kl_nat'.*Did you mean 'kl_nats'"):
        LatentRecord.from_json({**row, "kl_nat": 1.0}, where="f:7")


# Writing


def test_what_json_cannot_hold_is_replaced_and_named(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.json"
    write_json_atomic(
        path, {"a": {"x/y": [1.0, math.nan]}, "b": -math.inf, "c": "\ud800!", "d": {3, 1}, "e": Path("p")}
    )
    assert strict(path.read_text(encoding="utf-8")) == {
        "a": {"x/y": [1.0, None]},
        "b": None,
        "c": "\ufffd!",
        "d": [1, 3],
        "e": "p",
        "replaced": {"/a/x~1y/1": "NaN", "/b": "-Infinity", "/c": "lone surrogate"},
    }


def test_lines_stay_lines(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    rows = [{"text": "a\u2028b\x85c\u2029d\n\x1b[31m"}, LATENT]
    write_jsonl_atomic(path, rows)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [strict(line) for line in lines] == [rows[0], json.loads(json.dumps(LATENT.to_json()))]
    assert "\x1b" not in path.read_text(encoding="utf-8")


def test_a_nan_in_the_sidecar_comes_back_as_unknown(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=right, n=1)
    record = replace(LATENT, kl_nats=math.nan, objective_nats=(1.0, math.inf))
    write_jsonl_atomic(path.parent / f"latents_{TASK}_{DATE}.jsonl", [record])
    (read,) = read_latents(find_runs([path])[0], TASK)
    assert read.kl_nats is None
    assert read.objective_nats[0] == 1.0
    assert math.isnan(read.objective_nats[1])


def test_numpy_is_written_as_numbers(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "n.json"
    write_json_atomic(path, {"x": numpy.float32(0.5), "y": numpy.arange(3)})
    assert strict(path.read_text(encoding="utf-8")) == {"x": 0.5, "y": [0, 1, 2]}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    write_jsonl_atomic(path, [{"old": 1}])

    def rows() -> Any:
        yield {"new": 1}
        raise RuntimeError("the process ends here")

    with pytest.raises(RuntimeError):
        write_jsonl_atomic(path, rows())
    assert path.read_text(encoding="utf-8") == '{"old": 1}\n'
    assert os.listdir(tmp_path) == ["s.jsonl"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(MachineError, match="cannot write .*file.r.json"):
        write_json_atomic(tmp_path / "file" / "r.json", {})


# Runs


def test_lm_evals_own_output_is_read() -> None:
    (run,) = find_runs([PLAIN])
    assert (run.model_name, run.model_kind, run.date_id, run.seconds) == ("gpt2", "hf", DATE, 12.5)
    assert run.software["lm_eval_version"] == "0.4.13"
    sums, texts = run.tasks["sums"], run.tasks["texts"]
    assert [(s.metric, s.filter, s.value, s.stderr) for s in sums.scores] == [
        ("exact_match", name, 0.5, None) for name in FILTERS
    ]
    assert (sums.n_shot, sums.n_original, sums.n_effective, sums.version) == (2, 4, 4, "1.0")
    assert sums.scores[0].higher_is_better is True
    assert texts.scores[0].higher_is_better is False
    assert texts.scores[0].value == 11.023176380641601
    assert len(sums.task_hash) == 64
    assert sums.latents_path is None
    assert run.extra.warnings == ()


def test_lm_evals_own_samples_are_read() -> None:
    (run,) = find_runs([PLAIN])
    samples = read_samples(run, "sums")
    assert [(s.doc_id, s.filter) for s in samples] == [(i, name) for name in FILTERS for i in range(4)]
    assert [s.metrics["exact_match"] for s in samples[:4]] == [1.0, 0.0, 1.0, 0.0]
    assert samples[1].filtered == ("7",)
    assert samples[1].responses == (" The sum is 6.\n#### 7",)
    assert samples[1].prompt.endswith("Question: What is 1 + 5?\nAnswer:")
    assert digest(samples[1].prompt) == samples[1].prompt_hash
    assert digest(json.dumps(dict(samples[1].doc), indent=2, ensure_ascii=False)) == samples[1].doc_hash
    assert read_samples(run, "texts")[0].metrics == {"word_perplexity": [-10.5, 5], "bits_per_byte": [-10.5, 14]}


def test_the_newest_run_of_a_folder_stands_for_it(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=right)
    newer = path.with_name("results_2026-02-01T00-00-00.000000.json")
    newer.write_bytes(path.read_bytes())
    write_run(tmp_path, model="other", right=right)
    assert [run.path for run in find_runs([tmp_path])] == [newer, tmp_path / "other" / path.name]
    assert len(find_runs([tmp_path], newest_only=False)) == 3
    assert [run.path for run in find_runs([path, tmp_path, path])] == [path, newer, tmp_path / "other" / path.name]


def test_results_named_by_the_user_are_found(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=right)
    path.rename(path.with_name(f"mine_{DATE}.json"))
    (run,) = find_runs([tmp_path])
    assert (run.date_id, len(read_samples(run, TASK))) == (DATE, 24)


def test_bare_nan_becomes_no_value_with_a_note(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=right)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["results"][TASK] = {"ppl,none": math.nan, "ppl_stderr,none": math.inf, "acc": 0.5, "big,none": "N/A"}
    path.write_text(json.dumps(content), encoding="utf-8")
    ppl, acc, big = find_runs([path])[0].tasks[TASK].scores
    assert (ppl.value, ppl.stderr, ppl.note) == (None, None, "no finite number in the results file: nan")
    assert (acc.filter, acc.value, big.value) == ("none", 0.5, None)


def test_results_without_a_model_name_take_it_from_the_arguments(tmp_path: Path) -> None:
    arguments = {"config": {"model": "hf", "model_args": "dtype=float,pretrained=EleutherAI/pythia-70m"}}
    path = write_run(tmp_path, model="m", right=right, change={"model_name": "", **arguments})
    assert find_runs([path])[0].model_name == "EleutherAI/pythia-70m"


def test_the_extra_block_is_read(tmp_path: Path) -> None:
    extra = {"warnings": ["w"], "demo_model": True, "sample_data": True, "limit": 5, "command": "c", "data": {"k": 1}}
    found = find_runs([write_run(tmp_path, model="m", right=right, extra=extra)])[0].extra
    assert (found.warnings, found.demo_model, found.sample_data, found.limit) == (("w",), True, True, 5.0)
    assert (found.command, found.data) == ("c", {"k": 1})


def test_old_samples_without_hashes_get_them(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=right, n=1)
    row = {"doc_id": 0, "doc": document(0), "target": "2", "arguments": [["p", {}]], "resps": [["a"]], "acc": 1.0}
    (path.parent / f"samples_{TASK}_{DATE}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (sample,) = read_samples(find_runs([path])[0], TASK)
    assert (sample.prompt, sample.prompt_hash, sample.metrics) == ("p", digest("p"), {"acc": 1.0})
    assert sample.doc_hash == digest(json.dumps(document(0), indent=2, ensure_ascii=False))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not JSON"),
        (b'{"results": {', "not JSON"),
        (b"[]", "expected an lm-eval results file"),
        (b'{"results": 3}', "expected an lm-eval results file"),
        (b'{"results": {}, "ltm_eval": []}', "field ltm_eval: expected an object"),
        (b'{"results": {}, "ltm_eval": {"warnings": "x"}}', "field ltm_eval.warnings: expected a list"),
        (b'\xff{"results": {}}', "not UTF-8 at byte 0"),
        (b"[" * 100_000, "unusable JSON"),
        (b'{"results": ' + b"9" * 5000 + b"}", "unusable JSON"),
    ],
)
def test_a_malformed_results_file_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / f"results_{DATE}.json"
    path.write_bytes(content)
    with pytest.raises(ResultsError) as caught:
        find_runs([tmp_path])
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("{", "not JSON"), ("3", "expected a JSON object"), ('{"doc_id": "x"}', "field doc_id: expected a whole number")],
)
def test_a_malformed_sample_is_named_with_its_line(tmp_path: Path, line: str, expected: str) -> None:
    path = write_run(tmp_path, model="m", right=right, n=1)
    samples = path.parent / f"samples_{TASK}_{DATE}.jsonl"
    with samples.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ResultsError) as caught:
        read_samples(find_runs([path])[0], TASK)
    assert f"{samples}:3: {expected}" in str(caught.value)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no results_\\*.json below"):
        find_runs([tmp_path])
    with pytest.raises(ResultsError, match="no such file or folder"):
        find_runs([tmp_path / "absent"])
    run = find_runs([write_run(tmp_path, model="m", right=right)])[0]
    with pytest.raises(ResultsError, match="no task 'ltm_gsm8'.*Did you mean 'ltm_gsm8k'"):
        read_samples(run, "ltm_gsm8")


def test_a_task_name_is_no_path(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=right)
    content = json.loads(path.read_text(encoding="utf-8"))
    name = "/../../secret"
    content["results"] = {name: {"acc,none": 1.0}}
    path.write_text(json.dumps(content), encoding="utf-8")
    (path.parent / "samples_").mkdir()
    (tmp_path / f"secret_{DATE}.jsonl").write_text("{}\n", encoding="utf-8")
    assert (path.parent / f"samples_{name}_{DATE}.jsonl").is_file()
    assert find_runs([path])[0].tasks[name].samples_path is None


# The audit


def run_with_audit(folder: Path, audit: Any) -> Any:
    return read_run(write_run(folder, model="m", right=bool, extra={"audit": audit})).extra.audit


def test_the_audit_is_read_as_the_run_wrote_it(tmp_path: Path) -> None:
    found = run_with_audit(tmp_path, {**AUDIT, "of_a_later_version": 1})
    assert asdict(found) == AUDIT
    assert run_with_audit(tmp_path, None) is None
    assert read_run(write_run(tmp_path, model="m", right=bool)).extra.audit is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_bound": "yes"}, "field ltm_eval.audit.is_bound: expected true or false, got 'yes'"),
        ({"t_fast": -1}, "field ltm_eval.audit.t_fast: expected a whole number of at least 0, got -1"),
        ({"preset": None}, "field ltm_eval.audit.preset: expected text, got None"),
    ],
)
def test_a_malformed_audit_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultsError, match=re.escape(message)):
        run_with_audit(tmp_path, {**AUDIT, **change})
    with pytest.raises(ResultsError, match="field ltm_eval.audit: expected an object, got a list"):
        run_with_audit(tmp_path, [AUDIT])


# Reference rows


def test_reference_rows_are_read_as_the_run_wrote_them(tmp_path: Path) -> None:
    written = [{**row, "of_a_later_version": 1} for row in FLOORS]
    extra = read_run(write_run(tmp_path, model="m", right=bool, extra={"floors": {TASK: written}})).extra
    assert extra.floors is not None
    assert [asdict(floor) for floor in extra.floors[TASK]] == FLOORS
    assert read_run(write_run(tmp_path, model="m", right=bool, extra={})).extra.floors is None


@pytest.mark.parametrize(
    ("floors", "message"),
    [
        ([], "field ltm_eval.floors: expected an object, got a list"),
        ({TASK: FLOORS[0]}, f"field ltm_eval.floors.{TASK}: expected a list, each item an object, got a dict"),
        ({TASK: ["uniform"]}, f"field ltm_eval.floors.{TASK}[0]: expected an object, got 'uniform'"),
        (
            {TASK: [{**FLOORS[0], "tokens": 1.5}]},
            f"field ltm_eval.floors.{TASK}[0].tokens: expected a whole number of at least 0, got 1.5",
        ),
    ],
)
def test_malformed_reference_rows_are_named(tmp_path: Path, floors: Any, message: str) -> None:
    with pytest.raises(ResultsError, match=re.escape(message)):
        read_run(write_run(tmp_path, model="m", right=bool, extra={"floors": floors}))


def test_names_of_results_never_go_back(tmp_path: Path) -> None:
    """After the clock was set back the last results are still the newest by name."""
    (tmp_path / "samples_t_2999-12-31T23-59-59.999999.jsonl").touch()
    (tmp_path / "results_2026-13-99T99-99-99.json").touch()
    assert unused_date(tmp_path) == "3000-01-01T00-00-00"
    (tmp_path / "results_3000-01-01T00-00-00.json").touch()
    assert unused_date(tmp_path) == "3000-01-01T00-00-00.000001"
    (tmp_path / "results_9999-12-31T23-59-59.999999.json").touch()
    assert unused_date(tmp_path) < "3000"
