"""Copies of guided models, by either way that people make them."""

import copy
import io

import torch
from torch import nn

WAYS = ("deepcopy", "pickle")


def copied(model: nn.Module, way: str) -> nn.Module:
    if way == "deepcopy":
        return copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)
