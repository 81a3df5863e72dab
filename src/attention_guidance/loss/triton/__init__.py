"""Triton backend: flash attention kernels that also compute the row statistics.

One launch computes all heads of a layer, guided or not. docs/kernel.md explains the derivation and the tiling.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.statistics import RowStatistics
from attention_guidance.loss.triton.geometry import MAX_CHANNELS, MAX_LENGTH, Geometry, geometry_of
from attention_guidance.loss.triton.operator import attention
from attention_guidance.loss.triton.tiles import Prepared, count_targets, prepare

__all__ = ["MAX_CHANNELS", "MAX_LENGTH", "attend", "installed", "interpreted", "statistics"]


# torch.compile cannot trace find_spec.
_INSTALLED = importlib.util.find_spec("triton") is not None


def installed() -> bool:
    """Whether Triton is installed."""
    return _INSTALLED


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, which is slow but works on any device: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def attend(call: AttentionCall) -> tuple[Tensor, RowStatistics]:
    """Output [B, H, Q, D] of all heads of a call and row statistics of the guided ones, with gradients."""
    seed = None
    if call.dropout:
        # Drawn outside the operator, from the device's generator, so that activation checkpointing draws the same seed.
        seed = torch.randint(2**62, (1,), device=call.query_BHQD.device)
    return _fused(call, seed, with_output=True)


def statistics(call: AttentionCall) -> RowStatistics:
    """The row statistics alone, without gradient."""
    return _fused(call.without_gradient(), None, with_output=False)[1]


def _fused(call: AttentionCall, seed: Tensor | None, with_output: bool) -> tuple[Tensor, RowStatistics]:
    heads = range(call.query_BHQD.shape[1]) if call.heads is None else call.heads
    tiles = geometry_of(call.query_BHQD.shape[3], call.query_BHQD.dtype)
    prepared, n_targets_BHQ = call.once(tiles, lambda: _prepared(call, tiles))
    out_BHQD, squares_BHQ, mass_BHQ, *_ = attention(
        call.query_BHQD, call.key_BHKD, call.value_BHKD, call.mask, *prepared, list(heads),
        [n_heads for _, n_heads in call.groups], call.scale, call.dropout, seed, call.log_mass, with_output,
    )  # fmt: skip
    return out_BHQD, RowStatistics(squares_BHQ, mass_BHQ, n_targets_BHQ.expand_as(squares_BHQ))


def _prepared(call: AttentionCall, tiles: Geometry) -> tuple[Prepared, Tensor]:
    """What the kernels need of targets and mask, and the numbers of targets."""
    prepared = prepare(call, tiles)
    return prepared, count_targets(call, prepared)
