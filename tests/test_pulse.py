"""Steps of a process, and the watch that misses them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import torch

from ltm_eval import pulse
from ltm_eval.adaptive import Adaptive, fit_adaptive
from ltm_eval.bounds import fresh_draws
from ltm_eval.config import GenerationConfig, fit_config
from ltm_eval.decode import Prompt, generate
from ltm_eval.posterior import fit_documents
from ltm_eval.windows import Document, Window
from tests.tiny import tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 0.2
TOKENS = (1, 2, 3, 4, 5, 6, 7, 8)


@pytest.fixture(autouse=True)
def _at_rest() -> Iterator[None]:
    yield
    pulse.rest()


def stuck_after(seconds: float, *, computing: bool = False) -> bool:
    """What a watch says that looks now and once more after a time without a step."""
    watch = pulse.Watch(LIMIT)
    assert not watch.is_stuck()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not computing:
            time.sleep(seconds / 4)
    return watch.is_stuck()


def test_no_step_at_work() -> None:
    assert not stuck_after(2 * LIMIT)
    pulse.begin()
    assert not stuck_after(LIMIT / 2)
    assert stuck_after(2 * LIMIT)
    pulse.rest()
    assert not stuck_after(2 * LIMIT)


def test_a_step_is_a_sign_of_life() -> None:
    pulse.begin()
    watch = pulse.Watch(LIMIT)
    for _ in range(4):
        pulse.mark()
        assert not watch.is_stuck()
        time.sleep(LIMIT)


def test_computing_is_a_sign_of_life_unless_it_waits_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse.begin()
    assert not stuck_after(2 * LIMIT, computing=True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert stuck_after(2 * LIMIT, computing=True)


def test_a_compiler_may_take_longer() -> None:
    pulse.begin()
    with pulse.patient():
        assert not stuck_after(2 * LIMIT)
    assert stuck_after(2 * LIMIT)


def steps_of(work: object) -> int:
    before = pulse._State.steps
    work()  # type: ignore[operator]
    return pulse._State.steps - before


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
