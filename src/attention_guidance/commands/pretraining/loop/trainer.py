"""transformers' Trainer, extended to validate with the objective, time its steps and save checkpoints atomically."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINING_ARGS_NAME

from attention_guidance.adapters.inputs_outputs import share_of_batch
from attention_guidance.commands.objectives.base import Quality
from attention_guidance.commands.pretraining.distributed import processes, sharding
from attention_guidance.commands.pretraining.loop.clock import Clock
from attention_guidance.commands.pretraining.loop.failures import last_checkpoint, restoring, saving
from attention_guidance.commands.pretraining.loop.short_attention import short_attention
from attention_guidance.commands.pretraining.saving import checkpoints
from attention_guidance.commands.reading.arrays import read_array
from attention_guidance.errors import ConfigError, DivergedError, reason_of


def write_together(target: Path, write: Callable[[Path], None]) -> None:
    """Like `checkpoints.write_whole`, but every process writes its part into the same folder."""

    def in_step(folder: Path) -> None:
        processes.wait()
        write(folder)
        processes.wait()

    if processes.is_first():
        checkpoints.write_whole(target, in_step)
    else:
        in_step(checkpoints.being_written(target))
    processes.wait()


def _begin_worker(then: Callable[[int], None] | None, number: int) -> None:
    """Set up a data loader worker."""
    # A forked tokenizer has lost its threads, and would wait for them forever.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Stop signals often go to the whole process group, but the run needs its workers until the step is done.
    os.setsid()
    if then is not None:
        then(number)


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Measure the time of optimization steps, without validation and saving.

    Attributes:
        seconds: Seconds of each step of the run; steps before a resume are restored from its checkpoint.
    """

    _FILE = "step_seconds.npy"

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

    def save(self, checkpoint: Path) -> None:
        """Save the times with a checkpoint."""
        np.save(checkpoint / self._FILE, np.array(self.seconds, np.float32))

    def load(self, checkpoint: Path) -> None:
        """Restore the times from a checkpoint."""
        self.seconds = read_array(checkpoint / self._FILE, np.floating).tolist()


class PretrainingTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that validates with a function and writes checkpoints atomically.

    Args:
        validate: Evaluates the model on the validation data.
        scales_loss: Whether the model scales its loss to its share of an accumulated batch, as a guided model does.
        max_skipped_steps: Number of consecutive skipped steps at which training counts as diverged, see
            `skipped_steps`.
        clock: Drives the learning rate schedule (default: by steps).
        warmup_share: With a clock, the share of the time for warmup.
        in_shares: Shard the model and its optimizer over the processes, see `sharding`.
        **kwargs: As for `Trainer`.
    """

    control: TrainerControl
    lr_scheduler: Any

    def __init__(
        self,
        *,
        validate: Callable[[nn.Module], Quality],
        scales_loss: bool,
        max_skipped_steps: int,
        clock: Clock | None = None,
        warmup_share: float = 0.0,
        in_shares: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_dataset=[], **kwargs)
        self._validate = validate
        self._scales_loss = scales_loss
        self._clock = clock
        self._warmup_share = warmup_share
        self._in_shares = in_shares
        self._max_skipped_steps = max_skipped_steps
        self._losses: Tensor | float = 0.0
        self.remove_callback(PrinterCallback)
        self.timer = StepTimer()
        # The first callback, so that the work of the others between steps is not timed.
        self.callback_handler.callbacks.insert(0, self.timer)
        self._checkpoint_folder: Path | None = None

    def get_train_dataloader(self) -> DataLoader[Any]:
        """See `Trainer`; workers are set up by `_begin_worker`."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        # accelerate's data loader wraps one of torch.
        inner = getattr(loader, "base_dataloader", loader)
        inner.worker_init_fn = functools.partial(_begin_worker, inner.worker_init_fn)
        return loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """See `Trainer`; first shards the model if `in_shares` is set."""
        begins_in_shares = self._in_shares and self.optimizer is None
        if begins_in_shares:
            sharding.shard(self.model)
            # Apply autocast but no DistributedDataParallel; Trainer does not prepare the model a second time.
            self.accelerator.prepare_model(self.model, device_placement=False, evaluation_mode=True)
        try:
            optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        except ValueError as error:
            if (names := self.args.optim_target_modules) is None:
                raise
            raise ConfigError(f"arguments['optim_target_modules']={names}: {reason_of(error)}") from error
        if begins_in_shares:
            sharding.follow_shares(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """See `Trainer`; with a clock, the learning rate depends on time instead of steps."""
        if self._clock is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        clock, share = self._clock, self._warmup_share
        optimizer = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: clock.factor(share))
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Scale the loss to its share of the accumulated batch.

        Trainer assumes that a model whose forward method takes `**kwargs` does this. RoBERTa's does not, so its
        gradients would be too large by a factor of the accumulation steps.
        """
        with short_attention(inputs, self.args):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        share = share_of_batch(inputs | {"num_items_in_batch": num_items_in_batch})
        # Trainer itself divides the loss of other models by the accumulation steps.
        if share is not None and self.model_accepts_loss_kwargs and not self._scales_loss:
            loss = loss * share
        return (loss, outputs) if return_outputs else loss

    @property
    def skipped_steps(self) -> list[int]:
        """The steps, from 1, that were skipped since their loss or gradient was not finite.

        They are read from the log history, which is restored from a checkpoint.
        """
        return [entry["step"] + 1 for entry in self.state.log_history if "skipped_steps" in entry]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """See `Trainer`; also accumulates the loss for `_get_grad_norm`."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self._losses = self._losses + loss
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of all gradients; if it or the loss is not finite, the gradients are cleared to skip the step."""
        norm = super()._get_grad_norm(model, grad_norm)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        loss, self._losses = torch.as_tensor(self._losses), 0.0
        if processes.any_of(~(whole.isfinite() & loss.isfinite())):
            # Without a gradient, optimizers neither update nor decay a weight, nor change its state.
            model.zero_grad()
            self._note_skipped()
        return norm

    def _note_skipped(self) -> None:
        self.log({"skipped_steps": len(self.skipped_steps) + 1})
        newest, limit = self.skipped_steps[-self._max_skipped_steps :], self._max_skipped_steps
        if len(newest) == limit and newest[-1] - newest[0] == limit - 1:
            raise self._diverged(newest[-1], f"loss or gradients were not finite in {limit} steps in a row")

    def check_finite(self, loss: float = 0.0) -> None:
        """Check that training has not diverged; all processes must call this.

        Args:
            loss: The validation loss, if known.

        Raises:
            DivergedError: A weight or the loss is not finite.
        """
        if processes.any_of(~sharding.weights_finite(self.model)):
            raise self._diverged(self.state.global_step, "weights are not finite")
        if not math.isfinite(loss):
            raise self._diverged(self.state.global_step, f"the validation loss is {loss}")

    def _diverged(self, step: int, what: str) -> DivergedError:
        return DivergedError(
            f"training diverged at step {step}, learning rate {self._get_learning_rate():.3g}: {what}; try a smaller "
            "`learning_rate`, more `warmup_share` or `precision` fp32, with `overwrite` to start again; "
            f"{last_checkpoint(Path(self.args.output_dir))}"
        )

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """See `Trainer`; resets the running sum of losses to 0 even if it is not finite."""
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)
        if self._globalstep_last_logged == self.state.global_step:
            tr_loss.zero_()

    def log(self, *args: Any, **kwargs: Any) -> None:
        """See `Trainer`; a log that cannot be written, for example on a full disk, is a `SaveError`."""
        with saving("the logs of the run", Path(self.args.output_dir)):
            super().log(*args, **kwargs)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Validate, and log the loss, accuracy and training time so far, with the prefix `eval_`."""
        done = [entry for entry in self.state.log_history if "eval_loss" in entry]
        if done and done[-1]["step"] == self.state.global_step:
            # A resumed run has validated at its first step already.
            return dict(done[-1])
        quality = self._validate(self.model)
        metrics = {
            f"{metric_key_prefix}_loss": quality.loss,
            f"{metric_key_prefix}_train_seconds": sum(self.timer.seconds),
            **{f"{metric_key_prefix}_{name}": value for name, value in quality.means.items()},
        }
        if quality.accuracy is not None:
            metrics[f"{metric_key_prefix}_accuracy"] = quality.accuracy
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        """Load the weights with `from_pretrained`.

        transformers saves the weights of some models (ViT) under other names. Trainer would look for the current names,
        find none, and continue with random weights after a warning.
        """
        model = model or self.model
        assert isinstance(model, PreTrainedModel)
        with restoring(resume_from_checkpoint):
            saved = type(model).from_pretrained(resume_from_checkpoint, trust_remote_code=False)
            model.load_state_dict(saved.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with restoring(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with restoring(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with restoring(checkpoint):
            super()._load_rng_state(checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """See `Trainer`; gathers the weights of a sharded model first."""
        if not self._in_shares:
            super().save_model(output_dir, _internal_call)
            return
        weights = sharding.whole(self.model.state_dict())
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._in_shares:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # All processes gather the state; one writes it.
        state = sharding.whole(self.optimizer.state_dict())
        hook = self.optimizer.optimizer.register_state_dict_post_hook(lambda optimizer, in_shares: state)
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            hook.remove()

    def _get_output_dir(self, trial: Any) -> str:
        """The folder that Trainer writes a checkpoint to: a temporary one while it is being written."""
        return str(self._checkpoint_folder or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.check_finite()
        target = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"

        def write(folder: Path) -> None:
            self._checkpoint_folder = folder.parent
            super(PretrainingTrainer, self)._save_checkpoint(model, trial)
            if processes.is_first():
                # Nothing reads this pickle, which has paths and arguments with their secrets.
                (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
                self.timer.save(folder)
                if self._clock is not None:
                    self._clock.save(folder)

        try:
            with saving(f"{target.name} in {target.parent}", target.parent):
                write_together(target, write)
                if processes.is_first():
                    checkpoints.keep_newest(target.parent, target, self.args.save_total_limit)
        finally:
            self._checkpoint_folder = None
