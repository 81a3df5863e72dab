"""A trained model made to agree with the tokenizer that it is to be used with.

What a tokenizer decides of a model (special ids, vocabulary) is read when the model is made: which row of the
embeddings is padding, where RoBERTa's positions begin. Written into the configuration of a model that is there
already it would hold only for the model that is loaded from it later, which is then another one. So the model is made
anew and takes over the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attention_guidance.commands.pretraining.settings.positions import POSITIONS, first_position, longest_input

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Make = Callable[["PreTrainedConfig"], "PreTrainedModel"]


def aligned(model: PreTrainedModel, make: Make, decided: Mapping[str, Any]) -> PreTrainedModel:
    """The model with what a tokenizer decides of it.

    Tokens keep their embeddings, outputs and biases, and positions their embeddings. New tokens begin as the mean of
    the others, so that they are as likely as a token is on average (Hewitt 2021, "Initializing new word embeddings").

    Args:
        model: a trained one, on the CPU.
        make: makes a model of its kind of a configuration.
        decided: fields of the configuration and their values.

    Returns:
        The same model where it agrees already.
    """
    if all(getattr(model.config, name, None) == value for name, value in decided.items()):
        return model
    config = copy.deepcopy(model.config)
    for name, value in decided.items():
        setattr(config, name, value)
    if (longest := longest_input(model)) is not None:
        # Where positions begin is told by no configuration: seen on a model without weights, with rows enough for all.
        config.max_position_embeddings = longest + (getattr(config, "pad_token_id", None) or 0) + 2
        with torch.device("meta"):
            config.max_position_embeddings = longest + first_position(make(copy.deepcopy(config)))
    made = make(config)
    moved = first_position(made) - first_position(model)
    before = model.state_dict()
    carried = {}
    for name, wanted in made.state_dict().items():
        rows = before[name]
        if name.endswith(f"{POSITIONS}.weight"):
            rows = _moved(rows, moved)
        carried[name] = _grown(rows, wanted.shape)
    made.load_state_dict(carried)
    return made


def _moved(rows: Tensor, by: int) -> Tensor:
    """Rows further down, below as many of nothing, or further up, where as many fall away."""
    return rows[-by:] if by < 0 else torch.cat([rows.new_zeros(by, *rows.shape[1:]), rows])


def _grown(weights: Tensor, shape: torch.Size) -> Tensor:
    """Weights made longer, in the dimension that is the vocabulary's, by the mean of what is there."""
    for dim, (has, wants) in enumerate(zip(weights.shape, shape, strict=True)):
        if wants > has:
            more = [wants - has if d == dim else size for d, size in enumerate(weights.shape)]
            weights = torch.cat([weights, weights.mean(dim, keepdim=True).expand(more)], dim)
    return weights
