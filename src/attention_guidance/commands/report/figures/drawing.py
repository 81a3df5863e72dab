"""Drawing helpers shared by all figures.

All drawing functions return a matplotlib ``Figure`` built without pyplot, so no global state changes. Colours come
from ``PALETTE`` in ``svg.py``; ``to_svg`` there replaces each with a CSS variable that has the colour as its fallback,
so the same figure works on paper, in a PNG, and on a page with a light and a dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter, StrMethodFormatter

from attention_guidance.commands.report.figures.svg import PALETTE

# In points (1/72 inch): the font size of labels, and half the width of a marker.
_LABEL_SIZE = 7.5
_MARK = 3.5

NOT_MATH: dict[str, Any] = {"parse_math": False}  # "$" in a corpus is a dollar sign


def finite(value: object) -> float | None:
    """The number as a float, or None for null, a string, NaN and infinity (a run that diverged)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def mean(values: Iterable[object]) -> float | None:
    """The mean of the values, or None if there are none or any is not finite."""
    numbers = [finite(value) for value in values]
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known and len(known) == len(numbers) else None


def head_axes(n_layers: int, n_heads: int, cell: float, top: float, label: str) -> Any:
    """Axes of a figure of their own with a cell for each head: heads from left to right, layers from top to bottom.

    Args:
        n_layers: number of layers.
        n_heads: heads per layer.
        cell: side of a cell, in inches.
        top: space above, in inches.
        label: label of the x-axis.
    """
    left, bottom = 0.62, 0.5
    width, height = max(5.2, left + n_heads * cell + 0.1), top + n_layers * cell + bottom
    fig = Figure(figsize=(width, height), facecolor="none")
    box = (left / width, bottom / height, n_heads * cell / width, n_layers * cell / height)
    ax = fig.add_axes(box, facecolor="none")
    ax.set_xlim(-0.5, n_heads - 0.5)
    ax.set_ylim(n_layers - 0.5, -0.5)
    ax.set_xticks(range(n_heads))
    ax.set_yticks(range(n_layers))
    ax.tick_params(colors=PALETTE["muted"], labelsize=8.5, length=0)
    ax.set_ylabel("layer", color=PALETTE["muted"], fontsize=9)
    ax.set_xlabel(label, color=PALETTE["muted"], fontsize=9, loc="left")
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def style_axes(ax: Any, x: str, y: str, ticks: Any = "auto") -> None:
    """Apply the common style: a grid of horizontal lines, and the labels of both axes.

    Args:
        ax: the axes.
        x: label of the x-axis.
        y: label of the y-axis; written horizontally above the axes.
        ticks: maximum number of ticks on the x-axis.
    """
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(PALETTE["muted"])
    ax.grid(axis="y", color=PALETTE["rule"], linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=PALETTE["muted"], labelsize=9.5, length=0, pad=5)
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_formatter(plain_numbers())
    ax.set_xlabel(x, color=PALETTE["muted"], fontsize=9.5, labelpad=5)
    ax.set_title(y, loc="left", color=PALETTE["muted"], fontsize=9.5, pad=9)


def plain_numbers() -> ScalarFormatter:
    """Format ticks as plain numbers with the digits needed, without an offset or a power of ten."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    return formatter


def label_points(ax: Any, positions: npt.NDArray[np.float64], labels: Sequence[str], order: Iterable[int]) -> None:
    """Write labels beside points without overlaps; a label for which there is no room is left out.

    Args:
        ax: the axes, with all points drawn and final limits.
        positions: positions of the points, [N, 2].
        labels: a short label for each point.
        order: indices of the points, with the most important labels first.
    """
    ax.apply_aspect()
    scale = 72 / ax.figure.dpi
    points = ax.transData.transform(positions) * scale
    frame = ax.bbox.bounds
    low, high = np.array(frame[:2]) * scale, (np.array(frame[:2]) + frame[2:]) * scale
    taken = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in points]
    for number in order:
        width, height = 0.62 * _LABEL_SIZE * len(labels[number]), 0.9 * _LABEL_SIZE
        away = _MARK + 1
        west, south = -away - width, -away - height / 2
        near = [(away, -height / 2), (away, away / 2), (west, -height / 2), (-width / 2, away)]
        further = [(-width / 2, -away - height), (away, south), (west, away / 2), (west, south)]
        for dx, dy in near + further:
            left, bottom = points[number] + (dx, dy)
            box = (left, bottom, left + width, bottom + height)
            inside = low[0] <= left and low[1] <= bottom and box[2] <= high[0] and box[3] <= high[1]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                style: dict[str, Any] = {"fontsize": _LABEL_SIZE, "color": PALETTE["muted"], "va": "bottom"}
                ax.annotate(labels[number], positions[number], (dx, dy), textcoords="offset points", **style)
                break


def _overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def note(ax: Any, text: str) -> None:
    """Write a note in the middle of empty axes."""
    style = {"ha": "center", "va": "center", "fontsize": 9, "color": PALETTE["muted"]}
    ax.text(0.5, 0.5, text, transform=ax.transAxes, **style)


def annotate_line(ax: Any, text: str, y: float) -> None:
    """Write a small text above the left end of a horizontal line."""
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    ax.annotate(text, (0, y), (3, 3), **place, fontsize=8.5, color=PALETTE["muted"])
