"""The objective's loss in the first training step, for `RelativeWeight`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed


class FirstLoss:
    """The mean loss of the objective over the micro-batches of a step and over all processes."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    @property
    def seen(self) -> bool:
        """Whether there was a loss in this step so far."""
        return self._sums is not None

    def add(self, loss: Tensor, share: Tensor | None) -> None:
        """Add the loss of a micro-batch.

        Args:
            loss: the objective's loss; the mean of several numbers, where it has them.
            share: the micro-batch's share of the step, if the loss is that share of the step's loss. If None, all
                micro-batches count the same.
        """
        loss = loss.detach().mean()
        weight = torch.ones_like(loss) if share is None else share.to(loss)
        sums = torch.stack([loss, weight]).to(torch.promote_types(loss.dtype, torch.float32))
        self._sums = sums if self._sums is None else self._sums + sums

    def size(self, device: torch.device) -> float | None:
        """The size of the step's mean loss; the next loss starts anew. All processes must call this.

        Args:
            device: a device on which processes can communicate.

        Returns:
            The absolute value, or None if there was no loss, or it was 0 or not finite.
        """
        sums = torch.zeros(2, device=device) if self._sums is None else self._sums.to(device)
        self._sums = None
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(sums)
        loss, weight = sums.tolist()
        size = abs(loss / weight) if weight else 0.0
        return size if 0 < size < math.inf else None
