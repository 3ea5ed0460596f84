"""The bundled sample text: made by its tool, of honest size, and natural again once loaded and de-tokenised."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import make_sample_text as tool
import pytest

from ltm_eval.data.blocks import last_word_dataset, prepare
from ltm_eval.data.sets import TEXT_SETS, documents, load_texts
from ltm_eval.system.files import sample_data_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_BYTES = 500_000
REGISTERS = ("newswire.txt", "encyclopedia.txt", "news_sentences.txt")


def natural(name: str) -> list[str]:
    """The documents of a set as the tasks see them."""
    return ["".join(parts) for parts in documents(load_texts(name, data="sample"))]


def differing(found: Sequence[str], expected: Sequence[str]) -> list[tuple[str, str]]:
    return [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]


# What is packed -----------------------------------------------------------------------------------------------------


def test_packed_files_are_what_the_tool_makes() -> None:
    made = tool.files()
    packed = {path.relative_to(sample_data_dir()).as_posix() for path in sample_data_dir().rglob("*") if path.is_file()}
    assert {name for name in packed if not name.startswith(("gsm8k/", "rules/", "svamp/", "multiarith/"))} == set(made)
    for name, content in made.items():
        assert (sample_data_dir() / name).read_bytes() == content.encode(), f"{name}: run demo/make_sample_text.py"


def test_the_tool_writes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_sample_text.py", str(tmp_path)])
    tool.main()
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == set(tool.files())


def test_every_set_has_a_sample() -> None:
    assert {Path(name).parent.as_posix() for name in tool.files()} == {*TEXT_SETS, "."}
    assert sum(path.stat().st_size for path in sample_data_dir().rglob("*") if path.is_file()) < MOST_BYTES


def test_there_are_as_many_words_as_the_readme_says(root: Path) -> None:
    stated = dict(re.findall(r"\| `(\w+\.txt)` \| ([\d,]+) \|", (sample_data_dir() / "README.md").read_text("utf-8")))
    found = {name: number for name, (number, _) in tool.counts().items()}
    assert {name: int(number.replace(",", "")) for name, number in stated.items()} == found
    assert sum(found[name] for name in REGISTERS) >= 9_000
    for name, number in found.items():  # counted the crude way: never more words than pieces between white space
        assert number <= len((root / "demo" / "sample_text" / name).read_text("utf-8").split())


def test_no_text_is_there_twice() -> None:
    sources = tool.SOURCES
    sentences = [s for article in [*tool.newswire(sources), *tool.encyclopedia(sources)] for s in article.sentences]
    sentences += [*tool.news_sentences(sources), *tool.passages(sources)]
    assert len(sentences) == len(set(sentences))
    openings = [" ".join(sentence.split()[:6]) for sentence in sentences]
    assert len(set(openings)) > 0.99 * len(openings)


# Tokenised by hand --------------------------------------------------------------------------------------------------


def test_tokens_by_hand() -> None:
    text = "\"It isn't Dr. Hale's,\" he said (at 10 a.m.); the ships' cost: $4,200!"
    modern = "\" It isn 't Dr. Hale 's , \" he said ( at 10 a.m. ) ; the ships ' cost : $ 4,200 !"
    assert " ".join(tool.tokens(text)) == modern
    treebank = modern.replace("isn 't", "is n't")
    assert " ".join(tool.tokens(text, treebank=True)) == treebank


def test_forms_by_hand() -> None:
    assert tool.as_ptb(["The rector's debt, $4,200, isn't small (7.5 percent).", "Extraordinary!"]) == [
        "the rector 's debt $ N is n't small N percent",
        "<unk>",
    ]
    assert tool.as_ptb(["Extraordinary, extraordinary!"]) == ["extraordinary extraordinary"]  # occurs twice: not rare
    assert tool.as_wikitext("Its well-known 61,000 coins (6.5 grams) lay here.") == (
        "Its well @-@ known 61 @,@ 000 coins ( 6 @.@ 5 grams ) lay here ."
    )
    article = tool.Article("arxiv", "T", (("proof", (("Let $n > 2$ be a well-known bound [7], with $n > 2$.",),)),))
    assert tool.as_paper(article, 3) == {
        "article_id": "sample-arxiv-3",
        "article_text": ["let @xmath0 be a well - known bound @xcite , with @xmath0 ."],
        "abstract_text": ["<S> let @xmath0 be a well - known bound @xcite , with @xmath0 . </S>"],
        "labels": None,
        "section_names": ["proof"],
        "sections": [["let @xmath0 be a well - known bound @xcite , with @xmath0 ."]],
    }


# De-tokenised: the natural text again -------------------------------------------------------------------------------


def test_wikitext_gives_the_natural_text_back() -> None:
    articles = tool.encyclopedia(tool.SOURCES)
    pages = natural("wikitext")
    lines = [line.strip() for page in pages for line in page.splitlines() if line.strip()]
    expected = []
    for article in articles:
        expected.append(f"= {article.title} =")
        for heading, paragraphs in article.sections:
            expected += [f"== {heading} =="] if heading else []
            expected += [" ".join(sentences) for sentences in paragraphs]
    assert len(pages) == len(articles)
    assert differing(lines, expected) == []


def test_lm1b_gives_the_natural_text_back() -> None:
    sentences = tool.news_sentences(tool.SOURCES)
    different = differing(natural("lm1b"), sentences)
    assert len(different) <= 0.03 * len(sentences), different


def test_lambada_and_ag_news_are_the_natural_text() -> None:
    passages = tool.passages(tool.SOURCES)
    assert natural("lambada") == ["\n" + passage for passage in passages]
    first = [f"{a.title} {' '.join(a.sections[0][1][0])}" for a in tool.newswire(tool.SOURCES)]
    assert natural("ag_news") == first


def letters(text: str) -> str:
    return re.sub("[^a-z]", "", text.lower())


def test_ptb_keeps_every_word() -> None:
    """Letter for letter, where a question mark stands for a rare word and figures are all 1."""
    sentences = [sentence for article in tool.newswire(tool.SOURCES) for sentence in article.sentences]
    for found, sentence in zip(natural("ptb"), sentences, strict=True):
        pattern = re.sub("[^a-z?]", "", re.sub(r"\bN\b", "", found)).replace("?", f"[a-z]{{{tool.RARE_LETTERS},}}")
        assert re.fullmatch(pattern, letters(sentence)), (found, sentence)
        assert not re.search(r"[A-Z,;:\"()!]", re.sub(r"\bN\b", "", found)), found


@pytest.mark.parametrize("name", ["pubmed", "arxiv"])
def test_papers_give_nearly_the_natural_text_back(name: str) -> None:
    """Lower case with formulas, citations and hyphens as the set has them; spaces inside brackets may remain."""
    expected = []
    for article in tool.papers(tool.SOURCES, name):
        for sentence in article.sentences:
            plain = re.sub(r"\[\d+\]", "@xcite", re.sub(r"\$[^$]+\$", "@xmath", sentence)).lower()
            expected.append(re.sub(r"(?<=\w)-(?=\w)", " - ", plain))
    lines = [re.sub(r"@xmath\d+", "@xmath", line) for text in natural(name) for line in text.split("\n")]
    found = [re.sub(r" (?=[.?]$)", "", line) for line in lines]  # the rules join no mark before a line end
    different = differing(found, expected)
    assert len(different) <= 0.1 * len(expected), different
    for text in natural(name):
        assert text.startswith("this is an invented sample text and reports no real ")


# As tasks read it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXT_SETS)
def test_each_set_gives_several_blocks_without_gpt2s_vocabulary(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise AssertionError("GPT-2's vocabulary was asked for")

    monkeypatch.setattr("ltm_eval.data.blocks.load_gpt2", absent)
    facts = prepare(name, data="sample").facts
    assert facts["documents"] >= 4
    assert (facts["sample"], facts["block_tokens"], facts["block_tokenizer"]) == (True, 256, "demo")
    assert re.fullmatch("[0-9a-f]{64}", facts["block_tokenizer_sha256"])
    assert not any("gpt2" in key for key in facts)
    assert facts["dropped_tokens"] < 254


def test_last_words_can_be_told_from_the_context() -> None:
    """All but a few stand in the passage before, as in LAMBADA."""
    rows = list(last_word_dataset(data="sample")["blocks"])
    assert len(rows) >= 60
    assert all(re.fullmatch(" [a-z]+", row["target"]) for row in rows)
    new = [row["target"] for row in rows if not re.search(rf"\b{row['target'].strip()}\b", row["context"])]
    assert len(new) < 0.1 * len(rows), new
