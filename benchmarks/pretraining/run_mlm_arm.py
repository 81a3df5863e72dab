"""One arm of run_mlm.py, as a process of its own that notes its times and peak memory.

    python -m benchmarks.pretraining.run_mlm_arm STARTED FIGURES pretrain ...     the command line of attention-guidance
    python -m benchmarks.pretraining.run_mlm_arm STARTED FIGURES run_mlm SETTINGS the baseline, with settings as JSON

STARTED is the time at which the process was started, and FIGURES the file to write to.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

import transformers.trainer
from transformers import TrainerCallback


class Settings(TypedDict):
    """The settings of the baseline: folders and files, and those of its `TrainingArguments`."""

    train: str
    tokenizer: str
    config: str
    output: str
    block_size: int
    arguments: dict[str, Any]


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Times of the newest training of this process: its first step, its validations, and all steps together.

    A step's time is everything between steps, such as reading its batch and logging, but validation and saving.
    """

    def __init__(self, started: float) -> None:
        self.started = started

    def on_train_begin(self, *given: Any, **more: Any) -> None:
        """Start again: a rehearsal may have trained before."""
        self.steps, self.training_seconds = 0, 0.0
        self.first_step_seconds: float | None = None
        self.validations: list[dict[str, float]] = []
        self._start()

    def on_step_end(self, *given: Any, **more: Any) -> None:
        """Count a step."""
        self.steps += 1
        self.training_seconds += time.perf_counter() - self._began
        if self.first_step_seconds is None:
            self.first_step_seconds = time.time() - self.started
        self._start()

    def on_evaluate(self, args: Any, state: Any, control: Any, *, metrics: dict[str, float], **more: Any) -> None:
        """Note a validation, whose time is not that of a step."""
        seconds = time.time() - self.started
        self.validations.append({"step": state.global_step, "seconds": seconds, "loss": metrics["eval_loss"]})
        self._start()

    def on_save(self, *given: Any, **more: Any) -> None:
        """Leave out the time of a checkpoint."""
        self._start()

    def _start(self) -> None:
        self._began = time.perf_counter()


def run_mlm(settings: Settings) -> None:
    """Train a masked language model from scratch as transformers' documentation does: datasets, then Trainer."""
    from datasets import load_dataset
    from transformers import (
        AutoConfig,
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    arguments = TrainingArguments(settings["output"], **settings["arguments"])
    set_seed(arguments.seed)
    block_size = settings["block_size"]
    tokenizer = AutoTokenizer.from_pretrained(settings["tokenizer"])

    def tokenize(batch: dict[str, list[str]]) -> Any:
        return tokenizer(batch["text"], return_special_tokens_mask=True)

    def group_texts(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: [number for row in rows for number in row] for name, rows in batch.items()}
        n_tokens = len(joined["input_ids"]) // block_size * block_size
        starts = range(0, n_tokens, block_size)
        return {name: [row[start : start + block_size] for start in starts] for name, row in joined.items()}

    text = load_dataset("text", data_files={"train": settings["train"]}, split="train")
    tokenized = text.map(tokenize, batched=True, remove_columns=["text"])
    trainer = Trainer(
        model=AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(settings["config"])),
        args=arguments,
        train_dataset=tokenized.map(group_texts, batched=True),
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
    )
    trainer.train()
    trainer.save_model()


def main() -> None:
    started, figures, arm, *given = sys.argv[1:]
    watch = Stopwatch(float(started))
    # Trainer adds these to every run.
    transformers.trainer.DEFAULT_CALLBACKS.append(watch)
    if arm == "run_mlm":
        run_mlm(json.loads(given[0]))
    else:
        from attention_guidance.commands.cli import main as command_line

        try:
            command_line([arm, *given])
        except SystemExit as ended:
            if ended.code:
                raise
    whole = time.time() - watch.started
    from attention_guidance.commands.pretraining.loop.peak_memory import peak_mib

    found = {
        "whole_seconds": whole,
        "cpu_seconds": time.process_time(),
        "first_step_seconds": watch.first_step_seconds,
        "steps": watch.steps,
        "training_seconds": watch.training_seconds,
        "peak_mib": peak_mib(),
        "validations": watch.validations,
    }
    Path(figures).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
