"""What a baseline's files say of decoding and weights, and what its draws are seeded by."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.api.instance import Instance
from safetensors.torch import load_file, save_file

from ltm_eval.harness import baseline
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import baseline_subject, construct
from ltm_eval.system.errors import CheckpointError
from tests.tiny import tiny_gpt2

if TYPE_CHECKING:
    from pathlib import Path

GREEDY = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}
SAMPLED = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gpt2(tmp_path_factory.mktemp("gpt2") / "model")


def loaded(folder: Path) -> Any:
    return construct(baseline_subject(str(folder)), RunConfig(device="cpu", quiet=True))


def answers(folder: Path, options: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What a baseline generates after three prompts, and the options of its own that are set aside."""
    model = loaded(folder)
    requests = [
        Instance("generate_until", {"question": text}, (text, dict(options)), 0, metadata=("t", index, 1))
        for index, text in enumerate(("One two", "three four five", "six"))
    ]
    return model.generate_until(requests), model.unused_decoding


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
        {"num_beams": 4},
        {"suppress_tokens": list(range(200)), "min_new_tokens": 3},
        {"max_time": 0.0001},
    ],
)
def test_decoding_follows_the_task_whatever_a_checkpoint_prefers(
    folder: Path, tmp_path: Path, own: dict[str, Any]
) -> None:
    plain, nothing = answers(folder, GREEDY)
    assert nothing == []
    shutil.copytree(folder, tmp_path / "own")
    file = tmp_path / "own" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    found, aside = answers(tmp_path / "own", GREEDY)
    assert found == plain
    assert set(aside) == set(own)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, tmp_path: Path, value: float) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("ln_f.weight"))
    weights[name] = torch.full_like(weights[name], value)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="contains NaN or infinite values"):
        loaded(tmp_path / "broken")


def test_draws_do_not_depend_on_the_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed and content decide; the version of the program, which answers are kept under, does not."""
    before, _ = answers(folder, SAMPLED)
    monkeypatch.setattr(baseline, "program", lambda *_: {"ltm_eval": "another"})
    assert answers(folder, SAMPLED)[0] == before
    assert len(set(before)) > 1
