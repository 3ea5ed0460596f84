"""Evaluation from Python: `evaluate`, an `Evaluator` for training loops, their `Results`, and texts without a task.

A live model is left as it is: what computes is a frozen copy, whose memory `model.live.as_read` tells (none where
float32 is computed in, as on a CPU; 2 bytes a parameter of the matrices for bfloat16, the default on a GPU). The
process is left as it was too, its random states included, and modes that the caller is in (`torch.no_grad`,
`torch.inference_mode`, `torch.autocast`) change no figure. A model in half, bfloat16 or double is read as float32.
"""

from __future__ import annotations

import html
import math
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from itertools import chain
from numbers import Integral
from pathlib import Path
from shutil import rmtree
from statistics import fmean
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any
from weakref import finalize

import lm_eval.api.task
import torch
from lm_eval.api.instance import Instance
from torch import nn

from ltm_eval.harness.evaluation import (
    BY_TASK,
    RECORDED,
    Subject,
    about,
    audit_of,
    evaluate_task,
    figures_of_task,
    folder_name,
    forget,
    listed,
    merged,
    sample_row,
    stop_reasons,
    task_caveats,
    task_hash,
)
from ltm_eval.harness.loading import data_caveats, tasks_of
from ltm_eval.harness.ltm import LTM
from ltm_eval.harness.options import ModelOptions, RunConfig, SweepConfig
from ltm_eval.harness.run import (
    baseline_subject,
    check_combinations,
    construct,
    ltm_arguments,
    ltm_subject,
    settle,
)
from ltm_eval.harness.sweep import combinations
from ltm_eval.inference.draws import RollingScore
from ltm_eval.inference.options import AUTO, FitConfig
from ltm_eval.model.checkpoint import check_place
from ltm_eval.model.compiling import compile_layers, compiler_kept
from ltm_eval.model.live import live_model, undisturbed
from ltm_eval.report import page
from ltm_eval.report.comparison import document as comparison_of
from ltm_eval.report.tables import as_markdown, summary_table
from ltm_eval.results.compare import compare_paths
from ltm_eval.results.figures import figures, samples
from ltm_eval.results.files import SIDECARS, find_runs
from ltm_eval.system import progress
from ltm_eval.system.errors import IncompleteError, UsageError, nearest, shown
from ltm_eval.system.files import write_json_atomic, write_jsonl_atomic
from ltm_eval.system.options import names_of, option_of
from ltm_eval.tasks.arguments import generation_changes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pandas import DataFrame

    from ltm_eval.model.decoder import LatentThoughtModel
    from ltm_eval.report.page import ReportData
    from ltm_eval.report.tables import Document

    Model = LatentThoughtModel | str | Path

# Options of `run` that tell what it writes and does beside answering, which Python does not take
NOT_FOR_PYTHON = ("output_path", "report", "command", "fresh", "max_failed", "token_nll")
SWEPT = ("condition", "num_fewshot", "t_fast")  # may be lists
OURS = ("mean_fast_steps", "caveats", "floors")  # keys of `Results` that lm-eval does not know


@dataclass(frozen=True)
class Evaluated:
    """One model's answers under one combination of settings."""

    found: dict[str, Any]  # lm-eval's results, with our keys
    content: dict[str, Any]  # of a results file
    records: dict[str, list[list[Any]]]  # by task: lines of the sidecars, in the order of `SIDECARS`

    def write(self, folder: Path) -> Path:
        """Write results, samples and sidecars as `ltm-eval run` does, and return the results file."""
        date = datetime.fromtimestamp(self.content["date"]).isoformat().replace(":", "-")
        place = folder / folder_name(self.content["model_name"])
        place.mkdir(parents=True)
        for name, rows in self.found["samples"].items():
            by_kind = dict(zip(SIDECARS, self.records[name], strict=True))
            stops = stop_reasons([*by_kind["latents"], *by_kind["answers"]])
            by_kind["samples"] = [sample_row(row, stops.get(row["doc_id"], [])) for row in rows]
            for kind, lines in by_kind.items():
                if lines:
                    write_jsonl_atomic(place / f"{kind}_{name}_{date}.jsonl", lines)
        content = self.content
        if content["config"]["model"] == "ltm":
            with undisturbed():
                audit = audit_of(FitConfig(**content["config"]["fit"]))
            content = {**content, "ltm_eval": {**content["ltm_eval"], "audit": audit}}
        path = place / f"results_{date}.json"
        write_json_atomic(path, content)
        return path


