"""Row statistics from logsumexps, for kernels that give a logsumexp beside their output.

With ``L = logsumexp(s)``, ``L2 = logsumexp(2 s)`` and ``LS = logsumexp`` over the targets, the sum of squares of a row
is ``exp(L2 - 2 L)`` and its mass on the targets ``exp(LS - L)``. LS needs the scores of few keys.

Shape suffixes: B batch, H guided heads, Q queries, K keys, D channels of a head, C keys listed for a query.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attention_guidance.loss.statistics import GuidedAttention, RowStatistics
from attention_guidance.patterns import Targets


def all_seeing(mask: Tensor) -> tuple[Tensor, Tensor]:
    """A mask in which a query that sees nothing sees everything, and the queries that see something: bool [B, 1, Q]."""
    sees_B1Q1 = mask.any(-1, keepdim=True)
    return mask | ~sees_B1Q1, sees_B1Q1[..., 0]


def from_logsumexps(call: GuidedAttention, all_BHQ: Tensor, doubled_BHQ: Tensor) -> RowStatistics:
    """Row statistics, with gradients through the logsumexps and the scores of the targets.

    Args:
        call: queries, keys and targets.
        all_BHQ: L, under the mask that `all_seeing` makes.
        doubled_BHQ: L2, under the same.
    """
    listed = [_target_scores(call, targets, heads) for targets, heads in call.slices()]
    counts_BHQ = torch.cat([shown.sum(-1).to(all_BHQ.dtype) for _, shown in listed], 1)
    # Where there is no target, the logsumexp of nothing would have NaN for a gradient.
    hidden = [~shown & shown.any(-1, keepdim=True) for _, shown in listed]
    on_targets_BHQ = torch.cat(
        [scores.masked_fill(out, -math.inf).logsumexp(-1) for (scores, _), out in zip(listed, hidden, strict=True)], 1
    )
    counted_BHQ = counts_BHQ > 0
    log_BHQ = torch.where(counted_BHQ, on_targets_BHQ - all_BHQ, 0.0)
    squares_BHQ = torch.exp(doubled_BHQ - 2 * all_BHQ)
    if call.mask is not None:
        squares_BHQ = torch.where(all_seeing(call.mask)[1], squares_BHQ, 0.0)
    mass_BHQ = log_BHQ if call.log_mass else torch.where(counted_BHQ, log_BHQ.exp(), 0.0)
    return RowStatistics(squares_BHQ, mass_BHQ, counts_BHQ)


def _target_scores(call: GuidedAttention, targets: Targets, heads: slice) -> tuple[Tensor, Tensor]:
    """Scores of the keys listed for each query, in float32 or better, and which of these are targets: [B, H, Q, C]."""
    precise = torch.promote_types(call.query_BHQD.dtype, torch.float32)
    query_BHQD, key_BHKD = call.query_BHQD[:, heads].to(precise), call.key_BHKD[:, heads].to(precise)
    n_batch, n_heads, n_queries, n_channels = query_BHQD.shape
    scores, shown, keys = [], [], []
    if targets.picks_BQP is not None:
        picks_BQP = targets.picks_BQP.expand(n_batch, -1, -1)
        for pick_BQ in picks_BQP.unbind(-1):
            index_BHQD = pick_BQ.clamp(min=0)[:, None, :, None].expand(-1, n_heads, -1, n_channels)
            scores.append((query_BHQD * key_BHKD.gather(2, index_BHQD)).sum(-1, keepdim=True))
        shown.append(picks_BQP >= 0)
        keys.append(picks_BQP.clamp(min=0))
    columns_BC = targets.class_columns()
    if columns_BC is not None:
        columns_BC = columns_BC.expand(n_batch, -1)
        index_BHCD = columns_BC[:, None, :, None].expand(-1, n_heads, -1, n_channels)
        scores.append(query_BHQD @ key_BHKD.gather(2, index_BHCD).transpose(-1, -2))
        keys.append(columns_BC[:, None].expand(-1, n_queries, -1))
        shown.append(targets.shares_class(keys[-1]))
    shown_BQC = torch.cat(shown, -1)
    if call.mask is not None:
        mask_BQK = call.mask[:, 0].expand(n_batch, n_queries, key_BHKD.shape[2])
        shown_BQC = shown_BQC & mask_BQK.gather(-1, torch.cat(keys, -1))
    return call.scale * torch.cat(scores, -1), shown_BQC[:, None].expand(-1, n_heads, -1, -1)
