"""Guided attention on FlexAttention, whose logsumexp has a gradient of its own.

One pass gives output and logsumexp, a second the logsumexp of twice the scores.

Shape suffixes: B batch, H guided heads, Q queries, K keys, D channels of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from attention_guidance.loss.logsumexp import all_seeing, from_logsumexps
from attention_guidance.loss.statistics import GuidedAttention, RowStatistics


def attend(call: GuidedAttention) -> tuple[Tensor, RowStatistics]:
    """Output [B, H, Q, D] and row statistics, with gradients."""
    # The gradients of the passes nearly cancel where a head follows its pattern: half precision would leave noise.
    dtype, call = call.value_BHKD.dtype, call.in_full_precision()
    query, key, value = call.query_BHQD, call.key_BHKD, call.value_BHKD
    hide, sees_B1Q = _masked(call)
    kernel = _compiled() if query.is_cuda else flex_attention
    lse = AuxRequest(lse=True)
    out_BHQD, first = kernel(query, key, value, score_mod=hide, scale=call.scale, return_aux=lse)
    # The second pass is wanted for its logsumexp alone.
    nothing = torch.zeros_like(value)
    _, second = kernel(query, key, nothing, score_mod=hide, scale=2 * call.scale, return_aux=lse)
    if sees_B1Q is not None:
        out_BHQD = torch.where(sees_B1Q[..., None], out_BHQD, 0.0)
    return out_BHQD.to(dtype), from_logsumexps(call, first.lse, second.lse)


def statistics(call: GuidedAttention) -> RowStatistics:
    """The row statistics alone."""
    return attend(call)[1]


def _masked(call: GuidedAttention) -> tuple[Callable[..., Tensor] | None, Tensor | None]:
    """A function that hides scores, as FlexAttention wants it, and the queries that see something."""
    if call.mask is None:
        return None, None
    mask, sees_B1Q = all_seeing(call.mask)
    n_batch, _, n_queries, _ = call.query_BHQD.shape
    mask_BQK = mask[:, 0].expand(n_batch, n_queries, -1).contiguous()

    def hide(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.where(mask_BQK[b, q, k], score, -float("inf"))

    return hide, sees_B1Q


@functools.cache
def _compiled() -> Any:
    """FlexAttention is fast when compiled only."""
    return torch.compile(flex_attention, dynamic=False)
