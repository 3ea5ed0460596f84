"""MAUVE (arXiv:2102.01454): how near generated texts come to human ones, as an lm-eval task that any model can run.

The task is `generate_until` over prompts cut from human texts, `repeats` of each, and an aggregation over all answers;
so it needs no code of a model's own, and an LTM stands beside GPT-2 on the same prompts. Without a prompt there is one
request, the end-of-text token, with as many repeats as texts are wanted: each repeat has its own draws of z and tokens
(requests with equal prompts would share them), and any lm-eval model begins a text from it. Answers are in lm-eval's
samples file, so that nothing is lost with the figure; what lm-eval has no room for (curves, seeds, lengths) is the
`Summary`, which `run` adds to the results file.

Figures come from mauve-text (extra `mauve`), features from `features`. MAUVE depends on the number of texts (fewer
raise it), the buckets, the k-means seed and the draws: the figure is a mean over seeds, with its standard deviation and
the MAUVE of human against human texts beside it. What cannot work is found out before anything is generated.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from functools import cache, lru_cache
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ltm_eval.corpora import PLACE
from ltm_eval.errors import DataError, UsageError, leave, leaving, nearest
from ltm_eval.features import FeatureModel, Featuriser, locate
from ltm_eval.mauve_config import MauveConfig, mauve_config
from ltm_eval.mauve_scores import FIRST_SEED, _middle, buckets_for, ceiling, check_installed, compare, spread
from ltm_eval.mauve_texts import Reference, references
from ltm_eval.plug import reads
from ltm_eval.progress import silent, tqdm_bar
from ltm_eval.repetition import TextFacts, copied_share, facts_of, mean_facts
from ltm_eval.texts import load_texts
from ltm_eval.tokenizer import END_OF_TEXT, load_gpt2, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    from ltm_eval.progress import Progress

    MauveTask: type[ConfigurableTask]


SPLIT = "references"
"""Name under which lm-eval finds the prompts."""
METRICS = (
    "mauve",
    "mauve_sd",
    "mauve_ceiling",
    "mauve_ceiling_sd",
    "words",
    "words_human",
    "distinct_2",
    "distinct_2_human",
    "rep_3",
    "rep_3_human",
)
PREFIX = "mauve_"
_ELSEWHERE = ("data", "split", "file", "tokenizer", "preset")


# Human texts --------------------------------------------------------------------------------------------------------


# Options ------------------------------------------------------------------------------------------------------------


def options_of(metadata: Mapping[str, Any]) -> MauveConfig:
    """The options in lm-eval's `--metadata`: fields of `MauveConfig` as `mauve_<field>`, and `mauve_preset`.

    Raises:
        UsageError: a key that begins with `mauve_` is not one, or a value is of the wrong kind or out of range.
    """
    kinds = {field.name: str(field.type) for field in fields(MauveConfig)}
    given = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    known = [*kinds, *_ELSEWHERE]
    for name in given:
        if name not in known:
            hint = nearest(PREFIX + name, [PREFIX + one for one in known])
            raise UsageError(
                f"MAUVE option {PREFIX + name!r} is not known.{hint} Known after {PREFIX!r}: {', '.join(known)}"
            )
    changes = {name: _value(name, value, kinds[name]) for name, value in given.items() if name in kinds}
    for name, sampling in (("top_p", ("nucleus",)), ("temperature", ("multinomial", "nucleus"))):
        if name in changes and (asked := changes.get("sampling", MauveConfig.sampling)) not in sampling:
            raise UsageError(f"{PREFIX}{name} has no effect on {PREFIX}sampling={asked}; leave it out")
    if changes.get("texts", MauveConfig.texts) == MauveConfig.texts:
        changes["texts"] = "gsm8k" if _place(metadata)["data"] == "sample" else "webtext"
    if changes["texts"] == "gsm8k":
        changes.setdefault("joined", True)  # a problem is shorter than a prompt with its continuation
    return mauve_config(str(given.get("preset", "sedd")), **changes)


def _value(name: str, value: Any, kind: str) -> Any:
    """A JSON value, which a command line may have turned into text, as a field's type."""
    wanted = kind.partition(" ")[0]
    try:
        if value is None and kind.endswith("None"):
            return None
        if wanted == "bool":
            return {"true": True, "false": False}[str(value).lower()]
        if wanted in {"int", "float"} and not isinstance(value, bool):
            number = float(value)
            if wanted == "float" or number == int(number):
                return number if wanted == "float" else int(number)
        elif wanted == "str":
            return str(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    names = {"bool": "true or false", "int": "a whole number", "float": "a number"}
    raise UsageError(f"{PREFIX}{name} must be {names[wanted]}, got {value!r}")


def _place(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Where the text set is looked for: `mauve_data`, `mauve_split`, `mauve_file`, else the keys without prefix."""
    found = {key: metadata.get(PREFIX + key, metadata.get(key)) for key in ("data", "split", "file")}
    found["data"] = found["data"] if found["data"] is not None else metadata.get("data_dir")
    return {key: value if value is None else str(value) for key, value in found.items()}


# For lm-eval --------------------------------------------------------------------------------------------------------


def _read_by_mauve(metadata: Mapping[str, Any]) -> set[str]:
    """Task options that change anything beside these ones: all but those that a more special one overrides."""
    own = {PREFIX + name for name in (*(field.name for field in fields(MauveConfig)), *_ELSEWHERE)}
    parts = (*PLACE, "split", "file")
    return own | {key for key in parts if PREFIX + key.removesuffix("_dir") not in metadata}


@reads(_read_by_mauve)
def mauve_dataset(**metadata: Any) -> dict[str, Dataset]:
    """Prompts for lm-eval's `custom_dataset`: rows `prompt`, `references` (continuations) under the split `references`.

    The options, the place of the human texts and the feature model stand as JSON in the data set's description.

    Args:
        metadata: lm-eval passes `--metadata` and all model arguments; see `options_of`. `mauve_tokenizer` names a file
            of mergeable ranks that counts the tokens of human texts in GPT-2's place.

    Raises:
        LtmEvalError: mauve-text, the feature model, the texts or GPT-2's vocabulary are missing; an option is wrong.
    """
    from datasets import Dataset, DatasetInfo

    config = options_of(metadata)
    model = rehearse(config)
    texts = load_texts(config.texts, **_place(metadata))
    spec = metadata.get(f"{PREFIX}tokenizer")
    tokenizer = load_gpt2() if spec is None else load_tokenizer(str(spec))
    found = references(texts, tokenizer, config)
    rows = [{"prompt": one.prompt, "references": [one.continuation]} for one in found]
    if not config.conditional:
        rows = [{"prompt": END_OF_TEXT, "references": [one.continuation for one in found]}]
    facts = {
        "mauve": asdict(config),
        "feature_model_digest": model.digest,
        "tokenizer": tokenizer.name,
        **asdict(texts),
        "examples": len(texts.examples),
        "long_enough": len(found),
    }
    return {SPLIT: Dataset.from_list(rows, info=DatasetInfo(description=json.dumps(facts)))}


def target(doc: Mapping[str, Any]) -> str:
    """The human continuation of a prompt."""
    return str(doc["references"][0]) if len(doc["references"]) == 1 else ""


def every(resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
    """lm-eval's filter that keeps all answers of a request."""
    return [list(answers) for answers in resps]


@dataclass(frozen=True)
class Answers:
    """What one request gave; the per-document value of every metric."""

    prompt: str
    """Prompt, empty without one."""
    references: tuple[str, ...]
    """Human continuations."""
    responses: tuple[str, ...]
    """Generated continuations, those of one generation seed together."""
    config: MauveConfig
    """How they are compared."""
    progress: Callable[[int, str], Progress] = field(default=silent, compare=False)
    """Where featurising reports."""

    def to_json(self) -> None:
        """Nothing: no figure of one document exists, and its texts stand in the samples file already."""
        return

    def __str__(self) -> str:
        return f"{len(self.responses)} continuations"


def _figure(name: str) -> Callable[[Sequence[Answers]], float]:
    @leaving
    def figure(items: Sequence[Answers]) -> float:
        return summary_of(tuple(items)).figures()[name]

    figure.__doc__ = f"`{name}` of all answers."
    return figure


def __getattr__(name: str) -> Any:
    """`MauveTask`, made when first asked for, and an aggregation for each of METRICS."""
    if name == "MauveTask":
        return _mauve_task()
    if name in METRICS:
        return _figure(name)
    raise AttributeError(f"module 'ltm_eval.mauve' has no attribute {name!r}")


@cache
def _mauve_task() -> type[ConfigurableTask]:
    """The task class."""
    from ltm_eval.fewshot import KeyedTask

    class MauveTask(KeyedTask):  # type: ignore[misc]
        """A YAML task whose repeats and decoding follow its MAUVE options; `--gen_kwargs` wins over them."""

        __qualname__ = "MauveTask"

        @staticmethod
        def task_options(definition: Mapping[str, Any]) -> frozenset[str]:
            """None beside those of `mauve_dataset`."""
            return frozenset()

        progress: Callable[[int, str], Progress] = staticmethod(tqdm_bar)

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config={**config, "process_results": self.answers})
            facts = json.loads(self.dataset[SPLIT].info.description)
            self.mauve = MauveConfig(**facts["mauve"])
            decoding = self.mauve.generation()
            told = {
                "until": [],
                "max_gen_toks": decoding.max_new_tokens,
                "do_sample": decoding.do_sample,
                "temperature": decoding.temperature if decoding.do_sample else 0.0,
            }
            if decoding.do_sample:
                told |= {"top_p": decoding.top_p, "top_k": decoding.top_k}
            self.set_config("generation_kwargs", told)
            self.texts = 1 if self.mauve.conditional else facts["long_enough"]
            self.set_config("repeats", self.texts * self.mauve.repeats)

        def build_all_requests(self, *, limit: int | None = None, **kwargs: Any) -> None:
            """As lm-eval's, after a look at decoding: repeats of a greedy request are all the same.

            Without a prompt there is one document, and `limit` counts the human texts.
            """
            if not self.mauve.conditional:
                whole = len(self.dataset[SPLIT][0]["references"])
                self.texts = whole if limit is None else min(whole, max(2, limit))
                self.set_config("repeats", self.texts * self.mauve.repeats)
            if self.config.repeats > 1 and not self.config.generation_kwargs.get("do_sample"):
                leave(UsageError("greedy decoding gives one text per prompt; ask for it by mauve_sampling=greedy"))
            super().build_all_requests(limit=limit, **kwargs)

        def answers(self, doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, Answers]:
            """The same answers under every metric."""
            return dict.fromkeys(METRICS, self._answers(doc, results[0]))

        def _answers(self, doc: Mapping[str, Any], responses: Sequence[str]) -> Answers:
            prompt = doc["prompt"] if self.mauve.conditional else ""
            human = tuple(doc["references"][: self.texts])
            return Answers(prompt, human, tuple(responses), self.mauve, self.progress)

        def generation_facts(self) -> dict[str, Any]:
            """The summary of the answers just given, for the results file."""
            items = [self._answers(one.doc, one.filtered_resps["none"]) for one in self.instances]
            told = {**asdict(self.mauve), **self.config.generation_kwargs}
            return {"options": told, **summary_of(tuple(items)).to_json()}

    MauveTask.__module__ = __name__
    return MauveTask


# Comparing ----------------------------------------------------------------------------------------------------------


def rehearse(config: MauveConfig) -> FeatureModel:
    """Featurise and compare a little, so that what is missing or broken is known before hours of generation.

    Raises:
        LtmEvalError: mauve-text or the feature model cannot be used.
    """
    check_installed()
    featuriser = featuriser_of(config)
    featuriser.features(["A text."])
    points = np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32)
    compare(points, points, buckets=2, seed=FIRST_SEED, scaling=config.scaling)
    return featuriser.model


