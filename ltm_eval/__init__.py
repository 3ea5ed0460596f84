"""Evaluation of Latent Thought Models (arXiv:2502.01567).

    model = ltm_eval.load("ckpt_60000.pt")                        # nn.Module
    results = ltm_eval.evaluate(model, tasks="gsm8k", shots=8)    # a mapping, and `results.frame()`
    evaluator = ltm_eval.Evaluator(model, tasks="ptb", limit=20)  # for training loops: `evaluator(step=1000)`
    posterior = ltm_eval.fit(model, tokens, targets, t_fast=64)   # q(z|x)
    costs = ltm_eval.score(model, texts, rows="bound+causal")     # a frame, in nats
    answers = ltm_eval.generate(model, prompts, n=10)             # lists of texts
    frame = ltm_eval.figures("results/").frame()                  # of folders, and `ltm_eval.samples("results/")`

Names import torch when first asked for, `figures` and `samples` do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltm_eval.harness.evaluator import Evaluator, Results, evaluate, generate, score
    from ltm_eval.inference.posterior import fit
    from ltm_eval.model.checkpoint import load
    from ltm_eval.results.figures import figures, samples

__version__ = "0.1.0"
__all__ = [
    "Evaluator",
    "Results",
    "__version__",
    "evaluate",
    "figures",
    "fit",
    "generate",
    "load",
    "samples",
    "score",
]

_HOMES = {
    "load": "model.checkpoint",
    "fit": "inference.posterior",
    "figures": "results.figures",
    "samples": "results.figures",
    **dict.fromkeys(("Evaluator", "Results", "evaluate", "generate", "score"), "harness.evaluator"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ltm_eval' has no attribute {name!r}")
    return getattr(import_module(f"ltm_eval.{_HOMES[name]}"), name)
