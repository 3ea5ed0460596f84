"""Search behind the preset `bound`: fresh-noise bound after few fast steps, by start, rate, schedule and noise.

    python benchmarks/bound_preset.py                        # models and texts in the repository
    python benchmarks/bound_preset.py --models demo ckpt_60000.pt --sets wikitext,ptb --data DIR --output tuning/

With `--sets`, every model is measured on pieces of every set; otherwise on its own texts: the two released fixtures on
their recorded texts, an untrained decoder on samples from itself at z ~ N(0, I), the bundled demo model on the bundled
problems. A step with several draws costs as many passes, so settings are compared at equal steps and at equal
evaluations (steps times draws). A setting's regret is its bound minus the best that any setting reached on
the same texts at the same count, in nats per token.

Prints Markdown; `--output` receives `bound_preset.csv` (one row per measurement) and `bound_preset.png`.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from ltm_eval.data import sets as texts
from ltm_eval.inference.audit import untrained_model
from ltm_eval.inference.batching import Batch
from ltm_eval.inference.bounds import fresh_draws
from ltm_eval.inference.options import PRESETS, FitConfig, Noise, fit_config
from ltm_eval.inference.posterior import fast_loop
from ltm_eval.inference.windows import Document, Start, Window, document_noise
from ltm_eval.model.checkpoint import load, load_with_tokenizer
from ltm_eval.system.errors import LtmEvalError, UsageError, error_line
from ltm_eval.system.files import assets_dir, sample_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from matplotlib.axes import Axes

    from ltm_eval.model.decoder import LatentThoughtModel
    from ltm_eval.model.tokenizer import Tokenizer

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "data"
OWN_TEXTS = ("released_a", "released_b", "untrained", "demo")
SEED = 1234
SHOWN = 12
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")


class Setting(NamedTuple):
    """One way to fit."""

    log_var_start: float
    lr: float
    schedule: str
    noise: Noise
    draws: int

    def config(self, t_fast: int) -> FitConfig:
        final = self.lr if self.schedule == "constant" else self.lr / 10
        return fit_config(
            "bound",
            t_fast=t_fast,
            lr=self.lr,
            lr_final=final,
            log_var_start=self.log_var_start,
            noise=self.noise,
            draws=self.draws,
        )

    @property
    def kind(self) -> str:
        """Noise and number of draws, as in `antithetic 2`."""
        return f"{self.noise} {self.draws}"


@dataclass(frozen=True)
class Grid:
    """The settings to measure, and the numbers of evaluations."""

    settings: tuple[Setting, ...]
    counts: tuple[int, ...]
    """Numbers of fast steps, and of evaluations: with S draws, a setting is also measured after 1/S of the steps."""

    def steps(self, setting: Setting) -> list[int]:
        shared = {count // setting.draws for count in self.counts if count >= setting.draws}
        return sorted(shared | set(self.counts))


KINDS: tuple[tuple[Noise, int], ...] = (("fresh", 1), ("fresh", 2), ("antithetic", 2), ("fresh", 4), ("antithetic", 4))
"""Noise and draws."""


def small_grid() -> Grid:
    """Starts and rates with a falling rate, rates with a constant one, pairs of draws at two rates: 2,016 passes."""
    single = [Setting(start, lr, "cosine", "fresh", 1) for start in (-5.0, -2.0, 0.0) for lr in (0.03, 0.1, 0.3)]
    single += [Setting(0.0, lr, "constant", "fresh", 1) for lr in (0.03, 0.1, 0.3)]
    pairs = [Setting(0.0, lr, "cosine", noise, 2) for lr in (0.1, 0.3) for noise in ("fresh", "antithetic")]
    return Grid((*single, *pairs), (4, 16, 64))


def full_grid() -> Grid:
    """All combinations, plus the released fixed noise."""
    plain = itertools.product((-5.0, -2.0, -1.0, 0.0), (0.03, 0.1, 0.3), ("constant", "cosine"))
    kinds: tuple[tuple[Noise, int], ...] = (*KINDS, ("fixed", 1))
    return Grid(tuple(Setting(*one, *kind) for one in plain for kind in kinds), (4, 8, 16, 32, 64, 128))


GRIDS = {"small": small_grid, "full": full_grid}


# Models and texts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model and the texts it is measured on, all of one length."""

    model_name: str
    set_name: str
    model: LatentThoughtModel
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    models: tuple[str, ...]
    sets: tuple[str, ...]
    data: str | None
    texts: int
    tokens: int
    grid: Grid
    output: Path | None


