"""`GuidanceCallback` for the Trainer: steps the schedule and logs guidance."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.errors import ConfigError
from attention_guidance.forward.joined_losses import JoinedLosses
from attention_guidance.weight import GuidanceWeight

if TYPE_CHECKING:
    from transformers import Trainer


# The keys of a relative weight in the log history: what it came to, and its ratio.
_FULL_WEIGHT, _RATIO = "guidance_full_weight", "guidance_ratio"


class Stepped(Protocol):
    """The part of `Guidance` that the callback uses."""

    model: nn.Module
    _weight: GuidanceWeight
    _losses: JoinedLosses

    def per_head(self) -> Sequence[Any]:
        """The guidance error of each guided head."""

    def rows_per_head(self) -> list[int]:
        """The number of attention rows behind each error."""


class GuidanceCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps the schedule in step with the Trainer, also after a resume, and logs guidance beside the loss.

    It logs `guidance` (mean distance of the guided heads from their patterns at the last loss, over heads with at least
    one row) and `guidance_weight` to `trainer.state.log_history` and to every reporter (TensorBoard and others). With a
    SentenceTransformerTrainer, guidance is added to its losses. A relative weight is kept in the log history too, once
    it is known, and so restored from a checkpoint.
    """

    def __init__(self, guidance: Stepped) -> None:
        self.guidance = guidance

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the length of the run and, on a resume, the steps done; move this callback before the reporters.

        Raises:
            ConfigError: the Trainer computes its own loss from the logits (label smoothing), which has no guidance; it
                trains a model other than the guided one, such as a copy; or it resumes a run whose relative weight had
                another ratio.
        """
        trained, guided = kwargs.get("model"), self.guidance.model
        if isinstance(trained, nn.Module) and not any(part is guided for part in trained.modules()):
            raise ConfigError(
                f"the guided {type(guided).__name__} is not part of the {type(trained).__name__} that this Trainer "
                "trains (model_init makes a new model, and a copy has its own guidance): pass "
                "callbacks=[guidance.callback()] with the guidance from guide() or get_guidance() for that model"
            )
        if args.label_smoothing_factor:
            raise ConfigError(
                f"label_smoothing_factor={args.label_smoothing_factor} makes the Trainer compute the loss from the "
                "logits, without guidance; set it to 0"
            )
        part = _name_in(trained, guided)
        self._full_weight, self._ratio = _FULL_WEIGHT + part, _RATIO + part
        kept: dict[str, Any] = next((entry for entry in reversed(state.log_history) if self._full_weight in entry), {})
        self.guidance._weight.total_steps = state.max_steps
        self.guidance._weight.resume(state.global_step, kept.get(self._full_weight), kept.get(self._ratio))
        trainer = _calling_trainer()
        if trainer is not None:
            _put_first(self, trainer.callback_handler.callbacks)
            losses = getattr(trainer, "loss", None)
            losses = losses.values() if isinstance(losses, dict) else [losses]
            self.guidance._losses.join_losses_of(loss for loss in losses if isinstance(loss, nn.Module))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the schedule, and keep a relative weight that the step has set."""
        weight = self.guidance._weight
        weight.steps_done = state.global_step
        relative = weight.end_step(next(self.guidance.model.parameters()).device)
        if relative is not None:
            kept = {self._full_weight: weight.full, self._ratio: relative.ratio}
            state.log_history.append({"step": state.global_step, **kept})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add guidance to the training logs, not to the evaluation logs."""
        if logs is not None and "loss" in logs:
            rows = self.guidance.rows_per_head()
            errors = [head.error for head, n_rows in zip(self.guidance.per_head(), rows, strict=True) if n_rows]
            added = {"guidance_weight": self.guidance._weight.current}
            if errors:
                added["guidance"] = sum(errors) / len(errors)
            logs.update(added)
            # The Trainer has already appended a copy to the history.
            state.log_history[-1].update(added)


def _name_in(trained: object, guided: nn.Module) -> str:
    """The name of the guided model in the trained one, as two parts of it may be guided."""
    named = trained.named_modules() if isinstance(trained, nn.Module) else ()
    return next((f":{name}" for name, part in named if part is guided and name), "")


def _calling_trainer() -> Trainer | None:
    """The Trainer that calls this callback, from the call stack: no callback argument refers to it."""
    from transformers import Trainer

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer):
            return caller
        frame = frame.f_back
    return None


def _put_first(callback: TrainerCallback, callbacks: list[TrainerCallback]) -> None:
    """Move a callback to the front in place; a loop over the list that has reached it still visits each other once."""
    for place, other in enumerate(callbacks):
        if other is callback:
            callbacks.insert(0, callbacks.pop(place))
            return
