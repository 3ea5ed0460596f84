"""Task options (lm-eval's `--metadata`): which loader reads which, and rejecting those that no task of a run reads."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, TypeVar

from ltm_eval.system.errors import UsageError, hosted_by_lm_eval, nearest, spelt

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset


log = logging.getLogger(__name__)

F = TypeVar("F", bound="Callable[..., Any]")


# Similarity from which an unknown name counts as a misspelt option if model options may be among the task options.
CLOSE = 0.85


def reads(names: Callable[[Mapping[str, Any]], Collection[str]]) -> Callable[[F], F]:
    """Mark a loader of data, or a task class, with the task options that it reads.

    Args:
        names: maps the given options, `dataset_kwargs` included, to the names of those that are read.
    """

    def marked(loader: F) -> F:
        loader.__dict__["reads"] = names
        return loader

    return marked


def dataset_of(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Dataset:
    """Return rows for lm-eval, with what is known of their origin, which `described` reads back."""
    from datasets import Dataset, DatasetInfo

    return Dataset.from_list([dict(row) for row in rows], info=DatasetInfo(description=json.dumps(facts)))


def described(splits: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return files, digests and counts of each split of a loaded task; for other loaders the number of rows."""
    facts: dict[str, dict[str, Any]] = {}
    for split, dataset in splits.items():
        description = getattr(getattr(dataset, "info", None), "description", None) or ""
        facts[split] = json.loads(description) if description.startswith("{") else {"rows": len(dataset)}
    return facts


def read_by(manager: Any, specs: Iterable[Any], given: Mapping[str, Any]) -> tuple[set[str], list[str]]:
    """Return the task options that some task reads, and the tasks that do not declare which they read.

    Args:
        manager: lm-eval's `TaskManager`.
        specs: tasks, groups and tags as it loads them.
        given: the options.
    """
    names: set[str] = set()
    silent = []
    for name, definition in _definitions(manager, specs):
        declared = getattr(definition.get("custom_dataset"), "reads", None)
        if declared is None:
            silent.append(name)
            continue
        fixed = definition.get("dataset_kwargs") or {}
        own = getattr(definition.get("class"), "task_options", None)
        names |= set(declared({**given, **fixed})) - fixed.keys()
        names |= set(own(definition)) if own is not None else set()
    return names, silent


def _definitions(manager: Any, specs: Iterable[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and definition of every single task; the definition is empty if only lm-eval can read it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for spec in specs:
        entry = manager.task_index.get(spec) if isinstance(spec, str) else None
        if entry is None or entry.yaml_path is None:
            tags = getattr(entry, "tags", None)
            yield from _definitions(manager, sorted(tags)) if tags else [(str(spec), {})]
            continue
        try:
            definition = load_yaml(entry.yaml_path)
        except Exception:  # noqa: BLE001 - lm-eval reports it when it loads the task
            definition = {}
        members = definition.get("task")
        if isinstance(members, list):
            yield from _definitions(manager, members)
        else:
            yield spec, definition


def refuse_unread(
    given: Mapping[str, Any], manager: Any, specs: Sequence[Any], *, elsewhere: Collection[str] = ()
) -> None:
    """Reject task options that no task of a run reads; only warn if some task does not declare its options.

    Args:
        given: the options.
        manager: lm-eval's `TaskManager`.
        specs: as in `read_by`.
        elsewhere: names of options of the command.

    Raises:
        UsageError: an option would have no effect; names the nearest one.
    """
    names, silent = read_by(manager, specs, given)
    for key in given:
        if key in elsewhere:
            raise UsageError(f"{spelt('metadata')}: {key!r} is an option of its own; give it as {spelt(key)}")
        if key in names:
            continue
        known = sorted(names - set(elsewhere))
        words = f"{spelt('metadata')}: no task of this run reads {key!r}.{nearest(key, known)}"
        if not silent:
            raise UsageError(f"{words} Read are {', '.join(known) or 'none'}")
        log.warning("%s Whether %s does is not known", words, ", ".join(silent[:3]))


def check_host_metadata(manager: Any, specs: Sequence[Any]) -> None:
    """Apply `refuse_unread` under lm-eval's own command; elsewhere reject misspelt options only.

    lm-eval passes task options and model arguments as one mapping. Its command line tells them apart; without one, an
    unread name is rejected only if it is close to one that is read.

    Raises:
        UsageError: as `refuse_unread`, or an option is given twice.
    """
    given = told_on_command_line() if hosted_by_lm_eval() else {}
    if given:
        refuse_unread(given, manager, specs)
        return
    merged = manager.metadata if isinstance(manager.metadata, dict) else {}
    names, silent = read_by(manager, specs, merged)
    for key in merged if names and not silent else ():
        close = [name for name in names if SequenceMatcher(None, str(key), name).ratio() >= CLOSE]
        if key not in names and close:
            raise UsageError(f"{spelt('metadata')}: no task of this run reads {key!r}.{nearest(key, close)}")


def told_on_command_line() -> dict[str, Any]:
    """Return the task options that lm-eval's command line names.

    Raises:
        UsageError: one is given twice.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--metadata", nargs="+", action="extend", default=[])
    try:
        words = parser.parse_known_args(sys.argv[1:])[0].metadata
    except argparse.ArgumentError:
        return {}  # lm-eval's own parser reports it
    pairs: list[tuple[str, Any]] = []
    for word in words:
        if word.lstrip().startswith("{"):
            pairs += metadata_object(word, where="--metadata").items()
        else:
            pairs += [
                (part.partition("=")[0].strip(), part.partition("=")[2]) for part in word.split(",") if "=" in part
            ]
    return _each_once(pairs)


def metadata_object(text: str, *, where: str = "metadata") -> dict[str, Any]:
    """Parse task options from a JSON object.

    Raises:
        UsageError: it is not one, or a key occurs twice.
    """
    try:
        found = json.loads(text, object_pairs_hook=_each_once)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f'{where} must be a JSON object such as {{"protocol": "documents"}}, got {text!r}')
    return found


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs as a mapping; reject duplicate keys."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UsageError(f"{spelt('metadata')}: {key!r} is given twice; give it once")
        found[key] = value
    return found
