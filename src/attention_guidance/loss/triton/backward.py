"""Backward kernels: they recompute each tile of scores, as flash attention does.

They need no more matrix products than flash attention. With ``A = exp(s - max) / total`` from the forward pass, and
``g_r``, ``g_m`` the gradients with respect to a row's sum of squares and mass, the gradient with respect to A is
``dO . v`` plus ``2 g_r A`` plus, on the targets, ``g_m``. Through the softmax:

    ds = A (dO . v + 2 g_r A + g_m [target] - delta),   delta = dO . O + 2 g_r r + g_m m

If ``g_m`` is the gradient of the logarithm of the mass, the term on the targets is ``g_m exp(s - LS)``, outside the
brackets, with LS the logsumexp over the targets, and ``delta`` contains ``g_m`` itself.

Maximum and total are stored separately, not as a logsumexp: where a head follows its pattern, the terms cancel almost
exactly, and only the logsumexp's rounding error would remain.
"""

import triton
import triton.language as tl

from attention_guidance.loss.triton.elements import are_shown, are_targets, kept, load_rows, store_rows

_LOG2_E = tl.constexpr(1.4426950408889634)
_NOTHING = tl.constexpr(float("-inf"))


@triton.jit
def deltas(
    out_ptr, grad_out_ptr, delta_ptr, squares_ptr, mass_ptr, inverse_mass_ptr, grad_squares_ptr, grad_mass_ptr,
    patterns_ptr, places_ptr, n_heads, n_guided, n_queries,
    LOG_MASS: tl.constexpr, N_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr, QUERIES: tl.constexpr,
):
    """Compute delta [B, H, Q], which is subtracted from the gradient of every element of a row."""
    program = tl.program_id(0)
    n_query_tiles = tl.cdiv(n_queries, QUERIES)
    tile, row = program % n_query_tiles, program // n_query_tiles
    sequence, head = row // n_heads, row % n_heads
    queries = tile * QUERIES + tl.arange(0, QUERIES)
    inside = queries < n_queries
    first = sequence.to(tl.int64) * n_queries * n_heads * N_CHANNELS + head * N_CHANNELS
    stride = n_heads * N_CHANNELS
    out = load_rows(out_ptr + first, queries, stride, n_queries, N_CHANNELS, CHANNELS).to(tl.float32)
    grad_out = load_rows(grad_out_ptr + first, queries, stride, n_queries, N_CHANNELS, CHANNELS).to(tl.float32)
    delta = tl.sum(out * grad_out, 1)
    if tl.load(patterns_ptr + head) > 0:
        place = (sequence * n_guided + tl.load(places_ptr + head)) * n_queries + queries
        squares = tl.load(squares_ptr + place, mask=inside, other=0.0)
        grad_squares = tl.load(grad_squares_ptr + place, mask=inside, other=0.0)
        grad_mass = tl.load(grad_mass_ptr + place, mask=inside, other=0.0)
        if LOG_MASS:
            mass = (tl.load(inverse_mass_ptr + place, mask=inside, other=0.0) > 0).to(tl.float32)
        else:
            mass = tl.load(mass_ptr + place, mask=inside, other=0.0)
        delta += 2 * grad_squares * squares + grad_mass * mass
    tl.store(delta_ptr + row * n_queries + queries, delta, mask=inside)


