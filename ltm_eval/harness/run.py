"""The main job: a checkpoint and its baselines answer tasks through lm-eval, and a page shows the results.

Everything that can be wrong is looked at before any model time is spent. Results have lm-eval 0.4.13's layout; they
are written by this module, not by lm-eval's tracker, because that one turns a failed save into a log line and exit
code 0.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from numbers import Integral
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ltm_eval.harness.evaluation import (
    Failure,
    Subject,
    allowed,
    evaluate_subject,
    evaluate_task,
    folder_of,
    listed,
    mean_fast_steps,
    merged,
    show_notes,
)
from ltm_eval.harness.loading import data_caveats, tasks_of
from ltm_eval.harness.options import ModelOptions, RunConfig
from ltm_eval.runs.processes import current, join
from ltm_eval.runs.session import check_program
from ltm_eval.system import files, progress
from ltm_eval.system.errors import (
    CheckpointError,
    DataError,
    MachineError,
    ResultsError,
    UsageError,
    nearest,
    printable,
    shown,
    stopping,
)
from ltm_eval.system.files import DEMO_BASELINE, DEMO_MODEL, cause, holding, remedy
from ltm_eval.system.hub import REFUSALS, agree_on, ask, is_cached, is_repository_name
from ltm_eval.system.launch import unlaunched
from ltm_eval.system.machine import program
from ltm_eval.system.options import names_of, option_of
from ltm_eval.tasks.arguments import generation_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lm_eval.api.model import LM

    from ltm_eval.model.decoder import LatentThoughtModel


# The models of a run, a checkpoint and its baselines: what each is built from, and building it.

LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers")
MOST_LAYERS = 10_000


def ltm_arguments(config: RunConfig) -> dict[str, Any]:
    given = {name: getattr(config, name) for name in names_of(ModelOptions)}
    return {**given, "rethink": config.rethink or None, "compile": config.compile or None}


def ltm_subject(config: RunConfig) -> Subject:
    given = {name: value for name, value in ltm_arguments(config).items() if value is not None}
    return Subject(str(config.model), "ltm", {"pretrained": str(config.model), **given})


def baseline_subject(spec: str) -> Subject:
    """A causal language model for lm-eval's `hf`: a folder, a hub id, a .gguf file, or `gpt2-demo`, the bundled one."""
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
        _check_layers(path / "config.json")
    commit = None if path.exists() else _commit_of(spec)
    return Subject(spec, "hf", {"pretrained": spec, **({"revision": commit} if commit else {})})


def _check_layers(path: Path) -> None:
    """Raise CheckpointError where a config asks for more layers than any model has: they would be built for ever."""
    try:
        told = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return  # transformers says what is wrong with it
    for name in LAYERS if isinstance(told, dict) else ():
        if isinstance(told.get(name), (int, float)) and told[name] > MOST_LAYERS:
            raise CheckpointError(f"{path}: {name} must be at most {MOST_LAYERS:,}, got {shown(told[name])}")


def _commit_of(spec: str) -> str | None:
    """The commit of a baseline of the hub; None where only the cache has it.

    Raises:
        CheckpointError: the hub refuses it.
        MachineError: it can be had neither there nor from the cache.
    """
    asked = ask(spec, job=current())
    if asked.silent and not is_cached(spec):
        if asked.silent in REFUSALS:
            raise CheckpointError(f"baseline {spec}: {REFUSALS[asked.silent]} ({asked.silent})")
        raise MachineError(
            f"baseline {spec}: not in the cache, and the hub was not reached ({asked.silent}). Download it where there "
            "is a network and pass the folder"
        )
    return asked.commit


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
    from lm_eval.api.registry import get_model

    from ltm_eval.harness.baseline import is_hosts, keep_answers
    from ltm_eval.system.device import resolve_device

    device = str(resolve_device(config.device))
    host = {"batch_size": config.batch_size if config.batch_size != "auto" or device != "cpu" else 8, "device": device}
    if not os.environ.get("LTM_EVAL_DEBUG"):
        from transformers.utils import logging as host_logging

        host_logging.disable_progress_bar()
    shown = progress.silent if config.quiet else progress.for_terminal()
    try:
        with unlaunched(), loading_told() as told:
            lm = get_model("hf").create_from_arg_obj(subject.arguments, host)
        if told.missing:
            raise CheckpointError(
                f"baseline {subject.name}: {len(told.missing)} weights that its config asks for are not in its files "
                f"({told.missing[0]} …), and transformers filled them with random numbers; complete the files"
            )
        for name, weight in lm.model.named_parameters():
            if weight.is_floating_point() and not bool(weight.isfinite().all()):
                raise CheckpointError(
                    f"baseline {subject.name}: {name} holds NaN or infinite values; load other weights"
                )
        kept = keep_answers(lm, seed=config.seed, progress=shown, token_nll=config.token_nll)
    except BaseException as error:
        if not is_hosts(error):
            raise
        cause = [*str(error).strip().splitlines(), ""][0]
        raise DataError(
            f"baseline {subject.name}: transformers could not load it ({type(error).__name__}: {cause})"
        ) from error
    kept.unused_weights = told.unused
    return kept


