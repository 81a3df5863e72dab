"""The rules by which settings are chosen for a text. docs/low-resource.md has what they rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.pretraining.settings.presets import get_preset
from attention_guidance.commands.recipe.clean import TextFacts
from attention_guidance.commands.tokenization.byte_level import suggest_vocab_size

# Bytes of text from which on the next size of model is taken.
_SMALL_FROM = 50_000_000
# How often the text is gone through, within these bounds of steps.
_PASSES = 40
_STEPS = (1500, 6000)
# A token of a vocabulary that is trained on the text itself.
_BYTES_A_TOKEN = 4


@dataclass(frozen=True)
class Choice:
    """A setting and why it is so.

    Attributes:
        name: as a field of `RunConfig`.
        value: of it.
        why: one sentence.
    """

    name: str
    value: Any
    why: str


def choose(facts: TextFacts, preset: str | None = None) -> list[Choice]:
    """The settings for a text, and for a size of model where that is given.

    Raises:
        ConfigError: no such preset.
    """
    size = facts.bytes
    megabytes = f"{size / 1e6:.1f} MB"
    preset = preset or ("mini" if size < _SMALL_FROM else "small")
    model = get_preset(preset)
    tokens_a_step = model.block_size * model.batch_size
    wanted = round(_PASSES * size / _BYTES_A_TOKEN / tokens_a_step, -2)
    steps = int(min(max(wanted, _STEPS[0]), _STEPS[1]))
    passes = steps * tokens_a_step * _BYTES_A_TOKEN / size
    bound = "" if steps == wanted else f", within {_STEPS[0]:,} to {_STEPS[1]:,}"
    defaults = RunConfig()
    return [
        Choice("preset", preset, f"the text has {megabytes}: mini up to 50, small above; tiny was worse at 0.25"),
        Choice("vocab_size", suggest_vocab_size(size), "at most; half and twice as many did worse on a small text"),
        Choice(
            "max_steps", steps, f"{_PASSES} passes over the text{bound}: this is about {passes:.0f}, masked anew each"
        ),
        Choice("masking_rate", defaults.masking_rate, "BERT's share; 40 % was worse on a small text"),
        Choice("heads", defaults.heads, "a head of each layer to the next and to the previous token, a quarter first"),
        Choice("weight", defaults.weight, "light, and gone at the end of the run; 0.03 and 0.3 showed no difference"),
    ]
