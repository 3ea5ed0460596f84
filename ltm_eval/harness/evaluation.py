"""One model answers tasks through lm-eval's evaluator, and its results are written after each.

Results have lm-eval 0.4.13's layout; they are written here, not by lm-eval's tracker, which turns a failed save into a
log line and exit code 0. A number that is not finite never reaches a mean or an argmax: its document is recorded as
failed, its neighbours stay as they are, and metrics are aggregated over the others.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ltm_eval.harness.loading import chosen_documents, data_caveats, data_facts, is_sample
from ltm_eval.harness.options import QUESTIONS, RunConfig, changing
from ltm_eval.inference.bounds import OPTIONAL_ROWS
from ltm_eval.inference.draws import RollingScore
from ltm_eval.model.tokenizer import Tokenizer
from ltm_eval.results.files import SCHEMA, SIDECARS, LatentRecord, find_runs, fits_of, read_samples, shots_words
from ltm_eval.results.signature import signatures_of
from ltm_eval.runs import session as resume
from ltm_eval.runs.processes import Job, current
from ltm_eval.system.errors import IncompleteError, UsageError, masked, masked_all, printable, spelt
from ltm_eval.system.files import DEMO_BASELINE, DEMO_MODEL, short_name, write_jsonl_atomic
from ltm_eval.system.machine import MEMORY, Meter, TaskCost, flops_of, provenance, sizes_of, together, version
from ltm_eval.tasks.perplexity import FIELDS, TextScore, floors_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lm_eval.api.model import LM

    from ltm_eval.inference.options import FitConfig
    from ltm_eval.results.files import AnswerRecord
    from ltm_eval.runs.worklist import Answer


BOOTSTRAP_ITERS = 100_000  # lm-eval's default; 0 would leave out standard errors that need no bootstrap as well
AUDIT_BLOCKS = 2
LISTED = 3  # failed documents that a message names
RECORDED = ("records", "answer_records", "token_records")  # a model's lists of what goes to the sidecars
# keys of our block of a results file that hold a value for each task
BY_TASK = ("failed", "mean_fast_steps", "sampled", "content_free", "rethink_budget", "floors", "cost", "shots")
NOTICED = 0.01  # share of prompts beyond the context above which they are mentioned


@dataclass(frozen=True)
class Subject:
    """One model to be evaluated."""

    name: str  # As in the results file and its folder
    kind: str  # `ltm` or `hf`
    arguments: dict[str, Any]  # What lm-eval would take as model_args
    # What its training took (`machine.training_compute`), if its checkpoint does not say
    training: Mapping[str, Any] | None = None


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
    """Evaluate one model on all tasks; the results file is rewritten after each, and the same call resumes.

    Args:
        cell: folder below the model's for the results of a sweep's further combination.
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
    """Return the folder of a model's results."""
    return output / folder_name(masked(subject.name)) / cell


def asked_of(config: RunConfig) -> dict[str, Any]:
    """Return the options of a run that another must share to resume it."""
    return {name: getattr(config, name) for name in changing(QUESTIONS)}


