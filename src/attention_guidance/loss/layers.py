"""Compute layer losses from row statistics, batched over layers of equal shape.

Operations on rows are small, and a GPU launches a kernel for each. Done layer by layer, they would take longer than
what guidance adds to the attention itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from attention_guidance.loss.aggregate import count_pairs, elementwise_mean, mean, query_sums
from attention_guidance.loss.statistics import RowStatistics, row_losses


@dataclass(frozen=True)
class LayerRows:
    """The rows of one attention call of a guided layer.

    Attributes:
        statistics: row statistics of the guided heads.
        valid_BT: bool, True for tokens.
        mask: the attention mask, or None.
        groups: the slice of heads of each pattern.
    """

    statistics: RowStatistics
    valid_BT: Tensor
    mask: Tensor | None
    groups: tuple[slice, ...]


@dataclass(frozen=True)
class LayerLoss:
    """The loss of one guided layer, and the distance of each guided head (in the order of `LayerProcessor.heads`).

    Attributes:
        loss: the layer's term in the guidance loss, a scalar.
        sums: for each guided head, the sum over the rows that count.
        counts: for each guided head, the number of these rows.
    """

    loss: Tensor
    sums: Tensor
    counts: Tensor


def no_loss(n_heads: int, device: torch.device) -> LayerLoss:
    """The zero loss of a layer with `n_heads` guided heads in a pass that skips it."""
    sums = torch.zeros(n_heads, device=device)
    return LayerLoss(torch.zeros((), device=device), sums, sums.long())


def layer_losses(rows: Mapping[int, Sequence[LayerRows]], objective: str, normalization: str) -> dict[int, LayerLoss]:
    """The losses of all layers, in the order of `rows`.

    If a layer is called several times (per image, per window), the mean is over the rows of all its calls.

    Args:
        rows: for each layer index, the rows of each of its calls.
        objective: `squared_error` or `log_mass`.
        normalization: `query` or `elementwise`.
    """
    groups: list[list[int]] = []
    for layer, calls in rows.items():
        for group in groups:
            if _are_alike(rows[group[0]], calls):
                group.append(layer)
                break
        else:
            groups.append([layer])
    losses: dict[int, LayerLoss] = {}
    for group in groups:
        of_group = _losses([rows[layer] for layer in group], objective, normalization)
        losses |= dict(zip(group, of_group, strict=True))
    return {layer: losses[layer] for layer in rows}


def _are_alike(first: Sequence[LayerRows], second: Sequence[LayerRows]) -> bool:
    """Whether the rows of two layers can be stacked, call by call."""
    return len(first) == len(second) and all(map(_are_alike_calls, first, second))


def _are_alike_calls(first: LayerRows, second: LayerRows) -> bool:
    """Whether the rows of two calls can be stacked; layers of the same shape share one `valid_BT` object."""
    ours, theirs = first.statistics.squares_BHQ, second.statistics.squares_BHQ
    return (
        first.valid_BT is second.valid_BT
        and ours.shape == theirs.shape
        and ours.dtype == theirs.dtype
        and ours.device == theirs.device
    )


def _losses(layers: list[Sequence[LayerRows]], objective: str, normalization: str) -> list[LayerLoss]:
    """The losses of layers whose rows can be stacked."""
    by_call = [_row_losses(of_call, objective) for of_call in zip(*layers, strict=True)]
    sums, counts = zip(*(query_sums(rows_LBHQ, counted_LBHQ) for rows_LBHQ, counted_LBHQ in by_call), strict=True)
    sums_LH, counts_LH = _total(sums), _total(counts)
    if normalization == "query":
        terms = mean(sums_LH, counts_LH).sum(-1).unbind()
    else:
        terms = tuple(
            _elementwise([rows_LBHQ[number] for rows_LBHQ, _ in by_call], calls) for number, calls in enumerate(layers)
        )
    return [LayerLoss(*of_layer) for of_layer in zip(terms, sums_LH.detach().unbind(), counts_LH.unbind(), strict=True)]


def _row_losses(layers: Sequence[LayerRows], objective: str) -> tuple[Tensor, Tensor]:
    """The row losses of one call of each layer, and which rows count: [L, B, H, Q] each."""
    statistics = [of_layer.statistics for of_layer in layers]
    stacked = RowStatistics(
        torch.stack([of_layer.squares_BHQ for of_layer in statistics]),
        torch.stack([of_layer.mass_BHQ for of_layer in statistics]),
        torch.stack([of_layer.n_targets_BHQ for of_layer in statistics]),
    )
    return row_losses(stacked, objective), (stacked.n_targets_BHQ > 0) & layers[0].valid_BT[:, None]


def _elementwise(rows: list[Tensor], calls: Sequence[LayerRows]) -> Tensor:
    """The `elementwise` loss of one layer, from the rows [B, H, Q] of each of its calls."""
    n_pairs = _total([count_pairs(call.valid_BT, call.mask) for call in calls])
    means = [
        elementwise_mean(rows_BHQ[:, heads], call.valid_BT, n_pairs)
        for rows_BHQ, call in zip(rows, calls, strict=True)
        for heads in call.groups
    ]
    return torch.stack(means).sum()


def _total(parts: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, parts)
