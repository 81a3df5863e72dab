"""Make `model.forward(...)` run the hooks of the model, as `model(...)` does.

PEFT, sentence-transformers and others call the forward of a model directly, which bypasses its hooks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from attention_guidance.adapters.inputs_outputs import named_inputs


class HookedForward:
    """Replaces the forward of one model until it is removed.

    A direct call of it calls the model, which runs its hooks and then calls this object again for its own forward.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # The instance's forward, if it has one: a guided nn.MultiheadAttention, or Accelerate's mixed precision.
        self.own: Callable[..., Any] | None = model.__dict__.get("forward")
        self.called = False
        self._hooks = [
            model.register_forward_pre_hook(self._enter),
            model.register_forward_hook(self._leave, always_call=True),
        ]
        model.__dict__["forward"] = self

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The model's own forward; `inspect.signature` reads this attribute."""
        own: Callable[..., Any] = self.own or type(self.model).forward.__get__(self.model)
        return own

    @property
    def __func__(self) -> Callable[..., Any]:
        """The function behind this bound method. Accelerate wraps it and binds it to the model again.

        It runs the hooks of the model that it is called with, which may be a copy.
        """
        function: Callable[..., Any] = self.__wrapped__.__func__  # type: ignore[attr-defined]

        @functools.wraps(function)
        def forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            owners = [getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values()]
            hooked = [owner for owner in owners if isinstance(owner, HookedForward)]
            return hooked[-1](*args, **kwargs) if hooked else function(model, *args, **kwargs)

        return forward

    def named_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, see `named_inputs`."""
        if self.own:
            return named_inputs(self.own, args, kwargs)
        # torch 2.11 cannot compile what binds a function to the model.
        named = named_inputs(type(self.model).forward, (self.model, *args), kwargs)
        return {name: value for name, value in named.items() if value is not self.model}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        if not self.called and self._hooks:
            return self._call_model(*args, **kwargs)
        self.called = False
        return self.own(*args, **kwargs) if self.own else type(self.model).forward(self.model, *args, **kwargs)

    def _call_model(self, *args: Any, **kwargs: Any) -> Any:
        outer = self.model.__dict__.get("forward")
        if outer is self:
            return self.model(*args, **kwargs)
        # A wrapper of this forward has been entered already. Accelerate's autocast must not be entered twice: it stores
        # the state to restore in itself, so it would stay enabled.
        self.model.__dict__["forward"] = self
        try:
            return self.model(*args, **kwargs)
        finally:
            self.model.__dict__["forward"] = outer

    def _enter(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self.called = True

    def _leave(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # A hook may have raised before the forward was called.
        self.called = False

    def remove(self) -> None:
        """Restore the model's forward. If something has wrapped this object since, it only passes calls on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        outer = self.model.__dict__.get("forward")
        if outer is self:
            del self.model.__dict__["forward"]
            if self.own is not None:
                self.model.__dict__["forward"] = self.own
        while isinstance(outer, HookedForward):
            # The forward of a guidance that was attached later.
            if outer.own is self:
                outer.own = self.own
            outer = outer.own