def _evaluate_tasks(  # noqa: PLR0913 - a model, what it answers, and where that goes
    subject: Subject, lm: LM, tasks: list[Any], config: RunConfig, session: resume.Session, notes: list[str]
) -> Path:
    """Evaluate all tasks in the process that leads, and write the results after each."""
    folder, date_id = session.folder, session.manifest.date_id
    begun, earlier_seconds = time.perf_counter(), 0.0
    by_lm_eval: dict[str, Any] = {}
    blocks: dict[str, dict[str, Any]] = {name: {} for name in BY_TASK}
    found: list[str] = []  # warnings about tasks
    for task in tasks:
        name = task.task_name
        meter = Meter(lm.device)
        part = evaluate_task(lm, task, config)
        (rows,) = part.pop("samples").values()
        failures: list[Failure] = part.pop("failures")
        records, answered, tokens = (list(getattr(lm, kind, [])) for kind in RECORDED)
        own, made = _shared_cost(meter, current()), session.made()
        cost = total_cost(
            own,
            made,
            session.costs_before.get(name, {}),
            lm.get_model_info() if hasattr(lm, "get_model_info") else {},
        )
        earlier_seconds += cost.seconds - own.seconds
        blocks["cost"][name] = asdict(cost)
        if shots := shots_used([*records, *answered]):
            blocks["shots"][name] = shots
        stops = stop_reasons([*records, *answered])
        samples = [sample_row(row, stops.get(row["doc_id"], [])) for row in rows]
        session.check()
        write_jsonl_atomic(folder / f"samples_{name}_{date_id}.jsonl", samples)
        for kind, lines in zip(SIDECARS, (records, answered, tokens), strict=True):
            if lines:
                write_jsonl_atomic(folder / f"{kind}_{name}_{date_id}.jsonl", lines)
        part["task_hashes"] = {name: task_hash(rows)}
        blocks["floors"] |= part.pop("floors", {})
        for block, value in figures_of_task(task, [row for row in rows if "failed" not in row], lm).items():
            blocks[block][name] = value
        if failures:
            documents = len({row["doc_id"] for row in rows})
            blocks["failed"][name] = {"documents": documents, "failures": [asdict(one) for one in failures]}
            count = f"{len(failures):,} of {documents:,} documents failed and are left out of its figures"
            found.append(f"{name}: {count} ({listed(failures)})")
        found += data_caveats(task) + task_caveats(task, rows, records, lm)
        forget(lm)
        by_lm_eval = merged([by_lm_eval, part])
        # what --metadata gave may hold access tokens
        whole = {**by_lm_eval, "configs": masked_all(by_lm_eval["configs"])}
        whole |= masked_all(about(subject, lm, tasks, config, [*notes, *_warnings(subject, lm), *found], blocks))
        whole["total_evaluation_time_seconds"] = str(earlier_seconds + time.perf_counter() - begun)
        whole["ltm_eval"] |= {
            "floors": blocks["floors"],
            "cost": blocks["cost"],
            "signatures": signatures_of(whole, sets=whole["ltm_eval"]["data"]["sets"]),
            "sweep_cell": str(session.manifest.asked["cell"]),
            "audit": audit_of(lm.fit_config) if subject.kind == "ltm" else None,
        }
        session.write(whole, status=resume.RUNNING)
    said = {note for task in tasks for note in data_caveats(task)}  # when they were loaded
    show_notes([note for note in found if note not in said])
    session.write(whole, status=resume.COMPLETE)
    (written,) = find_runs([session.results])
    for task in tasks:
        if not read_samples(written, task.task_name):
            raise IncompleteError(
                f"{session.results}: no samples of task {task.task_name} were saved; run the same command again"
            )
    return session.results


def forget(lm: Any) -> None:
    """Drop a model's records of the task that is done, of which the next has none."""
    for name in RECORDED:
        getattr(lm, name, []).clear()


def _shared_cost(meter: Meter, job: Job) -> TaskCost:
    """Return what a task cost all processes of a job; each of them calls this.

    Raises:
        IncompleteError: a rank is lost.
    """
    own = json.dumps(asdict(meter.read())).encode()
    return together([TaskCost(**json.loads(part)) for part in job.exchange(own)])


class _Helped(Exception):  # noqa: N818 - not an error
    """Raised on worker ranks after their requests are answered, to skip lm-eval's metrics."""


def _help(lm: Any, task: Any, config: RunConfig) -> None:
    """Answer the share of one task's requests in a process that does not lead, without metrics."""
    name = "loglikelihood" if task.OUTPUT_TYPE == "multiple_choice" else task.OUTPUT_TYPE
    method = getattr(lm, name)

    def helped(requests: list[Any], **options: Any) -> None:
        method(requests, **options)
        raise _Helped

    setattr(lm, name, helped)
    try:
        evaluate_task(lm, task, config)
    except _Helped:
        forget(lm)
        getattr(lm, "failures", []).clear()
    finally:
        setattr(lm, name, method)


@contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Keep a task's compiled templates: lm-eval compiles them for every document and example, a millisecond each."""
    from lm_eval.utils import env

    compiled = env.from_string
    env.from_string = cache(compiled)
    try:
        yield
    finally:
        env.from_string = compiled


