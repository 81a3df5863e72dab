"""Backend `batched`: exact attention of short sequences on a CPU, all heads of a layer together.

Where sequences are short, guidance costs less in arithmetic than in calls of small operators, in copies that take
guided heads apart from the others, and in memory that is fetched anew for each of them. So this backend computes all
heads of a few sequences in each product, in memory that it reuses. The backward pass computes the scores again. Its
gradients are those of `blocked`.

In the names of tensors, N matrices are those of all heads in the n sequences of a block: heads are outermost, and
guided heads come first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention_guidance.loss.blocks import Buffers, dropout_factors, hide_, softmax_
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.first_order import first_order
from attention_guidance.loss.listed import Listed, joined, listed_targets
from attention_guidance.loss.statistics import RowStatistics

# Number of scores in a block of at least one sequence; 1 MiB in float32 (benchmarks/cost).
BLOCK = 1 << 18
_of_thread = threading.local()


@dataclass(frozen=True)
class Plan:
    """What all layers of a pass with the same targets and mask share.

    Attributes:
        order: all heads, the guided ones first and those of one pattern adjacent; None if they are in this order.
        n_guided: number of guided heads.
        targets: ranges of guided heads, and their targets [h or 1, B, Q, C].
        counts_BGQ: number of targets of each guided head, as float.
        hidden_BQK: bool, keys that a query may not attend to, or None.
        blind_BQ1: bool, queries that may not attend to any key, or None if there are none.
    """

    order: list[int] | None
    n_guided: int
    targets: tuple[tuple[slice, Listed], ...]
    counts_BGQ: Tensor
    hidden_BQK: Tensor | None
    blind_BQ1: Tensor | None


def attend(call: AttentionCall) -> tuple[Tensor, RowStatistics]:
    """Output [B, H, Q, D] of all heads, and row statistics of the guided ones, with gradients."""
    call = call.with_all_keys()
    plan = call.once((call.heads, *call.query_BHQD.shape, call.query_BHQD.dtype), lambda: _plan(call))
    # Draw the seed here, from the default generator, so that recomputation draws the same seed.
    seed = int(torch.randint(2**62, (), device="cpu")) if call.dropout else None
    settings = plan, call.scale, call.dropout, seed, call.log_mass
    out_BQHD, squares_BGQ, mass_BGQ = _Attention.apply(call.query_BHQD, call.key_BHKD, call.value_BHKD, *settings)  # type: ignore[no-untyped-call]
    return out_BQHD.transpose(1, 2), RowStatistics(squares_BGQ, mass_BGQ, plan.counts_BGQ)


def _plan(call: AttentionCall) -> Plan:
    n_batch, n_heads, n_queries, _ = call.query_BHQD.shape
    n_keys = call.key_BHKD.shape[2]
    precise = torch.promote_types(call.query_BHQD.dtype, torch.float32)
    shown_BQK = None if call.mask is None else call.mask[:, 0].expand(n_batch, n_queries, n_keys)
    hidden_BQK = None if shown_BQK is None else ~shown_BQK
    blind_BQ1 = None if hidden_BQK is None else hidden_BQK.all(-1, keepdim=True)
    of_patterns = [
        (listed_targets(targets, targets.class_columns(), (n_batch, n_queries, n_keys), shown_BQK, precise), number)
        for targets, number in call.groups
    ]
    counts = [listed.count_bq[:, None].expand(-1, number, -1) for listed, number in of_patterns]
    guided = [*range(n_heads)] if call.heads is None else [*call.heads]
    order = [*guided, *(head for head in range(n_heads) if head not in guided)]
    return Plan(
        None if order == [*range(n_heads)] else order,
        len(guided),
        joined(of_patterns),
        torch.cat(counts, 1).to(precise),
        hidden_BQK,
        blind_BQ1 if blind_BQ1 is not None and blind_BQ1.any() else None,
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: Plan,
        scale: float,
        dropout: float,
        seed: int | None,
        log_mass: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(query, key, value)
        ctx.settings = plan, scale, dropout, seed, log_mass
        return _Step(query, *ctx.settings).forward(query, key, value)

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        query, key, value = ctx.saved_tensors
        step = _Step(query, *ctx.settings)
        return *step.backward(query, key, value, *gradients), None, None, None, None, None


@dataclass(frozen=True)
class _Block:
    """Some sequences: their range, and what the plan says about them."""

    sequences: slice
    n_heads: int
    n_guided: int
    targets: list[tuple[slice, Listed]]
    hidden_nQK: Tensor | None
    blind_nQ1: Tensor | None

    def by_head(self, tensor_NQK: Tensor) -> Tensor:
        """A view [H, n, Q, K]."""
        return tensor_NQK.view(self.n_heads, -1, *tensor_NQK.shape[1:])

    def softmax_(self, scores_NQK: Tensor) -> Tensor:
        """See the function `softmax_`."""
        softmax_(self.by_head(scores_NQK), self.blind_nQ1)
        return scores_NQK

    def guided(self, tensor_NQK: Tensor) -> Tensor:
        """A view of the guided heads [G, n, Q, K]."""
        return self.by_head(tensor_NQK)[: self.n_guided]


class _Step:
    """The forward or the backward pass of one call.

    Args:
        query: the queries, for their dtype.
        plan: targets and mask.
        scale: factor on the scores.
        dropout: probability of dropping an entry of the map when computing the output.
        seed: of the dropout, if there is any.
        log_mass: whether to compute the logarithm of the mass.
    """

    def __init__(
        self, query: Tensor, plan: Plan, scale: float, dropout: float, seed: int | None, log_mass: bool
    ) -> None:
        self.plan, self.scale, self.dropout, self.seed, self.log_mass = plan, scale, dropout, seed, log_mass
        self.precise = torch.promote_types(query.dtype, torch.float32)
        # In half precision, the scores are scaled: scaled queries would have a rounding error.
        self.on_queries, self.on_scores = (scale, 1.0) if self.precise == query.dtype else (1.0, scale)
        self.buffers = _buffers(query)

    def forward(self, query_BHQD: Tensor, key_BHKD: Tensor, value_BHKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output [B, Q, H, D]; squares and mass of guided heads [B, G, Q]."""
        n_batch, _, n_queries, _ = query_BHQD.shape
        # Returned as it is: a view made in here could not be changed in place, as models and hooks may do.
        out_BQHD = _like_projection(value_BHKD, n_queries)
        rows = self.plan.n_guided, n_batch, n_queries
        squares_GBQ, mass_GBQ = (query_BHQD.new_empty(rows, dtype=self.precise) for _ in range(2))
        for block in self._blocks(query_BHQD, key_BHKD):
            query_NQD = self._take("query", query_BHQD, block, self.on_queries)
            key_NKD = self._take("key", key_BHKD, block)
            scores_NQK = self._scores(query_NQD, key_NKD, block)
            scores_GnQK = block.guided(scores_NQK)
            mass_GnQ = mass_GBQ[:, block.sequences]
            if self.log_mass:
                for heads, listed in block.targets:
                    log_hnQ = listed.log_sum(scores_GnQK[heads]) - scores_GnQK[heads].logsumexp(-1)
                    mass_GnQ[heads] = log_hnQ.masked_fill_(listed.count_bq == 0, 0.0)
            map_NQK = block.softmax_(scores_NQK)
            map_GnQK = block.guided(map_NQK)
            squares_GBQ[:, block.sequences] = torch.linalg.vector_norm(map_GnQK, dim=-1)
            if not self.log_mass:
                for heads, listed in block.targets:
                    mass_GnQ[heads] = listed.sum(map_GnQK[heads])
            if self.seed is not None:
                map_NQK *= self._dropout_factors(map_NQK, block)
            value_NKD = self._take("value", value_BHKD, block)
            self._put(
                out_BQHD.transpose(1, 2), block, self.buffers.bmm("product", map_NQK.to(value_NKD.dtype), value_NKD)
            )
        return out_BQHD, squares_GBQ.square_().transpose(0, 1), mass_GBQ.transpose(0, 1)

    def backward(
        self,
        query_BHQD: Tensor,
        key_BHKD: Tensor,
        value_BHKD: Tensor,
        grad_out_BQHD: Tensor,
        grad_squares_BGQ: Tensor,
        grad_mass_BGQ: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients with respect to queries, keys and values."""
        grad_query, grad_key, grad_value = (
            _like_projection(tensor).transpose(1, 2) for tensor in (query_BHQD, key_BHKD, value_BHKD)
        )
        twice_GBQ1 = (2 * grad_squares_BGQ).transpose(0, 1)[..., None]
        pull_GBQ1 = grad_mass_BGQ.transpose(0, 1)[..., None]
        bmm = self.buffers.bmm
        for block in self._blocks(query_BHQD, key_BHKD):
            query_NQD = self._take("query", query_BHQD, block, self.on_queries)
            key_NKD = self._take("key", key_BHKD, block)
            value_NKD = self._take("value", value_BHKD, block)
            grad_out_NQD = self._take("grad_out", grad_out_BQHD.transpose(1, 2), block)
            scores_NQK = self._scores(query_NQD, key_NKD, block)
            among_targets = self._among_targets(scores_NQK, block) if self.log_mass else []
            map_NQK = block.softmax_(scores_NQK)
            grad_NQK = bmm("grad", grad_out_NQD, value_NKD.mT).to(map_NQK.dtype)
            dropped_NQK = map_NQK
            if self.seed is not None:
                factors_NQK = self._dropout_factors(map_NQK, block)
                dropped_NQK = map_NQK * factors_NQK
                grad_NQK *= factors_NQK
            self._put(grad_value, block, bmm("product", dropped_NQK.to(value_NKD.dtype).mT, grad_out_NQD))
            map_GnQK, grad_GnQK = block.guided(map_NQK), block.guided(grad_NQK)
            grad_GnQK.addcmul_(map_GnQK, twice_GBQ1[:, block.sequences])
            pull_GnQ1 = pull_GBQ1[:, block.sequences]
            if not self.log_mass:
                for heads, listed in block.targets:
                    listed.add_(grad_GnQK[heads], pull_GnQ1[heads])
            torch._softmax_backward_data(grad_NQK, map_NQK, -1, map_NQK.dtype, grad_input=grad_NQK)
            for (heads, listed), among in zip(block.targets, among_targets, strict=False):
                # d log m / ds = softmax over the targets - A, which is exact even if m underflows.
                pull_hnQ1 = pull_GnQ1[heads].masked_fill((listed.count_bq == 0)[..., None], 0.0)
                grad_GnQK[heads].addcmul_(map_GnQK[heads], pull_hnQ1, value=-1)
                listed.add_(grad_GnQK[heads], pull_hnQ1 * among)
            grad_NQK = grad_NQK.to(query_NQD.dtype)
            self._put(grad_query, block, bmm("product", grad_NQK, key_NKD), self.scale)
            self._put(grad_key, block, bmm("product", grad_NQK.mT, query_NQD), self.on_scores)
        return grad_query, grad_key, grad_value

    def _blocks(self, query_BHQD: Tensor, key_BHKD: Tensor) -> Iterator[_Block]:
        n_batch, n_heads, n_queries, _ = query_BHQD.shape
        size = n_heads * n_queries * key_BHKD.shape[2]
        # Two blocks or more: memory for one of the whole batch would be as large as that of its queries, keys and more.
        at_once = max(1, min(BLOCK // max(1, size), -(-n_batch // 2)))
        plan = self.plan
        for start in range(0, n_batch, at_once):
            some = slice(start, min(start + at_once, n_batch))
            targets = [(heads, listed.of(some)) for heads, listed in plan.targets]
            hidden, blind = (None if mask is None else mask[some] for mask in (plan.hidden_BQK, plan.blind_BQ1))
            yield _Block(some, n_heads, plan.n_guided, targets, hidden, blind)

    def _scores(self, query_NQD: Tensor, key_NKD: Tensor, block: _Block) -> Tensor:
        """Scores in float32 or better; minus infinity where the mask hides a key."""
        if query_NQD.dtype == torch.float16:
            # Products of float16 numbers may overflow.
            query_NQD, key_NKD = query_NQD.float(), key_NKD.float()
        if query_NQD.dtype == self.precise:
            scores_NQK = self.buffers.bmm("scores", query_NQD, key_NKD.mT)
        else:
            rounded_NQK = self.buffers.bmm("rounded", query_NQD, key_NKD.mT)
            scores_NQK = self.buffers.empty("scores", rounded_NQK.shape, self.precise).copy_(rounded_NQK)
        if self.on_scores != 1.0:
            scores_NQK *= self.on_scores
        hide_(block.by_head(scores_NQK), block.hidden_nQK)
        return scores_NQK

    def _among_targets(self, scores_NQK: Tensor, block: _Block) -> list[Tensor]:
        scores_GnQK = block.guided(scores_NQK)
        return [listed.softmax(scores_GnQK[heads]) for heads, listed in block.targets]

    def _dropout_factors(self, map_NQK: Tensor, block: _Block) -> Tensor:
        assert self.seed is not None
        return dropout_factors(map_NQK, self.dropout, self.seed, block.sequences.start)

    def _take(self, name: str, tensor_BHTD: Tensor, block: _Block, factor: float = 1.0) -> Tensor:
        """The matrices of a block [N, T, D], copied to the buffer called `name`."""
        part_HnTD = tensor_BHTD[block.sequences].transpose(0, 1)
        if self.plan.order is not None:
            part_HnTD = part_HnTD[self.plan.order]
        n_heads, n_sequences, length, n_channels = part_HnTD.shape
        size = n_heads * n_sequences, length, n_channels
        copy_NTD = self.buffers.empty(name, size, tensor_BHTD.dtype)
        copy_HnTD = copy_NTD.view(part_HnTD.shape)
        if factor == 1.0:
            copy_HnTD.copy_(part_HnTD)
        else:
            torch.mul(part_HnTD, factor, out=copy_HnTD)
        return copy_NTD

    def _put(self, tensor_BHTD: Tensor, block: _Block, part_NTD: Tensor, factor: float = 1.0) -> None:
        """The inverse of `_take`: write the matrices of a block, times a factor, to a tensor."""
        if factor != 1.0:
            part_NTD *= factor
        whole_HnTD = tensor_BHTD[block.sequences].transpose(0, 1)
        if self.plan.order is None:
            whole_HnTD.copy_(block.by_head(part_NTD))
        else:
            whole_HnTD[self.plan.order] = block.by_head(part_NTD)


def _buffers(query: Tensor) -> Buffers:
    """This thread's memory for blocks. It is kept: to fetch it anew would take longer than the products."""
    if torch.is_inference_mode_enabled() or type(query) is not Tensor:
        # Tensors made here, such as fake ones, do not serve later calls.
        return Buffers()
    if not hasattr(_of_thread, "buffers"):
        _of_thread.buffers = Buffers()
    buffers: Buffers = _of_thread.buffers
    return buffers


def _like_projection(tensor_BHTD: Tensor, length: int | None = None) -> Tensor:
    """An empty tensor [B, T, H, D], for one [B, H, T, D]."""
    n_batch, n_heads, own_length, n_channels = tensor_BHTD.shape
    length = own_length if length is None else length
    return tensor_BHTD.new_empty(n_batch, length, n_heads, n_channels)
