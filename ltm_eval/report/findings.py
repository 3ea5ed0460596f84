"""Sentences above the tables: who is better on what, and what a reader must know before any number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ltm_eval.report.tables import UNTOLD, Banner, value_text
from ltm_eval.results.columns import model_of
from ltm_eval.results.diagnostics import answer_facts, cost_rows
from ltm_eval.results.files import PREDICTED, UNFINISHED, read_answers, read_latents
from ltm_eval.results.official import NOT_OFFICIAL_FILES, read_facts, unofficial
from ltm_eval.results.perplexity import KINDS, differing_protocols
from ltm_eval.results.scores import ROLLING_METRICS
from ltm_eval.results.statistics import OPEN, ROUGH, UNPROVEN
from ltm_eval.results.views import REFERENCE
from ltm_eval.system.records import mapping
from ltm_eval.system.text import VERDICTS, aligned, p_value, p_words, percent, signed, signed_bits, terminal

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

    from ltm_eval.results.figures import TaskTables
    from ltm_eval.results.files import LatentRecord, Run
    from ltm_eval.results.scores import Entry
    from ltm_eval.results.views import Difference, Figure, ScoreTable


K = TypeVar("K", bound="Hashable")
T = TypeVar("T")

BITS = "bits per byte"
HEADS = ("bound", "exact")
"""Rows of a text set that are a model's headline."""
UNPROVED, APART = "Not proven", "Not comparable"
WORDS = {"better": "Better", "worse": "Worse", OPEN: UNPROVED, UNPROVEN: UNPROVED, "": UNPROVED}
"""What the first model is, by the verdict of a difference."""

_BOUND_METRICS = frozenset(kind.metric for kind in KINDS if kind.bound)
ENOUGH_TEXTS = 1_000  # human texts of the smallest published protocol; mauve-text advises 5,000


@dataclass(frozen=True)
class Finding:
    """The first model's figure of a task beside another model's, their paired difference, and what it shows."""

    task: str
    number: int  # of the task on the page, from 1
    metric: str  # with its filter
    first: str  # label of the model that the other is subtracted from
    other: str
    ours: Figure | None
    theirs: Figure | None
    difference: Difference | None  # the first model minus the other, paired by document
    higher_is_better: bool | None
    baseline: bool  # whether the other is another model, not the first one under other settings
    word: str  # Better, Worse, Not proven, Not comparable: what the first model is
    compute: float | None  # the first model's operations per token over the other's; None if one is not known
    why: tuple[str, ...]  # what makes the comparison unfair, or the word what it is

    @property
    def share(self) -> bool:
        """Whether the figures are shares, shown in percent."""
        return any(one.share for one in (self.ours, self.theirs) if one is not None)

    @property
    def unit(self) -> str:
        """Unit of the difference."""
        return "points" if self.share else BITS if self.metric.startswith(BITS) else ""

    @property
    def kind(self) -> str:
        """What the difference alone shows: better, worse, open, unproven, or nothing."""
        return self.difference.verdict if self.difference is not None else ""

    def shown(self, value: float) -> str:
        """Return a difference with its sign, in `unit`."""
        return signed_bits(value) if self.unit == BITS else signed(100 * value if self.share else value)

    @property
    def gap(self) -> str:
        """The difference with its unit; a dash if the documents do not pair."""
        return UNTOLD if self.difference is None else f"{self.shown(self.difference.estimate)} {self.unit}".strip()

    @property
    def interval(self) -> str:
        """The 95 % interval of the difference."""
        found = self.difference
        if found is None or not found.known:
            return UNTOLD
        return f"{self.shown(found.low)} to {self.shown(found.high)}"

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        found = self.difference
        if found is None:
            return f"{self.first} and {self.other} cannot be compared on {self.task} ({self.metric})."
        rows = f", {found.ours} minus {found.theirs}" if found.ours else ""
        interval = f"95 % interval {self.interval}, " if found.known else ""
        gap = self.gap.replace("points", "percentage points").removesuffix(f" {BITS}")
        documents = f"{found.n:,} document{'s' if found.n != 1 else ''}"
        head = f"{self._relation} on {self.task} ({self.metric}{rows})"
        return f"{head}: difference {gap}, {interval}{_p_words(found)}, {documents}."

    @property
    def _relation(self) -> str:
        found, first, other = self.difference, self.first, self.other
        if self.kind == UNPROVEN and found is not None and found.ours:
            names = ["bound" if name == "bound" else "exact figure" for name in (found.ours, found.theirs)]
            word = "worse" if found.estimate > 0 else "better"
            return f"The {names[0]} of {first} is {word} than the {names[1]} of {other}"
        return {
            "better": f"{first} is better than {other}",
            "worse": f"{first} is worse than {other}",
            OPEN: f"{first} and {other} are not distinguishable",
            UNPROVEN: f"The figures of {first} and {other} differ, but as bounds prove neither model better",
            "": f"{first} and {other} differ",
        }[self.kind]


