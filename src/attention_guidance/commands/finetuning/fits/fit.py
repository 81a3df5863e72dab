"""One fine-tuning: a model, a learning rate, a seed; the epoch is chosen on the development set."""

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
from attention_guidance.commands.pretraining.settings.arguments import choose_precision, use_one_device
from attention_guidance.errors import ConfigError, DivergedError, reason_of
from attention_guidance.forward.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Fit:
    """What came out of it.

    Attributes:
        epoch: the epoch that was best on dev, from 1.
        dev: metrics on dev, of each epoch; the last is the one before training diverged, if it did.
        seconds: of training, without evaluation.
        tokens_per_second: tokens trained on a second, padding not counted.
        threshold: the probability from which on one of several labels is predicted, chosen on dev; else None.
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
    """Fine-tune once.

    Args:
        data: the task.
        encoded: its splits; `train` is trained on, `dev` decides the epoch, any other is not looked at.
        source: folder or name of the model.
        tokenizer: the model's.
        learning_rate: its peak.
        seed: of the new layers, the order and dropout.
        settings: all else.
        progress: called with the number of epochs done.

    Returns:
        What came out, and the model as it was after the best epoch.

    Raises:
        ConfigError: the model cannot be loaded.
        GuidanceError: heads that do not fit the model.
        DivergedError: after the first epoch its weights are no numbers.
    """
    set_seed(seed)
    model = new_model(data, source, settings)
    # Trainer would write the tokenizer's into the configuration alone: loaded again it would be another model.
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
    """With numbers of mean 0 and deviation 1: from a head near 0 a few epochs do not come to the year 1940."""
    if data.task.kind != "regress":
        return train
    mean, deviation = target_scale(data)
    return replace(train, inputs=[item | {"labels": (item["labels"] - mean) / deviation} for item in train.inputs])


def _arguments(settings: FitSettings, folder: str, n_items: int, learning_rate: float, seed: int) -> TrainingArguments:
    """Trainer's, on one device; nothing is saved and logged."""
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
        use_cpu=not torch.cuda.is_available() and not torch.backends.mps.is_available(),
    )
    use_one_device(arguments)
    return arguments


class _KeepBest(TrainerCallback):  # type: ignore[misc]
    """Evaluates after every epoch and keeps the best weights."""

    def __init__(self, score: Callable[[], dict[str, float]], metric: str, progress: Callable[[int], None] | None):
        self.score, self.metric, self.progress = score, metric, progress
        self.scores: list[dict[str, float]] = []
        self.epoch, self.n_epochs, self.seconds, self.began = 0, 0, 0.0, 0.0
        self.state: dict[str, torch.Tensor] = {}
        self.threshold: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, now that everything is set up."""
        self.began = time.perf_counter()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look how good the model is now."""
        began = time.perf_counter()
        self.n_epochs += 1
        if not all(torch.isfinite(parameter).all() for parameter in kwargs["model"].parameters()):
            if not self.epoch:
                raise DivergedError(
                    f"learning rate {args.learning_rate:g}, seed {args.seed}: training diverged to NaN or infinite "
                    "weights in the first epoch; try lower `learning_rates`"
                )
            control.should_training_stop = True
            return
        self.scores.append(self.score())
        if not self.epoch or self.scores[-1][self.metric] > self.scores[self.epoch - 1][self.metric]:
            self.epoch = len(self.scores)
            self.threshold = getattr(kwargs["model"].config, "threshold", None)
            self.state = {name: value.detach().cpu().clone() for name, value in kwargs["model"].state_dict().items()}
        if self.progress is not None:
            self.progress(len(self.scores))
        self.seconds += time.perf_counter() - began


def try_out(model: PreTrainedModel, data: Data, first: Encoded, tokenizer: PreTrainedTokenizerBase) -> None:
    """Put the first examples through a model: what does not go together is seen before anything is trained.

    Raises:
        ConfigError: the model cannot take them.
    """
    try:
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = tokenizer.pad_token_id  # as Trainer does, before it trains
        batch = collator(data, tokenizer)([dict(item) for item in first.inputs[:2]])
        with torch.no_grad(), evaluating(model):
            model(**batch)
    except Exception as error:  # whatever a model of any kind raises
        what = f"the {model.config.model_type} model fails on the first examples for {data.task.name}"
        raise ConfigError(f"{what}: {reason_of(error)}") from error
