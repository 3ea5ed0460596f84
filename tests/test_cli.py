"""The command: options, names, ranges, one-line errors and exit codes."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ltm_eval import cli
from ltm_eval.cli import VARIABLES
from ltm_eval.harness.options import RunConfig
from ltm_eval.inference.options import PRESETS
from ltm_eval.system import files as paths
from ltm_eval.system.crash import explained
from ltm_eval.system.errors import RefusedError


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """What `run` was asked for, in place of running it."""
    asked: list[RunConfig] = []

    def run(config: RunConfig) -> Any:
        asked.append(config)
        return SimpleNamespace(results=(Path("r.json"),), report=Path("report.html"), failed="", findings="")

    fake = SimpleNamespace(run=run, check=lambda config: None)
    monkeypatch.setattr("ltm_eval.harness.evaluation.results_table", lambda path: f"table of {path}")
    monkeypatch.setitem(sys.modules, "ltm_eval.harness.run", fake)
    monkeypatch.setattr("ltm_eval.harness.run", fake, raising=False)
    return asked


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert len(lines[0]) <= 300
    return lines[0]


def test_no_options_ask_for_every_default(runs: list[RunConfig]) -> None:
    assert cli.main(["run"]) == 0
    assert runs == [RunConfig(command=("ltm-eval", "run"))]


def test_every_option_arrives(runs: list[RunConfig], capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "run --model m --tasks gsm8k,ptb --task wikitext --num_fewshot 8 --baseline a --baseline b --data d --limit 9 "
        "--gen_kwargs temperature=0.5,top_p=0.9 --tokenizer gpt2 --revision abc --condition demos+prompt "
        "--preset released --t_fast 3 --seed 7 --device cuda:1 --dtype bfloat16 --batch_size 4 --output_path o "
        "--no_report --log_samples --quiet"
    )
    args = line.split()
    assert cli.main(args) == 0
    assert runs == [
        RunConfig(
            model="m",
            tasks=("gsm8k", "ptb", "wikitext"),
            num_fewshot=8,
            baselines=("a", "b"),
            data="d",
            limit=9,
            gen_kwargs="temperature=0.5,top_p=0.9",
            tokenizer="gpt2",
            revision="abc",
            condition="demos+prompt",
            preset="released",
            t_fast=3,
            seed=7,
            device="cuda:1",
            dtype="bfloat16",
            batch_size=4,
            output_path="o",
            report=False,
            quiet=True,
            command=("ltm-eval", *args),
        )
    ]
    assert capsys.readouterr().out.splitlines() == ["table of r.json", "results: r.json", "report: report.html"]


@pytest.mark.parametrize(
    "args",
    [
        ["--num_fewshot", "3"],
        ["--num-fewshot", "3"],
        ["--num-fewshot=3"],
        ["--shots", "3"],
        ["-f", "3"],
    ],
)
def test_spellings_of_shots(runs: list[RunConfig], args: list[str]) -> None:
    assert cli.main(["run", *args]) == 0
    assert runs[0].num_fewshot == 3


@pytest.mark.parametrize("args", [["--batch-size", "2", "--output-path", "a-b", "--t-fast", "0", "--no-report"]])
def test_hyphens_change_names_not_values(runs: list[RunConfig], args: list[str]) -> None:
    assert cli.main(["run", *args]) == 0
    assert (runs[0].batch_size, runs[0].output_path, runs[0].t_fast, runs[0].report) == (2, "a-b", 0, False)


def test_environment_gives_options_and_the_command_line_wins(
    runs: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"TASKS": "ptb,lm1b", "SHOTS": "5", "BATCH_SIZE": "3", "REPORT": "0", "BASELINE": "a b", "T_FAST": "8"}
    for name, value in given.items():
        monkeypatch.setenv(f"LTM_EVAL_{name}", value)
    assert cli.main(["run", "--t_fast", "9"]) == 0
    config = runs[0]
    assert (config.tasks, config.num_fewshot, config.batch_size) == (("ptb", "lm1b"), 5, 3)
    assert (config.report, config.baselines, config.t_fast) == (False, ("a", "b"), 9)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "--hepl"], ["--hepl", "'--help'"]),
        (["run", "--shots", "eight"], ["shots", "0 to 32", "'eight'"]),
        (["run", "--shots", "0,99"], ["shots", "0 to 32"]),
        (["run", "--t_fast", "1000000000"], ["t_fast", "0 to 100000"]),
        (["run", "--limit", "0.5"], ["limit", "at least 1", "'0.5'"]),
        (["run", "--limit", "１２"], ["limit", "at least 1"]),
        (["run", "--n", "0"], ["n must be a whole number of at least 1"]),
        (["run", "--k", "1,x"], ["k must be a whole number of at least 1", "'x'"]),
        (["run", "--fit_window", "0"], ["'each' or a whole number of at least 1"]),
        (["run", "--rethink", "-1"], ["rethink must be a whole number of at least 0"]),
        (["run", "--device", "gpu"], ["device", "cuda:N", "'gpu'"]),
        (["run", "--dtype", "float16"], ["dtype", "bfloat16", "'float16'", "Did you mean"]),
        (["run", "--condition", "demos,nothing"], ["condition must be one of"]),
        (["run", "--task", ","], ["no task", "--tasks gsm8k"]),
        (["run", "--model", ""], ["model is empty"]),
        (["run", "--limit"], ["--limit"]),
        (["run", "gsm8k"], ["gsm8k"]),
        (["convert", "only-one"], ["DIR", "ltm-eval convert --help"]),
        (["ls", "--pth"], ["'--path'"]),
    ],
)
def test_usage_errors_name_argument_value_and_remedy(
    runs: list[RunConfig], args: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(args) == 2
    line = error_of(capsys)
    assert line.startswith("ltm-eval: error[2]: ")
    assert [word for word in words if word not in line] == []
    assert runs == []


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `run` fail with `error`."""

    def run(_: RunConfig) -> Any:
        raise error

    fake = SimpleNamespace(run=run, check=lambda config: None)
    monkeypatch.setitem(sys.modules, "ltm_eval.harness.run", fake)
    monkeypatch.setattr("ltm_eval.harness.run", fake, raising=False)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RefusedError("other seed"), 6, "other seed"),
        (PermissionError(13, "Permission denied", "/x"), 4, "/x: Permission denied"),
        (OSError(28, "No space left on device", "/x"), 4, "/x: No space left"),
        (MemoryError(), 4, "--batch_size"),
        (ModuleNotFoundError("No module named 'mauve'", name="mauve"), 4, "'mauve' is missing"),
    ],
)
def test_errors_have_their_code(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(error, monkeypatch)
    assert cli.main(["run"]) == code
    line = error_of(capsys)
    assert line.startswith(f"ltm-eval: error[{code}]: ")
    assert words in line


def test_bug_leaves_a_crash_file_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    raising(ValueError("token hf_abcdefghijkl\n\x1b[31m"), monkeypatch)
    assert cli.main(["run", "--output-path", "out", "--revision", "hf_abcdefghijkl"]) == 1
    line = error_of(capsys)
    (crash,) = (tmp_path / "out").glob("crash-*.txt")
    assert crash.name in line
    assert "ValueError" in line
    text = crash.read_text("utf-8")
    assert "Traceback" in text
    for shown in (line, text):
        assert "hf_***" in shown
        assert "hf_abc" not in shown
        assert "\x1b" not in shown


def test_crash_file_falls_back_to_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    raising(ValueError("x"), monkeypatch)
    assert cli.main(["run", "-o", "absent"]) == 1
    (crash,) = tmp_path.glob("crash-*.txt")
    assert crash.name in error_of(capsys)


def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LTM_EVAL_DEBUG", "1")
    raising(RefusedError("other seed"), monkeypatch)
    assert cli.main(["run"]) == 6
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1] == "ltm-eval: error[6]: other seed"


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(KeyboardInterrupt(), monkeypatch)
    assert cli.main(["run"]) == 130
    assert error_of(capsys) == "ltm-eval: interrupted"


