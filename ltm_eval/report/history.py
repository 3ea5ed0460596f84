"""Many runs: every figure against the training step, or what else sets models apart, and the best checkpoint of each.

The step is that of the checkpoint in the results file, else a number after `ckpt`, `checkpoint`, `step` or `iter` in
the model's name, revision or folder. Figures share a curve only if all else that their signature declares is equal.
What a curve joins depends on the horizontal axis: checkpoints of one training run (`step`, `tokens`, `flops`), runs of
one checkpoint (`t_fast`), models of one size (`n_z`) or all models of one kind (`parameters`), of each training run the
last.
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
from ltm_eval.system.errors import ResultsError, check_choice
from ltm_eval.system.records import finite, mapping

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from pandas import DataFrame

    from ltm_eval.report.tables import Banner
    from ltm_eval.results.files import Run

AXES = {
    "step": "training step",
    "tokens": "training tokens",
    "flops": "training FLOPs",
    "t_fast": "fast steps",
    "n_z": "latent vectors N_z",
    "parameters": "parameters",
}
"""Horizontal axis, by the value of `--x`."""
OF_TRAINING = ("step", "tokens", "flops")
"""Axes along which one model is trained."""
OF_MODEL = ("n_z", "parameters")
"""Axes along which models differ."""
TO_TELL = {
    "step": "name checkpoints as ckpt_<step>.pt or step<step>",
    **dict.fromkeys(
        ("tokens", "flops"),
        "put training_compute.json beside the checkpoint or give --metadata "
        '\'{"training_tokens": N, "training_flops": N}\' when it is evaluated',
    ),
    "t_fast": "only Latent Thought Models fitted in a fixed number of steps have them",
    "n_z": "only Latent Thought Models have them",
    "parameters": "evaluate with ltm-eval or lm-eval's hf, which record them",
}
"""What gives a run its place on the axis."""
_STEP = re.compile(r"(?<![a-z])(?:ckpt|checkpoint|global_step|step|iter)s?[-_=]?(\d{1,12})(?!\d)", re.IGNORECASE)
FREE = ("v", "lm_eval", "dtype")
"""Parts of a signature that may change along a curve."""
NO_BEST = ("as_released", "nll_given_z", "kl", "reference")
"""Rows that are no measure of quality, or no bound."""
TOGETHER = ("bound, bits per byte", "exact, bits per byte", "causal, bits per byte")
"""Figures of LTMs and of other models that one plot may show."""
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
    told.append(training_of(run).get("step"))
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


def training_of(run: Run) -> Mapping[str, Any]:
    """Return what the run says of its model's training: `tokens`, `flops`, `formula`, `step`, as far as it does."""
    return mapping(mapping(run.config.get("checkpoint")).get("training")) | mapping(run.config.get("training"))


def position_of(run: Run, x: str) -> float | None:
    """Return the place of a run on an axis of `AXES`; None if the run does not tell it."""
    fit, sizes = mapping(run.config.get("fit")), mapping(run.config.get("sizes"))
    if x == "step":
        return step_of(run)
    if x in OF_TRAINING:
        return finite(training_of(run).get(x))
    if x == "t_fast":
        return None if fit.get("adaptive") else finite(fit.get("t_fast"))
    return finite(sizes.get("max_z_len") if x == "n_z" else run.config.get("model_num_parameters"))


def name_of(run: Run) -> str:
    """The model's name without its step, so that checkpoints of one training run share it."""
    name = re.sub(r"\.(pt|pth|safetensors)$", "", run.model_name)
    name = _STEP.sub("", name).strip(" -_/=,")
    return re.sub(r"/(final|intermediate)$", "", name) or "checkpoints"  # the folders of `train`


def _curve_name(run: Run, x: str) -> str:
    """Return the name of the curve that a run lies on."""
    if x in OF_TRAINING:
        return name_of(run)
    if x == "t_fast":
        step = step_of(run)
        return name_of(run) if step is None else f"{name_of(run)} · step {step:,}"
    kind = "LTM" if run.model_kind == "ltm" else run.model_kind or "model"
    parameters = position_of(run, "parameters") if x == "n_z" else None
    return kind if parameters is None else f"{kind}, {parameters:,.0f} parameters"


