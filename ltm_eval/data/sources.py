"""Finding and reading all data sets.

`data` is `auto`, `sample`, `hub` or a folder. `auto` is the folder LTM_EVAL_DATA_DIR if it is set and contains the set,
else the hub: first its cache, then the network, always at a pinned revision. In a folder, the files of a set `s` are
`FOLDER/s/<file>` or `FOLDER/<file>`. There is no fallback to another source.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.data.readers import (
    Entry,
    Official,
    Row,
    checked_row,
    compared,
    file_sha256,
    parquet_rows,
    read_objects,
    rows_sha256,
)
from ltm_eval.results.answers import has_gold_number
from ltm_eval.results.official import NOT_OFFICIAL
from ltm_eval.system.errors import DataError, MachineError, UsageError, shown, spelt
from ltm_eval.system.files import sample_data_dir, steady
from ltm_eval.system.hub import why_unserved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


log = logging.getLogger(__name__)

SAMPLE = "sample"  # value of `data` for the bundled samples, which are not the published sets
DATA_DIR_VARIABLE = "LTM_EVAL_DATA_DIR"
PLACE = ("data", "data_dir")  # task options that say where to look for data
TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class HubSource:
    """A data set repository of the Hugging Face hub at a pinned commit."""

    repo: str
    revision: str
    files: Mapping[str, str]  # split to its file in the repository


@dataclass(frozen=True)
class DataSet:
    """A data set: its files and the columns of its rows."""

    name: str  # also the name of its folder
    files: Mapping[str, tuple[str, ...]]  # split to file patterns, in search order
    columns: tuple[str, ...]  # text columns that every row must have; others are ignored
    advice: str  # for a user without the set: `put FILE (SOURCE) in DIR/NAME/`
    read: Callable[[Path], Iterator[Entry]] = read_objects  # reader of the original format; parquet is always readable
    split: str = TEST  # the split to evaluate by default
    parquet_column: str = ""  # the text column in parquet files, if its name differs
    labels: tuple[str, ...] = ()  # further columns of text or whole numbers, kept as text
    official: Mapping[str, Official] = field(default_factory=dict)  # split to its published size and digest, if known
    hub: HubSource | None = None  # None if no copy loads without a script
    shards: bool = False  # whether a split may consist of several files that match a pattern
    bundled: bool = False  # whether the bundled files are the set itself, made by this project


@dataclass(frozen=True)
class Split:
    """A split that was read."""

    name: str  # of the set
    split: str
    source: str  # the folder, or `hub:<repository>@<revision>`
    files: tuple[str, ...]  # file names in the source
    sha256: str  # of the file; for several, of their digests in order
    complete: bool | None  # whether the number of rows is the published one; None if unknown
    official: bool | None  # see `readers.compared`
    difference: str
    sample: bool  # whether it is the bundled sample, not the published set
    rows: tuple[Row, ...]  # in file order, without blank ones

    @property
    def examples(self) -> tuple[str, ...]:
        """The texts of a set with one column."""
        return tuple(text for row in self.rows for text in row.values())

    def facts(self) -> dict[str, Any]:
        """Return all fields but the rows."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "rows"}


def place_of(metadata: Mapping[str, object]) -> object:
    """Return where task options say to look for data, under either of two names.

    Raises:
        UsageError: both are given and differ.
    """
    data, data_dir = (metadata.get(name) for name in PLACE)
    if data is not None and data_dir is not None and str(data) != str(data_dir):
        raise UsageError(f"data is {str(data)!r} and data_dir is {str(data_dir)!r}; give one of them")
    return data if data is not None else data_dir


def load(spec: DataSet, splits: Sequence[str], *, data: object = None, file: str | None = None) -> dict[str, Split]:
    """Find a data set and read some of its splits, all from one source.

    Args:
        spec: the set.
        splits: of `spec.files`.
        data: `auto` (also None), `sample`, `hub` or a folder; `./sample` is a folder.
        file: file of the folder to read in place of the set's own.

    Raises:
        DataError: the set is not found, or a file is invalid; the message names the places searched, or file and line.
        MachineError: a file exists but cannot be read.
        RefusedError: a file changed during reading.
    """
    try:
        source, found = _find(spec, splits, data=str(data or "auto"), file=file)
        with steady([path for files in found.values() for path in files.values()]):
            return {
                split: _read(spec, split, source, files, file=file, sample=str(data) == SAMPLE)
                for split, files in found.items()
            }
    except OSError as error:
        raise MachineError(
            f"{error.filename}: cannot be read ({error.strerror}); check disk and permissions"
        ) from error


