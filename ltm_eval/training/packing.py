"""Training data as memory-mapped tokens: documents of padded rows, written once and read at random.

A document is one or several rows that share one z. A batch, and everything drawn for it, is a function of seed, step
and index only, so a run resumes at any step without further state, on any number of processes.

Sources of kind `text` read .txt files (one text) and .jsonl files (`{"text": …}` a line), cut into rows. `problems`
reads `{"question": …, "answer": …}` a line, packed as few-shot prompts. `rules` reads one episode a line,
`{"group": …, "examples": [{"question": …, "answer": …}, …]}`, with one example per row.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ltm_eval.inference.windows import generator
from ltm_eval.model import tokenizer as bpe
from ltm_eval.model.elbo import IGNORED
from ltm_eval.model.tokenizer import RANKS_FILE, Tokenizer, load_ranks
from ltm_eval.results.answers import DELIMITER, worked
from ltm_eval.system.errors import DataError, UsageError
from ltm_eval.system.files import read_regular, write_text_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ltm_eval.training.recipe import Recipe, Source


PAD = 0xFFFF  # padding of rows; above all token ids
FIELDS = {
    "text": "text",
    "problems": "question and answer",
    "rules": "group and as many examples (question and answer) as the source has rows",
}
T = TypeVar("T")
LEARN_BYTES = 8_000_000  # characters per source to learn the byte-pair encoding from


@dataclass(frozen=True)
class Group:
    """Documents of one file or one hidden rule."""

    name: str
    texts: tuple[str, ...]  # texts to concatenate, or the rows of one document


@dataclass(frozen=True)
class Packed:
    """The documents of one source; the last `source.validation` of them are held out."""

    source: Source
    rows: np.ndarray  # (documents, R, T + 1), uint16, memory-mapped: end-of-text, tokens, `PAD` at the end
    groups: np.ndarray  # (documents,): index into `names`
    names: tuple[str, ...]

    @property
    def training(self) -> int:
        """Number of training documents."""
        return len(self.rows) - self.source.validation

    def documents(self, indices: np.ndarray) -> Documents:
        """Return the documents at `indices`."""
        held = torch.from_numpy(self.rows[indices].astype(np.int64))  # (B, R, T + 1)
        tokens = held[:, :, :-1].masked_fill(held[:, :, :-1] == PAD, 0)
        targets = held[:, :, 1:].masked_fill(held[:, :, 1:] == PAD, IGNORED)
        return Documents(self.source, tokens, targets, tuple(self.names[i] for i in self.groups[indices]))


@dataclass(frozen=True)
class Documents:
    """A batch of one source."""

    source: Source
    tokens: Tensor  # (B, R, T), long; 0 where padded
    targets: Tensor  # (B, R, T), long; `IGNORED` where padded
    groups: tuple[str, ...]  # (B,)

    @property
    def scored(self) -> int:
        """Number of tokens with a target."""
        return int((self.targets != IGNORED).sum())

    def part(self, rank: int, of: int) -> tuple[Documents, range]:
        """Return one rank's documents, and their indices in the batch."""
        indices = range(rank, len(self.tokens), of)
        chosen = list(indices)
        groups = tuple(self.groups[i] for i in chosen)
        return Documents(self.source, self.tokens[chosen], self.targets[chosen], groups), indices


class Feed:
    """Batches of a recipe by step; stateless."""

    def __init__(self, recipe: Recipe, packed: dict[str, Packed]) -> None:
        self.recipe = recipe
        self.packed = [packed[source.name] for source in recipe.sources]

    def batch(self, step: int, micro: int) -> Documents:
        """Return batch `micro` of a slow step: distinct documents of one source, drawn by weight."""
        random = generator(self.recipe.seed, "batch", f"{step}/{micro}".encode())
        weights = [packed.source.weight * (step >= packed.source.from_step) for packed in self.packed]
        edges = np.cumsum(weights) / np.sum(weights)
        chosen = self.packed[min(int(np.searchsorted(edges, random.random(), "right")), len(self.packed) - 1)]
        count = min(chosen.source.batch, chosen.training)
        return chosen.documents(np.sort(random.choice(chosen.training, size=count, replace=False)))


# Writing the files ----------------------------------------------------------------------------------------------------


def prepare(recipe: Recipe, *, data: Path | None, folder: Path) -> tuple[Tokenizer, dict[str, Packed]]:
    """Return the encoding and the packed sources of a recipe, writing them first unless `folder` has them.

    Args:
        recipe: the recipe.
        data: folder that the sources' patterns are relative to; not needed if `folder` is complete.
        folder: folder of `tokenizer.tiktoken`, `<source>.bin` and `data.json`.

    Raises:
        DataError: a file is missing or malformed, or a source has too little text.
        UsageError: files must be read, but no data folder is given.
    """
    index = folder / "data.json"
    if not (index.is_file() and json.loads(index.read_text("utf-8")).get("digest") == recipe.data_digest):
        folder.mkdir(parents=True, exist_ok=True)
        _make(recipe, data, folder)
    facts = json.loads(index.read_text("utf-8"))["sources"]
    packed = {}
    for source in recipe.sources:
        shape, path = tuple(facts[source.name]["shape"]), folder / f"{source.name}.bin"
        if not path.is_file() or path.stat().st_size != 2 * int(np.prod(shape)):
            raise DataError(f"{path}: missing, or its size differs from data.json; delete {folder} to write it again")
        rows = np.memmap(path, dtype=np.uint16, mode="r", shape=shape)
        groups = np.asarray(facts[source.name]["groups"], dtype=np.int64)
        packed[source.name] = Packed(source, rows, groups, tuple(facts[source.name]["names"]))
    return load_ranks(folder / RANKS_FILE), packed


