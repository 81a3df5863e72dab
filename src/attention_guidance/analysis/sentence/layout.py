"""Lay out a look as a picture or a page: all heads as thumbnails, chosen ones as maps and lines."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources

import numpy as np
import numpy.typing as npt

from attention_guidance.analysis.sentence.picture import (
    LIGHT,
    PITCH,
    STYLE,
    Cell,
    Frame,
    Group,
    Image,
    Line,
    Picture,
    Shape,
    Text,
)
from attention_guidance.printable import short_token, visible, visible_token

Array = npt.NDArray[np.float32]
Head = tuple[int, int]

# The side of a thumbnail and the gap after it; the room for the numbers beside and above them.
_THUMBNAIL, _GAP, _LEFT, _TOP = 44, 4, 40, 30
# Between the two columns of words; above them, for the names of the columns.
_BETWEEN, _HEADING = 150, 24
# Smaller weights cannot be seen: half of what a byte can tell from 0, and a faint line.
_LEAST_CELL, _LEAST_LINE = 0.002, 0.02


def name_of(head: Head) -> str:
    """A head in words."""
    return f"layer {head[0]}, head {head[1]}"


def thumbnails(maps_LHTT: Array, heads: Sequence[Head]) -> Picture:
    """The maps of all heads, layers as rows, without tokens."""
    n_layers, n_heads = maps_LHTT.shape[:2]
    step = _THUMBNAIL + _GAP
    size, pixels = 2 * _THUMBNAIL, 2 * step  # two dots a CSS pixel
    alpha = np.zeros((n_layers, pixels, n_heads, pixels), np.uint8)
    alpha[:, :size, :, :size] = np.round(255 * np.sqrt(_resampled(maps_LHTT, size))).swapaxes(1, 2)
    frames = [
        Frame(_LEFT + head * step, _TOP + layer * step, _THUMBNAIL, _THUMBNAIL, kind, name_of((layer, head)))
        for layer in range(n_layers)
        for head in range(n_heads)
        for kind in ["chosen" if (layer, head) in heads else "frame"]
    ]
    width, height = n_heads * step, n_layers * step
    middle = _THUMBNAIL / 2
    names = [
        Text(0, _TOP - 6, "layer", kind="muted"),
        Text(_LEFT, 11, "head", kind="muted"),
        *(Text(_LEFT + head * step + middle, _TOP - 6, f"{head}", "middle", kind="muted") for head in range(n_heads)),
        *(Text(_LEFT - 8, _TOP + n * step + middle + 4, f"{n}", "end", kind="muted") for n in range(n_layers)),
    ]
    image = Image(_LEFT, _TOP, width, height, alpha.reshape(n_layers * pixels, n_heads * pixels))
    return Picture(_LEFT + width, _TOP + height, [image, *names, Group(frames, "heads")])


def _resampled(maps: Array, size: int) -> Array:
    """Maps of `size` x `size`: of fewer pixels each is the largest weight there, so that diagonals stay."""
    starts = np.arange(size) * maps.shape[-1] // size
    if maps.shape[-1] <= size:
        return maps[..., starts[:, None], starts]
    return np.maximum.reduceat(np.maximum.reduceat(maps, starts, -2), starts, -1)


def head_map(tokens: Sequence[str], border: int | None, map_TT: Array) -> Picture:
    """The map of one head with its tokens: rows are queries, columns are keys.

    Args:
        tokens: the tokens.
        border: index of the first token of the second sentence, or None.
        map_TT: the head's attention.
    """
    margin, side = _margin(tokens), len(tokens) * PITCH
    cells = [Cell(PITCH * column, PITCH * row, weight) for row, column, weight in _weights(map_TT, _LEAST_CELL)]
    left = [_word(margin - 6, margin + PITCH * n + 13, token, "end") for n, token in enumerate(tokens)]
    top = [_word(margin + PITCH * n + 13, margin - 6, token, upward=True) for n, token in enumerate(tokens)]
    at = PITCH * (border or 0)
    rules = [Line(0, at, side, at, kind="rule"), Line(at, 0, at, side, kind="rule")] if border else []
    inside: list[Shape] = [Frame(0, 0, side, side), Group(cells, "cells"), *rules]
    return Picture(margin + side + 2, margin + side + 2, [*left, *top, Group(inside, x=margin, y=margin)])


def head_lines(tokens: Sequence[str], border: int | None, map_TT: Array) -> Picture:
    """Lines from each token to those that it attends to, stronger for more attention; see `head_map`."""
    margin, middle = _margin(tokens), PITCH / 2
    lines = [
        Line(0, PITCH * row + middle, _BETWEEN, PITCH * column + middle, weight)
        for row, column, weight in _weights(map_TT, _LEAST_LINE)
    ]
    left = [_word(-6, PITCH * n + 13, token, "end", "word") for n, token in enumerate(tokens)]
    right = [_word(_BETWEEN + 6, PITCH * n + 13, token, kind="seen") for n, token in enumerate(tokens)]
    names = [Text(-6, -8, "from", "end", kind="muted"), Text(_BETWEEN + 6, -8, "to", kind="muted")]
    at = PITCH * (border or 0)
    rules = [Line(-margin, at, margin + _BETWEEN, at, kind="rule")] if border else []
    everything = Group([Group(lines, "lines"), *rules, *names, *left, *right], x=margin, y=_HEADING)
    return Picture(2 * margin + _BETWEEN, _HEADING + PITCH * len(tokens) + 2, [everything])


def _weights(map_TT: Array, least: float) -> Iterator[tuple[int, int, float]]:
    for row, column in np.argwhere(map_TT >= least).tolist():
        yield row, column, float(map_TT[row, column])


def _word(x: float, y: float, token: str, anchor: str = "start", kind: str = "", *, upward: bool = False) -> Text:
    return Text(x, y, short_token(token), anchor, upward, visible_token(token), kind)


def _margin(tokens: Iterable[str]) -> int:
    """Room for the longest token; letters of East Asian scripts are twice as wide."""
    widths = (sum(11 if unicodedata.east_asian_width(c) in "WF" else 6.6 for c in short_token(t)) for t in tokens)
    return 14 + math.ceil(max(widths))


def whole_picture(
    title: str, tokens: Sequence[str], border: int | None, maps_LHTT: Array, heads: Sequence[Head]
) -> Picture:
    """The thumbnails, and below them the map and the lines of each chosen head."""
    small = thumbnails(maps_LHTT, heads)
    maps = [head_map(tokens, border, maps_LHTT[head]) for head in heads]
    lines = [head_lines(tokens, border, maps_LHTT[head]) for head in heads]
    pad, gap = 12, 28
    inner = max(small.width, maps[0].width + gap + lines[0].width)
    shapes: list[Text | Group] = [
        Text(pad, pad + 12, _cut(visible(title), inner)),
        Group(small.shapes, x=pad, y=pad + 28),
    ]
    y = pad + 28 + small.height + 24
    for head, map_, line in zip(heads, maps, lines, strict=True):
        down = _margin(tokens) - _HEADING  # so that rows are beside rows
        shapes += [
            Text(pad, y, name_of(head).capitalize()),
            Group(map_.shapes, x=pad, y=y + 8),
            Group(line.shapes, x=pad + map_.width + gap, y=y + 8 + down),
        ]
        y += map_.height + 40
    return Picture(2 * pad + inner, y, shapes)


def _cut(text: str, width: float) -> str:
    most = int(width / 6)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def page(title: str, tokens: Sequence[str], border: int | None, maps_LHTT: Array, heads: Sequence[Head]) -> str:
    """A page of HTML that needs no other file and no network; a click on a thumbnail chooses a head."""
    template = resources.files(__package__ or "").joinpath("look.html").read_text(encoding="utf-8")
    script = template.split("<script>")[1].split("</script>")[0]
    n_layers, n_heads = maps_LHTT.shape[:2]
    coded = np.round(255 * maps_LHTT).astype(np.uint8).tobytes()
    data = {
        "tokens": [visible_token(token) for token in tokens],
        "heads": [name_of((layer, head)) for layer in range(n_layers) for head in range(n_heads)],
        "columns": n_heads,
        "chosen": [layer * n_heads + head for layer, head in heads],
        "pitch": PITCH,
        "between": _BETWEEN,
        "leastLine": _LEAST_LINE,
        "maps": base64.b64encode(coded).decode(),
    }
    parts = {
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "colours": " ".join(f"--{name}: {colour};" for name, colour in LIGHT.items()),
        "style": STYLE,
        "title": escape(visible(title)),
        "thumbnails": thumbnails(maps_LHTT, heads).svg("All heads, layers by heads", role="group"),
        "panels": "".join(_panel(tokens, border, maps_LHTT[head], name_of(head)) for head in heads),
        # In JSON, no markup can end the script element.
        "data": json.dumps(data).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _panel(tokens: Sequence[str], border: int | None, map_TT: Array, name: str) -> str:
    drawn = {"Map": head_map(tokens, border, map_TT), "Lines": head_lines(tokens, border, map_TT)}
    figures = "".join(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{what}">{picture.svg(f"{what} of {name}")}</div>'
        for what, picture in drawn.items()
    )
    return f'<figure><figcaption>{name.capitalize()}</figcaption><div class="pair">{figures}</div></figure>'
