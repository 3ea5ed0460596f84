"""Imports point downward only: a module may import from lower layers, never from its own or a higher one."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ltm_eval

PACKAGE = Path(ltm_eval.__file__).parent
LAYERS = (
    ("errors",),
    ("calls", "disk", "failpoints", "pulse", "row_checks", "steady", "stopping"),
    (
        "answer_record",
        "latent_record",
        "model_config",
        "result_records",
        "strict_files",
        "token_pieces",
        "token_record",
    ),
    (
        "archives",
        "config",
        "drafts",
        "flops",
        "headers",
        "heartbeat",
        "hub",
        "latent_page",
        "launch",
        "lock",
        "paths",
        "progress",
        "results",
        "subsets",
        "wording",
    ),
    (
        "answers",
        "chart",
        "escapes",
        "joined",
        "layer_maps",
        "outputs",
        "probe_results",
        "rerun",
        "template_cache",
        "token_views",
    ),
    ("answering", "cost", "drawing", "layout", "table_text", "telemetry"),
    (
        "arguments",
        "detokenise",
        "doctor",
        "elbo",
        "estimates",
        "mauve_config",
        "memory",
        "metrics",
        "naive",
        "options",
        "perplexity",
        "plug",
        "provenance",
        "recipe",
        "repetition",
        "row_files",
        "rules",
        "signatures",
        "templates_heldout",
        "templates_measures",
        "templates_things",
        "tokenizer",
        "workers",
    ),
    ("bound_curves", "bpe", "features", "floors", "mauve_scores", "model", "paired", "problems", "repeats", "windows"),
    ("batch", "corpora", "noise", "run_options", "text_files"),
    ("texts",),
    ("effect", "fewshot", "weights"),
    ("blocks", "checkpoint", "compiling", "gaussians", "gpt2", "lanes", "token_costs"),
    ("groups", "steps"),
    ("draws",),
    ("adaptive", "fast_loop"),
    ("posterior",),
    ("causal", "caveats", "context", "decode", "distributed", "failures", "journal", "mauve_texts", "packing"),
    ("batch_limit", "bounds", "mauve"),
    ("audit", "bench", "commits", "learners", "rethink", "rolling", "worklist"),
    ("host_tokens", "jobs", "records"),
    ("fits", "host_watch", "scoring"),
    ("generating", "host_records"),
    ("baselines", "lm", "plots", "probe", "train"),
    ("comparable", "latex_document", "line_plots", "page", "plot_files"),
    ("document",),
    ("effect_tables", "latent_plots", "latents", "samples", "scores", "summary"),
    ("compute", "page_figures", "probe_views", "summary_text"),
    ("generation", "ppl_tables"),
    ("figures", "pairing", "verdicts"),
    ("compare", "figure_tables", "report", "resume"),
    ("compare_page", "export", "history", "results_index"),
    ("cli_compare", "crash"),
    ("footprint", "preflight", "results_table", "status", "subjects", "task_facts", "task_loading"),
    ("run_record",),
    ("evaluation",),
    ("run",),
    ("probing", "rescore", "sweep"),
    ("cells",),
    ("grid",),
    ("evaluate_commands", "listing", "model_commands", "probe_command", "run_commands"),
    ("cli",),
    ("__main__",),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
HEAVY = ("torch", "lm_eval", "datasets", "transformers", "pandas", "scipy")


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _runtime_nodes(node: ast.AST) -> list[ast.AST]:
    """`node` and everything below it, bodies of `if TYPE_CHECKING` left out, their `else` kept."""
    if isinstance(node, ast.If) and _is_type_checking(node):
        return [below for child in node.orelse for below in _runtime_nodes(child)]
    return [node, *(below for child in ast.iter_child_nodes(node) for below in _runtime_nodes(child))]


def imported(source: str) -> set[str]:
    """Modules of ltm_eval that `source` imports when run, at its top or late inside functions.

    The package itself (its version, its lazy public names) is not a module of any layer.
    """
    found = set()
    for node in _runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ltm_eval.")}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "ltm_eval"):
            inside = (node.module or "").removeprefix("ltm_eval").strip(".")
            names = [inside.split(".")[0]] if inside else [alias.name for alias in node.names]
            found |= {name for name in names if name in MODULES}
    return found


def test_imported_sees_every_form() -> None:
    source = """
from typing import TYPE_CHECKING
import ltm_eval, ltm_eval.errors
from ltm_eval import __version__, paths
from . import config
def late():
    if True:
        from ltm_eval.elbo import kl_nats
if TYPE_CHECKING:
    from ltm_eval.cli import main
else:
    import ltm_eval.model
"""
    assert imported(source) == {"errors", "paths", "config", "elbo", "model"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    assert module in LAYER, f"{module}.py belongs to no layer; add it to LAYERS and to the README's tree"
    used = imported((PACKAGE / f"{module}.py").read_text("utf-8"))
    wrong = {name for name in used if LAYER.get(name, len(LAYERS)) >= LAYER[module]}
    assert not wrong, f"{module} (layer {LAYER[module]}) imports {sorted(wrong)} from its own or a higher layer"


def test_package_itself_imports_nothing_at_runtime() -> None:
    assert imported((PACKAGE / "__init__.py").read_text("utf-8")) == set()


def test_package_is_flat() -> None:
    assert [path for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))] == []


@pytest.mark.parametrize(
    "module",
    [
        "cli",
        "compare_page",
        "config",
        "doctor",
        "export",
        "fewshot",
        "history",
        "paths",
        "plug",
        "report",
        "results",
        "results_index",
        "status",
    ],
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    look = f"import sys, ltm_eval.{module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_every_module_stands_in_the_tree_of_the_readme() -> None:
    readme = (PACKAGE.parent / "README.md").read_text("utf-8")
    tree = readme[readme.index("## The tree") : readme.index("## Add a task")].replace("templates_*", "templates_")
    assert [name for name in MODULES if f"{name}.py" not in tree and not name.startswith(("templates_", "__"))] == []
