"""Versions, machine and commit that a figure came from."""

from __future__ import annotations

import platform
import subprocess
from typing import Any

import ltm_eval
from ltm_eval import paths


def provenance() -> dict[str, Any]:
    """Versions, machine, and the commit this program ran from."""
    packages = ("torch", "lm-eval", "transformers", "datasets", "tiktoken", "numpy")
    return {
        "ltm_eval": ltm_eval.__version__,
        "git": _git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
    }


def program(*packages: str) -> dict[str, str | None]:
    """What of the program can change an answer: its version, the digest of its source, torch, lm-eval and `packages`.

    Answers are kept under it, and the processes of a job must agree in it.
    """
    return {
        "ltm_eval": ltm_eval.__version__,
        "source_sha256": paths.source_sha256(),
        **{name: version(name) for name in ("torch", "lm-eval", *packages)},
    }


def described() -> str:
    """The program for a reader: version, and commit where it runs from a checkout."""
    git = _git_state()
    if git is None:
        return ltm_eval.__version__
    return f"{ltm_eval.__version__}, commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}"


def _git_state() -> dict[str, Any] | None:
    """Commit and whether the tree was changed, where the program runs from a checkout."""
    root = paths.PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
