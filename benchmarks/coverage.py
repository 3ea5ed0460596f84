"""Simulated coverage of every 95 % interval that the program prints.

    python benchmarks/coverage.py [--rounds 4000] [--seed 1]

Every row draws `rounds` data sets of 3, 12, 24 and 120 documents from a known distribution and counts the intervals
that contain the true value. With 4,000 rounds two standard errors are 0.7. The aim is 93 to 97; values outside are
marked. The functions are those behind page, terminal, `compare`, `history` and exports.
"""

from __future__ import annotations

import argparse
import math
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ltm_eval.results import statistics as paired
from ltm_eval.results.statistics import (
    Interval,
    interval_from_stderr,
    mean_interval,
    pass_at_k,
    quantile,
    rate_interval,
    share_interval,
    share_interval_from_stderr,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Draw = Callable[[np.random.Generator, int], Interval]

SIZES = (3, 12, 24, 120)
LOW, HIGH = 93.0, 97.0
SAMPLES = 10
TRUTH_DRAWS = 2_000_000
SKEW = math.exp(0.125)
"""Mean of a log-normal value of sigma 0.5."""


class Row(NamedTuple):
    """One kind of interval on data of one shape."""

    kind: str
    shape: str
    truth: float
    draw: Draw


# Shapes -------------------------------------------------------------------------------------------------------------


def lengths(generator: np.random.Generator, n: int, shape: str) -> np.ndarray:
    """Units of n documents."""
    if shape == "equal":
        return np.full(n, 100.0)
    if shape == "20 to 200":
        return generator.integers(20, 201, n).astype(float)
    return generator.lognormal(5.0, 1.0, n)


def rates(generator: np.random.Generator, n: int, shape: str) -> np.ndarray:
    """Nats a unit, mean 2."""
    if shape == "normal":
        return generator.normal(2.0, 0.3, n)
    sigma = float(shape.rpartition(" ")[2])
    return 2.0 * generator.lognormal(0.0, sigma, n) / math.exp(sigma**2 / 2)


def solved(generator: np.random.Generator, n: int, shape: tuple[float, float]) -> np.ndarray:
    """Chance of a right answer to each question."""
    return generator.beta(*shape, size=n)


def passes(generator: np.random.Generator, chances: np.ndarray, k: int) -> list[float]:
    """pass@k of each question from 10 samples."""
    return [pass_at_k(SAMPLES, int(right), k) for right in generator.binomial(SAMPLES, chances)]


def mean_pass(shape: tuple[float, float], k: int) -> float:
    """The true mean of pass@k: E[1 - (1 - p)^k] for p ~ Beta(a, b)."""
    a, b = shape
    return 1 - math.prod((b + i) / (a + b + i) for i in range(k))


# Rows ---------------------------------------------------------------------------------------------------------------


def shares() -> list[Row]:
    """Right or wrong: exact_match, acc, maj@n, pass@k of n = k."""

    def of(p: float) -> Draw:
        return lambda g, n: share_interval((g.random(n) < p).astype(float).tolist())[0]

    return [Row("share (Wilson)", f"p {p:g}", p, of(p)) for p in (0.05, 0.5, 0.95)]


PASS_SHAPES = {"hard": (0.4, 4.0), "mixed": (0.5, 0.5), "alike": (8.0, 8.0)}


def pass_means() -> list[Row]:
    """pass@k with n > k, from the questions and from mean and standard error alone."""

    def of(shape: tuple[float, float], k: int) -> Draw:
        return lambda g, n: share_interval(passes(g, solved(g, n, shape), k))[0]

    def told(g: np.random.Generator, n: int) -> Interval:
        values = np.array(passes(g, solved(g, n, PASS_SHAPES["mixed"]), 1))
        found = share_interval_from_stderr(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n), n)
        return found[0] if found is not None else Interval(math.nan, math.nan)

    rows = [
        Row(f"pass@{k} of 10", f"{name} questions", mean_pass(shape, k), of(shape, k))
        for name, shape in PASS_SHAPES.items()
        for k in (1, 5)
    ]
    return [*rows, Row("pass@1 of 10, no samples", "mixed questions", 0.5, told)]


def means() -> list[Row]:
    """The mean of blocks' perplexities, means of other scores and of probes."""

    def of(shape: str) -> Draw:
        return lambda g, n: mean_interval(rates(g, n, shape).tolist(), positive=shape != "normal")

    def percent(g: np.random.Generator, n: int) -> Interval:
        return mean_interval((g.binomial(50, g.beta(8, 2, n)) / 50).tolist())  # cut at 0 and 1, which loses nothing

    found = [Row("mean", shape, 2.0, of(shape)) for shape in ("normal", "log-normal 0.5", "log-normal 1")]
    return [*found, Row("probe, percent of tokens", "50 tokens a text", 0.8, percent)]


LENGTHS = (("normal", "equal"), ("normal", "20 to 200"), ("normal", "log-normal 1"), ("log-normal 0.5", "equal"))
LENGTHS += (("log-normal 0.5", "log-normal 1"), ("log-normal 1", "equal"))


