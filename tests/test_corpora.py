"""Where data sets are found, and what a reader refuses."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm_eval.data import readers, sources
from ltm_eval.data.readers import checked_row, json_lines, parquet_rows
from ltm_eval.data.sets import GSM8K, RULES, SVAMP, gsm8k_dataset, svamp_dataset
from ltm_eval.data.sources import DataSet, Split, load
from ltm_eval.results.answers import INVALID, gold_number
from ltm_eval.system import hub
from ltm_eval.system.errors import DataError, MachineError, UsageError
from ltm_eval.system.files import sample_data_dir
from tests.tiny import put

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.usefixtures("no_hub")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
COLUMNS = ("question", "answer")
ROW = {"question": "What is 1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"}


def line(**changes: object) -> bytes:
    return json.dumps({**ROW, **changes}).encode()


def write_set(folder: Path, *, mark: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", 3), ("test", 2)):
        text = b"\n".join(line(question=f"{mark}{split} {i}?") for i in range(rows))
        (folder / f"{split}.jsonl").write_bytes(text)
    return folder


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    reader = parquet_rows if path.suffix == ".parquet" else json_lines
    return (dict(checked_row(row, COLUMNS, where=where)) for where, row in reader(path))


def read(tmp_path: Path, content: bytes) -> list[dict[str, str]]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return list(rows_of(path))


def load_set(spec: DataSet, data: object = None) -> dict[str, Split]:
    return load(spec, tuple(spec.files), data=data)


def counts(splits: Mapping[str, Split]) -> dict[str, int]:
    return {name: len(split.rows) for name, split in splits.items()}


class Standing(NamedTuple):
    """How what was read compares with the published split."""

    official: bool | None
    difference: str = ""


def standings(splits: Mapping[str, Split]) -> dict[str, Standing]:
    return {name: Standing(split.official, split.difference) for name, split in splits.items()}


# Where --------------------------------------------------------------------------------------------------------------


def test_a_folder_of_sets_and_a_folder_of_files(tmp_path: Path) -> None:
    below, flat = write_set(tmp_path / "a" / "gsm8k"), write_set(tmp_path / "b")
    for data, place in ((tmp_path / "a", below), (str(tmp_path / "b"), flat)):
        found = load_set(GSM8K, data=data)
        assert counts(found) == {"train": 3, "test": 2}
        test = found["test"]
        assert (test.name, test.split, test.source, test.files) == ("gsm8k", "test", str(place), ("test.jsonl",))
        assert test.sha256 == hashlib.sha256((place / "test.jsonl").read_bytes()).hexdigest()
        assert found["train"].rows[1] == {**ROW, "question": "train 1?"}


def test_auto_takes_the_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "env" / "gsm8k", mark="env ")
    write_set(tmp_path / "own" / "gsm8k", mark="own ")
    monkeypatch.setenv("LTM_EVAL_DATA_DIR", str(tmp_path / "env"))
    for data in (None, "auto", ""):
        assert load_set(GSM8K, data=data)["test"].rows[0]["question"].startswith("env ")
    assert load_set(GSM8K, data=tmp_path / "own")["test"].rows[0]["question"].startswith("own ")


def test_sample_is_the_bundled_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LTM_EVAL_DATA_DIR", str(write_set(tmp_path)))
    corpus = load_set(GSM8K, data="sample")
    assert all(Path(split.source) == sample_data_dir() / "gsm8k" and split.sample for split in corpus.values())
    assert counts(corpus) == {"train": 144, "test": 219}
    assert (sample_data_dir() / "gsm8k" / "seen.jsonl").exists(), "a file that no split reads"


def test_a_folder_named_like_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    assert counts(load_set(GSM8K, data="./sample"))["test"] == 2


def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "sets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert counts(load_set(GSM8K, data="~/sets"))["test"] == 2


def test_a_folder_without_the_set_names_the_places(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_set(GSM8K, data=tmp_path)
    for place in (tmp_path / "gsm8k", tmp_path):
        assert f"{place} (train.jsonl, test.jsonl)" in str(caught.value)


def test_missing_folders_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"does not exist; put train\.jsonl and test\.jsonl \(.*\) in DIR/gsm8k/ and name DIR"
    ):
        load_set(GSM8K, data=tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is not a folder"):
        load_set(GSM8K, data=tmp_path / "file")
    write_set(tmp_path / "gsm8k")
    (tmp_path / "gsm8k" / "train.jsonl").unlink()
    with pytest.raises(DataError, match=r"gsm8k lacks train\.jsonl"):
        load_set(GSM8K, data=tmp_path)
    monkeypatch.setenv("LTM_EVAL_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"LTM_EVAL_DATA_DIR: .* does not exist"):
        load_set(GSM8K)


def test_nowhere_names_every_place_and_what_to_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as caught:
        load_set(GSM8K)
    for part in (
        "LTM_EVAL_DATA_DIR (not set)",
        str(tmp_path / "caches" / "hub"),
        "HF_HUB_OFFLINE is set",
        "put train.jsonl and test.jsonl",
        "in DIR/gsm8k/ and name it by data='DIR' or LTM_EVAL_DATA_DIR, or take data='sample'",
    ):
        assert part in str(caught.value)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("LTM_EVAL_DATA_DIR", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=f"looked in {tmp_path / 'empty' / 'gsm8k'} .*hub"):
        load_set(GSM8K)


def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no switch forbade to ask and nothing had been asked before."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_silences", {})


@pytest.mark.parametrize("variable", OFFLINE)
def test_offline_means_that_nothing_is_asked(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    online(monkeypatch)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", variable != "HF_DATASETS_OFFLINE")
    monkeypatch.setattr(hub, "within", lambda question: pytest.fail("the network was asked"))
    with pytest.raises(DataError, match=f"not asked, {variable} is set"):
        load_set(GSM8K, data="hub")


def test_a_hub_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    online(monkeypatch)
    monkeypatch.setattr(hub, "NETWORK_SECONDS", 0.2)
    over = Event()
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: over.wait())
    with pytest.raises(DataError, match=r"openai/gsm8k \(no answer in 0 s\)"):
        load_set(GSM8K, data="hub")  # returns although the question goes on
    over.set()
    monkeypatch.setattr(hub, "within", lambda question: pytest.fail("a silent hub was asked again"))
    with pytest.raises(DataError, match=r"openai/gsm8k \(no answer in 0 s\)"):
        load_set(GSM8K, data="hub")
    assert hub.ask("owner/name") == hub.Asked(None, "no answer in 0 s")


def test_a_hub_that_refuses_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("no")

    online(monkeypatch)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(DataError, match=r"openai/gsm8k \(ConnectionRefusedError\)"):
        load_set(GSM8K, data="hub")


def test_the_hubs_cache_is_read_at_the_pinned_revision_only(tmp_path: Path) -> None:
    hub = GSM8K.hub
    assert hub is not None
    repo = tmp_path / "caches" / "hub" / "datasets--openai--gsm8k"
    for split, name in hub.files.items():
        put(repo / "snapshots" / ("0" * 40), name, [{**ROW, "question": f"other {split}?"}])
    with pytest.raises(DataError, match="no train and test split of gsm8k"):
        load_set(GSM8K)
    for split, name in hub.files.items():
        put(repo / "snapshots" / hub.revision, name, [{**ROW, "question": f"{split}?"}])
    corpus = load_set(GSM8K)
    assert corpus["test"].source == f"hub:openai/gsm8k@{hub.revision}"
    assert corpus["test"].rows == ({**ROW, "question": "test?"},)


def test_arrow_files_are_checked_like_any(tmp_path: Path) -> None:
    good = put(tmp_path, "good.parquet", [ROW, ROW])
    assert list(rows_of(good)) == [ROW, ROW]
    null = put(tmp_path, "null.parquet", [ROW, {**ROW, "answer": None}])
    with pytest.raises(DataError, match=r"null\.parquet: row 2: column 'answer' must be text, got null"):
        list(rows_of(null))
    (tmp_path / "torn.parquet").write_bytes(good.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"torn\.parquet: is damaged"):
        list(rows_of(tmp_path / "torn.parquet"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (write_set(tmp_path) / "test.jsonl").chmod(0)
    with pytest.raises(MachineError, match="cannot be read"):
        load_set(GSM8K, data=tmp_path)


def test_a_disk_error_is_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    write_set(tmp_path)
    monkeypatch.setattr(sources, "file_sha256", fail)
    with pytest.raises(MachineError, match=r"jsonl: cannot be read \(Input/output error\)"):
        load_set(GSM8K, data=tmp_path)


# For lm-eval --------------------------------------------------------------------------------------------------------


def test_gsm8k_dataset_takes_every_model_argument(tmp_path: Path) -> None:
    write_set(tmp_path)
    found = gsm8k_dataset(data=str(tmp_path), pretrained="demo", version=1.0, t_fast=16)
    assert found["test"][1] == {**ROW, "question": "test 1?"}
    assert list(found) == ["train", "test"]
    assert list(found["train"].features) == list(COLUMNS)
    assert gsm8k_dataset(data_dir=tmp_path)["test"].num_rows == 2
    assert gsm8k_dataset(data_dir=tmp_path, data=str(tmp_path))["test"].num_rows == 2
    with pytest.raises(UsageError, match="give one of them"):
        gsm8k_dataset(data_dir=tmp_path, data="sample")


# Reading ------------------------------------------------------------------------------------------------------------


def test_ordinary_oddities_are_accepted(tmp_path: Path) -> None:
    plain = read(tmp_path, line() + b"\n" + line() + b"\n")
    assert plain == [ROW, ROW]
    assert read(tmp_path, b"\xef\xbb\xbf" + line() + b"\r\n" + line()) == plain
    assert read(tmp_path, line() + b"\n\n" + line() + b"\n\n") == plain
    assert read(tmp_path, line(id=7, tags=["x"], none=None)) == [ROW]
    separators = "A\u2028B\x85C\u202e\U0001f600 \\r end?"
    assert read(tmp_path, line(question=separators))[0]["question"] == separators
    raw = json.dumps({**ROW, "question": separators}, ensure_ascii=False).encode()
    assert read(tmp_path, raw)[0]["question"] == separators


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line() + b"\n" + line()[:30], r"rows\.jsonl:2: not JSON .*torn"),
        (line() + b"\nhello\n", r":2: not JSON"),
        (line() + b"\n\n[1, 2]\n", r":3: expected a JSON object, got an array"),
        (b'"text"', r":1: expected a JSON object, got text"),
        (b"null", r":1: expected a JSON object, got null"),
        (b"3", r":1: expected a JSON object, got a number"),
        (line() + line(), r":1: not JSON"),
        (b'{"question": "a?"}', r":1: column 'answer' is missing; columns there: 'question'"),
        (b"{}", r":1: column 'question' is missing; columns there: none"),
        (line(answer=None), r":1: column 'answer' must be text, got null"),
        (line(answer=5), r":1: column 'answer' must be text, got a number"),
        (line(answer=True), r":1: column 'answer' must be text, got a boolean"),
        (line(question=["a"]), r":1: column 'question' must be text, got an array"),
        (line(question={}), r":1: column 'question' must be text, got an object"),
        (line() + b"\n" + line(question=""), r":2: column 'question' is empty"),
        (line(question=" \n"), r":1: column 'question' is empty"),
        (line() + b"\n" + line().replace(b"What", b"Wh\xe9t"), r":2: byte 17 \(0xe9\) is not UTF-8"),
        (line().decode().encode("utf-16"), r":1: byte 1 \(0xff\) is not UTF-8; save the file as UTF-8"),
        (line(question="\ud800?"), r":1: column 'question' contains an unpaired surrogate"),
        (b'{"question": "a?", "answer": "1", "x": ' + b"9" * 5_000 + b"}", r":1: not JSON that can be read"),
        (b'{"x": ' + b"[" * 200_000, r":1: not JSON that can be read"),
    ],
)
def test_what_is_refused_is_named_with_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    (write_set(tmp_path) / "test.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"test\.jsonl: contains no rows"):
        load_set(GSM8K, data=tmp_path)


def test_long_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 30_000_000
    assert read(tmp_path, line(question=long))[0]["question"] == long
    monkeypatch.setattr(readers, "LONGEST_LINE", 2**20)
    with pytest.raises(DataError, match=r":2: longer than 1 MiB; split the document"):
        read(tmp_path, line() + b"\n" + line(question="x" * 2**20))


def test_rows_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line() + b"\nbroken")
    rows = rows_of(path)
    assert next(rows) == ROW
    with pytest.raises(DataError, match=":2:"):
        next(rows)


@given(st.binary(max_size=60))
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "rows.jsonl"
    path.write_bytes(content)
    try:
        list(rows_of(path))
    except DataError as error:
        assert str(error).startswith(f"{path}:")


texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.booleans())
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], ascii_: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    made = [{"question": question, "answer": answer} for question, answer in rows]
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=ascii_).encode() + b"\n" for row in made))
    assert list(rows_of(path)) == made


def test_the_published_set(data_dir: Path) -> None:
    corpus = load_set(GSM8K, data=data_dir)
    assert counts(corpus) == {"train": 7_473, "test": 1_319}  # github openai/grade-school-math
    assert INVALID not in {gold_number(row["answer"]) for split in corpus.values() for row in split.rows}


# What is official -----------------------------------------------------------------------------------------------------

BUNDLED = sample_data_dir() / "rules"


def rules(folder: Path, **files: str | list[str]) -> dict[str, Standing]:
    """How the rules stand whose files hold these lines, or what another split's file holds."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        lines = files.get(split, split)
        text = (BUNDLED / f"{lines}.jsonl").read_text("utf-8") if isinstance(lines, str) else "\n".join(lines)
        (folder / f"{split}.jsonl").write_text(text, "utf-8")
    return standings(load_set(RULES, data=folder))


