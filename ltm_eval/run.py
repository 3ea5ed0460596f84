"""The main job: a checkpoint and its baselines answer tasks through lm-eval, and a page shows the results.

Everything that can be wrong is looked at before any model time is spent. Results have lm-eval 0.4.13's layout; they
are written by this module, not by lm-eval's tracker, because that one turns a failed save into a log line and exit
code 0.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import ltm_eval
from ltm_eval import failpoints, paths, progress, resume
from ltm_eval.caveats import task_caveats
from ltm_eval.config import DEMO_BASELINE, DEMO_MODEL, RunConfig
from ltm_eval.distributed import Job, current, join
from ltm_eval.errors import (
    DataError,
    IncompleteError,
    LtmEvalError,
    MachineError,
    UsageError,
    masked,
    masked_all,
    nearest,
    printable,
)
from ltm_eval.failures import Failure, allowed, failed_answers, listed, without
from ltm_eval.floors import FIELDS, floors_of
from ltm_eval.hub import go_offline_unless_reached, is_cached
from ltm_eval.launch import unlaunched
from ltm_eval.lock import holding
from ltm_eval.results import SCHEMA, Floor, write_jsonl_atomic
from ltm_eval.signatures import signatures_of
from ltm_eval.stopping import stopping
from ltm_eval.telemetry import Meter, sizes_of
from ltm_eval.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    from ltm_eval.config import FitConfig
    from ltm_eval.model import LatentThoughtModel
    from ltm_eval.results import LatentRecord

BOOTSTRAP_ITERS = 100_000
"""lm-eval's default; 0 would leave out standard errors that need no bootstrap as well."""
METADATA_EXAMPLE = '{"protocol": "documents"}'
ZERO_SHOT = 0
"""A task that says so itself has no demonstrations, whatever is asked for."""
AUDIT_BLOCKS = 2
NEEDED_BYTES = 50 * 2**20
PREFIX = "ltm_"
NOT_GSM8K = "demo model, sample data: not GSM8K"
NOT_PUBLISHED = "demo model, sample data: not the published sets"


@dataclass(frozen=True)
class Outcome:
    """Where a run left its results."""

    results: tuple[Path, ...]
    """One `results_*.json` per model; none in a process that does not lead its job."""
    report: Path | None
    """The HTML page."""
    failed: str = ""
    """Which task has more failed documents than `max_failed` allows: the run is incomplete. Else empty."""


@dataclass(frozen=True)
class Subject:
    """One model to be evaluated."""

    name: str
    """As in the results file and its folder."""
    kind: str
    """`ltm` or `hf`."""
    arguments: dict[str, Any]
    """What lm-eval would take as model_args."""


def run(config: RunConfig) -> Outcome:
    """Evaluate the model and its baselines, write results and the page.

    Raises:
        LtmEvalError: something cannot be used; nothing that was finished is lost.
    """
    from ltm_eval.checkpoint import check_place

    job = join()
    config, notes = settle(quieted(config, job))
    allowed(config.max_failed, 1)
    refuse_inside(Path(config.output_path), (str(config.model), *config.baselines))
    output = check_output(Path(config.output_path))
    with stopping(), held(output, job):
        check_place(str(config.model))
        quiet_hosts()
        return _run(config, output, notes)


@contextmanager
def held(output: Path, job: Job) -> Iterator[None]:
    """Hold an output folder for all processes of a job, which wait for one another at both ends.

    Raises:
        RefusedError: another command works there, or the processes differ in program or options.
    """
    with holding(output) if job.leads else nullcontext():
        job.agree({"ltm_eval": ltm_eval.__version__, "source code": paths.source_sha256(), "torch": _version("torch")})
        yield
        job.wait()


def quieted(config: RunConfig, job: Job) -> RunConfig:
    """The options of a process that does not speak for its job, or as they are."""
    return config if job.leads else replace(config, quiet=True)


def _run(config: RunConfig, output: Path, notes: list[str]) -> Outcome:
    """`run` in a folder that is held."""
    tasks = tasks_of(config)
    subjects = [ltm_subject(config), *(_baseline_subject(spec) for spec in config.baselines)]
    written: list[Path] = []
    for subject in subjects:
        lm = construct(subject, config)
        if not written:
            show_notes(notes)
        written.append(evaluate_subject(subject, lm, tasks, config, output, notes))
        del lm
    return outcome(written, config, output)


