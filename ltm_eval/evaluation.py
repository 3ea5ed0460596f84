"""One model answers tasks through lm-eval's evaluator, and its results are written after each."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ltm_eval import failpoints, resume
from ltm_eval.caveats import task_caveats
from ltm_eval.config import QUESTIONS, changing
from ltm_eval.distributed import Job, current
from ltm_eval.errors import IncompleteError, masked, masked_all, printable
from ltm_eval.failures import failed_answers, without
from ltm_eval.floors import FIELDS, floors_of
from ltm_eval.results import SIDECARS
from ltm_eval.run_record import BOOTSTRAP_ITERS, about, folder_name, sample_row, task_hash, verify
from ltm_eval.signatures import signatures_of
from ltm_eval.strict_files import write_jsonl_atomic
from ltm_eval.task_facts import TaskFacts, stop_reasons, task_facts
from ltm_eval.task_loading import chosen_documents, data_caveats, data_facts
from ltm_eval.telemetry import Meter, TaskCost, together, with_compute, with_earlier
from ltm_eval.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from lm_eval.api.model import LM

    from ltm_eval.config import RunConfig
    from ltm_eval.result_records import Floor
    from ltm_eval.subjects import Subject


def show_notes(notes: list[str]) -> None:
    """The sentences that every output must carry, on standard error."""
    for line in notes if current().leads else ():
        print(printable(f"ltm-eval: {line}"), file=sys.stderr)


def evaluate_subject(  # noqa: PLR0913 - a model, what it answers, and where that goes
    subject: Subject,
    lm: LM,
    tasks: list[Any],
    config: RunConfig,
    output: Path,
    notes: list[str],
    *,
    cell: str = "",
) -> Path:
    """All tasks of one model; the results file is rewritten after each, and the same call goes on after an end.

    Args:
        cell: name of a sweep's further combination, whose results lie in a folder of that name below the model's.
    """
    data = {task.task_name: data_facts(task) for task in tasks}
    asked = {**asked_of(config), "model": subject.name, "tasks": sorted(data), "cell": cell}
    folder = folder_of(subject, output, cell)
    job = current()
    with resume.session(folder, lm, asked=asked, data=data, fresh=config.fresh, job=job) as session:
        if not job.leads:
            for task in tasks:
                meter = Meter(lm.device)
                _help(lm, task, config)
                _shared_cost(meter, job)
                session.worklist.take()
            return session.results
        return _evaluate_tasks(subject, lm, tasks, config, session, [*notes, *session.warnings])


def folder_of(subject: Subject, output: Path, cell: str = "") -> Path:
    """Where a model's results go."""
    return output / folder_name(masked(subject.name)) / cell


def asked_of(config: RunConfig) -> dict[str, Any]:
    """The options of a run that tell whether another is the same one."""
    return {name: getattr(config, name) for name in changing(QUESTIONS)}


def _evaluate_tasks(  # noqa: PLR0913 - a model, what it answers, and where that goes
    subject: Subject, lm: LM, tasks: list[Any], config: RunConfig, session: resume.Session, notes: list[str]
) -> Path:
    """`evaluate_subject` in a folder where answers are kept."""
    folder, date_id = session.folder, session.date_id
    begun, earlier_seconds = time.perf_counter(), 0.0
    parts = []
    facts: dict[str, TaskFacts] = {}
    costs: dict[str, dict[str, Any]] = {}
    for task in tasks:
        meter = Meter(lm.device)
        part = evaluate_task(lm, task, config)
        failpoints.moment("run.task")
        records = list(getattr(lm, "records", []))
        info = lm.get_model_info() if hasattr(lm, "get_model_info") else {}
        own, made = _shared_cost(meter, current()), session.made()
        cost = with_earlier(own, made, session.costs_before.get(task.task_name, {}))
        earlier_seconds += cost.seconds - own.seconds
        costs[task.task_name] = asdict(with_compute(cost, made, info))
        answered = list(getattr(lm, "answer_records", []))
        (rows,) = part.pop("samples").values()
        stops = stop_reasons([*records, *answered])
        samples = [sample_row(row, stops.get(row["doc_id"], [])) for row in rows]
        write_jsonl_atomic(folder / f"samples_{task.task_name}_{date_id}.jsonl", samples)
        part["task_hashes"] = {task.task_name: task_hash(rows)}
        scored = [row for row in rows if "failed" not in row]
        facts[task.task_name] = replace(
            task_facts(task, scored, lm),
            failures=tuple(part.pop("failures")),
            documents=len({row["doc_id"] for row in rows}),
            caveats=tuple(data_caveats(task) + task_caveats(task, rows, records, lm)),
        )
        for kind, lines in zip(SIDECARS, (records, answered, list(getattr(lm, "token_records", []))), strict=True):
            if lines:
                write_jsonl_atomic(folder / f"{kind}_{task.task_name}_{date_id}.jsonl", lines)
        _forget(lm)
        parts.append(part)
        whole = merged(parts)
        floors = whole.pop("floors", {})
        whole["configs"] = masked_all(whole["configs"])  # what was told by --metadata
        whole |= masked_all(about(subject, lm, tasks, config, notes, facts))
        whole["total_evaluation_time_seconds"] = str(earlier_seconds + time.perf_counter() - begun)
        whole["ltm_eval"] |= {
            "floors": floors,
            "cost": costs,
            "signatures": signatures_of(whole, sets=whole["ltm_eval"]["data"]["sets"]),
            "sweep_cell": str(session.manifest.asked["cell"]),
        }
        session.write(whole, status=resume.RUNNING)
    show_notes([note for own in facts.values() for note in own.notes])
    session.write(whole, status=resume.COMPLETE)
    verify(session.results, tasks)
    return session.results