class Results(dict[str, Any]):
    """lm-eval's results of a model as a mapping, and its figures as frames, a table and a page.

    As a mapping: `results[task]["exact_match,strict-match"]` and so on, `samples[task]`, `configs`, `versions`,
    `n-shot`, `config` with the digest of the weights; beside them `mean_fast_steps[task]`, `caveats[task]`, warnings of
    data that are not the published ones, and `floors[task]`, the reference rows of a perplexity set. Of a sweep the
    mapping is that of the first combination; `runs` holds all, and the baselines after them.

    The other methods read the results as `ltm-eval report` does, from a temporary folder that is made on first use and
    removed with the object.
    """

    def __init__(self, runs: Sequence[Evaluated]) -> None:
        super().__init__(runs[0].found)
        self._runs = tuple(runs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy without the temporary folder."""
        return Results, (self._runs,)

    @property
    def runs(self) -> tuple[dict[str, Any], ...]:
        """lm-eval's results of every combination in the order that they ran, then of every baseline."""
        return tuple(run.found for run in self._runs)

    @cached_property
    def _paths(self) -> list[Path]:
        """The results files, in a folder that goes with the object."""
        folder = mkdtemp(prefix="ltm_eval-")
        finalize(self, rmtree, folder, ignore_errors=True)
        return [run.write(Path(folder) / str(index)) for index, run in enumerate(self._runs)]

    @cached_property
    def _page(self) -> ReportData:
        return page.build(find_runs(self._paths))

    def frame(self) -> DataFrame:
        """Return every figure as a row of a pandas frame, in the order of the report.

        Columns: `task`, `metric`, `filter`, `model` (with the settings in which several columns of it differ);
        `value`, `low` and `high`, the ends of its 95 % interval over documents (NaN without one; shares from 0 to 1);
        `n`, documents; `unit`: share, perplexity per token, bits per byte, nats per token, or empty; `relation`: ≤ of
        an upper bound; `condition`, `shots` and `t_fast` as far as the figure depends on them; `settings`: everything
        it depends on, as in its signature; `status`: evaluated, or a reference that no model was run for.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for one in figures(*self._paths):
            _, _, settings = one.signature.partition("|")
            told = dict(part.partition(":")[::2] for part in settings.split("|"))
            metric, comma, unit = one.metric.rpartition(", ")
            if not comma:
                metric, unit = one.metric, "share" if one.share else ""
            row = {"task": one.task, "metric": metric, "filter": one.filter, "model": one.model, "value": one.value}
            row |= {"low": one.low, "high": one.high, "n": one.n, "unit": unit, "relation": "≤" if one.bound else ""}
            row |= {"condition": told.get("condition"), "shots": one.n_shot, "t_fast": told.get("t_fast")}
            rows.append(row | {"settings": settings, "status": one.status})
        counts = ("n", "shots", *(() if any(row["t_fast"] == AUTO for row in rows) else ("t_fast",)))
        frame: DataFrame = pd.DataFrame(rows)
        for name in counts:
            frame[name] = pd.to_numeric(frame[name]).astype("Int64")
        return frame

    def samples(self) -> DataFrame:
        """Return every document under every filter and model as a row of a pandas frame; see `ltm_eval.samples`."""
        return samples(*self._paths)

    def to_dict(self) -> dict[str, Any]:
        """Return lm-eval's own results, a plain dict with the keys of `lm_eval.simple_evaluate`."""
        return {name: value for name, value in self.items() if name not in OURS}

    def report(self, path: str | Path = "report.html") -> Path:
        """Write the page of `ltm-eval report`, one self-contained HTML file, and return its path.

        Raises:
            MachineError: the file cannot be written.
        """
        page.write(page.render(self._page), path)
        return Path(path)

    def compare(
        self, other: Results | str | Path, *, tasks: Sequence[str] = (), allow_mismatch: bool = False
    ) -> DataFrame:
        """Return the differences from another result, paired by document: a row of a pandas frame for each figure.

        `difference` is this one minus the other, with `difference_low` and `difference_high`, the ends of its 95 %
        interval, and `p`, after Holm's correction `p_holm`; `conclusion` says in a sentence what follows. Of a sweep
        the first combination is compared.

        Args:
            other: `Results`, or a results file or folder of any program.
            tasks: tasks to compare; without any, all.
            allow_mismatch: compare them even if tasks, prompts or settings differ.

        Raises:
            RefusedError: they are not like for like, or share no task.
            ResultsError: there is nothing to compare, or a file is malformed.
        """
        import pandas as pd

        places = [one._paths[0] if isinstance(one, Results) else one for one in (self, other)]
        found = compare_paths(places, allow_mismatch=allow_mismatch, tasks=tasks)
        frame: DataFrame = pd.DataFrame(comparison_of(found).records)
        return frame

    @property
    def _summary(self) -> Document:
        """The summary of the page with its warnings."""
        found = page.document(self._page)
        return replace(found, parts=found.parts[:1])

    def _repr_markdown_(self) -> str:
        return as_markdown(self._summary)

    def _repr_html_(self) -> str:
        import pandas as pd

        found, table = self._summary, summary_table(self._page.summary)
        frame = pd.DataFrame([[cell.plain for cell in row] for row in table.rows])
        frame.columns = [column.name for column in table.columns]
        said = [f"<p><b>{html.escape(banner.text)}</b></p>" for banner in found.banners if banner.kind == "alarm"]
        caption = f"<p>{html.escape(table.caption)}</p>"
        return "\n".join([*said, frame.to_html(index=False, border=0), caption])


class Evaluator:
    """Evaluate one model again and again, as a training loop does.

    Tasks are loaded once, and baselines answer once, in the first call. The model is left as it was found.

        evaluator = ltm_eval.Evaluator(model, tasks=["ptb"], limit=20, t_fast=16)
        for step, batch in enumerate(batches):
            ...
            if step % 1000 == 0:
                bound = evaluator(step=step)["results"]["ltm_ptb"]["ppl_per_token_bound,none"]
    """

    def __init__(
        self,
        model: Model,
        *,
        tasks: Sequence[str] | str,
        shots: int | None | Sequence[int | None] = None,
        tokenizer: str | Path | None = None,
        baseline: str | Path | Sequence[str | Path] = (),
        **options: Any,
    ) -> None:
        """Check the options and load the tasks and, if it is a checkpoint, the model.

        Args:
            model: what `ltm_eval.load` returns (also in the middle of training: a call takes the weights that it has
                then), or a checkpoint's path or hub id.
            tasks: task names, one or several; the prefix `ltm_` may be left out.
            shots: few-shot examples per prompt; None takes each task's own number. A list is a sweep.
            tokenizer: `gpt2` or a file of mergeable ranks; None takes the model's own (`model.tokenizer`), which one
                that came from no checkpoint lacks.
            baseline: causal language models that answer the same tasks: folders, hub ids or `gpt2-demo`.
            options: further fields of `RunConfig`, for example `limit=20, condition="demos", t_fast=16`. Lists of
                `condition` and `t_fast` are a sweep too.

        Raises:
            UsageError: an argument is not known, of another kind, or out of range.
            LtmEvalError: checkpoint, tokenizer or data cannot be used.
        """
        with undisturbed(), compiler_kept():
            live = None
            if isinstance(model, (str, os.PathLike)):
                check_place(model)
                name = str(model)
            elif isinstance(model, nn.Module):
                live = live_model(model)
                name = str(getattr(live.info, "source", "live"))
            else:
                raise UsageError(
                    "model must be what ltm_eval.load returns, or a checkpoint: demo, a folder, a released ckpt_*.pt "
                    f"or a hub id; got {shown(model)}"
                )
            named = [one.strip() for one in tasks.split(",") if one.strip()] if isinstance(tasks, str) else tasks
            if isinstance(named, (list, tuple)) and not named:
                raise UsageError("no task named; give tasks, for example tasks=['gsm8k']")
            given = checked_options({"tasks": named, "shots": shots, "tokenizer": tokenizer, **options})
            given["baselines"] = _plain([baseline] if isinstance(baseline, (str, os.PathLike)) else list(baseline))
            self._cells, self._notes = _cells(name, given)
            first = self._cells[0]
            if live is not None and first.revision is not None:
                raise UsageError(
                    "revision names a commit of a hub checkpoint, and a loaded model was given; leave it out"
                )
            prompts = [replace(cell, t_fast=None) for cell in self._cells]
            loaded = {one: tasks_of(one) for one in dict.fromkeys(prompts)}
            if len(loaded) > 1:
                check_combinations(chain(*loaded.values()))
            self._tasks = [loaded[one] for one in prompts]
            self._baselines: list[Evaluated] | None = None
            self._warnings: dict[RunConfig, list[str]] = {}  # of its prompts and data, which every call shares
            self._subjects = [baseline_subject(spec) for spec in first.baselines]
            self._lm: Any = LTM(first.model if live is None else live, **ltm_arguments(first))
            self._lm.progress = progress.silent if first.quiet else progress.for_notebook()

    def __call__(self, *, step: int | None = None) -> Results:
        """Return the results of the model with the weights that it has now.

        Args:
            step: training step, for the results; None takes that of the checkpoint as long as the weights are the ones
                loaded.

        Raises:
            UsageError: `step` is no step.
            LtmEvalError: a document could not be answered.
        """
        if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
            raise UsageError(f"step must be a whole number from 0, or None, got {shown(step)}")
        found = []
        with undisturbed(), compiler_kept(), _without_bars():
            if self._lm.compiled and self._lm.live is None:
                compile_layers(self._lm.model)  # compiled already: raises the compiler's limit for this call
            for cell, tasks in zip(self._cells, self._tasks, strict=True):
                self._lm.condition, self._lm.fit_config = cell.condition, cell.fitting
                known = self._warnings.get(cell)
                found.append(_evaluated(ltm_subject(cell), self._lm, tasks, cell, self._notes, known, step=step))
                self._warnings[cell] = found[-1].content["ltm_eval"]["warnings"]
            if self._lm.live is not None:
                self._lm.model = self._lm.live  # drop the copy, whose matrices may be in another dtype
            if self._baselines is None:
                first, tasks = self._cells[0], self._tasks[0]
                self._baselines = [
                    _evaluated(one, construct(one, replace(first, quiet=True)), tasks, first, self._notes)
                    for one in self._subjects
                ]
        return Results([*found, *self._baselines])


def evaluate(
    model: Model,
    *,
    tasks: Sequence[str] | str,
    shots: int | None | Sequence[int | None] = None,
    tokenizer: str | Path | None = None,
    step: int | None = None,
    baseline: str | Path | Sequence[str | Path] = (),
    **options: Any,
) -> Results:
    """Evaluate a model, and baselines beside it; no file is left. See `Evaluator` for arguments and errors.

    Lists of `shots`, `condition` and `t_fast` are all run: `evaluate(model, tasks="gsm8k", shots=[0, 8])`.

    Args:
        step: training step of a live model, for the results; None takes that of its checkpoint as long as the weights
            are the ones loaded.

    Returns:
        lm-eval's results of the model (or of the first combination) as a mapping; `frame()` holds the figures of all.
    """
    evaluator = Evaluator(model, tasks=tasks, shots=shots, tokenizer=tokenizer, baseline=baseline, **options)
    return evaluator(step=step)


def _cells(model: str, given: Mapping[str, Any]) -> tuple[list[RunConfig], list[str]]:
    """Return the settled options of every combination, and the warnings of all."""
    lists = {name: given[name] for name in SWEPT if isinstance(given.get(name), list)}
    for name, values in lists.items():
        if not values:
            raise UsageError(f"{option_of(RunConfig, name).name or name} is an empty list; name at least one value")
    singles = {name: values[0] for name, values in lists.items()}
    base, notes = settle(RunConfig(model=model, **{**given, **singles}))
    conditions, shots, steps = (tuple(lists.get(name, [getattr(base, name)])) for name in SWEPT)
    bases = [base]
    if len(conditions) * len(shots) > 1:
        pairs = combinations(SweepConfig(base, conditions, shots))
        bases = [replace(base, condition=one.condition, num_fewshot=one.shots) for one in pairs]
    return [replace(one, t_fast=t_fast) for one in bases for t_fast in dict.fromkeys(steps)], notes


def _evaluated(  # noqa: PLR0913 - a model, what it answers, and what is said of it
    subject: Subject,
    lm: Any,
    tasks: Sequence[Any],
    config: RunConfig,
    notes: Sequence[str],
    known: list[str] | None = None,
    *,
    step: int | None = None,
) -> Evaluated:
    """Evaluate one model on all tasks.

    Args:
        notes: warnings of the run, to which those of the tasks are added.
        known: all warnings, if an earlier call has made them.

    Raises:
        IncompleteError: a document could not be answered.
    """
    parts, records, warnings = [], {}, list(notes)
    blocks: dict[str, dict[str, Any]] = {name: {} for name in BY_TASK}
    for task in tasks:
        name = task.task_name
        part = evaluate_task(lm, task, config)
        rows, failures = part["samples"][name], part.pop("failures")
        if failures:
            raise IncompleteError(f"{subject.name}, {name}: {len(failures)} documents failed ({listed(failures)})")
        latents, *_ = records[name] = [list(getattr(lm, kind, [])) for kind in RECORDED]
        steps = [record.t_fast for record in latents]
        part["mean_fast_steps"] = {name: fmean(steps)} if steps else {}
        part["caveats"] = {name: data_caveats(task)}
        part["task_hashes"] = {name: task_hash(rows)}
        warnings += data_caveats(task) + task_caveats(task, rows, latents, lm) if known is None else []
        blocks["floors"] |= part.get("floors", {})
        for block, value in figures_of_task(task, rows, lm).items():
            blocks[block][name] = value
        forget(lm)
        parts.append(part)
    found = merged(parts)
    told = about(subject, lm, list(tasks), config, warnings if known is None else known, blocks)
    told["ltm_eval"]["floors"] = blocks["floors"]
    if step is not None:
        told["config"]["checkpoint"]["step"] = step
    found["config"] = told["config"]
    content = {name: value for name, value in found.items() if name not in (*OURS, "samples")}
    return Evaluated(found, {**content, **told}, records)


def checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `evaluate` as fields of `RunConfig`, which checks them.

    Raises:
        UsageError: one is not known, or does nothing here.
    """
    names = {option_of(RunConfig, name).name or name: name for name in names_of(RunConfig) if name != "baselines"}
    for name in given:
        if name in NOT_FOR_PYTHON:
            raise UsageError(f"evaluate has no use for {name!r}: it writes nothing; `ltm-eval run` has")
        if name not in names:
            hint = " Did you mean 'shots'?" if name == "num_fewshot" else nearest(name, {*names, "step", "baseline"})
            raise UsageError(f"evaluate has no argument {name!r}.{hint}")
    return {names[name]: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    """Return a value as the command line gives it: paths, dtypes and devices as text, NumPy's integers as Python's."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (os.PathLike, torch.device, torch.dtype)):
        return str(value).removeprefix("torch.")
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep lm-eval from drawing a bar for building prompts, which takes no time."""
    bar = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar


# Texts without a task -------------------------------------------------------------------------------------------------


def score(
    model: Model, texts: Sequence[str], *, rows: str = "bound", tokenizer: str | Path | None = None, **options: Any
) -> DataFrame:
    """Return what each text costs: a row of a pandas frame for each, in their order.

    Columns: `tokens` (scored, of the model), `bytes` (UTF-8); in nats, summed over the text, `bound_nats`, an upper
    bound of −log p(text), with its Monte-Carlo standard error `bound_stderr_nats` and its parts `nll_given_z_nats` and
    `kl_nats`, then the further `rows`; `bits_per_byte_bound` and `ppl_per_token_bound`. NaN for a text without tokens.

    Args:
        model: as for `evaluate`.
        texts: any number; a text longer than the context is scored in windows, each with a z of its own.
        rows: `bound`, `all`, or names joined by `+`, such as `bound+causal+prior`; `as_released` is no bound.
        tokenizer: as for `evaluate`.
        options: further options of the model, for example `t_fast=64, preset="bound", seed=0, device="cpu"`.

    Raises:
        UsageError: an argument is not known, of another kind, or out of range.
        IncompleteError: a text has no finite figure.
    """
    import pandas as pd

    with undisturbed(), compiler_kept():
        lm = _lm(model, texts, {"rows": rows, "tokenizer": tokenizer, **options})
        asked = [Instance("loglikelihood_rolling", {}, (text,), 0, ("score", i, 1)) for i, text in enumerate(texts)]
        scores: Any = lm.loglikelihood_rolling(asked)
    found = []
    for text, one in zip(texts, scores, strict=True):
        size, parts = len(text.encode("utf-8", "replace")), dict(one.rows) if isinstance(one, RollingScore) else {}
        tokens, nats = (one.tokens, parts["bound"]) if parts else (0, math.nan)
        row = {"tokens": tokens, "bytes": size} | {f"{name}_nats": value for name, value in parts.items()}
        row["bits_per_byte_bound"] = nats / size / math.log(2) if parts else math.nan
        row["ppl_per_token_bound"] = math.exp(min(nats / tokens, 700.0)) if parts else math.nan
        found.append(row)
    frame: DataFrame = pd.DataFrame(found)
    return frame


def generate(
    model: Model,
    prompts: Sequence[str],
    *,
    n: int = 1,
    gen_kwargs: str | Mapping[str, Any] | None = None,
    condition: str = "prompt",
    tokenizer: str | Path | None = None,
    **options: Any,
) -> list[list[str]]:
    """Return `n` continuations of each prompt: a list for each, in their order.

    z is fitted to the prompt once. One continuation is greedy under z = mu, unless `gen_kwargs` says `do_sample`; of
    several each has a draw of z and of its tokens of its own, at temperature 1 unless `gen_kwargs` says otherwise.

    Args:
        model: as for `evaluate`.
        prompts: a prompt that does not fit the context is cut by whole few-shot examples, from the left.
        n: continuations of each prompt.
        gen_kwargs: lm-eval's decoding options, as `{"max_gen_toks": 64, "until": ["\\n"], "temperature": 0.8}` or
            `"max_gen_toks=64,temperature=0.8"`; without `max_gen_toks` 256 new tokens.
        condition: what z is fitted on and what the decoder reads.
        tokenizer: as for `evaluate`.
        options: further options of the model, for example `t_fast=16, seed=0`.

    Raises:
        UsageError: an argument is not known, of another kind, or out of range.
        IncompleteError: a continuation could not be made.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UsageError(f"n must be a whole number of at least 1, got {shown(n)}")
    asked = generation_changes(gen_kwargs) if isinstance(gen_kwargs, str) else dict(gen_kwargs or {})
    decoding = {"do_sample": True, "temperature": 1.0, **asked} if n > 1 else asked
    with undisturbed(), compiler_kept():
        lm = _lm(model, prompts, {"condition": condition, "tokenizer": tokenizer, **options})
        requests = [
            Instance("generate_until", {}, (prompt, decoding), 0, ("generate", i, n))
            for i, prompt in enumerate(prompts)
        ]
        texts = lm.generate_until([one for one in requests for _ in range(n)])
    return [texts[i * n : (i + 1) * n] for i in range(len(requests))]


def _lm(model: Model, texts: Sequence[str], options: Mapping[str, Any]) -> LTM:
    """Return the adapter of a model that texts are handed to without a task.

    Raises:
        UsageError: `texts` are no texts, or an option is not one of a model.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"expected a list of texts, got {shown(texts if isinstance(texts, str) else list(texts))}")
    for name in options.keys() - {*names_of(ModelOptions)}:
        raise UsageError(f"no argument {name!r}.{nearest(name, names_of(ModelOptions))}")
    given = {name: _plain(value) for name, value in options.items() if value is not None}
    if isinstance(model, os.PathLike):
        model = str(model)
    if isinstance(model, str):
        check_place(model)
    lm = LTM(model, **asdict(ModelOptions(**given)))
    lm.progress = progress.for_notebook()
    return lm
