"""Batches by token budget, and memory that does not suffice. A CPU plays the GPU: documents share batches, and a fast
loop of limited memory raises what torch raises.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_eval.harness.ltm import LTM
from ltm_eval.inference import batching as groups
from ltm_eval.inference import decode, posterior
from ltm_eval.inference.batching import BatchLimit, tokens_per_pass
from ltm_eval.inference.draws import RollingScore
from ltm_eval.inference.options import GenerationConfig, fit_config
from ltm_eval.inference.posterior import MAX_DOCUMENTS, batch_limit, fast_loop, measured_limit
from ltm_eval.inference.windows import Document, Window
from ltm_eval.system.device import ran_out
from ltm_eval.system.errors import MachineError
from ltm_eval.system.progress import silent
from tests.test_lm import GREEDY, instances, prompt
from tests.tiny import TINY, relative_error, tiny_folder, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.inference.batching import Batch
    from ltm_eval.inference.windows import Posterior


def document(length: int, windows: int = 1) -> Document:
    return Document(tuple(Window((1,) * length, (2,) * length) for _ in range(windows)))


class Memory:
    """A device whose memory holds so many padded tokens, and what was asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
        self.tokens, self.seen = tokens, list[int]()
        monkeypatch.setattr(groups, "alone", lambda model: False)
        monkeypatch.setattr("ltm_eval.inference.posterior.alone", lambda model: False)
        monkeypatch.setattr(posterior, "fast_loop", self.loop)

    def loop(self, batch: Batch, *rest: Any) -> Posterior:
        wanted = max(rows.targets.numel() for rows in batch.passes)
        self.seen.append(wanted)
        if wanted > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory (faked)")
        return fast_loop(batch, *rest)


def test_batches_keep_to_their_tokens_and_leave_nothing_out() -> None:
    source = random.Random(1)
    documents = [document(source.randrange(1, 190), source.choice((1, 1, 3))) for _ in range(60)]
    documents.sort(key=lambda one: (-one.shape[0] * one.shape[1], -one.shape[1]))
    for tokens in (1, 100, 1_000, 100_000):
        batches = list(BatchLimit(MAX_DOCUMENTS, tokens).batches(documents))
        assert [place for batch in batches for place in batch] == list(range(60))
        for batch in batches:
            assert len({documents[place].shape for place in batch}) == 1
            assert len(batch) == 1 or len(batch) * tokens_per_pass(documents[batch[0]]) <= tokens
    # as few as the shapes allow, where everything fits
    assert len(batches) == len({one.shape for one in documents})
    full = list(BatchLimit(MAX_DOCUMENTS, 1_000).batches([document(60)] * 40))
    assert [len(batch) for batch in full] == [15, 15, 10]  # 15 x 64 = 960


def test_a_number_of_documents_means_documents() -> None:
    documents = [document(n) for n in (190, 100, 100, 40, 20, 10, 5)]
    assert [len(batch) for batch in BatchLimit(3).batches(documents)] == [3, 3, 1]
    assert [len(batch) for batch in BatchLimit(3, 10**6).batches([document(5)] * 7)] == [3, 3, 1]
    # contexts without a fit cost nothing
    assert [len(batch) for batch in BatchLimit(512, 64).batches([document(60), None, None, None])] == [1, 3]


def test_auto_takes_what_a_real_step_at_full_length_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = tiny_model(), fit_config("bound", t_fast=7)
    memory = Memory(monkeypatch, 1_800)
    found = measured_limit(model, config)
    assert memory.seen == [64 * 192, 32 * 192, 16 * 192, 8 * 192]
    assert found == BatchLimit(MAX_DOCUMENTS, 8 * 192, 8) and found.side_by_side == 8
    assert measured_limit(model, config, most=3) == BatchLimit(3, 3 * 192, 3)
    memory.tokens = 10
    assert measured_limit(model, config).tokens == 192  # one document is tried when its turn comes


def test_nothing_is_measured_where_a_number_is_given_or_documents_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = tiny_model(), fit_config("bound")
    monkeypatch.setattr(posterior, "fast_loop", None)
    assert batch_limit(model, config, asked=5, most=None) == BatchLimit(5)
    assert batch_limit(model, config, asked=None, most=None) == BatchLimit(16)


