"""Figures of a comparison: loss curves and attention maps."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

from attention_guidance.analysis.sentence.picture import families
from attention_guidance.commands.report.figures.drawing import NOT_MATH, finite, mean, note, style_axes
from attention_guidance.commands.report.figures.svg import PALETTE
from attention_guidance.commands.report.figures.tokens import printable, shown_token, shown_tokens

ARMS = ("guided", "unguided")


def mean_curve(compare: Mapping[str, Any], arm: str, key: str = "loss") -> list[tuple[int, float | None]]:
    """``(step, mean over seeds)`` of one arm; None at a step where any seed has no finite value.

    A mean over only the seeds that did not diverge would be biased.
    """
    values: dict[int, list[object]] = {}
    for seed in compare["seeds"]:
        for point in seed[arm]["curve"]:
            values.setdefault(int(point["step"]), []).append(point.get(key))
    n_seeds = len(compare["seeds"])
    return [(step, mean(of_step) if len(of_step) == n_seeds else None) for step, of_step in sorted(values.items())]


def final_loss(compare: Mapping[str, Any], arm: str) -> float | None:
    """Mean over seeds of the final validation loss; None if any seed diverged."""
    return mean(seed[arm].get("final_loss") for seed in compare["seeds"])


def match_point(compare: Mapping[str, Any]) -> tuple[float, float] | None:
    """``(step, loss)``, mean over seeds, where guided reaches unguided's final loss; None if any seed never does."""
    step = mean(seed.get("steps_to_match") for seed in compare["seeds"])
    loss = final_loss(compare, "unguided")
    return None if step is None or loss is None else (step, loss)


def unit(compare: Mapping[str, Any]) -> str:
    """The unit of the loss, for labels; empty if it is a sum of several losses or a pixel error."""
    return ", nats a token" if compare.get("gives_perplexity", True) else ""


def loss_curves(compare: Mapping[str, Any], size: tuple[float, float] = (9.4, 4.3)) -> Figure:
    """Validation loss over steps for both arms: a thin line per seed, a thick line for the mean.

    Args:
        compare: the content of ``compare.json``.
        size: width and height in inches.

    Returns:
        The figure. Dotted lines mark where guided first reaches unguided's final loss, if it does.
    """
    fig = Figure(figsize=size, facecolor="none")
    fig.set_label("Validation loss over training steps, guided against unguided")
    left, right, top, bottom = 0.55, 0.95, 0.38, 0.5
    box = (left / size[0], bottom / size[1], 1 - (left + right) / size[0], 1 - (top + bottom) / size[1])
    ax = fig.add_axes(box, facecolor="none")
    ax.patch.set_gid("ag-plot")
    roomy = size[0] > 6
    style_axes(ax, "training step", f"validation loss{unit(compare)}", "auto" if roomy else 4)
    ends = {arm: end for arm in reversed(ARMS) if (end := _draw_arm(ax, compare, arm)) is not None}
    if not ends:
        note(ax, "no finite validation loss")
        return fig
    ax.margins(x=0.0, y=0.07)
    ax.set_xlim(0, max(ax.get_xlim()[1], 1))
    _label_ends(ax, ends, size[1] - top - bottom)
    if (match := match_point(compare)) is not None:
        _mark_match(ax, *match, roomy)
    return fig


def _draw_arm(ax: Any, compare: Mapping[str, Any], arm: str) -> tuple[float, float, str] | None:
    """Draw one arm and return ``(x, y, text)`` of its last finite point, None if there is none."""
    colour = PALETTE[arm]
    several = len(compare["seeds"]) > 1
    for seed in compare["seeds"] if several else ():
        points = [(point["step"], finite(point.get("loss"))) for point in seed[arm]["curve"]]
        _line(ax, points, color=colour, linewidth=0.9, alpha=0.45)
    points = mean_curve(compare, arm)
    _line(ax, points, color=colour, linewidth=2.4)
    last = [point for point in points if point[1] is not None][-1:]
    if not last:
        return None
    step, loss = last[0]
    assert loss is not None
    end, total = final_loss(compare, arm), len(compare["seeds"])
    lost = sum(finite(seed[arm].get("final_loss")) is None for seed in compare["seeds"])
    marker = {"marker": "X", "markersize": 8} if lost else {"marker": "o", "markersize": 6}
    ax.plot([step], [loss], color=colour, clip_on=False, **marker)
    result = f"{end:.2f}" if end is not None else f"{lost} of {total} diverged" if several else "diverged"
    return step, loss, f"{arm}\n{result}"


