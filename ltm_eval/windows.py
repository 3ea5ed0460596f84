"""What z is fitted to: windows of tokens with the targets scored after them, and documents: windows of one z."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ltm_eval.elbo import IGNORED
from ltm_eval.errors import UsageError


@dataclass(frozen=True)
class Window:
    """Input tokens and the targets scored after them; `IGNORED` targets are read but not scored."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.targets) or not self.tokens:
            raise UsageError(
                f"a window needs as many targets as tokens and at least one, got {len(self.tokens)} and "
                f"{len(self.targets)}"
            )


@dataclass(frozen=True)
class Document:
    """Windows that share one z: the objective is sum over windows of -log p(window|z), plus one KL."""

    windows: tuple[Window, ...]

    @property
    def key(self) -> bytes:
        """sha256 over tokens and targets; names the document wherever it stands."""
        content = hashlib.sha256()
        for window in self.windows:
            content.update(np.asarray([window.tokens, window.targets], dtype="<i8").tobytes() + b"|")
        return content.digest()

    @property
    def padded_length(self) -> int:
        """Length that each of its windows is padded to."""
        return padded_length(max(len(window.tokens) for window in self.windows))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of windows and their padded length; documents of equal shape can share a batch."""
        return len(self.windows), self.padded_length

    @property
    def scored(self) -> int:
        """Tokens that are scored."""
        return sum(target != IGNORED for window in self.windows for target in window.targets)


def trimmed(tokens: list[int], targets: list[int], *, where: str) -> Window:
    """A row without its padding; `where` names it in an error."""
    scored = [i for i, target in enumerate(targets) if target != IGNORED]
    if not scored:
        raise UsageError(f"{where} has no scored position (all targets are ignored); leave it out")
    return Window(tuple(tokens[: scored[-1] + 1]), tuple(targets[: scored[-1] + 1]))


def padded_length(tokens: int) -> int:
    """Length a window of so many tokens is padded to: 16, 32, then multiples of 64."""
    for small in (16, 32):
        if tokens <= small:
            return small
    return -(-tokens // 64) * 64
