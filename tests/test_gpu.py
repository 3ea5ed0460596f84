"""What only a machine with an NVIDIA GPU can show; skipped elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import ltm_eval
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.model.checkpoint import weights_sha256
from ltm_eval.model.compiling import compile_layers
from tests.tiny import document, relative_error, tiny_folder, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.model.decoder import LatentThoughtModel

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


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_live_model_on_a_gpu_is_as_it_was(dtype: str, tmp_path: Path) -> None:
    model = ltm_eval.load(tiny_folder(tmp_path / "tiny")).to("cuda").requires_grad_(True)
    torch.manual_seed(3)
    before = weights_sha256({name: one.detach().cpu() for name, one in model.named_parameters()})
    streams = torch.get_rng_state(), torch.cuda.get_rng_state()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        found = ltm_eval.evaluate(model, tasks="ptb", data="sample", limit=1, t_fast=2, rows="bound", dtype=dtype)
        ltm_eval.fit(model, torch.ones(1, 20, dtype=torch.long), torch.ones(1, 20, dtype=torch.long), t_fast=2)
    assert found["config"]["model_dtype"] == ("torch.bfloat16" if dtype == "auto" else "torch.float32")
    assert weights_sha256({name: one.detach().cpu() for name, one in model.named_parameters()}) == before
    assert torch.equal(torch.get_rng_state(), streams[0]) and torch.equal(torch.cuda.get_rng_state(), streams[1])
    assert all(one.requires_grad and one.is_cuda for one in model.parameters())
