"""Convert figures to SVG in the page's theme, and to PNG."""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from attention_guidance.commands.report.figures.tokens import printable
from attention_guidance.commands.results import write_bytes, write_text

#: Colour of each role on a light page (blue and vermilion: distinct in all common forms of colour blindness). The keys
#: are the CSS variables of the page; values must be unique, because to_svg maps them back to roles.
PALETTE = {
    "ink": "#1b1f24",
    "muted": "#5a626d",
    "rule": "#d8dde3",
    "surface": "#fefefe",
    "guided": "#0069a8",
    "unguided": "#c04f00",
    # Patterns, in order of first appearance.
    "series1": "#1f6fb5",
    "series2": "#b5520f",
    "series3": "#0b7a5e",
    "series4": "#8b3fa1",
    "series5": "#7d6100",
    "series6": "#b0305c",
    "series7": "#4a6b7c",
}


def series(number: int) -> str:
    """The colour of the n-th pattern; the seven colours repeat."""
    return PALETTE[f"series{number % 7 + 1}"]


def to_svg(fig: Figure) -> str:
    """The figure as an ``<svg>`` element for a page: text stays text, colours follow the page's theme.

    The same figure gives the same string. The figure's label becomes the accessible name.
    """
    label = printable(str(fig.get_label()))
    salt = f"{label} {fig.get_size_inches()}"  # ids must be unique among the figures on a page
    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": salt, "image.composite_image": False}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser uses its own fonts
        fig.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>", "", buffer.getvalue(), flags=re.DOTALL)
    # Below the natural width, text would be too small to read, so the page scrolls instead.
    width = f"--natural: {72 * fig.get_size_inches()[0]:.0f}px"
    name = f'<svg role="img" aria-label="{escape(label)}" style="stroke-linejoin: round; {width}" '
    return _themed(svg).replace("<svg ", name, 1)


def _themed(svg: str) -> str:
    """Use CSS variables for palette colours and the page's font, and drop unused ids: in tags only, not in text."""
    fallback = {colour: f"var(--{role}, {colour})" for role, colour in PALETTE.items()}
    used = set(re.findall(r'(?:url\(#|href="#)([\w-]+)', svg))

    def theme(tag: re.Match[str]) -> str:
        text = re.sub("|".join(fallback), lambda found: fallback[found.group()], tag.group())
        text = re.sub(r"(font: [^;\"]*?px|font-family:) [^;\"]*", r"\1 var(--sans, sans-serif)", text)
        text = re.sub(r' id="ag-([\w-]+)"', r' data-part="\1"', text)
        return re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", text)

    return re.sub(r"<[a-z][^>]*>", theme, svg)


def save_svg(fig: Figure, path: Path) -> None:
    """Write the figure as an SVG file in the colours of a light page."""
    text = '<?xml version="1.0" encoding="utf-8"?>\n' + to_svg(fig)
    write_text(path, text)


def save_png(fig: Figure, path: Path) -> None:
    """Write the figure as a PNG on white, 160 dots an inch, without a date."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page and the SVG can show it
        fig.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
