"""Dual-rate learning: a fast loop fits z to every document of a batch, then one AdamW step moves the decoder's weights.

Source: arXiv:2502.01567 section 2.3, algorithm 1; github mingluzhao/Latent-Thought-LM @498e39e, `train_ltm.py`.
Departures: the slow step draws fresh noise, because the released one rewards decoders that read the very noise the fit
has seen; in the first `coded_steps` steps z is given, a random code of the document's group plus N(0, I), so that the
decoder reads z before the fast loop has to find it. The same trainer trains an autoregressive GPT-2 on the batches.

Everything drawn is a function of seed, step and place, so a run that was killed resumes to the same bits (CPU, fp32,
same number of threads and processes).
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm_eval.bounds import fresh_draws, prior
from ltm_eval.checkpoint import Checkpoint, CheckpointInfo, save, weights_sha256
from ltm_eval.config import ModelConfig, fit_config
from ltm_eval.elbo import IGNORED, kl_nats
from ltm_eval.errors import CheckpointError, MachineError, RefusedError
from ltm_eval.gpt2 import build_gpt2, export_gpt2, joined_rows
from ltm_eval.model import LatentThoughtModel
from ltm_eval.packing import Documents, Feed, Packed, prepare
from ltm_eval.posterior import (
    Batch,
    Document,
    Posterior,
    Rows,
    Start,
    Window,
    fast_loop,
    fit_documents,
    generator,
    standard_normal,
)
from ltm_eval.recipe import Recipe
from ltm_eval.tokenizer import RANKS_FILE, Tokenizer

log = logging.getLogger(__name__)

STATE_FILE, LOG_FILE, VALIDATION_FILE, FIGURE_FILE, FINAL = "state.pt", "log.csv", "validation.csv", "loss.png", "final"
LOG_FIELDS = (
    "step",
    "source",
    "nll_nats_per_token",
    "kl_nats_per_token",
    "lr",
    "gradient_norm",
    "tokens",
    "flops",
    "seconds",
)
VALIDATION_FIELDS = ("step", "source", "row", "nats_per_token", "stderr_nats_per_token", "tokens")
LINE_SECONDS = 10.0
VALIDATION_DRAWS = 8


@dataclass(frozen=True)
class Trained:
    """Where a finished run lies."""

    folder: Path
    """Log, figure and state."""
    final: Path
    """The model's folder, as `--model` or `--baseline` takes it."""
    steps: int
    """Slow steps."""
    tokens: int
    """Tokens of all slow steps."""
    flops: float
    """Operations of fast and slow steps, see `training_flops`."""


