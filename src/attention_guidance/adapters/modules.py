"""The attention modules of transformers' models, and whether a model with these can be guided."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from attention_guidance.adapters.base import GUIDING, Purpose
from attention_guidance.errors import AttachError, reason_of

PROCESSOR = "_attention_guidance"
"""The attribute of an attention module that holds its processor."""

_SOFTMAX = re.compile(r"(?<!log_)(?<!log)softmax", re.IGNORECASE)
# What an attention module calls its number of heads, if it does.
_NUMBERS_OF_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head")


def guidable_modules(model: PreTrainedModel, purpose: Purpose) -> list[nn.Module]:
    """The model's attention modules in the order of its layers: one per layer, or fewer if layers share modules.

    Raises:
        AttachError: the model is guided already, has no such modules, or is not a bidirectional encoder.
    """
    name = type(model).__name__
    modules = modules_of(model)
    for module in modules:
        if PROCESSOR in module.__dict__:
            raise AttachError(f"this {name} {module.__dict__[PROCESSOR].purpose.taken}")
    if not modules:
        function = next(_with_dropout_function(model), None)
        why = (
            ""
            if function is None
            else f", and {type(function).__name__} applies dropout by a function, unseen by hooks"
        )
        raise AttachError(
            f"{name} does not call its attention through transformers' attention interface{why}, so it cannot be "
            f"{purpose.participle}; BERT, RoBERTa, DeBERTa, ModernBERT, ViT, Wav2Vec2 and many others can"
        )
    reason = _reason_against(model, modules, purpose)
    if reason is not None:
        parts = _guidable_parts(model)
        takes = "guide() takes" if purpose == GUIDING else f"{purpose.verb}"
        instead = f"; {takes} its {' or '.join(parts)}{purpose.alone}" if parts else ""
        raise AttachError(f"{name} cannot be {purpose.participle}: {reason}{instead}")
    return modules


def has_encoder_and_decoder(model: PreTrainedModel) -> bool:
    """Whether a model has an encoder and a decoder, as T5 and BART do, and is not just one of these two parts."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return getattr(model.config, "is_encoder_decoder", False) and {"encoder", "decoder"} <= names


def _reason_against(model: PreTrainedModel, modules: Sequence[nn.Module], purpose: Purpose = GUIDING) -> str | None:
    """Why a model with these attention modules cannot be guided, or None if it can."""
    for_encoders = f"{purpose.name} is for bidirectional encoders"
    if getattr(model.config, "is_decoder", False) or any(getattr(module, "is_causal", False) for module in modules):
        return f"it is {'an encoder-decoder' if has_encoder_and_decoder(model) else 'a decoder'}; {for_encoders}"
    try:
        config = model.config.get_text_config()
    except ValueError as error:
        return f"it has several parts ({reason_of(error)})"
    sizes: dict[str, Any] = {}
    for size in ("num_hidden_layers", "num_attention_heads"):
        try:
            sizes[size] = getattr(config, size, None)
        except RuntimeError:  # raised by transformers if the number differs by layer
            sizes[size] = "different numbers of"
        if not isinstance(sizes[size], int):
            what = size.removeprefix("num_").replace("_", " ")
            if sizes[size] is None:
                return f"its {type(config).__name__} does not say how many {what} it has ({size})"
            return f"its layers have {sizes[size]} {what}; {purpose.name} needs the same number in all layers"
    n_modules = n_layers = sizes["num_hidden_layers"]
    if hasattr(config, "num_hidden_groups"):
        n_modules = config.num_hidden_groups * config.inner_group_num
    if len(modules) != n_modules:
        if has_encoder_and_decoder(model):
            return f"it is an encoder-decoder; {for_encoders}"
        return f"it has {len(modules)} attention modules for {n_layers} layers; {for_encoders}"
    for module in modules:
        own = getattr(module, "config", config)
        if not (isinstance(own, type(config)) or isinstance(config, type(own))):
            return f"its attention is that of a part of it ({type(own).__name__}), not of its {n_layers} layers"
    return None


def _guidable_parts(model: PreTrainedModel) -> list[str]:
    """The names of the outermost parts of a model that can be guided on their own."""
    found: list[str] = []
    for name, part in model.named_modules():
        if name and isinstance(part, PreTrainedModel) and not any(name.startswith(f"{outer}.") for outer in found):
            modules = modules_of(part)
            if modules and _reason_against(part, modules) is None:
                found.append(name)
    return found


def modules_of(model: nn.Module) -> list[nn.Module]:
    """The attention modules of a model that use transformers' attention interface; without any, its `map_modules`."""
    return list(attention_modules(model)) or list(map_modules(model))


def attention_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules whose forward looks up its attention function in transformers' registry, in the model's order."""
    for module in model.modules():
        forward = forward_of(module)
        if "ALL_ATTENTION_FUNCTIONS" in forward.__code__.co_names:
            yield module


def map_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that compute their attention themselves, in the model's order.

    Their forward, or a method that it names, names a softmax and one of their own Dropout modules. Whether this dropout
    does receive attention maps shows in the forward pass.
    """
    for module in model.modules():
        dropouts = dropouts_of(module)
        if dropouts and not isinstance(module, PreTrainedModel):
            names = _names_in_forward(type(module))
            if any(map(_SOFTMAX.search, names)) and any(name in names for name in dropouts):
                yield module


def _with_dropout_function(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that compute their attention themselves and call torch's dropout function."""
    for module in model.modules():
        names = frozenset() if isinstance(module, PreTrainedModel) else _names_in_forward(type(module))
        if "dropout" in names and "dropout" not in dropouts_of(module) and any(map(_SOFTMAX.search, names)):
            yield module


def dropouts_of(module: nn.Module) -> dict[str, nn.Module]:
    """The Dropout modules that belong to a module itself, by name: torch's, and others called so (StableDropout)."""
    return {
        name: child
        for name, child in module.named_children()
        if isinstance(child, nn.Dropout) or type(child).__name__.endswith("Dropout")
    }


def number_of_heads(module: nn.Module, default: int) -> int:
    """The number of heads of an attention module, if it says it. ConvBERT's have half of those in its config."""
    found = (getattr(module, name, None) for name in _NUMBERS_OF_HEADS)
    return next((number for number in found if isinstance(number, int)), default)


def _names_in_forward(kind: type[nn.Module]) -> frozenset[str]:
    """The names that a class's forward mentions, and those that its other methods do which it mentions."""
    names: set[str] = set()
    waiting = ["forward"]
    while waiting:
        method = inspect.unwrap(getattr(kind, waiting.pop()))
        new = set(method.__code__.co_names) - names
        names |= new
        waiting += [
            name for name in new if inspect.isfunction(getattr(kind, name, None)) and not hasattr(nn.Module, name)
        ]
    return frozenset(names)


def normalizes_its_loss(model: nn.Module) -> bool:
    """Whether a model of transformers divides its loss by the number of labels that Trainer passes."""
    return _calls(model, "loss_function")


def _calls(module: nn.Module, name: str) -> bool:
    """Whether a module's forward mentions a name (a global, or an attribute of self)."""
    return name in forward_of(module).__code__.co_names


def forward_of(module: nn.Module) -> Any:
    """The class's forward function without its decorators."""
    return inspect.unwrap(type(module).forward)
