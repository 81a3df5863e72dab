"""What can be wrong with a run, looked for before any text is read and anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attention_guidance.assignment import GuidedHead, assign_heads
from attention_guidance.commands.objectives import OTHER_THAN_TEXT, is_own
from attention_guidance.commands.objectives.own import load_own
from attention_guidance.commands.pretraining.settings.arguments import training_arguments
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.pretraining.settings.rehearsal import rehearse
from attention_guidance.errors import PatternError, RunError
from attention_guidance.loss.aggregate import check_normalization
from attention_guidance.loss.backends import BackendChoice
from attention_guidance.loss.statistics import check_objective
from attention_guidance.patterns import TOKEN_CLASSES, TokenClasses, get_pattern
from attention_guidance.patterns.base import members
from attention_guidance.patterns.kinds import Offset, TokenClass
from attention_guidance.schedules import Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from attention_guidance.commands.pretraining.saving.folder import RunFolder


def check_settings(config: RunConfig, folder: RunFolder) -> None:
    """Check all that can be told from the settings alone.

    Raises:
        GuidanceError: heads that do not fit the model, an unknown loss, normalization or schedule, arguments that
            transformers' Trainer does not take or cannot work with, a precision the machine does not have, an output
            inside the corpus, an objective of one's own that is not there.
    """
    check_heads(config)
    if is_own(config.objective):
        load_own(config.objective)
    check_objective(config.loss)
    check_normalization(config.normalization, config.loss)
    BackendChoice(config.backend)
    # Steps and shares can be compared only now that the length of the run is known.
    Schedule(config.schedule, config.hold, config.end).factor(0, config.total_steps)
    rehearse(config, training_arguments(config, folder))
    check_apart(folder.path, [*config.corpus, *config.validation, *filter(None, [config.dataset])])


def check_heads(config: RunConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Check that the guided heads, if any, fit the model and, given its tokenizer, that token classes have members.

    Raises:
        PatternError: they do not.
    """
    if config.heads:
        guided_heads(config, tokenizer)


def guided_heads(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase | None = None, n_heads: int | None = None
) -> tuple[GuidedHead, ...]:
    """The guided heads of a run; without its tokenizer the members of token classes are placeholders.

    An encoder may have another number of heads than the run's model, as a generator has.

    Raises:
        PatternError: they do not fit the model.
    """
    classes: TokenClasses = config.token_classes
    if tokenizer is None:
        # Any id will do where only the names are looked at.
        classes = {name: [0] for name in (*TOKEN_CLASSES, *classes)}
    assigned = assign_heads(
        config.heads,
        config.layers,
        n_heads or config.attention_heads,
        lambda name: get_pattern(name, tokenizer, classes),
    )
    for pattern in {member for head in assigned for member in members(head.pattern)}:
        if isinstance(pattern, Offset) and abs(pattern.offset) >= config.block_size and config.objective != "mim":
            raise PatternError(f"pattern {pattern.name!r} reaches beyond block_size={config.block_size}")
        if isinstance(pattern, TokenClass) and config.objective in OTHER_THAN_TEXT:
            raise PatternError(f"pattern {pattern.name!r} is of tokens, and objective={config.objective!r} has none")
    return assigned


def check_apart(output: Path, corpus: list[str]) -> None:
    """Check that a run does not write into a folder it reads: resumed, it would read what it wrote.

    Raises:
        RunError: it would.
    """
    for folder in corpus:
        if Path(folder).is_dir() and output.resolve().is_relative_to(Path(folder).resolve()):
            raise RunError(f"--output {output} lies in the folder of text {folder}; give one outside of it")
