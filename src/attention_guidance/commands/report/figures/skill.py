"""The figure of `skill`: accuracy of heads, or of the model, against validation loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attention_guidance.commands.report.figures.drawing import NOT_MATH, annotate_line, plain_numbers, style_axes
from attention_guidance.commands.report.figures.svg import PALETTE, series
from attention_guidance.commands.report.figures.tokens import printable

_TITLES = {
    "max": "accuracy of the best head",
    "mean": "accuracy of the mean head",
    "accuracy": "accuracy of the model",
}


def scatter(skill: Mapping[str, Any]) -> Figure:
    """One point per checkpoint: validation loss (falling to the right) against each accuracy, in axes of its own."""
    measures = {item["measure"]: item for item in skill["correlations"] if item["run"] is None}
    width = 4.5 * len(measures)
    fig = Figure(figsize=(width, 3.9), facecolor="none")
    fig.set_label(f"Accuracy against validation loss, {skill['task']}")
    for number, (measure, overall) in enumerate(measures.items()):
        ax = fig.add_axes(((0.54 + number * 4.41) / width, 0.14, 3.96 / width, 0.68), facecolor="none")
        rank = "" if overall["spearman"] is None else f", rank correlation {overall['spearman']:+.2f}".replace("-", "−")
        style_axes(ax, "validation loss, nats a token", f"{_TITLES[measure]}{rank}")
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
    x = 0.54
    for place, run in enumerate(skill["runs"]):
        text = printable(run)
        fig.text(x / width, 0.95, text, color=series(place), fontsize=10, fontweight="bold", **NOT_MATH)
        x += 0.1 * len(text) + 0.27
    return fig
