"""Standard output and standard error that are lost while a command runs: a closed terminal, a reader that exited."""

from __future__ import annotations

import contextlib
import os
from typing import IO, Any


def discard(stream: IO[Any] | None) -> None:
    """Discard all further output of a stream, so that neither later writes nor Python's flush at exit fail.

    Args:
        stream: The stream; None (closed before Python started) has nothing to discard.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not a file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]
