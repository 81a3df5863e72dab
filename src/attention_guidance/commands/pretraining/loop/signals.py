"""Stopping a run cleanly on Ctrl-C or SIGTERM: at the end of the step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands.pretraining.distributed import processes

# Steps between the questions of several processes whether one was asked to stop.
_ASKED_EVERY = 10


class StopRequest:
    """Remembers that a signal asked the run to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take SIGINT and SIGTERM as requests inside; a second SIGINT raises KeyboardInterrupt at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, self._request)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


class StopOnRequest(TrainerCallback):  # type: ignore[misc]
    """Ends training after the current step, with a checkpoint, once a stop is requested."""

    def __init__(self, request: StopRequest) -> None:
        self.request = request

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the Trainer to save and stop."""
        # All have to stop after the same step; they ask each other now and then, as that takes time.
        if processes.together():
            asked = state.global_step % _ASKED_EVERY == 0 and processes.agreed(self.request.signal or 0)
        else:
            asked = self.request.signal
        if asked:
            control.should_save = True
            control.should_training_stop = True
