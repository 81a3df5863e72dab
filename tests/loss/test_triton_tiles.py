"""Which tiles the kernels go through, and in which order, against maps of every element."""

import pytest
import torch
from calls import MASKS, PATTERNS, make_call

from attention_guidance.loss.triton import tiles
from attention_guidance.loss.triton.geometry import Geometry, Tile
from attention_guidance.loss.triton.tiles import count_targets, prepare

TILES = Geometry(Tile(16, 32, 1, 1), Tile(32, 16, 1, 1), Tile(16, 16, 1, 1))


def kinds(call, tile):
    """Of every sequence, pattern (0: none) and tile: 0 plain, 1 special, 2 left out, by looking at each element."""
    n_batch, _, length, _ = call.query_BHQD.shape
    n_q, n_k = -(-length // tile.queries), -(-length // tile.keys)
    shown = torch.ones(n_batch, length, length, dtype=torch.bool)
    if call.mask is not None:
        shown = call.mask[:, 0].expand(n_batch, length, length)
    targets = [torch.zeros_like(shown), *(of.dense().expand_as(shown) for of, _ in call.groups)]
    result = torch.full((n_batch, len(targets), n_q, n_k), -1)
    for b in range(n_batch):
        for group, hit in enumerate(targets):
            for q in range(n_q):
                for k in range(n_k):
                    place = slice(q * tile.queries, (q + 1) * tile.queries), slice(k * tile.keys, (k + 1) * tile.keys)
                    whole = shown[b][place].all() and (k + 1) * tile.keys <= length
                    special = not whole or hit[b][place].any()
                    result[b, group, q, k] = 2 if not shown[b][place].any() else int(special)
    return result


def listed(lists, n_batch):
    """The same from lists, whose first two numbers say where one kind ends."""
    stops, order = lists.expand(n_batch, -1, -1, -1).split([2, lists.shape[-1] - 2], -1)
    result = torch.empty_like(order)
    for row in torch.cartesian_prod(*(torch.arange(size) for size in order.shape[:3])).tolist():
        n_plain, n_all = stops[tuple(row)].tolist()
        tiles = order[tuple(row)].long()
        assert sorted(tiles.tolist()) == list(range(len(tiles)))
        assert tiles[:n_plain].tolist() == sorted(tiles[:n_plain].tolist()), "in the order of memory"
        of_kinds = torch.tensor([0] * n_plain + [1] * (n_all - n_plain) + [2] * (len(tiles) - n_all))
        result[tuple(row)] = result.new_empty(len(tiles)).scatter(0, tiles, of_kinds.int())
    return result


@pytest.mark.parametrize("mask", [*MASKS, "spread"])
@pytest.mark.parametrize("length", [1, 16, 50, 96])
def test_every_tile_is_of_its_kind(length, mask):
    call = make_call(PATTERNS, "keys" if mask == "spread" else mask, length=length)
    if mask == "spread":
        object.__setattr__(call, "mask", call.mask.expand(-1, -1, length, -1))
    prepared = prepare(call, TILES)
    for name in ("forward", "for_queries", "for_keys"):
        found, tile = listed(getattr(prepared, name), 2), getattr(TILES, name)
        expected = kinds(call, tile)
        found = found.transpose(2, 3) if name == "for_keys" else found
        # A tile may be taken for special where its keys are of a class that none of its queries looks at.
        assert (found == expected).logical_or((found == 1) & (expected == 0)).all()
        assert torch.equal(found[:, :4], expected[:, :4]), "single keys are known exactly"


def test_most_tiles_of_a_long_sequence_are_plain():
    prepared = prepare(make_call(PATTERNS[:4], length=160), TILES)
    n_plain, n_all = prepared.forward[..., :2].unbind(-1)
    n_tiles = prepared.forward.shape[-1] - 2
    assert (n_all == n_tiles).all()
    assert (n_plain[:, 0] == n_tiles).all(), "all tiles of unguided heads"
    assert (n_plain[:, 1:] >= n_tiles - 2).all()


def test_codes_hold_as_many_documents_as_there_are_positions():
    call = make_call(PATTERNS[3:4], length=40)
    assert prepare(call, TILES).key_codes_BGK.dtype == torch.int32
    from attention_guidance.patterns import First, Sequences

    valid = torch.ones(1, 1 << 15, dtype=torch.bool)
    documents = torch.arange(1 << 15)[None]
    targets = First().targets(Sequences(valid, documents_BT=documents))
    long = torch.empty(1, 1, 1 << 15, 8)
    for name, value in (("groups", ((targets, 1),)), ("query_BHQD", long), ("key_BHKD", long)):
        object.__setattr__(call, name, value)
    codes = prepare(call, Geometry(*[Tile(4096, 4096, 1, 1)] * 3)).key_codes_BGK
    assert torch.equal(codes[0, 0] >> 16, documents[0])


@pytest.mark.parametrize("at_once", [1, 300, 1 << 23])
@pytest.mark.parametrize("mask", MASKS)
def test_targets_are_counted_as_the_mask_shows_them(mask, at_once, monkeypatch):
    monkeypatch.setattr(tiles, "_AT_ONCE", at_once)
    call = make_call(PATTERNS, mask, length=21, heads_each=2)
    found = count_targets(call, prepare(call, TILES))
    shown = torch.ones(2, 1, 21, 21, dtype=torch.bool) if call.mask is None else call.mask
    expected = torch.cat(
        [(of.dense()[:, None] & shown).expand(2, n_heads, 21, 21).sum(-1) for of, n_heads in call.groups], 1
    )
    assert torch.equal(found.expand_as(expected), expected.float())
    assert expected.min() == 0
    assert expected.max() > 2
