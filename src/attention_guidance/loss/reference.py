"""The guidance loss by its definition, over dense attention maps: any device and precision, the oracle of the rest.

Shape suffixes: B batch, H (guided) heads, Q queries, K keys, D channels of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attention_guidance.errors import ConfigError

OBJECTIVES = ("squared_error", "log_mass")


def row_losses(
    query_BHQD: Tensor,
    key_BHKD: Tensor,
    allowed_BQK: Tensor,
    targets_BQK: Tensor,
    scale: float,
    objective: str = "squared_error",
) -> Tensor:
    """The loss of every row of the attention maps.

    With ``A_i = softmax(scale * q_i . k_j)`` over the allowed keys, before dropout, and ``P_i`` uniform over the
    targets: `squared_error` is ``sum_j (A_ij - P_ij)^2`` (the paper's Frobenius norm, equation 3) and `log_mass` is
    ``-log sum_{j in S_i} A_ij``.

    Args:
        query_BHQD: queries of the guided heads.
        key_BHKD: keys of the same heads.
        allowed_BQK: bool, the keys that a query may attend to.
        targets_BQK: bool, the pattern's targets among the allowed keys.
        scale: factor on the scores, usually ``D ** -0.5``.
        objective: `squared_error` or `log_mass`.

    Returns:
        [B, H, Q], in float32 or better. A row without a target has ``sum_j A_ij^2`` as its squared error (P = 0, as in
        the authors' code) and 0 as its log mass; a row without an allowed key has 0.
    """
    check_objective(objective)
    scores_BHQK = scale * (query_BHQD @ key_BHKD.transpose(-1, -2))
    scores_BHQK = scores_BHQK.to(torch.promote_types(scores_BHQK.dtype, torch.float32))
    allowed_B1QK, targets_B1QK = allowed_BQK[:, None], targets_BQK[:, None]
    attends_B1Q = allowed_B1QK.any(-1)
    # A row that may attend to nothing would be softmax over nothing, NaN in the gradient too: let it attend to all
    # keys and leave it out of the result.
    hidden_B1QK = ~allowed_B1QK & attends_B1Q[..., None]
    scores_BHQK = scores_BHQK.masked_fill(hidden_B1QK, -math.inf)
    n_targets_B1Q = targets_B1QK.sum(-1)
    if objective == "squared_error":
        target_B1QK = targets_B1QK / n_targets_B1Q.clamp(min=1)[..., None].to(scores_BHQK.dtype)
        rows_BHQ = (scores_BHQK.softmax(-1) - target_B1QK).square().sum(-1)
        counted_B1Q = attends_B1Q
    else:
        counted_B1Q = n_targets_B1Q > 0
        misses_B1QK = ~targets_B1QK & counted_B1Q[..., None]
        rows_BHQ = scores_BHQK.logsumexp(-1) - scores_BHQK.masked_fill(misses_B1QK, -math.inf).logsumexp(-1)
    return rows_BHQ.where(counted_B1Q, 0.0)


def check_objective(objective: str) -> None:
    """Raise ConfigError for a loss that does not exist."""
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown guidance loss {objective!r}; expected one of {', '.join(OBJECTIVES)}")
