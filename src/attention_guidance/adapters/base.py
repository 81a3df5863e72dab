"""The adapter and attention processor protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from attention_guidance.errors import AttachError
from attention_guidance.loss.call import Call

Result = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Purpose:
    """What a model's attention is used for, in words for error messages.

    Attributes:
        name: as in `NAME is for bidirectional encoders`.
        verb, participle: as in `it cannot be PARTICIPLE; VERB its encoder`.
        alone: what follows the name of a part that is supported.
        taken: what is said of a model that is used for it already, and how it becomes free.
    """

    name: str
    verb: str
    participle: str
    alone: str
    taken: str


GUIDING = Purpose(
    "guidance",
    "guide",
    "guided",
    " alone, with within= the whole",
    "is guided already; call remove() on its guidance first",
)
LOOKING = Purpose(
    "looking", "look at", "looked at", " alone", "is observed already; leave the with block of observing() first"
)
ABLATING = Purpose(
    "ablation",
    "ablate",
    "ablated",
    " alone",
    "has heads removed already; leave the with block of without_heads() first, or give it all heads at once",
)


def graph_task() -> int:
    """The number of the backward pass in progress, during which checkpointing recomputes; -1 outside of any.

    It is also -1 under torch.compile, which cannot trace the query and recomputes without calling the hooks.
    """
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


def in_backward() -> bool:
    """Whether a backward pass is in progress."""
    return graph_task() != -1


class AttentionProcessor(Protocol):
    """Computes the calls of an attention module, in place of the module's own attention.

    Attributes:
        purpose: what its results are used for.
    """

    purpose: Purpose

    def is_idle(self, training: bool) -> bool:
        """Whether the next call needs no guidance, so that `attend` would only call `unguided`.

        Args:
            training: whether the attention module is in training mode.
        """

    def attend(self, call: Call, unguided: Callable[[], Result]) -> Result:
        """Output [B, Q, H, D] of a call, and weights if any; `unguided` returns those of the model's own attention.

        The call of a module that computes its attention itself is a `MapCall`, and its result is not used.
        """


class Adapter(Protocol):
    """Attaches processors to the attention modules of one kind of model.

    Attributes:
        model: the model. One forward pass of it is one pass of guidance.
        n_layers, n_heads: its number of layers, and of heads in each layer.
        patch_size: height and width of its image patches in pixels, or None.
        self_normalizing: whether it divides its loss by the number of labels that Trainer passes.
        skips_layers: whether it skips layers at random in training (LayerDrop).
        hint: possible reasons why a layer's attention was not called, for error messages.
    """

    model: nn.Module
    n_layers: int
    n_heads: int
    patch_size: tuple[int, int] | None
    self_normalizing: bool
    skips_layers: bool

    @property
    def hint(self) -> str: ...  # noqa: D102

    def attach(self, processors: Mapping[int, AttentionProcessor]) -> None:
        """Let processors compute the attention of these layers."""

    def detach(self) -> None:
        """Restore the model."""

    def begin_pass(self) -> None:
        """Prepare for a forward pass of the model."""

    def end_pass(self) -> None:
        """Check what was seen in a forward pass that has ended.

        Raises:
            AttachError: it was not attention that the adapter serves.
        """


class CallOrder:
    """The processor of modules that several layers share, as in ALBERT: the n-th call of a pass is layer n.

    Args:
        processors: the processors by layer number.
        n_layers: number of layers of the model; the count then restarts at layer 0.
    """

    def __init__(self, processors: Mapping[int, AttentionProcessor], n_layers: int) -> None:
        self.processors = processors
        self.purpose = next((processor.purpose for processor in processors.values()), GUIDING)
        self.n_layers = n_layers
        self.next_layer = 0

    def is_idle(self, training: bool) -> bool:
        """See `AttentionProcessor`. Never idle, since every call is counted."""
        return False

    def attend(self, call: Call, unguided: Callable[[], Result]) -> Result:
        """Pass the call to the processor of its layer, if there is one.

        Raises:
            AttachError: called during the backward pass, which recomputes layers in another order.
        """
        if in_backward():
            raise AttachError("gradient checkpointing of a model whose layers share their weights cannot be guided")
        processor = self.processors.get(self.next_layer)
        self.next_layer = (self.next_layer + 1) % self.n_layers
        return unguided() if processor is None else processor.attend(call, unguided)
