"""The lm-eval task class whose few-shot prompts are keyed by the document.

lm-eval draws few-shot examples from one generator for all documents in turn, so that a document's prompt depends on
rank, order and limit. Here the draw is keyed by the few-shot seed and the document itself. The first 4 of 8 drawn
examples are those of a draw of 4. A document with a field `episode` gets examples of its own episode only.

Condition `other` fits z on another question's examples: a second draw with the same key that excludes the first one's
rows, or comes from another episode. Neither draw depends on rank, order, limit or batch. The prompt of the second draw
travels with the request as `other_prompt`; the request's own prompt is unchanged, so that samples of all conditions
pair by prompt.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask

from ltm_eval.data.metadata import described
from ltm_eval.results.official import NOT_OFFICIAL_FILES
from ltm_eval.system.errors import UsageError, leaving, spelt
from ltm_eval.tasks.arguments import changed_decoding, one_spelling
from ltm_eval.tasks.prompts import OTHER, _canonical, draw
from ltm_eval.tasks.samples import (
    greedy_options,
    keeping_all,
    refuse_greedy,
    repeats_of,
    rethinking_of,
    sampled_options,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set


EPISODE = "episode"  # field that groups documents and training rows


class KeyedSampler(ContextSampler):  # type: ignore[misc]
    """Draws by seed and document, within the document's episode; a row equal to the document is never drawn."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(rows)
        self.seed: int | None = None
        self.document: Mapping[str, Any] = {}
        self.others = False
        self._same: dict[str, list[int]] = {}
        self._episodes: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            self._same.setdefault(_canonical(row), []).append(index)
            if EPISODE in row:
                self._episodes.setdefault(str(row[EPISODE]), []).append(index)

    def set_rnd(self, rnd: int | None) -> KeyedSampler:
        """Set the few-shot seed; None is a seed like any other, so that all ranks agree."""
        self.seed = rnd
        return self

    def sample(self, n: int, *_: Any, **__: Any) -> list[Mapping[str, Any]]:
        """Return `n` rows for `self.document`; with `self.others`, rows of another question."""
        return [self.df[index] for index in (self._other_rows(n) if self.others else self._own_rows(n))]

    def _draw(self, size: int, n: int, purpose: str = "") -> tuple[int, ...]:
        return draw(size, n, seed=self.seed, document=self.document, purpose=purpose)

    def _own_rows(self, n: int) -> list[int]:
        """Return the indices of `n` examples for the document; raise UsageError if there are fewer."""
        same = self._same.get(_canonical(self.document), [])
        if EPISODE not in self.document:
            return [_skipping(i, same) for i in self._draw(len(self.df) - len(same), n)]
        rows = [index for index in self._episodes.get(str(self.document[EPISODE]), []) if index not in same]
        return [rows[i] for i in self._draw(len(rows), n)]

    def _other_rows(self, n: int) -> list[int]:
        """Return the indices of `n` examples of another episode, or of rows outside `_own_rows`."""
        if EPISODE in self.document:
            own = str(self.document[EPISODE])
            fitting = [name for name, rows in self._episodes.items() if name != own and len(rows) >= max(n, 1)]
            if not fitting:
                raise UsageError(
                    f"condition other: no episode except {own!r} has {n} training rows; lower {spelt('shots')}"
                )
            rows = self._episodes[fitting[self._draw(len(fitting), 1, "episode")[0]]]
            return [rows[i] for i in self._draw(len(rows), n, "other")]
        taken = sorted({*self._same.get(_canonical(self.document), []), *self._own_rows(n)})
        return [_skipping(i, taken) for i in self._draw(len(self.df) - len(taken), n, "other")]


def _skipping(index: int, left_out: Sequence[int]) -> int:
    """Return the overall index of the `index`-th row that is not in `left_out` (ascending)."""
    for gap in left_out:
        index += gap <= index
    return index


