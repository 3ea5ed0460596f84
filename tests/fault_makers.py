"""Makers of faults: each spoils a small checkpoint, data set, results file or setting that would otherwise work."""

from __future__ import annotations

import argparse
import base64
import errno
import importlib
import itertools
import json
import os
import pickle
import shutil
import stat
import struct
import time
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.fake_runs import write_run

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

DATA = Path(__file__).parent / "data"
QUESTION = "Ann has {n} pears and gets {n} more. How many has she?"


@dataclass
class Place:
    """Where one fault is made."""

    tmp: Path
    """An empty folder, the current one."""
    model: Path
    """A checkpoint folder that works."""
    data: Path
    """A folder of data that works: gsm8k/train.jsonl and test.jsonl, three rows each."""
    patch: pytest.MonkeyPatch
    names: dict[str, str] = field(default_factory=dict)
    """Further places for the command's arguments."""

    @property
    def weights(self) -> Path:
        return self.model / "model.safetensors"


MAKERS: dict[str, Callable[..., None]] = {}


def maker(function: Callable[..., None]) -> Callable[..., None]:
    MAKERS[function.__name__] = function
    return function


def rows(split: str) -> list[dict[str, str]]:
    """Three problems of a split."""
    start = {"train": 2, "test": 20}[split]
    return [
        {"question": QUESTION.format(n=n), "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"}
        for n in range(start, start + 3)
    ]


