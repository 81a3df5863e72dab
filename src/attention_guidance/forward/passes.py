"""All forward passes since the last loss, and which one a call belongs to.

One object that the handle and all guided layers share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attention_guidance.adapters.base import graph_task, in_backward
from attention_guidance.errors import AttachError
from attention_guidance.forward.forward_pass import ForwardPass, GradientTrace, sample_of
from attention_guidance.loss.call import AttentionCall


class Passes:
    """The passes of one guided model.

    A loss holds all training passes since the last one, so that an encoder may be called several times for it (two
    texts, two views of one).

    Args:
        name: of the guided model.
        weighted: whether guidance has a weight above 0 at present.

    Attributes:
        current: the pass under way; None between passes.
        last: the pass that ended last.
        measuring: whether passes are measured, in evaluation mode too.
        evaluates: whether the model was called in evaluation mode last, and not to be measured.
        within_whole: whether a forward pass of the whole around the model is under way.
        measured: each guided head's sum over the rows that count and their number, over the passes measured.
    """

    def __init__(self, name: str, weighted: Callable[[], bool]) -> None:
        self.name = name
        self.weighted = weighted
        self.current: ForwardPass | None = None
        self.last: ForwardPass | None = None
        self.measuring = False
        self.measured: tuple[Tensor, Tensor] | None = None
        self.evaluates = False
        self.within_whole = False
        self._training: list[ForwardPass] = []
        self._in_a_loss = False
        # Those of passes that a backward pass has gone through. Only the graph of a pass holds the trace before.
        self._reached: list[GradientTrace] = []

    def __getstate__(self) -> dict[str, object]:
        """Nothing of the passes themselves, whose tensors cannot be copied or pickled."""
        empty = {"current": None, "last": None, "measured": None, "measuring": False}
        return self.__dict__ | empty | {"_training": [], "_in_a_loss": False, "_reached": [], "within_whole": False}

    # The handle's side

    @property
    def without_loss(self) -> bool:
        """Whether there are training passes that no loss holds yet."""
        return bool(self._training) and not self._in_a_loss

    def begin_whole(self) -> None:
        """A forward pass of the whole around the model begins: what came before it without gradients is not of it."""
        self.within_whole = True
        self._training = [old for old in self._training if old.with_gradient]

    def begin(self, inputs: Mapping[str, Any], patch_size: tuple[int, int] | None, training: bool) -> None:
        """A pass begins.

        What a backward pass calls again, under checkpointing of the whole model, is no further pass. A call within a
        backward pass whose first one had no gradient is one (gradient caches, reentrant checkpoints).

        Args:
            inputs: the arguments of the model's forward, by name.
            patch_size: height and width of the patches that the model cuts images into, or None.
            training: whether the model is in training mode.
        """
        new = ForwardPass(inputs, patch_size, torch.is_grad_enabled(), training and self.weighted(), graph_task())
        last = self.last
        new.recomputes = in_backward() and last is not None and last.with_gradient and last.graph_task != new.graph_task
        # Without gradients it is of no loss but that of the whole under way, as in a reentrant checkpoint around it.
        new.trains = new.weighted and not new.recomputes and (new.with_gradient or self.within_whole)
        self.current, self.evaluates = new, False

    def keep(self, new: ForwardPass) -> None:
        """A pass has ended well."""
        if new.recomputes:
            return
        self.last = new
        if new.trains:
            if self._in_a_loss or any(old.trace is not None and old.trace.model for old in self._training):
                self._training, self._in_a_loss = [], False
            if new.with_gradient and not new.learns:
                # Nobody sees a backward pass go through: of those that train nothing the last one is kept.
                self._training = [old for old in self._training if old.learns]
            self._training.append(new)
        if not self.measuring:
            self.measured = None
        else:
            sums, counts = new.sums_and_counts()
            before = self.measured or (torch.zeros_like(sums), torch.zeros_like(counts))
            self.measured = before[0] + sums, before[1] + counts

    def of_the_loss(self) -> list[ForwardPass]:
        """The passes that a loss holds: all training passes since the one before it, or else the last pass.

        Beside passes with gradients, those without (a view that is a constant target) do not count.
        """
        if self.without_loss or (self.last is not None and self.last.trains):
            return [one for one in self._training if one.with_gradient] or self._training
        return [] if self.last is None else [self.last]

    def join(self, loss: Tensor, added: bool) -> None:
        """The guidance loss of the passes has been made.

        Args:
            loss: `weight` x guidance, a scalar.
            added: whether it is being added to an objective here; else it may be, if it has a gradient.
        """
        self._in_a_loss = self._in_a_loss or added or torch.is_grad_enabled()
        if loss.requires_grad and not torch.compiler.is_compiling():
            for one in self.of_the_loss():
                if one.trace is not None:
                    loss.register_hook(one.trace.reach_guidance)  # type: ignore[no-untyped-call]

    def untrained(self) -> int:
        """How many passes a backward pass went through without their guidance, since this was asked last."""
        n_untrained = sum(not trace.guidance for trace in self._reached)
        self._reached.clear()
        return n_untrained

    # The layers' side

    def of_call(self, layer: int, call: AttentionCall) -> ForwardPass | None:
        """The pass that an attention call belongs to; None for one that guidance has nothing to do with.

        Args:
            layer: the number of the layer.
            call: the call.

        Raises:
            AttachError: the call would train unguided, or it is recomputed under checkpointing after its pass is gone.
        """
        if self.has_none(call.training):
            return None
        if self.current is None:
            return self._recomputed(layer, call)
        self.current.see(layer, call, self._reached)
        return self.current

    def has_none(self, training: bool) -> bool:
        """Whether the attention calls made now belong to no pass.

        Args:
            training: whether the attention module is in training mode.

        Raises:
            AttachError: the call would train unguided.
        """
        if self.current is not None or in_backward():
            return False
        if training and torch.is_grad_enabled() and self.weighted():
            raise AttachError(
                f"guided attention of {self.name} was called in training mode outside of a guided forward pass, and "
                "would train unguided: call the model that was given to guide(), in training mode. Where you train a "
                "part of it or what it was turned into (merge_and_unload), call remove() on its guidance and guide() "
                "that model; to use it without training, call it in evaluation mode or under torch.no_grad()"
            )
        return True

    def _recomputed(self, layer: int, call: AttentionCall) -> ForwardPass | None:
        """The pass that a recomputation within the backward pass belongs to: it must do the same work again."""
        sample = sample_of(call)
        candidates = [one for one in (*self._training, self.last) if one is not None and one.with_gradient]
        distances = [one.distance(layer, sample) for one in candidates]
        nearest = min(distances, default=math.inf)
        if nearest < math.inf:
            return candidates[distances.index(nearest)]
        if not candidates:
            return None
        raise AttachError(
            "under gradient checkpointing, guidance needs the backward() of each loss before the next guided forward "
            "pass (or measure()): this recomputation would take the targets of the later one"
        )