def _p_words(difference: Difference) -> str:
    corrected = difference.p_holm
    if corrected is None or corrected == difference.p_value:
        return f"p {p_words(difference.p_value)}"
    return f"p {p_words(difference.p_value)} (after Holm’s correction {p_value(corrected)})"


@dataclass(frozen=True)
class Told:
    """A task's figures, and what the sidecars of its runs tell, read once."""

    tables: TaskTables
    latents: Mapping[str, Sequence[LatentRecord]]  # by label, of the runs that have some
    answering: tuple[dict[str, Any], ...]
    costs: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        """The task."""
        return self.tables.name


def read_task(task: TaskTables) -> Told:
    """Read the sidecars of a task.

    Raises:
        ResultsError: one is malformed.
    """
    name, entries = task.name, task.entries
    latents = {entry.label: own for entry in entries if (own := read_latents(entry.run, name))}
    records = {entry.label: latents.get(entry.label) or read_answers(entry.run, name) for entry in entries}
    return Told(task, latents, answer_facts(name, entries, records), cost_rows(name, entries, latents))


def findings(tasks: Sequence[Told], named: Sequence[tuple[str, Run]]) -> list[Finding]:
    """Return a row for each task and each other model of a page: the answer to "is it better, and by how much".

    A baseline that lacks a task has a row as well. Figures are headlines: of a text set bits per byte, with next-token
    figures if both models have some; of questions the first metric and filter.

    Args:
        tasks: of the page.
        named: the models with their labels, the first one first.
    """
    runs = dict(named)
    found: list[Finding] = []
    for number, told in enumerate(tasks, 1):
        task = told.tables
        if not task.lead:
            continue
        lead, *others = task.entries
        facts = {one["label"]: one for one in told.answering}
        costs = {one["label"]: one for one in told.costs}
        for other in others:
            for metric, ours, theirs, difference, also in _pairs(task, other.label):
                if not any(one is not None and one.value is not None for one in (ours, theirs)):
                    continue  # answers without a score
                higher = next((one.higher_is_better for one in (ours, theirs) if one is not None), None)
                word, why = _word(task, lead, other, difference, theirs, higher)
                why += also
                why += [*_reading(facts.get(lead.label), facts.get(other.label), other)]
                why += [*_floor(task, metric, ours, theirs)]
                baseline = model_of(runs[other.label]) != model_of(runs[lead.label])
                found.append(
                    Finding(
                        task.name, number, metric, lead.label, other.label, ours, theirs, difference, higher, baseline,
                        word, _ratio(costs[lead.label], costs[other.label]), tuple(dict.fromkeys(why)),
                    )
                )  # fmt: skip
        scored = {model_of(runs[entry.label]) for entry in task.entries}
        lacking = {model_of(run): label for label, run in named if run.model_kind != "ltm"}
        for model, label in lacking.items():
            if model not in scored:
                metric, ours = headline_of(task, lead.label)
                why_not = (f"{label} has no results of this task",)
                found.append(
                    Finding(
                        task.name, number, metric, lead.label, label, ours, None, None, None, True, APART, None, why_not
                    )
                )
    return found


def headline_of(task: TaskTables, label: str) -> tuple[str, Figure | None]:
    """Return the name of the task's first figure, and a model's."""
    if task.perplexity is not None:
        lines = (line for row in task.perplexity.rows if row.name in HEADS for line in row.lines if line.label == label)
        return BITS, next((line.bits_per_byte or line.per_token for line in lines), None)
    if task.generation is not None:
        return "MAUVE", next((one.figure for one in task.generation.lines if one.figure.model == label), None)
    for table in task.tables:
        for row in table.rows:
            if row.model == label:
                return _metric_words(table), row
    return "", None


