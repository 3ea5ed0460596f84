"""The adapter through which lm-eval drives a Latent Thought Model.

Written against lm-eval 0.4.13's abstract class. Requests are shared out inside these methods, never by lm-eval (its
own splitting changes few-shot prompts with the number of ranks), so `rank` is always 0 of 1.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import simple_parse_args_string
from torch import Tensor

import ltm_eval
from ltm_eval import arguments, failpoints
from ltm_eval.arguments import (
    batch_size_or_auto,
    generation_config,
    host_arguments,
    number_or_none,
    resolve_device,
    resolve_dtype,
    steps_or_auto,
    whole,
)
from ltm_eval.checkpoint import load_with_tokenizer
from ltm_eval.compiling import compile_layers
from ltm_eval.config import CONDITIONS, DTYPES, GenerationConfig, RunConfig, check_choice, fit_changes, fit_config
from ltm_eval.context import Context, Windows, plan
from ltm_eval.decode import CPU_LANES, Continuation, Prompt, generate
from ltm_eval.distributed import join
from ltm_eval.errors import DataError, IncompleteError, LtmEvalError, UsageError, leave, leaving
from ltm_eval.failures import Failure, listed, why_unusable
from ltm_eval.latent_record import LatentRecord
from ltm_eval.model import LatentThoughtModel
from ltm_eval.perplexity import RollingScore
from ltm_eval.posterior import (
    Document,
    Posterior,
    Window,
    fit_documents,
    fit_together,
    generator,
    padded_length,
    standard_normal,
)
from ltm_eval.progress import Progress, silent, tqdm_bar
from ltm_eval.records import Recorder, answer_tokens, named, text_tokens
from ltm_eval.rethink import Budget, Question, Rethought, rethink
from ltm_eval.rolling import ALL_ROWS, TextScore, row_options, score_texts, windows_of
from ltm_eval.token_record import TokenRecord
from ltm_eval.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer
from ltm_eval.weights import weights_sha256
from ltm_eval.worklist import Answer, Item, Worklist, first_documents, item_of, numbered, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from lm_eval.api.instance import Instance

log = logging.getLogger(__name__)

SCORE_DRAWS = 8
"""Draws z ~ q averaged when a continuation is scored."""
MAX_BATCH = 64
LETTERS_PER_NEW_TOKEN = 4
"""What a new token costs beside a letter of the prompt, where work is shared out."""
KEPT_UNDER = (
    *(
        "model_sha",
        "model_dtype",
        "compiled",
        "sizes",
        "fit",
        "rows",
        "condition",
        "fit_window",
        "latent_seed",
        "tokenizer",
    ),
    "versions",
)
"""Of `get_model_info`, what changes an answer."""


@dataclass(frozen=True)
class Fitted:
    """One distinct context with its posterior, ready to condition answers."""

    posterior: Posterior
    """Of one row, on the CPU or the model's device."""
    key: bytes
    """Names the fitted text."""
    fit_seconds: float
    """Share of the batch's fitting time."""
    failure: str | None = None
    """Why the fit cannot be used; its request gets no answer then."""

    @property
    def usable(self) -> Posterior:
        """The posterior, or one of zeros where the fit failed."""
        if self.failure is None:
            return self.posterior
        zeros = torch.zeros_like(self.posterior.mu)
        return replace(self.posterior, mu=zeros, log_var=zeros.clone())

    def z(self, noise: Tensor | None) -> Tensor:
        """mu, or mu + noise * sigma: (L, N, D); zeros where the fit failed, so that nothing is computed with NaN."""
        if self.failure is not None:
            return torch.zeros_like(self.posterior.mu[0])
        return self.posterior.mu[0] if noise is None else self.posterior.at(noise.to(self.posterior.mu.device))[0]


