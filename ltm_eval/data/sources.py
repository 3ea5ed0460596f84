"""Data sets: where they are looked for, strict reading, and the loaders of question tasks that lm-eval calls.

The choice `data` is `auto`, `sample`, `hub` or a folder. `auto` is the folder LTM_EVAL_DATA_DIR if that is set and
holds the set, else the hub: Hugging Face's caches first, then the network, always at a pinned revision. A set `s` lies
in a folder as `FOLDER/s/<file>` or `FOLDER/<file>`. A set of this project's own has its bundled files in the hub's
stead. Nothing is ever tried in place of what was asked for.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.data.metadata import reads
from ltm_eval.data.readers import (
    READERS,
    Official,
    Row,
    Standing,
    checked_row,
    distinct_ids,
    file_sha256,
    rows_sha256,
    standing,
    text_column,
)
from ltm_eval.results.answers import canonical_number, has_gold_number, is_number
from ltm_eval.results.official import NOT_OFFICIAL
from ltm_eval.system.errors import DataError, MachineError, shown
from ltm_eval.system.files import sample_data_dir, steady
from ltm_eval.system.hub import why_unserved

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from datasets import Dataset


log = logging.getLogger(__name__)

SAMPLE = "sample"
"""The `data` that stands for the bundled samples, which are not the published sets."""
DATA_DIR_VARIABLE = "LTM_EVAL_DATA_DIR"
PLACE = ("data", "data_dir")
"""Task options that name where data are looked for."""
ASKED = "test"
"""The split whose answers are compared; what is shown need not end in a number."""


@dataclass(frozen=True)
class HubSource:
    """Where a set lies on the Hugging Face hub."""

    repo: str
    """Data set repository."""
    config: str
    """Configuration."""
    revision: str
    """Commit that is read, whatever the repository's newest one is."""
    files: Mapping[str, str]
    """Split to file name inside the repository."""


@dataclass(frozen=True)
class SetSpec:
    """One data set: its files and what a row holds. A further set is a further value of this class."""

    name: str
    """Folder name below a data folder."""
    files: Mapping[str, str]
    """Split to file name inside that folder; the suffix chooses the reader."""
    columns: tuple[str, ...]
    """Columns of text that every row must hold; others are left aside."""
    hub: HubSource | None = None
    """None where the hub has no copy that is pinned here."""
    labels: tuple[str, ...] = ()
    """Columns of text or whole numbers, kept as text."""
    convert: Callable[[Mapping[str, Any], str], Row] | None = None
    """Makes a row of an object of the original file and its place; None where rows hold the columns already."""
    bundled: bool = False
    """Whether the package holds the set itself, made by this project."""
    obtain: str = ""
    """Where its files come from, for a set that no hub copy is pinned for."""
    official: Mapping[str, Official] = field(default_factory=dict)
    """Split to what it holds as published."""


GSM8K = SetSpec(
    name="gsm8k",
    files={"train": "train.jsonl", "test": "test.jsonl"},
    columns=("question", "answer"),
    hub=HubSource(
        repo="openai/gsm8k",
        config="main",
        revision="e53f048856ff4f594e959d75785d2c2d37b678ee",  # the revision that lighteval pins, too
        files={"train": "main/train-00000-of-00001.parquet", "test": "main/test-00000-of-00001.parquet"},
    ),
    official={  # the files of github openai/grade-school-math @3101c7d
        "train": Official(7_473, "937e90ecc5698135a95d098621de3388f3b63bec4dbd8fc1b349adf8612890aa"),
        "test": Official(1_319, "5b736e25f3d1e6cdeef6b3d89e3dc71a7e3c20288f93f1bda635f6fbeb4f41b5"),
    },
)


GSM8K_TRAIN = replace(
    GSM8K,
    files={"train": "train.jsonl"},
    hub=replace(GSM8K.hub, files={"train": "main/train-00000-of-00001.parquet"}) if GSM8K.hub else None,
)
"""Its training problems alone: the demonstrations of sets that have no worked answers."""


def _svamp_row(entry: Mapping[str, Any], where: str) -> Row:
    body, question = (text_column(entry, name, where=where).strip() for name in ("Body", "Question"))
    return {"question": f"{body} {question}", "answer": _numeric_answer(entry.get("Answer"), "Answer", where)}


def _multiarith_row(entry: Mapping[str, Any], where: str) -> Row:
    solutions = entry.get("lSolutions")
    if not isinstance(solutions, list) or len(solutions) != 1:
        raise DataError(f"{where}: column 'lSolutions' must be an array of one number, got {solutions!r}")
    question = text_column(entry, "sQuestion", where=where).strip()
    return {"question": question, "answer": _numeric_answer(solutions[0], "lSolutions", where)}


