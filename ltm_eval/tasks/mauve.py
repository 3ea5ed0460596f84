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
import logging
import math
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from importlib import import_module
from itertools import islice
from statistics import fmean, stdev
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, FiniteFloat

from ltm_eval.data.metadata import reads
from ltm_eval.data.sets import Texts, documents, load_texts
from ltm_eval.data.sources import PLACE
from ltm_eval.inference.options import AtLeastOne, GenerationConfig
from ltm_eval.model.tokenizer import END_OF_TEXT, Tokenizer, load_gpt2, load_tokenizer
from ltm_eval.system.errors import DataError, MachineError, UsageError, check_choice, leave, leaving, nearest
from ltm_eval.system.options import names_of, options, read
from ltm_eval.system.progress import silent, tqdm_bar
from ltm_eval.tasks.features import FeatureModel, Featuriser, locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    from ltm_eval.system.progress import Progress
    from ltm_eval.tasks.features import Features


Count = Annotated[int, Field(ge=0)]
AtLeastTwo = Annotated[int, Field(ge=2)]


@options(where="mauve_")
class MauveConfig:
    """How MAUVE (arXiv:2102.01454) is measured: which texts, how they are generated, featurised and compared."""

    texts: str = "auto"  # text set of the human texts; `auto` is `webtext`, with the bundled sample data `gsm8k`
    conditional: bool = True  # texts begin with the first tokens of human ones; or are drawn from nothing (z ~ prior)
    prompt_tokens: Count = 50  # GPT-2 tokens of a human text that are the prompt
    continuation_tokens: AtLeastOne = 50  # maximum after the prompt: of GPT-2 in human texts, else the model's own
    shortest_tokens: int | None = None  # GPT-2 tokens of a human text; None asks for prompt and continuation in full
    joined: bool = False  # join examples, with a blank line between, until a text is long enough
    samples: AtLeastTwo = 1_000  # human texts: the first ones that are long enough
    generations: AtLeastOne = 5  # generated texts for each human one, all of them compared at once
    generation_seeds: AtLeastOne = 3  # how often that is repeated with other draws
    # `greedy` takes z = mu, `greedy_z` the likeliest tokens under a drawn z.
    sampling: Literal["multinomial", "nucleus", "greedy", "greedy_z"] = "multinomial"
    temperature: Annotated[FiniteFloat, Field(ge=0)] = 1.0  # divides the logits when sampling
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] = 0.95  # mass of the nucleus
    include_prompt: bool = True  # whether the prompt is part of the texts that are compared
    feature_model: str = "gpt2-large"  # folder or hub id of a `transformers` model: its hidden states are compared
    max_text_length: AtLeastOne = 256  # maximum tokens of a text, the feature model's own, that it reads
    feature_batch_size: AtLeastOne = 8  # texts it reads at once
    feature_device: str = "auto"  # where it runs
    kmeans_seeds: AtLeastOne = 5  # seeds of the clustering; the first is mauve-text's default, 25
    buckets: AtLeastTwo | None = None  # clusters; None is mauve-text's rule, a tenth of the smaller side
    scaling: Annotated[FiniteFloat, Field(gt=0)] = 5.0  # c of the divergence curve exp(-c KL)

    def __post_init__(self) -> None:
        if self.conditional != (self.prompt_tokens > 0):
            raise UsageError(
                f"mauve_prompt_tokens must be at least 1, got {self.prompt_tokens}; for texts without a prompt set "
                "mauve_conditional=false"
            )
        if self.sampling == "greedy" and (self.repeats > 1 or not self.conditional):
            raise UsageError(
                "greedy decoding gives one text per prompt: leave mauve_generations and mauve_generation_seeds at 1 "
                "and mauve_conditional true, or draw z with mauve_sampling=greedy_z"
            )
        self.generation()

    @property
    def repeats(self) -> int:
        """Generated texts for each human one, over all generation seeds."""
        return self.generations * self.generation_seeds

    @property
    def least_tokens(self) -> int:
        """GPT-2 tokens that a human text must have."""
        full = self.prompt_tokens + self.continuation_tokens
        return full if self.shortest_tokens is None else max(self.shortest_tokens, self.prompt_tokens + 1)

    def generation(self) -> GenerationConfig:
        """The options of decoding that `sampling` stands for."""
        sampled = self.sampling != "greedy"
        return GenerationConfig(
            max_new_tokens=self.continuation_tokens,
            do_sample=sampled,
            temperature=self.temperature,
            top_p=self.top_p if self.sampling == "nucleus" else 1.0,
            top_k=1 if self.sampling == "greedy_z" else 0,
        )


