"""The bound of each document under its fitted posterior: six rows in nats, of which some bound -log p(x).

For any q, E_{z~q}[-log p(x|z)] + KL(q || p) >= -log p(x), if the expectation is over noise that the fit has not seen;
so the draws come from separate streams. Sources: arXiv:2502.01567 Eq. 2 for the ELBO; arXiv:1509.00519 Eq. 8
(IWAE) for the importance-weighted bound. `as_released` follows github
mingluzhao/Latent-Thought-LM @498e39e, `optimizer.py`, whose figure at the fit's own noise is not a bound.

    bound            mean of -log p(x|z) over draws, plus KL           bound
    nll_given_z, kl  its two parts                                     -
    iwae_K           -log mean of p(x|z) p(z) / q(z) over K draws      bound
    prior            -log mean of p(x|z) over draws z ~ N(0, I)        bound
    as_released      the objective at the noise of the fit             no bound
    causal           chunk by chunk, z fitted on what precedes it      a next-token code length (`causal`)

Models compute in fp32; sums over windows, draws, chunks and documents are float64.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ltm_eval.inference.batching import each
from ltm_eval.inference.causal import Causal, CausalConfig, causal, causal_rows, text_of
from ltm_eval.inference.draws import DRAWS, Estimate, RollingScore, draw_noise, minus_log_mean, weigh
from ltm_eval.inference.options import FitConfig, fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Posterior, Window
from ltm_eval.model.elbo import IGNORED, kl_nats
from ltm_eval.system.device import finish
from ltm_eval.system.errors import UsageError, nearest, spelt

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor

    from ltm_eval.inference.batching import BatchLimit
    from ltm_eval.model.decoder import LatentThoughtModel
    from ltm_eval.model.tokenizer import Tokenizer

OPTIONAL_ROWS = ("as_released", "iwae", "prior", "causal")
ALL_ROWS = "all"
DRAWS_OF_MIXTURES = 16  # of the importance-weighted and the prior row


@dataclass(frozen=True)
class RowOptions:
    """Which rows to compute, and with how many draws."""

    draws: int = DRAWS  # of `bound`; at least 2
    iwae: int = 64  # K of `iwae_K`; 0 leaves the row out
    prior: int = 64  # 0 leaves the row out
    as_released: bool = True  # needs a second fit unless the fit's noise is fixed
    causal: CausalConfig | None = None  # None leaves the row out

    def __post_init__(self) -> None:
        for name, least in (("draws", 2), ("iwae", 0), ("prior", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name} must be a whole number of at least {least} draws, got {value!r}")


@dataclass(frozen=True)
class DocumentBounds:
    """The rows of one document; None for rows that were not requested."""

    bound: Estimate  # -ELBO at fresh draws
    nll_given_z: Estimate  # -log p(x|z) at the same draws: a reconstruction cost, not a bound
    kl: Estimate  # KL(q || p), exact
    iwae: Estimate | None = None  # importance-weighted bound
    prior: Estimate | None = None  # -log mean p(x|z) over prior draws
    as_released: Estimate | None = None  # the released evaluator's figure; not a bound
    causal: Estimate | None = None  # prequential next-token cost
    # -log p(token | z, tokens before) of every scored token, mean over draws; their sum is `nll_given_z`. Empty unless
    # requested.
    token_nats: tuple[float, ...] = ()

    def rows(self) -> dict[str, Estimate]:
        """Return the computed rows by their names in tables (`iwae_64`)."""
        names = ("bound", "nll_given_z", "kl", "iwae", "prior", "as_released", "causal")
        found = {name: getattr(self, name) for name in names}
        return {f"iwae_{row.draws}" if name == "iwae" else name: row for name, row in found.items() if row is not None}


def score_documents(  # noqa: PLR0913 - documents, what is computed of them, and of which by token
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    options: RowOptions,
    seed: int,
    posterior: Posterior | None = None,
    by_token: Collection[int] = (),
) -> list[DocumentBounds]:
    """Return the requested rows of every document.

    Args:
        config: options of the fit.
        seed: seed of the run; noise depends on it and on a document's content only.
        posterior: fit of the same documents in the same order, if available.
        by_token: indices of documents, each of one window, to keep per-token NLL of.
    """
    if posterior is None:
        posterior = fit_documents(model, documents, config, seed=seed)
    found = fresh_draws(model, documents, posterior, seed=seed, draws=options.draws, by_token=by_token)
    columns: dict[str, list[Any]] = {}  # of estimates
    if options.iwae:
        columns["iwae"] = iwae(model, documents, posterior, seed=seed, draws=options.iwae)
    if options.prior:
        columns["prior"] = prior(model, documents, seed=seed, draws=options.prior)
    if options.as_released:
        columns["as_released"] = as_released(model, documents, config, seed=seed, posterior=posterior)
    if options.causal:
        columns["causal"] = causal_rows(model, documents, config, options=options.causal, seed=seed)
    return [replace(one, **{name: column[i] for name, column in columns.items()}) for i, one in enumerate(found)]


def fresh_draws(  # noqa: PLR0913 - documents with their posteriors, the draws, and which are kept by token
    model: LatentThoughtModel,
    documents: Sequence[Document],
    posterior: Posterior,
    *,
    seed: int,
    draws: int = DRAWS,
    by_token: Collection[int] = (),
) -> list[DocumentBounds]:
    """Return the bound of each document and its two parts, at draws that its fit has not seen.

    Args:
        posterior: fit of the same documents in the same order.
        seed: seed of the run; draws depend on it and on the document's content only.
        draws: S, at least 2 for a standard error.
        by_token: see `score_documents`.

    Raises:
        UsageError: there are fewer than 2 draws.
    """
    if draws < 2:
        raise UsageError(f"a bound needs at least 2 fresh draws for its standard error, got {draws}")
    kl = kl_nats(posterior.mu.cpu().double(), posterior.log_var.cpu().double())  # (B,)

    def score(i: int) -> DocumentBounds:
        own = posterior.row(i)
        keep: list[Tensor] | None = [] if i in by_token else None
        noise = draw_noise(own, documents[i].key, "bound", seed=seed, draws=draws)
        nll, _ = weigh(model, documents[i], own, noise=noise, keep=keep)  # (S,)
        mean, stderr = float(nll.mean()), float(nll.std() / math.sqrt(draws))
        bound = Estimate(float(nll.mean() + kl[i]), stderr, draws, draws, tuple((nll + kl[i]).tolist()))
        tokens: tuple[float, ...] = ()
        if keep:
            means = torch.cat(keep).double().mean(0).tolist()  # (T,)
            (window,) = documents[i].windows
            tokens = tuple(nats for nats, target in zip(means, window.targets, strict=False) if target != IGNORED)
        nll_given_z, exact = Estimate(mean, stderr, draws, draws), Estimate(float(kl[i]), 0.0, 0, 0)
        return DocumentBounds(bound, nll_given_z, exact, token_nats=tokens)

    return each(model, documents, score)


def iwae(
    model: LatentThoughtModel, documents: Sequence[Document], posterior: Posterior, *, seed: int, draws: int
) -> list[Estimate]:
    """Return the importance-weighted bound (arXiv:1509.00519 Eq. 8).

    It is -log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k) with z_k ~ q fresh. Its expectation falls with K towards -log p(x);
    K = 1 is the ELBO with a sampled KL. The first draws are the same for every K.
    """

    def estimate(i: int) -> Estimate:
        own, key = posterior.row(i), documents[i].key
        noise = draw_noise(own, key, "iwae", seed=seed, draws=draws)
        return minus_log_mean(weigh(model, documents[i], own, noise=noise)[1])

    return each(model, documents, estimate)


def prior(model: LatentThoughtModel, documents: Sequence[Document], *, seed: int, draws: int) -> list[Estimate]:
    """Return -log mean of p(x|z) over z ~ N(0, I); its expectation is a bound for any number of draws."""
    unfitted = Posterior.prior(model)

    def estimate(i: int) -> Estimate:
        noise = draw_noise(unfitted, documents[i].key, "prior", seed=seed, draws=draws)
        return minus_log_mean(weigh(model, documents[i], unfitted, noise=noise)[1])

    return each(model, documents, estimate)


def as_released(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    seed: int,
    posterior: Posterior | None = None,
) -> list[Estimate]:
    """Return the released evaluator's figure: NLL + KL at the noise of the fit. Not a bound.

    If `config` has fixed noise, it is the last row of the fit's trace. Otherwise the documents are fitted again under
    the preset `released`, with the same number of steps.

    Args:
        posterior: the fit under `config`, if available.
    """
    if config.noise != "fixed":
        config, posterior = fit_config("released", t_fast=config.t_fast), None
    if posterior is None:
        posterior = fit_documents(model, documents, config, seed=seed)
    last = posterior.trace.nll_nats[-1].cpu().double() + posterior.trace.kl_nats[-1].cpu().double()
    return [Estimate(nats, None, config.draws, config.draws) for nats in last.tolist()]


# Whole texts ----------------------------------------------------------------------------------------------------------
#
# Texts are cut into windows as in lm-eval 0.4.13: each token is scored once, the first of a window after one token of
# context, and only the last window reads back as far as fits. Every window has its own z, fitted to the tokens scored
# in it, so the sum over windows bounds -log p of the text under that model. Only the causal row scores the text as a
# whole.


def row_options(rows: str, *, chunk: int, t_fast: int) -> RowOptions:
    """Parse the rows to compute beside the bound and its parts.

    Args:
        rows: `all`, `bound`, or names joined by `+`, such as `bound+causal+prior`.
        chunk: tokens that the causal row scores between refits of z.
        t_fast: fast steps of such a refit.

    Raises:
        UsageError: a name is unknown, or a number is out of range.
    """
    causal = CausalConfig(chunk=chunk, t_fast=t_fast)
    names = set(OPTIONAL_ROWS) if rows == ALL_ROWS else set(rows.split("+")) - {"bound"}
    for name in sorted(names - set(OPTIONAL_ROWS)):
        known = (ALL_ROWS, "bound", *OPTIONAL_ROWS)
        raise UsageError(
            f"{spelt('rows')} must be names of {', '.join(known)} joined by +, got {name!r}.{nearest(name, known)}"
        )
    return RowOptions(
        iwae=DRAWS_OF_MIXTURES if "iwae" in names else 0,
        prior=DRAWS_OF_MIXTURES if "prior" in names else 0,
        as_released="as_released" in names,
        causal=causal if "causal" in names else None,
    )


def windows_of(text: str, tokenizer: Tokenizer, max_length: int) -> list[Document]:
    """Cut a text into lm-eval's windows, one document each; a literal end-of-text is read as the special token."""
    tokens = tokenizer.encode(text, end_of_text=True)
    documents = []
    for context, wanted in map(
        make_disjoint_window, get_rolling_token_windows(tokens, tokenizer.eot_id, max_length, 1)
    ):
        read = [*context, *wanted][:-1]
        targets = [IGNORED] * (len(read) - len(wanted)) + list(wanted)
        documents.append(Document((Window(tuple(read), tuple(targets)),)))
    return documents


