"""Compiled layers give what uncompiled ones give; without a compiler they run as they are."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_eval.harness.ltm import LTM
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Window
from ltm_eval.model.compiling import Compiled, Compiler, compile_layers, parts_of
from tests.tiny import relative_error, tiny_folder, tiny_model

if TYPE_CHECKING:
    from pathlib import Path


def _document(length: int) -> Document:
    tokens = torch.randint(0, 257, (length + 1,), generator=torch.Generator().manual_seed(length)).tolist()
    return Document((Window(tuple(tokens[:-1]), tuple(tokens[1:])),))


def test_without_a_compiler_the_model_runs_as_it_is_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(function: Any, **options: Any) -> Any:
        def call(*given: Any) -> Any:
            raise RuntimeError("no working C++ compiler was found\nlong story")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    document, config = _document(40), fit_config("bound", t_fast=2)
    plain = fit_documents(tiny_model(), [document], config, seed=1)
    model = compile_layers(compile_layers(tiny_model()))  # twice is as once
    with caplog.at_level(logging.WARNING):
        found = fit_documents(model, [document, document], config, seed=1)
    assert torch.equal(found.mu[:1], plain.mu)
    assert caplog.text.count("could not be compiled") == 1
    assert "no working C++ compiler was found" in caplog.text
    assert "long story" not in caplog.text


def test_the_time_of_compiling_is_said_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Compiling a tiny model took 117 s; nothing is compiled yet when it is said."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    compile_layers(compile_layers(tiny_model()))
    (record,) = caplog.records
    assert "compiling takes a minute or more before the first answer" in record.getMessage()


def test_memory_that_runs_out_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def crowded(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory (faked)")

    monkeypatch.setattr(torch, "compile", lambda function, **options: crowded)
    part = Compiled(lambda: None, Compiler())
    with pytest.raises(torch.OutOfMemoryError):
        part()
    assert not part.compiler.failed


def test_compiled_layers_fit_as_plain_ones_do() -> None:
    """Traced forward and backward, code left out, whose making takes two minutes: the rotation has another form."""
    document, config = _document(30), fit_config("bound", t_fast=2)
    plain = fit_documents(tiny_model(scale=4.0), [document], config, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler imports parts of torch that are deprecated
        model = compile_layers(tiny_model(scale=4.0), backend="aot_eager")
        found = fit_documents(model, [document], config, seed=1)
    compiled = [getattr(block, name) for i, block in enumerate(model.blocks) for name in parts_of(model, i)]
    assert len(compiled) == 2 + 4 and not any(part.compiler.failed for part in compiled)
    assert relative_error(found.mu, plain.mu) < 1e-4
    assert relative_error(found.trace.objective_nats, plain.trace.objective_nats) < 1e-6


def test_the_adapter_compiles_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also told as text, as a host's command line tells it; what was compiled names other answers in the journal."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    folder = str(tiny_folder(tmp_path / "model"))
    asked, plain = LTM(folder, compile="true", device="cpu"), LTM(folder, device="cpu")
    for i in range(asked.model.config.n_layers):
        names = parts_of(asked.model, i)
        assert all(isinstance(getattr(asked.model.blocks[i], name), Compiled) for name in names)
        assert not any(isinstance(getattr(plain.model.blocks[i], name), Compiled) for name in names)
    assert asked.get_model_info()["compiled"] is True
    assert asked.settings != plain.settings
