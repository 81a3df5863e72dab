"""Attention maps of a model, guided or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
    """
    implementation, was_training = model.config._attn_implementation, model.training
    model.eval()
    model.set_attn_implementation("eager")
    try:
        output = model(input_ids=input_ids_T[None].to(model.device), output_attentions=True)
        return torch.stack([map_1HTT[0].float().cpu() for map_1HTT in output.attentions])
    finally:
        model.set_attn_implementation(implementation)
        model.train(was_training)
