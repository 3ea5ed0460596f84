"""Answer requests: fit z to their contexts, then generate or score continuations, with a sidecar line for each."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.utils import postprocess_generated_text
from torch import Tensor

from ltm_eval.inference.decode import Continuation, Prompt, generate
from ltm_eval.inference.options import GenerationConfig
from ltm_eval.inference.posterior import fit_documents, why_unusable
from ltm_eval.inference.rethink import RANKING_DRAWS, Question, rethink
from ltm_eval.inference.windows import Posterior, generator, padded_length, standard_normal
from ltm_eval.model.elbo import kl_per_layer_nats
from ltm_eval.results.files import ANSWER, TARGET, LatentRecord, Part, TokenRecord, rounded
from ltm_eval.results.tokens import Pieces, pieces_of_bytes
from ltm_eval.runs.worklist import Answer, Request
from ltm_eval.system.device import finish
from ltm_eval.system.files import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lm_eval.api.instance import Instance

    from ltm_eval.harness.context import Context
    from ltm_eval.inference.batching import BatchLimit
    from ltm_eval.inference.bounds import TextScore
    from ltm_eval.inference.options import FitConfig
    from ltm_eval.inference.rethink import Candidate
    from ltm_eval.inference.windows import Document
    from ltm_eval.model.decoder import LatentThoughtModel
    from ltm_eval.model.tokenizer import Tokenizer


AT_PRIOR_NATS = 0.01  # A latent dimension with less KL than this counts as back at the prior

TRACED_DOCUMENTS = 32  # Documents of a task, by index, whose KL is kept for every step and layer


@dataclass(frozen=True)
class Recorder:
    """Make the sidecar lines of one model."""

    condition: str  # What z is fitted on
    fit: FitConfig  # Of the fast loop

    def answered(
        self,
        request: PlannedRequest,
        posterior: Posterior,
        *,
        continuation: Continuation | None,
        seconds: tuple[float, float],
        passes: int,
    ) -> LatentRecord:
        """Return the line of a continuation; `seconds` are of fitting and decoding, `passes` of its tokens."""
        context, repeat = request.context, request.repeat or 0
        return LatentRecord(
            **named(request.instance),
            **self._facts((posterior,), on_text=context.document is not None),
            kl_steps_nats=kl_steps(request.instance, (posterior,)) if context.document and not repeat else (),
            repeat=repeat,
            demonstrations=context.demonstrations,
            demonstrations_read=context.demonstrations_read,
            demonstrations_fitted=context.demonstrations_fitted if context.document else 0,
            prompt_tokens=context.prompt_tokens,
            read_tokens=len(context.read),
            fitted_tokens=context.fitted_tokens,
            fitted_windows=len(context.document.windows) if context.document else 0,
            truncated=context.truncated,
            new_tokens=len(continuation.tokens) if continuation else 0,
            stop_reason=continuation.stop_reason if continuation else "",
            fit_seconds=seconds[0],
            decode_seconds=seconds[1],
            fit=_name(context.key) if context.document else "",
            fit_token_steps=self.fit.draws * posterior.trace.steps * context.fitted_tokens,
            fit_token_passes=self.fit.draws * context.fitted_tokens,
            answer_token_passes=passes,
        )

    def rethought(
        self,
        request: PlannedRequest,
        candidate: Candidate,
        *,
        repeat: int,
        first: tuple[int, Posterior] | None,
    ) -> LatentRecord:
        """Return the line of a candidate of rethinking or of its control, whose fit is that of its own trace.

        Args:
            first: the prompt's own posterior, and how many of its fits count with this candidate; None if none does.
        """
        context, trace = request.context, candidate.continuation
        fitted = candidate.fast_steps > 0
        base = self.answered(
            request,
            candidate.posterior,
            continuation=trace,
            seconds=(candidate.fit_seconds, trace.seconds),
            passes=len(context.read) + len(trace.tokens),
        )
        explained = len(context.read) - 1 + candidate.fitted_tokens if fitted else 0  # tokens of the trace's fit
        again = first[0] * context.fitted_tokens * self.fit.draws if first is not None else 0
        name = _name(f"{base.fit} {base.prompt_hash} {repeat}".encode())  # every candidate has a fit of its own
        own = self._facts((candidate.posterior,), on_text=fitted)
        return replace(
            base,
            **{**own, "t_fast": candidate.fast_steps},
            kl_steps_nats=(),
            repeat=repeat,
            fitted_tokens=candidate.fitted_tokens,
            fit_token_steps=candidate.fast_steps * self.fit.draws * explained
            + (again * first[1].trace.steps if first is not None else 0),
            fit_token_passes=(self.fit.draws + RANKING_DRAWS) * explained + again,
            fitted_windows=int(fitted),
            fit=name if fitted else "",
        )

    def bounded(self, request: Instance, windows: Sequence[Document], done: TextScore) -> LatentRecord:
        """Return the line of a text, with sums over its windows."""
        tokens = sum(len(document.windows[0].tokens) for document in windows)
        return LatentRecord(
            **named(request),
            **self._facts(done.posteriors, on_text=True),
            kl_steps_nats=kl_steps(request, done.posteriors),
            repeat=0,
            demonstrations=0,
            demonstrations_read=0,
            demonstrations_fitted=0,
            prompt_tokens=sum(document.scored for document in windows),
            read_tokens=tokens,
            fitted_tokens=tokens,
            fitted_windows=len(windows),
            truncated=False,
            new_tokens=0,
            stop_reason="",
            fit_seconds=done.fit_seconds,
            decode_seconds=0.0,
            draws_nats=done.draws_nats,
            fit=_name(*(document.key for document in windows)),
            fit_token_steps=done.token_steps,
            fit_token_passes=done.token_passes,
        )

    def _facts(self, posteriors: Sequence[Posterior], *, on_text: bool) -> dict[str, Any]:
        """Return what is recorded of fits: sums of nats over posteriors, means of the rest."""
        mu, log_var = (torch.cat([getattr(p, name) for p in posteriors]) for name in ("mu", "log_var"))
        per_dimension = -0.5 * (1 + log_var - mu.square() - log_var.exp())
        traces = [
            [nats for nats in p.trace.objective_nats[:, 0].tolist() if not math.isnan(nats)] or [math.nan]
            for p in posteriors
        ]
        longest = max(map(len, traces))
        steps = [trace + trace[-1:] * (longest - len(trace)) for trace in traces]
        return {
            "condition": self.condition,
            "preset": self.fit.preset,
            "t_fast": longest - 1 if on_text else 0,
            "nll_nats": math.fsum(float(p.trace.nll_nats[-1, 0]) for p in posteriors) if on_text else None,
            "kl_nats": math.fsum(float(p.trace.kl_nats[-1, 0]) for p in posteriors) if on_text else None,
            "objective_nats": tuple(map(math.fsum, zip(*steps, strict=True))) if on_text else (),
            "kl_per_layer_nats": tuple(kl_per_layer_nats(mu, log_var).sum(0).tolist()),
            "mean_log_var_per_layer": tuple(log_var.flatten(2).mean((0, 2)).tolist()),
            "share_at_prior": float((per_dimension < AT_PRIOR_NATS).float().mean()),
        }


def token_record(  # noqa: PLR0913 - a text, its per-token NLL, and what they are of
    request: Instance,
    pieces: Pieces,
    part: Part,
    *,
    tokenizer: str,
    nats: float | None = None,
    draws: int = 0,
    kl_nats: float | None = None,
) -> TokenRecord:
    """Return per-token NLL as a line of the sidecar; `nats` is the sum, None that of the pieces."""
    return TokenRecord(
        **named(request),
        repeat=0,
        part=part,
        tokenizer=tokenizer,
        draws=draws,
        nats=math.fsum(pieces.nats) if nats is None else nats,
        kl_nats=kl_nats,
        piece_characters=pieces.characters,
        piece_nats=rounded(pieces.nats),
    )


def kl_steps(request: Instance, posteriors: Sequence[Posterior]) -> tuple[tuple[float, ...], ...]:
    """Return KL by fast step and layer, summed over posteriors of one length; of the first documents only."""
    kept = [p.trace.kl_layers_nats for p in posteriors if p.trace.kl_layers_nats is not None]
    if int(request.doc_id or 0) >= TRACED_DOCUMENTS or request.idx or len(kept) < len(posteriors):
        return ()
    if len({len(one) for one in kept}) != 1:
        return ()
    steps = torch.stack([one[:, 0].cpu().double() for one in kept]).sum(0).tolist()
    return tuple(tuple(float(f"{nats:.4g}") for nats in step) for step in steps)


def _name(*keys: bytes) -> str:
    """Return a short name of what was fitted."""
    return sha256(b"".join(keys)).hexdigest()[:16]


def named(request: Instance) -> dict[str, Any]:
    """Return which request a record is of."""
    return {
        "task": str(request.task_name),
        "doc_id": int(request.doc_id or 0),
        "idx": request.idx,
        "prompt_hash": digest(request.args[0]),
    }


LETTERS_PER_NEW_TOKEN = 4  # Cost of a new token in letters of the prompt, when work is shared among processes


@dataclass(frozen=True, kw_only=True)
class PlannedRequest(Request):
    """A request with what z is fitted on, and what is generated or scored."""

    index: int  # In its call
    context: Context
    slot: int = 0  # Which of the answer's texts it gets
    config: GenerationConfig = GenerationConfig()  # Of the continuation to generate
    continuation: tuple[int, ...] = ()  # Tokens to score

    @property
    def texts(self) -> int:
        """Number of texts in its answer."""
        return 2 * (self.config.rethink + 1) if self.config.rethink else 1

    @property
    def size(self) -> int:
        """Cost in letters, new tokens included."""
        generates = self.instance.request_type == "generate_until"
        return super().size + (LETTERS_PER_NEW_TOKEN * self.config.max_new_tokens * self.texts if generates else 0)


@dataclass(frozen=True)
class Fitted:
    """One distinct context with its posterior, ready to condition answers."""

    posterior: Posterior  # Of one row, on the CPU or the model's device
    fit_seconds: float  # Share of the batch's fitting time
    failure: str | None = None  # Why the fit cannot be used; its request gets no answer then

    @property
    def usable(self) -> Posterior:
        """Return the posterior, or one of zeros if the fit failed."""
        if self.failure is None:
            return self.posterior
        zeros = torch.zeros_like(self.posterior.mu)
        return replace(self.posterior, mu=zeros, log_var=zeros.clone())

    def z(self, noise: Tensor | None) -> Tensor:
        """Return mu, or mu + noise * sigma: (L, N, D); zeros if the fit failed, so that no NaN is computed with."""
        if self.failure is not None:
            return torch.zeros_like(self.posterior.mu[0])
        return self.posterior.mu[0] if noise is None else self.posterior.at(noise.to(self.posterior.mu.device))[0]


class Fits:
    """Fit one posterior for each distinct context of a call's requests."""

    def __init__(
        self,
        model: LatentThoughtModel,
        config: FitConfig,
        requests: Sequence[PlannedRequest],
        *,
        seed: int,
        limit: BatchLimit,
        sync: Callable[[], None],
    ) -> None:
        """Nothing is fitted yet.

        Args:
            requests: those of the call that share their context's time.
            seed: of the noise.
            limit: of contexts that are fitted together.
            sync: called before each batch: what the one before has answered must reach the disk.
        """
        self.model, self.config, self.seed = model, config, seed
        self.limit, self._sync = limit, sync
        self._last: dict[bytes, Fitted] = {}
        self.made: Counter[bytes] = Counter()  # fits by context that no record has told of yet
        self._sharing = Counter(request.context.key for request in requests)

    def seconds(self, request: PlannedRequest, fitted: Fitted) -> float:
        """Return a request's share of its fit's time."""
        return fitted.fit_seconds / max(1, self._sharing[request.context.key])

    def of(self, requests: Sequence[PlannedRequest]) -> Iterator[tuple[PlannedRequest, Fitted]]:
        """Yield every request with its context's posterior; requests of one context follow one another and share it.

        Contexts are fitted in batches, longest first, when the first request of a batch is asked for.
        """
        by_context: dict[bytes, list[PlannedRequest]] = defaultdict(list)
        for request in sorted(requests, key=lambda request: (-len(request.context.read), request.index)):
            by_context[request.context.key].append(request)
        sharing = sorted(by_context.values(), key=lambda own: _length(own[0].context))
        for batch in self.limit.batches(own[0].context.document for own in sharing):
            fitted = self._fit_contexts([sharing[place][0].context for place in batch])
            for place in batch:
                for request in sharing[place]:
                    yield request, fitted[request.context.key]

    def _fit_contexts(self, contexts: Sequence[Context]) -> dict[bytes, Fitted]:
        """Return the posteriors of distinct contexts; those of the batch before are kept, for another configuration."""
        kept = {context.key: self._last[context.key] for context in contexts if context.key in self._last}
        missing = [context for context in contexts if context.key not in kept]
        self._sync()  # what the batch before has answered
        begun = time.monotonic()
        fits = [context.document for context in missing if context.document is not None]
        rows: Iterator[Posterior] = iter(())
        if fits:
            posterior = fit_documents(self.model, fits, self.config, seed=self.seed)
            rows = map(posterior.row, range(len(fits)))
        self.made.update(context.key for context in missing if context.document is not None)
        finish(self.model.device)
        seconds = (time.monotonic() - begun) / max(1, len(missing))
        for context in missing:
            if context.document is None:
                kept[context.key] = Fitted(Posterior.prior(self.model), 0.0)
            else:
                own = next(rows)
                kept[context.key] = Fitted(own, seconds, why_unusable(own, tokens=context.fitted_tokens))
        self._last = kept
        return kept


