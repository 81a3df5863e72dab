"""One forward pass: the batch, and the row statistics of each guided layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attention_guidance.adapters.inputs_outputs import document_numbers, patch_grid
from attention_guidance.errors import AttachError
from attention_guidance.loss.call import Call
from attention_guidance.loss.layers import LayerLoss, LayerRows, layer_losses
from attention_guidance.loss.statistics import RowStatistics
from attention_guidance.patterns import GIVEN, Pattern, Sequences, Targets, checked_targets


class GradientTrace:
    """How far the backward pass through a forward pass has come.

    Hooks of tensors hold this object and not the `ForwardPass`, since a tensor must not hold its own graph.

    Args:
        reached: this trace is appended here once the backward pass reaches the guided attention.

    Attributes:
        guidance: whether the guidance loss was part of the backward pass.
    """

    def __init__(self, reached: list[GradientTrace]) -> None:
        self.reached: list[GradientTrace] | None = reached
        self.guidance = False

    @property
    def model(self) -> bool:
        """Whether a backward pass reached the guided attention."""
        return self.reached is None

    def reach_model(self, gradient: Tensor) -> None:
        """A tensor's hook."""
        if self.reached is not None:
            self.reached.append(self)
            self.reached = None

    def reach_guidance(self, gradient: Tensor) -> None:
        """A tensor's hook."""
        self.guidance = True


