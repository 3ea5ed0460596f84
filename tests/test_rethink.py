"""Rethinking against the loop written out by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.api.instance import Instance

from ltm_eval.harness.ltm import LTM
from ltm_eval.inference.bounds import fresh_draws
from ltm_eval.inference.decode import Continuation, Prompt, generate
from ltm_eval.inference.options import GenerationConfig, fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.rethink import Budget, Candidate, Question, Rethought, Spent, rethink, trace_document
from ltm_eval.inference.windows import Document, Posterior, Start, Window, generator, standard_normal
from ltm_eval.system.errors import UsageError
from ltm_eval.system.progress import silent
from tests.tiny import tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FIT = fit_config(t_fast=3)
SAMPLED = GenerationConfig(max_new_tokens=10, do_sample=True)
EOT = 256


def question(seed: int, length: int = 9) -> Question:
    source = torch.Generator().manual_seed(seed)
    read = tuple(torch.randint(0, 256, (length,), generator=source).tolist())
    model = tiny_model()
    document = Document((Window(read[:-1], read[1:]),))
    return Question(read, fit_documents(model, [document], FIT, seed=5), document.key)


def thought(questions: list[Question], *, rounds: int = 3, seed: int = 5) -> list[Rethought]:
    model = tiny_model()

    def decode(prompts: list[Prompt]) -> Iterable[Continuation]:
        return generate(model, prompts, SAMPLED, eot_id=EOT)

    return rethink(model, questions, FIT, rounds=rounds, seed=seed, eot_id=EOT, decode=decode)


def by_hand(asked: Question, start: Posterior, purpose: str) -> tuple[tuple[int, ...], Posterior, float]:
    """One round: trace, refitted posterior, bound."""
    model, content = tiny_model(), asked.key + repr(asked.read).encode()
    z = start.at(standard_normal(generator(5, f"z {purpose}", content), start.mu.shape))[0]
    (trace,) = generate(model, [Prompt(asked.read, z, generator(5, f"token {purpose}", content))], SAMPLED, eot_id=EOT)
    y = [*trace.tokens, *([EOT] if trace.stop_reason == "end_of_text" else [])]
    targets = (-1,) * (len(asked.read) - 1) + tuple(y)
    document = Document((Window((*asked.read, *y[:-1]), targets),))
    fitted = fit_documents(model, [document], FIT, seed=5, starts=[Start(start.mu, start.log_var)])
    return trace.tokens, fitted, fresh_draws(model, [document], fitted, seed=5, draws=8)[0].bound.nats


def test_the_chain_refits_on_its_own_traces_and_the_control_does_not() -> None:
    asked = question(1)
    (found,) = thought([asked])
    current = asked.posterior
    for k, candidate in enumerate(found.chain):
        tokens, current, bound = by_hand(asked, current, f"rethink {k}")
        assert candidate.continuation.tokens == tokens
        torch.testing.assert_close(candidate.posterior.mu, current.mu, rtol=0, atol=0)
        assert candidate.bound_nats == bound
    for k, candidate in enumerate(found.control):
        tokens, _, bound = by_hand(asked, asked.posterior, f"independent {k}")
        assert (candidate.continuation.tokens, candidate.bound_nats) == (tokens, bound)
    assert len({one.continuation.tokens for one in found.chain + found.control}) == 6


def test_neighbours_and_further_rounds_change_nothing() -> None:
    alone = thought([question(1)], rounds=2)[0]
    among = thought([question(3), question(1, 9), question(2, 30)], rounds=2)[1]
    longer = thought([question(1)], rounds=3)[0]

    def facts(candidates: tuple[Candidate, ...]) -> list[tuple[Any, ...]]:
        return [(one.continuation.tokens, one.bound_nats) for one in candidates]

    assert facts(alone.chain) == facts(among.chain) == facts(longer.chain[:2])
    assert facts(alone.control) == facts(among.control) == facts(longer.control[:2])
    assert facts(thought([question(1)], rounds=2, seed=6)[0].chain) != facts(alone.chain)


def test_both_sides_cost_the_same_fast_steps_and_tokens_are_counted() -> None:
    (found,) = thought([question(4)], rounds=3)
    both = found.budget
    assert both.rethink.fast_steps == both.independent.fast_steps == 9
    for side, candidates in ((both.rethink, found.chain), (both.independent, found.control)):
        assert side.new_tokens == sum(len(one.continuation.tokens) for one in candidates) > 0
        assert side.fitted_tokens == sum(3 * one.fitted_tokens for one in candidates)
    assert (both + both).rethink == Spent(18, 2 * both.rethink.fitted_tokens, 2 * both.rethink.new_tokens)
    assert Budget() + both == both


def test_refitting_on_a_trace_lowers_its_bound() -> None:
    """Averaged over questions; at the start, z knows nothing of the trace."""
    model, gains = tiny_model(), []
    for seed in range(6):
        asked = question(seed)
        for one in thought([asked], rounds=1)[0].control:
            document = trace_document(asked.read, one.continuation, EOT)
            assert document is not None
            (before,) = fresh_draws(model, [document], asked.posterior, seed=5, draws=8)
            gains.append(before.bound.nats - one.bound_nats)
    assert sum(gains) > 0


def test_the_best_is_the_first_of_the_lowest_bound() -> None:
    (found,) = thought([question(1)])
    best = found.best(found.chain)
    assert best.bound_nats == min(one.bound_nats for one in found.chain)


def test_a_trace_of_no_tokens_ranks_last_and_costs_nothing() -> None:
    asked = question(1, length=192)
    (found,) = thought([asked], rounds=2)
    assert [one.bound_nats for one in found.chain] == [math.inf, math.inf]
    assert found.budget == Budget()
    assert found.chain[1].posterior is asked.posterior


def test_only_the_trace_is_scored() -> None:
    document = trace_document((1, 2, 3), Continuation(0, (4, 5), "end_of_text"), EOT)
    assert document == Document((Window((1, 2, 3, 4, 5), (-1, -1, 4, 5, EOT)),))
    assert trace_document((1, 2, 3), Continuation(0, (4,), "length"), EOT) == Document(
        (Window((1, 2, 3), (-1, -1, 4)),)
    )


def test_no_round_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 round"):
        thought([question(1)], rounds=0)


# In lm-eval -----------------------------------------------------------------------------------------------------------


def requests(n: int, rounds: int) -> list[Instance]:
    options = {"until": ["zq"], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0, "rethink": rounds}
    return [
        Instance("generate_until", {}, (f"Question: {i}?\nAnswer:", options), 2, metadata=("t", i, 2 * (rounds + 1)))
        for i in range(n)
    ]


def answers(folder: Path, *, batch_size: int, order: int = 1) -> tuple[dict[int, list[str]], LTM]:
    lm = LTM(str(folder), t_fast=2, batch_size=batch_size, rethink=2)
    lm.progress = silent
    asked = requests(5, 2)[::order]
    found = lm.generate_until([request for request in asked for _ in range(6)])
    return {request.doc_id or 0: found[6 * i : 6 * i + 6] for i, request in enumerate(asked)}, lm


def test_slots_hold_choice_and_candidates_for_every_batch_size(folder: Path) -> None:
    one, lm = answers(folder, batch_size=1)
    assert answers(folder, batch_size=32, order=-1)[0] == one
    for slots in one.values():
        assert slots[0] in slots[1:3] and slots[3] in slots[4:6]
    assert len(lm.records) == 5 * 4
    assert {(r.repeat, r.t_fast) for r in lm.records} == {(repeat, 2) for repeat in (1, 2, 4, 5)}
    assert lm.budget.rethink.fast_steps == lm.budget.independent.fast_steps == 5 * 2 * 2
    assert lm.budget.rethink.new_tokens + lm.budget.independent.new_tokens == sum(r.new_tokens for r in lm.records)


def test_a_wish_that_no_task_has_heard_is_refused(folder: Path) -> None:
    lm = LTM(str(folder), t_fast=2, rethink=2)
    plain = Instance("generate_until", {}, ("a", {"until": ["b"], "max_gen_toks": 2}), 0, metadata=("t", 0, 1))
    with pytest.raises(UsageError, match="needs a task that asks"):
        lm.generate_until([plain])
