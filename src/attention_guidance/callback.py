"""The bridge between a guided model and transformers' Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from attention_guidance.attach import Guidance


class GuidanceCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps the schedule at the Trainer's step, also after a resume, and logs the guidance beside the loss.

    Logged: `guidance` (mean distance of the guided heads from their patterns in the last batch) and `guidance_weight`.
    """

    def __init__(self, guidance: Guidance) -> None:
        self.guidance = guidance

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the length of the run and, on a resume, the steps already made."""
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
            logs["guidance"] = sum(errors) / len(errors)
            logs["guidance_weight"] = self.guidance.current_weight