@templates_compiled_once()
def evaluate_task(lm: LM, task: Any, config: RunConfig) -> dict[str, Any]:
    """Evaluate one task with lm-eval's evaluator."""
    from lm_eval.evaluator import evaluate as lm_evaluate

    seed_generators(config.seed)
    name = task.task_name
    chosen = chosen_documents(config, task)
    found = lm_evaluate(
        lm=lm,
        task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
        limit=config.limit,
        samples=chosen,
        bootstrap_iters=BOOTSTRAP_ITERS,
        log_samples=True,
        confirm_run_unsafe_code=False,
    )
    if found is None:
        raise IncompleteError(f"task {name}: lm-eval returned no results")
    indices = chosen[name] if chosen else []
    for kind in (*RECORDED, "failures") if indices else ():
        # lm-eval counts the documents that were asked for; its samples, and so what is recorded, have those of the set
        made = getattr(lm, kind, [])
        made[:] = [replace(one, doc_id=indices[one.doc_id]) if one.task == name else one for one in made]
    part = dict(found)
    rows = part["samples"].get(name, [])
    failed = [one for one in getattr(lm, "failures", []) if one.task == name]
    getattr(lm, "failures", []).clear()
    if task.OUTPUT_TYPE != "generate_until":
        failed += failed_answers(name, rows)
    failures = sorted({one.doc_id: one for one in reversed(failed)}.values(), key=lambda one: one.doc_id)
    if failures:
        part = without(part, task, failures, bootstrap_iters=BOOTSTRAP_ITERS)
    part["failures"] = failures
    documents = [row["doc"] for row in part["samples"].get(name, []) if "failed" not in row]
    if task.OUTPUT_TYPE == "loglikelihood_rolling" and documents and documents[0].keys() >= FIELDS:
        from ltm_eval.data.blocks import block_tokenizer, options_of

        # reference rows over the tokens that blocks are counted in, and over the model's own if they differ
        own = getattr(lm, "encoding", None)
        tokenizers = [block_tokenizer(options_of(task.config.metadata or {}).block_tokenizer)]
        if isinstance(own, Tokenizer) and own.digest != tokenizers[0].digest:
            tokenizers.append(own)
        floors = [floor for tokenizer in tokenizers for floor in floors_of(documents, tokenizer)]
        part["floors"] = {name: [asdict(floor) for floor in floors]}
    if hasattr(task, "generation_facts"):
        part["generation"] = {name: task.generation_facts()}
    return part


def value_for_lm_eval(value: Any) -> Any:
    """Return the value of an answer, which is JSON, as lm-eval takes it from a model's method."""
    if isinstance(value, dict) and "rows" in value:
        return RollingScore(value["rows"], tokens=value["tokens"]) if value["rows"] else 0.0  # a text without tokens
    if isinstance(value, dict):
        return TextScore.from_json(value)
    return tuple(value) if isinstance(value, list) else value


def seed_generators(seed: int) -> None:
    """Seed the process's own generators, from which a baseline draws and which only lm-eval's command seeds."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what baselines draw from
    if torch.cuda.is_available() and not torch.cuda.is_initialized():
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed a GPU at its first use, much later
    else:
        torch.manual_seed(seed)


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the results of single tasks: mappings are joined, the rest is taken from the last."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            whole[key] = (
                {**whole[key], **value} if isinstance(value, dict) and isinstance(whole.get(key), dict) else value
            )
    return whole


def task_caveats(task: Any, rows: Sequence[Mapping[str, Any]], records: Sequence[LatentRecord], lm: Any) -> list[str]:
    """Return the caveats of a task that has just been evaluated, as sentences that name it.

    Args:
        rows: lm-eval's logged samples.
        records: of latent inference; empty for baselines, whose prompts are measured again.
        lm: the model, as lm-eval drives it.
    """
    documents = list({row["doc_id"]: row["doc"] for row in rows}.values())
    prompts = read_short(records) if records else [*cut_prompts(rows, lm), *in_windows(rows, lm)]
    texts = [row["arguments"][0][0] for row in rows] if task.OUTPUT_TYPE == "loglikelihood_rolling" else []
    found = [
        *copies(documents),
        *shown_too(documents, task.fewshot_docs() or []),
        *prompts,
        *answers_beyond(rows, getattr(lm, "max_length", None)),
        *(lm.text_caveats(texts) if texts and hasattr(lm, "text_caveats") else []),
    ]
    return [f"{task.task_name}: {sentence}" for sentence in found]


def copies(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Count documents that occur several times."""
    repeated = len(documents) - len(set(map(_content, documents)))
    return [f"{repeated:,} of {len(documents):,} documents are copies of others"] if repeated else []


