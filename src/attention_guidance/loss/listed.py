"""The targets of a block of queries, as lists of keys or as a dense map."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attention_guidance.patterns import Targets
from attention_guidance.patterns.targets import among_visible, effective_number


@dataclass
class Listed:
    """The targets of a pattern in a block: a list of keys per query, or a dense map if the list would be long.

    Of several heads, all tensors have a dimension of heads before the others; see `joined`.

    Attributes:
        count_bq: number of targets that the mask does not hide; for soft targets P, 1 / sum of P^2.
        keys_bqC: key positions, arbitrary where `shown_bqC` is 0.
        shown_bqC: 1 for a target, 0 for an unused entry of the list.
        map_bqK: 1 for a target; only if there is no list. For soft targets P, count_bq P.
        soft: whether the targets are soft.
    """

    count_bq: Tensor
    keys_bqC: Tensor | None = None
    shown_bqC: Tensor | None = None
    map_bqK: Tensor | None = None
    soft: bool = False

    def of(self, sequences: slice) -> Listed:
        """The targets in a range of the sequences."""
        index = (*(slice(None),) * (self.count_bq.dim() - 2), sequences)
        return self.each(lambda field: field[index])

    def each(self, change: Callable[[Tensor], Tensor]) -> Listed:
        """The same targets with changed tensors."""
        keys, shown, dense = (
            None if field is None else change(field) for field in (self.keys_bqC, self.shown_bqC, self.map_bqK)
        )
        return Listed(change(self.count_bq), keys, shown, dense, self.soft)

    def at(self, values_bqK: Tensor) -> tuple[Tensor, Tensor]:
        """The values at the listed keys (or at all keys), and which of them are targets."""
        if self.map_bqK is not None:
            return values_bqK, self.map_bqK
        assert self.keys_bqC is not None
        assert self.shown_bqC is not None
        return values_bqK.gather(-1, self.keys_bqC.expand(*values_bqK.shape[:-1], -1)), self.shown_bqC

    def sum(self, values_bqK: Tensor) -> Tensor:
        """The sum of the values over each query's targets."""
        values, shown = self.at(values_bqK)
        return (values * shown).sum(-1)

    def holds(self, keys_bq: Tensor) -> Tensor:
        """Whether the given key of each query is one of its targets: bool [b, q]."""
        if self.map_bqK is not None:
            return self.map_bqK.gather(-1, keys_bq[..., None])[..., 0] > 0
        assert self.keys_bqC is not None
        assert self.shown_bqC is not None
        return ((self.keys_bqC == keys_bq[..., None]) & (self.shown_bqC > 0)).any(-1)

    def log_sum(self, scores_bqK: Tensor) -> Tensor:
        """The logsumexp of the scores over each query's targets; minus infinity if there are none.

        Of soft targets, it is the mean of the scores, weighted by P.
        """
        values, shown = self.at(scores_bqK)
        if self.soft:
            return (values.masked_fill(shown == 0, 0.0) * shown).sum(-1) / self.count_bq
        return values.masked_fill(shown == 0, -math.inf).logsumexp(-1)

    def softmax(self, scores_bqK: Tensor) -> Tensor:
        """The gradient of `log_sum`, in the layout of `add_`: a softmax over the targets; 0 if there are none."""
        values, shown = self.at(scores_bqK)
        if self.soft:
            # `add_` multiplies by count_bq P.
            return 1 / self.count_bq.clamp(min=1)[..., None]
        return values.masked_fill(shown == 0, -math.inf).softmax(-1).nan_to_num_(0.0)

    def add_(self, values_bqK: Tensor, addend: Tensor) -> None:
        """Add to the values at the targets, in place: one number per query ([b, q, 1]), or one per target."""
        if self.map_bqK is not None:
            values_bqK.addcmul_(self.map_bqK, addend)
        else:
            assert self.keys_bqC is not None
            assert self.shown_bqC is not None
            keys_bqC = self.keys_bqC.expand(*values_bqK.shape[:-1], -1)
            values_bqK.scatter_add_(-1, keys_bqC, (self.shown_bqC * addend).to(values_bqK.dtype))


def listed_targets(
    group: Targets, columns_bC: Tensor | None, size: tuple[int, int, int], shown_bqK: Tensor | None, dtype: torch.dtype
) -> Listed:
    """The targets of a pattern in a block.

    Args:
        group: the targets of its rows.
        columns_bC: the keys in any class, see `Targets.class_columns`.
        size: of the block, (b, q, K).
        shown_bqK: bool, keys that a query may attend to, or None for all.
        dtype: of the numbers that mark targets.
    """
    if group.soft_BQK is not None:
        soft_bqK = among_visible(group.soft_BQK.expand(size), shown_bqK, dtype)
        count_bq = effective_number(soft_bqK)
        return Listed(count_bq, map_bqK=soft_bqK * count_bq[..., None], soft=True)
    n_listed = sum(part.shape[-1] for part in (group.picks_BQP, columns_bC) if part is not None)
    if group.map_BQK is not None or n_listed > max(8, size[2] // 8):
        map_bqK = group.dense(size[2]).expand(size)
        map_bqK = map_bqK if shown_bqK is None else map_bqK & shown_bqK
        return Listed(map_bqK.sum(-1), map_bqK=map_bqK.to(dtype))
    keys, shown = [], []
    if group.picks_BQP is not None:
        picks_bqC = group.picks_BQP.expand(*size[:2], -1)
        keys.append(picks_bqC.clamp(min=0))
        shown.append(picks_bqC >= 0)
    if columns_bC is not None:
        keys.append(columns_bC[:, None].expand(*size[:2], -1))
        shown.append(group.shares_class(keys[-1]))
    keys_bqC, shown_bqC = torch.cat(keys, -1), torch.cat(shown, -1)
    if shown_bqK is not None:
        shown_bqC &= shown_bqK.gather(-1, keys_bqC)
    return Listed(shown_bqC.sum(-1), keys_bqC, shown_bqC.to(dtype))


def joined(of_patterns: Sequence[tuple[Listed, int]]) -> tuple[tuple[slice, Listed], ...]:
    """The targets of the heads of several patterns, [h, b, q, C], in as few ranges of heads as possible.

    Args:
        of_patterns: the targets of each pattern, and the number of its heads.

    Returns:
        Ranges of heads and their targets. Lists are joined, since an operator costs as much for one head as for
        several; maps are not, but have one entry for all heads of their pattern.
    """
    ranges: list[tuple[slice, Listed]] = []
    first = 0
    for is_map, group in itertools.groupby(of_patterns, lambda of_pattern: of_pattern[0].map_bqK is not None):
        of_group = [*group]
        for some in [[one] for one in of_group] if is_map else [of_group]:
            last = first + sum(number for _, number in some)
            ranges.append((slice(first, last), _one(some)))
            first = last
    return tuple(ranges)


def _one(of_patterns: Sequence[tuple[Listed, int]]) -> Listed:
    """The targets of one pattern's map, or of several patterns' lists."""
    if len(of_patterns) == 1:
        return of_patterns[0][0].each(lambda field: field[None])
    longest = max(listed.keys_bqC.shape[-1] for listed, _ in of_patterns if listed.keys_bqC is not None)

    def stacked(name: str) -> Tensor:
        parts = []
        for listed, number in of_patterns:
            field = getattr(listed, name)
            padded = field if name == "count_bq" else functional.pad(field, (0, longest - field.shape[-1]))
            parts.append(padded.expand(number, *padded.shape))
        return torch.cat(parts)

    return Listed(stacked("count_bq"), stacked("keys_bqC"), stacked("shown_bqC"))
