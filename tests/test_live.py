"""Live models: what `evaluate`, `fit` and the adapter leave as it was, what changes no figure, what is told of weights;
and what Python's arguments may be.
"""

from __future__ import annotations

import copy
import logging
import os
import pickle
import random
import shutil
import signal
import threading
import warnings
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ltm_eval
from ltm_eval.harness import evaluation
from ltm_eval.harness.evaluator import NOT_FOR_PYTHON
from ltm_eval.harness.ltm import LTM
from ltm_eval.harness.options import RunConfig
from ltm_eval.inference import posterior as fast_loop
from ltm_eval.inference.windows import Posterior
from ltm_eval.model.checkpoint import WEIGHTS_FILE, CheckpointInfo, weights_sha256
from ltm_eval.model.compiling import compile_layers
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.system.errors import LtmEvalError, MachineError, TokenizerError, UsageError
from ltm_eval.system.files import DEMO_MODEL
from ltm_eval.system.progress import silent
from ltm_eval.system.threads import side_by_side
from tests.tiny import TINY, byte_ranks, tiny_folder, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

TASK = "ltm_ptb"
OPTIONS = {"tasks": "ptb", "data": "sample", "limit": 1, "t_fast": 2, "rows": "bound"}
TOKENS = torch.arange(40).view(2, 20)
LATENTS = (2, *TINY.latent_shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("live") / "tiny", tiny_model(scale=6.0))


@pytest.fixture
def model(folder: Path) -> LatentThoughtModel:
    return ltm_eval.load(folder)


def bound(model: Any, **changes: Any) -> float:
    """The figure of a block of the sample's text."""
    return float(ltm_eval.evaluate(model, **{**OPTIONS, **changes})["results"][TASK]["ppl_per_token_bound,none"])


# What is left as it was ----------------------------------------------------------------------------------------------


class Trainer:
    """A training loop in the middle of a step: odd modes, odd flags, gradients, hooks and moments of its own."""

    def __init__(self, model: LatentThoughtModel) -> None:
        self.model, self.seen = model, []
        model.train().requires_grad_(True)
        model.layers[1].eval()
        model.norm.requires_grad_(False)
        model.layers[0].register_forward_hook(lambda *_: None)
        weight = model.tok_embeddings.weight
        weight.register_hook(lambda slope: slope)
        self.optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
        self.step()
        self.model(TOKENS).square().mean().backward()

    def step(self) -> None:
        self.model(TOKENS).square().mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def modes(self) -> ExitStack:
        """What a trainer may have set while it evaluates."""
        stack = ExitStack()
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.enter_context(warnings.catch_warnings())
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("medium")
        torch.set_num_threads(2)
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        random.seed(3)
        np.random.seed(4)  # noqa: NPY002 - a trainer's
        torch.manual_seed(5)
        return stack


