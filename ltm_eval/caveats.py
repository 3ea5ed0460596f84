"""What a reader of a task's figures must know, found in its documents, prompts and records.

Every sentence names the task and counts; it is printed, stored with the results and shown above the report.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ltm_eval.latent_record import LatentRecord

ROLLING = "loglikelihood_rolling"
NOTICED = 0.01
"""Share of prompts beyond the context from which on it is said."""


def task_caveats(task: Any, rows: Sequence[Mapping[str, Any]], records: Sequence[LatentRecord], lm: Any) -> list[str]:
    """All caveats of a task that has just been evaluated.

    Args:
        rows: lm-eval's logged samples.
        records: of latent inference; empty for other models, whose prompts are measured anew.
        lm: the model, as lm-eval drives it.
    """
    documents = list({row["doc_id"]: row["doc"] for row in rows}.values())
    tells = hasattr(lm, "text_caveats")
    prompts = read_short(records) if records else [*cut_prompts(rows, lm), *in_windows(rows, lm)]
    found = [
        *copies(documents),
        *shown_too(documents, task.fewshot_docs() or []),
        *prompts,
        *answers_beyond(rows, getattr(lm, "max_length", None)),
        *(lm.text_caveats([row["arguments"][0][0] for row in rows]) if task.OUTPUT_TYPE == ROLLING and tells else []),
    ]
    return [f"{task.task_name}: {sentence}" for sentence in found]


def copies(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Documents that occur several times."""
    repeated = len(documents) - len(set(map(_content, documents)))
    return [f"{repeated:,} of {len(documents):,} documents are copies of others"] if repeated else []


def shown_too(documents: Sequence[Mapping[str, Any]], pool: Iterable[Mapping[str, Any]]) -> list[str]:
    """Documents whose question is among the examples that may be shown; to itself no document ever is."""
    shown = set(map(_question, pool))
    overlap = sum(_question(document) in shown for document in documents) if shown else 0
    return (
        [f"{overlap:,} of {len(documents):,} documents are also among the demonstrations drawn from"] if overlap else []
    )


def read_short(records: Sequence[LatentRecord]) -> list[str]:
    """Prompts of which the decoder read less than there is, although the condition shows it all."""
    whole = [record for record in records if record.condition in ("prompt", "demos+prompt", "prior")]
    dropped = [record for record in whole if record.demonstrations_read < record.demonstrations]
    found = []
    if len(dropped) > NOTICED * len(whole):
        mean = sum(record.demonstrations_read for record in dropped) / len(dropped)
        found.append(
            f"{len(dropped):,} of {len(whole):,} prompts exceed the context; of their demonstrations {mean:.1f} were "
            "read on average, the first ones were dropped"
        )
    cut = sum(record.truncated for record in records)
    if cut:
        found.append(f"{cut:,} of {len(records):,} questions alone exceed the context and were cut")
    return found


def cut_prompts(rows: Sequence[Mapping[str, Any]], lm: Any) -> list[str]:
    """The same for a model of lm-eval's, which cuts prompts from the left without a word."""
    prompts = dict.fromkeys((arguments[0], _new_tokens(arguments)) for row in rows for arguments in row["arguments"])
    asked = [(text, new) for text, new in prompts if new is not None]
    limit, encode = getattr(lm, "max_length", None), getattr(lm, "tok_encode", None)
    if not asked or not isinstance(limit, int) or encode is None:
        return []
    cut = sum(len(encode(text)) > limit - new for text, new in asked)
    return [f"{cut:,} of {len(asked):,} prompts exceed the context and were cut"] if cut > NOTICED * len(asked) else []


def in_windows(rows: Sequence[Mapping[str, Any]], lm: Any) -> list[str]:
    """Whole texts that a model of lm-eval's scored in rolling windows, whose context is not that of a causal row."""
    texts = dict.fromkeys(arguments[0] for row in rows for arguments in row["arguments"] if len(arguments) == 1)
    limit, encode = getattr(lm, "max_length", None), getattr(lm, "tok_encode", None)
    if not isinstance(limit, int) or encode is None:
        return []
    longer = sum(len(encode(text)) > limit for text in texts)
    return (
        [
            f"{longer:,} of {len(texts):,} texts exceed the context of {limit:,} tokens and were scored in lm-eval's "
            "windows: the first token of a window is given one token before it, and only the last window reads back as "
            "far as fits; an LTM's causal row reads back before every chunk, so the two are not given the same context"
        ]
        if longer
        else []
    )


def answers_beyond(rows: Sequence[Mapping[str, Any]], limit: int | None) -> list[str]:
    """Answers that were allowed more tokens than the context has."""
    asked = max((_new_tokens(arguments) or 0 for row in rows for arguments in row["arguments"]), default=0)
    if limit is None or asked < limit:
        return []
    return [f"max_gen_toks {asked:,} exceeds the context of {limit:,} tokens; answers end there at the latest"]


def _new_tokens(arguments: Sequence[Any]) -> int | None:
    """Most new tokens of a request to generate, as far as it tells; None for any other request."""
    options = arguments[1] if len(arguments) > 1 else None
    if not isinstance(options, dict):
        return None
    told = options.get("max_gen_toks")
    return int(told) if isinstance(told, (int, float)) else 0


def _content(document: Mapping[str, Any]) -> str:
    """All of a document but its place."""
    return json.dumps({key: value for key, value in document.items() if key != "index"}, sort_keys=True, default=str)


def _question(document: Mapping[str, Any]) -> str:
    """The question, however it is spaced, and its episode, where it has one; the whole document without a question."""
    question, episode = document.get("question"), document.get("episode")
    if not isinstance(question, str):
        return _content(document)
    words = " ".join(question.split()).casefold()
    return words if episode is None else f"{episode}: {words}"
