"""`match_heads(model, ...)`: guide a pre-trained model with the grain, each pattern on the heads nearest to it.

A trained model has heads that look at the next token already, only not at the places that an assignment by count
gives. Pulling another head there undoes what it has learnt. Which heads to take is a linear assignment problem: so many
heads of each pattern, no head twice, the least total error.
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
from attention_guidance.patterns import Pattern, TokenClasses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class HeadMatching:
    """Which heads of a model follow which pattern so that its guidance begins at the least error.

    Attributes:
        guided: the heads as matched, by layer, then head.
        error: mean error of the guided heads, as matched.
        default_error: the same for the assignment as it was written, counts from head 0 on.
        errors: error of every head of the model for every pattern: float64 [layers, heads]; NaN in a layer in which no
            query has a target.
    """

    guided: tuple[GuidedHead, ...]
    error: float
    default_error: float
    errors: dict[Pattern, Tensor]

    @property
    def heads(self) -> dict[int | str, dict[str | Pattern, list[int]]]:
        """Layer -> pattern -> heads, for ``guide(model, matching.heads)``; needs no tokenizer there."""
        result: dict[int | str, dict[str | Pattern, list[int]]] = {}
        for head in self.guided:
            result.setdefault(head.layer, {}).setdefault(head.pattern, []).append(int(head.head))
        return result

    def __str__(self) -> str:
        """A table of the guided heads, and both means."""
        width = max(len("pattern"), *(len(head.pattern.name) for head in self.guided))
        rows = [
            f"{head.layer:5}  {head.head:4}  {head.pattern.name:{width}}  {_error(head, self.errors):7.4f}"
            for head in self.guided
        ]
        means = f"mean error {self.error:.4f}; as written, from head 0 on: {self.default_error:.4f}"
        return "\n".join([f"layer  head  {'pattern':{width}}    error", *rows, means])


def match_heads(
    model: nn.Module,
    heads: Heads,
    batches: Iterable[Batch],
    *,
    across_layers: bool = False,
    loss: str = "squared_error",
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    patterns: Mapping[str, Pattern] | None = None,
) -> HeadMatching:
    """Choose the heads that are nearest to their patterns already, before a pre-trained model is guided.

    Every head of the model is measured against every pattern, in evaluation mode and without gradients, over all rows
    of all batches; the model is left as it was. The heads are then those of least total error (linear assignment). A
    tie goes to the assignment as written.

    Example::

        matching = match_heads(model, "next:1 previous:1 first:2", batches)
        print(matching)
        guidance = guide(model, matching.heads)

    Args:
        model: any model that `guide` takes and that is not guided.
        heads: how many heads of each pattern each layer gets, in the language of `guide`; heads given by their number
            (``next@3``) stay where they are.
        batches: what the model is called with, ``model(**batch)``; tensors are moved to its device. Any iterable; it is
            read once and kept, as the batches are gone through once for each pattern.
        across_layers: sum the counts over the layers and take the heads anywhere in the model: ``"0: next:1"`` is the
            one head of the model that is nearest to `next`.
        loss: what the error is: `squared_error` or `log_mass`, as in `guide`.
        tokenizer: as in `guide`.
        token_classes: as in `guide`.
        patterns: as in `guide`.

    Returns:
        The heads, to be given to `guide`, and the errors that they were chosen by.

    Raises:
        AttachError: the model is guided already or cannot be guided, or its attention is not finite.
        PatternError: the assignment does not fit the model, or asks for a pattern in a layer where no query of the
            batches has a target.
        ConfigError: no batches, a batch that is no mapping, an unknown loss.
    """
    # What does not fit is found before the batches are read.
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
                f"pattern {head.pattern.name!r} cannot be matched in layer {head.layer}: no query of the "
                f"{len(kept)} batches has a target there; give batches that hold its targets, or leave it out of heads"
            )
    explicit = explicit_places(heads, size[0])
    matched: list[GuidedHead] = []
    for layers in [range(size[0])] if across_layers else [range(layer, layer + 1) for layer in range(size[0])]:
        # The heads that may move, and the places where they may go.
        movable = [head for head in written if head.layer in layers and (head.layer, head.head) not in explicit]
        places = [(layer, head) for layer in layers for head in range(size[1]) if (layer, head) not in explicit]
        matched += [head for head in written if head.layer in layers and (head.layer, head.head) in explicit]
        matched += _nearest(movable, places, errors)
    matched.sort(key=lambda head: (head.layer, head.head))
    return HeadMatching(tuple(matched), _mean(matched, errors), _mean(written, errors), errors)


def _batches(batches: Iterable[Batch]) -> list[Batch]:
    """All batches, kept, so that a generator can be gone through once for each pattern."""
    if isinstance(batches, Mapping) or not isinstance(batches, Iterable):
        raise ConfigError(
            f"batches is a {type(batches).__name__}, not an iterable of batches; give a list such as [batch]"
        )
    kept = list(batches)
    if not kept:
        raise ConfigError("batches holds no batch (a generator that was read before?); give at least one")
    for number, batch in enumerate(kept):
        if not isinstance(batch, Mapping):
            raise ConfigError(
                f"batch {number} is a {type(batch).__name__}, not a mapping of the model's arguments; expected "
                "something like {'input_ids': ..., 'attention_mask': ...}"
            )
    return kept


def _errors(model: nn.Module, pattern: Pattern, batches: Iterable[Batch], loss: str, size: tuple[int, int]) -> Tensor:
    """Every head's error for one pattern: float64 [layers, heads], NaN where no row counts."""
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
                    "the model's attention is not finite; look at its weights, its precision and the batches"
                )
            # Where nothing counts per_head says 0, which would draw every head there.
            errors[head.layer, head.head] = head.error if rows else math.nan
    finally:
        handle.remove()
    return errors


def _nearest(
    movable: list[GuidedHead], places: list[tuple[int, int]], errors: Mapping[Pattern, Tensor]
) -> list[GuidedHead]:
    """The same patterns as often, on the places where their total error is least; as they were if that is no gain."""
    if not movable:
        return []
    at = tuple(zip(*places, strict=True))
    costs = np.stack([errors[head.pattern][at].numpy() for head in movable])
    # Infinite is what may not be taken. The heads as written are all finite, so there is always a way.
    _, columns = linear_sum_assignment(np.where(np.isnan(costs), math.inf, costs))
    nearest = [
        GuidedHead(layer, head, wanted.pattern)
        for wanted, (layer, head) in zip(movable, (places[column] for column in columns), strict=True)
    ]
    return nearest if _mean(nearest, errors) < _mean(movable, errors) else movable


def _mean(heads: Iterable[GuidedHead], errors: Mapping[Pattern, Tensor]) -> float:
    """Mean error of heads; exactly rounded, so that their order makes no difference."""
    values = [_error(head, errors) for head in heads]
    return math.fsum(values) / len(values)


def _error(head: GuidedHead, errors: Mapping[Pattern, Tensor]) -> float:
    return float(errors[head.pattern][head.layer, head.head])
