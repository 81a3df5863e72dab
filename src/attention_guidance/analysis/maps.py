"""Attention maps of a model, guided or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attention_guidance.errors import AttachError
from attention_guidance.hosts import checked_model
from attention_guidance.hosts.interface import configurations, give_back
from attention_guidance.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def attention_maps(model: PreTrainedModel, input_ids_T: Tensor) -> Tensor:
    """The attention of every head on one sequence, before dropout, in evaluation mode.

    Args:
        model: an encoder of transformers; it comes back with the attention implementation and mode it had.
        input_ids_T: token ids.

    Returns:
        [layers, heads, T, T], float32 on the CPU; rows are queries and sum to 1.

    Raises:
        AttachError: it is no model of transformers, or gives out no maps.
    """
    kind = type(checked_model(model)).__name__
    if not hasattr(model, "set_attn_implementation"):
        raise AttachError(f"{kind} is no model of transformers, which gives out its maps; `observing` looks at it")
    before = [(config, config._attn_implementation) for config in configurations(model)]
    model.set_attn_implementation("eager")
    try:
        with evaluating(model):
            output = model(input_ids=input_ids_T[None].to(model.device), output_attentions=True)
    finally:
        give_back(before)
    maps = getattr(output, "attentions", None)
    if not maps:
        raise AttachError(f"{kind} gives out no attention maps; if it can be guided, `observing` looks at it")
    return torch.stack([map_1HTT[0].float().cpu() for map_1HTT in maps])
