"""All figures of a page, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_eval import plots
from ltm_eval.latent_plots import latent_figures
from ltm_eval.line_plots import line_figures

if TYPE_CHECKING:
    from ltm_eval.page import PerplexitySection, ReportData, TaskSection


def page_figures(data: ReportData) -> dict[str, str]:
    """Name, which ends in the task's number, to SVG text."""
    found = dict(latent_figures(data))
    for index, task in enumerate(data.tasks, 1):
        found |= _task_figures(task, index=index)
        found |= line_figures(task, index=index)
        if task.perplexity is not None:
            found |= _perplexity_figures(task.perplexity, index=index)
    return found


def _task_figures(task: TaskSection, *, index: int) -> dict[str, str]:
    found = {}
    if task.bars:
        found[f"bars-{index}"] = plots.accuracy_bars(task.bars, name=f"bars-{index}")
    curves = [one.curve for one in task.latents if one.curve is not None]
    if curves:
        found[f"fit-{index}"] = plots.fit_trajectory(curves, name=f"fit-{index}")
    if task.generation is not None and task.generation.curves:
        name = f"divergence-{index}"
        found[name] = plots.divergence_curves(task.generation.curves, name=name)
    return found


def _perplexity_figures(section: PerplexitySection, *, index: int) -> dict[str, str]:
    found = {}
    spreads = [spread for spread in section.spreads if len(spread.values) > 1]
    if section.stacks:
        found[f"parts-{index}"] = plots.stacked_bars(section.stacks, name=f"parts-{index}")
    if spreads:
        found[f"spread-{index}"] = plots.histogram(spreads, name=f"spread-{index}")
    return found
