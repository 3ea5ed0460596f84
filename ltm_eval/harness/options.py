"""Options of the command, each with its help, range and environment variable; defaults stand in `config`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from ltm_eval.inference.options import (
    DTYPES,
    EACH,
    FIT_EXAMPLE,
    FIT_OPTIONS,
    MAX_FAST_STEPS,
    PRESETS,
    fit_changes,
    fit_config,
)
from ltm_eval.system.errors import UsageError, check_choice, nearest, shown
from ltm_eval.tasks.prompts import ALL_CONDITIONS, CONDITIONS
from ltm_eval.tasks.samples import DEFAULT_K

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


# Every option of the program, each default stated here and nowhere else.

MAX_SHOTS = 32


MAX_SEED = 2**32 - 1
"""What NumPy's own generator takes, which is seeded for baselines and tasks of others."""


ANSWERS, QUESTIONS, VERDICT, NOTHING = "answers", "questions", "verdict", "nothing"
"""What an option changes: what a model answers to the same request; what is asked of it and which figures are made of
that; whether the run counts as done; none of these.
"""


def _option(default: Any, *changes: str, told: tuple[str, ...] = ()) -> Any:
    """A field of `RunConfig`: its default, what it changes, and under which names `get_model_info` tells what it did.

    Answers are kept under what is told of the options that change them (`LTM.settings`), a run goes on under those that
    change the questions (`Manifest.asked`).
    """
    return field(default=default, metadata={"changes": changes, "told": told})