@dataclass(frozen=True)
class TextScore:
    """The scores of one text."""

    index: int  # index of the text
    score: RollingScore | float  # minus the bound, with its parts; 0.0 for a text without tokens
    posteriors: tuple[Posterior, ...]  # fits of its windows, in order
    fit_seconds: float  # fitting time of its windows
    ends_batch: bool = True  # whether it is the last text of its batch
    token_nats: tuple[float, ...] = ()  # of each token given z, mean over the bound's draws; empty if not kept
    draws_nats: tuple[float, ...] = ()  # the bound under each single draw, summed over windows
    # tokens times passes through the decoder, with a gradient and without, of all rows; padding is not counted
    token_steps: int = 0
    token_passes: int = 0


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
    """Score texts given as windows, longest windows first; yield each text when its last window is done.

    The causal row is of the whole text; other rows are sums over windows.

    Args:
        texts: results of `windows_of`.
        limit: limit of windows to fit together.
        by_token: indices of texts to keep per-token NLL of.
    """
    scored: list[dict[int, tuple[DocumentBounds, Posterior]]] = [{} for _ in texts]  # by window
    fit_seconds = [0.0 for _ in texts]
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
        kept = {row for row, (index, _) in enumerate(part) if index in by_token}
        found = score_documents(
            model, documents, config, options=by_window, seed=seed, posterior=posterior, by_token=kept
        )
        finished = []
        for row, (index, place) in enumerate(part):
            scored[index][place] = found[row], posterior.row(row)
            fit_seconds[index] += seconds
            if len(scored[index]) == len(texts[index]):
                finished.append(index)
        whole: list[Causal] = []
        if options.causal:
            wholes = [Document(tuple(document.windows[0] for document in texts[index])) for index in finished]
            whole = causal(model, [text_of(one) for one in wholes], config, options=options.causal, seed=seed)
        for row, index in enumerate(finished):
            ordered = [scored[index][place] for place in range(len(texts[index]))]
            scored[index] = {}
            bounds = [bound for bound, _ in ordered]
            yield TextScore(
                index,
                _rolling_score(bounds, texts[index], whole[row] if whole else None),
                tuple(own for _, own in ordered),
                fit_seconds[index],
                ends_batch=index == finished[-1],
                token_nats=tuple(nats for bound in bounds for nats in bound.token_nats),
                draws_nats=tuple(map(math.fsum, zip(*(bound.bound.per_draw_nats for bound in bounds), strict=True))),
                **_passes(ordered, texts[index], config, options, whole[row] if whole else None),
            )


