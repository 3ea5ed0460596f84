"""lm-eval's table of a results file, with our intervals, for the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import masked_all, printable

if TYPE_CHECKING:
    from pathlib import Path


def results_table(path: Path) -> str:
    """lm-eval's header line and table of one results file."""
    from lm_eval.utils import make_table

    content = json.loads(path.read_text("utf-8"))
    config = masked_all(content["config"])
    told = f"gen_kwargs: ({config['gen_kwargs']}), limit: {config['limit']}, batch_size: {config['batch_size']}"
    head = f"{config['model']} ({config['model_args']}), {told}"
    lines = [line for name in content["results"] for line in _interval_lines(name, content["ltm_eval"])]
    told = config.get("tokenizer")
    if isinstance(told, dict) and any("_per_token" in key for own in content["results"].values() for key in own):
        told = f"{told.get('name')} {str(told.get('sha256') or '')[:8]}".strip()
        lines.append(f"per token: of this model's own tokens ({told}); only figures of the same tokens compare")
    return "\n".join(map(printable, [head, *make_table(content).splitlines(), *lines]))


def _interval_lines(task: str, block: dict[str, Any]) -> list[str]:
    """Figures of several samples with their intervals, and what answering without reading scores."""
    from ltm_eval.repeats import interval_words

    sampled = block.get("sampled", {}).get(task)
    if sampled is None:
        return []
    figures = [
        f"{task}: {key.replace(',', ', ')} {interval_words(value)}"
        for key, value in sampled.items()
        if isinstance(value, dict) and "low" in value
    ]
    floor = block.get("content_free", {}).get(task, {})
    passes = [f"{key} {interval_words(value)}" for key, value in floor.items() if key.startswith("pass@")]
    words = f"{task}: content-free, always the commonest training answers ({', '.join(floor.get('answers', []))}): "
    return [*figures, *([words + "; ".join(passes)] if passes else [])]
