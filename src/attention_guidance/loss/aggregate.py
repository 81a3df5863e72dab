"""From the losses of rows to the losses of heads and of a group of heads.

Shape suffixes: B batch, H (guided) heads of one pattern in one layer, Q queries, K keys.
"""

from __future__ import annotations

from torch import Tensor

from attention_guidance.errors import ConfigError

NORMALIZATIONS = ("query", "elementwise")


def query_sums(rows_BHQ: Tensor, targets_BQK: Tensor, queries_BQ: Tensor) -> tuple[Tensor, Tensor]:
    """Each head's sum over the rows that count, and their number: the query is a token and has a target.

    The quotient is the head's mean. The sum of the means over all guided heads is the guidance loss under `query`
    normalization: a weight is then the pull on each head and means the same at every length, batch size and depth.

    Args:
        rows_BHQ: losses of the rows.
        targets_BQK: bool, the pattern's targets among the keys a query may attend to.
        queries_BQ: bool, the queries that are tokens.

    Returns:
        Sums [H], and the number of rows, a scalar.
    """
    counted_BQ = queries_BQ & targets_BQK.any(-1)
    return rows_BHQ.where(counted_BQ[:, None], 0.0).sum((0, 2)), counted_BQ.sum()


def mean(total: Tensor, count: Tensor) -> Tensor:
    """A mean that is 0 where nothing counts."""
    return total / count.clamp(min=1)


def elementwise_mean(rows_BHQ: Tensor, allowed_BQK: Tensor, queries_BQ: Tensor) -> Tensor:
    """The authors' number for a group of heads: ``MSELoss`` over (B, H, Q, K), rows without a target at target zero.

    With padding (which the authors' code ignores) the mean is over the pairs of tokens.

    Args:
        rows_BHQ: squared errors of the rows.
        allowed_BQK: bool, the keys that a query may attend to.
        queries_BQ: bool, the queries that are tokens.

    Returns:
        A scalar; the loss is its sum over pattern groups and layers.
    """
    n_pairs = (allowed_BQK & queries_BQ[..., None]).sum() * rows_BHQ.shape[1]
    return rows_BHQ.where(queries_BQ[:, None], 0.0).sum() / n_pairs.clamp(min=1)


def check_normalization(normalization: str, objective: str) -> None:
    """Raise ConfigError for a normalization that does not exist or that the objective does not have."""
    if normalization not in NORMALIZATIONS:
        raise ConfigError(f"unknown normalization {normalization!r}; expected one of {', '.join(NORMALIZATIONS)}")
    if normalization == "elementwise" and objective != "squared_error":
        raise ConfigError(
            f"normalization 'elementwise' is the authors' mean squared error, not defined for loss {objective!r}; "
            "use loss='squared_error' or normalization='query'"
        )
