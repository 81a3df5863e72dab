"""What guidance sees and keeps of one forward pass: the batch, and each guided layer's distance to its patterns.

Shape suffixes: B batch, T positions, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attention_guidance.adapters.call import AttentionCall
from attention_guidance.adapters.inputs_outputs import document_numbers, patch_grid
from attention_guidance.errors import AttachError
from attention_guidance.loss.layers import LayerLoss, LayerRows
from attention_guidance.patterns import GIVEN, Pattern, Sequences, Targets, checked_targets


@dataclass
class GradientTrace:
    """How far a backward pass has come in a forward pass.

    Attributes:
        model: it has gone through the guided attention.
        guidance: it came from the guidance loss, too.
    """

    model: bool = False
    guidance: bool = False

    def reach_model(self, gradient: Tensor) -> None:
        """A tensor's hook."""
        self.model = True

    def reach_guidance(self, gradient: Tensor) -> None:
        """A tensor's hook."""
        self.guidance = True


@dataclass
class ForwardPass:
    """One forward pass of a guided model, from its pre-hook to its forward hook.

    Attributes:
        inputs: the arguments of the model's forward, by name.
        patch_size: height and width of the patches that the model cuts images into, or None.
        with_gradient: whether the pass was begun with gradients on.
        weighted: whether the guidance goes into a loss; without, it is only measured, which takes no gradient.
        rows: the rows of the guided layers, for each call of a layer so far, until the pass ends.
        layers: what the guided layers have added, once the pass has ended.
        samples: one number of each query, key and value, [B, Q + 2K], for each call of a layer, by which recomputation
            finds its pass.
        graph_task: the backward pass that it is made in, -1 outside of any.
        recomputes: whether it is an earlier pass, made again in a backward pass.
        trains: whether it is a training pass whose guidance a loss must hold.
        trace: how far a backward pass has come in it.
        called: whether any guided layer was called; audio encoders leave layers out.
        learns: whether some queries or keys have a gradient.
        watched: whether the trace is told of it.
        shared: what backends made of targets and masks, for the layers that have the same.
    """

    inputs: Mapping[str, Any]
    patch_size: tuple[int, int] | None
    with_gradient: bool
    weighted: bool
    rows: dict[int, list[LayerRows]] = field(default_factory=dict)
    layers: dict[int, LayerLoss] = field(default_factory=dict)
    samples: dict[int, list[Tensor]] = field(default_factory=dict)
    graph_task: int = -1
    recomputes: bool = False
    trains: bool = False
    # torch.compile traces a function, and not a class of ours in its place.
    trace: GradientTrace = field(default_factory=lambda: GradientTrace())
    called: bool = False
    learns: bool = False
    watched: bool = False
    shared: dict[Any, Any] = field(default_factory=dict)
    _targets: dict[tuple[Any, ...], tuple[Tensor, list[Targets]]] = field(default_factory=dict)

    def add(self, layer: int, rows: LayerRows, call: AttentionCall) -> None:
        """Add the rows of a call of a layer.

        Args:
            layer: the number of the layer.
            rows: of the call.
            call: by the gradient of its queries or keys a backward pass is seen.

        Raises:
            AttachError: targets come with the batch, and the layer was called before.
        """
        calls = self.rows.setdefault(layer, [])
        self.check_call(layer, len(calls))
        calls.append(rows)
        self.called = True
        tensors = [tensor for tensor in (call.query_BHQD, call.key_BGKD) if tensor.requires_grad]
        self.learns = self.learns or bool(tensors)
        if tensors and not (self.watched or torch.compiler.is_compiling()):
            tensors[0].register_hook(self.trace.reach_model)  # type: ignore[no-untyped-call]
            self.watched = True

    def check_call(self, layer: int, n_before: int) -> None:
        """Make sure that the targets of a call of a layer are known.

        Args:
            layer: its number.
            n_before: how often it was called before.

        Raises:
            AttachError: targets come with the batch, and the layer was called before.
        """
        if n_before and GIVEN in self.inputs:
            raise AttachError(
                f"the attention of layer {layer} is called more than once in a forward pass (once an image or a "
                f"window), and {GIVEN} in the batch does not say which targets are for which call"
            )

    def sums_and_counts(self) -> tuple[Tensor, Tensor]:
        """Each guided head's sum over the rows that count, and their number, in the order of layers."""
        layers = [self.layers[number] for number in sorted(self.layers)]
        return torch.cat([layer.sums for layer in layers]), torch.cat([layer.counts for layer in layers])

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
