"""Settings of a fine-tuning, each declared once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attention_guidance.commands.pretraining.settings.run_config import PRECISIONS
from attention_guidance.commands.setting import AT_LEAST_1, NOT_NEGATIVE, SEED, SHARE_OR_0, Rule, check, setting
from attention_guidance.commands.text.lines import ERRORS
from attention_guidance.errors import ConfigError

_RATES = Rule("must lie between 0 and 1", lambda rates: all(0 < rate < 1 for rate in rates))


@dataclass(frozen=True)
class FitSettings:
    """Settings of each fine-tuning run."""

    epochs: int = setting(5, "epochs at most; the best on dev is taken", AT_LEAST_1)
    batch_size: int = setting(32, "examples (or windows) in a step", AT_LEAST_1)
    warmup_share: float = setting(
        0.1, "share of the steps in which the learning rate warms up; then it falls linearly to 0", SHARE_OR_0
    )
    weight_decay: float = setting(0.01, "weight decay of AdamW", NOT_NEGATIVE)
    dropout: float = setting(0.1, "dropout of hidden states and attention", SHARE_OR_0)
    precision: str = setting("auto", "numeric precision, as in pretrain", choices=PRECISIONS)
    heads: str = setting("", "guide these heads while fine-tuning, as in pretrain", metavar="SPEC", unset="none")
    weight: float = setting(0.1, "weight of each head's guidance loss", NOT_NEGATIVE)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class FinetuneSettings:
    """The task, its files by split (see `read_examples`), and the fine-tunings to run."""

    task: str
    files: Mapping[str, Path]
    columns: Sequence[str] | None = setting(
        None, "columns of the tables: texts first, then label or labels; numbers for ner, and without a header"
    )
    repair: bool = setting(False, "let an I- that continues nothing begin an entity, as conlleval does")
    positive_label: str | None = setting(
        None, "of two labels, the one that F1 is of", unset="1 of 0 and 1, yes of yes and no"
    )
    errors: str = setting(
        "strict", "strict refuses a malformed row or sentence, skip leaves it out and counts it", choices=ERRORS
    )
    learning_rates: Sequence[float] = setting(
        (), "learning rates to try on dev", _RATES, unset="2e-4 5e-4 1e-3; 1e-5 3e-5 5e-5 from a width of 512 on"
    )
    seeds: int = setting(5, "how many fine-tunings are scored", AT_LEAST_1)
    seed: int = setting(1, "seed of the first of them", SEED)
    max_length: int | None = setting(
        None, "tokens of an item at most", AT_LEAST_1, unset="what the model takes, up to 512"
    )
    baseline: bool = setting(True, "fit no model without pre-training beside it", flag="--no-baseline")
    fit: FitSettings = dataclasses.field(default_factory=FitSettings)

    def __post_init__(self) -> None:
        check(self)
        if self.seed + self.seeds > 2**32:
            raise ConfigError(f"seed={self.seed} with seeds={self.seeds} must stay below 2**32")

    @property
    def seeds_used(self) -> range:
        """The seeds to fine-tune with."""
        return range(self.seed, self.seed + self.seeds)
