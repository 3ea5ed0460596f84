"""Fakes that serve nearly every test: a two-layer LTM of width 8 over bytes, saved and loaded as any checkpoint."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltm_eval.harness.options import RunConfig
from ltm_eval.inference.windows import Document, Window
from ltm_eval.model.checkpoint import Checkpoint, CheckpointInfo, load, save, weights_sha256
from ltm_eval.model.config import ModelConfig
from ltm_eval.model.decoder import LatentThoughtModel

DATA = Path(__file__).parent / "data"
RELEASED = ("released_a", "released_b")
TINY = ModelConfig(
    dim=8,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    vocab_size=257,
    multiple_of=8,
    max_seq_len=192,
    window_size=24,
    max_z_len=4,
)


def tiny_model(config: ModelConfig = TINY, *, seed: int = 0, scale: float = 12.0) -> LatentThoughtModel:
    """Random weights, scaled up so that outputs depend visibly on tokens and z."""
    model = LatentThoughtModel(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
        model.tok_embeddings.weight[128:256] = 0  # so that what it likes best is ASCII
    return model


def document(seed: int, length: int, windows: int = 1, *, vocab: int = 256) -> Document:
    """Random tokens, each window's targets its tokens one place on."""
    tokens = torch.randint(0, vocab, (windows, length + 1), generator=torch.Generator().manual_seed(seed)).tolist()
    return Document(tuple(Window(tuple(row[:-1]), tuple(row[1:])) for row in tokens))


def byte_ranks(path: Path) -> Path:
    """A ranks file in which every byte is a token."""
    path.write_bytes(b"".join(base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256)))
    return path


def tiny_folder(folder: Path, model: LatentThoughtModel | None = None) -> Path:
    """A checkpoint folder of `tiny_model` with the byte tokenizer."""
    model = model or tiny_model()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ranks = byte_ranks(folder.with_suffix(".ranks"))
    save(
        Checkpoint(CheckpointInfo("tiny", "live", 7, weights_sha256(weights)), model.config, weights, str(ranks)),
        folder,
    )
    return folder


@cache
def released(name: str) -> tuple[LatentThoughtModel, dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """A released fixture: model, meta.json and the numbers the released code gave."""
    expected = np.load(DATA / name / "expected.npz")
    return (
        load(DATA / name / "ckpt_1000.pt"),
        json.loads((DATA / name / "meta.json").read_text()),
        {key: expected[key] for key in expected},
    )


def latent(model: LatentThoughtModel, array: np.ndarray[Any, Any]) -> torch.Tensor:
    """(B, N_z, D) as released to (B, L, N, D)."""
    return torch.from_numpy(array).view(array.shape[0], *model.config.latent_shape)


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """|found - truth| / |truth|, norms in float64."""
    found, truth = found.double(), truth.double()
    return float((found - truth).norm() / truth.norm())


def run_config(folder: Path, output: Path, **changes: Any) -> RunConfig:
    """A short run of a checkpoint on the bundled problems, without a word or a page."""
    base: dict[str, Any] = {"num_fewshot": 1, "limit": 4, "t_fast": 1, "gen_kwargs": "max_gen_toks=4"}
    places = {"model": str(folder), "data": "sample", "output_path": str(output)}
    return RunConfig(**{**base, **places, "report": False, "quiet": True, **changes})


def put(folder: Path, name: str, content: str | bytes | list[dict[str, Any]]) -> Path:
    """A file of this text or these bytes, or a parquet file of these rows."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(content), path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def tiny_gpt2(folder: Path) -> Path:
    """A GPT-2 with random weights over bytes, as transformers saves it, with its tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    symbols = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    over_bytes = Tokenizer(models.BPE(vocab={**symbols, "<|endoftext|>": 256}, merges=[]))
    over_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    over_bytes.decoder = decoders.ByteLevel()
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    PreTrainedTokenizerFast(tokenizer_object=over_bytes, **ends).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_positions=1024, n_embd=16, n_layer=2, n_head=2, bos_token_id=256, eos_token_id=256
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