def shown_too(documents: Sequence[Mapping[str, Any]], pool: Iterable[Mapping[str, Any]]) -> list[str]:
    """Count documents whose question is among the few-shot examples drawn from; no document is shown to itself."""
    shown = set(map(_question, pool))
    overlap = sum(_question(document) in shown for document in documents) if shown else 0
    return (
        [f"{overlap:,} of {len(documents):,} documents are also among the demonstrations drawn from"] if overlap else []
    )


def read_short(records: Sequence[LatentRecord]) -> list[str]:
    """Count prompts that the decoder did not read whole, although the condition shows it all."""
    whole = [record for record in records if record.condition in ("prompt", "demos+prompt", "prior")]
    dropped = [record for record in whole if record.demonstrations_read < record.demonstrations]
    found = []
    if len(dropped) > NOTICED * len(whole):
        mean = sum(record.demonstrations_read for record in dropped) / len(dropped)
        found.append(
            f"{len(dropped):,} of {len(whole):,} prompts exceed the context; of their demonstrations {mean:.1f} were "
            "read on average, the first ones were dropped"
        )
    cut = sum(record.truncated for record in records)
    if cut:
        found.append(f"{cut:,} of {len(records):,} questions alone exceed the context and were cut")
    return found


def shots_used(records: Sequence[LatentRecord | AnswerRecord]) -> dict[str, float] | None:
    """Return means over requests of the demonstrations in the prompt and of those that reached the model.

    Those are what the decoder read or z was fitted on, whichever is more. None if no prompt has demonstrations.
    """
    if not any(one.demonstrations for one in records):
        return None
    used = [max(one.demonstrations_read, getattr(one, "demonstrations_fitted", 0)) for one in records]
    in_prompt = fmean(one.demonstrations for one in records)
    return {"in_prompt": in_prompt, "used": fmean(used), "fewest": min(used), "most": max(used)}


def cut_prompts(rows: Sequence[Mapping[str, Any]], lm: Any) -> list[str]:
    """Count prompts of a baseline that lm-eval cut from the left."""
    prompts = dict.fromkeys((arguments[0], _new_tokens(arguments)) for row in rows for arguments in row["arguments"])
    asked = [(text, new) for text, new in prompts if new is not None]
    limit, encode = getattr(lm, "max_length", None), getattr(lm, "tok_encode", None)
    if not asked or not isinstance(limit, int) or encode is None:
        return []
    cut = sum(len(encode(text)) > limit - new for text, new in asked)
    return [f"{cut:,} of {len(asked):,} prompts exceed the context and were cut"] if cut > NOTICED * len(asked) else []


def in_windows(rows: Sequence[Mapping[str, Any]], lm: Any) -> list[str]:
    """Count texts that a baseline scored in rolling windows, whose context is not that of a causal row."""
    texts = dict.fromkeys(arguments[0] for row in rows for arguments in row["arguments"] if len(arguments) == 1)
    limit, encode = getattr(lm, "max_length", None), getattr(lm, "tok_encode", None)
    if not isinstance(limit, int) or encode is None:
        return []
    longer = sum(len(encode(text)) > limit for text in texts)
    return (
        [
            f"{longer:,} of {len(texts):,} texts exceed the context of {limit:,} tokens and were scored in lm-eval's "
            "windows: the first token of a window is given one token before it, and only the last window reads back as "
            "far as fits; an LTM's causal row reads back before every chunk, so the two are not given the same context"
        ]
        if longer
        else []
    )