def curves_of(runs: Sequence[Run], x: str = "step") -> tuple[DataFrame, list[Run]]:
    """Return the figures of all runs that tell their place on the axis `x`, and the other runs.

    The frame has a row for each figure and place, by task, curve and place, which stands in the column `x` is the name
    of. `curve` counts the curves, `label` names them, `run_name` names the training run of a point; `best` marks the
    best step of a curve, the earliest of equals, if a direction is better.

    Raises:
        ResultsError: no run tells its place.
    """
    import pandas as pd

    placed = [(place, run) for run in runs if (place := position_of(run, x)) is not None]
    if not placed:
        named = ", ".join(dict.fromkeys(run.model_name for run in runs))[:100]
        raise ResultsError(f"no run tells its {AXES[x]} ({named}); {TO_TELL[x]}")
    rows: list[dict[str, Any]] = []
    for place, run in sorted(placed, key=lambda one: (one[0], step_of(one[1]) or 0, one[1].date_id)):
        name = _curve_name(run, x)
        for figure in figures_of(name, run):
            digest = figure.tokens.digest[:8] if figure.tokens is not None else ""
            own = replace(figure, model=f"{name} {digest}".strip())
            row = {x: place, "run": run, "run_name": name_of(run), "name": name, "figure": own}
            rows.append({**row, "task": own.task, "filter": own.filter})
    for row, figure in zip(rows, by_own_tokens([row["figure"] for row in rows]), strict=True):
        row |= {"figure": figure, "metric": figure.metric, "settings": _settings(figure, x), "loss": _loss(figure)}
    columns = [x, "run", "run_name", "figure", *CURVE, "loss"]
    frame = pd.DataFrame(rows, columns=columns, dtype=object).astype({x: int if x == "step" else float, "loss": float})
    frame["curve"] = _codes([tuple(row[key] for key in CURVE) for row in rows])
    frame["figures"] = _codes([tuple(row[key] for key in CURVE[:3]) for row in rows])
    frame["family"] = _codes([tuple(row[key] for key in CURVE[:4]) for row in rows])
    frame["point"] = _codes([(row["run_name"] if x in OF_MODEL else "", row[x]) for row in rows])
    frame = frame.drop_duplicates(["curve", "point"], keep="last")  # the last step, and the newest of one step
    tasks = list(dict.fromkeys(task for _, run in placed for task in run.tasks))
    frame = frame.assign(order=list(map(tasks.index, frame["task"]))).sort_values(["order", "curve", x])
    frame["best"] = frame.index.isin(frame.dropna(subset="loss").groupby("curve")["loss"].idxmin())
    labels = _labels(frame)
    frame["label"] = pd.Series([labels[curve] for curve in frame["curve"]], frame.index, dtype=object)
    return frame, [run for run in runs if position_of(run, x) is None]


def _codes(keys: Sequence[Hashable]) -> list[int]:
    """Number the keys in order of appearance: pandas groups no texts that are not valid Unicode."""
    codes: dict[Hashable, int] = {}
    return [codes.setdefault(key, len(codes)) for key in keys]


def _loss(figure: Figure) -> float:
    """Return what the best checkpoint has least of; nan if no direction is better."""
    if figure.higher_is_better is None or figure.metric.startswith(NO_BEST) or figure.value is None:
        return math.nan
    return -figure.value if figure.higher_is_better else figure.value


def _settings(figure: Figure, x: str) -> tuple[str, ...]:
    free = {*FREE, x}  # of these, t_fast alone is part of a signature
    parts = tuple(part for part in figure.signature.split("|")[1:] if part.partition(":")[0] not in free)
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


def document(runs: Sequence[Run], x: str = "step") -> Document:
    """Return the figures of `runs` against an axis of `AXES`.

    Raises:
        UsageError: there is no such axis.
        ResultsError: no runs, or none that tells its place on the axis or has a figure.
    """
    check_choice("--x", x, tuple(AXES))
    frame, without = curves_of(runs, x)
    if frame.empty:
        raise ResultsError("no run holds a figure to plot: answers of --predict_only have no score; run without it")
    placed = [(run.model_name, run) for run in runs if run not in without]
    names = list(dict.fromkeys(name_of(run) for _, run in placed))
    places = sorted(set(frame[x]))
    parts = [_best_part(frame, x)] if x in OF_TRAINING else []
    for index, (_, own) in enumerate(frame.groupby("order"), 1):
        task = own["task"].iloc[0]
        parts.append(Part(task, (), tuple(_point_tables(own, x)), tuple(_drawings(task, own, index, x))))
    if without:
        rows = tuple((Cell(run.model_name), Cell(run.path.as_posix())) for run in without)
        table = Table("", (Column("model"), Column("results")), rows)
        sentence = f"Nothing in these results tells {'a step' if x == 'step' else f'their {AXES[x]}: {TO_TELL[x]}'}."
        parts.append(Part(f"Left out: no {AXES[x]}", (sentence,), (table,)))
    records = tuple(_record(row, x) for row in frame.itertuples())
    sizes = frame.groupby("curve").size()
    return Document(
        kind="history",
        title=f"History of {', '.join(names)}",
        lead=_lead(placed, places, x),
        banners=tuple(_unique_banners(placed)),
        parts=tuple(parts),
        records=records,
        data={
            "points": list(records),
            "best": [
                {
                    **{key: getattr(row, key) for key in CURVE[:3]},
                    "training_run": row.label,
                    x: getattr(row, x),
                    "value": row.figure.value,
                    "checkpoints": int(sizes[row.curve]),
                }
                for row in frame[frame["best"]].itertuples()
                if x in OF_TRAINING
            ],
            "caveat": CAVEAT,
            "without_step": [run.path.as_posix() for run in without],
        },
    )


