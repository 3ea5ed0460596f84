"""Which figures may stand in one column: those under the same settings, as far as their signatures tell them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ltm_eval.signatures import PREPARATION

if TYPE_CHECKING:
    from collections.abc import Sequence


class Signed(Protocol):
    """A figure that says under which settings it was made."""

    @property
    def signature(self) -> str:
        """The declared settings."""

    @property
    def n(self) -> int | None:
        """Documents."""


S = TypeVar("S", bound=Signed)

SIGNED_SETTINGS = ("task", "shots", "fewshot_seed", "scope", *PREPARATION)
"""Parts of a signature in which comparable figures agree; the number of documents comes on top."""


@dataclass
class Group(Generic[S]):
    """Figures under the same settings, as far as they tell them."""

    settings: dict[str, str] = field(default_factory=dict)
    """What the members tell."""
    figures: list[S] = field(default_factory=list)
    """The members."""


def groups_of(figures: Sequence[S]) -> list[Group[S]]:
    """The figures by settings; one that does not tell a setting belongs to the first group it does not contradict."""
    groups: list[Group[S]] = []
    for figure in figures:
        own = _settings(figure)
        fitting = (g for g in groups if all(g.settings.get(key, value) == value for key, value in own.items()))
        group = next(fitting, None)
        if group is None:
            group = Group()
            groups.append(group)
        group.settings |= own
        group.figures.append(figure)
    return groups


def _settings(figure: Signed) -> dict[str, str]:
    pairs = (part.partition(":")[::2] for part in figure.signature.split("|")[1:])
    found = {key: value for key, value in pairs if key in SIGNED_SETTINGS}
    if figure.n is not None:
        found["documents"] = str(figure.n)
    return found


def apart_of(groups: Sequence[Group[S]], group: Group[S]) -> str:
    """What sets the group apart from the others: `shots 8, documents 100`."""
    keys = [key for key in group.settings if len({one.settings.get(key) for one in groups}) > 1]
    return ", ".join(f"{key} {group.settings[key]}" for key in keys)
