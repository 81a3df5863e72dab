"""Pictures as lists of shapes, in CSS pixels, from which both SVG and PNG are made."""

from __future__ import annotations

import base64
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from attention_guidance.printable import visible

#: The side of a cell of the map, and the distance between words.
PITCH = 18
_FONT = 11
#: Colours on a light ground.
LIGHT = {"ink": "#1b1f24", "muted": "#5a626d", "rule": "#d8dde3", "accent": "#0069a8"}
#: Of all shapes; `var(--NAME)` is a colour.
STYLE = f"""\
text {{ font: {_FONT}px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }}
text {{ fill: var(--ink); }} text.muted {{ fill: var(--muted); }} .cell {{ fill: var(--accent); }}
.line {{ stroke: var(--accent); stroke-width: 1.8; }} .rule {{ stroke: var(--muted); stroke-dasharray: 3 3; }}
.frame, .chosen {{ fill: none; stroke: var(--rule); }} .chosen {{ stroke: var(--ink); stroke-width: 2; }}
"""


@dataclass(frozen=True)
class Cell:
    """A square of the map."""

    x: float
    y: float
    weight: float


@dataclass(frozen=True)
class Line:
    """A line; `kind` is `line` or `rule`."""

    x1: float
    y1: float
    x2: float
    y2: float
    weight: float = 1.0
    kind: str = "line"


