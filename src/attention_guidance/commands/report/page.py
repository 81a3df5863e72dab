"""What all pages share: one HTML file each that needs nothing beside it.

A page loads nothing: figures are inline SVG, and its content security policy allows its own script alone, so that text
of a corpus can become neither markup nor code.
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

DIVERGED = "diverged"


def check_schema(content: Mapping[str, Any], kind: str) -> None:
    """Raise ValueError for results of another kind or schema than a page can show."""
    if content.get("schema_version") != 1 or content.get("kind") != kind:
        found = f"kind {content.get('kind')!r}, schema_version {content.get('schema_version')!r}"
        raise ValueError(f"expected kind {kind!r}, schema_version 1; got {found}")


def render(template: str, **content: Any) -> bytes:
    """A page from one of the templates in this folder; `css` and `script_hash` are filled in.

    Args:
        template: the template's file. Its one script holds no template expression, or is a file put in by `source`.
        content: what it shows. Strings are escaped.
    """
    environment = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["finite"] = lambda value: finite(value) is not None
    environment.filters.update(number=number, mass=mass, signed=signed, percent=percent)
    environment.globals["source"] = lambda name: Markup(source(name))
    css = Markup(f":root {{ {_variables()} }}\n{source('page.css')}")
    page = environment.get_template(template).render(css=css, script_hash="SCRIPT-HASH", **content)
    # A lone surrogate can reach a token through JSON and has no UTF-8 form.
    return page.replace("SCRIPT-HASH", _script_hash(page), 1).encode("utf-8", "backslashreplace")


def source(name: str) -> str:
    """A file of this folder."""
    return resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _variables() -> str:
    return " ".join(f"--{role}: {colour};" for role, colour in PALETTE.items())


def _script_hash(page: str) -> str:
    """The policy's name for the page's one script."""
    script = re.search(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert script is not None
    return base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()


def number(value: object, digits: int = 2, missing: str = DIVERGED) -> str:
    """``1,234.50``; the word for what is missing instead of null, nan or infinity."""
    known = finite(value)
    return missing if known is None else f"{known:,.{digits}f}"


def mass(value: object) -> str:
    """A share in three places, as there is room for in a cell: ``.97``, ``1.0``."""
    known = finite(value)
    return "–" if known is None else f"{known:.2f}".removeprefix("0")[:3]


def signed(value: object, digits: int = 2) -> str:
    """A difference with its sign (a true minus), or a dash."""
    known = finite(value)
    return "–" if known is None else f"{known:+,.{digits}f}".replace("-", "−")


def percent(value: object, digits: int = 1) -> str:
    """A share as per cent, or a dash."""
    known = finite(value)
    return "–" if known is None else f"{100 * known:.{digits}f}\u00a0%"
