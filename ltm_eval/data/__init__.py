"""Data sets: where they are found, how they are read, how they become documents."""

__all__ = ["blocks", "metadata", "readers", "sets", "sources"]