def test_help_has_examples_and_names_what_stands_beside_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    assert cli.main([]) == 0
    assert "LTM_EVAL_DATA_DIR" in capsys.readouterr().out
    for command in ("run", "report", "convert", "ls", "doctor"):
        assert cli.main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"ltm-eval {command}" in text[text.index("Examples") :]


def test_ls_names_every_preset_and_task_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls"]) == 0
    text = capsys.readouterr().out
    for name in PRESETS:
        assert name in text
    for name in re.findall(r"^task: (\S+)$", "".join(p.read_text() for p in paths.tasks_dir().rglob("*.yaml")), re.M):
        assert name in text
    assert cli.main(["ls", "--path"]) == 0
    assert capsys.readouterr().out == f"{paths.tasks_dir()}\n"


def test_ls_reads_functions_and_includes_without_importing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "base").write_text("output_type: generate_until\nnum_fewshot: 5\nf: !function no.such.module\n")
    (tmp_path / "a.yaml").write_text("include: base\ntask: ltm_a\n")
    monkeypatch.setattr(paths, "tasks_dir", lambda: tmp_path)
    assert cli.main(["ls"]) == 0
    assert "  ltm_a  generate_until, 5 shots by default\n" in capsys.readouterr().out


def test_doctor_looks_at_everything_and_never_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from ltm_eval.system import machine as doctor

    (tmp_path / "gsm8k").mkdir()
    monkeypatch.setenv("LTM_EVAL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(doctor.LOOKS, "broken", lambda: str(1 / 0))
    monkeypatch.setitem(doctor.LOOKS, "plug", lambda: "looked at by its own test")
    assert cli.main(["doctor"]) == 0
    found = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert found["broken"] == "broken: ZeroDivisionError: division by zero"
    assert found["lm-eval"].startswith("0.")
    assert "cpu" in found["torch"]
    assert f"{tmp_path}: gsm8k" in found["data"]
    assert found["tokenizer"] == f"gpt2 in {tmp_path}: absent, needs network once"


def test_lm_eval_gets_its_arguments_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.__main__
    from lm_eval.api.registry import model_registry

    seen: list[list[str]] = []
    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda: seen.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    for command in ("lm-eval", "lm_eval"):
        assert cli.main([command, "--model", "ltm", "--batch-size", "2", "-L", "3", "--help", "--", "a-b"]) == 0
    assert seen == [["lm-eval", "--model", "ltm", "--batch-size", "2", "-L", "3", "--help", "--", "a-b"]] * 2
    assert "ltm" in model_registry


def test_exit_code_of_lm_eval_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.__main__

    def leave() -> None:
        raise SystemExit(3)

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", leave)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert cli.main(["lm-eval", "ls"]) == 3


def test_report_writes_where_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from ltm_eval.report import page as report

    written: dict[Path, str] = {}
    monkeypatch.setattr(report, "gather", lambda found: (found, ()))
    monkeypatch.setattr(report, "build", lambda runs, probes, full: runs)
    monkeypatch.setattr(report, "render", lambda data, plots=None: f"page of {data}")
    monkeypatch.setattr(report, "page_plots", lambda data: {})
    monkeypatch.setattr(report, "write", lambda html, path: written.__setitem__(path, html))
    folder, file = str(tmp_path), str(tmp_path / "results_a.json")
    for args, target in (
        ([folder], tmp_path / "report.html"),
        ([file], tmp_path / "report.html"),
        ([folder, "-o", folder], tmp_path / "report.html"),
        ([folder, "--output", str(tmp_path / "x.html")], tmp_path / "x.html"),
    ):
        written.clear()
        assert cli.main(["report", *args]) == 0
        assert written == {target: f"page of {[args[0]]}"}
        assert capsys.readouterr().out == f"report: {target.resolve()}\n"


@pytest.mark.parametrize("args", [["ls"], ["run", "--help"]])
def test_closed_pipe_is_quiet(root: Path, args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ltm_eval", *args], stdout=writer, stderr=subprocess.PIPE, check=False, cwd=root
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("args", "streams", "code"),
    [
        ("run --model absent", "2>/dev/full", 3),
        ("run --model absent", "2>&-", 3),
        ("run --model absent", ">&- 2>&-", 3),
        ("ls", "2>/dev/full", 0),
        ("ls", ">&-", 0),
        ("ls", ">/dev/full", 4),
    ],
)
def test_full_and_closed_streams(root: Path, args: str, streams: str, code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "LTM_EVAL_NO_SUCH": "warned of"}
    line = f'"{sys.executable}" -m ltm_eval {args} {streams}'
    done = subprocess.run(line, shell=True, capture_output=True, check=False, cwd=root, env=environment)  # noqa: S602
    assert done.returncode == code
    assert b"Traceback" not in done.stderr and b"bug" not in done.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "ulimit -v"),
        (ImportError("libx.so: failed to map segment from shared object"), "ulimit -v"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "out of memory"),
    ],
)
def test_too_little_memory_or_threads(error: Exception, line: str, tmp_path: Path) -> None:
    known = explained(error, call="", folder=tmp_path)
    assert known.exit_code == 4 and line in str(known)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "limit"), [("run --task gsm8k", 700_000), ("run", 1_300_000), ("convert a b", 600_000)]
)
def test_a_limit_of_address_space_is_told_before_torch_is_loaded(root: Path, command: str, limit: int) -> None:
    """With less than that torch ended in a segmentation fault, or lm-eval's imports never ended."""
    line = f'ulimit -v {limit}; "{sys.executable}" -m ltm_eval {command}'
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, cwd=root)  # noqa: S602
    assert done.returncode == 4
    (told,) = done.stderr.splitlines()
    assert f"of address space to begin, the limit is {limit // 1024:,}; raise it (ulimit -v " in told
    for light in ("ls", "run --help"):
        subprocess.run([sys.executable, "-m", "ltm_eval", *light.split()], check=True, capture_output=True, cwd=root)


