"""Whole texts as bounds: what an LTM answers where lm-eval asks for a rolling log-likelihood.

A text is cut into windows as lm-eval 0.4.13 cuts it for any model: each token is scored once, the first of a window
after one token of context, and only the last window reads as far back as fits. Every window has a z of its own, fitted
to the tokens scored in it, so the sum over windows bounds -log p of the text under that model. The causal row alone
takes the text as a whole (`causal`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ltm_eval.bounds import DocumentBounds, RowOptions, score_documents
from ltm_eval.causal import CausalConfig, causal_rows
from ltm_eval.elbo import IGNORED
from ltm_eval.errors import UsageError, nearest
from ltm_eval.memory import finish
from ltm_eval.perplexity import RollingScore
from ltm_eval.posterior import fit_documents
from ltm_eval.token_costs import TokenCosts
from ltm_eval.windows import Document, Window

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ltm_eval.batch_limit import BatchLimit
    from ltm_eval.config import FitConfig
    from ltm_eval.estimates import Estimate
    from ltm_eval.gaussians import Posterior
    from ltm_eval.model import LatentThoughtModel
    from ltm_eval.tokenizer import Tokenizer

OPTIONAL_ROWS = ("as_released", "iwae", "prior", "causal")
ALL_ROWS = "all"
DRAWS_OF_MIXTURES = 16
"""Draws of the importance-weighted and the prior row."""


def row_options(rows: str, *, causal_chunk: int, causal_t_fast: int) -> RowOptions:
    """Which rows are computed beside the bound and its parts.

    Args:
        rows: `all`, `bound`, or names joined by `+`, such as `bound+causal+prior`.
        causal_chunk: tokens scored between two refits of z.
        causal_t_fast: fast steps of each refit.

    Raises:
        UsageError: a name is not known, or a number is out of range.
    """
    causal = CausalConfig(chunk=causal_chunk, t_fast=causal_t_fast)
    names = set(OPTIONAL_ROWS) if rows == ALL_ROWS else set(rows.split("+")) - {"bound"}
    for name in sorted(names - set(OPTIONAL_ROWS)):
        known = (ALL_ROWS, "bound", *OPTIONAL_ROWS)
        raise UsageError(f"rows must be names of {', '.join(known)} joined by +, got {name!r}.{nearest(name, known)}")
    return RowOptions(
        iwae=DRAWS_OF_MIXTURES if "iwae" in names else 0,
        prior=DRAWS_OF_MIXTURES if "prior" in names else 0,
        as_released="as_released" in names,
        causal=causal if "causal" in names else None,
    )


def windows_of(text: str, tokenizer: Tokenizer, max_length: int) -> list[Document]:
    """lm-eval's windows of a text, each a document; a literal end-of-text token in the text is read as that token."""
    tokens = tokenizer.encode(text, end_of_text=True)
    documents = []
    for context, wanted in map(
        make_disjoint_window, get_rolling_token_windows(tokens, tokenizer.eot_id, max_length, 1)
    ):
        read = [*context, *wanted][:-1]
        targets = [IGNORED] * (len(read) - len(wanted)) + list(wanted)
        documents.append(Document((Window(tuple(read), tuple(targets)),)))
    return documents


@dataclass
class _Text:
    """Windows of one text that are scored so far."""

    open: int
    scored: dict[int, tuple[DocumentBounds, Posterior]] = field(default_factory=dict)
    token_nats: dict[int, tuple[float, ...]] = field(default_factory=dict)
    fit_seconds: float = 0.0


@dataclass(frozen=True)
class TextScore:
    """One text, done."""

    index: int
    """Its place among the texts."""
    score: RollingScore | float
    """Minus the bound with its parts; 0.0 for a text without tokens."""
    posteriors: tuple[Posterior, ...]
    """Of its windows, in order."""
    fit_seconds: float
    """Its windows' share of the fitting time."""
    ends_batch: bool = True
    """Whether it is the last text that its batch finished."""
    token_nats: tuple[float, ...] = ()
    """What each token costs given z, mean over the bound's draws; empty where it was not kept."""
    draws_nats: tuple[float, ...] = ()
    """What each of the bound's draws alone says, summed over windows."""


