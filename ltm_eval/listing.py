"""What `ltm-eval ls` prints: tasks, conditions, presets and bundled models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_eval import paths
from ltm_eval.config import DEMO_BASELINE, DEMO_MODEL, PRESETS
from ltm_eval.errors import LtmEvalError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


CONDITION_TEXTS = {
    "prompt": "z is fitted on the prompt as far as it fits; the decoder reads the same (default, the paper's Eq. 7)",
    "demos": "one z is fitted on all demonstrations, in windows; the decoder reads the question only",
    "demos+prompt": "z on all demonstrations and the question; the decoder reads what fits of both",
    "shuffled": "as demos, but every answer stands under another question of the prompt: a control",
    "other": "as demos, but with the demonstrations of another question or episode: a control",
    "prior": "z is drawn from N(0, I), nothing is fitted; the decoder reads the prompt as far as it fits",
}


def print_section(title: str, rows: Any) -> None:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    print(title)
    for name, text in rows:
        print(f"  {name:<{width}}  {printable(text)}".rstrip())
    print()


def task_rows() -> Iterator[tuple[str, str]]:
    """Name and kind of every task and group in our YAML files."""
    for file in sorted(paths.tasks_dir().rglob("*.yaml")):
        content = _read_task(file)
        name = content.get("group") or content.get("task")
        if isinstance(name, str):
            shots = content.get("num_fewshot")
            detail = "" if shots is None else ", zero-shot" if shots == 0 else f", {shots} shots unless told"
            members = ", ".join(content["task"]) if "group" in content else ""
            yield name, members or f"{content.get('output_type')}{detail}"


def _read_task(file: Path) -> dict[str, Any]:
    """The YAML as lm-eval reads it, `include` resolved, `!function` left as text; nothing is imported."""
    import yaml

    class Reader(yaml.SafeLoader):
        """Knows lm-eval's tag."""

    Reader.add_multi_constructor("!", lambda loader, suffix, node: f"{suffix} {node.value}")
    try:
        content = Reader(file.read_text("utf-8")).get_single_data()
    except (OSError, yaml.YAMLError) as error:
        raise LtmEvalError(f"{file}: our own task definition cannot be read ({type(error).__name__})") from error
    content = content if isinstance(content, dict) else {}
    base = content.pop("include", None)
    return {**_read_task(file.parent / base), **content} if isinstance(base, str) else content


def preset_text(name: str) -> str:
    fit = PRESETS[name]
    rate = f"rate {fit.lr:g}" if fit.lr == fit.lr_final else f"rate {fit.lr:g} to {fit.lr_final:g}"
    verdict = "a bound" if fit.is_bound else "not a bound, for comparison with published figures"
    return f"{fit.t_fast} steps, {rate}, log_var from {fit.log_var_start:g}, {fit.noise} noise: {verdict}"


def model_rows() -> Iterator[tuple[str, str]]:
    for folder in sorted(paths.assets_dir().glob("*/config.json")):
        name = folder.parent.name.removeprefix("ltm-")
        use = {DEMO_MODEL: " (taken without --model)", DEMO_BASELINE: " (as --baseline)"}.get(name, "")
        yield name, f"{folder.parent}{use}"
