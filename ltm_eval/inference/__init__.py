"""Latents z: fitted to texts, scored as bounds, decoded, refitted."""

__all__ = ["audit", "batching", "bench", "bounds", "decode", "draws", "options", "posterior", "rethink", "windows"]
