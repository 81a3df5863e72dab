"""Prepare the training data of a run: text, images or audio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attention_guidance.commands.pretraining.preparation.media import prepare_images, prepare_sound
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData
from attention_guidance.commands.pretraining.preparation.text import prepare_text
from attention_guidance.commands.pretraining.settings.config import RunConfig


def prepare_data(config: RunConfig, say: Callable[[str], None], processor_folder: Path | None = None) -> PreparedData:
    """Read the training data of a run: text in blocks of tokens, images, or audio segments.

    Args:
        config: Settings of the run.
        say: Called with progress messages.
        processor_folder: Folder of the run's tokenizer. If it exists, the tokenizer is loaded from it, so that a
            resumed run keeps its tokenizer; else the caller may save the tokenizer there.

    Raises:
        CorpusError: A file cannot be read, or the data are too few for one batch.
        ConfigError: The tokenizer cannot be used, or the text does not support the vocabulary size.
    """
    if config.objective == "mim":
        return prepare_images(config, say)
    if config.objective == "speech":
        return prepare_sound(config, say)
    return prepare_text(config, say, processor_folder)
