"""Few-shot prompts: which demonstrations a document gets, and a finished prompt taken apart again.

lm-eval draws demonstrations from one generator for all documents in turn, so that a document's prompt depends on rank,
order and limit. Here the draw is keyed by the few-shot seed and the document itself. A draw of 4 begins a draw of 8.
A document with a field `episode` is shown rows of its own episode only.

Condition `other` (z fitted on another question's demonstrations) needs demonstrations that are not the document's own.
They are a second draw keyed by the same seed and document, which leaves out what the first one drew, or comes from
another episode. So they depend on nothing that stands beside the document: not on rank, order, limit or batch. The
prompt that holds them travels with the request as `other_prompt`; the request's own prompt stays as it is, so that the
samples of all conditions pair by prompt.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from ltm_eval.results.official import NOT_OFFICIAL_FILES
from ltm_eval.system.errors import LtmEvalError, UsageError, leave
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

    from lm_eval.api.task import ConfigurableTask


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set

    from lm_eval.api.task import ConfigurableTask

    KeyedTask: type[ConfigurableTask]


EPISODE = "episode"
"""Field of documents and training rows that belong together."""


class Pool:
    """Training rows that may be shown, by content and by episode."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.size = len(rows)
        self._same: dict[str, list[int]] = {}
        self.episodes: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            self._same.setdefault(_canonical(row), []).append(place)
            if EPISODE in row:
                self.episodes.setdefault(str(row[EPISODE]), []).append(place)

    def own(self, n: int, *, seed: int | None, document: Mapping[str, Any]) -> list[int]:
        """Places of `n` demonstrations for a document.

        Raises:
            UsageError: there are not so many.
        """
        same = self._same.get(_canonical(document), [])
        if EPISODE not in document:
            drawn = draw(self.size - len(same), n, seed=seed, document=document)
            return [_skipping(i, same) for i in drawn]
        places = [place for place in self.episodes.get(str(document[EPISODE]), []) if place not in same]
        return [places[i] for i in draw(len(places), n, seed=seed, document=document)]

    def others(self, n: int, *, seed: int | None, document: Mapping[str, Any]) -> list[int]:
        """Places of `n` demonstrations of another question: another episode's, else none that `own` draws.

        Raises:
            UsageError: there are not so many, or no other episode holds them.
        """
        if EPISODE in document:
            places = self.episodes[self._another_episode(n, seed=seed, document=document)]
            return [places[i] for i in draw(len(places), n, seed=seed, document=document, purpose="other")]
        taken = sorted({*self._same.get(_canonical(document), []), *self.own(n, seed=seed, document=document)})
        drawn = draw(self.size - len(taken), n, seed=seed, document=document, purpose="other")
        return [_skipping(i, taken) for i in drawn]

    def _another_episode(self, n: int, *, seed: int | None, document: Mapping[str, Any]) -> str:
        fitting = [
            name for name, rows in self.episodes.items() if name != str(document[EPISODE]) and len(rows) >= max(n, 1)
        ]
        if not fitting:
            raise UsageError(
                f"condition other: no episode but {str(document[EPISODE])!r} has {n} training rows; lower num_fewshot"
            )
        return fitting[draw(len(fitting), 1, seed=seed, document=document, purpose="episode")[0]]


def __getattr__(name: str) -> Any:
    """`KeyedTask`, made when first asked for: splitting a prompt must not cost the import of lm-eval."""
    if name != "KeyedTask":
        raise AttributeError(f"module 'ltm_eval.tasks.keyed' has no attribute {name!r}")
    return _keyed_task()


