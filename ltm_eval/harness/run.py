"""A run: a checkpoint and its baselines answer tasks through lm-eval, and a page shows the results.

`run` is the command; `evaluator` has the same for Python. Everything that a user can get wrong is checked
before model time is spent; how one model answers tasks, and what is written of that, is in `evaluation`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ltm_eval.harness.evaluation import (
    Failure,
    Subject,
    allowed,
    evaluate_subject,
    folder_of,
    listed,
    show_notes,
)
from ltm_eval.harness.loading import tasks_of, training_metadata
from ltm_eval.harness.options import ModelOptions, RunConfig
from ltm_eval.runs.journal import Journal
from ltm_eval.runs.processes import current, join
from ltm_eval.runs.session import check_program
from ltm_eval.runs.worklist import Answer, Request, Worklist, say_on_stderr
from ltm_eval.system import files, progress
from ltm_eval.system.errors import (
    CheckpointError,
    DataError,
    MachineError,
    ResultsError,
    UsageError,
    printable,
    shown,
    stopping,
)
from ltm_eval.system.files import DEMO_BASELINE, DEMO_MODEL, cause, check_regular, check_target, holding, remedy
from ltm_eval.system.hub import REFUSALS, agree_on, ask, is_cached, is_repository_name
from ltm_eval.system.launch import unlaunched
from ltm_eval.system.machine import COMPUTE_FILE, program, read_training_compute
from ltm_eval.system.options import names_of
from ltm_eval.tasks.arguments import generation_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lm_eval.api.model import LM

    from ltm_eval.tasks.prompts import Condition


@dataclass(frozen=True)
class Outcome:
    """What a run leaves."""

    results: tuple[Path, ...]  # One `results_*.json` per model; none in a process that does not lead its job
    report: Path | None  # The HTML page
    failed: str = ""  # why the run is incomplete: a task with more failed documents than `max_failed` allows
    findings: str = ""  # rows for a terminal: who is better, and by how much; empty if nothing is compared


@dataclass(frozen=True)
class Combination:
    """One of several conditions and numbers of few-shot examples that a command runs."""

    condition: Condition
    shots: int | None  # None is the task's own number

    @property
    def folder(self) -> str:
        """Name below the model's folder."""
        return self.condition if self.shots is None else f"{self.condition}_{self.shots}-shot"

    @property
    def words(self) -> str:
        """As a line of progress."""
        return self.condition if self.shots is None else f"{self.condition}, {self.shots} shots"


def run(
    config: RunConfig,
    combinations: Sequence[Combination] = (),
    *,
    finished: Callable[[Sequence[Path]], None] = lambda written: None,
) -> Outcome:
    """Evaluate the model and its baselines, write results and the page.

    Args:
        config: the options.
        combinations: what is run instead of the condition and shots of `config`, one after the other. The first is the
            model's results file and what baselines are run with; each further one has a folder below the model's.
        finished: called with the results files so far as each combination ends, in the process that leads.

    Raises:
        LtmEvalError: something cannot be used; nothing that was finished is lost.
    """
    with begun(config) as (config, output, notes):  # noqa: PLR1704 - from here on, the settled one
        cells = [replace(config, condition=one.condition, num_fewshot=one.shots) for one in combinations] or [config]
        folders = ["", *(one.folder for one in combinations[1:])]
        tasks = [tasks_of(cell) for cell in cells]
        check_combinations(chain(*tasks) if combinations else ())
        if current().leads:
            say_if_short(tasks[0], cells[0], output, runs=len(cells))
        model, *baselines = [ltm_subject(cells[0]), *map(baseline_subject, config.baselines)]
        places = [*(folder_of(model, output, name) for name in folders), *(folder_of(one, output) for one in baselines)]
        check_program(places, fresh=config.fresh)
        lm: Any = construct(model, config)
        show_notes(notes)
        written: list[Path] = []
        for index, (cell, folder) in enumerate(zip(cells, folders, strict=True)):
            if combinations and not config.quiet:
                print(f"ltm-eval: {combinations[index].words} ({index + 1} of {len(cells)})", file=sys.stderr)
            lm.condition = cell.condition
            written.append(evaluate_subject(ltm_subject(cell), lm, tasks[index], cell, output, notes, cell=folder))
            if current().leads:
                finished(written)
        del lm  # before a baseline takes its memory
        results = written[:1]
        for one in baselines:
            results.append(evaluate_subject(one, construct(one, config), tasks[0], cells[0], output, notes))
        if not current().leads:
            return Outcome((), None)
        page = write_page(results, output) if config.report else None
        failed = beyond_allowed([*results, *written[1:]], config)
        return Outcome(tuple(results), page, failed, findings_of(results) if baselines else "")


