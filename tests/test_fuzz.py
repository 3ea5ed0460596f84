"""Random and mutated input: one typed error or a sound result, never another exception, and never for long.

FUZZ_SCALE=20 multiplies how much is tried; FUZZ_SEED=1 gives other input. docs/RELIABILITY.md says what was run.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import pickletools
import random
import resource
import shutil
import sys
import time
import zipfile
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_eval import cli
from ltm_eval.data.sets import GSM8K
from ltm_eval.data.sources import load
from ltm_eval.harness.options import RunConfig
from ltm_eval.model.checkpoint import read
from ltm_eval.model.config import ModelConfig
from ltm_eval.model.tokenizer import Tokenizer, load_ranks
from ltm_eval.report.page import build
from ltm_eval.results.files import find_runs
from ltm_eval.system.errors import CheckpointError, DataError, LtmEvalError, TokenizerError
from tests.fake_runs import write_run
from tests.fault_makers import COSTLY, DATA, costly, rows, write_rows
from tests.tiny import byte_ranks
from tests.tokenizer_kinds import gpt2_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.faults

SCALE = float(os.environ.get("FUZZ_SCALE", "1"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
SLOWEST = 10.0
"""Seconds of the processor that one input may take; far above what any does."""
INTERESTING = (b"", b"\0", b"\xff", b"\xff" * 8, b"[" * 600, *b"{} null NaN 1e999 -1".split(), b"9" * 400, b'"', b"\n")


def many(count: int) -> int:
    return max(1, int(count * SCALE))


def mutants(seed: str, content: bytes, count: int) -> Iterator[bytes]:
    """`content` with one to four things done to it: bits flipped, parts cut, doubled, moved or replaced."""
    stream = random.Random(f"{SEED}-{seed}")
    for _ in range(many(count)):
        data = bytearray(content)
        for _ in range(stream.choice((1, 1, 2, 4))):
            at, size = stream.randrange(len(data) + 1), stream.choice((1, 1, 2, 8, 64))
            kind = stream.randrange(6)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << stream.randrange(8)
            elif kind == 1:
                del data[at : at + size]
            elif kind == 2:
                data[at:at] = data[at : at + size]
            elif kind == 3:
                data[at : at + size] = stream.choice(INTERESTING)
            elif kind == 4:
                data[at : at + size] = stream.randbytes(size)
            elif stream.random() < 0.2:
                del data[at:]
        yield bytes(data)


def tried(work: Callable[[], Any], expected: type[LtmEvalError]) -> bool:
    """Whether `work` succeeded; another error than the expected one is raised, and so is one that is no single line."""
    begun = time.process_time()
    try:
        work()
    except expected as error:
        assert len(str(error)) > 0
        assert "weights_only" not in str(error)
        return False
    finally:
        assert time.process_time() - begun < SLOWEST
    return True


# Checkpoints ----------------------------------------------------------------------------------------------------------


def test_folders(folder: Path, tmp_path: Path) -> None:
    """What still loads has the digest that its config names, so it is the same model."""
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    for name, count in (("model.safetensors", 400), ("config.json", 400)):
        whole = (folder / name).read_bytes()
        for content in mutants(name, whole, count):
            (place / name).write_bytes(content)
            tried(lambda: read(place), CheckpointError)
        (place / name).write_bytes(whole)


def repacked(whole: bytes, pickle: bytes) -> bytes:
    """The archive with another pickle, its checksums right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, pickle if entry.filename.endswith("data.pkl") else old.read(entry))
    return made.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_released_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of the archive, which its checksums guard, and of the pickle inside with checksums made anew."""
    monkeypatch.chdir(tmp_path)
    whole = (DATA / "released_b" / "ckpt_1000.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        pickle = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    path = tmp_path / "ckpt.pt"
    for content in mutants("archive", whole, 100):
        path.write_bytes(content)
        tried(lambda: read(path), CheckpointError)
    for content in mutants("pickle", pickle, 200):
        path.write_bytes(repacked(whole, content))
        tried(lambda: read(path), CheckpointError)
    assert [file.name for file in tmp_path.iterdir()] == ["ckpt.pt"]


def opcode_mutants(content: bytes, count: int) -> Iterator[bytes]:
    """The pickle with one to four opcodes cut, doubled many times, moved, or replaced by costly ones."""
    stream = random.Random(f"{SEED}-opcodes")
    places = [at for _, _, at in pickletools.genops(content)] + [len(content)]
    whole = [content[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(many(count)):
        data = list(whole)
        for _ in range(stream.choice((1, 1, 2, 4))):
            at, size = stream.randrange(1, len(data)), stream.choice((1, 1, 2, 8, 40))
            kind = stream.randrange(6)
            piece = data[at : at + size]
            if kind == 0:
                del data[at : at + size]
            elif kind == 1:
                data[at:at] = piece * stream.choice((1, 1, 100, 2_000))
            elif kind == 2:
                other = stream.randrange(1, len(data))
                data[other:other] = piece
            elif kind == 3:
                data[at:at] = [bytes([stream.randrange(256)])]
            else:
                data[at:at] = [stream.choice(list(COSTLY.values()))[:-1]]
        yield b"".join(data)


@pytest.mark.filterwarnings("ignore")
def test_opcodes_of_released_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants of the pickle, and pickles made to be costly: within the time, and twice the file and 500 MB."""
    monkeypatch.chdir(tmp_path)
    whole = (DATA / "released_b" / "ckpt_1000.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        pickle = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    path = tmp_path / "ckpt.pt"
    tried(lambda: read(DATA / "released_b" / "ckpt_1000.pt"), CheckpointError)
    largest = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for how in COSTLY:
        assert not tried(lambda: read(costly(path, how)), CheckpointError)  # noqa: B023 - called at once
        largest = max(largest, path.stat().st_size)
    for content in opcode_mutants(pickle, round(60 * SCALE)):
        path.write_bytes(repacked(whole, content))
        largest = max(largest, path.stat().st_size)
        tried(lambda: read(path), CheckpointError)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert taken < 2 * largest + 500e6


NUMBERS = st.one_of(st.integers(-3, 300), st.integers(), st.floats(), st.just(10**5000))
VALUES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5), st.lists(st.integers(), max_size=2))
NAMES = sorted(ModelConfig.__dataclass_fields__)


