"""From the losses of rows to the losses of heads and of a group of heads."""

from __future__ import annotations

from torch import Tensor

from attention_guidance.errors import ConfigError

NORMALIZATIONS = ("query", "elementwise")


def query_sums(rows_BHQ: Tensor, counted_BHQ: Tensor) -> tuple[Tensor, Tensor]:
    """Each head's sum over the rows that count, and their number.

    The quotient is the head's mean. The sum of the means over all guided heads is the guidance loss under `query`
    normalization: a weight is then the pull on each head and means the same at every length, batch size and depth.

    Args:
        rows_BHQ: losses of the rows.
        counted_BHQ: bool, the rows whose query is a token and has a target.

    Returns:
        Sums and numbers of rows, [H] each, after any dimensions in front.
    """
    return rows_BHQ.where(counted_BHQ, 0.0).sum((-3, -1)), counted_BHQ.sum((-3, -1))


def mean(total: Tensor, count: Tensor) -> Tensor:
    """A mean that is 0 where nothing counts."""
    return total / count.clamp(min=1)


def elementwise_mean(rows_BHQ: Tensor, queries_BQ: Tensor, n_pairs: Tensor) -> Tensor:
    """The authors' number for a group of heads: ``MSELoss`` over (B, H, Q, K), rows without a target at target zero.

    With padding (which the authors' code ignores) the mean is over the pairs of tokens.

    Args:
        rows_BHQ: squared errors of the rows.
        queries_BQ: bool, the queries that are tokens.
        n_pairs: the number of pairs of a token and a key that it may attend to, in the whole batch.

    Returns:
        A scalar; the loss is its sum over pattern groups and layers.
    """
    return rows_BHQ.where(queries_BQ[:, None], 0.0).sum() / (n_pairs * rows_BHQ.shape[1]).clamp(min=1)


def count_pairs(queries_BT: Tensor, mask: Tensor | None) -> Tensor:
    """The pairs of a token and a key that it may attend to.

    Args:
        queries_BT: bool, the positions that are tokens.
        mask: bool [B or 1, 1, Q or 1, K] of the attention call, or None for all tokens.
    """
    if mask is None:
        return queries_BT.sum(-1).square().sum()
    n_batch, length = queries_BT.shape
    return (mask[:, 0].expand(n_batch, length, -1) & queries_BT[..., None]).sum()


def check_normalization(normalization: str, objective: str) -> None:
    """Raise ConfigError for a normalization that does not exist or that the objective does not have."""
    if normalization not in NORMALIZATIONS:
        raise ConfigError(f"unknown normalization {normalization!r}; expected one of {', '.join(NORMALIZATIONS)}")
    if normalization == "elementwise" and objective != "squared_error":
        raise ConfigError(
            f"normalization 'elementwise' is the authors' mean squared error, not defined for loss {objective!r}; "
            "use loss='squared_error' or normalization='query'"
        )
