"""Backend `blocked`: exact attention in plain torch, in blocks of queries.

The scores of a block are computed once, for output and statistics; the backward pass recomputes them. The gradients of
both losses are elementwise in A, so guidance adds no matrix product to those of plain attention: ``2 g_r A`` and (at
the targets) ``g_m`` are added to the gradient with respect to A before it goes through the softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attention_guidance.loss.blocks import Buffers, are_many, blocks, scaled_queries
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.first_order import refuse
from attention_guidance.loss.statistics import RowStatistics
from attention_guidance.patterns import Targets

_FIELDS = ("picks_BQP", "key_classes_BK", "query_classes_BQ", "map_BQK", "soft_BQK")


def attend(call: AttentionCall) -> tuple[Tensor, RowStatistics]:
    """Output [B, H, Q, D] and row statistics, with gradients."""
    # Draw the seed outside the operator, from the default generator, so that recomputation draws the same seed.
    return _computed(call, torch.randint(2**62, (), device="cpu") if call.dropout else None)


def statistics(call: AttentionCall) -> RowStatistics:
    """The row statistics alone, without gradient."""
    call = call.without_gradient()
    # With values of 0 channels, no output is computed.
    return _computed(replace(call, value_BHKD=call.value_BHKD[..., :0]), None)[1]


def _computed(call: AttentionCall, seed: Tensor | None) -> tuple[Tensor, RowStatistics]:
    out_BHQD, *rows = _attend(
        call.query_BHQD, call.key_BHKD, call.value_BHKD, call.mask, *_flat(call), call.scale, call.dropout, seed,
        call.log_mass,
    )  # fmt: skip
    return out_BHQD, RowStatistics(*rows)


# The computation is a torch operator, which torch.compile does not trace into. An operator takes tensors, numbers and
# lists of these: targets are passed as a flat list of tensors, with a 0-dimensional tensor for a field that is None.


def _flat(call: AttentionCall) -> tuple[list[Tensor], list[int]]:
    fields = [getattr(targets, field) for targets, _ in call.groups for field in _FIELDS]
    nothing = call.query_BHQD.new_empty((), dtype=torch.long)
    return [nothing if field is None else field for field in fields], [n_heads for _, n_heads in call.groups]


def _groups(tensors: Sequence[Tensor], sizes: Sequence[int]) -> tuple[tuple[Targets, int], ...]:
    fields = [tensor if tensor.dim() else None for tensor in tensors]
    of_patterns = [fields[start : start + len(_FIELDS)] for start in range(0, len(fields), len(_FIELDS))]
    return tuple(
        (Targets(**dict(zip(_FIELDS, of_pattern, strict=True))), n_heads)  # type: ignore[arg-type]
        for of_pattern, n_heads in zip(of_patterns, sizes, strict=True)
    )


@torch.library.custom_op("attention_guidance::blocked", mutates_args=())
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    targets: Sequence[Tensor],
    sizes: Sequence[int],
    scale: float,
    dropout: float,
    seed: Tensor | None,
    log_mass: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output [B, H, Q, D]; squares, mass (or its logarithm) and number of targets [B, H, Q]."""
    call = AttentionCall(query, key, value, _groups(targets, sizes), scale, mask, None, dropout, log_mass)
    with torch.autocast(query.device.type, enabled=False):
        return _forward(call, seed)


