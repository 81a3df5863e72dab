"""Figures of a census: grid of heads, development, entropies, heads in 2D."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from attention_guidance.commands.report.figures.drawing import NOT_MATH, head_axes, label_points, style_axes
from attention_guidance.commands.report.figures.svg import PALETTE, series
from attention_guidance.commands.report.figures.tokens import shown_token

Content = Mapping[str, Any]


def all_figures(census: Content, names: Sequence[str] = ()) -> dict[str, Figure]:
    """All figures that the data of a census allow, by name.

    Args:
        census: the content of ``census.json``.
        names: patterns in the order of their colours, if several censuses are shown together.
    """
    figures = {"heads": head_grid(census, names=names), "entropy": entropies(census, names=names)}
    if len(census["snapshots"]) > 1:
        figures["development"] = development(census, names)
    if census["similarity"] is not None:
        figures["similarity"] = head_plane(census, names)
    return figures


def patterns_of(censuses: Iterable[Content]) -> list[str]:
    """The patterns of several censuses without duplicates, in the order of their colours."""
    return list(dict.fromkeys(name for census in censuses for name in census["patterns"]))


def colours(census: Content, names: Sequence[str] = ()) -> dict[str, str]:
    """The colour of each pattern of a census, consistent over censuses shown together; see `all_figures`."""
    order = list(names or census["patterns"])
    return {name: series(order.index(name)) for name in census["patterns"]}


def head_grid(census: Content, snapshot: int = -1, names: Sequence[str] = ()) -> Figure:
    """A grid of all heads with their largest mass; the colour is that of the followed pattern, stronger for more mass.

    Args:
        census: the content of ``census.json``.
        snapshot: index of the snapshot (default: the last).
        names: see `all_figures`.
    """
    taken = census["snapshots"][snapshot]
    n_layers, n_heads = size(taken)
    cell = min(0.62, 8.6 / n_heads)
    ax = head_axes(n_layers, n_heads, cell, 0.42, "head; number: mean attention on the pattern's targets")
    fig: Figure = ax.figure
    fig.set_label(f"The pattern each head follows, layers by heads, {taken['model']}")
    of_pattern = colours(census, names)
    for head in taken["heads"]:
        _, mass = strongest(head)
        at = (head["head"] - 0.5, head["layer"] - 0.5)
        # Not opaque even at 1: the number in the cell must be readable in both themes.
        colour = to_rgba(of_pattern[head["follows"]], 0.75 * mass) if head["follows"] else (0, 0, 0, 0)
        ax.add_patch(Rectangle(at, 1, 1, facecolor=colour, edgecolor=PALETTE["rule"], linewidth=0.8))
        if head["guided_toward"]:
            inset = (at[0] + 0.08, at[1] + 0.08)
            ax.add_patch(Rectangle(inset, 0.84, 0.84, fill=False, edgecolor=PALETTE["ink"], linewidth=1.1))
        if head["follows"]:
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5, "color": PALETTE["ink"]}
            ax.text(head["head"], head["layer"], f"{mass:.2f}".lstrip("0"), **style)
    _legend(fig, of_pattern, 1 - 0.2 / fig.get_figheight(), ax.get_position().x0)
    return fig


def development(census: Content, names: Sequence[str] = ()) -> Figure:
    """The share of heads that follow each pattern, stacked, over training."""
    fig = Figure(figsize=(8, 3.4), facecolor="none")
    fig.set_label("Share of heads that follow each pattern over training steps")
    ax = fig.add_axes((0.07, 0.16, 0.76, 0.72), facecolor="none")
    style_axes(ax, "training step", f"share of heads with a mass of {census['threshold']:g} or more on the pattern")
    steps = [taken["step"] for taken in census["snapshots"]]
    floor = np.zeros(len(steps))
    ends: list[tuple[float, str, str]] = []
    for name, colour in [*colours(census, names).items(), ("none", PALETTE["rule"])]:
        shares = np.array([taken["shares"][name] for taken in census["snapshots"]])
        if shares.any():
            ax.fill_between(steps, floor, floor + shares, facecolor=colour, edgecolor="none", alpha=0.8)
            ends.append((floor[-1] + shares[-1] / 2, f"{shown_token(name)} {shares[-1]:.0%}", colour))
            floor = floor + shares
    ax.set_ylim(0, 1)
    ax.set_xlim(steps[0], steps[-1])
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    place = -1.0
    for middle, text, colour in ends:
        place = max(middle, place + 0.075)
        colour = PALETTE["muted"] if colour == PALETTE["rule"] else colour
        style: dict[str, Any] = {"color": colour, "fontsize": 9.5, "va": "center", **NOT_MATH}
        ax.annotate(text, (1, place), (8, 0), xycoords="axes fraction", textcoords="offset points", **style)
    return fig


def entropies(census: Content, snapshot: int = -1, names: Sequence[str] = ()) -> Figure:
    """The entropy of every head by layer: how broad attention is (Clark et al. 2019, figure 4)."""
    taken = census["snapshots"][snapshot]
    fig = Figure(figsize=(6.4, 3.4), facecolor="none")
    fig.set_label(f"Mean entropy of each head by layer, {taken['model']}")
    ax = fig.add_axes((0.09, 0.16, 0.88, 0.66), facecolor="none")
    style_axes(ax, "layer", "mean entropy of a head's rows, nats")
    of_pattern = colours(census, names)
    for head in taken["heads"]:
        colour = of_pattern.get(head["follows"], PALETTE["muted"])
        edge = PALETTE["ink"] if head["guided_toward"] else "none"
        style: dict[str, Any] = {"markersize": 6, "markeredgecolor": edge, "markeredgewidth": 1}
        ax.plot([head["layer"]], [head["entropy"]["value"]], "o", color=colour, **style)
    ax.set_ylim(bottom=0)
    _legend(fig, of_pattern, 0.965, 0.09)
    return fig


def head_plane(census: Content, names: Sequence[str] = ()) -> Figure:
    """Heads in the plane, close to each other if they attend alike (Clark et al. 2019, figure 6).

    If there is no room for all labels, heads that follow a pattern or were guided are labelled first.
    """
    positions = np.array(census["similarity"]["positions"])
    taken = census["snapshots"][-1]
    fig = Figure(figsize=(6, 5.6), facecolor="none")
    fig.set_label("Heads placed so that those that attend alike are near each other")
    ax = fig.add_axes((0.02, 0.02, 0.96, 0.88), facecolor="none")
    of_pattern = colours(census, names)
    for head, (x, y) in zip(taken["heads"], positions, strict=True):
        colour = of_pattern.get(head["follows"], PALETTE["muted"])
        edge = PALETTE["ink"] if head["guided_toward"] else "none"
        (mark,) = ax.plot([x], [y], "o", color=colour, markersize=7, markeredgecolor=edge, markeredgewidth=1)
        mark.set_gid(f"ag-head-{head['layer']}-{head['head']}")
    ax.set_aspect("equal", adjustable="datalim")
    first = sorted(
        range(len(positions)), key=lambda n: not (taken["heads"][n]["follows"] or taken["heads"][n]["guided_toward"])
    )
    label_points(ax, positions, [f"{head['layer']}.{head['head']}" for head in taken["heads"]], first)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(color=PALETTE["rule"])
    _legend(fig, of_pattern, 0.95, 0.02)
    return fig


def size(snapshot: Content) -> tuple[int, int]:
    """Number of layers, and of heads per layer."""
    return 1 + max(h["layer"] for h in snapshot["heads"]), 1 + max(h["head"] for h in snapshot["heads"])


def strongest(head: Content) -> tuple[str | None, float]:
    """The pattern that a head follows, or else the one with the most mass; and its mass."""
    masses = {name: measured["mass"]["value"] for name, measured in head["patterns"].items()}
    known = {name: mass for name, mass in masses.items() if mass is not None and np.isfinite(mass)}
    if head["follows"]:
        return head["follows"], known[head["follows"]]
    if not known:
        return None, 0.0
    best = max(known, key=lambda name: known[name])
    return best, known[best]


def _legend(fig: Figure, of_pattern: Mapping[str, str], y: float, left: float) -> None:
    """The names of the patterns in their colours, in rows from the top left."""
    width, height = fig.get_size_inches()
    x = left
    for name, colour in of_pattern.items():
        text = shown_token(name)
        advance = (0.088 * len(text) + 0.22) / width
        if x + advance > 1 and x > left:
            x, y = left, y - 0.17 / height
        fig.text(x, y, text, color=colour, fontsize=9, fontweight="bold", va="center", **NOT_MATH)
        x += advance


def step_name(snapshot: Content) -> str:
    """The step of a snapshot's checkpoint as text; empty for a model that is not a checkpoint."""
    return "" if snapshot["step"] is None else f"step {snapshot['step']:,}"
