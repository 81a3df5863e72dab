"""Backward passes that cannot be differentiated again: to try raises an error that names what can."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from attention_guidance.errors import AttachError


def refuse(ctx: Any, *gradients: Tensor) -> NoReturn:
    """The backward pass of a backward pass.

    Raises:
        AttachError: always.
    """
    raise AttachError(
        "second derivatives do not go through the backend that computed this guided attention: use backend='reference' "
        "(or 'auto') with a model loaded with attn_implementation='eager'"
    )


def first_order(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Decorate the backward of an autograd function: its gradients refuse to be differentiated.

    Unlike `torch.autograd.function.once_differentiable`, this holds also where the incoming gradients are constants:
    the outgoing ones depend on what the forward pass has saved.
    """

    @functools.wraps(backward)
    def of_first_order(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return found
        return tuple(
            _Final.apply(one.detach().requires_grad_()) if isinstance(one, Tensor) else one  # type: ignore[no-untyped-call]
            for one in found
        )

    return of_first_order


class _Final(torch.autograd.Function):
    """A gradient that cannot be differentiated."""

    backward = staticmethod(refuse)

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)
