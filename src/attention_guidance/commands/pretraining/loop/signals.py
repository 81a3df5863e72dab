"""Stop a run cleanly on Ctrl-C, SIGTERM or SIGHUP: after the current step, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.pretraining.stopped import handling

# With several processes: steps between their exchanges of stop requests.
_EXCHANGED_EVERY = 10


class StopRequest:
    """Record the signal that requests the run to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Inside, record the signals as requests; a second SIGINT raises KeyboardInterrupt at once."""
        with handling(self._request, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield self

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
