"""A probe as the page shows it: means over texts with intervals, and the rows of the explorer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from difflib import SequenceMatcher
from statistics import fmean
from typing import TYPE_CHECKING

from ltm_eval.probe.files import NONE, downward, groups_of, key_of, layers_of, upward, words_of
from ltm_eval.results.diagnostics import layer_maps
from ltm_eval.results.scores import flat
from ltm_eval.results.views import Estimate, ExplorerItem, Ladder, LayersView, Measure, ProbeView, SetRow
from ltm_eval.system.text import aligned, cut, number, percent, terminal, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.probe.files import Cell, Explored, Probe, ProbedText


PERCENT, NATS, TOKENS = "percent", "nats", "tokens"
_FACTS = ("preset", "t_fast", "rest", "latents", "max_tokens", "n_tokens", "gen_kwargs", "seed")
_ORDERS = (("upward", upward), ("downward", downward))

_Figure = Callable[["ProbedText", "Cell"], "float | None"]
_MEASURES: tuple[tuple[str, str, str, str, _Figure], ...] = (
    (
        "top1",
        "Teacher-forced top-1",
        PERCENT,
        "tokens that are the likeliest after the text’s own earlier tokens",
        lambda text, cell: cell.top1 / text.tokens,
    ),
    (
        "nll",
        "Teacher-forced NLL",
        NATS,
        "−log p(token | z, the text’s own earlier tokens), per token",
        lambda text, cell: cell.nll_nats / text.tokens,
    ),
    (
        "saved",
        "NLL saved by z",
        NATS,
        "teacher-forced NLL without z minus the one with it, per token, paired by text; KL is not charged",
        lambda text, cell: (text.no_z.nll_nats - cell.nll_nats) / text.tokens,
    ),
    (
        "greedy",
        "Free-running, by position",
        PERCENT,
        "positions at which the greedy continuation of end-of-text alone has the text’s token",
        lambda text, cell: None if cell.greedy is None else cell.greedy / text.tokens,
    ),
    (
        "prefix",
        "Free-running, until the first error",
        TOKENS,
        "tokens of that continuation before its first wrong one",
        lambda text, cell: cell.prefix,
    ),
)
"""Key, title, unit, what is counted, and how."""


def probe_view(label: str, probe: Probe) -> ProbeView:
    """Return the view of a probe."""
    settings = {name: probe.settings[name] for name in _FACTS if probe.settings.get(name) is not None}
    n_layers, prompts = probe.n_layers, probe.of_prompts
    groups = probe.groups or groups_of(n_layers)
    thirds = groups_of(n_layers, 3) if n_layers > 2 else ()
    presets = zip(("First third", "Middle third", "Last third"), thirds, strict=False)
    return ProbeView(
        label=label,
        n_layers=n_layers,
        groups=groups,
        presets=tuple((words, key_of(range(first, last + 1))) for words, (first, last) in presets),
        of_prompts=prompts,
        texts=len(probe.texts),
        tokens=sum(text.tokens for text in probe.texts),
        cut=sum(text.cut for text in probe.texts),
        demo=probe.demo_model,
        warnings=probe.warnings,
        facts=flat(settings),
        measures=() if prompts else measures_of(probe),
        layers=_layers(label, probe.texts),
        items=tuple(_item(probe, one, groups) for one in probe.explored if one.cells),
        command=probe.command,
        path=probe.path.as_posix(),
        settings=flat(
            {"settings": dict(probe.settings), "model": dict(probe.model), "provenance": dict(probe.provenance)}
        ),
    )


def probe_labels(probes: Sequence[Probe]) -> list[str]:
    """Return the model names, with dates if several probes share a model."""
    names = [probe.model_name for probe in probes]
    return [
        name if names.count(name) == 1 else f"{name} ({probe.date_id})"
        for name, probe in zip(names, probes, strict=True)
    ]


def measures_of(probe: Probe) -> tuple[Measure, ...]:
    """Return every measure that all texts have, by direction."""
    found = []
    for key, title, unit, what, figure in _MEASURES:
        no_z = _estimate([figure(text, text.no_z) for text in probe.texts], unit)
        ladders = []
        for name, order in _ORDERS:
            steps = order(probe.n_layers)
            points = [_at(step, probe.texts, figure, unit) for step in steps]
            known = [point for point in points if point is not None]
            if len(known) == len(steps):
                ladders.append(Ladder(name, tuple(steps), tuple(known)))
        if ladders and no_z is not None:
            found.append(Measure(key, title, unit, what, tuple(ladders), no_z))
    return tuple(found)


def _at(key: str, texts: Sequence[ProbedText], figure: _Figure, unit: str) -> Estimate | None:
    """Return the mean under one set of layers; None if a text lacks it."""
    cells = [(text, text.cells[key]) for text in texts if key in text.cells]
    return _estimate([figure(*one) for one in cells], unit) if len(cells) == len(texts) else None


def _estimate(values: Sequence[float | None], unit: str) -> Estimate | None:
    """Return the unweighted mean over texts with a 95 % interval."""
    from ltm_eval.results.statistics import mean_interval

    known = [float(value) for value in values if value is not None]
    if not known or len(known) != len(values):
        return None
    if len(known) == 1:
        return Estimate(known[0], None, None)
    if not any(known):  # a set of layers compared with itself
        return Estimate(0.0, 0.0, 0.0)
    interval = mean_interval(known)
    if not interval.known:
        return Estimate(fmean(known), None, None)
    low, high = interval.low, interval.high
    return Estimate(fmean(known), *((max(low, 0.0), min(high, 1.0)) if unit == PERCENT else (low, high)))


def _layers(label: str, texts: Sequence[ProbedText]) -> LayersView | None:
    maps = layer_maps(
        [(text.kl_per_layer_nats, text.mean_log_var_per_layer) for text in texts], [text.name for text in texts]
    )
    return LayersView(label, len(texts), 0, 0, maps) if maps else None


_ENDED = {"length": "", "end_of_text": "end of text", "stop_string": "stop string", "not_finite": "not finite"}


def _item(probe: Probe, one: Explored, groups: Sequence[tuple[int, int]]) -> ExplorerItem:
    text = probe.texts[one.index]
    rows: list[SetRow] = []
    first: dict[int, str] = {}
    for key, made in one.cells.items():
        cell = text.cells.get(key)
        words = words_of(key)
        rows.append(
            SetRow(
                key=key,
                words=words,
                kind=_kind(key, groups),
                nll=made.nll_nats / made.tokens if made.tokens else None,
                similarity=made.similarity,
                text_nll=cell.nll_nats / text.tokens if cell else math.nan,
                top1=cell.top1 / text.tokens if cell else math.nan,
                tokens=made.tokens,
                ended=_ENDED.get(made.stop_reason, made.stop_reason),
                text=made.text,
                first=first.get(made.text, ""),
            )
        )
        first.setdefault(made.text, words)
    name, prompt, rest, *texts = (visible(cut(text)) for text in (text.name, one.prompt, one.rest, *one.texts))
    whole = one.cells.get(key_of(range(1, probe.n_layers + 1)))
    marked = [(text,) if whole is None else marked_changes(text, texts[whole.text]) for text in texts]
    return ExplorerItem(name, prompt, rest, tuple(marked), tuple(rows))


def _kind(key: str, groups: Sequence[tuple[int, int]]) -> str:
    """Return whether a set of layers is a range, a combination of whole groups, both or neither."""
    layers, spans = set(layers_of(key)), [set(range(first, last + 1)) for first, last in groups]
    is_range = key != NONE and "," not in key
    of_groups = all(span <= layers or not span & layers for span in spans)
    return " and ".join(["range"] * is_range + ["groups"] * of_groups)


def marked_changes(text: str, whole: str) -> tuple[str, ...]:
    """Return `text` in parts, by words: alternately as in `whole` and changed, beginning with the former."""
    mine, theirs = (re.findall(r"\s*\S+|\s+", one) for one in (text, whole))
    parts, at = [""], 0
    for _, start, size in SequenceMatcher(None, theirs, mine, autojunk=False).get_matching_blocks():
        if start > at:
            parts += ["".join(mine[at:start]), ""]
        at = start + size
        parts[-1] += "".join(mine[start:at])
    return tuple(parts)


def explorer_json(view: ProbeView) -> str:
    """Return the data of the page's script as JSON for a script element: ASCII, without `<`, `>`, `&`.

    Figures are formatted here, so that script and table agree.
    """
    items = [
        {
            "name": item.name,
            "prompt": item.prompt,
            "rest": item.rest,
            "texts": item.texts,
            "sets": {row.key: [row.text, *figures_of(row)] for row in item.rows},
        }
        for item in view.items
    ]
    text = json.dumps({"layers": view.n_layers, "groups": view.groups, "items": items}, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def figures_of(row: SetRow) -> tuple[str, str, str, str]:
    """Format NLL of the generated text, similarity, NLL of the original and top-1 accuracy."""
    return tuple(  # type: ignore[return-value]
        "–" if value is None or math.isnan(value) else words(value)
        for value, words in (
            (row.nll, number),
            (row.similarity, lambda share: f"{percent(share)} %"),
            (row.text_nll, number),
            (row.top1, lambda share: f"{percent(share)} %"),
        )
    )


def text_table(probe: Probe) -> str:
    """Return the curves as plain text, one line per number of active layers, or the continuations of prompts."""
    if probe.of_prompts:
        return "\n\n".join(map(_continuations, probe_view("", probe).items))
    measures = measures_of(probe)
    heads = [f"{measure.key} {ladder.name.removesuffix('ward')}" for measure in measures for ladder in measure.ladders]
    lines = []
    for count in range(probe.n_layers + 1):
        points = [(measure, ladder.points[count]) for measure in measures for ladder in measure.ladders]
        lines.append([str(count), *(_words(measure, point) for measure, point in points)])
    lines.append(["no z", *(_words(measure, measure.no_z) for measure in measures for _ in measure.ladders)])
    return aligned(["layers", *heads], lines, numeric=[True] * (1 + len(heads)))


def _continuations(item: ExplorerItem) -> str:
    """Return a prompt's continuations as plain text, one line per set of layers."""
    lines = []
    for row in item.rows:
        nll, similarity, *_ = figures_of(row)
        text = f"as {row.first}" if row.first else terminal("".join(item.texts[row.text])) or "(nothing)"
        lines.append([row.words, row.kind, str(row.tokens), nll, similarity, text])
    heads = ["active", "kind", "tokens", "nll/token", "similarity", "continuation"]
    shown = aligned(heads, lines, numeric=[False, False, True, True, True])
    return f"{terminal(item.name)}: {terminal(item.prompt)}\n{shown}"


def _words(measure: Measure, point: Estimate) -> str:
    return f"{100 * point.mean:.1f} %" if measure.unit == PERCENT else f"{point.mean:.3f}"
