"""What can be compared between two runs of a task: figures by document, and the settings in which the runs differ.

A figure has a kind, which says what it may be compared with: a mean, an exact rate, a bound, or `as_released`, the
released evaluator's figure that is no bound (ltm_eval.bounds).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltm_eval.ppl_tables import KINDS, PROTOCOL_KEYS
from ltm_eval.scores import AGREEMENT, ROLLING_METRICS, SHARES, flat, other_count
from ltm_eval.signatures import ROLLING, Tokens, causal_scope, read_facts, tokens_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.result_records import Run, Sample, Score
    from ltm_eval.scores import Entry

    Key = tuple[str, int]

MEAN, BOUND, EXACT, CAUSAL, RELEASED, PART = "mean", "bound", "exact", "causal", "as_released", "part"
UNSOUND = "not a bound (audit failed)"
BOUND_KINDS = (BOUND, "iwae", "prior")
BLOCK_MEAN = "ppl_per_token_as_released_block_mean"
SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed", "latent_seed")
UNITS = {"word_perplexity": "word", "byte_perplexity": "byte", "perplexity": "target"}
_KIND = {kind.metric: kind.name for kind in KINDS}
_IN_BYTES = tuple(kind.name for kind in KINDS if kind.in_bytes)


@dataclass(frozen=True)
class Series:
    """One figure of one run, by document."""

    metric: str
    """As the results file names it."""
    filter: str
    """Filter."""
    kind: str
    """mean, exact, bound, iwae, prior, causal, as_released, part, or that the audit failed."""
    scale: str
    """mean, ppl, bits or nats."""
    unit: str
    """document, token, word, byte or target."""
    values: Mapping[Key, tuple[float, float]]
    """Score and 1, or nats and units, of each document."""
    higher_is_better: bool | None
    """Direction."""
    tokens: Tokens | None = None
    """Of a figure per token the tokens that are counted, where they are told."""

    @property
    def share(self) -> bool:
        """Whether it is a share of documents, shown in percent."""
        return self.metric.startswith(SHARES)


def series_of(entry: Entry, task: str) -> tuple[list[Series], list[str]]:
    """Every figure of the run that its samples tell by document, and why the others are left out."""
    found, left_out = [], []
    for score in entry.run.tasks[task].scores:
        if score.metric.endswith("_mc_se"):
            continue
        made = _series(entry, score, task)
        if isinstance(made, Series):
            counted = "_per_token" in made.metric
            found.append(replace(made, tokens=tokens_of(entry.run, task)) if counted else made)
        else:
            left_out.append(f"{score.metric}: {made}")
    return found + _in_bytes(found), left_out


def _series(entry: Entry, score: Score, task: str) -> Series | str:
    samples = entry.samples.get(score.filter) or {}
    values = {key: _value(sample, score.metric) for key, sample in samples.items()}
    known = {key: value for key, value in values.items() if value is not None}
    if not known:
        return "no figure by document"
    if other := other_count(entry, task, metric=score.metric, filter_=score.filter):
        return other
    rated = not any(alone for _, _, alone in known.values()) or score.metric == "perplexity"
    if rated and score.metric != BLOCK_MEAN:
        return _rated(entry, score, {key: (abs(x), units) for key, (x, units, _) in known.items()})
    if score.metric == BLOCK_MEAN:
        means = {key: (_exp(x / units), 1.0) for key, (x, units, _) in known.items() if units}
    else:
        means = {key: (x, 1.0) for key, (x, _, _) in known.items()}
        mean = math.fsum(x for x, _ in means.values()) / len(means)
        if score.value is not None and not math.isclose(mean, score.value, rel_tol=AGREEMENT, abs_tol=AGREEMENT):
            return "no mean of its documents, or results and samples disagree"
    direction = score.higher_is_better
    if direction is None and score.metric.startswith(SHARES):
        direction = True
    kind = RELEASED if score.metric == BLOCK_MEAN else MEAN
    return Series(score.metric, score.filter, kind, MEAN, "document", means, direction)


def _value(sample: Sample, metric: str) -> tuple[float, float, bool] | None:
    """(nats, units, False) or (score, 1, True)."""
    value = sample.metrics.get(metric)
    if isinstance(value, list) and len(value) >= 2 and all(map(_is_finite, value[:2])) and value[1] >= 0:
        return float(value[0]), float(value[1]), False
    return (float(value), 1.0, True) if isinstance(value, (bool, int, float)) and math.isfinite(value) else None


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _rated(entry: Entry, score: Score, values: Mapping[Key, tuple[float, float]]) -> Series | str:
    if not any(units for _, units in values.values()):
        return "no units to divide by"
    metric = score.metric
    base = metric.removesuffix("_bound")
    scale = "bits" if base.startswith("bits_per_") else "nats" if base.startswith(("nll_per_", "kl_per_")) else "ppl"
    if score.value is not None and not math.isclose(_rate(values, scale), score.value, rel_tol=AGREEMENT):
        return "results and samples disagree"
    unit = UNITS.get(base) or next((unit for unit in ("token", "word", "byte") if f"_per_{unit}" in base), "unit")
    return Series(metric, score.filter, _kind(entry.run, metric), scale, unit, values, False)


def _rate(values: Mapping[Key, tuple[float, float]], scale: str) -> float:
    nats = math.fsum(x for x, _ in values.values()) / math.fsum(units for _, units in values.values())
    return _exp(nats) if scale == "ppl" else nats / math.log(2) if scale == "bits" else nats


def _kind(run: Run, metric: str) -> str:
    """What the figure may be called; an LTM's answer to lm-eval's own rolling tasks is a bound."""
    name = BOUND if metric.endswith("_bound") else _KIND.get(metric, EXACT)
    if metric in {*ROLLING_METRICS, "bits_per_byte"} and run.model_kind == "ltm":
        name = BOUND
    if metric.startswith(("nll_per_", "kl_per_")):
        return PART
    if name in BOUND_KINDS and run.extra.audit is not None and not run.extra.audit.is_bound:
        return UNSOUND if run.extra.audit.figure == BOUND else name
    return name


def _in_bytes(found: Sequence[Series]) -> list[Series]:
    """Bits per byte of the rows that are logged per token alone, with the bytes of the headline."""
    sizes = next((one.values for one in found if one.scale == "bits" and one.unit == "byte"), {})
    made = []
    for one in found:
        if one.kind in _IN_BYTES and one.unit == "token" and one.kind not in {BOUND, EXACT} and sizes:
            values = {key: (nats, sizes[key][1]) for key, (nats, _) in one.values.items() if key in sizes}
            metric = f"bits_per_byte_{one.kind}"
            made.append(Series(metric, one.filter, one.kind, "bits", "byte", values, False))
    return made


# What differs


def mismatches(task: str, a: Entry, b: Entry) -> list[str]:
    """In what two runs of a task are not like for like, each as a few words; empty if they are."""
    ours, theirs = a.run.tasks[task], b.run.tasks[task]
    rolling = all(score.metric.startswith(ROLLING) for score in ours.scores)
    found = [_against("task versions", ours.version, theirs.version)]
    found += [] if rolling else [_against("shots", ours.n_shot, theirs.n_shot)]
    found.append(_against("documents", ours.n_effective, theirs.n_effective))
    if ours.n_effective is None or theirs.n_effective is None:
        found.append(_against("limit", _limit(a.run), _limit(b.run)))
    found += [_against(seed.replace("_", " "), a.run.config.get(seed), b.run.config.get(seed)) for seed in SEEDS]
    found.append(_against("causal row of each", causal_scope(a.run.config), causal_scope(b.run.config)))
    for name in ("generation_kwargs", "repeats"):
        found.append(_against(name, ours.config.get(name), theirs.config.get(name)))
    protocols = _protocol(a, task), _protocol(b, task)
    found += [_against(name, *(facts.get(name) for facts in protocols)) for name in PROTOCOL_KEYS]
    if a.run.extra.sample_data != b.run.extra.sample_data:
        found.append("bundled sample data against other data")
    return [one for one in found if one] + _document_mismatches(a, b)


def _limit(run: Run) -> float | str:
    return "none" if run.extra.limit is None else run.extra.limit


def _against(name: str, ours: Any, theirs: Any) -> str:
    """`shots 0 against 8`; empty where the two agree or one does not tell."""
    if {repr(ours), repr(theirs)} & {"None", "''"} or ours == theirs:
        return ""
    shown = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in (ours, theirs))
    return f"{name} {' against '.join(shown)}"


def _protocol(entry: Entry, task: str) -> dict[str, str]:
    """Preparation of the texts, as the task and the record of its data tell it."""
    config = entry.run.tasks[task].config
    facts: dict[str, Any] = {}
    for part in (config.get("dataset_kwargs"), config.get("metadata")):
        facts |= part if isinstance(part, dict) else {}
    facts |= read_facts((entry.run.extra.data or {}).get("sets"), task)
    return dict(flat({name: facts[name] for name in PROTOCOL_KEYS if name in facts}))


def _document_mismatches(a: Entry, b: Entry) -> list[str]:
    """Prompts and targets of the documents that both runs saw, over all filters."""
    prompts, targets, shared = set(), set(), set()
    for name in a.samples.keys() & b.samples.keys():
        ours, theirs = a.samples[name], b.samples[name]
        for key in ours.keys() & theirs.keys():
            shared.add(key)
            if ours[key].prompt_hash != theirs[key].prompt_hash:
                prompts.add(key)
            if ours[key].target != theirs[key].target:
                targets.add(key)
    named = (("prompts", prompts), ("targets", targets))
    return [f"other {name} in {len(keys):,} of {len(shared):,} documents" for name, keys in named if keys]