def _length(context: Context) -> tuple[int, int, int, bytes]:
    """Return a sort key that puts the longest fit first and those of equal shape together."""
    windows, padded = context.document.shape if context.document else (0, 0)
    return -windows * padded, -padded, -len(context.read) - context.fitted_tokens, context.key


SCORE_DRAWS = 8  # Draws z ~ q averaged when a continuation is scored


def score(model: LatentThoughtModel, request: PlannedRequest, fitted: Fitted, *, seed: int) -> tuple[float, bool]:
    """Return log-mean-exp over draws of log p(continuation | context, z), and whether it is greedy under mu."""
    if fitted.failure is not None:
        return math.nan, False
    if not request.continuation:
        return 0.0, True
    wanted = torch.tensor(request.continuation, device=model.device)
    with torch.no_grad():
        log_probs = _log_probs(model, request.context.read, request.continuation)
        greedy = bool((log_probs(fitted.z(None)).argmax(-1) == wanted).all())
        stream = generator(seed, "score", request.context.key)
        shape = (1, *model.config.latent_shape)
        draws = [log_probs(fitted.z(standard_normal(stream, shape))) for _ in range(SCORE_DRAWS)]
        totals = torch.stack([draw.gather(1, wanted.unsqueeze(1)).double().sum() for draw in draws])
    return float(totals.logsumexp(0)) - math.log(SCORE_DRAWS), greedy


