"""One pre-training run: train, then save the model and the results."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, set_seed

from attention_guidance.adapters.modules import normalizes_its_loss
from attention_guidance.commands import results
from attention_guidance.commands.objectives.base import Draws, Example, Quality, validate, validation_batches
from attention_guidance.commands.pretraining.distributed import processes, sharding
from attention_guidance.commands.pretraining.loop.clock import Clock
from attention_guidance.commands.pretraining.loop.failures import losing_workers, saving
from attention_guidance.commands.pretraining.loop.shortfalls import KeepsErrors, shortfalls
from attention_guidance.commands.pretraining.loop.trainer import PretrainingTrainer
from attention_guidance.commands.pretraining.model import guide_as_configured, model_facts, new_model, told_by
from attention_guidance.commands.pretraining.preparation.objective import objective_of
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData
from attention_guidance.commands.pretraining.saving import checkpoints
from attention_guidance.commands.pretraining.saving.folder import NotesFirstStep, RunFolder
from attention_guidance.commands.pretraining.saving.model_card import model_card
from attention_guidance.commands.pretraining.saving.reloaded import check_reloaded
from attention_guidance.commands.pretraining.settings.arguments import training_arguments
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.secrets import all_masked
from attention_guidance.errors import ConfigError, GuidanceError, reason_of


class Run:
    """A run that is ready to train; its settings and tokenizer are written to its folder.

    Args:
        config: Settings of the run; empty `heads` trains without guidance.
        data: Training and validation data.
        folder: Folder of the run.
        callbacks: Additional callbacks for the Trainer.
        clock: Clock of a run with a time limit.

    Attributes:
        model: The model being trained.
        guidance: Handles on the guided heads, by part of the model; empty without guidance.
        trainer: The Trainer.
    """

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        folder: RunFolder,
        callbacks: Sequence[TrainerCallback] = (),
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.data = data
        self.folder = folder
        set_seed(config.seed)
        objective = self.objective = objective_of(config, data.tokenizer)
        known = {} if data.tokenizer is None else told_by(data.tokenizer)
        self.model = new_model(config, objective, known, data.inherited)
        self.guidance = guide_as_configured(self.model, objective, config, data.tokenizer) if config.heads else {}
        self.arguments = training_arguments(config, folder)
        self._try_one_example()
        if processes.is_first():
            # Settings must be on disk before Trainer creates the folder of checkpoints.
            folder.begin(config, data.processor, data)
        n_draws = config.total_steps * config.batch_size
        progress = None if clock is None else clock.shared_progress
        self.trainer = PretrainingTrainer(
            model=self.model,
            args=self.arguments,
            train_dataset=Draws(data.train, objective, n_draws, config.seed, progress),
            data_collator=objective.collate,
            processing_class=data.processor,
            validate=lambda model: self.validate(),
            scales_loss=bool(self.guidance) or normalizes_its_loss(self.model),
            callbacks=[NotesFirstStep(folder), *callbacks, *filter(None, [clock])],
            max_skipped_steps=config.max_skipped_steps,
            clock=clock,
            warmup_share=config.warmup_share,
            in_shares=config.shard,
        )
        for guidance in self.guidance.values():
            # Before the reporting callbacks, so that they report the guidance too.
            self.trainer.callback_handler.callbacks.insert(0, guidance.callback())
        if self.guidance:
            self.trainer.add_callback(KeepsErrors(self.guidance))
        self.clock = clock
        if clock is not None:
            clock.guidances = self.guidance.values()
        self.resumed_from: int | None = None

    def _try_one_example(self) -> None:
        """Run the model on one example, to find incompatible settings before anything is written.

        Raises:
            ConfigError: The model fails, or the objective does not make the same example again.
        """
        self.model.to(self.arguments.device)
        try:
            example, again = (next(validation_batches(self.data.train, self.objective, 1)) for _ in range(2))
            if not all(torch.equal(example[name], again[name]) for name in example):
                raise ConfigError(
                    f"objective={self.config.objective!r} is not deterministic: two calls on the same text differ; "
                    "use only the random generator that it is given"
                )
            self._scored(iter([example]))
        except GuidanceError:
            raise
        except Exception as error:  # models may raise any error
            kind = self.model.config.model_type
            raise ConfigError(f"the {kind} model fails on the first example: {reason_of(error)}") from error

    def validate(self) -> Quality:
        """Evaluate on the validation data; afterwards, `per_head` of the guidance refers to the same data."""
        return self._scored(self._validation_batches(), self.trainer.compute_loss_context_manager())

    def _validation_batches(self) -> Iterator[Example]:
        return validation_batches(self.data.validation, self.objective, self.arguments.per_device_eval_batch_size)

    def _scored(self, batches: Iterator[Example], precision: AbstractContextManager[Any] | None = None) -> Quality:
        with ExitStack() as measuring:
            for guidance in self.guidance.values():
                measuring.enter_context(guidance.measure())
            return validate(self.model, self.objective, batches, precision)

    def train(self) -> bool:
        """Train, from the last undamaged checkpoint if there is one.

        Returns:
            Whether the run finished; False if it was stopped.
        """
        if processes.is_first():
            checkpoints.remove_unfinished(self.folder.checkpoints)
        checkpoint = checkpoints.last_good(self.folder.checkpoints)
        # Other code may have drawn random numbers since the run was created. Each rank has its own dropout.
        set_seed(self.config.seed + processes.number())
        if checkpoint is not None:
            self.resumed_from = checkpoints.step_of(checkpoint)
            self.trainer.timer.load(checkpoint)
            if self.clock is not None:
                self.clock.load(checkpoint)
            self.arguments.eval_on_start = False
        with losing_workers(self.folder.checkpoints):
            self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.clock is not None:
            return self.clock.progress >= 1
        return bool(self.trainer.state.global_step >= self.config.max_steps)

    def finish(self) -> dict[str, Any]:
        """Write the model, its model card and the results to the folder of the run.

        Returns:
            The results as written.

        Raises:
            DivergedError: The weights or the validation loss are not finite.
            SaveError: The model cannot be written, or differs after it is loaded again.
        """
        summary = self.summary()
        self.trainer.check_finite(summary["final_loss"])
        model = self._whole_model() if self.config.shard else self.model

        def write(folder: Path) -> None:
            self.objective.save(model, folder)
            self.data.processor.save_pretrained(folder)
            results.write_text(folder / "README.md", model_card(summary))
            self._check_reloaded(folder, summary["final_loss"])

        if processes.is_first():
            with saving(f"the model in {self.folder.path}", self.folder.checkpoints):
                checkpoints.write_whole(self.folder.model, write)
                results.write_json(self.folder.results, summary)
        processes.wait()
        return summary

    def _check_reloaded(self, folder: Path, loss: float) -> None:
        half_precision = self.arguments.bf16 or self.arguments.fp16
        # Trainer has patched autocast into the forward pass of the model that it trains, but not of this one.
        with self.trainer.accelerator.autocast():
            check_reloaded(
                self.objective,
                folder,
                self.arguments.device,
                self._validation_batches(),
                loss,
                half_precision=half_precision,
            )

    def _whole_model(self) -> PreTrainedModel:
        """Gather a sharded model into an unsharded one; all processes must call this."""
        weights = sharding.whole(self.model.state_dict())
        model = self.objective.new_model(self.model.config)
        model.load_state_dict(weights)
        return model

    def summary(self) -> dict[str, Any]:
        """The results: settings, data, final quality and validation curve."""
        curve = self.curve()
        quality = self.validate()
        heads = [
            ({"part": part} if part else {}) | dataclasses.asdict(head)
            for part, guidance in self.guidance.items()
            for head in guidance.per_head()
        ]
        return {
            **results.header("pretrain"),
            "config": all_masked(dataclasses.asdict(self.config)),
            "corpus": self.data.name,
            "model": model_facts(self.model),
            "data": {
                "documents": self.data.n_documents,
                "train_tokens": self.data.train.n_tokens,
                "validation_tokens": self.data.validation.n_tokens,
                "validation_in_training": self.data.n_repeated,
                "fingerprint": self.data.fingerprint,
            },
            "new_tokens": None if self.data.inherited is None else self.data.inherited.facts,
            "steps": self.trainer.state.global_step,
            "tokens_per_step": self.config.batch_size * self.data.train.width,
            "skipped_steps": len(self.trainer.skipped_steps),
            "resumed_from": self.resumed_from,
            "precision": "bf16" if self.arguments.bf16 else "fp16" if self.arguments.fp16 else "fp32",
            "final_loss": quality.loss,
            "final_perplexity": quality.perplexity if self.objective.gives_perplexity else None,
            "final_accuracy": quality.accuracy,
            "final_means": dict(quality.means),
            "predicts": self.objective.predicts,
            "gives_perplexity": self.objective.gives_perplexity,
            "train_seconds": curve[-1]["seconds"] if curve else 0.0,
            "step_seconds_p50": statistics.median(self.trainer.timer.seconds or [0.0]),
            "curve": curve,
            "guidance": heads,
            "guidance_weight": {part or "model": guidance.weight for part, guidance in self.guidance.items()},
            "warnings": [
                *self.data.warnings,
                *shortfalls(self.trainer.state.log_history, quality.loss, heads, self.config.guidance_weight),
            ],
        }

    def curve(self) -> list[dict[str, float | None]]:
        """The validation curve: step, loss, accuracy, and seconds of training so far."""
        return [
            {
                "step": entry["step"],
                "loss": entry["eval_loss"],
                "accuracy": entry.get("eval_accuracy"),
                "seconds": entry["eval_train_seconds"],
            }
            for entry in self.trainer.state.log_history
            if "eval_loss" in entry
        ]
