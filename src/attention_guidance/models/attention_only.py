"""RoBERTa without feed-forward blocks: self-attention, residual and norm only.

The paper trains such encoders with 24 and 48 layers (arXiv:2010.02399, section 4). Once `attention_guidance.models` is
imported, they are saved and loaded like any other transformers model.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
)


class AttentionOnlyConfig(RobertaConfig):  # type: ignore[misc]
    """RoBERTa's configuration; `intermediate_size` is unused."""

    model_type = "attention-only"


class AttentionOnlyModel(RobertaModel):  # type: ignore[misc]
    """The bare encoder.

    Args:
        config: the model configuration.
        add_pooling_layer: as in `RobertaModel`.
    """

    config_class = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        without_feed_forward(self)


class AttentionOnlyForMaskedLM(RobertaForMaskedLM):  # type: ignore[misc]
    """The encoder with RoBERTa's head for masked language modeling."""

    config_class = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__(config)
        without_feed_forward(self.roberta)


class AttentionOnlyForSequenceClassification(RobertaForSequenceClassification):  # type: ignore[misc]
    """The encoder with a sequence classification head."""

    config_class = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__(config)
        without_feed_forward(self.roberta)


class AttentionOnlyForTokenClassification(RobertaForTokenClassification):  # type: ignore[misc]
    """The encoder with a token classification head."""

    config_class = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__(config)
        without_feed_forward(self.roberta)


class _Identity(nn.Module):
    """Replaces a feed-forward block: returns its input."""

    def forward(self, hidden_BTC: Tensor, *residual: Any) -> Tensor:
        return hidden_BTC


def without_feed_forward(model: RobertaModel) -> None:
    """Remove the feed-forward block, with its residual and normalization, from every layer."""
    for layer in model.encoder.layer:
        layer.intermediate, layer.output = _Identity(), _Identity()


AutoConfig.register(AttentionOnlyConfig.model_type, AttentionOnlyConfig)
for _auto, _model in (
    (AutoModel, AttentionOnlyModel),
    (AutoModelForMaskedLM, AttentionOnlyForMaskedLM),
    (AutoModelForSequenceClassification, AttentionOnlyForSequenceClassification),
    (AutoModelForTokenClassification, AttentionOnlyForTokenClassification),
):
    _auto.register(AttentionOnlyConfig, _model)