MAUVE_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sedd": {},
        "mauve-paper": {
            "prompt_tokens": 35,
            "continuation_tokens": 988,  # 1,024 with the prompt and the end-of-text in front of it
            "shortest_tokens": 36,
            "samples": 5_000,
            "generations": 1,
            "generation_seeds": 5,
            "max_text_length": 1_024,
            "buckets": 500,
        },
    }
)
"""`sedd`: SSD-LM's and SEDD's protocol (arXiv:2310.16834, appendix C.8); `mauve-paper`: arXiv:2102.01454, section 4."""


def mauve_config(preset: str, **changes: Any) -> MauveConfig:
    """A preset with some options replaced.

    Without a prompt its tokens are generated too, so that texts are as long; greedy decoding makes one text per prompt
    unless told otherwise.

    Raises:
        UsageError: the preset is not known, or a value is out of range.
    """
    check_choice("mauve_preset", preset, tuple(MAUVE_PRESETS))
    alone = {"generations": 1, "generation_seeds": 1} if changes.get("sampling") == "greedy" else {}
    values = {**MAUVE_PRESETS[preset], **alone, **changes}
    if not values.get("conditional", MauveConfig.conditional):
        parts = ("prompt_tokens", "continuation_tokens")
        length = sum(values.get(part, getattr(MauveConfig, part)) for part in parts)
        values |= dict(zip(parts, (0, length), strict=True))
    return MauveConfig(**values)


# MAUVE of two sides' features: clusters, the divergence curve, seeds summarised.

FIRST_SEED = 25
"""mauve-text's default."""


@dataclass(frozen=True)
class Comparison:
    """MAUVE of two collections under one k-means seed."""

    value: float
    """0 to 1, higher is nearer."""
    buckets: int
    """Clusters."""
    curve: tuple[tuple[float, float], ...]
    """(exp(-c KL(Q|R)), exp(-c KL(P|R))) for mixtures R, Q first; both near 1 where the texts are alike."""


def check_installed() -> None:
    """Raise MachineError unless mauve-text is there."""
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("mauve", "faiss", "sklearn")):
        raise MachineError("MAUVE needs extra packages: pip install 'ltm-eval[mauve]'")


def buckets_for(smaller: int, config: MauveConfig, *, of: int) -> int:
    """Clusters for a comparison whose smaller side has `smaller` texts.

    mauve-text's rule, a tenth of it, or the number asked for; in proportion where `smaller` is less than the `of` texts
    it was asked for (a half of the human texts, a limited run), and never more than texts.
    """
    if config.buckets is None:
        return max(2, round(smaller / 10))
    return max(2, min(smaller, round(config.buckets * min(1.0, smaller / of))))


