"""Rows of data files: JSON lines, JSON lists and Arrow, each checked, each with its place for messages."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_eval.results.answers import worked
from ltm_eval.system.errors import DataError, shown

if TYPE_CHECKING:
    from pathlib import Path


LONGEST_LINE = 64 * 2**20
_CHUNK = 2**20

Row = Mapping[str, str]


def distinct_ids(entries: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries, unless two of them have the same text or whole number in a column `id`.

    Raises:
        DataError: with both places.
    """
    seen: dict[str | int, str] = {}
    for where, entry in entries:
        name = entry.get("id")
        if isinstance(name, (str, int)) and not isinstance(name, bool):
            if name in seen:
                raise DataError(f"{where}: id {shown(name)} stands at {seen[name]} already; ids must differ")
            seen[name] = where
        yield where, entry


def read_jsonl(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a JSON Lines file, one at a time; empty lines, CRLF and a byte order mark are accepted.

    Raises:
        DataError: with file and line, for anything that is not an object with text in every column.
    """
    for where, row in json_rows(path):
        yield checked_row(row, columns, where=where)


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (`file:line`) and object of each line of a JSON Lines file.

    Raises:
        DataError: with file and line, for anything that is not an object.
    """
    for number, line in text_lines(path):
        yield f"{path}:{number}", _object(line, where=f"{path}:{number}")


def read_arrow(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a parquet file, or of an Arrow stream as the `datasets` library stores it.

    Raises:
        DataError: with file and row.
    """
    for where, row in arrow_rows(path):
        yield checked_row(row, columns, where=where)


def arrow_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (`file: row number`) and content of each row.

    Raises:
        DataError: the file is damaged.
    """
    import pyarrow  # type: ignore[import-untyped, unused-ignore]
    from pyarrow import ipc, parquet  # type: ignore[import-untyped, unused-ignore]

    try:
        table = parquet.read_table(path) if path.suffix == ".parquet" else ipc.open_stream(path).read_all()
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path}: is damaged ({type(error).__name__}); delete it, the next run fetches it anew"
        ) from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}: row {number}", row


def list_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (`file: entry number`) and content of each object of a JSON array.

    Raises:
        DataError: the file is no such array.
    """
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    entries = _parsed(_decoded(content, where=str(path)), where=str(path))
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a JSON array of objects, got {_kind(entries)}")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number}: expected a JSON object, got {_kind(entry)}")
        yield f"{path}: entry {number}", entry


READERS: Mapping[str, Callable[[Path], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".jsonl": json_rows,
    ".json": list_rows,
    ".parquet": arrow_rows,
    ".arrow": arrow_rows,
}
"""Suffix to reader."""


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """`all_lines` that hold something."""
    return ((number, line) for number, line in all_lines(path) if line.strip())


def all_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their end; CRLF and a byte order mark are accepted.

    Raises:
        DataError: with file and line, for what is not UTF-8, holds NUL or is too long.
    """
    with path.open("rb") as file:
        refuse_impostors(file.read(64), path)
        file.seek(0)
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise DataError(f"{path}:{number}: longer than {LONGEST_LINE // 2**20} MiB; split the document")
            text = _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where=f"{path}:{number}")
            yield number, text.rstrip("\r\n")


def refuse_impostors(start: bytes, path: Path) -> None:
    """Raise DataError where a file begins as what stands in a data file's place after a failed download."""
    head = start.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: is a Git LFS pointer, not the file; run `git lfs pull`")
    if head.startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{path}: is a web page, not the data; download the raw file")


