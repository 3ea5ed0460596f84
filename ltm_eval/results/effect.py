"""What demonstrations do: one figure under every condition and number of demonstrations, each compared with `demos`.

Differences are paired by document. A cell is compared with the reference condition at its own number of
demonstrations; a cell without demonstrations, and the reference's own cells, with the reference at the largest number.
A sweep writes the block `effect` of its first results file; the page reads it, and the compute of rethinking beside it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ltm_eval.results.scores import by_document, entry_of
from ltm_eval.results.statistics import ALPHA, OPEN, interval_of, paired_means
from ltm_eval.results.views import Difference, EffectTable, Figure
from ltm_eval.system.errors import ResultsError
from ltm_eval.system.text import aligned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ltm_eval.results.files import Run
    from ltm_eval.results.scores import Entry

METRICS = ("exact_match", "pass@", "maj@")
DIFFERENCE = ("estimate", "interval", "p_value", "n", "discordant")
"""Fields of a paired comparison that are kept."""


def effect(cells: Sequence[tuple[str, Run]], *, reference: str) -> dict[str, Any]:
    """Return the block `effect` of a sweep's results: all cells of every task, metric and filter, with differences.

    Args:
        cells: the condition of each combination that was run, and its run.
        reference: condition the others are compared with.
    """
    tasks = dict.fromkeys(name for _, run in cells for name in run.tasks)
    return {"reference": reference, "tasks": {task: list(_tables(cells, task, reference)) for task in tasks}}


def _tables(cells: Sequence[tuple[str, Run]], task: str, reference: str) -> Iterator[dict[str, Any]]:
    from pandas import DataFrame, Series

    there = [(condition, entry_of("", 1, run, task=task)) for condition, run in cells if task in run.tasks]
    keys = [(condition, entry.run.tasks[task].n_shot or 0) for condition, entry in there]
    for score in there[0][1].run.tasks[task].scores:
        if not score.metric.startswith(METRICS):
            continue
        found = [by_document(entry, metric=score.metric, filter_=score.filter) for _, entry in there]
        # a row per document, a column per cell
        frame = DataFrame({i: Series({key: x for key, (x, _) in own.items()}) for i, own in enumerate(found) if own})
        rows = []
        for i in frame:
            row = {"condition": keys[i][0], "shots": keys[i][1], **interval_of(frame[i].dropna().tolist())}
            against = reference_of(keys, keys[i], reference)
            row["difference"] = None
            if against is not None and against in frame:
                pairs = frame[[i, against]].dropna()
                paired = asdict(paired_means(pairs[i].tolist(), pairs[against].tolist()))
                named = {"against": keys[against][0], "against_shots": keys[against][1]}
                row["difference"] = {key: value for key, value in paired.items() if key in DIFFERENCE} | named
            rows.append(row)
        yield {"metric": score.metric, "filter": score.filter, "cells": rows}


def reference_of(keys: Sequence[tuple[str, int]], own: tuple[str, int], reference: str) -> int | None:
    """Return the index of the cell that `own` is compared with; None for the reference itself, or without one.

    Args:
        keys: condition and shots of every cell.
    """
    most = max((shots for condition, shots in keys if condition == reference), default=None)
    wanted = (reference, own[1] if own[0] != reference and own[1] else most)
    if wanted not in keys:
        wanted = (reference, most)
    return keys.index(wanted) if wanted in keys and wanted != own else None


def text_table(block: Mapping[str, Any]) -> str:
    """Return the block as plain text, one table per task, metric and filter; shares in percent."""
    parts = []
    for task, tables in block["tasks"].items():
        for table in tables:
            parts.append(f"Effect of the demonstrations: {task}, {table['metric']}, {table['filter']}")
            parts.append(aligned(HEAD, [_cells(row) for row in table["cells"]]))
            parts.append("")
    return "\n".join(parts).rstrip()


HEAD = ("condition", "shots", "score", "95 % interval", "n", "minus", "difference", "95 % interval", "p")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    score = (f"{100 * row['value']:.1f} %", f"{100 * row['low']:.1f} to {100 * row['high']:.1f}", f"{row['n']}")
    head = (row["condition"], str(row["shots"]), *score)
    found = row["difference"]
    if found is None:
        return (*head, "", "", "", "")
    low, high = found["interval"]["low"], found["interval"]["high"]
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    against = f"{found['against']}, {found['against_shots']}"
    return (*head, against, f"{100 * found['estimate']:+.1f}", interval, f"{found['p_value']:.3g}")


SIDES = (("rethink", "rethinking"), ("independent", "independent draws"))


def effect_tables(name: str, entries: Sequence[Entry]) -> tuple[EffectTable, ...]:
    """Return the sweep's tables of a task, of each run that has some.

    Raises:
        ResultsError: the block is not as this program writes it.
    """
    found = []
    for entry in entries:
        block = entry.run.extra.effect or {}
        try:
            found += [_table(entry.label, name, one) for one in block.get("tasks", {}).get(name, [])]
        except (KeyError, TypeError, AttributeError) as error:
            raise ResultsError(
                f"{entry.run.path}: field ltm_eval.effect: {type(error).__name__} ({error}); was the file edited?"
            ) from error
    return tuple(found)


def _table(label: str, task: str, table: Mapping[str, Any]) -> EffectTable:
    rows = []
    for cell in table["cells"]:
        found = cell["difference"]
        rows.append(
            Figure(
                task=task,
                metric=table["metric"],
                filter=table["filter"],
                model=cell["condition"],
                share=True,
                higher_is_better=True,
                **{key: cell[key] for key in ("value", "low", "high", "n")},
                n_shot=cell["shots"],
                note=f"{found['against']}, {found['against_shots']} shots" if found else "",
                difference=_difference(found) if found else None,
            )
        )
    return EffectTable(label, table["metric"], table["filter"], tuple(rows))


def _difference(found: Mapping[str, Any]) -> Difference:
    low, high = found["interval"]["low"], found["interval"]["high"]
    clear = found["p_value"] < ALPHA and (low > 0 or high < 0)
    kept = {key: found[key] for key in ("estimate", "p_value", "n", "discordant")}
    return Difference(**kept, low=low, high=high, verdict=("better" if low > 0 else "worse") if clear else OPEN)


def budget_rows(name: str, entries: Sequence[Entry]) -> tuple[dict[str, Any], ...]:
    """Return the compute of rethinking and of its control, of each run that did it.

    Raises:
        ResultsError: the block is not as this program writes it.
    """
    rows = []
    for entry in entries:
        block: Any = (entry.run.extra.rethink_budget or {}).get(name)
        try:
            for side, words in SIDES if block else ():
                spent = {key: block[side][key] for key in ("fast_steps", "fitted_tokens", "new_tokens")}
                rows.append({"label": entry.label, "side": words, **spent})
        except (KeyError, TypeError) as error:
            raise ResultsError(
                f"{entry.run.path}: field ltm_eval.rethink_budget: {type(error).__name__} ({error}); was it edited?"
            ) from error
    return tuple(rows)