def test_the_whole_official_file_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert rules(tmp_path) == {"train": Standing(official=True), "test": Standing(official=True)}
    assert standings(load_set(RULES)) == standings(load_set(RULES, data="sample")) == rules(tmp_path)
    assert not caplog.records


def test_cut_changed_shuffled_and_swapped_files_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = (BUNDLED / "test.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 120
    found = rules(tmp_path / "cut", test=lines[:12])
    assert found["test"] == Standing(official=False, difference="12 of 120 documents")
    assert found["train"].official is True
    assert "rules: 12 examples from test.jsonl in" in caplog.text
    assert "not the official file of the test split: 12 of 120 documents" in caplog.text
    others = "120 documents as it has, but other ones or in another order"
    changed = lines[5].replace("#### ", "#### 1")
    for name, made in (("changed", [*lines[:5], changed, *lines[6:]]), ("shuffled", lines[::-1])):
        assert rules(tmp_path / name, test=made)["test"] == Standing(official=False, difference=others)
    assert rules(tmp_path / "twice", test=[*lines, lines[0]])["test"].difference == "121 instead of 120 documents"
    swapped = rules(tmp_path / "swapped", train="test", test="train")
    assert {split: one.difference for split, one in swapped.items()} == {
        "train": "this is the test split",
        "test": "this is the train split",
    }
    assert rules(tmp_path / "shown", train=lines[:8])["train"].difference == "8 of 1,920 documents"


def test_white_space_around_and_other_line_ends_are_no_difference(tmp_path: Path) -> None:
    rows = [json.loads(text) for text in (BUNDLED / "test.jsonl").read_text("utf-8").splitlines()]
    made = [json.dumps({**row, "question": f" {row['question']}\n"}) + "\r" for row in rows]
    assert rules(tmp_path, test=made)["test"].official is True


def test_the_rows_of_another_set_are_not_gsm8k() -> None:
    found = standings(load_set(GSM8K, data=BUNDLED))
    assert found["test"].difference == "120 of 1,319 documents, and they hold 'episode' too"
    assert found["train"].difference == "1,920 of 7,473 documents, and they hold 'episode' too"


def test_where_no_digest_is_known_documents_are_counted(tmp_path: Path) -> None:
    write_set(tmp_path / "gsm8k")
    problem = {"Body": "One pear.", "Question": "How many?", "Answer": 1}
    for count, wanted in ((3, Standing(official=False, difference="3 of 1,000 documents")), (1_000, Standing(None))):
        (tmp_path / "SVAMP.json").write_text(json.dumps([problem] * count), "utf-8")
        assert standings(load_set(SVAMP, data=tmp_path))["test"] == wanted
    assert svamp_dataset(data=str(tmp_path)).keys() == {"test", "train"}


def test_what_lm_eval_is_given_tells_it_for_every_split(tmp_path: Path) -> None:
    write_set(tmp_path)
    told = {name: json.loads(split.info.description) for name, split in gsm8k_dataset(data=str(tmp_path)).items()}
    assert {name: (facts["official"], facts["difference"]) for name, facts in told.items()} == {
        "train": (False, "3 of 7,473 documents"),
        "test": (False, "2 of 1,319 documents"),
    }
    told = {name: json.loads(split.info.description) for name, split in gsm8k_dataset(data="sample").items()}
    assert all(facts["sample"] for facts in told.values())


def test_the_published_gsm8k_is_official_in_every_form(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As JSON lines, and as the parquet files of the pinned hub copy."""
    import huggingface_hub.constants

    corpus = load_set(GSM8K, data=data_dir)
    assert [split.official for split in corpus.values()] == [True, True]
    assert GSM8K.hub is not None
    place = Path(huggingface_hub.constants.HF_HUB_CACHE) / "datasets--openai--gsm8k" / "snapshots" / GSM8K.hub.revision
    for split, read in corpus.items():
        put(place, GSM8K.hub.files[split], [dict(row) for row in read.rows])
    found = load_set(GSM8K, data="hub")
    assert found["test"].source.startswith("hub:")
    assert [split.official for split in found.values()] == [True, True]
    lines = (data_dir / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines()[:4]
    (tmp_path / "test.jsonl").write_text("\n".join(lines), "utf-8")
    (tmp_path / "train.jsonl").write_bytes((data_dir / "gsm8k" / "test.jsonl").read_bytes())
    cut = standings(load_set(GSM8K, data=tmp_path))
    assert (cut["test"].difference, cut["train"].difference) == ("4 of 1,319 documents", "this is the test split")
