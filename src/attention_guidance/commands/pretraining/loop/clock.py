"""A run that lasts a given time instead of a number of steps: its schedules go by the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands.pretraining.distributed import processes

if TYPE_CHECKING:
    from attention_guidance.handle import Guidance

# What guidance takes for the steps of the run, so that its schedule is told shares of it this fine.
_PARTS = 1_000_000
_LOOKS, _SAVES = 30, 10


class Clock(TrainerCallback):  # type: ignore[misc]
    """Ends a run when its time is over, validates and saves by the clock, and moves the schedule of guidance.

    To be the last of a run's callbacks. Preparing the text does not count, nor does what follows the last step.

    Args:
        budget: seconds of training, validation and saving.
        looks: seconds between validations; None takes a thirtieth of the budget.
        saves: seconds between checkpoints; None takes a tenth of the budget.

    Attributes:
        guidances: whose schedules go by it.
        shared_progress: `progress` as a scalar in shared memory: processes that load data have a copy of all else,
            as it was when they began.
    """

    _FILE = "clock.json"

    def __init__(self, budget: float, looks: float | None = None, saves: float | None = None) -> None:
        self.budget = budget
        self.every = {"evaluate": looks or budget / _LOOKS, "save": saves or budget / _SAVES}
        self.guidances: Iterable[Guidance] = ()
        self.shared_progress = torch.zeros((), dtype=torch.float64).share_memory_()  # type: ignore[no-untyped-call]
        self._before = self._elapsed = 0.0
        self._began: float | None = None
        self._done = dict.fromkeys(self.every, 0.0)

    @property
    def elapsed(self) -> float:
        """Seconds of the run when the last step ended, those before a resume included; the same in all processes."""
        return self._elapsed

    @property
    def progress(self) -> float:
        """Share of the time that is over, 1 at most."""
        return min(1.0, self.elapsed / self.budget)

    def factor(self, warmup_share: float) -> float:
        """The share of the peak learning rate now: it rises, then falls linearly to 0."""
        progress = self.progress
        if progress < warmup_share:
            return progress / warmup_share
        return (1 - progress) / (1 - warmup_share)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._began = time.monotonic()
        self._read()
        self._done = {what: self.elapsed // every for what, every in self.every.items()}
        self._move_guidance()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for what is due."""
        self._read()
        over = self.progress >= 1
        for what, every in self.every.items():
            due = self.elapsed // every
            if over or due > self._done[what]:
                self._done[what] = due
                setattr(control, f"should_{what}", True)
        if over:
            control.should_training_stop = True
        self._move_guidance()

    def _read(self) -> None:
        assert self._began is not None
        self._set(processes.of_first(self._before + time.monotonic() - self._began))

    def _set(self, elapsed: float) -> None:
        self._elapsed = elapsed
        self.shared_progress.fill_(self.progress)

    def _move_guidance(self) -> None:
        for guidance in self.guidances:
            guidance.total_steps = _PARTS
            guidance.steps_done = int(self.progress * _PARTS)

    def save(self, checkpoint: Path) -> None:
        """Keep the time with a checkpoint."""
        (checkpoint / self._FILE).write_text(json.dumps({"elapsed": self.elapsed}), encoding="utf-8")

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint's time."""
        self._before = json.loads((checkpoint / self._FILE).read_text(encoding="utf-8"))["elapsed"]
        self._set(self._before)
