"""Model sizes by name, each with the training settings that suit it.

`tiny` to `base` are for small machines up to one good GPU; `roberta-4` to `roberta-16` are the paper's (section 4.1):
RoBERTa-base at other depths, blocks of 512 tokens; `attention-24` and `attention-48` are its encoders without
feed-forward blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from attention_guidance.errors import ConfigError


@dataclass(frozen=True)
class ModelSize:
    """Dimensions of a RoBERTa encoder.

    Attributes:
        layers: encoder layers.
        hidden: width of the hidden states.
        attention_heads: heads of each layer.
        feed_forward: width of the feed-forward blocks.
        dropout: dropout of hidden states and attention while training.
    """

    layers: int
    hidden: int
    attention_heads: int
    feed_forward: int
    dropout: float = 0.0


@dataclass(frozen=True)
class Preset:
    """A model size and the training settings that suit it.

    Attributes:
        model: the size.
        block_size: tokens in a sequence.
        batch_size: sequences in an optimisation step.
        max_steps: optimisation steps.
        learning_rate: its peak, after warm-up.
        arch: kind of the model, as in `RunConfig`.
    """

    model: ModelSize
    block_size: int
    batch_size: int
    max_steps: int
    learning_rate: float
    arch: str | None = None

    def settings(self) -> dict[str, Any]:
        """All of it as one flat mapping of field to value."""
        rest = {name: value for name, value in asdict(self).items() if name != "model"}
        return asdict(self.model) | rest


def _roberta(layers: int) -> Preset:
    return Preset(ModelSize(layers, 768, 12, 3072, 0.1), 512, 256, 100_000, 5e-4)


def _attention_only(layers: int) -> Preset:
    return dataclasses.replace(_roberta(layers), arch="attention-only")


PRESETS: dict[str, Preset] = {
    "tiny": Preset(ModelSize(4, 128, 4, 512), 64, 16, 600, 1e-3),
    "mini": Preset(ModelSize(4, 256, 8, 1024), 128, 32, 1500, 1e-3),
    "small": Preset(ModelSize(6, 512, 8, 2048, 0.1), 256, 64, 20_000, 7e-4),
    "base": Preset(ModelSize(12, 768, 12, 3072, 0.1), 512, 256, 50_000, 6e-4),
    "roberta-4": _roberta(4),
    "roberta-8": _roberta(8),
    "roberta-12": _roberta(12),
    "roberta-16": _roberta(16),
    "attention-24": _attention_only(24),
    "attention-48": _attention_only(48),
}


def get_preset(name: str) -> Preset:
    """A preset by name.

    Raises:
        ConfigError: no such preset.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def beside_preset(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a file of settings still decides where a preset is asked for beside it.

    A kind of model stays that is not of the file's own preset: the preset then says its sizes.

    Raises:
        ConfigError: no such preset.
    """
    preset, own = get_preset(name), get_preset(settings.get("preset", name))
    decides = preset.settings()
    if preset.arch is None and settings.get("arch") != own.arch:
        del decides["arch"]
    return {field: value for field, value in settings.items() if field not in decides}
