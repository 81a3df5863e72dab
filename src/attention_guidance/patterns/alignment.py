"""The diagonal: a pattern for the cross-attention of an encoder-decoder whose texts run alongside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_guidance.patterns.base import Pattern, Sequences
from attention_guidance.patterns.targets import Targets, sums_dtype


@dataclass(frozen=True)
class Diagonal(Pattern):
    """Queries attend to keys at the same relative position: monotonic alignment in cross-attention.

    The n-th of N queries is at ``u = (n + 1/2) / N``, and keys likewise; padding is not counted. Hard, the target is
    the key in whose share of the sequence u lies. Soft, ``P_ij`` is proportional to
    ``exp(-(u_i - u_j)^2 / 2 width^2)``: the shape of the guided attention of Tachibana et al. (arXiv:1710.08969).

    Attributes:
        name: name of the pattern.
        width: standard deviation of the soft target, as a share of the sequence; 0 for the hard one.
    """

    name: str = "diagonal"
    width: float = 0.0
    crosses = True

    def targets(self, sequences: Sequences) -> Targets:
        """One key for each query, or a row of probabilities."""
        valid_BK = sequences.valid_keys
        if self.width:
            distance_BQK = _relative_positions(sequences.valid_BT)[..., None] - _relative_positions(valid_BK)[:, None]
            scores_BQK = (-distance_BQK.square() / (2 * self.width**2)).masked_fill(~valid_BK[:, None], -math.inf)
            return Targets(soft_BQK=scores_BQK.softmax(-1).nan_to_num(0.0))
        n_keys_B1 = valid_BK.sum(-1, keepdim=True)
        # u times the number of keys, rounded down.
        halves_BQ = (2 * sequences.valid_BT.cumsum(-1) - 1).clamp(min=0)
        n_queries_B1 = sequences.valid_BT.sum(-1, keepdim=True).clamp(min=1)
        rank_BQ = (halves_BQ * n_keys_B1).div(2 * n_queries_B1, rounding_mode="floor")
        rank_BQ = rank_BQ.minimum((n_keys_B1 - 1).clamp(min=0))
        # The position of the key of each rank: valid keys come first, in order.
        position_BK = valid_BK.byte().argsort(dim=-1, descending=True, stable=True)
        return Targets(torch.where(n_keys_B1 > 0, position_BK.gather(-1, rank_BQ), -1)[..., None])


def _relative_positions(valid_BT: Tensor) -> Tensor:
    """Where each token is, as a share of the tokens of its sequence."""
    number_BT = valid_BT.cumsum(-1).to(sums_dtype(valid_BT.device)) - 0.5
    return number_BT / valid_BT.sum(-1, keepdim=True).clamp(min=1)
