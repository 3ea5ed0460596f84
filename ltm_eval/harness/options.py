"""Options of `run`, `sweep` and the model: one field each, with default, type, range, flags, help and effect."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ltm_eval.inference.options import (
    AUTO,
    DTYPES,
    EACH,
    FIT_EXAMPLE,
    FIT_OPTIONS,
    MOST,
    PRESETS,
    AtLeastOne,
    Dtype,
    FitConfig,
    Preset,
    Rate,
    Seed,
    Steps,
    StepsOrAuto,
    fit_changes,
    fit_config,
)
from ltm_eval.system import options as fields_of
from ltm_eval.system.errors import UsageError, nearest, spelt
from ltm_eval.system.options import (
    ANSWERS,
    NOTHING,
    QUESTIONS,
    VERDICT,
    Many,
    Option,
    names_of,
    option_of,
    options,
    read,
)
from ltm_eval.tasks.prompts import ALL_CONDITIONS, CONDITIONS, Condition, conditions_of
from ltm_eval.tasks.samples import DEFAULT_K

MAX_SHOTS = 32
LM_EVAL_DEVICE = "cuda:0"  # lm-eval's default
DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")

WHAT, LATENTS, MACHINE, OUTPUT = "What is evaluated", "Latent inference", "Machine", "Results"

Shots = Annotated[int, Field(ge=0, le=MAX_SHOTS)]
Index = Annotated[int, Field(ge=0, lt=MOST)]


def _device(name: str) -> str:
    if not DEVICES.fullmatch(name):
        raise UsageError(f"{spelt('device')} must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return name


def _json_text(option: str, value: Any) -> Any:
    """Return a mapping as the JSON text that the command line would give; leave other values to the type."""
    if not isinstance(value, Mapping):
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{spelt(option)} must hold plain values only, as JSON does ({error})") from error


@options()
class ModelOptions:
    """Options of how a model answers, shared by `run` and lm-eval's `--model ltm`."""

    condition: Annotated[
        Condition,
        Field(
            description="What z is fitted on and what the decoder reads; 'ltm-eval ls' describes them. Several, "
            "comma-separated, or 'all' are all run and compared with 'demos'."
        ),
        Option(
            "--condition",
            metavar="|".join((*CONDITIONS, ALL_CONDITIONS)),
            panel=LATENTS,
            reader=conditions_of,
            changes=ANSWERS,
            recorded="condition",
        ),
    ] = "prompt"
    preset: Annotated[
        Preset,
        Field(description="How z is fitted. 'bound' and 'natural' give figures that are valid bounds; 'audit' checks."),
        Option("--preset", metavar="|".join(PRESETS), panel=LATENTS, changes=ANSWERS, recorded="fit"),
    ] = "bound"
    fit: Annotated[
        str | None,
        BeforeValidator(partial(_json_text, "fit")),
        Field(description=f"Changes to the preset as JSON, such as '{FIT_EXAMPLE}': {', '.join(FIT_OPTIONS)}."),
        Option("--fit", metavar="JSON", panel=LATENTS, changes=ANSWERS, recorded="fit"),
    ] = None
    t_fast: Annotated[
        StepsOrAuto | None,
        Field(
            description="Fast steps per text; 0 takes z from the prior, 'auto' ends each fit once it stops improving."
        ),
        Option(
            "--t_fast",
            metavar="N|auto",
            panel=LATENTS,
            default="the preset's",
            changes=ANSWERS,
            recorded="fit",
        ),
    ] = None
    fit_window: Annotated[
        Literal["each"] | AtLeastOne | None,
        Field(
            description="Maximum tokens per window of few-shot examples that z is fitted on; 'each' gives every "
            "example a window of its own."
        ),
        Option(
            "--fit_window",
            metavar=f"N|{EACH}",
            panel=LATENTS,
            default="the model's context",
            changes=ANSWERS,
            recorded="fit_window",
        ),
    ] = None
    rethink: Annotated[
        int,
        Field(
            ge=0,
            lt=MOST,
            description="Rounds of rethinking (generate a trace, refit z on it; our reading of arXiv:2602.06584), "
            "beside K independent draws at equal compute.",
        ),
        Option("--rethink", metavar="K", panel=LATENTS, changes=QUESTIONS),
    ] = 0
    rows: Annotated[
        str,
        Field(
            description="Rows of a perplexity: the bound and its parts, and of as_released, iwae, prior and causal "
            "those named, joined by +. The default is cheap; 'all' takes twice as long or more."
        ),
        Option("--rows", metavar="all|bound|NAME+...", panel=LATENTS, changes=ANSWERS, recorded="rows"),
    ] = "bound+prior"
    causal_chunk: Annotated[
        int,
        Field(
            ge=1,
            lt=MOST,
            description="Tokens the causal row scores between refits of z; at most the model's context.",
        ),
        Option("--causal_chunk", metavar="N", panel=LATENTS, changes=ANSWERS, recorded="rows"),
    ] = 64
    causal_t_fast: Annotated[
        Steps,
        Field(description="Fast steps per refit of the causal row."),
        Option("--causal_t_fast", metavar="N", panel=LATENTS, changes=ANSWERS, recorded="rows"),
    ] = 4
    seed: Annotated[
        Seed,
        Field(description="Random seed for latent noise, sampling and few-shot examples."),
        Option(
            "--seed",
            metavar="N",
            panel=LATENTS,
            changes=(ANSWERS, QUESTIONS),
            recorded="latent_seed",
        ),
    ] = 1234
    tokenizer: Annotated[
        str | None,
        Field(description="tiktoken encoding, or a file of mergeable ranks."),
        Option(
            "--tokenizer",
            metavar="gpt2|FILE",
            panel=WHAT,
            default="the checkpoint's",
            changes=ANSWERS,
            recorded="tokenizer",
        ),
    ] = None
    revision: Annotated[
        str | None,
        Field(description="Commit, tag or branch of a hub checkpoint."),
        Option("--revision", metavar="COMMIT", panel=WHAT, changes=ANSWERS, recorded="model_sha"),
    ] = None
    device: Annotated[
        str,
        AfterValidator(_device),
        Field(description="Where the model runs."),
        Option("--device", metavar="auto|cpu|cuda[:N]|mps", panel=MACHINE, changes=ANSWERS, recorded="device"),
    ] = "auto"
    dtype: Annotated[
        Dtype,
        Field(description="Compute precision of matrix products; 'auto' is float32 on CPU and bfloat16 on GPU."),
        Option("--dtype", metavar="|".join(DTYPES), panel=MACHINE, changes=ANSWERS, recorded="model_dtype"),
    ] = "auto"
    compile: Annotated[
        bool,
        Field(description="Compile the layers with torch.compile; without a compiler they run uncompiled."),
        Option("--compile", panel=MACHINE, changes=ANSWERS, recorded="compiled"),
    ] = False
    batch_size: Annotated[
        Literal["auto"] | AtLeastOne,
        Field(description="Documents per batch. Results do not depend on it."),
        Option("--batch_size", "-b", metavar="N|auto", panel=MACHINE, changes=NOTHING),
    ] = "auto"

    def __post_init__(self) -> None:
        _ = self.fitting

    @property
    def fitting(self) -> FitConfig:
        """The preset with all changes.

        Raises:
            UsageError: a change cannot be used.
        """
        return fit_config(self.preset, t_fast=self.t_fast, **fit_changes(self.fit))


