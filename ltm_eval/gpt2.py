"""The autoregressive baseline that is trained beside an LTM: GPT-2's architecture (`transformers`), our encoding."""

from __future__ import annotations

import copy
import json
import shutil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ltm_eval.bpe import save_for_transformers
from ltm_eval.elbo import IGNORED
from ltm_eval.errors import MachineError, UsageError, nearest
from ltm_eval.tokenizer import RANKS_FILE, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIZES = ("n_embd", "n_layer", "n_head", "n_positions")


def build_gpt2(sizes: Mapping[str, int], tokenizer: Tokenizer, seed: int) -> nn.Module:
    """An untrained GPT2LMHeadModel without dropout.

    Args:
        sizes: `SIZES`, all of them.
        tokenizer: gives the vocabulary.
        seed: of the weights.

    Raises:
        UsageError: a size is absent or not known.
        MachineError: `transformers` is not installed.
    """
    for name in sizes:
        if name not in SIZES:
            raise UsageError(f"recipe: model: unknown size {name!r} of gpt2.{nearest(name, SIZES)}")
    if missing := [name for name in SIZES if name not in sizes]:
        raise UsageError(f"recipe: model of gpt2 lacks {', '.join(missing)}")
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise MachineError("a GPT-2 baseline needs extra packages: pip install 'ltm-eval[hf]'") from error
    eot = tokenizer.eot_id
    config = GPT2Config(
        **sizes,
        vocab_size=tokenizer.n_vocab,
        bos_token_id=eot,
        eos_token_id=eot,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = GPT2LMHeadModel(config)
    return model


def joined_rows(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of each document as one sequence, as an autoregressive model reads a few-shot prompt.

    Each row's end-of-text is kept in front of the first row alone; padding moves to the end.

    Args:
        tokens, targets: (B, R, T); `IGNORED` targets are padding.

    Returns:
        Tokens and targets, (B, T'), T' the longest sequence.
    """
    if tokens.shape[1] == 1:
        return tokens[:, 0], targets[:, 0]
    sequences = []
    for rows, wanted in zip(tokens, targets, strict=True):
        text = torch.cat([row[row != IGNORED] for row in wanted])  # every row's tokens after its end-of-text
        sequences.append(torch.cat([rows[0, :1], text]))
    length = max(len(sequence) for sequence in sequences) - 1
    joined = torch.zeros(len(sequences), length, dtype=torch.long)
    shifted = torch.full((len(sequences), length), IGNORED, dtype=torch.long)
    for place, sequence in enumerate(sequences):
        joined[place, : len(sequence) - 1] = sequence[:-1]
        shifted[place, : len(sequence) - 1] = sequence[1:]
    return joined, shifted


def export_gpt2(model: Any, tokenizer: Tokenizer, target: Path, ranks: Path) -> None:
    """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load: weights in fp16, computed in fp32."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    copy.deepcopy(model).cpu().half().save_pretrained(part)
    config = json.loads((part / "config.json").read_text("utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    (part / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    save_for_transformers(tokenizer, part, context=config["n_positions"])
    shutil.copyfile(ranks, part / RANKS_FILE)
    part.rename(target)
