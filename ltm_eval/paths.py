"""Where the package's own files lie, in a checkout and in an installed wheel."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def _beside(name: str) -> Path:
    """The folder `name`: packed inside the package in a wheel, beside it in a checkout."""
    packed = PACKAGE / name
    return packed if packed.is_dir() else PACKAGE.parent / name


def tasks_dir() -> Path:
    """lm-eval task definitions (YAML)."""
    return _beside("tasks")


def reports_dir() -> Path:
    """Jinja templates, style sheet, script and published reference rows."""
    return _beside("reports")


def assets_dir() -> Path:
    """Bundled checkpoints (`ltm-demo`) and sample data (`sample/`)."""
    return PACKAGE / "assets"


def demo_model_dir() -> Path:
    """The bundled LTM, its encoding beside it."""
    return assets_dir() / "ltm-demo"


def sample_data_dir() -> Path:
    """Bundled sample data, laid out like a `--data` folder: one folder per set (`gsm8k/test.jsonl`)."""
    return assets_dir() / "sample"


def short_name(name: str) -> str:
    """The end of a name, at most 100 bytes."""
    return name.encode()[-100:].decode("utf-8", "ignore")


def unused_date(folder: Path) -> str:
    """Now, as lm-eval writes it into names of files; a name of its own where a clock that was set back says one again.

    Args:
        folder: of the results.
    """
    now = datetime.now()
    while True:
        date = now.isoformat().replace(":", "-")
        if not any(folder.glob(f"*_{date}.json*")):
            return date
        now += timedelta(microseconds=1)


@cache
def source_sha256() -> str:
    """Names the package's code, task definitions included, whatever its version says; read once a process."""
    files = {f"ltm_eval/{path.relative_to(PACKAGE).as_posix()}": path for path in PACKAGE.rglob("*.py")}
    files |= {f"tasks/{path.relative_to(tasks_dir()).as_posix()}": path for path in tasks_dir().rglob("*yaml")}
    found = sha256()
    for name, path in sorted(files.items()):
        found.update(name.encode() + b"\0" + sha256(path.read_bytes()).digest())
    return found.hexdigest()


def cache_dir() -> Path:
    """What can be made again and is slow to make: LTM_EVAL_CACHE_DIR, else `ltm_eval` in the user's cache folder."""
    named = os.environ.get("LTM_EVAL_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named).expanduser() if named else Path(home) / "ltm_eval"
