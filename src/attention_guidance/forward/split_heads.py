"""Compute some heads by one function and the others by another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attention_guidance.loss.call import take_heads
from attention_guidance.loss.first_order import first_order


def split_heads(tensor_BHTD: Tensor, chosen: Sequence[int], others: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The chosen heads, in the order given, and the others; together they are all heads."""
    parts: tuple[Tensor, Tensor] = _Split.apply(tensor_BHTD, list(chosen), list(others))  # type: ignore[no-untyped-call]
    return parts


def join_heads(chosen_BHTD: Tensor, others_BHTD: Tensor, chosen: Sequence[int], others: Sequence[int]) -> Tensor:
    """The inverse of `split_heads`, returned as [B, T, H, D], contiguous."""
    joined: Tensor = _Join.apply(chosen_BHTD, others_BHTD, list(chosen), list(others))  # type: ignore[no-untyped-call]
    return joined


def _put_heads(tensor_BHTD: Tensor, heads: Sequence[int], part_BHTD: Tensor) -> None:
    first, n_heads = heads[0], len(heads)
    if list(heads) == list(range(first, first + n_heads)):
        tensor_BHTD[:, first : first + n_heads] = part_BHTD
    else:
        tensor_BHTD[:, list(heads)] = part_BHTD


def _joined(chosen_BHTD: Tensor, others_BHTD: Tensor, chosen: Sequence[int], others: Sequence[int]) -> Tensor:
    """All heads as [B, T, H, D]: the layout of projections and of their gradients."""
    n_batch, _, length, n_channels = chosen_BHTD.shape
    joined_BTHD = chosen_BHTD.new_empty(n_batch, length, len(chosen) + len(others), n_channels)
    joined_BHTD = joined_BTHD.transpose(1, 2)
    _put_heads(joined_BHTD, chosen, chosen_BHTD)
    _put_heads(joined_BHTD, others, others_BHTD)
    return joined_BTHD


class _Split(torch.autograd.Function):
    # Indexing twice would be enough, but its backward pass fills two tensors with zeros and adds them.
    @staticmethod
    def forward(ctx: Any, tensor_BHTD: Tensor, chosen: list[int], others: list[int]) -> tuple[Tensor, Tensor]:
        ctx.heads = chosen, others
        return take_heads(tensor_BHTD, chosen), take_heads(tensor_BHTD, others)

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        chosen, others = ctx.heads
        return _joined(gradients[0], gradients[1], chosen, others).transpose(1, 2), None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chosen_BHTD: Tensor, others_BHTD: Tensor, chosen: list[int], others: list[int]) -> Tensor:
        ctx.heads = chosen, others
        return _joined(chosen_BHTD, others_BHTD, chosen, others)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gradient_BHTD = gradients[0].transpose(1, 2)
        chosen, others = ctx.heads
        return take_heads(gradient_BHTD, chosen), take_heads(gradient_BHTD, others), None, None