def _pairs(
    task: TaskTables, label: str
) -> Iterator[tuple[str, Figure | None, Figure | None, Difference | None, list[str]]]:
    """Return metric, both figures, their difference and what other filters show, of each headline of the task."""
    if task.perplexity is not None:
        lines = {(row.name, line.label): line for row in task.perplexity.rows for line in row.lines}
        found = [(line, one) for line, one in task.perplexity.differences if line.label == label]
        for index, (line, one) in enumerate(found):
            metric = BITS if index == 0 else f"{BITS}, next token"
            yield metric, lines[one.ours, task.lead].bits_per_byte, line.bits_per_byte, one, []
        if found:
            return
    for table in task.tables if task.generation is None and task.perplexity is None else ():
        rows = {row.model: row for row in table.rows}
        ours, theirs = rows[task.lead], rows[label]
        if theirs.difference is not None:
            also = [
                f"under {_metric_words(other)}: {VERDICTS[row.difference.verdict]}"
                for other in task.tables
                for row in other.rows
                if row.model == label and row.difference is not None and other.metric == table.metric
                if row.difference.verdict != theirs.difference.verdict
            ]
            yield _metric_words(table), ours, theirs, theirs.difference, also
            return
    metric, ours_ = headline_of(task, task.lead)
    yield metric, ours_, headline_of(task, label)[1], None, []


def _metric_words(table: ScoreTable) -> str:
    return table.metric if table.filter == "none" else f"{table.metric}, {table.filter}"


def _word(  # noqa: PLR0913 - a comparison and its two sides
    task: TaskTables, lead: Entry, other: Entry, found: Difference | None, theirs: Figure | None, higher: bool | None
) -> tuple[str, list[str]]:
    """Return the word for a comparison, with its reasons."""
    results = [entry.run.tasks[task.name] for entry in (lead, other)]
    if found is None:
        if task.generation is not None:
            return UNPROVED, ["MAUVE is one figure of all texts, so nothing is paired"]
        if not (lead.samples and other.samples):
            return APART, ["no per-document figures to pair"]
        note = theirs.note if theirs is not None else ""
        return APART, [note or "no document was scored by both"]
    why = []
    if found.other_prompts:
        why.append(f"the prompts differ in {found.other_prompts:,} of {found.n:,} documents")
    if len({result.version for result in results}) > 1:
        why.append(f"task versions {' and '.join(result.version or 'none' for result in results)}")
    if task.perplexity is not None:
        why += differing_protocols(task.perplexity)
    word = APART if why else WORDS[found.verdict]
    if found.unpaired:
        why.append(f"{found.unpaired:,} documents were scored by one of the two only and are left out")
    if found.caveat and word != APART:
        why.append(found.caveat)
    if found.n < ROUGH:
        why.append(f"{found.n:,} document{'s' if found.n != 1 else ''}: the interval is rough")
    if higher is None:
        why.append("no direction of this metric is better")
    return word, why


def _reading(ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None, other: Entry) -> Iterator[str]:
    """Say which model reads fewer demonstrations."""
    asked = ours["demonstrations"] if ours is not None else None
    if not ours or not asked or ours["dropped"] is None:
        return
    read, other_read = asked - ours["dropped"], asked
    if theirs is not None and theirs["dropped"] is not None:
        other_read = theirs["demonstrations"] - theirs["dropped"]
    if other_read > read:
        own = "reads no demonstration" if read == 0 else f"reads {read:.3g} of {asked:.3g} demonstrations"
        told = f"all {asked:.3g}" if other_read == asked else f"{other_read:.3g} of them"
        yield f"{ours['label']}’s decoder {own}, {other.label} {told}"


def _ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float | None:
    known = ours["flops_per_token"] and theirs["flops_per_token"]
    return ours["flops_per_token"] / theirs["flops_per_token"] if known else None


def _compute(rows: Iterable[Finding]) -> Iterator[str]:
    """Return how many times each other model's compute the first one spends, unless both spend the same."""
    ratios = _alike(((row.first, row.other), row.compute) for row in rows if row.compute)
    for (first, other), own in ratios.items():
        least, most = (f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}" for ratio in (min(own), max(own)))
        if not 0.8 < min(own) <= max(own) < 1.25:
            yield f"{first} spends {least if least == most else f'{least} to {most}'} × {other}’s compute per token"


