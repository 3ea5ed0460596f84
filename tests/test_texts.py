"""The perplexity sets' files: every original form, where it is looked for, and what is refused."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest

from ltm_eval.data.readers import rows_sha256
from ltm_eval.data.sets import TEXT_SETS, documents, load_texts
from ltm_eval.system.errors import DataError, UsageError
from ltm_eval.system.files import sample_data_dir
from tests.tiny import put

pytestmark = pytest.mark.usefixtures("no_hub")


def paper(*sentences: object) -> str:
    return json.dumps({"article_id": "x", "article_text": list(sentences), "abstract_text": ["<S> no </S>"]})


FORMS = [
    ("ptb", "ptb.valid.txt", " no it was n't \n the <unk> \n", ("no it was n't", "the <unk>")),
    ("ptb", "ptb.valid.txt", "\ufeffa\r\n\r\nb\r\n", ("a", "b")),
    ("wikitext", "wiki.valid.raw", " \n = A = \n \n text , \n", (" = A = \n", " text , \n")),
    ("wikitext", "wiki.valid.tokens", " = A = \n <unk> \n", (" = A = \n", " <unk> \n")),
    ("lm1b", "news.en.heldout-00000-of-00050", "One .\nTwo .\n", ("One .", "Two .")),
    ("lm1b", "some.test.tokens", "One .\nTwo .\n", ("One .", "Two .")),
    ("lambada", "lambada_test.jsonl", '{"text": "a b\\n\\nc"}\n{"text": "d e"}\n', ("a b\n\nc", "d e")),
    (
        "ag_news",
        "test.csv",
        '"3","Title, one","He said ""so"" \\ there."\n"1","Two","three\nlines, \nhere"\n',
        ('Title, one He said "so" \\ there.', "Two three\nlines, \nhere"),
    ),
    (
        "ag_news",
        "test.csv",
        '\n"3","One","two\r\n\r\n \nthree"\n\n  \n"4","Four","\n\nfive\n"\n\n',
        ("One two\n\n \nthree", "Four \n\nfive\n"),
    ),
    ("ag_news", "test.csv", 'Class Index,Title,Description\n"4", "A","b"\n', ("A b",)),
    ("pubmed", "val.txt", paper("one .", "two .") + "\n" + paper("three ."), ("one .\ntwo .", "three .")),
    ("arxiv", "arxiv-dataset/val.txt", paper("one"), ("one",)),
    ("arxiv", "mine.jsonl", paper("one"), ("one",)),
]


@pytest.mark.parametrize(("name", "file", "content", "examples"), FORMS)
def test_original_forms(tmp_path: Path, name: str, file: str, content: str, examples: tuple[str, ...]) -> None:
    put(tmp_path / name, file, content)
    texts = load_texts(name, data=tmp_path)
    assert texts.examples == examples
    assert (texts.files, texts.source) == ((file,), str(tmp_path / name))
    assert texts.split == TEXT_SETS[name].split


@pytest.mark.parametrize("name", TEXT_SETS)
def test_parquet_copies(tmp_path: Path, name: str) -> None:
    spec = TEXT_SETS[name]
    column = spec.parquet_column or "text"
    rows = [{column: "One ."}, {column: ""}, {column: "Two ."}]
    put(tmp_path / name, f"{spec.split}.parquet", rows)
    assert load_texts(name, data=tmp_path).examples == ("One .", "Two .")
    put(tmp_path / name, f"{spec.split}.parquet", [{"other": "One ."}])
    with pytest.raises(DataError, match=rf"row 1: column '{column}' is missing; columns there: 'other'"):
        load_texts(name, data=tmp_path)
    put(tmp_path / name, f"{spec.split}.parquet", [{column: 3}])
    with pytest.raises(DataError, match="must be text, got a number"):
        load_texts(name, data=tmp_path)


def test_the_hubs_copy_is_read_at_the_pinned_revision(tmp_path: Path) -> None:
    for name in ("wikitext", "ag_news"):
        hub = TEXT_SETS[name].hub
        assert hub is not None
        folder = tmp_path / "caches" / "hub" / f"datasets--{hub.repo.replace('/', '--')}" / "snapshots" / hub.revision
        put(folder, hub.files[TEXT_SETS[name].split], [{"text": f"{name}"}])
        texts = load_texts(name)
        assert texts.examples == (name,)
        assert texts.source == f"hub:{hub.repo}@{hub.revision}"


def test_the_order_of_files(tmp_path: Path) -> None:
    for file in ("wiki.valid.tokens", "wiki.valid.raw"):
        put(tmp_path / "wikitext", file, f" {file} \n")
        assert load_texts("wikitext", data=tmp_path).files == (file,)
    put(tmp_path / "flat", "wiki.valid.raw", " flat \n")
    assert load_texts("wikitext", data=tmp_path / "flat").examples == (" flat \n",)
    assert load_texts("wikitext", data=tmp_path, file="wiki.valid.tokens").files == ("wiki.valid.tokens",)


def test_shards_are_read_in_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "lm1b" / "heldout-monolingual.tokenized.shuffled"
    for shard in (1, 0, 2):
        put(folder, f"news.en.heldout-0000{shard}-of-00050", f"shard {shard} .\n")
    texts = load_texts("lm1b", data=tmp_path)
    assert texts.examples == ("shard 0 .", "shard 1 .", "shard 2 .")
    assert len(texts.files) == 3
    put(folder, "news.en.heldout-00002-of-00050", "shard 3 .\n")
    assert load_texts("lm1b", data=tmp_path).sha256 != texts.sha256


def test_several_files_where_one_is_wanted(tmp_path: Path) -> None:
    put(tmp_path / "arxiv", "a.jsonl", paper("a"))
    put(tmp_path / "arxiv", "b.jsonl", paper("b"))
    with pytest.raises(DataError, match=r"2 files match \*\.jsonl \(a\.jsonl, b\.jsonl\); name one by arxiv_file"):
        load_texts("arxiv", data=tmp_path)
    assert load_texts("arxiv", data=tmp_path, file="b.jsonl").examples == ("b",)
    with pytest.raises(DataError, match=r"looked in .*c\.jsonl"):
        load_texts("arxiv", data=tmp_path, file="c.jsonl")


def test_another_sets_files_are_not_taken(tmp_path: Path) -> None:
    put(tmp_path, "anything.jsonl", paper("a"))
    with pytest.raises(DataError, match="no validation split of arxiv"):
        load_texts("arxiv", data=tmp_path)


def test_splits(tmp_path: Path) -> None:
    put(tmp_path / "ptb", "ptb.valid.txt", "v\n")
    put(tmp_path / "ptb", "ptb.test.txt", "t\n")
    assert load_texts("ptb", data=tmp_path, split="test").examples == ("t",)
    for alias in ("valid", "val", "dev", "validation", None):
        assert load_texts("ptb", data=tmp_path, split=alias).examples == ("v",)
    with pytest.raises(UsageError, match=r"lambada has the splits test, got 'validation'"):
        load_texts("lambada", data=tmp_path, split="validation")
    with pytest.raises(UsageError, match=r"no text set 'wikitex'.*Did you mean 'wikitext'"):
        load_texts("wikitex")


@pytest.mark.parametrize("name", TEXT_SETS)
def test_nowhere_says_what_to_put_where(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as caught:
        load_texts(name)
    message = str(caught.value)
    assert message.startswith(f"no {TEXT_SETS[name].split} split of {name}: looked in ")
    assert "LTM_EVAL_DATA_DIR" in message.rpartition("; ")[2] and TEXT_SETS[name].advice in message
    assert f"DIR/{name}/" in message
    assert "LTM_EVAL_DATA_DIR (not set)" in message
    assert "hub" in message
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"looked in {tmp_path / 'empty' / name} "):
        load_texts(name, data=tmp_path / "empty")
    monkeypatch.setenv("LTM_EVAL_DATA_DIR", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"looked in .*empty.*hub"):
        load_texts(name)


def test_the_samples_are_read_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    for name, spec in TEXT_SETS.items():
        texts = load_texts(name, data="sample")
        assert (texts.sample, texts.complete, texts.split) == (True, False, spec.split)
        assert Path(texts.source) == sample_data_dir() / name
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_what_a_sample_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="the bundled sample of ptb is its validation split, not test; put ptb.valid"):
        load_texts("ptb", data="sample", split="test")
    with pytest.raises(DataError, match=r"the bundled sample of lm1b has no file 'x\.tokens'; leave the name out"):
        load_texts("lm1b", data="sample", file="x.tokens")
    monkeypatch.setattr("ltm_eval.data.sources.sample_data_dir", lambda: tmp_path)
    for name in TEXT_SETS:
        with pytest.raises(DataError, match=f"there is no bundled sample of {name} in .*; put") as caught:
            load_texts(name, data="sample")
        assert "\n" not in str(caught.value)


def test_a_damaged_sample_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltm_eval.data.sources.sample_data_dir", lambda: tmp_path)
    put(tmp_path, "pubmed/val.txt", '{"article_text": "one"}\n')
    with pytest.raises(DataError, match=r"val\.txt:1: column 'article_text' must be a list"):
        load_texts("pubmed", data="sample")


BROKEN: list[tuple[str, str, str | bytes, str]] = [
    ("ptb", "ptb.valid.txt", "", r"ptb\.valid\.txt: contains no rows"),
    ("ptb", "ptb.valid.txt", b"good\nb\xe9d\n", r"ptb\.valid\.txt:2: byte 2 \(0xe9\) is not UTF-8"),
    ("wikitext", "wiki.valid.raw", gzip.compress(b"text", mtime=0), r"wiki\.valid\.raw: is compressed"),
    ("wikitext", "wiki.valid.raw", b"PK\x03\x04...", r"is a zip archive"),
    ("wikitext", "wiki.valid.raw", "<!DOCTYPE html><html>", r"is a web page"),
    ("lambada", "lambada_test.jsonl", "version https://git-lfs.github.com/spec/v1\n", r"is a Git LFS pointer"),
    ("lambada", "lambada_test.jsonl", '{"passage": "a b"}\n', r"jsonl:1: column 'text' is missing"),
    ("ag_news", "test.csv", '"3","a","b"\n"3","a"\n', r"csv:2: expected 3 columns .*, got 2"),
    ("ag_news", "test.csv", '"3","a","b","c"\n', r"csv:1: expected 3 columns .*, got 4"),
    ("ag_news", "test.csv", '"3","a","b"\n"5","a","b"\n', r"csv:2: expected a class from 1 to 4 in column 1, got '5'"),
    ("ag_news", "test.csv", '"3","a","b"\n"Class","a","b"\n', r"csv:2: expected a class"),
    ("ag_news", "test.csv", '"3","a","b\n"1","c","d"\n', r"csv:2: not CSV"),
    ("ag_news", "test.csv", '"3","a","b', r"csv:1: not CSV .*quote not closed"),
    ("ag_news", "test.csv", '"3"," ",""\n', r"csv:1: column 'text' is empty"),
    ("ag_news", "test.csv", '\n\n"3","a"\n', r"csv:3: expected 3 columns"),
    ("pubmed", "val.txt", '{"article_text": "one"}\n', r"val\.txt:1: column 'article_text' must be a list"),
    ("pubmed", "val.txt", paper("one") + "\n" + paper(3), r"val\.txt:2: column 'article_text' must be a list"),
    ("pubmed", "val.txt", '{"text": "one"}\n', r"val\.txt:1: column 'article_text' must be a list"),
    ("arxiv", "val.txt", paper("", " "), r"val\.txt:1: column 'article_text' is empty"),
    ("arxiv", "val.txt", paper(), r"val\.txt:1: column 'article_text' is empty"),
    ("arxiv", "validation.parquet", b"PAR1 no", r"validation\.parquet: is damaged"),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), BROKEN)
def test_what_is_refused_is_named(tmp_path: Path, name: str, file: str, content: str | bytes, message: str) -> None:
    put(tmp_path / name, file, content)
    with pytest.raises(DataError, match=message) as caught:
        load_texts(name, data=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_part_is_said_to_be_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "ptb", "ptb.valid.txt", "a\nb\n")
    with caplog.at_level(logging.INFO):
        assert load_texts("ptb", data=tmp_path).complete is False
        put(tmp_path / "ptb", "ptb.valid.txt", "a\n" * 3_370)
        texts = load_texts("ptb", data=tmp_path)
        assert (texts.complete, texts.official) == (True, False)
        put(tmp_path / "pubmed", "train.txt", paper("a"))
        assert load_texts("pubmed", data=tmp_path, split="train").complete is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]
    assert "ptb: 2 examples from ptb.valid.txt" in caplog.text
    assert "not the official file of the validation split: 2 of 3,370 documents" in caplog.text
    assert "3,370 documents as it has, but other ones or in another order" in caplog.text


def test_every_form_of_a_set_has_one_digest(tmp_path: Path) -> None:
    """A CSV file and the hub's parquet of the same articles, with either kind of line end."""
    put(tmp_path / "a" / "ag_news", "test.csv", '"3","One","two\n\nthree"\n"4","a","b "\n')
    put(tmp_path / "b" / "ag_news", "test.csv", '"3","One","two\r\n\r\nthree"\r\n"4","a","b"\r\n')
    put(tmp_path / "c" / "ag_news", "test.parquet", [{"text": "One two\n\nthree"}, {"text": "a b"}])
    found = [load_texts("ag_news", data=tmp_path / place).examples for place in "abc"]
    assert len({rows_sha256((text,) for text in texts) for texts in found}) == 1
    assert rows_sha256([("a b",)]) != rows_sha256([("a", "b")])


