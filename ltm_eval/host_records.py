"""Sidecar lines of a model without latents: how it answered, and what its tokens cost."""

from __future__ import annotations

import math
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.answer_record import AnswerRecord
from ltm_eval.fewshot import split_prompt
from ltm_eval.records import named
from ltm_eval.token_record import ANSWER, TARGET, TEXT, TokenRecord, rounded
from ltm_eval.worklist import reference_of

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from ltm_eval.host_watch import Generated, HostWatch
    from ltm_eval.token_pieces import Pieces

AGREEMENT = 1e-4
"""Relative difference from the sum that lm-eval tells beyond which a text's tokens are not kept."""


def answer_record(request: Instance, repeat: int, seen: Generated, host: Any) -> AnswerRecord:
    """How a continuation was generated."""
    prompt = split_prompt(request.args[0])
    shown, pieces = len(prompt.demonstrations), (*prompt.demonstrations, prompt.question)
    cut = seen.read_tokens < seen.prompt_tokens

    def fits(first: int) -> bool:
        return len(host.tok_encode("".join(pieces[first:]), add_special_tokens=False)) <= seen.read_tokens

    return AnswerRecord(
        **named(request),
        repeat=repeat,
        demonstrations=shown,
        demonstrations_read=shown - bisect_left(range(shown), True, key=fits) if cut else shown,
        prompt_tokens=seen.prompt_tokens,
        read_tokens=seen.read_tokens,
        truncated=cut,
        new_tokens=seen.new_tokens,
        stop_reason=seen.stop_reason,
    )


def answer_tokens(request: Instance, seen: Generated, host: Any) -> TokenRecord | None:
    """What the tokens of an answer cost when they were generated; None where that was not kept."""
    if seen.pieces is None:
        return None
    return _tokens(request, seen.pieces, ANSWER, host=host, nats=math.fsum(seen.pieces.nats))


def text_tokens(request: Instance, pieces: Pieces | None, host: Any, *, nats: float) -> TokenRecord | None:
    """What the tokens of a text cost; None where that is not known, or does not add up to `nats`, lm-eval's sum."""
    if pieces is None or not math.isclose(math.fsum(pieces.nats), nats, rel_tol=AGREEMENT):
        return None
    return _tokens(request, pieces, TEXT, host=host, nats=nats)


def target_tokens(request: Instance, seen: Generated, watched: HostWatch) -> TokenRecord | None:
    """What the tokens of the data set's answer cost after the prompt; None where that cannot be told."""
    reference = reference_of(request)
    pieces = watched.target_pieces(request.args[0], reference, read_tokens=seen.read_tokens) if reference else None
    if pieces is None:
        return None
    own = pieces.after(len(reference) - len(reference.lstrip()))
    return _tokens(request, own, TARGET, host=watched.host, nats=math.fsum(pieces.nats))


def _tokens(request: Instance, pieces: Pieces, part: str, *, host: Any, nats: float) -> TokenRecord:
    return TokenRecord(
        **named(request),
        repeat=0,
        part=part,
        tokenizer=Path(str(getattr(host.tokenizer, "name_or_path", ""))).name,
        draws=0,
        nats=nats,
        kl_nats=None,
        piece_characters=pieces.characters,
        piece_nats=rounded(pieces.nats),
    )
