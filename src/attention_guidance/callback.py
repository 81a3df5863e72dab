"""The bridge between a guided model and transformers' Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from attention_guidance.handle import Guidance


class GuidanceCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps the schedule at the Trainer's step, also after a resume, and logs the guidance beside the loss.

    Logged: `guidance` (mean distance of the guided heads from their patterns in the last batch) and `guidance_weight`,
    in `trainer.state.log_history`. Trainer calls its reporters (TensorBoard and others) before the callbacks it is
    given; to have them report the guidance too, put this one before them:
    ``trainer.callback_handler.callbacks.insert(0, guidance.callback())``.
    """

    def __init__(self, guidance: Guidance) -> None:
        self.guidance = guidance

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the length of the run and, on a resume, the steps already made.

        Raises:
            ConfigError: Trainer computes the loss from the logits (label smoothing), beside the model's and so without
                guidance.
        """
        if args.label_smoothing_factor:
            raise ConfigError(
                f"label_smoothing_factor={args.label_smoothing_factor} has Trainer compute the loss from the logits, "
                "without guidance; set it to 0"
            )
        self.guidance.total_steps = state.max_steps
        self.guidance.steps_done = state.global_step

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
            errors = [head.error for head in self.guidance.per_head()]
            added = {"guidance": sum(errors) / len(errors), "guidance_weight": self.guidance.current_weight}
            logs.update(added)
            # Trainer has put a copy into the history before it calls anyone.
            state.log_history[-1].update(added)
