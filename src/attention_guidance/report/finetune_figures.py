"""Figures of fine-tuning: which labels are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure

from attention_guidance.report.drawing import NOT_MATH, families
from attention_guidance.report.svg import PALETTE
from attention_guidance.report.tokens import shown_token


def confusion_matrix(labels: Sequence[str], gold: Sequence[int], predicted: Sequence[int]) -> Figure:
    """Rows are gold labels, columns predictions; each row is shares of its gold label, with counts.

    Args:
        labels: their names.
        gold: numbers of labels.
        predicted: the same.
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