def compare(p: Features, q: Features, *, buckets: int, seed: int, scaling: float) -> Comparison:
    """MAUVE of two collections of features.

    Args:
        p: (texts, D) of human texts.
        q: (texts, D) of generated texts.
        buckets: clusters.
        seed: of k-means.
        scaling: c.

    Raises:
        MachineError: mauve-text is not installed.
    """
    check_installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of faiss' and scikit-learn's imports, and of PCA where all texts are alike
        try:
            faiss: Any = import_module("faiss")
            from mauve import compute_mauve
        except ImportError as error:
            raise MachineError(
                f"MAUVE's packages cannot be imported ({error}); install them anew: pip install 'ltm-eval[mauve]'"
            ) from error

        class Quiet(faiss.Kmeans):  # type: ignore[misc]
            """Does not print that there are fewer than 39 texts a cluster, which mauve-text's own rule implies."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs, min_points_per_centroid=1)

        talking, faiss.Kmeans = faiss.Kmeans, Quiet
        try:
            found = compute_mauve(
                p_features=p, q_features=q, num_buckets=buckets, seed=seed, mauve_scaling_factor=scaling, verbose=False
            )
        finally:
            faiss.Kmeans = talking
    curve = tuple((float(x), float(y)) for x, y in found.divergence_curve)
    return Comparison(float(found.mauve), buckets, curve)


def spread(values: Sequence[float]) -> float:
    """Standard deviation; not a number for fewer than two values."""
    return stdev(values) if len(values) > 1 else math.nan


def ceiling(p: Features, config: MauveConfig, *, seed: int) -> Comparison | None:
    """Two disjoint halves of the human texts against each other; nothing for fewer than four texts."""
    half = len(p) // 2
    if half < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(p))
    buckets = buckets_for(half, config, of=config.samples)
    return compare(p[order[:half]], p[order[half : 2 * half]], buckets=buckets, seed=seed, scaling=config.scaling)


def _middle(found: Sequence[Comparison]) -> tuple[tuple[float, float], ...]:
    """The curve of the comparison with the median score."""
    return sorted(found, key=lambda one: one.value)[len(found) // 2].curve if found else ()


# Human texts that MAUVE compares with: cut at GPT-2 tokens into prompt and continuation.

log = logging.getLogger(__name__)
_CHARACTERS_PER_TOKEN = 16  # encode no more of a long text than this times the tokens that are wanted


@dataclass(frozen=True)
class Reference:
    """A human text."""

    prompt: str
    """Its first tokens; empty without a prompt."""
    continuation: str
    """What follows."""


def cut(text: str, tokenizer: Tokenizer, config: MauveConfig) -> Reference | None:
    """Prompt and continuation of a text; nothing where it is too short. Cuts never fall inside a character."""
    most = config.prompt_tokens + config.continuation_tokens
    beginning = text[: _CHARACTERS_PER_TOKEN * most]
    ids = tokenizer.encode(beginning)
    if len(ids) <= most and len(beginning) < len(text):
        ids = tokenizer.encode(text)
    if len(ids) < config.least_tokens:
        return None
    prompt = _decoded(ids[: config.prompt_tokens], tokenizer)
    return Reference(prompt, _decoded(ids[:most], tokenizer)[len(prompt) :])


def _decoded(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The longest beginning of `ids` that is text."""
    return tokenizer.decode_bytes(ids).decode("utf-8", "ignore")


def joined(wholes: Sequence[str], tokenizer: Tokenizer, least_tokens: int) -> Iterator[str]:
    """Texts of at least `least_tokens` tokens: consecutive ones with a blank line between; a short rest is left out."""
    held = ""
    for whole in wholes:
        held = f"{held}\n\n{whole}" if held else whole
        if len(tokenizer.encode(held)) >= least_tokens:
            yield held
            held = ""


def references(texts: Texts, tokenizer: Tokenizer, config: MauveConfig) -> list[Reference]:
    """The first `config.samples` texts that are long enough.

    Raises:
        DataError: fewer than two are, or a text holds the end-of-text mark.
    """
    wholes: Any = ("".join(parts) for parts in documents(texts))
    if config.joined:
        wholes = joined(list(wholes), tokenizer, config.least_tokens)
    cuts = (reference for text in wholes if (reference := cut(_unmarked(text, texts), tokenizer, config)) is not None)
    found = list(islice(cuts, config.samples))
    if len(found) < 2:
        raise DataError(
            f"{texts.name} in {texts.source}: {len(found)} of {len(texts.examples):,} texts have the "
            f"{config.least_tokens} GPT-2 tokens that prompt and continuation take; lower mauve_prompt_tokens or "
            "mauve_continuation_tokens, set mauve_joined=true, or name another set by mauve_texts"
        )
    if len(found) < config.samples:
        log.warning(
            "%s: %s of the %s texts asked for are there and long enough", texts.name, len(found), config.samples
        )
    return found


def _unmarked(text: str, texts: Texts) -> str:
    if END_OF_TEXT in text:
        raise DataError(
            f"{texts.name} in {texts.source}: {END_OF_TEXT} stands in an example, and models read it as the end of a "
            "text; remove it"
        )
    return text


# How long and how repetitive texts are, over words (what stands between white space); averaged text by text.
#
# A MAUVE without these is easily misread: short or looping texts can score high.

DISTINCT = (1, 2, 3)
REPEATED = (2, 3, 4)


