"""From a run's configuration to the images or the sound it trains on."""

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

# As for text: the same are held out whatever the seed of training.
_SPLIT_SEED = 0


def prepare_images(config: RunConfig, say: Callable[[str], None]) -> PreparedData:
    """Read images; raises as `prepare_data`."""

    def read(paths: list[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        say(f"reading images of {corpus_name(paths)}")
        return read_images(paths, config.image_size)

    train, validation = _split(config, read, lambda pixels: pixels)
    size = {"height": config.image_size, "width": config.image_size}
    processor = ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return _prepared(config, say, processor, Images(train, config.patch_size), Images(validation, config.patch_size))


def prepare_sound(config: RunConfig, say: Callable[[str], None]) -> PreparedData:
    """Read recordings; raises as `prepare_data`."""

    def read(paths: list[str]) -> AudioSegments:
        say(f"reading recordings of {corpus_name(paths)}")
        sound = read_sound(paths, config.block_size)
        if sound.truncated:
            say(f"{sound.truncated:,} recordings are shorter than a stretch and left out")
        return sound

    train, validation = _split(config, read, lambda sound: sound.samples)
    processor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLES_PER_SECOND, do_normalize=True)
    return _prepared(config, say, processor, AudioSegments(train), AudioSegments(validation))


def _split(config: RunConfig, read: Callable[[list[str]], Any], rows_of: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Rows to train on and rows to validate on."""
    if not config.corpus:
        raise ConfigError(f"objective={config.objective!r} needs a folder of files to learn from; none comes with it")
    rows = rows_of(read(config.corpus))
    if config.validation:
        return rows, rows_of(read(config.validation))
    if len(rows) < 2:
        raise CorpusError(f"{config.corpus[0]}: one item alone; a validation split needs 2 or more, or `validation`")
    chosen = hold_out_items(len(rows), share=config.validation_share, seed=_SPLIT_SEED)
    is_held_out = np.isin(np.arange(len(rows)), sorted(chosen))
    return rows[~is_held_out], rows[is_held_out]


def _prepared(
    config: RunConfig, say: Callable[[str], None], processor: Any, train: HeldItems, validation: HeldItems
) -> PreparedData:
    name = corpus_name(config.corpus)
    if len(train) < config.batch_size:
        raise CorpusError(
            f"{Path(config.corpus[0]).name}: {len(train)} items to train on, one batch needs {config.batch_size}; "
            "lower `batch_size` or give more"
        )
    say(f"{len(train):,} items of {train.width:,} positions to train on, {len(validation):,} to validate on")
    return PreparedData(name, processor, train, validation, len(train), "")
