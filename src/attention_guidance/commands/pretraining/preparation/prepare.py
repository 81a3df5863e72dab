"""From a run's configuration to what it trains on, whatever that is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attention_guidance.commands.pretraining.preparation.media import prepare_images, prepare_sound
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData
from attention_guidance.commands.pretraining.preparation.text import prepare_text
from attention_guidance.commands.pretraining.settings.config import RunConfig


def prepare_data(config: RunConfig, say: Callable[[str], None], processor_folder: Path | None = None) -> PreparedData:
    """Read what a run trains on: text in blocks of tokens, images, or stretches of sound.

    Args:
        config: the run.
        say: told what is being done.
        processor_folder: where the tokenizer is kept: taken from there if it is there (so that a resumed run has the
            one it began with), else the caller may save it there.

    Raises:
        CorpusError: files that cannot be read or do not suffice for one batch.
        ConfigError: a tokenizer that does not serve, a vocabulary larger than the text supports.
    """
    if config.objective == "mim":
        return prepare_images(config, say)
    if config.objective == "speech":
        return prepare_sound(config, say)
    return prepare_text(config, say, processor_folder)
