"""The two learners: gradients of a batch, and scores of held-out documents.

A Latent Thought Model first fits z to every document (arXiv:2502.01567 section 2.3, algorithm 1). The baseline has
GPT-2's architecture (`transformers`) with the same encoding and documents. `train` lists departures from the released
code.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm_eval.inference.batching import Batch, Rows
from ltm_eval.inference.bounds import fresh_draws, prior
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fast_loop, fit_documents
from ltm_eval.inference.windows import Document, Posterior, Start, Window, generator, standard_normal
from ltm_eval.model.checkpoint import Checkpoint, CheckpointInfo, save, weights_sha256
from ltm_eval.model.config import ModelConfig
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.model.elbo import IGNORED, kl_nats
from ltm_eval.model.tokenizer import RANKS_FILE, Tokenizer, save_for_transformers
from ltm_eval.system.errors import MachineError, UsageError, nearest
from ltm_eval.system.files import atomic_folder
from ltm_eval.system.machine import COMPUTE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ltm_eval.training.packing import Documents
    from ltm_eval.training.recipe import Recipe


log = logging.getLogger(__name__)

VALIDATION_DRAWS = 8
SIZES = ("n_embd", "n_layer", "n_head", "n_positions")  # sizes of a GPT-2


# GPT-2 ----------------------------------------------------------------------------------------------------------------


def build_gpt2(sizes: Mapping[str, int], tokenizer: Tokenizer, seed: int) -> nn.Module:
    """Return an untrained GPT2LMHeadModel without dropout.

    Args:
        sizes: all of `SIZES`.
        tokenizer: gives the vocabulary.
        seed: seed of the weights.

    Raises:
        UsageError: a size is missing or unknown.
        MachineError: `transformers` is not installed.
    """
    for name in sizes:
        if name not in SIZES:
            raise UsageError(f"recipe: model: unknown size {name!r} of gpt2.{nearest(name, SIZES)}")
    if missing := [name for name in SIZES if name not in sizes]:
        raise UsageError(f"recipe: model of gpt2 lacks {', '.join(missing)}")
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise MachineError("a GPT-2 baseline needs extra packages: pip install 'ltm-eval[hf]'") from error
    eot = tokenizer.eot_id
    config = GPT2Config(
        **sizes,
        vocab_size=tokenizer.n_vocab,
        bos_token_id=eot,
        eos_token_id=eot,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = GPT2LMHeadModel(config)
    return model


def joined_rows(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Join the rows of each document into one sequence, as an autoregressive model reads a few-shot prompt.

    Only the first row keeps its leading end-of-text; padding moves to the end.

    Args:
        tokens, targets: (B, R, T); `IGNORED` targets are padding.

    Returns:
        Tokens and targets, (B, T'), T' the longest sequence.
    """
    if tokens.shape[1] == 1:
        return tokens[:, 0], targets[:, 0]
    sequences = []
    for rows, wanted in zip(tokens, targets, strict=True):
        text = torch.cat([row[row != IGNORED] for row in wanted])  # tokens of every row after its end-of-text
        sequences.append(torch.cat([rows[0, :1], text]))
    length = max(len(sequence) for sequence in sequences) - 1
    joined = torch.zeros(len(sequences), length, dtype=torch.long)
    shifted = torch.full((len(sequences), length), IGNORED, dtype=torch.long)
    for place, sequence in enumerate(sequences):
        joined[place, : len(sequence) - 1] = sequence[:-1]
        shifted[place, : len(sequence) - 1] = sequence[1:]
    return joined, shifted


