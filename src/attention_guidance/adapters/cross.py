"""The cross-attention of encoder-decoders of transformers, through its attention interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from attention_guidance.adapters.base import AttentionProcessor, Result
from attention_guidance.adapters.interface import InterfaceAdapter
from attention_guidance.adapters.modules import (
    PROCESSOR,
    attention_modules,
    has_encoder_and_decoder,
    number_of_heads,
)
from attention_guidance.errors import AttachError
from attention_guidance.loss.call import AttentionCall, Call


class CrossAdapter(InterfaceAdapter):
    """The adapter of the cross-attention of an encoder-decoder; see `attention_guidance.adapters.base.Adapter`.

    Layers are those of the decoder.

    Raises:
        AttachError: the model is not an encoder-decoder of transformers with one cross-attention in each layer, or it
            is guided there already.
    """

    def _modules(self) -> list[nn.Module]:
        name = type(self.model).__name__
        if not (hasattr(self.model, "get_decoder") and has_encoder_and_decoder(self.model)):
            raise AttachError(
                f"{name} has no cross-attention to guide: attention='cross' is for encoder-decoders of transformers, "
                "such as BART, T5, Marian and Whisper"
            )
        # A decoder's self-attention is causal, and its attention to the encoder is not.
        modules = list(attention_modules(self.model.get_decoder()))
        causal = [module for module in modules if getattr(module, "is_causal", False)]
        crossing = [module for module in modules if not getattr(module, "is_causal", False)]
        if not crossing or len(crossing) != len(causal):
            raise AttachError(
                f"the cross-attention of {name} cannot be guided: its decoder has {len(causal)} causal attention "
                f"modules and {len(crossing)} others, where one of each in every layer is expected"
            )
        for module in crossing:
            if PROCESSOR in module.__dict__:
                raise AttachError(f"the cross-attention of this {name} {module.__dict__[PROCESSOR].purpose.taken}")
        return crossing

    def _config(self) -> Any:
        return self.model.get_decoder().config

    def _numbers(self, config: Any) -> tuple[int, int]:
        return len(self.modules), number_of_heads(self.modules[0], config.num_attention_heads)

    def _skips_layers(self, config: Any) -> bool:
        return bool(getattr(config, "decoder_layerdrop", 0))

    def _answering(self, layer: int, processor: AttentionProcessor) -> AttentionProcessor:
        return _Crossing(processor)


class _Crossing:
    """Tells a processor that its calls are cross-attention."""

    def __init__(self, processor: AttentionProcessor) -> None:
        self.processor, self.purpose = processor, processor.purpose

    def is_idle(self, training: bool) -> bool:
        """See `AttentionProcessor`."""
        return self.processor.is_idle(training)

    def attend(self, call: Call, unguided: Callable[[], Result]) -> Result:
        """See `AttentionProcessor`."""
        assert isinstance(call, AttentionCall), "these modules use the attention interface"
        return self.processor.attend(replace(call, cross=True), unguided)