def cases(options: Options) -> Iterator[Case]:
    """Yield every model with each of the sets, or with its own texts."""
    for name in options.models:
        if not options.sets:
            yield own_case(name, options)
            continue
        model, tokenizer = load_with_tokenizer(name)
        for set_name in options.sets:
            documents = set_documents(set_name, tokenizer, options)
            yield Case(Path(name).name, set_name, model, tuple(documents))


def own_case(name: str, options: Options) -> Case:
    """Return a model with its own texts."""
    if name not in OWN_TEXTS:
        raise UsageError(f"{name} has no texts of its own; name sets with --sets, or one of {', '.join(OWN_TEXTS)}")
    found = fixture(name) if name.startswith("released") else untrained() if name == "untrained" else demo(options)
    return Case(name, "own texts", found[0], tuple(found[1]))


def fixture(name: str) -> tuple[LatentThoughtModel, list[Document]]:
    """Return a released checkpoint with the texts of its recorded reference."""
    expected = np.load(FIXTURES / name / "expected.npz")
    pairs = zip(expected["X"].tolist(), expected["Y"].tolist(), strict=True)
    return load(FIXTURES / name / "ckpt_1000.pt"), [Document((Window(tuple(x), tuple(y)),)) for x, y in pairs]


def untrained(pieces: int = 3, length: int = 64) -> tuple[LatentThoughtModel, list[Document]]:
    """Return a random decoder with samples from it, each at its own latents."""
    model, stream = untrained_model(), torch.Generator().manual_seed(SEED)
    z = torch.randn(pieces, *model.config.latent_shape, generator=stream)
    tokens = torch.zeros(pieces, 1, dtype=torch.long)
    for _ in range(length):
        shares = model(tokens, z)[:, -1].softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(shares, 1, generator=stream)], dim=1)
    return model, [document_of(row) for row in tokens.tolist()]


