"""Tiny GPT-2s whose tokenizers differ in what they put around a text and in whether their tokens spell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bos": {"single": "<s> $A", "bos": "<s>", "eos": "</s>"},
    "bos+eos": {"single": "<s> $A </s>", "bos": "<s>", "eos": "</s>"},
    "eos": {"single": "$A </s>", "eos": "</s>"},
    "eos only named": {"eos": "</s>"},
    "bos only named": {"bos": "<s>"},
    "two in front": {"single": "[m] <s> $A", "bos": "<s>", "eos": "</s>"},
    "bos not named": {"single": "<s> $A"},
    "lower": {"single": "<s> $A", "bos": "<s>", "eos": "</s>", "lower": True},
    "silent": {"single": "<s> $A", "bos": "<s>", "eos": "</s>", "dummy": True},
}
"""By name: template, named special tokens, whether text is made lower case, whether a token of no text is in front."""
SPECIALS = ("<s>", "</s>", "[m]")


def byte_tokenizer(kind: str) -> Any:
    """Bytes as tokens 0 to 255, then `SPECIALS`; of kind `silent` ASCII, and ▁ for a space and before every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    told = KINDS[kind]
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    if told.get("dummy"):
        symbols = ["\u2581", *map(chr, range(33, 127)), *map(chr, range(0x4E00, 0x4E00 + 161))]
    made = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    made.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    if told.get("lower"):
        made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if told.get("dummy"):
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(split=False), decoders.Metaspace(split=False)
    if "single" in told:
        numbered = [(name, 256 + place) for place, name in enumerate(SPECIALS)]
        made.post_processor = processors.TemplateProcessing(single=told["single"], special_tokens=numbered)
    named = {f"{name}_token": told[name] for name in ("bos", "eos") if name in told}
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)


def gpt2_of(folder: Path, kind: str, *, positions: int = 64, rows: int = 259) -> Path:
    """The same weights for every kind, with its tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    byte_tokenizer(kind).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_positions": positions, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=rows, bos_token_id=256, eos_token_id=257, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    return folder