def export_gpt2(model: Any, tokenizer: Tokenizer, target: Path, training: Mapping[str, Any], ranks: Path) -> None:
    """Write a folder for `AutoModelForCausalLM` and `AutoTokenizer`: weights in fp16, computed in fp32."""
    with atomic_folder(target) as part:
        (part / COMPUTE_FILE).write_text(json.dumps(training, indent=1) + "\n", "utf-8")
        copy.deepcopy(model).cpu().half().save_pretrained(part)
        config = json.loads((part / "config.json").read_text("utf-8"))
        config.pop("torch_dtype", None)
        config["dtype"] = "float32"
        (part / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
        save_for_transformers(tokenizer, part, context=config["n_positions"])
        shutil.copyfile(ranks, part / RANKS_FILE)


# Learners -------------------------------------------------------------------------------------------------------------


FLOPS_FORMULA = (
    "6 P + 12 A for a token of a slow step, 4 P + 8 A for a token of a fast step; P parameters, A layers x width x "
    "positions attended to; the terms of arXiv:2502.01567, which charges a fast step like a slow one"
)


def training_flops(parameters: int, *, attention: int, tokens: int, fast_steps: float, fitted_tokens: int) -> float:
    """Return the FLOPs of one batch: 6 P + 12 A per token of the slow step, 4 P + 8 A per token of a fast step.

    A fast step computes no gradients of weights, hence 4 and 8; the published count has 6 P + 12 A for both.

    Args:
        parameters: P, the number of all parameters.
        attention: A, layers x width x positions that a token sees.
        tokens: tokens of the slow step.
        fast_steps: fast steps per document.
        fitted_tokens: tokens of a fast step.
    """
    slow = (6 * parameters + 12 * attention) * tokens
    return slow + fast_steps * (4 * parameters + 8 * attention) * fitted_tokens


class Learner:
    """Interface of a model in training."""

    module: nn.Module

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        self.recipe, self.tokenizer, self.device = recipe, tokenizer, device
        wanted = recipe.dtype == "bfloat16" or (recipe.dtype == "auto" and device.type == "cuda")
        self.precision: Callable[[], Any] = lambda: torch.autocast(device.type, torch.bfloat16, enabled=wanted)

    def backward(self, batch: Documents, step: int, keys: list[str], scored: int) -> tuple[float, float]:
        """Add the gradient of the mean over `scored` tokens; return summed nll and KL in nats."""
        raise NotImplementedError

    def flops(self, batch: Documents, step: int) -> float:
        """Return the FLOPs of one batch."""
        raise NotImplementedError

    def validate(self, documents: Documents) -> Iterator[dict[str, Any]]:
        """Yield rows of the validation file."""
        raise NotImplementedError

    def export(self, target: Path, training: Mapping[str, Any], ranks: Path) -> None:
        """Write the model's folder in half precision, with `machine.training_compute` in it."""
        raise NotImplementedError


class LatentLearner(Learner):
    """A Latent Thought Model."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        super().__init__(recipe, tokenizer, device)
        sizes = {**recipe.model, "vocab_size": tokenizer.n_vocab}
        self.config = ModelConfig.from_mapping(sizes, where="recipe: model")
        self.model = self.module = LatentThoughtModel(self.config)
        self.model.init_weights(torch.Generator().manual_seed(recipe.seed))
        self.model.to(device)
        self._nll = _compiled(self._nll_of) if recipe.compile else self._nll_of

    def backward(self, batch: Documents, step: int, keys: list[str], scored: int) -> tuple[float, float]:
        noise = _Noise(self.recipe.seed, [f"{step}/{key}".encode() for key in keys], self.config, self.device)
        if step < self.recipe.coded_steps:
            z, kl = self._codes(batch, step, noise), 0.0
        else:
            fitted = self._fit(batch, step, noise)
            z, kl = self._chosen(fitted, noise), float(kl_nats(fitted.mu, fitted.log_var).sum())
        self.model.requires_grad_(True)
        owner = torch.arange(len(batch.tokens), device=self.device).repeat_interleave(batch.tokens.shape[1])
        nll = self._nll(_flat(batch.tokens, self.device), _flat(batch.targets, self.device), z[owner])
        (nll / scored).backward()
        self.model.requires_grad_(False)
        return float(nll.detach()), kl

    def _nll_of(self, tokens: Tensor, targets: Tensor, z: Tensor) -> Tensor:
        """Return the summed -log p(x|z) of rows."""
        with self.precision():
            logits = self.model(tokens, z)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")

    def _codes(self, batch: Documents, step: int, noise: _Noise) -> Tensor:
        """Return given latents (B, L, N, D): a fixed direction per source and group, plus noise."""
        recipe, codes = self.recipe, []
        for group in batch.groups:
            names = (batch.source.name, f"{batch.source.name}/{group}")
            drawn = [
                standard_normal(generator(recipe.seed, "code", name.encode()), self.config.latent_shape)
                for name in names
            ]
            total = torch.stack(drawn).sum(0)
            codes.append(total / total.norm())
        share = step / recipe.coded_steps
        norm = recipe.code_norm_start + share * (recipe.code_norm - recipe.code_norm_start)
        spread = recipe.code_noise_start + share * (1 - recipe.code_noise_start)
        return norm * torch.stack(codes).to(self.device) + spread * noise.draw()

    def _fitted_rows(self, source_rows: int, step: int) -> int:
        """Return the number of an episode's rows to fit z on: 1, 2, 4 … below all, drawn by step."""
        choices = [count for count in (1, 2, 4, 8, 16) if count < source_rows] or [source_rows]
        return int(generator(self.recipe.seed, "rows", str(step).encode()).choice(choices))

    def _fit(self, batch: Documents, step: int, noise: _Noise) -> Posterior:
        count = self._fitted_rows(batch.tokens.shape[1], step)
        owner = torch.arange(len(batch.tokens), device=self.device).repeat_interleave(count)
        fit = self.recipe.fit
        still = torch.zeros(len(batch.tokens), *self.config.latent_shape, device=self.device)
        mu = noise.draw() if fit.mu_spread else still  # streams advance only when a draw is needed
        log_var = noise.draw() if fit.log_var_spread else still
        start = Start.spread(fit, mu=mu, log_var=log_var)
        fixed = noise.draw() if fit.noise == "fixed" else None
        with self.precision():
            with torch.no_grad():
                prelude = self.model.prelude(_flat(batch.tokens[:, :count], self.device))
            rows = Rows(prelude, _flat(batch.targets[:, :count], self.device), owner)
            noise.last = fixed
            return fast_loop(
                Batch(self.model, (rows,), len(batch.tokens)),
                start,
                lambda _: noise.draws(fit.draws) if fixed is None else fixed.unsqueeze(0),
                fit,
            )

    def _chosen(self, fitted: Posterior, noise: _Noise) -> Tensor:
        """Return z of the slow step."""
        kind = self.recipe.slow_latents
        if kind == "mean":
            return fitted.mu
        return fitted.at(noise.last if kind == "fit" and noise.last is not None else noise.draw())

    def flops(self, batch: Documents, step: int) -> float:
        coded = step < self.recipe.coded_steps
        rows = batch.tokens.shape[1]
        share = self._fitted_rows(rows, step) / rows
        reach = min(self.config.window_size, batch.tokens.shape[2])
        return training_flops(
            sum(parameter.numel() for parameter in self.model.parameters()),
            attention=self.config.n_layers * self.config.dim * reach,
            tokens=batch.scored,
            fast_steps=0 if coded else self.recipe.t_fast,
            fitted_tokens=round(share * batch.scored),
        )

    def validate(self, documents: Documents) -> Iterator[dict[str, Any]]:
        """Yield the bound, its KL and the prior row."""
        chosen = []
        for tokens, targets in zip(documents.tokens, documents.targets, strict=True):
            lengths = (targets != IGNORED).sum(1).tolist()
            windows = (
                Window(tuple(tokens[row, :length].tolist()), tuple(targets[row, :length].tolist()))
                for row, length in enumerate(lengths)
                if length
            )
            chosen.append(Document(tuple(windows)))
        scored = documents.scored
        fit = fit_config("bound", t_fast=self.recipe.validation_t_fast)
        posterior = fit_documents(self.model, chosen, fit, seed=self.recipe.seed)
        bound = fresh_draws(self.model, chosen, posterior, seed=self.recipe.seed, draws=VALIDATION_DRAWS)
        unfitted = prior(self.model, chosen, seed=self.recipe.seed, draws=2 * VALIDATION_DRAWS)
        parts = {
            f"bound_{fit.t_fast}": ([one.bound.nats for one in bound], [one.bound.stderr_nats or 0.0 for one in bound]),
            "kl": ([one.kl.nats for one in bound], [0.0] * len(chosen)),
            "prior": ([row.nats for row in unfitted], [row.stderr_nats or 0.0 for row in unfitted]),
        }
        for name, (nats, errors) in parts.items():
            yield {
                "row": name,
                "nats_per_token": round(math.fsum(nats) / scored, 5),
                "stderr_nats_per_token": round(math.hypot(*errors) / scored, 5),
                "tokens": scored,
            }

    def export(self, target: Path, training: Mapping[str, Any], ranks: Path) -> None:
        weights = {name: parameter.detach().cpu().half() for name, parameter in self.model.named_parameters()}
        info = CheckpointInfo(str(target), "live", training["step"], weights_sha256(weights), training=training)
        shutil.rmtree(target, ignore_errors=True)
        save(Checkpoint(info, self.config, weights, str(ranks)), target)


class CausalLearner(Learner):
    """GPT-2 on the same documents, with the rows of an episode joined."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        super().__init__(recipe, tokenizer, device)
        self.module = build_gpt2(recipe.model, tokenizer, recipe.seed).to(device)

    def backward(self, batch: Documents, step: int, keys: list[str], scored: int) -> tuple[float, float]:
        nll = self._nll_of(batch)
        (nll / scored).backward()
        return float(nll.detach()), 0.0

    def _nll_of(self, batch: Documents) -> Tensor:
        tokens, targets = joined_rows(batch.tokens, batch.targets)
        with self.precision():
            logits = self.module(input_ids=tokens.to(self.device)).logits
        wanted = targets.to(self.device).flatten()
        return F.cross_entropy(logits.flatten(0, 1).float(), wanted, ignore_index=IGNORED, reduction="sum")

    def flops(self, batch: Documents, step: int) -> float:
        sizes = self.recipe.model
        return training_flops(
            sum(parameter.numel() for parameter in self.module.parameters()),
            attention=sizes["n_layer"] * sizes["n_embd"] * (batch.tokens.shape[1] * batch.tokens.shape[2] // 2),
            tokens=batch.scored,
            fast_steps=0,
            fitted_tokens=0,
        )

    def validate(self, documents: Documents) -> Iterator[dict[str, Any]]:
        """Yield -log p, exact."""
        count = len(documents.tokens)
        with torch.no_grad():
            nll = sum(float(self._nll_of(documents.part(i, count)[0])) for i in range(count))
        tokens = documents.scored
        yield {"row": "nll", "nats_per_token": round(nll / tokens, 5), "stderr_nats_per_token": 0.0, "tokens": tokens}

    def export(self, target: Path, training: Mapping[str, Any], ranks: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        export_gpt2(self.module, self.tokenizer, target, training, ranks)


class _Noise:
    """Standard normal draws for the documents of a batch, each from its own stream."""

    def __init__(self, seed: int, keys: list[bytes], config: ModelConfig, device: torch.device) -> None:
        self._streams = [generator(seed, "train", key) for key in keys]
        self._shape, self._device = config.latent_shape, device
        self.last: Tensor | None = None  # the noise of the fit, if it is fixed

    def draw(self) -> Tensor:
        return self.draws(1)[0]  # (B, L, N, D)

    def draws(self, count: int) -> Tensor:
        drawn = [standard_normal(stream, (count, *self._shape)) for stream in self._streams]
        return torch.stack(drawn, dim=1).to(self._device)  # (count, B, L, N, D)


def _flat(values: Tensor, device: torch.device) -> Tensor:
    return values.flatten(0, 1).to(device)  # (B * R, T)


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile `function`; fall back on the original if that fails."""
    compiled = torch.compile(function)
    failed = False

    def call(*arguments: Tensor) -> Tensor:
        nonlocal failed
        if not failed:
            try:
                return compiled(*arguments)
            except Exception as error:  # noqa: BLE001 - compilers raise many types
                failed = True
                log.warning("torch.compile failed (%s); training goes on without it", type(error).__name__)
        return function(*arguments)

    return call
