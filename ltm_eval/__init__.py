"""Evaluation of Latent Thought Models (arXiv:2502.01567).

`load`, `fit`, `evaluate` and `figures` are the public functions; all but the last import torch when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltm_eval.harness.run import evaluate
    from ltm_eval.inference.posterior import fit
    from ltm_eval.model.checkpoint import load
    from ltm_eval.results.figures import figures

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "figures", "fit", "load"]

_HOMES = {
    "load": "model.checkpoint",
    "fit": "inference.posterior",
    "evaluate": "harness.run",
    "figures": "results.figures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ltm_eval' has no attribute {name!r}")
    return getattr(import_module(f"ltm_eval.{_HOMES[name]}"), name)
