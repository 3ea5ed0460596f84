"""Pack the bundled sample text: natural prose in `demo/sample_text/`, in the form of the set whose loader reads it.

    python demo/make_sample_text.py [TARGET_FOLDER]

The prose was written for this project. Here it is only tokenised as each set's authors did (see ltm_eval.data),
so that the loaders and de-tokenisers for the published files run on it unchanged. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SOURCES = Path(__file__).resolve().parent / "sample_text"
TARGET = Path(__file__).resolve().parent.parent / "ltm_eval" / "assets" / "sample"

# AG News' numbers.
CLASSES = {"world": "1", "sports": "2", "business": "3", "science": "4"}
ABBREVIATIONS = {"Mr.", "Mrs.", "Dr.", "St.", "Co.", "Inc.", "Ltd.", "Corp.", "a.m.", "p.m."}
# A word of the newswire that is at least this long and occurs once is `<unk>`, as rare words are in Mikolov's form.
RARE_LETTERS = 10
_OPENING, _CLOSING = '"([$', '",.;:!?)]'
_UNSPOKEN = set('",.;:!?()[]–') | {"--"}
_NUMBER = re.compile(r"\d[\d,.-]*")


@dataclass(frozen=True)
class Article:
    """A headed text."""

    kind: str  # class, or set; empty in the encyclopedia
    title: str
    sections: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]  # heading, and paragraphs as their sentences

    @property
    def sentences(self) -> list[str]:
        """All of them, in order."""
        return [sentence for _, paragraphs in self.sections for lines in paragraphs for sentence in lines]


# Reading ------------------------------------------------------------------------------------------------------------


def read_articles(path: Path, *, title: str, heading: str) -> list[Article]:
    """Read the articles of a source: one sentence a line, blank lines between paragraphs.

    Args:
        path: the source.
        title: pattern of a title's line with groups `kind` and `title`.
        heading: pattern of a section's line with one group.
    """
    articles: list[tuple[str, str, list[tuple[str, list[list[str]]]]]] = []
    for line in path.read_text("utf-8").splitlines():
        if found := re.fullmatch(title, line):
            articles.append((found["kind"], found["title"], [("", [[]])]))
        elif found := re.fullmatch(heading, line):
            articles[-1][2].append((found[1], [[]]))
        elif line:
            articles[-1][2][-1][1][-1].append(line)
        else:
            articles[-1][2][-1][1].append([])
    return [Article(kind, name, tuple(_filled(sections))) for kind, name, sections in articles]


def _filled(sections: list[tuple[str, list[list[str]]]]) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
    for heading, paragraphs in sections:
        kept = tuple(tuple(lines) for lines in paragraphs if lines)
        if kept:
            yield heading, kept


def newswire(sources: Path) -> list[Article]:
    """Return the newswire's articles, the four classes in turn."""
    articles = read_articles(sources / "newswire.txt", title=r"# (?P<kind>\w+): (?P<title>.+)", heading=r"## (.+)")
    by_class = [[article for article in articles if article.kind == kind] for kind in CLASSES]
    return [article for row in zip(*by_class, strict=True) for article in row]


def encyclopedia(sources: Path) -> list[Article]:
    """Return the encyclopedia's articles."""
    return read_articles(sources / "encyclopedia.txt", title=r"(?P<kind>)= (?P<title>[^=]+) =", heading=r"== (.+) ==")


def papers(sources: Path, name: str) -> list[Article]:
    """Return the invented articles of set `name`."""
    pattern = r"# (?P<kind>\w+): (?P<title>.+)"
    return [a for a in read_articles(sources / "papers.txt", title=pattern, heading=r"## (.+)") if a.kind == name]


def news_sentences(sources: Path) -> list[str]:
    """Return single sentences."""
    return (sources / "news_sentences.txt").read_text("utf-8").splitlines()


def passages(sources: Path) -> list[str]:
    """Return passages, which blank lines separate."""
    return (sources / "passages.txt").read_text("utf-8").rstrip("\n").split("\n\n")


# Tokenising ---------------------------------------------------------------------------------------------------------


def tokens(text: str, *, treebank: bool = False) -> list[str]:
    """Split natural text into words and marks.

    Args:
        text: with straight quotes.
        treebank: split `don't` as `do n't` (Penn Treebank) and not as `don 't` (one billion words).
    """
    return [token for chunk in text.split() for token in _peeled(chunk, treebank=treebank)]


