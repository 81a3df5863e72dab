"""The exception for a run that a signal stopped."""

from __future__ import annotations

import signal


class Stopped(Exception):
    """A signal stopped the run; its checkpoint was saved, so that it can be resumed.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, step: int, number: int) -> None:
        self.signal = number
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after step {step}, checkpoint saved; run the same command with `resume` to continue"
        )
