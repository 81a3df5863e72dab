"""The maximum sequence length of a model, and the row of its first position embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Name of the modules of learned position embeddings.
POSITIONS = "position_embeddings"


def first_position(model: PreTrainedModel) -> int:
    """The embedding row of the first position: padding id + 1 in RoBERTa and similar models, 0 in others."""
    table = next((module for name, module in model.named_modules() if name.endswith(POSITIONS)), None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def longest_input(model: PreTrainedModel) -> int | None:
    """The maximum sequence length of a model in tokens; None if its configuration does not state it."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - first_position(model)