def in_a_new_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def facts(trainer: Trainer) -> dict[str, Any]:
    """Everything that must be as it was, by name."""
    model = trainer.model
    loggers = {"": logging.getLogger(), **logging.root.manager.loggerDict}
    named = dict(model.named_parameters())
    return {
        "weights": {name: (one.dtype, one.detach().numpy().tobytes()) for name, one in named.items()},
        "parameters": {name: (id(one), one.data_ptr(), one.is_leaf, one.device) for name, one in named.items()},
        "buffers": {name: (id(one), one.dtype, one.numpy().tobytes()) for name, one in model.named_buffers()},
        "requires_grad": {name: one.requires_grad for name, one in named.items()},
        "gradients": {name: None if one.grad is None else one.grad.numpy().tobytes() for name, one in named.items()},
        "train or eval": {name: one.training for name, one in model.named_modules()},
        "hooks": {
            name: [dict(held) for key, held in vars(one).items() if key.endswith("_hooks")]
            for name, one in model.named_modules()
        },
        "hooks of parameters": {name: dict(one._backward_hooks or {}) for name, one in named.items()},
        "attributes": {
            name: {key: id(value) for key, value in vars(one).items() if key != "_parameters"}
            for name, one in model.named_modules()
        },
        "random of Python": random.getstate(),
        "random of NumPy": str(np.random.get_state()),  # noqa: NPY002 - a trainer's
        "random of torch": torch.get_rng_state().numpy().tobytes(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "deterministic algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "precision of products": torch.get_float32_matmul_precision(),
        "threads": (torch.get_num_threads(), in_a_new_thread(torch.get_num_threads)),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "signals": {one: signal.getsignal(one) for one in signal.valid_signals()},
        "logging": {name: one.level for name, one in loggers.items() if isinstance(one, logging.Logger) and one.level},
        "folder": os.getcwd(),
    }


class Broken(Exception):
    """A stranger's error."""


def broken(error: BaseException) -> AbstractContextManager[Any]:
    """Fits that end in an error at their second step."""
    patched = pytest.MonkeyPatch.context()

    def failing(batch: Any, mu: Any, log_var: Any, config: Any) -> Callable[..., Any]:
        take = steps_of(batch, mu, log_var, config)

        def step(number: int, noise: Any) -> Any:
            random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002 - the global ones
            if number:
                raise error
            return take(number, noise)

        return step

    steps_of = fast_loop.steps_of
    stack = ExitStack()
    stack.enter_context(patched).setattr(fast_loop, "steps_of", failing)
    return stack


CALLS: dict[str, Callable[[LatentThoughtModel], Any]] = {
    "evaluate": bound,
    "evaluate in bfloat16": lambda model: bound(model, dtype="bfloat16"),
    "evaluate, an answer": lambda model: ltm_eval.evaluate(
        model, tasks="gsm8k", shots=1, data="sample", limit=1, t_fast=2, gen_kwargs="max_gen_toks=4"
    ),
    "fit": lambda model: ltm_eval.fit(model, TOKENS, TOKENS, t_fast=2),
    "adapter": lambda model: adapter_answers(model, dtype="bfloat16"),
}


def adapter_answers(model: LatentThoughtModel, **options: Any) -> Any:
    from lm_eval.api.instance import Instance

    lm = LTM(model, t_fast=2, rows="bound", **options)
    lm.progress = silent
    request = Instance("loglikelihood_rolling", {}, ("Pears are cheap today.",), 0, (TASK, 0, 1))
    return lm.loglikelihood_rolling([request])


@pytest.mark.parametrize("ending", [None, Broken, KeyboardInterrupt], ids=["", "error", "interrupt"])
@pytest.mark.parametrize("call", CALLS)
def test_a_model_in_training_and_its_process_are_as_they_were(
    call: str, ending: type[BaseException] | None, folder: Path
) -> None:
    """Before and after a call in the middle of training."""
    import lm_eval.evaluator  # noqa: F401 - what libraries set when they are first imported is not a call's doing

    trainer = Trainer(ltm_eval.load(folder))
    with trainer.modes():
        before = facts(trainer)
        with pytest.raises(ending) if ending else nullcontext(), broken(ending()) if ending else nullcontext():
            CALLS[call](trainer.model)
        after = facts(trainer)
    assert [name for name in before if after[name] != before[name]] == []


def test_training_goes_on_with_the_bits_it_would_have_had(folder: Path) -> None:
    left, asked = Trainer(ltm_eval.load(folder)), Trainer(ltm_eval.load(folder))
    bound(asked.model, dtype="bfloat16")
    ltm_eval.fit(asked.model, TOKENS, TOKENS, t_fast=2)
    for trainer in (left, asked):
        trainer.optimiser.step()
        trainer.step()
    assert weights_sha256(dict(left.model.state_dict())) == weights_sha256(dict(asked.model.state_dict()))


def test_rounded_products_are_those_of_the_checkpoint_and_leave_no_trace(
    model: LatentThoughtModel, folder: Path
) -> None:
    plain = bound(model)
    assert bound(model, dtype="bfloat16") == bound(folder, dtype="bfloat16") != plain
    assert bound(model) == plain == bound(folder)


def test_a_later_thread_has_all_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        side_by_side([1, 2, 3], lambda item: item)
        assert in_a_new_thread(torch.get_num_threads) == 2
    finally:
        torch.set_num_threads(before)


# What changes no figure ----------------------------------------------------------------------------------------------


def default_dtype() -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)
    return stack


