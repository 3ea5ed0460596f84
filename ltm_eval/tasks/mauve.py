"""MAUVE (arXiv:2102.01454): how close generated texts are to human ones, as an lm-eval task for any model.

The task is `generate_until` over prompts cut from human texts, each repeated, with an aggregation over all answers, so
that any lm-eval model runs on the same prompts. Without a prompt there is a single request, the end-of-text token, with
one repeat per text: each repeat has its own draws of z and tokens (requests with equal prompts would share them). The
answers are in lm-eval's samples file; curves, seeds and lengths are in the `Summary`, which `run` adds to the results.

MAUVE itself is computed by mauve-text (extra `mauve`). It depends on the number of texts (fewer raise it), the buckets,
the k-means seed and the draws: the figure is a mean over seeds, reported with its standard deviation and the MAUVE of
human against human texts. Length and repetition (over words between white space) are reported too, since short or
looping texts can score high. Options, texts and packages are checked before anything is generated.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import import_module
from itertools import islice
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from ltm_eval.data.metadata import dataset_of, described, reads
from ltm_eval.data.sets import documents, load_texts
from ltm_eval.data.sources import Split
from ltm_eval.model.tokenizer import END_OF_TEXT, Tokenizer, load_gpt2, load_tokenizer
from ltm_eval.system.errors import DataError, MachineError, UsageError, leaving
from ltm_eval.system.progress import Bar, silent
from ltm_eval.tasks.features import FeatureModel, Featuriser, locate
from ltm_eval.tasks.keyed import KeyedTask
from ltm_eval.tasks.mauve_options import PREFIX, MauveConfig, options_of, place_of, read_by_mauve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset

    from ltm_eval.system.progress import Progress
    from ltm_eval.tasks.features import Features


log = logging.getLogger(__name__)

SPLIT = "references"  # the split of the prompts
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
FIRST_SEED = 25  # of k-means: mauve-text's default
DISTINCT = (1, 2, 3)
REPEATED = (2, 3, 4)
_CHARACTERS_PER_TOKEN = 16  # encode no more of a long text than this times the tokens needed


@dataclass(frozen=True)
class Reference:
    """A text split into its first tokens (empty without a prompt) and the rest."""

    prompt: str
    continuation: str


def cut(text: str, tokenizer: Tokenizer, config: MauveConfig) -> Reference | None:
    """Cut a text into prompt and continuation, never inside a character; None if it is too short."""
    most = config.prompt_tokens + config.continuation_tokens
    beginning = text[: _CHARACTERS_PER_TOKEN * most]
    ids = tokenizer.encode(beginning)
    if len(ids) <= most and len(beginning) < len(text):
        ids = tokenizer.encode(text)
    if len(ids) < config.least_tokens:
        return None
    prompt = tokenizer.decode_bytes(ids[: config.prompt_tokens]).decode("utf-8", "ignore")
    return Reference(prompt, tokenizer.decode_bytes(ids[:most]).decode("utf-8", "ignore")[len(prompt) :])


def joined(wholes: Iterable[str], tokenizer: Tokenizer, least_tokens: int) -> Iterator[str]:
    """Join consecutive texts by blank lines until each has `least_tokens` tokens; drop a short remainder."""
    held = ""
    for whole in wholes:
        held = f"{held}\n\n{whole}" if held else whole
        if len(tokenizer.encode(held)) >= least_tokens:
            yield held
            held = ""


def references(texts: Split, tokenizer: Tokenizer, config: MauveConfig) -> list[Reference]:
    """Return the first `config.samples` texts that are long enough.

    Raises:
        DataError: fewer than two are, or a text contains the end-of-text mark (`sets.documents`).
    """
    wholes: Iterable[str] = ("".join(parts) for parts in documents(texts))
    if config.joined:
        wholes = joined(wholes, tokenizer, config.least_tokens)
    cuts = (one for one in (cut(text, tokenizer, config) for text in wholes) if one is not None)
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


@dataclass(frozen=True)
class TextFacts:
    """Length and repetition of a collection of texts."""

    texts: int
    empty: int  # texts without words
    words: float  # mean
    words_sd: float
    distinct: dict[str, float]  # n to distinct-n: distinct n-grams / n-grams, over all texts (arXiv:1510.03055)
    repeated: dict[str, float]  # n to rep-n: mean share of repeated n-grams per text (arXiv:1908.04319)


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all n-grams of words."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct_share(texts: Sequence[str], n: int) -> float:
    """Return distinct n-grams / n-grams over all texts; NaN if there is none."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        counts.update(ngrams(text.split(), n))
    return len(counts) / counts.total() if counts else math.nan


