"""Add guidance to losses: to that of the model, of the module that contains it, or of a Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attention_guidance.adapters.base import Adapter
from attention_guidance.adapters.inputs_outputs import loss_of, share_of_batch, with_loss
from attention_guidance.adapters.modules import normalizes_its_loss
from attention_guidance.errors import AttachError
from attention_guidance.forward.forward_pass import ForwardPass
from attention_guidance.forward.hooked_forward import HookedForward
from attention_guidance.forward.lost_guidance import LostGuidance
from attention_guidance.forward.passes import Passes
from attention_guidance.weight import GuidanceWeight


class JoinedLosses:
    """Adds weight x guidance of the passes since the last loss.

    Args:
        adapter: attaches guidance to the guided model.
        forward: the forward of the module to whose loss guidance is added: the guided model, or one that contains it.
        passes: the forward passes of the guided model.
        weight: the guidance weight.
        lost: warns if the loss cannot train guided heads.

    Attributes:
        model: the guided model.
        called: whether it was called since the last loss of the module.
    """

    def __init__(
        self, adapter: Adapter, forward: HookedForward, passes: Passes, weight: GuidanceWeight, lost: LostGuidance
    ) -> None:
        self.model = adapter.model
        self.called = False
        self._self_normalizing = adapter.self_normalizing
        self._forward, self._whole = forward, forward.model
        self._passes, self._weight, self._lost = passes, weight, lost
        self._hooks = [self._whole.register_forward_hook(self._join, with_kwargs=True)]

    def join_losses_of(self, modules: Iterable[nn.Module]) -> None:
        """Add guidance to the losses of modules that call the model, as in SentenceTransformerTrainer. Idempotent.

        Args:
            modules: modules that return a loss, or a dict of its parts.
        """
        for module in modules:
            joined = self._join_parts in module._forward_hooks.values()
            if self._hooks and not joined and any(part is self.model for part in module.modules()):
                self._hooks.append(module.register_forward_hook(self._join_parts))

    def remove(self) -> None:
        """Add guidance to no loss any more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def unjoined(self) -> Tensor:
        """Weight x guidance as a loss alone, for users to add to their own; see `Guidance.loss`."""
        if self._passes.evaluates and not self._passes.without_loss:
            return torch.zeros((), device=next(self.model.parameters()).device)
        self._weight.check_seen()
        passes = self._passes.of_the_loss()
        if not passes:
            raise AttachError("no guided forward pass yet: call the model in training mode first")
        return self._guidance(passes, added=False)

    def _guidance(self, passes: Sequence[ForwardPass], added: bool) -> Tensor:
        """Weight x guidance of some passes; `added` says whether the library adds it to an objective."""
        terms = [layer.loss for one in passes for layer in one.layers.values()]
        total: Tensor = self._weight.current * torch.stack(terms).sum()
        if any(one.trains for one in passes):
            self._passes.join(total, added)
        self._lost.check_trainable(passes)
        return total

    def _join(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """A forward hook: add guidance to the loss of the model, or of the module that contains it.

        Raises:
            AttachError: the module has a loss and did not call the model in training mode.
        """
        if not module.training or output is None:
            return output
        called, self.called = self.called, False
        objective = loss_of(output)
        if objective is None:
            return output
        if not called:
            raise AttachError(
                f"{type(module).__name__} did not call its part {type(self.model).__name__} in training mode in this "
                "pass: it would train unguided"
            )
        return with_loss(output, self._with_guidance(objective, self._forward.named_inputs(args, kwargs)))

    def _join_parts(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """A forward hook: add guidance to the output of a Trainer's loss module, a loss or its parts by name."""
        if self.model.training and not self._weight.known:
            loss = output if isinstance(output, Tensor) else torch.stack([*output.values()]).sum()
            self._weight.see(loss, None)
        if not self._passes.without_loss:
            return output
        guidance = self._guidance(self._passes.of_the_loss(), added=True)
        return output + guidance if isinstance(output, Tensor) else {**output, "guidance_loss": guidance}

    def _with_guidance(self, objective: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        share = share_of_batch(inputs)
        if self._whole is not self.model:
            # Several guidances may be added to one module's loss, so do not rescale that loss: scale guidance like it.
            share = share if share is not None and self._is_scaled() else None
        elif share is not None and not self._self_normalizing:
            objective = objective * share
        self._weight.see(objective, share)
        if not self._weight.current:
            return objective
        last = self._passes.last
        # A pass without gradients reports its own guidance only: earlier passes belong to a loss that is yet to come.
        passes = [last] if last is not None and not last.trains else self._passes.of_the_loss()
        return objective + (1 if share is None else share) * self._guidance(passes, added=True)

    def _is_scaled(self) -> bool:
        """Whether the loss of the module is a share of the batch's, by itself or by guidance of its cross-attention."""
        owners = [getattr(hook, "__self__", None) for hook in self._whole._forward_hooks.values()]
        before = owners[: owners.index(self)]
        scaled = any(isinstance(owner, JoinedLosses) and owner.model is self._whole for owner in before)
        return scaled or normalizes_its_loss(self._whole)