def _floor(task: TaskTables, metric: str, ours: Figure | None, theirs: Figure | None) -> Iterator[str]:
    """Say if both models are no better than what answers without content."""
    if ours is None or theirs is None or ours.value is None or theirs.value is None:
        return
    if task.perplexity is not None:
        floors = [line.bits_per_byte.value for line in task.perplexity.floors if line.bits_per_byte is not None]
        known = [value for value in floors if value is not None]
        if known and min(ours.value, theirs.value) >= min(known):
            yield f"floor: neither is better than a model without content ({min(known):.3f} bits per byte)"
        return
    for table in task.tables:
        floor = next((row for row in table.rows if row.status == REFERENCE), None)
        if _metric_words(table) == metric and floor is not None and floor.value is not None:
            above = [one.low is not None and one.low > floor.value for one in (ours, theirs)]
            if not any(above):
                yield f"floor: both are at the content-free rate ({percent(floor.value)} %)"


def unfair(rows: Sequence[Finding]) -> list[str]:
    """Return every reason of the rows once, with the tasks and models it holds for, unless it holds for all."""
    reasons = _alike((why, row) for row in rows for why in row.why)
    told = []
    for why, own in reasons.items():
        named = (
            [*dict.fromkeys(row.task for row in own)] if {row.task for row in own} < {row.task for row in rows} else []
        )
        others = [*dict.fromkeys(row.other for row in own)]
        if len(others) < len({row.other for row in rows}) and not any(other in why for other in others):
            named.append(f"against {', '.join(others)}")
        told.append(": ".join([*filter(None, [", ".join(named)]), why]))
    return [text if text.endswith(".") else f"{text}." for text in [*told, *_compute(rows)]]


def findings_text(rows: Sequence[Finding], settings: str = "") -> str:
    """Return the rows for a terminal: a table, and below it what makes the comparisons unfair; empty without rows."""
    if not rows:
        return ""
    heads = (
        "task",
        "metric",
        "first model",
        "figure",
        "other model",
        "figure",
        "difference",
        "95 % interval",
        "first is",
    )
    lines = []
    for row in rows:
        figures = (row.first, _value(row.ours), row.other, _value(row.theirs))
        lines.append([terminal(cell) for cell in (row.task, row.metric, *figures, row.gap, row.interval, row.word)])
    table = aligned(heads, lines, numeric=[head in ("figure", "difference", "95 % interval") for head in heads])
    notes = [f"! {terminal(text)}" for text in unfair(rows)]
    return "\n".join([*([terminal(settings)] if settings else []), table, *notes])


def _value(figure: Figure | None) -> str:
    return UNTOLD if figure is None else value_text(figure)


Z_WORDS = {
    "demos": "z from demonstrations, decoder reads the question only",
    "shuffled": "z from demonstrations with their answers exchanged, decoder reads the question only",
    "other": "z from another question’s demonstrations, decoder reads the question only",
    "prior": "z from the prior, decoder reads the demonstrations",
    "prompt": "z from the prompt, decoder reads it too",
    "demos+prompt": "z from demonstrations and question, decoder reads what fits",
}
"""What z is fitted on and what the decoder reads, by condition."""


def settings_line(tasks: Sequence[Told], named: Sequence[tuple[str, Run]], rows: Sequence[Finding]) -> str:
    """Return the first model's settings and its compute in one line."""
    label, run = named[0]
    baseline = next((other for other, one in named[1:] if one.model_kind != "ltm"), "")
    own = [told.tables for told in tasks if told.tables.lead == label]
    asked = [task.entries[0].run.tasks[task.name] for task in own if task.perplexity is None]
    shots = sorted({task.n_shot for task in asked if task.n_shot is not None})
    parts = [f"{', '.join(map(str, shots))} shot{'s' if shots != [1] else ''}"] if shots else []
    conditions = dict.fromkeys(str(task.entries[0].run.config.get("condition") or "") for task in own)
    if run.model_kind == "ltm":
        if asked and any(shots):
            parts += [Z_WORDS[one] for one in conditions if one in Z_WORDS]
            parts[-1] += f", {baseline} reads the demonstrations" if baseline else ""
        elif not asked:
            parts.append("z fitted to each text")
        fits = [mapping(task.entries[0].run.config.get("fit")).get("t_fast") for task in own]
        steps = sorted({value for value in fits if isinstance(value, int)})
        parts += [f"{', '.join(f'{value:,}' for value in steps)} fast steps"] if steps else []
    told = _compute(row for row in rows if (row.first, row.other) == (label, baseline))
    parts += [text.removeprefix(f"{label} spends ") for text in told]
    return " · ".join(parts)


Mark = tuple[str, str, str]
"""How it stands (good, bad, or open: not known), the words, and the section of the page that tells more."""