def _passes(
    scored: Sequence[tuple[DocumentBounds, Posterior]],
    windows: Sequence[Document],
    config: FitConfig,
    options: RowOptions,
    whole: Causal | None,
) -> dict[str, int]:
    """Return the passes of a text's tokens through the decoder: with a gradient, and without."""
    steps = passes = 0
    for (_, posterior), document in zip(scored, windows, strict=True):
        tokens = sum(len(window.tokens) for window in document.windows)
        steps += posterior.trace.steps * config.draws * tokens
        passes += (config.draws + options.draws + options.iwae + options.prior) * tokens
        if options.as_released and config.noise != "fixed":
            released = fit_config("released", t_fast=config.t_fast)
            steps += released.t_fast * released.draws * tokens
            passes += released.draws * tokens
    if whole is not None and options.causal is not None:
        steps += config.draws * whole.fitted_tokens
        passes += whole.read_tokens + config.draws * whole.fitted_tokens // max(1, options.causal.t_fast)
    return {"token_steps": steps, "token_passes": passes}


def _rolling_score(
    bounds: Sequence[DocumentBounds], windows: Sequence[Document], causal: Causal | None
) -> RollingScore:
    """Sum rows over windows; drop rows that a window lacks."""
    rows: dict[str, float] = {}
    for name in ("bound", "nll_given_z", "kl", *OPTIONAL_ROWS):
        parts = [getattr(bound, name) for bound in bounds]
        if all(part is not None for part in parts):
            rows[name] = math.fsum(part.nats for part in parts)
    if causal is not None:
        rows["causal"] = causal.nats
    rows["bound_stderr"] = math.sqrt(math.fsum((bound.bound.stderr_nats or 0.0) ** 2 for bound in bounds))
    return RollingScore(rows, tokens=sum(document.scored for document in windows))