def repeated_share(texts: Sequence[str], n: int) -> float:
    """Return 1 - distinct n-grams / n-grams per text, averaged over texts that have one; NaN if none has."""
    grams = [found for text in texts if (found := ngrams(text.split(), n))]
    return fmean(1 - len(set(found)) / len(found) for found in grams) if grams else math.nan


def copied_share(texts: Sequence[str]) -> float:
    """Return the share of texts that equal an earlier one."""
    return 1 - len(set(texts)) / len(texts)


def facts_of(texts: Sequence[str]) -> TextFacts:
    """Return length and repetition of at least one text."""
    lengths = [len(text.split()) for text in texts]
    mean = fmean(lengths)
    return TextFacts(
        texts=len(texts),
        empty=lengths.count(0),
        words=mean,
        words_sd=math.sqrt(fmean((length - mean) ** 2 for length in lengths)),
        distinct={str(n): distinct_share(texts, n) for n in DISTINCT},
        repeated={str(n): repeated_share(texts, n) for n in REPEATED},
    )


def mean_facts(collections: Sequence[Sequence[str]]) -> TextFacts:
    """Return the facts of each collection, averaged; `texts` and `empty` are sums.

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


@dataclass(frozen=True)
class Comparison:
    """MAUVE of two collections under one k-means seed."""

    value: float  # 0 to 1, higher is closer
    buckets: int
    curve: tuple[tuple[float, float], ...]  # (exp(-c KL(Q|R)), exp(-c KL(P|R))) for mixtures R, Q first


def check_installed() -> None:
    """Raise MachineError unless mauve-text is installed."""
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("mauve", "faiss", "sklearn")):
        raise MachineError("MAUVE needs extra packages: pip install 'ltm-eval[mauve]'")


def buckets_for(smaller: int, config: MauveConfig, *, of: int) -> int:
    """Return the number of clusters for a comparison whose smaller side has `smaller` texts.

    That is mauve-text's rule (a tenth of them) or the option, scaled down if `smaller` is below the `of` texts that the
    option is meant for (half of the human texts, a limited run), and at most the number of texts.
    """
    if config.buckets is None:
        return max(2, round(smaller / 10))
    return max(2, min(smaller, round(config.buckets * min(1.0, smaller / of))))


def compare(p: Features, q: Features, *, buckets: int, seed: int, scaling: float) -> Comparison:
    """Return MAUVE of two collections of features.

    Args:
        p: (texts, D) of human texts.
        q: (texts, D) of generated texts.
        buckets: number of clusters.
        seed: seed of k-means.
        scaling: c of the divergence curve exp(-c KL).

    Raises:
        MachineError: mauve-text is not installed.
    """
    check_installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of faiss and scikit-learn when imported, of PCA if all texts are equal
        try:
            faiss: Any = import_module("faiss")
            from mauve import compute_mauve
        except ImportError as error:
            raise MachineError(
                f"MAUVE's packages cannot be imported ({error}); reinstall them: pip install 'ltm-eval[mauve]'"
            ) from error

        class Quiet(faiss.Kmeans):  # type: ignore[misc]
            """k-means without the warning about fewer than 39 texts per cluster, which mauve-text's rule implies."""

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
    """Return the standard deviation; NaN for fewer than two values."""
    return stdev(values) if len(values) > 1 else math.nan


