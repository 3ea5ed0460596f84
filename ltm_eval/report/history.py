"""Many checkpoints of a training run: every figure against the training step, and the best checkpoint of each.

The step is that of the checkpoint in the results file, else a number after `ckpt`, `checkpoint`, `step` or `iter` in
the model's name, revision or folder. Figures share a curve only if all else that their signature declares is equal.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ltm_eval.report.findings import run_banners
from ltm_eval.report.plots import inline_svg, training_curves
from ltm_eval.report.tables import (
    Cell,
    Column,
    Document,
    Drawing,
    Part,
    Table,
    interval_text,
    metric_text,
    value_cell,
    value_text,
)
from ltm_eval.results.columns import differing, word_of
from ltm_eval.results.figures import by_own_tokens, figures_of
from ltm_eval.results.views import Figure
from ltm_eval.system.errors import ResultsError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from pandas import DataFrame

    from ltm_eval.report.tables import Banner
    from ltm_eval.results.files import Run

_STEP = re.compile(r"(?<![a-z])(?:ckpt|checkpoint|global_step|step|iter)s?[-_=]?(\d{1,12})(?!\d)", re.IGNORECASE)
FREE = ("v", "lm_eval", "dtype")
"""Parts of a signature that may change along a curve."""
NO_BEST = ("as_released", "nll_given_z", "kl", "reference")
"""Rows that are no measure of quality, or no bound."""
CAVEAT = (
    "The best checkpoint is chosen on the very documents its figure is reported for, so that figure is too good: the "
    "best of several equally good checkpoints is always better than their average. Choose on validation data, and "
    "report the chosen one on other documents."
)
CURVE = ["task", "metric", "filter", "name", "settings"]
"""What the figures of a curve share."""
DROPPED = (
    "model",
    "status",
    "source",
    "first_minus_this",
    "first_minus_this_low",
    "first_minus_this_high",
    "p",
    "p_holm",
    "paired_documents",
    "first_is",
)
"""Of a figure's record, what means nothing here."""


def step_of(run: Run) -> int | None:
    """The training step of the checkpoint that a run evaluated; None where nothing tells it."""
    arguments = run.config.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {"": str(arguments or "")}
    checkpoint = run.config.get("checkpoint")
    told = [checkpoint.get("step") if isinstance(checkpoint, dict) else None, run.config.get("iter_num")]
    for value in told:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    names = (
        arguments.get("revision"),
        arguments.get("pretrained"),
        run.model_name,
        arguments.get(""),
        run.path.parent.name,
    )
    for name in names:
        found = _STEP.findall(str(name)) if name else []
        if found:
            return int(found[-1])
    return None


def name_of(run: Run) -> str:
    """The model's name without its step, so that checkpoints of one training run share it."""
    name = re.sub(r"\.(pt|pth|safetensors)$", "", run.model_name)
    return _STEP.sub("", name).strip(" -_/=,") or "checkpoints"


def curves_of(runs: Sequence[Run]) -> tuple[DataFrame, list[Run]]:
    """Return the figures of all checkpoints, and the runs without a step.

    The frame has a row for each figure and step, by task, curve and step. `curve` counts the curves, `label` names
    them; `best` marks the best step of a curve, the earliest of equals, if a direction is better.

    Raises:
        ResultsError: no run has a step.
    """
    import pandas as pd

    stepped = [(step, run) for run in runs if (step := step_of(run)) is not None]
    if not stepped:
        named = ", ".join(dict.fromkeys(run.model_name for run in runs))[:100]
        raise ResultsError(
            f"no run tells its training step ({named}); name checkpoints as ckpt_<step>.pt or step<step>"
        )
    rows: list[dict[str, Any]] = []
    for step, run in sorted(stepped, key=lambda one: (one[0], one[1].date_id)):
        name = name_of(run)
        for figure in figures_of(name, run):
            digest = figure.tokens.digest[:8] if figure.tokens is not None else ""
            own = replace(figure, model=f"{name} {digest}".strip())
            rows.append({"step": step, "run": run, "name": name, "figure": own, "task": own.task, "filter": own.filter})
    for row, figure in zip(rows, by_own_tokens([row["figure"] for row in rows]), strict=True):
        row |= {"figure": figure, "metric": figure.metric, "settings": _settings(figure), "loss": _loss(figure)}
    columns = ["step", "run", "figure", *CURVE, "loss"]
    frame = pd.DataFrame(rows, columns=columns, dtype=object).astype({"step": int, "loss": float})
    frame["curve"] = _codes([tuple(row[key] for key in CURVE) for row in rows])
    frame["figures"] = _codes([tuple(row[key] for key in CURVE[:3]) for row in rows])
    frame["family"] = _codes([tuple(row[key] for key in CURVE[:4]) for row in rows])
    frame = frame.drop_duplicates(["curve", "step"], keep="last")  # the newest of one step
    tasks = list(dict.fromkeys(task for _, run in stepped for task in run.tasks))
    frame = frame.assign(order=list(map(tasks.index, frame["task"]))).sort_values(["order", "curve", "step"])
    frame["best"] = frame.index.isin(frame.dropna(subset="loss").groupby("curve")["loss"].idxmin())
    labels = _labels(frame)
    frame["label"] = pd.Series([labels[curve] for curve in frame["curve"]], frame.index, dtype=object)
    return frame, [run for run in runs if step_of(run) is None]


