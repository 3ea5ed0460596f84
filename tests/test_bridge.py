"""The bridge: lm-eval 0.4.13 knows `ltm` and our tasks, nothing else changes, and a start of Python costs nothing."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.data import metadata
from ltm_eval.harness import plug
from ltm_eval.system import files as paths
from ltm_eval.system.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

# `-S` leaves .pth files unread, so the bridge is imported by us alone; -B: it need not be writable.
BARE = [sys.executable, "-S", "-B", "-c"]


def run_python(code: str, *, cwd: Path, command: list[str] | None = None) -> str:
    """Standard output of `code` in a fresh interpreter; fails with its stderr, and on any word there."""
    done = subprocess.run(
        [*(command or [sys.executable, "-c"]), code], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def test_start_imports_nothing_that_python_has_not_loaded(root: Path) -> None:
    code = """
import sys
sys.path.insert(0, ".")
before = set(sys.modules)
import ltm_eval_bridge
print(*set(sys.modules) - before)
"""
    assert run_python(code, cwd=root, command=BARE) == "ltm_eval_bridge"


def test_pth_is_one_line_that_survives_a_missing_module(root: Path, tmp_path: Path) -> None:
    line = (root / "ltm_eval_bridge.pth").read_text("utf-8")
    assert line.count("\n") == 1
    assert line.startswith("import ")
    assert run_python(line, cwd=tmp_path, command=[sys.executable, "-I", "-S", "-B", "-c"]) == ""


def test_registry_has_ltm_beside_every_builtin(root: Path) -> None:
    code = """
import ltm_eval_bridge, sys
import lm_eval.models as models
from lm_eval.api.registry import get_model, model_registry
assert 'torch' not in sys.modules and 'ltm_eval.harness.ltm' not in sys.modules
assert set(models.MODEL_MAPPING) <= set(model_registry.keys())
assert set(model_registry.keys()) - set(models.MODEL_MAPPING) == {'ltm'}
print(model_registry._objs['ltm'], get_model('dummy').__name__)
"""
    assert run_python(code, cwd=root) == "ltm_eval.harness.ltm:LTM DummyLM"


def test_hf_is_still_resolved(root: Path) -> None:
    pytest.importorskip("transformers")
    code = "import ltm_eval_bridge\nfrom lm_eval.api.registry import get_model\nprint(get_model('hf').__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert done.stdout.strip() == "HFLM", done.stderr


def test_repetition_is_harmless(root: Path) -> None:
    code = """
import importlib, sys
import ltm_eval_bridge
import lm_eval.models
from lm_eval.api.registry import model_registry
count = len(model_registry)
from ltm_eval.harness import plug
plug.plug_in(); plug.plug_in()
importlib.reload(lm_eval.models)
from lm_eval.tasks import TaskManager
init = TaskManager.__init__
plug.plug_in()
print(len(model_registry) == count, TaskManager.__init__ is init)
"""
    assert run_python(code, cwd=root) == "True True"


@pytest.mark.parametrize("breakage", ["absent", "1 / 0", "raise SystemExit(3)"])
def test_broken_package_leaves_lm_eval_alone(root: Path, tmp_path: Path, breakage: str) -> None:
    (tmp_path / "ltm_eval_bridge.py").write_bytes((root / "ltm_eval_bridge.py").read_bytes())
    poison = "sys.modules['ltm_eval'] = None" if breakage == "absent" else ""
    if not poison:
        (tmp_path / "ltm_eval").mkdir()
        (tmp_path / "ltm_eval" / "__init__.py").write_text(f"{breakage}\n")
    code = f"""
import sys
{poison}
import ltm_eval_bridge
from lm_eval.api.registry import get_model, model_registry
import lm_eval.tasks
print('ltm' in model_registry, get_model('dummy').__name__)
"""
    assert run_python(code, cwd=tmp_path) == "False DummyLM"


def test_later_lm_eval_finds_plugins_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api import registry

    assert not plug.finds_plugins(registry)  # 0.4.13
    monkeypatch.setattr(plug, "getsource", lambda _: 'GROUPS = {"lm_eval.models": model_registry}')
    assert plug.finds_plugins(registry)
    empty: registry.Registry[Any] = registry.Registry("model")
    monkeypatch.setattr(registry, "model_registry", empty)
    plug.register_model(types.ModuleType("lm_eval.models"))
    assert len(empty) == 0


def test_name_that_is_taken_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api import registry

    theirs: registry.Registry[Any] = registry.Registry("model")
    theirs.register("ltm", target="elsewhere:LTM")
    monkeypatch.setattr(registry, "model_registry", theirs)
    plug.register_model(types.ModuleType("lm_eval.models"))
    assert theirs._objs == {"ltm": "elsewhere:LTM"}


class FakeManager:
    """TaskManager's constructor as in 0.4.13, without its nine seconds."""

    def __init__(
        self,
        verbosity: str | None = None,
        include_path: Any = None,
        include_defaults: bool = True,
        metadata: Any = None,
    ) -> None:
        self.include_path = include_path
        self.scanned = include_path


