"""Assign patterns to heads: parses ``"next:1 previous:1 first:4"`` and mappings.

The syntax, for all layers or for some::

    next:1 previous:1 first:4             counts, starting at head 0, in every layer
    next:1 first:0.25                     a fraction of the layer's heads
    next@0 first@2,3,8-11                 explicit heads
    0-3: next:1 previous:1; 4-: first:2   by layer or range of layers (`4-`: from 4 to the last)
    previous|next:2  offset:-2:1          unions; offsets of any distance
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from attention_guidance.errors import PatternError
from attention_guidance.patterns import Pattern, checked_pattern

Amount = int | float | Sequence[int]
# Keys are patterns or their names, and numbers or ranges of layers. To a type checker, a mapping is invariant in its
# keys: Mapping[str | Pattern, int] would exclude a dict[str, int].
LayerHeads = str | Mapping[Any, Amount]
Heads = str | Mapping[Any, "Amount | LayerHeads"]
"""Which heads follow which pattern: text such as ``"next:1 previous:1 first:4"``, or a mapping.

A mapping is of patterns or their names to a count (int), a fraction of the layer's heads (float) or a list of heads; or
of layers or ranges of layers (``"1-3"``) to text or such mappings.
"""

# Six digits are enough for the number of any layer or head.
# Of heads or layers; longer ranges would fill the memory before they are found not to exist.
_MOST_NUMBERS = 100_000
_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:(-)\s*(\d{1,6})?\s*)?")
_LAYERS = re.compile(r"\d[\d\s,-]*")
_LAYER_PREFIX = re.compile(rf"\s*({_LAYERS.pattern})\s*:\s+(.*)", re.DOTALL)


@dataclass(frozen=True)
class GuidedHead:
    """A head and the pattern it is guided toward. Layers and heads are numbered from 0.

    Examples:
        >>> guide(model, "1: previous@3").heads
        (GuidedHead(layer=1, head=3, pattern=Offset(offset=-1)),)
    """

    layer: int
    head: int
    pattern: Pattern


@dataclass(frozen=True)
class HeadGuidance:
    """How far one guided head was from its pattern: its squared error (or log mass), averaged over rows.

    Examples:
        >>> guidance = guide(model, "next@3")
        >>> loss = model(**batch).loss
        >>> last = guidance.per_head()[-1]
        >>> last.layer, last.head, last.pattern, 0 <= last.error <= 2
        (1, 3, 'next', True)
    """

    layer: int
    head: int
    pattern: str
    error: float


def assign_heads(
    heads: Heads, n_layers: int, n_heads: int, get_pattern: Callable[[str], Pattern]
) -> tuple[GuidedHead, ...]:
    """Resolve an assignment against a model's size.

    Args:
        heads: a string in the syntax above; a mapping of pattern (name or object) to count, fraction or list of heads;
            or a mapping of layer (number or range) to either of these.
        n_layers: number of attention layers of the model.
        n_heads: number of heads per layer.
        get_pattern: returns the pattern with a given name.

    Returns:
        The guided heads, sorted by layer, then head.

    Raises:
        PatternError: an unknown pattern, a layer or head out of range, more heads than the model has, or a head with
            two patterns. The message names the pattern, the layer and the model's size.
    """
    guided: dict[int, dict[int, Pattern]] = {}
    for layers, layer_heads in _clauses(heads):
        requests = [
            (checked_pattern(get_pattern(p) if isinstance(p, str) else p), n) for p, n in _requests(layer_heads)
        ]
        for layer in _layer_range(layers, n_layers):
            if layer in guided:
                raise PatternError(f"layer {layer} is given twice in heads={heads!r}; put its patterns in one clause")
            guided[layer] = _fill_layer(requests, layer, n_heads)
    result = tuple(
        GuidedHead(layer, head, pattern)
        for layer, by_head in sorted(guided.items())
        for head, pattern in sorted(by_head.items())
    )
    if not result:
        raise PatternError(f"heads={heads!r} guides no head; expected for example 'next:1 previous:1 first:2'")
    return result


def explicit_places(heads: Heads, n_layers: int) -> set[tuple[int, int]]:
    """The (layer, head) pairs that an assignment names explicitly (``next@3``), not by count or fraction.

    Args:
        heads: an assignment that `assign_heads` accepts.
        n_layers: number of attention layers of the model.
    """
    return {
        (layer, int(head))
        for layers, layer_heads in _clauses(heads)
        for layer in _layer_range(layers, n_layers)
        for _, amount in _requests(layer_heads)
        if isinstance(amount, Sequence)
        for head in amount
    }


def _clauses(heads: Heads) -> list[tuple[str | None, LayerHeads]]:
    """Split an assignment into (layers, their heads); None means all layers."""
    if isinstance(heads, str):
        clauses: list[tuple[str | None, LayerHeads]] = []
        for clause in filter(str.strip, heads.split(";")):
            match = _LAYER_PREFIX.match(clause)
            clauses.append((match[1], match[2]) if match else (None, clause))
        return clauses
    if not isinstance(heads, Mapping) or not all(_is_number(key) or isinstance(key, str | Pattern) for key in heads):
        raise PatternError(f"heads={heads!r} must be a string ('next:1 first:2') or a mapping of patterns or layers")
    by_layer = [_is_number(key) or (isinstance(key, str) and bool(_LAYERS.fullmatch(key))) for key in heads]
    if any(by_layer) and not all(by_layer):
        raise PatternError(f"heads={heads!r} mixes layers and patterns as keys; use only one of them")
    if any(by_layer):
        return [(str(layers), layer_heads) for layers, layer_heads in heads.items()]  # type: ignore[misc]
    return [(None, heads)]  # type: ignore[list-item]


def _requests(layer_heads: LayerHeads) -> Iterable[tuple[str | Pattern, Amount]]:
    """The patterns of a clause with their counts, fractions or indices."""
    if isinstance(layer_heads, Mapping):
        for pattern, amount in layer_heads.items():
            _check_amount(pattern, amount)
        return layer_heads.items()
    if not isinstance(layer_heads, str):
        raise PatternError(f"cannot read {layer_heads!r} in heads; expected a string such as 'next:1' or a mapping")
    return [_parse_item(item) for item in layer_heads.split()]


def _check_amount(pattern: str | Pattern, amount: object) -> None:
    """Raise PatternError unless this is a count, a fraction or a list of heads, of Python or NumPy numbers."""
    if not isinstance(pattern, str | Pattern):
        raise PatternError(f"{pattern!r} in heads must be a pattern or its name")
    listed = isinstance(amount, Sequence) and not isinstance(amount, str)
    numbers = amount if listed else [amount]
    if not all(_is_number(number, Integral if listed else Real) for number in numbers):  # type: ignore[attr-defined]
        raise PatternError(
            f"{str(pattern)!r}: {amount!r} in heads must be a count (2), a fraction (0.25) or a list of heads ([2, 3])"
        )


def _is_number(value: object, kind: type = Integral) -> bool:
    """Whether this is a Python or NumPy number of the given kind and not a bool."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _parse_item(item: str) -> tuple[str, Amount]:
    name, at, indices = item.partition("@")
    if at:
        return name, _numbers(indices, f"heads {indices!r} in {item!r}")
    name, colon, amount = item.rpartition(":")
    if not colon or not re.fullmatch(r"\d{1,6}|\d*\.\d+", amount) or name == "offset":
        raise PatternError(
            f"cannot read {item!r} in heads; expected pattern:count (next:1), pattern:fraction (first:0.25) "
            "or pattern@heads (first@2,3)"
        )
    return name, float(amount) if "." in amount else int(amount)


