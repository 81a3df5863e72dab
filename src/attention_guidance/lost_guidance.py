"""Warnings about guidance that never reaches training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from attention_guidance.assignment import GuidedHead
from attention_guidance.errors import GuidanceWarning
from attention_guidance.forward.forward_pass import ForwardPass
from attention_guidance.schedules import Schedule

# Parameters that are changed this often are being trained, and not loaded or initialised.
_UPDATES = 3
# After so many passes a pattern should have had a target; the rows are counted where they are until then.
_PASSES = 10


class LostGuidance:
    """Warns once of each way in which guidance is lost.

    Args:
        model: that is trained.
        heads: the guided heads.
    """

    def __init__(self, model: nn.Module, heads: Sequence[GuidedHead]) -> None:
        self._model = model
        self._heads = heads
        self._said: set[str] = set()
        self._total: float | None = None
        self._updates = 0
        self._backward = False
        self._n_passes = 0
        self._n_untrainable = 0
        self._rows: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has to be told itself."""
        counts = {"_updates": 0, "_n_passes": 0, "_n_untrainable": 0}
        return self.__dict__ | counts | {"_said": set(), "_total": None, "_rows": None, "_backward": False}

    def check(self, n_untrained: int, schedule: Schedule, steps_done: int) -> None:
        """Before a pass.

        Args:
            n_untrained: training passes through which a backward pass went without their guidance.
            schedule: of the weight.
            steps_done: optimisation steps that it has been told of.
        """
        if n_untrained:
            self._warn(
                "the guidance of a forward pass was in no loss: backward() went through the model without it. Train on "
                "model(**batch).loss, or add guidance.loss() to a loss of your own (compute_loss_func, compute_loss); "
                "with sentence-transformers give its Trainer callbacks=[guidance.callback()]"
            )
        if schedule.shape != "constant" and not steps_done:
            self._warn_if_updated(
                f"the schedule {schedule.shape!r} has not been told of any step, so the weight of guidance stays where "
                "it is: call guidance.step() after optimizer.step(), or give Trainer callbacks=[guidance.callback()]; "
                "a copy of a guided model has a guidance of its own, get_guidance(model)"
            )

    def watch_evaluation(self, output: Any) -> None:
        """Of a pass in evaluation mode with gradients on that has ended, where no training pass was ever made.

        Args:
            output: of the model.
        """
        if self._backward:
            self._warn_if_updated(
                f"{type(self._model).__name__} is trained in evaluation mode, in which guidance is in no loss: call "
                "model.train() (from_pretrained gives models in evaluation mode)"
            )
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(self._see_backward)  # type: ignore[no-untyped-call]
                return

    def _see_backward(self, gradient: Tensor) -> None:
        """A tensor's hook."""
        self._backward = True

    def count(self, ended: ForwardPass) -> None:
        """Of a training pass that has ended, which may be of no loss, or one of several of a loss."""
        if self._n_passes < _PASSES:
            self._count_rows(ended.sums_and_counts()[1])
        if ended.with_gradient and ended.learns is not None:
            self._n_untrainable = 0 if ended.learns else self._n_untrainable + 1
            if self._n_untrainable >= _PASSES:
                self.check_trainable([ended])

    def check_trainable(self, passes: Iterable[ForwardPass]) -> None:
        """Of the passes that a loss holds."""
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
                "layers, so heads there are not guided: the tokens of a class are in no text, or the model's own mask "
                "hides the targets (rows_per_head() tells where)"
            )

    def _updated(self) -> int:
        """How often a parameter was seen changed, by its sum: fused optimizers leave its version as it was."""
        trained = next((parameter for parameter in self._model.parameters() if parameter.requires_grad), None)
        if trained is not None:
            # A parameter in shares (FSDP2) is asked for its own.
            total = float(getattr(trained, "_local_tensor", trained).detach().double().sum())
            self._updates += self._total not in (None, total)
            self._total = total
        return self._updates

    def _warn_if_updated(self, message: str) -> None:
        # Parameters are summed for as long as there is something to say.
        if message not in self._said and self._updated() >= _UPDATES:
            self._warn(message)

    def _warn(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, GuidanceWarning, stacklevel=2)


def _tensors(output: Any) -> list[Tensor]:
    """The tensors that a model gives out, but for those deeper within."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return [one for one in (output if isinstance(output, tuple | list) else (output,)) if isinstance(one, Tensor)]
