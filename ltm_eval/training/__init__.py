"""Dual-rate learning, and the GPT-2 trained beside it."""

__all__ = ["recipe", "train"]