def _lead(placed: Sequence[tuple[str, Run]], places: Sequence[float], x: str) -> str:
    """Return what the document shows, in a sentence, and how FLOPs were counted."""
    between = f"{_place_text(places[0], x)} to {_place_text(places[-1], x)}"
    if x == "step":
        return f"{len(places):,} checkpoints, training steps {between}. ≤ marks upper bounds."
    found = f"Figures against {AXES[x]}, {between}. ≤ marks upper bounds."
    formulas = {str(training_of(run).get("formula") or "not recorded") for _, run in placed}
    if x != "flops":
        return found
    if len(formulas) > 1:
        return f"{found} FLOPs were counted in different ways, so curves may be apart for that: {'; '.join(formulas)}."
    return f"{found} FLOPs: {formulas.pop()}."


def _place_text(place: float, x: str) -> str:
    return f"{place:.4g}" if x == "flops" else f"{place:,.0f}"


def _record(row: Any, x: str) -> dict[str, Any]:
    head = {
        "training_run": row.label,
        **({} if x == "step" else {"model": row.run_name, x: getattr(row, x)}),
        "step": step_of(row.run),
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


def _best_part(frame: DataFrame, x: str) -> Part:
    at = "step" if x == "step" else AXES[x].removeprefix("training ")
    heads = ("task", "figure", "training run", f"best {at}", "value", "95 % interval", f"last {at}", "value")
    rows = []
    for _, curve in frame.groupby("curve", sort=False):
        last = curve.iloc[-1]
        if len(curve) < 2 or not curve["best"].any() or not _is_plotted(last.figure):
            continue
        best = curve[curve["best"]].iloc[0]
        low, high = best.figure.low, best.figure.high
        inside = best[x] != last[x] and low is not None and high is not None and low <= last.figure.value <= high
        rows.append(
            (
                Cell(best.task),
                Cell(metric_text(best.figure)),
                Cell(best.label),
                Cell(_place_text(best[x], x)),
                Cell(value_text(best.figure), kind="better"),
                Cell(interval_text(best.figure)),
                Cell(_place_text(last[x], x)),
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


def _drawings(task: str, frame: DataFrame, index: int, x: str) -> Iterator[Drawing]:
    """Yield a plot of each figure; but for training steps, bits per byte of all models share one, each by its row."""
    drawn = frame[frame["figure"].map(_is_plotted)]
    rows = [one.metric.partition(", ")[0] if x != "step" and one.metric in TOGETHER else "" for one in drawn["figure"]]
    keys = [("", "") if row else key for row, key in zip(rows, drawn["figures"], strict=True)]
    for number, (_, same) in enumerate(drawn.assign(row=rows).groupby(_codes(keys), sort=False), 1):
        curves = [
            (
                " · ".join(filter(None, (curve["label"].iloc[0], curve["row"].iloc[0]))),
                list(zip(curve[x], curve["figure"], strict=True)),
            )
            for _, curve in same.groupby("curve", sort=False)
        ]
        head = same["figure"].iloc[0]
        name = "bits per byte" if same["row"].iloc[0] else metric_text(head)
        axis = name if len(name) <= 42 else f"{name[:41]}…"
        plot = training_curves(curves, x=AXES[x], axis=axis + (", percent" if head.share else ""))
        svg = inline_svg(plot, name=f"h{number}-{index}")
        against = "the training step" if x == "step" else AXES[x]
        yield Drawing(svg, f"{task}: {name} against {against}, with 95 % intervals.")


def _point_tables(frame: DataFrame, x: str) -> Iterator[Table]:
    """Return a table per training run and settings: a row per place on the axis, a column per figure."""
    for _, own in frame.groupby(_codes(list(frame["label"]))):
        table = own.pivot(index=[x, "point"], columns="curve", values=["figure", "best"])
        columns = [Column("step" if x == "step" else AXES[x], numeric=True)]
        columns += [Column("model")] if x in OF_MODEL else []
        columns += [Column(metric_text(one), numeric=True) for one in own.drop_duplicates("curve")["figure"]]
        names = dict(zip(own["point"], own["run_name"], strict=True))
        rows = [
            (
                Cell(_place_text(place, x)),
                *((Cell(names[point]),) if x in OF_MODEL else ()),
                *(
                    value_cell(found if isinstance(found, Figure) else None, best=best is True)
                    for found, best in zip(line["figure"], line["best"], strict=True)
                ),
            )
            for (place, point), line in table.iterrows()
        ]
        counts = sorted({figure.n for figure in own["figure"] if figure.n is not None})
        documents = f" {', '.join(f'{count:,}' for count in counts)} documents." if counts else ""
        caption = f"In small type 95 % intervals; the best of a column is bold.{documents}"
        yield Table(own["label"].iloc[0], tuple(columns), tuple(rows), caption)