@cache
def _keyed_task() -> type[ConfigurableTask]:
    """The task class, on lm-eval's."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import mean
    from lm_eval.api.samplers import ContextSampler
    from lm_eval.api.task import ConfigurableTask

    from ltm_eval.tasks.arguments import changed_decoding, one_spelling

    class KeyedSampler(ContextSampler):  # type: ignore[misc]
        """Draws by seed and document, within the document's episode; a row equal to the document is never drawn."""

        def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
            super().__init__(rows)
            self.seed: int | None = None
            self.document: Mapping[str, Any] = {}
            self.others = False
            self.pool = Pool(rows)

        def set_rnd(self, rnd: int | None) -> KeyedSampler:
            """The few-shot seed; None is a seed like any other, so that all processes agree."""
            self.seed = rnd
            return self

        def sample(self, n: int, *_: Any, **__: Any) -> list[Mapping[str, Any]]:
            """`n` rows for `self.document`; with `self.others`, of another question."""
            find = self.pool.others if self.others else self.pool.own
            return [self.df[place] for place in find(n, seed=self.seed, document=self.document)]

    class KeyedTask(ConfigurableTask):  # type: ignore[misc]
        """A YAML task whose prompts do not depend on rank, order, limit or batch, and never show a test document.

        An error of this package ends lm-eval's own command with one line and its exit code; elsewhere it is raised.
        """

        __qualname__ = "KeyedTask"

        @staticmethod
        def task_options(definition: Mapping[str, Any]) -> frozenset[str]:
            """Names of the task options that the class itself reads, whatever the data."""
            if not _generates(definition):
                return frozenset()
            return frozenset(("n", "k", "rethink", "condition"))

        def __init__(self, config: dict[str, Any]) -> None:
            metadata = config.get("metadata") or {}
            generates = _generates(config)
            try:
                self.repeats = repeats_of(metadata) if generates else None
                self.rethinking = rethinking_of(metadata) if generates else None
            except LtmEvalError as error:
                leave(error)
            self._carried: Set[str] | None = None
            """Metrics that every document since the last `build_all_requests` has."""
            self.shows_others = metadata.get("condition") == OTHER
            given = {key: value for key, value in config.items() if key != "class"}
            super().__init__(config={**given, **self._sampling(given)} if self._samples else given)
            self.sampler = KeyedSampler(list(self.fewshot_docs() or []))
            facts = described(self.dataset or {})
            if odd := {split: one["difference"] for split, one in facts.items() if _is_odd(one)}:
                self.config.metadata = {**(self.config.metadata or {}), NOT_OFFICIAL_FILES: odd}

        @property
        def _samples(self) -> bool:
            return self.repeats is not None or self.rethinking is not None

        @staticmethod
        def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
            return {
                "generation_kwargs": sampled_options(given.get("generation_kwargs") or {}),
                "filter_list": keeping_all(given.get("filter_list")),
            }

        def set_config(self, key: str, value: Any, update: bool = False) -> None:
            """As lm-eval's; a user's generation options must have an effect, and greedy ones are refused where several
            samples were asked for.
            """
            if key == "generation_kwargs" and update:
                try:
                    if self._samples:
                        refuse_greedy(one_spelling(value))
                    value = changed_decoding(self.config.generation_kwargs or {}, value, task=self.task_name)
                except LtmEvalError as error:
                    leave(error)
                update = False
            super().set_config(key, value, update)

        def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            """As lm-eval's, less its warning about custom data sets; `dataset_kwargs` win over metadata."""
            load = self.config.custom_dataset
            try:
                if callable(load):
                    self.dataset = load(**{**(self.config.metadata or {}), **(dataset_kwargs or {})})
                else:
                    super().download(dataset_kwargs, **kwargs)
            except LtmEvalError as error:
                leave(error)

        def fewshot_docs(self) -> Any:
            """Rows that may be shown: the few-shot split or samples, else the training split; never the test split."""
            split, samples = self.fewshot_cfg.split, self.fewshot_cfg.samples
            if split is None and samples is None:
                split = self.config.training_split
            hidden = split == self.config.test_split if split is not None else samples is None
            return None if hidden else super().fewshot_docs()

        def build_all_requests(self, **kwargs: Any) -> None:
            """As lm-eval's, after a look at the number of shots: its progress bar would share the line of an error."""
            try:
                refuse_request_cache(kwargs.get("cache_requests"))
                draw(len(self.sampler.df), self.config.num_fewshot or 0, seed=None, document={})
            except LtmEvalError as error:
                leave(error)
            self._carried = None
            super().build_all_requests(**kwargs)

        def fewshot_context(self, doc: Mapping[str, Any], num_fewshot: int, **kwargs: Any) -> Any:
            """The prompt of `doc`."""
            self.sampler.document = doc
            try:
                if num_fewshot < 0:
                    draw(len(self.sampler.df), num_fewshot, seed=None, document=doc)
                return super().fewshot_context(doc, num_fewshot, **kwargs)
            except LtmEvalError as error:
                leave(error)

        def construct_requests(self, doc: Mapping[str, Any], ctx: str, **kwargs: Any) -> Any:
            """One request; where samples are asked for a greedy one, then the sampled and the rethinking one."""
            one = super().construct_requests(doc, ctx, **kwargs)
            requests = self._sampled_requests(one) if self._samples else one
            first = requests[0] if isinstance(requests, list) else requests
            first.reference = self._reference(doc)
            if self.shows_others:
                prompt = self._others_context(doc)
                for request in requests if isinstance(requests, list) else [requests]:
                    request.other_prompt = prompt
            return requests

        def _reference(self, doc: Mapping[str, Any]) -> str:
            """The answer as it would follow the prompt."""
            target = self.doc_to_target(doc)
            return f"{self.config.target_delimiter}{target}" if isinstance(target, str) else ""

        def show(self, doc: Mapping[str, Any]) -> list[str]:
            """Every prompt that is built for a document: its own and, where the condition asks for it, the other one.

            Raises:
                UsageError: there are not enough demonstrations.
            """
            own = str(self.fewshot_context(doc, self.config.num_fewshot or 0))
            return [own, *([self._others_context(doc)] if self.shows_others else [])]

        def _others_context(self, doc: Mapping[str, Any]) -> str:
            self.sampler.others = True
            try:
                return str(self.fewshot_context(doc, self.config.num_fewshot or 0))
            finally:
                self.sampler.others = False

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
            """Scores of the greedy answer as the task gives them, then those made of the samples."""
            scores = self._scores(doc, results)
            self._carried = scores.keys() if self._carried is None else self._carried & scores.keys()
            return scores

        def dump_config(self) -> dict[str, Any]:
            """As lm-eval's, with those metrics alone that every document of the evaluation has.

            A task lists the metrics of all kinds of models; W&B's tables (`lm_eval.loggers.WandbLogger`) look every
            listed one up in every document.
            """
            told = dict(super().dump_config())
            listed, carried = told.get("metric_list"), self._carried
            if listed and carried is not None:
                told["metric_list"] = [one for one in listed if one["metric"] in carried]
            return told

        def _scores(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
            if not self._samples:
                return dict(super().process_results(doc, results))
            (greedy,), *sampled = results
            scores = dict(super().process_results(doc, [greedy]))
            for asked in (self.repeats, self.rethinking):
                if asked is not None:
                    answers = list(sampled.pop(0))[: asked.answers]  # lm-eval's padding of ranks may add some
                    scores |= asked.scores(answers, [self._is_right(doc, answer) for answer in answers])
            return scores

        def _is_right(self, doc: Mapping[str, Any], answer: str) -> bool:
            """By the task's first metric."""
            return bool(next(iter(super().process_results(doc, [answer]).values())) == 1)

        def aggregation(self) -> dict[str, Any]:
            """As lm-eval's, and the mean of what is made of samples."""
            return {**super().aggregation(), **dict.fromkeys(self._sample_metrics(), mean)}

        def higher_is_better(self) -> dict[str, bool]:
            """As lm-eval's, and of what is made of samples."""
            return {**super().higher_is_better(), **dict.fromkeys(self._sample_metrics(), True)}

        def _sample_metrics(self) -> list[str]:
            return [name for asked in (self.repeats, self.rethinking) if asked is not None for name in asked.metrics]

    KeyedTask.__module__ = __name__
    return KeyedTask


def described(splits: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What was read for each split of a loaded task: files, digests, counts, where its loader tells; else its rows."""
    facts: dict[str, dict[str, Any]] = {}
    for split, dataset in splits.items():
        description = getattr(getattr(dataset, "info", None), "description", None) or ""
        facts[split] = json.loads(description) if description.startswith("{") else {"rows": len(dataset)}
    return facts


def _is_odd(facts: Mapping[str, Any]) -> bool:
    """Whether a loader says that a file is not the published one, and it is not the bundled sample."""
    return bool(facts.get("difference")) and facts.get("sample") is not True


def _generates(definition: Mapping[str, Any]) -> bool:
    """Whether a task's answers are texts that its metric compares one by one."""
    return definition.get("output_type") == "generate_until" and not callable(definition.get("process_results"))


def refuse_request_cache(asked: Any) -> None:
    """Refuse lm-eval's cache of prompts, whose key knows neither data, metadata, seed nor generation options.

    Raises:
        UsageError: it is asked for.
    """
    if asked:
        raise UsageError(
            "--cache_requests is refused: lm-eval keeps prompts under the name of the task alone and would score those "
            "of other data, seed or options; leave it out"
        )


def _skipping(place: int, left_out: Sequence[int]) -> int:
    """The position in the whole pool of position `place` in the pool less `left_out` (ascending)."""
    for gap in left_out:
        place += gap <= place
    return place