def _read(
    spec: DataSet, split: str, source: str, files: Mapping[str, Path], *, file: str | None, sample: bool
) -> Split:
    """Read a split, compare it with the published one, and log the result."""
    rows: list[Row] = []
    beyond: set[str] = set()  # fields that the set does not have: the file may belong to another set
    for path in files.values():
        parquet = path.suffix == ".parquet"
        columns = (spec.parquet_column,) if parquet and spec.parquet_column else spec.columns
        for where, entry in (parquet_rows if parquet else spec.read)(path):
            if parquet and isinstance(first := entry.get(columns[0]), str) and not first.strip():
                continue  # WikiText's blank lines
            row = checked_row(entry, columns, where=where, labels=spec.labels)
            if split == TEST and "answer" in row and not has_gold_number(row["answer"]):
                last = row["answer"].rpartition("#### ")[2]
                raise DataError(f"{where}: the answer must end in '#### ' and a number, got {shown(last)}")
            if spec.read is read_objects:
                beyond |= entry.keys() - {*spec.columns, *spec.labels, "id"}
            rows.append(row)
        if not rows:
            raise DataError(f"{path}: contains no rows; expected the {split} split of {spec.name}")
    digests = [file_sha256(path) for path in files.values()]
    known = spec.official.get(split)
    content = rows_sha256([*row.values()] for row in rows)
    official, difference = compared(len(rows), content, split, spec.official)
    if difference and beyond:
        difference += f", and they hold {', '.join(map(repr, sorted(beyond)))} too"
    if file is not None and not official:
        official, difference = False, ", ".join(filter(None, (f"{file} was named", difference)))
    told = f"{spec.name}: {len(rows):,} examples from {', '.join([*files][:3])} in {source}"
    if sample:
        log.info("%s (bundled sample, not the published set)", told)
    elif difference:
        log.warning("%s: %s of the %s split: %s", told, NOT_OFFICIAL, split, difference)
    else:
        log.info("%s", told)
    return Split(
        name=spec.name,
        split=split,
        source=source,
        files=tuple(files),
        sha256=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        complete=None if known is None else len(rows) == known.rows,
        official=official,
        difference=difference,
        sample=sample,
        rows=tuple(rows),
    )


# Finding files --------------------------------------------------------------------------------------------------------

Found = tuple[str, dict[str, dict[str, Path]]]  # source; split to its files by name


def _find(spec: DataSet, splits: Sequence[str], *, data: str, file: str | None) -> Found:
    """Find the files of the splits, in the order stated above."""
    looked: list[str] = []
    if data == SAMPLE:
        inside = file is None or _lies_in(sample_data_dir() / spec.name, file)
        if inside and (found := _in_folder(spec, splits, sample_data_dir(), file=file, looked=looked)):
            return found
        raise _no_sample(spec, splits, file=file)
    named, folder = (spelt("data"), data) if data not in {"auto", "hub"} else (DATA_DIR_VARIABLE, "")
    if data == "auto":
        folder = os.environ.get(DATA_DIR_VARIABLE, "")
    if folder:
        path = Path(os.path.expanduser(folder))
        if not path.is_dir():
            state = "is not a folder" if path.exists() else "does not exist"
            raise DataError(f"{named}: {path} {state}; {spec.advice} and name DIR")
        if found := _in_folder(spec, splits, path, file=file, looked=looked):
            return found
    elif data == "auto":
        looked.append(f"{DATA_DIR_VARIABLE} (not set)")
    if data in {"auto", "hub"}:
        if file is not None:
            raise DataError(
                f"file {file!r} of {spec.name}: looked in {', '.join(looked) or 'no folder'}; it is never taken from "
                f"the hub, but from the folder of {spelt('data', 'DIR')} or {DATA_DIR_VARIABLE}"
            )
        own = data == "auto" and spec.bundled
        if found := (
            _in_folder(spec, splits, sample_data_dir(), file=None, looked=looked)
            if own
            else _on_hub(spec, splits, looked)
        ):
            return found
    sample = f", or take {spelt('data', 'sample')}" if (sample_data_dir() / spec.name).is_dir() else ""
    raise DataError(
        f"no {' and '.join(splits)} split of {spec.name}: looked in {', '.join(looked)}; {spec.advice} and name it by "
        f"{spelt('data', 'DIR')} or {DATA_DIR_VARIABLE}{sample}"
    )


