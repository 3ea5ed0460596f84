"""What lm-eval asks: prompts, few-shot examples, metrics. The YAML files stand in the top-level `tasks/`."""

__all__ = ["arguments", "keyed", "mauve", "perplexity", "prompts", "samples"]
