"""MAUVE on the page: every model's figure with its spread, the ceiling of human texts, lengths, repetition, curves.

The figures are in any lm-eval results file of a `ltm_mauve` task; curves, seeds and options only if `run` wrote it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ltm_eval.results.columns import setting_of
from ltm_eval.results.scores import side_by_side
from ltm_eval.results.views import EVALUATED, REFERENCE, Divergence, Figure, GenerationLine, GenerationSection
from ltm_eval.system.records import count, finite, mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.results.files import Score
    from ltm_eval.results.scores import Entry

# What the table shows; the score tables leave it out of a task that has `mauve`
METRICS = frozenset(
    ("mauve", "mauve_sd", "mauve_ceiling", "mauve_ceiling_sd")
    + tuple(f"{name}{side}" for name in ("words", "distinct_2", "rep_3") for side in ("", "_human"))
)
HUMAN = "human texts, half against half"
SIGNED = (
    ("texts", "texts"),
    ("prompt", "prompt_tokens"),
    ("new", "max_gen_toks"),
    ("sampling", "sampling"),
    ("features", "feature_model"),
    ("max", "max_text_length"),
    ("c", "scaling"),
)


def generation_section(name: str, entries: Sequence[Entry]) -> GenerationSection | None:
    """Return the section of a task with a `mauve`; None for any other."""
    with_figure = [entry for entry in entries if _score(entry, name, "mauve") is not None]
    if not with_figure:
        return None
    lines = [_line(entry, name) for entry in with_figure]
    ceilings = _ceilings(with_figure, name)
    told = [mapping(entry.run.tasks[name].generation.get("options")) for entry in with_figure]
    shown = [{key: one if isinstance(one, str) else json.dumps(one) for key, one in own.items()} for own in told]
    sizes = [size for entry in with_figure if (size := count(entry.run.tasks[name].generation.get("n_human")))]
    return GenerationSection(
        lines=(*lines, *ceilings),
        curves=_curves(with_figure, name),
        options=side_by_side(shown),
        n_human=min(sizes) if sizes else None,
    )


def _line(entry: Entry, name: str) -> GenerationLine:
    facts = entry.run.tasks[name].generation
    scores = facts.get("scores")
    seeds = f"{len(scores)} × {len(scores[0])}" if isinstance(scores, list) and scores and scores[0] else ""
    generated, human = count(facts.get("n_generated")), count(facts.get("n_human"))
    texts = f"{generated:,} with {human:,}" if generated and human else ""
    return GenerationLine(
        figure=_figure(entry, name, "mauve", texts=texts),
        sd_kmeans=finite(facts.get("sd_kmeans")),
        sd_generation=finite(facts.get("sd_generation")),
        seeds=seeds,
        texts=texts,
        buckets=count(facts.get("buckets")),
        **_facts(entry, name, "generated", suffix=""),
        copies=finite(facts.get("copies")),
    )


def _ceilings(entries: Sequence[Entry], name: str) -> list[GenerationLine]:
    """Return one line for human texts, or one per run if the runs differ in them."""
    lines = []
    for entry in entries:
        facts = entry.run.tasks[name].generation
        ceiling, human = facts.get("ceiling"), count(facts.get("n_human"))
        texts = f"{human // 2:,} with {human // 2:,}" if human else ""
        line = GenerationLine(
            figure=_figure(entry, name, "mauve_ceiling", texts=texts),
            sd_kmeans=None,
            sd_generation=None,
            seeds=f"{len(ceiling)}" if isinstance(ceiling, list) and ceiling else "",
            texts=texts,
            buckets=count(facts.get("ceiling_buckets")),
            **_facts(entry, name, "human", suffix="_human"),
            copies=finite(facts.get("copies_human")),
        )
        if line not in lines:
            lines.append(line)
    return lines


def _figure(entry: Entry, name: str, metric: str, *, texts: str) -> Figure:
    """Return a MAUVE; its standard deviation over seeds, which is no interval over documents, stands in the note."""
    scores = [_score(entry, name, one) for one in (metric, f"{metric}_sd")]
    value, sd = (None if score is None else score.value for score in scores)
    spread = f"sd over seeds {sd:.4f}" if sd is not None else ""
    human = metric != "mauve"
    return Figure(
        task=name,
        metric="mauve",
        model=HUMAN if human else entry.label,
        series=0 if human else entry.series,
        status=REFERENCE if human else EVALUATED,
        value=value,
        sd=sd,
        higher_is_better=True,
        note="; ".join(filter(None, (spread, texts))),
        signature="" if human else _signature(entry, name),
    )


def _facts(entry: Entry, name: str, side: str, *, suffix: str) -> dict[str, Any]:
    """Return lengths and repetition from the block, else the few that are metrics."""
    facts = mapping(entry.run.tasks[name].generation.get(side))
    if facts:
        distinct, repeated = mapping(facts.get("distinct")), mapping(facts.get("repeated"))
        return {
            "words": finite(facts.get("words")),
            "words_sd": finite(facts.get("words_sd")),
            "distinct": tuple(finite(distinct.get(n)) for n in ("1", "2", "3")),
            "repeated": tuple(finite(repeated.get(n)) for n in ("2", "3", "4")),
            "empty": count(facts.get("empty")),
        }
    words, distinct_2, rep_3 = (_score(entry, name, f"{one}{suffix}") for one in ("words", "distinct_2", "rep_3"))
    return {
        "words": None if words is None else words.value,
        "words_sd": None,
        "distinct": (None, None if distinct_2 is None else distinct_2.value, None),
        "repeated": (None, None if rep_3 is None else rep_3.value, None),
        "empty": None,
    }


def _signature(entry: Entry, name: str) -> str:
    score = _score(entry, name, "mauve")
    facts = entry.run.tasks[name].generation
    options = mapping(facts.get("options"))
    sizes = [
        (label, facts.get(key))
        for label, key in (("n", "n_generated"), ("human", "n_human"), ("buckets", "buckets"))
        if key in facts
    ]
    declared = [*((label, options.get(key)) for label, key in SIGNED if key in options), *sizes]
    found = setting_of(entry.run, name).signature(score.metric, score.filter) if score is not None else ""
    return "|".join([found, *(f"{label}:{value}" for label, value in declared)])


def _curves(entries: Sequence[Entry], name: str) -> tuple[Divergence, ...]:
    found = [
        Divergence(entry.label, entry.series, points)
        for entry in entries
        if (points := _points(entry.run.tasks[name].generation.get("curve")))
    ]
    ceilings = [_points(entry.run.tasks[name].generation.get("ceiling_curve")) for entry in entries]
    human = [Divergence(HUMAN, 0, points) for points in dict.fromkeys(ceilings) if points]
    return (*human, *found)


def _points(value: Any) -> tuple[tuple[float, float], ...]:
    """Return pairs of finite numbers; none if the file holds anything else."""
    rows = value if isinstance(value, list) else []
    points = [tuple(map(finite, row)) for row in rows if isinstance(row, list) and len(row) == 2]
    whole = len(points) == len(rows) and all(x is not None and y is not None for x, y in points)
    return tuple((float(x or 0), float(y or 0)) for x, y in points) if whole else ()


def _score(entry: Entry, name: str, metric: str) -> Score | None:
    return next((score for score in entry.run.tasks[name].scores if score.metric == metric), None)
