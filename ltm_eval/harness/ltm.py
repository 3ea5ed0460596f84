"""The adapter through which lm-eval drives a Latent Thought Model.

Written against lm-eval 0.4.13's abstract class. Requests are shared out inside these methods, never by lm-eval (its
own splitting changes few-shot prompts with the number of ranks), so `rank` is always 0 of 1.
"""

from __future__ import annotations

import inspect
import logging
import math
import sys
from dataclasses import asdict, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import simple_parse_args_string

from ltm_eval.harness.answering import (
    SCORE_DRAWS,
    Fits,
    Generating,
    PlannedRequest,
    Recorder,
    named,
    score,
    token_record,
)
from ltm_eval.harness.context import Context, Windows, plan
from ltm_eval.harness.evaluation import Failure, listed, value_for_lm_eval
from ltm_eval.harness.options import ModelArguments, lm_eval_arguments, recorded_of_answers
from ltm_eval.inference.batching import BatchLimit
from ltm_eval.inference.bounds import TextScore, row_options, score_texts, windows_of
from ltm_eval.inference.draws import RollingScore
from ltm_eval.inference.options import AUTO
from ltm_eval.inference.posterior import batch_limit, why_unusable
from ltm_eval.inference.rethink import Budget
from ltm_eval.model.checkpoint import info_of, load_with_tokenizer
from ltm_eval.model.compiling import compile_layers, uncompiled
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.model.inputs import told
from ltm_eval.model.live import as_read, live_model, undisturbed
from ltm_eval.model.tokenizer import END_OF_TEXT, Tokenizer, check_fits, load_tokenizer
from ltm_eval.results.files import TEXT, LatentRecord, TokenRecord
from ltm_eval.results.tokens import pieces_of_bytes
from ltm_eval.runs.processes import join
from ltm_eval.runs.worklist import Answer, Request, Worklist, first_documents, is_by_token, numbered
from ltm_eval.system.device import resolve_device, resolve_dtype
from ltm_eval.system.errors import DataError, IncompleteError, LtmEvalError, UsageError, leave, leaving, spelt
from ltm_eval.system.hub import agree_on
from ltm_eval.system.machine import program
from ltm_eval.system.progress import Bar, Progress, silent
from ltm_eval.tasks.arguments import generation_config, unused_by_greedy
from ltm_eval.tasks.keyed import refuse_request_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from lm_eval.api.instance import Instance

    from ltm_eval.inference.windows import Document, Posterior


