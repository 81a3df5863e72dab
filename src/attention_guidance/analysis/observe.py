"""Looking on while a model attends: every layer's queries and keys, with nothing of the model changed.

The adapters that guide a model let one watch it too, so whatever can be guided can be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attention_guidance.adapters import adapter_of
from attention_guidance.adapters.base import LOOKING, Result
from attention_guidance.adapters.inputs_outputs import named_inputs
from attention_guidance.analysis.given import Batch, batch_of
from attention_guidance.errors import AttachError
from attention_guidance.forward.forward_pass import ForwardPass
from attention_guidance.forward.modes import evaluating
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.reference import probabilities

#: Called with the number of a layer and its call of attention, before the layer attends.
See = Callable[[int, AttentionCall], None]


@dataclass
class _Onlooker:
    """The `attention_guidance.adapters.base.AttentionProcessor` of one layer that only looks."""

    layer: int
    see: See
    once: bool
    seen: bool = False
    purpose = LOOKING

    def is_idle(self, training: bool) -> bool:
        """See `AttentionProcessor`: it looks at every call."""
        return False

    def attend(self, call: AttentionCall, unguided: Callable[[], Result]) -> Result:
        """Show the call; the model's own attention answers it.

        Raises:
            AttachError: it is a further one in a pass, and only one is to be seen.
        """
        if self.seen and self.once:
            raise AttachError(
                f"the attention of layer {self.layer} is called more than once in a forward pass (once an image or a "
                "window), so there is no one map of the whole input; a census takes all calls together"
            )
        self.seen = True
        self.see(self.layer, call)
        return unguided()


class Observation:
    """A model under observation: call it with batches, its layers are shown to `see`.

    Attributes:
        model: the model, in evaluation mode until the end of `observing`.
        n_layers, n_heads: its size.
        patch_size: height and width of the patches that it cuts images into, or None.
    """

    def __init__(self, model: nn.Module, see: See, once: bool = False) -> None:
        adapter = adapter_of(model, LOOKING)
        self.model, self.n_layers, self.n_heads = adapter.model, adapter.n_layers, adapter.n_heads
        self.patch_size = adapter.patch_size
        self._adapter = adapter
        self._onlookers = {layer: _Onlooker(layer, see, once) for layer in range(adapter.n_layers)}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def forward_pass(self, batch: Mapping[str, Any]) -> ForwardPass:
        """A pass that is about to be made, by which patterns find their targets; nothing in it is trained."""
        inputs = {name: x.to(self.device) if isinstance(x, Tensor) else x for name, x in batch.items()}
        return ForwardPass(named_inputs(self.model, (), inputs), self.patch_size)

    def __call__(self, batch: Batch) -> Any:
        """One forward pass, without gradients.

        Raises:
            AttachError: a layer's attention was never called, or several times where `once` was asked for.
            ConfigError: the batch is no mapping of the model's arguments, nor token ids.
        """
        inputs = batch_of(batch, None)
        for onlooker in self._onlookers.values():
            onlooker.seen = False
        self._adapter.begin_pass()
        with torch.no_grad():
            output = self.model(**{k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in inputs.items()})
        unseen = [layer for layer, onlooker in self._onlookers.items() if not onlooker.seen]
        if unseen:
            raise AttachError(
                f"{type(self.model).__name__} never called the attention of layers {unseen} where it can be seen; "
                f"{self._adapter.hint}"
            )
        return output

    @contextmanager
    def _attached(self) -> Iterator[None]:
        self._adapter.attach(dict(self._onlookers))
        try:
            with evaluating(self.model):
                yield
        finally:
            self._adapter.detach()


@contextmanager
def observing(model: nn.Module, see: See, *, once: bool = False) -> Iterator[Observation]:
    """Have `see` called at every layer of every forward pass that is made through the result.

    Example::

        with observing(model, lambda layer, call: maps.append(attention_map(call))) as watched:
            watched(batch)

    Args:
        model: any model that `guide` takes and that is not guided; it comes back as it was.
        see: called with the number of the layer and its call of attention; several times for a layer in a pass where
            the model attends once an image or once a window.
        once: refuse a model that calls a layer's attention several times in a pass.

    Raises:
        AttachError: the model is guided, or is no encoder whose attention can be seen.
    """
    observation = Observation(model, see, once)
    with observation._attached():
        yield observation


def attention_map(call: AttentionCall) -> Tensor:
    """The map of every head, [B, H, Q, K], float32 or better: rows sum to 1, or to 0 where a query sees no key."""
    return probabilities(as_computed(call))


def as_computed(call: AttentionCall) -> AttentionCall:
    """A call as the backends take it, all heads, without targets."""
    return call.with_bool_mask(LOOKING.verb).with_all_keys()
