"""Adapt a trained model to a tokenizer with other special ids or a larger vocabulary.

A model reads these fields of its configuration when it is created: the padding row of its embeddings, and where
RoBERTa's positions start. Changing them afterwards would affect only the model that is loaded later, which would then
differ from this one. So a new model is created, and the weights are copied to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attention_guidance.adapters.positions import POSITIONS, first_position, longest_input

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Make = Callable[["PreTrainedConfig"], "PreTrainedModel"]
Rows = Callable[[Tensor, int], Tensor]


def aligned(
    model: PreTrainedModel, make: Make, decided: Mapping[str, Any], replaced: Rows | None = None
) -> PreTrainedModel:
    """Set the fields of a model's configuration that its tokenizer determines.

    Tokens keep their embeddings, output weights and biases, and positions their embeddings. New tokens are initialized
    to the mean of the others, so that they are as likely as an average token (Hewitt 2021, "Initializing new word
    embeddings").

    Args:
        model: A trained model, on the CPU.
        make: Creates a model of the same type from a configuration.
        decided: Values of the configuration's fields.
        replaced: For a vocabulary that is not the model's: makes its weights of the old ones, in the dimension of the
            vocabulary.

    Returns:
        A new model, or the same one if its configuration has these values already.
    """
    if replaced is None and all(getattr(model.config, name, None) == value for name, value in decided.items()):
        return model
    config = copy.deepcopy(model.config)
    for name, value in decided.items():
        setattr(config, name, value)
    if (longest := longest_input(model)) is not None:
        # No configuration states where positions start. Find out from a model without weights, with rows for any start.
        config.max_position_embeddings = longest + (getattr(config, "pad_token_id", None) or 0) + 2
        with torch.device("meta"):
            config.max_position_embeddings = longest + first_position(make(copy.deepcopy(config)))
    new = make(config)
    shift = first_position(new) - first_position(model)
    before = model.state_dict()
    of_tokens = {} if replaced is None else _of_tokens(make, config)
    weights = {}
    for name, wanted in new.state_dict().items():
        rows = before[name]
        if name.endswith(f"{POSITIONS}.weight"):
            rows = _shifted(rows, shift)
        if replaced is not None and name in of_tokens:
            rows = replaced(rows, of_tokens[name])
        weights[name] = _enlarged(rows, wanted.shape)
    new.load_state_dict(weights)
    return new


def _of_tokens(make: Make, config: PreTrainedConfig) -> dict[str, int]:
    """The weights with a row for each token, by name, and their dimension of the vocabulary: it grows with the size."""
    shapes = []
    for more in (0, 1):
        larger = copy.deepcopy(config)
        larger.vocab_size += more
        with torch.device("meta"):
            shapes.append({name: weights.shape for name, weights in make(larger).state_dict().items()})
    before, after = shapes
    return {name: dim for name, shape in before.items() for dim, size in enumerate(shape) if size != after[name][dim]}


def _shifted(rows: Tensor, by: int) -> Tensor:
    """Shift rows down, with rows of zeros above them, or up, dropping the first rows."""
    return rows[-by:] if by < 0 else torch.cat([rows.new_zeros(by, *rows.shape[1:]), rows])


def _enlarged(weights: Tensor, shape: torch.Size) -> Tensor:
    """Enlarge weights in the dimension of the vocabulary; new entries are the mean of the others."""
    for dim, (has, wants) in enumerate(zip(weights.shape, shape, strict=True)):
        if wants > has:
            more = [wants - has if d == dim else size for d, size in enumerate(weights.shape)]
            weights = torch.cat([weights, weights.mean(dim, keepdim=True).expand(more)], dim)
    return weights
