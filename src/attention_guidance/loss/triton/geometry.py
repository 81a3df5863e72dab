"""How scores are cut into tiles, and how a GPU works on one.

A kernel holds one tile of [queries, keys] at a time. Larger tiles read less memory for each product and need more of
the fast memory; smaller ones leave fewer tiles that hold targets or the edge of a mask, which take longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """The tile of one kernel.

    Attributes:
        queries, keys: its sizes, powers of two, at least 16.
        warps: groups of 32 threads that work on it.
        stages: tiles that are on their way from memory at a time.
        registers: the most that a thread may have, so that a multiprocessor has room for another program; or None.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


@dataclass(frozen=True)
class Geometry:
    """The tiles of the three kernels.

    Attributes:
        forward: goes through the keys for some queries.
        for_queries: the same, for the gradient of queries.
        for_keys: goes through the queries for some keys, for the gradients of keys and values.
    """

    forward: Tile
    for_queries: Tile
    for_keys: Tile


MAX_CHANNELS = 128
# The place of a pair of positions is a number of 32 bits.
MAX_LENGTH = 46_340
# By the bytes of a channel and the most channels: what is held of queries, keys, values and their gradients grows with
# both. Starting points, none of them timed yet: each compiles for sm_80 into less than the 99 KiB of shared
# memory that the smaller GPUs have, with few registers spilled (docs/kernel.md).
_GEOMETRIES = {
    (2, 64): Geometry(Tile(128, 64, 8, 3, 128), Tile(64, 64, 4, 3, 168), Tile(32, 128, 8, 3)),
    (2, 128): Geometry(Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 2)),
    (4, 64): Geometry(Tile(64, 32, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2)),
    (4, 128): Geometry(Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2)),
}


def geometry_of(channels: int, dtype: torch.dtype) -> Geometry:
    """The tiles for heads of a size.

    Args:
        channels: of a head, at most `MAX_CHANNELS`.
        dtype: of queries, keys and values: float16, bfloat16 or float32.
    """
    return next(tiles for (size, most), tiles in _GEOMETRIES.items() if size == dtype.itemsize and channels <= most)


def padded_channels(channels: int) -> int:
    """The power of two, at least 16, that a kernel calculates with."""
    return max(16, 1 << (channels - 1).bit_length())


def like_projection(like_BHTD: Tensor, n_heads: int | None = None) -> Tensor:
    """[B, H, T, D], empty, in the memory of [B, T, H, D], as projections make them and want their gradients."""
    n_batch, own_heads, length, n_channels = like_BHTD.shape
    return like_BHTD.new_empty(n_batch, length, n_heads or own_heads, n_channels).transpose(1, 2)
