"""Whether the data of a task are the published files, as a results file records it."""

from __future__ import annotations

from typing import Any

DEMONSTRATIONS = "train"  # the split of a question task that demonstrations are drawn from
NOT_OFFICIAL = "not the official file"
# Key of a task's metadata: how each split differs, for results that lm-eval writes, which have no record of data
NOT_OFFICIAL_FILES = "not_official"


def read_facts(sets: Any, task: str) -> dict[str, Any]:
    """Return what the record of the data (`ltm_eval.data.sets`) says of the task's splits, as one mapping."""
    splits = sets.get(task) if isinstance(sets, dict) else None
    found: dict[str, Any] = {}
    for split, about in splits.items() if isinstance(splits, dict) else ():
        found |= about if isinstance(about, dict) else {split: about}
    return found


def unofficial(sets: Any, task: str, *, shots: int | None = None) -> list[str]:
    """Return how the data of a task differ from the published ones, a sentence a file; bundled samples are left out.

    Args:
        sets: the record of the data.
        task: its name.
        shots: demonstrations per prompt; without any, the split they are drawn from does not matter.
    """
    splits = sets.get(task) if isinstance(sets, dict) else None
    items = splits.items() if isinstance(splits, dict) else ()
    told = {split: about for split, about in items if isinstance(about, dict)}
    found = []
    for split, about in told.items():
        difference = about.get("difference")
        if about.get("sample") is True or not isinstance(difference, str) or not difference:
            continue
        if split != DEMONSTRATIONS:
            found.append(f"{NOT_OFFICIAL}: {difference}")
        elif shots:
            found.append(f"demonstrations: {NOT_OFFICIAL}: {difference}")
    return found