def _in_folder(
    spec: DataSet, splits: Sequence[str], folder: Path, *, file: str | None, looked: list[str]
) -> Found | None:
    """Find files in `FOLDER/<set>`, else in `FOLDER`; for each split the first pattern with a match wins.

    Patterns that begin with a star are skipped in `FOLDER` itself, which may contain other sets.
    """
    for place in (folder / spec.name, folder):
        found: dict[str, dict[str, Path]] = {}
        patterns = {
            split: [file] if file else [p for p in spec.files[split] if place != folder or not p.startswith("*")]
            for split in splits
        }
        for split in splits:
            for pattern in patterns[split]:
                matches = [place / pattern] if file else place.glob(pattern)
                paths = sorted(path for path in matches if path.is_file())
                if len(paths) > 1 and not spec.shards:
                    names = ", ".join(path.name for path in paths[:3])
                    raise DataError(
                        f"{place}: {len(paths)} files match {pattern} ({names}); name one by {spec.name}_file"
                    )
                if file and paths and not _lies_in(place, file):
                    return str(paths[0].parent), {split: {paths[0].name: paths[0]}}
                if paths:
                    found[split] = {os.path.relpath(path, place): path for path in paths}
                    break
        if missing := [split for split in splits if found and split not in found]:
            raise DataError(f"{place} lacks {spec.files[missing[0]][0]}; {spec.advice}")
        if found:
            return str(place), found
        looked.append(f"{place} ({', '.join(pattern for split in splits for pattern in patterns[split])})")
    return None


def _lies_in(folder: Path, file: str) -> bool:
    """Return whether a file named by the user is in or below a folder, whether or not it is a link."""
    path = Path(os.path.normpath(folder / file))
    return path.is_relative_to(folder) and path.is_file()


def _on_hub(spec: DataSet, splits: Sequence[str], looked: list[str]) -> Found | None:
    """Return the pinned files from the hub's cache or the network; else None, and append the reason to `looked`."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    hub = spec.hub
    if hub is None or not set(splits) <= hub.files.keys():
        looked.append("the hub (no copy that loads without a script is pinned)")
        return None
    names = {split: hub.files[split] for split in splits}
    source = f"hub:{hub.repo}@{hub.revision}"
    cached = {
        split: try_to_load_from_cache(hub.repo, name, repo_type="dataset", revision=hub.revision)
        for split, name in names.items()
    }
    if all(isinstance(path, str) for path in cached.values()):
        return source, {split: {names[split]: Path(str(path))} for split, path in cached.items()}
    looked.append(str(constants.HF_HUB_CACHE))
    switches = ("HF_DATASETS_OFFLINE",)
    reason = why_unserved(hub.repo, names.values(), kind="dataset", revision=hub.revision, switches=switches)
    if not reason:
        try:
            return source, {
                split: {name: Path(hf_hub_download(hub.repo, name, repo_type="dataset", revision=hub.revision))}
                for split, name in names.items()
            }
        except Exception as error:  # noqa: BLE001 - the client's errors have no common class
            reason = f"{type(error).__name__} while downloading"
    looked.append(f"{constants.ENDPOINT}/datasets/{hub.repo} ({reason})")
    return None


def _no_sample(spec: DataSet, splits: Sequence[str], *, file: str | None) -> DataError:
    """Return the error for a split or file that the bundled samples lack."""
    remedy = f"{spec.advice} and name it by {spelt('data', 'DIR')}"
    if not (sample_data_dir() / spec.name).is_dir():
        return DataError(f"there is no bundled sample of {spec.name} in {sample_data_dir()}; {remedy}")
    if file is not None:
        return DataError(f"the bundled sample of {spec.name} has no file {file!r}; leave the name out, or {remedy}")
    return DataError(
        f"the bundled sample of {spec.name} is its {spec.split} split, not {' and '.join(splits)}; {remedy}"
    )
