"""Continuations of a model's requests: decoded under their fits, samples side by side, rethinking in rounds."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from lm_eval.models.utils import postprocess_generated_text

from ltm_eval.decode import Continuation, Prompt, generate
from ltm_eval.jobs import GenerationJob, Unit, decoded_together
from ltm_eval.noise import generator, standard_normal
from ltm_eval.records import answer_tokens, target_tokens
from ltm_eval.rethink import Question, Rethought, rethink
from ltm_eval.scoring import token_nats
from ltm_eval.worklist import Answer, reference_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ltm_eval.config import GenerationConfig
    from ltm_eval.fits import Fits, Fitted
    from ltm_eval.records import Recorder
    from ltm_eval.token_record import TokenRecord
    from ltm_eval.tokenizer import Tokenizer


class Generating:
    """Answers the units of one call."""

    def __init__(self, fits: Fits, encoding: Tokenizer, recorder: Recorder, *, batch_size: int) -> None:
        """Nothing is fitted or decoded yet.

        Args:
            fits: of all the units' contexts.
            encoding: of the model.
            recorder: makes the sidecar's lines.
            batch_size: prompts decoded side by side.
        """
        self.fits, self.encoding, self.recorder, self.batch_size = fits, encoding, recorder, batch_size
        self.model, self.seed = fits.model, fits.seed

    def answered(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Answer, int]]:
        """Every unit with its answer and the number of new tokens, in the order in which they end."""
        plain = {unit.jobs[0].index: unit for unit in units if not unit.rethinks}
        for config, group in decoded_together([unit.jobs[0] for unit in plain.values()]):
            held: dict[int, tuple[GenerationJob, Fitted]] = {}
            for continuation in self._decode(self._prompts(group, held), config, len(group)):
                job, fitted = held.pop(continuation.index)
                yield plain[job.index], self._generated(job, fitted, continuation), len(continuation.tokens)
        yield from self._rethought([unit for unit in units if unit.rethinks])

    def _prompts(
        self, jobs: Sequence[GenerationJob], held: dict[int, tuple[GenerationJob, Fitted]]
    ) -> Iterator[Prompt]:
        """What is decoded for each job, made when its turn comes; `held` gets job and posterior by position."""
        for place, (job, fitted) in enumerate(self.fits.of(jobs)):
            held[place] = (job, fitted)
            yield self._prompt(job, fitted)

    def _decode(self, prompts: Iterable[Prompt], config: GenerationConfig, number: int) -> Iterator[Continuation]:
        """Continuations of any number of prompts, each place refilled as its continuation ends."""
        return generate(
            self.model,
            prompts,
            config,
            eot_id=self.encoding.eot_id,
            to_bytes=self.encoding.decode_bytes,
            batch_size=min(self.batch_size, number),
        )

    def _rethought(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Answer, int]]:
        """The answers of rethinking requests, `batch_size` questions at a time."""
        for config in dict.fromkeys(unit.jobs[0].config for unit in units):
            own = [unit for unit in units if unit.jobs[0].config == config]
            for start in range(0, len(own), self.batch_size):
                part = own[start : start + self.batch_size]
                found, failed = self._rethink_batch([one.jobs[0] for one in part], config)
                for unit, done, reason in zip(part, found, failed, strict=True):
                    candidates = (*done.chain, *done.control)
                    answer = replace(self._slots(unit, done), failed=reason)
                    yield unit, answer, sum(len(one.continuation.tokens) for one in candidates)

    def _rethink_batch(
        self, jobs: Sequence[GenerationJob], config: GenerationConfig
    ) -> tuple[list[Rethought], list[str]]:
        """Chain and control of a batch of questions, and why the fit of each cannot be used."""
        fitted = {job.index: own for job, own in self.fits.of(jobs)}
        failed = [fitted[job.index].failure or "" for job in jobs]
        questions = [Question(job.context.read, fitted[job.index].usable, fitted[job.index].key) for job in jobs]
        found = rethink(
            self.model,
            questions,
            self.fits.config,
            rounds=config.rethink,
            seed=self.seed,
            eot_id=self.encoding.eot_id,
            decode=lambda prompts: self._decode(prompts, config, len(prompts)),
        )
        return found, failed

    def _slots(self, unit: Unit, done: Rethought) -> Answer:
        """The request's answers in the order of `repeats.Rethinking`; the candidates, not the choices, are recorded."""
        slots = [(done.best(done.chain), False), *((one, True) for one in done.chain)]
        slots += [(done.best(done.control), False), *((one, True) for one in done.control)]
        pairs = list(zip(unit.jobs, slots, strict=True))
        records = [
            self.recorder.rethought(job.request, job.context, candidate, repeat=job.repeat)
            for job, (candidate, own) in pairs
            if own
        ]
        texts = [self._answer(candidate.continuation, job.config) for job, (candidate, _) in pairs]
        value = {"texts": texts, "budget": asdict(done.budget)}
        return Answer(value, tuple(record.to_json() for record in records))

    def _prompt(self, job: GenerationJob, fitted: Fitted) -> Prompt:
        """Greedy takes z = mu; sampling draws z and tokens from streams of the prompt's own content and repeat."""
        if not job.config.do_sample:
            return Prompt(job.context.read, fitted.z(None), by_token=job.by_token)
        content = fitted.key + repr(job.context.read).encode()
        noise = standard_normal(generator(self.seed, "z", content, job.repeat), (1, *self.model.config.latent_shape))
        stream = generator(self.seed, "token", content, job.repeat)
        return Prompt(job.context.read, fitted.z(noise), stream, by_token=job.by_token)

    def _generated(self, job: GenerationJob, fitted: Fitted, continuation: Continuation) -> Answer:
        """The answer of a request; no text where the fit or the decoder failed."""
        odd = "the decoder's logits are not finite" if continuation.stop_reason == "not_finite" else ""
        reason = fitted.failure or odd
        text = "" if reason else self._answer(continuation, job.config)
        seconds = self.fits.seconds(job, fitted)
        record = self.recorder.answered(
            job.request,
            job.context,
            fitted.posterior,
            repeat=job.repeat,
            continuation=continuation,
            seconds=(seconds, continuation.seconds),
        )
        kept = self._tokens(job, fitted, continuation, text) if job.by_token and not reason else []
        tokens = tuple(one.to_json() for one in kept)
        return Answer({"texts": [text], "budget": None}, (record.to_json(),), reason, tokens)

    def _tokens(self, job: GenerationJob, fitted: Fitted, continuation: Continuation, text: str) -> list[TokenRecord]:
        """What the tokens of the answer cost, and of the data set's answer under z = mu."""
        own = answer_tokens(job.request, continuation, self.encoding, text=text)
        ids = self.encoding.encode(reference_of(job.request))
        nats = token_nats(self.model, job.context.read, ids, fitted.z(None))
        target = target_tokens(job.request, ids, nats, self.encoding)
        return [own] if target is None else [own, target]

    def _answer(self, continuation: Continuation, config: GenerationConfig) -> str:
        """Text of a continuation, cut before the first stop string."""
        text = self.encoding.decode(continuation.tokens)
        return str(postprocess_generated_text(text, list(config.until), None))