def _forget(lm: Any) -> None:
    """Drop a model's records of the task that is done."""
    for name in ("records", "answer_records", "token_records"):
        getattr(lm, name, []).clear()


def _shared_cost(meter: Meter, job: Job) -> TaskCost:
    """What a task cost all processes of a job, each of which asks.

    Raises:
        IncompleteError: a rank is lost.
    """
    own = json.dumps(asdict(meter.read())).encode()
    return together([TaskCost(**json.loads(part)) for part in job.exchange(own)])


class _Helped(Exception):  # noqa: N818 - not an error
    """A share is done, and what lm-eval does next is the leading process's job."""


def _help(lm: Any, task: Any, config: RunConfig) -> None:
    """One task in a process that does not lead: its share of the requests, no metrics."""
    name = "loglikelihood" if task.OUTPUT_TYPE == "multiple_choice" else task.OUTPUT_TYPE
    method = getattr(lm, name)

    def helped(requests: list[Any], **options: Any) -> None:
        method(requests, **options)
        raise _Helped

    setattr(lm, name, helped)
    try:
        evaluate_task(lm, task, config)
    except _Helped:
        _forget(lm)
        getattr(lm, "failures", []).clear()
    finally:
        setattr(lm, name, method)


def evaluate_task(lm: LM, task: Any, config: RunConfig) -> dict[str, Any]:
    """One task through lm-eval's evaluator."""
    from lm_eval.evaluator import evaluate as lm_evaluate

    from ltm_eval.baselines import seed_host

    seed_host(config.seed)
    found = lm_evaluate(
        lm=lm,
        task_dict={"tasks": {task.task_name: task}, "groups": {}, "group_map": {}},
        limit=config.limit,
        samples=chosen_documents(config, task),
        bootstrap_iters=BOOTSTRAP_ITERS,
        log_samples=True,
        confirm_run_unsafe_code=False,
    )
    if found is None:
        raise IncompleteError(f"task {task.task_name}: lm-eval returned no results")
    part = _without_failed(dict(found), lm, task)
    documents = [row["doc"] for row in part["samples"].get(task.task_name, []) if "failed" not in row]
    if task.OUTPUT_TYPE == "loglikelihood_rolling" and documents and documents[0].keys() >= FIELDS:
        part["floors"] = {task.task_name: [asdict(floor) for floor in _floors(lm, task, documents)]}
    if hasattr(task, "generation_facts"):
        part["generation"] = {task.task_name: task.generation_facts()}
    return part


def _without_failed(part: dict[str, Any], lm: LM, task: Any) -> dict[str, Any]:
    """The figures of a task without the documents that failed, which stand under `failures`."""
    name = task.task_name
    told = [one for one in getattr(lm, "failures", []) if one.task == name]
    if task.OUTPUT_TYPE != "generate_until":
        told += failed_answers(name, part["samples"].get(name, []))
    failures = sorted({one.doc_id: one for one in reversed(told)}.values(), key=lambda one: one.doc_id)
    if hasattr(lm, "failures"):
        lm.failures.clear()
    if failures:
        part = without(part, task, failures, bootstrap_iters=BOOTSTRAP_ITERS)
    return part | {"failures": failures}


def _floors(lm: LM, task: Any, documents: list[dict[str, Any]]) -> list[Floor]:
    """Reference rows over the tokens that blocks are counted in, and over the model's own where these are others."""
    from ltm_eval.blocks import block_tokenizer, options_of

    own = getattr(lm, "encoding", None)
    tokenizers = [block_tokenizer(options_of(task.config.metadata or {}).block_tokenizer)]
    if isinstance(own, Tokenizer) and own.digest != tokenizers[0].digest:
        tokenizers.append(own)
    return [floor for tokenizer in tokenizers for floor in floors_of(documents, tokenizer)]


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Results of single tasks as one: mappings are joined, the rest is taken from the last."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            whole[key] = (
                {**whole[key], **value} if isinstance(value, dict) and isinstance(whole.get(key), dict) else value
            )
    return whole
