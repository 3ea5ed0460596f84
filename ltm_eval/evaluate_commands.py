"""Commands that evaluate: `run` and `sweep`. Registered with the others in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.calls import examples
from ltm_eval.config import GridConfig, RunConfig, SweepConfig, conditions_of
from ltm_eval.errors import IncompleteError, printable
from ltm_eval.options import filled
from ltm_eval.run_options import RUN, SWEEP, run_config, takes

if TYPE_CHECKING:
    import typer


@takes(RUN, {"log_samples": True})
def run(**given: Any) -> int:
    """Evaluate a checkpoint, and baselines on the same documents; write results and a report.

    Results have lm-eval's layout; what it has no room for stands in latents_*.jsonl, answers_*.jsonl and
    tokens_*.jsonl beside them.
    """
    config, conditions, shots = run_config(given), conditions_of(given["condition"]), _shots(given)
    from ltm_eval import run as runner
    from ltm_eval.results_table import results_table

    if len(conditions) > 1 or len(shots) > 1:
        from ltm_eval import sweep

        outcome = sweep.run(SweepConfig(config, conditions, shots))
        for path in outcome.results[:1]:
            print(sweep.table(path))
    else:
        outcome = runner.run(config)
    for path in outcome.results:
        print(results_table(path))
    for path in outcome.results:
        print(printable(f"results: {path}"))
    if outcome.report is not None:
        print(printable(f"report: {outcome.report}"))
    if outcome.failed:
        raise IncompleteError(outcome.failed)
    return 0


def _shots(given: dict[str, Any]) -> tuple[int | None, ...]:
    return (None,) if given["num_fewshot"] is None else tuple(given["num_fewshot"])


@takes(
    SWEEP,
    {
        **dict.fromkeys(("model", "t_fast", "seed")),
        "log_samples": True,
        "ray_address": GridConfig.ray_address,
        "cell_cpus": GridConfig.cell_cpus,
    },
)
def sweep(**given: Any) -> int:
    """Run every combination of checkpoints, tasks, conditions, demonstrations, fast steps and seeds.

    Finished cells are not run again by the same command; sweep.json holds all figures.
    """
    from ltm_eval import grid

    base = run_config(given, model=None, t_fast=None, seed=RunConfig.seed, report=False)
    named = [name for part in given["model"] or () for name in ([part] if Path(part).exists() else part.split(","))]
    swept = grid.run(
        GridConfig(
            base,
            models=tuple(dict.fromkeys(filled("model", name) for name in named)) or (None,),
            t_fast=given["t_fast"] or (None,),
            shots=_shots(given),
            conditions=conditions_of(given["condition"]),
            seeds=given["seed"] or (RunConfig.seed,),
            ray_address=filled("ray_address", given["ray_address"]),
            cell_cpus=given["cell_cpus"],
        )
    )
    print(grid.table(swept))
    print(f"sweep: {swept.summary}")
    grid.check(swept)
    return 0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "ltm-eval run --task gsm8k --shots 8",
            "ltm-eval run --model ckpt_60000.pt --task gsm8k --shots 8 --baseline gpt2-large --data DIR -o results/",
            "ltm-eval run --model ltm-large/ --task gsm8k --condition demos --t_fast 16 --limit 100 --device cuda",
            "ltm-eval run --task gsm8k --n 10 --k 1,5,10",
            "ltm-eval run --task rules --condition all --shots 0,1,2,4,8",
        )
    )(run)
    app.command(
        epilog=examples(
            "ltm-eval sweep --task rules --t_fast 0,16,64 --shots 0,8 --seed 1,2 --limit 40",
            "ltm-eval sweep --model a.pt,b.pt --task gsm8k --condition demos,other --data DIR --ray_address local",
        )
    )(sweep)