def answers_beyond(rows: Sequence[Mapping[str, Any]], limit: int | None) -> list[str]:
    """Return whether answers were allowed more tokens than the context has."""
    asked = max((_new_tokens(arguments) or 0 for row in rows for arguments in row["arguments"]), default=0)
    if limit is None or asked < limit:
        return []
    return [f"max_gen_toks {asked:,} exceeds the context of {limit:,} tokens; answers end there at the latest"]


def _new_tokens(arguments: Sequence[Any]) -> int | None:
    """Return the maximum of new tokens of a request to generate, 0 if it names none; None for any other request."""
    options = arguments[1] if len(arguments) > 1 else None
    if not isinstance(options, dict):
        return None
    told = options.get("max_gen_toks")
    return int(told) if isinstance(told, (int, float)) else 0


def _content(document: Mapping[str, Any]) -> str:
    """Return a document without its index, as text."""
    return json.dumps({key: value for key, value in document.items() if key != "index"}, sort_keys=True, default=str)


def _question(document: Mapping[str, Any]) -> str:
    """Return the question, spaces and case aside, with its episode if it has one; without a question, the document."""
    question, episode = document.get("question"), document.get("episode")
    if not isinstance(question, str):
        return _content(document)
    words = " ".join(question.split()).casefold()
    return words if episode is None else f"{episode}: {words}"


def total_cost(
    own: TaskCost, made: Sequence[tuple[str, Answer]], before: Mapping[str, Any], info: Mapping[str, Any]
) -> TaskCost:
    """Return the cost of a task over all starts whose answers are used, with tokens and FLOPs of the answers.

    Args:
        own: of this start, all processes.
        made: every answer of the task, each once, with the start that made it; empty for this one.
        before: what an earlier start that ended the task wrote of its cost; empty if none did.
        info: what results files say of the model, under `config`.
    """
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))  # by launch and process
    answered: dict[tuple[str, str], list[LatentRecord]] = defaultdict(list)
    for launch, answer in made:
        spent[launch][answer.source] += answer.spent_seconds
        answered[launch, answer.source] += [one for one in answer.records if isinstance(one, LatentRecord)]
    earlier = [processes for launch, processes in spent.items() if launch]
    grown: dict[str, Any] = {name: max(getattr(own, name) or 0, before.get(name) or 0) or None for name in MEMORY}
    cost = replace(
        own,
        seconds=own.seconds + sum(max(processes.values()) for processes in earlier),
        working_seconds=own.working_seconds + sum(sum(processes.values()) for processes in earlier),
        starts=max(1, len(spent)),
        processes=max(own.processes, *(len(processes) for processes in spent.values()), 1),
        **(grown if before.get("memory_of") == own.memory_of else {}),
    )
    records = [record for found in answered.values() for record in found]
    if not records:
        return cost
    fits = [fit for found in answered.values() for fit in fits_of(found)]  # one that answers share counts once
    per_token = flops_of(info, t_fast=0)
    bearers = [*fits, *(one for one in records if one.kl_nats is None)]  # an empty trace may bear its prompt's fit
    steps = sum(one.fit_token_steps for one in bearers)
    passes = sum(one.fit_token_passes for one in bearers) + sum(record.answer_token_passes for record in records)
    return replace(
        cost,
        fits=len(fits),
        fitted_token_steps=steps,
        token_passes=passes,
        new_tokens=sum(record.new_tokens for record in records),
        flops=None if per_token is None else per_token * (steps + passes),
    )


@dataclass(frozen=True)
class Failure:
    """One document that could not be scored."""

    task: str  # Task name
    doc_id: int  # Index of the document in its split
    reason: str  # What went wrong


def listed(failures: Sequence[Failure]) -> str:
    """Return the first few failures in words."""
    words = [f"document {one.doc_id}: {one.reason}" for one in failures[:LISTED]]
    return "; ".join(words) + (" …" if len(failures) > LISTED else "")


def allowed(limit: str, documents: int) -> int:
    """Return how many of `documents` may fail.

    Args:
        limit: a number, or a share such as `1%`.

    Raises:
        UsageError: it is neither.
    """
    text = limit.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    share = re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]{1,6})?|100)%", text)
    if share is None:
        raise UsageError(
            f"{spelt('max_failed')} must be a number of documents or a share such as 1%, got {text[:40]!r}"
        )
    return math.floor(documents * float(share[1]) / 100)