def check_combinations(tasks: Iterable[Any]) -> None:
    """Raise UsageError if a task has no few-shot examples whose effect several conditions or shots could show."""
    for task in tasks:
        if task.OUTPUT_TYPE != "generate_until" or task.fewshot_docs() is None:
            raise UsageError(
                f"task {task.task_name} asks for no answers, so its demonstrations have no effect to show; leave it "
                "out, or name one condition and one number of shots"
            )


@contextmanager
def begun(config: RunConfig) -> Iterator[tuple[RunConfig, Path, list[str]]]:
    """Settle the options and hold the output folder, for all processes of a job, which wait for one another at the end.

    Yields:
        The options as settled, the output folder, and the warnings to print with every output.

    Raises:
        UsageError: an option cannot be used.
        RefusedError: another command works there, or the processes differ in program or options.
    """
    from ltm_eval.model.checkpoint import check_place

    job = join()
    config, notes = settle(config if job.leads else replace(config, quiet=True))
    allowed(config.max_failed, 1)
    target = Path(config.output_path)
    for spec in (str(config.model), *config.baselines):
        place = Path(spec)
        holds = place.is_dir() and place.resolve() in (target.resolve(), *target.resolve().parents)
        if holds and (place / "config.json").is_file():
            raise UsageError(f"output_path {target}: lies inside the model {spec}; name a folder elsewhere")
    output = check_output(target)
    if config.report:
        check_target(output / "report.html", b"<!DOCTYPE html>")
    log = logging.getLogger("ltm_eval")
    level = log.level
    with stopping(), holding(output) if job.leads else nullcontext():
        if not job.leads:
            log.setLevel(logging.ERROR)  # the leading process logs the same warnings
        try:
            job.agree(program())
            check_place(str(config.model))
            quiet_libraries()
            yield config, output, notes
            job.wait()
        finally:
            log.setLevel(level)


def kept(
    folder: Path,
    settings: Mapping[str, Any],
    kind: str,
    questions: Sequence[tuple[str, ...]],
    answer: Callable[[list[int]], Iterator[tuple[int, Any]]],
) -> list[Any]:
    """Answer questions that are no requests of a task, each once: in order, from a journal or by a process of the job.

    Args:
        folder: of the journal.
        settings: all that changes an answer and is no part of a question.
        kind: what is asked, for readers of the journal.
        questions: texts; those that begin with the same one stay in one process.
        answer: yields each of the questions at these indices with its answer, which is JSON, in any order.

    Raises:
        MachineError: the journal cannot be read or written.
        IncompleteError: another process is lost.
    """
    from lm_eval.api.instance import Instance

    journal = Journal(folder, settings)
    requests = [
        Request(instance=Instance(kind, {}, question, 0, (kind, index, 1))) for index, question in enumerate(questions)
    ]
    try:
        work = Worklist(journal, say=say_on_stderr, job=current()).open(kind, requests)
        for index, value in answer(work.todo):
            work.done(index, Answer(value))
        return [one.value for one in work.close()]
    finally:
        journal.close()


