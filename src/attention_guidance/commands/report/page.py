"""Render self-contained HTML pages from the templates in this folder.

A page loads no other file: figures are inline SVG, and the content security policy allows only the page's own script,
so text from a corpus cannot become markup or code.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from attention_guidance.commands.report.figures.drawing import finite
from attention_guidance.commands.report.figures.svg import PALETTE
from attention_guidance.commands.secrets import masked

DIVERGED = "diverged"


def check_schema(content: Mapping[str, Any], kind: str) -> None:
    """Raise ValueError if the results have another kind or schema version."""
    if content.get("schema_version") != 1 or content.get("kind") != kind:
        found = f"kind {content.get('kind')!r}, schema_version {content.get('schema_version')!r}"
        raise ValueError(f"expected kind {kind!r}, schema_version 1; got {found}")


def render(template: str, **content: Any) -> bytes:
    """Render one of the templates in this folder; `css` and `script_hash` are filled in.

    Args:
        template: file name. Its only script contains no template expressions, or is a file inserted with `source`.
        content: variables of the template. Strings are escaped.
    """
    environment = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["finite"] = lambda value: finite(value) is not None
    environment.filters.update(number=number, mass=mass, signed=signed, percent=percent)
    environment.globals["source"] = lambda name: Markup(source(name))
    css = Markup(f":root {{ {_variables()} }}\n{source('page.css')}")
    page = environment.get_template(template).render(css=css, script_hash="SCRIPT-HASH", **content)
    page = masked(page)
    # Tokens from JSON may contain lone surrogates, which UTF-8 cannot encode.
    return page.replace("SCRIPT-HASH", _script_hash(page), 1).encode("utf-8", "backslashreplace")


def source(name: str) -> str:
    """The content of a file in this folder."""
    return resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _variables() -> str:
    return " ".join(f"--{role}: {colour};" for role, colour in PALETTE.items())


def _script_hash(page: str) -> str:
    """The hash of the page's script for the content security policy."""
    script = re.search(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert script is not None
    return base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()


def number(value: object, digits: int = 2, missing: str = DIVERGED) -> str:
    """Format as ``1,234.50``; null, NaN and infinity become `missing`."""
    known = finite(value)
    return missing if known is None else f"{known:,.{digits}f}"


def mass(value: object) -> str:
    """Format a fraction in three characters, to fit a table cell: ``.97``, ``1.0``."""
    known = finite(value)
    return "–" if known is None else f"{known:.2f}".removeprefix("0")[:3]


def signed(value: object, digits: int = 2) -> str:
    """Format a difference with its sign (a Unicode minus), or a dash if not finite."""
    known = finite(value)
    return "–" if known is None else f"{known:+,.{digits}f}".replace("-", "−")


def percent(value: object, digits: int = 1) -> str:
    """Format a fraction as a percentage, or a dash if not finite."""
    known = finite(value)
    return "–" if known is None else f"{100 * known:.{digits}f}\u00a0%"