def _line(ax: Any, points: Sequence[tuple[int, float | None]], **style: Any) -> None:
    steps = [step for step, _ in points]
    losses = [math.nan if loss is None else loss for _, loss in points]  # NaN leaves a gap in the line
    ax.plot(steps, losses, solid_capstyle="round", solid_joinstyle="round", **style)


def _label_ends(ax: Any, ends: Mapping[str, tuple[float, float, str]], height: float) -> None:
    """Write the name of each arm at the end of its line, moved apart if they would overlap."""
    low, high = ax.get_ylim()
    gap = (high - low) * 0.46 / height  # two lines of text are 0.46 inches high
    order = sorted(ends, key=lambda arm: ends[arm][1])
    places = [ends[arm][1] for arm in order]
    if len(places) == 2 and places[1] - places[0] < gap:
        middle = max(sum(places) / 2, low + gap)
        places = [middle - gap / 2, middle + gap / 2]
    edge = ax.get_xlim()[1]
    for arm, place in zip(order, places, strict=True):
        step, loss, text = ends[arm]
        early = step < edge * 0.9  # seeds that did not diverge continue to the right: write above them
        at, offset = ((step, loss), (4, 8)) if early else ((edge, place), (9, 0))
        style: dict[str, Any] = {"color": PALETTE[arm], "fontsize": 10.5, "fontweight": "bold"}
        style |= {"va": "bottom" if early else "center", "annotation_clip": False}
        ax.annotate(text, at, offset, textcoords="offset points", **style)


def _mark_match(ax: Any, step: float, loss: float, roomy: bool) -> None:
    bottom, (_, edge) = ax.get_ylim()[0], ax.get_xlim()
    ax.set_autoscaley_on(False)  # the dotted line must reach the axis, not move it
    dotted = {"color": PALETTE["ink"], "linewidth": 1.1, "linestyle": (0, (1, 2.2))}
    ax.plot([step, edge], [loss, loss], **dotted)
    ax.plot([step, step], [bottom, loss], **dotted)
    marker = {"markersize": 8, "markeredgewidth": 2, "markeredgecolor": PALETTE["ink"]}
    ax.plot([step], [loss], marker="o", markerfacecolor=PALETTE["surface"], zorder=5, **marker)
    early = step < edge * 0.55
    text = f"step {step:,.0f}" + f": guided is where\nunguided ends ({loss:.2f})" * roomy
    # Below a falling curve, the corner between the dotted line and the axis is free.
    box = {"facecolor": PALETTE["surface"], "edgecolor": "none", "alpha": 0.8, "pad": 1}
    style: dict[str, Any] = {"color": PALETTE["ink"], "fontsize": 9.5, "ha": "left" if early else "right", "bbox": box}
    ax.annotate(text, (step, bottom), (7 if early else -7, 7), textcoords="offset points", **style)


def map_heads(maps: Mapping[str, Any]) -> list[tuple[int, int, str | None]]:
    """``(layer, head, pattern)`` of the heads in the snapshots, in their order.

    The pattern is that of the guided arm, since the unguided model has no assigned patterns.
    """
    found: dict[tuple[int, int], str | None] = {}
    for snapshot in maps["snapshots"]:
        for item in snapshot["maps"]:
            key = (int(item["layer"]), int(item["head"]))
            found[key] = found.get(key) or item.get("pattern")
    return [(layer, head, pattern) for (layer, head), pattern in found.items()]


