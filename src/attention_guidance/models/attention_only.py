"""RoBERTa without feed-forward blocks: layers of self-attention alone, each with its residual and normalization.

The paper trains such encoders of 24 and 48 layers (arXiv:2010.02399, section 4). Weights are saved and loaded as any
model's of transformers, where this package is installed.
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
    """RoBERTa's configuration; `intermediate_size` means nothing."""

    model_type = "attention-only"


class AttentionOnlyModel(RobertaModel):  # type: ignore[misc]
    """The encoder.

    Args:
        config: its sizes.
        add_pooling_layer: as for `RobertaModel`.
    """

    config_class = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        without_feed_forward(self)


class AttentionOnlyForMaskedLM(RobertaForMaskedLM):  # type: ignore[misc]
    """The encoder with RoBERTa's head for masked language modelling."""

    config_class = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__(config)
        without_feed_forward(self.roberta)


class AttentionOnlyForSequenceClassification(RobertaForSequenceClassification):  # type: ignore[misc]
    """The encoder with a classifier of texts."""

    config_class = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__(config)
        without_feed_forward(self.roberta)


class AttentionOnlyForTokenClassification(RobertaForTokenClassification):  # type: ignore[misc]
    """The encoder with a classifier of tokens."""

    config_class = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__(config)
        without_feed_forward(self.roberta)


class _Through(nn.Module):
    """In the place of a feed-forward block: gives out what it is given."""

    def forward(self, hidden_BTC: Tensor, *residual: Any) -> Tensor:
        return hidden_BTC


def without_feed_forward(model: RobertaModel) -> None:
    """Take the feed-forward block, with its residual and normalization, out of every layer."""
    for layer in model.encoder.layer:
        layer.intermediate, layer.output = _Through(), _Through()


AutoConfig.register(AttentionOnlyConfig.model_type, AttentionOnlyConfig)
for _auto, _model in (
    (AutoModel, AttentionOnlyModel),
    (AutoModelForMaskedLM, AttentionOnlyForMaskedLM),
    (AutoModelForSequenceClassification, AttentionOnlyForSequenceClassification),
    (AutoModelForTokenClassification, AttentionOnlyForTokenClassification),
):
    _auto.register(AttentionOnlyConfig, _model)
