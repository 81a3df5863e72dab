"""Figures of an ablation: what each head is worth, and the loss as more and more heads are removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attention_guidance.commands.report.figures.drawing import NOT_MATH, head_axes, style_axes
from attention_guidance.commands.report.figures.svg import PALETTE
from attention_guidance.commands.report.figures.tokens import shown_token

Content = Mapping[str, Any]
# What each task measures.
_UNITS = {"loss": "loss, nats", "minimal-pairs": "share of pairs that are wrong"}


def all_figures(content: Content) -> dict[str, Figure]:
    """All figures that the data of an ablation allow, by name.

    Args:
        content: the content of ``ablate.json``.
    """
    figures = {"worth": head_worth(content)}
    if content["greedy"]:
        figures["greedy"] = greedy_curve(content)
    return figures


def head_worth(content: Content) -> Figure:
    """A heat map of layers and heads: how much the loss rises without each (blue) or falls (orange), and its pattern.

    A frame marks guided heads; the number is pale where the interval includes 0.
    """
    heads = content["heads"]
    n_layers, n_heads = 1 + max(h["layer"] for h in heads), 1 + max(h["head"] for h in heads)
    cell = min(0.78, 9.4 / n_heads)
    label = f"head; number: {_UNITS[content['task']]}, without it minus with it; below: the pattern it follows"
    ax = head_axes(n_layers, n_heads, cell, 0.34, label)
    fig: Figure = ax.figure
    fig.set_label(f"Loss without each head minus loss with all heads, layers by heads, {content['model']}")
    largest = max((abs(h["difference"]["value"]) for h in heads), default=0.0) or 1.0
    for head in heads:
        _draw_head(ax, head, largest, small=cell < 0.6)
    title = f"{content['model']}; in its place: {shown_token(content['to'])}; framed: guided"
    place = ax.get_position().x0, 1 - 0.2 / fig.get_figheight()
    fig.text(*place, title, color=PALETTE["muted"], fontsize=9, va="center", **NOT_MATH)
    return fig


def _draw_head(ax: Any, head: Content, largest: float, small: bool) -> None:
    at, value = (head["head"] - 0.5, head["layer"] - 0.5), head["difference"]["value"]
    # Not opaque even at the largest: the number in the cell must be readable in both themes.
    colour = to_rgba(PALETTE["guided" if value > 0 else "unguided"], 0.7 * abs(value) / largest)
    ax.add_patch(Rectangle(at, 1, 1, facecolor=colour, edgecolor=PALETTE["rule"], linewidth=0.8))
    if head["guided_toward"]:
        inset = (at[0] + 0.06, at[1] + 0.06)
        ax.add_patch(Rectangle(inset, 0.88, 0.88, fill=False, edgecolor=PALETTE["ink"], linewidth=1.1))
    low, high = head["difference"]["low"], head["difference"]["high"]
    shown = PALETTE["ink"] if low > 0 or high < 0 else PALETTE["muted"]
    style: dict[str, Any] = {"ha": "center", "va": "center"}
    number = f"{value:+.2f}".replace("0.", ".") if small else f"{value:+.3f}"
    y = head["layer"] - (0.12 if head["follows"] else 0)
    ax.text(head["head"], y, number, color=shown, fontsize=6.5 if small else 8, **style)
    if head["follows"]:
        name = shown_token(head["follows"])[:10]
        size = 4.5 if small else 6.5
        ax.text(head["head"], head["layer"] + 0.22, name, color=PALETTE["ink"], fontsize=size, **style, **NOT_MATH)


def greedy_curve(content: Content) -> Figure:
    """The loss after each removal with its interval; full marks are guided heads."""
    fig = Figure(figsize=(8, 3.4), facecolor="none")
    fig.set_label(f"Loss as the least needed heads are removed one after another, {content['model']}")
    ax = fig.add_axes((0.08, 0.16, 0.89, 0.72), facecolor="none")
    y = f"{_UNITS[content['task']]}; dashed: with all {len(content['heads'])} heads"
    if any(head["guided_toward"] for head in content["heads"]):
        y += "; full marks: guided heads"
    style_axes(ax, "heads removed, the least needed first (layer.head)", y)
    base, steps = content["loss"]["value"], content["greedy"]
    guided = {(head["layer"], head["head"]): bool(head["guided_toward"]) for head in content["heads"]}
    numbers = list(range(len(steps) + 1))
    low, high = ([base, *(base + step["difference"][end] for step in steps)] for end in ("low", "high"))
    ax.fill_between(numbers, low, high, facecolor=to_rgba(PALETTE["guided"], 0.2), edgecolor="none")
    ax.plot(numbers, [base, *(step["loss"] for step in steps)], color=PALETTE["guided"], linewidth=1.6)
    for number, step in enumerate(steps, 1):
        fill = PALETTE["guided"] if guided[step["layer"], step["head"]] else PALETTE["surface"]
        style: dict[str, Any] = {"markeredgecolor": PALETTE["guided"], "markerfacecolor": fill, "markersize": 5}
        ax.plot([number], [step["loss"]], "o", **style)
        if len(steps) <= 40:
            place: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6, "ha": "center"}
            name = f"{step['layer']}.{step['head']}"
            ax.annotate(name, (number, step["loss"]), (0, 7), color=PALETTE["muted"], **place)
    ax.axhline(base, color=PALETTE["muted"], linewidth=1, linestyle=(0, (2, 2)))
    ax.set_xlim(0, len(steps) + 0.5)
    return fig
