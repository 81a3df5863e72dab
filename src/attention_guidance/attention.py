"""The attention functions that transformers calls in a guided model.

A guided model runs the attention it had before, with the same mask and so the same numbers; beside it, the queries and
keys are shown to an observer that sits on the attention module. A module without an observer is left alone, so a model
that shares its config with a guided one goes on as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from attention_guidance.errors import AttachError

# What guided models run under, by the attention they had. No name may contain `sdpa` or `flash` or begin with `paged|`:
# transformers dispatches on these.
GUIDED_NAMES = {"sdpa": "attention_guidance", "eager": "attention_guidance_eager"}
OBSERVER = "_attention_guidance"


class Observer(Protocol):
    """Sees each call of a guided module's attention."""

    def observe(self, query_BHQD: Tensor, key_BHKD: Tensor, mask: Tensor | None, scale: float) -> None:
        """Take note of the attention that queries and keys make under a mask (bool or additive, or None)."""


def _guided(base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attention_forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        attend = base_attention(module, base)
        result: tuple[Tensor, Tensor | None] = attend(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        observer: Observer | None = module.__dict__.get(OBSERVER)
        if observer is not None:
            for name in ("position_bias", "softcap"):
                if kwargs.get(name) is not None:
                    raise AttachError(
                        f"{type(module).__name__} adds a {name} to its attention scores, which guidance does not know "
                        "of yet; models without one can be guided"
                    )
            observer.observe(query, key, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling)
        return result

    return attention_forward


def base_attention(module: nn.Module, base: str) -> Callable[..., Any]:
    """The attention function that a module would call without guidance.

    `eager` is not in transformers' registry: each modelling file has its own, in the globals of the module's forward.
    """
    if base == "eager":
        function = _forward_of(module).__globals__.get("eager_attention_forward")
        if function is None:
            raise AttachError(
                f"{type(module).__name__} has no eager_attention_forward to stand beside guidance; "
                "load the model with attn_implementation='sdpa'"
            )
        return function  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[base]  # type: ignore[no-any-return]


def attention_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules, in the model's order, whose forward looks its attention function up in transformers' registry."""
    for module in model.modules():
        forward = _forward_of(module)
        if "ALL_ATTENTION_FUNCTIONS" in forward.__code__.co_names:
            yield module


def calls(module: nn.Module, name: str) -> bool:
    """Whether a module's forward mentions a name (a global, or an attribute of self)."""
    return name in _forward_of(module).__code__.co_names


def _forward_of(module: nn.Module) -> Any:
    """The class's own forward function beneath its decorators."""
    return inspect.unwrap(type(module).forward)


def register() -> None:
    """Make the guided attention functions, and the masks they expect, known to transformers. Idempotent."""
    masks = AttentionMaskInterface()
    for base, name in GUIDED_NAMES.items():
        AttentionInterface.register(name, _guided(base))
        # Without a mask function of the same name transformers drops the padding mask in silence.
        AttentionMaskInterface.register(name, masks[base])
