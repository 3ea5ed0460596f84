"""Training: dual-rate learning of an LTM, and of a GPT-2 on the same batches."""

__all__ = ["recipe", "train"]