def _make(recipe: Recipe, data: Path | None, folder: Path) -> None:
    """Write all files of `prepare`, the index last."""
    read = {source.name: list(_groups(source, data)) for source in recipe.sources}
    sample = (text for groups in read.values() for text in _first(groups, LEARN_BYTES))
    (folder / RANKS_FILE).write_bytes(bpe.ranks_file(bpe.learn(sample, recipe.ranks)))
    tokenizer = load_ranks(folder / RANKS_FILE)
    facts = {}
    for source in recipe.sources:
        rows, groups = _packed(source, read[source.name], tokenizer, recipe.seed)
        rows.tofile(folder / f"{source.name}.bin")
        facts[source.name] = {
            "shape": rows.shape,
            "groups": groups.tolist(),
            "names": [group.name for group in read[source.name]],
            "tokens": int((rows[:, :, 1:] != PAD).sum()),
            "sha256": hashlib.sha256(rows.tobytes()).hexdigest(),
        }
    content = {"digest": recipe.data_digest, "tokenizer_sha256": tokenizer.digest, "sources": facts}
    write_text_atomic(folder / "data.json", json.dumps(content) + "\n")


def _first(groups: list[Group], limit: int) -> Iterator[str]:
    """Yield texts, an equal share of each group, up to `limit` characters in all."""
    share = max(1, limit // max(1, len(groups)))
    for group in groups:
        spent = 0
        for text in group.texts:
            if spent < share:
                yield text[: share - spent]
                spent += len(text)


# Reading --------------------------------------------------------------------------------------------------------------


def _groups(source: Source, data: Path | None) -> Iterator[Group]:
    """Yield the texts of a source: a group for every file, or for every episode."""
    if data is None:
        raise UsageError(f"source {source.name} reads files; give their folder by --data DIR or LTM_EVAL_DATA_DIR")
    for pattern in source.files:
        paths = sorted(data.glob(pattern))
        if not paths:
            made = "; python demo/make_training_data.py of the source tree makes it" if "generated" in pattern else ""
            raise DataError(f"source {source.name}: no file matches {pattern} below {data}{made}")
        for path in paths:
            if source.kind == "rules":
                yield from _rows_of(path, source, _episode)
            elif texts := tuple(_texts(path, source)):
                yield Group(path.stem, texts)


def _texts(path: Path, source: Source) -> Iterator[str]:
    if path.suffix == ".jsonl":
        yield from _rows_of(path, source, _problem if source.kind == "problems" else _text)
    else:
        yield _read(path, source)


def _read(path: Path, source: Source) -> str:
    try:
        return read_regular(path, kind=DataError)[: source.bytes_per_file].decode("utf-8", "ignore")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _rows_of(path: Path, source: Source, parse: Callable[[Any, Source], T]) -> Iterator[T]:
    """Yield the parsed lines of a .jsonl file."""
    lines = _read(path, source).removesuffix("\n").split("\n")  # not at other Unicode line ends
    for number, line in enumerate(lines, 1):
        try:
            yield parse(json.loads(line), source)
        except (ValueError, KeyError, TypeError) as error:
            if source.bytes_per_file and number == len(lines):
                return  # bytes_per_file cut the last line
            raise DataError(f"{path}:{number}: expected a JSON object with {FIELDS[source.kind]}") from error


def _text(row: Any, source: Source) -> str:
    if not isinstance(row["text"], str):
        raise TypeError
    return str(row["text"])


def _problem(row: Any, source: Source) -> str:
    """Format a row as one few-shot example of lm-eval's GSM8K prompt."""
    return worked(row["question"], row["answer"]) + DELIMITER


def _episode(row: Any, source: Source) -> Group:
    texts = tuple(_problem(example, source) for example in row["examples"])
    if len(texts) != source.rows:
        raise ValueError
    return Group(str(row["group"]), texts)


# Packing --------------------------------------------------------------------------------------------------------------


def _packed(source: Source, groups: list[Group], tokenizer: Tokenizer, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (documents, R, T + 1) and the group index of each document, shuffled by the seed."""
    documents: list[list[list[int]]] = []
    belongs: list[int] = []
    for number, group in enumerate(groups):
        made = _documents_of(source, group, tokenizer)
        documents += made
        belongs += [number] * len(made)
    if len(documents) <= source.validation + source.batch:
        raise DataError(
            f"source {source.name}: {len(documents)} documents of {source.length} tokens, needs more than "
            f"{source.validation + source.batch} (validation and one batch); provide more text or shorten the rows"
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(documents))
    rows = np.full((len(documents), source.rows, source.length + 1), PAD, dtype=np.uint16)
    for place, index in enumerate(order):
        for row, tokens in enumerate(documents[index]):
            kept = [tokenizer.eot_id, *tokens[: source.length]]
            rows[place, row, : len(kept)] = kept
    return rows, np.asarray(belongs)[order]


def _documents_of(source: Source, group: Group, tokenizer: Tokenizer) -> list[list[list[int]]]:
    """Return the documents of one group as rows of tokens, which may exceed the source's length."""
    encoded = [tokenizer.encode(text) for text in group.texts]
    if source.kind == "rules":
        return [encoded]
    if source.kind == "problems":  # a row begins with a whole problem; the last problem of a row is cut
        documents: list[list[list[int]]] = []
        held: list[int] = []
        for ids in encoded:
            held = held + ids
            if len(held) >= source.length:
                documents.append([held])
                held = []
        return documents
    stream = [token for ids in encoded for token in (*ids, tokenizer.eot_id)]
    starts = range(0, len(stream) - source.length + 1, source.length)
    return [[stream[start : start + source.length]] for start in starts]
