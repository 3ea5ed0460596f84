"""A model answers tasks: the adapters that lm-eval drives, the main job, sweeps."""

__all__ = ["evaluation", "evaluator", "loading", "ltm", "options", "plug", "rescore", "run", "sweep"]
