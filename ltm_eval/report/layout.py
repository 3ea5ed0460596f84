"""Set up what every HTML page shares: Jinja with hostile text made harmless, and a content security policy.

Model text is not trusted: Jinja escapes it, control and bidirectional characters become visible, long fields are cut.
The policy admits the one inline style and the one inline script by their digest and nothing else.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ltm_eval.system.errors import at_home
from ltm_eval.system.files import reports_dir
from ltm_eval.system.text import (
    VERDICTS,
    cut,
    duration,
    number,
    operations,
    p_value,
    percent,
    short,
    signed,
    signed_bits,
    size,
    visible,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def environment() -> Environment:
    """Return Jinja with escaping on, undefined names an error, and every text made visible and cut on its way out."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(reports_dir() / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.filters.update(
        percent=percent,
        number=number,
        short=short,
        signed=signed,
        signed_bits=signed_bits,
        p_value=p_value,
        verdict=VERDICTS.__getitem__,
        duration=duration,
        grouped=lambda value: f"{value:,}",
        operations=operations,
        size=size,
    )
    return made


def _finalize(value: Any) -> Any:
    """Show and cut text, the home folder as `~`; our own mark-up stays as it is."""
    return visible(cut(at_home(value))) if isinstance(value, str) and not hasattr(value, "__html__") else value


def markup(text: str) -> Markup:
    """Mark `text` as safe: files of this package, and plots whose text the XML writer has escaped.

    Never call it with text of a model or a results file.
    """
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 # nosec B704


def assets(*names: str) -> dict[str, Markup | str]:
    """Return a page's `style` and `script`, and the `policy` that admits exactly these.

    Args:
        names: files of the reports' folder, in order; without a suffix both `NAME.css` and `NAME.js`. The script that
            switches the theme precedes all others.
    """
    folder = reports_dir()

    def text(suffix: str) -> str:
        wanted = ["theme.js"] if suffix == ".js" else []
        wanted += [name if "." in name else f"{name}{suffix}" for name in names]
        return "".join((folder / name).read_text(encoding="utf-8") for name in wanted if name.endswith(suffix))

    style, script = text(".css"), text(".js")
    return {"style": markup(style), "script": markup(script), "policy": policy(style=style, script=script)}


def policy(*, style: str, script: str) -> str:
    """Return the content security policy that admits exactly this style and this script."""

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {allowed(style)}; script-src {allowed(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