def _peeled(chunk: str, *, treebank: bool) -> list[str]:
    before: list[str] = []
    after: list[str] = []
    while len(chunk) > 1 and chunk[0] in _OPENING:
        before.append(chunk[0])
        chunk = chunk[1:]
    while len(chunk) > 1 and chunk[-1] in _CLOSING and chunk not in ABBREVIATIONS:
        after.insert(0, chunk[-1])
        chunk = chunk[:-1]
    clitic = re.fullmatch(r"(.+?)(n't|'\w+|(?<=s)')" if treebank else r"(.+?)('\w+|(?<=s)')", chunk)
    return [*before, *(clitic.groups() if clitic else (chunk,)), *after]


def as_ptb(sentences: Sequence[str]) -> list[str]:
    """Return Mikolov's form: lower case, no punctuation, `N` for numbers, `<unk>` for rare words."""
    spoken = [[t.lower() for t in tokens(s, treebank=True) if t not in _UNSPOKEN] for s in sentences]
    often = Counter(token for sentence in spoken for token in sentence)
    return [" ".join(_mikolov(token, often[token]) for token in sentence) for sentence in spoken]


def _mikolov(token: str, times: int) -> str:
    if _NUMBER.fullmatch(token):
        return "N"
    return "<unk>" if times == 1 and token.isalpha() and len(token) >= RARE_LETTERS else token


def as_wikitext(text: str) -> str:
    """Return a paragraph in WikiText's raw form: numbers and hyphens with marks around them."""
    spaced = " ".join(tokens(text))
    spaced = re.sub(r"(?<=\w)-(?=\w)", " @-@ ", spaced)
    return re.sub(r"(?<=\d)([.,])(?=\d)", r" @\1@ ", spaced)


def as_lm1b(sentence: str) -> str:
    """Return a sentence as in the one billion words."""
    return " ".join(tokens(sentence))


def as_paper(article: Article, number: int) -> dict[str, object]:
    """Return a row of `scientific_papers`: lower case, hyphens apart, formulas and citations as placeholders."""
    formulas: dict[str, int] = {}

    def placeholder(found: re.Match[str]) -> str:
        return f"@xmath{formulas.setdefault(found[0], len(formulas))}"

    def tokenised(sentence: str) -> str:
        plain = re.sub(r"\$[^$]+\$", placeholder, sentence)
        plain = re.sub(r"\[\d+\]", "@xcite", plain)
        return re.sub(r"(?<=\w)-(?=\w)", " - ", " ".join(tokens(plain)).lower())

    sections = [[tokenised(s) for lines in paragraphs for s in lines] for _, paragraphs in article.sections]
    return {
        "article_id": f"sample-{article.kind}-{number}",
        "article_text": [sentence for section in sections for sentence in section],
        "abstract_text": [f"<S> {sections[0][0]} </S>"],
        "labels": None,
        "section_names": [heading or "sample" for heading, _ in article.sections],
        "sections": sections,
    }


# Files --------------------------------------------------------------------------------------------------------------


def _ptb(sources: Path) -> str:
    sentences = [sentence for article in newswire(sources) for sentence in article.sentences]
    return "".join(f" {line} \n" for line in as_ptb(sentences))


def _ag_news(sources: Path) -> str:
    """Return title and first paragraph of each article."""
    out = io.StringIO()
    rows = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for article in newswire(sources):
        rows.writerow([CLASSES[article.kind], article.title, " ".join(article.sections[0][1][0])])
    return out.getvalue()


def _wikitext(sources: Path) -> str:
    lines: list[str] = []
    for article in encyclopedia(sources):
        lines += ["", f"= {as_wikitext(article.title)} =", ""]
        for heading, paragraphs in article.sections:
            lines += [f"= = {as_wikitext(heading)} = =", ""] if heading else []
            lines += [as_wikitext(" ".join(sentences)) for sentences in paragraphs]
            lines += [""]
    return "".join(f" {line} \n" if line else " \n" for line in lines)


def _lm1b(sources: Path) -> str:
    return "".join(as_lm1b(sentence) + "\n" for sentence in news_sentences(sources))


def _lambada(sources: Path) -> str:
    return _json_lines({"text": passage} for passage in passages(sources))


def _papers(sources: Path, name: str) -> str:
    return _json_lines(as_paper(article, number) for number, article in enumerate(papers(sources, name), 1))


