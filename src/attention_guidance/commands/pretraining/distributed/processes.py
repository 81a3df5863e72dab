"""Several processes that train one model together, started by torchrun or `accelerate launch`; alone, all is idle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# The first process reads and packs the text while the others wait.
_PATIENCE = timedelta(hours=12)


def start() -> None:
    """Join the other processes, if this one was started as one of several. Idempotent."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def end() -> None:
    """Part from the others."""
    if together():
        dist.destroy_process_group()


def together() -> bool:
    """Whether there are several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def count() -> int:
    """How many there are."""
    return dist.get_world_size() if together() else 1


def number() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if together() else 0


def is_first() -> bool:
    """Whether this is the one that writes and talks."""
    return number() == 0


def wait() -> None:
    """Wait until all have come here."""
    if together():
        dist.barrier()


def is_first_here() -> bool:
    """Whether this is the first on its machine, as torchrun numbers them."""
    return not together() or os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def first_before_others() -> Iterator[None]:
    """What is done inside is done by the first process, then by the first of each other machine, then by the rest.

    So that what a process leaves on the disk of its machine is there for the others.
    """
    turn = 0 if is_first() else 1 if is_first_here() else 2
    for _ in range(turn):
        wait()
    yield
    for _ in range(2 - turn):
        wait()


def agreed(value: float) -> float:
    """The largest of what the processes say."""
    if not together():
        return value
    said = torch.tensor([value], dtype=torch.float64, device=_device())
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return float(said.item())


def any_of(flag: Tensor) -> bool:
    """Whether a flag, on the device that is trained on, is set in one process or more; waits for the device once."""
    if together():
        flag = flag.int()
        dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


def of_first(value: float) -> float:
    """What the first process says."""
    if not together():
        return value
    said = torch.tensor([value], dtype=torch.float64, device=_device())
    dist.broadcast(said, 0)
    return float(said.item())


def _device() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
