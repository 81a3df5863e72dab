"""Figures of runs: validation loss and guidance over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from attention_guidance.commands.report.figures.drawing import NOT_MATH, finite, style_axes
from attention_guidance.commands.report.figures.svg import series
from attention_guidance.commands.report.figures.tokens import printable

#: The curves of a run: the key in its record, and the title of the axis.
CURVES = {
    "validation": "validation loss, nats a token",
    "guidance": "guidance: mean distance to the pattern",
}

Wide = (9.4, 3.9)
Narrow = (4.1, 3.5)


def curves(runs: Sequence[Mapping[str, Any]], key: str, size: tuple[float, float] = Wide) -> Figure:
    """Plot one quantity of several runs over training steps.

    Args:
        runs: records with a `name` and, under `key`, pairs of step and value.
        key: one of `CURVES`.
        size: width and height in inches.
    """
    fig = Figure(figsize=size, facecolor="none")
    fig.set_label(f"{CURVES[key]} over training steps: {', '.join(str(run['name']) for run in runs)}")
    left, right, top, bottom = 0.55, 1.5 if size[0] > 6 else 1.0, 0.38, 0.5
    box = (left / size[0], bottom / size[1], 1 - (left + right) / size[0], 1 - (top + bottom) / size[1])
    ax = fig.add_axes(box, facecolor="none")
    ax.patch.set_gid("ag-plot")
    style_axes(ax, "training step", CURVES[key], "auto" if size[0] > 6 else 4)
    ends = []
    for number, run in enumerate(runs):
        points = [(step, finite(value)) for step, value in run[key]]
        if not any(value is not None for _, value in points):
            continue
        drawn = [math.nan if value is None else value for _, value in points]  # NaN leaves a gap in the line
        ax.plot([step for step, _ in points], drawn, color=series(number), linewidth=2.2, solid_capstyle="round")
        ends.append(([value for value in drawn if math.isfinite(value)][-1], str(run["name"]), series(number)))
    ax.margins(x=0.0, y=0.07)
    ax.set_xlim(0, max(ax.get_xlim()[1], 1))
    _name_ends(ax, ends, size[1] - top - bottom)
    return fig


def _name_ends(ax: Any, ends: Sequence[tuple[float, str, str]], height: float) -> None:
    """Write the name of each line at its end, moved apart if names would overlap."""
    low, high = ax.get_ylim()
    gap = (high - low) * 0.34 / height  # two lines of text are 0.34 inches high
    place = -math.inf
    for value, name, colour in sorted(ends):
        place = max(value, place + gap)
        text = f"{printable(name) if len(name) <= 18 else printable(name[:17]) + '…'}\n{value:.3f}"
        style: dict[str, Any] = {"color": colour, "fontsize": 9, "fontweight": "bold", "va": "center", **NOT_MATH}
        edge = ax.get_xlim()[1]
        ax.annotate(text, (edge, place), (8, 0), textcoords="offset points", annotation_clip=False, **style)