@dataclass(frozen=True)
class Loading:
    """What transformers found of a model's weights in its files."""

    missing: list[str]  # Weights of the model that no file holds, by name
    unused: list[str]  # Weights of the files that the model does not have


@contextmanager
def loading_told() -> Iterator[Loading]:
    """Note what transformers says of weights while a model is loaded, which it logs and else keeps to itself."""
    from transformers import modeling_utils

    told, name = Loading([], []), "log_state_dict_report"
    report = getattr(modeling_utils, name, None)  # an inner function: where it is gone, nothing is noted

    def noted(*args: Any, **kwargs: Any) -> Any:
        for one in (*args, *kwargs.values()):
            told.missing.extend(sorted(getattr(one, "missing_keys", ())))
            told.unused.extend(sorted(getattr(one, "unexpected_keys", ())))
        return report(*args, **kwargs) if report is not None else None

    if report is not None:
        setattr(modeling_utils, name, noted)
    try:
        yield told
    finally:
        if report is not None:
            setattr(modeling_utils, name, report)


# How much a run will leave on the disk, told before it begins: answers × bytes of one, in all files.
#
# An estimate from above: an answer is taken to be as long as it may become, five bytes a token. What a line holds
# beside texts was measured on the bundled pair: 1.1 kB of an answer in the journal, 0.85 kB of a sidecar line, 0.6 kB
# of a sample and another 1 kB of a sample of a perplexity set. Of the documents whose tokens' costs are kept
# (`--token_nll`) a letter is taken to be a token.

JOURNAL_BYTES, SIDECAR_BYTES, SAMPLE_BYTES, FIGURES_BYTES = 1_200, 900, 700, 1_000
TOKEN_BYTES = 5
COST_BYTES, COSTS_BYTES = 10, 450  # What a token costs, and what stands beside that; in the sidecar and in the journal
PROMPT_SHARE = 1.3  # A question in a prompt over the same as JSON: words of the template
FIXED_BYTES = 2**20  # Results, manifest and the page without its samples
PAGE_LIMIT = 20 * 2**20  # The page holds no more of the samples than this
LOOKED_AT = 64  # Documents whose size is measured


def estimated_bytes(tasks: Sequence[Any], config: RunConfig) -> int:
    """Bytes that a run of these tasks leaves, all its models together."""
    per_model = sum(_task_bytes(task, config) for task in tasks)
    models = 1 + len(config.baselines)
    return int(models * (per_model + FIXED_BYTES) + min(PAGE_LIMIT, models * per_model))


def _task_bytes(task: Any, config: RunConfig) -> int:
    whole = len(task.eval_docs)
    documents: int = len(config.documents) or min(whole, config.limit or whole)
    size = fmean([len(json.dumps(doc, default=str)) for doc in islice(task.eval_docs, LOOKED_AT)] or [0])
    shots = int(task.config.num_fewshot or 0)
    answers, text, rows = _answers(task), 0, 1
    if task.OUTPUT_TYPE == "generate_until":
        text = TOKEN_BYTES * generation_config(dict(task.config.generation_kwargs or {})).max_new_tokens
        rows = max(1, len(task.config.filter_list or ()))
    prompt = PROMPT_SHARE * size * (1 + shots)
    figures = FIGURES_BYTES if task.OUTPUT_TYPE == "loglikelihood_rolling" else 0
    sample = rows * (SAMPLE_BYTES + figures + 2 * size + prompt + answers * text)
    costly = min(documents, config.token_nll) * 2 * (COSTS_BYTES + COST_BYTES * (text or size))
    return int(costly + documents * (answers * (JOURNAL_BYTES + SIDECAR_BYTES + text) + sample))


def _answers(task: Any) -> int:
    """Answers that a document gets."""
    if task.OUTPUT_TYPE == "multiple_choice":
        first = next(iter(task.eval_docs), None)
        return 1 if first is None else int(len(task.doc_to_choice(first)))
    if task.OUTPUT_TYPE != "generate_until":
        return 1
    asked = [one.answers for one in (getattr(task, "repeats", None), getattr(task, "rethinking", None)) if one]
    return int(task.config.repeats or 1) + sum(map(int, asked))


