"""Distributed training under torchrun or `accelerate launch`; in a single process, all functions do nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# The others wait this long while the first process reads and packs the text.
_PATIENCE = timedelta(hours=12)


def start() -> None:
    """Join the process group, if there is more than one process. Idempotent."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def end() -> None:
    """Leave the process group."""
    if together():
        dist.destroy_process_group()


def together() -> bool:
    """Whether there is more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def count() -> int:
    """The number of processes (world size)."""
    return dist.get_world_size() if together() else 1


def number() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if together() else 0


def is_first() -> bool:
    """Whether this is rank 0, the process that writes files and prints."""
    return number() == 0


def wait() -> None:
    """Wait until all processes have called this."""
    if together():
        dist.barrier()


def is_first_here() -> bool:
    """Whether this is the first process on its machine (local rank 0)."""
    return not together() or os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def first_before_others() -> Iterator[None]:
    """Run the block in rank 0 first, then in the first process of each other machine, then in the others.

    The later processes find the files that the first one on their machine wrote.
    """
    turn = 0 if is_first() else 1 if is_first_here() else 2
    for _ in range(turn):
        wait()
    yield
    for _ in range(2 - turn):
        wait()


def agreed(value: float) -> float:
    """The maximum of a value over all processes."""
    if not together():
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=_device())
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return float(shared.item())


def any_of(flag: Tensor) -> bool:
    """Whether a flag, a tensor on the training device, is set in any process; synchronizes with the device once."""
    if together():
        flag = flag.int()
        dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


def of_first(value: float) -> float:
    """The value of the first process."""
    if not together():
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=_device())
    dist.broadcast(shared, 0)
    return float(shared.item())


def _device() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
