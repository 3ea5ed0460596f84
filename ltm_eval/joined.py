"""Runs of one model that were made one task after the other, as the one run that they would have been.

Only runs of the same folder, checkpoint, settings, program and machine are joined, and only where no task stands twice;
whatever differs beyond the tasks keeps them apart.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ltm_eval.results import UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ltm_eval.result_records import Run, RunExtra

FREE = frozenset(
    ("tasks", "num_fewshot", "baselines", "output_path", "batch_size", "device", "max_failed", "report", "quiet")
    + ("fresh", "command")
)
"""Settings that may differ: what is told for each task, or changes no figure."""
FREE_OF_CONFIG = frozenset(("batch_size", "batch_sizes"))


def joined(runs: Sequence[Run]) -> list[Run]:
    """`runs` with those joined that belong together, each in the place of its first part."""
    groups: list[tuple[str, list[Run]]] = []
    for run in runs:
        key = _key(run)
        group = next((own for other, own in groups if other == key and not _share_a_task(run, own)), None)
        if group is None:
            groups.append((key, [run]))
        else:
            group.append(run)
    return [group[0] if len(group) == 1 else _one(group) for _, group in groups]


def _share_a_task(run: Run, group: Sequence[Run]) -> bool:
    return any(set(run.tasks) & set(part.tasks) for part in group)


def _key(run: Run) -> str:
    """Equal for runs that may be joined; unfinished ones, sweeps and runs without tasks stand alone."""
    extra = run.extra
    if extra.status in UNFINISHED or extra.effect or extra.sweep_cell or not run.tasks:
        return str(run.path)
    config = {name: value for name, value in run.config.items() if name not in FREE_OF_CONFIG}
    if isinstance(config.get("model_args"), dict):
        config["model_args"] = {name: value for name, value in config["model_args"].items() if name not in FREE}
    settings = {name: value for name, value in (extra.settings or {}).items() if name not in FREE}
    told = [
        config,
        settings,
        extra.provenance,
        extra.limit,
        run.software,
        extra.sample_data,
        (extra.data or {}).get("choice"),
    ]
    return json.dumps([str(run.path.parent), run.model_name, run.model_kind, *told], sort_keys=True, default=str)


def _one(parts: Sequence[Run]) -> Run:
    """The newest part with the tasks of all."""
    newest = max(parts, key=lambda part: part.date_id)
    seconds = [part.seconds for part in parts]
    return replace(
        newest,
        tasks={name: result for part in parts for name, result in part.tasks.items()},
        seconds=math.fsum(filter(None, seconds)) if all(one is not None for one in seconds) else None,
        extra=_extra(newest.extra, [part.extra for part in parts]),
        parts=tuple(parts),
    )


def _extra(newest: RunExtra, all_: Sequence[RunExtra]) -> RunExtra:
    sets = {**(newest.data or {}), "sets": _merged((one.data or {}).get("sets") for one in all_)}
    settings = dict(newest.settings or {})
    for name in settings.keys() & FREE:
        values = [(one.settings or {}).get(name) for one in all_]
        settings[name] = values[0] if all(value == values[0] for value in values) else values
    return replace(
        newest,
        warnings=tuple(dict.fromkeys(warning for one in all_ for warning in one.warnings)),
        data=sets if newest.data else newest.data,
        settings=settings or newest.settings,
        content_free=_merged(one.content_free for one in all_),
        rethink_budget=_merged(one.rethink_budget for one in all_),
        floors=_merged(one.floors for one in all_),
        cost=_merged(one.cost for one in all_),
        groups=_merged(one.groups for one in all_),
    )


def _merged(parts: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}
