"""Commits of hub repositories, asked for once in a job: a branch may move between two questions."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ltm_eval.distributed import current
from ltm_eval.hub import Asked, ask, go_offline, is_hub_id, remember

if TYPE_CHECKING:
    from ltm_eval.distributed import Job


def agreed(repo: str, revision: str | None, *, job: Job | None = None) -> Asked:
    """What the hub told the leading process of a revision; all processes ask together and get the same.

    Where it does not tell, none of them asks again: only caches are read from here on.

    Args:
        repo: `owner/name`, or a name without an owner.
        revision: commit, tag or branch; None is the default branch.
        job: the processes; None is the job that was joined.

    Raises:
        IncompleteError: a rank is lost.
    """
    job = job or current()
    told = json.dumps(asdict(ask(repo, revision))).encode() if job.leads else b""
    asked = Asked(**json.loads(job.exchange(told)[0]))
    if asked.silent:
        go_offline()
    if job.world > 1:
        remember(repo, revision, asked)
    return asked


def agree_on(source: object, revision: object) -> None:
    """Let the processes of a job load the same commit of a hub checkpoint; nothing where `source` is something else.

    Args:
        source: what a model is loaded from; all processes were given the same.
        revision: what was asked for.

    Raises:
        IncompleteError: a rank is lost.
    """
    if current().world > 1 and isinstance(source, str) and is_hub_id(source):
        agreed(source, str(revision) if revision else None)
