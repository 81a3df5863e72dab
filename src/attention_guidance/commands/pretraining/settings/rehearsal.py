"""Train a tiny model for one step, to detect invalid Trainer arguments before anything is written."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    RobertaConfig,
    RobertaForMaskedLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from attention_guidance.commands.objectives.base import Example, Quality
from attention_guidance.commands.pretraining.loop.clock import Clock
from attention_guidance.commands.pretraining.loop.failures import LostWorkerError, losing_workers
from attention_guidance.commands.pretraining.loop.trainer import PretrainingTrainer
from attention_guidance.commands.pretraining.settings.run_config import RunConfig, seconds_of
from attention_guidance.errors import ConfigError, GuidanceError, reason_of

_IDS, _LENGTH = 8, 8


def rehearse(config: RunConfig, arguments: TrainingArguments) -> None:
    """Train a tiny model for one step with the optimizer, schedule and workers of a run that sets Trainer arguments.

    Args:
        config: Settings of the run.
        arguments: The TrainingArguments of the run.

    Raises:
        ConfigError: The step fails; the message has the given arguments and the error.
        LostWorkerError: A process that loads data died, which is no fault of the arguments.
    """
    if not config.arguments:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with losing_workers(Path(arguments.output_dir)):
                _step(config, arguments, folder)
        except (GuidanceError, LostWorkerError):
            raise
        except Exception as error:  # optimizers, schedules and loaders may raise any error
            given = " ".join(f"arguments['{name}']={value}" for name, value in config.arguments.items())
            raise ConfigError(f"{given}: {reason_of(error)}") from error


def _step(config: RunConfig, arguments: TrainingArguments, folder: str) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = RobertaForMaskedLM(RobertaConfig(vocab_size=_IDS, max_position_embeddings=_LENGTH + 2, **sizes))
    own = copy.copy(arguments)
    own.output_dir, own.report_to = folder, []
    # Compiling takes a minute.
    own.torch_compile = False
    if own.optim_target_modules is not None:
        # The names refer to the model of the run.
        own.optim_target_modules = "all-linear"
    trainer = PretrainingTrainer(
        model=model,
        args=own,
        train_dataset=_Repeated(config.total_steps * config.batch_size),
        data_collator=_collate,
        validate=lambda model: Quality(1.0, 0.5, 1),
        scales_loss=False,
        max_skipped_steps=config.max_skipped_steps,
        clock=None if config.max_time is None else Clock(seconds_of(config.max_time)),
        warmup_share=config.warmup_share,
        in_shares=config.shard,
        callbacks=[_OneStep()],
    )
    trainer.train()
    trainer.check_finite()


class _Repeated(Dataset[Example]):
    """The same example, as often as a run has examples."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Example:
        return {"input_ids": torch.arange(_LENGTH) % _IDS, "labels": torch.arange(_LENGTH) % _IDS}


def _collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


class _OneStep(TrainerCallback):  # type: ignore[misc]
    """Validate and stop after the first step, without saving."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See TrainerCallback."""
        control.should_evaluate = control.should_training_stop = True
        control.should_save = False
