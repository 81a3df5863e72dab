"""Faster attention for short sequences in bf16 on CPUs, where torch's flash kernel is slower than plain products."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import TrainingArguments

# From 256 tokens on, the flash kernel is faster and stores no attention map: benchmarks/cost/short_attention.py.
_SHORT = 128


def short_attention(inputs: Mapping[str, Any], arguments: TrainingArguments) -> AbstractContextManager[Any]:
    """A context for a forward pass, which then uses the faster kernel of torch's attention, also for its backward pass.

    Args:
        inputs: Inputs of the model; the length is known only from `input_ids` [batch, tokens].
        arguments: Training arguments. Only bf16 on a CPU is changed, and not with gradient checkpointing, which
            recomputes activations in the backward pass, outside this context.
    """
    tokens = inputs.get("input_ids")
    slow = arguments.bf16 and arguments.device.type == "cpu" and not arguments.gradient_checkpointing
    if not slow or tokens is None or tokens.shape[-1] > _SHORT:
        return nullcontext()
    context: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
    return context