@pytest.fixture
def manager() -> Any:
    """A module with a TaskManager that has been hooked."""
    module = types.ModuleType("manager")
    module.TaskManager = type("TaskManager", (FakeManager,), {"__init__": FakeManager.__init__})  # type: ignore[attr-defined]
    plug.add_tasks(module)
    return module


def test_manager_scans_ours_first_and_remembers_what_was_asked(manager: Any) -> None:
    ours = paths.tasks_dir()
    for given, scanned in ((None, [ours]), ("a", [ours, "a"]), (["a", "b"], [ours, "a", "b"]), (("a",), [ours, "a"])):
        made = manager.TaskManager(include_path=given)
        assert (made.scanned, made.include_path) == (scanned, given)
        assert manager.TaskManager(None, given).scanned == scanned


def test_manager_is_left_alone_where_defaults_are_off_or_ours_is_named(manager: Any) -> None:
    assert manager.TaskManager(include_path="a", include_defaults=False).scanned == "a"
    assert manager.TaskManager(include_path=str(paths.tasks_dir())).scanned == [str(paths.tasks_dir())]


def test_manager_of_another_signature_is_left_alone(manager: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'folders'"):
        manager.TaskManager(folders="a")

    class Other:
        def __init__(self, folders: list[str]) -> None:
            self.folders = folders

    module: Any = types.ModuleType("manager")
    module.TaskManager = Other
    before = Other.__init__
    plug.add_tasks(module)
    assert module.TaskManager.__init__ is before


def test_real_manager_finds_our_tasks(root: Path) -> None:
    code = """
import ltm_eval_bridge, lm_eval.tasks.manager as manager
from pathlib import Path
scanned = []
manager.TaskIndex.build = lambda self, found, **more: scanned.extend(found) or {}
manager.TaskManager()
print(*[Path(folder).as_posix() for folder in scanned][1:])
"""
    assert run_python(code, cwd=root) == paths.tasks_dir().as_posix()


# Task options ---------------------------------------------------------------------------------------------------------


def loaded(monkeypatch: pytest.MonkeyPatch, words: list[str] | None, tasks: list[str], **metadata: Any) -> Any:
    """Tasks as lm-eval's command loads them; without words, as a program of someone's own does."""
    plug.plug_in()
    from lm_eval.tasks import TaskManager

    if words is not None:
        monkeypatch.setattr(sys, "argv", ["lm-eval", "run", "--model", "hf", "--tasks", *tasks, *words])
    manager = TaskManager(include_defaults=False, include_path=str(paths.tasks_dir()), metadata=metadata)
    return manager.load(tasks)["tasks"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metadata", '{"protocl": "documents"}'], "reads 'protocl'. Did you mean 'protocol'?"),
        (["--metadata", "data=sample", "ptb_splitt=test"], "reads 'ptb_splitt'. Did you mean 'ptb_split'?"),
        (["--metadata=data=sample,colour=red"], "reads 'colour'."),
        (["--metad", '{"wikitext_split": "test"}'], "reads 'wikitext_split'."),
        (["--metadata", '{"split": "test", "split": "test"}'], "'split' is given twice"),
        (["--metadata", "split=test", '{"split": "test"}'], "'split' is given twice"),
        (["--metadata", '{"split": "test", "ptb_split": "test"}'], "reads 'split'. Did you mean 'ptb_split'?"),
        (["--metadata", '{"data": "sample", "n": 4}'], "reads 'n'."),
    ],
)
def test_lm_evals_command_ends_on_an_option_that_no_task_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        loaded(monkeypatch, words, ["ltm_ptb"], data="sample", pretrained="x")
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("ltm-eval: error[2]: --metadata: ") and said in told


def test_an_option_that_one_of_the_tasks_reads_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--metadata", '{"protocol": "documents", "data": "sample", "n": 4}', "--model_args", "pretrained=x,peft=y"]
    found = loaded(
        monkeypatch, words, ["ltm_gsm8k", "ltm_ptb"], data="sample", protocol="documents", n=4, pretrained="x", peft="y"
    )
    assert found["ltm_gsm8k"].repeats.n == 4


def test_tasks_that_do_not_tell_may_read_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "foreign.yaml").write_text("task: foreign\ndataset_path: x\n", "utf-8")
    plug.plug_in()
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=[str(paths.tasks_dir()), str(tmp_path)], metadata={})
    metadata.refuse_unread({"protocl": 1}, manager, ["ltm_ptb", "foreign"])
    assert (
        "no task of this run reads 'protocl'. Did you mean 'protocol'? Whether foreign does is not known" in caplog.text
    )