@options()
class ModelArguments(ModelOptions):
    """Arguments in lm-eval's `--model_args` beside `pretrained`."""

    lr: Rate | None = None  # of the fast loop; None takes the preset's
    max_batch_size: AtLeastOne | None = None  # maximum documents per batch under `batch_size=auto`

    @property
    def fitting(self) -> FitConfig:
        """The preset with all changes, `lr` among them."""
        changes = fit_changes(self.fit)
        if self.lr is not None and "lr" in changes:
            raise UsageError("lr is named twice, by itself and in fit; give it once")
        return fit_config(self.preset, t_fast=self.t_fast, **{"lr": self.lr, **changes})

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ModelArguments:
        """Parse arguments from Python or lm-eval's command line; None takes the default.

        Raises:
            UsageError: one is not known or cannot be used.
        """
        known = names_of(cls)
        for name in given:
            if name not in known:
                told = ", ".join(("pretrained", *known))
                raise UsageError(f"model argument {name!r} is not known; known are {told}.{nearest(name, known)}")
        values = {name: value for name, value in given.items() if value is not None}
        if str(values.get("batch_size")).startswith("auto:"):  # lm-eval's `auto:N` measures N times
            values["batch_size"] = AUTO
        if "device" in values:  # which may be torch's own
            values["device"] = str(values["device"]) or AUTO
        return cls(**{name: read(cls, name, value) for name, value in values.items()})