def _numeric_answer(value: Any, column: str, where: str) -> str:
    """`#### 18` for 18, 18.0 and "18.0"."""
    digits = format(Decimal(str(value)), "f") if isinstance(value, float) else str(value)  # 1e+22 in digits
    number = "" if isinstance(value, bool) else canonical_number(digits)
    if not is_number(number):
        raise DataError(f"{where}: column {column!r} must be a number, got {value!r}")
    return f"#### {number}"


SVAMP = SetSpec(
    name="svamp",
    files={"test": "SVAMP.json"},
    columns=("question", "answer"),
    convert=_svamp_row,
    obtain="SVAMP.json is in github arkilpatel/SVAMP (arXiv:2103.07191)",
    official={"test": Official(1_000)},
)
MULTIARITH = SetSpec(
    name="multiarith",
    files={"test": "MultiArith.json"},
    columns=("question", "answer"),
    convert=_multiarith_row,
    obtain="MultiArith.json (Roy and Roth 2015) is in github kojima-takeshi188/zero_shot_cot, dataset/MultiArith",
    official={"test": Official(600)},
)
RULES = SetSpec(
    name="rules",
    files={"train": "train.jsonl", "test": "test.jsonl"},
    columns=("question", "answer"),
    labels=("episode",),
    bundled=True,
    official={
        "train": Official(1_920, "496698452eb0de7999324a361bbea7c4a5b17f6c3e05533036d43b310ba79e0e"),
        "test": Official(120, "313615ecd17384c2b24a7424216d4303224bae029a3f99091d782f7087d75571"),
    },
)


@dataclass(frozen=True)
class Corpus:
    """A data set as read."""

    name: str
    """The set."""
    source: str
    """The folder, or `hub:<repository>@<revision>`."""
    splits: Mapping[str, tuple[Row, ...]]
    """Rows of each split, in file order."""
    sha256: Mapping[str, str]
    """Split to the digest of its file."""
    rows: Mapping[str, int]
    """Split to its number of rows."""
    standings: Mapping[str, Standing]
    """Split to how it stands to the published one."""
    sample: bool
    """Whether it is the bundled sample and not the published set."""


@dataclass(frozen=True)
class _Found:
    """The files of a set in one place."""

    source: str
    files: Mapping[str, Path]


@reads(lambda _: PLACE)
def gsm8k_dataset(*, data: object = None, data_dir: object = None, **_: object) -> dict[str, Dataset]:
    """GSM8K for lm-eval's `custom_dataset`: split to `datasets.Dataset` with the columns `question` and `answer`.

    Args:
        data: `auto`, `sample`, `hub` or a folder. lm-eval passes `--metadata` and all model arguments; the others are
            ignored.
        data_dir: the same under another name.

    Raises:
        DataError: see `load_set`; or both names are given and differ.
    """
    return as_datasets(load_set(GSM8K, data=_one_choice(data, data_dir)))


@reads(lambda _: PLACE)
def rules_dataset(*, data: object = None, data_dir: object = None, **_: object) -> dict[str, Dataset]:
    """Rule episodes for lm-eval, with the further column `episode`; arguments and errors as `gsm8k_dataset`."""
    return as_datasets(load_set(RULES, data=_one_choice(data, data_dir)))


@reads(lambda _: PLACE)
def svamp_dataset(*, data: object = None, data_dir: object = None, **_: object) -> dict[str, Dataset]:
    """SVAMP for lm-eval: its problems as `test`; `train`, which is shown, holds GSM8K's worked training problems."""
    return _shown_from_gsm8k(SVAMP, _one_choice(data, data_dir))


@reads(lambda _: PLACE)
def multiarith_dataset(*, data: object = None, data_dir: object = None, **_: object) -> dict[str, Dataset]:
    """MultiArith for lm-eval, as `svamp_dataset`."""
    return _shown_from_gsm8k(MULTIARITH, _one_choice(data, data_dir))


def _shown_from_gsm8k(spec: SetSpec, data: object) -> dict[str, Dataset]:
    return {**as_datasets(load_set(spec, data=data)), **as_datasets(load_set(GSM8K_TRAIN, data=data))}


def _one_choice(data: object, data_dir: object) -> object:
    """Of two names for one argument the one that was given."""
    if data is not None and data_dir is not None and str(data) != str(data_dir):
        raise DataError(f"data is {str(data)!r} and data_dir is {str(data_dir)!r}; give one of them")
    return data if data is not None else data_dir


