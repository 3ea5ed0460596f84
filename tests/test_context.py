from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_eval.harness.context import Context, Windows, plan
from ltm_eval.model.tokenizer import Tokenizer
from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    pass

DEMONSTRATIONS = [f"Question: {'abc' * i}?\nAnswer: #### {i}\n\n" for i in range(1, 6)]
QUESTION = "Question: and now?\nAnswer:"
PROMPT = "".join(DEMONSTRATIONS) + QUESTION


def fitted_text(context: Context, tokenizer: Tokenizer) -> str:
    """What z is fitted on, as text."""
    return "" if context.document is None else "".join(tokenizer.decode(w.targets) for w in context.document.windows)


def test_everything_fits(tokenizer: Tokenizer) -> None:
    found = plan(PROMPT, "prompt", tokenizer, budget=1000, window=1000)
    assert found.text == PROMPT and tokenizer.decode(found.read) == PROMPT and found.read[0] == tokenizer.eot_id
    assert (found.demonstrations, found.demonstrations_read, found.demonstrations_fitted) == (5, 5, 5)
    assert fitted_text(found, tokenizer) == PROMPT
    assert found.prompt_tokens == found.fitted_tokens == len(PROMPT) and not found.truncated


@pytest.mark.parametrize(
    ("condition", "read", "fitted"),
    [
        ("prompt", "".join(DEMONSTRATIONS[3:]) + QUESTION, "".join(DEMONSTRATIONS[3:]) + QUESTION),
        ("demos", QUESTION, "".join(DEMONSTRATIONS)),
        ("demos+prompt", "".join(DEMONSTRATIONS[3:]) + QUESTION, PROMPT),
        ("prior", "".join(DEMONSTRATIONS[3:]) + QUESTION, ""),
    ],
)
def test_conditions(condition: str, read: str, fitted: str, tokenizer: Tokenizer) -> None:
    room = len("".join(DEMONSTRATIONS[3:]) + QUESTION) + 1
    found = plan(PROMPT, condition, tokenizer, budget=room + 5, window=80)
    assert tokenizer.decode(found.read) == read == found.text
    assert fitted_text(found, tokenizer) == fitted
    assert found.demonstrations_read == read.count("####")
    assert found.demonstrations_fitted == fitted.count("####")
    one_less = plan(PROMPT, condition, tokenizer, budget=room - 1, window=80)
    assert condition == "demos" or one_less.demonstrations_read == found.demonstrations_read - 1


def test_windows_hold_whole_demonstrations_and_share_no_token(tokenizer: Tokenizer) -> None:
    found = plan(PROMPT, "demos", tokenizer, budget=100, window=80)
    assert found.document is not None and len(found.document.windows) > 1
    for window in found.document.windows:
        text = tokenizer.decode(window.targets)
        assert text.startswith("Question:") and text.endswith("\n\n") and len(window.tokens) <= 80
        assert window.tokens[0] == tokenizer.eot_id and window.tokens[1:] == window.targets[:-1]


def test_a_demonstration_longer_than_a_window_fills_several(tokenizer: Tokenizer) -> None:
    found = plan(PROMPT, "demos", tokenizer, budget=100, window=10)
    assert fitted_text(found, tokenizer) == "".join(DEMONSTRATIONS)
    assert found.document is not None and all(len(w.tokens) <= 10 for w in found.document.windows)


def test_only_a_question_that_does_not_fit_is_cut(tokenizer: Tokenizer) -> None:
    found = plan(PROMPT, "prompt", tokenizer, budget=10, window=80)
    assert found.truncated and found.demonstrations_read == 0
    assert len(found.read) == 10 and tokenizer.decode(found.read) == QUESTION[-9:]


@pytest.mark.parametrize("condition", ["prompt", "demos", "demos+prompt", "prior"])
def test_nothing_given_is_the_prior(condition: str, tokenizer: Tokenizer) -> None:
    found = plan("", condition, tokenizer, budget=10, window=10)
    assert found.read == (tokenizer.eot_id,) and found.document is None and not found.truncated


@settings(max_examples=100, deadline=None)
@given(
    demonstrations=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=5),
    budget=st.integers(1, 200),
    window=st.integers(1, 60),
    condition=st.sampled_from(["prompt", "demos", "demos+prompt", "prior"]),
)
def test_limits_hold(demonstrations: list[str], budget: int, window: int, condition: str, tokenizer: Tokenizer) -> None:
    text = "".join(f"Question: {d}\n\n" for d in demonstrations) + QUESTION
    found = plan(text, condition, tokenizer, budget=budget, window=window)
    assert len(found.read) <= budget and found.text.endswith(QUESTION)
    if condition in ("demos", "demos+prompt") and found.document:
        assert all(len(w.tokens) <= window for w in found.document.windows)
        joined = [token for w in found.document.windows for token in w.targets]
        whole = text if condition == "demos+prompt" else text[: -len(QUESTION)]
        assert tokenizer.decode(joined) == whole