def _json_lines(rows: Iterator[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def files(sources: Path = SOURCES) -> dict[str, str]:
    """Return every packed file, relative to the sample folder, with its content."""
    return {
        "ptb/ptb.valid.txt": _ptb(sources),
        "wikitext/wiki.valid.raw": _wikitext(sources),
        "lm1b/sample.test.tokens": _lm1b(sources),
        "lambada/lambada_test.jsonl": _lambada(sources),
        "ag_news/test.csv": _ag_news(sources),
        "pubmed/val.txt": _papers(sources, "pubmed"),
        "arxiv/val.txt": _papers(sources, "arxiv"),
        "README.md": readme(sources),
    }


# Counts -------------------------------------------------------------------------------------------------------------


def words(text: str) -> int:
    """Count white-space separated pieces with a letter or a digit in them."""
    return sum(any(c.isalnum() for c in piece) for piece in text.split())


def _of_articles(articles: Sequence[Article]) -> int:
    """Count the words of titles, headings and sentences."""
    headings = [heading for article in articles for heading, _ in article.sections]
    return sum(words(text) for a in articles for text in (a.title, *a.sentences)) + sum(map(words, headings))


def counts(sources: Path = SOURCES) -> dict[str, tuple[int, str]]:
    """Return the number of words of each source, and what they are."""
    wire, pages, single, told = newswire(sources), encyclopedia(sources), news_sentences(sources), passages(sources)
    studies = {name: papers(sources, name) for name in ("pubmed", "arxiv")}
    return {
        "newswire.txt": (_of_articles(wire), f"{len(wire)} newswire-like articles"),
        "encyclopedia.txt": (_of_articles(pages), f"{len(pages)} encyclopedia-like articles with section headings"),
        "news_sentences.txt": (sum(map(words, single)), f"{len(single)} single news sentences"),
        "passages.txt": (sum(map(words, told)), f"{len(told)} narrative passages; the context tells the last word"),
        "papers.txt": (
            sum(words(sentence) for name in studies for article in studies[name] for sentence in article.sentences),
            f"{len(studies['pubmed'])} medical and {len(studies['arxiv'])} mathematical or physical articles, invented "
            "and labelled so",
        ),
    }


README = """\
# Sample data

Small texts to try every task with, without a download. **These are not the published sets**, and figures on them
compare with nothing outside this program: the texts are few, and of one hand. All of it was written for this project,
with invented people, places, companies and findings, and is under the project's licence (MIT). `gsm8k/`,
`svamp/` (60 problems of one step) and `multiarith/` (60 of two) hold word problems made by `python
demo/write_sample.py`, which makes `rules/` too; the rest is made by `python demo/make_sample_text.py` from natural
prose in `demo/sample_text/`.

| source | words | what |
|---|---|---|
{sources}

The three registers of newswire, encyclopedia and single sentences have {registers:,} words together.

| set | file | from | form |
|---|---|---|---|
| `ptb` | `ptb.valid.txt` | newswire | Mikolov's: lower case, no marks, `N` for numbers, {unknown} rare words `<unk>` |
| `ag_news` | `test.csv` | newswire | class, title, description: headlines and first paragraphs, no further text |
| `wikitext` | `wiki.valid.raw` | encyclopedia | raw form with `@-@`, `@,@`, `@.@` and `= Heading =` |
| `lm1b` | `sample.test.tokens` | single sentences | tokenised, one a line |
| `lambada` | `lambada_test.jsonl` | passages | OpenAI's: `{{"text": …}}` |
| `pubmed`, `arxiv` | `val.txt` | papers | `scientific_papers`: tokenised sentences, `@xmath`, `@xcite` |

Each set has its default split only. Sample text is cut into blocks of 256 tokens of the bundled model's tokenizer (not
1,024 of GPT-2's), since GPT-2's vocabulary may not be at hand and the sets are short.
"""


def readme(sources: Path = SOURCES) -> str:
    """Return the samples' README."""
    found = counts(sources)
    rows = [f"| `{name}` | {number:,} | {what} |" for name, (number, what) in found.items()]
    registers = sum(found[name][0] for name in ("newswire.txt", "encyclopedia.txt", "news_sentences.txt"))
    return README.format(sources="\n".join(rows), registers=registers, unknown=_ptb(sources).count("<unk>"))


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", type=Path, default=TARGET)
    target = parser.parse_args().target
    for name, content in files().items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(content, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
