"""Models of transformers, through its attention interface.

Each attention call goes to the processor of its module, which can also call the model's previous attention. A module
without a processor is not affected, so a model that shares its config with a guided one stays as it was.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from attention_guidance.adapters.base import GUIDING, AttentionProcessor, CallOrder, Purpose, Result
from attention_guidance.adapters.causality import MaskCheck
from attention_guidance.adapters.inputs_outputs import patch_size_of
from attention_guidance.adapters.modules import PROCESSOR, forward_of, guidable_modules, normalizes_its_loss
from attention_guidance.errors import AttachError
from attention_guidance.loss.call import AttentionCall

# The name under which guided models run, by their previous attention. No name may contain `sdpa` or `flash`, or begin
# with `paged|`: transformers dispatches on these.
GUIDED_NAMES = {"sdpa": "attention_guidance", "eager": "attention_guidance_eager"}


def _guided(base: str) -> Callable[..., Result]:
    def attention_forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> Result:
        def unguided() -> Result:
            attend = base_attention(module, base)
            return attend(  # type: ignore[no-any-return]
                module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
            )

        processor: AttentionProcessor | None = module.__dict__.get(PROCESSOR)
        if processor is None:
            return unguided()
        purpose = processor.purpose
        for name in ("softcap", "s_aux", "sinks"):
            if kwargs.get(name) is not None:
                raise AttachError(
                    f"{type(module).__name__} gives its attention {name}, which {purpose.name} does not know of; "
                    f"models without it can be {purpose.participle}"
                )
        # As sdpa reads it: a module that says nothing is causal where there is no mask.
        asked = kwargs.get("is_causal")
        if asked or (asked is None and attention_mask is None and getattr(module, "is_causal", True)):
            raise AttachError(
                f"{type(module).__name__} attends causally, and {purpose.name} is for bidirectional encoders; "
                f"{purpose.verb} the part of the model that is one"
            )
        if base == "eager" and attention_mask is not None and attention_mask.dtype == torch.bool:
            raise AttachError(
                "eager attention adds a bool mask to its scores as zeros and ones; give a float mask of 0 and -inf, or "
                "load the model with attn_implementation='sdpa'"
            )
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        bias = kwargs.get("position_bias")
        call = AttentionCall(
            query, key, value, (), scale, attention_mask, bias, dropout, attention=base, training=module.training
        )
        return processor.attend(call, unguided)

    return attention_forward


class InterfaceAdapter:
    """The adapter of a model of transformers; see `attention_guidance.adapters.base.Adapter`.

    Raises:
        AttachError: the model is guided already, is not a bidirectional encoder, or does not call its attention through
            transformers' attention interface.
    """

    def __init__(self, model: PreTrainedModel, purpose: Purpose = GUIDING) -> None:
        self.model, self.purpose = model, purpose
        self.modules = self._modules()
        config = self._config()
        if _unguided(config._attn_implementation) not in GUIDED_NAMES:
            raise AttachError(
                f"{type(model).__name__} runs with attn_implementation={config._attn_implementation!r}; {purpose.name} "
                f"supports {' and '.join(GUIDED_NAMES)}: call model.set_attn_implementation('sdpa') first"
            )
        self.n_layers, self.n_heads = self._numbers(config)
        self.skips_layers = self._skips_layers(config)
        self.patch_size = patch_size_of(model.config)
        self.self_normalizing = normalizes_its_loss(model)
        self.base = "sdpa"
        # The previous attention of each of its configurations.
        self.before: list[tuple[PreTrainedConfig, str | None]] = []
        self.order: CallOrder | None = None
        self.masks = MaskCheck()
        self.attached = False

    def _modules(self) -> list[nn.Module]:
        """The attention modules, in the order of layers."""
        return guidable_modules(self.model, self.purpose)

    def _config(self) -> Any:
        """The configuration of the layers."""
        return self.model.config.get_text_config()

    def _numbers(self, config: Any) -> tuple[int, int]:
        """The number of layers, and of heads in each; ALBERT's layers share a few modules."""
        return config.num_hidden_layers * getattr(config, "inner_group_num", 1), config.num_attention_heads

    def _skips_layers(self, config: Any) -> bool:
        """Whether layers are skipped at random in training, as in audio encoders."""
        return bool(getattr(config, "layerdrop", 0))

    def _answering(self, layer: int, processor: AttentionProcessor) -> AttentionProcessor:
        """What answers the calls of a layer: its processor, after a look at their masks."""
        module = self.modules[layer % len(self.modules)]
        return self.masks.watched(processor, f"{type(module).__name__} of layer {layer}")

    @property
    def hint(self) -> str:
        """See `Adapter`."""
        called = (
            "set_attn_implementation was called after guide() (now "
            f"{self.model.config._attn_implementation!r}), or the model was compiled before guide()"
        )
        return (
            "its attention does not go through transformers' attention interface, or "
            f"{called if self.purpose == GUIDING else 'the model was compiled before'} (call torch.compiler.reset())"
        )

    def attach(self, processors: Mapping[int, AttentionProcessor]) -> None:
        """See `Adapter`."""
        processors = {layer: self._answering(layer, processor) for layer, processor in processors.items()}
        register()
        self.before = [(config, _unguided(config._attn_implementation)) for config in configurations(self.model)]
        self.base = _unguided(self._config()._attn_implementation)
        for module in self.modules:
            base_attention(module, self.base)
        self.model.set_attn_implementation(GUIDED_NAMES[self.base])
        if len(self.modules) < self.n_layers:
            self.order = CallOrder(processors, self.n_layers)
            processors = dict.fromkeys(range(len(self.modules)), self.order)
        for layer, processor in processors.items():
            setattr(self.modules[layer], PROCESSOR, processor)
        self.attached = True
        _ATTACHED.add(self)

    def detach(self) -> None:
        """See `Adapter`."""
        for module in self.modules:
            module.__dict__.pop(PROCESSOR, None)
        self.attached = False
        _ATTACHED.discard(self)
        # Models can share a config: restore the attention's name when the last guided model is detached. Keep a name
        # that the user has set since.
        shared = {id(config) for other in _ATTACHED for config in configurations(other.model)}
        give_back(
            (config, name)
            for config, name in self.before
            if id(config) not in shared and config._attn_implementation in GUIDED_NAMES.values()
        )

    def begin_pass(self) -> None:
        """See `Adapter`."""
        self.masks.begin_pass()
        if self.order is not None:
            self.order.next_layer = 0

    def end_pass(self) -> None:
        """See `Adapter`.

        Raises:
            AttachError: no query attends to a later position, by the model's mask.
        """
        reason = self.masks.reason_against(self.purpose)
        if reason is not None:
            raise AttachError(f"{type(self.model).__name__} cannot be {self.purpose.participle}: {reason}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        register()
        if self.attached:
            _ATTACHED.add(self)


# Adapters of all guided models; several models may share a config.
_ATTACHED: weakref.WeakSet[InterfaceAdapter] = weakref.WeakSet()


def configurations(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """The configurations of a model and of its parts, recursively: each once, outer ones first."""
    waiting = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    found: dict[int, PreTrainedConfig] = {}
    while waiting:
        config = waiting.pop(0)
        if id(config) not in found:
            found[id(config)] = config
            waiting += [part for part in vars(config).values() if isinstance(part, PreTrainedConfig)]
    return list(found.values())


def give_back(attention: Iterable[tuple[PreTrainedConfig, str | None]]) -> None:
    """Restore the attention names of configurations."""
    for config, name in attention:
        # Bypass the setter, which also sets all parts of a configuration.
        config._attn_implementation_internal = name


def _unguided(name: Any) -> Any:
    """The name of the attention without guidance. A config shared with a guided model has the guided name already."""
    return next((base for base, guided in GUIDED_NAMES.items() if guided == name), name)


def base_attention(module: nn.Module, base: str) -> Callable[..., Any]:
    """The attention function that a module would call without guidance.

    `eager` is not in transformers' registry: each modeling file has its own, in the globals of the module's forward.
    """
    if base == "eager":
        function = forward_of(module).__globals__.get("eager_attention_forward")
        if function is None:
            raise AttachError(
                f"{type(module).__name__} has no eager_attention_forward, which guidance needs; "
                "load the model with attn_implementation='sdpa'"
            )
        return function  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[base]  # type: ignore[no-any-return]


def register() -> None:
    """Register the guided attention functions, and the masks they expect, with transformers. Idempotent."""
    masks = AttentionMaskInterface()
    for base, name in GUIDED_NAMES.items():
        AttentionInterface.register(name, _guided(base))
        # Without a mask function of the same name, transformers drops the padding mask silently.
        AttentionMaskInterface.register(name, masks[base])
