"""transformers' Trainer, made to validate masked language models, time its steps and save whole checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.objectives.masked_lm import Quality
from attention_guidance.training import checkpoints


class SaveError(RuntimeError):
    """A checkpoint could not be written; the last good one is still there."""


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Measures the time spent in optimisation steps, without validation and saving.

    Attributes:
        seconds: one entry a step of this process.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._began)


class MaskedLMTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose validation is a function and whose checkpoints are whole or absent.

    Args:
        validate: gives the model's quality on the validation text.
        **kwargs: everything else, as for `Trainer`.
    """

    def __init__(self, *, validate: Callable[[nn.Module], Quality], **kwargs: Any) -> None:
        super().__init__(eval_dataset=[], **kwargs)
        self._validate = validate
        self.remove_callback(PrinterCallback)
        self.timer = StepTimer()
        # First of the callbacks, so that what the others do between steps is not on the clock.
        self.callback_handler.callbacks.insert(0, self.timer)
        self._checkpoint_folder: Path | None = None
        self._n_timed = 0

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Validate, and log loss, accuracy and the seconds trained so far under `eval_`."""
        done = [entry for entry in self.state.log_history if "eval_loss" in entry]
        if done and done[-1]["step"] == self.state.global_step:
            # A resumed run begins where it validated before.
            return dict(done[-1])
        with self.compute_loss_context_manager():
            quality = self._validate(self.model)
        before = done[-1]["eval_train_seconds"] if done else 0.0
        timed = self.timer.seconds
        metrics = {
            f"{metric_key_prefix}_loss": quality.loss,
            f"{metric_key_prefix}_accuracy": quality.accuracy,
            f"{metric_key_prefix}_train_seconds": before + sum(timed[self._n_timed :]),
        }
        self._n_timed = len(timed)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_output_dir(self, trial: Any) -> str:
        """Where Trainer puts checkpoints: aside, while one is being written."""
        return str(self._checkpoint_folder or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        target = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"

        def write(folder: Path) -> None:
            self._checkpoint_folder = folder.parent
            super(MaskedLMTrainer, self)._save_checkpoint(model, trial)

        try:
            checkpoints.write_whole(target, write)
            checkpoints.keep_newest(target.parent, self.args.save_total_limit)
        except (OSError, RuntimeError, SafetensorError) as error:
            kept = checkpoints.checkpoints(target.parent)
            left = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint has been saved yet"
            raise SaveError(f"could not save {target.name} in {target.parent}: {error}; {left}") from error
        finally:
            self._checkpoint_folder = None
