"""What a fine-tuning is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attention_guidance.data.lines import ERRORS
from attention_guidance.errors import ConfigError
from attention_guidance.finetuning.fit import FitSettings


@dataclass(frozen=True)
class FinetuneSettings:
    """What is learnt, and how often.

    Attributes:
        task: its name, see `attention_guidance.finetuning.tasks`.
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