def write_rows(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")


# Checkpoint folders ---------------------------------------------------------------------------------------------------


@maker
def model_is(place: Place, *, what: str) -> None:
    """The checkpoint replaced by something else."""
    shutil.rmtree(place.model)
    if what == "empty folder":
        place.model.mkdir()
    elif what == "folder of .pt":
        place.model.mkdir()
        shutil.copy(DATA / "released_b" / "ckpt_1000.pt", place.model)
    elif what == "shard index outside":
        place.model.mkdir()
        index = {"weight_map": {"tok_embeddings.weight": "../elsewhere.safetensors"}}
        (place.model / "model.safetensors.index.json").write_text(json.dumps(index))
        (place.model / "config.json").write_text("{}")
    else:
        assert what == "absent"


@maker
def bytes_of(place: Place, *, file: str, content: str = "", keep: float | None = None) -> None:
    """A file replaced by these bytes (latin-1), or cut to a share of its own."""
    path = place.model / file
    old = path.read_bytes()
    path.write_bytes(content.encode("latin-1") if keep is None else old[: int(len(old) * keep)])


@maker
def header(place: Place, *, how: str) -> None:
    """Headers that lie."""
    raw = place.weights.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    told, rest = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    first, second = [name for name in told if name != "__metadata__"][:2]
    text = ""
    if how == "too long":
        place.weights.write_bytes(struct.pack("<Q", 2**40) + raw[8:])
        return
    if how == "nested":
        text = '{"x":' * 20_000 + "1" + "}" * 20_000
    elif how == "not an object":
        text = "[]"
    elif how == "duplicate":
        text = json.dumps(told)[:-1] + f", {json.dumps(first)}: {json.dumps(told[first])}}}"
    elif how == "hole":
        rest += b"\0" * 64
    elif how == "overlap":
        told[second]["data_offsets"] = told[first]["data_offsets"]
    elif how == "overflow":
        told[first]["data_offsets"] = [2**63, 2**63 + 4]
    elif how == "negative":
        told[first]["shape"] = [-1, *told[first]["shape"][1:]]
    elif how == "huge shape":
        told[first]["shape"] = [2**40, 2**40]
    elif how == "unknown type":
        told[first]["dtype"] = "F4"
    encoded = (text or json.dumps(told)).encode() if how != "not utf-8" else b'{"\xff": 1}'
    place.weights.write_bytes(struct.pack("<Q", len(encoded)) + encoded + rest)


@maker
def tensors(  # noqa: PLR0912 - a list of kinds
    place: Place, *, how: str, dtype: str = ""
) -> None:
    """Tensors that do not fit, are of another type or hold no numbers."""
    held = load_file(place.weights)
    name = "layers.0.attention.wq.weight"
    if how == "missing one":
        del held[name]
    elif how == "missing half":
        held = {key: value for key, value in held.items() if ".1." not in key}
    elif how == "missing all":
        held = {"x": torch.zeros(1)}
    elif how == "extra":
        held["layers.0.extra.weight"] = torch.zeros(2)
    elif how == "optimizer":
        held["optimizer.state.0.exp_avg"] = torch.zeros(2)
    elif how == "transposed":
        held["layers.0.feed_forward.w1.weight"] = held["layers.0.feed_forward.w1.weight"].T.contiguous()
    elif how == "no size":
        held[name] = torch.zeros(0, 8)
    elif how == "extra axis":
        held[name] = held[name].unsqueeze(0)
    elif how == "type":
        cast = getattr(torch, dtype)
        held = {key: value.to(cast) if dtype == "float64" or key == name else value for key, value in held.items()}
    elif how == "one NaN":
        held[name][1, 1] = torch.nan
    elif how == "all infinite":
        held[name].fill_(torch.inf)
    elif how == "zero layer":
        held[name].zero_()
    elif how == "untied":
        held["output.weight"] = held["tok_embeddings.weight"] + 1
    elif how == "path as name":
        held["../../etc/passwd\x1b[31m"] = torch.zeros(2)
    save_file({key: value.contiguous() for key, value in held.items()}, place.weights)
    edit(place, top={"weights_sha256": None})


@maker
def edit(place: Place, *, model: dict[str, Any] | None = None, top: dict[str, Any] | None = None) -> None:
    """Values of config.json replaced; None removes one."""
    path = place.model / "config.json"
    told = json.loads(path.read_text())
    for held, changes in ((told["model"], model), (told, top)):
        for key, value in (changes or {}).items():
            held.pop(key, None)
            if value is not None:
                held[key] = value
    path.write_text(json.dumps(told))


@maker
def config_is(place: Place, *, text: str, times: int = 1, after: str = "") -> None:
    (place.model / "config.json").write_text(text * times + after)


@maker
def flip(place: Place, *, file: str, at: int = -3) -> None:
    """One bit."""
    path = place.model / file
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


@maker
def read_only(place: Place) -> None:
    for path in (*place.model.iterdir(), place.model):
        path.chmod(0o555 if path.is_dir() else 0o444)


@maker
def linked(place: Place) -> None:
    """The folder reached by a link, its weights links into another folder, as the hub's cache has them."""
    blobs = place.tmp / "blobs"
    blobs.mkdir()
    shutil.move(str(place.weights), blobs / "0")
    place.weights.symlink_to(blobs / "0")
    link = place.tmp / "link"
    link.symlink_to(place.model)
    place.names["model"] = str(link)


# Released files -------------------------------------------------------------------------------------------------------


def released() -> dict[str, Any]:
    content: dict[str, Any] = torch.load(DATA / "released_b" / "ckpt_1000.pt", weights_only=True)
    return content


def as_pt(place: Place, content: Any) -> Path:
    path = place.tmp / "ckpt.pt"
    torch.save(content, path)
    place.names["model"] = str(path)
    return path


@dataclass
class Settings:
    """What a training script may keep beside its weights."""

    lr: float = 1.0


@maker
def training_file(place: Place, *, holds: str) -> None:
    """An honest training file with one object too many."""
    objects: dict[str, Any] = {
        "numpy scalar": np.float64(1.5),
        "namespace": argparse.Namespace(lr=1.0),
        "dataclass": Settings(),
        "path": Path("x"),
        "nothing odd": 1.0,
    }
    as_pt(place, {**released(), "best_val_loss": objects[holds]})


@maker
def old_torch(place: Place) -> None:
    place.patch.setattr(torch, "__version__", "2.9.1+cu128")
    place.names["model"] = str(DATA / "released_b" / "ckpt_1000.pt")


@maker
def released_flip(place: Place) -> None:
    """A bit of tensor data, which torch's reader does not notice."""
    path = place.tmp / "ckpt.pt"
    shutil.copy(DATA / "released_b" / "ckpt_1000.pt", path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))
    place.names["model"] = str(path)


