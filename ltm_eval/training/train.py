"""Dual-rate learning: a fast loop fits z to every document of a batch, then one AdamW step moves the decoder's weights.

Source: arXiv:2502.01567 section 2.3, algorithm 1; github mingluzhao/Latent-Thought-LM @498e39e, `train_ltm.py`.
Departures: the slow step draws fresh noise, because the released one rewards decoders that read the noise of the fit;
in the first `coded_steps` steps z is given, a random code of the document's group plus N(0, I), so that the decoder
learns to use z before the fast loop has to find it. The same trainer trains an autoregressive GPT-2 on the batches.

All draws are functions of seed, step and index, so a killed run resumes to the same bits (CPU, fp32, same number of
threads and processes).
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ltm_eval.model.tokenizer import RANKS_FILE, Tokenizer
from ltm_eval.system.errors import CheckpointError, MachineError, RefusedError
from ltm_eval.system.files import atomic, holding, refuse_links, write_text_atomic
from ltm_eval.training.learners import FLOPS_FORMULA, CausalLearner, LatentLearner, Learner
from ltm_eval.training.packing import Feed, Packed, prepare

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.training.recipe import Recipe


STATE_FILE, LOG_FILE, VALIDATION_FILE, FIGURE_FILE = "state.pt", "log.csv", "validation.csv", "loss.png"
FINAL, CHECKPOINTS = "final", "intermediate"  # folders of the model, and of its earlier states by step
LINE_SECONDS = 10.0  # seconds between progress lines


@dataclass(frozen=True)
class Trained:
    """Files and compute of a finished run."""

    folder: Path  # contains log, plot and state
    final: Path  # folder of the model, for `--model` or `--baseline`
    steps: int  # slow steps
    tokens: int  # tokens of all slow steps
    flops: float  # of fast and slow steps, see `learners.training_flops`


@dataclass(frozen=True)
class Process:
    """A process of a training run; rank 0 writes."""

    rank: int
    world: int
    device: torch.device

    @staticmethod
    def here(device: str = "auto") -> Process:
        """Join the process group of torchrun, if there is one."""
        world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
        if device == "auto":
            device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
        if world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return Process(int(os.environ.get("RANK", "0")), world, torch.device(device))

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            torch.distributed.barrier()

    def sum(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over processes."""
        if self.world > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)


def train(recipe: Recipe, folder: Path, *, data: Path | None = None, device: str = "auto") -> Trained:
    """Train a recipe, or resume an earlier call with the same recipe.

    Args:
        recipe: the recipe.
        folder: folder for tokens, state, log, plot and the final model.
        data: folder of the sources' files.
        device: `auto`, `cpu`, `cuda:N`.

    Raises:
        RefusedError: the folder contains a run of another recipe, or another command works there.
        DataError, UsageError: see `packing.prepare`.
    """
    process = Process.here(device)
    _claim(folder, recipe)
    with holding(folder) if process.rank == 0 else nullcontext():
        if process.rank == 0:
            prepare(recipe, data=data, folder=folder / "data")
        process.wait()
        tokenizer, packed = prepare(recipe, data=data, folder=folder / "data")
        return Trainer(recipe, folder, process, tokenizer, packed).run()


def _claim(folder: Path, recipe: Recipe) -> None:
    """Raise RefusedError if the folder contains a run of another recipe."""
    state = folder / STATE_FILE
    if state.is_file() and _read_state(state)["recipe"] != recipe.digest:
        raise RefusedError(f"{folder}: contains a run of another recipe; choose a new folder, nothing was changed")
    written = ("data", "run.json", LOG_FILE, VALIDATION_FILE, FIGURE_FILE, FINAL, CHECKPOINTS)
    refuse_links(*(folder / name for name in written))
    # a run that was killed early has tokens and perhaps a checkpoint, but no state
    for name, own in ((FINAL, state), (CHECKPOINTS, folder / "data")):
        if not state.is_file() and not own.exists() and (folder / name).exists():
            raise RefusedError(
                f"{folder}: {name} there is of no training run; choose a new folder, nothing was changed"
            )
    folder.mkdir(parents=True, exist_ok=True)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(f"{path}: not a complete training state; delete it to start over") from error
    return state


