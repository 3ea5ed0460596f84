"""Results files read: figures, statistics, signatures, comparison. Needs no torch."""

__all__ = [
    "answers",
    "columns",
    "compare",
    "diagnostics",
    "effect",
    "figures",
    "files",
    "generation",
    "official",
    "perplexity",
    "scores",
    "signature",
    "statistics",
    "tokens",
    "views",
]
