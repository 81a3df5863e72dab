"""One pre-training run: its training and what it leaves behind."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, set_seed

from attention_guidance import results
from attention_guidance.data.tokenizers import vocabulary_size
from attention_guidance.hosts.interface import normalizes_its_loss
from attention_guidance.objectives.masked_head import MaskedHead
from attention_guidance.objectives.masked_lm import MaskedDraws, Quality, collate, validate, validation_batches
from attention_guidance.objectives.masking import Masking
from attention_guidance.training import checkpoints
from attention_guidance.training.arguments import training_arguments
from attention_guidance.training.config import RunConfig
from attention_guidance.training.folder import RunFolder
from attention_guidance.training.model import guide_as_configured, model_facts, new_model, special_ids
from attention_guidance.training.model_card import model_card
from attention_guidance.training.prepare import PreparedData
from attention_guidance.training.trainer import MaskedLMTrainer, saving

# What is masked together, by objective.
_UNITS = {"mlm": "token", "whole-word": "word", "span": "span"}


class Run:
    """A run ready to train, its folder begun.

    Args:
        config: its settings; empty `heads` trains without guidance.
        data: what it trains on.
        folder: where it is kept.
        callbacks: more callbacks for the Trainer.

    Attributes:
        model: the model under training.
        guidance: the handle on its guided heads, None without guidance.
        trainer: trains it.
    """

    def __init__(
        self, config: RunConfig, data: PreparedData, folder: RunFolder, callbacks: Sequence[TrainerCallback] = ()
    ) -> None:
        self.config = config
        self.data = data
        self.folder = folder
        set_seed(config.seed)
        self.model = new_model(config, vocabulary_size(data.tokenizer), **special_ids(data.tokenizer))
        MaskedHead(self.model)
        self.guidance = guide_as_configured(self.model, config, data.tokenizer) if config.heads else None
        self.masking = Masking.for_tokenizer(data.tokenizer, config.masking_rate, _UNITS[config.objective])
        self.arguments = training_arguments(config, folder)
        # Trainer makes the folder of checkpoints; what the run is has to be there before.
        folder.begin(config, data.tokenizer, data)
        self.trainer = MaskedLMTrainer(
            model=self.model,
            args=self.arguments,
            train_dataset=MaskedDraws(
                data.train, self.masking, config.max_steps * config.batch_size, config.seed, config.final_masking_rate
            ),
            data_collator=collate,
            processing_class=data.tokenizer,
            validate=lambda model: self.validate(),
            scales_loss=self.guidance is not None or normalizes_its_loss(self.model),
            callbacks=[*callbacks],
        )
        if self.guidance is not None:
            # Before the reporters, so that they report the guidance too.
            self.trainer.callback_handler.callbacks.insert(0, self.guidance.callback())
        self.resumed_from: int | None = None

    def validate(self) -> Quality:
        """Quality on the validation text; under guidance, `per_head` then tells of the same text."""
        batches = validation_batches(self.data.validation, self.masking, self.arguments.per_device_eval_batch_size)
        precision = self.trainer.compute_loss_context_manager()
        if self.guidance is None:
            return validate(self.model, batches, precision)
        with self.guidance.measure():
            return validate(self.model, batches, precision)

    def train(self) -> bool:
        """Train, from the last good checkpoint if there is one.

        Returns:
            Whether the run came to its end; False when it was asked to stop before.
        """
        checkpoint = checkpoints.last_good(self.folder.checkpoints)
        # Whatever else has drawn random numbers since this run was made.
        set_seed(self.config.seed)
        if checkpoint is not None:
            self.resumed_from = checkpoints.step_of(checkpoint)
            self.trainer.timer.load(checkpoint)
            self.arguments.eval_on_start = False
        self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return bool(self.trainer.state.global_step >= self.config.max_steps)

    def finish(self) -> dict[str, Any]:
        """Write the model, its card and the results into the run's folder.

        Returns:
            The results as written.
        """
        summary = self.summary()

        def write(folder: Path) -> None:
            self.model.save_pretrained(folder)
            self.data.tokenizer.save_pretrained(folder)
            (folder / "README.md").write_text(model_card(summary), encoding="utf-8")

        with saving(f"the model in {self.folder.path}", self.folder.checkpoints):
            checkpoints.write_whole(self.folder.path / "model", write)
            results.write_json(self.folder.results, summary)
        return summary

    def summary(self) -> dict[str, Any]:
        """The results: what was trained on what, and how well it came out."""
        curve = self.curve()
        quality = self.validate()
        return {
            **results.header("pretrain"),
            "config": dataclasses.asdict(self.config),
            "corpus": self.data.name,
            "model": model_facts(self.model),
            "data": {
                "documents": self.data.n_documents,
                "train_tokens": self.data.train.n_tokens,
                "validation_tokens": self.data.validation.n_tokens,
                "fingerprint": self.data.fingerprint,
            },
            "steps": self.config.max_steps,
            "tokens_per_step": self.config.batch_size * self.config.block_size,
            "resumed_from": self.resumed_from,
            "precision": "bf16" if self.arguments.bf16 else "fp16" if self.arguments.fp16 else "fp32",
            "final_loss": quality.loss,
            "final_perplexity": quality.perplexity,
            "final_accuracy": quality.accuracy,
            "train_seconds": curve[-1]["seconds"] if curve else 0.0,
            "step_seconds_p50": statistics.median(self.trainer.timer.seconds or [0.0]),
            "curve": curve,
            "guidance": [dataclasses.asdict(head) for head in self.guidance.per_head()] if self.guidance else [],
        }

    def curve(self) -> list[dict[str, float]]:
        """Validation over training: step, loss, accuracy, seconds of training until then."""
        return [
            {
                "step": entry["step"],
                "loss": entry["eval_loss"],
                "accuracy": entry["eval_accuracy"],
                "seconds": entry["eval_train_seconds"],
            }
            for entry in self.trainer.state.log_history
            if "eval_loss" in entry
        ]
