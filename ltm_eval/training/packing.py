"""Training data as memory-mapped tokens: documents of rows, padded, made once and read at random.

A document is one or several rows that share one z. Its batch, and everything drawn for it, is a function of seed, step
and place alone, so a run resumes at any step without a state of its own, on any number of processes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ltm_eval.inference.windows import generator
from ltm_eval.model import tokenizer as bpe
from ltm_eval.model.elbo import IGNORED
from ltm_eval.model.tokenizer import RANKS_FILE, Tokenizer, load_ranks
from ltm_eval.results.answers import DELIMITER, worked
from ltm_eval.system.errors import DataError, UsageError
from ltm_eval.training.problems import generate
from ltm_eval.training.rules import episode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ltm_eval.training.recipe import Recipe, Source


PAD = 0xFFFF
"""Stands where a row is shorter than its source's length; no encoding of 16 bits reaches it."""
LEARN_BYTES = 8_000_000
"""Text per source that the byte-pair encoding is learnt from."""


@dataclass(frozen=True)
class Group:
    """Documents with something in common: a file, a hidden rule."""

    name: str
    texts: tuple[str, ...]
    """Whole texts of a stream, or the rows of one document."""


@dataclass(frozen=True)
class Packed:
    """The documents of one source."""

    source: Source
    rows: np.ndarray
    """(documents, R, T + 1), uint16, memory-mapped: tokens with the end-of-text in front, `PAD` at the end."""
    groups: np.ndarray
    """(documents,): which of `names` each belongs to."""
    names: tuple[str, ...]
    """Of the groups."""

    @property
    def training(self) -> int:
        """Documents that are trained on; the others, at the end, are held out."""
        return len(self.rows) - self.source.validation

    def documents(self, places: np.ndarray) -> Documents:
        """The documents at these places."""
        held = torch.from_numpy(self.rows[places].astype(np.int64))  # (B, R, T + 1)
        tokens = held[:, :, :-1].masked_fill(held[:, :, :-1] == PAD, 0)
        targets = held[:, :, 1:].masked_fill(held[:, :, 1:] == PAD, IGNORED)
        return Documents(self.source, tokens, targets, tuple(self.names[i] for i in self.groups[places]))


@dataclass(frozen=True)
class Documents:
    """A batch of one source."""

    source: Source
    tokens: Tensor
    """(B, R, T), long; 0 where padded."""
    targets: Tensor
    """(B, R, T), long; `IGNORED` where padded."""
    groups: tuple[str, ...]
    """Of each document."""

    @property
    def scored(self) -> int:
        """Tokens with a target."""
        return int((self.targets != IGNORED).sum())

    def part(self, rank: int, of: int) -> tuple[Documents, range]:
        """The share of one process, and the places of its documents in the batch."""
        places = range(rank, len(self.tokens), of)
        chosen = list(places)
        groups = tuple(self.groups[i] for i in chosen)
        return Documents(self.source, self.tokens[chosen], self.targets[chosen], groups), places


class Feed:
    """Batches of a recipe by step; nothing is kept between two calls."""

    def __init__(self, recipe: Recipe, packed: dict[str, Packed]) -> None:
        self.recipe = recipe
        self.packed = [packed[source.name] for source in recipe.sources]

    def batch(self, step: int, micro: int) -> Documents:
        """The documents of batch `micro` of a slow step, different ones, drawn anew each time."""
        random = generator(self.recipe.seed, "batch", f"{step}/{micro}".encode())
        chosen = self._source(step, random.random())
        count = min(chosen.source.batch, chosen.training)
        return chosen.documents(np.sort(random.choice(chosen.training, size=count, replace=False)))

    def _source(self, step: int, uniform: float) -> Packed:
        """The source at `uniform` of the weights that count in this step."""
        weights = [packed.source.weight * (step >= packed.source.from_step) for packed in self.packed]
        edges = np.cumsum(weights) / np.sum(weights)
        return self.packed[min(int(np.searchsorted(edges, uniform, "right")), len(self.packed) - 1)]


# Making the files -----------------------------------------------------------------------------------------------------


def prepare(recipe: Recipe, *, data: Path | None, folder: Path) -> tuple[Tokenizer, dict[str, Packed]]:
    """The encoding and the packed sources of a recipe: read where they exist already, else made.

    Args:
        recipe: what to make.
        data: folder that the sources' patterns are relative to; needed where a source has files.
        folder: where `tokenizer.tiktoken`, `<source>.bin` and `data.json` lie.

    Raises:
        DataError: a file is absent or malformed, or a source has too little text.
        UsageError: the patterns need a data folder and none is given.
    """
    index = folder / "data.json"
    if not (index.is_file() and json.loads(index.read_text("utf-8")).get("digest") == recipe.data_digest):
        folder.mkdir(parents=True, exist_ok=True)
        _make(recipe, data, folder)
    facts = json.loads(index.read_text("utf-8"))["sources"]
    packed = {source.name: _opened(source, folder, facts[source.name]) for source in recipe.sources}
    return load_ranks(folder / RANKS_FILE), packed


