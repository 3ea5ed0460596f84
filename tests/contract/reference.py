"""Values set beside those of a stored reference (JSON below reference/): what it holds must be there, more may be.

Numbers may differ by one part in 100,000, since bits differ between CPUs. `RENEW_SNAPSHOTS=1 pytest tests/contract`
writes the references anew; read the difference before committing it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).parent / "reference"
ROOT = Path(__file__).resolve().parents[2]
RENEW = "RENEW_SNAPSHOTS" in os.environ
RELATIVE, ABSOLUTE = 1e-5, 1e-6
LONGEST_TEXT = 160
ANY = {bool: "<yes or no>", int: "<number>", float: "<number>", str: "<text>", list: "<list>", dict: "<object>"}


def check(name: str, found: Any, *, free: str = "", left_out: str = "", exact: bool = False) -> None:
    """Compare with reference/`name`.json.

    Args:
        free: a regular expression of paths (`/results/ltm_rules/alias`) of which only the kind of value is compared.
        left_out: of paths that are not compared at all.
        exact: nothing may be there that the reference does not hold.
    """
    seen = _stable(found, "", re.compile(free or "(?!)"), re.compile(left_out or "(?!)"))
    path = HERE / f"{name}.json"
    if RENEW:
        path.write_text(json.dumps(seen, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
    wrong = list(_differences(json.loads(path.read_text("utf-8")), seen, "", exact=exact))
    assert not wrong, "\n".join(wrong[:20])


def _stable(value: Any, path: str, free: re.Pattern[str], left_out: re.Pattern[str]) -> Any:
    """Without what differs between machines and moments."""
    if free.fullmatch(path):
        return ANY.get(type(value), "<nothing>")
    if isinstance(value, dict):
        return {
            key: _stable(one, f"{path}/{key}", free, left_out)
            for key, one in value.items()
            if not left_out.fullmatch(f"{path}/{key}")
        }
    if isinstance(value, list):
        return [_stable(one, f"{path}/{index}", free, left_out) for index, one in enumerate(value)]
    return plain(value) if isinstance(value, str) else value


def plain(text: str) -> str:
    """A text without places, dates and versions; a long one by its digest."""
    text = text.replace(str(ROOT), "ROOT")
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}", "DATE", text)
    text = re.sub(r"\|(v|lm_eval):[^|]+", r"|\1:VERSION", text)
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:40]}… {len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _differences(expected: Any, found: Any, path: str, *, exact: bool) -> Iterable[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            if key in found:
                yield from _differences(value, found[key], f"{path}/{key}", exact=exact)
            else:
                yield f"{path}/{key}: missing, expected {value!r}"
        yield from (f"{path}/{key}: not in the reference" for key in found if exact and key not in expected)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, value in enumerate(expected):
            yield from _differences(value, found[index], f"{path}/{index}", exact=exact)
    elif not close(expected, found):
        yield f"{path}: expected {expected!r}, found {found!r}"


def close(expected: Any, found: Any) -> bool:
    """Equal, or numbers (also as text: lm-eval's responses) that another CPU may have found."""
    if isinstance(expected, str) and isinstance(found, str) and re.fullmatch(r"-?\d+\.\d{6,}", expected):
        expected, found = float(expected), float(found) if re.fullmatch(r"-?\d+\.\d+", found) else found
    if type(expected) is float and type(found) is float:
        return math.isclose(expected, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(type(expected) is type(found) and expected == found)
