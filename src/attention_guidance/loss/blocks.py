"""Split guided attention into blocks of queries with their targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_guidance.patterns import Targets

# Number of scores in a block of one head; on a CPU, 4 MiB in float32: operator calls dominate in smaller blocks, and
# larger ones do not fit the cache (benchmarks/cost.md). On a GPU, where each operator launches a kernel, blocks are
# larger by a factor that has not been measured on a GPU yet.
BLOCK = 1 << 20
_TIMES_ON_GPU = 16


class Buffers:
    """Memory reused from block to block: the allocator would request it from the system each time."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def bmm(self, name: str, left: Tensor, right: Tensor) -> Tensor:
        """``left @ right``, written to the buffer called `name`."""
        shape = (left.shape[0], left.shape[1], right.shape[2])
        if name not in self.tensors or self.tensors[name].shape != shape:
            self.tensors[name] = left.new_empty(shape)
        return torch.bmm(left, right, out=self.tensors[name])


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
        return scores_bqK if self.hidden_bqK is None else scores_bqK.masked_fill_(self.hidden_bqK, -math.inf)

    def softmax_(self, scores_bqK: Tensor) -> Tensor:
        """The probabilities, computed in place; zeros for a query that may not attend to any key."""
        map_bqK = torch._softmax(scores_bqK, -1, False, out=scores_bqK)
        return map_bqK if self.blind_bq1 is None else map_bqK.masked_fill_(self.blind_bq1, 0.0)

    def dropout(self, map_bqK: Tensor, share: float, seed: Tensor, head: int) -> Tensor:
        """The dropout factor on the probabilities, 0 for a fraction `share`; a repeated call gives the same result."""
        place = hash((int(seed), head, self.batch.start, self.queries.start)) % 2**63
        generator = torch.Generator(map_bqK.device).manual_seed(place)
        return (
            torch.empty_like(map_bqK)
            .bernoulli_(1 - share, generator=generator)
            .mul_(1 / (1 - share) if share < 1 else 0)
        )


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
                listed += [_listed(group.rows(batch, queries), columns_bC, size, shown_bqK, precise)] * n_heads
            yield Block(batch, queries, hidden_bqK, blind_bq1, listed)


@dataclass
class Listed:
    """The targets of a pattern in a block: a list of keys per query, or a dense map if the list would be long.

    Attributes:
        count_bq: number of targets that the mask does not hide.
        keys_bqC: key positions, arbitrary where `shown_bqC` is 0.
        shown_bqC: 1 for a target, 0 for an unused entry of the list.
        map_bqK: 1 for a target; only if there is no list.
    """

    count_bq: Tensor
    keys_bqC: Tensor | None = None
    shown_bqC: Tensor | None = None
    map_bqK: Tensor | None = None

    def at(self, values_bqK: Tensor) -> tuple[Tensor, Tensor]:
        """The values at the listed keys (or at all keys), and which of them are targets."""
        if self.map_bqK is not None:
            return values_bqK, self.map_bqK
        assert self.keys_bqC is not None
        assert self.shown_bqC is not None
        return values_bqK.gather(-1, self.keys_bqC), self.shown_bqC

    def sum(self, values_bqK: Tensor) -> Tensor:
        """The sum of the values over each query's targets."""
        values, shown = self.at(values_bqK)
        return (values * shown).sum(-1)

    def holds(self, keys_bq: Tensor) -> Tensor:
        """Whether the given key of each query is one of its targets: bool [b, q]."""
        if self.map_bqK is not None:
            return self.map_bqK.gather(-1, keys_bq[..., None])[..., 0] > 0
        assert self.keys_bqC is not None
        assert self.shown_bqC is not None
        return ((self.keys_bqC == keys_bq[..., None]) & (self.shown_bqC > 0)).any(-1)

    def log_sum(self, scores_bqK: Tensor) -> Tensor:
        """The logsumexp of the scores over each query's targets; minus infinity if there are none."""
        values, shown = self.at(scores_bqK)
        return values.masked_fill(shown == 0, -math.inf).logsumexp(-1)

    def softmax(self, scores_bqK: Tensor) -> Tensor:
        """The softmax of the scores over each query's targets, in the layout of `add_`; 0 if there are none."""
        values, shown = self.at(scores_bqK)
        return values.masked_fill(shown == 0, -math.inf).softmax(-1).nan_to_num_(0.0)

    def add_(self, values_bqK: Tensor, addend: Tensor) -> None:
        """Add to the values at the targets, in place: one number per query ([b, q, 1]), or one per target."""
        if self.map_bqK is not None:
            values_bqK.addcmul_(self.map_bqK, addend)
        else:
            assert self.keys_bqC is not None
            assert self.shown_bqC is not None
            values_bqK.scatter_add_(-1, self.keys_bqC, (self.shown_bqC * addend).to(values_bqK.dtype))


def _listed(
    group: Targets, columns_bC: Tensor | None, size: tuple[int, int, int], shown_bqK: Tensor | None, dtype: torch.dtype
) -> Listed:
    """The targets of a pattern in a block of `size` (b, q, K)."""
    n_listed = sum(part.shape[-1] for part in (group.picks_BQP, columns_bC) if part is not None)
    if group.map_BQK is not None or n_listed > max(8, size[2] // 8):
        map_bqK = group.dense(size[2]).expand(size)
        map_bqK = map_bqK if shown_bqK is None else map_bqK & shown_bqK
        return Listed(map_bqK.sum(-1), map_bqK=map_bqK.to(dtype))
    keys, shown = [], []
    if group.picks_BQP is not None:
        picks_bqC = group.picks_BQP.expand(*size[:2], -1)
        keys.append(picks_bqC.clamp(min=0))
        shown.append(picks_bqC >= 0)
    if columns_bC is not None:
        keys.append(columns_bC[:, None].expand(*size[:2], -1))
        shown.append(group.shares_class(keys[-1]))
    keys_bqC, shown_bqC = torch.cat(keys, -1), torch.cat(shown, -1)
    if shown_bqK is not None:
        shown_bqC &= shown_bqK.gather(-1, keys_bqC)
    return Listed(shown_bqC.sum(-1), keys_bqC, shown_bqC.to(dtype))
