"""Options of the command, each with its help, range and environment variable; defaults stand in `config`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm_eval.config import (
    ALL_CONDITIONS,
    CONDITIONS,
    DEFAULT_K,
    DTYPES,
    EACH,
    FIT_EXAMPLE,
    FIT_OPTIONS,
    MAX_FAST_STEPS,
    MAX_SEED,
    MAX_SHOTS,
    PRESETS,
    RunConfig,
)
from ltm_eval.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")

WHAT, LATENTS, MACHINE, OUTPUT = "What is evaluated", "Latent inference", "Machine", "Results"


PREFIX = "LTM_EVAL_"
VARIABLES = {PREFIX + name for name in ("CACHE_DIR", "DATA_DIR", "DEBUG", "FAILPOINT", "RANK_SILENCE", "RANK_STALL")}
"""Of the environment, all that is read; options add their own."""


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """A line for every variable that looks like ours and is not read; those of the tests are passed by."""
    found = sorted(name for name in environment if name.upper().startswith(PREFIX) and name not in VARIABLES)
    return [
        f"environment variable {name} is not known and has no effect.{nearest(name.upper(), sorted(VARIABLES))}"
        for name in found
        if not name.startswith(f"{PREFIX}TEST_")
    ]


def _option(*names: str, panel: str, text: str, **more: Any) -> Any:
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
    _option(
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
    _option(
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
    _option(
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
    _option(
        "--baseline",
        panel=WHAT,
        metavar="PATH|ID",
        text="Causal language model to set beside it, for example gpt2-large; repeatable.",
    ),
]
Data = Annotated[
    str,
    _option(
        "--data",
        panel=WHAT,
        metavar="auto|sample|hub|DIR",
        text="Where documents come from: a folder with one subfolder per set (gsm8k/test.jsonl), the hub, or our "
        "sample. 'auto': LTM_EVAL_DATA_DIR, then the hub; the sample where --model is not given.",
    ),
]
Metadata = Annotated[
    str | None,
    _option(
        "--metadata",
        panel=WHAT,
        metavar="JSON",
        text='Options of tasks, for example \'{"protocol": "documents", "ptb_split": "test"}\' of perplexity sets: '
        "protocol, block_tokens, insert_eos, split, file.",
    ),
]
Limit = Annotated[
    int | None,
    _option(
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
    _option(
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
    _option(
        "--gen_kwargs",
        panel=WHAT,
        metavar="K=V,...",
        text="Decoding options in place of the task's, for example do_sample=true,temperature=0.8.",
    ),
]
Tokenizer = Annotated[
    str | None,
    _option(
        "--tokenizer",
        panel=WHAT,
        metavar="gpt2|FILE",
        text="tiktoken encoding, or a file of mergeable ranks.",
        show_default="the checkpoint's",
    ),
]
Revision = Annotated[
    str | None,
    _option("--revision", panel=WHAT, metavar="COMMIT", text="Commit, tag or branch of a hub checkpoint."),
]
Condition = Annotated[
    str,
    _option(
        "--condition",
        panel=LATENTS,
        metavar="|".join((*CONDITIONS, ALL_CONDITIONS)),
        text="What z is fitted on and what the decoder reads; described by 'ltm-eval ls'. Several, comma-separated, or "
        "'all' are all run and compared with 'demos'.",
    ),
]
FitOptions = Annotated[
    str | None,
    _option(
        "--fit",
        panel=LATENTS,
        metavar="JSON",
        text=f"Changes to the preset, such as '{FIT_EXAMPLE}': {', '.join(FIT_OPTIONS)}.",
    ),
]
FitWindow = Annotated[
    Any,
    _option(
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
    _option(
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
    _option(
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
    _option(
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
    _option(
        "--preset",
        panel=LATENTS,
        metavar="|".join(PRESETS),
        text="How z is fitted. Only 'bound' gives figures that may be called bounds.",
    ),
]
FastSteps = Annotated[
    Any,
    _option(
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
    _option(
        "--rows",
        panel=LATENTS,
        metavar="all|bound|NAME+...",
        text="Rows of a perplexity beside the bound and its parts: as_released, iwae, prior, causal, joined by +.",
    ),
]
CausalChunk = Annotated[
    int,
    _option(
        "--causal_chunk",
        panel=LATENTS,
        metavar="N",
        parser=_whole("causal_chunk", 1),
        text="Tokens the causal row scores between two refits of z, at most the model's context.",
    ),
]
CausalFastSteps = Annotated[
    int,
    _option(
        "--causal_t_fast",
        panel=LATENTS,
        metavar="N",
        parser=_whole("causal_t_fast", 0, MAX_FAST_STEPS),
        text="Fast steps of each of those refits.",
    ),
]
Seed = Annotated[
    int,
    _option(
        "--seed",
        panel=LATENTS,
        metavar="N",
        parser=_whole("seed", 0, MAX_SEED),
        text="Of latent noise, sampled tokens and the choice of demonstrations.",
    ),
]
Models = Annotated[
    list[str] | None,
    _option(
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
    _option(
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
    _option(
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
    _option(
        "--ray_address",
        panel=MACHINE,
        metavar="local|auto|ADDRESS",
        text="Run cells side by side on Ray: 'local' starts it on this machine, 'auto' finds a running cluster.",
        show_default="one cell after another, without Ray",
    ),
]
CellCpus = Annotated[
    int,
    _option(
        "--cell_cpus",
        panel=MACHINE,
        metavar="N",
        parser=_whole("cell_cpus", 1),
        text="CPU cores that Ray gives a cell, beside a GPU where the cluster has GPUs.",
    ),
]
Device = Annotated[
    str, _option("--device", panel=MACHINE, metavar="auto|cpu|cuda[:N]|mps", text="Where the model runs.")
]
Dtype = Annotated[
    str,
    _option(
        "--dtype",
        panel=MACHINE,
        metavar="|".join(DTYPES),
        text="Of matrix products. 'auto': float32 on CPU, bfloat16 on GPU.",
    ),
]
Compile = Annotated[
    bool,
    _option(
        "--compile", panel=MACHINE, text="Compile the layers (torch.compile); without a compiler they run as they are."
    ),
]
BatchSize = Annotated[
    str,
    _option(
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
    _option("--output_path", "-o", panel=OUTPUT, metavar="DIR", text="Folder for results, samples and the report."),
]
MaxFailed = Annotated[
    str,
    _option(
        "--max_failed",
        panel=OUTPUT,
        metavar="N|P%",
        text="Documents of a task that may fail (a fit that diverges); figures leave them out. With more the run ends "
        "with code 5.",
    ),
]
TokenNll = Annotated[
    int,
    _option(
        "--token_nll",
        panel=OUTPUT,
        metavar="N",
        parser=_whole("token_nll", 0),
        text="Store what every token costs, for the first N documents of each task; the report colours their tokens.",
    ),
]
WriteReport = Annotated[bool, _option("--report/--no_report", panel=OUTPUT, text="Write the HTML report at the end.")]
LogSamples = Annotated[
    bool,
    _option(
        "--log_samples", "-s", panel=OUTPUT, text="Accepted for lm-eval's sake: samples are always kept.", hidden=True
    ),
]
Quiet = Annotated[bool, _option("--quiet", "-q", panel=OUTPUT, text="No progress.")]
Fresh = Annotated[
    bool,
    _option("--fresh", panel=OUTPUT, text="Give up an unfinished run of other settings in the output folder."),
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