def failed_answers(task: str, rows: Iterable[Mapping[str, Any]]) -> list[Failure]:
    """Return documents for which a model returned a log-likelihood that is NaN or infinite.

    Args:
        rows: lm-eval's logged samples.
    """
    found = {}
    for row in rows:
        odd = next((value for value in _numbers(row["resps"]) if math.isnan(value) or value == math.inf), None)
        if odd is not None:
            found[row["doc_id"]] = Failure(task, row["doc_id"], f"the model answered {odd:g}")
    return list(found.values())


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)


def without(part: dict[str, Any], task: Any, failures: Sequence[Failure], *, bootstrap_iters: int) -> dict[str, Any]:
    """Aggregate lm-eval's results of one task again, over the documents that did not fail.

    Logged samples of failed documents keep document, prompt and answer, lose their metrics and get the key `failed`.

    Args:
        part: what `lm_eval.evaluator.evaluate` returned for `task` alone, samples included.
    """
    from lm_eval.api.metrics import mean, stderr_for_metric

    reasons = {one.doc_id: one.reason for one in failures}
    name = task.task_name
    rows = part["samples"][name]
    kept = [row for row in rows if row["doc_id"] not in reasons]
    figures = {key: value for key, value in part["results"][name].items() if "," not in key}
    aggregation = task.aggregation()
    for metric, filter_ in dict.fromkeys((metric, row["filter"]) for row in rows for metric in row["metrics"]):
        values = [row[metric] for row in kept if row["filter"] == filter_ and metric in row["metrics"]]
        aggregate = aggregation.get(metric, mean)
        spread = stderr_for_metric(metric=aggregate, bootstrap_iters=bootstrap_iters)
        figures[f"{metric},{filter_}"] = aggregate(values) if values else math.nan
        figures[f"{metric}_stderr,{filter_}"] = spread(values) if spread and len(values) > 1 else "N/A"
    scored = len({row["doc_id"] for row in kept})
    samples = [
        {key: value for key, value in row.items() if key not in row["metrics"]}
        | {"metrics": [], "failed": reasons[row["doc_id"]]}
        if row["doc_id"] in reasons
        else row
        for row in rows
    ]
    count = dict(part["n-samples"][name]) | {"effective": scored}
    return {
        **part,
        "results": {name: figures | {"sample_len": scored}},
        "n-samples": {name: count},
        "samples": {name: samples},
    }


