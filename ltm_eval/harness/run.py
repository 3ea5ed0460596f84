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
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ltm_eval.harness.answering import SCORE_DRAWS
from ltm_eval.harness.evaluation import (
    Failure,
    Subject,
    allowed,
    evaluate_subject,
    folder_of,
    listed,
    show_notes,
)
from ltm_eval.harness.loading import known_tasks, task_manager, tasks_of, training_metadata
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
    Together,
    UsageError,
    printable,
    shown,
    spelt,
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
    with begun(config, partial(loaded, combinations), baselines_of) as start:
        config, output, notes, cells, baselines = start  # the settled options from here on
        model, folders = ltm_subject(config), ["", *(one.folder for one in combinations[1:])]
        if current().leads:
            say_if_short(cells[0][0], cells[0][1], output, runs=len(cells))
        places = [*(folder_of(model, output, name) for name in folders), *(folder_of(one, output) for one in baselines)]
        check_program(places, fresh=config.fresh)
        lm: Any = construct(model, config)
        show_notes([*notes, *costs_of_rows(lm, *cells[0])])
        lm.progress = forecast = Forecast(lm, cells, baselines=len(baselines), world=current().world)
        written: list[Path] = []
        for index, ((cell, tasks), folder) in enumerate(zip(cells, folders, strict=True)):
            if combinations and not config.quiet:
                print(f"ltm-eval: {combinations[index].words} ({index + 1} of {len(cells)})", file=sys.stderr)
            lm.condition = cell.condition
            written.append(evaluate_subject(ltm_subject(cell), lm, tasks, cell, output, notes, cell=folder))
            if current().leads:
                finished(written)
        del lm, forecast.lm  # before a baseline takes their memory
        results = written[:1]
        for one in baselines:
            other: Any = construct(one, config)
            other.progress = forecast
            results.append(evaluate_subject(one, other, cells[0][1], cells[0][0], output, notes))
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


def check(config: RunConfig) -> None:
    """Raise what is wrong with tasks' names, model, baselines and output folder, whatever the other options are."""
    with begun(config, lambda settled: known_tasks(settled.tasks, task_manager(settled)), baselines_of):
        pass


def loaded(combinations: Sequence[Combination], config: RunConfig) -> list[tuple[RunConfig, list[Any]]]:
    """Return the options and tasks of every combination; those of `config` if there are none.

    Raises:
        LtmEvalError: as `tasks_of`, or a task asks for no answers that combinations could be compared by.
    """
    cells = [replace(config, condition=one.condition, num_fewshot=one.shots) for one in combinations] or [config]
    found = [(cell, tasks_of(cell)) for cell in cells]
    check_combinations(chain(*(tasks for _, tasks in found)) if combinations else ())
    return found


@contextmanager
def begun(config: RunConfig, *checks: Callable[[RunConfig], Any]) -> Iterator[tuple[Any, ...]]:
    """Settle the options and hold the output folder, for all processes of a job, which wait for one another at the end.

    Args:
        config: the options.
        checks: what else of the settled options is looked at; all that is wrong is raised together.

    Yields:
        The options as settled, the output folder, warnings to print with every output, and what each check returned.

    Raises:
        LtmEvalError: something cannot be used.
        RefusedError: another command works there, or the processes differ in program or options.
    """
    from ltm_eval.model.checkpoint import check_place

    job = join()
    config, notes = settle(config if job.leads else replace(config, quiet=True))
    target = Path(config.output_path)
    made = [folder for folder in (target, *target.absolute().parents) if not folder.exists()]
    log = logging.getLogger("ltm_eval")
    level = log.level
    if not job.leads:
        log.setLevel(logging.ERROR)  # the leading process logs the same warnings
    try:
        quiet_libraries()
        with stopping():
            job.agree(program())
            with Together() as trying:
                trying(allowed, config.max_failed, 1)
                trying(check_place, str(config.model))
                output = trying(check_output, config)
                found = [trying(check, config) for check in checks]
            assert output is not None
            with holding(output) if job.leads else nullcontext():
                yield config, output, notes, *found
                job.wait()
    finally:
        log.setLevel(level)
        if job.leads:
            drop_empty(made)


