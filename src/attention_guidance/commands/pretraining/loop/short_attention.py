"""Attention over short sequences on CPUs, where torch's flash attention in bf16 is slower than plain products."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import TrainingArguments

# From 256 on flash is the faster one, and needs no map: benchmarks/short_attention.py.
_SHORT = 128


def short_attention(inputs: Mapping[str, Any], arguments: TrainingArguments) -> AbstractContextManager[Any]:
    """Within it a forward pass, and so its backward, takes the faster kernel of torch's attention.

    Args:
        inputs: of the model; only of those that are `input_ids` [batch, tokens] the length is known.
        arguments: of the training; elsewhere than on a CPU in bf16 nothing is changed. Neither is it where activations
            are made anew, as that is done in the backward pass, outside of this.
    """
    tokens = inputs.get("input_ids")
    slow = arguments.bf16 and arguments.device.type == "cpu" and not arguments.gradient_checkpointing
    if not slow or tokens is None or tokens.shape[-1] > _SHORT:
        return nullcontext()
    context: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
    return context
