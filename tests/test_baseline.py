"""What a baseline's files say of decoding and weights, and what its draws are seeded by."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file

from ltm_eval.harness import baseline
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import baseline_subject, construct
from ltm_eval.runs.journal import Journal, read
from ltm_eval.runs.worklist import Worklist
from ltm_eval.system.errors import CheckpointError
from tests.tiny import tiny_gpt2
from tests.tokenizer_kinds import byte_tokenizer

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
    with pytest.raises(CheckpointError, match="holds NaN or infinite values"):
        loaded(tmp_path / "broken")


def test_draws_do_not_depend_on_the_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed and content decide; the version of the program, which answers are kept under, does not."""
    before, _ = answers(folder, SAMPLED)
    monkeypatch.setattr(baseline, "program", lambda *_: {"ltm_eval": "another"})
    assert answers(folder, SAMPLED)[0] == before
    assert len(set(before)) > 1


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 with random weights over bytes."""
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("seq2seq") / "t5"
    byte_tokenizer("eos").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    marks = {"pad_token_id": 256, "eos_token_id": 257, "decoder_start_token_id": 256}
    model = T5ForConditionalGeneration(T5Config(vocab_size=259, initializer_factor=4.0, **sizes, **marks))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["generate_until", "loglikelihood"])
def test_a_seq2seq_baseline_answers_as_lm_evals_and_resumes(seq2seq: Path, tmp_path: Path, method: str) -> None:
    """Its answers are those of lm-eval's `hf`; half are found in a journal, then all, without the model."""
    arguments: list[tuple[Any, ...]] = [(f"Question: {i:02} plus {i % 7}?", dict(GREEDY)) for i in range(40)]
    if method == "loglikelihood":
        arguments = [(f"Question: {i:02} plus {i % 7}?", f" {i}") for i in range(40)]
    requests = [Instance(method, {}, own, 0, metadata=("t", i, 1)) for i, own in enumerate(arguments)]
    plain = HFLM(pretrained=str(seq2seq), device="cpu", batch_size=8)
    truth = getattr(plain, method)(requests, disable_tqdm=True)
    assert len({repr(one) for one in truth}) > 1
    lm = loaded(seq2seq)
    assert lm.backend == "seq2seq"
    asked: list[int] = []
    lm.model.register_forward_pre_hook(lambda *_: asked.append(1))
    for count, new in ((20, 20), (40, 20), (40, 0)):
        lm.worklist = Worklist(Journal(tmp_path, lm.settings))
        asked.clear()
        found = getattr(lm, method)(requests[:count])
        assert [told(one) for one in found] == [told(one) for one in truth[:count]]
        assert bool(asked) == bool(new)
        lm.worklist.journal.close()
    assert len(read(tmp_path).answers) == 40
    assert lm.answer_records == lm.token_records == []


def told(answer: Any) -> Any:
    """A text, or a log-likelihood that batches may round another way."""
    return answer if isinstance(answer, str) else (pytest.approx(answer[0], rel=1e-5), answer[1])
