"""The probe as a job: load a model and texts from files or a task, and write a results file.

Input is checked before model time is spent. The file is placed beside the runs of the same model, so that `report` on
the folder shows both.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.harness.evaluation import folder_name, show_notes
from ltm_eval.harness.loading import data_facts, tasks_of
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import check_output, quiet_libraries, settle
from ltm_eval.inference.options import AUTO
from ltm_eval.probe.files import DEFAULT_TASK, Probe, ProbeJob, find_probes, read_probe, write_probe
from ltm_eval.system import progress
from ltm_eval.system.errors import DataError, MachineError, UsageError
from ltm_eval.system.files import read_regular, unused_date
from ltm_eval.system.machine import provenance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.model.decoder import LatentThoughtModel
    from ltm_eval.model.tokenizer import Tokenizer
    from ltm_eval.probe.files import Explored, ProbeConfig, ProbedText
    from ltm_eval.probe.reconstruct import ProbeText


@dataclass(frozen=True)
class Outcome:
    """Output of a probe."""

    results: Path  # the file
    output: Path  # the output folder, whose page shows it


def probe(job: ProbeJob) -> Outcome:
    """Probe a model and write its file.

    Raises:
        LtmEvalError: an option, the model, the texts or the folder cannot be used.
    """
    from ltm_eval.model.checkpoint import check_place

    begun = time.perf_counter()
    config, notes = settle(_as_run(job))
    if job.texts:
        notes = ["demo model: made to try the program, its figures mean nothing"] if job.is_demo else []
    elif config.limit is not None:
        notes = [note for note in notes if "(limit)" not in note]  # a probe uses few texts
    output = check_output(config)
    check_place(str(config.model))
    quiet_libraries()
    texts, source = _texts(job, config)
    model, tokenizer = _model(job, str(config.model))
    show_notes(notes)
    done = _probed(model, tokenizer, texts, job)
    folder = output / folder_name(str(config.model))
    path = folder / f"probe_{unused_date(folder)}.json"
    result = Probe(
        model_name=str(config.model),
        n_layers=model.config.n_layers,
        model=_model_facts(model, tokenizer, job.dtype),
        settings={**asdict(job.probe), "t_fast": _steps(job.probe), "source": source},
        texts=tuple(probed for probed, _ in done),
        explored=tuple(found for _, found in done if found is not None),
        warnings=tuple(notes),
        demo_model=job.is_demo,
        command=" ".join(job.command),
        provenance=provenance(),
        seconds=time.perf_counter() - begun,
    )
    write_probe(path, result)
    read_probe(path)
    return Outcome(path, output)


def _as_run(job: ProbeJob) -> RunConfig:
    """Return the options of `run` that find tasks and data; without a task, of the bundled sample."""
    return RunConfig(
        model=job.model,
        tasks=(job.task or DEFAULT_TASK,),
        limit=job.limit,
        data=job.data if job.task or job.data != AUTO else "sample",
        output_path=job.output_path,
        num_fewshot=0,
        metadata=job.metadata,
        quiet=job.quiet,
    )


def _texts(job: ProbeJob, config: RunConfig) -> tuple[list[ProbeText], dict[str, Any]]:
    """Return the texts and their origin."""
    from ltm_eval.probe.reconstruct import ProbeText

    if job.texts and job.metadata:
        raise UsageError("metadata applies to --task only; remove it for texts of your own")
    if job.texts:
        return [ProbeText(Path(name).name, "", _read(Path(name))) for name in job.texts], {"files": list(job.texts)}
    (task,) = _one(tasks_of(config), str(job.task or DEFAULT_TASK))
    found = [_document(task, doc, index) for index, doc in zip(range(job.limit), task.eval_docs, strict=False)]
    return found, {"task": task.task_name, "limit": job.limit, "data": config.data, "sets": data_facts(task)}


def _steps(config: ProbeConfig) -> int | str:
    fit = config.fitting
    return AUTO if fit.adaptive else fit.t_fast


def _one(tasks: list[Any], name: str) -> list[Any]:
    if len(tasks) != 1:
        raise DataError(f"task {name} is a group of {len(tasks)} tasks; probe one of them at a time")
    return tasks


def _document(task: Any, doc: Any, index: int) -> ProbeText:
    """Return a document as a text: that of a rolling task, else its zero-shot prompt and the gold answer."""
    from ltm_eval.probe.reconstruct import ProbeText

    name, target = f"{task.task_name} {index}", str(task.doc_to_target(doc))
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return ProbeText(name, "", target)
    return ProbeText(name, str(task.doc_to_text(doc)), f"{task.config.target_delimiter}{target}")


def _read(path: Path) -> str:
    try:
        return read_regular(path, kind=DataError).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"text {path}: not UTF-8 at byte {error.start}; pass a plain text file") from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"text {path}: {error.strerror}; pass a plain text file") from error
    except OSError as error:
        raise MachineError(f"text {path}: cannot be read ({error.strerror or error}); pass a text file") from error


def _model(job: ProbeJob, name: str) -> tuple[LatentThoughtModel, Tokenizer]:
    from ltm_eval.model.checkpoint import load_with_tokenizer
    from ltm_eval.model.compiling import compile_layers
    from ltm_eval.system.device import resolve_device, resolve_dtype

    device = resolve_device(job.device)
    model, tokenizer = load_with_tokenizer(name, tokenizer=job.tokenizer, revision=job.revision, device=str(device))
    model.set_matmul_dtype(resolve_dtype(job.dtype, device))
    return compile_layers(model) if job.compile else model, tokenizer


def _model_facts(model: LatentThoughtModel, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    return {
        "sizes": asdict(model.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "checkpoint": asdict(model.info),
        "tokenizer": {"name": tokenizer.name, "sha256": tokenizer.digest},
        "device": str(model.device),
        "dtype": dtype,
    }


def _probed(
    model: LatentThoughtModel, tokenizer: Tokenizer, texts: Sequence[ProbeText], job: ProbeJob
) -> list[tuple[ProbedText, Explored | None]]:
    from ltm_eval.probe.reconstruct import probe_text

    bar = (progress.silent if job.quiet else progress.for_terminal())(len(texts), "probe")
    done = []
    try:
        for index, text in enumerate(texts):
            done.append(probe_text(model, text, tokenizer, job.probe, index=index))
            bar.advance(1, done[-1][0].tokens)
    finally:
        bar.close()
    return done


def table(path: Path) -> str:
    """Return a probe's curves as text."""
    from ltm_eval.probe.view import text_table

    return text_table(find_probes([path])[0])


__all__ = ["Outcome", "probe", "table"]
