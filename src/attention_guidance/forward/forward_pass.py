"""One forward pass: the batch, and the row statistics of each guided layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attention_guidance.adapters.inputs_outputs import document_numbers, patch_grid
from attention_guidance.errors import AttachError
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.layers import LayerLoss, LayerRows, layer_losses
from attention_guidance.loss.statistics import RowStatistics
from attention_guidance.patterns import GIVEN, Pattern, Sequences, Targets, checked_targets


class GradientTrace:
    """How far a backward pass has come in a forward pass: what tensors hold of it, which must not hold their own graph.

    Args:
        reached: gets this trace once the backward pass has gone through the guided attention.

    Attributes:
        guidance: the backward pass came from the guidance loss, too.
    """

    def __init__(self, reached: list[GradientTrace]) -> None:
        self.reached: list[GradientTrace] | None = reached
        self.guidance = False

    @property
    def model(self) -> bool:
        """Whether a backward pass has gone through the guided attention."""
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
        patch_size: height and width of the patches that the model cuts images into, or None.
        with_gradient: whether the pass was begun with gradients on.
        weighted: whether the guidance goes into a loss; without, it is only measured, which takes no gradient.
        graph_task: the backward pass that it is made in, -1 outside of any.
        recomputes: whether it is an earlier pass, made again in a backward pass.
        trains: whether it is a training pass whose guidance a loss must hold.
        rows: the rows of the guided layers, for each call of a layer so far; None once the pass has ended, after which
            calls are recomputed and not counted.
        layers: what the guided layers have added, once the pass has ended.
        samples: one number of each query, key and value, [B, Q + 2K], for each call of a layer, by which recomputation
            finds its pass.
        learns: whether some queries or keys have a gradient; None if no guided layer was called, as audio encoders
            leave layers out.
        trace: how far a backward pass has come in it; None if no tensor can tell.
        shared: what backends made of targets and masks, for the layers that have the same.
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

    def see(self, layer: int, call: AttentionCall, reached: list[GradientTrace]) -> None:
        """A layer is about to attend.

        Args:
            layer: the number of the layer.
            call: as the model makes it; by the gradient of its queries or keys a backward pass is seen.
            reached: where that is noted.
        """
        tensors = [tensor for tensor in (call.query_BHQD, call.key_BHKD) if tensor.requires_grad]
        self.learns = bool(self.learns or tensors)
        if torch.compiler.is_compiling():
            return
        if tensors and self.trains and self.trace is None:
            self.trace = GradientTrace(reached)
            tensors[0].register_hook(self.trace.reach_model)  # type: ignore[no-untyped-call]
        if self.with_gradient:
            self.samples.setdefault(layer, []).append(sample_of(call))

    def check_gradients(self) -> None:
        """Raise AttachError where gradients are off within a pass that was begun with them."""
        if self.rows is not None and self.with_gradient and not torch.is_grad_enabled():
            raise AttachError(
                "gradients are off inside the model's forward pass, so guidance would train nothing; if this is "
                "gradient checkpointing, use gradient_checkpointing_kwargs={'use_reentrant': False}"
            )

    def distance(self, layer: int, sample: Tensor) -> float:
        """How far a recomputed call, by what `sample_of` gives of it, is from the nearest of a layer; infinite if far.

        Recomputation need not be exact to the last bit, nor be finite where a GradScaler skips the step; another batch
        is far off, if its queries, keys and values are not next to nothing.
        """
        distances = [
            float((seen - sample).nan_to_num().abs().max())
            for seen in self.samples.get(layer, [])
            if seen.shape == sample.shape and torch.allclose(seen, sample, 1e-2, 1e-3, equal_nan=True)
        ]
        return min(distances, default=math.inf)

    def add(self, layer: int, call: AttentionCall, statistics: RowStatistics, valid_BT: Tensor) -> None:
        """Add the rows of a call of a layer, unless it is recomputed.

        Args:
            layer: the number of the layer.
            call: guided.
            statistics: of its guided heads.
            valid_BT: bool, the positions that are tokens.

        Raises:
            AttachError: targets come with the batch, and the layer was called before.
        """
        if self.rows is None:
            return
        calls = self.rows.setdefault(layer, [])
        self.check_call(layer, len(calls))
        calls.append(LayerRows(statistics, valid_BT, call.mask, tuple(heads for _, heads in call.slices())))

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

    def end(self, objective: str, normalization: str) -> None:
        """All layers have attended; see `layer_losses` for the arguments."""
        self.layers, self.rows = layer_losses(self.rows or {}, objective, normalization), None

    def sums_and_counts(self) -> tuple[Tensor, Tensor]:
        """Each guided head's sum over the rows that count, and their number, in the order of layers."""
        layers = [self.layers[number] for number in sorted(self.layers)]
        return torch.cat([layer.sums for layer in layers]), torch.cat([layer.counts for layer in layers])

    def targets(self, patterns: Sequence[Pattern], call: AttentionCall) -> tuple[Tensor, list[Targets]]:
        """Which positions of an attention call are tokens, bool [B, T], and the targets of patterns there.

        Made once for all layers that are alike. See `sequences` for the call.
        """
        # The mask of one layer need not be that of the next.
        by_mask = call.mask is not None and _shaped(self.inputs.get("attention_mask"), call.size) is None
        key = None if by_mask or torch.compiler.is_compiling() else (*patterns, *call.size, call.query_BHQD.device)
        if key is not None and key in self._targets:
            return self._targets[key]
        sequences = self.sequences(call)
        made = sequences.valid_BT, [checked_targets(pattern, sequences) for pattern in patterns]
        if key is not None:
            self._targets[key] = made
        return made

    def sequences(self, call: AttentionCall) -> Sequences:
        """The batch as patterns see it, in the positions of an attention call.

        A model may count its positions otherwise than its inputs (audio samples and frames, pixels and patches): inputs
        of another shape are left aside, and what is padding is read off the attention's own mask, as the keys that no
        query may attend to.

        Args:
            call: with a bool mask.
        """
        size = call.size
        mask_BT = _shaped(self.inputs.get("attention_mask"), size)
        if mask_BT is not None:
            valid_BT = mask_BT.bool()
        elif call.mask is not None:
            valid_BT = call.mask[:, 0].any(-2).expand(size)
        else:
            valid_BT = torch.ones(size, dtype=torch.bool, device=call.query_BHQD.device)
        return Sequences(
            valid_BT,
            _shaped(self.inputs.get("input_ids"), size),
            document_numbers(self.inputs.get("position_ids"), size),
            patch_grid(self.inputs, self.patch_size),
            self.inputs.get(GIVEN),
        )


def sample_of(call: AttentionCall) -> Tensor:
    """One number of each query, key and value, [B, Q + 2K]."""
    # Of values too: queries and keys may begin at zero, and be alike in all texts.
    tensors = call.query_BHQD, call.key_BHKD, call.value_BHKD
    return torch.cat([tensor[:, 0, :, 0].detach() for tensor in tensors], -1)


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