@dataclass(frozen=True)
class Process:
    """This process among those of a run."""

    rank: int
    """0 writes."""
    world: int
    """Processes in all."""
    device: torch.device
    """Where this one computes."""

    @staticmethod
    def here(device: str = "auto") -> Process:
        """As torchrun says, or alone; joins the process group."""
        world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
        if device == "auto":
            device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
        if world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return Process(int(os.environ.get("RANK", "0")), world, torch.device(device))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            torch.distributed.barrier()

    def sum(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over processes."""
        if self.world > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)


def train(recipe: Recipe, folder: Path, *, data: Path | None = None, device: str = "auto") -> Trained:
    """Train, or go on where an earlier call with the same recipe was ended.

    Args:
        recipe: what to train.
        folder: for tokens, state, log, figure and the final model.
        data: folder of the sources' files.
        device: `auto`, `cpu`, `cuda:N`.

    Raises:
        RefusedError: the folder holds a run of another recipe.
        DataError, UsageError: see `packing.prepare`.
    """
    process = Process.here(device)
    _claim(folder, recipe)
    if process.rank == 0:
        prepare(recipe, data=data, folder=folder / "data")
    process.wait()
    tokenizer, packed = prepare(recipe, data=data, folder=folder / "data")
    return Trainer(recipe, folder, process, tokenizer, packed).run()


def _claim(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder in which another recipe is being trained."""
    state = folder / STATE_FILE
    if state.is_file() and _read_state(state)["recipe"] != recipe.digest:
        raise RefusedError(f"{folder}: holds a run of another recipe; name a new folder, nothing was changed")
    folder.mkdir(parents=True, exist_ok=True)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(f"{path}: not a complete state of a training run; delete it to begin anew") from error
    return state


class Trainer:
    """One run."""

    def __init__(
        self, recipe: Recipe, folder: Path, process: Process, tokenizer: Tokenizer, packed: dict[str, Packed]
    ) -> None:
        self.recipe, self.folder, self.process, self.tokenizer, self.packed = recipe, folder, process, tokenizer, packed
        self.feed = Feed(recipe, packed)
        self.learner: Learner = (LatentLearner if recipe.architecture == "ltm" else CausalLearner)(
            recipe, tokenizer, process.device
        )
        self.parameters = list(self.learner.module.parameters())
        self.optimiser = _optimiser(self.learner.module, recipe)
        self.step = self.tokens = 0
        self.flops, self.seconds = 0.0, 0.0
        self._resume()

    def run(self) -> Trained:
        """All remaining steps, then validation and the final model."""
        begun, said = time.monotonic() - self.seconds, 0.0
        first = self.step
        while self.step < self.recipe.steps:
            row = self._slow_step()
            self.seconds = time.monotonic() - begun
            self._record(LOG_FILE, LOG_FIELDS, [{**row, "seconds": round(self.seconds, 2)}])
            if self.seconds - said >= LINE_SECONDS or self.step == self.recipe.steps:
                said = self.seconds
                self._say(row, first)
            if self.recipe.validate_every and self.step % self.recipe.validate_every == 0:
                self._validate()
            if self.step % self.recipe.save_every == 0 or self.step == self.recipe.steps:
                self._save()
        return self._finish()

    # One step ---------------------------------------------------------------------------------------------------------

    def _slow_step(self) -> dict[str, Any]:
        """Fast loops and one move of the weights; what the log says of it."""
        recipe = self.recipe
        batches = [self.feed.batch(self.step, micro) for micro in range(recipe.accumulate)]
        scored = sum(batch.scored for batch in batches)
        nll, kl = 0.0, 0.0
        for micro, batch in enumerate(batches):
            own, places = batch.part(self.process.rank, self.process.world)
            if len(places):
                terms = self.learner.backward(own, self.step, [f"{micro}/{place}" for place in places], scored)
                nll, kl = nll + terms[0], kl + terms[1]
            self.tokens += batch.scored
            self.flops += self.learner.flops(batch, self.step)
        norm = self._move(scored)
        sums = torch.tensor([nll, kl], dtype=torch.float64, device=self.process.device)
        self.process.sum([sums])
        self.step += 1
        return {
            "step": self.step,
            "source": "+".join(sorted({batch.source.name for batch in batches})),
            "nll_nats_per_token": round(float(sums[0]) / scored, 5),
            "kl_nats_per_token": round(float(sums[1]) / scored, 5),
            "lr": round(slow_rate(recipe, self.step - 1), 8),
            "gradient_norm": round(norm, 4),
            "tokens": self.tokens,
            "flops": f"{self.flops:.6g}",
        }

    def _move(self, scored: int) -> float:
        """Sum gradients over processes, clip, step; the norm before clipping."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.process.sum([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip))
        if not math.isfinite(norm):
            raise MachineError(f"training: the gradient of step {self.step + 1} is not finite; lower lr and resume")
        for group in self.optimiser.param_groups:
            group["lr"] = slow_rate(self.recipe, self.step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    # State ------------------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        path = self.folder / STATE_FILE
        if not path.is_file():
            return
        state = _read_state(path)
        self.learner.module.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.tokens = state["step"], state["tokens"]
        self.flops, self.seconds = state["flops"], state["seconds"]
        if self.process.rank == 0:
            for name in (LOG_FILE, VALIDATION_FILE):
                _cut_rows(self.folder / name, self.step)
            print(f"training: goes on after step {self.step} of {self.recipe.steps}", file=sys.stderr)

    def _save(self) -> None:
        """Write the state; it appears under its name only when complete."""
        if self.process.rank == 0:
            state = {
                "recipe": self.recipe.digest,
                "model": self.learner.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "tokens": self.tokens,
                "flops": self.flops,
                "seconds": self.seconds,
            }
            part = self.folder / (STATE_FILE + ".part")
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.folder / STATE_FILE)
        self.process.wait()

    def _record(self, name: str, names: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        if self.process.rank:
            return
        path = self.folder / name
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            if new:
                writer.writeheader()
            writer.writerows(rows)

    def _say(self, row: dict[str, Any], first: int) -> None:
        if self.process.rank:
            return
        left = self.seconds / max(1, self.step) * (self.recipe.steps - self.step)
        print(
            f"training: {self.step}/{self.recipe.steps} steps, {row['source']} {row['nll_nats_per_token']:.3f} nats "
            f"per token, KL {row['kl_nats_per_token']:.3f}, {self.tokens / max(1e-9, self.seconds):,.0f} tokens/s, "
            f"{left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )

    def _validate(self) -> None:
        """Held-out documents of every source."""
        if self.process.rank == 0:
            rows = [
                {"step": self.step, "source": name, **row}
                for name, packed in self.packed.items()
                if packed.source.validation
                for row in self.learner.validate(packed.documents(np.arange(packed.training, len(packed.rows))))
            ]
            self._record(VALIDATION_FILE, VALIDATION_FIELDS, rows)
        self.process.wait()

    def _finish(self) -> Trained:
        validated = self.recipe.validate_every and self.step % self.recipe.validate_every == 0
        if not validated:
            if self.process.rank == 0:
                _cut_rows(self.folder / VALIDATION_FILE, self.step - 1)
            self._validate()
        final = self.folder / FINAL
        if self.process.rank == 0:
            self.learner.export(final, self.step, self.folder / "data" / RANKS_FILE)
            draw_losses(self.folder)
            facts = {"recipe": asdict(self.recipe), "steps": self.step, "tokens": self.tokens, "flops": self.flops}
            (self.folder / "run.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
        self.process.wait()
        return Trained(self.folder, final, self.step, self.tokens, self.flops)


def _optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with decay on matrices alone."""
    decayed = [parameter for parameter in module.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in module.parameters() if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))


