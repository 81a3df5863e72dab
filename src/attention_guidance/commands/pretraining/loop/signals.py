"""Stop a run cleanly on Ctrl-C or SIGTERM: after the current step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands.pretraining.distributed import processes

# With several processes: steps between their exchanges of stop requests.
_EXCHANGED_EVERY = 10


class StopRequest:
    """Record the signal that requests the run to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Inside, record SIGINT and SIGTERM as requests; a second SIGINT raises KeyboardInterrupt at once."""
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
    """Stop training after the current step, with a checkpoint, once a stop is requested."""

    def __init__(self, request: StopRequest) -> None:
        self.request = request

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Make the Trainer save and stop."""
        # All processes must stop after the same step. They exchange requests only every few steps, since it takes time.
        if processes.together():
            requested = state.global_step % _EXCHANGED_EVERY == 0 and processes.agreed(self.request.signal or 0)
        else:
            requested = self.request.signal
        if requested:
            control.should_save = True
            control.should_training_stop = True