def attention_maps(maps: Mapping[str, Any], heads: Sequence[tuple[int, int]] | None = None) -> Figure:
    """The paper's first figure: maps of some heads during training, guided and unguided.

    Args:
        maps: snapshots of both arms; ``weights`` are T x T with queries as rows.
        heads: the (layer, head) pairs to draw (default: all). For a single head, columns are titled with the arm only,
            for a caller that titles the figure.

    Returns:
        Rows are fractions of training, columns are heads, with guided left of unguided.

    Raises:
        ValueError: none of the heads is in the snapshots.
    """
    chosen = [item for item in map_heads(maps) if heads is None or item[:2] in heads]
    if not chosen:
        raise ValueError(f"none of the heads {heads!r} is in the snapshots")
    shares = sorted({float(snapshot["share"]) for snapshot in maps["snapshots"]})
    single, cell, gap, between = len(chosen) == 1, 1.1, 0.1, 0.22
    left, top, bottom = 0.5 if single else 0.65, 0.3 if single else 0.75, 0.04 if single else 0.55
    group = len(chosen) * (cell + gap) - gap
    width, height = left + 2 * group + between + 0.03, top + len(shares) * (cell + gap) - gap + bottom
    fig = Figure(figsize=(width, height), facecolor="none")
    names = ", ".join(f"layer {layer} head {head} ({pattern or 'free'})" for layer, head, pattern in chosen)
    fig.set_label(f"Attention maps during training, guided left of unguided: {names}")

    def write(x: float, y: float, text: str, **style: Any) -> None:
        fig.text(x / width, 1 - y / height, text, **{"color": PALETTE["muted"], **NOT_MATH, **style})

    for row, share in enumerate(shares):
        y = top + row * (cell + gap)
        write(left - 0.1, y + cell / 2, f"{100 * share:.3g}\u00a0%", ha="right", va="center", fontsize=9.5)
        for side, arm in enumerate(ARMS):
            for column, (layer, head, _) in enumerate(chosen):
                x = left + side * (group + between) + column * (cell + gap)
                box = (x / width, 1 - (y + cell) / height, cell / width, cell / height)
                _draw_map(fig.add_axes(box, facecolor="none"), _weights(maps, arm, share, layer, head), arm)
    _head_titles(write, chosen, [left, left + group + between], cell + gap, single)
    if not single:
        write(left - 0.1, 0.6, "training", ha="right", fontsize=9)
        text = textwrap.shorten(str(maps.get("text") or ""), int(width * 13), placeholder=" …")
        write(left, height - 0.2, printable(text), fontsize=8.5, va="center", fontfamily=families())
    return fig


def _head_titles(
    write: Callable[..., None],
    chosen: Sequence[tuple[int, int, str | None]],
    starts: Sequence[float],
    pitch: float,
    single: bool,
) -> None:
    bold = {"fontsize": 10.5, "fontweight": "bold", "va": "center"}
    for arm, start in zip(ARMS, starts, strict=True):
        write(start, 0.16, arm, color=PALETTE[arm], **bold)
        for column, (layer, head, pattern) in enumerate(() if single else chosen):
            name = f"{shown_token(pattern) if pattern else 'free'} · {layer}.{head}"
            write(start + column * pitch, 0.6, name, fontsize=9, color=PALETTE["ink"])


def labelled_map(maps: Mapping[str, Any], arm: str, layer: int, head: int) -> Figure:
    """One head's map at the end of training with its tokens: rows are queries, columns are keys."""
    tokens = shown_tokens(maps["tokens"])
    margin, cell = 0.95, max(2.4, 0.148 * len(tokens))
    side = margin + cell + 0.05
    fig = Figure(figsize=(side, side), facecolor="none")
    fig.set_label(f"Attention map with tokens, {arm}, layer {layer} head {head}, end of training")
    ax = fig.add_axes((margin / side, 0.05 / side, cell / side, cell / side), facecolor="none")
    share = max((float(item["share"]) for item in maps["snapshots"] if item["arm"] == arm), default=1.0)
    _draw_map(ax, _weights(maps, arm, share, layer, head), arm)
    style = {"fontsize": 8, "color": PALETTE["ink"], "fontfamily": families(), "clip_on": False, **NOT_MATH}
    for place, token in enumerate(tokens):
        at = (place + 0.5) / len(tokens)
        common: dict[str, Any] = {
            "xycoords": "axes fraction",
            "textcoords": "offset points",
            "annotation_clip": False,
            **style,
        }
        ax.annotate(token, (0, 1 - at), (-5, 0), ha="right", va="center_baseline", **common)
        ax.annotate(token, (at, 1), (0, 5), ha="center", va="bottom", rotation=90, **common)
    return fig


def _weights(maps: Mapping[str, Any], arm: str, share: float, layer: int, head: int) -> Any:
    """The T x T array of one map, None if the snapshot does not have it."""
    for snapshot in maps["snapshots"]:
        if snapshot["arm"] == arm and float(snapshot["share"]) == share:
            for item in snapshot["maps"]:
                if (item["layer"], item["head"]) == (layer, head):
                    return np.array([[math.nan if w is None else float(w) for w in row] for row in item["weights"]])
    return None


def _draw_map(ax: Any, weights: Any, arm: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(color=PALETTE["rule"], linewidth=0.8)
    if weights is None or not np.isfinite(weights).all():
        note(ax, "not recorded" if weights is None else "diverged")
        return
    red, green, blue, _ = matplotlib.colors.to_rgba(PALETTE[arm])
    # Transparent at 0, so that the page's background shows through in both themes. With the square root, the 1/T of
    # uniform attention is visible beside a 1.
    ink = LinearSegmentedColormap.from_list(arm, [(red, green, blue, 0.0), (red, green, blue, 1.0)])
    ax.imshow(weights, cmap=ink, norm=PowerNorm(0.5, 0, 1), interpolation="none", aspect="equal")
