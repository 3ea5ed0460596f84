"""Perplexities of text sets: every figure under its own name, with "≤" on bounds (arXiv:2502.01567) and nowhere else.

Figures come from the pairs (nats, units) that are logged for each document, with intervals over documents, or from the
results file and its standard error if there are no samples. Per-token figures do not compare across tokenizers, so
differences are taken in bits per byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltm_eval.results.columns import setting_of
from ltm_eval.results.official import read_facts
from ltm_eval.results.scores import AGREEMENT, UNTOLD, by_document, flat, other_count, other_prompts, side_by_side
from ltm_eval.results.signature import own_tokens, same_tokens, tokens_of
from ltm_eval.results.statistics import (
    FROM_STDERR,
    STUDENT,
    UNPROVEN,
    Interval,
    bits,
    block_mean_ppl,
    block_mean_ppl_stderr,
    exp,
    interval_from_stderr,
    mean_interval,
    paired_rates,
    ppl,
    ppl_stderr,
    rate,
    rate_interval,
    rate_stderr,
    sign_of,
    verdict_of,
)
from ltm_eval.results.views import (
    REFERENCE,
    Difference,
    DocumentBits,
    Figure,
    PerplexityLine,
    PerplexityRow,
    PerplexitySection,
)
from ltm_eval.system.records import mapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.results.files import Floor, Score
    from ltm_eval.results.scores import Entry

    Key = tuple[str, int]
    Pairs = Mapping[Key, tuple[float, float]]
    Numbers = dict[str, Any]  # value, low, high, interval and stderr of a `Figure`

WORST = 5
WORST_CHARACTERS = 600
UNITS = ("ppl_per_token", "ppl_per_word", "ppl_per_byte", "bits_per_byte")
UNIT_WORDS = {
    "bits_per_byte": "bits per byte",
    "per_token": "perplexity per token",
    "per_word": "perplexity per word",
    "per_byte": "perplexity per byte",
}
"""Of the columns of the table, in the order of every output but the table."""
SIGNS = ("ppl_per_token_bound", "bits_per_byte_bound", "ppl_per_token", "bits_per_byte")
"""A task that reports one of these is a perplexity set."""
PROTOCOL_KEYS = ("protocol", "block_tokens", "block_tokenizer", "insert_eos", "split")
"""Preparation of the text: runs that differ here did not score the same documents."""


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    name: str
    what: str
    metric: str  # per-token metric; headline rows have the other units as well
    bound: bool = False
    nats: bool = False  # whether it is nats per token and no perplexity
    in_bytes: bool = False  # whether its bits per byte may be set beside other models'


BOUND = Kind("bound", "headline: −ELBO over fresh noise draws", "ppl_per_token_bound", bound=True, in_bytes=True)
EXACT = Kind(
    "exact",
    "autoregressive model: exact NLL of the next token; a text longer than the context in windows, the first token of "
    "each after one token of context",
    "ppl_per_token",
    in_bytes=True,
)
CAUSAL = Kind(
    "causal",
    "a real next-token figure of the whole text: z fitted on what precedes each chunk only, as far as the context "
    "holds; comparable with an autoregressive model’s",
    "ppl_per_token_causal",
    in_bytes=True,
)
NLL = Kind(
    "nll_given_z",
    "part of the bound, not a perplexity: cost of the text once z is known, nats per token",
    "nll_per_token_given_z",
    nats=True,
)
KL = Kind("kl", "part of the bound, not a perplexity: cost of z itself, nats per token", "kl_per_token", nats=True)
BLOCK_MEAN = Kind(
    "as_released, mean of blocks",
    "not a bound: the same, as the mean over blocks of exp(nats per token), the released evaluator’s average",
    "ppl_per_token_as_released_block_mean",
)
KINDS = (
    BOUND,
    EXACT,
    Kind("iwae", "importance-weighted bound over fresh draws", "ppl_per_token_iwae", bound=True, in_bytes=True),
    Kind("prior", "bound without a fit: z from the prior", "ppl_per_token_prior", bound=True, in_bytes=True),
    CAUSAL,
    Kind(
        "as_released",
        "not a bound: the released evaluator, scored at the very noise of the fit; shown so that published figures "
        "can be compared",
        "ppl_per_token_as_released",
    ),
    BLOCK_MEAN,
    NLL,
    KL,
)
METRICS = frozenset(
    {*(unit + ending for unit in UNITS for ending in ("", "_bound")), *(kind.metric for kind in KINDS)}
    | {"ppl_per_token_bound_mc_se"}
)
"""What the table shows; the score tables leave it out."""


def perplexity_section(name: str, entries: Sequence[Entry], *, subject: str) -> PerplexitySection | None:
    """The tables and figures of perplexity set `name`; None where no run reports a perplexity of it."""
    costs = [_Costs(entry, name) for entry in entries]
    if not any(cost.scores.keys() & set(SIGNS) for cost in costs):
        return None
    _set_apart(costs)
    own = own_tokens({cost.entry.label: cost.tokens for cost in costs})
    rows = [
        PerplexityRow(
            name=kind.name,
            what=kind.what,
            nats=kind.nats,
            lines=tuple(_line(kind, cost, own[cost.entry.label]) for cost in costs if cost.has(kind)),
        )
        for kind in KINDS
    ]
    lead = costs[0] if costs[0].entry.label == subject else None
    lines = {(row.name, line.label): line for row in rows for line in row.lines}
    differences = [found for other in costs[1:] for found in _differences(lead, other)] if lead is not None else []
    documents = tuple(
        DocumentBits(
            label=cost.entry.label,
            series=cost.entry.series,
            bits={
                key: nats / size / math.log(2)
                for key, (nats, size) in cost.pairs(cost.headline, "bits_per_byte").items()
                if size
            },
            bound=cost.is_bound(cost.headline),
        )
        for cost in costs
    )
    return PerplexitySection(
        rows=tuple(row for row in rows if row.lines),
        floors=_floor_lines(name, entries),
        differences=tuple((lines[found.theirs, label], found) for label, found in differences),
        stacks=_stacks(rows, costs[0]),
        documents=documents,
        worst=_worst(costs[0], documents),
        worst_of=f"{costs[0].entry.label}, {costs[0].headline.name}",
        worst_is_bound=costs[0].is_bound(costs[0].headline),
        protocol=side_by_side([preparation(name, entry) for entry in entries]),
    )


class _Costs:
    """One run's figures of one set: by metric, and by document."""

    def __init__(self, entry: Entry, task: str) -> None:
        self.entry, self.task = entry, task
        self.result = entry.run.tasks[task]
        self.scores: dict[str, Score] = {}
        for score in self.result.scores:
            self.scores.setdefault(score.metric, score)
        self.ending = "_bound" if {"ppl_per_token_bound", "bits_per_byte_bound"} & self.scores.keys() else ""
        self.read: dict[str, Pairs] = {}
        self.doubts: dict[str, str] = {}
        self.filter = "none" if entry.samples.get("none") else next(iter(entry.samples), "none")
        # lm-eval's own tasks know no bounds: what an LTM answers there is one all the same.
        self.headline = BOUND if self.ending or entry.run.model_kind == "ltm" else EXACT
        self.tokens = tokens_of(entry.run, task)

    def has(self, kind: Kind) -> bool:
        """Whether the run reports this row."""
        if kind in {BOUND, EXACT}:
            return kind is self.headline and any(unit + self.ending in self.scores for unit in UNITS)
        return kind.metric in self.scores

    def is_bound(self, kind: Kind) -> bool:
        """Whether the row's sign holds: a preset whose fresh-noise figure fails the audit gives no bounds."""
        return kind.bound and self.entry.run.extra.bounds_hold

    def logged(self, metric: str) -> Pairs:
        """Return nats and units of every document; empty if a document has none, or if the results file disagrees.

        lm-eval's own tasks log log-likelihoods, ours their negative; neither changes sign within a run.
        """
        if metric not in self.read:
            logged = by_document(self.entry, metric=metric, filter_=self.filter)
            found = {key: (abs(nats), units) for key, (nats, units) in logged.items() if units is not None}
            samples = self.entry.samples.get(self.filter, {}).values()
            whole = len(found) == sum(sample.metrics.get(metric) is not None for sample in samples)
            found = found if whole and any(units for _, units in found.values()) else {}
            self.doubts[metric] = self._doubt(metric, found)
            self.read[metric] = {} if self.doubts[metric] else found
        return self.read[metric]

    def _doubt(self, metric: str, found: Pairs) -> str:
        """Return why samples and results disagree; empty if they agree."""
        score = self.scores.get(metric)
        if not found or score is None:
            return ""
        other = other_count(self.entry, self.task, metric=metric, filter_=self.filter)
        if other or score.value is None:
            return other
        agree = math.isclose(VALUE_OF[scale_of(metric)](list(found.values())), score.value, rel_tol=AGREEMENT)
        return "" if agree else f"{metric}: results and samples disagree, so there is no interval"

    def pairs(self, kind: Kind, unit: str) -> Pairs:
        """Nats of the row with the documents' tokens, words or bytes."""
        headline = self.logged(unit + self.ending)
        if kind is self.headline:
            return headline
        own = self.logged(kind.metric)
        if unit == "ppl_per_token" or not own or not headline:
            return own if unit == "ppl_per_token" else {}
        return {key: (own[key][0], headline[key][1]) for key in own if key in headline}


