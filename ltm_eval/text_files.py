"""Texts from the original forms of the sets' files: sentences, WikiText, passages, CSV, papers, Parquet."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from ltm_eval.answers import worked
from ltm_eval.errors import DataError
from ltm_eval.row_files import all_lines, arrow_rows, json_rows, text_column, text_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


CSV_HEADERS = {"class index", "class", "label"}
_NOT_TEXT = {
    b"\x1f\x8b": "is compressed (gzip); unpack it",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"version https://git-lfs": "is a Git LFS pointer, not the file; fetch the file itself",
    b"<!doctype html": "is a web page, not the data; download the raw file",
    b"<html": "is a web page, not the data; download the raw file",
}
"""First bytes of files that hold no texts, and what they are."""


def read_sentences(path: Path) -> Iterator[str]:
    """One tokenised sentence a line (Mikolov's Penn Treebank, the one billion words), outer spaces removed."""
    for _, line in text_lines(path):
        yield line.strip()


def read_wikitext(path: Path) -> Iterator[str]:
    """Lines of `wiki.*.raw` or `wiki.*.tokens` with their line end; blank ones say nothing."""
    for _, line in text_lines(path):
        yield line + "\n"


def read_passages(path: Path) -> Iterator[str]:
    """`{"text": ...}` a line: OpenAI's LAMBADA, and samples of its WebText."""
    for where, row in json_rows(path):
        yield text_column(row, "text", where=where)


def read_problems(path: Path) -> Iterator[str]:
    """Question and worked answer as they stand in a few-shot prompt: GSM8K."""
    for where, row in json_rows(path):
        question, answer = (text_column(row, column, where=where) for column in ("question", "answer"))
        yield worked(question, answer)


def read_ag_news(path: Path) -> Iterator[str]:
    """Three quoted columns class, title, description; title, a space and description, as the hub's copy joins them.

    Raises:
        DataError: with file and line, for a row of another width, a class that is not 1 to 4, a quote left open.
    """
    for position, (where, row) in enumerate(_csv_rows(path)):
        if len(row) != 3:
            raise DataError(f"{where}: expected 3 columns (class, title, description), got {len(row)}")
        if position == 0 and row[0].strip().lower() in CSV_HEADERS:
            continue
        if row[0] not in {"1", "2", "3", "4"}:
            raise DataError(f"{where}: expected a class from 1 to 4 in column 1, got {row[0][:40]!r}")
        yield text_column({"text": " ".join(row[1:])}, "text", where=where)


def _csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Place (`file:line`, the last one of a row) and cells of each row; blank lines count inside quotes only."""
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        for number, line in all_lines(path):  # noqa: B007 - read below, where the row ends
            yield line + "\n"

    reader = csv.reader(lines(), skipinitialspace=True, strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{number}: not CSV ({error}); is a quote left open?") from error
        if len(row) > 1 or "".join(row).strip():
            yield f"{path}:{number}", row


def read_papers(path: Path) -> Iterator[str]:
    """Articles of `scientific_papers`: the sentences of `article_text` joined by line ends, as the hub's script does.

    Raises:
        DataError: with file and line, where `article_text` is not a list of text with some content.
    """
    for where, row in json_rows(path):
        sentences = row.get("article_text")
        if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
            raise DataError(f"{where}: column 'article_text' must be a list of sentences; is it scientific_papers?")
        yield text_column({"article_text": "\n".join(sentences)}, "article_text", where=where)


def read_parquet(path: Path, column: str) -> Iterator[str]:
    """One example a row; blank ones are left out.

    Raises:
        DataError: with file and row, where the column is missing or holds no text.
    """
    for where, row in arrow_rows(path):
        if row.get(column) == "" or (isinstance(row.get(column), str) and not row[column].strip()):
            continue
        yield text_column(row, column, where=where)


def checked_kind(path: Path) -> None:
    """Refuse what is plainly another kind of file."""
    with path.open("rb") as file:
        start = file.read(64)
    for mark, complaint in _NOT_TEXT.items():
        if start.lstrip().lower().startswith(mark.lower()):
            raise DataError(f"{path}: {complaint}")