def medium_products() -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("medium")
    return stack


def two_threads() -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(2)
    return stack


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64 by default": default_dtype,
    "meta by default": lambda: torch.device("meta"),
    "medium products": medium_products,
    "two threads": two_threads,
}
ANSWERS: dict[str, Callable[[Any], Any]] = {
    "evaluate": bound,
    "evaluate, a path": lambda model: bound(model.info.source),
    "evaluate, answers": lambda model: [
        row["resps"]
        for row in ltm_eval.evaluate(
            model, tasks="gsm8k", shots=1, data="sample", limit=1, t_fast=2, gen_kwargs="max_gen_toks=8"
        )["samples"]["ltm_gsm8k"]
    ],
    "fit": lambda model: ltm_eval.fit(model, TOKENS.cpu(), TOKENS.cpu(), t_fast=3).mu.tolist(),
    "adapter": adapter_answers,
}


@pytest.fixture(scope="module")
def right(folder: Path) -> dict[str, Any]:
    """What is answered where no mode is set."""
    return {name: ask(ltm_eval.load(folder)) for name, ask in ANSWERS.items()}


@pytest.mark.parametrize("door", ANSWERS)
@pytest.mark.parametrize("mode", MODES)
def test_no_mode_of_the_caller_changes_an_answer(
    mode: str, door: str, model: LatentThoughtModel, right: dict[str, Any]
) -> None:
    model.train().requires_grad_(True)
    with MODES[mode]():
        found = ANSWERS[door](model)
    assert found == right[door]


@pytest.mark.parametrize("door", ["evaluate", "fit"])
def test_a_model_made_in_inference_mode_works(door: str, folder: Path, right: dict[str, Any]) -> None:
    with torch.inference_mode():
        loaded = ltm_eval.load(folder)
        own = LatentThoughtModel(TINY)
        own.load_state_dict(ltm_eval.load(folder).state_dict())
        own.tokenizer, own.info = loaded.tokenizer, loaded.info
        assert own.tok_embeddings.weight.is_inference()
        assert ANSWERS[door](own) == ANSWERS[door](loaded) == right[door]


@pytest.mark.parametrize("seed", [0, 1])
def test_global_random_states_change_no_figure(seed: int, model: LatentThoughtModel, right: dict[str, Any]) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global one
    torch.manual_seed(seed)
    assert bound(model) == right["evaluate"]


