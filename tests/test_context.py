from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_eval.context import Context, plan
from ltm_eval.tokenizer import Tokenizer, load_ranks
from tests.tiny import byte_ranks

DEMONSTRATIONS = [f"Question: {'abc' * i}?\nAnswer: #### {i}\n\n" for i in range(1, 6)]
QUESTION = "Question: and now?\nAnswer:"
PROMPT = "".join(DEMONSTRATIONS) + QUESTION


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_ranks(byte_ranks(tmp_path_factory.mktemp("ranks") / "tokenizer.tiktoken"))


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


def test_the_ranks_file_stands(tmp_path: Path) -> None:
    assert load_ranks(byte_ranks(tmp_path / "r")).n_vocab == 257
