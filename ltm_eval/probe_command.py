"""`python -m ltm_eval probe`: what each layer's latents carry."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm_eval.calls import Call, examples
from ltm_eval.options import checked_device, filled
from ltm_eval.probe_results import DEFAULT_TASK, DIRECTIONS, LATENTS, RESTS, ProbeConfig, ProbeJob
from ltm_eval.run_options import RUN, TEXTS, takes

if TYPE_CHECKING:
    from collections.abc import Mapping

OWN: Mapping[str, Any] = {
    "text": Annotated[
        list[str] | None,
        typer.Option("--text", metavar="FILE", help="A file of plain text, one text; repeatable."),
    ],
    "task": Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            metavar="NAME",
            help="Take a task's documents: whole texts, or questions with their gold answers.",
            show_default=f"the bundled sample of {DEFAULT_TASK}",
        ),
    ],
    "limit": Annotated[int, typer.Option("--limit", "-L", min=1, help="Only the first N documents of the task.")],
    "rest": Annotated[
        str,
        typer.Option(
            "--rest",
            metavar="|".join(RESTS),
            help="What stands for the other layers' latents: zeros, the prior's mean, or one draw of the prior a text.",
        ),
    ],
    "latents": Annotated[
        str,
        typer.Option(
            "--latents", metavar="|".join(LATENTS), help="What kept layers hold: the posterior's mean or a draw."
        ),
    ],
    "direction": Annotated[
        str,
        typer.Option("--direction", metavar="|".join(DIRECTIONS), help="Layers 1 to l, the last l, or both."),
    ],
    "max_tokens": Annotated[int, typer.Option("--max_tokens", min=2, help="Tokens of a text; longer ones are cut.")],
    "prompt_tokens": Annotated[
        int,
        typer.Option(
            "--prompt_tokens", min=0, help="First tokens the decoder reads in the explorer; questions are read whole."
        ),
    ],
    "explore": Annotated[int, typer.Option("--explore", min=0, help="Texts the explorer holds generations of.")],
}
SHARED = ("data", "metadata", "t_fast", "preset", "fit", "seed", "tokenizer", "revision", "device", "dtype", "compile")
"""Options of `run` that a probe has too, beside model, place and page."""
PROBE: Mapping[str, Any] = {
    "model": RUN["model"],
    **{name: OWN[name] for name in ("text", "task", "limit")},
    **{name: RUN[name] for name in SHARED[:5]},
    **{name: OWN[name] for name in ("rest", "latents", "direction", "max_tokens", "prompt_tokens", "explore")},
    **{name: RUN[name] for name in (*SHARED[5:], "output_path", "report", "quiet")},
}


def _defaults() -> dict[str, Any]:
    """Of the two records that the options fill."""
    return {name: getattr(ProbeJob if hasattr(ProbeJob, name) else ProbeConfig, name, None) for name in PROBE}


@takes(PROBE, _defaults())
def probe(**given: Any) -> int:
    """Fit z with all layers, then reconstruct with the latents of some: curves by layer, and the layer explorer.

    Writes probe_<date>.json into the model's folder of results, and the page of the output folder.
    """
    from ltm_eval import probing

    outcome = probing.probe(job_of(given))
    print(probing.table(outcome.results))
    print(f"results: {outcome.results}")
    if outcome.report is not None:
        print(f"report: {outcome.report}")
    return 0


def job_of(given: Mapping[str, Any]) -> ProbeJob:
    """What is probed, how, and where it goes.

    Raises:
        UsageError: a value cannot be used.
    """
    values = dict(given, task=filled("task", given["task"]), device=checked_device(given["device"]))
    for name in values.keys() & set(TEXTS):
        default = getattr(ProbeJob, name, getattr(ProbeConfig, name, None))
        values[name] = filled(name, values[name]) or default
    how = {one.name: values.pop(one.name) for one in fields(ProbeConfig)}
    texts = tuple(values.pop("text") or ())
    return ProbeJob(probe=ProbeConfig(**how), texts=texts, **values, command=Call.command())


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "ltm-eval probe",
            "ltm-eval probe --model ckpt_60000.pt --text story.txt --text poem.txt --output_path results/",
            "ltm-eval probe --task gsm8k --limit 20 --rest prior --direction up",
        )
    )(probe)
