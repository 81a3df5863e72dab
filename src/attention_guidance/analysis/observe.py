"""Observe the attention calls of a model without changing the model.

It uses the same adapters as guidance, so every model that can be guided can be observed.
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
from attention_guidance.loss.call import AttentionCall, Call, MapCall
from attention_guidance.loss.reference import probabilities

See = Callable[[int, AttentionCall], None]
"""Called with the layer index and the layer's attention call, before attention is computed."""


@dataclass
class _Observer:
    """An `attention_guidance.adapters.base.AttentionProcessor` of one layer that only observes."""

    layer: int
    see: See
    once: bool
    seen: bool = False
    purpose = LOOKING

    def is_idle(self, training: bool) -> bool:
        """See `AttentionProcessor`; never idle, since every call is observed."""
        return False

    def attend(self, call: Call, unguided: Callable[[], Result]) -> Result:
        """Pass the call to `see`, then compute the model's own attention.

        Raises:
            AttachError: with `once`, this is not the first call in the forward pass.
        """
        if self.seen and self.once:
            raise AttachError(
                f"the attention of layer {self.layer} is called more than once in a forward pass (per image or per "
                "window), so there is no single map of the whole input; take_census combines all calls"
            )
        self.seen = True
        self.see(self.layer, call.as_scores() if isinstance(call, MapCall) else call)
        return unguided()


class Observation:
    """A model under observation: call it with batches, and its attention calls are passed to `see`.

    Attributes:
        model: the model, in evaluation mode until the end of `observing`.
        n_layers: number of layers.
        n_heads: number of heads per layer.
        patch_size: height and width of the model's image patches, or None.
    """

    def __init__(self, model: nn.Module, see: See, once: bool = False) -> None:
        adapter = adapter_of(model, LOOKING)
        self.model, self.n_layers, self.n_heads = adapter.model, adapter.n_layers, adapter.n_heads
        self.patch_size = adapter.patch_size
        self._adapter = adapter
        self._observers = {layer: _Observer(layer, see, once) for layer in range(adapter.n_layers)}

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    def forward_pass(self, batch: Mapping[str, Any]) -> ForwardPass:
        """The `ForwardPass` of a batch, in which patterns find their targets; not used for training."""
        inputs = {name: x.to(self.device) if isinstance(x, Tensor) else x for name, x in batch.items()}
        return ForwardPass(named_inputs(self.model, (), inputs), self.patch_size)

    def __call__(self, batch: Batch) -> Any:
        """Run one forward pass without gradients.

        Raises:
            AttachError: a layer's attention was never called or, with `once`, called several times.
            ConfigError: the batch is neither a mapping of the model's arguments nor token ids.
        """
        inputs = batch_of(batch, None)
        for observer in self._observers.values():
            observer.seen = False
        self._adapter.begin_pass()
        with torch.no_grad():
            output = self.model(**{k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in inputs.items()})
        self._adapter.end_pass()
        unseen = [layer for layer, observer in self._observers.items() if not observer.seen]
        if unseen:
            raise AttachError(
                f"{type(self.model).__name__} never called the attention of layers {unseen} where it can be observed; "
                f"{self._adapter.hint}"
            )
        return output

    @contextmanager
    def _attached(self) -> Iterator[None]:
        self._adapter.attach(dict(self._observers))
        try:
            with evaluating(self.model):
                yield
        finally:
            self._adapter.detach()


@contextmanager
def observing(model: nn.Module, see: See, *, once: bool = False) -> Iterator[Observation]:
    """Call `see` for every layer in every forward pass of the returned observation.

    Examples:
        >>> with observing(model, lambda layer, call: print(layer, call.query_BHQD.shape)) as watched:
        ...     output = watched(batch)
        0 torch.Size([4, 4, 8, 4])
        1 torch.Size([4, 4, 8, 4])

    Args:
        model: any unguided model that `guide` accepts; it is left unchanged.
        see: called with the layer index and the attention call; several times per layer and forward pass if the model
            attends per image or per window.
        once: raise an error if a layer's attention is called several times in a forward pass.

    Raises:
        AttachError: the model is guided, or is not an encoder whose attention can be observed.
    """
    observation = Observation(model, see, once)
    with observation._attached():
        yield observation


def attention_map(call: AttentionCall) -> Tensor:
    """The map of every head, [B, H, Q, K], in float32 or better: rows sum to 1, or to 0 if a query sees no key.

    Examples:
        >>> maps = []
        >>> with observing(model, lambda layer, call: maps.append(attention_map(call))) as watched:
        ...     output = watched(batch)
        >>> [tuple(map_BHQK.shape) for map_BHQK in maps]
        [(4, 4, 8, 8), (4, 4, 8, 8)]
    """
    return probabilities(as_computed(call))


def as_computed(call: AttentionCall) -> AttentionCall:
    """The call as the input of a backend, with all heads and no targets."""
    return call.with_bool_mask().with_all_keys()
