"""Prepare the images or audio that a run trains on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_vit import ViTImageProcessor

from attention_guidance.commands.media.images import Images, read_images
from attention_guidance.commands.media.sound import SAMPLES_PER_SECOND, AudioSegments, read_sound
from attention_guidance.commands.pretraining.preparation.prepared import HeldItems, PreparedData
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.text.corpora import corpus_name
from attention_guidance.commands.text.holding_out import hold_out_items
from attention_guidance.errors import ConfigError, CorpusError

# As for text: the validation split does not depend on the seed of training.
_SPLIT_SEED = 0


def prepare_images(config: RunConfig, say: Callable[[str], None]) -> PreparedData:
    """Read images; raises the errors of `prepare_data`."""

    def read(paths: list[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        say(f"reading images of {corpus_name(paths)}")
        return read_images(paths, config.image_size)

    train, validation = _split(config, read, lambda pixels: pixels)
    size = {"height": config.image_size, "width": config.image_size}
    processor = ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return _prepared(config, say, processor, Images(train, config.patch_size), Images(validation, config.patch_size))


def prepare_sound(config: RunConfig, say: Callable[[str], None]) -> PreparedData:
    """Read audio recordings; raises the errors of `prepare_data`."""

    def read(paths: list[str]) -> AudioSegments:
        say(f"reading recordings of {corpus_name(paths)}")
        sound = read_sound(paths, config.block_size)
        if sound.truncated:
            say(f"{sound.truncated:,} recordings are shorter than a segment and were skipped")
        return sound

    train, validation = _split(config, read, lambda sound: sound.samples)
    processor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLES_PER_SECOND, do_normalize=True)
    return _prepared(config, say, processor, AudioSegments(train), AudioSegments(validation))


def _split(config: RunConfig, read: Callable[[list[str]], Any], rows_of: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Read the rows and split them for training and validation."""
    if not config.corpus:
        raise ConfigError(
            f"objective={config.objective!r} needs a folder of files to train on; the package contains only text"
        )
    rows = rows_of(read(config.corpus))
    if config.validation:
        return rows, rows_of(read(config.validation))
    if len(rows) < 2:
        raise CorpusError(
            f"{config.corpus[0]}: only one item; a validation split needs at least 2, or give files as `validation`"
        )
    chosen = hold_out_items(len(rows), share=config.validation_share, seed=_SPLIT_SEED)
    is_held_out = np.isin(np.arange(len(rows)), sorted(chosen))
    return rows[~is_held_out], rows[is_held_out]


def _prepared(
    config: RunConfig, say: Callable[[str], None], processor: Any, train: HeldItems, validation: HeldItems
) -> PreparedData:
    name = corpus_name(config.corpus)
    if len(train) < config.batch_size:
        raise CorpusError(
            f"{Path(config.corpus[0]).name}: {len(train)} items to train on, but a batch needs {config.batch_size}; "
            "lower `batch_size` or give more"
        )
    say(f"{len(train):,} items of {train.width:,} positions to train on, {len(validation):,} to validate on")
    return PreparedData(name, processor, train, validation, len(train), "")
