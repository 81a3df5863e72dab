"""Row statistics of guided attention, and the loss computed from them.

The loss of a row does not need the attention map, only the sum of the row's squares and its mass on the targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from attention_guidance.errors import ConfigError

Loss = Literal["squared_error", "log_mass", "cross_entropy"]
"""The loss of a row: the squared error to the target (the paper's), minus the log of the mass on the targets, or the
cross-entropy with the target."""

OBJECTIVES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of each row of the guided heads' attention, before dropout, from which the loss is computed.

    In float32 or better. Rows without any visible key are zeros.

    Attributes:
        squares_BHQ: ``r_i = sum_j A_ij^2``.
        mass_BHQ: ``m_i = sum of A_ij over the targets``, or its logarithm (0 for a row without a target). For soft
            targets, ``n_i sum_j P_ij A_ij``, or ``sum_j P_ij log A_ij`` in place of the logarithm.
        n_targets_BHQ: the number of targets that the mask does not hide, as float. For soft targets, ``n_i = 1 / sum_j
            P_ij^2``, which is the number of keys where P is uniform; 0 for a row without a target.
    """

    squares_BHQ: Tensor
    mass_BHQ: Tensor
    n_targets_BHQ: Tensor


def row_losses(statistics: RowStatistics, objective: str) -> Tensor:
    """The loss of every row: [B, H, Q].

    With ``P_i`` uniform over the targets, `squared_error` is ``sum_j (A_ij - P_ij)^2 = r - 2 m / |S| + 1 / |S|`` (the
    paper's Frobenius norm, equation 3); a row without a target has ``r`` (P = 0, as in the authors' code). With soft
    targets, the same formula of their statistics is ``r - 2 sum_j P_ij A_ij + sum_j P_ij^2``.
    `log_mass` is ``-log m`` and `cross_entropy` ``-sum_j P_ij log A_ij``; 0 for a row without a target.
    """
    counted_BHQ = statistics.n_targets_BHQ > 0
    if objective != "squared_error":
        return torch.where(counted_BHQ, -statistics.mass_BHQ, 0.0)
    to_target_BHQ = (1 - 2 * statistics.mass_BHQ) / statistics.n_targets_BHQ.clamp(min=1)
    return statistics.squares_BHQ + torch.where(counted_BHQ, to_target_BHQ, 0.0)


def check_objective(objective: str) -> None:
    """Raise ConfigError if the loss is unknown."""
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown guidance loss {objective!r}; expected one of {', '.join(OBJECTIVES)}")