@torch.library.custom_op("attention_guidance::blocked_backward", mutates_args=())
def _attend_backward(
    grad_out: Tensor,
    grad_squares: Tensor,
    grad_mass: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    targets: Sequence[Tensor],
    sizes: Sequence[int],
    scale: float,
    dropout: float,
    seed: Tensor | None,
    log_mass: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to query, key and value."""
    call = AttentionCall(query, key, value, _groups(targets, sizes), scale, mask, None, dropout, log_mass)
    with torch.autocast(query.device.type, enabled=False):
        return _backward(call, seed, grad_out, grad_squares, grad_mass)


@_attend.register_fake
def _(query, key, value, *rest):  # type: ignore[no-untyped-def]
    return _empty_results(query, value)


@_attend_backward.register_fake
def _(grad_out, grad_squares, grad_mass, query, key, value, *rest):  # type: ignore[no-untyped-def]
    return _empty_by_head(query), _empty_by_head(key), _empty_by_head(value)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, value, mask, targets, ctx.sizes, ctx.scale, ctx.dropout, seed, ctx.log_mass = inputs
    ctx.save_for_backward(query, key, value, mask, seed, *targets)
    ctx.mark_non_differentiable(output[3])


def _gradients(ctx: Any, grad_out: Tensor, grad_squares: Tensor, grad_mass: Tensor, _: Any) -> tuple[Any, ...]:
    query, key, value, mask, seed, *targets = ctx.saved_tensors
    gradients = _attend_backward(
        grad_out, grad_squares, grad_mass, query, key, value, mask, targets, ctx.sizes, ctx.scale, ctx.dropout, seed,
        ctx.log_mass,
    )  # fmt: skip
    return *gradients, None, [None] * len(targets), None, None, None, None, None


_attend.register_autograd(_gradients, setup_context=_setup)
_attend_backward.register_autograd(refuse)


def _forward(call: AttentionCall, seed: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, key, value = call.query_BHQD, call.key_BHKD, call.value_BHKD
    out, squares, mass, counts = _empty_results(query, value)
    scaled, rest = scaled_queries(query, call.scale)
    buffers = Buffers()
    for block in blocks(query, key, call.mask, call.groups):
        for head in range(query.shape[1]):
            rows, listed = (block.batch, head, block.queries), block.targets[head]
            scores_bqK = block.scores(scaled, key, head, rest, buffers)
            if call.log_mass:
                log_bq = listed.log_sum(scores_bqK) - scores_bqK.logsumexp(-1)
                mass[rows] = log_bq.masked_fill(listed.count_bq == 0, 0.0)
            map_bqK = block.softmax_(scores_bqK)
            squares[rows] = torch.linalg.vector_norm(map_bqK, dim=-1)
            if not call.log_mass:
                mass[rows] = listed.sum(map_bqK)
            counts[rows] = listed.count_bq
            if value.shape[3]:
                if seed is not None:
                    map_bqK *= block.dropout(map_bqK, call.dropout, seed, head)
                torch.bmm(map_bqK.to(value.dtype), value[block.batch, head], out=out[rows])
    return out, squares.square_(), mass, counts


def _backward(
    call: AttentionCall, seed: Tensor | None, grad_out: Tensor, grad_squares: Tensor, grad_mass: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = call.query_BHQD, call.key_BHKD, call.value_BHKD
    # Summing over several blocks in half precision would lose digits.
    sums = torch.promote_types(key.dtype, torch.float32) if are_many(query, key) else key.dtype
    grad_query, grad_key, grad_value = _empty_by_head(query), _empty_by_head(key, sums), _empty_by_head(value, sums)
    scaled, rest = scaled_queries(query, call.scale)
    buffers = Buffers()
    twice_squares = 2 * grad_squares
    for block in blocks(query, key, call.mask, call.groups):
        first = block.queries.start == 0
        for head in range(query.shape[1]):
            rows, keys, listed = (block.batch, head, block.queries), (block.batch, head), block.targets[head]
            scores_bqK = block.scores(scaled, key, head, rest, buffers)
            among_targets = listed.softmax(scores_bqK) if call.log_mass else None
            map_bqK = block.softmax_(scores_bqK)
            grad_out_bqD = grad_out[rows]
            grad_bqK = buffers.bmm("grad", grad_out_bqD, value[keys].transpose(1, 2)).to(map_bqK.dtype)
            dropped_bqK = map_bqK
            if seed is not None:
                kept_bqK = block.dropout(map_bqK, call.dropout, seed, head)
                dropped_bqK = map_bqK * kept_bqK
                grad_bqK *= kept_bqK
            _add_product(grad_value[keys], dropped_bqK.to(value.dtype).mT, grad_out_bqD, first)
            grad_bqK.addcmul_(map_bqK, twice_squares[rows][..., None])
            if among_targets is None:
                listed.add_(grad_bqK, grad_mass[rows][..., None])
            grad_bqK = torch._softmax_backward_data(grad_bqK, map_bqK, -1, map_bqK.dtype, grad_input=grad_bqK)
            if among_targets is not None:
                # d log m / ds = softmax over the targets - A, which is exact even if m underflows.
                grad_log_bq1 = grad_mass[rows].masked_fill(listed.count_bq == 0, 0.0)[..., None]
                grad_bqK.addcmul_(map_bqK, grad_log_bq1, value=-1)
                listed.add_(grad_bqK, grad_log_bq1 * among_targets)
            grad_bqK = grad_bqK.to(query.dtype)
            torch.bmm(grad_bqK, key[keys], out=grad_query[rows])
            _add_product(grad_key[keys], grad_bqK.mT, query[rows], first)
    return grad_query.mul_(call.scale), grad_key.mul_(call.scale).to(key.dtype), grad_value.to(value.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
    """Add ``left @ right`` to `total`, or overwrite it with the first product."""
    if total.dtype != left.dtype:
        product = torch.bmm(left, right)
        total.copy_(product) if first else total.add_(product)
    elif first:
        torch.bmm(left, right, out=total)
    else:
        total.baddbmm_(left, right)


def _empty_results(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n_batch, n_heads, n_queries, _ = query.shape
    precise = torch.promote_types(query.dtype, torch.float32)
    squares, mass, counts = (query.new_empty(n_batch, n_heads, n_queries, dtype=precise) for _ in range(3))
    return _empty_by_head(value, length=n_queries), squares, mass, counts


def _empty_by_head(like_BHTD: Tensor, dtype: torch.dtype | None = None, length: int | None = None) -> Tensor:
    """[B, H, T, D], heads outermost in memory: a block of one head is contiguous, so products are written into it."""
    n_batch, n_heads, own_length, n_channels = like_BHTD.shape
    size = n_heads, n_batch, own_length if length is None else length, n_channels
    return like_BHTD.new_empty(size, dtype=dtype).transpose(0, 1)
