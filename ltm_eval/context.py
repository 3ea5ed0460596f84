"""What of a few-shot prompt the decoder reads, and what z is fitted on.

A prompt is demonstrations and a question. What does not fit the context is dropped by whole demonstrations from the
left; only a question that does not fit by itself is cut, at a token. Every text starts with the end-of-text token, as
documents do in training. Modes: arXiv:2502.01567 Eq. 7 is `prompt`; the others are this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltm_eval.fewshot import Prompt, split_prompt
from ltm_eval.posterior import Document, Window
from ltm_eval.tokenizer import Tokenizer


@dataclass(frozen=True)
class Context:
    """A plan for one prompt."""

    read: tuple[int, ...]
    """Tokens the decoder reads, the end-of-text token first."""
    text: str
    """The text behind `read`; where the question was cut, the whole question."""
    document: Document | None
    """What z is fitted on; None is the prior."""
    demonstrations: int
    """Demonstrations in the prompt."""
    demonstrations_read: int
    """Of these, how many the decoder reads."""
    demonstrations_fitted: int
    """Of these, how many z is fitted on."""
    prompt_tokens: int
    """Tokens of the whole prompt."""
    truncated: bool
    """Whether the question itself was cut."""

    @property
    def fitted_tokens(self) -> int:
        """Tokens scored by the fit."""
        return 0 if self.document is None else sum(len(window.tokens) for window in self.document.windows)


def plan(text: str, condition: str, tokenizer: Tokenizer, *, budget: int, window: int) -> Context:
    """Lay out one prompt.

    Args:
        text: the prompt as lm-eval built it.
        condition: `prompt`, `demos`, `demos+prompt` or `prior`.
        tokenizer: of the model.
        budget: most tokens the decoder may read, the end-of-text token included; at least 1.
        window: most tokens of one fitted window.
    """
    prompt = split_prompt(text)
    whole = prompt if condition != "demos" else Prompt((), prompt.question)
    kept, read, truncated = _fitting(whole, tokenizer, budget)
    fitted = {
        "prompt": kept,
        "prior": 0,
        "demos": len(prompt.demonstrations),
        "demos+prompt": len(prompt.demonstrations),
    }[condition]
    if condition == "prompt":
        document = _document([_window(read)] if len(read) > 1 else [])
    elif condition == "prior":
        document = None
    else:
        pieces = [*prompt.demonstrations, *([prompt.question] if condition == "demos+prompt" else [])]
        document = _document(_windows(pieces, tokenizer, window))
    return Context(
        read=read,
        text="".join(whole.demonstrations[len(whole.demonstrations) - kept :]) + prompt.question,
        document=document,
        demonstrations=len(prompt.demonstrations),
        demonstrations_read=kept,
        demonstrations_fitted=fitted,
        prompt_tokens=len(tokenizer.encode(text)),
        truncated=truncated,
    )


def _fitting(prompt: Prompt, tokenizer: Tokenizer, budget: int) -> tuple[int, tuple[int, ...], bool]:
    """Number of last demonstrations that fit with the question, the tokens, and whether the question was cut."""
    n = len(prompt.demonstrations)
    for kept in range(n, -1, -1):
        tokens = tokenizer.encode("".join(prompt.demonstrations[n - kept :]) + prompt.question)
        if len(tokens) < budget:
            return kept, (tokenizer.eot_id, *tokens), False
    return 0, (tokenizer.eot_id, *tokens[len(tokens) - budget + 1 :]), True


def _window(read: Sequence[int]) -> Window:
    """Every token of `read` after the first is scored."""
    return Window(tuple(read[:-1]), tuple(read[1:]))


def _document(windows: Sequence[Window]) -> Document | None:
    return Document(tuple(windows)) if windows else None


def _windows(pieces: Sequence[str], tokenizer: Tokenizer, limit: int) -> list[Window]:
    """As many whole pieces a window as fit; a piece longer than a window fills several."""
    windows: list[Window] = []
    held = ""
    for piece in pieces:
        if held and len(tokenizer.encode(held + piece)) > limit:
            windows += _cut(tokenizer.encode(held), tokenizer.eot_id, limit)
            held = ""
        held += piece
    return windows + (_cut(tokenizer.encode(held), tokenizer.eot_id, limit) if held else [])


def _cut(tokens: Sequence[int], eot_id: int, limit: int) -> list[Window]:
    """Windows of at most `limit` tokens, the first after end-of-text, each later one after the token before it."""
    before = [eot_id, *tokens]
    return [_window(before[start : start + limit + 1]) for start in range(0, len(tokens), limit)]
