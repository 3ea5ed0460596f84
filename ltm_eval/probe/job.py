"""The probe as a job: load a model and its prompts or texts, answer what is not in the journal, write a results file.

Input is checked before model time is spent. The file is placed beside the runs of the same model, so that `report` on
the folder shows both; the journal is `<output>/<model>/probe/journal`, and the same command resumes from it.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.harness.evaluation import folder_name, show_notes
from ltm_eval.harness.loading import data_facts, tasks_of
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import begun, construct, kept, ltm_subject
from ltm_eval.inference.options import AUTO
from ltm_eval.probe.files import (
    DEFAULT_TASK,
    OF_PROMPTS,
    OF_TEXTS,
    Probe,
    ProbedText,
    ProbeJob,
    explored,
    find_probes,
    group_sets,
    groups_of,
    ranges_of,
    read_probe,
)
from ltm_eval.system import progress
from ltm_eval.system.errors import DataError, MachineError, UsageError
from ltm_eval.system.files import read_regular, unused_date, write_json_atomic
from ltm_eval.system.launch import read_launch
from ltm_eval.system.machine import provenance
from ltm_eval.tasks.arguments import NEW_TOKENS, changed_decoding, generation_changes, generation_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_eval.inference.options import GenerationConfig
    from ltm_eval.probe.files import Explored, ProbeConfig
    from ltm_eval.probe.reconstruct import Encoded, ProbeText

FIT = "fit"  # what is asked of a text beside its continuations, which are asked for by set of layers


@dataclass(frozen=True)
class Outcome:
    """Output of a probe."""

    results: Path | None  # the file; None in a process that does not lead its job
    output: Path  # the output folder, whose page shows it


def probe(job: ProbeJob) -> Outcome:
    """Probe a model and write its file; the same call resumes.

    Raises:
        LtmEvalError: an option, the model, the prompts, the texts or the folder cannot be used.
    """
    from ltm_eval.probe.reconstruct import encode

    started = time.perf_counter()
    with begun(_as_run(job)) as (config, output, warnings):
        notes = [warning for warning in warnings if "(limit)" not in warning]  # a probe uses few texts
        if job.prompts or job.texts:
            notes = ["demo model: made to try the program, its figures mean nothing"] if job.is_demo else []
        decoding = _decoding(job.probe)
        texts, source = _texts(job, config)
        lm: Any = construct(ltm_subject(config), config)
        lm.progress = progress.silent if config.quiet else progress.for_terminal()
        folder = output / folder_name(str(config.model))
        n_layers, fit = lm.model.config.n_layers, job.probe.fitting
        encoded = [encode(text, lm.encoding, job.probe, context=lm.max_length) for text in texts]
        show_notes([*notes, *([_cost(encoded, job.probe, n_layers)] if job.prompts else [])])
        done = _probed(lm, texts, encoded, job.probe, decoding, folder / "probe")
        if not read_launch().leads:
            return Outcome(None, output)
        unused = OF_TEXTS if job.prompts else OF_PROMPTS
        settings = {name: value for name, value in asdict(job.probe).items() if name not in unused}
        result = Probe(
            model_name=str(config.model),
            n_layers=n_layers,
            model={
                "sizes": asdict(lm.model.config),
                "parameters": sum(parameter.numel() for parameter in lm.model.parameters()),
                "checkpoint": asdict(lm.model.info),
                "tokenizer": {"name": lm.encoding.name, "sha256": lm.encoding.digest},
                "device": str(lm.model.device),
                "dtype": job.dtype,
            },
            settings={**settings, "t_fast": AUTO if fit.adaptive else fit.t_fast, "source": source},
            texts=tuple(text for text, _ in done),
            explored=tuple(found for _, found in done if found is not None),
            warnings=tuple(notes),
            demo_model=job.is_demo,
            command=" ".join(job.command),
            provenance=provenance(),
            seconds=time.perf_counter() - started,
            groups=groups_of(n_layers, job.probe.groups),
        )
        path = folder / f"probe_{unused_date(folder)}.json"
        write_json_atomic(path, result)
        read_probe(path)
        return Outcome(path, output)


def _as_run(job: ProbeJob) -> RunConfig:
    """Return the options of `run` that find model, tasks and data; without a task, of the bundled sample."""
    return RunConfig(
        model=job.model,
        tasks=(job.task or DEFAULT_TASK,),
        limit=job.limit,
        data=job.data if job.task or job.data != AUTO else "sample",
        output_path=job.output_path,
        num_fewshot=0,
        metadata=job.metadata,
        preset=job.probe.preset,
        t_fast=job.probe.t_fast,
        fit=job.probe.fit,
        seed=job.probe.seed,
        tokenizer=job.tokenizer,
        revision=job.revision,
        device=job.device,
        dtype=job.dtype,
        compile=job.compile,
        report=job.report,
        quiet=job.quiet,
    )


def _decoding(config: ProbeConfig) -> GenerationConfig:
    """Return how continuations are decoded: greedily, unless `gen_kwargs` says otherwise."""
    changes = generation_changes(config.gen_kwargs)
    for name in changes:
        if name in NEW_TOKENS:
            raise UsageError(f"gen_kwargs: {name} is set by --n_tokens here; remove it")
    return generation_config(changed_decoding({NEW_TOKENS[0]: config.n_tokens}, changes, task="probe"))


def _texts(job: ProbeJob, config: RunConfig) -> tuple[list[ProbeText], dict[str, Any]]:
    """Return the prompts or texts and their origin."""
    from ltm_eval.probe.reconstruct import ProbeText

    if job.prompts:
        prompts = [
            ProbeText(f"prompt {number}", prompt, "", to_continue=True) for number, prompt in enumerate(job.prompts, 1)
        ]
        return prompts, {"prompts": list(job.prompts)}
    if job.texts:
        return [ProbeText(Path(name).name, "", _read(Path(name))) for name in job.texts], {"files": list(job.texts)}
    tasks = tasks_of(config)
    if len(tasks) != 1:
        raise DataError(f"task {job.task} is a group of {len(tasks)} tasks; probe one of them at a time")
    found = [_document(tasks[0], doc, index) for index, doc in zip(range(job.limit), tasks[0].eval_docs, strict=False)]
    origin = {"task": tasks[0].task_name, "limit": job.limit, "data": config.data, "sets": data_facts(tasks[0])}
    return found, origin


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


def _probed(  # noqa: PLR0913 - a model, what it is asked, and where that is kept
    lm: Any,
    texts: Sequence[ProbeText],
    encoded: Sequence[Encoded],
    config: ProbeConfig,
    decoding: GenerationConfig,
    folder: Path,
) -> list[tuple[ProbedText, Explored | None]]:
    """Return every text as probed, and what the explorer shows of it; answers in the journal of `folder` are reused."""
    from ltm_eval.probe.reconstruct import Subject, explored_of, probed

    model, tokenizer = lm.model, lm.encoding
    sets = explored(model.config.n_layers, config.groups)
    in_explorer = [text.to_continue or index < config.explore for index, text in enumerate(texts)]
    fits = [f"{FIT} and sets" if shown else FIT for shown in in_explorer]
    asked = [(index, what) for index, fit in enumerate(fits) for what in (fit, *(sets if in_explorer[index] else ()))]

    def answers(todo: list[int]) -> Iterator[tuple[int, Any]]:
        left: dict[int, dict[str, int]] = defaultdict(dict)  # by text: what is asked, and its index
        for at in todo:
            index, what = asked[at]
            left[index][what] = at
        with closing(lm.progress(len(todo), "probing")) as bar:
            for index, own in left.items():
                subject = Subject(model, encoded[index], tokenizer, config, decoding=decoding)
                if fits[index] in own:
                    yield own.pop(fits[index]), probed(subject, texts[index], explore=in_explorer[index]).to_json()
                    bar.advance(1, len(encoded[index].tokens))
                for key, made in subject.continued(list(own)) if own else ():
                    nats = subject.continuation_nats(key, made.tokens)
                    yield own[key], {"tokens": made.tokens, "nll_nats": nats, "stop_reason": made.stop_reason}
                    bar.advance(1, len(made.tokens))

    # `explore` chooses questions, all else changes answers
    settings = {**lm.settings, "probe": {name: value for name, value in asdict(config).items() if name != "explore"}}
    contents = [json.dumps([text.prompt, text.rest, text.to_continue]) for text in texts]
    questions = [(contents[index], what) for index, what in asked]
    found = dict(zip(asked, kept(folder, settings, "probe", questions, answers), strict=True))
    done: list[tuple[ProbedText, Explored | None]] = []
    for index, text in enumerate(texts):
        own = {**found[index, fits[index]], "name": text.name}
        made = {key: found[index, key] for key in sets if in_explorer[index]}
        shown = explored_of(encoded[index], tokenizer, made, index=index, until=decoding.until) if made else None
        done.append((ProbedText.from_json(own, where=str(folder)), shown))
    return done


def _cost(encoded: Sequence[Encoded], config: ProbeConfig, n_layers: int) -> str:
    """Say what continuing the prompts takes."""
    fit = config.fitting
    steps = "fast steps until a fit stops improving" if fit.adaptive else f"{fit.t_fast} fast steps"
    return (
        f"{len(encoded)} prompt{'s' if len(encoded) > 1 else ''}, {sum(len(one.tokens) for one in encoded):,} tokens: "
        f"{steps}, then {len(explored(n_layers, config.groups))} continuations each of at most {config.n_tokens:,} "
        f"tokens ({len(group_sets(n_layers, config.groups))} combinations of groups and {len(ranges_of(n_layers))} "
        "ranges of layers; equal sets once)"
    )


def table(path: Path) -> str:
    """Return a probe's curves or continuations as text."""
    from ltm_eval.probe.view import text_table

    return text_table(find_probes([path])[0])


__all__ = ["Outcome", "probe", "table"]
