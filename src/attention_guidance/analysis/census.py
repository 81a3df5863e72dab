"""Head census: which pattern each head of a model follows on a sample of text.

After section 2 of the paper. All measures are sums over the rows of a sequence, computed in blocks during the forward
pass; no attention map is stored. The patterns are the same objects that guide heads.

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
from attention_guidance.patterns.targets import check_hard, sums_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Array = npt.NDArray[np.float64]

#: The measures of each head and pattern, in the order of the sums.
MEASURES = ("mass", "argmax_share", "squared_error")
#: A head follows a pattern if at least this fraction of its attention is on the pattern's targets.
THRESHOLD = 0.5


@dataclass(frozen=True)
class Estimate:
    """A mean over the rows of a sample, with a 95 % confidence interval over sequences (NaN for a single sequence).

    Examples:
        >>> mass = take_census(model, batches, "first").mass
        >>> bool(((mass.low <= mass.value) & (mass.value <= mass.high)).all())
        True

    Attributes:
        value: the mean; NaN where there were no rows.
        low: the lower end of the interval, of the same shape.
        high: the upper end of the interval, of the same shape.
    """

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Census:
    """Measures of every head of a model for every pattern, on a sample.

    Examples:
        >>> census = take_census(model, batches, "next first")
        >>> census.patterns, census.mass.value.shape  # layers, heads, patterns
        (('next', 'first'), (2, 4, 2))
        >>> sum(census.shares().values())
        1.0

    Attributes:
        patterns: names of the patterns.
        mass: mean attention on the targets, [L, H, G]. Rows whose query is padding or has no target do not count.
        argmax_share: fraction of rows whose largest attention weight is on a target, [L, H, G].
        squared_error: mean over rows of ``sum_j (A_ij - P_ij)^2`` (equation 3), [L, H, G].
        uniform_mass: the mass under uniform attention over the keys that a query sees, [L, G].
        entropy: mean entropy of a row in nats, [L, H].
        rows: number of rows per layer and pattern, [L, G]. Layers differ if some of them attend only within windows.
        n_sequences: number of sequences in the sample.
        n_tokens: number of tokens in the sample.
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
        """Number of layers of the model."""
        return int(self.entropy.value.shape[0])

    @property
    def n_heads(self) -> int:
        """Number of heads per layer."""
        return int(self.entropy.value.shape[1])

    def followed(self, threshold: float = THRESHOLD) -> list[list[str | None]]:
        """The pattern that each head follows, by layer and head: the one with the most mass, if that is enough.

        Of patterns with equal mass, the first is taken. If uniform attention already reaches the threshold
        (``uniform_mass``), no head counts as following the pattern.
        """
        mass_LHG = np.where(self.uniform_mass[:, None] < threshold, np.nan_to_num(self.mass.value, nan=-1.0), -1.0)
        best_LH = mass_LHG.argmax(-1)
        return [
            [self.patterns[p] if mass_LHG[layer, head, p] >= threshold else None for head, p in enumerate(best_H)]
            for layer, best_H in enumerate(best_LH)
        ]

    def shares(self, threshold: float = THRESHOLD) -> dict[str, float]:
        """The fraction of all heads that follow each pattern; `none` is the fraction that follow no pattern."""
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
    """Measure every head of a model against every pattern, in evaluation mode; the model is left unchanged.

    Streams over the batches: memory does not grow with their number, and no attention map is stored.

    If the attention of a layer is called several times in a forward pass (per image, per window), the rows of all calls
    are used; the pass then counts as one sequence, since the rows of different layers cannot be aligned.

    Examples:
        >>> census = take_census(model, batches, "next previous first")
        >>> name = census.followed()[0][2]  # of head 2 of layer 0; None if it follows none of them

    Args:
        model: any unguided model that `guide` accepts.
        batches: inputs of the model: mappings as in ``model(**batch)``, token ids [T] or [B, T], or texts; a single
            input or an iterable of them. Tensors are moved to the model's device.
        patterns: the patterns to measure, as objects or names.
        tokenizer: the model's tokenizer; required for texts and for token classes such as `delimiter` and `period`.
        token_classes: user-defined token classes, as in `guide`.
        progress: called with the number of sequences after each batch.

    Raises:
        AttachError: the model is guided or its attention cannot be observed, or the attention is not finite.
        PatternError: no pattern, two patterns with the same name, or a pattern that the inputs have no targets for.
        ConfigError: no batch, or an invalid one.
    """
    wanted = patterns_of(patterns, tokenizer, token_classes)
    names = [pattern.name for pattern in wanted]
    if not names or len(set(names)) < len(names):
        raise PatternError(f"patterns {', '.join(names) or '(none)'}: give at least one, with different names")
    accumulator = _Accumulator(wanted)
    with observing(model, accumulator.see) as watched:
        check_class_token(wanted, watched.model)
        for batch in batches_of(batches, tokenizer):
            accumulator.begin(batch, watched)
            watched(batch)
            accumulator.end()
            if progress is not None:
                progress(accumulator.n_sequences)
    if accumulator.n_sequences == 0:
        raise ConfigError("batches is empty; give at least one batch for the census")
    return accumulator.census(names)


