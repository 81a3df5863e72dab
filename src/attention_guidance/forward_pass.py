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
        sequences: the batch, where the model was given ids or a mask; else found at the first attention call.
        with_gradient: whether the pass was begun with gradients on.
        weighted: whether the guidance goes into a loss; without, it is only measured, which takes no gradient.
        layers: what the guided layers have added so far.
    """

    sequences: Sequences | None
    with_gradient: bool
    weighted: bool
    layers: dict[int, LayerLoss] = field(default_factory=dict)

    @classmethod
    def of_inputs(cls, inputs: Mapping[str, Any], weighted: bool) -> ForwardPass:
        """Begin a pass from the arguments of the model's forward, by name."""
        ids_BT, mask_BT = inputs.get("input_ids"), inputs.get("attention_mask")
        sequences = None
        if mask_BT is not None and mask_BT.dim() == 2:
            sequences = Sequences(mask_BT.bool(), ids_BT)
        elif ids_BT is not None:
            sequences = Sequences(torch.ones_like(ids_BT, dtype=torch.bool), ids_BT)
        return cls(sequences, torch.is_grad_enabled(), weighted)


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
        sequences = current.sequences or _all_valid(query_BHQD)
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


def _all_valid(query_BHQD: Tensor) -> Sequences:
    """A batch of which only the shape is known: every position is a token."""
    n_batch, _, n_positions, _ = query_BHQD.shape
    return Sequences(torch.ones(n_batch, n_positions, dtype=torch.bool, device=query_BHQD.device))


def _allowed(mask: Tensor | None, sequences: Sequences) -> Tensor:
    """Which keys each query may attend to, bool [B, Q or 1, K], from the mask that the attention function was given."""
    if mask is None:
        return sequences.valid_BT[:, None, :]
    if mask.shape[1] != 1:
        raise AttachError(f"cannot guide attention whose mask differs by head (mask of shape {tuple(mask.shape)})")
    # An additive mask hides a key with the dtype's most negative number, or minus infinity.
    return mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