def say_if_short(tasks: Sequence[Any], config: RunConfig, output: Path, *, runs: int = 1) -> None:
    """One line on standard error where the disk may not hold what the run will leave.

    Args:
        tasks: of the run.
        config: its options.
        output: its folder; what an earlier start left there counts as done.
        runs: how many such runs go there.
    """
    needed = runs * estimated_bytes(tasks, config) - _held(output)
    free = shutil.disk_usage(output).free
    if free < needed:
        print(
            f"ltm-eval: output_path {output}: the run may need {_words(needed)}, {_words(free)} are free; a full disk "
            "ends it with code 4, and the same command goes on from there",
            file=sys.stderr,
        )


def _held(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def _words(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{max(0, number) / 1e6:.0f} MB"


# What is settled and looked at before a run spends any model time.

NEEDED_BYTES = 50 * 2**20
# Bytes of a path that folders of models and conditions and the names of files below the output folder may take
NAME_ROOM = 350


NOT_GSM8K = "demo model, sample data: not GSM8K"


NOT_PUBLISHED = "demo model, sample data: not the published sets"


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
        UsageError: the path is taken by something else, or so long that files below it would have no name.
        MachineError: it cannot be written, or the disk is nearly full.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_path {folder}: exists and is not a folder; name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        free, longest = shutil.disk_usage(folder).free, os.pathconf(folder, "PC_PATH_MAX")
    except OSError as error:
        raise MachineError(
            f"output_path {folder}: cannot be written ({cause(error, folder)}); {remedy(error, folder)}, or choose "
            "another with --output_path"
        ) from error
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


@dataclass(frozen=True)
class Outcome:
    """Where a run left its results."""

    results: tuple[Path, ...]  # One `results_*.json` per model; none in a process that does not lead its job
    report: Path | None  # The HTML page
    # Which task has more failed documents than `max_failed` allows: the run is incomplete. Else empty.
    failed: str = ""


def run(config: RunConfig) -> Outcome:
    """Evaluate the model and its baselines, write results and the page.

    Raises:
        LtmEvalError: something cannot be used; nothing that was finished is lost.
    """
    with begun(config) as (config, output, notes):  # noqa: PLR1704 - from here on, the settled one
        tasks = tasks_of(config)
        if current().leads:
            say_if_short(tasks, config, output)
        subjects = [ltm_subject(config), *map(baseline_subject, config.baselines)]
        check_program([folder_of(subject, output) for subject in subjects], fresh=config.fresh)
        lm = construct(subjects[0], config)
        show_notes(notes)
        written = [evaluate_subject(subjects[0], lm, tasks, config, output, notes)]
        del lm  # before a baseline takes its memory
        return outcome([*written, *run_baselines(subjects[1:], tasks, config, output, notes)], config, output)


@contextmanager
def unheard() -> Iterator[None]:
    """Keep a process that does not lead its job from logging what the leading one logs too; errors are heard."""
    log = logging.getLogger("ltm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def begun(config: RunConfig) -> Iterator[tuple[RunConfig, Path, list[str]]]:
    """Settle the options and hold the output folder, for all processes of a job, which wait for one another at the end.

    Yields:
        The options as settled, the output folder, and the sentences that every output must carry.

    Raises:
        UsageError: an option cannot be used.
        RefusedError: another command works there, or the processes differ in program or options.
    """
    from ltm_eval.model.checkpoint import check_place

    job = join()
    config, notes = settle(config if job.leads else replace(config, quiet=True))
    allowed(config.max_failed, 1)
    refuse_inside(Path(config.output_path), (str(config.model), *config.baselines))
    output = check_output(Path(config.output_path))
    with stopping(), holding(output) if job.leads else unheard():
        job.agree(program())
        check_place(str(config.model))
        quiet_hosts()
        yield config, output, notes
        job.wait()


def run_baselines(
    subjects: Sequence[Subject], tasks: list[Any], config: RunConfig, output: Path, notes: list[str]
) -> list[Path]:
    """Evaluate the baselines and return their results files."""
    return [evaluate_subject(subject, construct(subject, config), tasks, config, output, notes) for subject in subjects]


def outcome(written: list[Path], config: RunConfig, output: Path, *, counted: Sequence[Path] = ()) -> Outcome:
    """Write the page and return what the run leaves; nothing for a process that does not lead.

    Args:
        counted: further results files whose failed documents count.
    """
    if not current().leads:
        return Outcome((), None)
    page = write_page(written, output) if config.report else None
    return Outcome(tuple(written), page, beyond_allowed([*written, *counted], config))


# Options of `run` that tell what it writes and does beside answering; `evaluate` has no use for them
NOT_FOR_PYTHON = ("baselines", "output_path", "report", "command", "fresh", "max_failed", "token_nll")


def evaluate(
    model: LatentThoughtModel | str | Path,
    *,
    tasks: Sequence[str] | str,
    shots: int | None = None,
    tokenizer: str | Path | None = None,
    step: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate a model from Python; nothing is written.

    A live model is left as it is: what computes is a frozen copy, whose memory `model.live.as_read` tells (none
    where float32 is computed in, as on a CPU; 2 bytes a parameter of the matrices for bfloat16, the default on a GPU).
    The process is left as it was too, its random states included, and modes that the caller is in (`torch.no_grad`,
    `torch.inference_mode`, `torch.autocast`) change no figure. A model in half, bfloat16 or double is read as float32.

    Args:
        model: what `ltm_eval.load` returns (also in the middle of training), or a checkpoint's path or hub id.
        tasks: task names, one or several; the prefix `ltm_` may be left out.
        shots: demonstrations per prompt; None takes each task's own number.
        tokenizer: `gpt2` or a file of mergeable ranks; None takes the model's own (`model.tokenizer`), which one that
            came from no checkpoint lacks.
        step: training step of a live model, to be told in the results; None tells that of its checkpoint as long as
            the weights are the ones loaded.
        options: further fields of `RunConfig`, for example `limit=20, condition="demos", t_fast=16`.

    Returns:
        lm-eval's results: `results[task]["exact_match,strict-match"]` and so on, `samples[task]`, `config` with the
        digest of the weights; beside them `mean_fast_steps[task]`, `caveats[task]`, sentences on data that are not the
        published ones, and `floors[task]`, the reference rows of a perplexity set.

    Raises:
        UsageError: an argument is not known, of another kind, or out of range.
        LtmEvalError: checkpoint, tokenizer or data cannot be used, or a document could not be answered.
    """
    from ltm_eval.model.compiling import compiler_kept
    from ltm_eval.model.live import undisturbed

    with undisturbed(), compiler_kept():
        name, live = _model(model)
        named = [one.strip() for one in tasks.split(",") if one.strip()] if isinstance(tasks, str) else tasks
        if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
            raise UsageError(f"step must be a whole number from 0, or None, got {shown(step)}")
        given = checked_options({"tasks": named, "shots": shots, "tokenizer": tokenizer, **options})
        return _evaluated(live, settle(RunConfig(model=name, **given))[0], step)


def _model(model: Any) -> tuple[str, LatentThoughtModel | None]:
    """The name of what is evaluated, and the live model, if it is one.

    Raises:
        LtmEvalError: it is neither a model nor the name of a checkpoint.
    """
    from torch import nn

    from ltm_eval.model.checkpoint import check_place
    from ltm_eval.model.live import live_model

    if isinstance(model, (str, os.PathLike)):
        check_place(model)
        return str(model), None
    if isinstance(model, nn.Module):
        live = live_model(model)
        return str(getattr(live.info, "source", "live")), live
    raise UsageError(
        "model must be what ltm_eval.load returns, or a checkpoint: demo, a folder, a released ckpt_*.pt or a hub id; "
        f"got {shown(model)}"
    )


def checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `evaluate` as fields of `RunConfig`, which checks them.

    Raises:
        UsageError: one is not known, or does nothing here.
    """
    names = {option_of(RunConfig, name).name or name: name for name in names_of(RunConfig)}
    for name in given:
        if name in NOT_FOR_PYTHON:
            raise UsageError(
                f"evaluate has no use for {name!r}: it asks one model and writes nothing; `ltm-eval run` has"
            )
        if name not in names:
            hint = " Did you mean 'shots'?" if name == "num_fewshot" else nearest(name, {*names, "step"})
            raise UsageError(f"evaluate has no argument {name!r}.{hint}")
    return {names[name]: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    """Return a value as the command line gives it: paths, dtypes and devices as text, NumPy's integers as Python's."""
    import torch

    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (os.PathLike, torch.device, torch.dtype)):
        return str(value).removeprefix("torch.")
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _evaluated(live: LatentThoughtModel | None, config: RunConfig, step: int | None) -> dict[str, Any]:
    """`evaluate` of checked options."""
    from ltm_eval.harness.ltm import LTM

    if live is not None and config.revision is not None:
        raise UsageError("revision names a commit of a hub checkpoint, and a loaded model was given; leave it out")
    loaded = tasks_of(config)
    lm = LTM(config.model if live is None else live, **ltm_arguments(config))
    lm.progress = progress.silent
    parts = []
    for task in loaded:
        parts.append(evaluate_task(lm, task, config))
        del parts[-1]["failures"]
        parts[-1]["caveats"] = {task.task_name: data_caveats(task)}
        parts[-1]["mean_fast_steps"] = mean_fast_steps({task.task_name: [record.t_fast for record in lm.records]})
        lm.records.clear()
    info = lm.get_model_info()
    if step is not None:
        info["checkpoint"]["step"] = step
    return {**merged(parts), "config": {"model": "ltm", **info}}


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


__all__ = ["Outcome", "evaluate", "run"]