def marks_of(told: Sequence[Told], named: Sequence[tuple[str, Run]], rows: Sequence[Finding]) -> list[Mark]:
    """Return what tells whether the figures can be trusted."""
    pairs = [(one.name, entry) for one in told for entry in one.tables.entries]
    found = [
        _documents_mark(told, pairs),
        _data_mark(pairs),
        _audit_mark(named),
        _cut_mark(told),
        _prompts_mark(rows),
        _failed_mark(pairs),
        _ended_mark(told, named, rows),
        _noise_mark(told),
    ]
    return [mark for mark in found if mark is not None]


Pairs = list[tuple[str, "Entry"]]  # every task's name and run of a page


def _documents_mark(told: Sequence[Told], pairs: Pairs) -> Mark:
    cuts = [cut for name, entry in pairs if (cut := _cut(entry.run, name)) is not None]
    if cuts:
        why, count = cuts[0]
        words = "limit" if why.startswith("Limit") else "a part"
        return "bad", f"{count} documents ({words})" if len(told) == 1 else f"Part of the documents ({words})", "ran"
    if any(entry.run.tasks[name].n_original is None for name, entry in pairs):
        return "open", "Number of documents not recorded", "ran"
    counts = [entry.run.tasks[one.name].n_effective for one in told for entry in one.tables.entries[:1]]
    return "good", f"All documents ({', '.join(f'{count:,}' for count in counts if count is not None)})", "ran"


def _data_mark(pairs: Pairs) -> Mark:
    if any(is_bundled(name, entry.run) for name, entry in pairs):
        return "bad", "Sample data, not the official sets", "ran"
    if any(unofficial_data(name, entry.run) for name, entry in pairs):
        return "bad", "Not the official data", "warnings"
    if all(facts_of(name, entry.run).get("official") is True for name, entry in pairs):
        return "good", "Official data", "ran"
    return "open", "Data not checked against the official files", "ran"


def _audit_mark(named: Sequence[tuple[str, Run]]) -> Mark | None:
    audits = [run.extra.audit for _, run in named if has_bound(run)]
    known = [one for one in audits if one is not None]
    if any(not one.is_bound and one.figure == "bound" for one in known):
        return "bad", "Audit failed: not a bound", "audit"
    if len(known) < len(audits):
        return "open", "Bounds not audited", "audit" if known else "ran"
    return ("good", "Bounds audited", "audit") if audits else None


def _cut_mark(told: Sequence[Told]) -> Mark | None:
    asked = [(number, facts) for number, one in enumerate(told, 1) for facts in one.answering]
    if not asked:
        return None
    prompts = [(one["label"], *one["prompts_cut"]) for _, one in asked if one["prompts_cut"] is not None]
    labels = dict.fromkeys(label for label, some, _ in prompts if some)
    href = f"answering-{asked[0][0]}"
    if labels:
        count, every = (sum(one[index] for one in prompts) for index in (1, 2))
        return "bad", f"Prompts cut: {count:,} of {every:,} ({_few(list(labels))})", href
    known = len(prompts) == len(asked)
    return ("good", "No prompt cut", href) if known else ("open", "Cut prompts not recorded", href)


def _prompts_mark(rows: Sequence[Finding]) -> Mark | None:
    shown = [row for row in rows if row.baseline] or rows
    pairs = [(row, row.difference) for row in shown if row.difference is not None]
    others = dict.fromkeys(row.other for row, found in pairs if found.other_prompts)
    if not pairs:
        return None
    href = f"task-{pairs[0][0].number}"
    if others:
        return "bad", f"Other prompts for {_few(list(others))}", "warnings"
    if unpaired := max(found.unpaired for _, found in pairs):
        return "bad", f"Same prompts, but {unpaired:,} documents unpaired", href
    return "good", "Same prompts for all", href


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) < 3 else f"{len(labels)} runs"


def _failed_mark(pairs: Pairs) -> Mark | None:
    """Return how many documents failed: they have a sample without metrics."""
    samples = [one for _, entry in pairs for own in list(entry.samples.values())[:1] for one in own.values()]
    failed = sum(not one.metrics for one in samples)
    if failed:
        return "bad", f"{failed:,} failed document{'s' if failed != 1 else ''}", "ran"
    return ("good", "No failed document", "ran") if samples else None