@pytest.mark.parametrize("door", ["evaluate", "fit"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_dtypes_are_read_as_float32(dtype: torch.dtype, door: str, model: LatentThoughtModel) -> None:
    """The right value is that of a float32 model with the same numbers."""
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for weight in rounded.parameters():
            weight.copy_(weight.to(dtype))
    model.to(dtype)
    assert ANSWERS[door](model) == ANSWERS[door](rounded)
    assert {one.dtype for one in model.parameters()} == {dtype}
    torch.testing.assert_close(model(TOKENS), rounded(TOKENS), rtol=0.1, atol=0.1)
    assert model(TOKENS).dtype == torch.float32 and torch.equal(model.rope, rounded.rope)


def test_wrapped_models_are_found(model: LatentThoughtModel, right: dict[str, Any]) -> None:
    wrapped = nn.Module()
    wrapped.module = model
    assert bound(wrapped) == right["evaluate"]
    for block in model.blocks:
        compiled = nn.Module()
        compiled._orig_mod = block.attention
        compiled.queries, compiled.keys_values = block.attention.queries, block.attention.keys_values  # type: ignore[assignment]
        block.attention = compiled  # type: ignore[assignment]
    assert bound(model) == right["evaluate"]


def test_a_copy_is_compiled_and_not_the_model(
    model: LatentThoughtModel, right: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._dynamo

    made = []

    def compiler(function: Any, **options: Any) -> Any:
        made.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compiler)
    before = torch._dynamo.config.recompile_limit
    names = [set(vars(block)) for block in model.blocks]
    assert bound(model, compile=True) == right["evaluate"] and made
    assert [set(vars(block)) for block in model.blocks] == names and not model.compiled
    assert torch._dynamo.config.recompile_limit == before
    compile_layers(model)  # the user's own doing
    with torch.no_grad():
        rounded = copy.deepcopy(ltm_eval.load(model.info.source)).set_matmul_dtype(torch.bfloat16)
    assert bound(model, dtype="bfloat16") == bound(rounded, dtype="bfloat16") != right["evaluate"]
    assert model.compiled


def test_an_adapter_follows_its_model_through_training(folder: Path) -> None:
    trained, other = ltm_eval.load(folder), ltm_eval.load(folder)
    lm = {dtype: LTM(trained, t_fast=2, rows="bound", dtype=dtype) for dtype in ("float32", "bfloat16")}
    with torch.no_grad():
        for one in (trained, other):
            one.layers[0].feed_forward.w2.weight.mul_(1.5)  # type: ignore[union-attr, operator]
    for dtype, own in lm.items():
        own.progress = silent
        from lm_eval.api.instance import Instance

        request = Instance("loglikelihood_rolling", {}, ("Pears are cheap today.",), 0, (TASK, 0, 1))
        assert own.loglikelihood_rolling([request]) == adapter_answers(other, dtype=dtype)
        assert own.get_model_info()["model_sha"] == weights_sha256(dict(other.named_parameters()))


# What is told of the weights -----------------------------------------------------------------------------------------


def told(model: Any, **changes: Any) -> dict[str, Any]:
    return ltm_eval.evaluate(model, **{**OPTIONS, **changes})["config"]  # type: ignore[no-any-return]


def test_unchanged_weights_are_told_as_their_checkpoint(model: LatentThoughtModel, folder: Path) -> None:
    found = told(model)
    assert found == told(folder)
    assert found["checkpoint"]["step"] == 7 and found["checkpoint"]["form"] == "folder"
    assert found["model_sha"] == weights_sha256({name: one.detach() for name, one in model.named_parameters()})


def test_changed_weights_are_told_by_their_own_digest(model: LatentThoughtModel) -> None:
    loaded = told(model)["model_sha"]
    with torch.no_grad():
        model.norm.weight[0] += 1
    found = told(model)
    digest = weights_sha256({name: one.detach() for name, one in model.named_parameters()})
    assert found["model_sha"] == found["checkpoint"]["weights_sha256"] == digest != loaded
    assert (found["checkpoint"]["form"], found["checkpoint"]["step"]) == ("live", None)
    assert f"weights changed since {model.info.source} was loaded" in found["checkpoint"]["notes"]
    assert told(model, step=1200)["checkpoint"]["step"] == 1200
    model.info = CheckpointInfo("run 7", "live", 1300, "")
    assert told(model)["checkpoint"] == {**told(model)["checkpoint"], "step": 1300, "source": "run 7"}
    assert told(model)["model_sha"] == digest
    model.info = None
    assert told(model)["checkpoint"] == {**told(model)["checkpoint"], "step": None, "source": "live"}
    with torch.no_grad():
        model.norm.weight[0] -= 1


def test_a_checkpoint_in_16_bits_is_told_as_itself(tmp_path: Path, model: LatentThoughtModel) -> None:
    place = tiny_folder(tmp_path / "half", tiny_model(scale=6.0))
    weights = {name: one.detach().to(torch.bfloat16) for name, one in model.named_parameters()}
    save_file(weights, place / WEIGHTS_FILE)
    config = (place / "config.json").read_text("utf-8")
    (place / "config.json").write_text(
        config.replace(ltm_eval.load(model.info.source).info.weights_sha256, weights_sha256(weights))
    )
    loaded = ltm_eval.load(place)
    assert told(loaded)["model_sha"] == weights_sha256(weights) and told(loaded)["checkpoint"]["step"] == 7
    with torch.no_grad():
        loaded.norm.weight[0] += 1
    assert told(loaded)["checkpoint"]["step"] is None


# The tokenizer stays with the model ----------------------------------------------------------------------------------


def test_the_tokenizer_stays_with_the_model(tmp_path: Path, right: dict[str, Any]) -> None:
    place = tiny_folder(tmp_path / "gone", tiny_model(scale=6.0))
    model = ltm_eval.load(place)
    shutil.rmtree(place)
    assert bound(model) == right["evaluate"]
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict())
    assert again.tokenizer is model.tokenizer
    assert bound(again) == bound(pickle.loads(pickle.dumps(model))) == right["evaluate"]  # noqa: S301 - our own


def test_the_demo_needs_nothing_more() -> None:
    found = ltm_eval.evaluate(ltm_eval.load(DEMO_MODEL), **OPTIONS)
    assert found["results"] == ltm_eval.evaluate(DEMO_MODEL, **OPTIONS)["results"]


def test_a_model_without_a_tokenizer_says_what_to_pass(model: LatentThoughtModel, tmp_path: Path) -> None:
    ranks = byte_ranks(tmp_path / "bytes")
    model.tokenizer = None
    with pytest.raises(UsageError, match="tokenizer='gpt2'"):
        bound(model)
    assert bound(model, tokenizer=ranks) == bound(model, tokenizer=str(ranks))
    wide = tiny_model(replace(TINY, vocab_size=600))
    with pytest.raises(TokenizerError, match="257 ids, the checkpoint's embedding 600 rows"):
        bound(wide, tokenizer=ranks)


def test_a_damaged_tokenizer_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    place = tiny_folder(tmp_path / "damaged")
    (place / "tokenizer.tiktoken").write_text("no ranks")
    model = ltm_eval.load(place)
    assert model(TOKENS).isfinite().all()
    with pytest.raises(TokenizerError, match="expected a base64 token"):
        bound(model)


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limt": 4}, "no argument 'limt'. Did you mean 'limit'"),
        ({"num_fewshot": 4}, "Did you mean 'shots'"),
        ({"shots": [0, 4]}, "asks for no answers"),
        ({"shots": [0, 99]}, "shots\\[1\\] must|from 0 to 32"),
        ({"t_fast": []}, "t_fast is an empty list"),
        ({"baselines": "gpt2-demo"}, "Did you mean 'baseline'"),
        ({"shots": 99}, "from 0 to 32"),
        ({"limit": 2.7}, "limit must be a whole number of at least 1 or None, got 2.7"),
        ({"limit": True}, "limit must be a whole number of at least 1 or None, got True"),
        ({"limit": "4"}, "limit must be a whole number"),
        ({"limit": 0}, "at least 1"),
        ({"tasks": None}, "tasks must be a list, each item text, got None"),
        ({"tasks": []}, "no task named"),
        ({"tasks": ["ptb", 3]}, "tasks must be text, got 3"),
        ({"tasks": "ptbb"}, "Did you mean 'ptb'"),
        ({"device": "junk"}, "device must be auto"),
        ({"dtype": torch.float16}, "dtype must be one of"),
        ({"batch_size": "big"}, "batch_size must be 'auto' or a whole number of at least 1, got 'big'"),
        ({"t_fast": 1.5}, "t_fast must be 'auto' or a whole number"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"k": 5}, "k must be a list, each item a whole number of at least 1, got 5"),
        ({"documents": [-1], "limit": None}, "documents must be a whole number of at least 0, got -1"),
        ({"metadata": 3}, "metadata must be text"),
        ({"metadata": {"protocol": {1}}}, "metadata must hold plain values"),
        ({"compile": "yes"}, "compile must be true or false"),
        ({"step": "x"}, "step must be a whole number"),
        ({"tokenizer": 3}, "tokenizer must be text"),
        ({"condition": None}, "condition must be one of"),
        *(({name: getattr(RunConfig(), name)}, f"no use for '{name}'") for name in NOT_FOR_PYTHON),
    ],
)
def test_wrong_arguments_of_evaluate_are_named(changes: dict[str, Any], words: str, model: LatentThoughtModel) -> None:
    with pytest.raises(UsageError, match=words):
        bound(model, **changes)


