"""Confidence intervals of means (from running sums, by a bootstrap) and of rank correlations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Bootstrap resamples of fewer pairs consist mostly of ties.
_FEW = 5
#: With fewer sequences or texts, percentiles of a bootstrap over them are much too narrow.
FEWEST = 10


class RatioSums:
    """Running mean over the rows of sequences that differ in length.

    Rows of one sequence are not independent, so the confidence interval is over sequences: that of a ratio of sums, by
    linearization (Cochran 1977, section 6.4). Memory is five arrays of the given shape.

    Args:
        shape: shape of the quantity.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n = np.zeros(shape)
        self.sum_s, self.sum_n, self.sum_ss, self.sum_sn, self.sum_nn = (np.zeros(shape) for _ in range(5))

    def add(self, sums: npt.ArrayLike, counts: npt.ArrayLike) -> None:
        """Add sequences.

        Args:
            sums: sums over the rows of each sequence, [B, *shape].
            counts: numbers of these rows, [B, *shape]; a sequence with 0 rows does not count.
        """
        s, n = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
        self.n += (n > 0).sum(0)
        self.sum_s += s.sum(0)
        self.sum_n += n.sum(0)
        self.sum_ss += (s * s).sum(0)
        self.sum_sn += (s * n).sum(0)
        self.sum_nn += (n * n).sum(0)

    def estimate(self, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Mean and both ends of its interval; all NaN if there are no rows, the ends also for a single sequence."""
        from scipy.stats import t

        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.sum_s / self.sum_n
            residual = self.sum_ss - 2 * mean * self.sum_sn + mean**2 * self.sum_nn
            variance = self.n / (self.n - 1) * np.maximum(residual, 0) / self.sum_n**2
            half = t.ppf((1 + level) / 2, np.maximum(self.n - 1, 1)) * np.sqrt(variance)
        half = np.where(self.n > 1, half, np.nan)
        return mean, mean - half, mean + half


def resampled_ratios(sums_GP: Array, counts_G: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Ratios of sums on a sample of texts or sequences (row 0) and on bootstrap resamples of it.

    Args:
        sums_GP: sums over the rows of each text, for each quantity.
        counts_G: numbers of these rows.
        rng: draws the texts of a resample, the same ones for all quantities.
        resamples: number of bootstrap resamples.

    Returns:
        [1 + resamples, P]; NaN if there are no rows.
    """
    n_texts = len(counts_G)
    if not n_texts:
        return np.full((1 + resamples, sums_GP.shape[1]), np.nan)
    drawn_RG = rng.multinomial(n_texts, np.full(n_texts, 1 / n_texts), size=resamples)
    times_RG = np.concatenate([np.ones((1, n_texts)), drawn_RG])
    result: Array = (times_RG @ sums_GP) / (times_RG @ counts_G)[:, None]
    return result


def rank_correlation(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int = 1, resamples: int = 2000
) -> tuple[float, float, float]:
    """Spearman's rank correlation and both ends of its 95 % interval, from a bootstrap over the pairs.

    Args:
        first: the first number of each pair.
        second: the second number of each pair.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        Correlation, lower end and upper end. All are NaN if there are fewer than three pairs, a variable is constant,
        or a number is not finite; the ends are also NaN for fewer than five pairs.
    """
    from scipy.stats import rankdata

    x, y = rankdata(first), rankdata(second)
    known = np.isfinite(np.asarray(first, float)).all() and np.isfinite(np.asarray(second, float)).all()
    if not known or len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan"), float("nan"), float("nan")
    if len(x) < _FEW:
        return float(np.corrcoef(x, y)[0, 1]), float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(x), size=(resamples, len(x)))
    # Rank each resample separately: a pair drawn twice is tied with itself.
    pairs = rankdata(np.asarray(first)[drawn], axis=1), rankdata(np.asarray(second)[drawn], axis=1)
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in pairs)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(np.corrcoef(x, y)[0, 1]), float(low), float(high)