def slow_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine from `lr` to `lr_final`."""
    share = step / recipe.steps
    cosine = recipe.lr_final + 0.5 * (1 + math.cos(math.pi * share)) * (recipe.lr - recipe.lr_final)
    return cosine * min(1.0, (step + 1) / max(1, recipe.warm_up))


def _cut_rows(path: Path, step: int) -> None:
    """Drop rows later than `step` from a log, and a last line that was not finished."""
    if not path.is_file():
        return
    lines = path.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",", 1)[0]) <= step]
    part = path.with_name(path.name + ".part")
    part.write_text("".join([lines[0], *kept]) if lines else "", "utf-8")
    os.replace(part, path)


def training_flops(parameters: int, *, attention: int, tokens: int, fast_steps: float, fitted_tokens: int) -> float:
    """Operations of one batch: 6 P + 12 A per token of the slow step, 4 P + 8 A per token of a fast step.

    A fast step needs no gradients of weights, hence 4 and 8. The published count (DESIGN section 3) charges
    6 P + 12 A for both.

    Args:
        parameters: P, all of them.
        attention: A, layers x width x positions that a token sees.
        tokens: of the slow step.
        fast_steps: of each document.
        fitted_tokens: tokens that z is fitted to.
    """
    slow = (6 * parameters + 12 * attention) * tokens
    return slow + fast_steps * (4 * parameters + 8 * attention) * fitted_tokens


# Learners -------------------------------------------------------------------------------------------------------------


class Learner:
    """What is trained: how a batch gives a gradient, and how held-out documents are scored."""

    module: nn.Module

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        self.recipe, self.tokenizer, self.device = recipe, tokenizer, device
        wanted = recipe.dtype == "bfloat16" or (recipe.dtype == "auto" and device.type == "cuda")
        self.precision: Callable[[], Any] = lambda: torch.autocast(device.type, torch.bfloat16, enabled=wanted)

    def backward(self, batch: Documents, step: int, keys: list[str], scored: int) -> tuple[float, float]:
        """Add the gradient of the mean over `scored` tokens; summed nll and KL in nats."""
        raise NotImplementedError

    def flops(self, batch: Documents, step: int) -> float:
        """Operations of one batch."""
        raise NotImplementedError

    def validate(self, documents: Documents) -> Iterator[dict[str, Any]]:
        """Rows of the validation file."""
        raise NotImplementedError

    def export(self, target: Path, step: int, ranks: Path) -> None:
        """Write the model's folder in half precision."""
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
        """Summed -log p(x|z) of rows."""
        with self.precision():
            logits = self.model(tokens, z)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")

    def _codes(self, batch: Documents, step: int, noise: _Noise) -> Tensor:
        """Given latents: (B, L, N, D)."""
        codes = [
            _code(self.recipe.seed, (batch.source.name, f"{batch.source.name}/{group}"), self.config)
            for group in batch.groups
        ]
        recipe = self.recipe
        share = step / recipe.coded_steps
        norm = recipe.code_norm_start + share * (recipe.code_norm - recipe.code_norm_start)
        spread = recipe.code_noise_start + share * (1 - recipe.code_noise_start)
        return norm * torch.stack(codes).to(self.device) + spread * noise.draw()

    def _fitted_rows(self, source_rows: int, step: int) -> int:
        """How many of an episode's rows z is fitted on: 1, 2, 4 ... all but the last, in turns; a single row is."""
        choices = [count for count in (1, 2, 4, 8, 16) if count < source_rows] or [source_rows]
        return int(generator(self.recipe.seed, "rows", str(step).encode()).choice(choices))

    def _fit(self, batch: Documents, step: int, noise: _Noise) -> Posterior:
        count = self._fitted_rows(batch.tokens.shape[1], step)
        owner = torch.arange(len(batch.tokens), device=self.device).repeat_interleave(count)
        fit = self.recipe.fit
        shape = (len(batch.tokens), *self.config.latent_shape)
        start = Start(
            fit.mu_spread * noise.draw() if fit.mu_spread else torch.zeros(shape, device=self.device),
            torch.full(shape, fit.log_var_start, device=self.device)
            + (fit.log_var_spread * noise.draw() if fit.log_var_spread else 0.0),
        )
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
        """z of the slow step."""
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
        """The valid bound, the unfitted decoder, and the prior row."""
        chosen = list(_as_documents(documents))
        tokens = documents.scored
        fit = fit_config("bound", t_fast=self.recipe.validation_t_fast)
        posterior = fit_documents(self.model, chosen, fit, seed=self.recipe.seed)
        bound = fresh_draws(self.model, chosen, posterior, seed=self.recipe.seed, draws=VALIDATION_DRAWS)
        unfitted = prior(self.model, chosen, seed=self.recipe.seed, draws=2 * VALIDATION_DRAWS)
        parts = {
            f"bound_{fit.t_fast}": (bound.bound_nats.tolist(), bound.bound_stderr_nats.tolist()),
            "kl": (bound.kl_nats.tolist(), [0.0] * len(chosen)),
            "prior": ([row.nats for row in unfitted], [row.stderr_nats or 0.0 for row in unfitted]),
        }
        for name, (nats, errors) in parts.items():
            yield {
                "row": name,
                "nats_per_token": round(math.fsum(nats) / tokens, 5),
                "stderr_nats_per_token": round(math.hypot(*errors) / tokens, 5),
                "tokens": tokens,
            }

    def export(self, target: Path, step: int, ranks: Path) -> None:
        weights = {name: parameter.detach().cpu().half() for name, parameter in self.model.named_parameters()}
        info = CheckpointInfo(str(target), "live", step, weights_sha256(weights))
        save(Checkpoint(info, self.config, weights, str(ranks)), _emptied(target))


