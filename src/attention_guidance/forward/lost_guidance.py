"""Warnings about guidance that never reaches training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attention_guidance.assignment import GuidedHead
from attention_guidance.errors import GuidanceWarning
from attention_guidance.forward.forward_pass import ForwardPass
from attention_guidance.forward.passes import Passes
from attention_guidance.patterns.targets import sums_dtype
from attention_guidance.weight import GuidanceWeight

# Parameters that change this often are being trained, not loaded or initialised.
_UPDATES = 3
# After this many passes, each pattern should have had a target. Until then, counts stay on their device.
_PASSES = 10


class LostGuidance:
    """Warns once of each way in which guidance is lost.

    Args:
        model: the model that is trained.
        heads: the guided heads.
        passes: the forward passes of the guided model.
        weight: the guidance weight.
    """

    def __init__(self, model: nn.Module, heads: Sequence[GuidedHead], passes: Passes, weight: GuidanceWeight) -> None:
        self._model = model
        self._heads = heads
        self._passes, self._weight = passes, weight
        self._said: set[str] = set()
        self._total: float | None = None
        self._updates = 0
        self._backward = False
        self._n_passes = 0
        self._n_untrainable = 0
        self._rows: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts anew and warns by itself."""
        counts = {"_updates": 0, "_n_passes": 0, "_n_untrainable": 0}
        return self.__dict__ | counts | {"_said": set(), "_total": None, "_rows": None, "_backward": False}

    def check(self) -> None:
        """Check for lost guidance before a pass."""
        if torch.compiler.is_compiling():
            return
        if self._passes.untrained():
            self._warn(
                "the guidance of a forward pass was in no loss: backward() ran through the model without it. Train on "
                "model(**batch).loss, or add guidance.loss() to your own loss (compute_loss_func, compute_loss); "
                "with sentence-transformers, pass callbacks=[guidance.callback()] to its Trainer"
            )
        schedule = self._weight.schedule
        if schedule.shape != "constant" and not self._weight.steps_done:
            self._warn_if_updated(
                f"the schedule {schedule.shape!r} was never stepped, so the guidance weight does not change: call "
                "guidance.step() after optimizer.step(), or pass callbacks=[guidance.callback()] to Trainer; "
                "a copy of a guided model has its own guidance, get_guidance(model)"
            )
        if not self._weight.known:
            self._warn_if_updated(
                "the weight is relative to the loss of the first step, which never ended, so nothing is guided: call "
                "guidance.step() after optimizer.step(), or pass callbacks=[guidance.callback()] to Trainer"
            )

    def watch_evaluation(self, output: Any) -> None:
        """Watch a finished pass in evaluation mode that may be trained, if there was no training pass so far.

        Args:
            output: the model's output.
        """
        guides = torch.is_grad_enabled() and self._weight.current > 0
        if self._passes.last is not None or not guides or torch.compiler.is_compiling():
            return
        if self._backward:
            self._warn_if_updated(
                f"{type(self._model).__name__} is trained in evaluation mode, in which guidance is in no loss: call "
                "model.train() (from_pretrained returns models in evaluation mode)"
            )
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(self._see_backward)  # type: ignore[no-untyped-call]
                return

    def _see_backward(self, gradient: Tensor) -> None:
        """A tensor's hook."""
        self._backward = True

    def count(self, ended: ForwardPass) -> None:
        """Count a finished pass, if it trains. A loss may include it, several such passes, or none."""
        if not ended.trains or torch.compiler.is_compiling():
            return
        if self._n_passes < _PASSES:
            self._count_rows(ended.sums_and_counts()[1])
        if ended.with_gradient and ended.learns is not None:
            self._n_untrainable = 0 if ended.learns else self._n_untrainable + 1
            if self._n_untrainable >= _PASSES:
                self.check_trainable([ended])

    def check_trainable(self, passes: Iterable[ForwardPass]) -> None:
        """Warn if none of the passes of a loss can train guided heads."""
        if torch.compiler.is_compiling():
            return
        learn = [one.learns for one in passes if one.trains and one.with_gradient and one.learns is not None]
        if learn and not any(learn):
            self._warn(
                "guidance trains nothing: the queries and keys of all guided layers are frozen (requires_grad=False)"
            )

    def _count_rows(self, counts: Tensor) -> None:
        self._n_passes += 1
        self._rows = counts if self._rows is None else self._rows + counts
        if self._n_passes < _PASSES:
            return
        rows: list[int] = self._rows.tolist()
        names = sorted({head.pattern.name for head, n in zip(self._heads, rows, strict=True) if not n})
        if names:
            self._warn(
                f"no query of the first {_PASSES} training passes had a target of {', '.join(names)} in some guided "
                "layers, so these heads are not guided: no text contains tokens of the class, or the model's own mask "
                "hides the targets (rows_per_head() shows which heads)"
            )

    def _updated(self) -> int:
        """How often a parameter's sum was seen to change. Fused optimizers do not increment its version counter."""
        trained = next((parameter for parameter in self._model.parameters() if parameter.requires_grad), None)
        if trained is not None:
            # Of a sharded parameter (FSDP2), this rank's shard is enough.
            own = getattr(trained, "_local_tensor", trained).detach()
            total = float(own.sum(dtype=sums_dtype(own.device)))
            self._updates += self._total not in (None, total)
            self._total = total
        return self._updates

    def _warn_if_updated(self, message: str) -> None:
        # Sum parameters only until the warning was given.
        if message not in self._said and self._updated() >= _UPDATES:
            self._warn(message)

    def _warn(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, GuidanceWarning, stacklevel=2)


def _tensors(output: Any) -> list[Tensor]:
    """The tensors at the top level of a model's output."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return [one for one in (output if isinstance(output, tuple | list) else (output,)) if isinstance(one, Tensor)]
