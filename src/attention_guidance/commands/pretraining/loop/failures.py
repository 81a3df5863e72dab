"""Errors of libraries while a model trains, converted to ones that name the last good checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.saving import checkpoints
from attention_guidance.errors import FailedRunError, RunError, SaveError, reason_of


@contextmanager
def saving(what: str, folder: Path) -> Iterator[None]:
    """Convert errors of writing, for example on a full disk, to one that names the last good checkpoint.

    Args:
        what: The object being saved, for the message.
        folder: The folder of checkpoints.

    Raises:
        SaveError: Saving failed.
    """
    try:
        with results.writing(folder):
            yield
    except SaveError as error:
        raise SaveError(f"could not save {what}: {error.__cause__}; {last_checkpoint(folder)}") from error.__cause__


class LostWorkerError(FailedRunError):
    """A process that loads data died."""


@contextmanager
def losing_workers(folder: Path) -> Iterator[None]:
    """Convert torch's error for a data loader worker that died to one that names the last good checkpoint.

    Args:
        folder: The folder of checkpoints.

    Raises:
        LostWorkerError: A worker died.
    """
    try:
        yield
    except RuntimeError as error:
        # The error comes from a signal handler, and so may be the cause of any other.
        causes = (error, error.__cause__)
        lost = next(
            (reason_of(c) for c in causes if isinstance(c, RuntimeError) and "DataLoader worker" in str(c)), None
        )
        if lost is None:
            raise
        raise LostWorkerError(
            f"a process that loads data died ({lost}); {last_checkpoint(folder)}; run the same command with `resume`, "
            "with fewer `dataloader_num_workers` if memory was short"
        ) from error


def last_checkpoint(folder: Path) -> str:
    """Name the last good checkpoint, for error messages."""
    kept = checkpoints.checkpoints(folder)
    return f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint has been saved yet"


@contextmanager
def restoring(checkpoint: str | None) -> Iterator[None]:
    """Turn every error of reading a checkpoint into one.

    Raises:
        RunError: The checkpoint has pickled objects other than tensors and numbers, or lacks something.
    """
    try:
        yield
    except Exception as error:  # torch, safetensors and pickle raise many types
        raise RunError(
            f"{checkpoint}: cannot be loaded ({reason_of(error)}); delete it to continue from the one before"
        ) from error
