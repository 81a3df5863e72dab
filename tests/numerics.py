"""The rule of tolerance: no further from the truth than twice what plain low-precision attention maps are.

The truth is the same computation in float64 on the same, already rounded inputs. Where the maps happen to be right to
the last digit, a few roundings of the precision that losses are summed in are allowed.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDINGS = 4


def assert_as_good_as(ours: dict[str, Tensor], eager: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    """Each of our values has at most twice the error that eager maps have, or a few roundings."""
    for name, exact in truth.items():
        mine, theirs = ours[name].double(), eager[name].double()
        assert torch.isfinite(mine).all(), f"{name} is not finite"
        precision = torch.finfo(torch.float32 if name == "rows" else ours[name].dtype).eps
        allowed = 2 * (theirs - exact).norm() + ROUNDINGS * precision * exact.norm()
        error = (mine - exact).norm()
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
