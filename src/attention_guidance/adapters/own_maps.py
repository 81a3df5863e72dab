"""Models of transformers that compute their attention themselves, outside its interface.

Nothing is replaced in such a model. Its attention maps are seen where they enter the dropout of the attention
probabilities, by hooks on the Dropout modules of its attention modules: these are called with probability 0 and in
evaluation mode too. Guidance is computed from the dense maps, in the way of the backend `reference`. Whether what was
seen are attention maps of a bidirectional encoder is checked in every forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from attention_guidance.adapters.base import ABLATING, GUIDING, AttentionProcessor, Purpose, in_backward
from attention_guidance.adapters.causality import directions, reason_against
from attention_guidance.adapters.inputs_outputs import patch_size_of
from attention_guidance.adapters.modules import (
    PROCESSOR,
    dropouts_of,
    guidable_modules,
    normalizes_its_loss,
    number_of_heads,
)
from attention_guidance.errors import AttachError
from attention_guidance.loss.call import MapCall

# How far the sum of a row may be from 1: entries in half precision are rounded, and scores are much further off.
_ROUNDING = 0.02


class MapAdapter:
    """The adapter of a model whose attention maps alone are seen; see `attention_guidance.adapters.base.Adapter`.

    Raises:
        AttachError: the model is guided already, is not a bidirectional encoder, or is to be ablated.
    """

    def __init__(self, model: PreTrainedModel, purpose: Purpose = GUIDING) -> None:
        self.model, self.purpose = model, purpose
        self.modules = guidable_modules(model, purpose)
        kind = type(model).__name__
        if purpose == ABLATING:
            raise AttachError(
                f"{kind} computes its attention outside transformers' attention interface, so it cannot be ablated: "
                "its maps can be guided and looked at, but the outputs of its heads cannot be replaced"
            )
        config = model.config.get_text_config()
        heads = [number_of_heads(module, config.num_attention_heads) for module in self.modules]
        if len(set(heads)) > 1:
            raise AttachError(
                f"{kind} cannot be {purpose.participle}: its layers have {', '.join(map(str, heads))} heads; "
                f"{purpose.name} needs the same number in all layers"
            )
        self.n_layers, self.n_heads = len(self.modules), heads[0]
        self.skips_layers = bool(getattr(config, "layerdrop", 0))
        self.patch_size = patch_size_of(model.config)
        self.self_normalizing = normalizes_its_loss(model)
        self.seen = _Seen()
        self.hooks: list[RemovableHandle] = []

    @property
    def hint(self) -> str:
        """See `Adapter`."""
        return "its attention modules were not called, or the model was compiled before (call torch.compiler.reset())"

    def attach(self, processors: Mapping[int, AttentionProcessor]) -> None:
        """See `Adapter`."""
        for layer, processor in processors.items():
            module = self.modules[layer]
            setattr(module, PROCESSOR, processor)
            watch = _Watch(f"{type(module).__name__} of layer {layer}", self.n_heads, processor, self.seen)
            self.hooks.append(module.register_forward_pre_hook(watch.open, with_kwargs=True))
            self.hooks += [dropout.register_forward_pre_hook(watch.see) for dropout in dropouts_of(module).values()]
            self.hooks.append(module.register_forward_hook(watch.close))

    def detach(self) -> None:
        """See `Adapter`."""
        for module in self.modules:
            module.__dict__.pop(PROCESSOR, None)
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def begin_pass(self) -> None:
        """See `Adapter`."""
        self.seen.calls = []

    def end_pass(self) -> None:
        """See `Adapter`.

        Raises:
            AttachError: the rows of what was seen do not sum to 1, or no query attends to a later position.
        """
        reason = self.seen.reason_against(self.purpose)
        if reason is not None:
            raise AttachError(f"{type(self.model).__name__} cannot be {self.purpose.participle}: {reason}")


class _Watch:
    """Sees the map of each call of one attention module.

    Args:
        name: what to call the module.
        n_heads: its number of heads.
        processor: is given the maps.
        seen: records them, for a check at the end of the pass.
    """

    def __init__(self, name: str, n_heads: int, processor: AttentionProcessor, seen: _Seen) -> None:
        self.name, self.n_heads, self.processor, self.seen = name, n_heads, processor, seen
        self.inputs: Tensor | None = None
        self.map_BHQK: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tensors of a forward that raised an error: they cannot be copied or pickled."""
        return self.__dict__ | {"inputs": None, "map_BHQK": None}

    def open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A hook before the module's forward."""
        self.map_BHQK = None
        idle = self.processor.is_idle(module.training)
        self.inputs = None if idle else _hidden_states((*args, *kwargs.values()))

    def see(self, dropout: nn.Module, args: tuple[Any, ...]) -> None:
        """A hook before the forward of each of the module's Dropout modules.

        If a module makes several maps, the last one counts: LiLT makes two, of equal numbers, for layout and text.
        """
        tensor = args[0] if args else None
        if self.inputs is not None and isinstance(tensor, Tensor) and tensor.dim() == 4:
            self.map_BHQK = tensor

    def close(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A hook after the module's forward.

        Raises:
            AttachError: none of its Dropout modules was given a map of its heads.
        """
        inputs, map_BHQK = self.inputs, self.map_BHQK
        self.inputs = self.map_BHQK = None
        if inputs is None:
            return
        if map_BHQK is None or map_BHQK.shape[1] != self.n_heads:
            got = "nothing of four dimensions" if map_BHQK is None else f"a tensor of shape {tuple(map_BHQK.shape)}"
            raise AttachError(
                f"{self.name} cannot be {self.processor.purpose.participle}: its dropout was given {got}, not the "
                f"attention maps [B, {self.n_heads}, T, T] of its {self.n_heads} heads"
            )
        if not in_backward() and not torch.compiler.is_compiling():
            self.seen.add(self.name, map_BHQK.detach())
        shown_B1QK = (map_BHQK.detach() != 0).any(1, keepdim=True)
        call = MapCall(map_BHQK, inputs, mask=shown_B1QK, training=module.training)
        self.processor.attend(call, lambda: (map_BHQK, None))


class _Seen:
    """What was seen of the maps of a pass. Their values are read once, at its end: reading waits for a GPU."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Tensor]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"calls": []}

    def add(self, name: str, map_BHQK: Tensor) -> None:
        """Record a map: the largest distance of a row's sum from 1, and whether it is one of causal attention.

        A row of zeros is that of a query that sees no key. NaN, as in a step that a GradScaler skips, is no distance.
        """
        sums_BHQ = map_BHQK.sum(-1, dtype=torch.promote_types(map_BHQK.dtype, torch.float32))
        distance = torch.where(sums_BHQ == 0, 0.0, (sums_BHQ - 1).abs()).nan_to_num(0.0).amax()
        earlier, later = directions(map_BHQK != 0)
        self.calls.append((name, torch.stack([distance, (earlier & ~later).to(distance.dtype)])))

    def reason_against(self, purpose: Purpose) -> str | None:
        """Why the maps of the pass are not those of a bidirectional encoder, or None if they are."""
        calls, self.calls = self.calls, []
        if not calls:
            return None
        found = torch.stack([values for _, values in calls]).tolist()
        for (name, _), (distance, causal) in zip(calls, found, strict=True):
            if distance > _ROUNDING:
                return f"the rows of what enters the dropout of {name} do not sum to 1: it is not an attention map"
            if causal:
                return reason_against(name, purpose)
        return None


def _hidden_states(arguments: Iterable[Any]) -> Tensor:
    """The first floating-point tensor of a module's arguments."""
    return next(x for x in arguments if isinstance(x, Tensor) and x.is_floating_point())