def outcome(written: list[Path], config: RunConfig, output: Path, *, counted: Sequence[Path] = ()) -> Outcome:
    """What a run leaves, its page written; nothing for a process that does not lead.

    Args:
        counted: further results files whose failed documents count.
    """
    if not current().leads:
        return Outcome((), None)
    page = write_page(written, output) if config.report else None
    return Outcome(tuple(written), page, beyond_allowed([*written, *counted], config))


def show_notes(notes: list[str]) -> None:
    """The sentences that every output must carry, on standard error."""
    for line in notes if current().leads else ():
        print(printable(f"ltm-eval: {line}"), file=sys.stderr)


def tasks_of(config: RunConfig) -> list[Any]:
    """The tasks of a run, loaded and settled.

    Raises:
        LtmEvalError: a task is not known, its data are not there, or an option does not suit it.
    """
    manager = task_manager(config)
    return load_tasks(manager, known_tasks(config.tasks, manager), config)


def run_baselines(config: RunConfig, output: Path, notes: list[str]) -> list[Path]:
    """The baselines' results files."""
    tasks, written = tasks_of(config), []
    for subject in map(_baseline_subject, config.baselines):
        written.append(evaluate_subject(subject, construct(subject, config), tasks, config, output, notes))
    return written


def evaluate(
    model: LatentThoughtModel | str,
    *,
    tasks: list[str],
    shots: int | None = None,
    tokenizer: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate a model from Python; nothing is written.

    Args:
        model: what `ltm_eval.load` returns (also in the middle of training), or a checkpoint's path.
        tasks: task names; the prefix `ltm_` may be left out.
        shots: demonstrations per prompt; None takes each task's own number.
        tokenizer: `gpt2` or a file of mergeable ranks; needed for a live model that came from no checkpoint.
        options: further fields of `RunConfig`, for example `limit=20, condition="demos", t_fast=16`.

    Returns:
        lm-eval's results: `results[task]["exact_match,strict-match"]` and so on, `samples[task]`; beside them
        `mean_fast_steps[task]`, and `floors[task]`, the reference rows of a perplexity set.
    """
    from ltm_eval.lm import LTM

    name = model if isinstance(model, str) else getattr(model.info, "source", "live")
    config, _ = settle(RunConfig(model=name, tasks=tuple(tasks), num_fewshot=shots, tokenizer=tokenizer, **options))
    loaded = tasks_of(config)
    lm = LTM(model if not isinstance(model, str) else config.model, **_ltm_arguments(config))
    lm.progress = progress.silent
    parts = []
    for task in loaded:
        parts.append(evaluate_task(lm, task, config))
        del parts[-1]["failures"]
        parts[-1]["mean_fast_steps"] = _mean_fast_steps({task.task_name: [record.t_fast for record in lm.records]})
        lm.records.clear()
    return _merged(parts)


# Before any model time -----------------------------------------------------------------------------------------------


def settle(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """Fill in what was left open, and the sentences that every output must carry."""
    demo = config.model in (None, DEMO_MODEL)
    data = "sample" if config.model is None and config.data == "auto" else config.data
    notes = []
    if demo and data == "sample":
        notes.append(NOT_GSM8K if any("gsm8k" in task for task in config.tasks) else NOT_PUBLISHED)
    elif demo:
        notes.append("demo model: made to try the program, its scores mean nothing")
    elif data == "sample":
        notes.append("sample data: written for this project, not the published sets")
    if config.limit is not None:
        notes.append(f"only the first {config.limit} documents of each task (limit)")
    if config.documents:
        notes.append(f"only documents {', '.join(map(str, config.documents))} of each task")
    return replace(config, model=config.model or DEMO_MODEL, data=data), notes


def check_output(folder: Path) -> Path:
    """Make the folder and try to write there.

    Raises:
        UsageError: the path is taken by something else.
        MachineError: it cannot be written, or the disk is nearly full.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_path {folder}: exists and is not a folder; name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise MachineError(
            f"output_path {folder}: cannot be written ({error.strerror}); choose another with --output_path"
        ) from error
    if free < NEEDED_BYTES:
        raise MachineError(
            f"output_path {folder}: only {free // 2**20} MiB are free, at least {NEEDED_BYTES // 2**20} are needed; "
            "free some space"
        )
    return folder.resolve()


def refuse_inside(output: Path, models: Sequence[str]) -> None:
    """Raise UsageError where results would be written into the folder of a model.

    Args:
        output: the folder of results.
        models: checkpoints and baselines as given; those that are no folders cannot hold it.
    """
    for spec in models:
        place = Path(spec)
        holds = place.is_dir() and place.resolve() in (output.resolve(), *output.resolve().parents)
        if holds and (place / "config.json").is_file():
            raise UsageError(f"output_path {output}: lies inside the model {spec}; name a folder elsewhere")


def beyond_allowed(results: Sequence[Path], config: RunConfig) -> str:
    """Which task has more failed documents than `max_failed` allows, in words for an error; else nothing."""
    for path in results:
        for task, told in json.loads(path.read_text("utf-8"))["ltm_eval"]["failed"].items():
            failures = [Failure(task, one["doc_id"], one["reason"]) for one in told["failures"]]
            if len(failures) > allowed(config.max_failed, told["documents"]):
                return (
                    f"{task}: {len(failures)} of {told['documents']} documents failed ({listed(failures)}); the "
                    f"figures in {path} leave them out. --max_failed {len(failures)} allows it"
                )
    return ""


def task_manager(config: RunConfig) -> TaskManager:
    """lm-eval's index of our tasks only, which takes a tenth of a second instead of nine."""
    from lm_eval.tasks import TaskManager

    asked = {"n": config.n if config.n > 1 else None, "k": list(config.k), "rethink": config.rethink}
    metadata = {
        "data": config.data,
        **task_metadata(config.metadata),
        "condition": config.condition,
        **{name: value for name, value in asked.items() if value},
    }
    return TaskManager(include_defaults=False, include_path=str(paths.tasks_dir()), metadata=metadata)


def task_metadata(text: str | None) -> dict[str, Any]:
    """The task options of `--metadata`.

    Raises:
        UsageError: it is not a JSON object.
    """
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise UsageError(f"metadata must be a JSON object such as {METADATA_EXAMPLE}, got {text!r}") from error
    if not isinstance(found, dict):
        raise UsageError(f"metadata must be a JSON object such as {METADATA_EXAMPLE}, got {text!r}")
    return found


def known_tasks(tasks: tuple[str, ...], manager: TaskManager) -> list[str]:
    """Task names with our prefix, each once.

    Raises:
        UsageError: a name is not known.
    """
    names = []
    for task in tasks:
        name = next((known for known in (PREFIX + task, task) if known in manager.all_tasks), None)
        if name is None:
            shown = [known.removeprefix(PREFIX) for known in manager.all_tasks]
            raise UsageError(
                f"task {task!r} is not known; known are {', '.join(shown)}.{nearest(task, shown)} "
                "For lm-eval's own tasks: python -m ltm_eval lm-eval --model ltm --tasks …"
            )
        if name not in names:
            names.append(name)
    return names


def load_tasks(manager: TaskManager, names: list[str], config: RunConfig) -> list[Any]:
    """Tasks with data, shots, seeds and generation options settled; shots are checked against the data."""
    from lm_eval.utils import simple_parse_args_string

    loaded = list(manager.load(names)["tasks"].values())
    for task in loaded:
        if config.num_fewshot is not None and task.config.num_fewshot != ZERO_SHOT:
            task.set_config(key="num_fewshot", value=config.num_fewshot)
        task.set_fewshot_seed(seed=config.seed)
        if hasattr(task, "progress"):
            task.progress = progress.silent if config.quiet else progress.for_terminal()
        if config.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
            task.set_config(key="generation_kwargs", value=simple_parse_args_string(config.gen_kwargs), update=True)
        _check_shots(task)
    return loaded


def _check_shots(task: Any) -> None:
    """Refuse more demonstrations than there are examples to draw from."""
    shots = task.config.num_fewshot or 0
    pool = len(list(task.fewshot_docs() or [])) if shots else 0
    if shots > pool:
        raise UsageError(
            f"shots: task {task.task_name} has {pool} training examples, {shots} demonstrations were asked for; ask "
            "for fewer"
        )
    document = next(iter(task.test_docs() or []), None)
    if shots and document is not None and hasattr(task, "show"):
        task.show(document)


# Models --------------------------------------------------------------------------------------------------------------


def _ltm_arguments(config: RunConfig) -> dict[str, Any]:
    return {
        "t_fast": config.t_fast,
        "preset": config.preset,
        "condition": config.condition,
        "fit_window": config.fit_window,
        "rethink": config.rethink or None,
        "rows": config.rows,
        "causal_chunk": config.causal_chunk,
        "causal_t_fast": config.causal_t_fast,
        "dtype": config.dtype,
        "compile": config.compile or None,
        "fit": config.fit,
        "seed": config.seed,
        "tokenizer": config.tokenizer,
        "revision": config.revision,
        "batch_size": config.batch_size,
        "device": config.device,
    }


def ltm_subject(config: RunConfig) -> Subject:
    given = {name: value for name, value in _ltm_arguments(config).items() if value is not None}
    return Subject(str(config.model), "ltm", {"pretrained": str(config.model), **given})


def _baseline_subject(spec: str) -> Subject:
    """A causal language model for lm-eval's `hf`: a folder, a hub id, a .gguf file, or `gpt2-demo`, the bundled one."""
    from importlib.util import find_spec

    if find_spec("transformers") is None or find_spec("accelerate") is None:
        raise MachineError("a baseline needs extra packages: pip install 'ltm-eval[hf]'")
    if spec == DEMO_BASELINE:
        return Subject(spec, "hf", {"pretrained": str(paths.assets_dir() / DEMO_BASELINE)})
    path = Path(spec)
    if path.is_file() and path.suffix == ".gguf":
        return Subject(spec, "hf", {"pretrained": str(path.parent), "gguf_file": path.name})
    if path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(
            f"baseline {spec}: expected a transformers folder with config.json, weights and tokenizer; found none"
        )
    if not path.exists() and (path.is_absolute() or spec.startswith(".") or spec.count("/") > 1):
        raise UsageError(f"baseline {spec}: no such folder, and not a hub id (owner/name)")
    if not path.exists():
        _check_hub(spec)
    return Subject(spec, "hf", {"pretrained": spec})


def _check_hub(spec: str) -> None:
    """Raise MachineError where a baseline of the hub can be had neither there nor from the cache."""
    silent = go_offline_unless_reached(spec)
    if silent and not is_cached(spec):
        raise MachineError(
            f"baseline {spec}: not in the cache, and the hub was not reached ({silent}). Download it where there is a "
            "network and pass the folder"
        )


def construct(subject: Subject, config: RunConfig) -> LM:
    """Load a model.

    Raises:
        LtmEvalError: it cannot be loaded.
    """
    if subject.kind == "ltm":
        from ltm_eval.lm import LTM

        lm = LTM(**subject.arguments)
        lm.keeps_failures = True
        lm.progress = progress.silent if config.quiet else progress.for_terminal()
        return lm
    from lm_eval.api.registry import get_model

    from ltm_eval.arguments import resolve_device
    from ltm_eval.baselines import keep_answers

    device = str(resolve_device(config.device))
    host = {"batch_size": config.batch_size if config.batch_size != "auto" or device != "cpu" else 8, "device": device}
    if not os.environ.get("LTM_EVAL_DEBUG"):
        from transformers.utils import logging as host_logging

        host_logging.disable_progress_bar()
    try:
        with unlaunched():
            lm = get_model("hf").create_from_arg_obj(subject.arguments, host)
    except Exception as error:  # transformers raises many types; each means the baseline cannot be loaded
        cause = str(error).strip().splitlines()
        raise DataError(
            f"baseline {subject.name}: transformers could not load it ({type(error).__name__}: "
            f"{cause[0] if cause else ''})"
        ) from error
    return keep_answers(lm, seed=config.seed, progress=progress.silent if config.quiet else progress.for_terminal())


# Evaluating ----------------------------------------------------------------------------------------------------------


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
    asked = masked_all({**asked_of(config), "model": subject.name, "tasks": sorted(data), "cell": cell})
    folder = output / folder_name(masked(subject.name)) / cell
    job = current()
    with resume.session(folder, lm, asked=asked, data=data, fresh=config.fresh, job=job) as session:
        if not job.leads:
            for task in tasks:
                _help(lm, task, config)
            return session.results
        return _evaluate_tasks(subject, lm, tasks, config, session, [*notes, *session.warnings])


NOT_ASKED = frozenset(
    ("model", "tasks", "baselines", "output_path", "batch_size", "device", "report", "quiet", "command", "fresh")
    + ("preset", "t_fast", "condition", "fit_window", "rows", "causal_chunk", "causal_t_fast", "dtype", "tokenizer")
    + ("compile", "fit")
    + ("revision", "max_failed")
)
"""Options that change neither what is asked nor the figures, or are settings of the model, which stand elsewhere."""


def asked_of(config: RunConfig) -> dict[str, Any]:
    """The options of a run that tell whether another is the same one."""
    return {name: value for name, value in asdict(config).items() if name not in NOT_ASKED}


def _evaluate_tasks(  # noqa: PLR0913 - a model, what it answers, and where that goes
    subject: Subject, lm: LM, tasks: list[Any], config: RunConfig, session: resume.Session, notes: list[str]
) -> Path:
    """`evaluate_subject` in a folder where answers are kept."""
    folder, date_id = session.folder, session.date_id
    begun = time.perf_counter()
    parts = []
    facts: dict[str, TaskFacts] = {}
    costs: dict[str, dict[str, Any]] = {}
    for task in tasks:
        meter = Meter(lm.device)
        part = evaluate_task(lm, task, config)
        failpoints.moment("run.task")
        costs[task.task_name] = asdict(meter.read())
        records = list(getattr(lm, "records", []))
        (rows,) = part.pop("samples").values()
        stops = stop_reasons(records)
        samples = [sample_row(row, stops.get(row["doc_id"], [])) for row in rows]
        write_jsonl_atomic(folder / f"samples_{task.task_name}_{date_id}.jsonl", samples)
        part["task_hashes"] = {task.task_name: task_hash(rows)}
        scored = [row for row in rows if "failed" not in row]
        facts[task.task_name] = replace(
            task_facts(task, scored, lm),
            failures=tuple(part.pop("failures")),
            documents=len({row["doc_id"] for row in rows}),
            caveats=tuple(task_caveats(task, rows, records, lm)),
        )
        if records:
            lines = [record.to_json() for record in records]
            write_jsonl_atomic(folder / f"latents_{task.task_name}_{date_id}.jsonl", lines)
            lm.records.clear()
        parts.append(part)
        whole = _merged(parts)
        floors = whole.pop("floors", {})
        whole["configs"] = masked_all(whole["configs"])  # what was told by --metadata
        whole |= masked_all(_about(subject, lm, tasks, config, notes, facts))
        whole["total_evaluation_time_seconds"] = str(session.seconds_before + time.perf_counter() - begun)
        whole["ltm_eval"] |= {
            "floors": floors,
            "cost": costs,
            "signatures": signatures_of(whole, sets=whole["ltm_eval"]["data"]["sets"]),
            "sweep_cell": str(session.manifest.asked["cell"]),
        }
        session.write(whole, status=resume.RUNNING)
    show_notes([note for own in facts.values() for note in own.notes])
    session.write(whole, status=resume.COMPLETE)
    _verify(session.results, tasks)
    return session.results


@dataclass(frozen=True)
class TaskFacts:
    """What a task's results hold beside lm-eval's own."""

    fast_steps: tuple[int, ...]
    """Fast steps of every fit on record."""
    sampled: dict[str, Any] | None
    """Figures of several samples per question, with intervals over questions; None where there was one answer."""
    content_free: dict[str, Any]
    """What the commonest training answers score; empty where answers are no numbers."""
    budget: dict[str, Any] | None
    """Compute of rethinking and of its control."""
    documents: int = 0
    """Documents that were evaluated, failed ones included."""
    failures: tuple[Failure, ...] = ()
    """Documents that could not be scored; no figure contains them."""
    caveats: tuple[str, ...] = ()
    """What was found odd in documents and prompts."""

    @property
    def notes(self) -> list[str]:
        """Sentences that every output must carry."""
        if not self.failures:
            return list(self.caveats)
        count = f"{len(self.failures):,} of {self.documents:,} documents failed and are left out of its figures"
        return [f"{self.failures[0].task}: {count} ({listed(self.failures)})", *self.caveats]


def task_facts(task: Any, rows: list[dict[str, Any]], lm: Any) -> TaskFacts:
    """Facts of a task that has just been evaluated; `rows` are lm-eval's logged samples."""
    from ltm_eval.repeats import content_free, summary

    repeats, rethinking = getattr(task, "repeats", None), getattr(task, "rethinking", None)
    floor: dict[str, Any] = {}
    shown = [str(task.doc_to_target(doc)) for doc in task.fewshot_docs() or []]
    if task.OUTPUT_TYPE == "generate_until" and shown and rows:
        asked = [row for row in rows if row["filter"] == rows[0]["filter"]]
        wanted = [str(row["target"]) for row in asked]
        floor = content_free(shown, wanted, k=repeats.k) if repeats else content_free(shown, wanted)
    budget = getattr(lm, "budget", None)
    if rethinking and budget is not None:
        lm.budget = type(budget)()
    return TaskFacts(
        fast_steps=tuple(record.t_fast for record in getattr(lm, "records", [])),
        sampled=summary(rows) if rows and (repeats or rethinking) else None,
        content_free=floor,
        budget=asdict(budget) if rethinking and budget is not None else None,
    )


def stop_reasons(records: list[LatentRecord]) -> dict[int, list[list[str]]]:
    """Why each answer ended: by document, per request, per repeat; nothing where the model does not tell."""
    found: dict[int, dict[int, list[str]]] = {}
    for record in sorted(records, key=lambda record: (record.doc_id, record.idx, record.repeat)):
        if record.stop_reason:
            found.setdefault(record.doc_id, {}).setdefault(record.idx, []).append(record.stop_reason)
    return {doc_id: list(requests.values()) for doc_id, requests in found.items()}


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
        getattr(lm, "records", []).clear()
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


def chosen_documents(config: RunConfig, task: Any) -> dict[str, list[int]] | None:
    """The documents of `--documents`, as lm-eval takes them.

    Raises:
        UsageError: the task has no such document.
    """
    if not config.documents:
        return None
    count = len(task.eval_docs)
    if max(config.documents) >= count:
        raise UsageError(
            f"documents: task {task.task_name} has documents 0 to {count - 1}, {max(config.documents)} was asked for"
        )
    # lm-eval 0.4.13 goes through the documents in their own order and takes the n-th name of this list for the n-th.
    return {task.task_name: sorted(config.documents)}


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


def _mean_fast_steps(fast_steps: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Mean over requests, by task; tasks without fits left out."""
    return {name: fmean(steps) for name, steps in fast_steps.items() if steps}


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Results of single tasks as one: mappings are joined, the rest is taken from the last."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            whole[key] = (
                {**whole[key], **value} if isinstance(value, dict) and isinstance(whole.get(key), dict) else value
            )
    return whole


def _about(
    subject: Subject, lm: LM, tasks: list[Any], config: RunConfig, notes: list[str], facts: dict[str, TaskFacts]
) -> dict[str, Any]:
    """Model, settings and provenance, under lm-eval's keys and our own."""
    info = lm.get_model_info() if hasattr(lm, "get_model_info") else {}
    sets = {task.task_name: data_facts(task) for task in tasks}
    return {
        "config": {
            "model": subject.kind,
            "model_args": subject.arguments,
            **info,
            **({"sizes": sizes_of(lm)} if "sizes" not in info else {}),
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
        "lm_eval_version": _version("lm-eval"),
        "transformers_version": _version("transformers"),
        "max_length": getattr(lm, "max_length", None),
        "model_source": subject.kind,
        "model_name": subject.name,
        "model_name_sanitized": folder_name(subject.name),
        "ltm_eval": {
            "schema": SCHEMA,
            "warnings": [*notes, *_warnings(subject, lm), *(note for own in facts.values() for note in own.notes)],
            "failed": {
                name: {"documents": own.documents, "failures": [asdict(one) for one in own.failures]}
                for name, own in facts.items()
                if own.failures
            },
            "demo_model": subject.name in (DEMO_MODEL, DEMO_BASELINE),
            "sample_data": config.data == "sample" or any(map(_is_sample, sets.values())),
            "limit": config.limit,
            "data": {"choice": config.data, "sets": sets},
            "mean_fast_steps": _mean_fast_steps({name: own.fast_steps for name, own in facts.items()}),
            "sampled": {name: own.sampled for name, own in facts.items() if own.sampled},
            "content_free": {name: own.content_free for name, own in facts.items() if own.content_free},
            "rethink_budget": {name: own.budget for name, own in facts.items() if own.budget},
            "audit": _audit(lm.fit_config) if subject.kind == "ltm" else None,
            "command": " ".join(config.command),
            "settings": asdict(config),
            "provenance": provenance(),
        },
    }


@cache
def _audit(fit: FitConfig) -> dict[str, Any]:
    """The random-token audit of the run's fit settings, on an untrained decoder: a property of the preset."""
    from ltm_eval.audit import audit, untrained_model

    return asdict(audit(untrained_model(), fit, blocks=AUDIT_BLOCKS))


def data_facts(task: Any) -> Any:
    """What was read for a task: files, digests, counts, where its loader tells."""
    facts = {}
    for split, dataset in task.dataset.items():
        description = getattr(getattr(dataset, "info", None), "description", "")
        facts[split] = json.loads(description) if description.startswith("{") else {"rows": len(dataset)}
    return facts


def _is_sample(facts: dict[str, Any]) -> bool:
    """Whether a task's loader says that it read the bundled sample, whoever asked for it."""
    return any(split.get("sample") is True for split in facts.values())


def _warnings(subject: Subject, lm: LM) -> list[str]:
    """What a reader of the numbers must know."""
    if subject.kind != "ltm":
        return []
    dtype, fit, info = str(getattr(lm, "dtype", "")), getattr(lm, "fit_config", None), lm.model.info
    found = [f"checkpoint: {note}" for note in (info.notes if info else ())]
    if "bfloat16" in dtype:
        found.append(f"matrix products in {dtype.removeprefix('torch.')}")
    if subject.arguments.get("fit"):
        found.append(f"fit preset {subject.arguments.get('preset')} changed: {subject.arguments['fit']}")
    if fit is not None and fit.t_fast == 0 and not fit.adaptive:
        found.append("no fitting (t_fast 0): z is the prior, and a bound is one on texts that nothing was fitted to")
    return found


def provenance() -> dict[str, Any]:
    """Versions, machine, and the commit this program ran from."""
    packages = ("torch", "lm-eval", "transformers", "datasets", "tiktoken", "numpy")
    return {
        "ltm_eval": ltm_eval.__version__,
        "git": _git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in packages},
    }


def _git_state() -> dict[str, Any] | None:
    """Commit and whether the tree was changed, where the program runs from a checkout."""
    root = paths.PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Writing -------------------------------------------------------------------------------------------------------------


def folder_name(model: str) -> str:
    """lm-eval's folder name of a model, kept below the output folder and at most 100 bytes."""
    from lm_eval.utils import sanitize_model_name

    name = "".join(c if c.isprintable() else "_" for c in sanitize_model_name(model)).strip(".")
    return (name or "model").encode()[-100:].decode("utf-8", "ignore")


def sample_row(sample: dict[str, Any], stops: list[list[str]]) -> dict[str, Any]:
    """A logged sample in the form of lm-eval's samples file, with why each answer ended, where that is known."""
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
    """Equal where two runs saw the same documents, prompts and targets."""
    from lm_eval.utils import hash_string

    return str(hash_string("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)))


def _verify(path: Path, tasks: list[Any]) -> None:
    """Read the results back; a run is done only when they are there."""
    from ltm_eval.results import find_runs, read_samples

    found = find_runs([path])[0]
    for task in tasks:
        if not read_samples(found, task.task_name):
            raise IncompleteError(f"{path}: no samples of task {task.task_name} were saved; run the same command again")


def write_page(results: list[Path], output: Path) -> Path:
    """Render the report of these results."""
    from ltm_eval import report
    from ltm_eval.results import find_runs

    page = output / "report.html"
    report.write(report.render(report.build(find_runs(results))), page)
    return page


def quiet_hosts() -> None:
    """Keep other libraries' bars and warnings from burying ours; LTM_EVAL_DEBUG=1 shows them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.environ.get("LTM_EVAL_DEBUG"):
        return
    for name in ("lm_eval", "transformers", "datasets", "accelerate", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import lm_eval.api.task as host

    host.tqdm = partial(host.tqdm, disable=True)  # a bar for building prompts, which takes no time
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def results_table(path: Path) -> str:
    """lm-eval's header line and table of one results file."""
    from lm_eval.utils import make_table

    content = json.loads(path.read_text("utf-8"))
    config = masked_all(content["config"])
    told = f"gen_kwargs: ({config['gen_kwargs']}), limit: {config['limit']}, batch_size: {config['batch_size']}"
    head = f"{config['model']} ({config['model_args']}), {told}"
    lines = [line for name in content["results"] for line in _interval_lines(name, content["ltm_eval"])]
    return "\n".join(map(printable, [head, *make_table(content).splitlines(), *lines]))


def _interval_lines(task: str, block: dict[str, Any]) -> list[str]:
    """Figures of several samples with their intervals, and what answering without reading scores."""
    from ltm_eval.repeats import interval_words

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


__all__ = ["LtmEvalError", "Outcome", "evaluate", "run"]
