"""Forward kernel: flash attention and the row statistics in one pass.

A program handles a block of queries of one head and loops over tiles of keys. For every row, it keeps the maximum of
the scores, the sum of ``exp(s - max)`` and, if the head is guided, the sums of ``exp(2 (s - max))`` and, over the
targets, of ``exp(s - max)``. Tiles with no hidden key and no target come first and skip both mask and targets.

Scores are in units of log 2 (``scale`` contains ``log2 e``), so that ``exp`` is ``exp2``.
"""

import triton
import triton.language as tl

from attention_guidance.loss.triton.elements import are_shown, are_targets, kept, load_rows, store_rows

_LN_2 = tl.constexpr(0.6931471805599453)
_NOTHING = tl.constexpr(float("-inf"))


@triton.jit
def _finite(maximum):
    """A maximum that is safe to subtract: 0 where no key was visible."""
    return tl.where(maximum == _NOTHING, 0.0, maximum)


@triton.jit
def _walk(
    query, out, maximum, total, squares, mass, top, order_ptr, n_plain, n_all, queries,
    key_ptr, value_ptr, mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed,
    key_stride, value_stride, n_queries, n_keys, scale, dropout,
    GUIDED: tl.constexpr, VALUES: tl.constexpr, LOG_MASS: tl.constexpr, DROPOUT: tl.constexpr,
    MASK: tl.constexpr, N_PICKS: tl.constexpr, CLASSES: tl.constexpr, N_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr,
    KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Process the listed tiles: first plain ones, then special ones, which have hidden keys or targets."""
    for special in tl.static_range(2):
        first, last = 0, n_plain
        if special:
            first, last = n_plain, n_all
        for step in range(first, last):
            keys = tl.load(order_ptr + step) * KEYS + tl.arange(0, KEYS)
            key = load_rows(key_ptr, keys, key_stride, n_keys, N_CHANNELS, CHANNELS)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
            if special:
                shown = are_shown(mask_ptr, queries[:, None], keys[None, :], n_queries, n_keys, MASK)
                scores = tl.where(shown, scores, _NOTHING)
            new_maximum = tl.maximum(maximum, tl.max(scores, 1))
            known = _finite(new_maximum)
            exps = tl.math.exp2(scores - known[:, None])
            shrink = tl.math.exp2(maximum - known)
            maximum = new_maximum
            total = total * shrink + tl.sum(exps, 1)
            if GUIDED:
                squares = squares * shrink * shrink + tl.sum(exps * exps, 1)
                if not LOG_MASS:
                    mass = mass * shrink
                if special:
                    # Hidden targets do not contribute to any sum.
                    targets = are_targets(
                        picks_ptr, query_codes_ptr, key_codes_ptr, queries[:, None], keys[None, :], n_queries, n_keys,
                        N_PICKS, CLASSES,
                    )
                    if LOG_MASS:
                        # Targets have a separate maximum: a mass that underflows still has a logarithm.
                        among = tl.where(targets, scores, _NOTHING)
                        new_top = tl.maximum(top, tl.max(among, 1))
                        known_top = _finite(new_top)
                        exps_among = tl.math.exp2(among - known_top[:, None])
                        mass = mass * tl.math.exp2(top - known_top) + tl.sum(exps_among, 1)
                        top = new_top
                    else:
                        mass += tl.sum(tl.where(targets, exps, 0.0), 1)
            if VALUES:
                value = load_rows(value_ptr, keys, value_stride, n_keys, N_CHANNELS, CHANNELS)
                if DROPOUT:
                    exps = exps * kept(seed, queries[:, None], keys[None, :], n_keys, dropout)
                out = tl.dot(exps.to(value.dtype), value, out * shrink[:, None], input_precision=PRECISION)
    return out, maximum, total, squares, mass, top


@triton.jit
def attend(
    query_ptr, key_ptr, value_ptr, out_ptr, maximum_ptr, inverse_ptr,
    squares_ptr, mass_ptr, top_ptr, inverse_mass_ptr,
    mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, lists_ptr, patterns_ptr, places_ptr, seed_ptr,
    query_stride_b, query_stride_h, query_stride_t, key_stride_b, key_stride_h, key_stride_t,
    value_stride_b, value_stride_h, value_stride_t,
    mask_stride_b, picks_stride_b, codes_stride_b, tiles_stride_b,
    n_heads, n_shared, n_guided, n_tiles, n_queries, n_keys, scale, dropout,
    GUIDED: tl.constexpr, UNGUIDED: tl.constexpr, VALUES: tl.constexpr, LOG_MASS: tl.constexpr, DROPOUT: tl.constexpr,
    MASK: tl.constexpr, N_PICKS: tl.constexpr, CLASSES: tl.constexpr, N_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Output and row statistics; see `launch.py` for the arguments. The grid is (tiles x B x H)."""
    program = tl.program_id(0)
    n_query_tiles = tl.cdiv(n_queries, QUERIES)
    tile, row = program % n_query_tiles, program // n_query_tiles
    sequence, head = row // n_heads, row % n_heads
    pattern = tl.load(patterns_ptr + head)
    queries = tile * QUERIES + tl.arange(0, QUERIES)
    far = sequence.to(tl.int64)
    query_ptr += far * query_stride_b + head * query_stride_h
    key_ptr += far * key_stride_b + head // n_shared * key_stride_h
    value_ptr += far * value_stride_b + head // n_shared * value_stride_h
    query = load_rows(query_ptr, queries, query_stride_t, n_queries, N_CHANNELS, CHANNELS)
    mask_ptr += far * mask_stride_b
    listed = sequence * tiles_stride_b + pattern * n_query_tiles + tile
    lists_ptr += listed * (2 + n_tiles)
    n_plain, n_all, order_ptr = tl.load(lists_ptr), tl.load(lists_ptr + 1), lists_ptr + 2
    seed = 0
    if DROPOUT:
        seed = tl.load(seed_ptr) + row

    maximum = tl.full([QUERIES], _NOTHING, tl.float32)
    top = tl.full([QUERIES], _NOTHING, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    squares = tl.zeros([QUERIES], tl.float32)
    mass = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, CHANNELS], tl.float32)
    # Unguided heads have a separate loop, plain flash attention.
    if UNGUIDED:
        if pattern == 0:
            out, maximum, total, squares, mass, top = _walk(
                query, out, maximum, total, squares, mass, top, order_ptr, n_plain, n_all, queries,
                key_ptr, value_ptr, mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed,
                key_stride_t, value_stride_t, n_queries, n_keys, scale, dropout,
                False, VALUES, LOG_MASS, DROPOUT, MASK, N_PICKS, CLASSES, N_CHANNELS, CHANNELS, KEYS, PRECISION,
            )
    if GUIDED:
        if pattern > 0:
            picks_ptr += (sequence * picks_stride_b + pattern - 1) * N_PICKS * n_queries
            query_codes_ptr += (sequence * codes_stride_b + pattern - 1) * n_queries
            key_codes_ptr += (sequence * codes_stride_b + pattern - 1) * n_keys
            out, maximum, total, squares, mass, top = _walk(
                query, out, maximum, total, squares, mass, top, order_ptr, n_plain, n_all, queries,
                key_ptr, value_ptr, mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed,
                key_stride_t, value_stride_t, n_queries, n_keys, scale, dropout,
                True, VALUES, LOG_MASS, DROPOUT, MASK, N_PICKS, CLASSES, N_CHANNELS, CHANNELS, KEYS, PRECISION,
            )

    inside = queries < n_queries
    inverse = tl.where(total > 0, 1 / total, 0.0)
    if VALUES:
        place = row * n_queries + queries
        tl.store(maximum_ptr + place, _finite(maximum), mask=inside)
        tl.store(inverse_ptr + place, inverse, mask=inside)
        # [B, Q, H, D], the layout that the output projection needs.
        out_ptr += far * n_queries * n_heads * N_CHANNELS + head * N_CHANNELS
        store_rows(out_ptr, out * inverse[:, None], queries, n_heads * N_CHANNELS, n_queries, N_CHANNELS, CHANNELS)
    if pattern > 0:
        place = (sequence * n_guided + tl.load(places_ptr + head)) * n_queries + queries
        tl.store(squares_ptr + place, squares * inverse * inverse, mask=inside)
        if LOG_MASS:
            # The largest target contributes exactly 1 to the sum.
            seen = mass > 0
            log_mass = (top - maximum) * _LN_2 + tl.log(mass) + tl.log(inverse)
            tl.store(mass_ptr + place, tl.where(seen, log_mass, 0.0), mask=inside)
            tl.store(top_ptr + place, _finite(top), mask=inside)
            tl.store(inverse_mass_ptr + place, tl.where(seen, 1 / mass, 0.0), mask=inside)
        else:
            tl.store(mass_ptr + place, mass * inverse, mask=inside)
