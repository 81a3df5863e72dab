"""Reduce row losses to the losses of heads and groups of heads."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from attention_guidance.errors import ConfigError

Normalization = Literal["query", "elementwise"]
"""The scale of the loss: the sum over heads of the mean over rows, or the authors' mean over elements."""

NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)


def query_sums(rows_BHQ: Tensor, counted_BHQ: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of each head's losses over the rows that count, and the number of these rows.

    Their quotient is the head's mean loss. With `query` normalization, the guidance loss is the sum of these means over
    all guided heads: the weight then applies to each head, whatever the length, batch size and depth.

    Args:
        rows_BHQ: losses of the rows.
        counted_BHQ: bool, True for rows whose query is a token and has a target.

    Returns:
        Sums and numbers of rows, [H] each, after any leading dimensions.
    """
    return rows_BHQ.where(counted_BHQ, 0.0).sum((-3, -1)), counted_BHQ.sum((-3, -1))


def mean(total: Tensor, count: Tensor) -> Tensor:
    """The mean, or 0 where the count is 0."""
    return total / count.clamp(min=1)


def elementwise_mean(rows_BHQ: Tensor, queries_BQ: Tensor, n_pairs: Tensor) -> Tensor:
    """The authors' loss of a group of heads: ``MSELoss`` over (B, H, Q, K), with zero maps for rows without a target.

    With padding (which the authors' code ignores), the mean is over pairs of tokens.

    Args:
        rows_BHQ: squared errors of the rows.
        queries_BQ: bool, True for queries that are tokens.
        n_pairs: number of (token, visible key) pairs in the whole batch.

    Returns:
        A scalar; the loss is the sum of these over pattern groups and layers.
    """
    return rows_BHQ.where(queries_BQ[:, None], 0.0).sum() / (n_pairs * rows_BHQ.shape[1]).clamp(min=1)


def count_pairs(queries_BT: Tensor, mask: Tensor | None) -> Tensor:
    """Count the pairs of a token and a key that it may attend to.

    Args:
        queries_BT: bool, True for tokens.
        mask: the attention mask, bool [B or 1, 1, Q or 1, K], or None if tokens attend to all tokens.
    """
    if mask is None:
        return queries_BT.sum(-1).square().sum()
    n_batch, length = queries_BT.shape
    return (mask[:, 0].expand(n_batch, length, -1) & queries_BT[..., None]).sum()


def check_normalization(normalization: str, objective: str) -> None:
    """Raise ConfigError if the normalization is unknown or not defined for the objective."""
    if normalization not in NORMALIZATIONS:
        raise ConfigError(f"unknown normalization {normalization!r}; expected one of {', '.join(NORMALIZATIONS)}")
    if normalization == "elementwise" and objective != "squared_error":
        raise ConfigError(
            f"normalization 'elementwise' is a mean squared error, not defined for loss {objective!r}; "
            "use loss='squared_error' or normalization='query'"
        )