def _codes(keys: Sequence[Hashable]) -> list[int]:
    """Number the keys in order of appearance: pandas groups no texts that are not valid Unicode."""
    codes: dict[Hashable, int] = {}
    return [codes.setdefault(key, len(codes)) for key in keys]


def _loss(figure: Figure) -> float:
    """Return what the best checkpoint has least of; nan if no direction is better."""
    if figure.higher_is_better is None or figure.metric.startswith(NO_BEST) or figure.value is None:
        return math.nan
    return -figure.value if figure.higher_is_better else figure.value


def _settings(figure: Figure) -> tuple[str, ...]:
    parts = tuple(part for part in figure.signature.split("|")[1:] if part.partition(":")[0] not in FREE)
    tokens = (f"tokens:{figure.tokens.digest[:8]}",) if figure.tokens is not None and figure.tokens.digest else ()
    return (*parts, *tokens, f"documents:{figure.n}")


def _labels(frame: DataFrame) -> dict[int, str]:
    """Return a name for each curve: its training run, and in what several curves of one figure differ."""
    labels: dict[int, str] = {}
    for _, same in frame.drop_duplicates("curve").groupby("family", sort=False):
        settings = [dict(part.partition(":")[::2] for part in parts) for parts in same["settings"]]
        names = differing(settings)
        if "documents" in names and "limit" in names:
            names.remove("limit")
        taken: list[str] = []
        for curve, own in zip(same["curve"], settings, strict=True):
            label = " · ".join((same["name"].iloc[0], *(word_of(one, own[one]) for one in names if one in own)))
            taken.append(label if label not in taken else f"{label} #{len(taken) + 1}")
            labels[curve] = taken[-1]
    return labels


def document(runs: Sequence[Run]) -> Document:
    """Return the history of `runs`.

    Raises:
        ResultsError: no runs, or none with a step or a figure.
    """
    frame, without = curves_of(runs)
    if frame.empty:
        raise ResultsError("no run holds a figure to plot: answers of --predict_only have no score; run without it")
    stepped = [(run.model_name, run) for run in runs if run not in without]
    names = list(dict.fromkeys(name_of(run) for _, run in stepped))
    steps = sorted(set(frame["step"]))
    parts = [_best_part(frame)]
    for index, (_, own) in enumerate(frame.groupby("order"), 1):
        task = own["task"].iloc[0]
        parts.append(Part(task, (), tuple(_step_tables(own)), tuple(_drawings(task, own, index))))
    if without:
        rows = tuple((Cell(run.model_name), Cell(run.path.as_posix())) for run in without)
        table = Table("", (Column("model"), Column("results")), rows)
        parts.append(Part("Left out: no training step", ("Nothing in these results tells a step.",), (table,)))
    records = tuple(_record(row) for row in frame.itertuples())
    sizes = frame.groupby("curve").size()
    return Document(
        kind="history",
        title=f"History of {', '.join(names)}",
        lead=f"{len(steps):,} checkpoints, training steps {steps[0]:,} to {steps[-1]:,}. ≤ marks upper bounds.",
        banners=tuple(_unique_banners(stepped)),
        parts=tuple(parts),
        records=records,
        data={
            "points": list(records),
            "best": [
                {
                    **{key: getattr(row, key) for key in CURVE[:3]},
                    "training_run": row.label,
                    "step": row.step,
                    "value": row.figure.value,
                    "checkpoints": int(sizes[row.curve]),
                }
                for row in frame[frame["best"]].itertuples()
            ],
            "caveat": CAVEAT,
            "without_step": [run.path.as_posix() for run in without],
        },
    )


