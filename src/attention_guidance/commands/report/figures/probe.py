"""Figures of probes: accuracy of all heads, best heads beside best baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from attention_guidance.commands.report.figures.drawing import NOT_MATH, finite, style_axes
from attention_guidance.commands.report.figures.svg import PALETTE
from attention_guidance.commands.report.figures.tokens import printable

Content = Mapping[str, Any]
_MOST_LABELS = 30


def all_figures(probe: Content) -> dict[str, Figure]:
    """All figures of a probe by name."""
    figures = {"accuracy": head_accuracy(probe)}
    if len(probe["labels"]) > 1:
        figures["labels"] = best_heads(probe)
    return figures


def head_accuracy(probe: Content) -> Figure:
    """Accuracy of every head on all questions: a grid of layers and heads for each direction."""
    directions = probe["directions"]
    n_layers, n_heads = probe["layers"], probe["heads"]
    cell = min(0.5, 7.5 / n_heads / len(directions))
    left, gap, top, bottom = 0.6, 0.5, 0.55, 0.5
    width = max(4.2, left + len(directions) * (n_heads * cell + gap))
    height = top + n_layers * cell + bottom
    fig = Figure(figsize=(width, height), facecolor="none")
    fig.set_label(f"Accuracy of every head, {probe['task']}, {probe['model']}")
    red, green, blue, _ = to_rgba(PALETTE["guided"])
    ink = LinearSegmentedColormap.from_list("accuracy", [(red, green, blue, 0.0), (red, green, blue, 0.75)])
    for number, direction in enumerate(directions):
        x = left + number * (n_heads * cell + gap)
        box = (x / width, bottom / height, n_heads * cell / width, n_layers * cell / height)
        ax = fig.add_axes(box, facecolor="none")
        accuracy_LH = np.array(probe["accuracy"][direction], float)
        ax.imshow(accuracy_LH, cmap=ink, vmin=0, vmax=1, aspect="auto", interpolation="none")
        for layer, head in np.ndindex(accuracy_LH.shape):
            value = accuracy_LH[layer, head]
            # White on dark cells is readable only on paper; ink is readable on all cells, in both themes.
            if value >= max(0.2, 0.5 * accuracy_LH.max()):
                text = f"{value:.2f}".lstrip("0")
                ax.text(head, layer, text, ha="center", va="center", fontsize=7.5, color=PALETTE["ink"])
        ax.set_xticks(range(n_heads))
        ax.set_yticks(range(n_layers))
        ax.tick_params(colors=PALETTE["muted"], labelsize=8, length=0)
        for spine in ax.spines.values():
            spine.set(color=PALETTE["rule"])
        ax.set_xlabel("head", color=PALETTE["muted"], fontsize=9)
        ax.set_ylabel("layer" if number == 0 else "", color=PALETTE["muted"], fontsize=9)
        what = {"forward": "from the word to the right one", "backward": "from the right one to the word"}
        title = what[direction] if len(directions) > 1 else "accuracy"
        ax.set_title(title, loc="left", fontsize=9, color=PALETTE["muted"])
    return fig


def best_heads(probe: Content) -> Figure:
    """The best head and the best baseline for each label, with their intervals."""
    labels = probe["labels"][: _MOST_LABELS + 1]
    height = 0.95 + 0.24 * len(labels)
    fig = Figure(figsize=(8, height), facecolor="none")
    fig.set_label(f"Best head and best baseline for each label, {probe['task']}, {probe['model']}")
    ax = fig.add_axes((0.22, 0.42 / height, 0.75, 1 - 0.98 / height), facecolor="none")
    style_axes(ax, "accuracy on the half that the head was not chosen on", "")
    ax.xaxis.set_major_locator(MultipleLocator(0.2))
    ax.xaxis.set_major_formatter("{x:.1f}")
    ax.tick_params(labeltop=True)
    for row, label in enumerate(labels):
        pairs = (("best", PALETTE["guided"], "o", -0.12), ("baseline", PALETTE["unguided"], "s", 0.12))
        for key, colour, marker, shift in pairs:
            value, low, high = (finite(label[key][end]) for end in ("value", "low", "high"))
            if value is not None:
                ax.plot([value], [row + shift], marker, color=colour, markersize=5)
            if low is not None and high is not None:
                ax.plot([low, high], [row + shift] * 2, color=colour, linewidth=1.6, solid_capstyle="butt")
    ax.set_yticks(range(len(labels)))
    names = [f"{printable(label['label'])}  {label['questions']:,}" for label in labels]
    ax.set_yticklabels(names, fontsize=8.5, color=PALETTE["ink"], **NOT_MATH)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=PALETTE["rule"], linewidth=0.8)
    for x, text, colour in ((0.22, "best head", "guided"), (0.36, "best baseline (fixed offset or rule)", "unguided")):
        fig.text(x, 1 - 0.16 / height, text, color=PALETTE[colour], fontsize=10, fontweight="bold", va="center")
    return fig