@dataclass(frozen=True)
class TextFacts:
    """Of a collection of texts."""

    texts: int
    """How many."""
    empty: int
    """Of these, without a word."""
    words: float
    """Mean number of words."""
    words_sd: float
    """Standard deviation of that number over texts."""
    distinct: dict[str, float]
    """n to distinct-n: different n-grams over n-grams of all texts together (arXiv:1510.03055)."""
    repeated: dict[str, float]
    """n to rep-n: share of a text's n-grams that occurred in it before, mean over texts (arXiv:1908.04319)."""


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct_share(texts: Sequence[str], n: int) -> float:
    """Different n-grams over n-grams, all texts pooled; not a number where there is none."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        counts.update(ngrams(text.split(), n))
    return len(counts) / counts.total() if counts else math.nan


def repeated_share(texts: Sequence[str], n: int) -> float:
    """1 - different n-grams over n-grams of one text, mean over those that have one; else not a number."""
    grams = [found for text in texts if (found := ngrams(text.split(), n))]
    return fmean(1 - len(set(found)) / len(found) for found in grams) if grams else math.nan


def copied_share(texts: Sequence[str]) -> float:
    """Share of at least one texts that equal another one before them."""
    return 1 - len(set(texts)) / len(texts)


def facts_of(texts: Sequence[str]) -> TextFacts:
    """Length and repetition of at least one text."""
    lengths = [len(text.split()) for text in texts]
    mean = fmean(lengths)
    return TextFacts(
        texts=len(texts),
        empty=sum(length == 0 for length in lengths),
        words=mean,
        words_sd=math.sqrt(fmean((length - mean) ** 2 for length in lengths)),
        distinct={str(n): distinct_share(texts, n) for n in DISTINCT},
        repeated={str(n): repeated_share(texts, n) for n in REPEATED},
    )


def mean_facts(collections: Sequence[Sequence[str]]) -> TextFacts:
    """Facts of each collection, averaged; `texts` and `empty` are sums.

    distinct-n falls as texts are added, so texts are compared in collections of equal size.
    """
    found = [facts_of(texts) for texts in collections]
    return TextFacts(
        texts=sum(one.texts for one in found),
        empty=sum(one.empty for one in found),
        words=fmean(one.words for one in found),
        words_sd=fmean(one.words_sd for one in found),
        distinct={str(n): fmean(one.distinct[str(n)] for one in found) for n in DISTINCT},
        repeated={str(n): fmean(one.repeated[str(n)] for one in found) for n in REPEATED},
    )


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    from ltm_eval.system.progress import Progress

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
    given = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    known = [*names_of(MauveConfig), *_ELSEWHERE]
    for name in given:
        if name not in known:
            hint = nearest(PREFIX + name, [PREFIX + one for one in known])
            raise UsageError(
                f"MAUVE option {PREFIX + name!r} is not known.{hint} Known after {PREFIX!r}: {', '.join(known)}"
            )
    changes = {
        name: read(MauveConfig, name, value, spelled=PREFIX + name)
        for name, value in given.items()
        if name not in _ELSEWHERE
    }
    for name, sampling in (("top_p", ("nucleus",)), ("temperature", ("multinomial", "nucleus"))):
        if name in changes and (asked := changes.get("sampling", MauveConfig.sampling)) not in sampling:
            raise UsageError(f"{PREFIX}{name} has no effect on {PREFIX}sampling={asked}; leave it out")
    if changes.get("texts", MauveConfig.texts) == MauveConfig.texts:
        changes["texts"] = "gsm8k" if _place(metadata)["data"] == "sample" else "webtext"
    if changes["texts"] == "gsm8k":
        changes.setdefault("joined", True)  # a problem is shorter than a prompt with its continuation
    return mauve_config(str(given.get("preset", "sedd")), **changes)


def _place(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Where the text set is looked for: `mauve_data`, `mauve_split`, `mauve_file`, else the keys without prefix."""
    found = {key: metadata.get(PREFIX + key, metadata.get(key)) for key in ("data", "split", "file")}
    found["data"] = found["data"] if found["data"] is not None else metadata.get("data_dir")
    return {key: value if value is None else str(value) for key, value in found.items()}


# For lm-eval --------------------------------------------------------------------------------------------------------


def _read_by_mauve(metadata: Mapping[str, Any]) -> set[str]:
    """Task options that change anything beside these ones: all but those that a more special one overrides."""
    own = {PREFIX + name for name in (*names_of(MauveConfig), *_ELSEWHERE)}
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
    raise AttributeError(f"module 'ltm_eval.tasks.mauve' has no attribute {name!r}")


@cache
def _mauve_task() -> type[ConfigurableTask]:
    """The task class."""
    from ltm_eval.tasks.keyed import KeyedTask

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