def test_more_room_never_reads_less(tokenizer: Tokenizer) -> None:
    read = [plan(PROMPT, "prompt", tokenizer, budget=b, window=80).demonstrations_read for b in range(1, 300)]
    assert all(a <= b for a, b in pairwise(read)) and read[-1] == 5


# Controls -------------------------------------------------------------------------------------------------------------


def answers_of(text: str) -> list[str]:
    return [piece.partition("\nAnswer:")[2] for piece in text.split("Question: ")[1:]]


@pytest.mark.parametrize("seed", range(6))
def test_shuffled_moves_every_answer_and_nothing_else(seed: int, tokenizer: Tokenizer) -> None:
    own = plan(PROMPT, "demos", tokenizer, budget=1000, window=1000)
    found = plan(PROMPT, "shuffled", tokenizer, budget=1000, window=1000, seed=seed)
    assert found.read == own.read and found.demonstrations_read == 0 and found.demonstrations_fitted == 5
    text, answers = fitted_text(found, tokenizer), answers_of(fitted_text(found, tokenizer))
    straight = answers_of(fitted_text(own, tokenizer))
    assert sorted(answers) == sorted(straight)
    assert all(a != b for a, b in zip(answers, straight, strict=True))
    assert [piece.partition("\nAnswer:")[0] for piece in text.split("Question: ")[1:]] == [
        f"{'abc' * i}?" for i in range(1, 6)
    ]
    assert plan(PROMPT, "shuffled", tokenizer, budget=1000, window=1000, seed=seed).document == found.document


def test_shuffles_differ_between_seeds_and_prompts(tokenizer: Tokenizer) -> None:
    found = {
        fitted_text(plan(PROMPT, "shuffled", tokenizer, budget=99, window=99, seed=s), tokenizer) for s in range(20)
    }
    assert len(found) > 5
    for seed in range(3):
        turned = "".join(reversed(DEMONSTRATIONS)) + QUESTION
        answers = answers_of(
            fitted_text(plan(turned, "shuffled", tokenizer, budget=99, window=99, seed=seed), tokenizer)
        )
        assert len(set(answers)) == 5


def test_a_cycle_is_uniform_over_derangements_in_one_cycle() -> None:
    """With 4 places there are 3! = 6 of them."""
    from collections import Counter

    from ltm_eval.harness.context import _cycle

    counts = Counter(tuple(_cycle(4, seed=seed, demonstrations=["x"])) for seed in range(1200))
    assert len(counts) == 6 and min(counts.values()) > 140
    assert all(source != place for cycle in counts for place, source in enumerate(cycle))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DEMONSTRATIONS[0] + QUESTION, "at least 2"),
        ("Question: a\n\nQuestion: b\n\n" + QUESTION, "lacks the line 'Answer:'"),
    ],
)
def test_what_cannot_be_shuffled_is_named(text: str, words: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=words):
        plan(text, "shuffled", tokenizer, budget=99, window=99)


@pytest.mark.parametrize("condition", ["shuffled", "other"])
def test_no_demonstrations_are_the_prior(condition: str, tokenizer: Tokenizer) -> None:
    found = plan(QUESTION, condition, tokenizer, budget=99, window=99, others=QUESTION)
    assert found.document is None and tokenizer.decode(found.read) == QUESTION


def test_other_fits_on_the_demonstrations_it_is_given(tokenizer: Tokenizer) -> None:
    others = "Question: else?\nAnswer: #### 9\n\n" + QUESTION
    found = plan(PROMPT, "other", tokenizer, budget=1000, window=1000, others=others)
    assert fitted_text(found, tokenizer) == "Question: else?\nAnswer: #### 9\n\n"
    assert tokenizer.decode(found.read) == QUESTION
    assert (found.demonstrations, found.demonstrations_read, found.demonstrations_fitted) == (5, 0, 1)
    with pytest.raises(UsageError, match="demonstrations of another question"):
        plan(PROMPT, "other", tokenizer, budget=1000, window=1000)


# Windows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["demos", "demos+prompt", "shuffled"])
def test_each_demonstration_in_a_window_of_its_own(condition: str, tokenizer: Tokenizer) -> None:
    layout = Windows.of("each", context=1000)
    found = plan(PROMPT, condition, tokenizer, budget=1000, window=layout)
    assert found.document is not None
    texts = [tokenizer.decode(window.targets) for window in found.document.windows]
    assert len(texts) == 5 + (condition == "demos+prompt")
    assert all(text.count("Question:") == 1 for text in texts)
    if condition != "shuffled":
        assert texts[:5] == DEMONSTRATIONS


def test_the_option_never_exceeds_the_context() -> None:
    assert Windows.of(None, context=64) == Windows(64)
    assert Windows.of(16, context=64) == Windows(16)
    assert Windows.of(500, context=64) == Windows(64)
    assert Windows.of("each", context=64) == Windows(64, each=True)
