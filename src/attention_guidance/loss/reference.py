"""Reference backend: dense attention maps, for any device and precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from attention_guidance.loss.call import AttentionCall, Call, MapCall
from attention_guidance.loss.statistics import RowStatistics


def attend(call: AttentionCall) -> tuple[Tensor, RowStatistics]:
    """Output [B, H, Q, D] and row statistics, with gradients by autograd."""
    map_BHQK = probabilities(call)
    dropped_BHQK = functional.dropout(map_BHQK, call.dropout).to(call.value_BHKD.dtype)
    return dropped_BHQK @ call.value_BHKD, _statistics(call, map_BHQK)


def statistics(call: Call) -> RowStatistics:
    """The row statistics alone."""
    return _statistics(call, probabilities(call))


def _scores(call: Call) -> Tensor:
    """Scores in float32 or better; minus infinity where the mask hides a key, 0 in rows without any visible key.

    Those of a map are its logarithms, of which it is the softmax. A probability that underflowed to 0 has no gradient.
    """
    if isinstance(call, MapCall):
        map_BHQK = probabilities(call)
        return map_BHQK.clamp(min=torch.finfo(map_BHQK.dtype).tiny).log()
    query_BHQD, key_BHKD = call.query_BHQD, call.key_BHKD
    if query_BHQD.dtype == torch.float16:
        # Products of float16 numbers may overflow.
        query_BHQD, key_BHKD = query_BHQD.float(), key_BHKD.float()
    scores_BHQK = query_BHQD @ key_BHKD.transpose(-1, -2)
    scores_BHQK = call.scale * scores_BHQK.to(torch.promote_types(scores_BHQK.dtype, torch.float32))
    if call.bias is not None:
        scores_BHQK = scores_BHQK + call.bias
    if call.mask is None:
        return scores_BHQK
    sees_B1Q1 = call.mask.any(-1, keepdim=True)
    # The softmax of an empty row would be NaN, and so would its gradient.
    return scores_BHQK.masked_fill(~call.mask & sees_B1Q1, -math.inf).masked_fill(~sees_B1Q1, 0.0)


def probabilities(call: Call) -> Tensor:
    """The attention map of every head, [B, H, Q, K] in float32 or better; zeros in rows without any visible key."""
    if isinstance(call, MapCall):
        return call.map_BHQK.to(torch.promote_types(call.map_BHQK.dtype, torch.float32))
    map_BHQK = _scores(call).softmax(-1)
    return map_BHQK if call.mask is None else map_BHQK.masked_fill(~call.mask.any(-1, keepdim=True), 0.0)


def _statistics(call: Call, map_BHQK: Tensor) -> RowStatistics:
    masses, counts = [], []
    for targets, heads in call.slices():
        n_batch, n_heads, n_queries, n_keys = map_BHQK[:, heads].shape
        targets_B1QK = targets.dense()[:, None]
        if call.mask is not None:
            targets_B1QK = targets_B1QK & call.mask
        n_targets_B1Q = targets_B1QK.expand(-1, -1, n_queries, n_keys).sum(-1)
        if call.log_mass:
            # Compute it from the scores, so that a mass that underflows still has a logarithm and a gradient.
            counted_B1Q1 = (n_targets_B1Q > 0)[..., None]
            scores_BHQK = _scores(call)[:, heads]
            hit_BHQK = scores_BHQK.masked_fill(~targets_B1QK & counted_B1Q1, -math.inf)
            log_BHQ = hit_BHQK.logsumexp(-1) - scores_BHQK.logsumexp(-1)
            masses.append(torch.where(counted_B1Q1[..., 0], log_BHQ, 0.0))
        else:
            masses.append(map_BHQK[:, heads].masked_fill(~targets_B1QK, 0.0).sum(-1))
        counts.append(n_targets_B1Q.expand(n_batch, n_heads, n_queries).to(map_BHQK.dtype))
    return RowStatistics(map_BHQK.square().sum(-1), torch.cat(masses, 1), torch.cat(counts, 1))
