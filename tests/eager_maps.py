"""The guidance loss by its definition: loops over the attention maps that a model gives out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The targets of query i in sequence b.
Definition = Callable[[int, int], list[int]]


def guidance(model, inputs: dict, heads: dict[tuple[int, int], Definition], valid_BT: Tensor) -> Tensor:
    """The sum over guided heads of the mean over rows that count, with gradient; the model is set to eager attention.

    Args:
        model: an unguided model.
        inputs: what it is called with.
        heads: the definition for each guided (layer, head).
        valid_BT: bool, which positions are tokens.
    """
    model.set_attn_implementation("eager")
    maps = model(**inputs, output_attentions=True).attentions
    total = torch.zeros((), dtype=torch.float64)
    for (layer, head), targets in heads.items():
        rows = []
        for b, i in valid_BT.nonzero().tolist():
            row = maps[layer][b, head, i]
            keys = [
                j for j in targets(b, i) if j < len(row) and row[j] > 0
            ]  # zero is what the mask hides, as outside of a window
            if keys:
                target = torch.zeros_like(row)
                target[keys] = 1 / len(keys)
                rows.append((row - target).square().sum())
        total = total + torch.stack(rows).mean()
    return total


def assert_same_gradients(ours, theirs, tolerance: float = 1e-9) -> None:
    """Of two models with the same parameters; and some of them are not zero."""
    largest = 0.0
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        first, second = (torch.zeros(()) if p.grad is None else p.grad for p in (mine, other))
        assert (first - second).abs().max() <= tolerance * max(1.0, second.abs().max().item()), name
        largest = max(largest, second.abs().max().item())
    assert largest > 1e-4, "guidance must reach the parameters"
