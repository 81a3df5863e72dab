"""Tile sizes and launch parameters of the kernels.

A kernel holds one tile of [queries, keys] at a time. Larger tiles read less memory per product but need more shared
memory; with smaller ones, a smaller part of the scores is in the slower tiles with targets or mask edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """The tile of one kernel.

    Attributes:
        queries, keys: tile sizes, powers of two, at least 16.
        warps: number of warps (32 threads each) per tile.
        stages: number of tiles being loaded at the same time (pipelining).
        registers: maximum registers per thread, so that a multiprocessor can hold a second program; or None.
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
        forward: the forward kernel, which loops over keys for a block of queries.
        for_queries: the same loop for the gradient of the queries.
        for_keys: the loop over queries for a block of keys, for the gradients of keys and values.
    """

    forward: Tile
    for_queries: Tile
    for_keys: Tile


MAX_CHANNELS = 128
# The index of a (query, key) pair must fit into 32 bits.
MAX_LENGTH = 46_340
# By bytes per channel and maximum number of channels: memory for queries, keys, values and their gradients grows with
# both. These are untimed starting points: compiled for sm_80, each needs less than the 99 KiB of shared memory of the
# smaller GPUs and spills few registers (docs/kernel.md).
_GEOMETRIES = {
    (2, 64): Geometry(Tile(128, 64, 8, 3, 128), Tile(64, 64, 4, 3, 168), Tile(32, 128, 8, 3)),
    (2, 128): Geometry(Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 2)),
    (4, 64): Geometry(Tile(64, 32, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2)),
    (4, 128): Geometry(Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2)),
}


def geometry_of(channels: int, dtype: torch.dtype) -> Geometry:
    """The tile sizes for a head size and dtype.

    Args:
        channels: channels per head, at most `MAX_CHANNELS`.
        dtype: dtype of queries, keys and values: float16, bfloat16 or float32.
    """
    return next(tiles for (size, most), tiles in _GEOMETRIES.items() if size == dtype.itemsize and channels <= most)


def padded_channels(channels: int) -> int:
    """The number of channels that a kernel computes with: a power of two, at least 16."""
    return max(16, 1 << (channels - 1).bit_length())


def like_projection(like_BHTD: Tensor, n_heads: int | None = None) -> Tensor:
    """An empty [B, H, T, D] tensor in the memory layout [B, T, H, D], that of projections and their gradients."""
    n_batch, own_heads, length, n_channels = like_BHTD.shape
    n_heads = n_heads or own_heads
    # No view of another tensor: what a function of autograd returns could then not be changed in place.
    strides = length * n_heads * n_channels, n_channels, n_heads * n_channels, 1
    return like_BHTD.new_empty_strided((n_batch, n_heads, length, n_channels), strides)