@pytest.mark.parametrize("slip", ["protocl", "ptb_splitt", "block_token", "blocktokens", "insert_oes", "dta_dir"])
def test_a_slip_beside_a_models_arguments_is_noticed(monkeypatch: pytest.MonkeyPatch, slip: str) -> None:
    """From Python, where lm-eval does not tell a task's options from a model's arguments."""
    from ltm_eval.system.errors import UsageError

    with pytest.raises(UsageError, match=f"no task of this run reads '{slip}'. Did you mean"):
        loaded(monkeypatch, None, ["ltm_ptb"], data="sample", **{slip: "x"})
    model = {"pretrained": "x", "tokenizer": "t", "dtype": "d", "parallelize": True, "max_length": 4, "t_fast": 1}
    assert loaded(monkeypatch, None, ["ltm_ptb"], data="sample", **model)


# What our model answered is saved, or the command fails ---------------------------------------------------------------


@pytest.fixture
def loggers() -> Any:
    plug.plug_in()
    from lm_eval.loggers import evaluation_tracker

    return evaluation_tracker


def test_the_bridge_guards_saving(root: Path) -> None:
    code = "import ltm_eval_bridge\nfrom lm_eval.loggers import EvaluationTracker\nprint(EvaluationTracker.by_ltm_eval)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert done.stdout.strip() == "True", done.stderr


SAMPLE = {"doc_hash": "a", "prompt_hash": "b", "target_hash": "c", "target": 1, "arguments": [("x", {})]}
RESULTS = {"results": {"t": {"acc,none": 0.5}}, "configs": {"t": {}}, "versions": {"t": 1}, "n-shot": {"t": 0}}


def saved(loggers: Any, output: Path, *, model: str = "ltm", name: str = "demo") -> Path:
    """What lm-eval's command does with its tracker before and after the model works; returns the results' folder."""
    tracker = loggers.EvaluationTracker(output_path=str(output))
    tracker.general_config_tracker.log_experiment_args(
        model_source=model,
        model_args={"pretrained": name},
        system_instruction=None,
        chat_template=None,
        fewshot_as_multiturn=False,
    )
    samples = [{**SAMPLE, "resps": [["y"]], "filtered_resps": ["y"]} for _ in range(3)]
    tracker.save_results_aggregated(results=dict(RESULTS), samples={"t": samples})
    tracker.save_results_samples(task_name="t", samples=samples)
    return output / tracker.general_config_tracker.model_name_sanitized


@pytest.mark.parametrize("name", ["demo", "/" + "deep/" * 100 + "ckpt_1.pt", "é/" * 200])
def test_results_of_a_checkpoint_under_any_path_are_saved(loggers: Any, name: str, tmp_path: Path) -> None:
    folder = saved(loggers, tmp_path, name=name)
    assert len(list(folder.glob("results_*.json"))) == 1
    (samples,) = folder.glob("samples_t_*.jsonl")
    assert samples.read_bytes().count(b"\n") == 3 and len(list(folder.iterdir())) == 2
    assert name != "demo" or folder == tmp_path / "demo"


def test_a_place_that_cannot_be_written_is_told_before_the_model_works(loggers: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / ("x" * 300), tmp_path / "a" / ("x" * 245 + ".json")):
        tracker = loggers.EvaluationTracker(output_path=str(output))
        with pytest.raises(MachineError, match="cannot be written"):
            tracker.general_config_tracker.log_experiment_args("ltm", {"pretrained": "demo"}, None, None, False)
    assert saved(loggers, tmp_path / "file", model="hf")  # lm-eval's own models are left to lm-eval


@pytest.mark.parametrize("broken", ["json.dumps", "sanitize_list", "Path.write_text"])
def test_a_save_that_fails_is_an_error_and_shows_the_table(
    loggers: Any, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"lm_eval.loggers.evaluation_tracker.{broken}", full)
    with pytest.raises(MachineError, match="did not save it whole"):
        saved(loggers, tmp_path)
    assert "|acc" in capsys.readouterr().out
    assert saved(loggers, tmp_path, model="hf")


def test_lm_evals_command_ends_with_code_4_where_results_cannot_go(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "ltm_eval", "lm-eval", "--model", "ltm", "--tasks", "ltm_gsm8k", "--limit", "1"]
    command += ["--model_args", "pretrained=demo,t_fast=0", "--metadata", '{"data": "sample"}', "--num_fewshot", "0"]
    done = subprocess.run(
        [*command, "--output_path", str(tmp_path / "file")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4 and "error[4]: results below output_path" in done.stderr
    assert "generating" not in done.stderr
