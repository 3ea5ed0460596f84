"""What the package must never do: run what it reads, call a shell, or evaluate a template that stands in data."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "ltm_eval").rglob("*.py"), ROOT / "ltm_eval_bridge.py"])
MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "sqlitedict", "jsonpickle", "telnetlib"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
CALLS |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}
KEYWORDS = {"shell": True, "trust_remote_code": True, "weights_only": False, "allow_pickle": True, "autoescape": False}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and dotted(node.value):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def dangers(source: str) -> list[str]:
    """Every import, call and argument of the lists above."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module or ""] if (node.module or "").split(".")[0] in MODULES else []
        elif isinstance(node, ast.Call):
            found += [dotted(node.func)] if dotted(node.func) in CALLS else []
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in KEYWORDS and value is KEYWORDS[keyword.arg]:
                    found.append(f"{keyword.arg}={value}")
            if dotted(node.func) == "torch.load" and not any(k.arg == "weights_only" for k in node.keywords):
                found.append("torch.load without weights_only")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_that_runs_what_it_reads(path: Path) -> None:
    assert dangers(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "eval('1')",
        "exec(x)",
        "import yaml\nyaml.load(x)",
        "subprocess.run(x, shell=True)",
        "f(trust_remote_code=True)",
        "torch.load(x, weights_only=False)",
        "torch.load(x)",
        "np.load(x, allow_pickle=True)",
        "os.system(x)",
        "import sqlitedict",
    ],
)
def test_the_search_sees(source: str) -> None:
    assert dangers(source)


def test_templates_are_escaped_and_never_made_of_data() -> None:
    layout = (ROOT / "ltm_eval" / "report" / "layout.py").read_text("utf-8")
    assert "autoescape=True" in layout and "StrictUndefined" in layout
    makers = [path.name for path in SOURCES if "Environment(" in path.read_text("utf-8")]
    assert makers == ["layout.py"], "one place makes the environment of all pages"
    for path in SOURCES:
        text = path.read_text("utf-8")
        if path.name == "evaluation.py":  # keeps what lm-eval compiles of a task's definition; compiles nothing itself
            text = text.replace("compiled = env.from_string\n", "").replace("env.from_string = ", "")
        assert "from_string" not in text and "Template(" not in text.replace("class Template(", ""), path.name
    for template in (ROOT / "reports" / "templates").glob("*"):
        text = template.read_text("utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape\s+false|javascript:|\son\w+=", text), template.name


def test_jinja_in_data_stays_text(tmp_path: Path) -> None:
    """A question that is a template reaches the prompt as it is; lm-eval renders task definitions only."""
    from ltm_eval.harness.loading import tasks_of
    from ltm_eval.harness.options import RunConfig
    from tests.fault_makers import rows, write_rows

    text = "{{ 7 * 7 }} {% include '/etc/hostname' %} {{ ''.__class__.__mro__ }}"
    write_rows(tmp_path / "gsm8k" / "train.jsonl", rows("train"))
    write_rows(tmp_path / "gsm8k" / "test.jsonl", [{"question": text, "answer": f"{text}\n#### 1"}])
    (task,) = tasks_of(RunConfig(model="demo", data=str(tmp_path), num_fewshot=1, quiet=True))
    document = next(iter(task.test_docs()))
    assert text in task.fewshot_context(document, 1)
    assert task.doc_to_target(document).strip().startswith(text)


def test_dependencies_have_both_bounds() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (dependencies,) = re.findall(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    optional = text.partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[0]
    named = re.findall(r'"([A-Za-z][\w.-]*)(?:\[[\w,]*\])?([^"]*)"', dependencies + optional)
    assert len(named) > 20
    assert [name for name, bounds in named if not (">=" in bounds and "<" in bounds)] == []


def test_bandit_finds_nothing() -> None:
    if find_spec("bandit") is None:
        pytest.skip("bandit is not installed")
    command = [sys.executable, "-m", "bandit", "-q", "-r", "ltm_eval", "ltm_eval_bridge.py", "-c", "pyproject.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