def score_texts(  # noqa: PLR0913 - texts, what is computed of them, and of which by token
    model: LatentThoughtModel,
    texts: Sequence[Sequence[Document]],
    config: FitConfig,
    *,
    options: RowOptions,
    seed: int,
    limit: BatchLimit,
    by_token: Collection[int] = (),
) -> Iterator[TextScore]:
    """Score texts given as windows; each comes when its last window is done, longest windows first.

    The causal row is of the whole text, the others are sums over its windows.

    Args:
        texts: of `windows_of`.
        limit: of windows that are fitted together.
        by_token: places of the texts of which each token's cost is kept.
    """
    held = [_Text(len(windows)) for windows in texts]
    by_window = replace(options, causal=None)
    for index, windows in enumerate(texts):
        if not windows:
            yield TextScore(index, 0.0, (), 0.0)
    places = [(index, place) for index, windows in enumerate(texts) for place in range(len(windows))]
    places.sort(key=lambda at: (-len(texts[at[0]][at[1]].windows[0].tokens), at))
    for batch in limit.batches(texts[index][place] for index, place in places):
        part = [places[i] for i in batch]
        documents = [texts[index][place] for index, place in part]
        begun = time.monotonic()
        posterior = fit_documents(model, documents, config, seed=seed)
        finish(model.device)
        seconds = (time.monotonic() - begun) / len(part)
        costs = TokenCosts({row for row, (index, _) in enumerate(part) if index in by_token})
        found = score_documents(
            model, documents, config, options=by_window, seed=seed, posterior=posterior, costs=costs
        )
        finished = []
        for row, (index, place) in enumerate(part):
            held[index].scored[place] = found[row], posterior.row(row)
            held[index].token_nats |= {place: costs.nats[row]} if row in costs.nats else {}
            held[index].fit_seconds += seconds
            held[index].open -= 1
            if not held[index].open:
                finished.append(index)
        wholes = [Document(tuple(document.windows[0] for document in texts[index])) for index in finished]
        causal = causal_rows(model, wholes, config, options=options.causal, seed=seed) if options.causal else []
        for place, index in enumerate(finished):
            score = _text_score(index, held[index], texts[index], causal[place] if causal else None)
            held[index].scored = {}
            yield replace(score, ends_batch=index == finished[-1])


def _text_score(index: int, text: _Text, windows: Sequence[Document], causal: Estimate | None) -> TextScore:
    """Sums over windows; a row that a window lacks is lacking in the text."""
    ordered = [text.scored[place] for place in sorted(text.scored)]
    bounds = [scored[0] for scored in ordered]
    rows: dict[str, float] = {}
    for name in ("bound", "nll_given_z", "kl", *OPTIONAL_ROWS):
        parts = [getattr(bound, name) for bound in bounds]
        if all(part is not None for part in parts):
            rows[name] = math.fsum(part.nats for part in parts)
    if causal is not None:
        rows["causal"] = causal.nats
    rows["bound_stderr"] = math.sqrt(math.fsum((bound.bound.stderr_nats or 0.0) ** 2 for bound in bounds))
    tokens = sum(target != IGNORED for window in windows for target in window.windows[0].targets)
    posteriors = tuple(scored[1] for scored in ordered)
    token_nats = tuple(nats for place in sorted(text.token_nats) for nats in text.token_nats[place])
    draws = tuple(map(math.fsum, zip(*(bound.bound.per_draw_nats for bound in bounds), strict=True)))
    score = RollingScore(rows, tokens=tokens)
    return TextScore(index, score, posteriors, text.fit_seconds, token_nats=token_nats, draws_nats=draws)