@maker
def bomb(place: Place, *, how: str) -> None:
    """Small files that would fill the memory."""
    content = released()
    size = {"vocab_size": 20_000_000, "dim": 64}
    if how == "stride":
        wide = torch.zeros(1).expand(20_000_000, 64)
        model = {**content["model"], "tok_embeddings.weight": wide, "output.weight": wide}
        as_pt(place, {**content, "model": model, "model_args": {**content["model_args"], **size}})
    elif how == "shared":
        model = {key: value for key, value in content["model"].items() if "layers.1" not in key}
        model |= {key.replace("layers.0", "layers.1"): value for key, value in model.items() if "layers.0" in key}
        as_pt(place, {**content, "model": model})
    elif how == "meta":
        model = {key: torch.empty(value.shape, device="meta") for key, value in content["model"].items()}
        as_pt(place, {**content, "model": model})
    elif how == "sparse":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = {**content["model"], "norm.weight": torch.ones(64).to_sparse()}
            as_pt(place, {**content, "model": model})
    else:
        path = place.tmp / "bomb.pt"
        place.names["model"] = str(path)
        packed = zipfile.ZIP_DEFLATED if how == "deflate" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", packed) as archive:
            archive.writestr("archive/data.pkl", b"\0" * (2**26 if how == "deflate" else 64))
            if how == "two pickles":
                archive.writestr("other/data.pkl", b"\0" * 64)
            if how == "traversal":
                archive.writestr("../../escaped", b"x")
            for number in range(50_001 if how == "many entries" else 0):
                archive.writestr(f"archive/{number}", b"")
        if how == "size lie":
            raw = bytearray(path.read_bytes())
            at = raw.rindex(b"PK\x01\x02")
            raw[at + 20 : at + 28] = struct.pack("<II", 2**31, 2**31)
            path.write_bytes(bytes(raw))


def _number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little")


