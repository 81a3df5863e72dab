"""The guidance weight during training: its schedule, the steps done, and what a relative weight comes to."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed

from attention_guidance.errors import AttachError
from attention_guidance.schedules import RelativeWeight, Schedule, checked_weight


class GuidanceWeight:
    """The weight of a guided model at each step of its training.

    Args:
        weight: the full weight, or a multiple of the loss of the first step.
        schedule: how it changes over training.
        total_steps: length of the run in optimisation steps, if known.

    Attributes:
        relative: the relative weight, if `weight` was one.
        schedule, total_steps: as given.
        steps_done: optimisation steps made so far.
    """

    def __init__(self, weight: float | RelativeWeight, schedule: Schedule, total_steps: int | None = None) -> None:
        self.relative = weight if isinstance(weight, RelativeWeight) else None
        self.schedule = schedule
        self.total_steps = total_steps
        self.steps_done = 0
        self._full = 0.0 if isinstance(weight, RelativeWeight) else weight
        # None once the weight is known.
        self._first = None if self.relative is None else _FirstLoss()

    @property
    def known(self) -> bool:
        """Whether the weight is a number already; a relative weight is one after the first step."""
        return self._first is None

    @property
    def full(self) -> float:
        """The weight before the schedule; 0 while it is not known.

        Raises:
            ConfigError: set to something other than a finite number of 0 or above.
        """
        return self._full

    @full.setter
    def full(self, weight: float) -> None:
        self._full = checked_weight(weight)
        self._first = None

    @property
    def current(self) -> float:
        """The weight at the current step: full weight x schedule."""
        return self.full * self.schedule.factor(self.steps_done, self.total_steps)

    def see(self, objective: Tensor, share: Tensor | None) -> None:
        """Add a micro-batch's loss to that of the first step, while the weight is not known.

        Args:
            objective: the objective's loss; the mean of several numbers, where it has them.
            share: the micro-batch's share of the step, if the loss is that share of the step's loss. If None, all
                micro-batches count the same.

        Raises:
            AttachError: under torch.compile, where the loss cannot be read.
        """
        if self._first is None or not torch.is_grad_enabled():
            return
        if torch.compiler.is_compiling():
            raise AttachError(
                "the first loss, of which a relative weight is a multiple, cannot be read under torch.compile: make "
                "the first step without it, or give the weight as a number"
            )
        self._first.add(objective, share)

    def check_seen(self) -> None:
        """Raise AttachError if the weight is relative to a loss, and the first step had none so far."""
        if self._first is not None and not self._first.seen:
            raise AttachError(
                "the weight is relative to the loss in the model's output, and there is none yet: pass labels to the "
                "model, or give the weight as a number"
            )

    def end_step(self, device: torch.device) -> bool:
        """End an optimisation step. All processes must call this.

        Args:
            device: a device on which processes can communicate.

        Returns:
            Whether a relative weight is known from now on.
        """
        if self.relative is None or self._first is None:
            return False
        size = self._first.size(device)
        if size is not None:
            self.full = self.relative.ratio * size
        return size is not None

    def restore(self, weight: float) -> None:
        """Set what a relative weight came to before a resume. A weight that was given as a number stays."""
        if self.relative is not None:
            self.full = weight

    def __str__(self) -> str:
        """The full weight and its schedule in words."""
        weight = f"{self.full:g}" if self.known else "not known before the first step"
        if self.relative is not None:
            weight = f"{self.relative.ratio:g} x the first loss = {weight}"
        computable = self.total_steps is not None or not self.schedule.needs_total
        now = f", now {self.current:g}" if computable and self.schedule.shape != "constant" else ""
        return f"{weight} ({self.schedule.shape}{now})"


class _FirstLoss:
    """The mean loss of the objective over the micro-batches of a step and over all processes."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    @property
    def seen(self) -> bool:
        """Whether there was a loss in this step so far."""
        return self._sums is not None

    def add(self, loss: Tensor, share: Tensor | None) -> None:
        """Add the loss of a micro-batch; see `GuidanceWeight.see`."""
        loss = loss.detach().mean()
        weight = torch.ones_like(loss) if share is None else share.to(loss)
        sums = torch.stack([loss, weight]).to(torch.promote_types(loss.dtype, torch.float32))
        self._sums = sums if self._sums is None else self._sums + sums

    def size(self, device: torch.device) -> float | None:
        """The size of the step's mean loss; the next loss starts anew. All processes must call this.

        Returns:
            The absolute value, or None if there was no loss, or it was 0 or not finite.
        """
        sums = torch.zeros(2, device=device) if self._sums is None else self._sums.to(device)
        self._sums = None
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(sums)
        loss, weight = sums.tolist()
        size = abs(loss / weight) if weight else 0.0
        return size if 0 < size < math.inf else None