def as_datasets(corpus: Corpus) -> dict[str, Dataset]:
    """The splits as lm-eval wants them; where they came from stands as JSON in `dataset.info.description`."""
    from datasets import Dataset, DatasetInfo

    facts = {"source": corpus.source, "sha256": dict(corpus.sha256), "rows": dict(corpus.rows), "sample": corpus.sample}
    infos = {
        split: DatasetInfo(description=json.dumps(facts | asdict(corpus.standings[split]))) for split in corpus.splits
    }
    return {
        split: Dataset.from_list([dict(row) for row in rows], info=infos[split])
        for split, rows in corpus.splits.items()
    }


def load_set(spec: SetSpec, *, data: object = None) -> Corpus:
    """Find a data set and read all of it.

    Args:
        spec: the set.
        data: `auto` (also None), `sample`, `hub` or a folder; `./sample` is a folder.

    Raises:
        DataError: the set is nowhere, or a file is not as it must be; the message names places or file and line.
        MachineError: a file is there and cannot be read.
        RefusedError: a file changed meanwhile.
    """
    try:
        found = _find(spec, "auto" if data is None or str(data) == "" else str(data))
        with steady(found.files.values()):
            read = {split: _read(path, spec, split) for split, path in found.files.items()}
            digests = {split: file_sha256(path) for split, path in found.files.items()}
    except OSError as error:
        raise MachineError(
            f"{error.filename}: cannot be read ({error.strerror}); check disk and permissions"
        ) from error
    corpus = Corpus(
        name=spec.name,
        source=found.source,
        splits={split: rows for split, (rows, _) in read.items()},
        sha256=digests,
        rows={split: len(rows) for split, (rows, _) in read.items()},
        standings={split: _standing(spec, split, *one) for split, one in read.items()},
        sample=str(data) == SAMPLE,
    )
    for split, one in corpus.standings.items() if not corpus.sample else ():
        if one.difference:
            log.warning("%s, %s: %s: %s", spec.name, found.files[split], NOT_OFFICIAL, one.difference)
    return corpus


def _standing(spec: SetSpec, split: str, rows: Sequence[Row], beyond: Collection[str]) -> Standing:
    """Rows against the published split; further fields of a file tell that it is of another set."""
    columns = (*spec.columns, *spec.labels)
    found = standing(len(rows), rows_sha256([row[name] for name in columns] for row in rows), split, spec.official)
    if not found.difference or not beyond:
        return found
    return replace(found, difference=f"{found.difference}, and they hold {', '.join(map(repr, sorted(beyond)))} too")


# Where a set lies ---------------------------------------------------------------------------------------------------


def _find(spec: SetSpec, data: str) -> _Found:
    """The files of a set by the order above."""
    if data == SAMPLE:
        return _in_folder(spec, sample_data_dir(), named="--data sample")
    if data == "hub":
        return _on_hub(spec, looked=[])
    if data != "auto":
        return _in_folder(spec, Path(data).expanduser(), named="--data")
    folder = os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        return _elsewhere(spec, f"{DATA_DIR_VARIABLE} (not set)")
    path = Path(folder).expanduser()
    if not path.is_dir() or _place_holding(spec, path) is not None:
        return _in_folder(spec, path, named=DATA_DIR_VARIABLE)
    return _elsewhere(spec, f"{DATA_DIR_VARIABLE}={folder}")


def _elsewhere(spec: SetSpec, looked: str) -> _Found:
    """The files of a set that no folder of the user holds."""
    return _in_folder(spec, sample_data_dir(), named="the package") if spec.bundled else _on_hub(spec, looked=[looked])


def _places(spec: SetSpec, folder: Path) -> tuple[Path, Path]:
    return folder / spec.name, folder


def _place_holding(spec: SetSpec, folder: Path) -> Path | None:
    """The place below `folder` that holds at least one file of the set."""
    for place in _places(spec, folder):
        if any((place / name).exists() for name in spec.files.values()):
            return place
    return None


def _in_folder(spec: SetSpec, folder: Path, *, named: str) -> _Found:
    """The files of a set in a folder that the user named."""
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{named}: {folder} {state}; expected a folder with {_wanted(spec, spec.name + '/')}")
    place = _place_holding(spec, folder)
    if place is None:
        looked = " and ".join(str(place / name) for place in _places(spec, folder) for name in spec.files.values())
        hint = f"; {spec.obtain}" if spec.obtain else ""
        raise DataError(f"{named}: no data of {spec.name}; looked for {looked}. Put {_wanted(spec, '')} there{hint}")
    for name in spec.files.values():
        if not (place / name).is_file():
            raise DataError(f"{named}: {place} lacks {name}; the set {spec.name} needs {_wanted(spec, '')}")
    return _Found(str(place), {split: place / name for split, name in spec.files.items()})


