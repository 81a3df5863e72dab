"""Signals that stop a command: Ctrl-C, SIGTERM, and SIGHUP of a closed terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP, raised where the command is, like Ctrl-C, so that it removes its unfinished files.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """Inside, handle signals; SIGHUP stays ignored if it is, as under `nohup`. No effect outside the main thread."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
        if before.get(signal.SIGHUP) is signal.SIG_IGN:
            del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Interrupted`, the first of them only: it leaves time to clean up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for other in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(number)

    with handling(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield
