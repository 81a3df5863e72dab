"""A model whose parameters, gradients and optimizer lie in shares on several processes (torch's FSDP2).

transformers' Trainer has this from accelerate, for GPUs alone. What stands here is torch's `fully_shard` itself, which
does the same on any device, so that a machine without a GPU tests what a GPU runs. Checkpoints hold whole tensors, as
those of a single process do: a run may go on with another number of processes, or without shares.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module) -> None:
    """Lay a model out in shares: each of its layers is put together when it computes, the rest for the whole pass.

    Args:
        model: the same in all processes; its parameters are replaced, so its optimizer is made afterwards.
    """
    layers = [layer for stack in model.modules() if isinstance(stack, nn.ModuleList) for layer in stack]
    # Stacks within layers first, as a share may hold no part of another.
    for layer in reversed(layers):
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    fully_shard(model)


def weights_finite(model: nn.Module) -> Tensor:
    """Whether all weights are finite, as far as they lie in this process: a boolean on their device."""
    weights = (parameter.detach() for parameter in model.parameters())
    local = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights)
    return torch.stack([weight.isfinite().all() for weight in local]).all()


def whole(state: Any) -> Any:
    """A state dictionary with whole tensors in main memory for those in shares; to be called by all processes."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {name: whole(value) for name, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def follow_shares(optimizer: torch.optim.Optimizer) -> None:
    """Have an optimizer of parameters in shares take its state from a checkpoint of whole tensors."""

    def in_shares(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        by_number = dict(zip(numbers, parameters, strict=True))
        moments = {
            number: {name: _like(value, by_number[number]) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return state | {"state": moments}

    optimizer.register_load_state_dict_pre_hook(in_shares)


def _like(value: Any, parameter: Tensor) -> Any:
    """The share of a tensor that belongs with that of a parameter of the same shape."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
