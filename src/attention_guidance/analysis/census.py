"""The census: which pattern does each head of a model follow, over a sample of text (paper section 2).

Everything is a sum over the rows of a sequence, made in blocks while the model runs; no map is kept. The patterns are
the objects that train heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attention_guidance.adapters.inputs_outputs import check_class_token
from attention_guidance.analysis.given import Batch, batches_of, patterns_of
from attention_guidance.analysis.intervals import RatioSums
from attention_guidance.analysis.observe import Observation, as_computed, observing
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.loss.blocks import Buffers, blocks, scaled_queries
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.statistics import RowStatistics, row_losses
from attention_guidance.patterns import Pattern, Targets, TokenClasses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Array = npt.NDArray[np.float64]

#: What is measured of each head and pattern, in the order of the sums.
MEASURES = ("mass", "argmax_share", "squared_error")
#: A head follows a pattern when this much of its attention is on the pattern's targets.
THRESHOLD = 0.5


@dataclass(frozen=True)
class Estimate:
    """A mean over the rows of a sample, with its 95 % interval over sequences (NaN from a single sequence).

    Attributes:
        value, low, high: arrays of one shape; NaN where no row counted.
    """

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Census:
    """What every head of a model does, for every pattern, over a sample.

    Attributes:
        patterns: the patterns' names.
        mass: mean attention on the targets, [L, H, G]. Rows whose query is padding or has no target do not count.
        argmax_share: share of rows whose largest attention is on a target, [L, H, G].
        squared_error: mean over rows of ``sum_j (A_ij - P_ij)^2`` (equation 3), [L, H, G].
        uniform_mass: what the mass would be if attention were spread evenly over the keys a query sees, [L, G].
        entropy: mean entropy of a row in nats, [L, H].
        rows: how many rows counted in each layer for each pattern, [L, G]. Layers differ where some see a window only.
        n_sequences: how many sequences the sample had.
        n_tokens: how many tokens.
    """

    patterns: tuple[str, ...]
    mass: Estimate
    argmax_share: Estimate
    squared_error: Estimate
    uniform_mass: Array
    entropy: Estimate
    rows: npt.NDArray[np.int64]
    n_sequences: int
    n_tokens: int

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return int(self.entropy.value.shape[0])

    @property
    def n_heads(self) -> int:
        """Heads of a layer."""
        return int(self.entropy.value.shape[1])

    def followed(self, threshold: float = THRESHOLD) -> list[list[str | None]]:
        """The pattern that each head follows, by layer and head: that of the most mass, if it has the threshold.

        Of patterns with the same mass the first counts. A pattern that even attention would satisfy (``uniform_mass``
        at or above the threshold) is followed by no head.
        """
        mass_LHG = np.where(self.uniform_mass[:, None] < threshold, np.nan_to_num(self.mass.value, nan=-1.0), -1.0)
        best_LH = mass_LHG.argmax(-1)
        return [
            [self.patterns[p] if mass_LHG[layer, head, p] >= threshold else None for head, p in enumerate(best_H)]
            for layer, best_H in enumerate(best_LH)
        ]

    def shares(self, threshold: float = THRESHOLD) -> dict[str, float]:
        """The share of all heads that follow each pattern, and under `none` those that follow nothing."""
        found = [name for layer in self.followed(threshold) for name in layer]
        return {str(name or "none"): found.count(name) / len(found) for name in [*self.patterns, None]}


def take_census(
    model: nn.Module,
    batches: Iterable[Batch] | Batch,
    patterns: Iterable[Pattern | str] | Pattern | str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    progress: Callable[[int], None] | None = None,
) -> Census:
    """Measure every head of a model against every pattern, in evaluation mode; the model comes back as it was.

    Streams over the batches: memory does not grow with their number, and no map is kept.

    Example::

        census = take_census(model, batches, "next previous first")
        census.followed()[0][2]          # "previous"

    A layer whose attention is called several times in a pass (once an image, once a window) has the rows of all calls;
    such a pass then counts as one sequence, since nothing says which rows of two layers belong together.

    Args:
        model: any model that `guide` takes and that is not guided.
        batches: what the model is called with: mappings for ``model(**batch)``, token ids [T] or [B, T], or texts; any
            number of these, or a single one. Tensors are moved to the model's device.
        patterns: what to measure the heads against, as patterns or by their names.
        tokenizer: the model's; needed for texts and for classes of tokens such as `delimiter` and `period`.
        token_classes: classes of one's own, as in `guide`.
        progress: called with the number of sequences after each batch.

    Raises:
        AttachError: the model is guided or cannot be looked at, or its attention is not finite.
        PatternError: two patterns of one name, or none, or one that the model has nothing for.
        ConfigError: no batch, or what is none.
    """
    wanted = patterns_of(patterns, tokenizer, token_classes)
    names = [pattern.name for pattern in wanted]
    if not names or len(set(names)) < len(names):
        raise PatternError(f"patterns {', '.join(names) or '(none)'}: give at least one, each of its own name")
    taker = _Taker(wanted)
    with observing(model, taker.see) as watched:
        check_class_token(wanted, watched.model)
        for batch in batches_of(batches, tokenizer):
            taker.begin(batch, watched)
            watched(batch)
            taker.end()
            if progress is not None:
                progress(taker.n_sequences)
    if taker.n_sequences == 0:
        raise ConfigError("no batch to take a census of; give at least one")
    return taker.census(names)


class _Taker:
    """Sums over the sequences that have been seen."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.patterns = patterns
        self.n_sequences = self.n_tokens = 0
        self.sums: tuple[RatioSums, RatioSums, RatioSums] | None = None
        self.layers: dict[int, list[_LayerSums]] = {}

    def begin(self, batch: Mapping[str, Any], watched: Observation) -> None:
        """A batch is about to go through the model."""
        self.current = watched.forward_pass(batch)
        self.layers = {}

    def see(self, layer: int, call: AttentionCall) -> None:
        """A layer is about to attend, perhaps not for the first time in this pass."""
        calls = self.layers.setdefault(layer, [])
        self.current.check_call(layer, len(calls))
        call = as_computed(call)
        valid_BT, targets = self.current.targets(self.patterns, call)
        calls.append(_layer_sums(call, targets, valid_BT))

    def end(self) -> None:
        """The batch has gone through."""
        layers = [self.layers[layer] for layer in sorted(self.layers)]
        alike = len({len(call.lengths_B) for calls in layers for call in calls}) == 1
        sums_BLHGM, entropy_BLH, counts_BLG, uniform_BLG, lengths_BL = (
            np.stack([_over_calls(calls, name, alike) for calls in layers], 1)
            for name in ("sums_BHGM", "entropy_BH", "counts_BG", "uniform_BG", "lengths_B")
        )
        if not np.isfinite(entropy_BLH).all():
            raise AttachError("the model's attention is not finite; look at its weights and its precision")
        if self.sums is None:
            self.sums = tuple(RatioSums(x.shape[1:]) for x in (sums_BLHGM, entropy_BLH, uniform_BLG))  # type: ignore[assignment]
        assert self.sums is not None
        of_patterns, entropy, uniform = self.sums
        of_patterns.add(sums_BLHGM, np.broadcast_to(counts_BLG[:, :, None, :, None], sums_BLHGM.shape))
        entropy.add(entropy_BLH, np.broadcast_to(lengths_BL[..., None], entropy_BLH.shape))
        uniform.add(uniform_BLG, counts_BLG)
        self.n_sequences += len(lengths_BL)
        self.n_tokens += int(lengths_BL[:, 0].sum())

    def census(self, names: Sequence[str]) -> Census:
        """What the sums come to."""
        assert self.sums is not None
        of_patterns, entropy, uniform = self.sums
        value, low, high = of_patterns.estimate()
        # Shares lie between 0 and 1, a squared error between 0 and 2.
        ends = {name: 2.0 if name == "squared_error" else 1.0 for name in MEASURES}
        measures = {
            name: Estimate(value[..., m], np.maximum(low[..., m], 0), np.minimum(high[..., m], ends[name]))
            for m, name in enumerate(MEASURES)
        }
        return Census(
            patterns=tuple(names),
            **measures,
            uniform_mass=uniform.estimate()[0],
            entropy=Estimate(*entropy.estimate()),
            rows=uniform.sum_n.astype(np.int64),
            n_sequences=self.n_sequences,
            n_tokens=self.n_tokens,
        )


