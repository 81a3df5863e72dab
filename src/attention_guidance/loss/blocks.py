"""Split guided attention into blocks of queries with their targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_guidance.loss.listed import Listed, listed_targets
from attention_guidance.patterns import Targets

# Number of scores in a block of one head; on a CPU, 4 MiB in float32: operator calls dominate in smaller blocks, and
# larger ones do not fit the cache (benchmarks/cost). On a GPU, where each operator launches a kernel, blocks are
# larger by a factor that has not been measured on a GPU yet.
BLOCK = 1 << 20
_TIMES_ON_GPU = 16


class Buffers:
    """Memory reused from block to block: the allocator would request it from the system each time."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def bmm(self, name: str, left: Tensor, right: Tensor) -> Tensor:
        """``left @ right``, written to the buffer called `name`."""
        shape = (left.shape[0], left.shape[1], right.shape[2])
        return torch.bmm(left, right, out=self.empty(name, shape, left.dtype, left.device))

    def empty(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """The buffer called `name`, of arbitrary content."""
        kept = self._tensors.get(name)
        if kept is None or kept.shape != tuple(shape) or kept.dtype != dtype:
            kept = self._tensors[name] = torch.empty(shape, dtype=dtype, device=device)
        return kept


def scaled_queries(query: Tensor, scale: float) -> tuple[Tensor, float]:
    """Queries times scale, and the remaining factor on the scores: scaling in bfloat16 would add a rounding error.

    Queries in float16 are returned in float32, since their products with keys may overflow.
    """
    if query.dtype == torch.bfloat16:
        return query, scale
    return query.to(torch.promote_types(query.dtype, torch.float32)) * scale, 1.0


@dataclass
class Block:
    """A range of queries in a range of sequences, with all keys.

    Attributes:
        batch: the range of sequences.
        queries: the range of queries.
        hidden_bqK: bool, keys that a query may not attend to, or None.
        blind_bq1: bool, queries that may not attend to any key, or None if there are none.
        targets: the targets of each head.
    """

    batch: slice
    queries: slice
    hidden_bqK: Tensor | None
    blind_bq1: Tensor | None
    targets: list[Listed]

    def scores(self, scaled: Tensor, key: Tensor, head: int, rest: float, buffers: Buffers) -> Tensor:
        """Scores of one head, in float32 or better, from the result of `scaled_queries`."""
        query_bqD, key_bDK = scaled[self.batch, head, self.queries], key[self.batch, head].mT
        scores_bqK = buffers.bmm("scores", query_bqD, key_bDK.to(scaled.dtype))
        if scaled.dtype == torch.bfloat16:
            scores_bqK = scores_bqK.float().mul_(rest)
        return hide_(scores_bqK, self.hidden_bqK)

    def softmax_(self, scores_bqK: Tensor) -> Tensor:
        """See the function `softmax_`."""
        return softmax_(scores_bqK, self.blind_bq1)

    def dropout(self, map_bqK: Tensor, share: float, seed: Tensor, head: int) -> Tensor:
        """See `dropout_factors`."""
        return dropout_factors(map_bqK, share, int(seed), head, self.batch.start, self.queries.start)


def hide_(scores: Tensor, hidden: Tensor | None) -> Tensor:
    """The scores, minus infinity where a key is hidden; changed in place."""
    return scores if hidden is None else scores.masked_fill_(hidden, -math.inf)


def softmax_(scores: Tensor, blind: Tensor | None) -> Tensor:
    """The probabilities, computed in place; zeros for a query that may not attend to any key."""
    maps = torch._softmax(scores, -1, False, out=scores)
    return maps if blind is None else maps.masked_fill_(blind, 0.0)


def dropout_factors(maps: Tensor, share: float, seed: int, *place: int) -> Tensor:
    """The dropout factors on probabilities, 0 for a fraction `share`; the same for the same seed and place."""
    generator = torch.Generator(maps.device).manual_seed(hash((seed, *place)) % 2**63)
    factors = torch.empty_like(maps).bernoulli_(1 - share, generator=generator)
    return factors.mul_(1 / (1 - share) if share < 1 else 0)


def are_many(query: Tensor, key: Tensor) -> bool:
    """Whether the queries of one sequence are split into several blocks."""
    return query.shape[2] * key.shape[2] > _entries(query.device)


def _entries(device: torch.device) -> int:
    return BLOCK if device.type == "cpu" else _TIMES_ON_GPU * BLOCK


def blocks(query: Tensor, key: Tensor, mask: Tensor | None, groups: Sequence[tuple[Targets, int]]) -> Iterator[Block]:
    """Yield a batch in blocks with limited memory per head: several short sequences, or a part of a long one."""
    n_batch, _, n_queries, _ = query.shape
    n_keys = key.shape[2]
    n_rows = max(1, _entries(query.device) // max(1, n_keys))
    mask_BQK = None if mask is None else mask[:, 0].expand(n_batch, n_queries, n_keys)
    columns = [group.class_columns() for group, _ in groups]
    precise = torch.promote_types(query.dtype, torch.float32)
    at_once, stretch = max(1, n_rows // max(1, n_queries)), min(n_rows, n_queries)
    for b in range(0, n_batch, at_once):
        for q in range(0, n_queries, stretch):
            batch, queries = slice(b, min(b + at_once, n_batch)), slice(q, min(q + stretch, n_queries))
            size = (batch.stop - b, queries.stop - q, n_keys)
            shown_bqK = None if mask_BQK is None else mask_BQK[batch, queries]
            hidden_bqK = None if shown_bqK is None else ~shown_bqK
            blind_bq1 = None if hidden_bqK is None else hidden_bqK.all(-1, keepdim=True)
            if blind_bq1 is not None and not blind_bq1.any():
                blind_bq1 = None
            listed: list[Listed] = []
            for (group, n_heads), columns_BC in zip(groups, columns, strict=True):
                columns_bC = columns_BC if columns_BC is None or len(columns_BC) == 1 else columns_BC[batch]
                listed += [listed_targets(group.rows(batch, queries), columns_bC, size, shown_bqK, precise)] * n_heads
            yield Block(batch, queries, hidden_bqK, blind_bq1, listed)
