"""Choose pre-training settings for a text by the rules of docs/low-resource.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.pretraining.settings.presets import get_preset
from attention_guidance.commands.recipe.clean import TextFacts
from attention_guidance.commands.tokenization.byte_level import suggest_vocab_size

# Texts of at least this size (bytes) get the next larger model.
_SMALL_MIN_BYTES = 50_000_000
# Target number of epochs, within these bounds of steps.
_EPOCHS = 40
_STEPS = (1500, 6000)
# Bytes per token, with a vocabulary trained on the text.
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Choice:
    """A chosen setting.

    Attributes:
        name: Name of the field of `RunConfig`.
        value: Its value.
        why: The reason, one sentence.
    """

    name: str
    value: Any
    why: str


def choose(facts: TextFacts, preset: str | None = None) -> list[Choice]:
    """Choose the settings for a text, with the preset of the model if given.

    Raises:
        ConfigError: There is no such preset.
    """
    size = facts.bytes
    megabytes = f"{size / 1e6:.1f} MB"
    preset = preset or ("mini" if size < _SMALL_MIN_BYTES else "small")
    model = get_preset(preset)
    tokens_per_step = model.block_size * model.batch_size
    wanted = round(_EPOCHS * size / _BYTES_PER_TOKEN / tokens_per_step, -2)
    steps = int(min(max(wanted, _STEPS[0]), _STEPS[1]))
    epochs = steps * tokens_per_step * _BYTES_PER_TOKEN / size
    bound = "" if steps == wanted else f", within {_STEPS[0]:,} to {_STEPS[1]:,}"
    defaults = RunConfig()
    return [
        Choice("preset", preset, f"{megabytes} of text: mini below 50 MB, small above; tiny was worse at 0.25 MB"),
        Choice("vocab_size", suggest_vocab_size(size), "at most; half and twice as many were worse on a small text"),
        Choice("max_steps", steps, f"{_EPOCHS} epochs{bound}: about {epochs:.0f}, each with new masks"),
        Choice("masking_rate", defaults.masking_rate, "as in BERT; 40 % was worse on a small text"),
        Choice("heads", defaults.heads, "per layer a head to the next and previous token; a quarter to the first"),
        Choice("weight", defaults.weight, "low, decayed to 0 at the end of the run; 0.03 and 0.3 made no difference"),
    ]
