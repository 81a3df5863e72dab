"""Guided attention as one PyTorch custom operator, opaque to torch.compile.

An operator takes tensors, numbers and lists of these. What it returns beyond output and statistics is for its backward
pass. To call an operator takes several times as long as to launch its kernels: where nothing is compiled, `attention`
goes around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attention_guidance.loss.first_order import first_order, refuse
from attention_guidance.loss.triton.geometry import like_projection
from attention_guidance.loss.triton.tiles import Prepared


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    picks: Tensor,
    query_codes: Tensor,
    key_codes: Tensor,
    forward: Tensor,
    for_queries: Tensor,
    for_keys: Tensor,
    heads: Sequence[int],
    sizes: Sequence[int],
    scale: float,
    dropout: float,
    seed: Tensor | None,
    log_mass: bool,
    with_output: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output [B, H, Q, D]; squares and mass, or its logarithm, [B, H, Q] of guided heads; and what `_backward` needs.

    Args:
        query: [B, H, Q, D].
        key: [B, H or fewer, K, D].
        value: same shape as `key`.
        mask: bool [B or 1, 1, Q or 1, K], or None.
        picks: this and the next five are the fields of `Prepared`; passing them as a list would be slower.
        query_codes: see `Prepared`.
        key_codes: see `Prepared`.
        forward: see `Prepared`.
        for_queries: see `Prepared`.
        for_keys: see `Prepared`.
        heads: guided heads, grouped by pattern.
        sizes: number of heads of each pattern.
        scale: factor on the scores.
        dropout: dropout probability of the attention probabilities.
        seed: seed of the dropout, int64 [1].
        log_mass: whether to return the logarithm of the mass.
        with_output: whether to compute the output; otherwise, an empty tensor is returned.
    """
    # Import Triton only to run a kernel.
    from attention_guidance.loss.triton.launch import Launch

    prepared = Prepared(picks, query_codes, key_codes, forward, for_queries, for_keys)
    launch = Launch(query, key, value, mask, prepared, heads, sizes, scale, dropout, seed, log_mass)
    return launch.forward(with_output)


def _backward(
    grad_out: Tensor,
    grad_squares: Tensor,
    grad_mass: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    prepared: Sequence[Tensor],
    results: Sequence[Tensor],
    heads: Sequence[int],
    sizes: Sequence[int],
    scale: float,
    dropout: float,
    seed: Tensor | None,
    log_mass: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to query, key and value; `results` is the return value of `_forward`."""
    from attention_guidance.loss.triton.launch import Launch

    launch = Launch(query, key, value, mask, Prepared(*prepared), heads, sizes, scale, dropout, seed, log_mass)
    return launch.backward(results, grad_out, grad_squares, grad_mass)


fused = torch.library.custom_op("attention_guidance::fused", _forward, mutates_args=())
fused_backward = torch.library.custom_op("attention_guidance::fused_backward", _backward, mutates_args=())


@fused.register_fake
def _(  # type: ignore[no-untyped-def]
    query, key, value, mask, picks, query_codes, key_codes, forward, for_queries, for_keys, heads, sizes, scale,
    dropout, seed, log_mass, with_output,
):  # fmt: skip
    n_batch, n_heads, n_queries, _ = query.shape
    n_saved, n_logarithms = n_heads if with_output else 0, len(heads) if log_mass else 0
    counts = (len(heads), len(heads), n_saved, n_saved, n_logarithms, n_logarithms)
    out = like_projection(query) if with_output else query.new_empty(0)
    return out, *(query.new_empty(n_batch, n, n_queries, dtype=torch.float32) for n in counts)


@fused_backward.register_fake
def _(grad_out, grad_squares, grad_mass, query, key, value, *rest):  # type: ignore[no-untyped-def]
    return like_projection(query), like_projection(key), like_projection(value)


_N_PREPARED = len(Prepared._fields)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, value, mask, *rest = inputs
    prepared, (ctx.heads, ctx.sizes, ctx.scale, ctx.dropout, seed, ctx.log_mass, _) = (
        rest[:_N_PREPARED], rest[_N_PREPARED:],
    )  # fmt: skip
    ctx.save_for_backward(query, key, value, mask, seed, *prepared, *output)
    ctx.mark_non_differentiable(*output[3:])


def _given_to_backward(ctx: Any, gradients: tuple[Tensor, ...]) -> tuple[Any, ...]:
    query, key, value, mask, seed, *rest = ctx.saved_tensors
    prepared, results = rest[:_N_PREPARED], rest[_N_PREPARED:]
    return (
        *gradients[:3], query, key, value, mask, prepared, results, ctx.heads, ctx.sizes, ctx.scale, ctx.dropout, seed,
        ctx.log_mass,
    )  # fmt: skip


_NO_GRADIENTS = [None] * (8 + _N_PREPARED)


def _gradients(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    return *fused_backward(*_given_to_backward(ctx, gradients)), *_NO_GRADIENTS


fused.register_autograd(_gradients, setup_context=_setup)
fused_backward.register_autograd(refuse)


class _Direct(torch.autograd.Function):
    """The same as an autograd function, without the operator."""

    forward = staticmethod(_forward)
    setup_context = staticmethod(_setup)

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return *_backward(*_given_to_backward(ctx, gradients)), *_NO_GRADIENTS


def attention(*given: Any) -> tuple[Tensor, ...]:
    """The differentiable result of `_forward`."""
    results: tuple[Tensor, ...] = fused(*given) if torch.compiler.is_compiling() else _Direct.apply(*given)  # type: ignore[no-untyped-call]
    return results