class CausalLearner(Learner):
    """GPT-2's architecture, on the same documents; rows of an episode stand behind one another."""

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
        """-log p, exact."""
        count = len(documents.tokens)
        with torch.no_grad():
            nll = sum(float(self._nll_of(documents.part(i, count)[0])) for i in range(count))
        tokens = documents.scored
        yield {"row": "nll", "nats_per_token": round(nll / tokens, 5), "stderr_nats_per_token": 0.0, "tokens": tokens}

    def export(self, target: Path, step: int, ranks: Path) -> None:
        export_gpt2(self.module, self.tokenizer, _emptied(target), ranks)


class _Noise:
    """Standard normal draws for the documents of a batch, each from a stream of its own."""

    def __init__(self, seed: int, keys: list[bytes], config: ModelConfig, device: torch.device) -> None:
        self._streams = [generator(seed, "train", key) for key in keys]
        self._shape, self._device = config.latent_shape, device
        self.last: Tensor | None = None
        """The fit's only noise, where it is fixed."""

    def draw(self) -> Tensor:
        """(B, L, N, D)."""
        return self.draws(1)[0]

    def draws(self, count: int) -> Tensor:
        """(count, B, L, N, D)."""
        drawn = [standard_normal(stream, (count, *self._shape)) for stream in self._streams]
        return torch.stack(drawn, dim=1).to(self._device)