def _set_apart(costs: Sequence[_Costs]) -> None:
    """Runs that tell the same tokenizer and count the tokens of a document differently do not have the same tokens."""
    first: dict[tuple[str, bool], dict[Key, float]] = {}
    for cost in costs:
        if cost.tokens is not None and cost.tokens.digest:
            counted = {key: units for key, (_, units) in cost.pairs(cost.headline, "ppl_per_token").items()}
            known = first.setdefault((cost.tokens.digest, cost.tokens.of_blocks), {})
            if any(known.get(key, units) != units for key, units in counted.items()):
                label, told = cost.entry.label, cost.tokens
                cost.tokens = replace(told, name=f"{told.name} of {label}", digest=f"{told.digest} {label}")
            else:
                known |= counted


def of_same_tokens(entries: Sequence[Entry], rows: Sequence[PerplexityRow], *, lead: str) -> list[Entry]:
    """Of the runs of a page those whose figures per token may stand beside those of run `lead`."""
    own = {line.label: line.own_tokens for row in rows for line in row.lines}
    return [entry for entry in entries if entry.label == lead or own.get(entry.label, "") == own.get(lead, "")]


def _line(kind: Kind, cost: _Costs, own: str) -> PerplexityLine:
    head, n = kind is cost.headline, cost.result.n_effective
    # of each column: what the documents' nats are divided by, the figure's scale, and whether the row has it
    columns = {
        "per_token": ("ppl_per_token", scale_of(kind.metric), True),
        "per_word": ("ppl_per_word", "ppl", head or kind is CAUSAL),
        "per_byte": ("bits_per_byte", "ppl", kind.in_bytes),
        "bits_per_byte": ("bits_per_byte", "bits", kind.in_bytes),
    }
    reported = [unit + cost.ending for unit in UNITS] if head else [kind.metric, "", "", ""]
    scores = [cost.scores.get(metric) for metric in reported]
    numbers: dict[str, Numbers | None] = {}
    notes = []
    for (column, (unit, scale, has)), score in zip(columns.items(), scores, strict=True):
        computed = _numbers_of(cost.pairs(kind, unit), scale) if has else None
        doubt = cost.doubts.get(unit + cost.ending if head else kind.metric, "")
        numbers[column], note = _settled(computed, score, n=n, doubt=doubt)
        notes.append(note)
    if kind.bound and not cost.is_bound(kind):
        notes.append("the audit failed: not a bound")
    scored = next(filter(None, scores), None)
    common: dict[str, Any] = {
        "bound": cost.is_bound(kind),
        "series": cost.entry.series,
        "note": "; ".join(dict.fromkeys(filter(None, notes))),
        "signature": setting_of(cost.entry.run, cost.task).signature(scored.metric, scored.filter) if scored else "",
    }
    noise = cost.scores.get("ppl_per_token_bound_mc_se") if kind is BOUND else None
    of_tokens: dict[str, Any] = {
        "per_token": True,
        "tokens": cost.tokens,
        "mc_se": noise.value if noise is not None else None,
    }
    figures: dict[str, Any] = {
        column: Figure(
            task=cost.task,
            metric=f"{kind.name}, {'nats per token' if kind.nats else UNIT_WORDS[column]}",
            model=cost.entry.label,
            higher_is_better=False,
            n=n,
            **(of_tokens if column == "per_token" else {}),
            **found,
            **common,
        )
        for column, found in numbers.items()
        if found is not None
    }
    figures = dict.fromkeys(columns) | figures
    return PerplexityLine(label=cost.entry.label, documents=n, tokens=cost.tokens, own_tokens=own, **figures, **common)


