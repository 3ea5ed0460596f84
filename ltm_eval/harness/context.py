"""Plan what of a few-shot prompt the decoder reads, and what z is fitted on.

A prompt is demonstrations and a question. What does not fit the context is dropped by whole demonstrations from the
left; only a question that does not fit by itself is cut, at a token. Every text starts with the end-of-text token, as
documents do in training. Modes: arXiv:2502.01567 Eq. 7 is `prompt`; the others are this project's.

`shuffled` and `other` are the controls of `demos`: the decoder reads the question only in all three, z is fitted on as
many demonstrations in the same windows. `shuffled` moves every answer to another demonstration of the same prompt,
fixed by seed and demonstrations; `other` takes the demonstrations of another question, which the task draws
(`fewshot`), because a prompt alone does not know the training rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ltm_eval.inference.options import EACH
from ltm_eval.inference.windows import Document, Window
from ltm_eval.system.errors import UsageError, spelt
from ltm_eval.tasks.prompts import OTHER, Prompt, draw, split_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Windows:
    """Layout of demonstrations in the windows that z is fitted on."""

    tokens: int  # Most tokens of a window
    each: bool = False  # Whether every demonstration, and the question, gets a window of its own

    @staticmethod
    def of(fit_window: int | str | None, *, context: int) -> Windows:
        """Read the option `fit_window`: a number of tokens, `each`, or None for the model's context."""
        tokens = min(fit_window, context) if isinstance(fit_window, int) else context
        return Windows(tokens, each=fit_window == EACH)


@dataclass(frozen=True)
class Context:
    """What is read and fitted of one prompt."""

    read: tuple[int, ...]  # Tokens the decoder reads, the end-of-text token first
    text: str  # The text of `read`; if the question was cut, the whole question
    document: Document | None  # What z is fitted on; None is the prior
    demonstrations: int  # Demonstrations in the prompt
    demonstrations_read: int  # Of these, how many the decoder reads
    demonstrations_fitted: int  # Of these, how many z is fitted on
    prompt_tokens: int  # Tokens of the whole prompt
    truncated: bool  # Whether the question itself was cut

    @cached_property
    def key(self) -> bytes:
        """Return a name of what z is fitted on."""
        return self.document.key if self.document else b"prior"

    @property
    def fitted_tokens(self) -> int:
        """Return the number of tokens scored by the fit."""
        return 0 if self.document is None else sum(len(window.tokens) for window in self.document.windows)


QUESTION_ONLY = ("demos", "shuffled", OTHER)  # Conditions under which the decoder reads no demonstration


def plan(  # noqa: PLR0913 - two of them concern one condition each
    text: str,
    condition: str,
    tokenizer: Tokenizer,
    *,
    budget: int,
    window: int | Windows,
    seed: int = 0,
    others: str | None = None,
) -> Context:
    """Plan one prompt.

    Args:
        text: the prompt as lm-eval built it.
        condition: `prompt`, `demos`, `demos+prompt`, `shuffled`, `other` or `prior`.
        tokenizer: of the model.
        budget: most tokens the decoder may read, the end-of-text token included; at least 1.
        window: how demonstrations are laid out in windows; a number is their most tokens.
        seed: of the order in which `shuffled` answers stand.
        others: under `other`, a prompt whose demonstrations are those of another question.

    Raises:
        UsageError: `other` without another question's prompt, or `shuffled` with fewer than two demonstrations or
            demonstrations whose answers cannot be told apart.
    """
    prompt = split_prompt(text)
    whole = Prompt((), prompt.question) if condition in QUESTION_ONLY else prompt
    kept, read, truncated = _fitting(whole, tokenizer, budget)
    if condition == "prompt":
        document, fitted = _document([_window(read)] if len(read) > 1 else []), kept
    elif condition == "prior":
        document, fitted = None, 0
    else:
        shown = _demonstrations(prompt, condition, seed=seed, others=others)
        pieces = [*shown, *([prompt.question] if condition == "demos+prompt" else [])]
        layout = window if isinstance(window, Windows) else Windows(window)
        document, fitted = _document(_windows(pieces, tokenizer, layout)), len(shown)
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


