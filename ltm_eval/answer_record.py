"""How a model without latents answered a request: one line of the sidecar of answers.

    DIR/<model>/answers_<task>_<date>.jsonl   one line per request and repeat, of baselines that this program ran

What an LTM does stands in its sidecar of latents, under the same names.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import ResultsError
from ltm_eval.row_checks import record_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ENDINGS = ("stop_string", "end_of_text", "length")


@dataclass(frozen=True)
class AnswerRecord:
    """How one continuation was generated."""

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
    demonstrations: int
    """Demonstrations in the prompt."""
    demonstrations_read: int
    """Of these, how many the model read whole."""
    prompt_tokens: int
    """Tokens of the whole prompt."""
    read_tokens: int
    """Tokens the model read: lm-eval cuts what does not fit from the left, wherever that is."""
    truncated: bool
    """Whether something of the prompt was cut."""
    new_tokens: int
    """Tokens generated, up to and with those of the first stop string; what the batch went on to is not counted."""
    stop_reason: str
    """stop_string, end_of_text or length."""

    def __post_init__(self) -> None:
        if self.stop_reason not in ENDINGS:
            raise ResultsError(f"field stop_reason: expected one of {', '.join(ENDINGS)}, got {self.stop_reason!r}")

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> AnswerRecord:
        """The record that `row` describes; `where` (file:line) opens every message.

        Raises:
            ResultsError: a field is absent, unknown or of the wrong type.
        """
        return record_of(cls, row, where=where)