def settle(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """Return the options with defaults filled in, and warnings to print with every output."""
    demo = config.model in (None, DEMO_MODEL)
    data = "sample" if config.model is None and config.data == "auto" else config.data
    notes = []
    if demo and data == "sample":
        gsm8k = any("gsm8k" in task for task in config.tasks)
        notes.append(f"demo model, sample data: not {'GSM8K' if gsm8k else 'the published sets'}")
    elif demo:
        notes.append("demo model: made to try the program, its scores mean nothing")
    elif data == "sample":
        notes.append("sample data: written for this project, not the published sets")
    if config.limit is not None:
        notes.append(f"only the first {config.limit} documents of each task (limit)")
    if config.documents:
        notes.append(f"only documents {', '.join(map(str, config.documents))} of each task")
    return replace(config, model=config.model or DEMO_MODEL, data=data), notes


NEEDED_BYTES = 50 * 2**20  # free on the disk of the output folder
NAME_ROOM = 350  # bytes of a path that folders of models and conditions and file names below the output folder may take


def check_output(folder: Path) -> Path:
    """Create the output folder and try to write there.

    Raises:
        UsageError: the path exists and is no folder, or is too long for files below it.
        MachineError: it cannot be written, or the disk is nearly full.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_path {folder}: exists and is not a folder; name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".ltm_eval-{os.getpid()}-{uuid4().hex}.tmp"
        with open(probe, "xb") as file:
            file.write(b"x")
        probe.unlink()
    except OSError as error:
        raise MachineError(
            f"output_path {folder}: cannot be written ({cause(error, folder)}); {remedy(error, folder)}, or choose "
            "another with --output_path"
        ) from error
    try:
        free, longest = shutil.disk_usage(folder).free, os.pathconf(folder, "PC_PATH_MAX")
    except OSError:  # a file system that does not tell
        return folder.resolve()
    length = len(os.fsencode(folder.resolve()))
    if length + NAME_ROOM > longest:
        raise UsageError(
            f"output_path …{str(folder)[-60:]}: {length} bytes long, which leaves too little of the {longest} that a "
            "path may have for files below it; name a shorter one"
        )
    if free < NEEDED_BYTES:
        raise MachineError(
            f"output_path {folder}: only {free // 2**20} MiB are free, at least {NEEDED_BYTES // 2**20} are needed; "
            "free some space"
        )
    return folder.resolve()


def quiet_libraries() -> None:
    """Keep other libraries' bars and warnings from burying ours; LTM_EVAL_DEBUG=1 shows them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.environ.get("LTM_EVAL_DEBUG"):
        return
    for name in ("lm_eval", "transformers", "datasets", "accelerate", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import lm_eval.api.task

    lm_eval.api.task.tqdm = partial(
        lm_eval.api.task.tqdm, disable=True
    )  # a bar for building prompts, which takes no time
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


# Of an answer's journal and sidecar lines, a sample, a token of an answer, its NLL; measured on the bundled pair
ANSWER_BYTES, SAMPLE_BYTES, TOKEN_BYTES, NLL_BYTES = 2_100, 1_000, 5, 10
FIXED_BYTES, PAGE_BYTES = 2**20, 20 * 2**20  # results, manifest, the page without samples; at most with its samples


def estimated_bytes(task: Any, config: RunConfig) -> int:
    """Return about how many bytes one model leaves for a task, if every answer is as long as it may become."""
    documents = len(config.documents) or min(len(task.eval_docs), config.limit or len(task.eval_docs))
    size = fmean([len(json.dumps(doc, default=str)) for doc in islice(task.eval_docs, 64)] or [0])
    prompt, text, answers, rows = 1.3 * size * (1 + int(task.config.num_fewshot or 0)), 0, 1, 1
    if task.OUTPUT_TYPE == "generate_until":
        text = TOKEN_BYTES * generation_config(dict(task.config.generation_kwargs or {})).max_new_tokens
        several = getattr(task, "repeats", None), getattr(task, "rethinking", None)
        answers = int(task.config.repeats or 1) + sum(int(one.answers) for one in several if one)
        rows = max(1, len(task.config.filter_list or ()))
    elif task.OUTPUT_TYPE == "multiple_choice":
        answers = next((len(task.doc_to_choice(doc)) for doc in islice(task.eval_docs, 1)), 1)
    by_token = min(documents, config.token_nll) * 2 * (450 + NLL_BYTES * (text or size))
    each = answers * (ANSWER_BYTES + text) + rows * (SAMPLE_BYTES + 2 * size + prompt + answers * text)
    return int(by_token + documents * each)


def say_if_short(tasks: Sequence[Any], config: RunConfig, output: Path, *, runs: int = 1) -> None:
    """Say on standard error if the disk may not hold what `runs` such runs will leave beside what is there already."""
    per_model, models = sum(estimated_bytes(task, config) for task in tasks), 1 + len(config.baselines)
    needed = runs * (models * (per_model + FIXED_BYTES) + min(PAGE_BYTES, models * per_model))
    free = math.inf
    with suppress(OSError):
        needed -= sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
        free = shutil.disk_usage(output).free
    if free < needed:
        words = [f"{one / 1e9:.1f} GB" if one >= 1e9 else f"{one / 1e6:.0f} MB" for one in (needed, free)]
        print(
            f"ltm-eval: output_path {output}: the run may need {words[0]}, {words[1]} are free; a full disk ends it "
            "with code 4, and the same command goes on from there",
            file=sys.stderr,
        )


LAYERS, MOST_LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers"), 10_000


def ltm_arguments(config: RunConfig) -> dict[str, Any]:
    """Return the options of a run that the model takes."""
    given = {name: getattr(config, name) for name in names_of(ModelOptions)}
    given |= {"rethink": config.rethink or None, "compile": config.compile or None}
    return {name: value for name, value in given.items() if value is not None}


def ltm_subject(config: RunConfig) -> Subject:
    """Return the checkpoint of a run."""
    arguments = {"pretrained": str(config.model), **ltm_arguments(config)}
    return Subject(str(config.model), "ltm", arguments, training_metadata(config.metadata))


def baseline_subject(spec: str) -> Subject:
    """Return a causal language model for lm-eval's `hf`.

    Args:
        spec: a folder, a hub id, a .gguf file, or `gpt2-demo`, the bundled one.

    Raises:
        UsageError: it is none of these.
        CheckpointError: the folder or file is absent or no transformers checkpoint, its config asks for too many
            layers, or the hub refuses it.
        MachineError: packages are missing, or it is neither in the cache nor on the hub.
    """
    from importlib.util import find_spec

    if find_spec("transformers") is None or find_spec("accelerate") is None:
        raise MachineError("a baseline needs extra packages: pip install 'ltm-eval[hf]'")
    if spec == DEMO_BASELINE:
        return Subject(spec, "hf", {"pretrained": str(files.assets_dir() / DEMO_BASELINE)})
    path = Path(spec)
    if path.is_file() and path.suffix == ".gguf":
        return Subject(spec, "hf", {"pretrained": str(path.parent), "gguf_file": path.name})
    if spec and path.is_dir() and not (path / "config.json").is_file():
        raise CheckpointError(
            f"baseline {spec!r}: expected a transformers folder with config.json, weights and tokenizer; found none"
        )
    if not spec or (not path.exists() and not is_repository_name(spec)):
        several = "; give --baseline once for each model" if "," in spec else ""
        named_as_path = spec.startswith(("/", "./", "../", "~"))
        raise (CheckpointError if named_as_path else UsageError)(
            f"baseline {spec!r}: no such folder or .gguf file, and not a hub id (owner/name){several}"
        )
    if path.is_file():
        raise CheckpointError(
            f"baseline {spec}: a file; expected a transformers folder, a .gguf file or a hub id (owner/name)"
        )
    if path.exists():
        check_regular(path, kind=CheckpointError)
        try:
            layers = json.loads((path / "config.json").read_bytes())
        except (ValueError, RecursionError):
            layers = None  # transformers says what is wrong with it
        for name in LAYERS if isinstance(layers, dict) else ():
            if isinstance(layers.get(name), (int, float)) and layers[name] > MOST_LAYERS:
                raise CheckpointError(
                    f"{path / 'config.json'}: {name} must be at most {MOST_LAYERS:,}, got {shown(layers[name])}"
                )
        return Subject(spec, "hf", {"pretrained": spec}, read_training_compute(path / COMPUTE_FILE))
    asked = ask(spec, job=current())
    if asked.silent and not is_cached(spec):
        if asked.silent in REFUSALS:
            raise CheckpointError(f"baseline {spec}: {REFUSALS[asked.silent]} ({asked.silent})")
        raise MachineError(
            f"baseline {spec}: not in the cache, and the hub was not reached ({asked.silent}). Download it where there "
            "is a network and pass the folder"
        )
    return Subject(spec, "hf", {"pretrained": spec, **({"revision": asked.commit} if asked.commit else {})})


def construct(subject: Subject, config: RunConfig) -> LM:
    """Load a model.

    Raises:
        LtmEvalError: it cannot be loaded.
    """
    if subject.kind == "ltm":
        from ltm_eval.harness.ltm import LTM

        agree_on(subject.arguments["pretrained"], subject.arguments.get("revision"), job=current())
        lm = LTM(**subject.arguments)
        lm.keeps_failures = True
        lm.token_nll = config.token_nll
        lm.progress = progress.silent if config.quiet else progress.for_terminal()
        return lm
    from ltm_eval.harness.baseline import JournaledHF, transformers_errors
    from ltm_eval.system.device import resolve_device

    device = str(resolve_device(config.device))
    if not os.environ.get("LTM_EVAL_DEBUG"):
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
    with unlaunched(), transformers_errors(DataError, subject.name, "could not load it"):
        return JournaledHF(
            **subject.arguments,
            name=subject.name,
            batch_size=config.batch_size if config.batch_size != "auto" or device != "cpu" else 8,
            device=device,
            seed=config.seed,
            progress=progress.silent if config.quiet else progress.for_terminal(),
            token_nll=config.token_nll,
        )


def beyond_allowed(results: Sequence[Path], config: RunConfig) -> str:
    """Return the error of a task with more failed documents than `max_failed` allows; empty if there is none."""
    for path in results:
        for task, told in json.loads(path.read_text("utf-8"))["ltm_eval"]["failed"].items():
            failures = [Failure(task, one["doc_id"], one["reason"]) for one in told["failures"]]
            if len(failures) > allowed(config.max_failed, told["documents"]):
                return (
                    f"{task}: {len(failures)} of {told['documents']} documents failed ({listed(failures)}); the "
                    f"figures in {path} leave them out. --max_failed {len(failures)} allows it"
                )
    return ""


def findings_of(results: Sequence[Path]) -> str:
    """Return the rows of the page's first screen for these results alone."""
    from ltm_eval.report.page import rows_of
    from ltm_eval.results.columns import columns_of
    from ltm_eval.results.files import find_runs

    return rows_of(columns_of(find_runs(results)))


def write_page(results: list[Path], output: Path) -> Path:
    """Write the page of the columns that hold these results, and of the folder's probes.

    `report FOLDER` makes the same where no others lie.
    """
    from ltm_eval.report import page as report
    from ltm_eval.results.columns import columns_of

    page = output / "report.html"
    try:
        runs, probes = report.gather([output])
    except ResultsError as unreadable:
        print(printable(f"ltm-eval: the page shows this run alone: {unreadable}"), file=sys.stderr)
        runs, probes = report.gather(results)
    columns = columns_of(runs)
    wanted = {path.resolve() for path in results}
    shown = [column for column in columns if wanted & {part.path.resolve() for part in column.parts or (column,)}]
    if others := len(columns) - len(shown):
        words = f"{others} other run{'s' if others > 1 else ''} of this folder"
        print(printable(f"ltm-eval: 'ltm-eval report {output}' shows {words} beside it"), file=sys.stderr)
    own = [part for column in shown for part in column.parts or (column,)]
    report.write(report.render(report.build(own, probes)), page)
    return page


__all__ = ["Outcome", "run"]
