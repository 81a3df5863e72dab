"""The figures of minimal pairs: the accuracy of each paradigm with its interval, and over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from attention_guidance.commands.report.figures.drawing import NOT_MATH, finite, style_axes
from attention_guidance.commands.report.figures.svg import PALETTE
from attention_guidance.commands.report.figures.tokens import printable

Content = Mapping[str, Any]


def all_figures(content: Content) -> dict[str, Figure]:
    """All figures of minimal pairs by name."""
    drawn = {"minimal_pairs": accuracies(content)}
    if len(content["snapshots"]) > 1:
        drawn["steps"] = over_steps(content)
    return drawn


def over_steps(content: Content) -> Figure:
    """The accuracy over all paradigms at each checkpoint, with its interval."""
    fig = Figure(figsize=(8, 3.2), facecolor="none")
    fig.set_label(f"Accuracy on minimal pairs over training steps, {content['model']}")
    ax = fig.add_axes((0.07, 0.17, 0.9, 0.7), facecolor="none")
    style_axes(ax, "training step", "accuracy on minimal pairs; chance is 0.5")
    ax.axhline(0.5, color=PALETTE["muted"], linewidth=1, linestyle=(0, (2, 2)))
    points = [(taken["step"], taken["accuracy"]) for taken in content["snapshots"] if taken["step"] is not None]
    colour = PALETTE["guided"]
    ax.plot([step for step, _ in points], [found["value"] for _, found in points], "o-", color=colour, markersize=4)
    for step, found in points:
        low, high = finite(found["low"]), finite(found["high"])
        if low is not None and high is not None:
            ax.plot([step] * 2, [low, high], color=colour, linewidth=1.6, solid_capstyle="butt")
    return fig


def accuracies(content: Content) -> Figure:
    """Accuracy by paradigm, best first, and of all.

    Args:
        content: the content of `minimal_pairs.json`; the last snapshot is drawn.
    """
    last = content["snapshots"][-1]
    rows = [{"name": "all paradigms", **last["accuracy"]}]
    rows += sorted(last["paradigms"], key=lambda row: (-row["value"], row["name"]))
    height = 0.9 + 0.22 * len(rows)
    fig = Figure(figsize=(8, height), facecolor="none")
    fig.set_label(f"Accuracy on minimal pairs, {content['model']}")
    ax = fig.add_axes((0.46, 0.42 / height, 0.52, 1 - 0.7 / height), facecolor="none")
    style_axes(ax, "accuracy; chance is 0.5", "")
    ax.xaxis.set_major_locator(MultipleLocator(0.25))
    ax.xaxis.set_major_formatter("{x:.2f}")
    ax.axvline(0.5, color=PALETTE["muted"], linewidth=1, linestyle=(0, (2, 2)))
    for place, row in enumerate(rows):
        colour = PALETTE["ink"] if place == 0 else PALETTE["guided"]
        low, high = finite(row["low"]), finite(row["high"])
        if low is not None and high is not None:
            ax.plot([low, high], [place] * 2, color=colour, linewidth=1.6, solid_capstyle="butt")
        ax.plot([row["value"]], [place], "o", color=colour, markersize=5)
    names = [f"{printable(row['name'])}  {row['pairs']:,}" for row in rows]
    ax.set_yticks(range(len(rows)), names, fontsize=8.5, color=PALETTE["ink"], **NOT_MATH)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=PALETTE["rule"], linewidth=0.8)
    return fig
