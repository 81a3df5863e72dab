"""`match_heads(model, ...)`: assign each pattern to the heads closest to it.

A pre-trained model may already have heads that attend to the next token, but not the ones that an assignment by count
picks. Guiding a different head toward the pattern destroys what that head does. Choosing the heads is a linear
assignment problem: a fixed number of heads per pattern, no head twice, minimal total error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from attention_guidance.adapters import adapter_of
from attention_guidance.assignment import GuidedHead, Heads, explicit_places
from attention_guidance.attach import guide
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.forward.modes import evaluating
from attention_guidance.loss.statistics import Loss
from attention_guidance.patterns import Pattern, Patterns, TokenClasses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = Mapping[str, Any]
"""Inputs of a model by name, as in ``model(**batch)``."""


@dataclass(frozen=True, eq=False)
class HeadMatching:
    """The assignment of patterns to heads with the lowest initial error.

    Examples:
        >>> matching = match_heads(model, "next:1 first:2", batches)
        >>> matching.error <= matching.default_error
        True
        >>> guidance = guide(model, matching.heads)

    Attributes:
        guided: the matched heads, sorted by layer, then head.
        error: mean error of the matched heads.
        default_error: mean error of the assignment as written, with counts starting at head 0.
        errors: error of every head of the model for every pattern, float64 [layers, heads]; NaN in a layer where no
            query has a target.
    """

    guided: tuple[GuidedHead, ...]
    error: float
    default_error: float
    errors: dict[Pattern, Tensor]

    @property
    def heads(self) -> dict[int | str, dict[str | Pattern, list[int]]]:
        """Layer -> pattern -> heads, for ``guide(model, matching.heads)``, which then needs no tokenizer."""
        result: dict[int | str, dict[str | Pattern, list[int]]] = {}
        for head in self.guided:
            result.setdefault(head.layer, {}).setdefault(head.pattern, []).append(int(head.head))
        return result

    def __str__(self) -> str:
        """A table of the matched heads and both mean errors."""
        width = max(len("pattern"), *(len(head.pattern.name) for head in self.guided))
        rows = [
            f"{head.layer:5}  {head.head:4}  {head.pattern.name:{width}}  {_error(head, self.errors):7.4f}"
            for head in self.guided
        ]
        means = f"mean error {self.error:.4f}; as written, from head 0: {self.default_error:.4f}"
        return "\n".join([f"layer  head  {'pattern':{width}}    error", *rows, means])


def match_heads(
    model: nn.Module,
    heads: Heads,
    batches: Iterable[Batch],
    *,
    across_layers: bool = False,
    loss: Loss = "squared_error",
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    patterns: Patterns | None = None,
) -> HeadMatching:
    """Choose the heads of a pre-trained model that are closest to their patterns, before guiding it.

    Measures every head against every pattern, in evaluation mode and without gradients, over all rows of all batches;
    the model is unchanged. Then picks the heads with the lowest total error (linear assignment). Ties are resolved in
    favor of the assignment as written.

    Examples:
        >>> matching = match_heads(model, "next:1 previous:1 first:2", batches)
        >>> print(str(matching).splitlines()[0])
        layer  head  pattern     error
        >>> guidance = guide(model, matching.heads)

    Args:
        model: any unguided model that `guide` accepts.
        heads: the number of heads per pattern in each layer, in the syntax of `guide`; explicit heads (``next@3``) are
            not moved.
        batches: any iterable of inputs, as in ``model(**batch)``; tensors are moved to the model's device. It is read
            once and kept in memory, since there is one pass over the batches per pattern.
        across_layers: sum the counts over the layers and choose heads from the whole model: ``"0: next:1"`` finds the
            one head of the model that is closest to `next`.
        loss: the error measure, `squared_error`, `log_mass` or `cross_entropy`, as in `guide`.
        tokenizer: as in `guide`.
        token_classes: as in `guide`.
        patterns: as in `guide`.

    Returns:
        The matched heads, to pass to `guide`, and the errors of all heads.

    Raises:
        AttachError: the model is already guided or cannot be guided, or its attention is not finite.
        PatternError: the assignment does not fit the model, or no query of the batches has a target of a pattern in a
            layer that it is assigned to.
        ConfigError: no batches, a batch that is not a mapping, an unknown loss.
    """
    # Bad arguments raise before the batches are read.
    handle = guide(model, heads, loss=loss, tokenizer=tokenizer, token_classes=token_classes, patterns=patterns)
    written = handle.heads
    handle.remove()
    adapter = adapter_of(model)
    size = adapter.n_layers, adapter.n_heads
    kept = _batches(batches)
    distinct = dict.fromkeys(head.pattern for head in written)
    errors = {pattern: _errors(model, pattern, kept, loss, size) for pattern in distinct}
    for head in written:
        if errors[head.pattern][head.layer].isnan().any():
            raise PatternError(
                f"pattern {head.pattern.name!r} cannot be matched in layer {head.layer}: no query in the {len(kept)} "
                "batches has a target there; give batches that contain its targets, or remove it from heads"
            )
    explicit = explicit_places(heads, size[0])
    matched: list[GuidedHead] = []
    for layers in [range(size[0])] if across_layers else [range(layer, layer + 1) for layer in range(size[0])]:
        # Explicit heads stay; all others may move to any place that is not explicit.
        movable = [head for head in written if head.layer in layers and (head.layer, head.head) not in explicit]
        places = [(layer, head) for layer in layers for head in range(size[1]) if (layer, head) not in explicit]
        matched += [head for head in written if head.layer in layers and (head.layer, head.head) in explicit]
        matched += _nearest(movable, places, errors)
    matched.sort(key=lambda head: (head.layer, head.head))
    return HeadMatching(tuple(matched), _mean(matched, errors), _mean(written, errors), errors)


def _batches(batches: Iterable[Batch]) -> list[Batch]:
    """All batches as a list, so that a generator can be used once per pattern."""
    if isinstance(batches, Mapping) or not isinstance(batches, Iterable):
        raise ConfigError(
            f"batches is a {type(batches).__name__}, not an iterable of batches; give a list such as [batch]"
        )
    kept = list(batches)
    if not kept:
        raise ConfigError("batches is empty (a generator that is already exhausted?); give at least one batch")
    for number, batch in enumerate(kept):
        if not isinstance(batch, Mapping):
            raise ConfigError(
                f"batch {number} is a {type(batch).__name__}, not a mapping of the model's arguments; expected "
                "for example {'input_ids': ..., 'attention_mask': ...}"
            )
    return kept


def _errors(model: nn.Module, pattern: Pattern, batches: Iterable[Batch], loss: Loss, size: tuple[int, int]) -> Tensor:
    """The error of every head for one pattern: float64 [layers, heads], NaN where no row has a target."""
    errors = torch.full(size, math.nan, dtype=torch.float64)
    every_head: dict[str | Pattern, float] = {pattern: 1.0}
    handle = guide(model, every_head, loss=loss)
    device = next(model.parameters()).device
    try:
        with evaluating(model), handle.measure(), torch.no_grad():
            for batch in batches:
                model(**{name: x.to(device) if isinstance(x, Tensor) else x for name, x in batch.items()})
        for head, rows in zip(handle.per_head(), handle.rows_per_head(), strict=True):
            if rows and not math.isfinite(head.error):
                raise AttachError(
                    f"the error of layer {head.layer}, head {head.head} for pattern {head.pattern!r} is {head.error}: "
                    "the model's attention is not finite; check its weights, its precision and the batches"
                )
            # per_head gives 0 where no row has a target, which would look like a perfect match.
            errors[head.layer, head.head] = head.error if rows else math.nan
    finally:
        handle.remove()
    return errors


def _nearest(
    movable: list[GuidedHead], places: list[tuple[int, int]], errors: Mapping[Pattern, Tensor]
) -> list[GuidedHead]:
    """Move the patterns to the places with the lowest total error; unchanged if that is not lower."""
    if not movable:
        return []
    at = tuple(zip(*places, strict=True))
    costs = np.stack([errors[head.pattern][at].numpy() for head in movable])
    # An infinite cost forbids a place. The heads as written all have finite costs, so a solution always exists.
    _, columns = linear_sum_assignment(np.where(np.isnan(costs), math.inf, costs))
    nearest = [
        GuidedHead(layer, head, wanted.pattern)
        for wanted, (layer, head) in zip(movable, (places[column] for column in columns), strict=True)
    ]
    return nearest if _mean(nearest, errors) < _mean(movable, errors) else movable


def _mean(heads: Iterable[GuidedHead], errors: Mapping[Pattern, Tensor]) -> float:
    """Mean error of heads, exactly rounded so that their order does not matter."""
    values = [_error(head, errors) for head in heads]
    return math.fsum(values) / len(values)


def _error(head: GuidedHead, errors: Mapping[Pattern, Tensor]) -> float:
    return float(errors[head.pattern][head.layer, head.head])