def drop_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, as long as nothing but a lock that nobody holds lies in them."""
    with suppress(OSError):
        for folder in folders:
            if {file.name for file in folder.iterdir()} <= {files.NAME}:
                (folder / files.NAME).unlink(missing_ok=True)
            folder.rmdir()


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


def check_output(config: RunConfig) -> Path:
    """Create the output folder and try to write there.

    Raises:
        UsageError: the path exists and is no folder, lies inside a model, or is too long for files below it.
        MachineError: it cannot be written, or the disk is nearly full.
    """
    folder = Path(config.output_path)
    named = f"{spelt('output_path')} {folder}"
    for spec in (str(config.model), *config.baselines):
        inside = Path(spec).is_dir() and Path(spec).resolve() in (folder.resolve(), *folder.resolve().parents)
        if inside and (Path(spec) / "config.json").is_file():
            raise UsageError(f"{named}: lies inside the model {spec}; name a folder elsewhere")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{named}: exists and is not a folder; name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".ltm_eval-{os.getpid()}-{uuid4().hex}.tmp"
        with open(probe, "xb") as file:
            file.write(b"x")
        probe.unlink()
    except OSError as error:
        raise MachineError(
            f"{named}: cannot be written ({cause(error, folder)}); {remedy(error, folder)}, or choose "
            f"another with {spelt('output_path')}"
        ) from error
    try:
        free, longest = shutil.disk_usage(folder).free, os.pathconf(folder, "PC_PATH_MAX")
    except OSError:  # a file system that does not tell
        return folder.resolve()
    length = len(os.fsencode(folder.resolve()))
    if length + NAME_ROOM > longest:
        raise UsageError(
            f"{spelt('output_path')} …{str(folder)[-60:]}: {length} bytes long, which leaves too little of the "
            f"{longest} that a path may have for files below it; name a shorter one"
        )
    if free < NEEDED_BYTES:
        raise MachineError(
            f"{named}: only {free // 2**20} MiB are free, at least {NEEDED_BYTES // 2**20} are needed; free some space"
        )
    if config.report:
        check_target(folder / "report.html", b"<!DOCTYPE html>")
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


@dataclass(frozen=True)
class Demand:
    """What a task asks of one model, as far as it is known before the start."""

    documents: int
    letters: float  # of a document, mean
    prompt: float  # letters of a prompt, mean
    new_tokens: int  # maximum of an answer
    answers: int  # to a document

    @classmethod
    def of(cls, task: Any, config: RunConfig) -> Demand:
        """Look at the first documents of a task."""
        documents = len(config.documents) or min(len(task.eval_docs), config.limit or len(task.eval_docs))
        letters = fmean([len(json.dumps(doc, default=str)) for doc in islice(task.eval_docs, 64)] or [0])
        new_tokens, answers = 0, 1
        if task.OUTPUT_TYPE == "generate_until":
            new_tokens = generation_config(dict(task.config.generation_kwargs or {})).max_new_tokens
            several = getattr(task, "repeats", None), getattr(task, "rethinking", None)
            answers = int(task.config.repeats or 1) + sum(int(one.answers) for one in several if one)
        elif task.OUTPUT_TYPE == "multiple_choice":
            answers = next((len(task.doc_to_choice(doc)) for doc in islice(task.eval_docs, 1)), 1)
        shots = int(task.config.num_fewshot or 0)
        return cls(documents, letters, 1.3 * letters * (1 + shots), new_tokens, answers)


# Of an answer's journal and sidecar lines, a sample, a token of an answer, its NLL; measured on the bundled pair
ANSWER_BYTES, SAMPLE_BYTES, TOKEN_BYTES, NLL_BYTES = 2_100, 1_000, 5, 10
FIXED_BYTES, PAGE_BYTES = 2**20, 20 * 2**20  # results, manifest, the page without samples; at most with its samples


def estimated_bytes(task: Any, config: RunConfig) -> int:
    """Return about how many bytes one model leaves for a task, if every answer is as long as it may become."""
    asked, text = Demand.of(task, config), 0
    if asked.new_tokens:
        text = TOKEN_BYTES * asked.new_tokens
    rows = max(1, len(task.config.filter_list or ())) if task.OUTPUT_TYPE == "generate_until" else 1
    by_token = min(asked.documents, config.token_nll) * 2 * (450 + NLL_BYTES * (text or asked.letters))
    each: float = asked.answers * (ANSWER_BYTES + text)
    each += rows * (SAMPLE_BYTES + 2 * asked.letters + asked.prompt + asked.answers * text)
    return int(by_token + asked.documents * each)


def say_if_short(config: RunConfig, tasks: Sequence[Any], output: Path, *, runs: int = 1) -> None:
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
            f"ltm-eval: --output_path {output}: the run may need {words[0]}, {words[1]} are free; a full disk ends it "
            "with code 4, and the same command goes on from there",
            file=sys.stderr,
        )


LETTERS_PER_TOKEN = 4
GRADIENT = 2  # passes without a gradient that one with the gradient of z costs
LONG = {"cpu": 2e13, "cuda": 2e15}  # operations of which the costs of rows are told beforehand: some minutes


def passes_of(lm: Any, task: Any, config: RunConfig) -> dict[str, float]:
    """Return about how often a token passes through the LTM for a task, by row; without a gradient counts as one."""
    asked, fit = Demand.of(task, config), config.fitting
    step = GRADIENT * fit.draws
    if task.OUTPUT_TYPE != "loglikelihood_rolling":
        read = asked.prompt / LETTERS_PER_TOKEN
        scored = 1 if asked.new_tokens else SCORE_DRAWS + 1
        each = read * step * fit.t_fast + asked.answers * (scored * read + asked.new_tokens)
        return {"": asked.documents * each}
    tokens = max(1.0, asked.letters / LETTERS_PER_TOKEN)
    rows, reach = lm.rows, min(tokens, lm.max_length)
    found: dict[str, float] = {"bound": step * fit.t_fast + rows.draws, "prior": rows.prior, "iwae": rows.iwae}
    if rows.as_released and fit.noise != "fixed":
        found["as_released"] = GRADIENT * fit.t_fast
    if rows.causal:  # every chunk is scored after a fit to what stands before it, as far as the context reaches
        refits = reach * (1 - reach / (2 * tokens)) / rows.causal.chunk
        found["causal"] = refits * (step * rows.causal.t_fast + 1) + 1
    return {name: asked.documents * tokens * passes for name, passes in found.items() if passes}


def costs_of_rows(lm: Any, config: RunConfig, tasks: Sequence[Any]) -> list[str]:
    """Return what share of a long task's work each row of a perplexity is."""
    found = []
    for task in tasks if current().leads else ():
        rows = passes_of(lm, task, config)
        operations = 2 * sum(rows.values()) * lm.get_model_info()["model_num_parameters"]
        if len(rows) > 1 and operations > LONG.get(lm.device.type, LONG["cuda"]):
            shares = (
                f"{name} {100 * one / sum(rows.values()):.0f} %"
                for name, one in sorted(rows.items(), key=lambda row: -row[1])
            )
            found.append(f"{task.task_name}: the rows' shares of the work are about {', '.join(shares)} (--rows)")
    return found