@dataclass(frozen=True)
class RunConfig:
    """One `run`: a model, baselines, tasks, and where results go."""

    model: str | None = _option(None, ANSWERS, told=("model_sha", "sizes"))
    """Checkpoint folder, released `ckpt_*.pt`, hub id or `demo`; None is the bundled demo model."""
    tasks: tuple[str, ...] = _option(("gsm8k",), QUESTIONS)
    """Task names; the prefix `ltm_` may be left out."""
    num_fewshot: int | None = _option(None, QUESTIONS)
    """Demonstrations per prompt; None takes the task's own number."""
    baselines: tuple[str, ...] = _option((), NOTHING)
    """Causal language models (folder or hub id) evaluated by lm-eval's `hf` model on the same documents."""
    data: str = _option("auto", QUESTIONS)
    """`auto`, `sample`, `hub` or a folder."""
    metadata: str | None = _option(None, QUESTIONS)
    """JSON object of task options, as lm-eval's `--metadata`, for example `{"protocol": "documents"}`."""
    limit: int | None = _option(None, QUESTIONS)
    """Only the first documents of each task."""
    documents: tuple[int, ...] = _option((), QUESTIONS)
    """Only these documents of each task, by their index; empty takes all."""
    output_path: str = _option("results", NOTHING)
    """Folder for results."""
    batch_size: int | Literal["auto"] = _option("auto", NOTHING)
    """Documents in a batch; `auto` on a GPU: as many tokens as a fit step was seen to bear."""
    device: str = _option("auto", ANSWERS, told=("device",))
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""
    dtype: str = _option("auto", ANSWERS, told=("model_dtype",))
    """Of matrix products: `float32`, `bfloat16`, or `auto` (float32 on CPU, bfloat16 on GPU)."""
    compile: bool = _option(False, ANSWERS, told=("compiled",))
    """Compile the layers; without a compiler they run as they are."""
    fit: str | None = _option(None, ANSWERS, told=("fit",))
    """Changes to the fit preset, a JSON object; see `fit_changes`."""
    condition: str = _option("prompt", ANSWERS, told=("condition",))
    """What z is fitted on and what the decoder reads; DESIGN section 5."""
    preset: str = _option("bound", ANSWERS, told=("fit",))
    """Fit preset."""
    t_fast: int | Literal["auto"] | None = _option(None, ANSWERS, told=("fit",))
    """Fast steps; `auto` ends each document's fit once it gains no more, None takes the preset's."""
    rows: str = _option("all", ANSWERS, told=("rows",))
    """Rows of a perplexity beside the bound and its parts: `all`, `bound`, or names joined by `+`."""
    causal_chunk: int = _option(64, ANSWERS, told=("rows",))
    """Tokens the causal row scores between two refits of z, at most the model's context."""
    causal_t_fast: int = _option(4, ANSWERS, told=("rows",))
    """Fast steps of each of its refits."""
    fit_window: int | str | None = _option(None, ANSWERS, told=("fit_window",))
    """Most tokens of one fitted window of demonstrations, or `each` for one each; None takes the model's context."""
    n: int = _option(1, QUESTIONS)
    """Sampled answers per question, beside the greedy one; 1 takes the greedy one alone."""
    k: tuple[int, ...] = _option((), QUESTIONS)
    """For which k pass@k is reported; empty takes those of `DEFAULT_K` up to n."""
    rethink: int = _option(0, QUESTIONS)
    """Rounds of rethinking, beside as many independent draws; 0 for none."""
    seed: int = _option(1234, ANSWERS, QUESTIONS, told=("latent_seed",))
    """Of latent noise, token draws and demonstrations."""
    tokenizer: str | None = _option(None, ANSWERS, told=("tokenizer",))
    """`gpt2` or a file of mergeable ranks; None takes the checkpoint's."""
    revision: str | None = _option(None, ANSWERS, told=("model_sha",))
    """Commit of a hub checkpoint."""
    gen_kwargs: str | None = _option(None, QUESTIONS)
    """Generation options that replace the task's, as lm-eval spells them."""
    token_nll: int = _option(20, QUESTIONS)
    """Of so many first documents of each task, what every token costs is stored; 0 stores none."""
    max_failed: str = _option("0", VERDICT)
    """Documents of a task that may fail, or a share such as `1%`; with more the run ends incomplete."""
    report: bool = _option(True, NOTHING)
    """Whether the HTML page is written at the end."""
    quiet: bool = _option(False, NOTHING)
    """No progress."""
    fresh: bool = _option(False, NOTHING)
    """Whether an unfinished run of other settings in the output folder is given up."""
    command: tuple[str, ...] = _option((), NOTHING)
    """The command line, for the report."""

    def __post_init__(self) -> None:
        check_choice("condition", self.condition, CONDITIONS)
        check_choice("dtype", self.dtype, DTYPES)
        fit_config(self.preset, **fit_changes(self.fit))
        if not self.tasks:
            raise UsageError("no task named; give --task, for example --task gsm8k")
        if self.num_fewshot is not None and not 0 <= self.num_fewshot <= MAX_SHOTS:
            raise UsageError(f"shots must be a whole number from 0 to {MAX_SHOTS}, got {self.num_fewshot}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit must be at least 1 document, got {self.limit}; leave it out for all documents")
        if self.limit is not None and self.documents:
            raise UsageError("limit and documents exclude each other; give one of them")
        if self.batch_size != "auto" and self.batch_size < 1:
            raise UsageError(f"batch_size must be `auto` or at least 1, got {self.batch_size}")
        if self.n < 1 or any(k < 1 for k in self.k) or self.rethink < 0:
            raise UsageError(
                f"n and k must be at least 1 and rethink at least 0, got n = {self.n}, k = {self.k}, "
                f"rethink = {self.rethink}"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed must be a whole number from 0 to {MAX_SEED}, got {shown(self.seed)}")
        if self.token_nll < 0:
            raise UsageError(f"token_nll must be at least 0 documents, got {self.token_nll}")
        fit_config(self.preset, t_fast=self.t_fast)


def changing(what: str) -> tuple[str, ...]:
    """The options of a run that change the answers, the questions, the verdict or nothing."""
    return tuple(option.name for option in fields(RunConfig) if what in option.metadata["changes"])


def told_of_answers() -> tuple[str, ...]:
    """The names under which a model tells all that changes its answers and is an option."""
    told = (name for option in fields(RunConfig) for name in option.metadata["told"])
    return tuple(dict.fromkeys(told))


_KINDS = {int: "a whole number", str: "text", bool: "True or False", NoneType: "None"}


def check_kind(field_name: str, value: Any, *, name: str, given: Any) -> None:
    """Raise UsageError unless `value` is of the kind that a field of `RunConfig` has.

    Args:
        name: what the caller calls it.
        given: what the caller gave for it.
    """
    kind = get_type_hints(RunConfig)[field_name]
    if not _is(value, kind):
        got = f"a {type(given).__name__}" if isinstance(given, (list, tuple, set, dict)) else shown(given)
        raise UsageError(f"{name} must be {_kind(kind)}, got {got}")


def _is(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(one, args[0]) for one in value)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if args:
        return any(_is(value, one) for one in args)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _kind(kind: Any) -> str:
    """A kind in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        return f"a list, each of it {_kind(args[0])}"
    if origin is Literal:
        return " or ".join(map(repr, args))
    if isinstance(kind, UnionType) or args:
        return " or ".join(_kind(one) for one in args)
    return _KINDS.get(kind, f"a {kind.__name__}")


@dataclass(frozen=True)
class SweepConfig:
    """One model under several conditions and numbers of demonstrations."""

    base: RunConfig
    """Everything else; its own condition and num_fewshot are not used."""
    conditions: tuple[str, ...]
    """Conditions."""
    shots: tuple[int | None, ...] = (None,)
    """Numbers of demonstrations; None is the task's own."""

    def __post_init__(self) -> None:
        for condition in self.conditions:
            check_choice("condition", condition, (*CONDITIONS, ALL_CONDITIONS))
        for number in self.shots:
            replace(self.base, num_fewshot=number)

    @property
    def reference(self) -> str:
        """The condition that the others are compared with: `demos`, or else the first."""
        return "demos" if "demos" in self.conditions else self.conditions[0]


@dataclass(frozen=True)
class GridConfig:
    """Every combination of the values named, each a run of its own."""

    base: RunConfig
    """Everything else; its own values of what is varied are not used."""
    models: tuple[str | None, ...]
    """Checkpoints; None is the bundled one."""
    t_fast: tuple[int | Literal["auto"] | None, ...]
    """Fast steps; None is the preset's."""
    shots: tuple[int | None, ...]
    """Numbers of demonstrations; None is the task's own."""
    conditions: tuple[str, ...]
    """Conditions."""
    seeds: tuple[int, ...]
    """Seeds."""
    ray_address: str | None = None
    """`local`, `auto` or a cluster's address; None runs one cell after another in this process."""
    cell_cpus: int = 1
    """CPU cores that Ray gives a cell; beside a whole GPU where the cluster has GPUs and the device is not cpu."""

    def __post_init__(self) -> None:
        if self.cell_cpus < 1:
            raise UsageError(f"cell_cpus must be at least 1, got {self.cell_cpus}")
        if self.base.baselines:
            raise UsageError("a sweep runs no baselines; give --baseline to `run`, and both folders to `report`")


DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")

WHAT, LATENTS, MACHINE, OUTPUT = "What is evaluated", "Latent inference", "Machine", "Results"


PREFIX = "LTM_EVAL_"
VARIABLES = {PREFIX + name for name in ("CACHE_DIR", "DATA_DIR", "DEBUG", "RANK_SILENCE", "RANK_STALL")}
"""Of the environment, all that is read; options add their own."""


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """A line for every variable that looks like ours and is not read; those of the tests are passed by."""
    found = sorted(name for name in environment if name.upper().startswith(PREFIX) and name not in VARIABLES)
    return [
        f"environment variable {name} is not known and has no effect.{nearest(name.upper(), sorted(VARIABLES))}"
        for name in found
        if not name.startswith(f"{PREFIX}TEST_")
    ]


def _option_options(*names: str, panel: str, text: str, **more: Any) -> Any:
    """An option that the environment can also give: `--num_fewshot` reads LTM_EVAL_NUM_FEWSHOT."""
    longs = [name.split("/")[0] for name in names if name.startswith("--")]
    variables = [PREFIX + name.removeprefix("--").upper() for name in longs]
    VARIABLES.update(variables)
    return typer.Option(*names, envvar=variables, help=text, rich_help_panel=panel, show_envvar=False, **more)


def _whole(name: str, low: int, high: int | None = None, *, word: str | None = None) -> Callable[[Any], int | str]:
    """A parser of whole numbers from `low` to `high`, or `word`; anything else raises UsageError naming the range."""
    allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number of at least {low}"
    if word is not None:
        allowed = f"{word!r} or {allowed}"

    def parse(value: Any) -> int | str:
        text = str(value)
        if text == word:
            return text
        number = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
        if number is None or number < low or (high is not None and number > high):
            raise UsageError(f"{name} must be {allowed}, got {text!r}")
        return number

    return parse


def _wholes(name: str, low: int, high: int | None = None) -> Callable[[Any], tuple[int, ...]]:
    """A parser of comma-separated whole numbers, each once."""
    parse = _whole(name, low, high)

    def parse_all(value: Any) -> tuple[int, ...]:
        parts = value if isinstance(value, tuple) else str(value).split(",")
        return tuple(dict.fromkeys(int(parse(part.strip() if isinstance(part, str) else part)) for part in parts))

    return parse_all


def _steps(value: Any) -> tuple[int | str, ...]:
    """Comma-separated fast steps, each once."""
    parse = _whole("t_fast", 0, MAX_FAST_STEPS, word="auto")
    parts = value if isinstance(value, tuple) else str(value).split(",")
    return tuple(dict.fromkeys(parse(part.strip() if isinstance(part, str) else part) for part in parts))


Model = Annotated[
    str | None,
    _option_options(
        "--model",
        "-M",
        panel=WHAT,
        metavar="PATH|ID",
        text="A folder, released ckpt_*.pt, hub id or 'demo'. Without it: the bundled demo and sample.",
        show_default="bundled demo model",
    ),
]
Tasks = Annotated[
    list[str],
    _option_options(
        "--tasks",
        "--task",
        "-t",
        panel=WHAT,
        metavar="NAME,...",
        text="Tasks, comma-separated; see 'ltm-eval ls'. The prefix ltm_ may be left out.",
        show_default=",".join(RunConfig.tasks),
    ),
]
Shots = Annotated[
    Any,
    _option_options(
        "--num_fewshot",
        "--shots",
        "-f",
        panel=WHAT,
        metavar=f"0..{MAX_SHOTS},...",
        parser=_wholes("shots", 0, MAX_SHOTS),
        text="Demonstrations per prompt; several, as 0,1,2,4,8, are all run and compared.",
        show_default="the task's own",
    ),
]
Baselines = Annotated[
    list[str],
    _option_options(
        "--baseline",
        panel=WHAT,
        metavar="PATH|ID",
        text="Causal language model to set beside it, for example gpt2-large; repeatable.",
    ),
]
Data = Annotated[
    str,
    _option_options(
        "--data",
        panel=WHAT,
        metavar="auto|sample|hub|DIR",
        text="Where documents come from: a folder with one subfolder per set (gsm8k/test.jsonl), the hub, or our "
        "sample. 'auto': LTM_EVAL_DATA_DIR, then the hub; the sample where --model is not given.",
    ),
]
Metadata = Annotated[
    str | None,
    _option_options(
        "--metadata",
        panel=WHAT,
        metavar="JSON",
        text='Options of tasks, for example \'{"protocol": "documents", "ptb_split": "test"}\' of perplexity sets: '
        "protocol, block_tokens, insert_eos, split, file.",
    ),
]
Limit = Annotated[
    int | None,
    _option_options(
        "--limit",
        "-L",
        panel=WHAT,
        metavar="N",
        parser=_whole("limit", 1),
        text="Only the first N documents of each task.",
        show_default="all",
    ),
]
Documents = Annotated[
    Any,
    _option_options(
        "--documents",
        panel=WHAT,
        metavar="I,...",
        parser=_wholes("documents", 0),
        text="Only these documents of each task, by their index from 0, as the report's sample browser names them.",
        show_default="all",
    ),
]
GenKwargs = Annotated[
    str | None,
    _option_options(
        "--gen_kwargs",
        panel=WHAT,
        metavar="K=V,...",
        text="Decoding options in place of the task's, for example do_sample=true,temperature=0.8.",
    ),
]
Tokenizer = Annotated[
    str | None,
    _option_options(
        "--tokenizer",
        panel=WHAT,
        metavar="gpt2|FILE",
        text="tiktoken encoding, or a file of mergeable ranks.",
        show_default="the checkpoint's",
    ),
]
Revision = Annotated[
    str | None,
    _option_options("--revision", panel=WHAT, metavar="COMMIT", text="Commit, tag or branch of a hub checkpoint."),
]
Condition = Annotated[
    str,
    _option_options(
        "--condition",
        panel=LATENTS,
        metavar="|".join((*CONDITIONS, ALL_CONDITIONS)),
        text="What z is fitted on and what the decoder reads; described by 'ltm-eval ls'. Several, comma-separated, or "
        "'all' are all run and compared with 'demos'.",
    ),
]
FitOptions = Annotated[
    str | None,
    _option_options(
        "--fit",
        panel=LATENTS,
        metavar="JSON",
        text=f"Changes to the preset, such as '{FIT_EXAMPLE}': {', '.join(FIT_OPTIONS)}.",
    ),
]
FitWindow = Annotated[
    Any,
    _option_options(
        "--fit_window",
        panel=LATENTS,
        metavar=f"N|{EACH}",
        parser=_whole("fit_window", 1, word=EACH),
        text="Most tokens of one window of demonstrations that z is fitted on; 'each' gives every demonstration its "
        "own.",
        show_default="the model's context",
    ),
]
Samples = Annotated[
    int,
    _option_options(
        "--n",
        "-n",
        panel=WHAT,
        metavar="N",
        parser=_whole("n", 1),
        text="Sampled answers per question, for pass@k and maj@n beside the greedy answer; temperature 1 unless "
        "--gen_kwargs says otherwise.",
    ),
]
PassAt = Annotated[
    Any,
    _option_options(
        "--k",
        "-k",
        panel=WHAT,
        metavar="K,...",
        parser=_wholes("k", 1),
        text="For which k pass@k is reported; alone it also sets n to the largest.",
        show_default=",".join(map(str, DEFAULT_K)) + " up to n",
    ),
]
Rethink = Annotated[
    int,
    _option_options(
        "--rethink",
        panel=LATENTS,
        metavar="K",
        parser=_whole("rethink", 0),
        text="Rounds of rethinking (generate a trace, refit z on it; our reading of arXiv:2602.06584), beside K "
        "independent draws at equal compute.",
    ),
]
Preset = Annotated[
    str,
    _option_options(
        "--preset",
        panel=LATENTS,
        metavar="|".join(PRESETS),
        text="How z is fitted. Only 'bound' gives figures that may be called bounds.",
    ),
]
FastSteps = Annotated[
    Any,
    _option_options(
        "--t_fast",
        panel=LATENTS,
        metavar="N|auto",
        parser=_whole("t_fast", 0, MAX_FAST_STEPS, word="auto"),
        text="Fast steps per text; 0 takes z from the prior, 'auto' ends each fit once it gains no more.",
        show_default="the preset's",
    ),
]
Rows = Annotated[
    str,
    _option_options(
        "--rows",
        panel=LATENTS,
        metavar="all|bound|NAME+...",
        text="Rows of a perplexity beside the bound and its parts: as_released, iwae, prior, causal, joined by +.",
    ),
]
CausalChunk = Annotated[
    int,
    _option_options(
        "--causal_chunk",
        panel=LATENTS,
        metavar="N",
        parser=_whole("causal_chunk", 1),
        text="Tokens the causal row scores between two refits of z, at most the model's context.",
    ),
]
CausalFastSteps = Annotated[
    int,
    _option_options(
        "--causal_t_fast",
        panel=LATENTS,
        metavar="N",
        parser=_whole("causal_t_fast", 0, MAX_FAST_STEPS),
        text="Fast steps of each of those refits.",
    ),
]
Seed = Annotated[
    int,
    _option_options(
        "--seed",
        panel=LATENTS,
        metavar="N",
        parser=_whole("seed", 0, MAX_SEED),
        text="Of latent noise, sampled tokens and the choice of demonstrations.",
    ),
]
Models = Annotated[
    list[str] | None,
    _option_options(
        "--model",
        "-M",
        panel=WHAT,
        metavar="PATH|ID,...",
        text="Checkpoints, comma-separated or given several times. Without it: the bundled demo and sample.",
        show_default="bundled demo model",
    ),
]
SweptSteps = Annotated[
    Any,
    _option_options(
        "--t_fast",
        panel=LATENTS,
        metavar="N|auto,...",
        parser=_steps,
        text="Fast steps per text, as 0,16,64.",
        show_default="the preset's",
    ),
]
Seeds = Annotated[
    Any,
    _option_options(
        "--seed",
        panel=LATENTS,
        metavar="N,...",
        parser=_wholes("seed", 0, MAX_SEED),
        text="Seeds, as 1,2,3.",
        show_default=str(RunConfig.seed),
    ),
]
RayAddress = Annotated[
    str | None,
    _option_options(
        "--ray_address",
        panel=MACHINE,
        metavar="local|auto|ADDRESS",
        text="Run cells side by side on Ray: 'local' starts it on this machine, 'auto' finds a running cluster.",
        show_default="one cell after another, without Ray",
    ),
]
CellCpus = Annotated[
    int,
    _option_options(
        "--cell_cpus",
        panel=MACHINE,
        metavar="N",
        parser=_whole("cell_cpus", 1),
        text="CPU cores that Ray gives a cell, beside a GPU where the cluster has GPUs.",
    ),
]
Device = Annotated[
    str, _option_options("--device", panel=MACHINE, metavar="auto|cpu|cuda[:N]|mps", text="Where the model runs.")
]
Dtype = Annotated[
    str,
    _option_options(
        "--dtype",
        panel=MACHINE,
        metavar="|".join(DTYPES),
        text="Of matrix products. 'auto': float32 on CPU, bfloat16 on GPU.",
    ),
]
Compile = Annotated[
    bool,
    _option_options(
        "--compile", panel=MACHINE, text="Compile the layers (torch.compile); without a compiler they run as they are."
    ),
]
BatchSize = Annotated[
    str,
    _option_options(
        "--batch_size",
        "-b",
        panel=MACHINE,
        metavar="N|auto",
        parser=_whole("batch_size", 1, word="auto"),
        text="Documents at a time; no result depends on it.",
    ),
]
OutputPath = Annotated[
    str,
    _option_options(
        "--output_path", "-o", panel=OUTPUT, metavar="DIR", text="Folder for results, samples and the report."
    ),
]
MaxFailed = Annotated[
    str,
    _option_options(
        "--max_failed",
        panel=OUTPUT,
        metavar="N|P%",
        text="Documents of a task that may fail (a fit that diverges); figures leave them out. With more the run ends "
        "with code 5.",
    ),
]
TokenNll = Annotated[
    int,
    _option_options(
        "--token_nll",
        panel=OUTPUT,
        metavar="N",
        parser=_whole("token_nll", 0),
        text="Store what every token costs, for the first N documents of each task; the report colours their tokens.",
    ),
]
WriteReport = Annotated[
    bool, _option_options("--report/--no_report", panel=OUTPUT, text="Write the HTML report at the end.")
]
LogSamples = Annotated[
    bool,
    _option_options(
        "--log_samples", "-s", panel=OUTPUT, text="Accepted for lm-eval's sake: samples are always kept.", hidden=True
    ),
]
Quiet = Annotated[bool, _option_options("--quiet", "-q", panel=OUTPUT, text="No progress.")]
Fresh = Annotated[
    bool,
    _option_options("--fresh", panel=OUTPUT, text="Give up an unfinished run of other settings in the output folder."),
]


def filled(name: str, value: str | None) -> str | None:
    """`value`, unless it is empty, which is a forgotten variable rather than a wish."""
    if value is not None and not value.strip():
        raise UsageError(f"{name} is empty; give a value or leave the option out")
    return value


def checked_device(device: str) -> str:
    if not DEVICES.fullmatch(device):
        raise UsageError(f"device must be auto, cpu, cuda, cuda:N or mps, got {device!r}")
    return device
