"""The bridge between a guided model and transformers' Trainer."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from transformers import Trainer


class Stepped(Protocol):
    """What the callback asks of a `Guidance`."""

    model: nn.Module
    total_steps: int | None
    steps_done: int

    @property
    def current_weight(self) -> float:
        """The weight at the current step."""

    def per_head(self) -> Sequence[Any]:
        """The error of each guided head."""

    def rows_per_head(self) -> list[int]:
        """How many rows counted for each."""

    def _join_losses_of(self, modules: Iterable[nn.Module]) -> None: ...


class GuidanceCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps the schedule at the Trainer's step, also after a resume, and logs the guidance beside the loss.

    Logged: `guidance` (mean distance of the guided heads from their patterns in the last loss, over those that had any
    row) and `guidance_weight`, in `trainer.state.log_history` and by every reporter (TensorBoard and others). Under a
    SentenceTransformerTrainer guidance joins its losses.
    """

    def __init__(self, guidance: Stepped) -> None:
        self.guidance = guidance

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the length of the run and, on a resume, the steps already made; go before the reporters.

        Raises:
            ConfigError: Trainer computes the loss from the logits (label smoothing), beside the model's and so without
                guidance; or it trains another model than the guided one, as a copy of it.
        """
        trained, guided = kwargs.get("model"), self.guidance.model
        if isinstance(trained, nn.Module) and not any(part is guided for part in trained.modules()):
            raise ConfigError(
                f"the guided {type(guided).__name__} is no part of the {type(trained).__name__} that this Trainer "
                "trains (model_init makes a new one, a copy has a guidance of its own): give Trainer "
                "callbacks=[guidance.callback()] of the guidance that guide() or get_guidance() gives for its model"
            )
        if args.label_smoothing_factor:
            raise ConfigError(
                f"label_smoothing_factor={args.label_smoothing_factor} has Trainer compute the loss from the logits, "
                "without guidance; set it to 0"
            )
        self.guidance.total_steps = state.max_steps
        self.guidance.steps_done = state.global_step
        trainer = _calling_trainer()
        if trainer is not None:
            _put_first(self, trainer.callback_handler.callbacks)
            losses = getattr(trainer, "loss", None)
            losses = losses.values() if isinstance(losses, dict) else [losses]
            self.guidance._join_losses_of(loss for loss in losses if isinstance(loss, nn.Module))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the schedule on."""
        self.guidance.steps_done = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add guidance to the training logs (evaluation logs have none)."""
        if logs is not None and "loss" in logs:
            rows = self.guidance.rows_per_head()
            errors = [head.error for head, n_rows in zip(self.guidance.per_head(), rows, strict=True) if n_rows]
            added = {"guidance_weight": self.guidance.current_weight}
            if errors:
                added["guidance"] = sum(errors) / len(errors)
            logs.update(added)
            # Trainer has put a copy into the history before it calls anyone.
            state.log_history[-1].update(added)


def _calling_trainer() -> Trainer | None:
    """The Trainer by which this callback is being called: of all that a callback is given, nothing leads to it."""
    from transformers import Trainer

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer):
            return caller
        frame = frame.f_back
    return None


def _put_first(callback: TrainerCallback, callbacks: list[TrainerCallback]) -> None:
    """Move a callback to the front of a list that may be being gone through: all others are still met once."""
    for place, other in enumerate(callbacks):
        if other is callback:
            callbacks.insert(0, callbacks.pop(place))
            return