def _demonstrations(prompt: Prompt, condition: str, *, seed: int, others: str | None) -> tuple[str, ...]:
    """Return the demonstrations that z is fitted on, under a condition that fits windows of them."""
    if condition == "shuffled":
        return shuffled(prompt, seed=seed)
    if condition != OTHER:
        return prompt.demonstrations
    if others is None:
        raise UsageError(
            f"{spelt('condition', 'other')} needs the demonstrations of another question, which tasks of ltm_eval "
            'draw when they are told of it: --metadata \'{"condition": "other"}\' beside lm-eval\'s --model_args'
        )
    return split_prompt(others).demonstrations


def shuffled(prompt: Prompt, *, seed: int) -> tuple[str, ...]:
    """Permute the answers of demonstrations so that none keeps its own, fixed by seed and demonstrations.

    The answer is what follows the question's last line (`Answer:`), where that line first stands in a demonstration.
    The permutation is one cycle, drawn uniformly (Sattolo 1986); answers of equal text can thus still meet a question
    they fit. No demonstrations stay none.

    Raises:
        UsageError: a single demonstration, or one without the cue.
    """
    if not prompt.demonstrations:
        return ()
    if len(prompt.demonstrations) < 2:
        raise UsageError(
            f"{spelt('condition', 'shuffled')} needs at least 2 demonstrations to exchange answers, got 1; ask for more"
        )
    cue = prompt.question.rstrip().rpartition("\n")[2]
    parts = [demonstration.partition(f"\n{cue}") for demonstration in prompt.demonstrations]
    if not cue or not all(found for _, found, _ in parts):
        raise UsageError(
            f"{spelt('condition', 'shuffled')}: a demonstration lacks the line {cue!r} that ends the question, so its "
            "answer cannot be found; use a task whose prompts have that form"
        )
    sources = _cycle(len(parts), seed=seed, demonstrations=prompt.demonstrations)
    return tuple(
        question + found + parts[source][2] for (question, found, _), source in zip(parts, sources, strict=True)
    )


def _cycle(n: int, *, seed: int, demonstrations: Sequence[str]) -> list[int]:
    """Return a permutation of n >= 2 indices without fixed points, in one cycle."""
    order = draw(n, n, seed=seed, document={"demonstrations": demonstrations}, purpose="shuffled")
    sources = [0] * n
    for place, following in zip(order, (*order[1:], order[0]), strict=True):
        sources[place] = following
    return sources


def _fitting(prompt: Prompt, tokenizer: Tokenizer, budget: int) -> tuple[int, tuple[int, ...], bool]:
    """Return how many last demonstrations fit with the question, the tokens, and whether the question was cut."""
    n = len(prompt.demonstrations)
    for kept in range(n, -1, -1):
        tokens = tokenizer.encode("".join(prompt.demonstrations[n - kept :]) + prompt.question)
        if len(tokens) < budget:
            return kept, (tokenizer.eot_id, *tokens), False
    return 0, (tokenizer.eot_id, *tokens[len(tokens) - budget + 1 :]), True


def _window(read: Sequence[int]) -> Window:
    """Return a window in which every token of `read` after the first is scored."""
    return Window(tuple(read[:-1]), tuple(read[1:]))


def _document(windows: Sequence[Window]) -> Document | None:
    return Document(tuple(windows)) if windows else None


def _windows(pieces: Sequence[str], tokenizer: Tokenizer, layout: Windows) -> list[Window]:
    """Fill windows with as many whole pieces as fit, or one each; a piece longer than a window fills several."""
    windows: list[Window] = []
    held = ""
    for piece in pieces:
        if held and (layout.each or len(tokenizer.encode(held + piece)) > layout.tokens):
            windows += _cut(tokenizer.encode(held), tokenizer.eot_id, layout.tokens)
            held = ""
        held += piece
    return windows + (_cut(tokenizer.encode(held), tokenizer.eot_id, layout.tokens) if held else [])


def _cut(tokens: Sequence[int], eot_id: int, limit: int) -> list[Window]:
    """Cut into windows of at most `limit` tokens, the first after end-of-text, each other after the token before it."""
    before = [eot_id, *tokens]
    return [_window(before[start : start + limit + 1]) for start in range(0, len(tokens), limit)]
