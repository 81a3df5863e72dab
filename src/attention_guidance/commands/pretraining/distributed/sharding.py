"""Shard parameters, gradients and optimizer state over several processes (torch's FSDP2).

transformers' Trainer supports this through accelerate, on GPUs only. This module calls torch's `fully_shard` directly,
which works on any device, so that a machine without a GPU can test what a GPU runs. Checkpoints hold unsharded tensors,
like those of a single process, so a run can be resumed with another number of processes, or without sharding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module) -> None:
    """Shard a model: each layer is gathered only while it computes, the other parameters for the whole pass.

    Args:
        model: The model, equal in all processes. Its parameters are replaced, so create the optimizer afterwards.
    """
    layers = [layer for stack in model.modules() if isinstance(stack, nn.ModuleList) for layer in stack]
    # Inner stacks first: `fully_shard` must be applied from the bottom up.
    for layer in reversed(layers):
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    fully_shard(model)


def weights_finite(model: nn.Module) -> Tensor:
    """Whether all weights of this process are finite: a boolean tensor on their device."""
    weights = (parameter.detach() for parameter in model.parameters())
    local = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights)
    return torch.stack([weight.isfinite().all() for weight in local]).all()


def whole(state: Any) -> Any:
    """Gather the sharded tensors of a state dictionary on the CPU; all processes must call this."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {name: whole(value) for name, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def follow_shares(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer of a sharded model load its state from a checkpoint of unsharded tensors."""

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
    """Shard a tensor like a parameter of the same shape."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