@dataclass
class ForwardPass:
    """One forward pass of a guided model, from its pre-hook to its forward hook.

    Attributes:
        inputs: the arguments of the model's forward, by name.
        patch_size: height and width of the model's image patches in pixels, or None.
        with_gradient: whether gradients were enabled when the pass began.
        weighted: whether the guidance is added to a loss. If not, it is only measured, without gradients.
        graph_task: number of the backward pass during which this pass runs, -1 outside of any.
        recomputes: whether it is a recomputation of an earlier pass, during a backward pass.
        trains: whether it is a training pass, whose guidance must be in a loss.
        rows: the rows of the guided layers, for each call of a layer so far. None once the pass has ended: later calls
            are recomputations and do not count.
        layers: the losses of the guided layers, once the pass has ended.
        samples: for each call of a layer, its `sample`. They identify the pass to which a recomputation belongs.
        learns: whether some queries or keys require gradients. None if no guided layer was called: audio encoders skip
            layers at random.
        trace: how far the backward pass through it has come. None if no tensor has a hook.
        shared: what backends prepared from targets and masks, for all layers with the same ones.
    """

    inputs: Mapping[str, Any]
    patch_size: tuple[int, int] | None
    with_gradient: bool = False
    weighted: bool = False
    graph_task: int = -1
    recomputes: bool = False
    trains: bool = False
    rows: dict[int, list[LayerRows]] | None = field(default_factory=dict)
    layers: dict[int, LayerLoss] = field(default_factory=dict)
    samples: dict[int, list[Tensor]] = field(default_factory=dict)
    learns: bool | None = None
    trace: GradientTrace | None = None
    shared: dict[Any, Any] = field(default_factory=dict)
    _targets: dict[tuple[Any, ...], tuple[Tensor, list[Targets]]] = field(default_factory=dict)

    def see(self, layer: int, call: Call, reached: list[GradientTrace]) -> None:
        """Record a call of a layer's attention, before it is computed.

        Args:
            layer: the number of the layer.
            call: the model's call. A hook on what it trains notices the backward pass.
            reached: receives the trace when that happens.
        """
        tensors = [tensor for tensor in call.trained if tensor.requires_grad]
        self.learns = self.learns or len(tensors) > 0
        if torch.compiler.is_compiling():
            return
        if tensors and self.trains and self.trace is None:
            self.trace = GradientTrace(reached)
            tensors[0].register_hook(self.trace.reach_model)  # type: ignore[no-untyped-call]
        if self.with_gradient:
            self.samples.setdefault(layer, []).append(call.sample())

    def check_gradients(self) -> None:
        """Raise AttachError if gradients are disabled inside a pass that began with gradients enabled."""
        if self.rows is not None and self.with_gradient and not torch.is_grad_enabled():
            raise AttachError(
                "gradients are disabled inside the model's forward pass, so guidance would train nothing; if this is "
                "gradient checkpointing, use gradient_checkpointing_kwargs={'use_reentrant': False}"
            )

    def distance(self, layer: int, sample: Tensor) -> float:
        """Distance of a recomputed call, given by its `sample`, to the nearest call of a layer; infinite if far.

        A recomputation may differ in the last bits, and may be NaN in a step that a GradScaler skips. The calls of
        another batch are far, unless all queries, keys and values are close to zero.
        """
        distances = [
            float((seen - sample).nan_to_num().abs().max())
            for seen in self.samples.get(layer, [])
            if seen.shape == sample.shape and torch.allclose(seen, sample, 1e-2, 1e-3, equal_nan=True)
        ]
        return min(distances, default=math.inf)

    def add(self, layer: int, call: Call, statistics: RowStatistics, valid_BT: Tensor) -> None:
        """Add the rows of a call of a layer, unless the call is a recomputation.

        Args:
            layer: the number of the layer.
            call: the guided call.
            statistics: row statistics of its guided heads.
            valid_BT: bool, True for positions that are tokens.

        Raises:
            AttachError: the batch contains targets, and the layer was called before.
        """
        if self.rows is None:
            return
        calls = self.rows.setdefault(layer, [])
        self.check_call(layer, len(calls))
        calls.append(LayerRows(statistics, valid_BT, call.mask, tuple(heads for _, heads in call.slices())))

    def check_call(self, layer: int, n_before: int) -> None:
        """Check that the targets of a layer's call are known.

        Args:
            layer: the number of the layer.
            n_before: number of its earlier calls in this pass.

        Raises:
            AttachError: the batch contains targets, and the layer was called before.
        """
        if n_before and GIVEN in self.inputs:
            raise AttachError(
                f"the attention of layer {layer} is called more than once in a forward pass (once per image or "
                f"window), and {GIVEN} in the batch does not say which targets are for which call"
            )

    def end(self, objective: str, normalization: str) -> None:
        """End the pass and compute the losses of its layers; see `layer_losses` for the arguments."""
        self.layers, self.rows = layer_losses(self.rows or {}, objective, normalization), None

    def sums_and_counts(self) -> tuple[Tensor, Tensor]:
        """For each guided head, the sum over the rows that count and their number, in the order of layers."""
        layers = [self.layers[number] for number in sorted(self.layers)]
        return torch.cat([layer.sums for layer in layers]), torch.cat([layer.counts for layer in layers])

    def targets(
        self,
        patterns: Sequence[Pattern],
        call: Call,
        in_form: Callable[[Targets, Pattern, int], Targets] = lambda targets, *_: targets,
    ) -> tuple[Tensor, list[Targets]]:
        """The positions of an attention call that are tokens, bool [B, T], and the targets of the patterns there.

        Computed once for all layers of the same shape.

        Args:
            patterns: the patterns.
            call: see `sequences`.
            in_form: changes a pattern's targets, given the number of keys; the same for all layers.
        """
        # The masks of two layers may differ.
        by_mask = call.mask is not None and _shaped(self.inputs.get("attention_mask"), _size_of_keys(call)) is None
        key = None if by_mask or torch.compiler.is_compiling() else (*patterns, *call.size, call.n_keys, call.device)
        if key is not None and key in self._targets:
            return self._targets[key]
        sequences = self.sequences(call)
        made = (
            sequences.valid_BT,
            [in_form(checked_targets(pattern, sequences), pattern, call.n_keys) for pattern in patterns],
        )
        if key is not None:
            self._targets[key] = made
        return made

    def sequences(self, call: Call) -> Sequences:
        """The batch as patterns receive it, in the positions of an attention call.

        The positions of the attention may differ from those of the inputs (audio samples and frames, pixels and
        patches). Inputs of another shape are ignored; padding is then read from the attention mask: a key that no query
        may attend to.

        Args:
            call: a call with a bool mask.
        """
        size = call.size
        valid_BT = self._valid_keys(call)
        if call.cross:
            ids_BT = _shaped(self.inputs.get("decoder_input_ids"), size)
            return Sequences(self._valid_queries(call), ids_BT, given=self.inputs.get(GIVEN), keys_BK=valid_BT)
        return Sequences(
            valid_BT,
            _shaped(self.inputs.get("input_ids"), size),
            document_numbers(self.inputs.get("position_ids"), size),
            patch_grid(self.inputs, self.patch_size),
            self.inputs.get(GIVEN),
        )

    def _valid_keys(self, call: Call) -> Tensor:
        """The positions of the keys that are tokens, bool [B, K]."""
        size = _size_of_keys(call)
        mask_BK = _shaped(self.inputs.get("attention_mask"), size)
        if mask_BK is not None:
            return mask_BK.bool()
        if call.mask is not None:
            return call.mask[:, 0].any(-2).expand(size)
        return torch.ones(size, dtype=torch.bool, device=call.device)

    def _valid_queries(self, call: Call) -> Tensor:
        """The positions of a decoder that count, bool [B, Q]: those of its mask, or that have a label; else all."""
        mask_BQ = _shaped(self.inputs.get("decoder_attention_mask"), call.size)
        if mask_BQ is not None:
            return mask_BQ.bool()
        labels_BQ = _shaped(self.inputs.get("labels"), call.size)
        return torch.ones(call.size, dtype=torch.bool, device=call.device) if labels_BQ is None else labels_BQ != -100


def _size_of_keys(call: Call) -> tuple[int, int]:
    """The number of sequences and of positions to which the model's attention mask refers."""
    return call.size[0], call.n_keys if call.cross else call.size[1]


def _shaped(value: Any, size: tuple[int, ...]) -> Tensor | None:
    """An input reshaped to [B, T] (multiple choice passes [B, choices, T]), or None if its size differs.

    It is None too for a mapping of masks, which ModernBERT takes, and for a mask with four dimensions, whose content
    is in the mask of the attention call.
    """
    if not isinstance(value, Tensor) or value.dim() > 3:
        return None
    if value.shape[-1] != size[1] or value.numel() != size[0] * size[1]:
        return None
    return value.reshape(size)
