"""What guidance sees and keeps of one forward pass: the batch, and each guided layer's distance to its patterns.

Shape suffixes: B batch, T positions, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attention_guidance.inputs_outputs import document_numbers, patch_grid
from attention_guidance.loss.layers import LayerLoss, LayerRows
from attention_guidance.patterns import GIVEN, Pattern, Sequences, Targets, checked_targets


@dataclass
class ForwardPass:
    """One forward pass of a guided model, from its pre-hook to its forward hook.

    Attributes:
        inputs: the arguments of the model's forward, by name.
        patch_size: height and width of the patches that the model cuts images into, or None.
        with_gradient: whether the pass was begun with gradients on.
        weighted: whether the guidance goes into a loss; without, it is only measured, which takes no gradient.
        rows: the rows of the guided layers that were called so far, until the pass ends.
        layers: what the guided layers have added, once the pass has ended.
        samples: one number of each query of a layer, by which recomputation tells its own pass.
        shared: what backends made of targets and masks, for the layers that have the same.
    """

    inputs: Mapping[str, Any]
    patch_size: tuple[int, int] | None
    with_gradient: bool
    weighted: bool
    rows: dict[int, LayerRows] = field(default_factory=dict)
    layers: dict[int, LayerLoss] = field(default_factory=dict)
    samples: dict[int, Tensor] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)
    _targets: dict[tuple[Any, ...], tuple[Tensor, list[Targets]]] = field(default_factory=dict)

    def targets(
        self, patterns: Sequence[Pattern], size: tuple[int, int], shown: Tensor | None, device: torch.device
    ) -> tuple[Tensor, list[Targets]]:
        """Which positions of an attention call are tokens, bool [B, T], and the targets of patterns there.

        Made once for all layers that are alike. See `sequences` for the arguments.
        """
        # The mask of one layer need not be that of the next.
        by_mask = shown is not None and _shaped(self.inputs.get("attention_mask"), size) is None
        if by_mask or torch.compiler.is_compiling():
            sequences = self.sequences(size, shown, device)
            return sequences.valid_BT, [checked_targets(pattern, sequences) for pattern in patterns]
        key = (*patterns, *size, device)
        if key not in self._targets:
            sequences = self.sequences(size, shown, device)
            self._targets[key] = sequences.valid_BT, [checked_targets(pattern, sequences) for pattern in patterns]
        return self._targets[key]

    def sequences(self, size: tuple[int, int], shown: Tensor | None, device: torch.device) -> Sequences:
        """The batch as patterns see it, in the positions of an attention call.

        A model may count its positions otherwise than its inputs (audio samples and frames, pixels and patches): inputs
        of another shape are left aside, and what is padding is read off the attention's own mask, as the keys that no
        query may attend to.

        Args:
            size: batch, positions.
            shown: bool, the mask of the attention call, [B or 1, 1, Q or 1, K], or None.
            device: where the attention runs.
        """
        mask_BT = _shaped(self.inputs.get("attention_mask"), size)
        if mask_BT is not None:
            valid_BT = mask_BT.bool()
        elif shown is not None:
            valid_BT = shown[:, 0].any(-2).expand(size)
        else:
            valid_BT = torch.ones(size, dtype=torch.bool, device=device)
        return Sequences(
            valid_BT,
            _shaped(self.inputs.get("input_ids"), size),
            document_numbers(self.inputs.get("position_ids"), size),
            patch_grid(self.inputs, self.patch_size),
            self.inputs.get(GIVEN),
        )


def _shaped(value: Any, size: tuple[int, ...]) -> Tensor | None:
    """An input in the shape of the batch (multiple choice gives [B, choices, T]), None if it is another thing.

    ModernBERT takes a mapping of masks, one for each kind of layer.
    A mask of four dimensions is one of pairs: the mask of the attention call tells what it hides.
    """
    if not isinstance(value, Tensor) or value.dim() > 3:
        return None
    if value.shape[-1] != size[1] or value.numel() != size[0] * size[1]:
        return None
    return value.reshape(size)