def lm_eval_arguments(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Merge lm-eval's model arguments; `given` wins, `none` is left out, and without a GPU its default device too.

    lm-eval 0.4.13 turns `none` into text, and passes `device="cuda:0"` on every machine.
    """
    import torch

    merged = {name: value for name, value in {**defaults, **given}.items() if value not in (None, "none")}
    if merged.get("device") == LM_EVAL_DEVICE and "device" not in given and not torch.cuda.is_available():
        del merged["device"]
    return merged


@options()
class RunConfig(ModelOptions):
    """One `run`: a model, baselines, tasks, and where results go.

    An answer is reused only under equal options that change answers (`LTM.settings`); a run is resumed if those that
    change questions are equal too (`Manifest.asked`).
    """

    model: Annotated[
        str | None,
        Field(
            description="A folder, released ckpt_*.pt, hub id or 'demo'. Without it: the bundled demo model and sample."
        ),
        Option(
            "--model",
            "-M",
            metavar="PATH|ID",
            panel=WHAT,
            default="bundled demo model",
            changes=ANSWERS,
            recorded=("model_sha", "sizes"),
        ),
    ] = None
    tasks: Annotated[
        Many[str],
        Field(description="Tasks, comma-separated; see 'ltm-eval ls'. The prefix ltm_ may be left out."),
        Option(
            "--tasks",
            "--task",
            "-t",
            metavar="NAME,...",
            panel=WHAT,
            default="gsm8k",
            listed=True,
            repeatable=True,
            changes=QUESTIONS,
        ),
    ] = ("gsm8k",)
    num_fewshot: Annotated[
        Shots | None,
        Field(description="Few-shot examples per prompt; several numbers, as 0,1,2,4,8, are all run and compared."),
        Option(
            "--num_fewshot",
            "--shots",
            "-f",
            name="shots",
            metavar=f"0..{MAX_SHOTS},...",
            panel=WHAT,
            default="the task's own",
            listed=True,
            changes=QUESTIONS,
        ),
    ] = None
    baselines: Annotated[
        Many[str],
        Field(description="Causal language model to compare with, for example gpt2-large; repeatable."),
        Option("--baseline", metavar="PATH|ID", panel=WHAT, repeatable=True, changes=NOTHING),
    ] = ()
    data: Annotated[
        str,
        Field(
            description="Where documents come from: a folder with one subfolder per set (gsm8k/test.jsonl), the hub, "
            "or our sample. 'auto': LTM_EVAL_DATA_DIR, then the hub; the sample if --model is not given."
        ),
        Option("--data", metavar="auto|sample|hub|DIR", panel=WHAT, changes=QUESTIONS),
    ] = AUTO
    metadata: Annotated[
        str | None,
        BeforeValidator(partial(_json_text, "metadata")),
        Field(
            description='Task options as JSON, for example \'{"protocol": "documents", "ptb_split": "test"}\' for '
            "perplexity sets: protocol, block_tokens, insert_eos, split, file."
        ),
        Option("--metadata", metavar="JSON", panel=WHAT, changes=QUESTIONS),
    ] = None
    limit: Annotated[
        AtLeastOne | None,
        Field(description="Only the first N documents of each task."),
        Option("--limit", "-L", metavar="N", panel=WHAT, default="all", changes=QUESTIONS),
    ] = None
    documents: Annotated[
        Many[Index],
        Field(
            description="Only these documents of each task, by their index from 0, as in the report's sample browser."
        ),
        Option("--documents", metavar="I,...", panel=WHAT, default="all", listed=True, changes=QUESTIONS),
    ] = ()
    gen_kwargs: Annotated[
        str | None,
        Field(description="Decoding options that replace the task's, for example do_sample=true,temperature=0.8."),
        Option("--gen_kwargs", metavar="K=V,...", panel=WHAT, changes=QUESTIONS),
    ] = None
    n: Annotated[
        int,
        Field(
            ge=1,
            lt=MOST,
            description="Sampled answers per question, for pass@k and maj@n beside the greedy answer; temperature 1 "
            "unless --gen_kwargs sets another.",
        ),
        Option("--n", "-n", metavar="N", panel=WHAT, changes=QUESTIONS),
    ] = 1
    k: Annotated[
        Many[AtLeastOne],
        Field(description="Values of k for which pass@k is reported; given alone, n is set to the largest."),
        Option(
            "--k",
            "-k",
            metavar="K,...",
            panel=WHAT,
            default=",".join(map(str, DEFAULT_K)) + " up to n",
            listed=True,
            changes=QUESTIONS,
        ),
    ] = ()
    output_path: Annotated[
        str,
        Field(description="Folder for results, samples and the report."),
        Option("--output_path", "-o", metavar="DIR", panel=OUTPUT, changes=NOTHING),
    ] = "results"
    max_failed: Annotated[
        str,
        Field(
            description="Maximum number (or %) of documents per task whose fit may fail; they are excluded from the "
            "metrics. Above it the run exits with code 5."
        ),
        Option("--max_failed", metavar="N|P%", panel=OUTPUT, changes=VERDICT),
    ] = "0"
    token_nll: Annotated[
        int,
        Field(
            ge=0,
            lt=MOST,
            description="Store the per-token NLL of the first N documents of each task, which the report shows.",
        ),
        Option("--token_nll", metavar="N", panel=OUTPUT, changes=QUESTIONS),
    ] = 20
    report: Annotated[
        bool,
        Field(description="Write the HTML report at the end."),
        Option("--report/--no_report", panel=OUTPUT, changes=NOTHING),
    ] = True
    quiet: Annotated[
        bool, Field(description="No progress bars."), Option("--quiet", "-q", panel=OUTPUT, changes=NOTHING)
    ] = False
    fresh: Annotated[
        bool,
        Field(description="Discard an unfinished run with different settings in the output folder."),
        Option("--fresh", panel=OUTPUT, changes=NOTHING),
    ] = False
    command: Annotated[Many[str], Option(changes=NOTHING)] = ()  # the command line, for the report

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks:
            raise UsageError(f"no task named; give {spelt('tasks')}, for example {spelt('tasks', 'gsm8k')}")
        if self.limit is not None and self.documents:
            raise UsageError(f"{spelt('limit')} and {spelt('documents')} exclude each other; give one of them")
        if self.n > 1 and self.k and max(self.k) > self.n:
            raise UsageError(f"pass@{max(self.k)} needs at least {max(self.k)} samples per question, n is {self.n}")


def changing(what: str) -> tuple[str, ...]:
    """Return the options of a run that change the answers, the questions, the verdict or nothing."""
    return fields_of.changing(RunConfig, what)


def recorded_of_answers() -> tuple[str, ...]:
    """Return the names under which a model records everything that is an option and changes its answers."""
    found = (recorded for name in names_of(RunConfig) for recorded in option_of(RunConfig, name).recorded)
    return tuple(dict.fromkeys(found))


@options()
class SweepConfig:
    """One model under several conditions and numbers of few-shot examples."""

    base: RunConfig  # everything else; its own condition and num_fewshot are not used
    conditions: Annotated[Many[Condition], Option(name="condition")]
    shots: Many[Shots | None] = (None,)  # None is the task's own number

    @property
    def reference(self) -> str:
        """The condition that the others are compared with: `demos`, or else the first."""
        return "demos" if "demos" in self.conditions else self.conditions[0]


@options()
class GridConfig:
    """Every combination of the given values, each a run of its own."""

    base: RunConfig  # everything else; its own values of what is varied are not used
    models: Annotated[
        Many[str | None],  # None is the bundled one
        Field(
            description="Checkpoints, comma-separated or given several times. Without it: the bundled demo model and "
            "sample."
        ),
        Option(
            "--model",
            "-M",
            name="model",
            metavar="PATH|ID,...",
            panel=WHAT,
            default="bundled demo model",
            repeatable=True,
        ),
    ]
    t_fast: Annotated[
        Many[StepsOrAuto | None],  # None is the preset's
        Field(description="Fast steps per text, as 0,16,64."),
        Option("--t_fast", metavar="N|auto,...", panel=LATENTS, default="the preset's", listed=True),
    ]
    shots: Many[Shots | None]  # None is the task's own
    conditions: Annotated[Many[Condition], Option(name="condition")]
    seeds: Annotated[
        Many[Seed],
        Field(description="Random seeds, as 1,2,3."),
        Option("--seed", name="seed", metavar="N,...", panel=LATENTS, default="1234", listed=True),
    ]
    ray_address: Annotated[
        str | None,
        Field(
            description="Run cells in parallel on Ray: 'local' starts it on this machine, 'auto' finds a running "
            "cluster."
        ),
        Option(
            "--ray_address",
            metavar="local|auto|ADDRESS",
            panel=MACHINE,
            default="one cell after another, without Ray",
        ),
    ] = None
    cell_cpus: Annotated[
        int,
        Field(ge=1, lt=MOST, description="CPU cores that Ray gives a cell, beside a GPU if the cluster has GPUs."),
        Option("--cell_cpus", metavar="N", panel=MACHINE),
    ] = 1

    def __post_init__(self) -> None:
        if self.base.baselines:
            raise UsageError("a sweep runs no baselines; give --baseline to `run`, and both folders to `report`")


__all__ = [
    "ANSWERS",
    "NOTHING",
    "QUESTIONS",
    "VERDICT",
    "GridConfig",
    "ModelArguments",
    "ModelOptions",
    "RunConfig",
    "SweepConfig",
    "changing",
    "lm_eval_arguments",
    "recorded_of_answers",
]
