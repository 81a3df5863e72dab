"""Running out of memory: recognize it among the errors of libraries, and say which batch size may fit."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from attention_guidance.errors import FailedRunError

_P = ParamSpec("_P")
_R = TypeVar("_R")
# torch raises RuntimeError for other devices than CUDA. "DefaultCPUAllocator" is of CPUs, the middle one of MPS.
_MESSAGE = re.compile(r"DefaultCPUAllocator|out of memory|CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemoryError(FailedRunError):
    """A command ran out of memory; the message names a batch size that may fit."""


def ran_out(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        # torch.OutOfMemoryError too, which is a RuntimeError.
        if isinstance(seen, MemoryError) or (isinstance(seen, RuntimeError) and _MESSAGE.search(str(seen))):
            return True
        seen = seen.__cause__
    return False


def names_batch_size(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a command: if memory runs out, its error names the batch size in use and one that may fit.

    The batch size is that of the argument `batch_size`, or of the first argument with an attribute of that name.
    """

    @functools.wraps(command)
    def with_batch_size(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except OutOfMemoryError:
            raise
        except Exception as error:
            if not ran_out(error):
                raise
            given = inspect.signature(command).bind(*args, **kwargs)
            given.apply_defaults()
            raise OutOfMemoryError(advice(*_batch_size(given.arguments))) from error

    return with_batch_size


def _batch_size(arguments: dict[str, Any]) -> tuple[int | None, int | None]:
    """The batch size among the arguments of a command, and the passes that it is divided into."""

    def found() -> Iterator[tuple[int, int | None]]:
        if "batch_size" in arguments:
            yield arguments["batch_size"], None
        for value in arguments.values():
            if (size := getattr(value, "batch_size", None)) is not None:
                yield size, getattr(value, "accumulation", None)

    return next(found(), (None, None))


def advice(batch_size: int | None = None, accumulation: int | None = None) -> str:
    """The error message for a batch size, and the passes that it is divided into; None if there is no such setting."""
    if batch_size is None:
        return "out of memory; try a smaller batch, a shorter text or a smaller model"
    used, half = f"out of memory with `batch_size` {batch_size}", batch_size // 2
    if accumulation is None:
        return f"{used}; try {f'`batch_size` {half}' if half else 'shorter texts'} or a smaller model"
    used += f" and `accumulation` {accumulation}"
    if batch_size % (2 * accumulation):
        return f"{used}; try {f'`batch_size` {half}, ' if half else ''}a smaller `block_size` or a smaller model"
    return (
        f"{used}; try `accumulation` {2 * accumulation}, which keeps the batch of a step and may change on `resume`, "
        f"or `batch_size` {half} in a new run"
    )