class LTM(TemplateLM):
    """`--model ltm`: fits z per context, then scores or generates."""

    def __init__(  # noqa: PLR0913 - the signature is what --model_args may hold
        self,
        pretrained: Any = "demo",
        *,
        t_fast: Any = None,
        preset: str = "bound",
        condition: str = "prompt",
        lr: Any = None,
        fit_window: Any = None,
        rethink: Any = None,
        rows: str = ALL_ROWS,
        causal_chunk: Any = None,
        causal_t_fast: Any = None,
        dtype: str = "auto",
        compile: Any = False,  # noqa: A002 - the name users know
        fit: Any = None,
        seed: Any = 1234,
        tokenizer: str | None = None,
        revision: str | None = None,
        batch_size: Any = "auto",
        max_batch_size: Any = None,
        device: str | None = None,
    ) -> None:
        """Load a checkpoint.

        Args:
            pretrained: folder, released `ckpt_*.pt`, hub id or `demo`; a loaded model is welcome with `tokenizer`
            given.
            t_fast: fast steps; `auto` ends each fit once it gains no more, None takes the preset's.
            preset: `released`, `published` or `bound`.
            condition: `prompt`, `demos`, `demos+prompt`, `shuffled`, `other` or `prior`.
            fit_window: most tokens of one fitted window of demonstrations, or `each` for a window of its own for each;
                None takes the model's context.
            rethink: rounds of rethinking beside the task's answers; read by tasks of this package, which ask for them.
            lr: learning rate of the fast loop; None takes the preset's.
            rows: of a perplexity, beside the bound and its parts: `all`, `bound`, or as_released, iwae, prior, causal
                joined by `+`.
            causal_chunk: tokens the causal row scores between two refits of z; None takes `RunConfig`'s.
            causal_t_fast: fast steps of each of its refits; None takes `RunConfig`'s.
            dtype: of matrix products: `float32`, `bfloat16` or `auto`.
            compile: whether to compile the layers; without a compiler they run as they are.
            fit: changes to the preset: a mapping or a JSON object, as `config.fit_changes` takes it.
            seed: of latent noise and token draws.
            tokenizer: `gpt2` or a file of mergeable ranks; None takes the checkpoint's.
            revision: commit of a hub id.
            batch_size: documents in a batch, or `auto`.
            max_batch_size: upper end for `auto`.
            device: as torch names it; None or `auto` picks the best there is.

        Raises:
            LtmEvalError: an argument or the checkpoint cannot be used.
        """
        super().__init__()
        check_choice("condition", condition, CONDITIONS)
        check_choice("dtype", dtype, DTYPES)
        for name, value in (("rows", rows), ("tokenizer", tokenizer), ("revision", revision)):
            arguments.text(name, value)
        self.condition, self.seed = condition, whole("seed", seed, 1234)
        self.fit_window = arguments.fit_window(fit_window)
        self.rethink = whole("rethink", rethink, 0)
        changes = {"lr": number_or_none("lr", lr), **fit_changes(fit)}
        self.fit_config = fit_config(preset, t_fast=steps_or_auto(t_fast), **changes)
        self.rows = row_options(
            rows,
            causal_chunk=whole("causal_chunk", causal_chunk, RunConfig.causal_chunk),
            causal_t_fast=whole("causal_t_fast", causal_t_fast, RunConfig.causal_t_fast),
        )
        self._device = resolve_device(device)
        self.model, self.encoding = _model_and_tokenizer(pretrained, tokenizer, revision, self._device)
        self.dtype = resolve_dtype(dtype, self._device)
        self.model.set_matmul_dtype(self.dtype)
        self.compiled = arguments.yes(compile or False, "compile")
        if self.compiled:
            compile_layers(self.model)
        self._batch_size = batch_size_or_auto(batch_size)
        self._max_batch_size = whole("max_batch_size", max_batch_size, MAX_BATCH)
        self.batch_sizes: dict[str, int] = {}
        self.records: list[LatentRecord] = []
        self._last: dict[bytes, Fitted] = {}
        self.budget = Budget()
        self.failures: list[Failure] = []
        self.keeps_failures = False
        self.progress: Callable[[int, str], Progress] = tqdm_bar
        self.worklist = Worklist()
        self.token_nll = 0
        """Of so many first documents of a task, what each token costs is kept in `token_records`."""
        self.token_records: list[TokenRecord] = []

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> LTM:
        """As lm-eval's command calls it: arguments checked by name, errors end in one line."""
        try:
            known = [name for name in inspect.signature(cls).parameters if name != "self"]
            job = join()
            lm = cls(**host_arguments(known, arg_dict, additional_config or {}))
            job.agree(lm.settings if job.world > 1 else {})
            lm.worklist = Worklist(job=job)
            lm.progress = tqdm_bar if job.leads else silent
            return lm
        except LtmEvalError as error:
            leave(error)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> LTM:
        """As lm-eval's Python interface calls it."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # What lm-eval asks of a model ------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """End-of-text, which also stands in front of a text."""
        return self.encoding.eot_id

    @property
    def max_length(self) -> int:
        """Tokens of the context."""
        return self.model.config.max_seq_len

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's request cache."""
        return f"{self.encoding.name}-{self.encoding.digest[:12]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, no special tokens."""
        return self.encoding.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A base model has none."""
        leave(UsageError("a Latent Thought Model has no chat template; leave --apply_chat_template out"))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """A base model has none."""
        if chat_template:
            leave(UsageError("a Latent Thought Model has no chat template; leave --apply_chat_template out"))
        return None

    def set_cache_hook(self, cache_hook: Any) -> None:
        """lm-eval's response cache does not know which model answered, so it is refused."""
        if getattr(cache_hook, "dbdict", None) is not None:
            leave(
                UsageError(
                    "--use_cache is refused: lm-eval's cache is not keyed by the model and would return another's "
                    "answers; leave it out"
                )
            )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """What the results file says of the model and the fit."""
        info = self.model.info
        config = self.model.config
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "model_dtype": str(self.dtype),
            "compiled": self.compiled,
            "model_sha": info.weights_sha256 if info else "",
            "model_revision": (info.revision if info else None) or "",
            "checkpoint": asdict(info) if info else {},
            "sizes": asdict(config),
            "fit": asdict(self.fit_config),
            "rows": asdict(self.rows),
            "condition": self.condition,
            "fit_window": self.fit_window,
            "rethink": self.rethink,
            "latent_seed": self.seed,
            "tokenizer": {"name": self.encoding.name, "sha256": self.encoding.digest},
            "versions": {"ltm_eval": ltm_eval.__version__, "torch": torch.__version__},
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes an answer and is not part of a request; finished answers are kept under it."""
        info = self.get_model_info()
        if not info["model_sha"]:
            info["model_sha"] = weights_sha256(
                {name: one.detach().cpu() for name, one in self.model.named_parameters()}
            )
        return {"model": "ltm", **{name: info[name] for name in KEPT_UNDER}, "device": self.model.device.type}

    @leaving
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One continuation per request; a request that occurs K times gets K draws of z and tokens.

        A request whose options say `rethink` K occurs 2 (K + 1) times and gets the answers that
        `repeats.Rethinking` lists.
        """
        wanted = first_documents(requests, self.token_nll)
        jobs = [self._generation_job(i, request, wanted) for i, request in enumerate(numbered(requests))]
        self._check_rethinking(jobs)
        units = _units(jobs)
        work = self.worklist.open("generate_until", [unit.item for unit in units])
        left = [units[place] for place in work.todo]
        self._begin([job for unit in left for job in unit.jobs])
        bar = self.progress(sum(len(unit.jobs) for unit in left), "generating")
        for unit, answer, tokens in self._answered(left):
            work.done(unit.place, answer)
            bar.advance(len(unit.jobs), tokens)
        bar.close()
        answers = [""] * len(jobs)
        for unit, answer in zip(units, work.close(), strict=True):
            self._keep(unit.jobs[0].request, answer)
            self.budget = self.budget + Budget.from_json(answer.value["budget"])
            for job, text in zip(unit.jobs, answer.value["texts"], strict=True):
                answers[job.index] = text
        self._refuse_failures()
        return answers

    @leaving
    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p(continuation | context, z), z fitted on the context only; log of the mean over draws of z.

        The second value says whether greedy decoding under z = mu gives the continuation.
        """
        jobs = [self._scoring_job(i, request) for i, request in enumerate(numbered(requests))]
        work = self.worklist.open("loglikelihood", [item_of(job.request, repeat=job.repeat) for job in jobs])
        left = [jobs[place] for place in work.todo]
        self._begin(left)
        bar = self.progress(len(left), "scoring")
        for job, own in self._fitted(left):
            score, greedy = self._score(job, own)
            odd = f"its log-likelihood is {score}" if math.isnan(score) or score == math.inf else ""
            record = self._record(job, own, None)
            work.done(job.index, Answer([score, greedy], (record.to_json(),), own.failure or odd))
            bar.advance(1, len(job.continuation))
        bar.close()
        answers = work.close()
        for job, answer in zip(jobs, answers, strict=True):
            self._keep(job.request, answer)
        self._refuse_failures()
        return [(answer.value[0], answer.value[1]) for answer in answers]

    @leaving
    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Minus the bound of each text, in nats: a `RollingScore`, which carries the other rows along."""
        texts = [windows_of(request.args[0], self.encoding, self.max_length) for request in requests]
        wanted = first_documents(requests, self.token_nll)
        by_token = [place_of(request) in wanted for request in requests]
        items = [item_of(request, by_token=own) for request, own in zip(requests, by_token, strict=True)]
        work = self.worklist.open("loglikelihood_rolling", items)
        bar = self.progress(len(work.todo), "bounding")
        self._begin([])
        left = [texts[place] for place in work.todo]
        for done in score_texts(
            self.model,
            left,
            self.fit_config,
            options=self.rows,
            seed=self.seed,
            batch_size=self.batch_size,
            by_token={index for index, place in enumerate(work.todo) if by_token[place]},
        ):
            place = work.todo[done.index]
            work.done(place, self._bounded(requests[place], texts[place], done), batch_ended=done.ends_batch)
            bar.advance(1, sum(len(document.windows[0].tokens) for document in texts[place]))
        bar.close()
        answers = work.close()
        for request, answer in zip(requests, answers, strict=True):
            self._keep(request, answer)
        self._refuse_failures()
        return [_rolling_score(answer) for answer in answers]

    def _bounded(self, request: Instance, windows: Sequence[Document], done: TextScore) -> Answer:
        """A text's score with its parts and its sidecar line, which one without tokens has not."""
        if not isinstance(done.score, RollingScore):
            return Answer({"rows": {}, "tokens": 0})
        record = self._recorder.bounded(request, windows, done)
        rows, reason = dict(done.score.rows), _why_unscored(done.score, done.posteriors)
        if reason:
            rows = dict.fromkeys(rows, math.nan)
        costs = None if reason else text_tokens(request, done, self.encoding, draws=self.rows.draws)
        tokens = (costs.to_json(),) if costs is not None else ()
        return Answer({"rows": rows, "tokens": done.score.tokens}, (record.to_json(),), reason, tokens)

    def _refuse_failures(self) -> None:
        """End where something failed and nobody above counts it: a host would take the blank for an answer."""
        if self.failures and not self.keeps_failures:
            raise IncompleteError(
                f"{len(self.failures)} request(s) could not be answered: {self.failures[0].task}, "
                f"{listed(self.failures)}. Lower lr, or use `ltm-eval run --max_failed N`"
            )

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError("this adapter scores text, so that whole demonstrations can be dropped")

    # Planning --------------------------------------------------------------------------------------------------------

    def _generation_job(
        self, index: int, numbered: tuple[Instance, int], wanted: Collection[tuple[str, int]] = ()
    ) -> GenerationJob:
        """A request as a job; of the first repeat of `wanted` documents each token's cost is kept."""
        request, repeat = numbered
        text, raw = request.args
        text = text.removeprefix(END_OF_TEXT)  # `plan` puts that token in front of every text
        config = generation_config(raw)
        if repeat and not config.do_sample:
            raise UsageError(
                "several repeats of a greedy request would all be the same; set do_sample=True, or ask for one"
            )
        reserved = min(config.max_new_tokens, self.max_length // 2)
        by_token = repeat == 0 and not config.rethink and place_of(request) in wanted
        context = self._plan(request, text, self.max_length - reserved)
        return GenerationJob(index, request, repeat, context, config, by_token)

    def _scoring_job(self, index: int, numbered: tuple[Instance, int]) -> ScoringJob:
        request, repeat = numbered
        text, continuation = request.args
        wanted = self._encode_pair(text, continuation)[1] if text else self.tok_encode(continuation)
        if len(wanted) > self.max_length:
            raise DataError(
                f"task {request.task_name}, document {request.doc_id}: a continuation of {len(wanted)} tokens "
                f"exceeds the context of {self.max_length}; "
                "score it as rolling log-likelihood"
            )
        context = self._plan(request, text, self.max_length + 1 - len(wanted))
        return ScoringJob(index, request, repeat, context, tuple(wanted))

    def _plan(self, request: Instance, text: str, budget: int) -> Context:
        """What the decoder reads of a request's prompt and z is fitted on."""
        return plan(
            text,
            self.condition,
            self.encoding,
            budget=budget,
            window=Windows.of(self.fit_window, context=self.max_length),
            seed=self.seed,
            others=getattr(request, "other_prompt", None),
        )

    def _check_rethinking(self, jobs: Sequence[GenerationJob]) -> None:
        """Refuse a wish for rethinking that no task has heard."""
        if self.rethink and not any(job.config.rethink for job in jobs):
            raise UsageError(
                f"rethink={self.rethink} needs a task that asks for its candidates: those of ltm_eval do, told by "
                "--model_args or --metadata"
            )

    @property
    def batch_size(self) -> int:
        """Documents in a batch; `auto` is settled on first use."""
        if self._batch_size is None:
            self._batch_size = self._measured_batch_size()
            self.batch_sizes["auto"] = self._batch_size
        return self._batch_size

    def _measured_batch_size(self) -> int:
        """The most documents of full length whose fit step runs without exhausting memory, halving from the maximum."""
        if self.model.device.type == "cpu":
            return CPU_LANES
        size = self._max_batch_size
        probe = replace(self.fit_config, t_fast=1, adaptive=False)
        tokens = (self.eot_token_id,) * self.max_length
        while size > 1:
            try:
                fit_together(self.model, [Document((Window(tokens, tokens),))] * size, probe, seed=0)
                return size
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                size //= 2
        return 1

    # Fitting, decoding, scoring --------------------------------------------------------------------------------------

    def _begin(self, jobs: Sequence[GenerationJob | ScoringJob]) -> None:
        """Forget the last call's contexts and count those of this one."""
        self._last = {}
        self._sharing = Counter(_key(job.context) for job in jobs)
        self._recorder = Recorder(self.condition, self.fit_config)

    def _fitted(self, jobs: Sequence[J]) -> Iterator[tuple[J, Fitted]]:
        """Every job with its context's posterior; jobs of one context follow one another and share it.

        Contexts are fitted `batch_size` at a time, longest first, when the first job of a batch is asked for.
        """
        ordered = sorted(
            jobs, key=lambda job: (-len(job.context.read) - job.context.fitted_tokens, _key(job.context), job.index)
        )
        for batch in _by_contexts(ordered, self.batch_size):
            fitted = self._fit_contexts([job.context for job in batch])
            for job in batch:
                yield job, fitted[_key(job.context)]

    def _fit_contexts(self, contexts: Iterable[Context]) -> dict[bytes, Fitted]:
        """One posterior per distinct context; those of the batch before are kept, since a context's jobs may
        straddle two batches.
        """
        distinct = {_key(context): context for context in contexts}
        kept = {key: fitted for key, fitted in self._last.items() if key in distinct}
        missing = {key: context for key, context in distinct.items() if key not in kept}
        self.worklist.sync()  # what the batch before has answered
        failpoints.moment("lm.fit")
        begun = time.monotonic()
        fits = [context.document for context in missing.values() if context.document is not None]
        posterior = fit_documents(self.model, fits, self.fit_config, seed=self.seed) if fits else None
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

    def _answered(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Answer, int]]:
        """Every unit with its answer and the number of new tokens, in the order in which they end."""
        plain = {unit.jobs[0].index: unit for unit in units if not unit.rethinks}
        for config, group in _side_by_side([unit.jobs[0] for unit in plain.values()]):
            held: dict[int, tuple[GenerationJob, Fitted]] = {}
            for continuation in self._decode(self._prompts(group, held), config, len(group)):
                job, fitted = held.pop(continuation.index)
                yield plain[job.index], self._generated(job, fitted, continuation), len(continuation.tokens)
        yield from self._rethought([unit for unit in units if unit.rethinks])

    def _prompts(
        self, jobs: Sequence[GenerationJob], held: dict[int, tuple[GenerationJob, Fitted]]
    ) -> Iterator[Prompt]:
        """What is decoded for each job, made when its turn comes; `held` gets job and posterior by position."""
        for place, (job, fitted) in enumerate(self._fitted(jobs)):
            held[place] = (job, fitted)
            yield self._prompt(job, fitted)

    def _decode(self, prompts: Iterable[Prompt], config: GenerationConfig, number: int) -> Iterator[Continuation]:
        """Continuations of any number of prompts, each place refilled as its continuation ends."""
        return generate(
            self.model,
            prompts,
            config,
            eot_id=self.eot_token_id,
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
        fitted = {job.index: own for job, own in self._fitted(jobs)}
        failed = [fitted[job.index].failure or "" for job in jobs]
        questions = [Question(job.context.read, fitted[job.index].usable, fitted[job.index].key) for job in jobs]
        found = rethink(
            self.model,
            questions,
            self.fit_config,
            rounds=config.rethink,
            seed=self.seed,
            eot_id=self.eot_token_id,
            decode=lambda prompts: self._decode(prompts, config, len(prompts)),
        )
        return found, failed

    def _slots(self, unit: Unit, done: Rethought) -> Answer:
        """The request's answers in the order of `repeats.Rethinking`; the candidates, not the choices, are recorded."""
        slots = [(done.best(done.chain), False), *((one, True) for one in done.chain)]
        slots += [(done.best(done.control), False), *((one, True) for one in done.control)]
        pairs = list(zip(unit.jobs, slots, strict=True))
        records = [
            self._recorder.rethought(job.request, job.context, candidate, repeat=job.repeat)
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
        record = self._record(job, fitted, continuation)
        tokens: tuple[dict[str, Any], ...] = ()
        if job.by_token and not reason:
            own = fitted.posterior
            tokens = (answer_tokens(job.request, continuation, self.encoding, text=text, posterior=own).to_json(),)
        return Answer({"texts": [text], "budget": None}, (record.to_json(),), reason, tokens)

    def _answer(self, continuation: Continuation, config: GenerationConfig) -> str:
        """Text of a continuation, cut before the first stop string."""
        text = self.encoding.decode(continuation.tokens)
        return str(postprocess_generated_text(text, list(config.until), None))

    def _score(self, job: ScoringJob, fitted: Fitted) -> tuple[float, bool]:
        """log-mean-exp over draws of log p(continuation | context, z), and whether it is greedy under mu."""
        if fitted.failure is not None:
            return math.nan, False
        if not job.continuation:
            return 0.0, True
        tokens = torch.tensor([*job.context.read, *job.continuation[:-1]], device=self.model.device)
        wanted = torch.tensor(job.continuation, device=self.model.device)
        length = min(self.max_length, padded_length(len(tokens)))
        padded = torch.zeros(1, length, dtype=torch.long, device=self.model.device)
        padded[0, : len(tokens)] = tokens
        with torch.no_grad():
            prelude = self.model.prelude(padded)

            def log_probs(z: Tensor) -> Tensor:
                states = self.model.hidden(prelude, z.unsqueeze(0)).states[0, len(tokens) - len(wanted) : len(tokens)]
                rows = torch.zeros(padded_length(len(wanted)), states.shape[1], device=states.device)
                rows[: len(wanted)] = states
                return self.model.logits(rows)[: len(wanted)].log_softmax(-1)

            greedy = bool((log_probs(fitted.z(None)).argmax(-1) == wanted).all())
            stream = generator(self.seed, "score", fitted.key)
            shape = (1, *self.model.config.latent_shape)
            draws = [log_probs(fitted.z(standard_normal(stream, shape))) for _ in range(SCORE_DRAWS)]
            totals = torch.stack([draw.gather(1, wanted.unsqueeze(1)).double().sum() for draw in draws])
        return float(totals.logsumexp(0)) - math.log(SCORE_DRAWS), greedy

    def _record(
        self, job: GenerationJob | ScoringJob, fitted: Fitted, continuation: Continuation | None
    ) -> LatentRecord:
        """The sidecar line of an answered request; requests that share a fit share its time."""
        shared = fitted.fit_seconds / max(1, self._sharing[_key(job.context)])
        return self._recorder.answered(
            job.request,
            job.context,
            fitted.posterior,
            repeat=job.repeat,
            continuation=continuation,
            seconds=(shared, continuation.seconds if continuation else 0.0),
        )

    def _keep(self, request: Instance, answer: Answer) -> None:
        """Keep the sidecar lines of an answer, whichever document it was first made for, or that there is none."""
        if answer.failed:
            self.failures.append(Failure(str(request.task_name), int(request.doc_id or 0), answer.failed))
        rows = ({**row, **named(request)} for row in answer.records)
        self.records.extend(LatentRecord.from_json(row, where="journal") for row in rows)
        costs = ({**row, **named(request)} for row in answer.tokens)
        self.token_records.extend(TokenRecord.from_json(row, where="journal") for row in costs)


@dataclass(frozen=True)
class GenerationJob:
    """One continuation to generate."""

    index: int
    request: Instance
    repeat: int
    context: Context
    config: GenerationConfig
    by_token: bool = False


@dataclass(frozen=True)
class Unit:
    """Continuations that are finished together: one, or all of a request that rethinks."""

    place: int
    jobs: tuple[GenerationJob, ...]

    @property
    def rethinks(self) -> bool:
        """Whether it is a request that rethinks."""
        return bool(self.jobs[0].config.rethink)

    @property
    def item(self) -> Item:
        """As an item of the worklist."""
        first = self.jobs[0]
        item = item_of(first.request, repeat=None if self.rethinks else first.repeat, by_token=first.by_token)
        return replace(item, size=item.size + LETTERS_PER_NEW_TOKEN * first.config.max_new_tokens * len(self.jobs))


@dataclass(frozen=True)
class ScoringJob:
    """One continuation to score."""

    index: int
    request: Instance
    repeat: int
    context: Context
    continuation: tuple[int, ...]


def _units(jobs: Sequence[GenerationJob]) -> list[Unit]:
    """Jobs as units, in their order."""
    together: dict[tuple[int, int], list[GenerationJob]] = defaultdict(list)
    for job in jobs:
        together[id(job.request), 0 if job.config.rethink else job.repeat].append(job)
    return [Unit(place, tuple(own)) for place, own in enumerate(together.values())]


def _why_unscored(score: RollingScore, posteriors: Sequence[Posterior]) -> str:
    """Why a text's rows cannot be used; nothing where they can."""
    reasons = [why_unusable(own, tokens=score.tokens) for own in posteriors]
    odd = [name for name, nats in score.rows.items() if not math.isfinite(nats)]
    return next(filter(None, reasons), f"row {odd[0]} is not finite" if odd else "")


def _rolling_score(answer: Answer) -> float:
    """Minus the bound of a text with its parts; 0.0 of one without tokens."""
    rows, tokens = answer.value["rows"], answer.value["tokens"]
    return RollingScore(rows, tokens=tokens) if rows else 0.0


J = TypeVar("J", "GenerationJob", "ScoringJob")


def _by_contexts(jobs: Sequence[J], size: int) -> Iterator[list[J]]:
    """Jobs, those of one context next to each other, in runs of at most `size` contexts."""
    batch: list[J] = []
    seen: set[bytes] = set()
    for job in jobs:
        if _key(job.context) not in seen and len(seen) == size:
            yield batch
            batch, seen = [], set()
        batch.append(job)
        seen.add(_key(job.context))
    if batch:
        yield batch


def _side_by_side(jobs: Sequence[GenerationJob]) -> list[tuple[GenerationConfig, list[GenerationJob]]]:
    """Jobs that can be decoded together: of one configuration, greedy ones beside samples of the same limits."""
    limits = {(job.config.max_new_tokens, job.config.until): job.config for job in jobs if job.config.do_sample}
    groups: dict[GenerationConfig, list[GenerationJob]] = defaultdict(list)
    for job in jobs:
        own = job.config
        groups[own if own.do_sample else limits.get((own.max_new_tokens, own.until), own)].append(job)
    return list(groups.items())


def _key(context: Context) -> bytes:
    """Names what z is fitted on."""
    return context.document.key if context.document else b"prior"


def _model_and_tokenizer(
    pretrained: Any, tokenizer: str | None, revision: str | None, device: torch.device
) -> tuple[LatentThoughtModel, Tokenizer]:
    """A checkpoint, or a model that is loaded already."""
    if isinstance(pretrained, LatentThoughtModel):
        if tokenizer is None and not (pretrained.info and Path(pretrained.info.source).exists()):
            raise UsageError("a loaded model needs tokenizer=gpt2 or tokenizer=FILE of mergeable ranks")
        return pretrained.to(device), load_tokenizer(tokenizer or pretrained.info.source)
    if not isinstance(pretrained, str):
        raise UsageError(
            f"pretrained must be a path, hub id or `demo`, got {pretrained!r}; quote it if it looks like a number"
        )
    model, encoding = load_with_tokenizer(pretrained, tokenizer=tokenizer, revision=revision, device=str(device))
    return model, encoding
