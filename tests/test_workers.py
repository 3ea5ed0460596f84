"""Pieces of work side by side: order, errors, threads, memory; and fits whose bits do not depend on the threads."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import torch

from ltm_eval.inference import batching
from ltm_eval.inference.bounds import RowOptions, score_documents
from ltm_eval.inference.decode import Prompt, generate
from ltm_eval.inference.options import GenerationConfig, fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Window
from ltm_eval.model import decoder, elbo
from ltm_eval.model.elbo import projected_nll_nats
from ltm_eval.system import threads as workers
from ltm_eval.system.threads import in_pieces, one_thread, side_by_side
from tests.tiny import tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_eval.model.decoder import LatentThoughtModel

SEED = 7


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items_and_several_run_at_once() -> None:
    torch.set_num_threads(3)
    meeting = threading.Barrier(3, timeout=30)

    def work(item: int) -> tuple[int, int, str]:
        meeting.wait()  # breaks unless three are here at once
        return item, torch.get_num_threads(), threading.current_thread().name

    found = side_by_side(range(6), work)
    assert [item for item, _, _ in found] == list(range(6))
    assert {threads for _, threads, _ in found} == {1}
    assert len({name for _, _, name in found}) == 3
    assert torch.get_num_threads() == 3


def test_one_item_has_one_thread_too_and_no_items_are_no_results() -> None:
    torch.set_num_threads(4)
    assert side_by_side([0], lambda _: torch.get_num_threads()) == [1]
    assert side_by_side([], lambda _: 1) == []
    torch.set_num_threads(1)
    assert side_by_side([0, 1], lambda _: threading.current_thread().name) == [threading.current_thread().name] * 2


def test_what_memory_does_not_hold_twice_runs_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(workers.os, "sysconf", lambda name: {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}[name])
    running, most = [0], [0]

    def work(_: int) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.05)
        running[0] -= 1

    side_by_side(range(4), work, bytes_each=1_100_000)
    assert most == [1]
    side_by_side(range(4), work, bytes_each=900_000)
    assert most == [2]


def test_the_first_failure_in_order_is_raised() -> None:
    torch.set_num_threads(2)

    def work(item: int) -> int:
        if item:
            raise ValueError(f"item {item}")
        return item

    with pytest.raises(ValueError, match="item 1"):
        side_by_side(range(9), work)


@pytest.mark.parametrize("t_fast", [3, "auto"])
def test_a_fit_and_its_rows_have_the_same_bits_on_any_number_of_threads(
    t_fast: int | str, model: LatentThoughtModel | None = None
) -> None:
    model = model or tiny_model()
    stream = torch.Generator().manual_seed(3)
    documents = []
    for length in (190, 70, 33, 190):
        tokens = torch.randint(0, model.config.vocab_size, (length + 1,), generator=stream).tolist()
        documents.append(Document((Window(tuple(tokens[:-1]), tuple(tokens[1:])),)))
    config = fit_config("bound", t_fast=t_fast)
    options = RowOptions(draws=4, iwae=4, prior=4, as_released=t_fast != "auto")
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        posterior = fit_documents(model, documents, config, seed=SEED)
        rows = score_documents(model, documents, config, options=options, seed=SEED, posterior=posterior)
        alone = fit_documents(model, documents[:1], config, seed=SEED)
        assert torch.equal(alone.mu, posterior.mu[:1])
        found.append((posterior, rows))
    for posterior, rows in found[1:]:
        assert torch.equal(posterior.mu, found[0][0].mu)
        assert torch.equal(posterior.log_var, found[0][0].log_var)
        assert rows == found[0][1]


def test_pieces_of_an_item_have_the_help_of_idle_threads() -> None:
    torch.set_num_threads(3)
    meeting = threading.Barrier(3, timeout=30)

    def piece(number: int) -> tuple[int, int, str]:
        meeting.wait()  # breaks unless three are here at once
        return number, torch.get_num_threads(), threading.current_thread().name

    (found,) = side_by_side([0], lambda _: in_pieces(range(6), piece))
    assert [number for number, _, _ in found] == list(range(6))
    assert {threads for _, threads, _ in found} == {1}
    assert len({name for _, _, name in found}) == 3


def test_a_thread_without_an_item_helps_the_last_one() -> None:
    torch.set_num_threads(2)
    names: set[str] = set()

    def piece(_: int) -> None:
        names.add(threading.current_thread().name)
        time.sleep(0.02)

    def work(item: int) -> None:
        if item == 2:
            in_pieces(range(12), piece)

    side_by_side(range(3), work)
    assert len(names) == 2


def test_where_every_thread_has_an_item_or_there_is_one_thread_pieces_run_in_turn() -> None:
    torch.set_num_threads(2)
    meeting = threading.Barrier(2, timeout=30)

    def work(_: int) -> set[str]:
        meeting.wait()
        found = in_pieces(range(3), lambda _: threading.current_thread().name)
        meeting.wait()
        return {threading.current_thread().name, *found}

    assert [len(names) for names in side_by_side(range(2), work)] == [1, 1]
    assert set(in_pieces(range(3), lambda _: threading.current_thread().name)) == {threading.current_thread().name}


def test_the_failure_of_a_piece_is_raised() -> None:
    torch.set_num_threads(2)

    def piece(number: int) -> None:
        time.sleep(0.01)
        if number == 3:
            raise ValueError("piece 3")

    with pytest.raises(ValueError, match="piece 3"):
        side_by_side([0], lambda _: in_pieces(range(6), piece))
    assert torch.get_num_threads() == 2


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> LatentThoughtModel:
    """A model that is cut into pieces: its layers at 64 positions, its projection at 32."""
    monkeypatch.setattr(decoder, "_WIDE", 8)
    monkeypatch.setattr(decoder, "_PIECE", 64)
    monkeypatch.setattr(elbo, "_CHUNK_BYTES", 32 * 4 * 257)
    monkeypatch.setattr(batching, "SMALL_PARAMETERS", 0)
    return tiny_model()


def test_a_model_in_pieces_has_the_same_bits_on_any_number_of_threads(wide: LatentThoughtModel) -> None:
    test_a_fit_and_its_rows_have_the_same_bits_on_any_number_of_threads(3, wide)
    prompts = [Prompt(tuple(range(n)), torch.ones(wide.config.latent_shape), by_token=True) for n in (150, 3)]
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(sorted(generate(wide, prompts, GenerationConfig(max_new_tokens=5)), key=lambda one: one.index))
        found.append([*generate(wide, prompts, GenerationConfig(max_new_tokens=5), batch_size=1)])
    assert all(one == found[0] and [c.token_nats for c in one] == [c.token_nats for c in found[0]] for one in found)


@pytest.mark.parametrize("length", [190, 130, 65])
def test_pieces_are_the_whole(length: int, wide: LatentThoughtModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """States, keys, values and the gradient of z, to rounding."""
    model = wide
    stream = torch.Generator().manual_seed(length)
    tokens = torch.randint(0, 257, (2, length), generator=stream)
    targets = tokens.roll(-1, 1)
    z = torch.randn(2, *model.config.latent_shape, generator=stream)
    found = []
    for width in (8, 10**9):
        monkeypatch.setattr(decoder, "_WIDE", width)
        assert (len(model._pieces(torch.zeros(2, length, 8))) > 1) == (width == 8)
        own = z.clone().requires_grad_()
        hidden = model.hidden(model.prelude(tokens), own)
        nll = projected_nll_nats(hidden.states, model.output_weight, targets).sum()
        (slope,) = torch.autograd.grad(nll, own)
        found.append([one.detach() for one in (hidden.states, *hidden.keys, *hidden.values, slope)])
    for cut, whole in zip(*found, strict=True):
        assert torch.allclose(cut, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_weights_that_are_trained_get_their_gradient(wide: LatentThoughtModel) -> None:
    tokens = torch.arange(190).unsqueeze(0)
    weight = wide.blocks[1].feed_forward.w1.weight.requires_grad_()
    wide(tokens, torch.ones(1, *wide.config.latent_shape)).sum().backward()
    assert weight.grad is not None and float(weight.grad.abs().sum()) > 0


def test_one_thread_is_set_back_also_after_an_error() -> None:
    torch.set_num_threads(3)
    with pytest.raises(ValueError, match="stop"), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError("stop")
    assert torch.get_num_threads() == 3
    with one_thread(when=False):
        assert torch.get_num_threads() == 3


def test_a_small_model_is_decoded_on_one_thread() -> None:
    seen: set[int] = set()
    model = tiny_model()
    model.norm.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    torch.set_num_threads(2)
    prompt = Prompt((1, 2, 3), torch.zeros(model.config.latent_shape))
    found = list(generate(model, [prompt], GenerationConfig(max_new_tokens=4)))
    assert len(found[0].tokens) == 4
    assert seen == {1}
    assert torch.get_num_threads() == 2