@dataclass(frozen=True)
class Summary:
    """Everything about one model's texts."""

    scores: tuple[tuple[float, ...], ...]
    """MAUVE by generation seed, then k-means seed."""
    ceiling: tuple[float, ...]
    """MAUVE of one half of the human texts against the other, by k-means seed, each with another split."""
    buckets: int
    """Clusters."""
    ceiling_buckets: int
    """Clusters of the ceiling."""
    n_human: int
    """Human texts."""
    n_generated: int
    """Generated texts that are compared at once."""
    curve: tuple[tuple[float, float], ...]
    """Divergence curve of the comparison with the median score."""
    ceiling_curve: tuple[tuple[float, float], ...]
    """The same of the ceiling."""
    generated: TextFacts
    """Of generated continuations, in collections of `n_human`."""
    human: TextFacts
    """Of human continuations."""
    copies: float
    """Share of the texts compared at once that equal one before them."""
    copies_human: float
    """The same of human texts."""
    feature_model: str
    """Name of the feature model."""
    feature_model_digest: str
    """What it is."""

    def to_json(self) -> dict[str, Any]:
        """A plain mapping with the derived figures."""
        return {**asdict(self), **self.figures(), **self.spreads()}

    def figures(self) -> dict[str, float]:
        """A value for each of METRICS; not a number where a single value leaves the spread open."""
        flat = [value for row in self.scores for value in row]
        return {
            "mauve": fmean(flat),
            "mauve_sd": spread(flat),
            "mauve_ceiling": fmean(self.ceiling) if self.ceiling else math.nan,
            "mauve_ceiling_sd": spread(self.ceiling),
            "words": self.generated.words,
            "words_human": self.human.words,
            "distinct_2": self.generated.distinct["2"],
            "distinct_2_human": self.human.distinct["2"],
            "rep_3": self.generated.repeated["3"],
            "rep_3_human": self.human.repeated["3"],
        }

    def spreads(self) -> dict[str, float]:
        """Where the spread comes from: standard deviations over k-means seeds and over generation seeds."""
        within = [spread(row) for row in self.scores]
        return {"sd_kmeans": fmean(within), "sd_generation": spread([fmean(row) for row in self.scores])}