class KeyedTask(ConfigurableTask):  # type: ignore[misc]
    """A YAML task whose prompts do not depend on rank, order, limit or batch, and never show a test document.

    Under lm-eval's own command an error of this package exits with one line and its code; elsewhere it is raised.
    """

    @staticmethod
    def task_options(definition: Mapping[str, Any]) -> frozenset[str]:
        """Return the names of the task options that the class itself reads, whatever the data."""
        return frozenset(("n", "k", "rethink", "condition") if _generates(definition) else ())

    @leaving
    def __init__(self, config: dict[str, Any]) -> None:
        metadata = config.get("metadata") or {}
        generates = _generates(config)
        self.repeats = repeats_of(metadata) if generates else None
        self.rethinking = rethinking_of(metadata) if generates else None
        self._samplings = [asked for asked in (self.repeats, self.rethinking) if asked is not None]
        self._carried: Set[str] | None = None  # metrics of every document since `build_all_requests`
        self.shows_others = metadata.get("condition") == OTHER
        given = {key: value for key, value in config.items() if key != "class"}
        if self._samplings:
            given["generation_kwargs"] = sampled_options(given.get("generation_kwargs") or {})
            given["filter_list"] = keeping_all(given.get("filter_list"))
        super().__init__(config=given)
        self.sampler = KeyedSampler(list(self.fewshot_docs() or []))
        odd = {
            split: facts["difference"]
            for split, facts in described(self.dataset or {}).items()
            if facts.get("difference") and facts.get("sample") is not True
        }
        if odd:
            self.config.metadata = {**(self.config.metadata or {}), NOT_OFFICIAL_FILES: odd}

    @leaving
    def set_config(self, key: str, value: Any, update: bool = False) -> None:
        """Set an option; reject generation options without effect, and greedy ones for several samples."""
        if key == "generation_kwargs" and update:
            if self._samplings:
                refuse_greedy(one_spelling(value))
            value = changed_decoding(self.config.generation_kwargs or {}, value, task=self.task_name)
            update = False
        super().set_config(key, value, update)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Load the data without lm-eval's warning about custom data sets; `dataset_kwargs` override metadata."""
        load = self.config.custom_dataset
        if callable(load):
            self.dataset = load(**{**(self.config.metadata or {}), **(dataset_kwargs or {})})
        else:
            super().download(dataset_kwargs, **kwargs)

    def fewshot_docs(self) -> Any:
        """Return the few-shot split or samples, else the training rows; never the test split."""
        split, samples = self.fewshot_cfg.split, self.fewshot_cfg.samples
        if split is None and samples is None:
            split = self.config.training_split
        hidden = split == self.config.test_split if split is not None else samples is None
        return None if hidden else super().fewshot_docs()

    @cached_property
    def example_targets(self) -> list[str]:
        """Return the targets of all few-shot examples as text."""
        return [str(self.doc_to_target(doc)) for doc in self.fewshot_docs() or []]

    @leaving
    def build_all_requests(self, **kwargs: Any) -> None:
        """Check the number of shots before lm-eval draws its progress bar."""
        refuse_request_cache(kwargs.get("cache_requests"))
        draw(len(self.sampler.df), self.config.num_fewshot or 0, seed=None, document={})
        self._carried = None
        super().build_all_requests(**kwargs)

    @leaving
    def fewshot_context(self, doc: Mapping[str, Any], num_fewshot: int, **kwargs: Any) -> Any:
        """Return the prompt of `doc`."""
        self.sampler.document = doc
        if num_fewshot < 0:
            draw(len(self.sampler.df), num_fewshot, seed=None, document=doc)
        return super().fewshot_context(doc, num_fewshot, **kwargs)

    def show(self, doc: Mapping[str, Any]) -> list[str]:
        """Return the prompts of a document: its own and, if the condition needs it, the other one.

        Raises:
            UsageError: there are not enough examples.
        """
        own = str(self.fewshot_context(doc, self.config.num_fewshot or 0))
        return [own, *([self._others_context(doc)] if self.shows_others else [])]

    def _others_context(self, doc: Mapping[str, Any]) -> str:
        """Return the prompt with another question's examples."""
        self.sampler.others = True
        try:
            return str(self.fewshot_context(doc, self.config.num_fewshot or 0))
        finally:
            self.sampler.others = False

    def construct_requests(self, doc: Mapping[str, Any], ctx: str, **kwargs: Any) -> Any:
        """Return the greedy request, followed by the sampled and the rethinking request if the task has them."""
        one = super().construct_requests(doc, ctx, **kwargs)
        requests = self._sampled_requests(one) if self._samplings else one
        listed = requests if isinstance(requests, list) else [requests]
        target = self.doc_to_target(doc)  # the target as a continuation of the prompt
        listed[0].reference = f"{self.config.target_delimiter}{target}" if isinstance(target, str) else ""
        if self.shows_others:
            prompt = self._others_context(doc)
            for request in listed:
                request.other_prompt = prompt
        return requests

    def _sampled_requests(self, one: Any) -> list[Any]:
        context, options, *rest = one.arguments
        wanted = [(greedy_options(options), 1)]
        if self.repeats is not None:
            wanted.append((options, self.repeats.n))
        if self.rethinking is not None:
            wanted.append(({**options, "rethink": self.rethinking.rounds}, self.rethinking.answers))
        task, doc_id, _ = one.metadata
        return [
            Instance(one.request_type, one.doc, (context, kwargs, *rest), idx, metadata=(task, doc_id, repeats))
            for idx, (kwargs, repeats) in enumerate(wanted)
        ]

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """Return the task's own scores of the greedy answer and those of the samples."""
        if self._samplings:
            (greedy,), *sampled = results
            scores = dict(super().process_results(doc, [greedy]))
            for asked, resps in zip(self._samplings, sampled, strict=True):
                answers = list(resps)[: asked.answers]  # lm-eval's padding of ranks may add more
                scores |= asked.scores(answers, [self._is_right(doc, answer) for answer in answers])
        else:
            scores = dict(super().process_results(doc, results))
        self._carried = set(scores) if self._carried is None else self._carried & scores.keys()
        return scores

    def _is_right(self, doc: Mapping[str, Any], answer: str) -> bool:
        """Score an answer by the task's first metric."""
        return bool(next(iter(super().process_results(doc, [answer]).values())) == 1)

    def dump_config(self) -> dict[str, Any]:
        """Return lm-eval's configuration with only the metrics that every evaluated document has.

        A task lists the metrics of all kinds of models, and W&B's tables (`lm_eval.loggers.WandbLogger`) look up every
        listed metric in every document.
        """
        dumped = dict(super().dump_config())
        listed, carried = dumped.get("metric_list"), self._carried
        if listed and carried is not None:
            dumped["metric_list"] = [one for one in listed if one["metric"] in carried]
        return dumped

    def aggregation(self) -> dict[str, Any]:
        """Return lm-eval's aggregations and the mean for every metric of samples."""
        return {**super().aggregation(), **{name: mean for asked in self._samplings for name in asked.metrics}}

    def higher_is_better(self) -> dict[str, bool]:
        """Return lm-eval's directions and True for every metric of samples."""
        return {**super().higher_is_better(), **{name: True for asked in self._samplings for name in asked.metrics}}


def _generates(definition: Mapping[str, Any]) -> bool:
    """Return whether a task generates answers that its metric scores one by one."""
    return definition.get("output_type") == "generate_until" and not callable(definition.get("process_results"))


def refuse_request_cache(asked: Any) -> None:
    """Reject lm-eval's request cache, whose key ignores data, metadata, seed and generation options.

    Raises:
        UsageError: the cache is requested.
    """
    if asked:
        raise UsageError(
            "--cache_requests is refused: lm-eval keeps prompts under the name of the task alone and would score those "
            "of other data, seed or options; leave it out"
        )
