"""Prepare targets and tile lists for the kernels.

A tile is plain if every query sees every key in it and none is a target; special if it has hidden keys or targets; and
left out if all its keys are hidden. Most tiles of most patterns are plain and computed as in flash attention.

Pattern 0 of the lists is that of unguided heads, which has no targets; those of the call follow.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.triton.geometry import Geometry, Tile
from attention_guidance.patterns import Targets
from attention_guidance.patterns.targets import CLASS_BITS, MAX_CLASSES, share_class


class Prepared(NamedTuple):
    """Targets and tile lists in the form that the kernels take.

    Attributes:
        picks_BGPQ: int32, positions of single keys, -1 for none. Has no entry for unguided heads; nor do the codes.
        query_codes_BGQ, key_codes_BGK: class codes; G is 0 if no pattern has classes.
        forward, for_queries: int32 [B, G, X, 2 + Y]. For each row of tiles, how many of it are plain, how many plain or
            special, and their numbers: plain ones, special ones, those left out.
        for_keys: the same by tiles of keys, [B, G, Y, 2 + X].
    """

    picks_BGPQ: Tensor
    query_codes_BGQ: Tensor
    key_codes_BGK: Tensor
    forward: Tensor
    for_queries: Tensor
    for_keys: Tensor


def prepare(call: AttentionCall, geometry: Geometry) -> Prepared:
    """What the kernels need of a call's targets and mask; the layers of a pass that share these can share it."""
    n_queries, n_keys = call.query_BHQD.shape[2], call.key_BHKD.shape[2]
    groups = [targets for targets, _ in call.groups]
    device = call.query_BHQD.device
    picks_BGPQ = _picks(groups, n_queries, device)
    query_codes_BGQ, key_codes_BGK = _codes(groups, n_queries, n_keys, device)

    def kinds(tile: Tile) -> Tensor:
        return _kinds(call.mask, picks_BGPQ, key_codes_BGK, n_queries, n_keys, tile)

    return Prepared(
        picks_BGPQ,
        query_codes_BGQ,
        key_codes_BGK,
        _lists(kinds(geometry.forward)),
        _lists(kinds(geometry.for_queries)),
        _lists(kinds(geometry.for_keys).transpose(2, 3)),
    )


def _picks(groups: list[Targets], n_queries: int, device: torch.device) -> Tensor:
    """The single keys of all patterns, padded with -1: int32 [B, G, P, Q]."""
    listed = [targets.picks_BQP for targets in groups if targets.picks_BQP is not None]
    n_batch = max([1, *(picks_BQP.shape[0] for picks_BQP in listed)])
    n_picks = max([0, *(picks_BQP.shape[2] for picks_BQP in listed)])
    result = torch.full((n_batch, len(groups), n_picks, n_queries), -1, dtype=torch.int32, device=device)
    for group, targets in enumerate(groups):
        if targets.picks_BQP is not None:
            result[:, group, : targets.picks_BQP.shape[2]] = targets.picks_BQP.transpose(1, 2)
    return result