def _numbers(text: str, what: str, last: int | None = None) -> list[int]:
    """Parse numbers and ranges: ``2,3,8-11``, and ``4-`` if `last` is given."""
    numbers: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if not match or (match[2] and not match[3] and last is None):
            raise PatternError(f"cannot read {what}; expected numbers from 0 and ranges, such as 2,3,8-11")
        start = int(match[1])
        end = int(match[3]) if match[3] else last if match[2] and last is not None else start
        if match[3] and end < start:
            raise PatternError(f"{what}: the range {part.strip()!r} is reversed; write {end}-{start}")
        if len(numbers) + end - start > _MOST_NUMBERS:
            raise PatternError(f"{what}: more than {_MOST_NUMBERS:,} numbers; no model has that many")
        # If `4-` starts beyond the last, keep its start, so that the caller reports it.
        numbers.extend(range(start, max(start, end) + 1))
    return numbers


def _layer_range(layers: str | None, n_layers: int) -> list[int]:
    if layers is None:
        return list(range(n_layers))
    wanted = _numbers(layers, f"layers {layers!r} in heads", n_layers - 1)
    if max(wanted) >= n_layers:
        raise PatternError(f"layer {layers!r} in heads does not exist: the model has layers 0 to {n_layers - 1}")
    return wanted


def _fill_layer(requests: list[tuple[Pattern, Amount]], layer: int, n_heads: int) -> dict[int, Pattern]:
    """Give each requested pattern its heads: explicit ones first, then counts from the lowest free head."""
    taken: dict[int, Pattern] = {}
    for pattern, amount in requests:
        for head in amount if isinstance(amount, Sequence) else ():
            if not 0 <= head < n_heads:
                raise PatternError(
                    f"head {head} for pattern {pattern.name!r} in layer {layer} does not exist: "
                    f"the model has heads 0 to {n_heads - 1}"
                )
            if head in taken:
                raise PatternError(
                    f"head {head} of layer {layer} is given to {taken[head].name!r} and {pattern.name!r}; "
                    "a head takes one pattern (join them as a union: previous|next)"
                )
            taken[head] = pattern
    for pattern, amount in requests:
        if isinstance(amount, Sequence):
            continue
        count = _count(pattern, amount, layer, n_heads)
        free = [head for head in range(n_heads) if head not in taken]
        if count > len(free):
            raise PatternError(
                f"{count} heads for pattern {pattern.name!r} in layer {layer}, but the model has {n_heads} heads per "
                f"layer and {len(free)} of them are free"
            )
        taken.update(dict.fromkeys(free[:count], pattern))
    return taken


def _count(pattern: Pattern, amount: int | float, layer: int, n_heads: int) -> int:
    if isinstance(amount, Integral):
        if int(amount) < 0:
            raise PatternError(f"{amount} heads for pattern {pattern.name!r}: the count must be 0 or more")
        return int(amount)
    if not 0 <= float(amount) <= 1:
        raise PatternError(f"fraction {amount} for pattern {pattern.name!r} must lie between 0 and 1")
    count = math.floor(float(amount) * n_heads + 0.5)
    if amount and not count:
        raise PatternError(
            f"fraction {amount} for pattern {pattern.name!r} in layer {layer} is less than half of one head: the model "
            f"has {n_heads} heads per layer; use {pattern.name}:1"
        )
    return count
