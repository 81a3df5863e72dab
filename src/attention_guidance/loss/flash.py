"""Guided attention from the kernels that torch has: a pass for output and logsumexp, one for that of twice the scores.

The stock backward kernels take no gradient with respect to the logsumexp, but they compute ``delta = sum_d dO * O`` for
each row, and that gradient belongs into the same place: a channel of zeros more in q, k and v, of ones in dO and of
``-dL`` in O carries it through an unmodified kernel.

Shape suffixes: B batch, H guided heads, Q queries, K keys, D channels of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from attention_guidance.loss.logsumexp import all_seeing, from_logsumexps
from attention_guidance.loss.statistics import GuidedAttention, RowStatistics

# Kernels want the number of channels in multiples of eight.
_EXTRA = 8


def attend(call: GuidedAttention) -> tuple[Tensor, RowStatistics]:
    """Output [B, H, Q, D] and row statistics, with gradients."""
    # The gradients of the passes nearly cancel where a head follows its pattern: half precision would leave noise.
    dtype, call = call.value_BHKD.dtype, call.in_full_precision()
    query, key, value = call.query_BHQD, call.key_BHKD, call.value_BHKD
    shown, sees_B1Q = (None, None) if call.mask is None else all_seeing(call.mask)
    bias = None if shown is None else _additive(shown, query)
    out_BHQD, all_BHQ = _Kernel.apply(query, key, value, bias, call.scale)  # type: ignore[no-untyped-call]
    # The second pass is wanted for its logsumexp alone. Of a mask, the double is the same.
    nothing = torch.zeros_like(value)
    _, doubled_BHQ = _Kernel.apply(query, key, nothing, bias, 2 * call.scale)  # type: ignore[no-untyped-call]
    if sees_B1Q is not None:
        out_BHQD = torch.where(sees_B1Q[..., None], out_BHQD, 0.0)
    return out_BHQD.to(dtype), from_logsumexps(call, all_BHQ, doubled_BHQ)


def statistics(call: GuidedAttention) -> RowStatistics:
    """The row statistics alone."""
    return attend(call)[1]


class _Kernel(torch.autograd.Function):
    """Attention that returns its logsumexp, differentiable in both."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, logsumexp, state = _forward(query, key, value, bias, scale)
        ctx.save_for_backward(query, key, value, bias, out, logsumexp, *state)
        ctx.scale = scale
        return out, logsumexp[..., : query.shape[2]].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, out, logsumexp, *state = ctx.saved_tensors
        grad_out, grad_logsumexp = gradients
        pad = (0, _EXTRA)
        grad_out_padded = functional.pad(grad_out, pad)
        grad_out_padded[..., -_EXTRA] = 1
        out_padded = functional.pad(out, pad)
        out_padded[..., -_EXTRA] = -grad_logsumexp.to(out.dtype)
        query, key, value = (functional.pad(tensor, pad) for tensor in (query, key, value))
        grads = _backward(grad_out_padded, query, key, value, bias, out_padded, logsumexp, state, ctx.scale)
        return (*(grad[..., :-_EXTRA] for grad in grads), None, None)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Output, logsumexp and what else the backward kernel wants."""
    if query.device.type == "cpu":
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, logsumexp = op(query, key, value, 0.0, False, attn_mask=bias, scale=scale)
        return out, logsumexp, ()
    op = torch.ops.aten._scaled_dot_product_efficient_attention
    out, logsumexp, *state = op(query, key, value, bias, True, 0.0, False, scale=scale)
    return out, logsumexp, tuple(state)


def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    state: list[Tensor],
    scale: float,
) -> list[Tensor]:
    if query.device.type == "cpu":
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grads = op(grad_out, query, key, value, out, logsumexp, 0.0, False, attn_mask=bias, scale=scale)
        return list(grads)
    op = torch.ops.aten._scaled_dot_product_efficient_attention_backward
    wanted = [True, True, True, False]
    grads = op(grad_out, query, key, value, bias, out, logsumexp, *state, 0.0, wanted, False, scale=scale)
    return list(grads[:3])


def _additive(mask: Tensor, query_BHQD: Tensor) -> Tensor:
    """A mask as a number to add to the scores, [B, H, Q, K], its rows aligned as the kernels want them."""
    n_batch, n_heads, n_queries, _ = query_BHQD.shape
    n_keys = mask.shape[-1]
    padded = query_BHQD.new_zeros(mask.shape[0], 1, n_queries, -(-n_keys // 16) * 16)
    bias = padded[..., :n_keys].masked_fill_(~mask, -math.inf)
    return bias.expand(n_batch, n_heads, n_queries, n_keys)