def _record(row: Any) -> dict[str, Any]:
    head = {
        "training_run": row.label,
        "step": row.step,
        "date": row.run.date_id,
        "path": row.run.path.as_posix(),
    }
    return {**head, **{key: value for key, value in row.figure.record().items() if key not in DROPPED}}


def _unique_banners(named: Sequence[tuple[str, Run]]) -> list[Banner]:
    """Return the warnings of all checkpoints, those of one name once."""
    unique: dict[tuple[str, Any], tuple[str, Run]] = {}
    for label, run in named:
        unique.setdefault((label, run.extra.audit), (label, run))
    return run_banners(list(unique.values()))


def _best_part(frame: DataFrame) -> Part:
    heads = ("task", "figure", "training run", "best step", "value", "95 % interval", "last step", "value")
    rows = []
    for _, curve in frame.groupby("curve", sort=False):
        last = curve.iloc[-1]
        if len(curve) < 2 or not curve["best"].any() or not _is_plotted(last.figure):
            continue
        best = curve[curve["best"]].iloc[0]
        low, high = best.figure.low, best.figure.high
        inside = best.step != last.step and low is not None and high is not None and low <= last.figure.value <= high
        rows.append(
            (
                Cell(best.task),
                Cell(metric_text(best.figure)),
                Cell(best.label),
                Cell(f"{best.step:,}"),
                Cell(value_text(best.figure), kind="better"),
                Cell(interval_text(best.figure)),
                Cell(f"{last.step:,}"),
                Cell(value_text(last.figure), note="inside the best's interval" if inside else ""),
                Cell(f"{len(curve):,}"),
            )
        )
    columns = tuple(Column(head, numeric=index > 2) for index, head in enumerate((*heads, "checkpoints")))
    sentences = (CAVEAT,) if rows else ("One checkpoint only, or no figure with a direction: nothing to choose from.",)
    return Part("Best checkpoint", sentences, (Table("", columns, tuple(rows)),) if rows else ())


def _is_plotted(figure: Figure) -> bool:
    row, _, unit = figure.metric.rpartition(", ")
    return not row or unit == "bits per byte"


def _drawings(task: str, frame: DataFrame, index: int) -> Iterator[Drawing]:
    drawn = frame[frame["figure"].map(_is_plotted)]
    for number, (_, same) in enumerate(drawn.groupby("figures", sort=False), 1):
        curves = [
            (curve["label"].iloc[0], list(zip(curve["step"], curve["figure"], strict=True)))
            for _, curve in same.groupby("curve", sort=False)
        ]
        head = same["figure"].iloc[0]
        name = metric_text(head)
        axis = name if len(name) <= 42 else f"{name[:41]}…"
        plot = training_curves(curves, axis=axis + (", percent" if head.share else ""))
        svg = inline_svg(plot, name=f"h{number}-{index}")
        yield Drawing(svg, f"{task}: {name} against the training step, with 95 % intervals.")


def _step_tables(frame: DataFrame) -> Iterator[Table]:
    """Return a table per training run and settings: a row per step, a column per figure."""
    for _, own in frame.groupby(_codes(list(frame["label"]))):
        table = own.pivot(index="step", columns="curve", values=["figure", "best"])
        columns = [Column("step", numeric=True)]
        columns += [Column(metric_text(one), numeric=True) for one in own.drop_duplicates("curve")["figure"]]
        rows = [
            (
                Cell(f"{step:,}"),
                *(
                    value_cell(found if isinstance(found, Figure) else None, best=best is True)
                    for found, best in zip(line["figure"], line["best"], strict=True)
                ),
            )
            for step, line in table.iterrows()
        ]
        counts = sorted({figure.n for figure in own["figure"] if figure.n is not None})
        documents = f" {', '.join(f'{count:,}' for count in counts)} documents." if counts else ""
        caption = f"In small type 95 % intervals; the best of a column is bold.{documents}"
        yield Table(own["label"].iloc[0], tuple(columns), tuple(rows), caption)
