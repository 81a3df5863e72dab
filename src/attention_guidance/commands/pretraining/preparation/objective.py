"""Create the objective of a run, and random training data for measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attention_guidance.commands.media.images import Images
from attention_guidance.commands.media.sound import AudioSegments, samples_per_segment
from attention_guidance.commands.objectives import is_own
from attention_guidance.commands.objectives.base import Items, Objective
from attention_guidance.commands.objectives.masked_images import MaskedImages
from attention_guidance.commands.objectives.masked_lm import MaskedTokens
from attention_guidance.commands.objectives.masking import Masking
from attention_guidance.commands.objectives.own import OwnCorruption, load_own
from attention_guidance.commands.objectives.replaced_tokens import ReplacedTokenDetection
from attention_guidance.commands.objectives.sentence_pairs import SentencePairs
from attention_guidance.commands.objectives.speech import SpeechUnits
from attention_guidance.commands.pretraining.model import told_by
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.text.blocks import Blocks
from attention_guidance.commands.tokenization.byte_level import vocabulary_size
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Units of masking by objective; single tokens for the others.
_UNITS = {"whole-word": "word", "span": "span"}
_QUESTIONS = {"mlm+nsp": "next", "mlm+sop": "order"}


def objective_of(config: RunConfig, tokenizer: PreTrainedTokenizerBase | None) -> Objective:
    """Create the objective of a run.

    Raises:
        ConfigError: The tokenizer does not support it, or there is no such custom function.
    """
    name = config.objective
    if name == "mim":
        return MaskedImages(config.image_size, config.patch_size, config.masking_rate)
    if name == "speech":
        return SpeechUnits(config.hidden, config.masking_rate)
    assert tokenizer is not None
    if is_own(name):
        return MaskedTokens(OwnCorruption(name, load_own(name), tokenizer))
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            f"objective={name!r} masks tokens, but the tokenizer has no mask token; give another tokenizer"
        )
    masking = Masking.for_tokenizer(tokenizer, config.masking_rate, _UNITS.get(name, "token"))
    rates = config.masking_rate, config.final_masking_rate
    if name == "rtd":
        return ReplacedTokenDetection(
            masking, *rates, generator_share=config.generator_share, guided=config.guided_part
        )
    if name in _QUESTIONS:
        ids = told_by(tokenizer)
        frame = ids["cls_token_id"], ids["sep_token_id"], ids["pad_token_id"]
        return SentencePairs(masking, *rates, question=_QUESTIONS[name], frame=frame)
    return MaskedTokens(masking, *rates)


def random_items(config: RunConfig, tokenizer: PreTrainedTokenizerBase | None, n_items: int) -> Items:
    """Random items of the size that a run trains on, for measuring time and memory."""
    generator = np.random.default_rng(0)
    if config.objective == "mim":
        pixels = generator.integers(256, size=(n_items, 3, config.image_size, config.image_size), dtype=np.uint8)
        return Images(pixels, config.patch_size)
    if config.objective == "speech":
        size = n_items, samples_per_segment(config.block_size)
        return AudioSegments(generator.integers(-999, 999, size=size, dtype=np.int16))
    assert tokenizer is not None
    ids = generator.integers(5, vocabulary_size(tokenizer), (n_items, config.block_size)).astype(np.int32)
    return Blocks(ids, np.full(n_items, config.block_size, np.int32))
