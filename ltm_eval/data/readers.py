"""Readers of the file formats that the sets are published in.

A reader yields `(where, row)`, where being `file:line` or `file: row N`, for messages. Files are UTF-8; CRLF and a byte
order mark are accepted, blank lines are skipped.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ltm_eval.results.answers import canonical_number, is_number, worked
from ltm_eval.system.errors import DataError
from ltm_eval.system.files import check_regular

if TYPE_CHECKING:
    from pathlib import Path


Row = Mapping[str, str]
Entry = tuple[str, Mapping[str, Any]]  # where it stands, and the row

LONGEST_LINE = 64 * 2**20  # bytes
CSV_HEADERS = {"class index", "class", "label"}
# First bytes of what a failed or unfinished download leaves in place of a data file.
_NOT_DATA = {
    b"\x1f\x8b": "is compressed (gzip); unpack it",
    b"pk\x03\x04": "is a zip archive; unpack it",
    b"version https://git-lfs": "is a Git LFS pointer, not the file; run `git lfs pull`",
    b"<!doctype html": "is a web page, not the data; download the raw file",
    b"<html": "is a web page, not the data; download the raw file",
}


def all_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines without line ends.

    Raises:
        DataError: the file is not a text file, or a line is not UTF-8 or longer than `LONGEST_LINE`.
    """
    check_regular(path, kind=DataError)
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
        for mark, complaint in _NOT_DATA.items():
            if start.startswith(mark):
                raise DataError(f"{path}: {complaint}")
        file.seek(0)
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise DataError(f"{path}:{number}: longer than {LONGEST_LINE // 2**20} MiB; split the document")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{number}: byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; save the file "
                    "as UTF-8"
                ) from error
            yield number, text.rstrip("\r\n")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of `all_lines` that are not blank."""
    return ((number, line) for number, line in all_lines(path) if line.strip())


def json_lines(path: Path) -> Iterator[Entry]:
    """Yield the object of each line of a JSON Lines file."""
    for number, line in text_lines(path):
        yield (where := f"{path}:{number}"), _object(parsed(line, where=where), where=where)


def json_list(path: Path) -> Iterator[Entry]:
    """Yield the objects of a JSON array."""
    entries = parsed("\n".join(line for _, line in all_lines(path)), where=str(path))
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a JSON array of objects, got {_kind(entries)}")
    for number, entry in enumerate(entries, start=1):
        yield (where := f"{path}: entry {number}"), _object(entry, where=where)


def parquet_rows(path: Path) -> Iterator[Entry]:
    """Yield the rows of a parquet file.

    Raises:
        DataError: the file is damaged.
    """
    import pyarrow  # type: ignore[import-untyped, unused-ignore]
    from pyarrow import parquet  # type: ignore[import-untyped, unused-ignore]

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path}: is damaged ({type(error).__name__}); delete it, and the next run downloads it again"
        ) from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}: row {number}", row


def read_objects(path: Path) -> Iterator[Entry]:
    """Read .jsonl or .json files whose objects have the columns of the set."""
    return (json_list if path.suffix == ".json" else json_lines)(path)


def parsed(text: str, *, where: str) -> Any:
    """Parse JSON.

    Raises:
        DataError: it is not valid, too deeply nested, or has a number too long for Python.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno}); is the line torn?") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON that can be read ({type(error).__name__})") from error


def _object(value: Any, *, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, got {_kind(value)}")
    return value


def checked_row(row: Mapping[str, Any], columns: Sequence[str], *, where: str, labels: Sequence[str] = ()) -> Row:
    """Return the named columns as text; labels may be whole numbers."""
    named = {name: str(row[name]) for name in labels if type(row.get(name)) is int}
    return {column: text_column({**row, **named}, column, where=where) for column in (*columns, *labels)}


def text_column(row: Mapping[str, Any], column: str, *, where: str) -> str:
    """Return the text of one column.

    Raises:
        DataError: the column is missing, not text or blank.
    """
    if column not in row:
        present = ", ".join(map(repr, row)) or "none"
        raise DataError(f"{where}: column {column!r} is missing; columns there: {present}")
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"{where}: column {column!r} must be text, got {_kind(value)}")
    if not value.strip():
        raise DataError(f"{where}: column {column!r} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: column {column!r} contains an unpaired surrogate, which is not text") from error
    return value


def _kind(value: object) -> str:
    """Return the JSON name of a value's type."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "an array", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


# Original formats of the sets ----------------------------------------------------------------------------------------


def read_sentences(path: Path) -> Iterator[Entry]:
    """Read one tokenised sentence per line, stripped: Mikolov's Penn Treebank, the one billion word benchmark."""
    for number, line in text_lines(path):
        yield f"{path}:{number}", {"text": line.strip()}


def read_wikitext(path: Path) -> Iterator[Entry]:
    """Read lines of `wiki.*.raw` or `wiki.*.tokens` with their line ends."""
    for number, line in text_lines(path):
        yield f"{path}:{number}", {"text": line + "\n"}


