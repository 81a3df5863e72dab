"""The guidance weight during training: its schedule, the steps done, and what a relative weight comes to."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, distributed

from attention_guidance.errors import AttachError, ConfigError, GuidanceWarning
from attention_guidance.schedules import RelativeWeight, Schedule, checked_weight


class GuidanceWeight:
    """The weight of a guided model at each step of its training.

    Args:
        weight: the full weight, or a multiple of the loss of the first step.
        schedule: how it changes over training.
        total_steps: length of the run in optimisation steps, if known.

    Attributes:
        relative: the relative weight, if `weight` was one and no number was set since.
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
        """The weight before the schedule; 0 while it is not known. A number that is set replaces a relative weight.

        Raises:
            ConfigError: set to something other than a finite number of 0 or above.
        """
        return self._full

    @full.setter
    def full(self, weight: float) -> None:
        self._find(weight)
        self.relative = None

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

    def end_step(self, device: torch.device) -> RelativeWeight | None:
        """End an optimisation step. All processes must call this.

        Args:
            device: a device on which processes can communicate.

        Returns:
            The relative weight if it is known from now on, else None.
        """
        if self.relative is None or self._first is None:
            return None
        size = self._first.size(device)
        if size is None:
            return None
        self._find(self.relative.ratio * size)
        return self.relative

    def resume(self, steps_done: int, saved: float | None, ratio: float | None) -> None:
        """Continue after some steps. A weight that was given as a number stays.

        Args:
            steps_done: number of steps done.
            saved: what a relative weight came to in the first step, if that is known.
            ratio: the ratio that it had, if that is known.

        Raises:
            ConfigError: a relative weight had another ratio.
        """
        self.steps_done = steps_done
        if self.relative is None:
            return
        if saved is None:
            if steps_done and not self.known:
                warnings.warn(
                    f"there is no weight to resume {self.relative} with, as the first step had none: it will be a "
                    f"multiple of the loss of step {steps_done + 1}; to choose another, give the weight as a number",
                    GuidanceWarning,
                    stacklevel=2,
                )
            return
        if ratio is not None and ratio != self.relative.ratio:
            raise ConfigError(
                f"cannot resume with {self.relative}: the run began with {RelativeWeight(ratio)}, which came to "
                f"{saved:g}; resume with that, or give the weight as a number"
            )
        self._find(saved)

    def _find(self, weight: float) -> None:
        self._full, self._first = checked_weight(weight), None

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
        # Before the share, which half precision would round.
        loss = loss.detach().mean().to(torch.promote_types(loss.dtype, torch.float32))
        sums = torch.stack([loss, torch.ones_like(loss) if share is None else share.to(loss)])
        self._sums = sums if self._sums is None else self._sums + sums

    def size(self, device: torch.device) -> float | None:
        """The size of the step's mean loss; the next loss starts anew. All processes must call this.

        Returns:
            The absolute value, or None if there was no loss, or it was 0 or not finite.
        """
        sums = torch.zeros(2, device=device) if self._sums is None else self._sums.to(device)
        self._sums = None
        if distributed.is_available() and distributed.is_initialized():
            sums = sums.double()  # one dtype on all processes, also on one that had no loss
            distributed.all_reduce(sums)
        loss, weight = sums.tolist()
        size = abs(loss / weight) if weight else 0.0
        return size if 0 < size < math.inf else None