def scale_of(metric: str) -> str:
    """What a metric's figure is: ppl, bits, nats, or block (the mean over documents of their perplexities)."""
    if metric == BLOCK_MEAN.metric:
        return "block"
    return "bits" if metric.startswith("bits_per_") else "nats" if metric.startswith(("nll_per_", "kl_per_")) else "ppl"


VALUE_OF = {"ppl": ppl, "bits": bits, "nats": rate, "block": block_mean_ppl}


def _numbers_of(pairs: Pairs, scale: str) -> Numbers | None:
    """Return the figure of these documents; None without any, or if one of a mean of documents is not finite."""
    items = list(pairs.values())
    nats, units = [nats for nats, _ in items], [units for _, units in items]
    if not any(units):
        return None
    if scale == "block":
        means = [ppl([item]) if item[1] else math.inf for item in items]
        if not all(map(math.isfinite, means)):
            return None
        return _numbers(block_mean_ppl(items), mean_interval(means, positive=True), block_mean_ppl_stderr(items))
    found = rate_interval(nats, units, positive=min(nats) >= 0)
    if scale == "ppl":
        return _numbers(ppl(items), Interval(exp(found.low), exp(found.high)), ppl_stderr(items))
    per_nat, stderr = 1 / math.log(2) if scale == "bits" else 1.0, rate_stderr(items)
    stderr = stderr if isinstance(stderr, str) else per_nat * stderr
    interval = Interval(per_nat * found.low, per_nat * found.high)
    return _numbers(per_nat * math.fsum(nats) / math.fsum(units), interval, stderr)


