"""Reading what any model of transformers is given and gives out: arguments by name, the loss, the share of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def named_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model's forward by name, those of its ``**kwargs`` among them."""
    signature = inspect.signature(model.forward)
    named = dict(signature.bind_partial(*args, **kwargs).arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(parameter.name, {})
    return named


def is_checkpointing(model: nn.Module) -> bool:
    """Whether layers will be recomputed in the backward pass; transformers has renamed the property."""
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    return bool(next((getattr(model, name) for name in names if hasattr(model, name)), False))


def loss_of(output: Any) -> Tensor | None:
    """The loss in a model's output, whatever it was made of: the key `loss`, or a scalar that comes first or alone."""
    if isinstance(output, Mapping):
        loss = output.get("loss")
        return loss if isinstance(loss, Tensor) else None
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) and first.dim() == 0 else None


def share_of_batch(inputs: Mapping[str, Any]) -> Tensor | None:
    """This micro-batch's share of the labels of the whole accumulated batch, where Trainer tells their number.

    BERT and RoBERTa take the number and ignore it, while Trainer relies on them to divide by it: without this their
    loss and gradients come out multiplied by the accumulation steps.
    """
    n_items, labels = inputs.get("num_items_in_batch"), inputs.get("labels")
    if n_items is None or labels is None:
        return None
    share: Tensor = (labels != -100).sum() / n_items
    return share
