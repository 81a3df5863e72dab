"""From the row statistics of a forward pass's layers to their losses, for all layers that are alike at once.

Every operation on rows is small, and a GPU starts a kernel for each: for one layer after another they take longer than
what guidance adds to the attention itself.

Shape suffixes: L layers, B batch, H guided heads, Q queries, T positions (Q = T in an encoder).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_guidance.loss.aggregate import count_pairs, elementwise_mean, mean, query_sums
from attention_guidance.loss.statistics import RowStatistics, row_losses


@dataclass(frozen=True)
class LayerRows:
    """The rows of one guided layer.

    Attributes:
        statistics: of its guided heads.
        valid_BT: bool, the positions that are tokens.
        mask: of the attention call, or None.
        groups: where the heads of each pattern are.
    """

    statistics: RowStatistics
    valid_BT: Tensor
    mask: Tensor | None
    groups: tuple[slice, ...]


@dataclass(frozen=True)
class LayerLoss:
    """What one guided layer adds: its term of the loss, and each guided head's distance (`GuidedLayer.heads`).

    Attributes:
        loss: a scalar.
        sums: each guided head's sum over the rows that count.
        counts: the numbers of these rows.
    """

    loss: Tensor
    sums: Tensor
    counts: Tensor


def layer_losses(rows: Mapping[int, LayerRows], objective: str, normalization: str) -> dict[int, LayerLoss]:
    """The losses of layers, in the order of `rows`.

    Args:
        rows: by the number of a layer.
        objective: `squared_error` or `log_mass`.
        normalization: `query` or `elementwise`.
    """
    groups: list[list[int]] = []
    for layer, of_layer in rows.items():
        for group in groups:
            if _are_alike(rows[group[0]], of_layer):
                group.append(layer)
                break
        else:
            groups.append([layer])
    losses: dict[int, LayerLoss] = {}
    for group in groups:
        of_group = _losses([rows[layer] for layer in group], objective, normalization)
        losses |= dict(zip(group, of_group, strict=True))
    return {layer: losses[layer] for layer in rows}


def _are_alike(first: LayerRows, second: LayerRows) -> bool:
    """Whether rows can be stacked; positions that are tokens are made once for all layers of a kind."""
    ours, theirs = first.statistics.squares_BHQ, second.statistics.squares_BHQ
    return (
        first.valid_BT is second.valid_BT
        and ours.shape == theirs.shape
        and ours.dtype == theirs.dtype
        and ours.device == theirs.device
    )


def _losses(rows: list[LayerRows], objective: str, normalization: str) -> list[LayerLoss]:
    statistics = [of_layer.statistics for of_layer in rows]
    stacked = RowStatistics(
        torch.stack([of_layer.squares_BHQ for of_layer in statistics]),
        torch.stack([of_layer.mass_BHQ for of_layer in statistics]),
        torch.stack([of_layer.n_targets_BHQ for of_layer in statistics]),
    )
    rows_LBHQ = row_losses(stacked, objective)
    counted_LBHQ = (stacked.n_targets_BHQ > 0) & rows[0].valid_BT[:, None]
    sums_LH, counts_LH = query_sums(rows_LBHQ, counted_LBHQ)
    if normalization == "query":
        terms = mean(sums_LH, counts_LH).sum(-1).unbind()
    else:
        terms = tuple(
            _elementwise(rows_BHQ, of_layer) for rows_BHQ, of_layer in zip(rows_LBHQ.unbind(), rows, strict=True)
        )
    return [LayerLoss(*of_layer) for of_layer in zip(terms, sums_LH.detach().unbind(), counts_LH.unbind(), strict=True)]


def _elementwise(rows_BHQ: Tensor, of_layer: LayerRows) -> Tensor:
    n_pairs = count_pairs(of_layer.valid_BT, of_layer.mask)
    means = [elementwise_mean(rows_BHQ[:, heads], of_layer.valid_BT, n_pairs) for heads in of_layer.groups]
    return torch.stack(means).sum()
