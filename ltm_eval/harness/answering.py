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
from ltm_eval.inference.draws import RollingScore
from ltm_eval.inference.options import GenerationConfig
from ltm_eval.inference.posterior import fit_documents, why_unusable
from ltm_eval.inference.rethink import RANKING_DRAWS, Question, Rethought, rethink
from ltm_eval.inference.windows import Posterior, generator, padded_length, standard_normal
from ltm_eval.model.elbo import kl_per_layer_nats
from ltm_eval.model.tokenizer import END_OF_TEXT, Tokenizer
from ltm_eval.results.files import ANSWER, TARGET, TEXT, LatentRecord, Part, TokenRecord, rounded
from ltm_eval.results.tokens import Pieces, pieces_of_bytes
from ltm_eval.runs.worklist import Answer, Item, item_of, reference_of
from ltm_eval.system.device import finish
from ltm_eval.system.files import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lm_eval.api.instance import Instance

    from ltm_eval.harness.context import Context
    from ltm_eval.inference.batching import BatchLimit
    from ltm_eval.inference.bounds import TextScore
    from ltm_eval.inference.options import FitConfig
    from ltm_eval.inference.rethink import Candidate
    from ltm_eval.inference.windows import Document
    from ltm_eval.model.decoder import LatentThoughtModel


AT_PRIOR_NATS = 0.01  # A latent dimension with less KL than this counts as back at the prior

TRACED_DOCUMENTS = 32  # Documents of a task, by index, whose KL is kept for every step and layer


