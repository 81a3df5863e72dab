"""Choose pre-training settings for a text by the rules of docs/low-resource.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.commands.pretraining.settings.presets import get_preset
from attention_guidance.commands.recipe.clean import TextFacts
from attention_guidance.commands.tokenization.byte_level import suggest_vocab_size

# Texts of at least this size (bytes) get the next larger model.
_SMALL_MIN_BYTES = 50_000_000
# Target number of epochs, within these bounds of steps.
_EPOCHS = 40
_STEPS = (1500, 6000)
# Start models from this width on are trained further at a lower rate than a preset's.
_WIDE, _WIDE_RATE = 512, 1e-4
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


def choose(facts: TextFacts, preset: str | None = None, start_width: int | None = None) -> list[Choice]:
    """Choose the settings for a text.

    Args:
        facts: The text.
        preset: The preset of the model, if given.
        start_width: The width of the model to start from, if there is one.

    Raises:
        ConfigError: There is no such preset.
    """
    size = facts.bytes
    defaults = RunConfig()
    if start_width is None:
        preset = preset or ("mini" if size < _SMALL_MIN_BYTES else "small")
        why = f"{size / 1e6:.1f} MB of text: mini below 50 MB, small above; tiny was worse at 0.25 MB"
        begin = [Choice("preset", preset, why)]
    else:
        begin = [
            Choice("new_tokenizer", True, "of this text; tokens that the start model has too keep their weights"),
            Choice("match_heads", True, "the start model's heads that are closest to their patterns are guided"),
        ]
        if start_width >= _WIDE and preset is None:
            begin.append(Choice("learning_rate", _WIDE_RATE, f"low, as the start model has a width of {start_width}"))
    model = get_preset(preset or defaults.preset)
    tokens_per_step = model.block_size * model.batch_size
    wanted = round(_EPOCHS * size / _BYTES_PER_TOKEN / tokens_per_step, -2)
    steps = int(min(max(wanted, _STEPS[0]), _STEPS[1]))
    epochs = steps * tokens_per_step * _BYTES_PER_TOKEN / size
    bound = "" if steps == wanted else f", within {_STEPS[0]:,} to {_STEPS[1]:,}"
    return [
        *begin,
        Choice("vocab_size", suggest_vocab_size(size), "at most; half and twice as many were worse on a small text"),
        Choice("max_steps", steps, f"{_EPOCHS} epochs{bound}: about {epochs:.0f}, each with new masks"),
        Choice("masking_rate", defaults.masking_rate, "as in BERT; 40 % was worse on a small text"),
        Choice("heads", defaults.heads, "per layer a head to the next and previous token; a quarter to the first"),
        Choice("weight", defaults.weight, "low, decayed to 0 at the end of the run; 0.03 and 0.3 made no difference"),
    ]


def chosen(facts: TextFacts, overrides: Mapping[str, Any]) -> list[Choice]:
    """The choices of the rules, replaced or extended by the user's settings."""
    preset, start = overrides.get("preset"), overrides.get("init_from")
    width = None if start is None else make_config({"init_from": start}).hidden
    choices = {choice.name: choice for choice in choose(facts, preset, width)}
    if overrides.get("new_tokenizer") is False:
        # The start model's has its size.
        del choices["vocab_size"]
    if overrides.get("relative_weight") is not None:
        # Either weight excludes the other.
        del choices["weight"]
    for name, value in overrides.items():
        choices[name] = Choice(name, value, "as you asked")
    return [*choices.values()]
