"""Baselines: lm-eval's own models, whose answers go into the journal as an LTM's do.

A host model answers all requests of a call before it returns any, so it is given them in chunks, longest first. A chunk
is fixed by the whole list, never by what is left of it, its draws are seeded by its content, and one process of a job
answers all of it: a resumed or shared run gives the host the same batches and the same random numbers as one that was
not cut off and ran alone. What the host knows and does not tell is seen by `host_watch`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ltm_eval import failpoints, pulse
from ltm_eval.answer_record import AnswerRecord
from ltm_eval.errors import CheckpointError, LtmEvalError
from ltm_eval.host_records import answer_record, answer_tokens, target_tokens, text_tokens
from ltm_eval.host_tokens import added_tokens, encode_alike, identity_of
from ltm_eval.host_watch import watch
from ltm_eval.journal import digest
from ltm_eval.memory import ran_out
from ltm_eval.perplexity import TextScore
from ltm_eval.provenance import program
from ltm_eval.records import named
from ltm_eval.token_record import TokenRecord
from ltm_eval.weights import weights_sha256
from ltm_eval.worklist import Answer, Worklist, content_of, first_documents, is_by_token, item_of, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lm_eval.api.instance import Instance

    from ltm_eval.host_watch import HostWatch
    from ltm_eval.progress import Progress

CHUNK = 32
"""Requests given to the host at once, at least; its batch size where that is more."""
METHODS = {"generate_until": "generating", "loglikelihood": "scoring", "loglikelihood_rolling": "scoring"}


def keep_answers(host: Any, *, seed: int, progress: Callable[[int, str], Progress], token_nll: int = 0) -> Any:
    """Let a host model's three methods look answers up and append what they find.

    A causal model scores a text after exactly one prefix token (`host_tokens.HostEncoding`) and answers with a
    `TextScore`; what must be known of texts that its tokenizer does not spell is told by `text_caveats`.

    Args:
        host: lm-eval's `hf`; gets `settings` and `worklist` as an LTM has them.
        seed: of what it draws.
        progress: shows how far a call is.
        token_nll: of so many first documents of a task, what each token costs is kept in `token_records`.

    Returns:
        The host.
    """
    causal = getattr(host, "backend", "") == "causal"
    encoding = encode_alike(host) if causal else None
    host.settings, host.worklist = settings_of(host, seed), Worklist()
    host.text_caveats = encoding.caveats if encoding is not None else lambda texts: []
    host.own_tokens = identity_of(host.tokenizer) if encoding is not None else None
    host.token_nll, host.token_records, host.answer_records = token_nll, [], []
    host.model.register_forward_pre_hook(lambda *_: pulse.mark())
    if getattr(host, "batch_size", None) == "auto":
        host.batch_size_per_gpu = host._detect_batch_size()  # which the host would do again with every chunk
    watched = watch(host)
    for name, label in METHODS.items():
        setattr(host, name, _kept(host, name, seed=seed, show=partial(_bar, progress, label), watched=watched))
    return host


def settings_of(host: Any, seed: int) -> dict[str, Any]:
    """What changes a host's answers and is no part of a request."""
    model, tokenizer = host.model, host.tokenizer
    commit = getattr(model.config, "_commit_hash", None)
    weights = commit or weights_sha256({name: one.detach().cpu() for name, one in model.named_parameters()})
    return {
        "model": "hf",
        "weights": weights,
        "architecture": digest({k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}),
        "tokenizer": digest([identity_of(tokenizer)["sha256"], sorted(tokenizer.get_vocab().items())]),
        "added_tokens": [list(ids) for ids in added_tokens(tokenizer)],
        "prefix": host.prefix_token_id,
        "dtype": str(model.dtype),
        "max_length": host.max_length,
        "seed": seed,
        "device": torch.device(host.device).type,
        "versions": program("transformers"),
    }