def token_nats(
    model: LatentThoughtModel, read: Sequence[int], continuation: Sequence[int], z: Tensor
) -> tuple[float, ...]:
    """Return -log p of each token of a continuation under one z (L, N, D); empty if it does not fit the context."""
    if not continuation or len(read) + len(continuation) - 1 > model.config.max_seq_len:
        return ()
    wanted = torch.tensor(continuation, device=model.device)
    with torch.no_grad():
        log_p = _log_probs(model, read, continuation)(z)
    return tuple((-log_p.gather(1, wanted.unsqueeze(1))).squeeze(1).double().tolist())


def _log_probs(
    model: LatentThoughtModel, read: Sequence[int], continuation: Sequence[int]
) -> Callable[[Tensor], Tensor]:
    """Return a function of z (L, N, D) to log-probabilities (T, V) at each position of the continuation."""
    tokens = torch.tensor([*read, *continuation[:-1]], device=model.device)
    length = min(model.config.max_seq_len, padded_length(len(tokens)))
    padded = torch.zeros(1, length, dtype=torch.long, device=model.device)
    padded[0, : len(tokens)] = tokens
    prelude, count = model.prelude(padded), len(continuation)

    def log_probs(z: Tensor) -> Tensor:
        states = model.hidden(prelude, z.unsqueeze(0)).states[0, len(tokens) - count : len(tokens)]
        rows = torch.zeros(padded_length(count), states.shape[1], device=states.device)
        rows[:count] = states
        return model.logits(rows)[:count].log_softmax(-1)

    return log_probs


