"""Adapters: how guidance attaches to each kind of model.

`base` defines the interface, `interface` the adapter of transformers' models, `cross` that of their cross-attention,
`own_maps` that of models that do not use its attention interface, and `multihead` that of models made of torch's
nn.MultiheadAttention. `modules` finds the attention modules of transformers' models, and `inputs_outputs` reads what a
model is given and returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from attention_guidance.adapters.base import GUIDING, Adapter, Purpose
from attention_guidance.adapters.cross import CrossAdapter
from attention_guidance.adapters.interface import InterfaceAdapter
from attention_guidance.adapters.modules import attention_modules, map_modules
from attention_guidance.adapters.multihead import MultiheadAdapter, has_multihead
from attention_guidance.adapters.own_maps import MapAdapter
from attention_guidance.errors import AttachError


def checked_model(model: object, purpose: Purpose = GUIDING) -> nn.Module:
    """Check that the argument is a model, and unwrap it from torch.compile.

    Args:
        model: the argument to check.
        purpose: what the model is used for.

    Raises:
        AttachError: it is not an nn.Module, but a name, a class, or an object that contains a model.
    """
    if isinstance(model, nn.Module):
        # torch.compile returns a wrapper of the model.
        return getattr(model, "_orig_mod", model)
    if isinstance(model, str):
        raise AttachError(f"model={model!r} is a string; load the model first: AutoModel.from_pretrained({model!r})")
    if isinstance(model, type):
        raise AttachError(f"model={model.__name__} is a class; pass an instance: {model.__name__}(config)")
    holds = isinstance(getattr(model, "model", None), nn.Module)
    raise AttachError(
        f"model is of class {type(model).__name__}, and {purpose.name} needs a torch.nn.Module"
        + ("; its .model is one" if holds else "")
    )


def adapter_of(model: nn.Module, purpose: Purpose = GUIDING) -> Adapter:
    """The adapter of a model.

    Args:
        model: any model.
        purpose: what its attention is used for.

    Raises:
        AttachError: no adapter supports it.
    """
    model = checked_model(model, purpose)
    if hasattr(model, "set_attn_implementation"):
        return _of_transformers(model, purpose)
    kind = type(model).__name__
    parts = list(_parts(model))
    if len(parts) == 1 and not has_multihead(model):
        return _of_transformers(parts[0][1], purpose)
    if parts:
        names = ", ".join(f"{name} ({type(part).__name__})" for name, part in parts)
        beside = " beside modules of nn.MultiheadAttention" if has_multihead(model) else ""
        joins = ", with within= the whole model, to whose loss it is then added" if purpose == GUIDING else ""
        raise AttachError(
            f"{kind} contains more than one thing to {purpose.verb}: {names}{beside}; {purpose.verb} the part you want"
            f"{joins}"
        )
    if has_multihead(model):
        return MultiheadAdapter(model, purpose)
    raise AttachError(
        f"{kind} cannot be {purpose.participle}: only models of transformers (PreTrainedModel) can, and modules that "
        "are or contain torch's nn.MultiheadAttention, such as nn.TransformerEncoder"
    )


def _of_transformers(model: Any, purpose: Purpose) -> Adapter:
    own_maps = not any(attention_modules(model)) and any(map_modules(model))
    return MapAdapter(model, purpose) if own_maps else InterfaceAdapter(model, purpose)


def cross_adapter_of(model: nn.Module) -> Adapter:
    """The adapter of the cross-attention of an encoder-decoder.

    Args:
        model: an encoder-decoder of transformers.

    Raises:
        AttachError: it is none, or its cross-attention cannot be guided.
    """
    model = checked_model(model)
    return CrossAdapter(model)  # type: ignore[arg-type]


def whole_of(model: nn.Module, adapter: Adapter, within: nn.Module | None) -> nn.Module | None:
    """The module to whose loss guidance is added: `within`, or `model` if it only contains the guided model."""
    model = getattr(model, "_orig_mod", model)
    return model if within is None and adapter.model is not model else within


def _parts(module: nn.Module, name: str = "") -> Iterator[tuple[str, Any]]:
    """The outermost models of transformers in a module, by name."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if hasattr(child, "set_attn_implementation"):
            yield path, child
        else:
            yield from _parts(child, path)