def _wanted(spec: SetSpec, prefix: str) -> str:
    return " and ".join(prefix + name for name in spec.files.values())


def _on_hub(spec: SetSpec, *, looked: list[str]) -> _Found:
    """The pinned files from Hugging Face's caches, else from the network."""
    files = hub_files(spec, looked)
    if spec.hub is None or not files:
        raise _nowhere(spec, looked)
    return _Found(f"hub:{spec.hub.repo}@{spec.hub.revision}", files)


def hub_files(spec: SetSpec, looked: list[str]) -> dict[str, Path]:
    """Split to file from Hugging Face's caches, else from the network; nothing where there is none.

    Args:
        spec: the set.
        looked: every place that was looked at is appended.
    """
    if spec.hub is None:
        looked.append("the hub (has no copy)")
        return {}
    return _prepared(spec, spec.hub, looked) or _downloaded(spec.hub, looked)


def _prepared(spec: SetSpec, hub: HubSource, looked: list[str]) -> dict[str, Path]:
    """This very revision as the `datasets` library keeps it once it has loaded it; nothing where it has not."""
    from datasets import config

    cache = Path(config.HF_DATASETS_CACHE)
    folder = cache / hub.repo.replace("/", "___") / hub.config / "0.0.0" / hub.revision
    files = {split: folder / f"{hub.repo.rpartition('/')[2]}-{split}.arrow" for split in spec.files}
    if all(path.is_file() for path in files.values()):
        return files
    looked.append(str(cache))
    return {}


def _downloaded(hub: HubSource, looked: list[str]) -> dict[str, Path]:
    """The files of the hub's own cache or the network; nothing, and the reason in `looked`, where neither has them."""
    from huggingface_hub import constants, try_to_load_from_cache

    cached = {
        split: try_to_load_from_cache(hub.repo, name, repo_type="dataset", revision=hub.revision)
        for split, name in hub.files.items()
    }
    if all(isinstance(path, str) for path in cached.values()):
        return {split: Path(str(path)) for split, path in cached.items()}
    looked.append(str(constants.HF_HUB_CACHE))
    switches = ("HF_DATASETS_OFFLINE",)
    reason = why_unserved(hub.repo, hub.files.values(), kind="dataset", revision=hub.revision, switches=switches)
    if reason:
        looked.append(f"{constants.ENDPOINT}/datasets/{hub.repo} ({reason})")
        return {}
    return _fetched(hub, looked)


def _fetched(hub: HubSource, looked: list[str]) -> dict[str, Path]:
    """Download the files of a hub that has just answered."""
    from huggingface_hub import hf_hub_download

    try:
        return {
            split: Path(hf_hub_download(hub.repo, name, repo_type="dataset", revision=hub.revision))
            for split, name in hub.files.items()
        }
    except Exception as error:  # noqa: BLE001  as above: the client's errors have no common class
        looked.append(f"the hub ({type(error).__name__} while downloading)")
        return {}


def _nowhere(spec: SetSpec, looked: Iterable[str]) -> DataError:
    last = f". {spec.obtain}" if spec.obtain else ", or use --data sample"
    return DataError(
        f"no data of {spec.name} in {', '.join(looked)}; put {_wanted(spec, spec.name + '/')} into a folder named by "
        f"--data or {DATA_DIR_VARIABLE}{last}"
    )


# Reading ------------------------------------------------------------------------------------------------------------


def _read(path: Path, spec: SetSpec, split: str) -> tuple[tuple[Row, ...], frozenset[str]]:
    """All rows of a file, read by its suffix, and the fields that rows of the set do not have.

    Raises:
        DataError: the file holds no row, or a row is not as it must be.
    """
    rows: list[Row] = []
    beyond: set[str] = set()
    entries = READERS[path.suffix](path)
    for where, entry in entries if spec.convert is not None else distinct_ids(entries):
        if spec.convert is not None:
            row = spec.convert(entry, where)
        else:
            row = checked_row(entry, spec.columns, where=where, labels=spec.labels)
            beyond |= entry.keys() - {*spec.columns, *spec.labels, "id"}
        if split == ASKED and not has_gold_number(row["answer"]):
            last = row["answer"].rpartition("#### ")[2]
            raise DataError(f"{where}: the answer must end in '#### ' and a number, got {shown(last)}")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no rows; expected one for each document")
    return tuple(rows), frozenset(beyond)
