"""What only a machine with an NVIDIA GPU can show; skipped elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ltm_eval.compiling import compile_layers
from ltm_eval.config import fit_config
from ltm_eval.posterior import fit_documents
from tests.test_steps import document
from tests.tiny import relative_error, tiny_model

if TYPE_CHECKING:
    from ltm_eval.model import LatentThoughtModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

DOCUMENTS = [document(seed, length) for seed, length in enumerate((20, 20, 90, 90, 90, 180))]


def on_gpu(*, compiled: bool) -> LatentThoughtModel:
    model = tiny_model(scale=4.0).to("cuda")
    return compile_layers(model) if compiled else model


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("preset", ["bound", "released"])
def test_a_gpu_fits_what_a_cpu_fits(preset: str, compiled: bool) -> None:
    config = fit_config(preset, t_fast=6)
    truth = fit_documents(tiny_model(scale=4.0), DOCUMENTS, config, seed=1)
    found = fit_documents(on_gpu(compiled=compiled), DOCUMENTS, config, seed=1)
    assert relative_error(found.trace.objective_nats.cpu(), truth.trace.objective_nats) < 1e-4
    assert relative_error(found.mu.cpu(), truth.mu) < 1e-2


def test_the_host_does_not_wait_within_the_loop() -> None:
    model, config = on_gpu(compiled=False), fit_config("bound", t_fast=4)
    fit_documents(model, DOCUMENTS, config, seed=1)  # kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        fit_documents(model, DOCUMENTS, config, seed=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_steps_are_captured_where_layers_are_compiled() -> None:
    model = on_gpu(compiled=True)
    fit_documents(model, DOCUMENTS[:2], fit_config("bound", t_fast=4), seed=1)
    assert model.captures_steps  # set back where a capture fails
