"""`ablate(model, ...)`: the loss of a model without each of its heads.

Shape suffixes: N sequences, L layers, H heads, B sequences of a batch, T positions, V vocabulary, R heads removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_guidance.analysis.census import Estimate
from attention_guidance.analysis.given import Batch, batches_of
from attention_guidance.analysis.intervals import FEWEST, resampled_ratios
from attention_guidance.analysis.reuse import Reuse
from attention_guidance.analysis.without_heads import HeadRemoval, Place, Replacement, To
from attention_guidance.errors import ConfigError
from attention_guidance.patterns import TokenClasses
from attention_guidance.patterns.targets import sums_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Array = npt.NDArray[np.float64]
#: The sum of a model's losses on each sequence of a batch, [B], and how many losses these are, [B].
Measure = Callable[[nn.Module, Mapping[str, Any]], tuple[Tensor, Tensor]]
_IGNORED = -100


@dataclass(frozen=True)
class Ablation:
    """The loss of a model without its heads, one at a time and, if asked for, one after another.

    Examples:
        >>> found = ablate(model, batches, greedy=2)
        >>> found.difference.value.shape  # layers and heads
        (2, 4)
        >>> len(found.order), found.curve.value.shape
        (2, (2,))

    Attributes:
        sums_N: the sum of the losses of each sequence, with all heads, float64.
        counts_N: the number of these losses.
        added_NLH: what removing each head alone adds to the sums.
        order: the heads that were removed greedily, the least needed first.
        added_NR: what removing the first, the first two, ... of `order` adds to the sums.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.
    """

    sums_N: Array
    counts_N: Array
    added_NLH: Array
    order: tuple[Place, ...]
    added_NR: Array
    seed: int = 1
    resamples: int = 2000

    @property
    def loss(self) -> Estimate:
        """The mean loss with all heads."""
        return self._estimate(self.sums_N)

    @property
    def difference(self) -> Estimate:
        """The loss without each head minus the loss with all heads, [L, H]: above 0 for a head that is needed."""
        return self._estimate(self.added_NLH)

    @property
    def curve(self) -> Estimate:
        """The loss without the first, the first two, ... heads of `order` minus the loss with all heads, [R]."""
        return self._estimate(self.added_NR)

    def weighted(self, weights_LH: npt.ArrayLike) -> Estimate:
        """A weighted sum of the differences, such as the mean over some heads minus that over others; a scalar."""
        return self._estimate((self.added_NLH * np.asarray(weights_LH, np.float64)).sum((1, 2)))

    def _estimate(self, sums_NX: Array) -> Estimate:
        """A mean with percentiles of a bootstrap over sequences; NaN for fewer than ten with a loss."""
        rng = np.random.default_rng(self.seed)
        counted_N = self.counts_N > 0  # a resample of the others alone would have no mean
        sums_NP, counts_N = sums_NX.reshape(len(sums_NX), -1)[counted_N], self.counts_N[counted_N]
        values = resampled_ratios(sums_NP, counts_N, rng, self.resamples)
        ends = np.full((2, values.shape[1]), np.nan)
        if len(counts_N) >= FEWEST:
            ends = np.percentile(values[1:], [2.5, 97.5], axis=0)
        return Estimate(*(x.reshape(sums_NX.shape[1:]) for x in (values[0], *ends)))


def ablate(
    model: nn.Module,
    batches: Iterable[Batch] | Batch,
    to: To = "zero",
    *,
    greedy: int = 0,
    measure: Measure | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    seed: int = 1,
    resamples: int = 2000,
    progress: Callable[[int], None] | None = None,
) -> Ablation:
    """Measure the loss of a model without each of its heads, in evaluation mode; the model is left unchanged.

    After Michel et al. 2019 ("Are Sixteen Heads Really Better than One?"). All heads are removed from the same batches,
    with the same masked tokens, so the differences are paired. Blocks below the layer of a removed head run once for
    all its heads.

    Examples:
        >>> found = ablate(model, batches, to="mean")
        >>> worth = found.difference.value[0, 3]  # of head 3 of layer 0, in nats
        >>> interval = found.difference.low[0, 3], found.difference.high[0, 3]

    Args:
        model: any unguided model that `guide` accepts.
        batches: inputs of the model, kept in memory; with `labels` as a data collator makes them, -100 where there is
            nothing to predict.
        to: what is in place of a removed head, see `without_heads`; `mean` is the mean over these batches.
        greedy: number of heads to remove for good, one after another, each time the one without which the loss is
            lowest. Takes about half as many times as long as the differences alone.
        measure: computes the losses of a batch (default: those of the labels in nats, from the model's logits).
        tokenizer: the model's tokenizer; required for token classes.
        token_classes: user-defined token classes, as in `guide`.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.
        progress: called with the number of forward passes without a head that are done.

    Raises:
        AttachError: the model is guided or its attention cannot be replaced.
        PatternError: an unknown pattern, or one that the inputs have no targets for.
        ConfigError: no batch, no labels, more heads to remove than there are, a loss that is not finite, or a number or
            measure that is none.
    """
    for name, number, least in (("greedy", greedy, 0), ("seed", seed, 0), ("resamples", resamples, 1)):
        if not isinstance(number, Integral) or number < least:
            raise ConfigError(f"{name}={number!r} must be an integer of at least {least}")
    removal = HeadRemoval(model)
    places = removal.places
    check_greedy(removal, greedy)
    device = next(removal.model.parameters()).device
    given = [
        {name: x.to(device) if isinstance(x, Tensor) else x for name, x in batch.items()}
        for batch in batches_of(batches, tokenizer)
    ]
    if not given:
        raise ConfigError("batches is empty; give at least one batch to measure the loss on")
    with removal.attached(), torch.no_grad():
        by = removal.replacements(places, to, given, tokenizer, token_classes)
        losses = _Losses(model, removal, given, measure or label_losses, progress)
        with losses.reuse.attached():
            sums_N, counts_N, alone_NX = losses.without({}, {place: by[place] for place in places})
            removal.check_reached(by)
            order, removed_NR = _greedily(losses, by, alone_NX, greedy)
    added_NLH = (alone_NX - sums_N[:, None]).reshape(-1, removal.n_layers, removal.n_heads)
    return Ablation(sums_N, counts_N, added_NLH, order, removed_NR - sums_N[:, None], seed, resamples)


def check_greedy(removal: HeadRemoval, n_heads: int) -> None:
    """Check the number of heads to remove one after another.

    Raises:
        ConfigError: the model has fewer.
    """
    n_places = len(removal.places)
    if not 0 <= n_heads <= n_places:
        raise ConfigError(f"greedy={n_heads}: {type(removal.model).__name__} has {n_places} heads to remove")


def label_losses(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The default `Measure`: cross-entropy of the labels, in nats.

    Raises:
        ConfigError: the batch has no labels, or the model gives no logits for them.
    """
    labels_BT = batch.get("labels")
    if not isinstance(labels_BT, Tensor) or labels_BT.dim() != 2:
        raise ConfigError(
            "a batch has no labels [B, T]; add those of masked tokens, as DataCollatorForLanguageModeling makes them, "
            "or give measure="
        )
    logits = getattr(model(**batch), "logits", None)
    counted_BT = labels_BT != _IGNORED
    if isinstance(logits, Tensor) and logits.shape[:-1] == labels_BT.shape:
        logits = logits[counted_BT]
    # A model may predict at the labelled positions alone.
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != int(counted_BT.sum()):
        raise ConfigError(f"{type(model).__name__} gives no logits of its labels; give measure=")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses_n = functional.cross_entropy(logits, labels_BT[counted_BT], reduction="none")
    losses_BT = torch.zeros(labels_BT.shape, dtype=sums_dtype(labels_BT.device), device=labels_BT.device)
    losses_BT[counted_BT] = losses_n.to(losses_BT.dtype)
    return losses_BT.sum(-1), counted_BT.sum(-1)


class _Losses:
    """Measures a model without some of its heads on all batches."""

    def __init__(
        self,
        model: nn.Module,
        removal: HeadRemoval,
        batches: Sequence[Mapping[str, Any]],
        measure: Measure,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.model, self.removal, self.batches, self.measure, self.progress = model, removal, batches, measure, progress
        self.reuse = Reuse(removal.model, removal.n_layers)
        removal.on_call = self.reuse.on_call
        self.n_done = 0

    def without(
        self, removed: Mapping[Place, Replacement], more: Mapping[Place, Replacement]
    ) -> tuple[Array, Array, Array]:
        """Sums and counts [N] without the removed heads, and the sums without one more, [N, X]."""
        parts = [self._of_batch(batch, removed, more) for batch in self.batches]
        sums_N, counts_N, sums_NX = (np.concatenate([part[n] for part in parts]) for n in range(3))
        if not counts_N.sum():
            raise ConfigError("no label in the batches: all of them are -100, so there is no loss to measure")
        if not np.isfinite(sums_N).all():
            raise ConfigError("the model's loss is not finite; check its weights and its precision")
        return sums_N, counts_N, sums_NX

    def _of_batch(
        self, batch: Mapping[str, Any], removed: Mapping[Place, Replacement], more: Mapping[Place, Replacement]
    ) -> tuple[Array, Array, Array]:
        with self.reuse.record():
            sums_B, counts_B = self._measured(batch, removed)
        if not self.n_done:
            self._check_reuse(batch, removed, sums_B)
        alone = []
        for place, by in more.items():
            with self.reuse.before(place[0]):
                alone.append(self._measured(batch, {**removed, place: by})[0])
            self.n_done += 1
            if self.progress is not None:
                self.progress(self.n_done)
        return sums_B, counts_B, np.stack(alone, -1)

    def _check_reuse(self, batch: Mapping[str, Any], removed: Mapping[Place, Replacement], sums_B: Array) -> None:
        """Reuse nothing of a model whose blocks share more than what they return."""
        for layer in filter(self.reuse.available, range(self.removal.n_layers)):
            with self.reuse.before(layer):
                again_B, _ = self._measured(batch, removed)
            if not np.array_equal(again_B, sums_B, equal_nan=True):
                self.reuse.forget()
                return

    def _measured(self, batch: Mapping[str, Any], removed: Mapping[Place, Replacement]) -> tuple[Array, Array]:
        self.removal.removed = dict(removed)
        found = self.measure(self.model, batch)
        shapes = [x.shape for x in found if isinstance(x, Tensor)] if isinstance(found, tuple | list) else []
        if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 1:
            raise ConfigError("measure must return two tensors [B]: the sum of each sequence's losses and their number")
        sums_B, counts_B = found
        return sums_B.cpu().double().numpy(), counts_B.cpu().double().numpy()


def _greedily(
    losses: _Losses, by: Mapping[Place, Replacement], alone_NX: Array, n_heads: int
) -> tuple[tuple[Place, ...], Array]:
    """The heads in the order in which they are removed, and the sums after each removal, [N, R]."""
    left, removed = dict(by), dict[Place, Replacement]()
    after: list[Array] = []
    for number in range(n_heads):
        if number:
            _, _, alone_NX = losses.without(removed, left)
        best = int(np.nan_to_num(alone_NX.sum(0), nan=np.inf).argmin())
        place = [*left][best]
        after.append(alone_NX[:, best])
        removed[place] = left.pop(place)
    return tuple(removed), np.stack(after, -1) if after else np.empty((len(alone_NX), 0))