def _numbers(value: float, interval: Interval, stderr: float | str, kind: str = STUDENT) -> Numbers:
    known = math.isfinite(interval.high) or math.isinf(value)
    ends = {"low": interval.low, "high": interval.high, "interval": kind} if known else {}
    return {"value": value, "stderr": None if isinstance(stderr, str) else stderr, **ends}


def _reported(value: float, stderr: float | None, *, n: int | None, scale: str) -> Numbers:
    """Return a figure of which only the standard error over n documents is known."""
    if stderr is None:
        return {"value": value}
    if scale != "ppl" or not 0 < value < math.inf:
        found = interval_from_stderr(value, stderr, n, positive=True)
    else:
        logs = interval_from_stderr(math.log(value), stderr / value, n, positive=True)
        found = Interval(math.exp(min(logs.low, 700.0)), math.exp(min(logs.high, 700.0)))
    return _numbers(value, found, stderr, FROM_STDERR)


def _settled(computed: Numbers | None, score: Score | None, *, n: int | None, doubt: str) -> tuple[Numbers | None, str]:
    """Return the figure of the samples, else that of the results file, and a note.

    If the two disagree it is that of the results file without an interval.
    """
    if score is None or (score.value is not None and computed is not None):
        return computed, ""
    if score.value is None:
        return computed, score.note if computed is None else ""
    if doubt:
        return {"value": score.value, "stderr": score.stderr}, doubt
    return _reported(score.value, score.stderr, n=n, scale=scale_of(score.metric)), ""


def _floor_lines(name: str, entries: Sequence[Entry]) -> tuple[PerplexityLine, ...]:
    """Return the runs' reference rows; those of the same documents and tokenizer once."""
    every = [floor for entry in entries for floor in (entry.run.extra.floors or {}).get(name, ())]
    distinct = {(floor.name, floor.tokenizer, floor.n_vocab, floor.documents, floor.nats): floor for floor in every}
    return tuple(_floor_line(name, floor) for floor in distinct.values())


def _floor_line(name: str, floor: Floor) -> PerplexityLine:
    label = f"{floor.name}, {floor.tokenizer}"

    def figure(unit: str) -> Figure | None:
        metric = unit if unit == "bits_per_byte" else f"ppl_{unit}"
        value, stderr = floor.figures.get(metric), floor.figures.get(f"{metric}_stderr")
        return (
            None
            if value is None
            else Figure(
                task=name,
                metric=f"reference, {UNIT_WORDS[unit]}",
                model=label,
                status=REFERENCE,
                higher_is_better=False,
                n=floor.documents,
                note=floor.what,
                **_reported(value, stderr, n=floor.documents, scale=scale_of(metric)),
            )
        )

    figures: dict[str, Any] = {unit: figure(unit) for unit in UNIT_WORDS}
    return PerplexityLine(label=label, series=0, bound=False, documents=floor.documents, note=floor.what, **figures)


def _differences(ours: _Costs, theirs: _Costs) -> list[tuple[str, Difference]]:
    """Return the differences from another model with its label: of the headlines, and of the next-token figures."""
    kinds = [(ours.headline, theirs.headline)]
    next_token = [CAUSAL if cost.has(CAUSAL) else EXACT if cost.has(EXACT) else None for cost in (ours, theirs)]
    if next_token[0] is not None and next_token[1] is not None and next_token != [EXACT, EXACT]:
        kinds.append((next_token[0], next_token[1]))
    found = [_difference(ours, own, theirs, other) for own, other in kinds]
    return [(theirs.entry.label, one) for one in found if one is not None]