@settings(max_examples=many(300), deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=len(NAMES)))
def test_sizes(values: dict[str, Any]) -> None:
    whole = {"dim": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 257, "multiple_of": 8}
    whole |= {"max_seq_len": 192, "window_size": 24, "max_z_len": 4}

    def work() -> None:
        config = ModelConfig.from_mapping({**whole, **values}, where="config")
        assert math.isfinite(config.norm_eps) and config.ffn_dim > 0 and config.n_latents > 0

    tried(work, CheckpointError)


# Baselines ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2_of(tmp_path_factory.mktemp("baseline") / "gpt2", "bos+eos")


def answered(folder: Path) -> None:
    """Load a baseline and let it score and continue a little text."""
    from lm_eval.api.instance import Instance

    from ltm_eval.harness.run import baseline_subject, construct

    def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
        return [Instance(kind, {}, own, 0, metadata=("t", place, 1)) for place, own in enumerate(arguments)]

    config = RunConfig(model="demo", quiet=True, batch_size=2, device="cpu", token_nll=1)
    lm: Any = construct(baseline_subject(str(folder)), config)
    lm.loglikelihood_rolling(asked("loglikelihood_rolling", ("Red, green \u00e9",)))
    lm.text_caveats(["Red, green \u00e9"])
    lm.loglikelihood(asked("loglikelihood", ("a b", " c"), ("", "x")))
    options = {"until": ["\n"], "max_gen_toks": 3}
    lm.generate_until(asked("generate_until", ("ab", options), ("abcd", options)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_folders_of_baselines(baseline: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / "model"
    shutil.copytree(baseline, place)
    assert tried(lambda: answered(place), LtmEvalError)
    for content in mutants(f"baseline {name}", (baseline / name).read_bytes(), 12):
        (place / name).write_bytes(content)
        tried(lambda: answered(place), LtmEvalError)


ODD: tuple[Any, ...] = (None, True, -1, 0, 1, 3, 257, 10**12, 10**30, 1.5, math.nan)
ODD += ("", "x", "<s>", [], [1], {}, {"a": 1})


def changed(told: Any, stream: random.Random) -> Any:
    """JSON with one value, at any depth, left out or put in place of by another."""
    place = told
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = stream.choice(keys)
        if not isinstance(place[key], (dict, list)) or not place[key] or stream.random() < 0.5:
            break
        place = place[key]
    if isinstance(place, dict) and stream.random() < 0.2:
        del place[key]
    else:
        place[key] = stream.choice(ODD)
    return told


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_configs_of_baselines(baseline: Path, tmp_path: Path, name: str) -> None:
    """Valid JSON that says something else."""
    place, stream = tmp_path / "model", random.Random(f"{SEED}-{name}")
    shutil.copytree(baseline, place)
    for _ in range(many(15)):
        (place / name).write_text(json.dumps(changed(json.loads((baseline / name).read_text()), stream)))
        tried(lambda: answered(place), LtmEvalError)


def test_a_baseline_whose_weights_are_not_whole(baseline: Path, tmp_path: Path) -> None:
    """transformers fills what is missing with random numbers and goes on."""
    place = tmp_path / "model"
    shutil.copytree(baseline, place)
    told = json.loads((place / "config.json").read_text())
    for layers, line in (
        (3, "weights that its config asks for are not in its files"),
        (10**30, "n_layer must be at most"),
    ):
        (place / "config.json").write_text(json.dumps(told | {"n_layer": layers}))
        with pytest.raises(CheckpointError, match=line):
            answered(place)


# Tokenizers -----------------------------------------------------------------------------------------------------------


def test_rank_files(tmp_path: Path) -> None:
    path = byte_ranks(tmp_path / "x.tiktoken")
    passed = 0
    for content in mutants("ranks", path.read_bytes(), 60):
        path.write_bytes(content)
        if tried(lambda: load_ranks(path), TokenizerError):
            tokenizer, text = load_ranks(path), "A\u00e9\U0001f600 \x00<|endoftext|>"
            assert tokenizer.decode(tokenizer.encode(text)) == text
            passed += 1
    assert passed or SCALE < 5


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@cache
def ranks_of(folder: Path) -> Tokenizer:
    return load_ranks(folder / "tokenizer.tiktoken")


@settings(max_examples=many(300), deadline=None)
@given(st.one_of(TEXT, st.text("a \n<|endoftext|>0\u00e9\u200d", max_size=300)))
def test_text_comes_back(folder: Path, text: str) -> None:
    tokenizer = ranks_of(folder)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.n_vocab and i != tokenizer.eot_id for i in ids)


# Data and results -----------------------------------------------------------------------------------------------------


def test_data_rows(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_rows(tmp_path / "gsm8k" / f"{split}.jsonl", rows(split))
    path = tmp_path / "gsm8k" / "test.jsonl"
    for content in mutants("rows", path.read_bytes(), 1_500):
        path.write_bytes(content)
        if tried(lambda: load(GSM8K, ("train", "test"), data=str(tmp_path)), DataError):
            for row in load(GSM8K, ("test",), data=str(tmp_path))["test"].rows:
                assert all(isinstance(value, str) and value.strip() for value in row.values())


def test_results_files(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=bool, n=3, kind="ltm", latents=True, extra={"warnings": ["w"]})
    for file in (path, *sorted(path.parent.glob("*.jsonl"))):
        whole = file.read_bytes()
        for content in mutants(file.name[:7], whole, 100):
            file.write_bytes(content)
            tried(lambda: build(find_runs([tmp_path])), LtmEvalError)
        file.write_bytes(whole)


# Command lines --------------------------------------------------------------------------------------------------------

OPTIONS = [
    "--model", "--task", "--shots", "--baseline", "--data", "--metadata", "--limit", "--gen_kwargs", "--tokenizer",
    "--revision", "--condition", "--preset", "--t_fast", "--fit_window", "--rethink", "--rows", "--causal_chunk",
    "--seed", "--device", "--dtype", "--batch_size", "--output_path", "--max_failed", "--n", "--k", "--report",
    "--no_report", "--quiet", "-q", "-f", "-o", "-L", "--help", "--version", "--shot", "--T-FAST", "--",
]  # fmt: skip
WORDS = ("", "0", "-1", "1e9", "nan", "inf", "abc", "8", "0,1,2", "auto", "each", "all", "demos", "x" * 400)
WORDS += ("\0", "\ud800", "\x1b[31m", "../..", "a=b", "{}", "1%", "\u0661", "cuda:7", "none", "bound+causal", "=")
WORDS += ("'", "\u202e", "\n")


@pytest.fixture
def _idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`run` does nothing."""
    outcome = SimpleNamespace(results=(), report=None, failed="", findings="")
    fake = SimpleNamespace(run=lambda config: outcome, check=lambda config: None)
    monkeypatch.setitem(sys.modules, "ltm_eval.harness.run", fake)
    monkeypatch.setattr("ltm_eval.harness.run", fake, raising=False)
    swept = SimpleNamespace(results=("x",), report=None, failed="", findings="")
    sweep = SimpleNamespace(run=lambda config: swept, table=str)
    fake.results_table = str
    monkeypatch.setitem(sys.modules, "ltm_eval.harness.sweep", sweep)
    monkeypatch.setattr("ltm_eval.harness.sweep", sweep, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_idle")
def test_command_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stream = random.Random(f"{SEED}-cli")
    for _ in range(many(100)):
        words = [stream.choice((*OPTIONS, *OPTIONS, *WORDS)) for _ in range(stream.randrange(6))]
        args = [stream.choice(("run", "run", "run", "rnu", "")), *words]
        begun = time.process_time()
        code = cli.main(args)
        captured = capsys.readouterr()
        assert time.process_time() - begun < SLOWEST
        assert code in (0, 2), (args, captured.err)
        lines = captured.err.splitlines()
        assert bool(lines) == bool(code) and len(lines) <= max(1, len(words)), (args, captured.err)
        for line in lines:  # one for each option that cannot be used
            assert line.startswith("ltm-eval: error[2]: ") and len(line) <= 300 and line.isprintable(), line
    assert not list(tmp_path.rglob("crash-*"))


@settings(max_examples=many(200), deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(RunConfig.__dataclass_fields__)), st.text(max_size=8), max_size=3))
def test_model_arguments_of_a_host(values: dict[str, str]) -> None:
    """lm-eval's `--model_args` as text: every string is parsed, and what is not known is refused by name."""
    from lm_eval.utils import simple_parse_args_string

    from ltm_eval.harness.options import ModelArguments, lm_eval_arguments
    from ltm_eval.system.errors import UsageError
    from ltm_eval.tasks.arguments import generation_config

    text = ",".join(f"{key}={value}" for key, value in values.items())
    try:
        given_values = simple_parse_args_string(text)
    except ValueError:  # the host's own complaint
        return
    tried(lambda: ModelArguments.of(lm_eval_arguments(given_values, {})), UsageError)
    tried(lambda: generation_config(dict(given_values)), UsageError)


def test_generation_options_of_any_type() -> None:
    from ltm_eval.system.errors import UsageError
    from ltm_eval.tasks.arguments import generation_config

    odd: tuple[Any, ...] = (None, True, -1, 0, 5, 1.5, math.nan, math.inf, 10**400)
    odd += ("", "x", "nan", "1e3", [], ["a", 3], {}, b"x")
    names = ("until", "max_gen_toks", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "rethink")
    for name in names:
        for value in odd:
            tried(lambda: generation_config({name: value}), UsageError)  # noqa: B023 - called at once
            tried(lambda: generation_config({name: value, "do_sample": True}), UsageError)  # noqa: B023


def test_a_mutant_is_never_the_same_as_another_seed() -> None:
    """The mutators mutate."""
    assert len(set(mutants("a", b"abcdefgh" * 9, 50))) > 25
    assert set(mutants("a", b"abcdefgh" * 9, 50)) != set(mutants("b", b"abcdefgh" * 9, 50))
