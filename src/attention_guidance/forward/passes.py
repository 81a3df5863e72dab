"""All forward passes since the last loss, and which one a call belongs to.

The handle and all guided layers share one `Passes` object.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from attention_guidance.adapters.base import graph_task, in_backward
from attention_guidance.errors import AttachError
from attention_guidance.forward.forward_pass import ForwardPass, GradientTrace
from attention_guidance.loss.call import Call
from attention_guidance.weight import GuidanceWeight


class Passes:
    """The passes of one guided model.

    A loss includes all training passes since the previous loss, so an encoder may be called several times for one loss
    (two texts, or two views of a text).

    Args:
        name: name of the guided model.
        weight: the guidance weight; guidance only trains while it is above 0.

    Attributes:
        current: the pass in progress; None between passes.
        last: the last finished pass.
        measuring: whether passes are measured, in evaluation mode too.
        evaluates: whether the last call of the model was in evaluation mode and not measured.
        within_whole: whether a forward pass of the module that contains the model is in progress.
        measured: for each guided head, the sum over the rows that count and their number, over all measured passes.
    """

    def __init__(self, name: str, weight: GuidanceWeight) -> None:
        self.name = name
        self.weight = weight
        self.current: ForwardPass | None = None
        self.last: ForwardPass | None = None
        self.measuring = False
        self.measured: tuple[Tensor, Tensor] | None = None
        self.evaluates = False
        self.within_whole = False
        self._training: list[ForwardPass] = []
        self._in_a_loss = False
        # Traces of passes that a backward pass has reached. Before that, only the graph of the pass holds its trace.
        self._reached: list[GradientTrace] = []

    def __getstate__(self) -> dict[str, object]:
        """Leave out the passes themselves, whose tensors cannot be copied or pickled."""
        empty = {"current": None, "last": None, "measured": None, "measuring": False}
        return self.__dict__ | empty | {"_training": [], "_in_a_loss": False, "_reached": [], "within_whole": False}

    # The handle's side

    @property
    def without_loss(self) -> bool:
        """Whether there are training passes that no loss includes yet."""
        return len(self._training) > 0 and not self._in_a_loss

    def begin_whole(self) -> None:
        """Begin a forward pass of the module that contains the model. Earlier passes without gradients are dropped."""
        self.within_whole = True
        self._training = [old for old in self._training if old.with_gradient]

    def begin(self, inputs: Mapping[str, Any], patch_size: tuple[int, int] | None, training: bool) -> None:
        """Begin a pass.

        If checkpointing of the whole model calls it again during the backward pass, this is a recomputation and not a
        new pass. If the first call had no gradients (gradient caches, reentrant checkpoints), it is a new pass.

        Args:
            inputs: the arguments of the model's forward, by name.
            patch_size: height and width of the model's image patches in pixels, or None.
            training: whether the model is in training mode.
        """
        new = ForwardPass(
            inputs, patch_size, torch.is_grad_enabled(), training and self.weight.current > 0, graph_task()
        )
        last = self.last
        new.recomputes = in_backward() and last is not None and last.with_gradient and last.graph_task != new.graph_task
        # A pass without gradients belongs to a loss only inside the containing module, as in a reentrant checkpoint.
        new.trains = new.weighted and not new.recomputes and (new.with_gradient or self.within_whole)
        self.current, self.evaluates = new, False

    def keep(self, new: ForwardPass) -> None:
        """Keep a pass that ended without an error."""
        if new.recomputes:
            return
        self.last = new
        if new.trains:
            if self._in_a_loss or any(old.trace is not None and old.trace.model for old in self._training):
                self._training, self._in_a_loss = [], False
            if new.with_gradient and not new.learns:
                # No hook notices the backward pass of a pass that trains nothing, so keep only the last such pass.
                self._training = [old for old in self._training if old.learns]
            self._training.append(new)
        if not self.measuring:
            self.measured = None
        else:
            sums, counts = new.sums_and_counts()
            before = self.measured or (torch.zeros_like(sums), torch.zeros_like(counts))
            self.measured = before[0] + sums, before[1] + counts

    def of_the_loss(self) -> list[ForwardPass]:
        """The passes that a loss includes: all training passes since the previous loss, or else the last pass.

        If some of them have gradients, those without (a view that is a constant target) are left out.
        """
        if self.without_loss or (self.last is not None and self.last.trains):
            return [one for one in self._training if one.with_gradient] or self._training
        return [] if self.last is None else [self.last]

    def join(self, loss: Tensor, added: bool) -> None:
        """Record that the guidance loss of the passes was computed.

        Args:
            loss: weight x guidance, a scalar.
            added: whether the library adds it to an objective. If not, the user may, if it has a gradient.
        """
        self._in_a_loss = self._in_a_loss or added or torch.is_grad_enabled()
        if loss.requires_grad and not torch.compiler.is_compiling():
            for one in self.of_the_loss():
                if one.trace is not None:
                    loss.register_hook(one.trace.reach_guidance)  # type: ignore[no-untyped-call]

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Measure all passes in the block, in evaluation mode too, and sum over them in `measured`."""
        self.measuring, self.measured, self.last = True, None, None
        try:
            yield
        finally:
            self.measuring = False

    @property
    def seen(self) -> bool:
        """Whether there are passes for `sums_and_counts`."""
        return self.measured is not None or len(self.of_the_loss()) > 0

    def sums_and_counts(self) -> tuple[Tensor, Tensor]:
        """As `measured`, or over the passes of the last loss if none were measured since.

        Raises:
            AttachError: there was no pass yet.
        """
        if self.measured is not None:
            return self.measured
        passes = self.of_the_loss()
        if not passes:
            raise AttachError("no guided forward pass yet: call the model in training mode, or within measure()")
        sums, counts = zip(*(one.sums_and_counts() for one in passes), strict=True)
        return torch.stack(sums).sum(0), torch.stack(counts).sum(0)

    def untrained(self) -> int:
        """The number of passes since the last call of this method whose backward pass lacked their guidance."""
        n_untrained = sum(not trace.guidance for trace in self._reached)
        self._reached.clear()
        return n_untrained

    # The layers' side

    def of_call(self, layer: int, call: Call) -> ForwardPass | None:
        """The pass that an attention call belongs to, or None if the call needs no guidance.

        Args:
            layer: the number of the layer.
            call: the call.

        Raises:
            AttachError: the call would train unguided, or it is a recomputation and its pass is gone.
        """
        if self.has_none(call.training):
            return None
        if self.current is None:
            return self._recomputed(layer, call)
        self.current.see(layer, call, self._reached)
        return self.current

    def has_none(self, training: bool) -> bool:
        """Whether the current attention calls belong to no pass.

        Args:
            training: whether the attention module is in training mode.

        Raises:
            AttachError: the call would train unguided.
        """
        if self.current is not None or in_backward():
            return False
        if training and torch.is_grad_enabled() and self.weight.current > 0:
            raise AttachError(
                f"guided attention of {self.name} was called in training mode outside of a guided forward pass, and "
                "would train unguided: call the model that was passed to guide(), in training mode. To train a part of "
                "it, or a model made from it (merge_and_unload), call remove() on its guidance and guide() that model; "
                "to use it without training, call it in evaluation mode or under torch.no_grad()"
            )
        return True

    def _recomputed(self, layer: int, call: Call) -> ForwardPass | None:
        """The pass that a recomputation during the backward pass belongs to; it must repeat the same computation."""
        sample = call.sample()
        candidates = [one for one in (*self._training, self.last) if one is not None and one.with_gradient]
        distances = [one.distance(layer, sample) for one in candidates]
        nearest = min(distances, default=math.inf)
        if nearest < math.inf:
            return candidates[distances.index(nearest)]
        if not candidates:
            return None
        raise AttachError(
            "under gradient checkpointing, call backward() on each loss before the next guided forward pass (or "
            "measure()): this recomputation would use the targets of the later pass"
        )