class _Accumulator:
    """Accumulates sums over sequences."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.patterns = patterns
        self.n_sequences = self.n_tokens = 0
        self.sums: tuple[RatioSums, RatioSums, RatioSums] | None = None
        self.layers: dict[int, list[_LayerSums]] = {}

    def begin(self, batch: Mapping[str, Any], watched: Observation) -> None:
        """Call before the forward pass of a batch."""
        self.current = watched.forward_pass(batch)
        self.layers = {}

    def see(self, layer: int, call: AttentionCall) -> None:
        """Add one attention call of a layer, which may have several calls in a forward pass."""
        calls = self.layers.setdefault(layer, [])
        self.current.check_call(layer, len(calls))
        call = as_computed(call)
        valid_BT, targets = self.current.targets(self.patterns, call)
        check_hard(*targets)
        calls.append(_layer_sums(call, targets, valid_BT))

    def end(self) -> None:
        """Call after the forward pass: add its sums."""
        layers = [self.layers[layer] for layer in sorted(self.layers)]
        alike = len({len(call.lengths_B) for calls in layers for call in calls}) == 1
        sums_BLHGM, entropy_BLH, counts_BLG, uniform_BLG, lengths_BL = (
            np.stack([_over_calls(calls, name, alike) for calls in layers], 1)
            for name in ("sums_BHGM", "entropy_BH", "counts_BG", "uniform_BG", "lengths_B")
        )
        if not np.isfinite(entropy_BLH).all():
            raise AttachError("the model's attention is not finite; check its weights and its precision")
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
        """The census computed from the sums."""
        assert self.sums is not None
        of_patterns, entropy, uniform = self.sums
        value, low, high = of_patterns.estimate()
        # Masses and shares lie between 0 and 1, a squared error between 0 and 2.
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
    """Sums over the rows of each sequence, in the precision of `sums_dtype`.

    Attributes:
        sums_BHGM: sum of each measure over the rows with a target, by head and pattern.
        counts_BG: number of rows with a target.
        uniform_BG: sum of the mass under uniform attention over the rows with a target.
        entropy_BH: sum of the entropies over the rows of all tokens.
        lengths_B: number of tokens.
    """

    sums_BHGM: Tensor
    counts_BG: Tensor
    uniform_BG: Tensor
    entropy_BH: Tensor
    lengths_B: Tensor


def _over_calls(calls: Sequence[_LayerSums], name: str, alike: bool) -> Array:
    """Add one field over all calls of a layer in a forward pass: per sequence if `alike`, else over all sequences.

    Layers may differ in the number of calls: some attend within windows, others do not.
    """
    sums = [getattr(call, name) for call in calls]
    total: Array = sum(x if alike else x.sum(0, keepdim=True) for x in sums).cpu().numpy()
    return total


def _layer_sums(call: AttentionCall, targets: Sequence[Targets], valid_BT: Tensor) -> _LayerSums:
    query, key, bias = call.query_BHQD, call.key_BHKD, call.bias
    sums_in = sums_dtype(query.device)
    n_batch, n_heads, n_patterns = query.shape[0], query.shape[1], len(targets)

    def zeros(*size: int) -> Tensor:
        return query.new_zeros(n_batch, *size, dtype=sums_in)

    sums_BHPM, counts_BP, uniform_BP = zeros(n_heads, n_patterns, len(MEASURES)), zeros(n_patterns), zeros(n_patterns)
    sums = _LayerSums(sums_BHPM, counts_BP, uniform_BP, zeros(n_heads), valid_BT.sum(-1).to(sums_in))
    scaled, rest = scaled_queries(query, call.scale)
    buffers = Buffers()
    for block in blocks(query, key, call.mask, [(of_pattern, 1) for of_pattern in targets]):
        valid_bq = valid_BT[block.batch, block.queries].to(sums_in)
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
