"""What a fine-tuning is asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attention_guidance.commands.text.lines import ERRORS
from attention_guidance.errors import ConfigError


@dataclass(frozen=True)
class FitSettings:
    """How a model is fine-tuned.

    Attributes:
        epochs: at most so many; the best of them on the development set is taken.
        batch_size: examples (or windows) in a step.
        warmup_share: share of the steps in which the learning rate rises; then it falls linearly to 0.
        weight_decay: AdamW's.
        dropout: of hidden states and attention.
        precision: as in pre-training.
        heads, weight: guidance while fine-tuning; empty without.
    """

    epochs: int = 5
    batch_size: int = 32
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    dropout: float = 0.1
    precision: str = "auto"
    heads: str = ""
    weight: float = 0.1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.precision not in ("auto", "bf16", "fp16", "fp32"):
            raise ConfigError(f"--precision {self.precision}: expected auto, bf16, fp16 or fp32")
        for name in ("weight_decay", "weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be a number, 0 or more")
        for name in ("warmup_share", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 0 and below 1")


@dataclass(frozen=True)
class FinetuneSettings:
    """What is learnt, and how often.

    Attributes:
        task: its name, see `attention_guidance.commands.finetuning.examples.tasks`.
        files: by split, see `read_examples`.
        columns: of tables, see `read_examples`.
        repair: see `read_tagged`.
        positive_label: of two labels the one that F1 is of, see `read_examples`.
        errors: see `read_examples`.
        learning_rates: to choose from; by the width of the model without.
        seeds: how many fine-tunings are scored.
        seed: the first of them.
        max_length: the most tokens of an item; what the model takes without.
        baseline: fit a model without pre-training as well.
        fit: all else.
    """

    task: str
    files: Mapping[str, Path]
    columns: Sequence[str] | None = None
    repair: bool = False
    positive_label: str | None = None
    errors: str = "strict"
    learning_rates: Sequence[float] = ()
    seeds: int = 5
    seed: int = 1
    max_length: int | None = None
    baseline: bool = True
    fit: FitSettings = dataclasses.field(default_factory=FitSettings)

    def __post_init__(self) -> None:
        if self.errors not in ERRORS:
            raise ConfigError(f"--errors {self.errors}: expected one of {', '.join(ERRORS)}")
        if self.seeds < 1:
            raise ConfigError(f"--seeds {self.seeds}: must be at least 1")
        if not 0 <= self.seed <= self.seed + self.seeds - 1 < 2**32:
            raise ConfigError(f"--seed {self.seed}: with {self.seeds} seeds must be 0 or more and stay below 2**32")
        for rate in self.learning_rates:
            if not 0 < rate < 1:
                raise ConfigError(f"--learning-rates {rate:g}: must lie between 0 and 1")

    @property
    def seeds_used(self) -> range:
        """The seeds that are scored."""
        return range(self.seed, self.seed + self.seeds)
