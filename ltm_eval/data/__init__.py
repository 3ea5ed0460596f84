"""Data sets: where they lie, how they are read, how they become documents."""

__all__ = ["blocks", "metadata", "readers", "sets", "sources"]