def test_another_error_of_the_probe_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(posterior, "fast_loop", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        measured_limit(tiny_model(), fit_config("bound"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_mean_memory(error: Exception, expected: bool) -> None:
    assert ran_out(error) is expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("limit") / "tiny", tiny_model(scale=4.0))


def scores(folder: Path, **options: Any) -> tuple[list[float], list[RollingScore], list[str]]:
    lm = LTM(str(folder), t_fast=3, rows="bound", **options)
    lm.progress = silent
    asked = instances("loglikelihood", [(prompt(i % 9), f" answer {i}") for i in range(14)])
    texts = instances("loglikelihood_rolling", [("x" * n + str(n),) for n in (5, 30, 31, 60, 150, 151, 152, 400)])
    bounds = lm.loglikelihood_rolling(texts)
    return (
        [score for score, _ in lm.loglikelihood(asked)],
        [score for score in bounds if isinstance(score, RollingScore)],
        lm.generate_until(instances("generate_until", [(prompt(i), GREEDY) for i in range(6)])),
    )


@pytest.mark.parametrize("tokens", [200, 700, 10**6])
def test_every_batching_gives_the_same_figures(tokens: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding, as everywhere where documents share matrix products."""
    alone = scores(folder, batch_size=1)
    memory = Memory(monkeypatch, tokens)
    found = scores(folder, batch_size="auto")
    assert memory.seen[0] == 64 * 192 and max(memory.seen[-12:]) <= max(192, tokens)
    assert relative_error(torch.tensor(found[0]), torch.tensor(alone[0])) < 1e-4
    for own, other in zip(found[1], alone[1], strict=True):
        assert own.rows["bound"] == pytest.approx(other.rows["bound"], rel=1e-4)
    assert found[2] == alone[2]


def test_memory_that_others_take_later_ends_no_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 10**6)
    lm = LTM(str(folder), t_fast=3, batch_size="auto")
    lm.progress = silent
    assert lm.batch_limit.tokens == 64 * 192 and lm.batch_sizes == {"auto": 64}
    asked = instances("loglikelihood", [(f"{i:03} " + "q" * 110, " a") for i in range(9)])
    plenty = lm.loglikelihood(asked)
    memory.tokens, memory.seen = 300, []
    little = lm.loglikelihood(asked)
    assert memory.seen == [9 * 128, 4 * 128, 2 * 128, 2 * 128, 5 * 128, 2 * 128, 3 * 128, 128, 2 * 128]
    assert [score for score, _ in little] == pytest.approx([score for score, _ in plenty], rel=1e-4)
    memory.tokens = 0
    with pytest.raises(MachineError, match="not enough memory for one document"):
        lm.loglikelihood(asked)


def test_lanes_that_memory_does_not_hold_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, honest, tried = tiny_model(), decode._Stepper._allocate, []

    def crowded(stepper: decode._Stepper, lanes: int) -> None:
        tried.append(lanes)
        if lanes > most:
            raise torch.OutOfMemoryError("CUDA out of memory (faked)")
        honest(stepper, lanes)

    prompts = [decode.Prompt((1, 2, 3 + i), torch.zeros(*TINY.latent_shape)) for i in range(9)]
    config = GenerationConfig(max_new_tokens=4)
    plenty = sorted(decode.generate(model, prompts, config), key=lambda one: one.index)
    monkeypatch.setattr(decode._Stepper, "_allocate", crowded)
    most = 5
    found = sorted(decode.generate(model, prompts, config), key=lambda one: one.index)
    assert tried == [16, 8, 4]
    assert [one.tokens for one in found] == [one.tokens for one in plenty]
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        list(decode.generate(model, prompts, config))


def test_a_budget_serves_every_length(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds 4 documents of full length holds 48 of 16 tokens, in one batch."""
    memory = Memory(monkeypatch, 4 * TINY.max_seq_len)
    lm = LTM(str(folder), t_fast=2, batch_size="auto")
    lm.progress = silent
    lm.loglikelihood(instances("loglikelihood", [(f"{i:02}", " a") for i in range(48)]))
    assert memory.seen[-1] == 48 * 16 == 4 * 192