def test_a_full_stdout_is_named(root: Path) -> None:
    line = f'"{sys.executable}" -m ltm_eval ls >/dev/full'
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, cwd=root)  # noqa: S602
    assert done.returncode == 4
    assert done.stderr.startswith("ltm-eval: error[4]: standard output: No space left on device;")


@pytest.mark.parametrize(("args", "code"), [("ls", 4), ("run --model absent", 3)])
def test_a_terminal_that_is_gone(root: Path, args: str, code: int) -> None:
    """A closed window whose SIGHUP was ignored: stdout and stderr give EIO."""
    master, slave = os.openpty()
    os.close(master)
    try:
        command = [sys.executable, "-m", "ltm_eval", *args.split()]
        done = subprocess.run(command, stdin=slave, stdout=slave, stderr=slave, check=False, cwd=root, timeout=300)
    finally:
        os.close(slave)
    assert done.returncode == code


def test_plain_terminal_and_c_locale(root: Path) -> None:
    environment = {**os.environ, "TERM": "dumb", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "ltm_eval", "run", "--help"],
        capture_output=True,
        check=False,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"--shots" in done.stdout


def test_unknown_variables_of_ours_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LTM_EVAL_LIMITT", "LTM_EVAL_DATA_DRI", "ltm_eval_limit", "LTM_EVAL_XQZW"):
        monkeypatch.setenv(name, "3")
    for name in ("LTM_EVAL_SHOTS", "LTM_EVAL_NUM_FEWSHOT", "LTM_EVAL_TEST_KILLS", "LTM_EVAL_RANK_STALL"):
        monkeypatch.setenv(name, "3")
    assert cli.main(["ls", "--path"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "environment variable" in line]
    assert len(told) == 4 and all("warning: " in line and "is not known and has no effect" in line for line in told)
    hints = {name: line for line in told for name in [line.split("variable ")[1].split()[0]]}
    assert "'LTM_EVAL_LIMIT'" in hints["LTM_EVAL_LIMITT"] and "'LTM_EVAL_DATA_DIR'" in hints["LTM_EVAL_DATA_DRI"]
    monkeypatch.setenv("RANK", "1")
    cli.main(["ls", "--path"])
    assert "environment variable" not in capsys.readouterr().err


def test_every_variable_that_is_read_is_known() -> None:
    package = Path(cli.__file__).parent
    read = set(re.findall(r"LTM_EVAL_[A-Z_]*[A-Z]", "".join(file.read_text("utf-8") for file in package.rglob("*.py"))))
    assert {"LTM_EVAL_DATA_DIR", "LTM_EVAL_CACHE_DIR"} <= read <= VARIABLES
