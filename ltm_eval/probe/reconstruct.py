"""What each layer's latents carry: fit z to a text with all layers, then keep the latents of some layers only.

Based on the project page of arXiv:2502.01567 ("progressive reconstruction"), which shows curves without a definition;
the choices here are ours. A text of T tokens follows end-of-text. z is fitted to it once; in layers that are not kept,
the latents are zero (the prior's mean, equal to no cross-attention) or a draw from the prior. The measures are

- teacher-forced: -log p and top-1 accuracy of every token given the text's earlier ones;
- free-running: the greedy continuation of end-of-text alone, T tokens, compared position by position with the text, and
  its number of tokens before the first wrong one;
- for the explorer: the greedy continuation of the text's first tokens, its likelihood under its own z, and its
  similarity to the continuation with all layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ltm_eval.inference.decode import Prompt, generate
from ltm_eval.inference.options import GenerationConfig
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Window, generator, standard_normal
from ltm_eval.model.elbo import IGNORED, kl_per_layer_nats, token_nll_nats
from ltm_eval.probe.files import (
    Cell,
    Explored,
    Generated,
    ProbeConfig,
    ProbedText,
    downward,
    explored,
    key_of,
    layers_of,
    upward,
)
from ltm_eval.system.errors import DataError
from ltm_eval.system.files import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.inference.windows import Posterior
    from ltm_eval.model.decoder import Hidden, LatentThoughtModel
    from ltm_eval.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class ProbeText:
    """A text to probe."""

    name: str  # where it came from
    prompt: str  # what the explorer lets the decoder read; empty where the text names none
    rest: str  # what follows; the text is both


@dataclass(frozen=True)
class Encoded:
    """The tokens of a text, cut to the probed length."""

    tokens: tuple[int, ...]  # T of them, without the end-of-text in front
    prompt: int  # how many of them the explorer's decoder reads, fewer than T
    cut: bool  # whether tokens were left out


def encode(text: ProbeText, tokenizer: Tokenizer, config: ProbeConfig, *, context: int) -> Encoded:
    """Encode a text; the explorer reads its prompt, or its first tokens if there is none or it leaves no room.

    Raises:
        DataError: the text has no token.
    """
    prompt, rest = tokenizer.encode(text.prompt) if text.prompt else [], tokenizer.encode(text.rest)
    limit = min(config.max_tokens, context - 1)
    tokens = tuple([*prompt, *rest][:limit])
    if not tokens:
        raise DataError(f"{text.name}: the text is empty; remove it")
    wanted = len(prompt) if 0 < len(prompt) < len(tokens) else config.prompt_tokens
    return Encoded(tokens, min(wanted, len(tokens) - 1), cut=len(prompt) + len(rest) > limit)


class Subject:
    """A text with its fitted z, to reconstruct under any set of layers."""

    def __init__(self, model: LatentThoughtModel, encoded: Encoded, eot_id: int, config: ProbeConfig) -> None:
        self.model, self.encoded, self.eot_id = model, encoded, eot_id
        window = Window((eot_id, *encoded.tokens[:-1]), encoded.tokens)
        document = Document((window,))
        self.posterior = fit_documents(model, [document], config.fitting, seed=config.seed)
        shape = model.config.latent_shape
        self.kept = self.posterior.mu[0]  # (L, N, D)
        if config.latents == "draw":
            noise = standard_normal(generator(config.seed, "probe", document.key), shape)
            self.kept = self.posterior.at(noise.to(model.device))[0]
        self.rest = torch.zeros_like(self.kept)
        if config.rest == "prior":
            self.rest = standard_normal(generator(config.seed, "probe-rest", document.key), shape).to(model.device)
        self._window = window

    def z(self, key: str) -> Tensor:
        """Return the fitted latents in the layers of `key` and the replacement in others: (L, N, D)."""
        active = torch.zeros(self.model.config.n_layers, 1, 1, dtype=torch.bool, device=self.kept.device)
        active[[layer - 1 for layer in layers_of(key)]] = True
        return torch.where(active, self.kept, self.rest)

    def teacher_forced(self, z: Tensor | None) -> tuple[float, int]:
        """Return -log p(text | z) in nats and the number of top-1 tokens; None skips cross-attention."""
        return scored(self.model, self._window, z)

    def greedy(self, latents: Sequence[Tensor], *, read: int, stop: bool) -> list[tuple[int, ...]]:
        """Return greedy continuations of end-of-text and the first `read` tokens, one per z (L, N, D).

        Args:
            latents: one z per continuation.
            read: tokens of the text to read; the continuation has the length of the rest.
            stop: whether an end-of-text ends a continuation.
        """
        prompt = (self.eot_id, *self.encoded.tokens[:read])
        config = GenerationConfig(max_new_tokens=len(self.encoded.tokens) - read)
        made = generate(self.model, [Prompt(prompt, z) for z in latents], config, eot_id=self.eot_id if stop else None)
        return [one.tokens for one in sorted(made, key=lambda one: one.index)]


@torch.no_grad()
def scored(model: LatentThoughtModel, window: Window, z: Tensor | None) -> tuple[float, int]:
    """Return -log p of a window's targets in nats and the number of top-1 tokens.

    Rows are computed one at a time, so that a figure does not depend on others.

    Raises:
        DataError: the likelihood is not finite.
    """
    tokens = torch.tensor([window.tokens], device=model.device)
    targets = torch.tensor([window.targets], device=model.device)
    hidden: Hidden = model.hidden(model.prelude(tokens), None if z is None else z.unsqueeze(0))
    logits = model.logits(hidden.states)  # (1, T, V)
    nll = float(token_nll_nats(logits, targets).double().sum())
    if not math.isfinite(nll):
        raise DataError(
            f"a window of {len(window.tokens)} tokens: the model gives no finite likelihood; its weights may be "
            "damaged, or the fit has diverged: try --preset bound or fewer fast steps"
        )
    hits = (logits.argmax(-1) == targets) & (targets != IGNORED)
    return nll, int(hits.sum())


def probe_text(
    model: LatentThoughtModel, text: ProbeText, tokenizer: Tokenizer, config: ProbeConfig, *, index: int
) -> tuple[ProbedText, Explored | None]:
    """Fit one text with all layers and reconstruct it with some.

    Args:
        index: index of the text; the first `config.explore` are explored as well.

    Raises:
        DataError: the text has no token.
    """
    n_layers = model.config.n_layers
    encoded = encode(text, tokenizer, config, context=model.config.max_seq_len)
    subject = Subject(model, encoded, tokenizer.eot_id, config)
    wanted = curve_keys(n_layers, config.direction)
    runs = subject.greedy([*map(subject.z, wanted), torch.zeros_like(subject.kept)], read=0, stop=False)
    cells = {key: _cell(subject, subject.z(key), run) for key, run in zip(wanted, runs[:-1], strict=True)}
    found = explore(subject, tokenizer, index=index) if index < config.explore else None
    for key in found.cells if found else ():
        cells.setdefault(key, _cell(subject, subject.z(key), None))
    probed = ProbedText(
        name=text.name,
        sha256=digest(text.prompt + text.rest),
        tokens=len(encoded.tokens),
        cut=encoded.cut,
        cells=cells,
        no_z=_cell(subject, None, runs[-1]),
        **_fit_facts(subject.posterior),
    )
    return probed, found


def curve_keys(n_layers: int, direction: str) -> list[str]:
    """Return the distinct sets of layers of the curves."""
    up = upward(n_layers) if direction != "down" else []
    down = downward(n_layers) if direction != "up" else []
    return list(dict.fromkeys([*up, *down]))


def _cell(subject: Subject, z: Tensor | None, greedy: tuple[int, ...] | None) -> Cell:
    nll, hits = subject.teacher_forced(z)
    if greedy is None:
        return Cell(nll, hits, None, None)
    right = [mine == own for mine, own in zip(greedy, subject.encoded.tokens, strict=True)]
    return Cell(nll, hits, sum(right), right.index(False) if False in right else len(right))


def _fit_facts(posterior: Posterior) -> dict[str, Any]:
    return {
        "t_fast": len(posterior.trace.nll_nats) - 1,
        "kl_nats": float(posterior.trace.kl_nats[-1, 0]),
        "kl_per_layer_nats": tuple(kl_per_layer_nats(posterior.mu, posterior.log_var)[0].tolist()),
        "mean_log_var_per_layer": tuple(posterior.log_var.flatten(2).mean(2)[0].tolist()),
    }


def explore(subject: Subject, tokenizer: Tokenizer, *, index: int) -> Explored:
    """Generate after the prompt under every set of layers of the explorer."""
    n_layers, read = subject.model.config.n_layers, subject.encoded.prompt
    keys = explored(n_layers)
    made = dict(zip(keys, subject.greedy([subject.z(key) for key in keys], read=read, stop=True), strict=True))
    whole = made[key_of(tuple(range(1, n_layers + 1)))]
    texts = {key: tokenizer.decode(tokens) for key, tokens in made.items()}
    distinct = list(dict.fromkeys(texts.values()))
    cells = {
        key: Generated(
            text=distinct.index(texts[key]),
            tokens=len(tokens),
            nll_nats=_nll_of_continuation(subject, tokens, subject.z(key)),
            similarity=similarity(tokens, whole),
        )
        for key, tokens in made.items()
    }
    prompt, rest = subject.encoded.tokens[:read], subject.encoded.tokens[read:]
    return Explored(index, tokenizer.decode(prompt), tokenizer.decode(rest), tuple(distinct), cells)


def _nll_of_continuation(subject: Subject, continuation: Sequence[int], z: Tensor) -> float:
    """Return -log p(continuation | z, prompt) in nats."""
    if not continuation:
        return 0.0
    read = (subject.eot_id, *subject.encoded.tokens[: subject.encoded.prompt])
    tokens = (*read, *continuation[:-1])
    targets = (*[IGNORED] * (len(read) - 1), *continuation)
    return scored(subject.model, Window(tokens, targets), z)[0]


def similarity(a: Sequence[int], b: Sequence[int]) -> float:
    """Return 1 - Levenshtein distance / longer length, over tokens: 1 if equal (or both empty), 0 if nothing is in
    common.
    """
    longest = max(len(a), len(b))
    if not longest:
        return 1.0
    row = list(range(len(b) + 1))
    for at, mine in enumerate(a, 1):
        diagonal, row[0] = row[0], at
        for place, other in enumerate(b, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (mine != other))
    return 1 - row[-1] / longest
