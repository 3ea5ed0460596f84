"""How many documents a fit takes at once, measured on the device where nobody says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ltm_eval.decode import CPU_LANES
from ltm_eval.posterior import fit_together
from ltm_eval.windows import Document, Window

if TYPE_CHECKING:
    from ltm_eval.config import FitConfig
    from ltm_eval.model import LatentThoughtModel

MAX_BATCH = 64
"""Most documents that `auto` tries."""


def measured_batch_size(model: LatentThoughtModel, config: FitConfig, *, eot_id: int, most: int) -> int:
    """The most documents of full length whose fit step runs without exhausting memory, halving from the maximum."""
    if model.device.type == "cpu":
        return CPU_LANES
    size = most
    probe = replace(config, t_fast=1, adaptive=False)
    tokens = (eot_id,) * model.config.max_seq_len
    while size > 1:
        try:
            fit_together(model, [Document((Window(tokens, tokens),))] * size, probe, seed=0)
            return size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            size //= 2
    return 1
