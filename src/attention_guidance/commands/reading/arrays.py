"""Read arrays that a command saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attention_guidance.errors import RunError, reason_of


def read_array(path: Path, kind: Any) -> npt.NDArray[Any]:
    """Read a .npy file with an array of one dimension; one with Python objects is refused, since it could run code.

    Args:
        path: The file.
        kind: Type of its numbers, such as `np.integer`.

    Returns:
        The array, [N].

    Raises:
        RunError: The file cannot be read, or holds something else.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        if array.ndim != 1 or not np.issubdtype(array.dtype, kind):
            raise ValueError(f"it holds {array.dtype} of shape {array.shape}")
    except Exception as error:  # NumPy evaluates a header of Python literals, which fails in many ways
        raise RunError(f"{path}: not an array of numbers ({reason_of(error)}); restore the file") from error
    return array