def test_arguments_may_be_what_python_has_for_them(model: LatentThoughtModel, right: dict[str, Any]) -> None:
    assert (
        bound(model, tasks=["ptb"], limit=np.int64(1), seed=np.int32(1234), device=torch.device("cpu"))
        == right["evaluate"]
    )
    assert bound(model, dtype=torch.bfloat16) == bound(model, dtype="bfloat16")
    assert bound(model, fit={"lr": 0.2}) == bound(model, fit='{"lr": 0.2}') != right["evaluate"]
    assert set(ltm_eval.evaluate(model, **{**OPTIONS, "tasks": "ptb, wikitext"})["results"]) == {TASK, "ltm_wikitext"}


@pytest.mark.parametrize("given", [None, "", " ", 3, b"demo", nn.Linear(2, 2), ["demo"], "no/such/place", "x" * 5000])
def test_what_is_no_model_is_named(given: Any) -> None:
    for ask in (bound, ltm_eval.load):
        with pytest.raises(LtmEvalError, match="checkpoint|LatentThoughtModel"):
            ask(given)


def test_weights_that_cannot_be_used_are_named(model: LatentThoughtModel) -> None:
    with torch.no_grad():
        model.layers[0].feed_forward.w2.weight[1, 2] = torch.nan  # type: ignore[union-attr, index, operator]
        model.norm.weight[0] = torch.inf
    for ask in (bound, CALLS["fit"], adapter_answers):
        with pytest.raises(UsageError, match=r"layers\.0\.feed_forward\.w2\.weight and 1 more tensors"):
            ask(model)
        with pytest.raises(UsageError, match="has no values"):
            ask(copy.deepcopy(model).to("meta"))
        with pytest.raises(UsageError, match="float8_e4m3fn, expected a float of 16 to 64 bits"):
            ask(copy.deepcopy(model).to(torch.float8_e4m3fn))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"device": "junk"}, UsageError, "device must be auto"),
        ({"device": 7}, UsageError, "device must be auto"),
        ({"device": "cuda:97"}, MachineError, "is not available; found cpu"),
        ({"revision": 3}, UsageError, "revision must be"),
    ],
)
def test_wrong_arguments_of_load_are_named(options: dict[str, Any], error: type[LtmEvalError], words: str) -> None:
    with pytest.raises(error, match=words):
        ltm_eval.load(DEMO_MODEL, **options)


