"""Check that a saved model, loaded again, equals the model that was validated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from attention_guidance.commands.objectives.base import Example, Objective, validate
from attention_guidance.errors import SaveError, reason_of

# Repeating the computation gave bit-identical results on CPUs; kernels of other devices may sum in another order.
_ROUNDING, _HALF_PRECISION_ROUNDING = 1e-5, 1e-3


def check_reloaded(
    objective: Objective,
    folder: Path,
    device: torch.device,
    batches: Iterator[Example],
    loss: float,
    *,
    half_precision: bool,
) -> None:
    """Load a saved model and compare its validation loss with that of the model in memory.

    This takes the time of one validation and memory for a second copy of the weights.

    Args:
        objective: Training objective.
        folder: Folder of the saved model.
        device: Device to load it to.
        batches: Validation data.
        loss: Validation loss of the model in memory.
        half_precision: Whether the loss is computed in bf16 or fp16, with larger rounding errors.

    Raises:
        SaveError: The model does not load, or its loss differs.
    """
    try:
        model = objective.trained_model(str(folder)).to(device)
    except Exception as error:  # transformers and safetensors raise many types
        raise SaveError(f"the saved model cannot be loaded ({reason_of(error)})") from None
    loaded = validate(model, objective, batches).loss
    tolerance = _HALF_PRECISION_ROUNDING if half_precision else _ROUNDING
    both_diverged = not math.isfinite(loaded) and not math.isfinite(loss)
    if not both_diverged and not math.isclose(loaded, loss, rel_tol=tolerance):
        raise SaveError(f"the saved model has a validation loss of {loaded:.6g}, but {loss:.6g} in training")