def _text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def _tensor(shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + b"K\x04tQ"
    sizes = b"".join(b"(" + b"".join(map(_number, numbers)) + b"t" for numbers in (shape, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + sizes + b"\x89ccollections\nOrderedDict\n)RtR"


_AGAIN = b"q\x00h\x00\x86" * 28  # a tuple of itself twice, 28 times: 2**28 things to look at
_ODD = b"".join(_number(k * (2**61 - 1)) + b"N" for k in range(1, 30_000))  # keys of one hash
_ORDERED = b"ccollections\nOrderedDict\nq\x00"
_PAIRS = b"](" + b"".join(b"K\x01J" + struct.pack("<i", i) + b"\x86" for i in range(20_000)) + b"e"
# Pickles that take far more memory or time than their size, for torch's reader of weights.
COSTLY = {
    "bytearray": b"c__builtin__\nbytearray\n" + _number(6 * 10**9) + b"\x85R.",
    "bytes again": b"c_codecs\nencode\nq\x00" + _text("a" * 100_000) + _text("latin1") + b"\x86q\x01]("
    b"" + b"h\x00h\x01R" * 20_000 + b"e.",
    "codec": b"c_codecs\nencode\n" + _text("a" * 30_000) + _text("punycode") + b"\x86R.",
    "bytes of bytes": b"c_codecs\nencode\nq\x00h\x00X\x01\0\0\0a"
    + _text("latin1")
    + b"\x86R"
    + _text("latin1")
    + b"\x86R.",
    "nested key": b"}K\x01K\x02\x86" + _AGAIN + b"K\x01s.",
    "colliding keys": b"}(" + _ODD + b"u.",
    "tensor of a size": b"ctorch\nTensor\n" + _number(10**9) + b"\x85R.",
    "counter": b"ccollections\nCounter\nq\x00"
    + _text("abcde" * 2_000)
    + b"\x85q\x01]("
    + b"h\x00h\x01R" * 20_000
    + b"e.",
    "dictionary of pairs": _ORDERED + _PAIRS + b"\x85q\x01](" + b"h\x00h\x01R" * 3_000 + b"e.",
    "size again": b"ctorch\nSize\nq\x00(" + b"K\x01" * 50_000 + b"t\x85q\x01](" + b"h\x00h\x01R" * 20_000 + b"e.",
    "set again": b"c__builtin__\nset\nq\x00" + _PAIRS + b"\x85q\x01](" + b"h\x00h\x01R" * 5_000 + b"e.",
    "state again": _ORDERED + b"}(" + b"".join(_text(str(i)) + b"N" for i in range(20_000)) + b"uq\x01]("
    b"" + b"h\x00)Rh\x01b" * 5_000 + b"e.",
    "sets": b"](" + b"\x8f" * 600_000 + b"e.",
    "lists": b"](" + b"]" * 600_000 + b"e.",
    "name of a storage": b"("
    + _text("storage")
    + b"ctorch\nFloatStorage\nK\x01\x85"
    + _AGAIN
    + _text("cpu")
    + b"K\x04tQ.",
    "written through": _tensor((1, 10**9), (0, 0)) + b"K\x00K\x01s" * 9 + b".",
    "quantised": b"ctorch._utils\n_rebuild_qtensor\n(K\x00K\x00("
    + _number(10**9)
    + b"t(K\x01tctorch\nper_tensor_affine\nNNtR.",
    "many tensors": b"ctorch._utils\n_rebuild_tensor_v2\nq\x08"
    + _tensor((4,), (1,)).removeprefix(b"ctorch._utils\n_rebuild_tensor_v2\n")[:-1]
    + b"q\x07]("
    + b"h\x08h\x07R" * 70_000
    + b"e.",
}


def costly(path: Path, how: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + COSTLY[how])
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/data/0", bytes(16))
    return path


@maker
def costly_pickle(place: Place, *, how: str) -> None:
    """A small pickle that would take much memory or time."""
    place.names["model"] = str(costly(place.tmp / "costly.pt", how))


@maker
def old_format(place: Place) -> None:
    """A released file as torch.save wrote it before torch 1.6."""
    path = place.tmp / "ckpt.pt"
    torch.save(released(), path, _use_new_zipfile_serialization=False)
    place.names["model"] = str(path)


@maker
def beyond_float32(place: Place, *, form: str) -> None:
    """One weight of float64 that float32 cannot hold."""
    content = released()
    wide = {name: value.double() for name, value in content["model"].items()}
    wide["norm.weight"][0] = 1e300
    if form == "released":
        as_pt(place, {**content, "model": wide})
    else:
        held = load_file(place.weights)
        held = {name: value.double() for name, value in held.items()}
        held["norm.weight"][0] = 1e300
        save_file(held, place.weights)


@maker
def wide_header(place: Place) -> None:
    """A safetensors file that is a header alone."""
    size = 2**24 + 8
    place.weights.write_bytes(struct.pack("<Q", size) + b"{" + b" " * (size - 2) + b"}" + bytes(8))


# Tokenizers -----------------------------------------------------------------------------------------------------------


@maker
def ranks(place: Place, *, how: str) -> None:
    """The tokenizer's file spoilt; without its digest where that is not what is tried."""
    path = place.model / "tokenizer.tiktoken"
    lines = path.read_bytes().splitlines(keepends=True)
    if how == "absent":
        path.unlink()
    elif how == "cut":
        path.write_bytes(b"".join(lines)[: len(lines[0]) * 100 + 3])
    elif how == "permuted":
        tokens = [line.split()[0] for line in lines]
        path.write_bytes(b"".join(b"%s %d\n" % (token, 255 - i) for i, token in enumerate(tokens)))
    elif how == "too many":
        more = [base64.b64encode(b"%c%c" % (i, i)) + b" %d\n" % (255 + i) for i in range(1, 9)]
        path.write_bytes(b"".join([*lines, *more]))
    elif how == "negative":
        path.write_bytes(b"".join([*lines[:-1], lines[-1].split()[0] + b" -1\n"]))
    elif how != "not pinned":
        path.write_bytes(how.encode())
    if how != "permuted":
        edit(place, top={"tokenizer_sha256": None})


# Data -----------------------------------------------------------------------------------------------------------------


@maker
def data_file(place: Place, *, content: str) -> None:
    """test.jsonl of these bytes (latin-1); GOOD stands for a row that works."""
    good = json.dumps(rows("test")[0])
    (place.data / "gsm8k" / "test.jsonl").write_bytes(content.replace("GOOD", good).encode("latin-1"))


@maker
def data_rows(place: Place, *, how: str) -> None:
    """Rows that can be read and yet want a word, or must not be."""
    path, test = place.data / "gsm8k" / "test.jsonl", rows("test")
    if how == "absent":
        path.unlink()
    elif how == "utf-16":
        path.write_bytes(json.dumps(test[0]).encode("utf-16"))
    elif how == "bom and crlf":
        path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in test))
    elif how == "duplicate rows":
        write_rows(path, [test[0], test[1], test[0]])
    elif how == "shown too":
        write_rows(path, [rows("train")[0], *test])
    elif how == "invisible":
        write_rows(path, [{**test[0], "question": "a\u202eb\u200bc\U0001f600 e" + "\u0301" * 40 + "?"}])
    elif how == "long":
        write_rows(path, [{**row, "question": row["question"] * 9} for row in test])
    elif how == "odd gold":
        answers = ("none here", "#### nan", "#### 1e999", "#### " + "9" * 5_000, "#### \u0661\u0662", "#### \u22127")
        write_rows(path, [{**test[0], "answer": answer} for answer in answers])


# Fits -----------------------------------------------------------------------------------------------------------------


@maker
def broken_fit(place: Place, *, how: str, of: str = "20") -> None:
    """The noise of one document, or the rate of all, is no number a fit can bear."""
    from ltm_eval.inference import posterior
    from ltm_eval.inference import posterior as steps

    honest = posterior.document_noise
    marked = tuple(f"has {of} pears".encode())

    def noise(model: Any, documents: Any, config: Any, seed: int) -> Any:
        draw = honest(model, documents, config, seed)
        hits = [_holds(document.windows[0].tokens, marked) for document in documents]
        odd = torch.tensor([torch.nan if hit else 1.0 for hit in hits]).view(1, -1, 1, 1, 1)
        return lambda step: draw(step) * (odd if step >= 1 else 1.0)

    if how == "nan":
        place.patch.setattr(posterior, "document_noise", noise)
    elif how == "rate":
        place.patch.setattr(steps, "learning_rate", lambda config, step: 1e20)


def _holds(tokens: tuple[int, ...], marked: tuple[int, ...]) -> bool:
    return any(tokens[i : i + len(marked)] == marked for i in range(len(tokens)))


@maker
def no_memory(place: Place, *, message: str) -> None:
    from ltm_eval.inference import posterior

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(message)

    place.patch.setattr(posterior, "fast_loop", fail)


# Settings, places, secrets --------------------------------------------------------------------------------------------


@maker
def output_is(place: Place, *, what: str) -> None:
    out = place.tmp / "out"
    if what == "file":
        out.write_text("mine")
    elif what == "fifo":
        os.mkfifo(out)
    elif what == "inside the model":
        place.names["out"] = str(place.model / "results")
    elif what == "device":
        place.names["out"] = "/dev/null"
    elif what == "below a file":
        out.write_text("mine")
        place.names["out"] = str(out / "deeper")


@maker
def secret(place: Place, *, name: str, value: str) -> None:
    place.patch.setenv(name, value)
    place.names["secret"] = value


@maker
def odd_path(place: Place, *, name: str, times: int = 1) -> None:
    """The checkpoint under another name."""
    target = place.tmp / (name * times)
    place.names["model"] = str(target)
    if len(os.fsencode(target.name)) <= 255 and "\0" not in name:
        shutil.move(str(place.model), target)


@maker
def mine(place: Place, *, names: list[str]) -> None:
    """Files of the user; a note looks like a page of ours."""
    for name in names:
        (place.tmp / name).parent.mkdir(parents=True, exist_ok=True)
        (place.tmp / name).write_text(NOTE if "note" in name else "mine")
        KEPT.append(place.tmp / name)


@maker
def link_out(place: Place, *, name: str, folder: bool = False) -> None:
    """A link where an output would go, to something of the user's."""
    path, target = place.tmp / name, place.tmp / "elsewhere"
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        target.mkdir()
    (target / "kept" if folder else target).write_text("mine")
    KEPT.append(target / "kept" if folder else target)
    path.symlink_to(target)


@maker
def pipe(place: Place, *, name: str) -> None:
    """A pipe that nobody writes to."""
    (place.tmp / name).parent.mkdir(parents=True, exist_ok=True)
    (place.tmp / name).unlink(missing_ok=True)
    os.mkfifo(place.tmp / name)


@maker
def journal_pipe(place: Place) -> None:
    (place.tmp / "out" / "model" / "journal").mkdir(parents=True)
    os.mkfifo(place.tmp / "out" / "model" / "journal" / "a.jsonl")


@maker
def clock(place: Place, *, at: float | None = None, jump: float = 0.0) -> None:
    """A clock that began at a Unix time, or is set forward or back after ten looks at it."""
    from datetime import datetime

    from ltm_eval.system import files

    honest, looks = time.time, itertools.count()

    def now() -> float:
        look = next(looks)
        return at + look if at is not None else honest() + (jump if look > 10 else 0)

    place.patch.setattr("time.time", now)
    place.patch.setattr(files, "datetime", type("", (), {"now": staticmethod(lambda: datetime.fromtimestamp(now()))}))


@maker
def file_system(place: Place, *, how: str) -> None:
    """What some network file systems do not have."""

    def lacks(number: int) -> Callable[..., Any]:
        def fail(*given: Any, **named: Any) -> Any:
            raise OSError(number, os.strerror(number))

        return fail

    replace, sync = os.replace, os.fsync

    def over_nothing(source: Any, target: Any) -> None:
        if os.path.exists(target):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        replace(source, target)

    def files_alone(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            lacks(errno.EINVAL)()
        sync(handle)

    if "locks" in how:
        place.patch.setattr("fcntl.flock", lacks(errno.EOPNOTSUPP if "at all" in how else errno.ENOLCK))
    if "rename" in how:
        place.patch.setattr(os, "replace", over_nothing)
    if "flush" in how:
        place.patch.setattr(os, "fsync", files_alone)
    if "size" in how:
        for name in ("shutil.disk_usage", "os.statvfs", "os.pathconf"):
            place.patch.setattr(name, lacks(errno.ENOSYS))


@maker
def starved(place: Place, *, at: str, error: str = "") -> None:
    """Memory is gone when a function is called."""
    module, _, name = at.rpartition(".")

    def fail(*given: Any, **named: Any) -> Any:
        raise RuntimeError(error) if error else MemoryError

    place.patch.setattr(importlib.import_module(module), name, fail)


@maker
def no_home(place: Place, *, how: str) -> None:
    """A user without a name and a home, or with a home and caches where nothing can be written."""

    def unknown(number: int) -> Any:
        raise KeyError(number)

    place.patch.delenv("HOME")
    place.patch.setattr("pwd.getpwuid", unknown)
    variables = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "TORCH_HOME", "MPLCONFIGDIR", "TMPDIR")
    for name in variables if how == "unwritable" else ():
        place.patch.setenv(name, "/dev/null/absent")


@maker
def nothing(place: Place) -> None:
    """The fault is in the arguments."""


# Results --------------------------------------------------------------------------------------------------------------


@maker
def results(place: Place, *, how: str = "whole", change: dict[str, Any] | None = None) -> None:
    """Results of a made-up run, spoilt."""
    folder = place.tmp / "results"
    path = write_run(folder, model="m", right=bool, n=3, change=change or {})
    place.names["results"] = str(folder)
    samples = next(path.parent.glob("samples_*"))
    place.names |= {"read": str(path), "samples": str(samples)}
    if how == "nan":
        path.write_text(path.read_text().replace("0.", 'NaN, "x": 0.', 1))
    elif how == "cut":
        path.write_text(path.read_text()[:200])
    elif how == "array":
        path.write_text("[]")
    elif how == "not utf-8":
        path.write_bytes(b"\xff\xfe{")
    elif how == "nested":
        path.write_text("[" * 100_000)
    elif how == "sample cut":
        samples.write_text(samples.read_text()[:-30])
    elif how == "sample array":
        samples.write_text("[1, 2]\n")
    elif how == "huge":
        with path.open("ab") as file:
            file.truncate(2**28 + 1)  # a hole: takes no room on disk
    elif how == "absent":
        shutil.rmtree(folder)


# Network --------------------------------------------------------------------------------------------------------------


@maker
def hub(place: Place, *, how: str) -> None:
    """A hub that is not there, or accepts and never answers."""
    import socket

    import huggingface_hub
    from huggingface_hub import constants

    from ltm_eval.system import hub as asked

    place.patch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    place.patch.setattr(constants, "HF_HUB_CACHE", str(place.tmp / "cache"))
    place.patch.setattr(asked, "NETWORK_SECONDS", 0.3)
    place.patch.setattr(asked, "_silences", {})
    if how == "silent":
        server = socket.create_server(("127.0.0.1", 0))
        place.names["server"] = str(server.fileno())
        place.patch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        HELD.append(server)
    else:
        name = {"gated": "GatedRepoError", "absent": "RepositoryNotFoundError", "revision": "RevisionNotFoundError"}

        def refuse(*args: Any, **kwargs: Any) -> Any:
            if how in name:
                raise type(name[how], (Exception,), {})
            raise ConnectionError("refused")

        place.patch.setattr(huggingface_hub.HfApi, "model_info", refuse)


NOTE = "# My week against all odds\n\n## Summary\n\nmine\n"
KEPT: list[Path] = []
"""Files that a case must leave as they are: their text is `mine`, or `NOTE`."""
HELD: list[Any] = []
"""Sockets that must stay open for the length of a test."""


# Pickles that would run something -------------------------------------------------------------------------------------


class _Call:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def _opcodes(module: str, name: str, argument: str) -> bytes:
    """A call written by hand: GLOBAL, its argument, REDUCE."""
    return f"c{module}\n{name}\n(S'{argument}'\ntR.".encode()


def _stack_global(module: str, name: str, argument: str) -> bytes:
    def text(word: str) -> bytes:
        return b"\x8c" + bytes([len(word)]) + word.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


GADGETS = (
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "getoutput"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "__import__"),
    ("runpy", "run_path"),
    ("pathlib", "Path.touch"),
    ("shutil", "rmtree"),
    ("torch", "hub.load"),
    ("torch.serialization", "load"),
    ("torch._inductor.codecache", "_module_to_code"),
    ("numpy.testing._private.utils", "runstring"),
)