ONES = torch.ones(2, 20, dtype=torch.long)


def test_what_torch_ignores_is_ignored(model: LatentThoughtModel) -> None:
    ours, torchs = TOKENS.clone(), TOKENS.clone()
    ours[0, 3], ours[:, 15:] = -1, -1
    torchs[0, 3], torchs[:, 15:] = -100, -100
    padded = TOKENS.clone()
    padded[:, 15:] = -100  # padding of tokens may be anything
    found = [ltm_eval.fit(model, *given, t_fast=2) for given in ((TOKENS, ours), (TOKENS, torchs), (padded, torchs))]
    assert all(torch.equal(one.mu, found[0].mu) for one in found)
    assert all(torch.equal(one.trace.nll_nats, found[0].trace.nll_nats) for one in found)
    z = found[0].mu
    nats = nn.functional.cross_entropy(model(TOKENS, z).flatten(0, 1), torchs.flatten(), reduction="none")
    prior = ltm_eval.fit(model, TOKENS, torchs, t_fast=0, preset="released")
    assert prior.mu.eq(0).all() and nats.view(2, 20)[torchs == -100].eq(0).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, "LatentThoughtModel"),
        ({"model": DEMO_MODEL}, "LatentThoughtModel, as ltm_eval.load returns it, got 'demo'"),
        ({"tokens": ONES.float()}, r"tokens must be a tensor of whole numbers .* got float32 of shape \(2, 20\)"),
        ({"targets": ONES.bool()}, "targets must be a tensor of whole numbers"),
        ({"tokens": ONES.tolist()}, "got a list"),
        ({"tokens": None}, "got None"),
        ({"tokens": ONES[0]}, r"got int64 of shape \(20,\)"),
        ({"tokens": ONES[:0], "targets": ONES[:0]}, "at least one row"),
        ({"tokens": ONES[:, :0], "targets": ONES[:, :0]}, "at least one row"),
        ({"targets": ONES[:, :9]}, r"targets must have the shape of tokens, \(2, 20\), got \(2, 9\)"),
        ({"targets": ONES[:1]}, "targets must have the shape"),
        ({"targets": -2 * ONES}, "row 0, position 0 is -2, expected 0 to 256 .* or -1 or -100"),
        ({"targets": 257 * ONES}, "is 257, expected 0 to 256"),
        ({"tokens": -ONES}, "tokens: row 0, position 0 is -1"),
        ({"tokens": -100 * ONES}, "tokens: row 0, position 0 is -100"),
        ({"tokens": 257 * ONES}, "tokens: row 0, position 0 is 257"),
        ({"targets": -100 * ONES}, "row 0 has no scored position"),
        ({"tokens": ONES.repeat(1, 20), "targets": ONES.repeat(1, 20)}, "400 tokens exceeds the model's context"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"seed": 1.0}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"t_fast": 1.5}, "t_fast must be a whole number"),
        ({"t_fast": True}, "t_fast must be a whole number"),
        ({"t_fast": "7"}, "t_fast must be a whole number"),
        ({"preset": None}, "preset must be one of"),
    ],
)
def test_wrong_arguments_of_fit_are_named(changes: dict[str, Any], words: str, model: LatentThoughtModel) -> None:
    given = {"model": model, "tokens": ONES, "targets": ONES, "t_fast": 1, **changes}
    with pytest.raises(UsageError, match=words):
        ltm_eval.fit(**given)