def ceiling(p: Features, config: MauveConfig, *, seed: int) -> Comparison | None:
    """Compare two disjoint halves of the human texts; None for fewer than four texts."""
    half = len(p) // 2
    if half < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(p))
    buckets = buckets_for(half, config, of=config.samples)
    return compare(p[order[:half]], p[order[half : 2 * half]], buckets=buckets, seed=seed, scaling=config.scaling)


def _middle(found: Sequence[Comparison]) -> tuple[tuple[float, float], ...]:
    """Return the curve of the comparison with the median score."""
    return sorted(found, key=lambda one: one.value)[len(found) // 2].curve if found else ()


def rehearse(config: MauveConfig) -> FeatureModel:
    """Featurise and compare a few texts, so that missing or broken parts show before hours of generation.

    Raises:
        LtmEvalError: mauve-text or the feature model does not work.
    """
    check_installed()
    featuriser = featuriser_of(config)
    featuriser.features(["A text."])
    points = np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32)
    compare(points, points, buckets=2, seed=FIRST_SEED, scaling=config.scaling)
    return featuriser.model


def featuriser_of(config: MauveConfig, progress: Callable[[int, str], Progress] = silent) -> Featuriser:
    """Return the featuriser for these options."""
    return Featuriser(
        locate(config.feature_model),
        config.max_text_length,
        config.feature_batch_size,
        config.feature_device,
        progress,
    )


@dataclass(frozen=True)
class Answers:
    """The texts of one request; the per-document value of every metric."""

    prompt: str  # empty without a prompt
    references: tuple[str, ...]  # human continuations
    responses: tuple[str, ...]  # generated continuations, grouped by generation seed
    config: MauveConfig
    progress: Callable[[int, str], Progress] = field(default=silent, compare=False)

    def to_json(self) -> None:
        """Return None: there is no figure per document, and the texts are in the samples file already."""
        return

    def __str__(self) -> str:
        return f"{len(self.responses)} continuations"


@dataclass(frozen=True)
class Summary:
    """MAUVE, length and repetition of one model's texts."""

    scores: tuple[tuple[float, ...], ...]  # MAUVE by generation seed, then k-means seed
    ceiling: tuple[float, ...]  # human against human: two halves, split and clustered anew for each k-means seed
    buckets: int
    ceiling_buckets: int
    n_human: int
    n_generated: int  # generated texts per comparison
    curve: tuple[tuple[float, float], ...]  # curve of the comparison with the median score
    ceiling_curve: tuple[tuple[float, float], ...]
    generated: TextFacts  # generated continuations, in collections of `n_human`
    human: TextFacts
    copies: float  # share of the texts of a comparison that equal an earlier one
    copies_human: float
    feature_model: str
    feature_model_digest: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the figures derived from them."""
        return {**asdict(self), **self.figures(), **self.spreads()}

    def figures(self) -> dict[str, float]:
        """Return a value for each of METRICS; NaN for the standard deviation of a single value."""
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
        """Return the standard deviations over k-means seeds and over generation seeds."""
        within = [spread(row) for row in self.scores]
        return {"sd_kmeans": fmean(within), "sd_generation": spread([fmean(row) for row in self.scores])}


@lru_cache(maxsize=1)
def summary_of(items: tuple[Answers, ...]) -> Summary:
    """Compare all answers with all human texts; the last result is cached, since every metric needs it.

    Raises:
        LtmEvalError: the feature model does not work, or requests have different numbers of answers.
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
    """Return the human texts, and the generated ones by generation seed and then prompt."""
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
    """Return the text that is featurised."""
    return one.prompt + one.continuation if config.include_prompt else one.continuation


@reads(read_by_mauve)
def mauve_dataset(**metadata: Any) -> dict[str, Dataset]:
    """Return prompts for lm-eval: rows `prompt`, `references` (continuations) under the split `references`.

    Options, source of the human texts and feature model are recorded as JSON in the data set's description.

    Args:
        metadata: lm-eval passes `--metadata` and all model arguments; see `options_of`. `mauve_tokenizer` names a file
            of mergeable ranks to count tokens of human texts with instead of GPT-2's.

    Raises:
        LtmEvalError: mauve-text, the feature model, the texts or GPT-2's vocabulary is missing; an option is invalid.
    """
    config = options_of(metadata)
    model = rehearse(config)
    texts = load_texts(config.texts, **place_of(metadata))
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
        **texts.facts(),
        "examples": len(texts.examples),
        "long_enough": len(found),
    }
    return {SPLIT: dataset_of(rows, facts)}