@dataclass(frozen=True)
class Recorder:
    """Make the sidecar lines of one model."""

    condition: str  # What z is fitted on
    fit: FitConfig  # Of the fast loop

    def answered(  # noqa: PLR0913 - the record of an answer
        self,
        request: Instance,
        context: Context,
        posterior: Posterior,
        *,
        repeat: int,
        continuation: Continuation | None,
        seconds: tuple[float, float],
        passes: int,
    ) -> LatentRecord:
        """Return the line of a continuation; `seconds` are of fitting and decoding, `passes` of its tokens."""
        return LatentRecord(
            **named(request),
            **self._facts((posterior,), on_text=context.document is not None),
            kl_steps_nats=kl_steps(request, (posterior,)) if context.document and not repeat else (),
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
            fit=_name(context.document.key) if context.document else "",
            fit_token_steps=self.fit.draws * _steps_taken(posterior) * context.fitted_tokens,
            fit_token_passes=self.fit.draws * context.fitted_tokens,
            answer_token_passes=passes,
        )

    def rethought(
        self,
        request: Instance,
        context: Context,
        candidate: Candidate,
        *,
        repeat: int,
        first: tuple[int, Posterior] | None,
    ) -> LatentRecord:
        """Return the line of a candidate of rethinking or of its control, whose fit is that of its own trace.

        Args:
            first: the prompt's own posterior, and how many of its fits count with this candidate; None if none does.
        """
        trace = candidate.continuation
        fitted = candidate.fast_steps > 0
        base = self.answered(
            request,
            context,
            candidate.posterior,
            repeat=repeat,
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
            fitted_tokens=candidate.fitted_tokens,
            fit_token_steps=candidate.fast_steps * self.fit.draws * explained
            + (again * _steps_taken(first[1]) if first is not None else 0),
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


def _steps_taken(posterior: Posterior) -> int:
    """Return the fast steps of a posterior of one row; a shorter fit of a batch has rows of NaN in its trace."""
    return max(0, int((~posterior.trace.nll_nats[:, 0].isnan()).sum()) - 1)


def text_tokens(request: Instance, done: TextScore, tokenizer: Tokenizer, *, draws: int) -> TokenRecord | None:
    """Return the per-token NLL of a whole text given z; None if it was not kept."""
    text = request.args[0]
    ids = tokenizer.encode(text, end_of_text=True)
    if not isinstance(done.score, RollingScore) or len(ids) != len(done.token_nats):
        return None
    pieces = pieces_of_bytes(tokenizer.bytes_each(ids, end_of_text=END_OF_TEXT.encode()), done.token_nats)
    rows = done.score.rows
    return token_record(
        request, pieces, TEXT, tokenizer=tokenizer.name, draws=draws, nats=rows["nll_given_z"], kl_nats=rows["kl"]
    )


def answer_tokens(request: Instance, continuation: Continuation, tokenizer: Tokenizer, *, text: str) -> TokenRecord:
    """Return the per-token NLL of an answer when it was generated, up to the end of `text` before a stop string."""
    pieces = pieces_of_bytes(tokenizer.bytes_each(continuation.tokens), continuation.token_nats).first(len(text))
    return token_record(request, pieces, ANSWER, tokenizer=tokenizer.name, nats=math.fsum(pieces.nats))


def target_tokens(
    request: Instance, ids: Sequence[int], nats: Sequence[float], tokenizer: Tokenizer
) -> TokenRecord | None:
    """Return the per-token NLL of the data set's answer after the prompt; None if it was not scored."""
    if not nats:
        return None
    reference = reference_of(request)
    pieces = pieces_of_bytes(tokenizer.bytes_each(ids), nats).after(len(reference) - len(reference.lstrip()))
    return token_record(request, pieces, TARGET, tokenizer=tokenizer.name, nats=math.fsum(nats))


def token_record(  # noqa: PLR0913 - a text, its per-token NLL, and what they are of
    request: Instance,
    pieces: Pieces,
    part: Part,
    *,
    tokenizer: str,
    nats: float,
    draws: int = 0,
    kl_nats: float | None = None,
) -> TokenRecord:
    """Return per-token NLL as a line of the sidecar; `nats` is the sum."""
    return TokenRecord(
        **named(request),
        repeat=0,
        part=part,
        tokenizer=tokenizer,
        draws=draws,
        nats=nats,
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


@dataclass(frozen=True)
class Request:
    """One repeat of lm-eval's instance, with what z is fitted on and how it is continued or scored."""

    index: int  # In its call
    instance: Instance
    repeat: int
    context: Context
    config: GenerationConfig = GenerationConfig()  # Of the continuation to generate
    continuation: tuple[int, ...] = ()  # Tokens to score
    by_token: bool = False  # Whether the per-token NLL is kept


def answered_together(requests: Sequence[Request]) -> list[list[Request]]:
    """Group requests that share an answer: all repeats of an instance that rethinks, else each by itself."""
    together: dict[tuple[int, int], list[Request]] = defaultdict(list)
    for request in requests:
        together[id(request.instance), 0 if request.config.rethink else request.repeat].append(request)
    return list(together.values())


def generation_item(requests: Sequence[Request]) -> Item:
    """Return the worklist's item of requests that are answered together."""
    first = requests[0]
    item = item_of(first.instance, repeat=None if first.config.rethink else first.repeat, by_token=first.by_token)
    return replace(item, size=item.size + LETTERS_PER_NEW_TOKEN * first.config.max_new_tokens * len(requests))


def decoded_together(requests: Sequence[Request]) -> list[tuple[GenerationConfig, list[Request]]]:
    """Group requests that can be decoded together: of one configuration, or greedy and samples of equal limits."""
    limits = {
        (request.config.max_new_tokens, request.config.until): request.config
        for request in requests
        if request.config.do_sample
    }
    groups: dict[GenerationConfig, list[Request]] = defaultdict(list)
    for request in requests:
        own = request.config
        groups[own if own.do_sample else limits.get((own.max_new_tokens, own.until), own)].append(request)
    return list(groups.items())


def key_of(context: Context) -> bytes:
    """Return a name of what z is fitted on."""
    return context.document.key if context.document else b"prior"


@dataclass(frozen=True)
class Fitted:
    """One distinct context with its posterior, ready to condition answers."""

    posterior: Posterior  # Of one row, on the CPU or the model's device
    key: bytes  # Names the fitted text
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
        requests: Sequence[Request],
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
        self._sharing = Counter(key_of(request.context) for request in requests)

    def seconds(self, request: Request, fitted: Fitted) -> float:
        """Return a request's share of its fit's time."""
        return fitted.fit_seconds / max(1, self._sharing[key_of(request.context)])

    def of(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Fitted]]:
        """Yield every request with its context's posterior; requests of one context follow one another and share it.

        Contexts are fitted in batches, longest first, when the first request of a batch is asked for.
        """
        sharing = _by_context(requests)
        for batch in self.limit.batches(own[0].context.document for own in sharing):
            fitted = self._fit_contexts([sharing[place][0].context for place in batch])
            for place in batch:
                for request in sharing[place]:
                    yield request, fitted[key_of(request.context)]

    def _fit_contexts(self, contexts: Iterable[Context]) -> dict[bytes, Fitted]:
        """Return one posterior per distinct context; those of the batch before are kept, for another configuration."""
        distinct = {key_of(context): context for context in contexts}
        kept = {key: fitted for key, fitted in self._last.items() if key in distinct}
        missing = {key: context for key, context in distinct.items() if key not in kept}
        self._sync()  # what the batch before has answered
        begun = time.monotonic()
        fits = [context.document for context in missing.values() if context.document is not None]
        posterior = fit_documents(self.model, fits, self.config, seed=self.seed) if fits else None
        self.made.update(key for key, context in missing.items() if context.document is not None)
        finish(self.model.device)
        seconds = (time.monotonic() - begun) / max(1, len(missing))
        row = 0
        for key, context in missing.items():
            if context.document is None or posterior is None:
                kept[key] = Fitted(Posterior.prior(self.model), key, 0.0)
                continue
            own = posterior.row(row)
            kept[key] = Fitted(own, key, seconds, why_unusable(own, tokens=context.fitted_tokens))
            row += 1
        self._last = kept
        return kept


def _by_context(requests: Sequence[Request]) -> list[list[Request]]:
    """Group requests by context: the longest fit first, those of equal shape one after another."""
    sharing: dict[bytes, list[Request]] = defaultdict(list)
    for request in sorted(requests, key=lambda request: (-len(request.context.read), request.index)):
        sharing[key_of(request.context)].append(request)
    return sorted(sharing.values(), key=_length)


def _length(requests: Sequence[Request]) -> tuple[int, int, int, bytes]:
    """Return a sort key that puts what takes longest first."""
    context = requests[0].context
    windows, padded = context.document.shape if context.document else (0, 0)
    return -windows * padded, -padded, -len(context.read) - context.fitted_tokens, key_of(context)


SCORE_DRAWS = 8  # Draws z ~ q averaged when a continuation is scored


def score(model: LatentThoughtModel, request: Request, fitted: Fitted, *, seed: int) -> tuple[float, bool]:
    """Return log-mean-exp over draws of log p(continuation | context, z), and whether it is greedy under mu."""
    if fitted.failure is not None:
        return math.nan, False
    if not request.continuation:
        return 0.0, True
    wanted = torch.tensor(request.continuation, device=model.device)
    with torch.no_grad():
        log_probs = _log_probs(model, request.context.read, request.continuation)
        greedy = bool((log_probs(fitted.z(None)).argmax(-1) == wanted).all())
        stream = generator(seed, "score", fitted.key)
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

    def answered(self, groups: Mapping[int, Sequence[Request]]) -> Iterator[tuple[int, Answer, int]]:
        """Yield the key of every group with its answer and the number of new tokens, in the order in which they end."""
        plain = {group[0].index: key for key, group in groups.items() if not group[0].config.rethink}
        firsts = [group[0] for group in groups.values() if not group[0].config.rethink]
        for config, together in decoded_together(firsts):
            running: dict[int, tuple[Request, Fitted]] = {}

            def prompts(
                requests: Sequence[Request] = together, running: dict[int, tuple[Request, Fitted]] = running
            ) -> Iterator[Prompt]:
                for index, (request, fitted) in enumerate(self.fits.of(requests)):
                    running[index] = request, fitted
                    yield self._prompt(request, fitted)

            for continuation in self._decode(prompts(), config, len(together)):
                request, fitted = running.pop(continuation.index)
                answer = self._generated(request, fitted, continuation)
                yield plain[request.index], answer, len(continuation.tokens)
        yield from self._rethought({key: group for key, group in groups.items() if group[0].config.rethink})

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

    def _rethought(self, groups: Mapping[int, Sequence[Request]]) -> Iterator[tuple[int, Answer, int]]:
        """Yield the answers of requests that rethink, `batch_size` questions at a time."""
        for config in dict.fromkeys(group[0].config for group in groups.values()):
            own = [(key, group) for key, group in groups.items() if group[0].config == config]
            for start in range(0, len(own), self.batch_size):
                part = own[start : start + self.batch_size]
                found, failed, firsts = self._rethink_batch([group[0] for _, group in part], config)
                for (key, group), done, reason, first in zip(part, found, failed, firsts, strict=True):
                    candidates = (*done.chain, *done.control)
                    answer = replace(self._slots(group, done, first), failed=reason)
                    yield key, answer, sum(len(one.continuation.tokens) for one in candidates)

    def _rethink_batch(
        self, requests: Sequence[Request], config: GenerationConfig
    ) -> tuple[list[Rethought], list[str], list[tuple[int, Posterior]]]:
        """Return chain and control of each question, why its fit cannot be used, and its fits not counted yet."""
        fitted = {request.index: own for request, own in self.fits.of(requests)}
        failed = [fitted[request.index].failure or "" for request in requests]
        questions = [
            Question(request.context.read, fitted[request.index].usable, fitted[request.index].key)
            for request in requests
        ]
        firsts = [fitted[request.index].posterior for request in requests]
        made = [self.fits.made.pop(key_of(request.context), 0) for request in requests]
        found = rethink(
            self.model,
            questions,
            self.fits.config,
            rounds=config.rethink,
            seed=self.seed,
            eot_id=self.encoding.eot_id,
            decode=lambda prompts: self._decode(prompts, config, len(prompts)),
        )
        return found, failed, list(zip(made, firsts, strict=True))

    def _slots(self, group: Sequence[Request], done: Rethought, first: tuple[int, Posterior]) -> Answer:
        """Return a request's answers in the order of `samples.Rethinking`; candidates are recorded, choices are not."""
        slots = [(done.best(done.chain), False), *((one, True) for one in done.chain)]
        slots += [(done.best(done.control), False), *((one, True) for one in done.control)]
        pairs = list(zip(group, slots, strict=True))
        bearer = next((one for one in (*done.chain, *done.control) if one.fast_steps), done.chain[0])
        records = [
            self.recorder.rethought(
                request.instance,
                request.context,
                candidate,
                repeat=request.repeat,
                first=first if candidate is bearer else None,
            )
            for request, (candidate, own) in pairs
            if own
        ]
        texts = [self._answer(candidate.continuation, request.config) for request, (candidate, _) in pairs]
        value = {"texts": texts, "budget": asdict(done.budget)}
        return Answer(value, tuple(records))

    def _prompt(self, request: Request, fitted: Fitted) -> Prompt:
        """Return what is decoded: greedy takes z = mu, sampling draws z and tokens by content and repeat."""
        if not request.config.do_sample:
            return Prompt(request.context.read, fitted.z(None), by_token=request.by_token)
        content = fitted.key + repr(request.context.read).encode()
        noise = standard_normal(
            generator(self.seed, "z", content, request.repeat), (1, *self.model.config.latent_shape)
        )
        stream = generator(self.seed, "token", content, request.repeat)
        return Prompt(request.context.read, fitted.z(noise), stream, by_token=request.by_token)

    def _generated(self, request: Request, fitted: Fitted, continuation: Continuation) -> Answer:
        """Return the answer of a request, without text if the fit or the decoder failed."""
        odd = "the decoder's logits are not finite" if continuation.stop_reason == "not_finite" else ""
        reason = fitted.failure or odd
        text = "" if reason else self._answer(continuation, request.config)
        seconds = self.fits.seconds(request, fitted)
        self.fits.made.pop(key_of(request.context), None)
        tokens = self._tokens(request, fitted, continuation, text) if request.by_token and not reason else []
        read = len(request.context.read)
        target = len(self.encoding.encode(reference_of(request.instance))) if len(tokens) > 1 else 0
        record = self.recorder.answered(
            request.instance,
            request.context,
            fitted.posterior,
            repeat=request.repeat,
            continuation=continuation,
            seconds=(seconds, continuation.seconds),
            passes=read + len(continuation.tokens) + (read + target - 1 if target else 0),
        )
        return Answer({"texts": [text], "budget": None}, (record,), reason, tuple(tokens))

    def _tokens(self, request: Request, fitted: Fitted, continuation: Continuation, text: str) -> list[TokenRecord]:
        """Return the per-token NLL of the answer, and of the data set's answer under z = mu."""
        own = answer_tokens(request.instance, continuation, self.encoding, text=text)
        ids = self.encoding.encode(reference_of(request.instance))
        nats = token_nats(self.model, request.context.read, ids, fitted.z(None))
        target = target_tokens(request.instance, ids, nats, self.encoding)
        return [own] if target is None else [own, target]

    def _answer(self, continuation: Continuation, config: GenerationConfig) -> str:
        """Return the text of a continuation, cut before the first stop string."""
        text = self.encoding.decode(continuation.tokens)
        return str(postprocess_generated_text(text, list(config.until), None))