def test_any_whole_numbers_will_do(model: LatentThoughtModel) -> None:
    found = ltm_eval.fit(model, TOKENS.int(), TOKENS.to(torch.uint8), t_fast=np.int64(2), seed=np.int64(1234))  # type: ignore[arg-type]
    assert torch.equal(found.mu, ltm_eval.fit(model, TOKENS, TOKENS, t_fast=2).mu)
    for kind in (torch.uint8, torch.int16, torch.int32, torch.uint16):
        assert torch.equal(model(TOKENS.to(kind)), model(TOKENS))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((ONES.float(),), "tokens must be a tensor of whole numbers"),
        ((ONES[0],), "tokens must be a tensor of whole numbers"),
        ((257 * ONES,), "expected 0 to 256"),
        ((-ONES,), "row 0, position 0 is -1"),
        ((ONES.repeat(1, 20),), "400 in a row exceed the model's context of 192"),
        ((ONES, 3), "z must be a tensor of floats of shape"),
        ((ONES, torch.zeros(LATENTS).long()), "z must be a tensor of floats"),
        ((ONES, torch.zeros(LATENTS)[:1]), r"z must be .* \(2, 2, 2, 8\), \(B, L, N, D\), got float32 of shape \(1, 2"),
        ((ONES, torch.zeros(LATENTS) / 0), "z contains NaN"),
        ((ONES.to("meta"),), "tokens are on meta, the model is on cpu"),
        ((ONES, torch.zeros(LATENTS, device="meta")), "z is on meta, the model is on cpu"),
    ],
)
def test_wrong_inputs_of_the_decoder_are_named(given: tuple[Any, ...], words: str, model: LatentThoughtModel) -> None:
    with pytest.raises(UsageError, match=words):
        model(*given)


def test_posteriors_name_what_they_cannot_do(model: LatentThoughtModel) -> None:
    found = ltm_eval.fit(model, TOKENS, TOKENS, t_fast=1)
    assert torch.equal(found.row(-1).mu, found.mu[1:]) and torch.equal(found.row(0).mu, found.mu[:1])
    for i in (2, -3, "a", 1.0, True):
        with pytest.raises(UsageError, match="expected a whole number from 0 to 1"):
            found.row(i)  # type: ignore[arg-type]
    for noise in (None, torch.zeros(3), torch.zeros(3, *LATENTS[1:]), torch.zeros(LATENTS).long()):
        with pytest.raises(UsageError, match="noise must be a tensor of floats"):
            found.at(noise)  # type: ignore[arg-type]
    for noise in (torch.zeros(LATENTS), torch.zeros(LATENTS[1:]), torch.zeros(1, *LATENTS[1:])):
        assert torch.equal(found.at(noise), found.mu)
    other = ltm_eval.fit(tiny_model(replace(TINY, n_layers=1, max_z_len=2)), TOKENS, TOKENS, t_fast=1)
    for parts in ([], [None], [found, other]):
        with pytest.raises(UsageError, match="joined: expected"):
            Posterior.joined(parts)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="LatentThoughtModel"):
        Posterior.prior(None)  # type: ignore[arg-type]


