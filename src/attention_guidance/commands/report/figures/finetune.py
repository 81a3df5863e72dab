"""Figures of fine-tuning: confusion matrix, and score over pre-training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure

from attention_guidance.analysis.sentence.picture import families
from attention_guidance.commands.report.figures.drawing import NOT_MATH, annotate_line, style_axes
from attention_guidance.commands.report.figures.svg import PALETTE, series
from attention_guidance.commands.report.figures.tokens import printable, shown_token


def confusion_matrix(labels: Sequence[str], gold: Sequence[int], predicted: Sequence[int]) -> Figure:
    """Confusion matrix with counts: rows are gold labels, columns predictions; colours are fractions of a row.

    Args:
        labels: names of the labels.
        gold: indices of the gold labels.
        predicted: indices of the predicted labels.
    """
    n = len(labels)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (np.array(gold, int), np.array(predicted, int)), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = max(0.3, min(0.7, 7 / n))
    margin, side = 1.1, n * cell
    size = margin + side + 0.1
    fig = Figure(figsize=(size, size), facecolor="none")
    fig.set_label(f"Confusion matrix, {n} labels: rows gold, columns predicted")
    ax = fig.add_axes((margin / size, 0.05 / size, side / size, side / size), facecolor="none")
    red, green, blue, _ = to_rgba(PALETTE["guided"])
    ink = LinearSegmentedColormap.from_list("share", [(red, green, blue, 0.0), (red, green, blue, 0.75)])
    ax.imshow(shares, cmap=ink, vmin=0, vmax=1, interpolation="none")
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": PALETTE["ink"], "fontsize": 8 if n < 12 else 6}
    for row, column in np.ndindex(n, n):
        if counts[row, column]:
            ax.text(column, row, f"{counts[row, column]:,}", **style)
    names = [shown_token(label) for label in labels]
    ax.set_xticks(range(n), names, rotation=90, **NOT_MATH, fontfamily=families())
    ax.set_yticks(range(n), names, **NOT_MATH, fontfamily=families())
    ax.xaxis.set_ticks_position("top")
    ax.tick_params(colors=PALETTE["muted"], labelsize=8.5, length=0)
    ax.set_ylabel("gold", color=PALETTE["muted"], fontsize=9)
    ax.set_xlabel("predicted", color=PALETTE["muted"], fontsize=9)
    ax.xaxis.set_label_position("top")
    for spine in ax.spines.values():
        spine.set(color=PALETTE["rule"])
    return fig


def score_over_steps(downstream: Mapping[str, Any]) -> Figure:
    """The downstream score of checkpoints over pre-training steps, with intervals over seeds.

    Args:
        downstream: the content of `downstream.json`.
    """
    fig = Figure(figsize=(9, 4.2), facecolor="none")
    fig.set_label(f"{downstream['metric']} on {downstream['task']} over steps of pre-training")
    ax = fig.add_axes((0.07, 0.13, 0.9, 0.69), facecolor="none")
    style_axes(ax, "steps of pre-training", f"{downstream['metric']} on {downstream['task']}, {downstream['split']}")
    x = 0.07
    for place, name in enumerate(dict.fromkeys(point["model"] for point in downstream["checkpoints"])):
        points = [point for point in downstream["checkpoints"] if point["model"] == name]
        steps, means, colour = [point["step"] for point in points], [point["mean"] for point in points], series(place)
        ax.plot(steps, means, "o-", color=colour, markersize=5, linewidth=1.4)
        if all(point["low"] is not None for point in points):
            low, high = ([point[end] for point in points] for end in ("low", "high"))
            ax.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        text = printable(name)
        fig.text(x, 0.95, text, color=colour, fontsize=10, fontweight="bold", **NOT_MATH)
        x += 0.011 * len(text) + 0.03
    baseline = downstream["baseline"]
    if baseline is not None:
        value = baseline[downstream["split"]][downstream["metric"]]
        ax.axhline(value, color=PALETTE["muted"], linewidth=1, linestyle=(0, (2, 2)))
        annotate_line(ax, "without pre-training", value)
    ax.set_xlim(left=0)
    return fig
