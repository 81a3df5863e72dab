"""What all figures share.

Every function that draws returns a matplotlib ``Figure`` built without pyplot, so nothing global changes. Colours come
from ``PALETTE`` in ``svg.py``; ``to_svg`` there makes each of them a CSS variable with that colour as its fallback, so
one figure is right on paper, in a PNG, and on a page with a light and a dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator, ScalarFormatter, StrMethodFormatter

from attention_guidance.commands.report.figures.svg import PALETTE

# Points (1/72 inch): the size of labels beside points, and half the width of a point.
_LABEL_SIZE = 7.5
_MARK = 3.5

NOT_MATH: dict[str, Any] = {"parse_math": False}  # "$" in a corpus is a dollar sign


def finite(value: object) -> float | None:
    """The number, or None for null, a string, nan and infinity (a run that diverged)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def mean(values: Iterable[object]) -> float | None:
    """Mean of the values, or None when there are none or any is not finite."""
    numbers = [finite(value) for value in values]
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known and len(known) == len(numbers) else None


def style_axes(ax: Any, x: str, y: str, ticks: Any = "auto") -> None:
    """Axes as on all pages: a grid of horizontal lines, the names of both axes.

    Args:
        ax: the axes.
        x: the name of the horizontal axis.
        y: that of the vertical one; written above, as it then reads without turning one's head.
        ticks: how many at most along the horizontal axis.
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
    """Ticks as numbers of as many digits as tell them apart, none of them put aside as an offset or a power of ten."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    return formatter


def label_points(ax: Any, positions: npt.NDArray[np.float64], labels: Sequence[str], order: Iterable[int]) -> None:
    """Write labels beside points, each where it lies over no other label and no point; where there is no room, none.

    Args:
        ax: axes whose points are drawn and whose limits are final.
        positions: of the points, [N, 2].
        labels: a short one for each.
        order: the numbers of the points, those that must have their label first.
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
        for dx, dy in (
            (away, -height / 2), (away, away / 2), (-away - width, -height / 2), (-width / 2, away),
            (-width / 2, -away - height), (away, -away - height / 2), (-away - width, away / 2),
            (-away - width, -away - height / 2),
        ):  # fmt: skip
            left, bottom = points[number] + (dx, dy)
            box = (left, bottom, left + width, bottom + height)
            inside = low[0] <= left and low[1] <= bottom and box[2] <= high[0] and box[3] <= high[1]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                ax.annotate(
                    labels[number], positions[number], (dx, dy), textcoords="offset points", fontsize=_LABEL_SIZE,
                    color=PALETTE["muted"], va="bottom",
                )  # fmt: skip
                break


def _overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def note(ax: Any, text: str) -> None:
    """Say in the middle of empty axes why they are empty."""
    style = {"ha": "center", "va": "center", "fontsize": 9, "color": PALETTE["muted"]}
    ax.text(0.5, 0.5, text, transform=ax.transAxes, **style)


def families() -> list[str]:
    """The fonts for corpus text: DejaVu, then whatever is installed for scripts that it lacks."""
    from matplotlib.font_manager import fontManager

    wanted = ("Noto Sans", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans CJK JP")
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in wanted if name in installed)]