@pytest.mark.parametrize(("name", "split"), [("ptb", None), ("wikitext", "test"), ("lambada", None), ("ag_news", None)])
def test_the_published_files_are_the_official_ones(data_dir: Path, name: str, split: str | None) -> None:
    texts = load_texts(name, data=data_dir, split=split)
    assert (texts.official, texts.difference) == (True, "")


def test_a_split_in_anothers_place_is_noticed(tmp_path: Path) -> None:
    put(tmp_path / "ptb", "ptb.valid.txt", "a\n" * 3_761)
    texts = load_texts("ptb", data=tmp_path)
    assert texts.difference == "3,761 instead of 3,370 documents, as many as the test split has"
    put(tmp_path / "pubmed", "val.txt", "\n".join([paper("a")] * 6_633))
    assert load_texts("pubmed", data=tmp_path).official is None  # only the count can be checked


def test_a_named_file_is_the_users_own(tmp_path: Path) -> None:
    put(tmp_path / "data" / "ptb", "mine.txt", "one\ntwo\n")
    elsewhere = put(tmp_path / "elsewhere", "theirs.txt", "three\n")
    texts = load_texts("ptb", data=tmp_path / "data", file="mine.txt")
    assert (texts.files, texts.difference) == (("mine.txt",), "mine.txt was named, 2 of 3,370 documents")
    for file in (str(elsewhere), "../../elsewhere/theirs.txt"):
        texts = load_texts("ptb", data=tmp_path / "data", file=file)
        assert (texts.source, texts.files) == (str(elsewhere.parent), ("theirs.txt",)) or ".." in file
        assert texts.examples == ("three",) and "theirs.txt was named" in texts.difference and not texts.sample


