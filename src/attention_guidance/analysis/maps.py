"""`attention_maps(model, ...)`: the attention of all heads on one sequence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from attention_guidance.adapters import checked_model
from attention_guidance.adapters.base import ABLATING, LOOKING
from attention_guidance.adapters.interface import configurations, give_back
from attention_guidance.adapters.modules import PROCESSOR, has_encoder_and_decoder
from attention_guidance.adapters.positions import longest_input
from attention_guidance.analysis.given import Batch, batch_of
from attention_guidance.errors import AttachError, ConfigError
from attention_guidance.forward.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A sum of probabilities in half precision may be larger than 1.
_MOST = 1.02
# How transformers marks a model that it has put hooks on, which it does once.
_HOOKED = "_output_capturing_hooks_installed"


@torch.no_grad()
def attention_maps(
    model: PreTrainedModel, inputs: Batch, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> Tensor:
    """The attention of every head on one sequence, before dropout, in evaluation mode.

    Examples:
        >>> attention_maps(model, "the king saw him", tokenizer=tokenizer).shape
        torch.Size([2, 4, 6, 6])

    Args:
        model: an encoder from transformers; it is left as it was.
        inputs: one sequence, as token ids [T] or [1, T], a text, or a mapping of the model's arguments.
        tokenizer: the model's tokenizer, required for a text.

    Returns:
        [layers, heads, T, T], float32 on the CPU; rows are queries and sum to 1.

    Raises:
        AttachError: not a transformers model, one without some of its heads, or it does not return one map of the
            whole sequence per head, of probabilities.
        ConfigError: invalid inputs, several sequences, or one longer than the model takes.
    """
    kind = type(checked_model(model, LOOKING)).__name__
    if not hasattr(model, "set_attn_implementation"):
        raise AttachError(f"{kind} is not a transformers model; if it can be guided, use `observing`")
    held = (module.__dict__.get(PROCESSOR) for module in model.modules())
    if any(processor is not None and processor.purpose == ABLATING for processor in held):
        raise AttachError(f"this {kind} {ABLATING.taken}")  # its maps are of eager attention, which has all heads
    if has_encoder_and_decoder(model):
        raise AttachError(f"{kind} is an encoder-decoder and has several maps per head; pass only its encoder")
    batch = {
        name: x.to(model.device) if isinstance(x, Tensor) else x for name, x in batch_of(inputs, tokenizer).items()
    }
    n_sequences = len(batch["input_ids"]) if "input_ids" in batch else 1
    if n_sequences != 1:
        raise ConfigError(f"attention_maps takes one sequence, but the batch has {n_sequences}; pass one at a time")
    n_tokens, longest = (batch["input_ids"].shape[-1] if "input_ids" in batch else 0), longest_input(model)
    if longest is not None and n_tokens > longest:
        raise ConfigError(f"the sequence has {n_tokens} tokens and {kind} takes {longest}; split the text")
    before = [(config, config._attn_implementation) for config in configurations(model)]
    model.set_attn_implementation("eager")
    try:
        with evaluating(model), _without_new_hooks(model):
            output = model(**batch, output_attentions=True)
    finally:
        give_back(before)
    maps = getattr(output, "attentions", None)
    if not maps:
        raise AttachError(f"{kind} returns no attention maps; if it can be guided, use `observing`")
    sizes = {tuple(of_layer.shape) for of_layer in maps}
    size = sizes.pop()
    if sizes or len(size) != 4 or size[0] != 1 or size[2] != size[3]:
        raise AttachError(
            f"{kind} returns maps of shape {', '.join(map(str, sorted({size, *sizes})))}, not [1, heads, T, T] per "
            "layer (it attends within windows, or to several sequences); use `observing` to read each call"
        )
    maps_LHTT = torch.stack([map_1HTT[0].float().cpu() for map_1HTT in maps])
    if bool((maps_LHTT < 0).any()) or bool((maps_LHTT.sum(-1) > _MOST).any()):
        raise AttachError(f"{kind} returns its attention before the softmax, so there are no attention maps to look at")
    return maps_LHTT


@contextmanager
def _without_new_hooks(model: nn.Module) -> Iterator[None]:
    """Remove the hooks that transformers leaves on a model that has returned attention: it could not be pickled."""
    before = [(module, set(module._forward_hooks), _HOOKED in vars(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, hooks, was_hooked in before:
            for key in set(module._forward_hooks) - hooks:
                del module._forward_hooks[key]
            if not was_hooked:
                vars(module).pop(_HOOKED, None)