@triton.jit
def _gradients(
    scores, products, maximum, inverse, delta, grad_squares, grad_mass, top, inverse_mass, queries, keys,
    mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed, n_queries, n_keys, dropout,
    GUIDED: tl.constexpr, SPECIAL: tl.constexpr, LOG_MASS: tl.constexpr, DROPOUT: tl.constexpr, MASK: tl.constexpr,
    N_PICKS: tl.constexpr, CLASSES: tl.constexpr,
):
    """For one tile in either orientation: the gradient with respect to its scores, and the weights of its values.

    `products` are those of the output's gradient with the values; quantities of rows are broadcast to the tile.
    """
    if SPECIAL:
        shown = are_shown(mask_ptr, queries, keys, n_queries, n_keys, MASK)
        scores = tl.where(shown, scores, _NOTHING)
    probabilities = tl.math.exp2(scores - maximum) * inverse
    weights = probabilities
    if DROPOUT:
        factor = kept(seed, queries, keys, n_keys, dropout)
        weights = probabilities * factor
        products = products * factor
    if GUIDED:
        products += 2 * grad_squares * probabilities
        if SPECIAL:
            # Hidden targets have probability 0, and so no gradient.
            targets = are_targets(
                picks_ptr, query_codes_ptr, key_codes_ptr, queries, keys, n_queries, n_keys, N_PICKS, CLASSES
            )
            if not LOG_MASS:
                products += tl.where(targets, grad_mass, 0.0)
    gradients = probabilities * (products - delta)
    if GUIDED and SPECIAL and LOG_MASS:
        among = tl.math.exp2(tl.where(targets, scores - top, _NOTHING)) * inverse_mass
        gradients += grad_mass * among
    return gradients, weights