def _opened(source: Source, folder: Path, facts: dict[str, Any]) -> Packed:
    shape = tuple(facts["shape"])
    path = folder / f"{source.name}.bin"
    if not path.is_file() or path.stat().st_size != 2 * int(np.prod(shape)):
        raise DataError(f"{path}: absent or of another size than data.json says; delete {folder} to make it again")
    rows = np.memmap(path, dtype=np.uint16, mode="r", shape=shape)
    return Packed(source, rows, np.asarray(facts["groups"], dtype=np.int64), tuple(facts["names"]))


def _make(recipe: Recipe, data: Path | None, folder: Path) -> None:
    read = {source.name: list(_groups(source, data, recipe.seed)) for source in recipe.sources}
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
    (folder / "data.json").write_text(json.dumps(content) + "\n", "utf-8")


def _first(groups: list[Group], limit: int) -> Iterator[str]:
    """Texts in turn over the groups, up to `limit` characters in all."""
    share = max(1, limit // max(1, len(groups)))
    for group in groups:
        spent = 0
        for text in group.texts:
            if spent < share:
                yield text[: share - spent]
                spent += len(text)


def _groups(source: Source, data: Path | None, seed: int) -> Iterator[Group]:
    """The texts of a source."""
    if source.kind == "rules":
        for number in range(source.generated):
            drawn = episode(Random(f"rules-{seed}-{number}"), source.rows)
            yield Group(f"{drawn.family}/{drawn.hidden}", tuple(example.text for example in drawn.examples))
        return
    if source.generated:
        problems = generate(source.generated, seed=seed, split="train")
        yield Group("generated", tuple(problem_text(p.question, p.answer) for p in problems))
    for path in _files(source, data):
        texts = tuple(_texts(path, source))
        if texts:
            yield Group(path.stem, texts)


def problem_text(question: str, answer: str) -> str:
    """One demonstration of lm-eval's GSM8K prompt."""
    return worked(question, answer) + DELIMITER


def _files(source: Source, data: Path | None) -> list[Path]:
    if source.files and data is None:
        raise UsageError(f"source {source.name} reads files; say where with --data DIR or LTM_EVAL_DATA_DIR")
    found: list[Path] = []
    for pattern in source.files:
        matches = sorted((data or Path()).glob(pattern))
        if not matches:
            raise DataError(f"source {source.name}: no file matches {pattern} below {data}")
        found += matches
    return found


def _texts(path: Path, source: Source) -> Iterator[str]:
    """The texts of one file: all of a .txt, one a line of a .jsonl."""
    try:
        content = path.read_bytes()[: source.bytes_per_file].decode("utf-8", "ignore")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if path.suffix != ".jsonl":
        yield content
        return
    lines = content.removesuffix("\n").split("\n")  # not at the other line ends that Unicode knows
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            text = problem_text(row["question"], row["answer"]) if source.kind == "problems" else row["text"]
        except (ValueError, KeyError, TypeError) as error:
            if source.bytes_per_file and number == len(lines):
                return  # the cut falls into the last line
            fields = "question and answer" if source.kind == "problems" else "text"
            raise DataError(f"{path}:{number}: expected a JSON object with {fields}") from error
        if not isinstance(text, str):
            raise DataError(f"{path}:{number}: `text` must be a text, got {type(text).__name__}")
        yield text


# Packing --------------------------------------------------------------------------------------------------------------


def _packed(source: Source, groups: list[Group], tokenizer: Tokenizer, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(documents, R, T + 1) and their groups, in an order that the seed shuffles."""
    documents: list[list[list[int]]] = []
    belongs: list[int] = []
    for number, group in enumerate(groups):
        made = _documents_of(source, group, tokenizer)
        documents += made
        belongs += [number] * len(made)
    if len(documents) <= source.validation + source.batch:
        raise DataError(
            f"source {source.name}: {len(documents)} documents of {source.length} tokens, needs more than "
            f"{source.validation + source.batch} (validation and one batch); give more text or shorter rows"
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(documents))
    rows = np.full((len(documents), source.rows, source.length + 1), PAD, dtype=np.uint16)
    for place, index in enumerate(order):
        for row, tokens in enumerate(documents[index]):
            rows[place, row, : len(tokens)] = tokens
    return rows, np.asarray(belongs)[order]


def _documents_of(source: Source, group: Group, tokenizer: Tokenizer) -> list[list[list[int]]]:
    """The documents of one group, each as its rows of tokens."""
    if source.kind == "rules":
        return [[_row(tokenizer.encode(text), tokenizer, source) for text in group.texts]]
    if source.kind == "problems":
        return [[row] for row in _filled(group.texts, tokenizer, source)]
    stream = [i for text in group.texts for i in (*tokenizer.encode(text), tokenizer.eot_id)]
    starts = range(0, len(stream) - source.length + 1, source.length)
    return [[_row(stream[start : start + source.length], tokenizer, source)] for start in starts]


def _row(tokens: list[int], tokenizer: Tokenizer, source: Source) -> list[int]:
    return [tokenizer.eot_id, *tokens[: source.length]]


def _filled(texts: Iterable[str], tokenizer: Tokenizer, source: Source) -> Iterator[list[int]]:
    """Rows that begin at a text and are filled with whole ones, the last one cut."""
    held: list[int] = []
    for text in texts:
        held += tokenizer.encode(text)
        if len(held) >= source.length:
            yield _row(held, tokenizer, source)
            held = []