log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def answering(method: Callable[Concatenate[LTM, _P], _R]) -> Callable[Concatenate[LTM, _P], _R]:
    """Decorate a method that lm-eval calls: it takes a live model's present weights, ignores the caller's torch modes,
    and its errors end lm-eval's own command in one line.
    """

    @wraps(method)
    def wrapped(self: LTM, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with undisturbed():
            if self.live is not None:
                self.model = self._read(self.live)
            return method(self, *args, **kwargs)

    return leaving(wrapped)


class LTM(TemplateLM):
    """`--model ltm`: fits z per context, then scores or generates."""

    def __init__(self, pretrained: Any = "demo", **arguments: Any) -> None:
        """Load a checkpoint.

        Args:
            pretrained: folder, released `ckpt_*.pt`, hub id or `demo`; or a loaded model, also in training. That one is
                left as it is: what is computed with is a copy (`model.live.as_read` tells its memory) of the
                weights that it has when a method is called.
            arguments: fields of `ModelArguments`, for example `t_fast=16, condition="demos"`. Without `tokenizer` and
                `device` a loaded model keeps its own.

        Raises:
            LtmEvalError: an argument or the checkpoint cannot be used.
        """
        super().__init__()
        options = ModelArguments.of(arguments)
        self.condition, self.seed = options.condition, options.seed
        self.fit_window, self.rethink, self.compiled = options.fit_window, options.rethink, options.compile
        self.fit_config = options.fitting
        self.rows = row_options(options.rows, chunk=options.causal_chunk, t_fast=options.causal_t_fast)
        self.live = live_model(pretrained) if isinstance(pretrained, torch.nn.Module) else None
        """A loaded model, as it was handed over."""
        if self.live is not None and options.device == AUTO:
            self._device = self.live.device
        else:
            self._device = resolve_device(options.device)
        self.dtype = resolve_dtype(options.dtype, self._device)
        with undisturbed():
            if self.live is not None:
                self.encoding = _tokenizer_of(self.live, options.tokenizer)
                self.model = self._read(self.live)
            else:
                model, self.encoding = _loaded(pretrained, options.tokenizer, options.revision, self._device)
                self.model = model.set_matmul_dtype(self.dtype)
                if self.compiled:
                    compile_layers(model)
        if self.rows.causal is not None and self.rows.causal.chunk > self.max_length:
            self.rows = replace(self.rows, causal=replace(self.rows.causal, chunk=self.max_length))
        self._batch_size = options.batch_size if isinstance(options.batch_size, int) else None
        self._max_batch_size = options.max_batch_size
        self._limit: BatchLimit | None = None
        self.batch_sizes: dict[str, int] = {}
        self.records: list[LatentRecord] = []
        self.token_nll = 0
        """Number of first documents of each task whose per-token NLL is kept in `token_records`."""
        self.token_records: list[TokenRecord] = []
        self.budget = Budget()
        self.unused: dict[str, dict[str, Any]] = {}
        """Sampling options that greedy decoding did not use, by task."""
        self.failures: list[Failure] = []
        self.keeps_failures = False
        self.progress: Callable[[int, str], Progress] = Bar
        self.worklist = Worklist()

    def _read(self, live: LatentThoughtModel) -> LatentThoughtModel:
        """Return a copy of a live model to compute with."""
        copy = uncompiled(as_read(live, device=self._device, dtype=self.dtype))
        return compile_layers(copy) if self.compiled else copy

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> LTM:
        """Load a checkpoint for lm-eval's command; an error ends it in one line."""
        try:
            job = join()
            given = lm_eval_arguments(arg_dict, additional_config or {})
            agree_on(given.get("pretrained"), given.get("revision"), job=job)
            lm = cls(**given)
            job.agree(lm.settings if job.world > 1 else {})
            lm.worklist = Worklist(job=job)
            lm.progress = Bar if job.leads else silent
            return lm
        except LtmEvalError as error:
            leave(error)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> LTM:
        """Load a checkpoint for lm-eval's Python interface."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        """Return the id of end-of-text, which also stands in front of a text."""
        return self.encoding.eot_id

    @property
    def max_length(self) -> int:
        """Return the number of tokens of the context."""
        return self.model.config.max_seq_len

    @property
    def tokenizer_name(self) -> str:
        """Return the name of the tokenizer in lm-eval's request cache."""
        return f"{self.encoding.name}-{self.encoding.digest[:12]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode a text, without special tokens."""
        return self.encoding.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Refuse a chat template: a base model has none."""
        leave(UsageError("a Latent Thought Model has no chat template; leave --apply_chat_template out"))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Refuse a chat template: a base model has none."""
        if chat_template:
            leave(UsageError("a Latent Thought Model has no chat template; leave --apply_chat_template out"))
        return None

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's response cache, which is not keyed by the model."""
        if getattr(cache_hook, "dbdict", None) is not None:
            leave(
                UsageError(
                    "--use_cache is refused: lm-eval's cache is not keyed by the model and would return another's "
                    "answers; leave it out"
                )
            )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """Return what the results file records of the model, with the weights it has now, and of the fit."""
        info = self.model.info if self.live is None else info_of(self.live)
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
            "versions": program(),
            **({"unused_generation_options": self.unused} if self.unused else {}),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Return everything that changes an answer and is no part of a request; the journal is keyed by it."""
        info = {**self.get_model_info(), "device": self.model.device.type}
        return {"model": "ltm", **{name: info[name] for name in (*recorded_of_answers(), "versions")}}

    @answering
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate one continuation per request; a request that occurs K times gets K draws of z and tokens.

        A request whose options say `rethink` K occurs 2 (K + 1) times and gets the answers that
        `repeats.Rethinking` lists.
        """
        _refuse_cached_requests()
        wanted = first_documents(requests, self.token_nll)
        planned = [self._generation_request(i, request, wanted) for i, request in enumerate(numbered(requests))]
        self._check_rethinking(planned)
        self._say_unused(requests)
        work = self.worklist.open("generate_until", planned)
        left = [planned[place] for place in work.todo]
        fits = self._fits([one for one in left if not one.config.rethink])
        generating = Generating(fits, self.encoding, self._recorder, batch_size=self.batch_size)
        bar = self.progress(sum(one.texts for one in left), _label(requests, "generating"))
        for one, answer, tokens in generating.answered(left):
            work.done(one.index, answer)
            bar.advance(one.texts, tokens)
        bar.close()
        answers = work.close()
        for one, answer in zip(planned, answers, strict=True):
            if not one.slot:
                self._keep(one.instance, answer)
                self.budget = self.budget + Budget.from_json(answer.value["budget"])
        self._refuse_failures()
        return [answer.value["texts"][one.slot] for one, answer in zip(planned, answers, strict=True)]

    @answering
    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score log p(continuation | context, z), z fitted on the context only; log of the mean over draws of z.

        The second value says whether greedy decoding under z = mu gives the continuation.
        """
        _refuse_cached_requests()
        planned = [self._scoring_request(i, request) for i, request in enumerate(numbered(requests))]
        work = self.worklist.open("loglikelihood", planned)
        left = [planned[index] for index in work.todo]
        fits, recorder = self._fits(left), self._recorder
        bar = self.progress(len(left), _label(requests, "scoring"))
        for one, own in fits.of(left):
            nats, greedy = score(self.model, one, own, seed=self.seed)
            odd = f"its log-likelihood is {nats}" if math.isnan(nats) or nats == math.inf else ""
            record = recorder.answered(
                one,
                own.posterior,
                continuation=None,
                seconds=(fits.seconds(one, own), 0.0),
                passes=(1 + SCORE_DRAWS) * (len(one.context.read) + len(one.continuation) - 1)
                if one.continuation
                else 0,
            )
            work.done(one.index, Answer([nats, greedy], (record,), own.failure or odd))
            bar.advance(1, len(one.continuation))
        bar.close()
        answers = work.close()
        for one, answer in zip(planned, answers, strict=True):
            self._keep(one.instance, answer)
        self._refuse_failures()
        return [value_for_lm_eval(answer.value) for answer in answers]

    @answering
    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return minus the bound of each text, in nats: a `RollingScore`, which carries the other rows along."""
        _refuse_cached_requests()
        texts = [windows_of(request.args[0], self.encoding, self.max_length) for request in requests]
        wanted = first_documents(requests, self.token_nll)
        asked = [Request(instance=request, by_token=is_by_token(request, 0, wanted)) for request in requests]
        work = self.worklist.open("loglikelihood_rolling", asked)
        bar = self.progress(len(work.todo), _label(requests, "bounding"))
        left = [texts[place] for place in work.todo]
        for done in score_texts(
            self.model,
            left,
            self.fit_config,
            options=self.rows,
            seed=self.seed,
            limit=self.batch_limit,
            by_token={index for index, place in enumerate(work.todo) if asked[place].by_token},
        ):
            place = work.todo[done.index]
            work.done(place, self._bounded(requests[place], texts[place], done), batch_ended=done.ends_batch)
            bar.advance(1, sum(len(document.windows[0].tokens) for document in texts[place]))
        bar.close()
        answers = work.close()
        for request, answer in zip(requests, answers, strict=True):
            self._keep(request, answer)
        self._refuse_failures()
        return [value_for_lm_eval(answer.value) for answer in answers]

    def _bounded(self, request: Instance, windows: Sequence[Document], done: TextScore) -> Answer:
        """Return a text's score with its parts and its sidecar line; a text without tokens has no line."""
        if not isinstance(done.score, RollingScore):
            return Answer({"rows": {}, "tokens": 0})
        record = self._recorder.bounded(request, windows, done)
        rows, reason = dict(done.score.rows), _why_unscored(done.score, done.posteriors)
        ids = self.encoding.encode(request.args[0], end_of_text=True) if done.token_nats else []
        tokens: tuple[TokenRecord, ...] = ()
        if done.token_nats and len(ids) == len(done.token_nats) and not reason:
            each = self.encoding.bytes_each(ids, end_of_text=END_OF_TEXT.encode())
            tokens = (
                token_record(
                    request,
                    pieces_of_bytes(each, done.token_nats),
                    TEXT,
                    tokenizer=self.encoding.name,
                    draws=self.rows.draws,
                    nats=rows["nll_given_z"],
                    kl_nats=rows["kl"],
                ),
            )
        if reason:
            rows = dict.fromkeys(rows, math.nan)
        return Answer({"rows": rows, "tokens": done.score.tokens}, (record,), reason, tokens)

    def _refuse_failures(self) -> None:
        """Raise IncompleteError if a request failed and no caller counts failures: lm-eval would score the blank."""
        if self.failures and not self.keeps_failures:
            raise IncompleteError(
                f"{len(self.failures)} request(s) could not be answered: {self.failures[0].task}, "
                f"{listed(self.failures)}. Lower {spelt('lr')}, or use `ltm-eval run --max_failed N`"
            )

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError("this adapter scores text, so that whole demonstrations can be dropped")

    def _generation_request(
        self, index: int, numbered: tuple[Instance, int], wanted: Collection[tuple[str, int]] = ()
    ) -> PlannedRequest:
        """Plan a continuation; the per-token NLL is kept of the first repeat of `wanted` documents.

        All repeats of an instance that rethinks are one request, equal but for the text that each gets.
        """
        instance, repeat = numbered
        text, raw = instance.args
        text = text.removeprefix(END_OF_TEXT)  # `plan` puts that token in front of every text
        config = generation_config(raw)
        if repeat and not config.do_sample:
            raise UsageError(
                "several repeats of a greedy request would all be the same; set do_sample=True, or ask for one"
            )
        reserved = min(config.max_new_tokens, self.max_length // 2)
        return PlannedRequest(
            instance=instance,
            repeat=None if config.rethink else repeat,
            by_token=not config.rethink and is_by_token(instance, repeat, wanted),
            index=index,
            context=self._plan(instance, text, self.max_length - reserved),
            slot=repeat if config.rethink else 0,
            config=config,
        )

    def _scoring_request(self, index: int, numbered: tuple[Instance, int]) -> PlannedRequest:
        instance, repeat = numbered
        text, wanted = self._split_pair(*instance.args)
        if len(wanted) > self.max_length:
            raise DataError(
                f"task {instance.task_name}, document {instance.doc_id}: a continuation of {len(wanted)} tokens "
                f"exceeds the context of {self.max_length}; "
                "score it as rolling log-likelihood"
            )
        context = self._plan(instance, text, self.max_length + 1 - len(wanted))
        return PlannedRequest(
            instance=instance, repeat=repeat, index=index, context=context, continuation=tuple(wanted)
        )

    def _split_pair(self, context: str, continuation: str) -> tuple[str, list[int]]:
        """Return what is read of a pair, and the tokens that are scored after it.

        White space at the end of the context belongs to the continuation, wherever the task has put it. The
        continuation's tokens are those that follow the context's in both texts together; where the two share a token
        it is encoded by itself, so that nothing is read and scored twice.
        """
        context = context.removeprefix(END_OF_TEXT)  # as in `_generation_request`
        read = context.rstrip()
        scored = context[len(read) :] + continuation
        before, both = self.tok_encode(read), self.tok_encode(read + scored)
        return read, both[len(before) :] if both[: len(before)] == before else self.tok_encode(scored)

    def _plan(self, request: Instance, text: str, budget: int) -> Context:
        """Return what the decoder reads of a request's prompt and what z is fitted on."""
        return plan(
            text,
            self.condition,
            self.encoding,
            budget=budget,
            window=Windows.of(self.fit_window, context=self.max_length),
            seed=self.seed,
            others=getattr(request, "other_prompt", None),
        )

    def _say_unused(self, requests: Sequence[Instance]) -> None:
        """Say once for a task which of its sampling options greedy decoding does not use, and keep that."""
        for request in requests:
            task, unused = str(request.task_name), unused_by_greedy(request.args[1])
            if unused and task not in self.unused and self.worklist.job.leads:
                words = ", ".join(f"{name}={value}" for name, value in unused.items())
                more = "" if "temperature" in unused else ",temperature=1"
                print(
                    f"ltm-eval: task {task} decodes greedily, which does not use {words}; to sample, add "
                    f"{spelt('gen_kwargs', f'do_sample=true{more}')}",
                    file=sys.stderr,
                )
            if unused:
                self.unused[task] = {**self.unused.get(task, {}), **unused}

    def _check_rethinking(self, requests: Sequence[PlannedRequest]) -> None:
        """Reject `rethink` if no task supports it."""
        if self.rethink and not any(request.config.rethink for request in requests):
            raise UsageError(
                f"{spelt('rethink', self.rethink)} needs a task that asks for its candidates: those of ltm_eval do, "
                "told by --model_args or --metadata"
            )

    @property
    def batch_limit(self) -> BatchLimit:
        """Return what a batch may hold; `auto` is measured on first use."""
        if self._limit is None:
            asked, most = self._batch_size, self._max_batch_size
            self._limit = batch_limit(self.model, self.fit_config, asked=asked, most=most)
            if asked is None:
                self.batch_sizes["auto"] = self._limit.side_by_side
        return self._limit

    @property
    def batch_size(self) -> int:
        """Return the number of documents of any length per batch."""
        return self.batch_limit.side_by_side

    @property
    def _recorder(self) -> Recorder:
        return Recorder(self.condition, self.fit_config)

    def _fits(self, requests: Sequence[PlannedRequest]) -> Fits:
        """Return the fits of the contexts of a call's requests."""
        limit, sync = self.batch_limit, self.worklist.sync
        return Fits(self.model, self.fit_config, requests, seed=self.seed, limit=limit, sync=sync)

    def _keep(self, request: Instance, answer: Answer) -> None:
        """Keep the sidecar lines of an answer, or its failure, under the document that asked."""
        if answer.failed:
            self.failures.append(Failure(str(request.task_name), int(request.doc_id or 0), answer.failed))
        own = named(request)
        self.records.extend(replace(one, **own) for one in answer.records if isinstance(one, LatentRecord))
        self.token_records.extend(replace(one, **own) for one in answer.tokens)


def _label(requests: Sequence[Instance], doing: str) -> str:
    """Name the tasks of a call, for its progress."""
    return f"{', '.join(dict.fromkeys(str(one.task_name) for one in requests))}: {doing}"


def _refuse_cached_requests() -> None:
    """Refuse prompts from lm-eval's request cache, also of tasks that are not ours; only its stack frame tells.

    Raises:
        UsageError: lm-eval's evaluator, which asks, was given `cache_requests`.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "evaluate" and frame.f_globals.get("__name__") == "lm_eval.evaluator":
            refuse_request_cache(frame.f_locals.get("cache_requests"))
            return
        frame = frame.f_back


def _why_unscored(score: RollingScore, posteriors: Sequence[Posterior]) -> str:
    """Return why a text's rows cannot be used; empty if they can."""
    reasons = [why_unusable(own, tokens=score.tokens) for own in posteriors]
    odd = [name for name, nats in score.rows.items() if not math.isfinite(nats)]
    return next(filter(None, reasons), f"row {odd[0]} is not finite" if odd else "")


def _tokenizer_of(live: LatentThoughtModel, tokenizer: str | None) -> Tokenizer:
    """Return the tokenizer that is named, or a loaded model's own.

    Raises:
        LtmEvalError: there is none, or it is not the model's.
    """
    found = load_tokenizer(tokenizer) if tokenizer is not None else live.tokenizer
    if not isinstance(found, Tokenizer):
        raise UsageError(
            f"this model names no tokenizer, which its checkpoint would: pass {spelt('tokenizer', 'gpt2')}, or a FILE "
            "of mergeable ranks"
        )
    check_fits(found, live.config.vocab_size)
    return found


def _loaded(
    pretrained: Any, tokenizer: str | None, revision: str | None, device: torch.device
) -> tuple[LatentThoughtModel, Tokenizer]:
    """Load a checkpoint and its tokenizer."""
    if not isinstance(pretrained, str):
        raise UsageError(
            f"pretrained must be a path, hub id, `demo` or a loaded model, got {told(pretrained)}; quote it if it "
            "looks like a number"
        )
    return load_with_tokenizer(pretrained, tokenizer=tokenizer, revision=revision, device=str(device))
