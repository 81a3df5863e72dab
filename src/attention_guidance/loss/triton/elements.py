"""Functions shared by the kernels: rows, masks, targets and dropout of a tile.

`queries` and `keys` are positions that broadcast to the tile in either orientation: [q, 1] and [1, k], or [1, q] and
[k, 1].
"""

import triton
import triton.language as tl

from attention_guidance.patterns.targets import CLASS_BITS, MAX_CLASSES

_CLASS_BITS = tl.constexpr(CLASS_BITS)
_N_CLASS_BITS = tl.constexpr(MAX_CLASSES)


@triton.jit
def load_rows(start_ptr, positions, stride, n_positions, N_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Load rows of channels, [positions, CHANNELS], with zeros beyond the sequence and beyond `N_CHANNELS`."""
    channels = tl.arange(0, CHANNELS)
    inside = positions[:, None] < n_positions
    if CHANNELS > N_CHANNELS:
        inside = inside & (channels[None, :] < N_CHANNELS)
    return tl.load(start_ptr + positions[:, None] * stride + channels[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(start_ptr, rows, positions, stride, n_positions, N_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Store rows of channels: the inverse of `load_rows`."""
    channels = tl.arange(0, CHANNELS)
    inside = positions[:, None] < n_positions
    if CHANNELS > N_CHANNELS:
        inside = inside & (channels[None, :] < N_CHANNELS)
    place = start_ptr + positions[:, None] * stride + channels[None, :]
    tl.store(place, rows.to(start_ptr.dtype.element_ty), mask=inside)


@triton.jit
def are_shown(mask_ptr, queries, keys, n_queries, n_keys, MASK: tl.constexpr):
    """Whether a query may attend to a key; `mask_ptr` points to [K] or [Q, K] bytes."""
    shown = keys < n_keys
    if MASK == "keys":
        shown = tl.load(mask_ptr + keys, mask=shown, other=0) != 0
    if MASK == "pairs":
        shown = shown & (queries < n_queries)
        shown = tl.load(mask_ptr + queries * n_keys + keys, mask=shown, other=0) != 0
    return shown


@triton.jit
def are_targets(
    picks_ptr, query_codes_ptr, key_codes_ptr, queries, keys, n_queries, n_keys,
    N_PICKS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Whether a key is a target of a query: one of its picks, [P, Q], or in its classes (`patterns/targets.py`)."""
    targets = (queries < 0) & (keys < 0)
    for pick in tl.static_range(N_PICKS):
        place = picks_ptr + pick * n_queries + queries
        targets = targets | (tl.load(place, mask=queries < n_queries, other=-1) == keys)
    if CLASSES:
        wanted = tl.load(query_codes_ptr + queries, mask=queries < n_queries, other=0)
        codes = tl.load(key_codes_ptr + keys, mask=keys < n_keys, other=0)
        same_document = ((wanted ^ codes) >> _N_CLASS_BITS) == 0
        targets = targets | (same_document & ((wanted & codes & _CLASS_BITS) != 0))
    return targets


@triton.jit
def kept(seed, queries, keys, n_keys, dropout):
    """The dropout factor on a probability; a repeated call gives the same result.

    `seed` is for one head of one sequence, so that the index of an element fits into 32 bits.
    """
    return tl.where(tl.rand(seed, queries * n_keys + keys) >= dropout, 1.0 / (1.0 - dropout), 0.0)
