"""Fine-tune one model with one learning rate and seed; the best epoch on the development set is kept."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from attention_guidance.attach import guide
from attention_guidance.commands.finetuning.decoding import decode
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.encoding import Encoded, scores_of
from attention_guidance.commands.finetuning.fits.new_model import new_model
from attention_guidance.commands.finetuning.fits.predict import collator, predict, target_scale, with_threshold
from attention_guidance.commands.finetuning.scoring.scores import evaluate
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.commands.pretraining.saving.aligned import aligned
from attention_guidance.commands.pretraining.settings.arguments import best_device, choose_precision, use_one_device
from attention_guidance.errors import ConfigError, DivergedError, reason_of
from attention_guidance.forward.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Fit:
    """Results of one fine-tuning.

    Attributes:
        epoch: the best epoch on dev, counted from 1.
        dev: metrics on dev after each epoch; if training diverged, up to the epoch before that.
        seconds: training time, without evaluation.
        tokens_per_second: training tokens per second, not counting padding.
        threshold: for several labels, the probability above which a label is predicted, chosen on dev; else None.
    """

    epoch: int
    dev: list[dict[str, float]]
    seconds: float
    tokens_per_second: float
    threshold: float | None = None


def fit(
    data: Data,
    encoded: dict[str, Encoded],
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    learning_rate: float,
    seed: int,
    settings: FitSettings,
    progress: Callable[[int], None] | None = None,
) -> tuple[Fit, PreTrainedModel]:
    """Fine-tune a model once.

    Args:
        data: the task.
        encoded: its splits: `train` to train on, `dev` to choose the epoch; others are not used.
        source: folder or name of the model.
        tokenizer: the model's tokenizer.
        learning_rate: the peak learning rate.
        seed: seed of the new layers, the order of examples and dropout.
        settings: other settings.
        progress: called with the number of finished epochs.

    Returns:
        The results, and the model with its weights after the best epoch.

    Raises:
        ConfigError: the model cannot be loaded.
        GuidanceError: the heads to guide do not fit the model.
        DivergedError: the weights or outputs are NaN or infinite after the first epoch.
    """
    set_seed(seed)
    model = new_model(data, source, settings)
    # Trainer would write the tokenizer's id only into the configuration; loaded again, the model would differ.
    model = aligned(model, type(model), {"pad_token_id": tokenizer.pad_token_id})
    if settings.heads:
        guidance = guide(model, settings.heads, settings.weight, tokenizer=tokenizer)
    train, dev = _standardised(data, encoded["train"]), encoded["dev"]
    if data.task.kind == "regress":
        model.config.target_mean, model.config.target_deviation = target_scale(data)
    with tempfile.TemporaryDirectory() as folder:
        arguments = _arguments(settings, folder, len(train.inputs), learning_rate, seed)

        def score_dev() -> dict[str, float]:
            outputs = predict(model, dev, tokenizer, settings)
            if data.task.kind == "multilabel":
                outputs = with_threshold(model, data, outputs)
            examples = data.splits["dev"]
            return evaluate(data, examples, decode(data, scores_of(data, dev, examples, outputs)))

        best = _KeepBest(score_dev, data.task.metric, progress)
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=train.inputs,
            data_collator=collator(data, tokenizer),
            processing_class=tokenizer,
            callbacks=[best],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        seconds = time.perf_counter() - best.began - best.seconds
    if settings.heads:
        guidance.remove()
    model.load_state_dict(best.state)
    if best.threshold is not None:
        model.config.threshold = best.threshold
    n_tokens = best.n_epochs * sum(len(item["input_ids"]) for item in train.inputs)
    return Fit(best.epoch, best.scores, seconds, n_tokens / seconds, best.threshold), model.eval()


def _standardised(data: Data, train: Encoded) -> Encoded:
    """Scale targets to mean 0 and deviation 1: in a few epochs, a head near 0 cannot reach targets such as 1940."""
    if data.task.kind != "regress":
        return train
    mean, deviation = target_scale(data)
    return replace(train, inputs=[item | {"labels": (item["labels"] - mean) / deviation} for item in train.inputs])


def _arguments(settings: FitSettings, folder: str, n_items: int, learning_rate: float, seed: int) -> TrainingArguments:
    """Arguments of Trainer: one device, no saving and no logging."""
    precision = choose_precision(settings.precision)
    steps = math.ceil(n_items / settings.batch_size) * settings.epochs
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=learning_rate,
        warmup_steps=round(settings.warmup_share * steps),
        weight_decay=settings.weight_decay,
        train_sampling_strategy="group_by_length",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=best_device().type == "cpu",
    )
    use_one_device(arguments)
    return arguments


class _KeepBest(TrainerCallback):  # type: ignore[misc]
    """Evaluate after every epoch and keep the best weights."""

    def __init__(self, score: Callable[[], dict[str, float]], metric: str, progress: Callable[[int], None] | None):
        self.score, self.metric, self.progress = score, metric, progress
        self.scores: list[dict[str, float]] = []
        self.epoch, self.n_epochs, self.seconds, self.began = 0, 0, 0.0, 0.0
        self.state: dict[str, torch.Tensor] = {}
        self.threshold: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock after setup."""
        self.began = time.perf_counter()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the model on dev; stop if its weights or its outputs are NaN or infinite."""
        began = time.perf_counter()
        self.n_epochs += 1
        finite = all(torch.isfinite(parameter).all() for parameter in kwargs["model"].parameters())
        try:
            scores = self.score() if finite else None
        except DivergedError:
            finite, scores = True, None
        if scores is None:
            if not self.epoch:
                raise DivergedError(
                    f"learning rate {args.learning_rate:g}, seed {args.seed}: training diverged to NaN or infinite "
                    f"{'outputs' if finite else 'weights'} in the first epoch; try lower `learning_rates`"
                )
            control.should_training_stop = True
            return
        self.scores.append(scores)
        if not self.epoch or self.scores[-1][self.metric] > self.scores[self.epoch - 1][self.metric]:
            self.epoch = len(self.scores)
            self.threshold = getattr(kwargs["model"].config, "threshold", None)
            self.state = {name: value.detach().cpu().clone() for name, value in kwargs["model"].state_dict().items()}
        if self.progress is not None:
            self.progress(len(self.scores))
        self.seconds += time.perf_counter() - began


def try_out(model: PreTrainedModel, data: Data, first: Encoded, tokenizer: PreTrainedTokenizerBase) -> None:
    """Run the first examples through a model, to find incompatibilities before training.

    Raises:
        ConfigError: the model fails on them, or the tokenizer has no token for any of their words.
    """
    if not first.inputs:
        raise ConfigError("the tokenizer has no token for any of the words; use a model that covers their script")
    try:
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = tokenizer.pad_token_id  # as Trainer does before training
        batch = collator(data, tokenizer)([dict(item) for item in first.inputs[:2]])
        with torch.no_grad(), evaluating(model):
            model(**batch)
    except Exception as error:  # models may raise anything
        what = f"the {model.config.model_type} model fails on the first examples for {data.task.name}"
        raise ConfigError(f"{what}: {reason_of(error)}") from error
