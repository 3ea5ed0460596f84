"""What latent inference did for a request: one line of the sidecar of latents."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import ResultsError
from ltm_eval.row_checks import record_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


STOP_REASONS = ("stop_string", "end_of_text", "length", "not_finite", "")


@dataclass(frozen=True)
class LatentRecord:
    """What latent inference did for one request and repeat; one line of the sidecar."""

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
    condition: str
    """What z was fitted on and what the decoder read: prompt, demos, demos+prompt, shuffled, other or prior."""
    preset: str
    """Name of the fast loop's preset."""
    t_fast: int
    """Fast steps; of a text in several windows, those of the longest fit."""
    demonstrations: int
    """Demonstrations in the prompt."""
    demonstrations_read: int
    """Of these, how many the decoder read."""
    demonstrations_fitted: int
    """Of these, how many z was fitted on."""
    prompt_tokens: int
    """Tokens of the whole prompt."""
    read_tokens: int
    """Tokens the decoder read before its first own token."""
    fitted_tokens: int
    """Tokens z was fitted on, over all windows, with those that a window reads before its first target."""
    fitted_windows: int
    """Windows that shared the one z; of a text that is scored as a whole, its windows, each with a z of its own."""
    truncated: bool
    """Whether something of the prompt was dropped."""
    nll_nats: float | None
    """-log p(fitted tokens | z), summed; None without a fit."""
    kl_nats: float | None
    """KL(q || prior), summed over layers, latents and dimensions; None without a fit."""
    objective_nats: tuple[float, ...]
    """Objective (NLL + KL, summed) at every fast step; empty where it was not kept."""
    kl_per_layer_nats: tuple[float, ...]
    """KL(q || prior) of each layer's latents."""
    mean_log_var_per_layer: tuple[float, ...]
    """Mean log variance of each layer's latents."""
    share_at_prior: float | None
    """Share of latent dimensions whose posterior is back at the prior, 0 to 1."""
    new_tokens: int
    """Tokens the decoder generated."""
    stop_reason: str
    """stop_string, end_of_text or length; not_finite where the logits were no numbers; empty where nothing was
    generated.
    """
    fit_seconds: float
    """Wall time of the fit, shared out over its batch."""
    decode_seconds: float
    """Wall time of decoding, shared out over its batch."""
    draws_nats: tuple[float, ...] = ()
    """Of a text that is scored as a whole: what each fresh draw of the bound alone says, NLL + KL; their mean is the
    bound.
    """
    kl_steps_nats: tuple[tuple[float, ...], ...] = ()
    """KL(q || prior) of each layer at every fast step, to four digits; of the first documents of a task only."""
    fit: str = ""
    """Names the fit: answers that share one have the same, and its cost counts once. Empty without a fit, and in files
    of 0.1.0.
    """

    def __post_init__(self) -> None:
        if self.stop_reason not in STOP_REASONS:
            expected = ", ".join(filter(None, STOP_REASONS))
            raise ResultsError(f"field stop_reason: expected one of {expected} or nothing, got {self.stop_reason!r}")

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; `from_json` reads it back."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> LatentRecord:
        """The record that `row` describes; `where` (file:line) opens every message.

        Raises:
            ResultsError: a field is absent, unknown or of the wrong type.
        """
        return record_of(cls, row, where=where)


def fits_of(records: Sequence[LatentRecord]) -> list[LatentRecord]:
    """The first record of each fit; where a file names none, equal fits of a document are one."""
    found: dict[str, LatentRecord] = {}
    for one in records:
        if one.kl_nats is not None:
            told = (one.doc_id, one.prompt_hash, one.t_fast, one.nll_nats, one.kl_nats, one.objective_nats)
            found.setdefault(one.fit or repr(told), one)
    return list(found.values())


def made_once(records: Sequence[LatentRecord]) -> list[LatentRecord]:
    """The records less copies: documents with the same prompt are given one answer, which has cost its time once."""
    copied = (replace(one, task="", doc_id=0) if one.fit else one for one in records)
    return list(dict.fromkeys(copied))


def _plain(value: Any) -> Any:
    return list(map(_plain, value)) if isinstance(value, tuple) else value