def _ended_mark(told: Sequence[Told], named: Sequence[tuple[str, Run]], rows: Sequence[Finding]) -> Mark:
    if any(run.extra.status in UNFINISHED for _, run in named):
        return "bad", "Unfinished run", "warnings"
    if any(row.theirs is None and row.word == APART for row in rows):
        return "bad", "A model lacks a task", "warnings"
    if not all(run.extra.status for _, run in named):
        return "open", "Whether the run ended is not recorded", "cost"
    starts = max((row["starts"] for one in told for row in one.costs), default=1)
    return "good", f"Run complete, resumed ({starts:,} starts)" if starts > 1 else "Run complete", "cost"


def _noise_mark(told: Sequence[Told]) -> Mark:
    """Return the share of the first model's bound that comes from the noise draws."""
    runs = [(one.name, entry.run) for one in told for entry in one.tables.entries]
    counts = [count for name, run in runs if (count := run.tasks[name].n_effective) is not None]
    if counts and 0 < min(counts) < ROUGH:
        return "bad", f"Few documents ({min(counts):,}): rough intervals", "warnings"
    sections = (one.tables.perplexity for one in told if one.tables.perplexity is not None)
    lines = [row.lines[0].per_token for section in sections for row in section.rows if row.name == "bound"]
    noise = [(one.mc_se / one.value, one.stderr or 0.0, one) for one in lines if one and one.mc_se and one.value]
    if not noise:
        return "open", "Noise of z not measured: one seed", "reading"
    share, stderr, figure = max(noise, key=lambda one: one[0])
    small = (figure.mc_se or 0.0) < stderr / 2
    return "good" if small else "open", f"Noise of the bound ± {100 * share:.2g} %", "reading"


def run_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    banners = []
    demo = [label for label, run in named if run.extra.demo_model]
    sample = [label for label, run in named if run.extra.sample_data]
    gsm8k = any("gsm8k" in task.lower() for _, run in named for task in run.tasks)
    what = "GSM8K" if gsm8k else "benchmark results"
    if demo and sample:
        banners.append(Banner("alarm", f"Demo model, sample data: not {what}. Bundled model: {', '.join(demo)}."))
    elif demo:
        banners.append(Banner("alarm", f"Demo model: {', '.join(demo)} is bundled to try the program with."))
    elif sample:
        banners.append(Banner("alarm", f"Sample data: not {what}. The bundled samples are small and synthetic."))
    if demo and any("ltm_rules" in run.tasks for _, run in named if run.extra.demo_model and run.extra.sample_data):
        seen = "Known rules: the bundled models' training episodes held every rule and question of the sample episodes"
        banners.append(Banner("note", f"{seen}; ltm_rules shows what the demonstrations carry over, not learning."))
    if 0 < len(sample) < len(named):
        banners.append(Banner("alarm", f"Different data: only {', '.join(sample)} ran on the bundled sample data."))
    return banners + _unfinished_banners(named) + _audit_banners(named)


