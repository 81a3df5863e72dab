"""What all figures share.

Every function that draws returns a matplotlib ``Figure`` built without pyplot, so nothing global changes. Colours come
from :data:`~attention_guidance.report.svg.PALETTE`; ``to_svg`` there makes each of them a CSS variable with that colour
as its fallback, so one figure is right on paper, in a PNG, and on a page with a light and a dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from attention_guidance.report.svg import PALETTE

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
    ax.set_xlabel(x, color=PALETTE["muted"], fontsize=9.5, labelpad=5)
    ax.set_title(y, loc="left", color=PALETTE["muted"], fontsize=9.5, pad=9)


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