def demo(options: Options) -> tuple[LatentThoughtModel, list[Document]]:
    """Return the bundled model with bundled problems, cut to one length."""
    model, tokenizer = load_with_tokenizer("demo")
    lines = (sample_data_dir() / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines()
    text = "\n\n".join(f"Question: {row['question']}\nAnswer: {row['answer']}" for row in map(json.loads, lines))
    ids = tokenizer.encode(text)
    starts = range(0, options.texts * options.tokens, options.tokens)
    return model, [document_of([tokenizer.eot_id, *ids[start : start + options.tokens]]) for start in starts]


def set_documents(name: str, tokenizer: Tokenizer, options: Options) -> list[Document]:
    """Return pieces of `tokens` tokens from evenly spaced positions in the set, each after an end-of-text."""
    wholes = ["".join(parts) for parts in texts.documents(texts.load_texts(name, data=options.data))]
    found = []
    for piece in range(options.texts):
        ids: list[int] = []
        for whole in wholes[piece * len(wholes) // options.texts :]:
            ids += tokenizer.encode(whole)
            if len(ids) >= options.tokens:
                break
        if len(ids) < options.tokens:
            raise UsageError(
                f"{name} has no {options.tokens} tokens at its place {piece + 1}; lower --tokens or --texts"
            )
        found.append(document_of([tokenizer.eot_id, *ids[: options.tokens]]))
    return found


def document_of(ids: Sequence[int]) -> Document:
    """Every token but the first is scored."""
    return Document((Window(tuple(ids[:-1]), tuple(ids[1:])),))


# Measuring -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """One row of the CSV."""

    model: str
    texts: str
    log_var_start: float
    lr: float
    schedule: str
    noise: Noise
    draws: int
    t_fast: int
    evaluations: int
    """Fast steps times draws: passes forward and back."""
    bound_nats_per_token: float
    """Mean over 8 fresh draws."""
    stderr_nats_per_token: float
    """Of those draws."""
    fit_seconds: float

    @property
    def setting(self) -> Setting:
        return Setting(self.log_var_start, self.lr, self.schedule, self.noise, self.draws)

    @property
    def case(self) -> str:
        return f"{self.model}, {self.texts}"


def measure(case: Case, setting: Setting, t_fast: int) -> Measurement:
    """Return the bound of one setting after `t_fast` steps; the texts share a batch."""
    config = setting.config(t_fast)
    shape = (len(case.documents), *case.model.config.latent_shape)
    start = Start(torch.zeros(shape), torch.full(shape, config.log_var_start))
    began = time.perf_counter()
    noise = document_noise(case.model, case.documents, config, SEED)
    fitted = fast_loop(Batch.of(case.model, case.documents), start, noise, config)
    seconds = time.perf_counter() - began
    drawn = fresh_draws(case.model, case.documents, fitted, seed=SEED)
    tokens = sum(len(document.windows[0].targets) for document in case.documents)
    return Measurement(
        case.model_name,
        case.set_name,
        *setting,
        t_fast=t_fast,
        evaluations=t_fast * setting.draws,
        bound_nats_per_token=sum(one.bound.nats for one in drawn) / tokens,
        stderr_nats_per_token=math.hypot(*(one.bound.stderr_nats or 0.0 for one in drawn)) / tokens,
        fit_seconds=seconds,
    )


def measured(case: Case, grid: Grid) -> list[Measurement]:
    """Measure the whole grid on one case."""
    return [measure(case, setting, steps) for setting in grid.settings for steps in grid.steps(setting)]


def regrets(found: Sequence[Measurement], counts: Sequence[int], *, by: str) -> dict[Setting, list[float]]:
    """Return the mean regret over cases at each count of `t_fast` or `evaluations`, by measured setting."""
    of_setting: dict[Setting, list[float]] = {}
    for count in counts:
        here = [one for one in found if getattr(one, by) == count]
        best = {
            case: min(one.bound_nats_per_token for one in here if one.case == case) for case in {o.case for o in here}
        }
        for setting in dict.fromkeys(one.setting for one in here):
            own = [one.bound_nats_per_token - best[one.case] for one in here if one.setting == setting]
            of_setting.setdefault(setting, []).append(sum(own) / len(own))
    return {setting: values for setting, values in of_setting.items() if len(values) == len(counts)}


# Showing -------------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def cells(setting: Setting) -> list[str]:
    return [f"{setting.log_var_start:g}", f"{setting.lr:g}", setting.schedule, setting.noise, str(setting.draws)]


HEAD = ["log_var", "lr", "schedule", "noise", "draws"]


def print_case(case: Case, found: Sequence[Measurement], grid: Grid, seconds: float) -> None:
    bounds = {(one.setting, one.t_fast): one.bound_nats_per_token for one in found}
    noise = max(one.stderr_nats_per_token for one in found)
    print(f"### {case.model_name}, {case.set_name}: bound, nats per token (noise up to {noise:.3f}; {seconds:.0f} s)\n")
    rows = ([*cells(s), *(f"{bounds[s, count]:.3f}" for count in grid.counts)] for s in grid.settings)
    print(table([*HEAD, *(f"t_fast {count}" for count in grid.counts)], rows), flush=True)


def print_regrets(found: Sequence[Measurement], grid: Grid) -> None:
    n_cases = len({one.case for one in found})
    for by, words in (("t_fast", "fast steps"), ("evaluations", "evaluations")):
        of_setting = regrets(found, grid.counts, by=by)
        order = sorted(of_setting, key=lambda setting: sum(of_setting[setting]))
        print(f"### mean regret over {n_cases} cases at equal {words}, best {min(SHOWN, len(order))} of {len(order)}\n")
        rows = ([*cells(s), *(f"{value:.3f}" for value in of_setting[s])] for s in order[:SHOWN])
        print(table([*HEAD, *(f"{count} {words}" for count in grid.counts)], rows))


def write_csv(found: Sequence[Measurement], path: Path) -> None:
    rows = [asdict(one) for one in found]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_figure(found: Sequence[Measurement], path: Path) -> None:
    """Plot one row of axes per case: bound against fast steps and against evaluations."""
    names = list(dict.fromkeys(one.case for one in found))
    figure = Figure(figsize=(11, 3.6 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False, sharey="row")
    for row, name in enumerate(names):
        of_case = [one for one in found if one.case == name]
        for column, (by, words) in enumerate((("t_fast", "fast steps"), ("evaluations", "evaluations"))):
            draw(axes[row, column], of_case, by=by)
            axes[row, column].set_xlabel(words)
        axes[row, 0].set_ylabel("bound, nats per token")
        axes[row, 0].set_title(name, loc="left")
    axes[0, 1].legend(fontsize="small")
    figure.savefig(path, dpi=150)


def draw(axes: Axes, found: Sequence[Measurement], *, by: str) -> None:
    """Plot every setting in grey, each kind of noise at its best common setting, and the preset."""
    kinds = list(dict.fromkeys(one.setting.kind for one in found))
    others = {one.setting[:3]: set[str]() for one in found}
    for one in found:
        others[one.setting[:3]].add(one.setting.kind)
    for i, setting in enumerate(dict.fromkeys(one.setting for one in found)):
        label = None if i else "every setting"
        axes.plot(*points(found, by=by, among=[setting]), color="0.8", linewidth=0.8, zorder=1, label=label)
    for kind, colour in zip(kinds, itertools.cycle(COLOURS), strict=False):
        among = [s for one in found if (s := one.setting).kind == kind and len(others[s[:3]]) == len(kinds)]
        axes.plot(*points(found, by=by, among=among), color=colour, marker="o", markersize=3, label=kind)
    preset = PRESETS["bound"]
    schedule = "constant" if preset.lr == preset.lr_final else "cosine"
    present = [Setting(preset.log_var_start, preset.lr, schedule, preset.noise, preset.draws)]
    axes.plot(*points(found, by=by, among=present), color="black", linestyle=":", label="preset bound")
    values = sorted(one.bound_nats_per_token for one in found)
    margin = 0.05 * (values[3 * len(values) // 4] - values[0]) + 1e-9
    axes.set_ylim(values[0] - margin, values[3 * len(values) // 4] + margin)  # a quarter of the grid is far above
    axes.set_xscale("log", base=2)


def points(found: Sequence[Measurement], *, by: str, among: Sequence[Setting]) -> tuple[list[int], list[float]]:
    """Return the counts, and the lowest bound of `among` at each."""
    lowest: dict[int, float] = {}
    for one in found:
        if one.setting in among:
            count = getattr(one, by)
            lowest[count] = min(lowest.get(count, one.bound_nats_per_token), one.bound_nats_per_token)
    counts = sorted(lowest)
    return counts, [lowest[count] for count in counts]


# Command -------------------------------------------------------------------------------------------------------------


def options_of(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", metavar="PATH", help=f"checkpoints, or {', '.join(OWN_TEXTS)}")
    parser.add_argument("--sets", default="", help=f"of {', '.join(texts.TEXT_SETS)}, joined by commas")
    parser.add_argument("--data", metavar="DIR", help="where the sets lie; else LTM_EVAL_DATA_DIR or the hub")
    parser.add_argument("--texts", type=int, default=4, metavar="N", help="pieces of each set")
    parser.add_argument("--tokens", type=int, default=128, metavar="T", help="tokens of a piece")
    parser.add_argument("--grid", choices=list(GRIDS), default="small")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for table and figure")
    found = parser.parse_args(arguments)
    if found.texts < 1 or found.tokens < 2:
        parser.error("--texts must be at least 1 and --tokens at least 2")
    there = tuple(name for name in OWN_TEXTS if name != "demo" or (assets_dir() / "ltm-demo").is_dir())
    sets = tuple(name for name in found.sets.split(",") if name)
    models = tuple(found.models or (("demo",) if sets else there))
    return Options(models, sets, found.data, found.texts, found.tokens, GRIDS[found.grid](), found.output)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    torch.set_num_threads(1)
    found: list[Measurement] = []
    for case in cases(options):
        began = time.perf_counter()
        own = measured(case, options.grid)
        found += own
        print_case(case, own, options.grid, time.perf_counter() - began)
        if options.output is not None:  # after every case, so that an interruption keeps what is measured
            options.output.mkdir(parents=True, exist_ok=True)
            write_csv(found, options.output / "bound_preset.csv")
            write_figure(found, options.output / "bound_preset.png")
    print_regrets(found, options.grid)


if __name__ == "__main__":
    try:
        main()
    except LtmEvalError as error:
        sys.exit(error_line(error))
