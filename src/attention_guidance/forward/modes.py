"""Evaluation mode in a `with` block, restoring each module's own mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block. Afterwards, every module has its previous mode, including frozen parts.

    `model.train(was_training)` would set all modules to the mode of the outermost one.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
