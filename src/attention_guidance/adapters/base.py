"""The adapter and attention processor protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from attention_guidance.errors import AttachError
from attention_guidance.loss.call import AttentionCall

Result = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Purpose:
    """What a model's attention is wanted for, in the words of what is said where it cannot be had.

    Attributes:
        name: as in `NAME is for bidirectional encoders`.
        verb, participle: as in `it cannot be PARTICIPLE; VERB its encoder`.
        alone: what follows the name of a part that would do.
    """

    name: str
    verb: str
    participle: str
    alone: str


GUIDING = Purpose("guidance", "guide", "guided", " alone, with within= the whole")
LOOKING = Purpose("looking", "look at", "looked at", " alone")


def graph_task() -> int:
    """The number of the backward pass under way, in which checkpointing recomputes; -1 outside of any.

    torch.compile recomputes without coming here, and cannot ask.
    """
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


def in_backward() -> bool:
    """Whether a backward pass is under way."""
    return graph_task() != -1


class AttentionProcessor(Protocol):
    """What sits on an attention module and answers its calls.

    Attributes:
        purpose: what for.
    """

    purpose: Purpose

    def is_idle(self, training: bool) -> bool:
        """Whether the next call is none of guidance's, and all that `attend` would do is to call `unguided`.

        Args:
            training: whether the attention module is in training mode.
        """

    def attend(self, call: AttentionCall, unguided: Callable[[], Result]) -> Result:
        """Output [B, Q, H, D] and weights, if any, of a call; `unguided` gives those of the model's own attention."""


class Adapter(Protocol):
    """A kind of model that can be guided: where its attention is, and how processors get there.

    Attributes:
        model: the model, whose forward pass is one pass of guidance.
        n_layers, n_heads: its size.
        patch_size: height and width of the patches that it cuts images into, or None.
        self_normalizing: whether it divides its loss by the number of labels that Trainer tells it.
        skips_layers: whether layers are left out at random while it trains (LayerDrop).
        hint: what may be wrong when a layer's attention was not called.
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
        """Have processors answer the calls of these layers' attention."""

    def detach(self) -> None:
        """Leave the model as it was."""

    def begin_pass(self) -> None:
        """The model's forward pass begins."""


class CallOrder:
    """The processor of modules that serve several layers, as ALBERT's do: the n-th call of a pass is layer n.

    Args:
        processors: by the number of their layer.
        n_layers: of the model; what is called after the last one is the first again.
    """

    def __init__(self, processors: Mapping[int, AttentionProcessor], n_layers: int) -> None:
        self.processors = processors
        self.purpose = next((processor.purpose for processor in processors.values()), GUIDING)
        self.n_layers = n_layers
        self.next_layer = 0

    def is_idle(self, training: bool) -> bool:
        """See `AttentionProcessor`: each call counts."""
        return False

    def attend(self, call: AttentionCall, unguided: Callable[[], Result]) -> Result:
        """Hand the call to the processor of its layer, if it has one.

        Raises:
            AttachError: layers are recomputed in the backward pass, in another order.
        """
        if in_backward():
            raise AttachError("gradient checkpointing of a model whose layers share their weights cannot be guided")
        processor = self.processors.get(self.next_layer)
        self.next_layer = (self.next_layer + 1) % self.n_layers
        return unguided() if processor is None else processor.attend(call, unguided)