class Trainer:
    """A training run."""

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
        """Take all remaining steps, validate, and export the final model."""
        begun, said = time.monotonic() - self.seconds, 0.0
        first = self.step
        while self.step < self.recipe.steps:
            row = self._slow_step()
            self.seconds = time.monotonic() - begun
            self._record(LOG_FILE, [{**row, "seconds": round(self.seconds, 2)}])
            if self.seconds - said >= LINE_SECONDS or self.step == self.recipe.steps:
                said = self.seconds
                self._say(row, first)
            if self.recipe.validate_every and self.step % self.recipe.validate_every == 0:
                self._validate()
            if self.step in self.recipe.checkpoint_steps:  # before the state: a killed run writes it again
                self._export(self.folder / CHECKPOINTS / f"step{self.step}")
            if self.step % self.recipe.save_every == 0 or self.step == self.recipe.steps:
                self._save()
        return self._finish()

    # One step ---------------------------------------------------------------------------------------------------------

    def _slow_step(self) -> dict[str, Any]:
        """Run the fast loop and one step of the weights; return its row of the log."""
        recipe = self.recipe
        batches = [self.feed.batch(self.step, micro) for micro in range(recipe.accumulate)]
        scored = sum(batch.scored for batch in batches)
        nll, kl = 0.0, 0.0
        for micro, batch in enumerate(batches):
            own, indices = batch.part(self.process.rank, self.process.world)
            if len(indices):
                terms = self.learner.backward(own, self.step, [f"{micro}/{index}" for index in indices], scored)
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
        """Sum gradients over processes, clip, step; return the norm before clipping."""
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
        if path.is_file():
            state = _read_state(path)
            self.learner.module.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.tokens = state["step"], state["tokens"]
            self.flops, self.seconds = state["flops"], state["seconds"]
        for name in (LOG_FILE, VALIDATION_FILE) if self.process.rank == 0 else ():
            _cut_rows(self.folder / name, self.step)
        if self.process.rank == 0 and self.step:
            print(f"training: goes on after step {self.step} of {self.recipe.steps}", file=sys.stderr)

    def _save(self) -> None:
        """Write the state atomically."""
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
            with atomic(self.folder / STATE_FILE, binary=True, other="place") as file:
                torch.save(state, file)
        self.process.wait()

    def _record(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Append rows to a CSV file; all its rows have the same columns."""
        if self.process.rank or not rows:
            return
        path = self.folder / name
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
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
        """Score the held-out documents of every source."""
        if self.process.rank == 0:
            rows = [
                {"step": self.step, "source": name, **row}
                for name, packed in self.packed.items()
                if packed.source.validation
                for row in self.learner.validate(packed.documents(np.arange(packed.training, len(packed.rows))))
            ]
            self._record(VALIDATION_FILE, rows)
        self.process.wait()

    def _finish(self) -> Trained:
        validated = self.recipe.validate_every and self.step % self.recipe.validate_every == 0
        if not validated:
            if self.process.rank == 0:
                _cut_rows(self.folder / VALIDATION_FILE, self.step - 1)
            self._validate()
        final = self.folder / FINAL
        self._export(final)
        if self.process.rank == 0:
            draw_losses(self.folder)
            facts = {"recipe": asdict(self.recipe), "steps": self.step, "tokens": self.tokens, "flops": self.flops}
            write_text_atomic(self.folder / "run.json", json.dumps(facts, indent=1) + "\n")
        self.process.wait()
        return Trained(self.folder, final, self.step, self.tokens, self.flops)

    def _export(self, folder: Path) -> None:
        """Write the model as it is now, in half precision, with the compute so far."""
        if self.process.rank == 0:
            training = {"step": self.step, "tokens": self.tokens, "flops": self.flops, "formula": FLOPS_FORMULA}
            self.learner.export(folder, training, self.folder / "data" / RANKS_FILE)
            size = sum(file.stat().st_size for file in folder.iterdir())
            print(f"training: {folder} written, {size / 1e6:,.1f} MB", file=sys.stderr)
        self.process.wait()


def _optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with decay on matrices only."""
    decayed = [parameter for parameter in module.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in module.parameters() if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))


def slow_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate: linear warm-up, then a cosine from `lr` to `lr_final`."""
    share = step / recipe.steps
    cosine = recipe.lr_final + 0.5 * (1 + math.cos(math.pi * share)) * (recipe.lr - recipe.lr_final)
    return cosine * min(1.0, (step + 1) / max(1, recipe.warm_up))


def _cut_rows(path: Path, step: int) -> None:
    """Drop rows after `step`, and a torn last line, from a log; one whose first line is torn is removed."""
    if not path.is_file():
        return
    lines = [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
    if not lines:
        path.unlink()
        return
    with atomic(path, other="place") as file:
        file.writelines([lines[0], *(line for line in lines[1:] if int(line.split(",", 1)[0]) <= step)])


# Plot -----------------------------------------------------------------------------------------------------------------


def draw_losses(folder: Path) -> None:
    """Plot log and validation of a run as `loss.png`: nats per token against slow steps, one colour per source."""
    import matplotlib as mpl
    import pandas as pd
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    logged = pd.read_csv(folder / LOG_FILE).groupby("source")
    colours = dict(zip(logged.groups, mpl.color_sequences["tab10"], strict=False))
    for source, rows in logged:
        smoothed = rows["nll_nats_per_token"].rolling(21, center=True, min_periods=1).mean()
        axes.plot(rows["step"], smoothed, color=colours[source], linewidth=1, label=f"{source}: given z, training")
    if (folder / VALIDATION_FILE).is_file():
        for (name, row), rows in pd.read_csv(folder / VALIDATION_FILE).groupby(["source", "row"]):
            if row != "kl":
                marker, colour = "x" if row == "prior" else "v", colours.get(name, "black")
                label = f"{name}: {row}, held out"
                axes.plot(rows["step"], rows["nats_per_token"], marker, color=colour, label=label)
    axes.set_xlabel("slow steps")
    axes.set_ylabel("nats per token")
    axes.legend(fontsize=6, ncols=2)
    figure.savefig(folder / FIGURE_FILE, dpi=150)