def _code(seed: int, names: tuple[str, ...], config: ModelConfig) -> Tensor:
    """Unit vector (L, N, D) that is the sum of the names' random directions."""
    drawn = [standard_normal(generator(seed, "code", name.encode()), config.latent_shape) for name in names]
    total = torch.stack(drawn).sum(0)
    unit: Tensor = total / total.norm()
    return unit


def _flat(values: Tensor, device: torch.device) -> Tensor:
    """(B, R, T) to (B * R, T)."""
    return values.flatten(0, 1).to(device)


def _as_documents(documents: Documents) -> Iterator[Document]:
    """Rows as windows, padding left out."""
    for tokens, targets in zip(documents.tokens, documents.targets, strict=True):
        lengths = (targets != IGNORED).sum(1).tolist()
        yield Document(
            tuple(
                Window(tuple(tokens[row, :length].tolist()), tuple(targets[row, :length].tolist()))
                for row, length in enumerate(lengths)
                if length
            )
        )


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` through torch.compile, or itself where compiling fails."""
    compiled = torch.compile(function)
    failed = False

    def call(*arguments: Tensor) -> Tensor:
        nonlocal failed
        if not failed:
            try:
                return compiled(*arguments)
            except Exception as error:  # noqa: BLE001 - whatever the compiler raises, the plain function stands
                failed = True
                log.warning("torch.compile failed (%s); training goes on without it", type(error).__name__)
        return function(*arguments)

    return call


def _emptied(target: Path) -> Path:
    """The path, free for a new folder."""
    shutil.rmtree(target, ignore_errors=True)
    return target


# Figure ---------------------------------------------------------------------------------------------------------------


def draw_losses(folder: Path) -> None:
    """Draw log and validation of a run as `loss.png`: nats per token against slow steps, one colour a source."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    logged = _columns(folder / LOG_FILE, "nll_nats_per_token")
    held_out = _columns(folder / VALIDATION_FILE, "nats_per_token")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    colours = dict(zip(sorted(logged), mpl.color_sequences["tab10"], strict=False))
    for name, points in sorted(logged.items()):
        steps, values = zip(*points, strict=True)
        axes.plot(steps, _smoothed(values), color=colours[name], linewidth=1, label=f"{name}: given z, training")
    for name, points in sorted(held_out.items()):
        source, _, row = name.partition(" ")
        if not row.startswith("kl"):
            steps, values = zip(*points, strict=True)
            marker = "v" if row.startswith(("bound", "nll")) else "x"
            axes.plot(steps, values, marker, color=colours.get(source, "black"), label=f"{source}: {row}, held out")
    axes.set_xlabel("slow steps")
    axes.set_ylabel("nats per token")
    axes.legend(fontsize=6, ncols=2)
    figure.savefig(folder / FIGURE_FILE, dpi=150)


def _columns(path: Path, value: str) -> dict[str, list[tuple[int, float]]]:
    """Points of each source (and row) of a log."""
    found: dict[str, list[tuple[int, float]]] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                name = row["source"] + (f" {row['row']}" if "row" in row else "")
                found.setdefault(name, []).append((int(row["step"]), float(row[value])))
    return found


def _smoothed(values: tuple[float, ...], half: int = 10) -> list[float]:
    """Mean over up to 2 half + 1 neighbours."""
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [math.fsum(window) / len(window) for window in windows]