def featuriser_of(config: MauveConfig, progress: Callable[[int, str], Progress] = silent) -> Featuriser:
    """The feature model with these settings."""
    return Featuriser(
        locate(config.feature_model),
        config.max_text_length,
        config.feature_batch_size,
        config.feature_device,
        progress,
    )


@lru_cache(maxsize=1)
def summary_of(items: tuple[Answers, ...]) -> Summary:
    """Compare all answers with all human texts; the last result is kept, since every metric asks for it.

    Raises:
        LtmEvalError: the feature model cannot be used, or requests have different numbers of answers.
    """
    config = items[0].config
    human, groups = _sides(items)
    featuriser = featuriser_of(config, items[0].progress)
    p = featuriser.features([_compared(one, config) for one in human])
    sides = [featuriser.features([_compared(one, config) for one in group]) for group in groups]
    seeds = range(FIRST_SEED, FIRST_SEED + config.kmeans_seeds)
    buckets = buckets_for(min(len(p), len(sides[0])), config, of=config.samples)
    compared = [[compare(p, q, buckets=buckets, seed=seed, scaling=config.scaling) for seed in seeds] for q in sides]
    ceilings = [found for seed in seeds if (found := ceiling(p, config, seed=seed)) is not None]
    slots = [group[start :: config.generations] for group in groups for start in range(config.generations)]
    return Summary(
        scores=tuple(tuple(one.value for one in row) for row in compared),
        ceiling=tuple(one.value for one in ceilings),
        buckets=buckets,
        ceiling_buckets=ceilings[0].buckets if ceilings else 0,
        n_human=len(p),
        n_generated=len(sides[0]),
        curve=_middle([one for row in compared for one in row]),
        ceiling_curve=_middle(ceilings),
        generated=mean_facts([[one.continuation for one in slot] for slot in slots]),
        human=facts_of([one.continuation for one in human]),
        copies=fmean(copied_share([_compared(one, config) for one in group]) for group in groups),
        copies_human=copied_share([_compared(one, config) for one in human]),
        feature_model=config.feature_model,
        feature_model_digest=featuriser.model.digest,
    )


def _sides(items: Sequence[Answers]) -> tuple[list[Reference], list[list[Reference]]]:
    """Human texts, and generated ones by generation seed, those of one prompt side by side."""
    config = items[0].config
    counts = {len(one.responses) for one in items}
    if len(counts) > 1 or min(counts) % config.repeats or not min(counts):
        raise DataError(f"every prompt needs a multiple of {config.repeats} answers, got {sorted(counts)}")
    human = [Reference(one.prompt, text) for one in items for text in one.references]
    size = min(counts) // config.generation_seeds
    groups = [
        [Reference(one.prompt, text) for one in items for text in one.responses[seed * size : (seed + 1) * size]]
        for seed in range(config.generation_seeds)
    ]
    return human, groups


def _compared(one: Reference, config: MauveConfig) -> str:
    """The text that is featurised."""
    return one.prompt + one.continuation if config.include_prompt else one.continuation
