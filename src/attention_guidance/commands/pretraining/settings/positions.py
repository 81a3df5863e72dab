"""How many tokens a model has positions for, and in which row of its table the first one lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What the tables of learnt positions are called.
POSITIONS = "position_embeddings"


def first_position(model: PreTrainedModel) -> int:
    """The row of a sequence's first position: RoBERTa and its kin count from behind their padding id, others from 0."""
    table = next((module for name, module in model.named_modules() if name.endswith(POSITIONS)), None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def longest_input(model: PreTrainedModel) -> int | None:
    """The most tokens that a model has positions for, None where it does not tell."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - first_position(model)