class Generating:
    """Generate the answers of one call: samples side by side, rethinking in rounds."""

    def __init__(self, fits: Fits, encoding: Tokenizer, recorder: Recorder, *, batch_size: int) -> None:
        """Nothing is fitted or decoded yet.

        Args:
            fits: of all the requests' contexts.
            encoding: of the model.
            recorder: makes the sidecar's lines.
            batch_size: prompts decoded side by side.
        """
        self.fits, self.encoding, self.recorder, self.batch_size = fits, encoding, recorder, batch_size
        self.model, self.seed = fits.model, fits.seed

    def answered(self, requests: Sequence[PlannedRequest]) -> Iterator[tuple[PlannedRequest, Answer, int]]:
        """Yield every request with its answer and the number of new tokens, in the order in which they end."""
        together: dict[GenerationConfig, list[PlannedRequest]] = defaultdict(list)
        rethinking: dict[GenerationConfig, list[PlannedRequest]] = defaultdict(list)
        # greedy prompts decode beside samples of equal limits
        sampled = {
            (one.config.max_new_tokens, one.config.until): one.config
            for one in requests
            if one.config.do_sample and not one.config.rethink
        }
        for one in requests:
            config = one.config
            if config.rethink:
                rethinking[config].append(one)
            else:
                beside = sampled.get((config.max_new_tokens, config.until), config)
                together[config if config.do_sample else beside].append(one)
        for config, own in together.items():
            running: dict[int, tuple[PlannedRequest, Fitted]] = {}

            def prompts(
                own: Sequence[PlannedRequest] = own, running: dict[int, tuple[PlannedRequest, Fitted]] = running
            ) -> Iterator[Prompt]:
                for index, (request, fitted) in enumerate(self.fits.of(own)):
                    running[index] = request, fitted
                    yield self._prompt(request, fitted)

            for continuation in self._decode(prompts(), config, len(own)):
                request, fitted = running.pop(continuation.index)
                yield request, self._generated(request, fitted, continuation), len(continuation.tokens)
        for config, own in rethinking.items():
            for start in range(0, len(own), self.batch_size):
                yield from self._rethought(own[start : start + self.batch_size], config)

    def _decode(self, prompts: Iterable[Prompt], config: GenerationConfig, number: int) -> Iterator[Continuation]:
        """Decode any number of prompts, each place in the batch refilled as its continuation ends."""
        return generate(
            self.model,
            prompts,
            config,
            eot_id=self.encoding.eot_id,
            to_bytes=self.encoding.decode_bytes,
            batch_size=min(self.batch_size, number),
        )

    def _rethought(
        self, requests: Sequence[PlannedRequest], config: GenerationConfig
    ) -> Iterator[tuple[PlannedRequest, Answer, int]]:
        """Yield the answers of requests that rethink, in the order of `samples.Rethinking`.

        Candidates are recorded, choices among them are not.
        """
        fitted = {request.index: own for request, own in self.fits.of(requests)}
        questions = [
            Question(request.context.read, fitted[request.index].usable, request.context.key) for request in requests
        ]
        made = [self.fits.made.pop(request.context.key, 0) for request in requests]
        found = rethink(
            self.model,
            questions,
            self.fits.config,
            rounds=config.rethink,
            seed=self.seed,
            eot_id=self.encoding.eot_id,
            decode=lambda prompts: self._decode(prompts, config, len(prompts)),
        )
        for request, done, fits in zip(requests, found, made, strict=True):
            own = fitted[request.index]
            candidates = (*done.chain, *done.control)
            bearer = next((one for one in candidates if one.fast_steps), done.chain[0])
            slots = (done.best(done.chain), *done.chain, done.best(done.control), *done.control)
            chosen = (0, 1 + len(done.chain))
            records = [
                self.recorder.rethought(
                    request,
                    candidate,
                    repeat=repeat,
                    first=(fits, own.posterior) if candidate is bearer else None,
                )
                for repeat, candidate in enumerate(slots)
                if repeat not in chosen
            ]
            texts = [self._answer(one.continuation, config) for one in slots]
            answer = Answer({"texts": texts, "budget": asdict(done.budget)}, tuple(records), own.failure or "")
            yield request, answer, sum(len(one.continuation.tokens) for one in candidates)

    def _prompt(self, request: PlannedRequest, fitted: Fitted) -> Prompt:
        """Return what is decoded: greedy takes z = mu, sampling draws z and tokens by content and repeat."""
        read, repeat = request.context.read, request.repeat or 0
        if not request.config.do_sample:
            return Prompt(read, fitted.z(None), by_token=request.by_token)
        content = request.context.key + repr(read).encode()
        noise = standard_normal(generator(self.seed, "z", content, repeat), (1, *self.model.config.latent_shape))
        return Prompt(read, fitted.z(noise), generator(self.seed, "token", content, repeat), by_token=request.by_token)

    def _generated(self, request: PlannedRequest, fitted: Fitted, continuation: Continuation) -> Answer:
        """Return the answer of a request, without text if the fit or the decoder failed."""
        odd = "the decoder's logits are not finite" if continuation.stop_reason == "not_finite" else ""
        reason = fitted.failure or odd
        text = "" if reason else self._answer(continuation, request.config)
        self.fits.made.pop(request.context.key, None)
        tokens: list[TokenRecord] = []
        read, passes = request.context.read, len(request.context.read) + len(continuation.tokens)
        if request.by_token and not reason:
            each = self.encoding.bytes_each(continuation.tokens)
            pieces = pieces_of_bytes(each, continuation.token_nats).first(len(text))
            tokens.append(token_record(request.instance, pieces, ANSWER, tokenizer=self.encoding.name))
            ids = self.encoding.encode(request.reference)
            nats = token_nats(self.model, read, ids, fitted.z(None))  # of the data set's answer, under z = mu
            if nats:
                space = len(request.reference) - len(request.reference.lstrip())
                pieces = pieces_of_bytes(self.encoding.bytes_each(ids), nats).after(space)
                target = token_record(
                    request.instance, pieces, TARGET, tokenizer=self.encoding.name, nats=math.fsum(nats)
                )
                tokens.append(target)
                passes += len(read) + len(ids) - 1
        record = self.recorder.answered(
            request,
            fitted.posterior,
            continuation=continuation,
            seconds=(self.fits.seconds(request, fitted), continuation.seconds),
            passes=passes,
        )
        return Answer({"texts": [text], "budget": None}, (record,), reason, tuple(tokens))

    def _answer(self, continuation: Continuation, config: GenerationConfig) -> str:
        """Return the text of a continuation, cut before the first stop string."""
        text = self.encoding.decode(continuation.tokens)
        return str(postprocess_generated_text(text, list(config.until), None))