def malicious(folder: Path, touch: Path) -> dict[str, Path]:
    """Files that would create `touch`, or run something else, if anything of them were executed."""
    command = f"touch {touch}"
    made: dict[str, Path] = {}

    def put(name: str, content: bytes) -> None:
        made[name] = folder / f"{name}.pt"
        made[name].write_bytes(content)

    def archive(name: str, content: bytes, **more: bytes) -> None:
        made[name] = folder / f"{name}.pt"
        with zipfile.ZipFile(made[name], "w") as file:
            file.writestr("archive/data.pkl", content)
            file.writestr("archive/version", "3\n")
            for other, held in more.items():
                file.writestr(f"archive/{other}", held)

    for number, (module, function) in enumerate(GADGETS):
        archive(f"reduce-{number}", _opcodes(module, function, command))
        archive(f"stack-{number}", _stack_global(module, function, command))
    for protocol in range(6):
        archive(f"protocol-{protocol}", pickle.dumps({"model": _Call(os.system, command)}, protocol))
    put("legacy", pickle.dumps(_Call(os.system, command)))
    put("legacy-magic", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(_Call(os.system, command)))
    archive("build", b"ctorch\nTensor\n)R(dS'x'\n" + _opcodes("os", "system", command)[:-1] + b"sb.")
    archive("instance", f"(S'{command}'\nios\nsystem\n.".encode())
    archive("object", f"(cos\nsystem\nS'{command}'\no.".encode())
    archive("newobj", f"cos\nsystem\n(S'{command}'\nt\x81.".encode())
    archive("nested", pickle.dumps({"model": {"a": [{"b": _Call(os.system, command)}]}, "model_args": {}}))
    archive("persistent", b"(S'storage'\n" + _opcodes("os", "system", command)[:-1] + b"tQ.")
    archive("extension", b"\x80\x02\x82\x01.")
    archive("script", pickle.dumps({}), **{"constants.pkl": b"\x80\x02).", "code/x.py": command.encode()})
    torch.save({**released(), "extra": _Call(os.system, command)}, folder / "honest-looking.pt")
    made["honest-looking"] = folder / "honest-looking.pt"
    put("polyglot", b"#!/bin/sh\n" + command.encode() + b"\n" + made["honest-looking"].read_bytes())
    import io
    import tarfile

    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        body = pickle.dumps(_Call(os.system, command))
        info = tarfile.TarInfo("pickle")
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
    put("tar", held.getvalue())
    return made