@pytest.mark.parametrize("file", ["{file}", "../../../../../../../../../../../..{file}", "../README.md", "../lm1b/x"])
def test_a_file_from_elsewhere_is_never_sample_data(tmp_path: Path, file: str) -> None:
    """Whatever lies outside the bundled sample of the very set."""
    outside = put(tmp_path, "passwd", "root:x:0:0\n")
    with pytest.raises(DataError, match="the bundled sample of ptb has no file"):
        load_texts("ptb", data="sample", file=file.format(file=outside))
    with pytest.raises(DataError, match="the bundled sample of ptb has no file"):
        load_texts("ptb", data="sample", file="wikitext/wiki.valid.raw")
    assert load_texts("ptb", data="sample", file="ptb.valid.txt").sample is True


@pytest.mark.parametrize("data", ["hub", "auto"])
def test_a_file_that_no_folder_holds_is_no_reason_to_take_the_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    monkeypatch.setenv("LTM_EVAL_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="'mine.csv' of ag_news: looked in .*from the folder of data='DIR'"):
        load_texts("ag_news", data=data, file="mine.csv")


def test_pages_of_wikitext(tmp_path: Path) -> None:
    lines = [" = One = \n", " \n", " = = Part = = \n", " a , b \n", " = Two = \n", " c @-@ d \n"]
    put(tmp_path / "wikitext", "wiki.valid.raw", "".join(lines))
    found = list(documents(load_texts("wikitext", data=tmp_path)))
    assert found == [(" = One =\n", " == Part ==\n", " a, b\n"), (" = Two =\n", " c-d\n")]


def test_every_other_example_is_a_document(tmp_path: Path) -> None:
    put(tmp_path / "ptb", "ptb.valid.txt", "the <unk> 's\nN\n")
    assert list(documents(load_texts("ptb", data=tmp_path))) == [("the ?'s",), ("N",)]


PUBLISHED_SETS = [  # sha256 of the files as their authors published them, where these are the files
    ("ptb", 3_370, "c9fe6985fe0d", True),
    ("wikitext", 2_461, "f0737ed31fc1", True),
    ("lambada", 5_153, "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226", True),  # lm-eval's old check
    ("ag_news", 7_600, "521465c2428e", True),
]


@pytest.mark.parametrize(("name", "examples", "sha256", "complete"), PUBLISHED_SETS)
def test_the_published_sets(data_dir: Path, name: str, examples: int, sha256: str, complete: bool) -> None:
    texts = load_texts(name, data=data_dir)
    assert len(texts.examples) == examples
    assert texts.sha256.startswith(sha256)
    assert texts.complete is complete


def test_the_published_wikitext_has_sixty_pages(data_dir: Path) -> None:
    assert len(list(documents(load_texts("wikitext", data=data_dir)))) == 60  # arXiv:1609.07843 Table 1


# Human texts that have no perplexity task


def test_webtext_and_problems_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "webtext").mkdir()
    (tmp_path / "webtext" / "webtext.test.jsonl").write_text(
        '{"id": 1, "text": " A page\\n", "ended": true}\n', "utf-8"
    )
    assert list(documents(load_texts("webtext", data=tmp_path))) == [(" A page\n",)]
    (tmp_path / "test.jsonl").write_text('{"question": "1 + 1?", "answer": "2\\n#### 2"}\n', "utf-8")
    assert load_texts("gsm8k", data=tmp_path).examples == ("Question: 1 + 1?\nAnswer: 2\n#### 2",)
    assert len(load_texts("gsm8k", data="sample").examples) == 219


def test_a_missing_webtext_says_where_it_is_had(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"put webtext\.test\.jsonl \(openaipublic"):
        load_texts("webtext", data=tmp_path)
