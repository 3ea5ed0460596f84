"""Steps of a process, and the watch that misses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ltm_eval.inference.bounds import fresh_draws
from ltm_eval.inference.decode import Prompt, generate
from ltm_eval.inference.options import GenerationConfig, fit_config
from ltm_eval.inference.posterior import Adaptive, fit_adaptive, fit_documents
from ltm_eval.inference.windows import Document, Window
from ltm_eval.runs import watchdog
from ltm_eval.runs.watchdog import STALL_SECONDS, Watch
from ltm_eval.system import progress as pulse
from tests.tiny import tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = STALL_SECONDS
TOKENS = (1, 2, 3, 4, 5, 6, 7, 8)


class Clock:
    """Time as a test tells it."""

    def __init__(self) -> None:
        self.now = self.computed = 0.0

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.computed

    def passes(self, seconds: float, *, share: float = 0.001) -> None:
        """So much time, a share of it on the processor."""
        self.now += seconds
        self.computed += share * seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(pulse, "time", clock)
    monkeypatch.setattr(watchdog, "time", clock)
    yield clock
    pulse.rest()


def test_no_step_at_work(clock: Clock) -> None:
    watch = Watch(LIMIT)
    clock.passes(2 * LIMIT)
    assert not watch.is_stuck()
    pulse.begin()
    assert not watch.is_stuck()
    clock.passes(LIMIT)
    assert not watch.is_stuck()
    clock.passes(1)
    assert watch.is_stuck()
    pulse.rest()
    clock.passes(2 * LIMIT)
    assert not watch.is_stuck()


def test_a_step_is_a_sign_of_life(clock: Clock) -> None:
    pulse.begin()
    watch = Watch(LIMIT)
    for _ in range(4):
        pulse.mark()
        assert not watch.is_stuck()
        clock.passes(LIMIT)
    clock.passes(1)
    assert watch.is_stuck()
    pulse.mark()
    assert not watch.is_stuck()


def test_computing_is_a_sign_of_life_unless_it_waits_for_a_gpu(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pulse.begin()
    watch = Watch(LIMIT)
    assert not watch.is_stuck()
    for _ in range(3):
        clock.passes(1.5 * LIMIT, share=0.03)
        assert not watch.is_stuck()
    clock.passes(LIMIT / 2)  # counted from when it was seen to compute
    assert not watch.is_stuck()
    clock.passes(LIMIT, share=0.01)
    assert watch.is_stuck()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    pulse.mark()
    assert not watch.is_stuck()
    clock.passes(1.5 * LIMIT, share=1.0)
    assert watch.is_stuck()


def test_a_compiler_may_take_longer(clock: Clock) -> None:
    pulse.begin()
    watch = Watch(LIMIT)
    with pulse.patient():
        assert not watch.is_stuck()
        clock.passes(5 * LIMIT)
        assert not watch.is_stuck()
        clock.passes(1)
        assert watch.is_stuck()
    assert not watch.is_stuck()  # what was compiled is a step
    clock.passes(LIMIT + 1)
    assert watch.is_stuck()


def test_time_at_work_is_counted(clock: Clock) -> None:
    before = pulse.working_seconds()
    pulse.begin()
    clock.passes(3)
    assert pulse.working_seconds() == before
    pulse.rest()
    clock.passes(5)
    pulse.rest()
    pulse.begin()
    clock.passes(4)
    pulse.rest()
    assert pulse.working_seconds() == before + 7


def steps_of(work: object) -> int:
    before = pulse.State.steps
    work()  # type: ignore[operator]
    return pulse.State.steps - before


def test_every_loop_takes_steps() -> None:
    """Fits, adaptive fits, draws and decoded tokens: where the time goes there are marks."""
    model = tiny_model()
    documents = [Document((Window(TOKENS, (*TOKENS[1:], 9)),))]
    config = fit_config("bound", t_fast=5)
    assert steps_of(lambda: fit_documents(model, documents, config, seed=0)) >= 5
    rule = Adaptive(window=2, max_steps=6)
    assert steps_of(lambda: fit_adaptive(model, documents, config, seed=0, rule=rule)) >= 4
    posterior = fit_documents(model, documents, config, seed=0)
    assert steps_of(lambda: fresh_draws(model, documents, posterior, seed=0, draws=8)) >= 1
    z = torch.zeros(model.config.latent_shape)
    prompts = [Prompt(TOKENS, z)]
    assert steps_of(lambda: list(generate(model, prompts, GenerationConfig(max_new_tokens=4)))) >= 3