@triton.jit
def _walk_keys(
    query, grad_out, grad_query, maximum, inverse, delta, grad_squares, grad_mass, top, inverse_mass,
    order_ptr, n_plain, n_all, queries,
    key_ptr, value_ptr, mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed,
    key_stride, value_stride, n_queries, n_keys, scale, dropout,
    GUIDED: tl.constexpr, LOG_MASS: tl.constexpr, DROPOUT: tl.constexpr, MASK: tl.constexpr,
    N_PICKS: tl.constexpr, CLASSES: tl.constexpr, N_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr,
    KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Add the listed tiles to the gradient of a block of queries: first plain tiles, then special ones."""
    for special in tl.static_range(2):
        first, last = 0, n_plain
        if special:
            first, last = n_plain, n_all
        for step in range(first, last):
            keys = tl.load(order_ptr + step) * KEYS + tl.arange(0, KEYS)
            key = load_rows(key_ptr, keys, key_stride, n_keys, N_CHANNELS, CHANNELS)
            value = load_rows(value_ptr, keys, value_stride, n_keys, N_CHANNELS, CHANNELS)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
            products = tl.dot(grad_out, tl.trans(value), input_precision=PRECISION)
            gradients, _ = _gradients(
                scores, products, maximum[:, None], inverse[:, None], delta[:, None], grad_squares[:, None],
                grad_mass[:, None], top[:, None], inverse_mass[:, None], queries[:, None], keys[None, :],
                mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed, n_queries, n_keys, dropout,
                GUIDED, special, LOG_MASS, DROPOUT, MASK, N_PICKS, CLASSES,
            )
            grad_query = tl.dot(gradients.to(key.dtype), key, grad_query, input_precision=PRECISION)
    return grad_query


@triton.jit
def _walk_queries(
    key, value, grad_key, grad_value, order_ptr, n_plain, n_all, keys,
    query_ptr, grad_out_ptr, maximum_ptr, inverse_ptr, delta_ptr, grad_squares_ptr, grad_mass_ptr, top_ptr,
    inverse_mass_ptr, mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed,
    query_stride, grad_stride, n_queries, n_keys, scale, dropout,
    GUIDED: tl.constexpr, LOG_MASS: tl.constexpr, DROPOUT: tl.constexpr, MASK: tl.constexpr,
    N_PICKS: tl.constexpr, CLASSES: tl.constexpr, N_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr,
    QUERIES: tl.constexpr, PRECISION: tl.constexpr,
):
    """Add the listed tiles, [keys, queries], to the gradients of a block of keys and values: plain, then special.

    Quantities of rows are those of the head, or of the guided head.
    """
    for special in tl.static_range(2):
        first, last = 0, n_plain
        if special:
            first, last = n_plain, n_all
        for step in range(first, last):
            queries = tl.load(order_ptr + step) * QUERIES + tl.arange(0, QUERIES)
            inside = queries < n_queries
            query = load_rows(query_ptr, queries, query_stride, n_queries, N_CHANNELS, CHANNELS)
            grad_out = load_rows(grad_out_ptr, queries, grad_stride, n_queries, N_CHANNELS, CHANNELS)
            maximum = tl.load(maximum_ptr + queries, mask=inside, other=0.0)
            # 0 beyond the end of the sequence: such queries attend to no key.
            inverse = tl.load(inverse_ptr + queries, mask=inside, other=0.0)
            delta = tl.load(delta_ptr + queries, mask=inside, other=0.0)
            grad_squares, grad_mass, top, inverse_mass = delta, delta, delta, delta
            if GUIDED:
                grad_squares = tl.load(grad_squares_ptr + queries, mask=inside, other=0.0)
                grad_mass = tl.load(grad_mass_ptr + queries, mask=inside, other=0.0)
                if LOG_MASS:
                    top = tl.load(top_ptr + queries, mask=inside, other=0.0)
                    inverse_mass = tl.load(inverse_mass_ptr + queries, mask=inside, other=0.0)
            scores = tl.dot(key, tl.trans(query), input_precision=PRECISION) * scale
            products = tl.dot(value, tl.trans(grad_out), input_precision=PRECISION)
            gradients, weights = _gradients(
                scores, products, maximum[None, :], inverse[None, :], delta[None, :], grad_squares[None, :],
                grad_mass[None, :], top[None, :], inverse_mass[None, :], queries[None, :], keys[:, None],
                mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed, n_queries, n_keys, dropout,
                GUIDED, special, LOG_MASS, DROPOUT, MASK, N_PICKS, CLASSES,
            )
            grad_value = tl.dot(weights.to(grad_out.dtype), grad_out, grad_value, input_precision=PRECISION)
            grad_key = tl.dot(gradients.to(query.dtype), query, grad_key, input_precision=PRECISION)
    return grad_key, grad_value


@triton.jit
def of_queries(
    query_ptr, key_ptr, value_ptr, grad_out_ptr, grad_query_ptr, maximum_ptr, inverse_ptr, delta_ptr,
    grad_squares_ptr, grad_mass_ptr, top_ptr, inverse_mass_ptr,
    mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, lists_ptr, patterns_ptr, places_ptr, seed_ptr,
    query_stride_b, query_stride_h, query_stride_t, key_stride_b, key_stride_h, key_stride_t,
    value_stride_b, value_stride_h, value_stride_t,
    mask_stride_b, picks_stride_b, codes_stride_b, tiles_stride_b,
    n_heads, n_shared, n_guided, n_tiles, n_queries, n_keys, scale, dropout,
    GUIDED: tl.constexpr, UNGUIDED: tl.constexpr, LOG_MASS: tl.constexpr, DROPOUT: tl.constexpr,
    MASK: tl.constexpr, N_PICKS: tl.constexpr, CLASSES: tl.constexpr, N_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Gradient of the queries; loops over keys like the forward kernel. The grid is (tiles x B x H)."""
    program = tl.program_id(0)
    n_query_tiles = tl.cdiv(n_queries, QUERIES)
    tile, row = program % n_query_tiles, program // n_query_tiles
    sequence, head = row // n_heads, row % n_heads
    pattern = tl.load(patterns_ptr + head)
    queries = tile * QUERIES + tl.arange(0, QUERIES)
    inside = queries < n_queries
    far = sequence.to(tl.int64)
    own = far * n_queries * n_heads * N_CHANNELS + head * N_CHANNELS
    own_stride = n_heads * N_CHANNELS
    query_ptr += far * query_stride_b + head * query_stride_h
    key_ptr += far * key_stride_b + head // n_shared * key_stride_h
    value_ptr += far * value_stride_b + head // n_shared * value_stride_h
    mask_ptr += far * mask_stride_b
    query = load_rows(query_ptr, queries, query_stride_t, n_queries, N_CHANNELS, CHANNELS)
    grad_out = load_rows(grad_out_ptr + own, queries, own_stride, n_queries, N_CHANNELS, CHANNELS)
    maximum = tl.load(maximum_ptr + row * n_queries + queries, mask=inside, other=0.0)
    inverse = tl.load(inverse_ptr + row * n_queries + queries, mask=inside, other=0.0)
    delta = tl.load(delta_ptr + row * n_queries + queries, mask=inside, other=0.0)
    listed = sequence * tiles_stride_b + pattern * n_query_tiles + tile
    lists_ptr += listed * (2 + n_tiles)
    n_plain, n_all, order_ptr = tl.load(lists_ptr), tl.load(lists_ptr + 1), lists_ptr + 2
    seed = 0
    if DROPOUT:
        seed = tl.load(seed_ptr) + row

    grad_query = tl.zeros([QUERIES, CHANNELS], tl.float32)
    if UNGUIDED:
        if pattern == 0:
            grad_query = _walk_keys(
                query, grad_out, grad_query, maximum, inverse, delta, delta, delta, delta, delta,
                order_ptr, n_plain, n_all, queries,
                key_ptr, value_ptr, mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed,
                key_stride_t, value_stride_t, n_queries, n_keys, scale, dropout,
                False, LOG_MASS, DROPOUT, MASK, N_PICKS, CLASSES, N_CHANNELS, CHANNELS, KEYS, PRECISION,
            )
    if GUIDED:
        if pattern > 0:
            picks_ptr += (sequence * picks_stride_b + pattern - 1) * N_PICKS * n_queries
            query_codes_ptr += (sequence * codes_stride_b + pattern - 1) * n_queries
            key_codes_ptr += (sequence * codes_stride_b + pattern - 1) * n_keys
            place = (sequence * n_guided + tl.load(places_ptr + head)) * n_queries + queries
            grad_squares = tl.load(grad_squares_ptr + place, mask=inside, other=0.0)
            grad_mass = tl.load(grad_mass_ptr + place, mask=inside, other=0.0)
            top, inverse_mass = delta, delta
            if LOG_MASS:
                top = tl.load(top_ptr + place, mask=inside, other=0.0)
                inverse_mass = tl.load(inverse_mass_ptr + place, mask=inside, other=0.0)
            grad_query = _walk_keys(
                query, grad_out, grad_query, maximum, inverse, delta, grad_squares, grad_mass, top, inverse_mass,
                order_ptr, n_plain, n_all, queries,
                key_ptr, value_ptr, mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed,
                key_stride_t, value_stride_t, n_queries, n_keys, scale, dropout,
                True, LOG_MASS, DROPOUT, MASK, N_PICKS, CLASSES, N_CHANNELS, CHANNELS, KEYS, PRECISION,
            )
    # `scale` contains the factor log2 e for the exponentials.
    store_rows(
        grad_query_ptr + own, grad_query * (scale / _LOG2_E), queries, own_stride, n_queries, N_CHANNELS, CHANNELS
    )


@triton.jit
def of_keys(
    query_ptr, key_ptr, value_ptr, grad_out_ptr, grad_key_ptr, grad_value_ptr, maximum_ptr, inverse_ptr, delta_ptr,
    grad_squares_ptr, grad_mass_ptr, top_ptr, inverse_mass_ptr,
    mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, lists_ptr, patterns_ptr, places_ptr, seed_ptr,
    query_stride_b, query_stride_h, query_stride_t, key_stride_b, key_stride_h, key_stride_t,
    value_stride_b, value_stride_h, value_stride_t,
    mask_stride_b, picks_stride_b, codes_stride_b, tiles_stride_b,
    n_heads, n_shared, n_guided, n_tiles, n_queries, n_keys, scale, dropout,
    GUIDED: tl.constexpr, UNGUIDED: tl.constexpr, LOG_MASS: tl.constexpr, DROPOUT: tl.constexpr,
    MASK: tl.constexpr, N_PICKS: tl.constexpr, CLASSES: tl.constexpr, N_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Gradients of keys and values, [B, K, H, D] of all H heads; loops over queries. The grid is (tiles x B x H)."""
    program = tl.program_id(0)
    n_key_tiles = tl.cdiv(n_keys, KEYS)
    tile, row = program % n_key_tiles, program // n_key_tiles
    sequence, head = row // n_heads, row % n_heads
    pattern = tl.load(patterns_ptr + head)
    keys = tile * KEYS + tl.arange(0, KEYS)
    far = sequence.to(tl.int64)
    own_stride = n_heads * N_CHANNELS
    query_ptr += far * query_stride_b + head * query_stride_h
    key_ptr += far * key_stride_b + head // n_shared * key_stride_h
    value_ptr += far * value_stride_b + head // n_shared * value_stride_h
    grad_out_ptr += far * n_queries * own_stride + head * N_CHANNELS
    mask_ptr += far * mask_stride_b
    key = load_rows(key_ptr, keys, key_stride_t, n_keys, N_CHANNELS, CHANNELS)
    value = load_rows(value_ptr, keys, value_stride_t, n_keys, N_CHANNELS, CHANNELS)
    maximum_ptr += row * n_queries
    inverse_ptr += row * n_queries
    delta_ptr += row * n_queries
    listed = sequence * tiles_stride_b + pattern * n_key_tiles + tile
    lists_ptr += listed * (2 + n_tiles)
    n_plain, n_all, order_ptr = tl.load(lists_ptr), tl.load(lists_ptr + 1), lists_ptr + 2
    seed = 0
    if DROPOUT:
        seed = tl.load(seed_ptr) + row

    grad_key = tl.zeros([KEYS, CHANNELS], tl.float32)
    grad_value = tl.zeros([KEYS, CHANNELS], tl.float32)
    if UNGUIDED:
        if pattern == 0:
            grad_key, grad_value = _walk_queries(
                key, value, grad_key, grad_value, order_ptr, n_plain, n_all, keys,
                query_ptr, grad_out_ptr, maximum_ptr, inverse_ptr, delta_ptr, grad_squares_ptr, grad_mass_ptr, top_ptr,
                inverse_mass_ptr, mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed,
                query_stride_t, own_stride, n_queries, n_keys, scale, dropout,
                False, LOG_MASS, DROPOUT, MASK, N_PICKS, CLASSES, N_CHANNELS, CHANNELS, QUERIES, PRECISION,
            )
    if GUIDED:
        if pattern > 0:
            picks_ptr += (sequence * picks_stride_b + pattern - 1) * N_PICKS * n_queries
            query_codes_ptr += (sequence * codes_stride_b + pattern - 1) * n_queries
            key_codes_ptr += (sequence * codes_stride_b + pattern - 1) * n_keys
            place = (sequence * n_guided + tl.load(places_ptr + head)) * n_queries
            grad_key, grad_value = _walk_queries(
                key, value, grad_key, grad_value, order_ptr, n_plain, n_all, keys,
                query_ptr, grad_out_ptr, maximum_ptr, inverse_ptr, delta_ptr, grad_squares_ptr + place,
                grad_mass_ptr + place, top_ptr + place, inverse_mass_ptr + place,
                mask_ptr, picks_ptr, query_codes_ptr, key_codes_ptr, seed,
                query_stride_t, own_stride, n_queries, n_keys, scale, dropout,
                True, LOG_MASS, DROPOUT, MASK, N_PICKS, CLASSES, N_CHANNELS, CHANNELS, QUERIES, PRECISION,
            )
    own = far * n_keys * own_stride + head * N_CHANNELS
    store_rows(grad_key_ptr + own, grad_key * (scale / _LOG2_E), keys, own_stride, n_keys, N_CHANNELS, CHANNELS)
    store_rows(grad_value_ptr + own, grad_value, keys, own_stride, n_keys, N_CHANNELS, CHANNELS)
