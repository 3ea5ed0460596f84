"""MAUVE of two sides' features: clusters, the divergence curve, seeds summarised."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from importlib import import_module
from statistics import stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from ltm_eval.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.features import Features
    from ltm_eval.mauve_config import MauveConfig


FIRST_SEED = 25
"""mauve-text's default."""


@dataclass(frozen=True)
class Comparison:
    """MAUVE of two collections under one k-means seed."""

    value: float
    """0 to 1, higher is nearer."""
    buckets: int
    """Clusters."""
    curve: tuple[tuple[float, float], ...]
    """(exp(-c KL(Q|R)), exp(-c KL(P|R))) for mixtures R, Q first; both near 1 where the texts are alike."""


def check_installed() -> None:
    """Raise MachineError unless mauve-text is there."""
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("mauve", "faiss", "sklearn")):
        raise MachineError("MAUVE needs extra packages: pip install 'ltm-eval[mauve]'")


def buckets_for(smaller: int, config: MauveConfig, *, of: int) -> int:
    """Clusters for a comparison whose smaller side has `smaller` texts.

    mauve-text's rule, a tenth of it, or the number asked for; in proportion where `smaller` is less than the `of` texts
    it was asked for (a half of the human texts, a limited run), and never more than texts.
    """
    if config.buckets is None:
        return max(2, round(smaller / 10))
    return max(2, min(smaller, round(config.buckets * min(1.0, smaller / of))))


def compare(p: Features, q: Features, *, buckets: int, seed: int, scaling: float) -> Comparison:
    """MAUVE of two collections of features.

    Args:
        p: (texts, D) of human texts.
        q: (texts, D) of generated texts.
        buckets: clusters.
        seed: of k-means.
        scaling: c.

    Raises:
        MachineError: mauve-text is not installed.
    """
    check_installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of faiss' and scikit-learn's imports, and of PCA where all texts are alike
        try:
            faiss: Any = import_module("faiss")
            from mauve import compute_mauve
        except ImportError as error:
            raise MachineError(
                f"MAUVE's packages cannot be imported ({error}); install them anew: pip install 'ltm-eval[mauve]'"
            ) from error

        class Quiet(faiss.Kmeans):  # type: ignore[misc]
            """Does not print that there are fewer than 39 texts a cluster, which mauve-text's own rule implies."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs, min_points_per_centroid=1)

        talking, faiss.Kmeans = faiss.Kmeans, Quiet
        try:
            found = compute_mauve(
                p_features=p, q_features=q, num_buckets=buckets, seed=seed, mauve_scaling_factor=scaling, verbose=False
            )
        finally:
            faiss.Kmeans = talking
    curve = tuple((float(x), float(y)) for x, y in found.divergence_curve)
    return Comparison(float(found.mauve), buckets, curve)


def spread(values: Sequence[float]) -> float:
    """Standard deviation; not a number for fewer than two values."""
    return stdev(values) if len(values) > 1 else math.nan


def ceiling(p: Features, config: MauveConfig, *, seed: int) -> Comparison | None:
    """Two disjoint halves of the human texts against each other; nothing for fewer than four texts."""
    half = len(p) // 2
    if half < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(p))
    buckets = buckets_for(half, config, of=config.samples)
    return compare(p[order[:half]], p[order[half : 2 * half]], buckets=buckets, seed=seed, scaling=config.scaling)


def _middle(found: Sequence[Comparison]) -> tuple[tuple[float, float], ...]:
    """The curve of the comparison with the median score."""
    return sorted(found, key=lambda one: one.value)[len(found) // 2].curve if found else ()