@dataclass
class _LayerSums:
    """Sums over the rows of each sequence, float64.

    Attributes:
        sums_BHGM: of each head, pattern and measure, over the rows that have a target.
        counts_BG: how many rows those are.
        uniform_BG: of the share of the keys a query sees that are targets, over the same rows.
        entropy_BH: over all rows that are tokens.
        lengths_B: how many those are.
    """

    sums_BHGM: Tensor
    counts_BG: Tensor
    uniform_BG: Tensor
    entropy_BH: Tensor
    lengths_B: Tensor


def _over_calls(calls: Sequence[_LayerSums], name: str, alike: bool) -> Array:
    """One of the sums of a layer over all its calls in a pass: sequence by sequence, where all have as many, else one.

    Layers need not be called equally often: some attend in windows, others do not.
    """
    sums = [getattr(call, name) for call in calls]
    total: Array = sum(x if alike else x.sum(0, keepdim=True) for x in sums).cpu().numpy()
    return total


def _layer_sums(call: AttentionCall, targets: Sequence[Targets], valid_BT: Tensor) -> _LayerSums:
    query, key, bias = call.query_BHQD, call.key_BHKD, call.bias
    n_batch, n_heads, n_patterns = query.shape[0], query.shape[1], len(targets)

    def zeros(*size: int) -> Tensor:
        return query.new_zeros(size, dtype=torch.float64)

    sums = _LayerSums(
        zeros(n_batch, n_heads, n_patterns, len(MEASURES)), zeros(n_batch, n_patterns), zeros(n_batch, n_patterns),
        zeros(n_batch, n_heads), valid_BT.sum(-1).double(),
    )  # fmt: skip
    scaled, rest = scaled_queries(query, call.scale)
    buffers = Buffers()
    for block in blocks(query, key, call.mask, [(of_pattern, 1) for of_pattern in targets]):
        valid_bq = valid_BT[block.batch, block.queries].double()
        counted = [valid_bq * (listed.count_bq > 0) for listed in block.targets]
        n_seen = key.shape[2] if block.hidden_bqK is None else (~block.hidden_bqK).sum(-1).clamp(min=1)
        for p, (listed, counted_bq) in enumerate(zip(block.targets, counted, strict=True)):
            sums.counts_BG[block.batch, p] += counted_bq.sum(-1)
            sums.uniform_BG[block.batch, p] += (listed.count_bq / n_seen * counted_bq).sum(-1)
        for head in range(n_heads):
            scores_bqK = block.scores(scaled, key, head, rest, buffers)
            if bias is not None:
                of_block = bias[block.batch] if len(bias) > 1 else bias
                scores_bqK += of_block[:, head % bias.shape[1], block.queries if bias.shape[2] > 1 else slice(None)]
            map_bqK = block.softmax_(scores_bqK)
            squares_bq = torch.linalg.vector_norm(map_bqK, dim=-1).square()
            best_bq = map_bqK.argmax(-1)
            for p, (listed, counted_bq) in enumerate(zip(block.targets, counted, strict=True)):
                mass_bq = listed.sum(map_bqK)
                error_bq = row_losses(RowStatistics(squares_bq, mass_bq, listed.count_bq), "squared_error")
                measures = torch.stack([mass_bq, listed.holds(best_bq).to(mass_bq.dtype), error_bq], -1)
                sums.sums_BHGM[block.batch, head, p] += (measures * counted_bq[..., None]).sum(-2)
            entropy_bq = torch.special.entr(map_bqK).sum(-1)
            sums.entropy_BH[block.batch, head] += (entropy_bq * valid_bq).sum(-1)
    return sums
