"""Inference-time rethinking: generate a trace, refit z to it, and repeat; the best trace is the answer.

Our reading of arXiv:2602.06584, whose details are not public: its abstract alternates between generating a trace given
z and optimising z to explain that trace. For k = 1 ... K,

    y_k ~ p(y | question, z),  z ~ q_{k-1}        (q_0: of the prompt or demonstrations, or the prior)
    q_k = t_fast fast steps on -log p(y_k | question, z) + KL(q || p), started at q_{k-1}

and candidates are ranked by -ELBO of their trace at noise that no fit has seen. Our choices: z is drawn anew from q
each round, the KL is to N(0, I), the question is read but not scored, and traces of different length are compared by
their sum of nats, which favours short ones.

The control uses the same compute: K traces drawn independently from q_0, each fitted for t_fast steps from q_0 and
ranked by the same rule. Rethinking helps only if it beats the control.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_eval.inference.bounds import fresh_draws
from ltm_eval.inference.decode import Continuation, Prompt
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Posterior, Start, Window, generator, standard_normal
from ltm_eval.model.elbo import IGNORED
from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from ltm_eval.inference.options import FitConfig
    from ltm_eval.model.decoder import LatentThoughtModel


RANKING_DRAWS = 8  # fresh draws z ~ q that rank a candidate

# Continues prompts; a continuation's index is its position in the list.
Decode = Callable[[list[Prompt]], Iterable[Continuation]]


@dataclass(frozen=True)
class Question:
    """A question to rethink."""

    read: tuple[int, ...]  # tokens to read
    posterior: Posterior  # q_0, one row
    key: bytes  # key of the document that q_0 was fitted on


@dataclass(frozen=True)
class Candidate:
    """One trace with the posterior that explains it."""

    continuation: Continuation
    posterior: Posterior  # one row
    # -ELBO of the trace given the question, at fresh noise; infinite for an empty trace.
    bound_nats: float
    fast_steps: int  # fast steps on this trace
    fitted_tokens: int  # tokens scored by its fit
    fit_seconds: float  # its share of the time of its batch, ranking included


@dataclass(frozen=True)
class Spent:
    """Compute of one side of the comparison."""

    fast_steps: int = 0  # fast steps of all refits, without the shared fit of q_0
    fitted_tokens: int = 0  # tokens processed by those steps: steps times scored tokens
    new_tokens: int = 0  # tokens generated

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.fast_steps + other.fast_steps,
            self.fitted_tokens + other.fitted_tokens,
            self.new_tokens + other.new_tokens,
        )


@dataclass(frozen=True)
class Budget:
    """Compute of rethinking and of its control."""

    rethink: Spent = Spent()
    independent: Spent = Spent()

    def __add__(self, other: Budget) -> Budget:
        return Budget(self.rethink + other.rethink, self.independent + other.independent)

    @classmethod
    def from_json(cls, row: Mapping[str, Mapping[str, int]] | None) -> Budget:
        """Read the result of `asdict`; None is a budget of zero."""
        return cls() if row is None else cls(Spent(**row["rethink"]), Spent(**row["independent"]))


@dataclass(frozen=True)
class Rethought:
    """All candidates of one question."""

    chain: tuple[Candidate, ...]  # rounds 1 to K
    control: tuple[Candidate, ...]  # K independent draws

    @property
    def budget(self) -> Budget:
        """Compute of both."""
        return Budget(spent(self.chain), spent(self.control))

    @staticmethod
    def best(candidates: Sequence[Candidate]) -> Candidate:
        """Return the candidate with the lowest bound, the first of equal ones."""
        return min(candidates, key=lambda one: one.bound_nats)


def spent(candidates: Sequence[Candidate]) -> Spent:
    """Return the total compute of candidates."""
    return Spent(
        sum(one.fast_steps for one in candidates),
        sum(one.fast_steps * one.fitted_tokens for one in candidates),
        sum(len(one.continuation.tokens) for one in candidates),
    )


def rethink(  # noqa: PLR0913 - what `decode` does not have
    model: LatentThoughtModel,
    questions: Sequence[Question],
    config: FitConfig,
    *,
    rounds: int,
    seed: int,
    eot_id: int,
    decode: Decode,
) -> list[Rethought]:
    """Rethink every question for `rounds` rounds, and draw as many independent traces.

    A question's result does not depend on the others: noise and tokens come from streams keyed by content and round.

    Args:
        questions: processed side by side.
        config: options of the fast loop, with `t_fast` steps per refit.
        rounds: K.
        seed: seed of all draws.
        eot_id: id of the token that ends a text; part of a trace that ended with it.
        decode: continues prompts with the sampling options of the run.

    Raises:
        UsageError: there is less than one round.
    """
    if rounds < 1:
        raise UsageError(f"rethink must be at least 1 round, got {rounds}")
    chains: list[list[Candidate]] = [[] for _ in questions]
    for k in range(rounds):
        current = [
            own[-1].posterior if own else question.posterior for own, question in zip(chains, questions, strict=True)
        ]
        tasks = [_Task(question, q, f"rethink {k}") for question, q in zip(questions, current, strict=True)]
        for own, candidate in zip(chains, _candidates(model, tasks, config, seed, eot_id, decode), strict=True):
            own.append(candidate)
    draws = [_Task(question, question.posterior, f"independent {k}") for question in questions for k in range(rounds)]
    found = _candidates(model, draws, config, seed, eot_id, decode)
    return [Rethought(tuple(chain), tuple(found[i * rounds : (i + 1) * rounds])) for i, chain in enumerate(chains)]


@dataclass(frozen=True)
class _Task:
    """One trace to generate and fit."""

    question: Question
    start: Posterior  # where z is drawn from, and the start of the fit
    purpose: str  # side and round, as part of the stream's key


def _candidates(  # noqa: PLR0913 - what `rethink` got
    model: LatentThoughtModel, tasks: Sequence[_Task], config: FitConfig, seed: int, eot_id: int, decode: Decode
) -> list[Candidate]:
    """Generate a trace per task, fit it from the task's start, and compute its bound."""
    traces = {one.index: one for one in decode([_prompt(model, task, seed) for task in tasks])}
    pairs = [(task, traces[i]) for i, task in enumerate(tasks) if i in traces]
    documents = [trace_document(task.question.read, trace, eot_id) for task, trace in pairs]
    chosen = [(one, task.start) for (task, _), one in zip(pairs, documents, strict=True) if one is not None]
    explained: Iterator[tuple[Posterior, float]] = iter(())
    begun = time.monotonic()
    if chosen:
        texts, starts = [text for text, _ in chosen], [Start(own.mu, own.log_var) for _, own in chosen]
        fitted = fit_documents(model, texts, config, seed=seed, starts=starts)
        bounds = fresh_draws(model, texts, fitted, seed=seed, draws=RANKING_DRAWS)
        explained = iter([(fitted.row(i), one.bound.nats) for i, one in enumerate(bounds)])
    seconds = (time.monotonic() - begun) / max(1, len(chosen))
    found = []
    for (task, trace), document in zip(pairs, documents, strict=True):
        if document is None:
            found.append(Candidate(trace, task.start, math.inf, 0, 0, 0.0))
        else:
            posterior, bound = next(explained)
            found.append(Candidate(trace, posterior, bound, config.t_fast, document.scored, seconds))
    return found


def _prompt(model: LatentThoughtModel, task: _Task, seed: int) -> Prompt:
    content = task.question.key + repr(task.question.read).encode()
    noise = standard_normal(generator(seed, f"z {task.purpose}", content), (1, *model.config.latent_shape))
    z = task.start.at(noise.to(task.start.mu.device))[0]
    return Prompt(task.question.read, z, generator(seed, f"token {task.purpose}", content))


def trace_document(read: Sequence[int], trace: Continuation, eot_id: int) -> Document | None:
    """Return the trace as a document with the question read and every token scored; None for an empty one."""
    wanted = [*trace.tokens, *([eot_id] if trace.stop_reason == "end_of_text" else [])]
    if not wanted:
        return None
    tokens = [*read, *wanted]
    targets = [*[IGNORED] * (len(read) - 1), *wanted]
    return Document((Window(tuple(tokens[:-1]), tuple(targets)),))