def read_problems(path: Path) -> Iterator[Entry]:
    """Read GSM8K's questions with their worked answers, as in a few-shot prompt."""
    for where, row in json_lines(path):
        checked = checked_row(row, ("question", "answer"), where=where)
        yield where, {"text": worked(checked["question"], checked["answer"])}


def read_ag_news(path: Path) -> Iterator[Entry]:
    """Read columns class, title, description; join title and description by a space, as the hub's copy does.

    Raises:
        DataError: a row does not have three columns, a class is not 1 to 4, or a quote is not closed.
    """
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        for number, line in all_lines(path):  # noqa: B007 - the last number is used below
            yield line + "\n"

    try:
        reader = csv.reader(lines(), skipinitialspace=True, strict=True)
        for index, row in enumerate(row for row in reader if len(row) > 1 or "".join(row).strip()):
            where = f"{path}:{number}"
            if len(row) != 3:
                raise DataError(f"{where}: expected 3 columns (class, title, description), got {len(row)}")
            if index == 0 and row[0].strip().lower() in CSV_HEADERS:
                continue
            if row[0] not in {"1", "2", "3", "4"}:
                raise DataError(f"{where}: expected a class from 1 to 4 in column 1, got {row[0][:40]!r}")
            yield where, {"text": " ".join(row[1:])}
    except csv.Error as error:
        raise DataError(f"{path}:{number}: not CSV ({error}); is a quote not closed?") from error


def read_papers(path: Path) -> Iterator[Entry]:
    """Read articles of `scientific_papers`: sentences of `article_text` joined by line ends, as the hub's script does.

    Raises:
        DataError: `article_text` is not a list of text.
    """
    for where, row in json_lines(path):
        sentences = row.get("article_text")
        if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
            raise DataError(f"{where}: column 'article_text' must be a list of sentences; is it scientific_papers?")
        yield where, {"text": text_column({"article_text": "\n".join(sentences)}, "article_text", where=where)}


def read_svamp(path: Path) -> Iterator[Entry]:
    """Read SVAMP's problems in GSM8K's columns."""
    for where, entry in json_list(path):
        body, question = (text_column(entry, name, where=where).strip() for name in ("Body", "Question"))
        yield where, {"question": f"{body} {question}", "answer": _number(entry.get("Answer"), "Answer", where)}


def read_multiarith(path: Path) -> Iterator[Entry]:
    """Read MultiArith's problems in GSM8K's columns."""
    for where, entry in json_list(path):
        solutions = entry.get("lSolutions")
        if not isinstance(solutions, list) or len(solutions) != 1:
            raise DataError(f"{where}: column 'lSolutions' must be an array of one number, got {solutions!r}")
        question = text_column(entry, "sQuestion", where=where).strip()
        yield where, {"question": question, "answer": _number(solutions[0], "lSolutions", where)}


def _number(value: Any, column: str, where: str) -> str:
    """Return `#### 18` for 18, 18.0 and "18.0"."""
    digits = format(Decimal(str(value)), "f") if isinstance(value, float) else str(value)  # 1e+22 in digits
    number = "" if isinstance(value, bool) else canonical_number(digits)
    if not is_number(number):
        raise DataError(f"{where}: column {column!r} must be a number, got {value!r}")
    return f"#### {number}"


# Comparison with the published sets ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Official:
    """One split of a published set: its number of rows, blank ones not counted, and their `rows_sha256` if known."""

    rows: int
    sha256: str = ""


def file_sha256(path: Path) -> str:
    """Return the digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def rows_sha256(rows: Iterable[Sequence[str]]) -> str:
    """Return the digest of rows of text in order, independent of the file format.

    Outer white space and the kind of line ends are ignored.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([text.replace("\r\n", "\n").strip() for text in row]).encode() + b"\n")
    return digest.hexdigest()


def compared(count: int, sha256: str, split: str, official: Mapping[str, Official]) -> tuple[bool | None, str]:
    """Compare a split with the published ones of its set.

    Args:
        count: number of its rows.
        sha256: `rows_sha256` of its rows.
        split: its name.
        official: the set's published splits, as far as known.

    Returns:
        Whether it is the published split, None if the digest cannot be checked and the count does not contradict; and
        the difference, such as `12 of 1,319 documents`.
    """
    others = {name: one for name, one in official.items() if name != split}
    if other := next((name for name, one in others.items() if one.sha256 == sha256), ""):
        return False, f"this is the {other} split"
    known = official.get(split)
    if known is None or (count == known.rows and not known.sha256):
        return None, ""
    if known.sha256 == sha256:
        return True, ""
    if count == known.rows:
        return False, f"{count:,} documents as it has, but other ones or in another order"
    found = f"{count:,} {'of' if count < known.rows else 'instead of'} {known.rows:,} documents"
    like = next((name for name, one in others.items() if one.rows == count), "")
    return False, found + (f", as many as the {like} split has" if like else "")