class Forecast:
    """Progress of a command, called as `LTM.progress` is: which of its tasks is at work, and when all may be done.

    A task that has begun is as fast as it was so far; each later one as fast, by passes of tokens, as its model was, or
    else the model before it.
    """

    def __init__(self, lm: Any, cells: Sequence[tuple[RunConfig, list[Any]]], *, baselines: int, world: int) -> None:
        """Estimate the work of the tasks of an LTM in all cells, and of baselines in the first, for each process."""
        self.lm, self.quiet, self._at = lm, cells[0][0].quiet, -1
        self._stages = [
            (0, task.task_name, sum(passes_of(lm, task, config).values()) / world, Demand.of(task, config))
            for config, tasks in cells
            for task in tasks
        ]
        for model in range(1, baselines + 1):
            for task in cells[0][1]:
                asked = Demand.of(task, cells[0][0])
                read = (asked.prompt if asked.new_tokens else asked.letters) / LETTERS_PER_TOKEN
                passes = asked.documents * asked.answers * (read + asked.new_tokens) / world
                self._stages.append((model, task.task_name, passes, asked))
        self._spent: dict[int, tuple[float, float]] = {}  # seconds and passes by model

    def __call__(self, total: int, label: str) -> progress.Progress:
        """Begin the call of a model for the task that the label begins with."""
        task = label.partition(":")[0]
        ahead = [i for i in range(self._at + 1, len(self._stages)) if self._stages[i][1] == task]
        self._at = ahead[0] if ahead else self._at
        model, name, passes, asked = self._stages[self._at]
        each, begun = passes / max(1, asked.documents * asked.answers), time.monotonic()
        seconds, before = self._spent.get(model, (0.0, 0.0))

        def left(done: int) -> float:
            spent = time.monotonic() - begun
            self._spent[model] = seconds + spent, before + done * each
            later = 0.0
            for other, _, passes, _ in self._stages[self._at + 1 :]:
                known = self._spent.get(other, self._spent[model])
                later += passes * known[0] / max(1.0, known[1])
            return spent / max(1, done) * (total - done) + later

        if self.quiet:
            return progress.silent(total, label)
        words = f"{self._at + 1}/{len(self._stages)} {name.removeprefix('ltm_')}"
        return progress.for_terminal()(total, words, left)


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


def baselines_of(config: RunConfig) -> list[Subject]:
    """Return the baselines of a run.

    Raises:
        LtmEvalError: as `baseline_subject`, of all that cannot be used.
    """
    with Together() as trying:
        found = [trying(baseline_subject, spec) for spec in config.baselines]
    return [one for one in found if one is not None]


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
    """Write the page of all runs and probes of the output folder, as `report FOLDER` does."""
    from ltm_eval.report import page as report

    page = output / "report.html"
    try:
        runs, probes = report.gather([output])
    except ResultsError as unreadable:
        print(printable(f"ltm-eval: the page shows this run alone: {unreadable}"), file=sys.stderr)
        runs, probes = report.gather(results)
    if others := len({run.path.resolve() for run in runs} - {path.resolve() for path in results}):
        words = f"{others} earlier run{'s' if others > 1 else ''} of this folder"
        print(printable(f"ltm-eval: the page {page} shows {words} too"), file=sys.stderr)
    report.write(report.render(report.build(runs, probes)), page)
    return page


__all__ = ["Outcome", "run"]
