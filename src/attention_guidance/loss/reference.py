"""Reference backend: dense attention maps, for any device and precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from attention_guidance.loss.call import HIDDEN, AttentionCall, Call, MapCall
from attention_guidance.loss.statistics import RowStatistics
from attention_guidance.patterns.targets import among_visible, effective_number


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
    shown_BHQK = _shown(call)
    if shown_BHQK is None:
        return scores_BHQK
    sees_BHQ1 = shown_BHQK.any(-1, keepdim=True)
    # The softmax of an empty row would be NaN, and so would its gradient.
    return scores_BHQK.masked_fill(~shown_BHQK & sees_BHQ1, -math.inf).masked_fill(~sees_BHQ1, 0.0)


def _shown(call: Call) -> Tensor | None:
    """Which keys each head sees, bool [B, 1 or H, Q, K], or None for all: a mask for each head has become a bias."""
    if isinstance(call, MapCall) or call.bias is None or call.bias.shape[1] == 1:
        return call.mask
    shown_BHQK = call.bias > HIDDEN
    return shown_BHQK if call.mask is None else shown_BHQK & call.mask


def probabilities(call: Call) -> Tensor:
    """The attention map of every head, [B, H, Q, K] in float32 or better; zeros in rows without any visible key."""
    if isinstance(call, MapCall):
        return call.map_BHQK.to(torch.promote_types(call.map_BHQK.dtype, torch.float32))
    map_BHQK, shown_BHQK = _scores(call).softmax(-1), _shown(call)
    return map_BHQK if shown_BHQK is None else map_BHQK.masked_fill(~shown_BHQK.any(-1, keepdim=True), 0.0)


def _statistics(call: Call, map_BHQK: Tensor) -> RowStatistics:
    masses, counts = [], []
    shown_BHQK = _shown(call)
    for targets, heads in call.slices():
        n_batch, n_heads, n_queries, n_keys = map_BHQK[:, heads].shape
        shown = shown_BHQK if shown_BHQK is None or shown_BHQK.shape[1] == 1 else shown_BHQK[:, heads]
        if targets.soft_BQK is not None:
            mass_BHQ, n_targets_BHQ = _of_soft(call, map_BHQK[:, heads], heads, targets.soft_BQK[:, None], shown)
        else:
            dense_BHQK = targets.dense(n_keys)[:, None]
            dense_BHQK = dense_BHQK if shown is None else dense_BHQK & shown
            n_targets_BHQ = dense_BHQK.expand(-1, -1, n_queries, n_keys).sum(-1)
            if call.log_mass:
                mass_BHQ = _log_mass(_scores(call)[:, heads], dense_BHQK, n_targets_BHQ)
            else:
                mass_BHQ = map_BHQK[:, heads].masked_fill(~dense_BHQK, 0.0).sum(-1)
        masses.append(mass_BHQ)
        counts.append(n_targets_BHQ.expand(n_batch, n_heads, n_queries).to(map_BHQK.dtype))
    return RowStatistics(map_BHQK.square().sum(-1), torch.cat(masses, 1), torch.cat(counts, 1))


def _log_mass(scores_BHQK: Tensor, targets_BHQK: Tensor, n_targets_BHQ: Tensor) -> Tensor:
    """The logarithm of the mass, from the scores: a mass that underflows still has a logarithm and a gradient."""
    counted_BHQ1 = (n_targets_BHQ > 0)[..., None]
    hit_BHQK = scores_BHQK.masked_fill(~targets_BHQK & counted_BHQ1, -math.inf)
    log_BHQ = hit_BHQK.logsumexp(-1) - scores_BHQK.logsumexp(-1)
    return torch.where(counted_BHQ1[..., 0], log_BHQ, 0.0)


def _of_soft(
    call: Call, map_BHQK: Tensor, heads: slice, soft_BHQK: Tensor, shown_BHQK: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mass (or its logarithm) and number of targets of soft targets, [B, H or 1, Q] each; see `RowStatistics`."""
    soft_BHQK = among_visible(soft_BHQK, shown_BHQK, map_BHQK.dtype)
    n_targets_BHQ = effective_number(soft_BHQK)
    if not call.log_mass:
        return n_targets_BHQ * (soft_BHQK * map_BHQK).sum(-1), n_targets_BHQ
    scores_BHQK = _scores(call)[:, heads]
    log_BHQK = (scores_BHQK - scores_BHQK.logsumexp(-1, keepdim=True)).masked_fill(soft_BHQK == 0, 0.0)
    return (soft_BHQK * log_BHQK).sum(-1), n_targets_BHQ