def sampled_figures(task: Any, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return figures of several samples per question, with intervals over questions; None if each has one answer."""
    from ltm_eval.tasks.samples import summary

    several = getattr(task, "repeats", None) or getattr(task, "rethinking", None)
    return summary(rows) if rows and several else None


@templates_compiled_once()
def figures_of_task(task: Any, rows: list[dict[str, Any]], lm: Any) -> dict[str, Any]:
    """Return what our block of the results file holds of a task that has just been evaluated, under its names.

    Args:
        rows: lm-eval's logged samples, failed documents left out.
    """
    from ltm_eval.tasks.samples import content_free

    found: dict[str, Any] = {"sampled": sampled_figures(task, rows)}
    steps = [record.t_fast for record in getattr(lm, "records", [])]
    if steps:
        found["mean_fast_steps"] = fmean(steps)  # over requests
    shown = task.example_targets if task.OUTPUT_TYPE == "generate_until" else []
    if shown and rows:
        wanted = [str(row["target"]) for row in rows if row["filter"] == rows[0]["filter"]]
        repeats = getattr(task, "repeats", None)
        found["content_free"] = content_free(shown, wanted, **({"k": repeats.k} if repeats else {}))
    if getattr(task, "rethinking", None) and hasattr(lm, "budget"):
        found["rethink_budget"] = asdict(lm.budget)
        lm.budget = type(lm.budget)()
    return {name: value for name, value in found.items() if value is not None and value != {}}


def stop_reasons(records: Sequence[LatentRecord | AnswerRecord]) -> dict[int, list[list[str]]]:
    """Return why each answer ended, by document, per request, per repeat; empty if the model does not record it."""
    found: dict[int, dict[int, list[str]]] = {}
    for record in sorted(records, key=lambda record: (record.doc_id, record.idx, record.repeat)):
        if record.stop_reason:
            found.setdefault(record.doc_id, {}).setdefault(record.idx, []).append(record.stop_reason)
    return {doc_id: list(requests.values()) for doc_id, requests in found.items()}


def about(  # noqa: PLR0913 - all that the results file says of a run
    subject: Subject,
    lm: LM,
    tasks: list[Any],
    config: RunConfig,
    warnings: list[str],
    blocks: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return model, settings and provenance, under lm-eval's keys and our own; `blocks` are by name and task."""
    info = lm.get_model_info() if hasattr(lm, "get_model_info") else {}
    sets = {task.task_name: data_facts(task) for task in tasks}
    return {
        "config": {
            "model": subject.kind,
            "model_args": subject.arguments,
            **info,
            **({"sizes": sizes_of(lm)} if "sizes" not in info else {}),
            **({"tokenizer": lm.own_tokens} if getattr(lm, "own_tokens", None) else {}),
            **({"training": dict(subject.training)} if subject.training else {}),
            "batch_size": config.batch_size,
            "batch_sizes": list(getattr(lm, "batch_sizes", {}).values()),
            "device": str(lm.device),
            "use_cache": None,
            "limit": config.limit,
            "bootstrap_iters": BOOTSTRAP_ITERS,
            "gen_kwargs": config.gen_kwargs,
            "random_seed": config.seed,
            "fewshot_seed": config.seed,
        },
        "date": time.time(),
        "lm_eval_version": version("lm-eval"),
        "transformers_version": version("transformers"),
        "max_length": getattr(lm, "max_length", None),
        "model_source": subject.kind,
        "model_name": subject.name,
        "model_name_sanitized": folder_name(subject.name),
        "ltm_eval": {
            "schema": SCHEMA,
            "warnings": warnings,
            "failed": blocks["failed"],
            "demo_model": subject.name in (DEMO_MODEL, DEMO_BASELINE),
            "sample_data": config.data == "sample" or any(map(is_sample, sets.values())),
            "limit": config.limit,
            "data": {"choice": config.data, "sets": sets},
            **{
                name: blocks[name] for name in ("mean_fast_steps", "sampled", "content_free", "rethink_budget", "shots")
            },
            "command": " ".join(config.command),
            "settings": asdict(config),
            "provenance": provenance(),
        },
    }


@cache
def audit_of(fit: FitConfig) -> dict[str, Any]:
    """Return the random-token audit of the run's fit settings, on an untrained decoder: a property of the preset."""
    from ltm_eval.inference.audit import audit, untrained_model

    return asdict(audit(untrained_model(), fit, blocks=AUDIT_BLOCKS))


def _warnings(subject: Subject, lm: LM) -> list[str]:
    """Return warnings about the model and its settings."""
    if subject.kind != "ltm":
        unused, aside = getattr(lm, "unused_weights", []), getattr(lm, "unused_decoding", [])
        told = f"{subject.name}: its files hold {len(unused)} weights that the model does not have"
        decoding = (
            f"{subject.name}: {', '.join(aside)} of its generation_config.json are not used; the task says how to"
        )
        return [
            *([f"{told} ({', '.join(unused[:3])}{' …' if len(unused) > 3 else ''})"] if unused else []),
            *([f"{decoding} decode"] if aside else []),
        ]
    dtype, fit, info = str(getattr(lm, "dtype", "")), getattr(lm, "fit_config", None), lm.model.info
    found = [f"checkpoint: {note}" for note in (info.notes if info else ())]
    if "bfloat16" in dtype:
        found.append(f"matrix products in {dtype.removeprefix('torch.')}")
    if subject.arguments.get("fit"):
        found.append(f"fit preset {subject.arguments.get('preset')} changed: {subject.arguments['fit']}")
    if fit is not None and fit.t_fast == 0 and not fit.adaptive:
        found.append("no fitting (t_fast 0): z is the prior, and a bound is one on texts that nothing was fitted to")
    return found


def folder_name(model: str) -> str:
    """Return lm-eval's folder name of a model, kept below the output folder and at most 100 bytes long."""
    from lm_eval.utils import sanitize_model_name

    name = "".join(c if c.isprintable() else "_" for c in sanitize_model_name(model)).strip(".")
    return short_name(name or "model")


def sample_row(sample: dict[str, Any], stops: list[list[str]]) -> dict[str, Any]:
    """Return a logged sample in the form of lm-eval's samples file, with why each answer ended, if that is known."""
    from lm_eval.utils import sanitize_list

    arguments = {
        f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(args)}
        for i, args in enumerate(sample["arguments"])
    }
    return {
        **sample,
        "arguments": arguments,
        "resps": sanitize_list(sample["resps"]),
        "filtered_resps": sanitize_list(sample["filtered_resps"]),
        "target": str(sample["target"]),
        **({"stop_reasons": stops} if stops else {}),
    }