def _codes(groups: list[Targets], n_queries: int, n_keys: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The class codes of all patterns, [B, G, Q] and [B, G, K]; 0 for patterns without classes."""
    codes = [
        (group, targets.query_classes_BQ, targets.key_classes_BK)
        for group, targets in enumerate(groups)
        if targets.query_classes_BQ is not None and targets.key_classes_BK is not None
    ]
    n_batch = max([1, *(code.shape[0] for _, *pair in codes for code in pair)])
    n_groups = len(groups) if codes else 0
    # The bits above the classes are the document index; there are at most as many documents as positions.
    dtype = torch.int32 if max(n_queries, n_keys) < 1 << (31 - MAX_CLASSES) else torch.int64
    queries = torch.zeros(n_batch, n_groups, n_queries, dtype=dtype, device=device)
    keys = torch.zeros(n_batch, n_groups, n_keys, dtype=dtype, device=device)
    for group, of_queries, of_keys in codes:
        queries[:, group], keys[:, group] = of_queries, of_keys
    return queries, keys


# Maximum number of elements in a temporary map of targets.
_AT_ONCE = 1 << 23


def count_targets(call: AttentionCall, prepared: Prepared) -> Tensor:
    """How many targets the mask shows each query: float32 [B or 1, H, Q].

    Counting in the kernels would use scarce registers and be repeated for every layer.
    """
    picks_BGPQ, query_codes_BGQ, key_codes_BGK = prepared[:3]
    n_batch, n_groups, n_picks, n_queries = picks_BGPQ.shape
    n_keys = call.key_BHKD.shape[2]
    tensors = (picks_BGPQ, key_codes_BGK) if call.mask is None else (picks_BGPQ, key_codes_BGK, call.mask)
    n_batch = max([tensor.shape[0] for tensor in tensors])
    shown_BPQ = picks_BGPQ.expand(n_batch, -1, -1, -1).flatten(1, 2) >= 0
    if call.mask is not None:
        mask_BQK = call.mask[:, 0].expand(n_batch, n_queries, n_keys)
        picked_BQP = picks_BGPQ.clamp(min=0).long().flatten(1, 2).transpose(1, 2).expand(n_batch, -1, -1)
        shown_BPQ = shown_BPQ & mask_BQK.gather(2, picked_BQP).transpose(1, 2)
    counts_BGQ = shown_BPQ.reshape(n_batch, n_groups, n_picks, n_queries).sum(2)
    # A target is one of a query's picks, or in one of its classes.
    at_once = max(1, _AT_ONCE // (n_batch * n_keys))
    for group, (targets, _) in enumerate(call.groups):
        for start in range(0, n_queries if targets.key_classes_BK is not None else 0, at_once):
            queries = slice(start, start + at_once)
            members_BQK = share_class(key_codes_BGK[:, group, None], query_codes_BGQ[:, group, queries, None])
            if call.mask is not None:
                members_BQK = members_BQK & (call.mask if call.mask.shape[2] == 1 else call.mask[:, :, queries])[:, 0]
            counts_BGQ[:, group, queries] += members_BQK.sum(-1)
    of_heads = [group for group, (_, n_heads) in enumerate(call.groups) for _ in range(n_heads)]
    return counts_BGQ[:, of_heads].float()


def is_of_keys(mask: Tensor) -> bool:
    """Whether a mask hides the same keys from every query: [B, 1, 1, K], or expanded from that."""
    return mask.shape[2] == 1 or mask.stride(2) == 0


# Kinds of tiles, in the order in which they are listed.
_PLAIN, _SPECIAL, _LEFT_OUT = 0, 1, 2


def _kinds(
    mask: Tensor | None, picks_BGPQ: Tensor, key_codes_BGK: Tensor, n_queries: int, n_keys: int, tile: Tile
) -> Tensor:
    """The kind of every tile, [B, G, X, Y]."""
    if mask is None:
        mask = torch.ones(1, 1, 1, n_keys, dtype=torch.bool, device=picks_BGPQ.device)
    shown_BQK = mask[:, 0, :1] if is_of_keys(mask) else mask[:, 0]
    # A key beyond the sequence is a hidden one, a query beyond it is none.
    by_tile_BQYK = _tiled(shown_BQK, 2, tile.keys, False)
    some_BXY, all_BXY = by_tile_BQYK.any(3), by_tile_BQYK.all(3)
    if shown_BQK.shape[1] > 1:
        some_BXY = _tiled(some_BXY, 1, tile.queries, False).any(2)
        all_BXY = _tiled(all_BXY, 1, tile.queries, True).all(2)
    n_query_tiles, n_key_tiles = -(-n_queries // tile.queries), some_BXY.shape[2]
    hold_BGXY = _hold_picks(picks_BGPQ, n_key_tiles, tile)
    if key_codes_BGK.shape[1]:
        members_BGK = (key_codes_BGK & CLASS_BITS) != 0
        hold_BGXY = hold_BGXY | _tiled(members_BGK, 2, tile.keys, False).any(3)[:, :, None]
    # Unguided heads have no targets.
    hold_BGXY = functional.pad(hold_BGXY, (0, 0, 0, 0, 1, 0))
    kinds_BGXY = torch.where(hold_BGXY | ~all_BXY[:, None], _SPECIAL, _PLAIN)
    return torch.where(some_BXY[:, None], kinds_BGXY, _LEFT_OUT).expand(-1, -1, n_query_tiles, -1)


def _hold_picks(picks_BGPQ: Tensor, n_key_tiles: int, tile: Tile) -> Tensor:
    """The tiles that hold a single key of one of their queries: bool [B, G, X, Y]."""
    tiles_BGPQ = picks_BGPQ.div(tile.keys, rounding_mode="floor").long()
    tiles_BGPXQ = _tiled(torch.where(picks_BGPQ < 0, n_key_tiles, tiles_BGPQ), 3, tile.queries, n_key_tiles)
    tiles_BGXP = tiles_BGPXQ.transpose(2, 3).flatten(3)
    # Those of no key come into a column of their own.
    hold = torch.zeros(*tiles_BGXP.shape[:3], n_key_tiles + 1, dtype=torch.bool, device=picks_BGPQ.device)
    return hold.scatter(3, tiles_BGXP, True)[..., :n_key_tiles]


def _tiled(tensor: Tensor, dim: int, size: int, fill: float) -> Tensor:
    """Split a dimension into tiles, [..., tiles, size, ...], padded at the end."""
    length = tensor.shape[dim]
    n_tiles = -(-length // size)
    beyond = (0, 0) * (tensor.dim() - 1 - dim) + (0, n_tiles * size - length)
    shape = *tensor.shape[:dim], n_tiles, size, *tensor.shape[dim + 1 :]
    return functional.pad(tensor, beyond, value=fill).reshape(shape)


def _lists(kinds_BGXY: Tensor) -> Tensor:
    """The tiles of each row by their kinds, see `Prepared`."""
    order = kinds_BGXY.argsort(dim=-1, stable=True)
    n_plain = (kinds_BGXY == _PLAIN).sum(-1, keepdim=True)
    n_special = (kinds_BGXY == _SPECIAL).sum(-1, keepdim=True)
    return torch.cat([n_plain, n_plain + n_special, order], -1).int()
