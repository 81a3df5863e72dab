"""Whether a model that was written is, loaded again, the one that was validated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from attention_guidance.commands.objectives.base import Example, Objective, validate
from attention_guidance.errors import FailedRunError, reason_of

# The same computation twice: seen equal to the last bit on CPUs; kernels of other devices may sum in another order.
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
    """Load a model from the disk and hold its validation loss against that of the model in memory.

    It takes the time of one validation, and the room of the weights once more.

    Args:
        objective: what it was trained by.
        folder: where it was written.
        device: where to put it.
        batches: the validation data.
        loss: of the model in memory.
        half_precision: whether it is computed in less than float32, so that rounding is coarser.

    Raises:
        FailedRunError: it does not load, or its loss is another.
    """
    try:
        model = objective.trained_model(str(folder)).to(device)
    except Exception as error:  # transformers and safetensors raise all kinds
        raise FailedRunError(f"it does not load again ({reason_of(error)})") from error
    loaded = validate(model, objective, batches).loss
    tolerance = _HALF_PRECISION_ROUNDING if half_precision else _ROUNDING
    both_diverged = not math.isfinite(loaded) and not math.isfinite(loss)
    if not both_diverged and not math.isclose(loaded, loss, rel_tol=tolerance):
        raise FailedRunError(f"loaded again, its validation loss is {loaded:.6g} and not {loss:.6g} as in training")
