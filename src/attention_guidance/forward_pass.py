"""What guidance sees and keeps of one forward pass: the batch, and each guided layer's distance to its patterns.

Shape suffixes: B batch, H heads, Q queries, K keys, T positions, D channels of a head.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attention_guidance.assignment import GuidedHead
from attention_guidance.errors import AttachError
from attention_guidance.loss.aggregate import elementwise_mean, query_means
from attention_guidance.loss.reference import row_losses
from attention_guidance.patterns import Pattern, Sequences


@dataclass(frozen=True)
class LayerLoss:
    """What one guided layer adds: its term of the loss, and each guided head's mean distance (`GuidedLayer.heads`)."""

    loss: Tensor
    head_means: Tensor


@dataclass
class ForwardPass:
    """One forward pass of a guided model, from its pre-hook to its forward hook.

    Attributes:
        input_ids_BT: the token ids that the model was given, or None.
        mask_BT: its attention mask, 1 for tokens and 0 for padding, or None.
        with_gradient: whether the pass was begun with gradients on.
        weighted: whether the guidance goes into a loss; without, it is only measured, which takes no gradient.
        layers: what the guided layers have added so far.
    """

    input_ids_BT: Tensor | None
    mask_BT: Tensor | None
    with_gradient: bool
    weighted: bool
    layers: dict[int, LayerLoss] = field(default_factory=dict)

    @classmethod
    def of_inputs(cls, inputs: Mapping[str, Any], weighted: bool) -> ForwardPass:
        """Begin a pass from the arguments of the model's forward, by name."""
        return cls(inputs.get("input_ids"), inputs.get("attention_mask"), torch.is_grad_enabled(), weighted)

    def sequences(self, size: tuple[int, int], mask: Tensor | None, device: torch.device) -> Sequences:
        """The batch as patterns see it, in the positions of an attention call.

        A model may count its positions otherwise than its inputs (audio samples and frames, pixels and patches): inputs
        of another shape are left aside, and what is padding is read off the attention's own mask, as the keys that no
        query may attend to.

        Args:
            size: batch, positions.
            mask: the mask of the attention call, bool or additive, or None.
            device: where the attention runs.
        """
        ids_BT = self.input_ids_BT if _has_shape(self.input_ids_BT, size) else None
        if _has_shape(self.mask_BT, size):
            return Sequences(self.mask_BT.bool(), ids_BT)  # type: ignore[union-attr]
        if mask is not None:
            return Sequences(_visible(mask).any(-2).expand(size), ids_BT)
        return Sequences(torch.ones(size, dtype=torch.bool, device=device), ids_BT)


def _has_shape(tensor: Tensor | None, shape: tuple[int, int]) -> bool:
    return tensor is not None and tuple(tensor.shape) == shape


class GuidedLayer:
    """Sits on one attention module and turns its queries and keys into the guidance of its heads.

    Args:
        layer: the layer's number.
        heads: its guided heads.
        objective: `squared_error` or `log_mass`.
        normalization: `query` or `elementwise`.
    """

    def __init__(self, layer: int, heads: Iterable[GuidedHead], objective: str, normalization: str) -> None:
        self.layer = layer
        self.objective = objective
        self.normalization = normalization
        groups: dict[Pattern, list[int]] = defaultdict(list)
        for guided in heads:
            groups[guided.pattern].append(guided.head)
        self.groups = tuple((pattern, tuple(indices)) for pattern, indices in groups.items())
        self.current: ForwardPass | None = None
        self.recording = False

    @property
    def heads(self) -> tuple[GuidedHead, ...]:
        """The guided heads in the order of `LayerLoss.head_means`."""
        return tuple(GuidedHead(self.layer, head, pattern) for pattern, indices in self.groups for head in indices)

    def observe(self, query_BHQD: Tensor, key_BHKD: Tensor, mask: Tensor | None, scale: float) -> None:
        """Add this layer's guidance to the current pass.

        Raises:
            AttachError: gradients were on when the pass began and are off here, as under reentrant checkpointing,
                where the guidance would train nothing.
        """
        current = self.current
        if current is None:
            return
        if current.with_gradient and not torch.is_grad_enabled() and self.recording:
            raise AttachError(
                "gradients are off inside the model's forward pass, so guidance would train nothing; if this is "
                "gradient checkpointing, use gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        # Recomputation under checkpointing comes here again, in the backward pass: it must do the same work, so that
        # the same tensors are saved, but is not counted a second time.
        with torch.set_grad_enabled(torch.is_grad_enabled() and current.weighted):
            loss = self._layer_loss(current, query_BHQD, key_BHKD, mask, scale)
        if self.recording:
            current.layers[self.layer] = loss

    def _layer_loss(
        self, current: ForwardPass, query_BHQD: Tensor, key_BHKD: Tensor, mask: Tensor | None, scale: float
    ) -> LayerLoss:
        n_batch, n_heads, n_queries, _ = query_BHQD.shape
        n_keys = key_BHKD.shape[2]
        sequences = current.sequences((n_batch, n_queries), mask, query_BHQD.device)
        queries_BQ = sequences.valid_BT
        allowed_BQK = _allowed(mask, sequences).expand(n_batch, n_queries, n_keys)
        losses, means = [], []
        for pattern, indices in self.groups:
            targets_BQK = (pattern.targets(sequences) & allowed_BQK).expand(n_batch, n_queries, n_keys)
            rows_BHQ = row_losses(
                query_BHQD[:, indices],
                key_BHKD[:, [head * key_BHKD.shape[1] // n_heads for head in indices]],
                allowed_BQK,
                targets_BQK,
                scale,
                self.objective,
            )
            means_H = query_means(rows_BHQ, targets_BQK, queries_BQ)
            by_element = self.normalization == "elementwise"
            losses.append(elementwise_mean(rows_BHQ, allowed_BQK, queries_BQ) if by_element else means_H.sum())
            means.append(means_H.detach())
        return LayerLoss(torch.stack(losses).sum(), torch.cat(means))


def _allowed(mask: Tensor | None, sequences: Sequences) -> Tensor:
    """Which keys each query may attend to, bool [B, Q or 1, K], from the mask that the attention function was given."""
    return sequences.valid_BT[:, None, :] if mask is None else _visible(mask)


def _visible(mask: Tensor) -> Tensor:
    """A mask [B or 1, 1, Q or 1, K], bool or additive, as bool [B or 1, Q or 1, K]."""
    if mask.shape[1] != 1:
        raise AttachError(f"cannot guide attention whose mask differs by head (mask of shape {tuple(mask.shape)})")
    # An additive mask hides a key with the dtype's most negative number, or minus infinity.
    return mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