def task_hash(rows: list[dict[str, Any]]) -> str:
    """Return a hash that is equal if two runs saw the same documents, prompts and targets."""
    from lm_eval.utils import hash_string

    return str(hash_string("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)))


def show_notes(notes: list[str]) -> None:
    """Print warnings on standard error."""
    for line in notes if current().leads else ():
        print(printable(f"ltm-eval: {line}"), file=sys.stderr)


def results_table(path: Path) -> str:
    """Return lm-eval's header line and table of one results file, with intervals, for the terminal."""
    from lm_eval.utils import make_table

    content = json.loads(path.read_text("utf-8"))
    config = masked_all(content["config"])
    told = f"gen_kwargs: ({config['gen_kwargs']}), limit: {config['limit']}, batch_size: {config['batch_size']}"
    head = f"{config['model']} ({config['model_args']}), {told}"
    lines = [line for name in content["results"] for line in _interval_lines(name, content["ltm_eval"])]
    lines += [
        f"{name}: {words} on average ({one['fewest']} to {one['most']}), the first ones were dropped"
        for name, one in content["ltm_eval"].get("shots", {}).items()
        if (words := shots_words(one))
    ]
    told = config.get("tokenizer")
    if isinstance(told, dict) and any("_per_token" in key for own in content["results"].values() for key in own):
        told = f"{told.get('name')} {str(told.get('sha256') or '')[:8]}".strip()
        lines.append(f"per token: of this model's own tokens ({told}); only figures of the same tokens compare")
    lines += rows_left_out(content) if content["ltm_eval"]["settings"]["rows"] == RunConfig.rows else []
    return "\n".join(map(printable, [head, *make_table(content).splitlines(), *lines]))


def rows_left_out(content: Mapping[str, Any]) -> list[str]:
    """Return which rows of the perplexities in a results file were not computed."""
    rows = content["config"].get("rows")
    tasks = [name for name, own in content["results"].items() if any(key.startswith("ppl_per_token_b") for key in own)]
    if not isinstance(rows, dict) or not tasks:
        return []
    lacking = ", ".join(name for name in OPTIONAL_ROWS if not rows.get(name))
    return [f"{', '.join(tasks)}: {lacking} were not computed; causal is the row to set beside a GPT-2: --rows all"]


def _interval_lines(task: str, block: dict[str, Any]) -> list[str]:
    """Return metrics of several samples with their intervals, and of answering without reading."""
    from ltm_eval.tasks.samples import interval_words

    sampled = block.get("sampled", {}).get(task)
    if sampled is None:
        return []
    figures = [
        f"{task}: {key.replace(',', ', ')} {interval_words(value)}"
        for key, value in sampled.items()
        if isinstance(value, dict) and "low" in value
    ]
    floor = block.get("content_free", {}).get(task, {})
    passes = [f"{key} {interval_words(value)}" for key, value in floor.items() if key.startswith("pass@")]
    words = f"{task}: content-free, always the commonest training answers ({', '.join(floor.get('answers', []))}): "
    return [*figures, *([words + "; ".join(passes)] if passes else [])]
