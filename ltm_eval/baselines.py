"""Baselines: lm-eval's own models, whose answers go into the journal as an LTM's do.

A host model answers all requests of a call before it returns any, so it is given them in chunks, longest first. A chunk
is fixed by the whole list, never by what is left of it, its draws are seeded by its content, and one process of a job
answers all of it: a resumed or shared run gives the host the same batches and the same random numbers as one that was
not cut off and ran alone.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ltm_eval import failpoints, pulse
from ltm_eval.journal import digest
from ltm_eval.weights import weights_sha256
from ltm_eval.worklist import Answer, Worklist, item_of, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lm_eval.api.instance import Instance

    from ltm_eval.progress import Progress

CHUNK = 32
"""Requests given to the host at once, at least; its batch size where that is more."""
METHODS = {"generate_until": "generating", "loglikelihood": "scoring", "loglikelihood_rolling": "scoring"}


def keep_answers(host: Any, *, seed: int, progress: Callable[[int, str], Progress]) -> Any:
    """Let a host model's three methods look answers up and append what they find.

    Args:
        host: lm-eval's `hf`; gets `settings` and `worklist` as an LTM has them.
        seed: of what it draws.
        progress: shows how far a call is.

    Returns:
        The host.
    """
    host.settings, host.worklist = settings_of(host, seed), Worklist()
    host.model.register_forward_pre_hook(lambda *_: pulse.mark())
    if getattr(host, "batch_size", None) == "auto":
        host.batch_size_per_gpu = host._detect_batch_size()  # which the host would do again with every chunk
    for name, label in METHODS.items():
        setattr(host, name, _kept(host, name, seed=seed, show=partial(_bar, progress, label)))
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
        "tokenizer": digest(sorted(tokenizer.get_vocab().items())),
        "dtype": str(model.dtype),
        "max_length": host.max_length,
        "seed": seed,
        "device": torch.device(host.device).type,
        "versions": {"torch": torch.__version__, **_versions()},
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("ltm-eval", "lm-eval", "transformers")}


def _kept(host: Any, name: str, *, seed: int, show: Callable[[int], Progress]) -> Callable[..., list[Any]]:
    """The host's method of this name with the journal around it."""
    ask = getattr(host, name)

    def method(requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        items = [item_of(request, repeat=repeat) for request, repeat in numbered(requests)]
        chunks = list(_chunks([item.size for item in items], max(CHUNK, _batch_size(host))))
        for number, chunk in enumerate(chunks):
            for place in chunk:
                items[place] = replace(items[place], together=number)
        work = host.worklist.open(name, items)
        todo = set(work.todo)
        bar = show(len(todo))
        for chunk in chunks:
            if not todo.isdisjoint(chunk):
                failpoints.moment("baselines.chunk")
                seed_host(int(digest([seed, work.keys[chunk[0]]])[:8], 16))
                found = ask([requests[place] for place in chunk], disable_tqdm=True)
                own = [(place, answer) for place, answer in zip(chunk, found, strict=True) if place in todo]
                for place, answer in own:
                    work.done(place, Answer(_plain(answer)), batch_ended=place == own[-1][0])
                bar.advance(len(own), 0)
        bar.close()
        return [_read_back(answer.value) for answer in work.close()]

    return method


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
    """Text, a number, or a number with a flag, as JSON holds them."""
    if isinstance(answer, (tuple, list)):
        return [float(answer[0]), bool(answer[1])]
    return answer if isinstance(answer, str) else float(answer)


def _read_back(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def seed_host(seed: int) -> None:
    """A baseline draws from the process's own generators, which only lm-eval's command seeds; an LTM has its own."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what hosts draw from
    torch.manual_seed(seed)
