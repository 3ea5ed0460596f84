"""Figures for readers: page, tables, plots, history, index. Needs no torch."""

__all__ = ["comparison", "history", "index", "page", "tables", "view"]