def test_seeds_of_a_task_reach_the_global_generators_of_a_call_alone(
    model: LatentThoughtModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task of others that draws from them draws the same at every call, and the caller's streams go on as if none."""
    drawn = []
    plain = evaluation.chosen_documents

    def drawing(*given: Any) -> Any:
        drawn.append((random.random(), np.random.rand(), float(torch.rand(1))))  # noqa: NPY002 - the global ones
        return plain(*given)

    monkeypatch.setattr(evaluation, "chosen_documents", drawing)
    streams = []
    for times in (0, 2):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002 - a caller's
        for _ in range(times):
            bound(model)
        streams.append((random.random(), np.random.rand(), float(torch.rand(1))))  # noqa: NPY002 - a caller's
    assert streams[0] == streams[1] and drawn[0] == drawn[1] != streams[0]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model, ids: ltm_eval.load("demo", revision="main"), "revision applies to hub checkpoints"),
        (
            lambda model, ids: ltm_eval.load("demo", devcie="cpu"),
            "load has .*devcie'. Did you mean 'device'",
        ),  # type: ignore[call-arg]
        (
            lambda model, ids: ltm_eval.fit(model, ids, ids, tfast=1),
            "fit has .*'tfast'. Did you mean 't_fast'",
        ),  # type: ignore[call-arg]
        (lambda model, ids: ltm_eval.fit(model, ids, ids, seed=-1), "seed must be a whole number from 0 to 4294967295"),
        (lambda model, ids: ltm_eval.fit(model, ids, ids, seed=2**70), "seed must be .* to 4294967295"),
        (lambda model, ids: ltm_eval.evaluate(model, tasks=[]), r"give tasks, for example tasks=\['gsm8k'\]"),
        (lambda model, ids: ltm_eval.evaluate(model, tasks=" ,"), r"give tasks, for example tasks=\['gsm8k'\]"),
        (lambda model, ids: ltm_eval.load("demo", device="cpu:1"), "device='cpu:1' is not available"),
        (lambda model, ids: ltm_eval.fit(model, ids.to_sparse(), ids, t_fast=1), "tokens must be a dense tensor"),
        (lambda model, ids: ltm_eval.fit(model, ids, ids.to("meta"), t_fast=1), "targets must be a dense tensor"),
        (
            lambda model, ids: ltm_eval.evaluate(model, tasks="ptb", data="sample", revision="a"),
            "a loaded model was given",
        ),
        (
            lambda model, ids: ltm_eval.evaluate(model, tasks="gsm8k", data="sample", n=2, k=[5]),
            "pass@5 needs at least 5 samples",
        ),
        (
            lambda model, ids: ltm_eval.evaluate(model, tasks="gsm8k", data="sample", gen_kwargs="max_gen_toks=0"),
            "max_gen_toks must be at least 1",
        ),
    ],
)
def test_arguments_without_effect_or_sense_are_refused(call: Callable[..., object], said: str) -> None:
    with pytest.raises(LtmEvalError, match=said):
        call(ltm_eval.load("demo"), torch.arange(8).view(1, 8))


def test_a_fork_after_threads_gives_the_same_bits() -> None:
    """OpenMP's threads do not survive a fork: a child that counted on them waited forever.

    The model is wide enough that its products are shared among threads, in the parent and, but for us, in the child.
    """
    model = ltm_eval.load("demo")
    tokens = torch.randint(0, 200, (1, 129), generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        mu = ltm_eval.fit(model, tokens[:, :-1], tokens[:, 1:], t_fast=2).mu
        child = os.fork()
        if not child:
            code = 1
            try:
                signal.alarm(60)
                code = int(not torch.equal(mu, ltm_eval.fit(model, tokens[:, :-1], tokens[:, 1:], t_fast=2).mu))
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)