def perplexities() -> list[Row]:
    """Corpus perplexity and bits a unit, from documents; and from the standard error alone."""

    def of(cost: str, length: str) -> Draw:
        def draw(g: np.random.Generator, n: int) -> Interval:
            units = lengths(g, n, length)
            return rate_interval((units * rates(g, n, cost)).tolist(), units.tolist(), positive=True)

        return draw

    def told(g: np.random.Generator, n: int) -> Interval:
        values = rates(g, n, "normal")
        return interval_from_stderr(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n), n, positive=True)

    rows = [Row("perplexity, bits", f"{cost}; lengths {length}", 2.0, of(cost, length)) for cost, length in LENGTHS]
    return [*rows, Row("perplexity, no samples", "normal; lengths equal", 2.0, told)]


PAIRS = ((0.05, 0.05), (0.5, 0.5), (0.95, 0.95), (0.6, 0.4), (0.95, 0.85))


def paired_shares() -> list[Row]:
    """Two runs right or wrong; half of the documents are equally hard for both."""

    def of(first: float, second: float) -> Draw:
        def draw(g: np.random.Generator, n: int) -> Interval:
            common, alike = g.random(n), g.random(n) < 0.5
            a = np.where(alike, common, g.random(n)) < first
            b = np.where(alike, common, g.random(n)) < second
            return paired.paired_means(a.astype(float).tolist(), b.astype(float).tolist()).interval

        return draw

    return [
        Row("difference of shares (Tango)", f"p {first:g} and {second:g}", first - second, of(first, second))
        for first, second in PAIRS
    ]


def paired_passes() -> list[Row]:
    """Two runs that answer the same questions ten times."""

    def of(shape: tuple[float, float], k: int) -> Draw:
        def draw(g: np.random.Generator, n: int) -> Interval:
            chances = solved(g, n, shape)
            return paired.paired_means(passes(g, chances, k), passes(g, chances, k)).interval

        return draw

    return [
        Row(f"difference of pass@{k} of 10", f"{name} questions", 0.0, of(shape, k))
        for name, shape in PASS_SHAPES.items()
        for k in (1, 5)
    ]


def paired_costs() -> list[Row]:
    """Two runs on the same documents: bits per byte, and perplexity."""

    def of(noise: str, length: str, scale: str) -> Draw:
        def draw(g: np.random.Generator, n: int) -> Interval:
            units, base = lengths(g, n, length), rates(g, n, "normal")
            if noise == "skewed":
                change = 0.2 * (g.lognormal(0.0, 0.5, n) / SKEW - 1)
            elif noise == "one in four differs":
                change = np.where(g.random(n) < 0.25, g.normal(0.0, 0.2, n), 0.0)
            else:
                change = g.normal(0.0, 0.2, n)
            a, b = units * (base + change), units * base
            return paired.paired_rates(a.tolist(), b.tolist(), units.tolist(), scale=scale).interval

        return draw

    return [
        Row(f"difference of {name}", f"{noise}; lengths {length}", 0.0, of(noise, length, scale))
        for scale, name in (("bits", "bits per byte"), ("ppl", "perplexities"))
        for noise, length in (
            ("normal", "equal"),
            ("normal", "20 to 200"),
            ("normal", "log-normal 1"),
            ("skewed", "20 to 200"),
            ("one in four differs", "20 to 200"),
        )
    ]


def noise_bands() -> list[Row]:
    """The band about a bound by its first draws: the noise of n documents' draws alone."""

    def of(draws: int) -> Draw:
        def draw(g: np.random.Generator, n: int) -> Interval:
            spread = g.lognormal(0.0, 0.5, (n, 1))
            nats = spread * g.normal(size=(n, draws))
            variances = nats.var(axis=1, ddof=1)
            freedom = variances.sum() ** 2 / (variances**2 / (draws - 1)).sum()
            half = quantile(float(freedom)) * math.sqrt(variances.sum() / draws)
            return Interval(float(nats.mean(axis=1).sum()) - half, float(nats.mean(axis=1).sum()) + half)

        return draw

    return [Row("noise of the draws", f"{draws} draws", 0.0, of(draws)) for draws in (2, 8)]


def mauve() -> list[Row]:
    """Not an interval, and not called one: mean of seeds and their standard deviation; n is the number of seeds."""

    def draw(g: np.random.Generator, n: int) -> Interval:
        values = g.normal(0.9, 0.01, n)
        return Interval(float(values.mean() - values.std(ddof=1)), float(values.mean() + values.std(ddof=1)))

    return [Row("(MAUVE ± sd of seeds: no interval)", "normal", 0.9, draw)]


def coverage(row: Row, n: int, *, rounds: int, seed: int) -> float:
    """Return the percentage of `rounds` intervals that contain the true value."""
    generator = np.random.default_rng([seed, n, zlib.crc32(f"{row.kind} {row.shape}".encode())])
    found = (row.draw(generator, n) for _ in range(rounds))
    return 100 * sum(one.low <= row.truth <= one.high for one in found) / rounds


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    paired.sign_flips = lambda *_, **__: 1.0  # type: ignore[assignment]  # the p value takes long and is not looked at
    print("| interval | data | " + " | ".join(f"n {n}" for n in SIZES) + " |")
    print("| --- | --- |" + " ---: |" * len(SIZES))
    makers = (shares, pass_means, means, perplexities, paired_shares, paired_passes, paired_costs, noise_bands, mauve)
    for row in (row for make in makers for row in make()):
        cells = []
        for n in SIZES:
            held = coverage(row, n, rounds=options.rounds, seed=options.seed)
            mark = "" if LOW <= held <= HIGH or row.kind.startswith("(") else " low" if held < LOW else " high"
            cells.append(f"{held:.1f}{mark}")
        print(f"| {row.kind} | {row.shape} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
