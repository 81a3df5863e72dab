"""Train for a given time instead of a number of steps: all schedules follow the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.setting import NOT_NEGATIVE

if TYPE_CHECKING:
    from attention_guidance.handle import Guidance

# The number of steps that guidance is given: the resolution of its progress.
_PARTS = 1_000_000
_LOOKS, _SAVES = 30, 10


class _Saved(TypedDict):
    """The content of `clock.json`."""

    elapsed: Annotated[float, NOT_NEGATIVE]


class Clock(TrainerCallback):  # type: ignore[misc]
    """Stop training when its time is over; trigger validation and saving, and advance guidance, by the clock.

    Must be the last callback of the run. The time includes neither data preparation nor the work after the last step.

    Args:
        budget: Seconds of training, validation and saving.
        looks: Seconds between validations (default: a thirtieth of the budget).
        saves: Seconds between checkpoints (default: a tenth of the budget).

    Attributes:
        guidances: The guidance whose schedules follow the clock.
        shared_progress: `progress` as a scalar in shared memory, since data loader workers have a copy of everything
            else from when they started.
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
        """Seconds of the run at the end of the last step, including those before a resume; equal in all processes."""
        return self._elapsed

    @property
    def progress(self) -> float:
        """Share of the time that has passed, at most 1."""
        return min(1.0, self.elapsed / self.budget)

    def factor(self, warmup_share: float) -> float:
        """The current learning rate as a share of its peak: linear warmup, then linear decay to 0."""
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
        """Request validation, saving and stopping when they are due."""
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
        """Save the elapsed time with a checkpoint."""
        (checkpoint / self._FILE).write_text(json.dumps({"elapsed": self.elapsed}), encoding="utf-8")

    def load(self, checkpoint: Path) -> None:
        """Restore the elapsed time from a checkpoint."""
        self._before = read_json(checkpoint / self._FILE, _Saved)["elapsed"]
        self._set(self._before)
