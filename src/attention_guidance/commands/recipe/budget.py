"""Fit a recipe into a given time: measure a short trial on this machine, and choose the steps of pre-training by it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from attention_guidance.commands.finetuning.finetune import LEARNING_RATES, finetune
from attention_guidance.commands.finetuning.settings import FinetuneSettings, FitSettings
from attention_guidance.commands.pretraining.pretrain import pretrain
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.pretraining.settings.run_config import seconds_of, usual_eval_steps
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.errors import ConfigError, RunError

_TRIAL_STEPS = 8
# The share of the time that is kept for what takes longer than in the trial.
_RESERVE = 0.1
# A step has a forward and a backward pass, which costs twice as much; a prediction has the first alone.
_FORWARD = 1 / 3


@dataclass(frozen=True)
class Trial:
    """What a short trial took on this machine, in seconds.

    Attributes:
        step: A step of pre-training.
        validation: A validation of pre-training.
        besides: Pre-training without its steps and its validations in between: preparing the text, saving the model.
        epoch_steps: The number of steps in which the text is passed over once.
        fine_tuning: Fine-tuning and scoring one model on all tasks.
    """

    step: float
    validation: float
    besides: float
    epoch_steps: int
    fine_tuning: float

    def pretraining(self, steps: int) -> float:
        """Seconds of pre-training for so many steps."""
        n_validations = steps // usual_eval_steps(steps)
        return self.besides + steps * self.step + n_validations * self.validation


class Budget(TypedDict):
    """How a recipe uses its time, as in `recipe.json`.

    Attributes:
        time: The time that was given.
        covers: What has to fit into it: models, tasks and seeds.
        max_steps: The steps of each pre-training.
        why: Why so many, for the user.
        step_seconds: The measured time of a step.
        pretraining_seconds, fine_tuning_seconds: The expected time of each, over all models.
    """

    time: str
    covers: str
    max_steps: int
    why: str
    step_seconds: float
    pretraining_seconds: float
    fine_tuning_seconds: float


def allot(given: str, wanted: int, why: str, trial: Trial, *, models: int, covers: str, spent: float) -> Budget:
    """Choose the steps of pre-training: those that the rules want, or as many as fit.

    Args:
        given: The time for everything, such as `2h`.
        wanted: The steps that the rules want.
        why: Why they want them.
        trial: What was measured.
        models: The number of models that are pre-trained, and fine-tuned.
        covers: What has to fit into the time, in words.
        spent: Seconds that have passed.

    Raises:
        ConfigError: The time is too short to pass over the text once and fine-tune; the message has the least time.
    """
    left = (1 - _RESERVE) * seconds_of(given, "time") - spent
    fine_tuning = models * trial.fine_tuning
    least = min(wanted, trial.epoch_steps)
    for_models = (left - fine_tuning) / models
    steps = next((n for n in range(wanted, least - 1, -1) if trial.pretraining(n) <= for_models), None)
    if steps is None:
        needed = (spent + models * trial.pretraining(least) + fine_tuning) / (1 - _RESERVE)
        raise ConfigError(
            f"time={given!r} is too short: passing over the text once takes {least:,} steps of {trial.step:.2g} s on "
            f"this machine, and fine-tuning {in_words(fine_tuning)}; give at least {in_words(needed)}"
        )
    pretraining = models * trial.pretraining(steps)
    uses = f"{in_words(pretraining)} for pre-training, {in_words(fine_tuning)} for fine-tuning"
    fits = f"{why}; fits in {given}" if steps == wanted else f"as many as fit in {given}, at {trial.step:.2g} s a step"
    return {
        "time": given,
        "covers": covers,
        "max_steps": steps,
        "why": f"{fits} ({uses}, measured on this machine)",
        "step_seconds": trial.step,
        "pretraining_seconds": pretraining,
        "fine_tuning_seconds": fine_tuning,
    }


def in_words(seconds: float) -> str:
    """A time as it can be given, such as 1h5m, rounded up to whole minutes, or to seconds below one."""
    if seconds <= 60:
        return f"{max(1, math.ceil(seconds))}s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours}h{minutes}m" if hours and minutes else f"{hours}h" if hours else f"{minutes}m"


def measure(config: RunConfig, text: str, tasks: Mapping[str, Mapping[str, Path]], seeds: int, folder: Path) -> Trial:
    """Pre-train for a few steps, and fine-tune that model once for one epoch on each task.

    Args:
        config: Settings of pre-training.
        text: The text, as JSON lines.
        tasks: The files of each task.
        seeds: The number of fine-tuning seeds that are wanted.
        folder: An empty folder, to write to.
    """
    corpus = folder / "text.jsonl"
    corpus.write_text(text, encoding="utf-8")
    short: dict[str, Any] = dict.fromkeys(("max_steps", "eval_every", "save_every"), _TRIAL_STEPS)
    began = time.monotonic()
    run = pretrain(
        dataclasses.replace(config, corpus=[str(corpus)], report_to="none", **short), folder / "run", quiet=True
    )
    whole, step = time.monotonic() - began, run["step_seconds_p50"]
    validation = _FORWARD * step * run["data"]["validation_tokens"] / run["tokens_per_step"]
    return Trial(
        step,
        validation,
        max(0.0, whole - _TRIAL_STEPS * step - validation),
        math.ceil(run["data"]["train_tokens"] / run["tokens_per_step"]),
        sum(_fine_tuning(str(folder / "run"), name, files, seeds, folder / name) for name, files in tasks.items()),
    )


def _fine_tuning(model: str, task: str, files: Mapping[str, Path], seeds: int, folder: Path) -> float:
    """Seconds of a whole fine-tuning, by one of a single epoch."""
    epochs, fits = FitSettings.epochs, len(LEARNING_RATES[True]) + seeds - 1
    began = time.monotonic()
    single = FinetuneSettings(
        task, files, repair=True, seeds=1, learning_rates=LEARNING_RATES[True][:1], fit=FitSettings(epochs=1)
    )
    found = finetune(model, single, folder, quiet=True)
    whole, epoch = time.monotonic() - began, found["seeds"][0]["seconds"]
    examples = {split: data["examples"] for split, data in found["data"].items()}
    predicting = {split: _FORWARD * epoch * n / examples["train"] for split, n in examples.items() if split != "train"}
    return float(
        whole - epoch + fits * epochs * (epoch + predicting.get("dev", 0.0)) + seeds * sum(predicting.values())
    )


def kept_budget(file: Path, given: str | None, covers: str) -> Budget | None:
    """The budget of the recipe in the folder, which measuring again would change; None if it is not for this.

    Args:
        file: Its file.
        given: The time that is given now.
        covers: What has to fit into it now.

    Raises:
        RunError: Its file is damaged.
    """
    if not file.exists():
        return None
    try:
        there = read_json(file, Budget)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error}); start the recipe again with `overwrite`") from error
    return there if (there["time"], there["covers"]) == (given, covers) else None