def _alike(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    """Return the labels, or what else has a key, by their key, so that each key is named once."""
    found: dict[K, list[T]] = {}
    for key, label in pairs:
        found.setdefault(key, []).append(label)
    return found


def _unfinished_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    """Return a banner on runs that are in progress or were interrupted."""
    labels = [label for label, run in named if run.extra.status in UNFINISHED]
    text = f"Unfinished: {', '.join(labels)}: the tasks shown are whole, more may be to come; the same command goes on."
    return [Banner("alarm", text)] if labels else []


def has_bound(run: Run) -> bool:
    """Return whether the run reports a figure meant as an upper bound."""
    rolling = ROLLING_METRICS | {"bits_per_byte"} if run.model_kind == "ltm" else frozenset()
    metrics = {score.metric for task in run.tasks.values() for score in task.scores}
    return any(name.endswith("_bound") for name in metrics) or bool(metrics & (_BOUND_METRICS | rolling))


def audit_line(run: Run) -> str:
    """Return the audit's verdict in one line; empty without an audit, or if the run reports no bound."""
    audit = run.extra.audit
    if audit is None or not has_bound(run):
        return ""
    fit = run.config.get("fit")
    made = fit.get("t_fast") if isinstance(fit, dict) else None
    own = f" (the run itself: {made:,})" if isinstance(made, int) and made != audit.t_fast else ""
    head = f"Audit on random tokens: preset {audit.preset}, {audit.t_fast:,} fast steps{own}: "
    if audit.deficit_nats_per_block is None:
        return f"{head}no finite figure: not a bound"
    spread = f" (± {audit.stderr_nats:.1f})" if audit.stderr_nats is not None else ""
    side = "below" if audit.deficit_nats_per_block > 0 else "above"
    what = "bound" if audit.figure == "bound" else f"figure {audit.figure}"
    line = f"{head}{what} lies {abs(audit.deficit_nats_per_block):.1f} nats per block {side} T ln V{spread}: "
    if audit.is_bound:
        return f"{line}passes"
    return f"{line}not a bound" if audit.caught else f"{line}not caught, but scored at the fit’s own noise: not a bound"


def _audit_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    banners = []
    for line, labels in _alike((audit_line(run), label) for label, run in named).items():
        audit = next(run.extra.audit for label, run in named if label == labels[0])
        if audit is None or audit.is_bound or not line:
            continue
        what = (
            "No figure of this run may be called a bound."
            if audit.figure == "bound"
            else "What the fit itself reports, and every row as_released, is no bound; rows marked ≤ are scored with "
            "noise that the fit has not seen."
        )
        banners.append(Banner("alarm", f"Not a bound: {', '.join(labels)}. {line}. {what}"))
    return banners


def task_banners(task: TaskTables) -> list[Banner]:
    name, entries = task.name, task.entries
    return [
        *_data_banners(name, entries),
        *_prompt_banners(task),
        *_setting_banners(name, entries),
        *_protocol_banners(task),
        *_generation_banners(task),
        *_sample_banners(name, entries),
        *few_banners([(name, entry.run.tasks[name].n_effective) for entry in entries]),
        *_predicted_banners(name, entries),
    ]


def facts_of(name: str, run: Run) -> dict[str, Any]:
    """Return what a run records of a task's data."""
    return read_facts((run.of(name).extra.data or {}).get("sets"), name)


def is_bundled(name: str, run: Run) -> bool:
    """Return whether a task ran on the bundled sample data."""
    return facts_of(name, run).get("sample") is True or run.of(name).extra.sample_data


def unofficial_data(name: str, run: Run) -> list[str]:
    """Return how the data of a task differ from the published files, as the run records it."""
    result, sets = run.tasks[name], (run.extra.data or {}).get("sets")
    if sets is None:
        told = result.config.get("metadata")
        files = told.get(NOT_OFFICIAL_FILES) if isinstance(told, dict) else None
        differing = files.items() if isinstance(files, dict) else ()
        sets = {name: {split: {"difference": difference} for split, difference in differing}}
    return unofficial(sets, name, shots=result.n_shot)


def _data_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
    """Return a banner on data that have a set's name but are not the published files."""
    found = _alike((sentence, entry.label) for entry in entries for sentence in unofficial_data(name, entry.run))
    return [
        Banner("alarm", f"{sentence[0].upper()}{sentence[1:]} ({name}, {', '.join(labels)}).")
        for sentence, labels in found.items()
    ]


def few_banners(counts: Iterable[tuple[str, int | None]]) -> list[Banner]:
    """Return a banner for each task with so few documents that its intervals are rough.

    Args:
        counts: tasks and their documents.
    """
    found: dict[str, int] = {}
    for name, n in counts:
        if n is not None and 0 < n < ROUGH:
            found[name] = min(n, found.get(name, n))
    return [
        Banner("note", f"Few documents: {name} has {n:,}; below {ROUGH} documents all intervals are rough.")
        for name, n in found.items()
    ]


def _predicted_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
    labels = [entry.label for entry in entries if _is_predicted(entry.run, name)]
    text = f"Answers only: {name} was run with --predict_only by {', '.join(labels)}, so there is no score."
    return [Banner("note", text)] if labels else []


def _is_predicted(run: Run, name: str) -> bool:
    """Return whether lm-eval kept the answers only: its stand-in is the one metric, or texts and choices have none."""
    task = run.tasks[name]
    unscored = bool(task.scores) or (task.n_original is not None and not task.n_effective)
    return run.of(name).extra.settings is None and unscored and all(s.metric == PREDICTED for s in task.scores)


def limit_banners(named: Sequence[tuple[str, Run]], names: Sequence[str]) -> list[Banner]:
    """Return banners on runs that scored a part of the data, one for the tasks that the same runs cut alike."""
    parts: dict[tuple[str, str], list[str]] = {}
    for name in names:
        cut: dict[tuple[str, str], list[str]] = {}
        for label, run in named:
            if name in run.tasks and not _is_predicted(run, name) and (told := _cut(run, name)) is not None:
                cut.setdefault(told, []).append(label)
        for (why, count), labels in cut.items():
            parts.setdefault((why, ", ".join(labels)), []).append(f"{count} documents of {name}")
    return [
        Banner("alarm", f"{why}: {', '.join(counts)} were scored ({labels}).")
        for (why, labels), counts in parts.items()
    ]


def _cut(run: Run, name: str) -> tuple[str, str] | None:
    """Return why a run scored only some documents of a task, and how many; None if all, or if not recorded."""
    run = run.of(name)
    result, limit = run.tasks[name], run.extra.limit
    scored, whole = result.n_effective, result.n_original
    known = scored is not None and whole is not None
    if limit is None and not known:
        return None
    if scored is not None and whole is not None and scored >= whole:
        return None
    why = "Part of the data only" if limit is None else f"Limit {limit:g} used"
    return why, f"{scored:,} of {whole:,}" if known else "some"


def shared_warnings(named: Sequence[tuple[str, Run]]) -> list[tuple[str, tuple[str, ...]]]:
    """Return each warning of the runs once, with its models."""
    found = _alike((warning, label) for label, run in named for warning in run.extra.warnings)
    return [(warning, tuple(dict.fromkeys(labels))) for warning, labels in found.items()]


def older_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    """Return a banner for each column in whose place older runs of the same settings are not shown."""
    return [
        Banner("note", f"{label}, {task}: {count} older run{'s' if count > 1 else ''} not shown.")
        for label, run in named
        for task, count in run.older.items()
    ]


def missing_task_banners(named: Sequence[tuple[str, Run]], names: Sequence[str]) -> list[Banner]:
    """Return a banner for each model that lacks a task which another has: interrupted, or asked for less."""
    scored: dict[tuple[str, ...], set[str]] = {}
    for _, run in named:
        scored.setdefault(model_of(run), set()).update(run.tasks)
    lacks = {label: tuple(name for name in names if name not in scored[model_of(run)]) for label, run in named}
    return [
        Banner(
            "alarm",
            f"Incomplete: no results of {', '.join(missing)} by {', '.join(labels)}, so nothing is compared there.",
        )
        for missing, labels in _alike((missing, label) for label, missing in lacks.items() if missing).items()
    ]


def _prompt_banners(task: TaskTables) -> list[Banner]:
    found = {
        (row.difference.other_prompts, row.difference.n, row.model): None
        for table in task.tables
        for row in table.rows
        if row.difference is not None and row.difference.other_prompts
    }
    return [
        Banner(
            "alarm",
            f"Mismatched prompts: {', '.join(labels)} saw other prompts than the first model in {other:,} of {n:,} "
            f"documents of {task.name}. Differences mix model and prompt.",
        )
        for (other, n), labels in _alike(((other, n), label) for other, n, label in found).items()
    ]


def _setting_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
    results = [entry.run.tasks[name] for entry in entries]
    banners = []
    for what, seen in (
        ("numbers of demonstrations", {str(result.n_shot) for result in results}),
        ("task versions", {result.version or "none" for result in results}),
    ):
        if len(seen) > 1:
            text = f"Different {what} for {name}: {', '.join(sorted(seen))}. The rows are not comparable as they stand."
            banners.append(Banner("alarm", text))
    return banners


def _protocol_banners(task: TaskTables) -> list[Banner]:
    differing = differing_protocols(task.perplexity) if task.perplexity is not None else []
    text = f"Different preparations of {task.name}: {'; '.join(differing)}. The rows are not comparable as they stand."
    return [Banner("alarm", text)] if differing else []


def _generation_banners(task: TaskTables) -> list[Banner]:
    """Return banners on texts that were generated or compared differently, and on too few of them."""
    generation = task.generation
    if generation is None:
        return []
    banners = []
    differing = [f"{key}: {', '.join(dict.fromkeys(values))}" for key, values, differs in generation.options if differs]
    if differing:
        text = f"Different settings of {task.name}: {'; '.join(differing)}. MAUVE compares only under equal settings."
        banners.append(Banner("alarm", text))
    if generation.n_human is not None and generation.n_human < ENOUGH_TEXTS:
        text = f"Few texts: MAUVE of {task.name} rests on {generation.n_human:,} human texts; so few raise and blur it."
        banners.append(Banner("note", text))
    return banners


def _sample_banners(name: str, entries: Sequence[Entry]) -> list[Banner]:
    without = [entry.label for entry in entries if entry.run.tasks[name].samples_path is None]
    if not without:
        return []
    text = f"No samples of {name} were logged for {', '.join(without)}, so they are not paired"
    return [Banner("note", f"{text}; run lm-eval with --log_samples.")]