@dataclass(frozen=True)
class Text:
    """A text with its baseline in y; `upward` turns it to the left. `title` is the whole of it, `kind` its class."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    upward: bool = False
    title: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Frame:
    """A rectangle without a filling; `kind` is `frame` or `chosen`."""

    x: float
    y: float
    width: float
    height: float
    kind: str = "frame"
    title: str = ""


@dataclass(frozen=True)
class Image:
    """Pixels of one colour, each with the opacity in `alpha`, uint8 [height, width]."""

    x: float
    y: float
    width: float
    height: float
    alpha: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Group:
    """Shapes that are moved together."""

    shapes: Sequence[Shape]
    kind: str = ""
    x: float = 0
    y: float = 0


Shape = Cell | Line | Text | Frame | Image | Group


@dataclass(frozen=True)
class Picture:
    """Shapes and the size of the area that they are drawn on."""

    width: float
    height: float
    shapes: Sequence[Shape]

    def svg(self, name: str, *, alone: bool = False, role: str = "img") -> str:
        """An ``<svg>`` element.

        Args:
            name: the accessible name.
            alone: whether it is a file, on white and with the style; else a part of a page that has the style.
            role: the role of the element.
        """
        size = f'viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" height="{self.height:g}"'
        style = re.sub(r"var\(--(\w+)\)", lambda found: LIGHT[found[1]], STYLE)
        ground = f'<style>{style}</style><rect width="100%" height="100%" fill="#ffffff"/>' if alone else ""
        start = f'<svg xmlns="http://www.w3.org/2000/svg" role="{role}" aria-label="{escape(visible(name))}" {size}>'
        return f"{start}{ground}{''.join(map(_markup, self.shapes))}</svg>"

    def png(self) -> bytes:
        """A PNG on white, two dots a CSS pixel, drawn by matplotlib.

        Raises:
            ImportError: matplotlib is not installed.
        """
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context({"font.family": families(), "font.size": 0.75 * _FONT, "text.parse_math": False}):
            figure = Figure(figsize=(self.width / 96, self.height / 96), dpi=192, facecolor="white")
            ax = figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
            ax.set_axis_off()
            _paint(ax, self.shapes, 0, 0)
            ax.set(xlim=(0, self.width), ylim=(self.height, 0), aspect="auto")
            buffer = io.BytesIO()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing")  # HTML and SVG can show it
                figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def _markup(shape: Shape) -> str:
    match shape:
        case Cell(x, y, weight):
            place = f'x="{x:g}" y="{y:g}" width="{PITCH}" height="{PITCH}"'
            return f'<rect class="cell" {place} fill-opacity="{weight**0.5:.3f}"/>'
        case Line(x1, y1, x2, y2, weight, kind):
            place = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
            return f'<line class="{kind}" {place} stroke-opacity="{weight:.3f}"/>'
        case Text(x, y, text, anchor, upward, title, kind):
            turn = f' transform="rotate(-90 {x:g} {y:g})"' if upward else ""
            whole = f"<title>{escape(title)}</title>" if title else ""
            return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{turn}>{escape(text)}{whole}</text>'
        case Frame(x, y, width, height, kind, title):
            place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
            return f'<rect class="{kind}" {place}><title>{escape(title)}</title></rect>'
        case Image(x, y, width, height, alpha):
            place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none"'
            return f'<image {place} href="data:image/png;base64,{base64.b64encode(_png(alpha)).decode()}"/>'
        case Group(shapes, kind, x, y):
            inner = "".join(map(_markup, shapes))
            return f'<g class="{kind}" transform="translate({x:g} {y:g})">{inner}</g>'


def _png(alpha: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of one colour with these opacities (RGBA, 8 bits)."""
    height, width = alpha.shape
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = _rgb(LIGHT["accent"]), alpha
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def _paint(ax: Any, shapes: Iterable[Shape], dx: float, dy: float) -> None:
    """Draw shapes on the axes of matplotlib, moved by dx and dy."""
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.patches import Rectangle

    squares, colours, lines, line_colours = [], [], [], []
    accent = [part / 255 for part in _rgb(LIGHT["accent"])]
    for shape in shapes:
        match shape:
            case Cell(x, y, weight):
                corners = [(0, 0), (PITCH, 0), (PITCH, PITCH), (0, PITCH)]
                squares.append([(x + dx + right, y + dy + down) for right, down in corners])
                colours.append([*accent, weight**0.5])
            case Line(x1, y1, x2, y2, _, "rule"):
                dashed: dict[str, Any] = {"color": LIGHT["muted"], "lw": 0.75, "ls": (0, (3, 3))}
                ax.plot([x1 + dx, x2 + dx], [y1 + dy, y2 + dy], **dashed)
            case Line(x1, y1, x2, y2, weight):
                lines.append([(x1 + dx, y1 + dy), (x2 + dx, y2 + dy)])
                line_colours.append([*accent, weight])
            case Text(x, y, text, anchor, upward, _, kind):
                align = {"ha": {"start": "left", "middle": "center", "end": "right"}[anchor], "va": "baseline"}
                turn: dict[str, Any] = {"rotation": 90, "rotation_mode": "anchor"} if upward else {}
                ax.text(x + dx, y + dy, text, color=LIGHT["muted" if kind == "muted" else "ink"], **align, **turn)
            case Frame(x, y, width, height, kind):
                colour, thickness = (LIGHT["ink"], 1.5) if kind == "chosen" else (LIGHT["rule"], 0.75)
                ax.add_patch(Rectangle((x + dx, y + dy), width, height, fill=False, ec=colour, lw=thickness))
            case Image(x, y, width, height, alpha):
                pixels = np.dstack([np.full((*alpha.shape, 3), _rgb(LIGHT["accent"]), np.uint8), alpha])
                ax.imshow(pixels, extent=(x + dx, x + dx + width, y + dy + height, y + dy))
            case Group(inner, _, x, y):
                _paint(ax, inner, dx + x, dy + y)
    # One by one, thousands would take half a minute.
    ax.add_collection(PolyCollection(squares, facecolors=colours, linewidths=0), autolim=False)
    ax.add_collection(LineCollection(lines, colors=line_colours, linewidths=1.35), autolim=False)


def families() -> list[str]:
    """Fonts for corpus text: DejaVu, then the installed fonts for scripts that it lacks."""
    from matplotlib.font_manager import fontManager

    wanted = ("Noto Sans", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans CJK JP")
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in wanted if name in installed)]
