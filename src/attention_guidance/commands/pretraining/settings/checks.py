"""Check the settings of a run before any text is read and anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attention_guidance.assignment import GuidedHead, assign_heads
from attention_guidance.commands.objectives import OTHER_THAN_TEXT, is_own
from attention_guidance.commands.objectives.own import load_own
from attention_guidance.commands.pretraining.settings.arguments import training_arguments
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.pretraining.settings.rehearsal import rehearse
from attention_guidance.commands.secrets import has_masked
from attention_guidance.errors import ConfigError, PatternError, RunError
from attention_guidance.loss.aggregate import check_normalization
from attention_guidance.loss.backends import BackendChoice
from attention_guidance.loss.statistics import check_objective
from attention_guidance.patterns import TOKEN_CLASSES, TokenClasses, get_pattern
from attention_guidance.patterns.base import members
from attention_guidance.patterns.kinds import Offset, TokenClass

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from attention_guidance.commands.pretraining.saving.folder import RunFolder


def check_settings(config: RunConfig, folder: RunFolder) -> None:
    """Check everything that can be checked from the settings alone.

    Raises:
        GuidanceError: A secret is masked; the heads do not fit the model; the loss, normalization or schedule is
            unknown; transformers' Trainer does not accept the arguments or fails with them; the machine does not
            support the precision; the output is inside the corpus; or there is no such custom objective.
    """
    for name, value in vars(config).items():
        if has_masked(value):
            raise ConfigError(f"{name}={value!r} has a secret that run.yaml does not keep; give it again")
    check_heads(config)
    if is_own(config.objective):
        load_own(config.objective)
    check_objective(config.loss)
    check_normalization(config.normalization, config.loss)
    BackendChoice(config.backend)
    # Steps can be compared with shares only when the length of the run is known.
    config.weight_schedule.factor(0, config.total_steps)
    rehearse(config, training_arguments(config, folder))
    check_apart(folder.path, [*config.corpus, *config.validation, *filter(None, [config.dataset])])


def check_heads(config: RunConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Check that the guided heads, if any, fit the model, and, with a tokenizer, that token classes have members.

    Raises:
        PatternError: They do not fit, or a class is empty.
    """
    if config.heads:
        guided_heads(config, tokenizer)


def guided_heads(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase | None = None, n_heads: int | None = None
) -> tuple[GuidedHead, ...]:
    """The guided heads of a run; without a tokenizer, the members of token classes are placeholders.

    Args:
        config: Settings of the run.
        tokenizer: Tokenizer of the run.
        n_heads: Number of heads per layer, for an encoder that differs from the settings, such as a generator.

    Raises:
        PatternError: The heads do not fit the model.
    """
    classes: TokenClasses = config.token_classes
    if tokenizer is None:
        # Only the names are checked, so any id will do.
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
            raise PatternError(f"pattern {pattern.name!r} needs tokens, but objective={config.objective!r} has none")
    return assigned


def check_apart(output: Path, corpus: list[str]) -> None:
    """Check that the output is not inside the corpus: a resumed run would read its own output.

    Raises:
        RunError: It is inside.
    """
    for folder in corpus:
        if Path(folder).is_dir() and output.resolve().is_relative_to(Path(folder).resolve()):
            raise RunError(f"output={output} lies in the folder of text {folder}; give a folder outside of it")
