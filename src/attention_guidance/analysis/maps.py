"""Attention maps of a model, guided or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attention_guidance.adapters import checked_model
from attention_guidance.adapters.base import LOOKING
from attention_guidance.adapters.interface import configurations, give_back, has_encoder_and_decoder
from attention_guidance.analysis.given import Batch, batch_of
from attention_guidance.errors import AttachError, ConfigError
from attention_guidance.forward.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def attention_maps(
    model: PreTrainedModel, inputs: Batch, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> Tensor:
    """The attention of every head on one sequence, before dropout, in evaluation mode.

    Args:
        model: an encoder of transformers; it comes back with the attention implementation and mode it had.
        inputs: of one sequence: token ids, [T] or [1, T], a text, or a mapping of the model's arguments.
        tokenizer: the model's, for a text.

    Returns:
        [layers, heads, T, T], float32 on the CPU; rows are queries and sum to 1.

    Raises:
        AttachError: it is no model of transformers, or does not give out one map a head of the whole sequence.
        ConfigError: no such inputs, or several sequences.
    """
    kind = type(checked_model(model, LOOKING)).__name__
    if not hasattr(model, "set_attn_implementation"):
        raise AttachError(f"{kind} is no model of transformers, which gives out its maps; `observing` looks at it")
    if has_encoder_and_decoder(model):
        raise AttachError(f"{kind} is an encoder-decoder and has no one map a head; give its encoder alone")
    batch = {
        name: x.to(model.device) if isinstance(x, Tensor) else x for name, x in batch_of(inputs, tokenizer).items()
    }
    n_sequences = len(batch["input_ids"]) if "input_ids" in batch else 1
    if n_sequences != 1:
        raise ConfigError(f"attention_maps looks at one sequence, and the batch has {n_sequences}; give one at a time")
    before = [(config, config._attn_implementation) for config in configurations(model)]
    model.set_attn_implementation("eager")
    try:
        with evaluating(model):
            output = model(**batch, output_attentions=True)
    finally:
        give_back(before)
    maps = getattr(output, "attentions", None)
    if not maps:
        raise AttachError(f"{kind} gives out no attention maps; if it can be guided, `observing` looks at it")
    sizes = {tuple(of_layer.shape) for of_layer in maps}
    size = sizes.pop()
    if sizes or len(size) != 4 or size[0] != 1 or size[2] != size[3]:
        raise AttachError(
            f"{kind} gives out maps of shape {', '.join(map(str, sorted({size, *sizes})))}, not one [1, heads, T, T] a "
            "layer (it attends in windows, or to several sequences); `observing` shows each call"
        )
    return torch.stack([map_1HTT[0].float().cpu() for map_1HTT in maps])
