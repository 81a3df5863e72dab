"""The figure of `skill`: accuracy of heads against validation loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attention_guidance.commands.report.figures.drawing import NOT_MATH, annotate_line, plain_numbers, style_axes
from attention_guidance.commands.report.figures.svg import PALETTE, series
from attention_guidance.commands.report.figures.tokens import printable


def scatter(skill: Mapping[str, Any]) -> Figure:
    """One point per checkpoint: validation loss (falling to the right) against best and mean accuracy of heads."""
    fig = Figure(figsize=(9, 3.9), facecolor="none")
    fig.set_label(f"Accuracy of heads against validation loss, {skill['task']}")
    for number, measure in enumerate(("max", "mean")):
        ax = fig.add_axes((0.06 + number * 0.49, 0.14, 0.44, 0.68), facecolor="none")
        overall = next(c for c in skill["correlations"] if c["run"] is None and c["measure"] == measure)
        rank = "" if overall["spearman"] is None else f", rank correlation {overall['spearman']:+.2f}".replace("-", "−")
        style_axes(
            ax, "validation loss, nats a token", f"accuracy of the {'best' if number == 0 else 'mean'} head{rank}"
        )
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.xaxis.set_major_formatter(plain_numbers())
        for place, run in enumerate(skill["runs"]):
            points = sorted((p["step"], p["loss"], p[measure]) for p in skill["points"] if p["run"] == run)
            colour = series(place)
            ax.plot([p[1] for p in points], [p[2] for p in points], color=colour, linewidth=0.9, alpha=0.5)
            ax.plot([p[1] for p in points], [p[2] for p in points], "o", color=colour, markersize=5)
        chance = sum(p["chance"] for p in skill["points"]) / len(skill["points"])
        ax.axhline(chance, color=PALETTE["muted"], linewidth=1, linestyle=(0, (2, 2)))
        annotate_line(ax, "chance", chance)
        ax.set_ylim(bottom=0)
        ax.invert_xaxis()
    x = 0.06
    for place, run in enumerate(skill["runs"]):
        text = printable(run)
        fig.text(x, 0.95, text, color=series(place), fontsize=10, fontweight="bold", **NOT_MATH)
        x += 0.011 * len(text) + 0.03
    return fig
