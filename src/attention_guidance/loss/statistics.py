"""What a backend is given and gives: the attention of some guided heads, and three numbers for each of its rows.

The loss of a row needs no map of attention, only the sum of its squares and its mass on the targets.

Shape suffixes: B batch, H guided heads, Q queries, K keys, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention_guidance.errors import ConfigError
from attention_guidance.patterns import Targets

OBJECTIVES = ("squared_error", "log_mass")


@dataclass(frozen=True)
class GuidedAttention:
    """One call of attention for the guided heads of a layer.

    ``A_i = softmax(scale * q_i . k_j + bias_ij)`` over the keys that the mask shows; dropout applies to what is summed
    into the output and not to A, of which the statistics are.

    Attributes:
        query_BHQD, key_BHKD, value_BHKD: of the guided heads, those of one pattern side by side.
        groups: the targets of each pattern and the number of its heads; the numbers add up to H.
        scale: factor on the scores, usually ``D ** -0.5``.
        mask: bool [B or 1, 1, Q or 1, K], True where a query may attend to a key; None for everywhere.
        bias: added to the scores, [B or 1, H or 1, Q, K], or None.
        dropout: the share of A that is dropped on the way into the output.
        log_mass: whether the logarithm of the mass is wanted instead of the mass.
        heads: which heads the groups are of, where the tensors have all heads of a layer; None for all in order.
            For backends that compute all heads, whose keys and values may be of fewer heads that are shared.
        shared: a place where a backend keeps what other layers of the same pass can use, or None.
    """

    query_BHQD: Tensor
    key_BHKD: Tensor
    value_BHKD: Tensor
    groups: tuple[tuple[Targets, int], ...]
    scale: float
    mask: Tensor | None = None
    bias: Tensor | None = None
    dropout: float = 0.0
    log_mass: bool = False
    heads: tuple[int, ...] | None = None
    shared: dict[Any, Any] | None = None

    def slices(self) -> Iterator[tuple[Targets, slice]]:
        """The targets of each pattern and where its heads are."""
        start = 0
        for targets, n_heads in self.groups:
            yield targets, slice(start, start + n_heads)
            start += n_heads


@dataclass(frozen=True)
class RowStatistics:
    """What the loss needs of each row of the guided heads' attention, before dropout.

    In float32 or better. A row that may attend to nothing has zeros.

    Attributes:
        squares_BHQ: ``r_i = sum_j A_ij^2``.
        mass_BHQ: ``m_i = sum of A_ij over the targets``, or its logarithm (0 for a row without a target).
        n_targets_BHQ: the number of targets that the mask shows, float.
    """

    squares_BHQ: Tensor
    mass_BHQ: Tensor
    n_targets_BHQ: Tensor


def row_losses(statistics: RowStatistics, objective: str) -> Tensor:
    """The loss of every row: [B, H, Q].

    With ``P_i`` uniform over the targets, `squared_error` is ``sum_j (A_ij - P_ij)^2 = r - 2 m / |S| + 1 / |S|`` (the
    paper's Frobenius norm, equation 3); a row without a target has ``r`` (P = 0, as in the authors' code).
    `log_mass` is ``-log m``, 0 for a row without a target.
    """
    counted_BHQ = statistics.n_targets_BHQ > 0
    if objective == "log_mass":
        return torch.where(counted_BHQ, -statistics.mass_BHQ, 0.0)
    to_target_BHQ = (1 - 2 * statistics.mass_BHQ) / statistics.n_targets_BHQ.clamp(min=1)
    return statistics.squares_BHQ + torch.where(counted_BHQ, to_target_BHQ, 0.0)


def check_objective(objective: str) -> None:
    """Raise ConfigError for a loss that does not exist."""
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown guidance loss {objective!r}; expected one of {', '.join(OBJECTIVES)}")
