"""Triton's interpreter, mended where it is not what a GPU does, and tiles small enough to have many in a small test.

The interpreter keeps bfloat16 as 16-bit integers: it multiplies these as they are in a product of matrices, and cuts
off what a GPU rounds. Its products are numpy's, whose order of summation is of the machine.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from attention_guidance.loss.triton import geometry
from attention_guidance.loss.triton.geometry import Geometry, Tile

_cast = InterpreterBuilder.cast_impl


def _as_float32(handle):
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _as_bfloat16(handle):
    rounded = torch.from_numpy(np.ascontiguousarray(handle.data)).to(torch.bfloat16)
    return TensorHandle(rounded.view(torch.uint16).numpy(), tl.bfloat16)


def _exact_dot(self, a, b, total, *rest):
    """Summed in the order of the shared dimension, as a GPU does.

    Some kernels of BLAS (OpenBLAS's for Haswell) sum a product and its transpose in different orders: scores made anew
    in the backward pass are not those of the forward pass then, and where all but nothing is left of a gradient, that
    is what is left.
    """
    left, right = (_as_float32(side).data.astype(np.float32) for side in (a, b))
    product = np.zeros_like(total.data)
    for column, row in zip(np.moveaxis(left, -1, 0), np.moveaxis(right, -2, 0), strict=True):
        product += column[..., :, None] * row[..., None, :]
    return TensorHandle(product + total.data, total.dtype.scalar)


def _exact_cast(self, handle, dtype):
    if handle.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
        return _as_bfloat16(handle)
    if handle.dtype.scalar == tl.bfloat16 and dtype.scalar == tl.float32:
        return _as_float32(handle)
    return _cast(self, handle, dtype)


@pytest.fixture
def exact_bfloat16(monkeypatch):
    monkeypatch.setattr(InterpreterBuilder, "create_dot", _exact_dot)
    monkeypatch.setattr(InterpreterBuilder, "cast_impl", _exact_cast)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of several shapes, so that a length of some dozens has plain ones, special ones, and a rest."""
    tiles = Geometry(Tile(16, 32, 4, 1), Tile(32, 16, 4, 1), Tile(16, 16, 4, 1))
    monkeypatch.setattr(geometry, "_GEOMETRIES", {(size, 128): tiles for size in (2, 4)})
    return tiles
