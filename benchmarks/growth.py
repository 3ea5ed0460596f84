"""Growth of a fast step's time with its sizes, and its distribution over kernels.

    OMP_NUM_THREADS=1 python benchmarks/growth.py --size demo --tokens 1024 --rounds 3 --cpu_time --output figures/

Prints the share of matrix products, attention and the rest in a step's kernels (`torch.profiler`) and the exponents of
time against t_fast, length, layers, batch and vocabulary; `growth.svg` goes to the output folder.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from torch.profiler import ProfilerActivity, profile

from ltm_eval.inference.bench import DTYPES, SIZES, Bench, BenchConfig, heading, markdown
from ltm_eval.system.device import resolve_device
from ltm_eval.system.files import write_text_atomic
from ltm_eval.system.threads import one_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from ltm_eval.model.config import ModelConfig

# Parts of the names of attention kernels: ours on a CPU and the fused ones.
ATTENTION = ("scaled_dot_product", "bmm", "_softmax_backward_data")
PRODUCTS = ("gemm", "cutlass", "nvjet")


def shares(bench: Bench, step: Callable[[], object]) -> tuple[float, float, float]:
    """Return the shares of a step's kernel time: matrix products, attention and the rest, 0 ... 1.

    On one thread, since the profiler does not see the threads of a step.
    """
    step()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would report its own start and stop
    on_gpu = bench.device.type == "cuda"
    with one_thread(), profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        step()
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = {event.key: float(getattr(event, own)) for event in found.key_averages()}
    total = sum(times.values()) or 1.0
    attention = sum(time for name, time in times.items() if any(part in name for part in ATTENTION)) / total
    products = (
        sum(
            time
            for name, time in times.items()
            if name in ("aten::mm", "aten::addmm") or any(part in name for part in PRODUCTS)
        )
        / total
    )
    return products, attention, 1 - products - attention


@dataclass(frozen=True)
class Curve:
    """Seconds against one quantity, with everything else fixed."""

    quantity: str
    values: tuple[int, ...]
    seconds: tuple[float, ...]  # per fast step, or per fit if the quantity is t_fast

    @property
    def exponent(self) -> float:
        """Return the slope between first and last value on log scales; 1 is proportional."""
        steps = self.values[-1] / self.values[0], self.seconds[-1] / self.seconds[0]
        return math.log(steps[1]) / math.log(steps[0])


def growth(config: BenchConfig, dtype: torch.dtype = torch.float32) -> list[Curve]:
    """Measure time against t_fast, length, layers, batch and vocabulary, from a base of half the size's tokens."""
    base = SIZES[config.size]
    tokens, layers, vocab = max(16, config.tokens // 2), base.n_layers, base.vocab_size
    grid: dict[str, list[tuple[int, BenchConfig, ModelConfig]]] = {
        "length": [(n, replace(config, tokens=n), base) for n in (tokens // 4, tokens // 2, tokens, 2 * tokens)],
        "layers": [
            (n, replace(config, tokens=tokens), replace(base, n_layers=n, max_z_len=n * base.n_latents))
            for n in (layers, 2 * layers, 4 * layers)
        ],
        "batch": [(n, replace(config, tokens=tokens // 4, batch=n), base) for n in (1, 2, 4)],
        "vocabulary": [
            (n, replace(config, tokens=tokens), replace(base, vocab_size=n)) for n in (vocab // 16, vocab // 4, vocab)
        ],
    }
    bench, steps = Bench(replace(config, tokens=tokens // 4)), (4, 8, 16)
    model = bench.model(dtype)
    curves = [Curve("t_fast", steps, tuple(bench.timed([lambda n=n: bench.fit(model, n) for n in steps])))]  # type: ignore[misc]
    for name, points in grid.items():
        seconds = []
        for _, own, sizes in points:
            bench = Bench(own, sizes)
            seconds += bench.timed([bench.ours(dtype)])
        curves.append(Curve(name, tuple(n for n, _, _ in points), tuple(seconds)))
    return curves


def write_figure(curves: Iterable[Curve], path: Path) -> None:
    """Draw one log-log panel per quantity as SVG; a dashed line grows in proportion."""
    curves = list(curves)
    figure = Figure(figsize=(3 * len(curves), 3), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        axes.loglog(
            curve.values, [curve.seconds[0] * value / curve.values[0] for value in curve.values], "--", c="gray"
        )
        axes.loglog(curve.values, curve.seconds, "o-")
        axes.set(xlabel=curve.quantity, ylabel="seconds", title=f"exponent {curve.exponent:.2f}")
        axes.set_xticks(curve.values, [f"{value:,}" for value in curve.values])
        axes.set_yticks([curve.seconds[0], curve.seconds[-1]], [f"{curve.seconds[i]:.3f}" for i in (0, -1)])
        axes.minorticks_off()
    text = StringIO()
    figure.savefig(text, format="svg")
    write_text_atomic(path, text.getvalue())


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S", choices=SIZES)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cpu_time", action="store_true", help="CPU seconds of one thread")
    parser.add_argument("--output", type=Path, default=Path("figures"))
    given = parser.parse_args(args)
    device = str(resolve_device(given.device))
    config = BenchConfig(given.size, given.tokens, given.batch, device, given.rounds, given.cpu_time)
    if config.cpu_time:
        torch.set_num_threads(1)
    print(heading(config), end="\n\n")
    bench = Bench(config)
    ways = [("naive float32", bench.naive()), *((f"ours {name}", bench.ours(kind)) for name, kind in DTYPES.items())]
    rows = ([name, *(f"{100 * part:.0f} %" for part in shares(bench, step))] for name, step in ways)
    print(markdown(["step", "matrix products", "attention", "rest"], rows), end="\n\n")
    curves = growth(config)
    write_figure(curves, given.output / "growth.svg")
    cells = (
        [
            one.quantity,
            ", ".join(f"{value:,}" for value in one.values),
            ", ".join(f"{seconds:.3f}" for seconds in one.seconds),
            f"{one.exponent:.2f}",
        ]
        for one in curves
    )
    print(markdown(["quantity", "values", "seconds", "exponent"], cells))
    print(f"figure: {(given.output / 'growth.svg').resolve()}")


if __name__ == "__main__":
    main()
