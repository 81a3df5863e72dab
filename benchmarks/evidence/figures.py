"""The figures of the page, in the style of the commands' own figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attention_guidance.commands.report.figures.drawing import style_axes
from attention_guidance.commands.report.figures.svg import PALETTE, series

_ARMS = ("unguided", "guided")


def _figure(width: float, height: float, label: str) -> Any:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    fig.set_label(label)
    return fig


def heat_maps(
    cells: Mapping[tuple[float, float, int], Mapping[str, Any]],
    rates: Sequence[float],
    warmups: Sequence[float],
    batches: Sequence[int],
) -> Any:
    """The final loss of both arms at every setting: an arm a row, a batch size a column."""
    from matplotlib import colormaps

    losses = [cell[arm]["loss"] for cell in cells.values() for arm in _ARMS if cell[arm]["loss"] is not None]
    least, most = (min(losses), max(losses)) if losses else (0.0, 1.0)
    fig = _figure(8.4, 4.4, "final loss by learning rate, warm-up and batch size")
    axes = fig.subplots(2, len(batches), squeeze=False)
    for row, arm in enumerate(_ARMS):
        for column, batch in enumerate(batches):
            ax = axes[row][column]
            for y, warmup in enumerate(warmups):
                for x, rate in enumerate(rates):
                    cell = cells.get((rate, warmup, batch))
                    loss = None if cell is None else cell[arm]["loss"]
                    # Rounded, so that the figure is the same wherever it is drawn.
                    share = 1.0 if loss is None else round((min(loss, most) - least) / (most - least or 1), 3)
                    ax.add_patch(_square(x, y, "white" if loss is None else colormaps["viridis"](share)))
                    text = "–" if cell is None else "NaN" if loss is None else f"{loss:.2f}"
                    ink = "black" if loss is None or share > 0.6 else "white"
                    ax.text(x, y, text, ha="center", va="center", fontsize=8, color=ink)
            ax.set_xlim(-0.5, len(rates) - 0.5)
            ax.set_ylim(len(warmups) - 0.5, -0.5)
            ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates], fontsize=8)
            ax.set_yticks(range(len(warmups)), [f"{warmup:g}" for warmup in warmups], fontsize=8)
            ax.set_title(f"{arm}, batch of {batch}", fontsize=9, loc="left", color=PALETTE["ink"])
            ax.set_ylabel("warm-up", fontsize=8, color=PALETTE["muted"])
            ax.tick_params(length=0)
            if row:
                ax.set_xlabel("learning rate", fontsize=8, color=PALETTE["muted"])
    return fig


def _square(x: int, y: int, colour: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white")


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, label: str) -> Any:
    """Lines by name: guided and unguided in their own colours, the others in the order given."""
    fig = _figure(6.4, 3.4, label)
    ax = fig.subplots()
    style_axes(ax, x, y)
    for number, (name, points) in enumerate(lines.items()):
        known = [(a, b) for a, b in points if math.isfinite(b)]
        if known:
            ax.plot(*zip(*known, strict=True), label=name, linewidth=1.6, color=PALETTE.get(name, series(number)))
    if ax.lines:
        ax.legend(frameon=False, fontsize=8)
    return fig
