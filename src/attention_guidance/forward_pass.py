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
from attention_guidance.loss.aggregate import elementwise_mean, mean, query_sums
from attention_guidance.loss.reference import row_losses
from attention_guidance.patterns import Pattern, Sequences


@dataclass(frozen=True)
class LayerLoss:
    """What one guided layer adds: its term of the loss, and each guided head's distance (`GuidedLayer.heads`).

    Attributes:
        loss: a scalar.
        sums: each guided head's sum over the rows that count.
        counts: the number of these rows.
    """

    loss: Tensor
    sums: Tensor
    counts: Tensor


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
        ids_BT, mask_BT = _shaped(self.input_ids_BT, size), _shaped(self.mask_BT, size)
        if mask_BT is not None:
            return Sequences(mask_BT.bool(), ids_BT)
        if mask is not None:
            return Sequences(_visible(mask).any(-2).expand(size), ids_BT)
        return Sequences(torch.ones(size, dtype=torch.bool, device=device), ids_BT)


def _shaped(tensor: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    """An input in the shape of the batch (multiple choice gives [B, choices, T]), None if it is another thing."""
    fits = tensor is not None and tensor.shape[-1] == size[1] and tensor.numel() == size[0] * size[1]
    return tensor.reshape(size) if tensor is not None and fits else None


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

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the pass under way, whose tensors cannot be copied or pickled."""
        return self.__dict__ | {"current": None, "recording": False}

    @property
    def heads(self) -> tuple[GuidedHead, ...]:
        """The guided heads in the order of `LayerLoss.sums`."""
        return tuple(GuidedHead(self.layer, head, pattern) for pattern, indices in self.groups for head in indices)

    def observe(self, query_BHQD: Tensor, key_BHKD: Tensor, mask: Tensor | None, scale: float) -> None:
        """Add this layer's guidance to the current pass.

        Raises:
            AttachError: gradients were on when the pass began and are off here, as under reentrant checkpointing,
                where the guidance would train nothing.
        """
        # Recomputation under checkpointing comes here again, within the backward pass: it must do the same work, so
        # that the same tensors are saved, but is not counted a second time. Any other call is not of a guided pass.
        current = self.current if self.recording or torch._C._current_graph_task_id() != -1 else None
        if current is None:
            return
        if current.with_gradient and not torch.is_grad_enabled() and self.recording:
            raise AttachError(
                "gradients are off inside the model's forward pass, so guidance would train nothing; if this is "
                "gradient checkpointing, use gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
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
        losses, sums, counts = [], [], []
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
            sums_H, count = query_sums(rows_BHQ, targets_BQK, queries_BQ)
            by_element = self.normalization == "elementwise"
            losses.append(
                elementwise_mean(rows_BHQ, allowed_BQK, queries_BQ) if by_element else mean(sums_H, count).sum()
            )
            sums.append(sums_H.detach())
            counts.append(count.expand_as(sums_H))
        return LayerLoss(torch.stack(losses).sum(), torch.cat(sums), torch.cat(counts))


def _allowed(mask: Tensor | None, sequences: Sequences) -> Tensor:
    """Which keys each query may attend to, bool [B, Q or 1, K], from the mask that the attention function was given."""
    return sequences.valid_BT[:, None, :] if mask is None else _visible(mask)


def _visible(mask: Tensor) -> Tensor:
    """A mask [B or 1, 1, Q or 1, K], bool or additive, as bool [B or 1, Q or 1, K]."""
    if mask.shape[1] != 1:
        raise AttachError(f"cannot guide attention whose mask differs by head (mask of shape {tuple(mask.shape)})")
    # An additive mask hides a key with minus infinity, the dtype's most negative number, or -10,000 as BERT's own did.
    return mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > -1e4
