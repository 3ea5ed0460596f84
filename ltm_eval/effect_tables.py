"""The effect of the demonstrations and the compute of rethinking, from a results file's block to rows of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_eval.errors import ResultsError
from ltm_eval.page import BudgetRow, Difference, EffectRow, EffectTable
from ltm_eval.paired import ALPHA, OPEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_eval.scores import Entry

SIDES = (("rethink", "rethinking"), ("independent", "independent draws"))


def effect_tables(name: str, entries: Sequence[Entry]) -> tuple[EffectTable, ...]:
    """The sweep's tables of a task, per run that has some.

    Raises:
        ResultsError: the block is not as this program writes it.
    """
    found = []
    for entry in entries:
        block = entry.run.extra.effect or {}
        try:
            found += [_table(entry.label, block, one) for one in block.get("tasks", {}).get(name, [])]
        except (KeyError, TypeError, AttributeError) as error:
            raise ResultsError(
                f"{entry.run.path}: field ltm_eval.effect: {type(error).__name__} ({error}); was the file edited?"
            ) from error
    return tuple(found)


def _table(label: str, block: Mapping[str, Any], table: Mapping[str, Any]) -> EffectTable:
    return EffectTable(
        label=label,
        metric=table["metric"],
        filter=table["filter"],
        reference=block["reference"],
        rows=tuple(map(_row, table["cells"])),
    )


def _row(cell: Mapping[str, Any]) -> EffectRow:
    found = cell["difference"]
    return EffectRow(
        condition=cell["condition"],
        shots=cell["shots"],
        value=cell["value"],
        low=cell["low"],
        high=cell["high"],
        n=cell["n"],
        against=f"{found['against']}, {found['against_shots']} shots" if found else "",
        difference=_difference(found) if found else None,
    )


def _difference(found: Mapping[str, Any]) -> Difference:
    low, high = found["interval"]["low"], found["interval"]["high"]
    clear = found["p_value"] < ALPHA and (low > 0 or high < 0)
    return Difference(
        estimate=found["estimate"],
        low=low,
        high=high,
        p_value=found["p_value"],
        n=found["n"],
        discordant=found["discordant"],
        other_prompts=0,
        unpaired=0,
        verdict=("better" if low > 0 else "worse") if clear else OPEN,
    )


def budget_rows(name: str, entries: Sequence[Entry]) -> tuple[BudgetRow, ...]:
    """What rethinking and its control cost, per run that did it.

    Raises:
        ResultsError: the block is not as this program writes it.
    """
    rows = []
    for entry in entries:
        block = (entry.run.extra.rethink_budget or {}).get(name)
        try:
            rows += [BudgetRow(entry.label, words, **block[side]) for side, words in SIDES] if block else []
        except (KeyError, TypeError) as error:
            raise ResultsError(
                f"{entry.run.path}: field ltm_eval.rethink_budget: {type(error).__name__} ({error}); was it edited?"
            ) from error
    return tuple(rows)