def _decoded(line: bytes, *, where: str) -> str:
    """UTF-8 text without NUL."""
    if line[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise DataError(f"{where}: is UTF-16; save the file as UTF-8")
    if b"\0" in line:
        raise DataError(f"{where}: NUL byte at byte {line.index(0) + 1}; expected text in UTF-8")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise DataError(
            f"{where}: byte {error.start + 1} (0x{byte:02x}) is not UTF-8; save the file as UTF-8"
        ) from error


def _object(line: str, *, where: str) -> dict[str, Any]:
    """The JSON object of a line."""
    value = _parsed(line, where=where)
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, got {_kind(value)}")
    return value


def _parsed(text: str, *, where: str) -> Any:
    """Any JSON value."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except _RefusedError as error:
        raise DataError(f"{where}: {error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno}); is the line torn?") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: JSON that cannot be held ({type(error).__name__}): too long a number or too deep"
        ) from error


class _RefusedError(ValueError):
    """Valid for Python's json module, but not here."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RefusedError(f"key {key!r} stands there twice")
        found[key] = value
    return found


def _no_constant(name: str) -> object:
    raise _RefusedError(f"{name} is not JSON; use null or leave the column out")


def checked_row(row: Mapping[str, Any], columns: tuple[str, ...], *, where: str, labels: tuple[str, ...] = ()) -> Row:
    """The named columns, each with text; labels may be whole numbers."""
    named = {
        label: str(row[label]) if type(row.get(label)) is int else row.get(label) for label in labels if label in row
    }
    return {column: text_column({**row, **named}, column, where=where) for column in (*columns, *labels)}


def text_column(row: Mapping[str, Any], column: str, *, where: str) -> str:
    """The text of one column, which must hold some.

    Raises:
        DataError: with its place, for anything else.
    """
    if column not in row:
        present = ", ".join(map(repr, row)) or "none"
        raise DataError(f"{where}: column {column!r} is missing; columns there: {present}")
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"{where}: column {column!r} must be text, got {_kind(value)}")
    if not value.strip():
        raise DataError(f"{where}: column {column!r} is empty")
    if "\0" in value:
        raise DataError(f"{where}: column {column!r} holds a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: column {column!r} holds half a surrogate pair, which is not text") from error
    return value


def _kind(value: object) -> str:
    """The JSON name of a value's type."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "an array", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# What was published -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Official:
    """One split of a published set."""

    rows: int
    """Documents that it has; blank ones not counted."""
    sha256: str = ""
    """`rows_sha256` of them; empty where the file could not be had for this package, so that they are only counted."""


def rows_sha256(rows: Iterable[Sequence[str]]) -> str:
    """Digest of rows of text in their order, the same for every form of file that holds them.

    White space around a text and the kind of its line ends do not count.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([text.replace("\r\n", "\n").strip() for text in row]).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class Standing:
    """How rows that were read stand to the published split."""

    official: bool | None
    """Whether they are that split; None where its number of rows fits or is not known, and no digest is."""
    difference: str = ""
    """In what they differ from it, in a few words such as `12 of 1,319 documents`; else empty."""


def standing(count: int, sha256: str, split: str, official: Mapping[str, Official]) -> Standing:
    """Compare a split that was read with the published ones of its set.

    Args:
        count: of its rows.
        sha256: `rows_sha256` of its rows.
        split: its name.
        official: the set's splits, as far as known.
    """
    if other := next((name for name, one in official.items() if name != split and one.sha256 == sha256), ""):
        return Standing(official=False, difference=f"this is the {other} split")
    known = official.get(split)
    if known is None:
        return Standing(official=None)
    if known.sha256 == sha256:
        return Standing(official=True)
    if count == known.rows:
        changed = f"{count:,} documents as it has, but other ones or in another order"
        return Standing(official=False, difference=changed) if known.sha256 else Standing(official=None)
    found = f"{count:,} {'of' if count < known.rows else 'instead of'} {known.rows:,} documents"
    like = next((name for name, one in official.items() if name != split and one.rows == count), "")
    return Standing(official=False, difference=found + (f", as many as the {like} split has" if like else ""))


# Texts from the original forms of the sets' files: sentences, WikiText, passages, CSV, papers, Parquet.

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
