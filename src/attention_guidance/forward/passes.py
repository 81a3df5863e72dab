"""The forward passes of a guided model: the one under way, and those that the next loss holds.

One object that the handle and all guided layers share.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attention_guidance.adapters.call import AttentionCall, in_backward
from attention_guidance.errors import AttachError
from attention_guidance.forward.forward_pass import ForwardPass, GradientTrace


class Passes:
    """The passes of one guided model.

    A loss holds all training passes since the last one, so that an encoder may be called several times for it (two
    texts, two views of one).

    Args:
        model: the guided model.
        whole: the module whose loss guidance joins.
        weighted: whether guidance has a weight above 0 at present.

    Attributes:
        current: the pass under way; None between passes.
        last: the pass that ended last.
        measuring: whether passes are measured, in evaluation mode too.
        evaluates: whether the model was called in evaluation mode last, and not to be measured.
        within_whole: whether a forward pass of the whole around the model is under way.
        measured: each guided head's sum over the rows that count and their number, over the passes measured.
    """

    def __init__(self, model: nn.Module, whole: nn.Module, weighted: Callable[[], bool]) -> None:
        self.name = type(model).__name__
        self.joins_itself = whole is model
        self.weighted = weighted
        self.current: ForwardPass | None = None
        self.last: ForwardPass | None = None
        self.measuring = False
        self.measured: tuple[Tensor, Tensor] | None = None
        self.evaluates = False
        self.within_whole = False
        self._training: list[ForwardPass] = []
        self._in_a_loss = False
        self._traces: list[GradientTrace] = []

    def __getstate__(self) -> dict[str, object]:
        """Nothing of the passes themselves, whose tensors cannot be copied or pickled."""
        empty = {"current": None, "last": None, "measured": None, "measuring": False}
        return self.__dict__ | empty | {"_training": [], "_in_a_loss": False, "_traces": [], "within_whole": False}

    # The handle's side

    @property
    def without_loss(self) -> bool:
        """Whether there are training passes that no loss holds yet."""
        return bool(self._training) and not self._in_a_loss

    def begin_whole(self) -> None:
        """A forward pass of the whole around the model begins: what came before it without gradients is not of it."""
        self.within_whole = True
        self._training = [old for old in self._training if old.with_gradient]

    def begin(self, new: ForwardPass) -> None:
        """A pass begins.

        What a backward pass calls again, under checkpointing of the whole model, is no further pass. A call within a
        backward pass whose first one had no gradient is one (gradient caches, reentrant checkpoints).
        """
        last = self.last
        new.recomputes = in_backward() and last is not None and last.with_gradient and last.graph_task != new.graph_task
        # Without gradients it is of no loss but that of the whole under way, as in a reentrant checkpoint around it.
        new.trains = new.weighted and not new.recomputes and (new.with_gradient or self.within_whole)
        self.current, self.evaluates = new, False

    def end(self) -> None:
        """The pass under way has ended well."""
        assert self.current is not None
        new, self.current = self.current, None
        if new.recomputes:
            return
        self.last = new
        if new.trains:
            if self._in_a_loss or any(old.trace.model for old in self._training):
                self._training, self._in_a_loss = [], False
            if new.with_gradient and not new.learns:
                # Nobody sees a backward pass go through: of those that train nothing the last one is kept.
                self._training = [old for old in self._training if old.learns]
            self._training.append(new)
            if new.watched:
                self._traces.append(new.trace)
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
                loss.register_hook(one.trace.reach_guidance)  # type: ignore[no-untyped-call]

    def untrained(self) -> int:
        """How many passes a backward pass went through without their guidance, since this was asked last."""
        done = [trace for trace in self._traces if trace.model]
        self._traces = [trace for trace in self._traces if not trace.model]
        return sum(not trace.guidance for trace in done)

    # The layers' side

    def of_call(self, layer: int, call: AttentionCall) -> ForwardPass | None:
        """The pass that an attention call belongs to; None for one that guidance has nothing to do with.

        Args:
            layer: the number of the layer.
            call: the call.

        Raises:
            AttachError: the call would train unguided, or it is recomputed under checkpointing after its pass is gone.
        """
        # Of values too: queries and keys may begin at zero, and be alike in all texts.
        tensors = call.query_BHQD, call.key_BGKD, call.value_BGKD
        sample_BS = torch.cat([tensor[:, 0, :, 0].detach() for tensor in tensors], -1)
        if self.current is not None:
            if self.current.with_gradient and not torch.compiler.is_compiling():
                self.current.samples.setdefault(layer, []).append(sample_BS)
            return self.current
        if in_backward():
            return self._recomputed(layer, sample_BS)
        self.check_outside(call.training)
        return None

    def check_outside(self, training: bool) -> None:
        """Raise AttachError for an attention call outside of a guided pass that would train.

        Args:
            training: whether the attention module is in training mode.
        """
        if training and torch.is_grad_enabled() and self.weighted():
            raise AttachError(
                f"guided attention of {self.name} was called in training mode outside of a guided forward pass, and "
                "would train unguided: call the model that was given to guide(), in training mode. Where you train a "
                "part of it or what it was turned into (merge_and_unload), call remove() on its guidance and guide() "
                "that model; to use it without training, call it in evaluation mode or under torch.no_grad()"
            )

    def _recomputed(self, layer: int, sample_BS: Tensor) -> ForwardPass | None:
        """The pass that a recomputation within the backward pass belongs to: it must do the same work again."""
        candidates = [*self._training, *([] if self.last is None else [self.last])]
        candidates = [one for one in candidates if one.with_gradient]
        nearest, least = None, math.inf
        for one in candidates:
            for seen_BS in one.samples.get(layer, []):
                # Recomputation need not be exact to the last bit, nor be finite where a GradScaler skips the step;
                # another batch is far off, if its queries, keys and values are not next to nothing.
                if seen_BS.shape == sample_BS.shape and torch.allclose(seen_BS, sample_BS, 1e-2, 1e-3, equal_nan=True):
                    distance = float((seen_BS - sample_BS).nan_to_num().abs().max())
                    if distance < least:
                        nearest, least = one, distance
        if nearest is not None:
            return nearest
        if not candidates:
            return None
        raise AttachError(
            "under gradient checkpointing, guidance needs the backward() of each loss before the next guided forward "
            "pass (or measure()): this recomputation would take the targets of the later one"
        )