def _difference(ours: _Costs, own: Kind, theirs: _Costs, other: Kind) -> Difference | None:
    """Return corpus bits per byte of `ours` minus those of `theirs` over the documents that both scored."""
    first, second = ours.pairs(own, "bits_per_byte"), theirs.pairs(other, "bits_per_byte")
    shared = [key for key in first if key in second]
    sizes = [first[key][1] for key in shared]
    if not any(sizes) or sizes != [second[key][1] for key in shared]:
        return None
    a, b = ([costs[key][0] for key in shared] for costs in (first, second))
    found = paired_rates(a, b, sizes, scale="bits")
    sign, bounds = sign_of(found, found.p_value), (own.bound, other.bound)
    # called a bound, and failed its audit
    unsound = (own.bound and not ours.is_bound(own)) or (other.bound and not theirs.is_bound(other))
    verdict = UNPROVEN if sign and unsound else verdict_of(sign, higher_is_better=False, bounds=bounds)
    prompts = other_prompts(ours.entry, theirs.entry, filter_="none")
    return Difference(
        **found.numbers(),
        other_prompts=sum(key in prompts for key in shared),
        unpaired=len(first.keys() ^ second.keys()),
        verdict=verdict,
        ours=own.name,
        theirs=other.name,
        caveat=UNSOUND if unsound else CAVEATS.get(bounds, ""),
    )


UNSOUND = "The audit failed: the figure called bound is none, so nothing about the models is certain."
CAVEATS = {
    (True, False): "Bound against exact NLL: LTM better is certain, LTM worse is not.",
    (False, True): "Exact NLL against a bound: first model worse is certain, first model better is not.",
    (True, True): "Bound against bound: the order of the models’ exact figures is not certain either way.",
}
"""By whether the first figure and the other one are bounds."""


def _stacks(rows: Sequence[PerplexityRow], lead: _Costs) -> dict[str, dict[str, float]]:
    """Return NLL given z and KL of each LTM and the exact NLL of each other model, in nats per token.

    Models whose tokens are not the first one's are left out.
    """
    nats = {
        row.name: {
            line.label: line.per_token.value
            for line in row.lines
            if line.per_token is not None and line.per_token.value is not None
            if line.label == lead.entry.label or same_tokens([line.tokens, lead.tokens])
        }
        for row in rows
    }
    given_z, kl = nats["nll_given_z"], nats["kl"]
    stacks = {label: {"NLL given z": given_z[label], "KL": kl[label]} for label in given_z if label in kl}
    exact = {label: value for label, value in nats["exact"].items() if stacks and 1 <= value < math.inf}
    return stacks | {label: {"exact NLL": math.log(value)} for label, value in exact.items()}


def _worst(lead: _Costs, documents: Sequence[DocumentBits]) -> tuple[dict[str, Any], ...]:
    """Return the documents with most bits per byte under the first model, with those of the others."""
    first, *others = documents
    sizes = lead.pairs(lead.headline, "bits_per_byte")
    samples = {key: sample for of_filter in lead.entry.samples.values() for key, sample in of_filter.items()}
    found = []
    for key in sorted(first.bits, key=lambda key: (-first.bits[key], samples[key].doc_id))[:WORST]:
        text = samples[key].prompt or samples[key].target
        found.append(
            {
                "doc_id": samples[key].doc_id,
                "bits_per_byte": first.bits[key],
                "others": [(other.label, other.bits[key], other.bound) for other in others if key in other.bits],
                "n_bytes": sizes[key][1],
                "text": text if len(text) <= WORST_CHARACTERS else text[:WORST_CHARACTERS] + " …",
            }
        )
    return tuple(found)


def preparation(name: str, entry: Entry) -> dict[str, str]:
    """Return what the task and the record of its data say of the texts, less the model's own that lm-eval adds."""
    config = entry.run.tasks[name].config
    facts = {key: config[key] for key in ("dataset_path", "dataset_name", "test_split") if config.get(key) is not None}
    facts |= mapping(config.get("dataset_kwargs")) | mapping(config.get("metadata"))
    for key in (*mapping(entry.run.config.get("model_args")), "condition", "config_source", "version"):
        facts.pop(key, None)
    return dict(flat(facts | read_facts((entry.run.extra.data or {}).get("sets"), name)))


def differing_protocols(section: PerplexitySection) -> list[str]:
    """Which parts of the preparation the runs tell differently, as `block_tokens: 512, 1024`."""
    found = []
    for key, values, _ in section.protocol:
        told = sorted(set(values) - {UNTOLD})
        if key in PROTOCOL_KEYS and len(told) > 1:
            found.append(f"{key}: {', '.join(told)}")
    return found
