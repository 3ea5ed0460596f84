"""What the tokens of one text cost under one model: one line of the sidecar of tokens.

    DIR/<model>/tokens_<task>_<date>.jsonl   one line per text, of the first documents of a task (`--token_nll N`)

The text itself stands in the samples file: for `text` it is the prompt, for `answer` the response of that request and
repeat, for `target` the target. Figures are rounded; no metric is made of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import ResultsError
from ltm_eval.row_checks import record_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEXT, ANSWER, TARGET = "text", "answer", "target"
PARTS = (TEXT, ANSWER, TARGET)
DECIMALS = 3
"""Of the nats of a piece."""


@dataclass(frozen=True)
class TokenRecord:
    """What the tokens of one text cost."""

    task: str
    """Task name."""
    doc_id: int
    """Index of the document in its split."""
    idx: int
    """Index of the request within the document."""
    repeat: int
    """Index of the repeat within the request."""
    prompt_hash: str
    """SHA-256 (hex) of the prompt text, as in lm-eval's samples."""
    part: str
    """`text`: the whole text of a rolling request; `answer`: what the model generated, up to its stop string, each
    token under the model that generated it; `target`: the answer of the data set, after the same prompt.
    """
    tokenizer: str
    """Whose tokens they are."""
    draws: int
    """Draws of z whose mean the figures are; 0 where nothing is averaged (one z, or no latents)."""
    nats: float
    """Sum over the tokens, not rounded: -log p(text | z) of an LTM, without its KL; -log p(text) of a model without
    latents.
    """
    kl_nats: float | None
    """KL of the posterior that was fitted to a `text`: the price of z for the text as a whole, in no piece. None
    without latents, and of other parts: there z was fitted to the prompt, and the text owes nothing for it.
    """
    piece_characters: tuple[int, ...]
    """Characters (code points) of each piece of the text, in order. A piece is a token, or several that share a
    character; one of 0 characters stands for a token without text, such as end-of-text in front.
    """
    piece_nats: tuple[float, ...]
    """-log p of each piece, to three decimals."""

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ResultsError(f"field part: expected one of {', '.join(PARTS)}, got {self.part!r}")
        if len(self.piece_characters) != len(self.piece_nats):
            raise ResultsError(
                f"fields piece_characters and piece_nats: expected as many of the one as of the other, got "
                f"{len(self.piece_characters)} and {len(self.piece_nats)}"
            )

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; `from_json` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> TokenRecord:
        """The record that `row` describes; `where` (file:line) opens every message.

        Raises:
            ResultsError: a field is absent, unknown or of the wrong type.
        """
        return record_of(cls, row, where=where)


def rounded(nats: Sequence[float]) -> tuple[float, ...]:
    """As they are stored."""
    return tuple(round(value, DECIMALS) + 0.0 for value in nats)  # + 0.0: no minus before a zero