def _kept(
    host: Any, name: str, *, seed: int, show: Callable[[int], Progress], watched: HostWatch | None
) -> Callable[..., list[Any]]:
    """The host's method of this name with the journal around it."""
    ask = getattr(host, name)

    def method(requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        placed = list(numbered(requests))
        by_token = _by_token(host, name, placed) if watched is not None else [False] * len(placed)
        items = [
            item_of(request, repeat=repeat, by_token=own)
            for (request, repeat), own in zip(placed, by_token, strict=True)
        ]
        chunks = list(_chunks([item.size for item in items], max(CHUNK, _batch_size(host))))
        for number, chunk in enumerate(chunks):
            for place in chunk:
                items[place] = replace(items[place], together=number)
        names = [host.worklist.key(content_of(request, repeat=repeat)) for request, repeat in placed]
        work = host.worklist.open(name, items)
        todo = set(work.todo)
        bar = show(len(todo))
        for chunk in chunks:
            if not todo.isdisjoint(chunk):
                failpoints.moment("baselines.chunk")
                if watched is not None:
                    texts = [requests[place].args[0] for place in chunk if by_token[place] and place in todo]
                    watched.begin(texts if name == "loglikelihood_rolling" else (), prompts=texts)
                seed_host(int(digest([seed, names[chunk[0]]])[:8], 16))  # whatever of it is kept token by token
                found = _asked(ask, [requests[place] for place in chunk], host)
                own = [(place, answer) for place, answer in zip(chunk, found, strict=True) if place in todo]
                for place, answer in own:
                    told = _told(watched, *placed[place], answer, by_token=by_token[place])
                    work.done(place, told, batch_ended=place == own[-1][0])
                bar.advance(len(own), 0)
        bar.close()
        answers = work.close()
        for request, answer in zip(requests, answers, strict=True):
            _keep(host, request, answer)
        return [_read_back(answer.value) for answer in answers]

    return method


def _asked(ask: Callable[..., list[Any]], requests: list[Instance], host: Any) -> list[Any]:
    """What the host answers.

    Raises:
        CheckpointError: it fails in a way that is its own: a model that another wrote, on what a user pointed at.
    """
    try:
        return ask(requests, disable_tqdm=True)
    except BaseException as error:
        if not is_hosts(error):
            raise
        cause = [*str(error).strip().splitlines(), ""][0]
        raise CheckpointError(
            f"baseline {getattr(host.model, 'name_or_path', '')}: transformers failed to answer "
            f"({type(error).__name__}: {cause[:140]}); LTM_EVAL_DEBUG=1 shows where"
        ) from error


def is_hosts(error: BaseException) -> bool:
    """Whether an error is one of the many types that transformers raises of a model it cannot use: neither ours, nor of
    memory or a file, nor a wish to stop. A panic of its tokenizers' Rust code is no `Exception`.
    """
    if type(error).__name__ == "PanicException":
        return True
    if isinstance(error, (LtmEvalError, MemoryError)) or not isinstance(error, Exception):
        return False
    return not (ran_out(error) or "enough memory" in str(error) or (isinstance(error, OSError) and error.errno))


def _by_token(host: Any, name: str, placed: Sequence[tuple[Instance, int]]) -> list[bool]:
    """Of which requests each token's cost is kept: texts, and the first answers, of the first documents."""
    wanted = first_documents([request for request, _ in placed], host.token_nll if name != "loglikelihood" else 0)
    return [is_by_token(request, repeat, wanted) for request, repeat in placed]


def _told(watched: HostWatch | None, request: Instance, repeat: int, answer: Any, *, by_token: bool) -> Answer:
    """An answer with what was seen of it."""
    records: tuple[AnswerRecord, ...] = ()
    tokens: list[TokenRecord | None] = []
    if watched is not None and request.request_type == "generate_until":
        seen = watched.answer(request.args[0], answer)
        records = (answer_record(request, repeat, seen, watched.host),) if seen is not None else ()
        if seen is not None and by_token:
            tokens = [answer_tokens(request, seen, watched.host), target_tokens(request, seen, watched)]
    elif watched is not None and by_token:
        pieces = watched.text_pieces(request.args[0])
        tokens = [text_tokens(request, pieces, watched.host, nats=-float(answer))]
    return Answer(
        _plain(answer),
        tuple(record.to_json() for record in records),
        tokens=tuple(one.to_json() for one in tokens if one is not None),
    )


def _keep(host: Any, request: Instance, answer: Answer) -> None:
    """Keep an answer's sidecar lines, whichever document it was first made for."""
    place = named(request)
    host.answer_records.extend(AnswerRecord.from_json({**row, **place}, where="journal") for row in answer.records)
    host.token_records.extend(TokenRecord.from_json({**row, **place}, where="journal") for row in answer.tokens)


def _bar(progress: Callable[[int, str], Progress], label: str, total: int) -> Progress:
    return progress(total, label)


def _chunks(sizes: Sequence[int], length: int) -> Iterator[list[int]]:
    """Places in runs of `length`, longest first."""
    ordered = sorted(range(len(sizes)), key=lambda place: (-sizes[place], place))
    for start in range(0, len(ordered), length):
        yield ordered[start : start + length]


def _batch_size(host: Any) -> int:
    size = getattr(host, "batch_size", 1)
    return size if isinstance(size, int) else 1


def _plain(answer: Any) -> Any:
    """Text, a number, a number with a flag, or a text's score with its tokens, as JSON holds them."""
    if isinstance(answer, TextScore):
        return answer.to_json()
    if isinstance(answer, (tuple, list)):
        return [float(answer[0]), bool(answer[1])]
    return answer if isinstance(answer, str) else float(answer)


def _read_back(value: Any) -> Any:
    if isinstance(value, dict):
        return TextScore.from_json(value)
    return tuple(value) if isinstance(value, list) else value


def seed_host(seed: int) -> None:
    """A baseline draws from the process's own generators, which only lm-eval's command seeds; an LTM has its own."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what hosts draw from
    if torch.cuda.is_available() and not torch.cuda.is_initialized():
        torch.default_generator.manual_seed(seed)  # the other way would wait for a GPU's first use, long afterwards
    else:
        torch.manual_seed(seed)