def target(doc: Mapping[str, Any]) -> str:
    """Return the human continuation of a prompt."""
    return str(doc["references"][0]) if len(doc["references"]) == 1 else ""


def every(resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
    """lm-eval filter that keeps all answers of a request."""
    return [list(answers) for answers in resps]


def _aggregation(name: str) -> Callable[[Sequence[Answers]], float]:
    @leaving
    def figure(items: Sequence[Answers]) -> float:
        return summary_of(tuple(items)).figures()[name]

    figure.__doc__ = f"Return `{name}` of all answers."
    return figure


mauve = _aggregation("mauve")
mauve_sd = _aggregation("mauve_sd")
mauve_ceiling = _aggregation("mauve_ceiling")
mauve_ceiling_sd = _aggregation("mauve_ceiling_sd")
words = _aggregation("words")
words_human = _aggregation("words_human")
distinct_2 = _aggregation("distinct_2")
distinct_2_human = _aggregation("distinct_2_human")
rep_3 = _aggregation("rep_3")
rep_3_human = _aggregation("rep_3_human")


class MauveTask(KeyedTask):
    """A YAML task whose repeats and decoding follow its MAUVE options; `--gen_kwargs` overrides them."""

    progress: Callable[[int, str], Progress] = staticmethod(Bar)

    @staticmethod
    def task_options(definition: Mapping[str, Any]) -> frozenset[str]:
        """Return nothing: `mauve_dataset` reads all options."""
        return frozenset()

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={**config, "process_results": self.answers})
        facts = described(self.dataset)[SPLIT]
        self.mauve = MauveConfig(**facts["mauve"])
        decoding = self.mauve.generation()
        options = {
            "until": [],
            "max_gen_toks": decoding.max_new_tokens,
            "do_sample": decoding.do_sample,
            "temperature": decoding.temperature if decoding.do_sample else 0.0,
        }
        if decoding.do_sample:
            options |= {"top_p": decoding.top_p, "top_k": decoding.top_k}
        self.set_config("generation_kwargs", options)
        self.texts = 1 if self.mauve.conditional else facts["long_enough"]
        self.set_config("repeats", self.texts * self.mauve.repeats)

    @leaving
    def build_all_requests(self, *, limit: int | None = None, **kwargs: Any) -> None:
        """Reject greedy decoding with repeats, which would all be equal, then build the requests.

        Without a prompt there is one document, and `limit` counts the human texts.
        """
        if not self.mauve.conditional:
            whole = len(self.dataset[SPLIT][0]["references"])
            self.texts = whole if limit is None else min(whole, max(2, limit))
            self.set_config("repeats", self.texts * self.mauve.repeats)
        if self.config.repeats > 1 and not self.config.generation_kwargs.get("do_sample"):
            raise UsageError("greedy decoding gives one text per prompt; ask for it by mauve_sampling=greedy")
        super().build_all_requests(limit=limit, **kwargs)

    def answers(self, doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, Answers]:
        """Return the same answers under every metric."""
        return dict.fromkeys(METRICS, self._answers(doc, results[0]))

    def _answers(self, doc: Mapping[str, Any], responses: Sequence[str]) -> Answers:
        prompt = doc["prompt"] if self.mauve.conditional else ""
        human = tuple(doc["references"][: self.texts])
        return Answers(prompt, human, tuple(responses), self.mauve, self.progress)

    def generation_facts(self) -> dict[str, Any]:
        """Return the summary of the last answers, for the results file."""
        items = [self._answers(one.doc, one.filtered_resps["none"]) for one in self.instances]
        options = {**asdict(self.mauve), **self.config.generation_kwargs}
        return {"options": options, **summary_of(tuple(items)).to_json()}
